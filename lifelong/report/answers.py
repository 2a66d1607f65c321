"""Which strategy is best, by what is asked of it: among those of one access, and with what is only noise said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from lifelong.report.columns import Cell, Column, shown
from lifelong.report.summary import UNFINISHED, Group, Line
from lifelong.study.statistics import t_interval

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

    Those whose distance to the reference is within that of a second retraining of their learner are all best: they
    differ by chance. A number that says nothing, and strategies whose model broke, do not count. Nobody is best among
    fewer than two.
    """
    found = {}
    for place, head in enumerate(heads):
        if head.better is None:
            continue
        sign, is_distance = -1.0 if head.better == "higher" else 1.0, head.better == "zero"
        each = ((line.strategy, _worse({0: line}, place, sign, is_distance)) for line in group.lines)
        key = {name: value[0] for name, value in each if value}
        if len(key) < 2:
            continue
        least = min(key.values())
        # Two retrainings of its own learner say what chance does to a strategy.
        floors = {line.strategy: _floor([line], place) if is_distance else None for line in group.lines}
        limits = {name: max(least, floors[name] or 0.0) if is_distance else least for name in key}
        chosen = sorted((name for name, value in key.items() if value <= limits[name] + 1e-12), key=key.__getitem__)
        if len(chosen) < len(key):
            found[head.key] = chosen
    return found


def in_short(groups: Sequence[Group], heads: Sequence[Column]) -> str:
    """Return, for every access, who is best by each question, as a list in HTML; nothing where nobody is compared."""
    parts = []
    for group in groups:
        winners = best(group, heads) if group.access != UNFINISHED else {}
        items = []
        for place, head in enumerate(heads):
            question = _question(head)
            if question is None or head.key not in winners:
                continue
            cells = {line.strategy: line.cells[place] for line in group.lines}
            who = ", ".join(
                f"<strong>{escape(n)}</strong> ({escape(shown(cells[n], head.kind))})" for n in winners[head.key]
            )
            first = [line for line in group.lines if line.strategy in winners[head.key]]
            floor = _floor(first, place) if head.better == "zero" else None
            noise = f"; retraining twice differs by up to {floor:.3f}" if floor else ""
            items.append(f"<li>{question}: {who}{noise}</li>")
        if items:
            parts.append(f"<h3>{escape(group.access)}</h3><ul>{''.join(items)}</ul>")
    if not parts:
        return ""
    one = "<p>One seed: a difference may be chance. <code>--seeds 16</code> gives intervals.</p>"
    return f"{''.join(parts)}{one}"


@dataclass(frozen=True, slots=True)
class Winner:
    """Who is best in a column over seeds.

    Attributes:
        strategy: whose mean is best, and that mean.
        mean: over its seeds.
        alike: strategies that cannot be told from it: the 95 % t interval of the paired differences holds 0, there
            are fewer than two seeds of both, or both are no farther from retraining than a second retraining is.
    """

    strategy: str
    mean: float
    alike: tuple[str, ...]


def best_over_seeds(lines: Mapping[str, Mapping[int, Line]], heads: Sequence[Column]) -> dict[str, Winner]:
    """Return, by key of a column, who is best; nothing where nobody is compared, or nobody can be told apart.

    Args:
        lines: by strategy of one access, and by seed.
        heads: of the columns.
    """
    found = {}
    for place, head in enumerate(heads):
        if head.better is None:
            continue
        sign = -1.0 if head.better == "higher" else 1.0
        values = {name: _worse(by_seed, place, sign, head.better == "zero") for name, by_seed in lines.items()}
        means = {name: sum(v.values()) / len(v) for name, v in values.items() if v}
        if len(means) < 2:
            continue
        winner = min(means, key=means.__getitem__)
        everyone = [line for by_seed in lines.values() for line in by_seed.values()]
        floor = (_floor(everyone, place) or 0.0) if head.better == "zero" else float("-inf")
        alike = tuple(
            name
            for name, mean in means.items()
            if name != winner and (mean <= floor or not _apart(values[name], values[winner]))
        )
        if len(alike) + 1 < len(means):
            found[head.key] = Winner(winner, sign * means[winner], alike)
    return found


def in_short_over_seeds(groups: Mapping[str, Mapping[str, Mapping[int, Line]]], heads: Sequence[Column]) -> str:
    """Return, for every access, who is best by each question over seeds, as a list in HTML."""
    parts = []
    for access, lines in groups.items():
        winners, items = best_over_seeds(lines, heads), []
        for head in heads:
            question = _question(head)
            if question is None or head.key not in winners:
                continue
            winner = winners[head.key]
            alike = f"; not told apart from it: {escape(', '.join(winner.alike))}" if winner.alike else ""
            number = escape(shown(Cell(winner.mean), head.kind))
            items.append(f"<li>{question}: <strong>{escape(winner.strategy)}</strong> ({number}){alike}</li>")
        if items:
            parts.append(f"<h4>{escape(access)}</h4><ul>{''.join(items)}</ul>")
    return "".join(parts)


def _worse(by_seed: Mapping[int, Line], place: int, sign: float, is_distance: bool) -> dict[int, float]:
    """Return what is the lower the better of a strategy, by seed."""
    found = {}
    for seed, line in by_seed.items():
        value = line.cells[place].value
        if value is not None and not line.cells[place].grey and not line.remark.startswith("collapsed"):
            found[seed] = abs(value) if is_distance else sign * value
    return found


def _apart(one: Mapping[int, float], other: Mapping[int, float]) -> bool:
    """Return whether two strategies differ over the seeds that both have."""
    differences = [one[seed] - other[seed] for seed in one if seed in other]
    if len(differences) < 2:
        return False
    low, high = t_interval(differences)
    return low > 0 or high < 0


def _floor(lines: Sequence[Line], place: int) -> float | None:
    """Return how far two retrainings are apart in a number, at most, over the learners of a group."""
    values = [abs(line.second[place].value or 0.0) for line in lines if line.second and line.second[place].value]
    return max(values, default=None)


def _question(head: Column) -> str | None:
    """Return what a column answers, if it answers one of the questions, as the beginning of a line."""
    text = next((text for start, text in _ASKED.items() if head.key.startswith(start)), None)
    return None if text is None else text[0].upper() + text[1:]
