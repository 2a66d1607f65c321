"""`lifelong verify`: true claims are upheld, false ones refuted, and every negative control is caught."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lifelong
from lifelong.verification import certificate as module
from lifelong.verification.certificate import verify
from lifelong.verification.controls import CONTROLS
from lifelong.verification.replay import altered, choose
from streams.config import parse
from streams.errors import CheckpointError, ConfigError
from streams.randomness import Key

ROOT = Path(__file__).parents[2]
CONFIG: dict[str, Any] = {
    "name": "proof",
    "scenario": {"name": "class-incremental", "experiences": 2},
    "schedule": {
        "name": "explicit",
        "requests": [{"after": 1, "scope": "sample", "count": 1}, {"after": 2, "scope": "class", "keys": [1]}],
    },
    "model": {"name": "mlp", "hidden": [8, 8]},
    "training": {"epochs": 1, "lr": 0.05},
    "references": {"kinds": []},
    "strategies": {
        "sisa": {"isolated": {"name": "sisa", "shards": 2, "slices": 3}},
        "s3t": {"isolated": {"name": "s3t", "shards": 2, "slices": 2, "sequences": 2, "alpha": 4.0, "rank": 4}},
        "retrain": {"learner": "replay", "unlearner": "retrain"},
        "nothing": {"learner": "naive", "unlearner": "none"},
        "clpu": {"isolated": {"name": "clpu-der", "memory": 10, "finer": "coarsen"}},
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> lifelong.Run:
    root = tmp_path_factory.mktemp("proof")
    return lifelong.run(parse(lifelong.RunConfig, CONFIG), root / "runs")


def test_claims_are_upheld_and_controls_caught(run: lifelong.Run) -> None:
    found = verify(run.folder)
    assert found.upheld
    grades = {v.strategy: (v.claim, v.grade) for v in found.verified}
    assert grades == {
        "sisa": ("bits", "bits"),
        "s3t": ("bits", "bits, others given up"),
        "retrain": ("bits", "bits"),
        "nothing": ("none", "none"),
        "clpu": ("bits", "bits, others given up"),
    }
    nothing = found.verified[3].findings
    assert not any(f.independent or f.as_without for f in nothing), "the tests would pass on anything"
    assert {c.control: c.caught for c in found.controls} == dict.fromkeys(CONTROLS, True)
    assert found.missed == ()
    assert next(c.by for c in found.controls if c.control == "global generator") == "life without"
    written = json.loads((run.folder / "certificate.json").read_text(encoding="utf-8"))
    assert written["upheld"]
    assert written["about"]["stream"] == json.loads((run.folder / "stream.json").read_text())["digest"]
    assert any("Adaptive" in line for line in written["does_not_support"])


@pytest.mark.nightly
def test_a_control_that_cannot_be_run_says_so(tmp_path: Path) -> None:
    config = CONFIG | {"model": {"name": "mlp", "hidden": [8]}, "strategies": {"sisa": CONFIG["strategies"]["sisa"]}}
    found = verify(lifelong.run(parse(lifelong.RunConfig, config), tmp_path).folder, requests=1)
    shared = found.controls[-1]
    assert (shared.control, shared.caught) == ("shared head", None)
    assert "2 slices need as many layers" in (shared.by or "")


def test_a_run_whose_state_was_tampered_with_is_refuted(run: lifelong.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_digest_of", lambda _: "another")
    found = verify(run.folder, ["sisa"], requests=1, controls=False)
    assert not found.verified[0].reproduced
    assert not found.upheld


def test_other_data_changes_the_deleted_rows_only(run: lifelong.Run) -> None:
    stream = lifelong.prepare(run.config).stream
    ids = stream.requests[0].sample_ids
    other = altered(stream, ids, Key(0))
    changed = np.flatnonzero((other.source.x != stream.source.x).flatten(1).any(1).numpy())
    assert changed.tolist() == ids.tolist()
    assert (other.source.y != stream.source.y).nonzero().flatten().tolist() == ids.tolist()
    assert other.digest() == stream.digest()


def test_requests_are_spread(run: lifelong.Run) -> None:
    stream = lifelong.prepare(run.config).stream
    assert choose(stream, 9) == (1, 3)
    assert choose(stream, 1) == (3,)


def test_what_cannot_be_verified_says_why(run: lifelong.Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'sisa'"):
        verify(run.folder, ["sisaa"])
    quiet = parse(lifelong.RunConfig, CONFIG | {"schedule": "none", "strategies": {"naive": {"learner": "naive"}}})
    with pytest.raises(ConfigError, match="no deletion request"):
        verify(lifelong.run(quiet, tmp_path).folder)
    moved = tmp_path / "proof-0123456789abcdef"
    moved.mkdir()
    (moved / "config.yaml").write_text((run.folder / "config.yaml").read_text())
    with pytest.raises(CheckpointError, match="another version of the code"):
        verify(moved)


@pytest.mark.nightly
def test_the_command(run: lifelong.Run) -> None:
    line = [sys.executable, "-c", "from cli.main import main; main()", "verify", str(run.folder)]
    line += [part for name in ("sisa", "s3t", "clpu") for part in ("--strategy", name)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines() if line.endswith(" upheld")] == ["sisa", "s3t", "clpu"]
    assert "NOTHING" not in done.stdout
    assert "wrong checkpoint" in done.stdout
