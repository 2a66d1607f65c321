"""What the benchmarks share: CPU time of interleaved rounds, and a table of ratios beside their gates.

Every script prints its table, writes it as JSON with ``--json FILE``, and exits with 1 if a gate is missed.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from lifelong.results.table import Row
    from lifelong.trackers._base import RunInfo

Side = Callable[[], float]
"""Does the work once and returns what it cost."""


@dataclass(frozen=True, slots=True)
class Result:
    """One claim, measured.

    Attributes:
        name: what is compared.
        ours, other: medians of both sides, in `unit`; other is None where the claim is about one side.
        ratio: median of the rounds' ratios (or the value itself); `low` and `high` are the extreme rounds.
        at_most: whether the gate is an upper bound.
        rounds: how many rounds it rests on.
    """

    name: str
    ours: float
    other: float | None
    unit: str
    ratio: float
    low: float
    high: float
    gate: float
    at_most: bool
    rounds: int

    @property
    def passed(self) -> bool:
        """Whether the gate is met."""
        return self.ratio <= self.gate if self.at_most else self.ratio >= self.gate


class Clock:
    """A tracker that notes CPU time and bytes of state at the end of every event."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.bytes: list[float] = []
        self._last = 0.0

    def begin(self, info: RunInfo, first_event: int) -> None:
        self._last = time.process_time()

    def event(self, index: int, rows: Sequence[Row], seconds: float) -> None:
        now = time.process_time()
        self.seconds.append(now - self._last)
        self.bytes.append(next((r.value or 0.0 for r in rows if r.metric == "state_bytes"), 0.0))
        self._last = now

    def references(self, rows: Sequence[Row], seconds: float) -> None:
        pass

    def end(self) -> None:
        pass


def cpu_seconds(work: Callable[[], object]) -> float:
    """Run `work` and return the CPU seconds that this process spent on it."""
    gc.collect()
    started = time.process_time()
    work()
    return time.process_time() - started


def interleave(sides: Mapping[str, Side], rounds: int, warm_up: bool = True) -> dict[str, list[float]]:
    """Run all sides once per round, in turning order, after a round that does not count (if `warm_up`)."""
    costs: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(-1 if warm_up else 0, rounds):
        for name in reversed(names) if number % 2 else names:
            cost = sides[name]()
            if number >= 0:
                costs[name].append(cost)
    return costs


def ratio(
    name: str,
    ours: Sequence[float],
    other: Sequence[float],
    gate: float,
    at_most: bool = False,
    unit: str = "s",
) -> Result:
    """Return ours / other if that must be small (`at_most`), else other / ours."""
    each = [a / b if at_most else b / a for a, b in zip(ours, other, strict=True)]
    return Result(
        name=name,
        ours=statistics.median(ours),
        other=statistics.median(other),
        unit=unit,
        ratio=statistics.median(each),
        low=min(each),
        high=max(each),
        gate=gate,
        at_most=at_most,
        rounds=len(each),
    )


def value(name: str, values: Sequence[float], gate: float, unit: str) -> Result:
    """Return a claim about one side: the median of `values` must be at most `gate`."""
    middle = statistics.median(values)
    return Result(name, middle, None, unit, middle, min(values), max(values), gate, True, len(values))


def resident(field: str) -> int:
    """Return a field of this process's memory, in bytes: VmRSS, what it holds, or VmHWM, the most it held (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def begin_anew() -> None:
    """Let VmHWM start again from what the process holds now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def arguments(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(
        description=(description or "").split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=rounds, help="interleaved rounds; medians are reported")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table to FILE")
    return parser


def report(results: Sequence[Result], file: Path | None, beside: Mapping[str, object] | None = None) -> int:
    """Print the table, write it if a file is given, with what belongs `beside` it, and return the exit code."""
    width = max(len(r.name) for r in results)
    print(f"{'':{width}}  {'ours':>12} {'other':>12} {'':4} {'ratio':>8} {'spread':>15}  {'gate':>9}")
    for r in results:
        other = "" if r.other is None else f"{r.other:.4g}"
        spread = f"{r.low:.3g} - {r.high:.3g}"
        gate = f"{'<=' if r.at_most else '>='} {r.gate:g}"
        sides = f"{r.ours:>12.4g} {other:>12} {r.unit:4}"
        verdict = "pass" if r.passed else "MISSED"
        print(f"{r.name:{width}}  {sides} {r.ratio:>8.3g} {spread:>15}  {gate:>9}  {verdict}")
    if file is not None:
        table = [asdict(r) | {"passed": r.passed} for r in results]
        content = {"command": sys.argv, "machine": machine(), "results": table, **(beside or {})}
        file.write_text(json.dumps(content, indent=1) + "\n")
    return 0 if all(r.passed for r in results) else 1


def machine() -> dict[str, object]:
    """Return what measures, and when."""
    return {
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "avalanche": version("avalanche-lib"),
        "load": os.getloadavg(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
