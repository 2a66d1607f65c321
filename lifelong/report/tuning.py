"""The table of a study's tuning: what was chosen, at what cost, whether it helped, and how flat the optimum is."""

from __future__ import annotations

from typing import Any

HEADS = (
    ("tuned", "the strategy, and what its goal could read"),
    ("chosen", "options of the setting that was chosen; all others stay as they are written"),
    ("trials", "settings tried: run on all search seeds, stopped after the first ones, diverged"),
    ("goal, best in search", "on the search seeds, lower is better: the luckiest of all trials"),
    ("goal, confirmed", "of what was chosen, and of the strategy as it is written, on seeds that no search has seen"),
    ("near", "share of all trials within a tenth of the best, on the search seeds: near 1, the options hardly matter"),
    ("from ... to", "least and highest values among these trials"),
    ("seconds", "that the trials' strategies acted"),
    ("passes", "samples passed backward to serve requests, in all trials"),
    ("helped", "goal as written minus goal as tuned, on the judged seeds: mean and interval; above 0 tuning helped"),
)


def cells(search: dict[str, Any]) -> list[str]:
    """Return the row of one search (an entry of `Study.tuning_outcome`)."""
    states = [t["state"] for t in search["trials"]]
    counts = [f"{states.count(s)} {s}" for s in ("finished", "pruned", "diverged") if s in states]
    confirmed = _number(search["confirmed"])
    return [
        search["name"],
        settings(search["options"]) + (f" ({search['note']})" if search["note"] else ""),
        f"{len(states)}: {', '.join(counts)}",
        _number(search["best_searched"]),
        f"{confirmed}; as written {_number(search['default'])}",
        f"{search['near']:.0%}",
        settings({key: " ... ".join(map(_value, values)) for key, values in search["near_ranges"].items()}),
        f"{search['seconds']:,.0f}",
        f"{search['passes']:,.0f}",
        helped(search["helped"]),
    ]


def settings(options: dict[str, Any]) -> str:
    """Return options as people read them.

    >>> settings({"unlearner.lr": 0.01, "unlearner.method.k": 2})
    'lr 0.01, method.k 2'
    """
    return ", ".join(f"{key.partition('.')[2]} {_value(value)}" for key, value in options.items()) or "-"


def helped(estimate: dict[str, Any] | None) -> str:
    """Say whether tuning helped on the judged seeds.

    >>> helped({"mean": 0.2, "low": 0.1, "high": 0.3})
    '0.2 [0.1, 0.3]'
    >>> helped({"mean": 0.2, "low": -0.1, "high": 0.5})
    '0.2 [-0.1, 0.5]: not shown to help'
    """
    if estimate is None:
        return "-"
    if estimate["low"] is None:
        return f"{estimate['mean']:.4g}"
    shown = f"{estimate['mean']:.4g} [{estimate['low']:.4g}, {estimate['high']:.4g}]"
    return shown if estimate["low"] > 0 else f"{shown}: not shown to help"


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
