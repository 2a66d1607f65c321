"""What recording and checkpoints add to the ready scenario glyphs-100, and how much memory the whole scenario takes.

    python tests/benchmarks/recording_overhead.py
    python tests/benchmarks/recording_overhead.py --set scenario.experiences=20

The scenario runs in a process of its own with everything switched on. CPU time inside the record (rows, per-sample
outputs, details, timings, checkpoints, and taking the state) is set against all other CPU time of the events alone,
without the references, which would flatter it.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from _common import arguments, report, value

GATE, GIBIBYTES = 5.0, 2.0


class Meter:
    """Adds up the CPU time spent in some functions, and notes when lives begin and end."""

    def __init__(self) -> None:
        self.recording = self._began = self._began_with = 0.0
        self._inside = False
        self.shares: dict[str, float] = {}

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return function(*args, **kwargs)
            self._inside = True
            started = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self._inside = False
                self.recording += time.process_time() - started

        return call

    # A tracker: `begin` comes before the first event of a strategy, `event` after each.
    def begin(self, info: Any, first_event: int) -> None:
        self._name = info.strategy
        self._began, self._began_with = time.process_time(), self.recording

    def event(self, index: int, rows: Sequence[Any], seconds: float) -> None:
        recording = self.recording - self._began_with
        everything = time.process_time() - self._began
        self.shares[self._name] = 100 * recording / (everything - recording)

    def references(self, rows: Sequence[Any], seconds: float) -> None:
        pass

    def end(self) -> None:
        pass


def live(assignments: list[str], folder: str) -> None:
    """Run the scenario here, and print shares (in percent) and peak memory as JSON."""
    from lifelong.config.run import load_config
    from lifelong.execution.runner import run
    from lifelong.results.record import Record
    from strategies.composed import Composed
    from strategies.isolated.independent import Independent

    meter = Meter()
    for owner, names in (
        (Record, ("write", "write_details", "write_timing", "save")),
        (Composed, ("state_dict",)),
        (Independent, ("state_dict",)),
    ):
        for name in names:
            setattr(owner, name, meter.timed(getattr(owner, name)))
    started = time.process_time()
    run(load_config("glyphs-100", assignments), folder, [meter])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"shares": meter.shares, "peak": peak, "seconds": time.process_time() - started}))


def measure(assignments: list[str]) -> dict[str, Any]:
    """Run the scenario in a fresh process, with empty caches."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(Path(__file__).resolve()), "--live", folder]
        command += [word for a in assignments for word in ("--set", a)]
        environment = os.environ | {"LIFELONG_CACHE": folder}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"The run ended with {done.returncode}. {done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> int:
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the scenario")
    parser.add_argument("--live", metavar="FOLDER", help="run the scenario once in this process (used by this script)")
    options = parser.parse_args()
    if options.live:
        live(options.set, options.live)
        return 0
    runs = [measure(options.set) for _ in range(options.rounds)]
    results = [
        value(f"{name}: recording adds", [r["shares"][name] for r in runs], GATE, "%") for name in runs[0]["shares"]
    ]
    results.append(value("whole scenario: peak memory", [r["peak"] for r in runs], GIBIBYTES, "GiB"))
    print(f"One run of the scenario takes {runs[0]['seconds']:.0f} s of CPU time, references included.")
    return report(results, options.json)


if __name__ == "__main__":
    sys.exit(main())
