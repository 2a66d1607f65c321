"""What several modules use: a tiny study to look at."""

from __future__ import annotations

from typing import Any

import pytest

from lifelong.study.jobs import execute
from lifelong.study.study import Study

JS = {"metric": "immediate_js", "subject": "requests", "model": "retrained"}
TINY_STUDY: dict[str, Any] = {
    "name": "tiny",
    "claim": "Retraining answers a request exactly.",
    "base": {
        "scenario": {"name": "class-incremental", "experiences": 3},
        "schedule": {
            "name": "explicit",
            "requests": [{"after": 1, "scope": "sample", "count": 5}, {"after": 2, "scope": "class", "keys": [1]}],
        },
        "model": {"name": "mlp", "hidden": [16]},
        "training": {"epochs": 2},
        "references": {"kinds": ["retrained", "withheld"]},
    },
    "strategies": {
        "naive": {"learner": "naive", "unlearner": "none"},
        "replay": {"learner": "replay", "unlearner": "retrain"},
    },
    "seeds": 2,
    "comparisons": [{"metric": "average_accuracy", "of": ["replay"], "minus": "naive"}],
    "criteria": [
        {"name": "retraining is exact", "of": "replay", "below": 1e-9, **JS},
        {"name": "doing nothing is exact", "of": "naive", "below": 1e-9, **JS},
    ],
}


@pytest.fixture(scope="session")
def tiny_study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Two strategies and two seeds, finished; nobody may write to its folders."""
    root = tmp_path_factory.mktemp("study")
    study = Study(TINY_STUDY, root=root / "runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(root / "cache"))
        for job in study.jobs:
            assert execute(job).error is None
        study.run()
    return study
