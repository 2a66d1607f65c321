"""Corrective requests on a small life: what is named, what is not, and the reference that never had bad data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lifelong


def blobs(folder: Path) -> Path:
    """Ten blobs in 20 dimensions that are easy to tell apart."""
    draw = np.random.default_rng(0)
    y = np.tile(np.arange(10), 300)
    x = 1.2 * draw.normal(size=(10, 20))[y] + draw.normal(size=(len(y), 20))
    np.savez(folder / "blobs.npz", x=x.astype(np.float32), y=y, test=np.arange(len(y)) >= 2000)
    return folder / "blobs.npz"


def play(folder: Path, manipulation: str, samples: int, found: float) -> lifelong.Run:
    source = {"name": "arrays", "path": str(blobs(folder))}
    data: dict[str, Any] = {
        "source": {
            **{"name": "corrupted", "of": source, "manipulation": manipulation},
            **{"samples": samples, "classes": [1, 2]},
        },
        "scenario": "joint",
        "schedule": {"name": "corrective", "found": found},
        "model": {"name": "mlp", "hidden": [64]},
        "training": {"epochs": 30, "batch_size": 64, "lr": 0.1, "momentum": 0.9},
        "strategies": {name: {"unlearner": name} for name in ("none", "retrain")},
        "references": {"kinds": ["retrained", "original", "clean"]},
    }
    return lifelong.run(lifelong.RunConfig.model_validate(data), folder)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))


def at_end(run: lifelong.Run, strategy: str, metric: str, model: str = "run") -> Any:
    row = run.tables[strategy].last(metric, "stream", model)
    assert row is not None
    return row.value


@pytest.mark.nightly  # a study of five seconds
def test_a_backdoor_survives_retraining_without_a_part_of_it(tmp_path: Path) -> None:
    half = play(tmp_path, "backdoor", 40, 0.5)
    for strategy in ("none", "retrain"):
        # Published, and simulated for the specification: 2 % and 7 % of triggered inputs are classified right.
        assert at_end(half, strategy, "corrected_accuracy") < 0.3
        assert at_end(half, strategy, "attack_success") > 0.7
        assert at_end(half, strategy, "unaffected_accuracy") > 0.95
        assert at_end(half, strategy, "unnamed_fit") > 0.9
        assert at_end(half, strategy, "recovery", "clean") < 0.3
    assert at_end(half, "none", "corrected_accuracy", "clean") > 0.9
    assert at_end(half, "retrain", "gap_corrected_accuracy", "retrained") == 0.0
    assert at_end(half, "retrain", "gap_corrected_accuracy", "clean") < -0.6


def test_all_of_it_named_is_all_of_it_gone(tmp_path: Path) -> None:
    whole = play(tmp_path, "confusion", 200, 1.0)
    assert at_end(whole, "none", "recovery", "clean") == 0.0
    assert at_end(whole, "retrain", "recovery", "clean") == 1.0
    assert at_end(whole, "none", "corrected_accuracy") == pytest.approx(0.53, abs=0.2)
    assert at_end(whole, "retrain", "corrected_accuracy") > 0.9
    assert at_end(whole, "none", "attack_success") > 0.3
    assert at_end(whole, "retrain", "attack_success") < 0.05
    table = whole.tables["retrain"]
    row = table.last("unnamed_fit", "stream")
    assert row is not None
    assert (row.value, row.reason) == (None, "no manipulated sample is learned and not named")
    # Retraining without the named data is no target here, and membership tells nothing.
    assert table.select("average_gap", model="retrained") == []
    row = table.select("membership_auc", "request-0")[0]
    assert row.value is None
    assert "to be corrected" in str(row.reason)
