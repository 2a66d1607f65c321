"""Whole lives of small models that see: rows by skill, requests by skill and user, and references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lifelong
from lifelong.config.run import RunConfig
from lifelong.results.table import read_rows
from streams.config import parse

TINY: dict[str, Any] = {
    "name": "tiny-instructions",
    "source": {
        "name": "instructions",
        "distributors": ["numbers", "knowledge"],
        "samples": 60,
        "test": 6,
        "characters": 3,
        "users": 3,
        "vocabulary": 400,
    },
    "scenario": {"name": "domain-incremental", "kind": "natural", "units": "class"},
    "schedule": {
        "name": "explicit",
        "requests": [{"after": 1, "scope": "class", "keys": [3]}, {"after": 2, "scope": "user", "keys": [1]}],
    },
    "objective": "causal-lm",
    "model": {
        "name": "tiny-llava", "width": 16, "inner": 16, "depth": 1, "heads": 2,
        "vision_width": 16, "vision_inner": 16, "vision_heads": 2,
    },
    "training": {"epochs": 2, "optimizer": "adam", "lr": 0.01, "batch_size": 20},
    "strategies": {
        "cumulative": {"learner": "cumulative", "unlearner": "retrain"},
        "ewc": {"learner": [{"name": "ewc", "fisher": "batch"}], "unlearner": {"name": "gradient-ascent", "epochs": 1}},
        "replay": {"learner": {"name": "replay", "memory": 20}, "unlearner": {"name": "npo", "epochs": 1}},
    },
    "references": {"kinds": ["retrained", "joint"]},
}  # fmt: skip


@pytest.mark.nightly
def test_every_skill_has_its_row_and_a_deleted_one_counts_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    run = lifelong.run(parse(RunConfig, TINY), tmp_path / "runs")
    for name in ("cumulative", "ewc", "replay"):
        rows = read_rows(Path(run.folder) / "strategies" / name / "results.jsonl")

        def found(metric: str, subject: str, model: str = "run", rows: Any = rows) -> dict[int, float | None]:
            return {r.event: r.value for r in rows if (r.metric, r.subject, r.model) == (metric, subject, model)}

        # Events: learn numbers, forget counting, learn knowledge, forget a user.
        for skill in ("naming", "yes-no", "parity", "facts", "unrelated"):
            assert found("exact_match", skill).keys() == {0, 1, 2, 3}, skill
        assert found("exact_match", "counting").keys() == {0}, "a deleted skill is not held"
        assert found("deleted_exact_match", "counting").keys() == {1, 2, 3}
        assert found("forgetting_from_first", "stream")[3] is not None
        share = found("normalised_exact_match", "stream", "joint")[3]
        assert share is None or np.isfinite(share)
        gap = found("gap_forget_exact_match", "request-1", "retrained")[3]
        assert gap is not None
        if name == "cumulative":
            assert gap == 0, "retraining is the reference itself"
