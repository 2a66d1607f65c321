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
        assert rows["relapse"] == pytest.approx(rows["forget_accuracy"] - served["forget_accuracy"])
    assert max(rows["relapse"] for rows in later) > 0.2


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
    assert [(rows["relapse"], rows["relapse_test"]) for rows in later] == [(0.0, 0.0)] * 4
