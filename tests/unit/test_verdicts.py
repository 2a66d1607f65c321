"""Numbers of runs become verdicts: hand-made tables, so that every verdict can be told in one's head."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import ttest_1samp

from lifelong.config.run import RunConfig
from lifelong.results.table import Row, Table, row
from lifelong.study.checks import check
from lifelong.study.config import Cell, Quantity, StudyConfig, in_size, lay_out, with_base
from lifelong.study.jobs import make_jobs
from lifelong.study.quantities import read_for, value_of
from lifelong.study.statistics import t_interval
from lifelong.study.verdicts import Results
from streams.config import parse
from streams.errors import ConfigError

Values = dict[str, list[float | None]]


def study(**changes: Any) -> StudyConfig:
    data = {
        "name": "toy",
        "claim": "a is better",
        "base": "quickstart",
        "strategies": {"a": {}, "b": {"unlearner": "none"}},
        "seeds": 3,
    }
    return parse(StudyConfig, data | changes, "toy.yaml")


def criterion(**what: Any) -> dict[str, Any]:
    return {"name": "c", "metric": "average_accuracy", "of": "a"} | what


def variance(**what: Any) -> dict[str, Any]:
    return {"metric": "average_accuracy", "of": ["a"], "levels": ["evaluation.seed"]} | what


def results(config: StudyConfig, values: Values, points: tuple[dict[str, Any], ...] = ({},)) -> Results:
    """Runs of which every strategy has one number per seed: the same at all points, plus the point's `plus`."""
    tables = []
    for point in points:
        for seed in range(max(map(len, values.values()))):
            found = {
                name: Table([number("average_accuracy", None if v[seed] is None else v[seed] + point.get("plus", 0))])
                for name, v in values.items()
                if seed < len(v)
            }
            tables.append((Cell(point, seed, RunConfig(seed=seed), {}), found))
    return Results(config, tuple(tables))


def number(metric: str, value: float | None, event: int = 9, subject: str = "stream", model: str = "run") -> Row:
    return row(event, model, subject, metric, value, 1, "why not")


def verdict(values: Values, **what: Any) -> Any:
    config = study(criteria=[criterion(**what)], seeds=max(map(len, values.values())))
    return results(config, values).verdicts()[0]


@pytest.mark.parametrize(
    ("a", "bar", "outcome"),
    [
        ([0.68, 0.7, 0.72], {"above": 0.6}, "reproduced"),
        ([0.68, 0.7, 0.72], {"above": 0.8}, "contradicted"),
        ([0.68, 0.7, 0.72], {"above": 0.7}, "undecided"),
        ([0.68, 0.7, 0.72], {"below": 0.8}, "reproduced"),
        ([0.68, 0.7, 0.72], {"below": 0.6}, "contradicted"),
        ([0.68, 0.7, 0.72], {"below": 0.7}, "undecided"),
        ([0.4, 0.7, 0.9], {"above": 0.6}, "undecided"),  # the mean is beyond the bar, and may be so by chance
        ([0.4, 0.7, 0.9], {"below": 0.75}, "undecided"),
        ([0.6, 0.7, 0.8], {"above": 0.5}, "undecided"),  # all three are above, which chance does in one case of eight
        ([0.0, 0.0, 0.0], {"below": 0.0}, "contradicted"),  # equal to the bar is not beyond it
        ([0.0, 0.0, 0.0], {"below": 0.1}, "reproduced"),
        ([-0.18, -0.2, -0.22], {"below": 0.0}, "reproduced"),
        ([0.9], {"above": 0.5}, "undecided"),
        ([0.9, 0.9], {"above": 0.5}, "undecided"),
    ],
)
def test_outcomes(a: list[float | None], bar: dict[str, float], outcome: str) -> None:
    assert verdict({"a": a}, **bar).outcome == outcome


def test_one_seed_and_two_say_why_they_decide_nothing() -> None:
    found = verdict({"a": [0.9]}, above=0.5)
    assert (found.reason, found.estimate.mean) == ("one seed decides nothing", 0.9)
    assert verdict({"a": [0.9, 0.9]}, above=0.5).reason == "two seeds decide nothing"


def test_seeds_that_agree_tell_how_many_might_not() -> None:
    found = verdict({"a": [0.9] * 5}, above=0.5)
    assert found.reason == "all 5 seeds agree; up to 45% of all might not"  # 0.55^5 is 5 %


def test_differences_are_paired() -> None:
    """Seeds differ by more than strategies do; seed by seed a is always 0.01 better."""
    found = verdict({"a": [0.11, 0.51, 0.91], "b": [0.1, 0.5, 0.9]}, minus="b", above=0.005)
    assert found.outcome == "reproduced"
    assert found.estimate.high - found.estimate.low < 1e-9
    assert found.bar == "a - b on average_accuracy > 0.005"


def test_ratios_are_judged_on_a_log_scale() -> None:
    found = verdict({"a": [1.0, 4.0], "b": [1.0, 1.0]}, over="b", above=0.9)
    assert found.estimate.mean == pytest.approx(2.0)  # the geometric mean of 1 and 4, not 2.5
    # of two logarithms that differ by log 4: t(97.5 %, 1) = 12.706 times half of it
    assert found.estimate.low == pytest.approx(2 * 4 ** (-12.706 / 2), rel=1e-3)
    assert found.estimate.high == pytest.approx(2 * 4 ** (12.706 / 2), rel=1e-3)
    assert found.evidence.values == pytest.approx((1.0, 4.0))
    upside_down = verdict({"a": [1.0, 1.0], "b": [1.0, 4.0]}, over="b", above=0.9)
    assert upside_down.estimate.mean == pytest.approx(0.5)


def test_ratios_of_what_is_not_positive_are_undecided() -> None:
    found = verdict({"a": [1.0, 0.0], "b": [1.0, 1.0]}, over="b", above=1.5)
    assert (found.outcome, found.estimate) == ("undecided", None)
    assert "positive" in found.reason


def test_a_seed_without_a_value_is_left_out_and_told() -> None:
    found = verdict({"a": [0.6, None, 0.61, 0.62], "b": [0.1, 0.1, 0.1, 0.1]}, minus="b", above=0.2)
    assert (found.outcome, found.estimate.n) == ("reproduced", 3)
    assert "1 of 4 seeds" in found.reason
    assert found.evidence.sides == pytest.approx((0.61, 0.1))


def test_nothing_says_what_is_missing() -> None:
    assert "no run of it is finished" in verdict({"b": [0.1]}, above=0.0).reason
    assert "why not" in verdict({"a": [None]}, above=0.0).reason
    assert "for stream" in verdict({"a": [0.1]}, subject="requests", above=0.0).reason
    assert "no run has plasticity" in verdict({"a": [0.1]}, metric="plasticity", above=0.0).reason


def test_where_picks_grid_points_and_all_of_them_are_averaged_otherwise() -> None:
    config = study(criteria=[criterion(above=0.5, where={"plus": 1}), criterion(above=0.5)], grid={"plus": [0, 1]})
    found = results(config, {"a": [0.1, 0.2, 0.3]}, ({"plus": 0}, {"plus": 1})).verdicts()
    assert [v.estimate.mean for v in found if v.estimate] == [pytest.approx(1.2), pytest.approx(0.7)]


def test_a_seed_counts_only_if_all_points_have_it() -> None:
    config = study(criteria=[criterion(above=0.5)], grid={"plus": [0, 1]})
    whole = results(config, {"a": [0.1, 0.2, 0.3]}, ({"plus": 0}, {"plus": 1}))
    partly = Results(config, whole.tables[:-1])
    assert partly.values(Quantity(metric="average_accuracy"), "a") == {0: pytest.approx(0.6), 1: pytest.approx(0.7)}


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({}, 4.0),
        ({"event": 2}, 2.0),
        ({"event": 3}, None),
        ({"event": "request-1"}, 2.0),
        ({"reduce": "mean"}, 2.0),
        ({"reduce": "sum"}, 8.0),
        ({"reduce": "max"}, 4.0),
        ({"reduce": "min", "event": 2}, 0.5),
        ({"reduce": "sum", "event": "request-1"}, 4.0),
        ({"subject": "task-1"}, 7.0),
        ({"model": "retrained"}, 9.0),
    ],
)
def test_which_number_of_a_run(selection: dict[str, Any], expected: float | None) -> None:
    rows = [number("collateral", v, e) for e, v in ((0, 1.5), (1, 0.5), (2, 2.0), (4, 4.0))]
    rows += [
        number("collateral", 7.0, 4, "task-1"),
        number("collateral", 9.0, 4, model="retrained"),
        number("collateral", None, 5),
    ]
    rows += [number("exact", 1.0, 2, "request-1")]
    one = Results(study(), ((Cell({}, 0, RunConfig(), {}), {"a": Table(rows)}),))
    found = one.values(Quantity(metric="collateral", **selection), "a")
    assert found == ({} if expected is None else {0: expected})


@pytest.mark.parametrize(
    ("metric", "last", "expected"),
    [("immediate_ua", 4, 0.5), ("final_ua", 4, 0.4), ("final_ua", 5, None), ("immediate_asr", 4, None)],
)
def test_a_run_itself_has_means_over_requests(metric: str, last: int, expected: float | None) -> None:
    rows = [
        number("exact", 0.0, 1, "request-0"),
        number("exact", 0.0, 3, "request-1"),
        number("exact", 0.0, 3, "stream"),
    ]
    rows += [number("forward", 1.0, e, "event") for e in range(last + 1)]
    rows += [number("ua", v, e, "request-0") for e, v in ((1, 0.2), (3, 0.9), (4, 0.3))]
    rows += [number("ua", v, e, "request-1") for e, v in ((3, 0.8), (4, 0.5))]
    rows += [number("ua", 0.0, 3, "stream"), number("immediate_ua", 1.0, 4, "requests", "retrained")]
    asked = Quantity(metric=metric, subject="requests")
    assert value_of(Table(r for r in rows if r.metric in read_for(asked)), asked) == pytest.approx(expected)
    assert value_of(Table(rows), asked.model_copy(update={"metric": "immediate_ua", "model": "retrained"})) == 1.0


def test_what_a_finished_run_says_nothing_about_is_refused() -> None:
    config = study(criteria=[criterion(minus="b", above=0.0), criterion(name="d", metric="plasticity", above=0.0)])
    results(config, {"b": [None]}).check()  # there is a row, and why it has no value; of `a` nothing is known yet
    with pytest.raises(ConfigError, match=r"^criteria\.1: a run of a is finished and has no plasticity\. Take it out"):
        results(config, {"a": [0.1], "b": [None]}).check()


def test_comparisons_are_corrected_together() -> None:
    config = study(
        strategies={"a": {}, "b": {"unlearner": "none"}, "c": {"unlearner": "finetune"}},
        comparisons=[{"metric": "average_accuracy", "of": ["a", "c"], "minus": "b"}],
        seeds=6,
    )
    steps = [0.1, 0.2, 0.3, 0.15, 0.25, 0.35]
    found = results(config, {"a": [1 + s for s in steps], "b": [0.0] * 6, "c": [s - 0.2 for s in steps]}).differences()
    assert [(d.of, d.minus) for d in found] == [("a", "b"), ("c", "b")]
    assert found[0].estimate is not None
    first, second = (ttest_1samp(x, 0).pvalue for x in ([1 + s for s in steps], [s - 0.2 for s in steps]))
    assert [d.estimate.p for d in found if d.estimate] == pytest.approx([first, second])
    assert [d.p_corrected for d in found] == pytest.approx([2 * first, second])
    assert found[0].sides == pytest.approx((1.225, 0.0))
    assert found[0].estimate.low > 1.0
    assert math.isclose(found[0].estimate.mean, 1.225)


def laid_out(**changes: Any) -> list[Cell]:
    config = with_base(study(**changes), Path())
    cells = lay_out(config)
    check(config, cells)
    return cells


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": {"training.lrr": [0.1]}}, r"training\.lrr"),
        ({"grid": {"trainin.lr": [0.1]}}, "trainin"),
        ({"grid": {"strategies.aa.learner": ["ewc"]}}, r"grid\.strategies\.aa\.learner: there is no strategy 'aa'"),
        ({"grid": {"strategies.a.learner.memory": [10]}}, r"strategies\.a\.learner"),
        ({"grid": {"seed": [1, 2]}}, r"grid\.seed"),
        ({"grid": {"training.lr": [0.1, 0.1]}}, "are the same"),
        ({"seeds": [1, 1]}, "are the same"),
        ({"seeds": 0}, "seeds"),
        ({"seeds": True}, "seeds"),
        ({"set": {"training.lr.x": 1}}, r"set\.training\.lr\.x"),
        ({"criteria": [criterion(metric="averag_accuracy", above=0)]}, "no run produces 'averag_accuracy'"),
        ({"criteria": [criterion(model="no-op", above=0)]}, r"model: no run produces 'no-op'"),
        ({"criteria": [criterion(of="aa", above=0)]}, "no strategy 'aa'"),
        ({"criteria": [criterion(above=0, below=1)]}, "exactly one of above, below and within"),
        ({"criteria": [criterion(within=0.1, minus="b", over=None, above=1)]}, "exactly one of above"),
        ({"criteria": [criterion(within=0.1, over="b")]}, "take minus instead of over"),
        ({"criteria": [criterion(within=0.0)]}, "within"),
        ({"criteria": [criterion(within="retrained-2")]}, "needs a metric such as gap_forget_accuracy"),
        (
            {
                "set": {"references.kinds": ["retrained"]},
                "criteria": [criterion(metric="gap_average_accuracy", model="retrained", within="retrained-2")],
            },
            r"criteria\.0\.within\.model: no run produces 'retrained-2'",
        ),
        ({"variances": [variance(levels=["evaluation.seeds"])]}, "'evaluation.seeds' is not a key of the grid"),
        ({"variances": [variance()], "grid": {"evaluation.seed": [0]}}, "needs two values or more"),
        ({"variances": [variance()], "grid": {"evaluation.seed": [0, 1]}, "seeds": 1}, "two seeds or more"),
        (
            {"variances": [variance()], "grid": {"evaluation.seed": [0, 1], "training.lr": [0.1, 0.2]}},
            r"variances\.0: 'training.lr' of the grid is neither",
        ),
        ({"criteria": [criterion(above=0, minus="b", over="b")]}, "minus or over"),
        ({"criteria": [criterion(above=0, event="request")]}, "event"),
        ({"criteria": [criterion(above=0, where={"training.lr": 1})]}, "not a key of the grid"),
        (
            {"grid": {"training.lr": [0.1]}, "criteria": [criterion(above=0, where={"training.lr": 1})]},
            "not in the grid",
        ),
        ({"claims": "?"}, "claims"),
        ({"seeds": {"looks": [5, 4]}}, r"seeds: looks must rise"),
        ({"seeds": {"looks": [5]}}, r"seeds\.looks: \[5\] is not valid"),
        ({"seeds": {"looks": [2, 5]}}, r"seeds\.looks\.0: 2 is not valid: it must be 3 or more"),
        ({"seeds": {"open": 2}}, r"seeds\.open: 2 is not valid: it must be 3 or more"),
        ({"sizes": {"small": {"seeds": {"look": [5, 10]}}}}, "look"),
        ({"criteria": [criterion(above=0, above_chance=True)]}, "above_chance needs chance"),
        ({"validity": [criterion(above=0, of="aa")]}, r"validity\.0: there is no strategy 'aa'"),
        ({"validity": [criterion(above=0, criteria=["d"])]}, r"validity\.0\.criteria: there is no criterion 'd'"),
    ],
)
def test_bad_studies_say_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        laid_out(**changes)


def test_cells_and_jobs(tmp_path: Any) -> None:
    learners = {"a": {"learner": "replay"}, "b": {"learner": "replay", "unlearner": "none"}, "c": {}}
    cells = laid_out(
        strategies=learners, grid={"training.lr": [0.1, 0.2], "source": ["digits", "glyphs"]}, seeds=[3, 5]
    )
    assert [(c.values["training.lr"], c.values["source"], c.seed) for c in cells[:4]] == [
        (0.1, "digits", 3),
        (0.1, "digits", 5),
        (0.1, "glyphs", 3),
        (0.1, "glyphs", 5),
    ]
    assert len({c.config.training.lr for c in cells}) == 2
    jobs = make_jobs(cells, tmp_path)
    assert len(jobs) == len({j.name for j in jobs}) == 2 * len(cells)
    assert jobs[0].label == "a + b (training.lr=0.1, source=digits, seed=3)"


def test_sizes() -> None:
    config = study(sizes={"small": {"seeds": 1, "set": {"training.epochs": 2}}}, set={"training.lr": 0.3})
    small = in_size(config, "small")
    assert (small.seeds, small.set) == ((0,), {"training.lr": 0.3, "training.epochs": 2})
    with pytest.raises(ConfigError, match="no size 'smal'.*'small'"):
        in_size(config, "smal")


@pytest.mark.parametrize(
    ("a", "outcome"),
    [
        ([0.01, -0.01, 0.0, 0.01], "reproduced"),
        ([0.3, 0.31, 0.29, 0.3], "contradicted"),
        ([-0.3, -0.31, -0.29, -0.3], "contradicted"),
        ([0.1, -0.1, 0.1, -0.1], "undecided"),  # no difference is seen, and that is no equality
        ([0.0], "undecided"),
    ],
)
def test_equal_within_a_margin(a: list[float | None], outcome: str) -> None:
    found = verdict({"a": a}, within=0.05)
    assert found.outcome == outcome
    assert found.bar == "a on average_accuracy within +-0.05"
    if outcome == "reproduced":
        low, high = t_interval([x for x in a if x is not None], 0.9)
        assert (found.estimate.low, found.estimate.high) == pytest.approx((low, high))


def test_two_strategies_can_be_equal() -> None:
    assert verdict({"a": [0.11, 0.52, 0.9], "b": [0.1, 0.52, 0.91]}, minus="b", within=0.05).outcome == "reproduced"


def test_the_margin_may_be_that_of_two_retrained_models() -> None:
    """The gap to one minus the gap to the other is how far they lie apart."""

    def judged(gaps: list[float], others: list[float]) -> Any:
        what = {"metric": "gap_forget_accuracy", "model": "retrained", "within": "retrained-2"}
        config = study(criteria=[criterion(**what)], seeds=len(gaps))
        tables = []
        for seed, (gap, second) in enumerate(zip(gaps, others, strict=False)):
            rows = [number("gap_forget_accuracy", gap, model="retrained")]
            rows += [number("gap_forget_accuracy", second, model="retrained-2")]
            tables.append((Cell({}, seed, RunConfig(seed=seed), {}), {"a": Table(rows)}))
        return Results(config, tuple(tables)).verdicts()[0]

    found = judged([0.0, 0.0, 0.0], [0.1, -0.1, 0.1])
    assert (found.outcome, found.bar) == (
        "reproduced",
        "a on gap_forget_accuracy (retrained) within +-0.1, what one retraining differs from another",
    )
    assert judged([0.5, 0.52, 0.51], [0.4, 0.45, 0.6]).outcome == "contradicted"
    missing = judged([0.5, 0.52, 0.51], [None] * 3)  # type: ignore[list-item]
    assert (missing.outcome, missing.estimate) == ("undecided", None)


def test_where_variance_comes_from() -> None:
    grid = {"evaluation.seed": [0, 1], "strategies.a.unlearning_seed": [0, 1], "training.lr": [0.1, 0.2]}
    levels = ["strategies.a.unlearning_seed", "evaluation.seed"]
    asked = variance(levels=levels, where={"training.lr": 0.1})
    config = study(variances=[asked], grid=grid, seeds=3)
    tables = []
    for cell in lay_out(with_base(config, Path())):
        again, attack = (cell.values[key] for key in levels)
        value = 10.0 * cell.seed + (again - 0.5) * 2 + cell.values["training.lr"] * 100 + 0 * attack
        tables.append((cell, {"a": Table([number("average_accuracy", value)])}))
    (found,) = Results(config, tuple(tables)).components()
    assert (found.levels, found.counts) == (("seed", *levels), (3, 2, 2))
    assert found.mean == pytest.approx(20.0)  # only where the rate is 0.1
    assert found.variances == pytest.approx((100 - 1.0, 2.0, 0.0))  # a mean of two drawn anew varies by half of it
    assert found.low is not None
    assert found.low < 20 < (found.high or 0)
    # A seed that is not finished is left out.
    (fewer,) = Results(config, tuple(tables[:-1])).components()
    assert fewer.counts == (3, 2, 2)  # that run was at the other rate
    for finished in (tuple(t for t in tables if t[0].seed < 1), ()):
        (fewer,) = Results(config, finished).components()
        assert fewer.reason == "fewer than two seeds have a value everywhere"


def test_criteria_are_one_family() -> None:
    """What one criterion would decide alone, p = .02, it does not among three."""
    a = [0.1, 0.3, 0.2, 0.25, 0.02]
    p = float(ttest_1samp(a, 0).pvalue)
    assert 0.0167 < p < 0.05
    (alone,) = results(study(criteria=[criterion(above=0.0)], seeds=5), {"a": a}).verdicts()
    assert (alone.outcome, alone.p_corrected) == ("reproduced", pytest.approx(p))
    bars = [criterion(above=bar) for bar in (0.0, 0.17, 0.18)]
    among = results(study(criteria=bars, seeds=5), {"a": a}).verdicts()
    assert (among[0].outcome, among[0].p_corrected) == ("undecided", pytest.approx(3 * p))
    assert among[0].reason == "it would be decided alone, not among 3 criteria"
    assert among[0].estimate == alone.estimate


def test_looks_have_wider_intervals_and_allow_for_each_other() -> None:
    a = [0.1, 0.3, 0.2, 0.25, 0.02]
    compared = [{"metric": "average_accuracy", "of": ["a"], "minus": "b"}]
    config = study(criteria=[criterion(above=0.0)], comparisons=compared, seeds={"looks": [5, 10, 20]})
    found = results(config, {"a": a, "b": [0.0] * 5})
    by_five = Results(config, found.tables, seeds=(0, 1, 2, 3, 4))
    looked = by_five.verdicts()[0]
    assert looked.outcome == "undecided"
    assert looked.reason is not None
    assert looked.reason.startswith("the interval spans the bar; ")
    assert looked.estimate is not None
    assert looked.p_corrected is not None
    assert looked.estimate.p is not None
    assert (looked.estimate.low or 1) < 0 < t_interval(a)[0]
    assert 2 * looked.estimate.p < looked.p_corrected < 3 * looked.estimate.p
    (difference,) = by_five.differences()
    assert difference.p_corrected == pytest.approx(looked.p_corrected), "comparisons allow for the looks, too"


def test_validity_is_judged_first() -> None:
    gate = {"metric": "average_accuracy", "of": "b", "criteria": ["c"]}
    criteria = [criterion(above=0.0), criterion(above=0.0) | {"name": "d"}]
    for bar, outcome in ((0.1, "reproduced"), (0.2, "undecided"), (0.9, "not testable")):
        config = study(validity=[gate | {"name": "b has learned", "above": bar}], criteria=criteria)
        found = results(config, {"a": [0.68, 0.7, 0.72], "b": [0.2, 0.21, 0.19]})
        depends, free = found.verdicts()
        assert (depends.outcome, free.outcome) == (outcome, "reproduced")
        assert found.validity()[0].outcome == {"not testable": "contradicted"}.get(outcome, outcome)
    assert depends.reason == "what it depends on is contradicted: b has learned"
    assert depends.estimate == free.estimate  # the number is shown all the same


def test_what_is_at_chance_on_both_sides_is_not_testable() -> None:
    """A difference between models that know nothing says nothing, however sure it is."""
    low, lower = [0.101, 0.102, 0.1], [0.091, 0.092, 0.09]
    assert verdict({"a": low, "b": lower}, minus="b", above=0.0).outcome == "reproduced"
    found = verdict({"a": low, "b": lower}, minus="b", above=0.0, chance=0.1)
    assert (found.outcome, found.reason) == ("not testable", "neither side is above chance (0.1)")
    assert verdict({"a": [0.3, 0.31, 0.29], "b": lower}, minus="b", above=0.0, chance=0.1).outcome == "reproduced"


def test_joint_training_at_chance_makes_it_untestable() -> None:
    config = study(criteria=[criterion(minus="b", above=0.0, chance=0.1)])
    for joint, outcome in ((0.1, "not testable"), (0.8, "reproduced")):
        tables = []
        for seed in range(3):
            rows = {
                name: Table(
                    [
                        number("average_accuracy", value + 0.001 * seed * (name == "a")),
                        number("average_accuracy", joint, model="joint"),
                    ]
                )
                for name, value in (("a", 0.5), ("b", 0.3))
            }
            tables.append((Cell({}, seed, RunConfig(seed=seed), {}), rows))
        assert Results(config, tuple(tables)).verdicts()[0].outcome == outcome


def test_scores_above_chance() -> None:
    """0.26 of 0.42 is 0.62, and of what is above 0.24 it is a ninth."""
    values: Values = {"a": [0.26, 0.26, 0.26], "b": [0.42, 0.42, 0.42]}
    found = verdict(values, over="b", above=0.9, chance=0.24, above_chance=True)
    assert found.estimate.mean == pytest.approx((0.26 - 0.24) / (0.42 - 0.24))
    assert "above chance (0.24)" in found.bar
    assert found.evidence.sides == pytest.approx((0.02 / 0.76, 0.18 / 0.76))
