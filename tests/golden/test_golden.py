"""A small study whose every row is committed: no change of a number goes unnoticed.

If a change is meant, write the rows anew and look at the difference before committing it::

    python tests/golden/test_golden.py
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

import lifelong

FILE = Path(__file__).with_name("rows.json")
CONFIG = {
    "name": "golden",
    "scenario": {"name": "class-incremental", "experiences": 4},
    "schedule": {
        "name": "explicit",
        "requests": [
            {"after": 2, "scope": "sample", "count": 15},
            {"after": 3, "scope": "class", "keys": [1]},
            {"after": 4, "scope": "user", "keys": [11]},
        ],
    },
    "service": {"wait_for": 1},
    "model": {"name": "mlp", "hidden": [16]},
    "training": {"epochs": 2, "batch_size": 64, "lr": 0.1},
    "strategies": {
        "replay-ascent": {
            "learner": {"name": "replay", "memory": 60},
            "unlearner": {"name": "gradient-ascent", "lr": 0.01, "epochs": 2},
        },
        "ewc-retrain": {"learner": {"name": "ewc", "strength": 10.0, "fisher": "empirical"}, "unlearner": "retrain"},
        "independent": {"isolated": "independent"},
    },
    "references": {"kinds": ["retrained", "withheld"]},
}
# Other processors round otherwise (with ATEN_CPU_CAPABILITY and MKL_CBWR losses differ by up to 8e-6 of their value),
# and a rank that flips moves an AUC by a step.
TOLERANCE, STEP = 2e-5, 1e-3
COUNTS = ("steps", "forward", "backward", "samples_read", "state_bytes", "skipped", "latency", "exposure")
COUNTS += ("exact", "weights_erased")


def rows_of(root: Path) -> dict[str, list[list[Any]]]:
    """Run, and return each strategy's rows as lists."""
    os.environ["LIFELONG_CACHE"] = str(root / "cache")
    run = lifelong.run(lifelong.RunConfig.model_validate(CONFIG), root)
    return {
        name: [[r.event, r.model, r.subject, r.metric, r.value, r.n, r.reason] for r in table.rows]
        for name, table in run.tables.items()
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[Any]]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", "set again below, and put back afterwards")
        return rows_of(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("strategy", list(CONFIG["strategies"]))
def test_every_row_is_as_committed(strategy: str, found: dict[str, list[list[Any]]]) -> None:
    expected = json.loads(FILE.read_text(encoding="utf-8"))[strategy]
    assert [r[:4] for r in found[strategy]] == [r[:4] for r in expected]
    for ours, theirs in zip(found[strategy], expected, strict=True):
        *_, metric, value, n, reason = ours
        *_, wanted, wanted_n, wanted_reason = theirs
        assert (n, reason) == (wanted_n, wanted_reason), theirs
        if wanted is None or metric in COUNTS:
            assert value == wanted, theirs
        else:
            step = STEP if metric.endswith("membership_auc") else TOLERANCE
            assert value == pytest.approx(wanted, rel=TOLERANCE, abs=step), theirs


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        rows = rows_of(Path(folder))
    lines = [
        f' "{name}": [\n' + ",\n".join(f"  {json.dumps(r)}" for r in table) + "\n ]" for name, table in rows.items()
    ]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
