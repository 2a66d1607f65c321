"""How long the command line takes to say what there is, and what it imports for that.

python tests/benchmarks/startup.py
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

from _common import ROOT, Result, arguments, report, value

GATE = 0.5
HEAVY = ("torch", "avalanche", "torchvision", "transformers", "wandb", "plotly", "sklearn", "scipy", "matplotlib")
# Runs the command in-process and then says on stderr which of the heavy packages it imported.
RUN = """
import sys
sys.argv = ["lifelong", *{arguments!r}]
from cli.main import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print(*[m for m in {heavy!r} if m in sys.modules], file=sys.stderr)
"""
IMPORT = "import sys, lifelong; print(*[m for m in {heavy!r} if m in sys.modules], file=sys.stderr)"


def python(code: str) -> tuple[float, set[str]]:
    """Run code in a fresh interpreter; return the CPU seconds of the process and the heavy packages it imported."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, set(done.stderr.splitlines()[-1].split()) if done.stderr.strip() else set()


def measure(name: str, code: str, forbidden: set[str], gate: float, rounds: int) -> Result:
    """Time one piece of code, and stop if it imports what it must not."""
    seconds = []
    for number in range(rounds + 1):
        took, imported = python(code)
        if imported & forbidden:
            raise SystemExit(f"{name} imports {', '.join(sorted(imported & forbidden))}")
        if number:  # the first run reads files from disk and writes bytecode
            seconds.append(took)
    return value(name, seconds, gate, "s")


def main() -> int:
    options = arguments(__doc__, rounds=7).parse_args()
    sys.path.insert(0, str(Path(ROOT)))
    results = [
        measure(
            f"lifelong {' '.join(words)}",
            RUN.format(arguments=words, heavy=HEAVY),
            set(HEAVY),
            GATE,
            options.rounds,
        )
        for words in (["--help"], ["list"])
    ]
    for name, code, forbidden in (
        ("import lifelong", IMPORT.format(heavy=HEAVY), {"avalanche", "wandb", "transformers", "plotly"}),
    ):
        seconds = [python(code) for _ in range(options.rounds)]
        for _, imported in seconds:
            if imported & forbidden:
                raise SystemExit(f"{name} imports {', '.join(sorted(imported & forbidden))}")
        print(f"{name}: {min(s for s, _ in seconds):.2f} s; imports of {', '.join(HEAVY)}: {imported or 'none'}")
    return report(results, options.json)


if __name__ == "__main__":
    sys.exit(main())
