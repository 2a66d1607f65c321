"""The script of docs/clusters.md, with a command and a scheduler that are not there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "clusters.md"
JOB = """#!/bin/bash
# Runs until it is asked to stop; then it takes a while to keep where it is.
echo "$@" > job
trap 'sleep 0.2; exit {on_term}' TERM
[ -e quick ] && exit "$(cat quick)"
touch started
while :; do sleep 0.05; done
"""
SCHEDULER = """#!/bin/bash
echo "$@" > asked
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (script,) = re.findall(r"```bash\n(#!/bin/bash\n#SBATCH.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for name, text in {"array.sh": script, "lifelong": JOB.format(on_term=130), "scontrol": SCHEDULER}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def started(place: Path) -> subprocess.Popen[bytes]:
    environment = {"PATH": f"{place}:{os.environ['PATH']}", "HOME": str(place)}
    environment |= {"SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "3"}
    return subprocess.Popen([place / "array.sh"], cwd=place, env=environment)


def test_before_the_time_limit_the_job_is_stopped_and_queued_again(place: Path) -> None:
    with started(place) as script:
        until = time.monotonic() + 20
        while not (place / "started").exists():
            assert time.monotonic() < until
            time.sleep(0.02)
        script.send_signal(signal.SIGTERM)
        assert script.wait(20) == 130
    assert (place / "asked").read_text() == "requeue 17_3\n"
    assert (place / "job").read_text() == "study study.yaml --runs runs --job slurm\n"


@pytest.mark.parametrize("code", [0, 1])
def test_a_job_that_ends_is_not_queued_again(place: Path, code: int) -> None:
    (place / "quick").write_text(str(code))
    with started(place) as script:
        assert script.wait(20) == code
    assert not (place / "asked").exists()
