"""What all metrics, attacks and comparisons take of the CPU time of the ready scenario quickstart.

    python tests/benchmarks/metrics_share.py

The scenario runs in a process of its own, at one thread, with an empty cache, references and report included.
Counted is what makes rows of outputs; not the forward passes that make the outputs, not what is read from files, and
not the lives of references. The import of scikit-learn, which the attacks need, is told by itself: it takes as long for
the shortest run.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from _common import arguments, report, value

GATE = 15.0


class Meter:
    """CPU time by what it is spent on, without that of what is timed inside."""

    def __init__(self) -> None:
        self.seconds = {"metrics": 0.0, "other": 0.0}
        self._inner: list[float] = []

    def measured(self, kind: str, function: Callable[[], Any]) -> Any:
        started = time.process_time()
        self._inner.append(0.0)
        try:
            return function()
        finally:
            spent, inner = time.process_time() - started, self._inner.pop()
            self.seconds[kind] += spent - inner
            if self._inner:
                self._inner[-1] += spent

    def wrap(self, owner: Any, name: str, kind: str) -> None:
        function = getattr(owner, name)
        setattr(owner, name, lambda *args, **kwargs: self.measured(kind, lambda: function(*args, **kwargs)))

    def wrap_iterator(self, owner: Any, name: str, kind: str) -> None:
        function = getattr(owner, name)

        def iterate(*args: Any, **kwargs: Any) -> Iterator[Any]:
            items, end = function(*args, **kwargs), object()
            while (item := self.measured(kind, lambda: next(items, end))) is not end:
                yield item

        setattr(owner, name, iterate)


def live(folder: str) -> None:
    """Run the scenario in this process, and print the shares in per cent."""
    import lifelong
    from lifelong.config.run import load_config
    from lifelong.execution import life
    from lifelong.metrics.measure import Measure
    from lifelong.references import comparison
    from lifelong.references.tree import References
    from lifelong.report.html import write_report

    started = time.process_time()
    import sklearn.linear_model
    import sklearn.model_selection
    import sklearn.svm  # noqa: F401

    imported = time.process_time() - started
    meter = Meter()
    for name in ("start", "update", "within"):
        meter.wrap(Measure, name, "metrics")
    for name in ("cost_rows", "compare"):
        meter.wrap(life, name, "metrics")
    for owner, name in (
        (comparison.Shared, "distributions"),
        (comparison, "read_rows"),
        (comparison._Lived, "outputs"),
    ):
        meter.wrap(owner, name, "other")
    meter.wrap_iterator(References, "compute", "other")
    run = lifelong.run(load_config("quickstart", []), folder)
    write_report(run)
    whole = time.process_time()
    shares = {"metrics": meter.seconds["metrics"] / whole, "the import of scikit-learn": imported / whole}
    print(json.dumps({name: 100 * share for name, share in shares.items()} | {"seconds": whole}))


def measure() -> dict[str, float]:
    """Run the scenario in a fresh process, with an empty cache."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"LIFELONG_CACHE": folder, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(Path(__file__).resolve()), "--live", folder]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    shares: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return shares


def main() -> int:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--live", metavar="FOLDER", help="run the scenario once in this process (used by this script)")
    options = parser.parse_args()
    if options.live:
        live(options.live)
        return 0
    runs = [measure() for _ in range(options.rounds)]
    seconds = statistics.median(r["seconds"] for r in runs)
    imported = statistics.median(r["the import of scikit-learn"] for r in runs)
    print(f"A run takes {seconds:.1f} s of CPU time, of which the import of scikit-learn is {imported:.0f} %.")
    return report([value("metrics of quickstart", [r["metrics"] for r in runs], GATE, "%")], options.json)


if __name__ == "__main__":
    sys.exit(main())
