"""Benchmarks still run: a script that nobody starts falls behind the code, and its numbers cannot be measured again."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from streams.sources.fashion_mnist import DEBIAN

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
SCRIPTS = sorted(script.stem for script in FOLDER.glob("[!_]*.py"))
QUICK = {
    "accumulation": ["--quick"],
    "exact": ["--requests", "30"],
    "large_data": ["--share", "0.001"],
    "long_streams": ["--quick"],
    "many_requests": ["--share", "10"],
    "split_fashion_against_avalanche": ["--samples", "60"],
    "weight_copies": ["--only", "naive"],
}
"""What makes scripts short, beside one round."""
SECONDS = 60


@pytest.mark.nightly
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_runs_for_a_minute(name: str, tmp_path: Path) -> None:
    if name == "split_fashion_against_avalanche" and not DEBIAN.exists():
        pytest.skip("needs Debian's package dataset-fashion-mnist")
    process = subprocess.Popen(
        [sys.executable, str(FOLDER / f"{name}.py"), "--rounds", "1", *QUICK.get(name, [])],
        env=os.environ | {"LIFELONG_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        printed, said = process.communicate(timeout=SECONDS)
        assert process.returncode in (0, 1), said  # 1 if a gate was missed, which one round cannot tell
        assert printed
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        said = process.communicate()[1]
    assert "Traceback" not in said, said


def test_options_are_of_scripts_that_exist() -> None:
    assert set(QUICK) <= set(SCRIPTS)
