"""What is said of a metric fits its name, whatever is put before it."""

from __future__ import annotations

import pytest

from lifelong.metrics.catalogue import BUILT_IN, MEASURES, METRICS, OF_MEASURE, describe

NAMES = [*METRICS, *(f"{prefix}{measure}" for prefix in OF_MEASURE for measure in MEASURES)]


@pytest.mark.parametrize("prefix", ["immediate_", "final_", "worst_", "abs_", "gap_"])
def test_what_a_prefix_makes_of_a_metric(prefix: str) -> None:
    for name in NAMES:
        if f"{prefix}{name}" in METRICS:
            continue
        inner, outer = describe(name), describe(f"{prefix}{name}")
        assert outer.unit == inner.unit
        assert (outer.better, outer.ideal) == {
            "abs_": ("lower", inner.ideal),
            "gap_": ("zero", 0.0),
        }.get(prefix, (inner.better, inner.ideal)), name
        said = outer.meaning.removesuffix(inner.meaning[1:])
        assert said != outer.meaning, "it ends with what the metric is"
        first, second = inner.meaning[:2]
        assert said[-1] == (first.lower() if second.islower() else first), "an acronym stays as it is"


def test_a_score_has_an_ideal_only_where_more_is_better() -> None:
    for measure, metric in MEASURES.items():
        for prefix, (_, better) in OF_MEASURE.items():
            found = describe(f"{prefix}{measure}")
            assert (found.better, found.unit) == (better, metric.unit)
            assert found.ideal == (metric.ideal if better == "higher" else None), prefix


def test_an_acronym_at_the_beginning_stays() -> None:
    acronyms = [n for n in NAMES if describe(n).meaning[:2].isupper()]
    assert acronyms, "there are some"
    for name in acronyms:
        assert describe(name).meaning.split()[0] in describe(f"immediate_{name}").meaning.split()


def test_metrics_of_layers_are_those_of_any_layer() -> None:
    of_layers = [name for name in METRICS if name.endswith("_layer")]
    assert of_layers
    for name in of_layers:
        for number in (0, 9, 10, 123):
            assert describe(f"{name}_{number}") == METRICS[name]
        assert not BUILT_IN.knows(f"{name}_x")
