"""Standings as cells of a table, for the console and for pages."""

from __future__ import annotations

from lifelong.bench.headline import Mean
from lifelong.bench.standing import Standing

HEADS = ("place", "strategy", "requests survived", "ended by", "accumulation", "forgetting", "relapse", "cost", "state")


def cells(s: Standing, marked: bool = False) -> list[str]:
    """Return a strategy's row: place, name, requests survived, what ended its lives, and what stands beside that."""
    name = f"{s.submission.strategy}{' *' if s.on_front else ''}"
    numbers = s.headline.numbers
    return [
        s.place,
        f"> {name}" if marked else name,
        with_interval(s.headline.mean),
        ends(s),
        share(numbers["accumulation"]),
        share(numbers["forgetting"]),
        share(numbers["relapse"]),
        share(numbers["cost"]),
        size(numbers["state_bytes"]),
    ]


def with_interval(mean: Mean, digits: int = 1) -> str:
    """Return a mean with its interval.

    >>> with_interval(Mean(12.0, 8.04, 17.0, 16)), with_interval(Mean(3.0, None, None, 1))
    ('12.0 [8.0, 17.0]', '3.0')
    """
    if mean.low is None or mean.high is None:
        return f"{mean.value:.{digits}f}"
    return f"{mean.value:.{digits}f} [{mean.low:.{digits}f}, {mean.high:.{digits}f}]"


def ends(s: Standing) -> str:
    """Return what ended most lives, and how many."""
    most = sorted(s.headline.ends.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{end} {count}" for end, count in most)


def share(mean: Mean | None) -> str:
    """Return a share with its interval, or a dash where it is undefined."""
    return "-" if mean is None else with_interval(mean, 3)


def size(mean: Mean | None) -> str:
    """Return a size in megabytes.

    >>> size(Mean(1_500_000.0, 1.0, 2.0, 3))
    '1.50 MB'
    """
    return "-" if mean is None else f"{mean.value / 1e6:.2f} MB"
