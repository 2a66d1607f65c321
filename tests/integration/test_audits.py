"""Every measure of unlearning is ideal for retraining and fails for doing nothing, on one small life."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lifelong
from lifelong.formulas.membership import efficacy_attack
from lifelong.metrics import detailed
from lifelong.metrics.catalogue import describe
from lifelong.references.shadows import is_inside, shadow_events, shadow_files
from lifelong.results.table import Table
from lifelong.setup.build import make_strategy
from lifelong.setup.instruments import make_instruments
from lifelong.setup.preparation import prepare
from strategies.parts.model import digest
from streams.events import DeletionRequest, Experience

SAMPLES, CLASS = "request-0", "request-1"
# The metric, against the retrained reference; what retraining has; and what doing nothing has, for the deleted class.
IDEAL = {
    "average_gap": (0.0, lambda v: v > 0.3),
    "tow": (1.0, lambda v: v < 0.3),
    "tow_mia": (1.0, lambda v: v < 0.3),
    "tow_forget": (1.0, lambda v: v < 0.3),
    "gap_mia_efficacy": (0.0, lambda v: v < -0.3),
    "gap_zrf": (0.0, lambda v: v != 0.0),
    "activation_distance": (0.0, lambda v: v > 1.0),
    "agreement": (1.0, lambda v: v < 0.3),
    "js": (0.0, lambda v: v > 0.15),
    "anamnesis": (1.0, lambda v: v < 0.5),
    "cost_ratio": (1.0, lambda v: v == 0.0),
    "gap_forget_accuracy": (0.0, lambda v: v > 0.5),
    "gap_attack_accuracy": (0.0, lambda v: v != 0.0),  # of the samples it is more, see APART
    "gap_entropy_member_rate": (0.0, lambda v: v > 0.1),
}
# The same for single samples, where a class says nothing.
IDEAL_SAMPLES = {
    "calibrated_loss_auc": (0.5, lambda v: v > 0.6),
    "calibrated_confidence_auc": (0.5, lambda v: v > 0.6),
    "streisand": (0.0, lambda v: v > 0.05),
    "gap_membership_ks": (0.0, lambda v: v > 0.05),
    "calibrated_entropy_auc": (0.5, lambda v: v > 0.51),
    "gap_modified_entropy_auc": (0.0, lambda v: v > 0.05),
    "average_gap": (0.0, lambda v: v > 0.1),
}


def hard(folder: Path) -> Path:
    """Ten blobs that overlap in 20 dimensions: a network learns its training data by heart."""
    draw = np.random.default_rng(0)
    y = np.tile(np.arange(10), 80)
    x = 0.4 * draw.normal(size=(10, 20))[y] + draw.normal(size=(len(y), 20))
    np.savez(folder / "hard.npz", x=x.astype(np.float32), y=y, test=np.arange(len(y)) >= 400)
    return folder / "hard.npz"


def config_of(folder: Path, **changes: Any) -> lifelong.RunConfig:
    data: dict[str, Any] = {
        "name": "audits",
        "source": {"name": "arrays", "path": str(hard(folder))},
        "scenario": "joint",
        "schedule": {
            "name": "explicit",
            "requests": [{"after": 1, "scope": "sample", "count": 60}, {"after": 1, "scope": "class", "keys": [0]}],
        },
        "model": {"name": "mlp", "hidden": [48]},
        "training": {"epochs": 30, "batch_size": 32, "lr": 0.15},
        "strategies": {"none": {"unlearner": "none"}, "retrain": {"unlearner": "retrain"}},
        "evaluation": {"audits": [{"name": "relearn", "steps": 250}, "readout", "weights"]},
        "references": {"kinds": ["retrained", "retrained-2"], "shadows": 8},
    }
    return lifelong.RunConfig.model_validate(data | changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> lifelong.Run:
    folder = tmp_path_factory.mktemp("audits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(folder / "cache"))
        return lifelong.run(config_of(folder), folder)


def when_served(table: Table, metric: str, request: str, model: str = "retrained") -> Any:
    """The value right after the request."""
    rows = table.select(metric, request, model)
    assert rows, metric
    return rows[0].value


def at(table: Table, request: str) -> int:
    """The event that serves a request."""
    return table.select("exact", request, "run")[0].event


@pytest.mark.parametrize("metric", IDEAL)
def test_of_a_deleted_class(metric: str, run: lifelong.Run) -> None:
    ideal, fails = IDEAL[metric]
    assert when_served(run.tables["retrain"], metric, CLASS) == ideal
    assert fails(when_served(run.tables["none"], metric, CLASS))


@pytest.mark.parametrize("metric", IDEAL_SAMPLES)
def test_of_deleted_samples(metric: str, run: lifelong.Run) -> None:
    ideal, fails = IDEAL_SAMPLES[metric]
    assert when_served(run.tables["retrain"], metric, SAMPLES) == pytest.approx(ideal, abs=1e-12)
    assert fails(when_served(run.tables["none"], metric, SAMPLES))


# With shadow lives: what retraining has is near chance, and what doing nothing has is beyond its interval. With eight
# lives the score of retraining is far from 1, and held against its null; the divergence (KLoM) is shown with more.
SHADOWS = {
    "ulira_auc": ("ulira_low", "ulira_high"),
    "rmia_auc": ("rmia_low", "rmia_high"),
    "forgetting_score": None,
    "forgetting_epsilon": None,
}
# Parts of the above, or what a number is made of.
PARTS = {
    *("tow_retain", "tow_test", "ulira_low", "ulira_high", "rmia_low", "rmia_high", "lira_auc", "ulira_accuracy"),
    *(
        "membership_p",
        "lira_p",
        "ulira_p",
        "rmia_p",
        *(f"rmia_before_{part}" for part in ("auc", "low", "high", "p", "tpr_1")),
    ),
    *(
        "ulira_tpr_1",
        "ulira_tpr_01",
        "rmia_tpr_1",
        "forgetting_score_null",
        "forgetting_score_ratio",
        "klom_95",
        "klom_median",
    ),
    *("forgetting_score_final", "forgetting_epsilon_bound", "klom_median_null", "relapse_max", "relapse_test_max"),
    *("raw_relapse_max", "raw_relapse_test_max", "js_to_retrained"),
}
# Not about how well something is forgotten, but about cost, time and others; tested in tests/unit/test_metrics.py.
BESIDE = {
    *(
        "latency",
        "exposure",
        "exact",
        "weights_erased",
        "collateral",
        "collateral_mean",
        "retained_drop",
        "amplification",
        "relapse",
        "relapse_test",
        "raw_relapse",
        "raw_relapse_test",
    ),
}
# What doing nothing leaves at least this far from the retrained reference, on the deleted class or samples.
APART = {
    "forget_accuracy": 0.3,
    "forget_test_accuracy": 0.3,
    "forget_loss": 1.0,
    "membership_auc": 0.1,
    "membership_ks": 0.1,
    "modified_entropy_auc": 0.1,
    "mia_efficacy": 0.3,
    "entropy_member_rate": 0.1,
    "attack_accuracy": 0.1,
    "relearn_steps": 50,
    "forget_ece": 0.1,
    "forget_test_ece": 0.1,
    # Overlapping blobs: a class is as readable, and its entropies are as high, in a network that never saw it. That
    # these can fail is shown on numbers (tests/unit/test_attacks.py). ZRF tells how far a model is from a random one;
    # that of a network that never saw the class is as far on some seeds.
    "entropy_auc": 0.0,
    "readout_accuracy": 0.0,
    "zrf": 0.0,
}


@pytest.mark.parametrize("metric", APART)
def test_what_is_held_against_the_reference(metric: str, run: lifelong.Run) -> None:
    assert describe(metric).better == "reference"
    assert when_served(run.tables["retrain"], f"gap_{metric}", CLASS) == 0.0
    gaps = [run.tables["none"].select(f"gap_{metric}", request, "retrained")[0].value for request in (SAMPLES, CLASS)]
    assert max(abs(gap) for gap in gaps if gap is not None) >= APART[metric]


@pytest.mark.parametrize("metric", ["dd_euclidean", "dd_cosine", "dd_cka"])
def test_distances_of_features(metric: str, run: lifelong.Run) -> None:
    assert when_served(run.tables["retrain"], metric, CLASS) == 0.0
    assert when_served(run.tables["none"], metric, CLASS) > 0.05


@pytest.mark.parametrize("metric", SHADOWS)
def test_what_shadow_lives_show(metric: str, run: lifelong.Run) -> None:
    none, retrain = run.tables["none"], run.tables["retrain"]
    bounds = SHADOWS[metric]
    if bounds is not None:
        assert when_served(retrain, metric, SAMPLES, "run") == pytest.approx(0.5, abs=0.15)
        assert when_served(none, bounds[0], SAMPLES, "run") > when_served(retrain, bounds[1], SAMPLES, "run")
    else:
        worse = 1 if describe(metric).better == "lower" else -1
        values = [worse * when_served(table, metric, SAMPLES, "run") for table in (retrain, none)]
        assert values[0] < values[1]
        if metric == "forgetting_score":
            null = worse * when_served(none, f"{metric}_null", SAMPLES, "run")
            assert abs(values[0] - null) < (values[1] - null) / 2


def test_no_metric_of_a_request_is_left_out(run: lifelong.Run) -> None:
    """What is measured of a request has its ideal value shown above, and that it can fail."""
    shown = {*IDEAL, *IDEAL_SAMPLES, *SHADOWS, *PARTS, *BESIDE, *APART, "dd_euclidean", "dd_cosine", "dd_cka"}
    measured = {r.metric.removeprefix("gap_") for r in run.tables["none"].rows if r.subject in (SAMPLES, CLASS)}
    assert measured <= shown | {name.removeprefix("gap_") for name in shown}
    assert {*APART, *SHADOWS, *BESIDE, "js", "tow", "average_gap", "anamnesis"} - measured == {
        "relapse_test",
        "raw_relapse_test",
    }


def test_retraining_with_another_seed_is_the_floor(run: lifelong.Run) -> None:
    for metric in ("average_gap", "activation_distance"):
        floor = when_served(run.tables["retrain"], metric, CLASS, "retrained-2")
        assert 0 < floor < when_served(run.tables["none"], metric, CLASS, "retrained-2") / 2


def test_the_factors_of_the_tug_of_war_are_of_what_their_names_say(run: lifelong.Run) -> None:
    table = run.tables["none"]
    factors = [when_served(table, f"tow_{part}", CLASS) for part in ("forget", "retain", "test")]
    gap = when_served(table, "gap_forget_accuracy", CLASS)
    assert factors[0] == pytest.approx(1 - abs(gap))
    (gap,) = [
        r.value for r in table.select("gap_retain_accuracy", "stream", "retrained") if r.event == at(table, CLASS)
    ]
    assert factors[1] == pytest.approx(1 - abs(gap))
    assert abs(factors[1] - factors[2]) > 1e-3
    assert when_served(table, "tow", CLASS) == pytest.approx(np.prod(factors))


def test_calibration_on_what_is_retained(run: lifelong.Run) -> None:
    for table in run.tables.values():
        assert 0 < when_served(table, "retain_ece", "stream", "run") < 0.3
        assert 0 < when_served(table, "sample_ece", "stream", "run") < 0.3
    # A model is as sure of a class that it never saw, and always wrong.
    assert when_served(run.tables["retrain"], "forget_ece", CLASS, "run") > 0.45
    for metric in ("retain_ece", "sample_ece"):
        assert {r.value for r in run.tables["retrain"].select(f"gap_{metric}", "stream", "retrained")} == {0.0}
        assert {r.value for r in run.tables["none"].select(f"gap_{metric}", "stream", "retrained")} != {0.0}


def test_unlearning_and_attacks_can_be_drawn_anew_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    unlearner = {"name": "salun", "epochs": 1}
    small: dict[str, Any] = {
        "training": {"epochs": 5, "batch_size": 32, "lr": 0.1},
        "strategies": {"salun": {"unlearner": unlearner}, "again": {"unlearner": unlearner, "unlearning_seed": 1}},
        "references": {"kinds": ["retrained"]},
    }
    found = [
        lifelong.run(config_of(tmp_path, **small, evaluation={"seed": seed}, name=f"seed-{seed}"), tmp_path)
        for seed in (0, 1)
    ]
    salun, again = (
        [r for r in found[0].tables[name].rows if r.model == "run" and r.metric.endswith(("accuracy", "_loss"))]
        for name in ("salun", "again")
    )
    assert [r for r in salun if r.event == 0] == [r for r in again if r.event == 0]
    assert [r for r in salun if r.event == 1] != [r for r in again if r.event == 1]
    # Both lives have the same references, and so has a run whose attacks are drawn anew.
    assert [found[i].summaries[name]["references"]["computed"] > 0 for i in (0, 1) for name in small["strategies"]] == [
        True,
        *[False] * 3,
    ]
    metrics = ("forget_loss", "retain_accuracy", "gap_forget_loss", "attack_accuracy", "zrf")
    same = [
        when_served(found[0].tables["salun"], metric, subject, model)
        == when_served(found[1].tables["salun"], metric, subject, model)
        for metric in metrics
        for subject, model in [("stream" if "retain" in metric else CLASS, "retrained")]
    ]
    assert same == [True, True, True, False, False]


def test_layers_and_cost(run: lifelong.Run) -> None:
    none, retrain = run.tables["none"], run.tables["retrain"]
    for metric in ("layer_distance", "layer_distance_max"):
        assert [r.value for r in retrain.select(metric, "stream", "retrained")] == [0.0, 0.0]
        assert min(r.value or 0 for r in none.select(metric, "stream", "retrained")) > 0.1
    assert when_served(retrain, "amplification", SAMPLES, "run") == pytest.approx(0.85, abs=0.05)
    assert when_served(none, "amplification", SAMPLES, "run") == 0.0


def test_what_a_new_last_layer_reads(run: lifelong.Run) -> None:
    """Features of a class are readable in either model: only the difference counts, and it needs a reference."""
    for table in run.tables.values():
        value = when_served(table, "readout_accuracy", CLASS, "run")
        assert 0.5 < value <= 1.0
    assert when_served(run.tables["retrain"], "gap_readout_accuracy", CLASS) == 0.0
    row = run.tables["none"].select("readout_accuracy", SAMPLES)[0]
    assert row.value is None
    assert row.reason == "no test data, no retained data, or no single feature space"


def test_over_the_stream(run: lifelong.Run) -> None:
    none, retrain = run.tables["none"], run.tables["retrain"]
    deleted = sum({r.subject: r.n for r in retrain.rows if r.metric == "forget_loss"}.values())
    assert when_served(retrain, "requests_survived", "stream") == 2
    assert when_served(retrain, "deletion_capacity", "stream") == deleted
    assert when_served(none, "deletion_capacity", "stream") == 0, "nothing was forgotten"
    assert when_served(none, "requests_survived", "stream") == 0
    assert when_served(none, "worst_abs_gap_forget_accuracy", "requests") > 0.4
    assert when_served(retrain, "worst_abs_gap_forget_accuracy", "requests") == 0.0


def test_p_values_of_one_model(run: lifelong.Run) -> None:
    none, retrain = run.tables["none"], run.tables["retrain"]
    assert (
        when_served(none, "membership_p", SAMPLES, "run") < 0.05 < when_served(retrain, "membership_p", SAMPLES, "run")
    )
    assert when_served(retrain, "membership_p", SAMPLES) == when_served(none, "membership_p", SAMPLES)


def test_attacks_on_single_samples(run: lifelong.Run) -> None:
    none, retrain = run.tables["none"], run.tables["retrain"]
    for table in (none, retrain):
        for control in ("lira", "rmia_before"):
            assert when_served(table, f"{control}_auc", SAMPLES, "run") > 0.6, "it works where nothing is forgotten"
            assert when_served(table, f"{control}_p", SAMPLES, "run") <= 0.13, "1 of 8 is the lowest of 8 lives"
    assert when_served(none, "ulira_auc", SAMPLES, "run") == when_served(none, "lira_auc", SAMPLES, "run")
    assert when_served(none, "ulira_low", SAMPLES, "run") > 0.5
    assert when_served(none, "immediate_ulira_auc", "requests", "run") == np.mean(
        [when_served(none, "ulira_auc", request, "run") for request in (SAMPLES, CLASS)]
    )
    scores = [when_served(t, "forgetting_epsilon", SAMPLES, "run") for t in (retrain, none)]
    assert scores[0] <= scores[1]


@pytest.mark.nightly
def test_a_perfect_method_gets_the_nulls_of_divergence_and_score(tmp_path: Path) -> None:
    """With the seeds of the retrained lives, lives that retrain had half of their divergence and 1.6 of their score."""
    changes: dict[str, Any] = {
        "model": {"name": "mlp", "hidden": [16]},
        "training": {"epochs": 6, "batch_size": 32, "lr": 0.1},
        "schedule": {"name": "explicit", "requests": [{"after": 1, "scope": "sample", "count": 100}]},
        "evaluation": {},
        "references": {"kinds": [], "shadows": 32},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
        tables = lifelong.run(config_of(tmp_path, **changes), tmp_path).tables
    none, retrain, null = (
        when_served(tables[name], metric, SAMPLES, "run")
        for name, metric in (("none", "klom_median"), ("retrain", "klom_median"), ("retrain", "klom_median_null"))
    )
    assert retrain == pytest.approx(null, rel=0.25)
    assert none > retrain
    assert when_served(tables["retrain"], "forgetting_score_ratio", SAMPLES, "run") == pytest.approx(1, abs=0.15)


def test_shadows_are_found_again(run: lifelong.Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = run.folder.parent
    monkeypatch.setenv("LIFELONG_CACHE", str(folder / "cache"))
    strategies = {"again": {"unlearner": "none"}}
    again = lifelong.run(config_of(folder, name="again", strategies=strategies), tmp_path)
    assert again.summaries["again"]["references"]["computed"] == 0
    chosen = [r for r in run.tables["none"].rows if "lira" in r.metric or r.metric.startswith("forgetting_s")]
    assert [r for r in again.tables["again"].rows if r in chosen] == chosen


def test_every_metric_is_in_the_catalogue(run: lifelong.Run) -> None:
    for r in run.tables["none"].rows:
        assert describe(r.metric).meaning


def test_shadow_lives_lack_half_of_what_is_forgotten(tmp_path: Path) -> None:
    stream = prepare(config_of(tmp_path)).stream
    ids = np.unique(np.concatenate([r.sample_ids for r in stream.requests]))
    counts = sum(is_inside(life, ids).astype(int) for life in range(8))
    assert set(counts.tolist()) == {4}
    assert 0.3 < is_inside(0, ids).mean() < 0.7
    excluded = ids[~is_inside(0, ids)]
    events = shadow_events(stream.events, excluded)
    assert [e.name for e in events] == [e.name for e in stream.events]
    for event, whole in zip(events, stream.events, strict=True):
        assert not np.isin(event.sample_ids, excluded).any()
        assert np.isin(event.sample_ids, whole.sample_ids).all()
        assert isinstance(event, Experience) or not set(event.keys_of("sample")) & set(excluded.tolist())
    gone = shadow_events(stream.events, stream.requests[0].sample_ids)
    assert [e.name for e in gone] == ["joint", "request-1"], "who is asked for nothing is not asked"


def test_shadow_lives_are_those_of_the_seed_of_their_run(tmp_path: Path) -> None:
    def seeds(seed: int) -> set[Path]:
        prepared = prepare(config_of(tmp_path))
        prepared = replace(prepared, config=prepared.config.model_copy(update={"seed": seed}))
        evaluator = make_instruments(
            prepared.config.evaluation, prepared.stream, prepared.plan, prepared.setting, "cpu"
        ).evaluator
        return set(shadow_files(prepared, "none", evaluator))

    zero, one = seeds(0), seeds(1)
    assert len(zero) == len(one) == 8 * (3 + 2)
    assert zero.isdisjoint(one)


def test_measuring_in_detail_changes_nothing(tmp_path: Path) -> None:
    p = prepare(config_of(tmp_path, training={"epochs": 1, "batch_size": 32, "lr": 0.1}))
    strategy = make_strategy(p.config.strategies["none"], p.setting, "none")
    evaluator = make_instruments(p.config.evaluation, p.stream, p.plan, p.setting, "cpu").evaluator
    generators = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    before = digest(strategy.state_dict())
    for event in range(len(p.stream.events)):
        if isinstance(p.stream.events[event], DeletionRequest):
            one, two = evaluator.evaluate(strategy, event), evaluator.evaluate(strategy, event)
            assert one.details.features is not None
            assert one.details.certainty is not None
            assert one.audits.keys() == {"relearn", "readout", "weights"}
            for name, values in one.stored().items():
                assert np.array_equal(values, two.stored()[name], equal_nan=True), name
    assert digest(strategy.state_dict()) == before
    assert torch.equal(torch.random.get_rng_state(), generators[0])
    assert np.array_equal(np.random.get_state()[1], generators[1])


def test_where_no_class_is_predicted_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    draw = np.random.default_rng(0)
    x = draw.normal(size=(120, 5)).astype(np.float32)
    np.savez(tmp_path / "real.npz", x=x, y=x[:, 0] + 0.1 * draw.normal(size=120))
    config = config_of(
        tmp_path,
        source={"name": "arrays", "path": str(tmp_path / "real.npz"), "target": "regression"},
        objective="regression",
        schedule={"name": "burst", "after": 1, "requests": 1, "samples": 10},
        training={"epochs": 2, "batch_size": 32, "lr": 0.01},
        strategies={"retrain": {"unlearner": "retrain"}},
        evaluation={"audits": [{"name": "relearn", "steps": 5}, "readout", "weights"]},
        references={"kinds": ["retrained"], "shadows": 4},
    )
    table = lifelong.run(config, tmp_path).tables["retrain"]
    for metric in ("average_gap", "tow", "zrf", "mia_efficacy", "activation_distance", "entropy_auc", "js"):
        row = table.select(metric, SAMPLES, "retrained")[0]
        assert row.value is None
        assert "predicts no" in str(row.reason)
    assert "predicts no class" in str(table.select("ulira_auc", SAMPLES)[0].reason)
    assert when_served(table, "calibrated_loss_auc", SAMPLES) == 0.5
    assert when_served(table, "gap_forget_loss", SAMPLES) == 0.0
    assert table.select("layer_distance", "stream", "retrained")[0].value == 0.0


def test_an_attack_is_fitted_once_for_every_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    fits = []
    monkeypatch.setattr(detailed, "efficacy_attack", lambda *sides: fits.append(sides) or efficacy_attack(*sides))
    few = {"training": {"epochs": 1}, "evaluation": {}, "references": {"kinds": ["retrained"]}}
    tables = lifelong.run(config_of(tmp_path, **few), tmp_path).tables
    rows = [r for table in tables.values() for r in table.rows if r.metric == "mia_efficacy"]
    assert len([r for r in rows if r.subject in (SAMPLES, CLASS)]) == 12
    assert len(fits) == 6, "two runs and the reference that they share, after either request"
