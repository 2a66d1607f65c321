"""Which strategy is best, by what is asked of it: among those of one access, and with what is only noise said."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from lifelong.report.columns import Cell, Column, shown
from lifelong.report.summary import UNFINISHED, Group, Line

_ASKED = {
    "average_": "knows most at the end",
    "forgetting_from_first": "forgets least without being asked",
    "abs_gap_forget_": "is nearest to retraining on deleted data",
    "abs_relapse": "has least of it coming back or fading",
    "request_steps": "serves requests in the fewest steps",
}
"""What is answered, by how the key of a column begins."""


def best(group: Group, heads: Sequence[Column]) -> dict[str, list[str]]:
    """Return, by key of a column, the strategies of a group that are best in it, the best first.

    Those whose distance to the reference is within that of a second retraining are all best: they differ by chance. A
    number that says nothing, and strategies whose model broke, do not count. Nothing is best among fewer than two.
    """
    found = {}
    for place, head in enumerate(heads):
        values = {
            line.strategy: cell.value
            for line in group.lines
            if (cell := line.cells[place]).value is not None and not cell.grey and not line.remark.startswith("collap")
        }
        if head.better is None or len(values) < 2:
            continue
        sign = -1.0 if head.better == "higher" else 1.0
        key = {name: abs(v) if head.better == "zero" else sign * v for name, v in values.items() if v is not None}
        floor = _floor(group.lines, place) if head.better == "zero" else None
        least = min(key.values())
        limit = max(least, floor or 0.0) if head.better == "zero" else least
        chosen = sorted((name for name, value in key.items() if value <= limit + 1e-12), key=key.__getitem__)
        if len(chosen) < len(key):
            found[head.key] = chosen
    return found


def in_short(groups: Sequence[Group], heads: Sequence[Column], seeds: int = 1) -> str:
    """Return, for every access, who is best by each question, as a list in HTML; nothing where nobody is compared."""
    parts = []
    for group in groups:
        winners = best(group, heads) if group.access != UNFINISHED else {}
        items = []
        for place, head in enumerate(heads):
            question = next((text for start, text in _ASKED.items() if head.key.startswith(start)), None)
            if question is None or head.key not in winners:
                continue
            cells = {line.strategy: line.cells[place] for line in group.lines}
            who = ", ".join(f"<strong>{escape(n)}</strong> ({_number(cells[n], head)})" for n in winners[head.key])
            floor = _floor(group.lines, place) if head.better == "zero" else None
            noise = f"; retraining twice differs by {floor:.3f}" if floor else ""
            items.append(f"<li>{_capital(question)}: {who}{noise}</li>")
        if items:
            parts.append(f"<h3>{escape(group.access)}</h3><ul>{''.join(items)}</ul>")
    if not parts:
        return ""
    one = "" if seeds > 1 else "<p>One seed: a difference may be chance. <code>--seeds 16</code> gives intervals.</p>"
    return f"{''.join(parts)}{one}"


def _floor(lines: Sequence[Line], place: int) -> float | None:
    """Return how far two retrainings are apart in a number, at most, over the learners of a group."""
    values = [abs(line.second[place].value or 0.0) for line in lines if line.second and line.second[place].value]
    return max(values, default=None)


def _number(cell: Cell, head: Column) -> str:
    return escape(shown(cell, head.kind))


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
