"""How long the command line takes to say what there is, and what it imports for that.

python tests/benchmarks/startup.py
"""

from __future__ import annotations

import resource
import subprocess
import sys

from _common import ROOT, Result, arguments, report, value

GATE = 0.5
HEAVY = ("torch", "avalanche", "torchvision", "transformers", "wandb", "plotly", "sklearn", "scipy", "matplotlib")
# Both say on stderr which of the heavy packages were imported.
COMMAND = """
import sys
sys.argv = ["lifelong", *{words!r}]
from cli.main import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print(*[m for m in {heavy!r} if m in sys.modules], file=sys.stderr)
"""
IMPORT = f"import sys, lifelong; print(*[m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"


def python(code: str) -> tuple[float, set[str]]:
    """Run code in a fresh interpreter; return the CPU seconds of the process and the heavy packages it imported."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, set(done.stderr.splitlines()[-1].split())


def measure(name: str, code: str, rounds: int) -> Result:
    """Time one piece of code, and stop if it imports anything heavy."""
    python(code)  # reads files from disk and writes bytecode
    runs = [python(code) for _ in range(rounds)]
    imported = set().union(*(modules for _, modules in runs))
    if imported:
        raise SystemExit(f"{name} imports {', '.join(sorted(imported))}")
    return value(name, [seconds for seconds, _ in runs], GATE, "s")


def main() -> int:
    options = arguments(__doc__, rounds=7).parse_args()
    results = [
        measure("lifelong --help", COMMAND.format(words=["--help"], heavy=HEAVY), options.rounds),
        measure("lifelong list", COMMAND.format(words=["list"], heavy=HEAVY), options.rounds),
        measure("import lifelong", IMPORT, options.rounds),
    ]
    print(f"None of them imports {', '.join(HEAVY)}.")
    return report(results, options.json)


if __name__ == "__main__":
    sys.exit(main())
