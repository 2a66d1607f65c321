"""What sending everything to W&B adds to a run: the real package, offline.

    python tests/benchmarks/wandb_overhead.py
    python tests/benchmarks/wandb_overhead.py --set scenario.experiences=20

The ready scenario glyphs-100 with one strategy runs in a process of its own. Wall time inside the tracker, its import
of W&B and the wait for its files at the end included, is set against all other wall time of the run; so is the CPU time
of W&B's own process, which runs beside ours and takes a core only where there is none to spare. What it costs is per
strategy and per event, not per step, so that a longer training has a smaller share.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

from _common import ROOT, arguments, report, value

GATE = 2.0
LIVE = """
import json, resource, sys, time
from lifelong.config.run import load_config
from lifelong.execution.runner import run
from lifelong.trackers.wandb import WandbTracker

spent = 0.0

def timed(method):
    def call(*args):
        global spent
        started = time.perf_counter()
        try:
            return method(*args)
        finally:
            spent += time.perf_counter() - started
    return call

tracker = WandbTracker()
for name in ("begin", "event", "references", "end"):
    setattr(tracker, name, timed(getattr(tracker, name)))
started = time.perf_counter()
result = run(load_config("glyphs-100", sys.argv[2:]), sys.argv[1], [tracker])
seconds = time.perf_counter() - started
assert list(result.folder.rglob("*.wandb"))
import wandb
wandb.teardown()  # its process ends here, and its CPU time is counted then
beside = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({"tracker": spent, "run": seconds - spent, "beside": beside.ru_utime + beside.ru_stime}))
"""


def measure(assignments: list[str]) -> dict[str, float]:
    """Run the scenario with the tracker in a fresh process, with an empty cache and without a key."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
        environment |= {"LIFELONG_CACHE": folder, "WANDB_MODE": "offline", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", LIVE, folder, *assignments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"The run ended with {done.returncode}. {done.stderr}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> int:
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the scenario")
    options = parser.parse_args()
    one = "strategies={replay-finetune: {learner: replay, unlearner: finetune}}"
    runs = [measure([one, *options.set]) for _ in range(options.rounds)]
    print(
        f"One run takes {runs[0]['run']:.0f} s without the tracker, references included; "
        f"W&B's own process beside it takes {runs[0]['beside']:.1f} s of CPU time."
    )
    return report([value("the tracker adds", [100 * r["tracker"] / r["run"] for r in runs], GATE, "%")], options.json)


if __name__ == "__main__":
    sys.exit(main())
