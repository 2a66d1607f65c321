"""Relapse is seen where one network goes on learning, and is exactly zero where nothing of the deleted is left."""

from __future__ import annotations

from pathlib import Path

import lifelong
from streams.config import parse

CONFIG = {
    "scenario": {"name": "task-incremental", "experiences": 5},
    "schedule": {"name": "explicit", "requests": [{"after": 1, "scope": "task", "keys": [0]}]},
    "model": {"name": "mlp", "hidden": [32]},
    "training": {"epochs": 5, "batch_size": 32, "lr": 0.05},
    "evaluation": {"probe": 10},
    "references": {"kinds": []},
    "strategies": {
        "ascent": {
            "learner": "naive",
            "unlearner": {"name": "gradient-ascent", "lr": 0.013, "epochs": 2, "batch_size": 32},
        },
        "clpu": {"isolated": {"name": "clpu-der", "memory": 20}},
    },
}


def test_relapse(tmp_path: Path) -> None:
    """Gradient ascent forgets; later tasks, which share features, bring it back. CLPU-DER++ has nothing to bring."""
    run = lifelong.run(parse(lifelong.RunConfig, CONFIG), tmp_path)
    found = {
        name: [
            {r.metric: r.value for r in table.rows if (r.event, r.subject, r.model) == (event, "request-0", "run")}
            for event in range(1, 6)
        ]
        for name, table in run.tables.items()
    }
    ascent, clpu = found["ascent"], found["clpu"]
    assert ascent[0]["forget_accuracy"] < 0.75, "two classes: chance is 0.5"
    assert max(rows["relapse"] for rows in ascent[1:]) > 0.15
    assert [rows["relapse"] for rows in clpu[1:]] == [0.0] * 4
    assert [rows["relapse_test"] for rows in clpu[1:]] == [0.0] * 4
