"""When a run is evaluated: every so many events, around requests, and within experiences; nothing else may change."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lifelong
from lifelong.config.run import EvaluationConfig, RunConfig
from lifelong.evaluation.planning import plan_evaluation
from lifelong.evaluation.samples import Samples
from lifelong.metrics.catalogue import describe
from lifelong.references.points import Point, chain
from lifelong.results.table import Table
from lifelong.setup.preparation import prepare
from streams.data import Batch
from streams.timeline import surviving

CONFIG: dict[str, Any] = {
    "name": "dense",
    "scenario": {"name": "recurring", "tasks": 12, "samples_per_class": 40},
    "schedule": {
        "name": "explicit",
        "requests": [{"after": 5, "scope": "class", "count": 1}, {"after": 8, "scope": "sample", "count": 9}],
    },
    "model": {"name": "mlp", "hidden": [16]},
    "training": {"epochs": 2, "batch_size": 16, "lr": 0.1},
    "strategies": {
        "replay-finetune": {
            "learner": {"name": "replay", "memory": 60},
            "unlearner": {"name": "finetune", "epochs": 1, "retained": "memory"},
        },
        "replay-none": {"learner": {"name": "replay", "memory": 60}, "unlearner": "none"},
        "independent": {"isolated": "independent"},
    },
    "references": {"kinds": ["retrained"]},
}
# What a row says does not depend on which earlier events were evaluated.
TELLING = ("average_accuracy", "sample_accuracy", "whole_accuracy", "retain_accuracy", "collateral_mean", "forget_loss")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(autouse=True)
def _cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """References are the same however the runs are evaluated."""
    monkeypatch.setenv("LIFELONG_CACHE", str(home / "cache"))


@pytest.fixture(scope="module")
def run(home: Path) -> Callable[..., lifelong.Run]:
    """Run with options of the evaluation, once for each."""

    @functools.cache
    def run(**evaluation: Any) -> lifelong.Run:
        return lifelong.run(RunConfig.model_validate(CONFIG | {"evaluation": evaluation}), home / "runs")

    return run


def values(table: Table, metric: str, model: str = "run") -> dict[tuple[int, str], float | None]:
    return {(r.event, r.subject): r.value for r in table.select(metric, model=model)}


def test_which_events_are_evaluated() -> None:
    stream = prepare(RunConfig.model_validate(CONFIG)).stream
    requests = [i for i, e in enumerate(stream.events) if e.name.startswith("request")]
    assert requests == [5, 9]
    every = plan_evaluation(stream, EvaluationConfig())
    assert every.measured.all()
    assert not every.watched.any()
    third = plan_evaluation(stream, EvaluationConfig(every=3, dense_every=2))
    assert np.flatnonzero(third.measured).tolist() == [2, 4, 5, 8, 9, 11, 13]
    assert np.flatnonzero(third.watched).tolist() == [], "the accuracy just before is not known"
    assert third.num_outputs(13) == 8
    assert third.num_outputs(1) == 1
    dense = plan_evaluation(stream, EvaluationConfig(dense_every=2))
    assert np.flatnonzero(dense.watched).tolist() == [i for i in range(14) if i not in requests]


def test_fewer_tests_are_some_of_all_and_the_same_ones_in_a_larger_limit() -> None:
    stream = prepare(RunConfig.model_validate(CONFIG)).stream
    plans = [plan_evaluation(stream, EvaluationConfig(tests=most, probe=0)) for most in (3, 10, None)]
    tests = [plan.ids[np.unique(plan.position_of)] for plan in plans]
    assert np.bincount(plans[0].unit_of).tolist() == [3] * len(stream.units)
    assert set(tests[0]) < set(tests[1]) < set(tests[2])
    assert np.array_equal(plans[0].since, plans[2].since), "a unit is held as long"
    forget = [[plan.ids[r.forget].tolist() for r in plan.requests] for plan in plans]
    assert forget[0] == forget[2], "every forget set is measured in whole"


def test_batches_that_are_made_anew_are_those_that_would_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    p = prepare(RunConfig.model_validate(CONFIG))

    def batches() -> Sequence[Batch]:
        return Samples(p.stream, p.plan, p.setting.objective, 64, "cpu").all()

    kept = batches()
    monkeypatch.setattr("lifelong.evaluation.samples._KEPT", 0)
    anew = batches()
    assert (isinstance(kept, list), isinstance(anew, list)) == (True, False)
    assert all(torch.equal(a.x, b.x) and torch.equal(a.ids, b.ids) for a, b in zip(kept, anew, strict=True))
    assert torch.equal(torch.cat([b.ids for b in anew]), torch.from_numpy(p.plan.ids))


@pytest.mark.nightly
def test_few_tests_and_top_classes_change_only_what_they_are_about(run: Callable[..., lifelong.Run]) -> None:
    whole, few = run(), run(tests=5, top_classes=4)
    for name in CONFIG["strategies"]:
        one, other = whole.tables[name], few.tables[name]
        subjects = [[(r.event, r.model, r.subject, r.metric) for r in table.rows] for table in (one, other)]
        assert subjects[0] == subjects[1]
        for metric in ("steps", "forget_accuracy", "forget_loss", "retain_accuracy", "agreement"):
            for model in ("run", "retrained"):
                assert values(one, metric, model) == values(other, metric, model)
        near = [values(t, "activation_distance", "retrained") for t in (one, other)]
        assert near[0] != near[1] or not any(near[0].values()), "an exact deletion is at no distance"
        assert list(near[0].values()) == pytest.approx(list(near[1].values()), abs=0.05)
        assert {r.n % 5 for r in other.select("sample_accuracy")} == {0}
        assert max(r.n for r in other.select("sample_accuracy")) <= 5 * 10


@pytest.mark.nightly
def test_evaluating_less_often_changes_no_number(run: Callable[..., lifelong.Run]) -> None:
    often, seldom = run(), run(every=4)
    for name in CONFIG["strategies"]:
        one, other = often.tables[name], seldom.tables[name]
        for metric in TELLING:
            found, expected = values(other, metric), values(one, metric)
            assert found
            assert found == {k: expected[k] for k in found}
        assert {e for e, s in values(other, "average_accuracy")} == {3, 4, 5, 7, 8, 9, 11, 13}
        assert values(one, "steps") == values(other, "steps"), "what events cost is always told"
        for metric in ("gap_average_accuracy", "js", "gap_forget_accuracy"):
            assert values(one, metric, "retrained") == values(other, metric, "retrained")


@pytest.mark.parametrize("follow", [1, "geometric"])
def test_following_fewer_requests_leaves_out_rows_and_changes_none(
    run: Callable[..., lifelong.Run], follow: Any
) -> None:
    whole, fewer = run(probe=100), run(probe=100, follow=follow)
    for name in CONFIG["strategies"]:
        expected = {(r.event, r.model, r.subject, r.metric): r for r in whole.tables[name].rows}
        rows = {(r.event, r.model, r.subject, r.metric): r for r in fewer.tables[name].rows}
        assert rows.keys() < expected.keys()
        lasting = {k: r for k, r in rows.items() if k[2] != "requests" and not k[3].endswith("_max")}
        for key, r in lasting.items():
            assert (r.value, r.n, r.reason) == (
                pytest.approx(expected[key].value, abs=1e-5),
                expected[key].n,
                expected[key].reason,
            )
        last = {k for k in expected if k[0] == 13}
        assert last <= rows.keys(), "after the last event all is measured"
        sizes = [(r.folder / "strategies" / name / "scores.bin").stat().st_size for r in (whole, fewer)]
        assert sizes[1] < sizes[0]


@pytest.mark.nightly
def test_looking_within_experiences_changes_nothing(run: Callable[..., lifelong.Run]) -> None:
    plain, watched = run(), run(dense_every=2)
    for name in CONFIG["strategies"]:
        new = [r for r in watched.tables[name].rows if r.metric not in ("stability_gap", "lowest_accuracy")]
        assert new == plain.tables[name].rows
    gaps = watched.tables["replay-none"].select("stability_gap")
    assert [r.event for r in gaps] == [i for i in range(14) if i not in (5, 9)]
    assert gaps[0].reason == "no unit was learned before this event"
    known = [r.value for r in gaps if r.value is not None]
    assert len(known) >= 10
    assert max(known) > 0
    lowest = values(watched.tables["replay-none"], "lowest_accuracy")
    assert all(v is None or 0 <= v <= 1 for v in lowest.values())
    assert describe("stability_gap").better == "lower"


@pytest.mark.parametrize("evaluation", [{"every": 4}, pytest.param({"dense_every": 2}, marks=pytest.mark.nightly)])
def test_a_run_that_was_interrupted_goes_on_as_if_nothing_had_happened(
    evaluation: dict[str, int], run: Callable[..., lifelong.Run], tmp_path: Path
) -> None:
    whole = run(**evaluation)
    config = RunConfig.model_validate(CONFIG | {"evaluation": evaluation})
    for limit in (3, 6, 8, 2):
        passed = 0

        class Interrupt:
            def begin(self, info: Any, first_event: int) -> None: ...

            def event(self, index: int, rows: Any, seconds: float) -> None:
                nonlocal passed
                passed += 1
                if passed == limit:  # noqa: B023
                    raise KeyboardInterrupt

            def references(self, rows: Any, seconds: float) -> None: ...

            def end(self) -> None: ...

        with pytest.raises(KeyboardInterrupt):
            lifelong.run(config, tmp_path / "parts", [Interrupt()])
    resumed = lifelong.run(config, tmp_path / "parts")
    for name in CONFIG["strategies"]:
        assert resumed.tables[name].rows == whole.tables[name].rows


def test_the_joint_reference_is_plain_training_at_once(tmp_path: Path) -> None:
    config = CONFIG | {"references": {"kinds": ["joint"]}}
    found = lifelong.run(RunConfig.model_validate(config), tmp_path)
    shares = {}
    for name, table in found.tables.items():
        rows = {r.metric: r for r in table.rows if r.model == "joint"}
        assert {r.event for r in rows.values()} == {13}
        own = table.last("average_accuracy", "stream")
        assert own is not None
        assert own.value is not None
        joint, share = rows["average_accuracy"].value, rows["normalised_accuracy"].value
        assert joint is not None
        assert share == pytest.approx(own.value / joint)
        shares[name] = joint
    assert len(set(shares.values())) == 1, "it is the same for all strategies"
    assert shares["replay-none"] > 0.6


def test_joint_visits_as_many_samples_as_the_stream() -> None:
    stream = prepare(RunConfig.model_validate(CONFIG)).stream
    events = chain(stream, Point("joint", 13))
    left = surviving(stream.events)
    visits = sum(len(e.sample_ids) for e in left)
    assert abs(sum(len(e.sample_ids) for e in events) - visits) <= len(events[0].sample_ids) / 2
    assert set(events[0].sample_ids.tolist()) == {i for e in left for i in e.sample_ids.tolist()}


OWN_STEPS: dict[str, Any] = {
    "source": "digits",
    "scenario": {"name": "task-incremental", "experiences": 5},
    "schedule": {"name": "published", "sequence": "clpu"},  # it learns at 0 to 3 and 6, and makes permanent at 4
    "model": {"name": "mlp", "hidden": [16]},
    "training": {"epochs": 1, "batch_size": 32, "lr": 0.1},
    "strategies": {
        "clpu-der": {"isolated": {"name": "clpu-der", "memory": 20}},
        "pall": {"isolated": {"name": "pall", "memory": 50, "steps": 3}},
        "uncle": {"isolated": {"name": "uncle", "hidden": [16], "chunks": 4, "steps": 4, "floor": 2}},
        "amnesiac-hat": {"isolated": {"name": "amnesiac-hat", "memory": 20, "repair": "joint", "steps": 3}},
    },
    "references": {"kinds": []},
}


@pytest.mark.nightly
def test_strategies_that_take_their_own_steps_are_looked_at_within_experiences_too(tmp_path: Path) -> None:
    def lived(every: int | None) -> lifelong.Run:
        config = RunConfig.model_validate(OWN_STEPS | {"evaluation": {"dense_every": every}})
        return lifelong.run(config, tmp_path / str(every))

    plain, watched = lived(None), lived(3)
    for name in OWN_STEPS["strategies"]:
        rows = [r for r in watched.tables[name].rows if r.metric not in ("stability_gap", "lowest_accuracy")]
        assert rows == plain.tables[name].rows
        gaps = {r.event: r.value for r in watched.tables[name].select("stability_gap")}
        learned_on = [1, 2, 3, 6] if name != "clpu-der" else [1, 2, 3, 4, 6]
        assert [event for event, gap in gaps.items() if gap is not None] == learned_on
    # isolated parameters cannot fall while another task is learned; those that tasks share can
    assert {r.value for r in watched.tables["pall"].select("stability_gap")} <= {0.0, None}
    assert max(r.value or 0.0 for r in watched.tables["uncle"].select("stability_gap")) > 0
