"""Fill in docs/scale.md what tests/benchmarks/many_requests.py has measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[1] / "tests" / "benchmarks" / "results" / "many_requests.json"
NAMES = ("naive", "replay", "sisa", "s3t")
PARTS = ("plan", *NAMES, "references", "workers", "report")
GIB, MB = 2**30, 10**6

Costs = dict[str, dict[str, Any]]


def many_requests() -> str:
    """Return the table of what a life of 10,000 events costs, as far as it has been measured."""
    if not FILE.exists():
        return "\nNot measured yet.\n"
    parts = json.loads(FILE.read_text(encoding="utf-8"))["parts"]
    costs: dict[str, Costs] = {part: found["costs"] for part, found in parts.items()}
    lives = {name: costs[name][name] for name in NAMES if name in costs}
    referred, told, planned = (costs.get(part, {}) for part in ("references", "report", "plan"))
    rows = [
        ("events, of these requests", "", lambda n, c: f"{c['events']:,}, {c['requests']:,}"),
        ("an event, last tenth to first", "1.1x", lambda n, c: f"{c['flat in seconds']:.2f}x"),
        ("the same in milliseconds of CPU time", "", _milliseconds),
        ("the same in units of a small calculation", "", lambda n, c: f"{c['flat']:.2f}x"),
        ("the strategy itself, in all", "", lambda n, c: f"{c['own seconds']:.0f} s"),
        ("what is done around it, in all", "", lambda n, c: f"{c['seconds around']:.0f} s"),
        ("ten references", "", lambda n, c: f"{referred[n]['seconds']:.0f} s" if n in referred else "-"),
        ("most memory of a process", "1 GiB", lambda n, c: f"{_most('peak', n, c, referred, told) / GIB:.2f} GiB"),
        ("on disk", "300 MB", lambda n, c: f"{_most('size', n, c, referred) / MB:.0f} MB"),
        ("report", "20 s", lambda n, c: f"{told[n]['seconds']:.1f} s" if n in told else "-"),
    ]
    heads = " | ".join(f"`{name}`" for name in lives)
    lines = [f"| what | bar | {heads} |", "| --- " * (2 + len(lives)) + "|"]
    for what, bar, cell in rows:
        lines.append(f"| {what} | {bar} | " + " | ".join(cell(*life) for life in lives.items()) + " |")
    seconds = ", ".join(f"{cost['seconds']:.1f} s" for cost in planned.values())
    told_of = [f"Planned (bar 20 s): {seconds}."] if planned else []
    return "\n" + "\n".join(lines) + "\n\n" + " ".join([*told_of, *_workers(costs), _measured(parts)]) + "\n"


def _milliseconds(name: str, cost: dict[str, Any]) -> str:
    return f"{1000 * cost['first']['seconds']:.1f}, {1000 * cost['last']['seconds']:.1f}"


def _most(what: str, name: str, cost: dict[str, Any], *others: Costs) -> float:
    return float(max([cost[what], *(other[name][what] for other in others if name in other)]))


def _workers(costs: dict[str, Costs]) -> list[str]:
    if "workers" not in costs:
        return []
    one, two = (costs["workers"][n]["wall"] for n in ("1", "2"))
    return [f"Ten references of `naive` took {one:.0f} s of wall time in one process and {two:.0f} s in two."]


def _measured(parts: dict[str, Any]) -> str:
    loads = [found["machine"]["load"][0] for found in parts.values()]
    first = next(iter(parts.values()))["machine"]
    missing = [part for part in PARTS if part not in parts]
    left = f" Parts that are not measured yet: {', '.join(missing)}." if missing else ""
    return (
        f"Measured on {first['time'][:10]} with torch {first['torch']} on {first['cores']} cores, at a load of "
        f"{min(loads):.1f} to {max(loads):.1f}.{left}"
    )
