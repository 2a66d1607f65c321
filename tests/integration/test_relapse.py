"""Relapse is seen where one network goes on learning, and is exactly zero where nothing of the deleted is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lifelong
from streams.config import parse

FIRST = {"schedule": {"name": "explicit", "requests": [{"after": 1, "scope": "task", "keys": [0]}]}}


def after_the_request(tmp_path: Path, config: dict[str, Any], name: str) -> list[dict[str, float | None]]:
    """What the rows say of the request, by metric: when it is served, and after each of the later experiences."""
    run = lifelong.run(parse(lifelong.RunConfig, FIRST | config), tmp_path)
    rows = [r for r in run.tables[name].rows if (r.subject, r.model) == ("request-0", "run")]
    return [{r.metric: r.value for r in rows if r.event == event} for event in sorted({r.event for r in rows})]


def test_ascent_relapses_where_the_same_classes_come_again(tmp_path: Path) -> None:
    """Gradient ascent forgets the upright digits; digits that are turned by 30 degrees bring them back."""
    ascent = {"name": "gradient-ascent", "lr": 0.005, "epochs": 30, "batch_size": 32, "stop_loss": 4.0}
    config: dict[str, Any] = {
        "scenario": {
            "name": "domain-incremental",
            "kind": "rotated",
            "domains": 6,
            "overlap": False,
            "task_labels": True,
        },
        "model": {"name": "mlp", "hidden": [32]},
        "training": {"epochs": 15, "batch_size": 32, "lr": 0.1},
        "evaluation": {"probe": 10},
        "references": {"kinds": []},
        "strategies": {"ascent": {"learner": "naive", "unlearner": ascent}},
    }
    served, *later = after_the_request(tmp_path, config, "ascent")
    assert len(later) == 5
    assert served["forget_accuracy"] < 0.4, "0.7 and more before"
    for rows in later:
        assert rows["raw_relapse"] == pytest.approx(rows["forget_accuracy"] - served["forget_accuracy"])
    assert max(rows["raw_relapse"] for rows in later) > 0.2


def test_nothing_comes_back_where_nothing_is_left(tmp_path: Path) -> None:
    """CLPU-DER++ drops the model of the deleted task, and no other task's training reaches what answers for it."""
    config: dict[str, Any] = {
        "scenario": {"name": "task-incremental", "experiences": 5},
        "model": {"name": "mlp", "hidden": [32]},
        "training": {"epochs": 5, "batch_size": 32, "lr": 0.05},
        "evaluation": {"probe": 10},
        "references": {"kinds": []},
        "strategies": {"clpu": {"isolated": {"name": "clpu-der", "memory": 20}}},
    }
    _, *later = after_the_request(tmp_path, config, "clpu")
    assert [(rows["raw_relapse"], rows["raw_relapse_test"]) for rows in later] == [(0.0, 0.0)] * 4


def test_doing_nothing_is_not_rewarded(tmp_path: Path) -> None:
    """A class that is still known fades as learning goes on, and one that was never seen cannot: only that is 0."""
    config: dict[str, Any] = {
        "scenario": {"name": "class-incremental", "experiences": 5},
        "schedule": {"name": "explicit", "requests": [{"after": 3, "scope": "class", "keys": [4]}]},
        "model": {"name": "mlp", "hidden": [32]},
        "training": {"epochs": 5, "batch_size": 32, "lr": 0.05},
        "evaluation": {"probe": 10},
        "strategies": {
            "none": {"learner": {"name": "replay", "memory": 60}, "unlearner": "none"},
            "retrain": {"learner": {"name": "replay", "memory": 60}, "unlearner": "retrain"},
        },
    }
    run = lifelong.run(parse(lifelong.RunConfig, config), tmp_path)
    found = {}
    for name, table in run.tables.items():
        raw, beyond, size = (
            table.last(metric, "requests", model)
            for metric, model in (("raw_relapse", "run"), ("relapse", "retrained"), ("abs_relapse", "retrained"))
        )
        assert raw is not None
        assert beyond is not None
        assert size is not None
        found[name] = (raw.value or 0.0, beyond.value, size.value or 0.0)
    assert found["none"][0] < found["retrain"][0], "by the raw number doing nothing is the best"
    assert found["retrain"][1:] == (0.0, 0.0)
    assert found["none"][2] > 0.1
