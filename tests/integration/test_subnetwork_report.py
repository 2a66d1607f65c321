"""What subnetworks tell of themselves arrives in the table and in the report's pictures."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import lifelong
from lifelong.config.run import RunConfig
from lifelong.metrics.catalogue import METRICS
from lifelong.report.facts import Facts, Requested, gather
from lifelong.report.html import render, run_drawings
from lifelong.report.subnetworks import dependencies, described
from lifelong.results.series import Series
from lifelong.results.table import Table, row
from streams.config import parse

CONFIG = {
    "name": "subnetworks",
    "scenario": {"name": "task-incremental", "experiences": 4},
    "schedule": {"name": "explicit", "requests": [{"after": 3, "scope": "task", "keys": [1]}]},
    "model": {"name": "mlp", "hidden": [40]},
    "training": {"epochs": 1, "batch_size": 64},
    "strategies": {
        "repaired": {"isolated": "exssnet"},
        "unrepaired": {"isolated": {"name": "exssnet", "repair": "none"}},
        "overwritten": {"isolated": {"name": "ssnet", "repair": "none"}},
        "random": {"isolated": "supsup"},
        "naive": {"learner": "naive", "unlearner": "none"},
    },
    "references": {"kinds": []},
}


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    return gather(lifelong.run(parse(RunConfig, CONFIG), tmp_path_factory.mktemp("runs")))


def test_what_depends_on_what(facts: Facts) -> None:
    assert described(facts) == ["repaired", "unrepaired", "overwritten", "random"]
    tasks, found = dependencies(facts, "repaired")
    assert tasks == ["task-0", "task-2", "task-3"]
    assert {(d.source, d.target) for d in found} == {("task-0", "task-2"), ("task-0", "task-3"), ("task-2", "task-3")}
    assert all(0 < d.share < 1 and not d.stale for d in found)

    tasks, found = dependencies(facts, "unrepaired")
    assert tasks == ["task-0", "task-1", "task-2", "task-3"]
    stale = {(d.source, d.target) for d in found if d.stale}
    assert stale == {("task-1", "task-2")}, "task-3 was learned after the deletion, and reads task-2"
    assert ("task-2", "task-3") in {(d.source, d.target) for d in found}

    _, found = dependencies(facts, "overwritten")
    assert {("task-0", "task-2"), ("task-2", "task-0")} <= {(d.source, d.target) for d in found}
    assert dependencies(facts, "random")[1] == []


@pytest.mark.parametrize(("lesson", "stale"), [(3, True), (2, False)])
@pytest.mark.parametrize("again", ["source", "target"])
def test_who_was_learned_on_top_of_what_was_learned_again_on_less(again: str, lesson: int, stale: bool) -> None:
    """Event 3 is a request for some samples, and a task is learned again in it; at event 2 more of it is learned."""
    lessons = {"source": [0], "target": [1]}
    lessons[again].append(lesson)
    rows = [row(e, "run", task, "mask_density", 0.5, 1) for task, events in lessons.items() for e in events]
    rows += [row(e, "run", "source > target", "inherited", 0.2, 1) for e in lessons["target"]]
    rows.append(row(3, "run", "stream", "exact", 0.0, 1))
    requested = [Requested(3, "request-0", ("sample",), "some samples", 5, ())]
    facts: Any = SimpleNamespace(series={"it": Series(Table(rows))}, requested=requested)
    tasks, (edge,) = dependencies(facts, "it")
    assert tasks == (["target", "source"] if again == "source" else ["source", "target"])
    assert (edge.source, edge.target, edge.share) == ("source", "target", 0.2)
    assert edge.stale == (stale and again == "source")


def test_no_file_keeps_what_belonged_to_a_deleted_task(facts: Facts) -> None:
    for name in described(facts):
        files = sorted((facts.run.folder / "strategies" / name / "checkpoints").iterdir())
        assert files
        for file in files:
            saved = torch.load(file, weights_only=True)
            assert saved["event"] >= 3, "nothing from before the deletion is left"
            state = saved["state"]
            assert [net["units"] for net in state["subnetworks"]] == [[0], [2], [3]]
            assert not any([1] in net["reads"] for net in state["subnetworks"])


def test_the_rows_are_described_and_add_up(facts: Facts) -> None:
    for name in described(facts):
        series = facts.series[name]
        for layer in ("layer body.0", "layer head"):
            used = [r.value for r in series.rows("capacity_used", layer).values()]
            assert len(used) == 5
            assert all(value is not None and 0 < value < 0.5 for value in used)
        shares = [r.value for r in series.rows("storage_share", "stream").values()]
        assert shares[2] is not None
        assert shares[0] is not None
        if name == "random":
            assert set(shares) == {1 / 32}, "a bit for each weight, and no weight at all"
        else:
            assert shares[2] < shares[0], "the more tasks, the less each costs"
    for name in ("mask_density", "mask_overlap", "free_share", "inherited", "capacity_used", "storage_share"):
        assert name in METRICS
        assert facts.series["repaired"].subjects(name)


@pytest.mark.nightly
def test_the_pictures_are_in_the_report(facts: Facts) -> None:
    text = render(facts)
    assert "How tasks build on each other" in text
    for number in range(4):
        assert f'id="figure-dependencies-{number}"' in text
        assert f'id="figure-capacity-{number}"' in text
    names = [name for name, _ in run_drawings(facts)]
    assert {"dependencies-repaired", "capacity-random"} <= set(names)
    assert not any(name.endswith("naive") for name in names if name.startswith("dependencies"))
    assert Path(facts.run.folder).exists()
