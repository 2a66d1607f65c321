"""What a strategy did and what looking at it took are told apart, by a clock that only these two move."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import lifelong
from lifelong.evaluation.evaluator import Evaluator
from lifelong.execution import life
from strategies.step import step as act

ACTING, LOOKING = 7.0, 100.0
CONFIG: dict[str, Any] = {
    "name": "timed",
    "scenario": {"name": "class-incremental", "experiences": 2},
    "schedule": {"name": "explicit", "requests": [{"after": 1, "scope": "sample", "count": 3}]},
    "model": {"name": "mlp", "hidden": [4]},
    "training": {"epochs": 1, "batch_size": 128},
    "strategies": {"again": {"learner": "naive", "unlearner": "retrain"}},
    "references": {"kinds": []},
    "evaluation": {"dense_every": 2},
}


def test_time_that_looking_takes_is_not_the_strategys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, looks = [0.0], [0]

    def evaluate(self: Evaluator, *args: Any) -> Any:
        clock[0] += LOOKING
        looks[0] += 1
        return look(self, *args)

    def step(*args: Any) -> Any:
        clock[0] += ACTING
        return act(*args)

    look = Evaluator.evaluate
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Evaluator, "evaluate", evaluate)
    monkeypatch.setattr(life, "step", step)
    monkeypatch.setattr(life, "now", lambda: clock[0])
    run = lifelong.run(CONFIG, tmp_path / "runs")
    lines = (run.folder / "strategies" / "again" / "timings.jsonl").read_text(encoding="utf-8").splitlines()
    timings = [json.loads(line) for line in lines]
    assert [t["act_s"] for t in timings] == [ACTING] * 3
    assert sum(t["evaluate_s"] for t in timings) == LOOKING * (looks[0] - 1), (
        "before the first event it is looked at once"
    )
    assert looks[0] > 4, "within experiences, too"
