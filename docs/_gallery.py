"""Make docs/gallery.md and its pictures of what studies have found: every criterion beside its bar."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from html import escape
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "studies" / "results"
COLOURS = {"reproduced": "#00795a", "contradicted": "#b84600", "undecided": "#6b6b6b", "not testable": "#6b6b6b"}
MARKS = {"reproduced": "✓", "contradicted": "✗", "undecided": "?", "not testable": "–"}
SIGNS = {"above": "&gt; ", "below": "&lt; ", "within": "within ±"}
LABEL, STRIP, NUMBERS, EDGE = 330, 170, 270, 10
"""Widths in pixels: of what a criterion says, of its scale, of its numbers, and of the edges."""
LINE = 17
"""Height of a line of text in pixels."""
INTRODUCTION = """# Gallery of studies

What the studies of this repository have found, at a glance. Each line of a picture is a criterion that was declared
before the study ran, on a scale of its own. The upright stroke is its bar, and the tinted side is where the claim says
that the mean lies. The dot is the mean over seeds, and the line is its interval. ✓, green: reproduced. ✗, orange:
contradicted. Grey: undecided (?), or not testable (–). All criteria of a study are corrected for their number, so a
grey line may lie clear of its bar.

Most of these studies are small (a few seeds of small models, on a processor). What that says of larger ones, and what
was tried before, stands under *Limits* of each study in [Results of studies](reproduction.md), with all numbers.

Generated from `studies/results` by `python docs/generate.py`.
"""


def gallery() -> dict[str, str]:
    """Return the page and its pictures, by their paths below docs/."""
    outcomes = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob("*.json"))}
    pictures = {f"img/studies/{stem}.svg": picture(outcome) for stem, outcome in outcomes.items()}
    sections = [_section(stem, outcome) for stem, outcome in outcomes.items()]
    return {"gallery.md": "\n".join([INTRODUCTION, *sections]), **pictures}


def _section(stem: str, outcome: dict[str, Any]) -> str:
    size = f" --size {outcome['size']}" if outcome["size"] else ""
    return (
        f"## {outcome['name']}, {outcome['size'] or 'as written'}\n\nClaim: {outcome['claim']}\n\n"
        f"![{told(outcome)}](img/studies/{stem}.svg)\n\n"
        f"{told(outcome)} [All numbers](reproduction.md#{stem}); again: `lifelong study {outcome['file']}{size}`\n"
    )


def told(outcome: dict[str, Any]) -> str:
    """Return what came of a study, in a sentence or two.

    >>> rows = [{"name": "it works", "outcome": "contradicted"}, {"name": "it is fast", "outcome": "reproduced"}]
    >>> told({"verdicts": rows, "seeds": [0, 1]})
    'Over 2 seeds 1 of 2 criteria is reproduced, 1 contradicted (it works).'
    """
    counts = Counter[str](v["outcome"] for v in outcome["verdicts"])
    first, total = counts.pop("reproduced", 0), len(outcome["verdicts"])
    said = [f"{first} of {total} criteria {'is' if first == 1 else 'are'} reproduced"]
    for kind in ("contradicted", "undecided", "not testable"):
        named = "; ".join(v["name"] for v in outcome["verdicts"] if v["outcome"] == kind)
        said += [f"{counts[kind]} {kind}" + (f" ({named})" if kind == "contradicted" else "")] if counts[kind] else []
    if first == total:
        said = [f"all {total} criteria are reproduced"]
    return f"Over {len(outcome['seeds'])} seeds {', '.join(said)}."


def picture(outcome: dict[str, Any]) -> str:
    """Return a drawing of all criteria of a study, as SVG."""
    parts, y = [], EDGE
    for verdict in [*outcome["validity"], *outcome["verdicts"]]:
        lines = textwrap.wrap(verdict["name"], 46)
        parts.append(_row(verdict, lines, y))
        y += LINE * len(lines) + 9
    width = LABEL + STRIP + NUMBERS + 2 * EDGE
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" font-family="sans-serif" font-size="13">'
        f'<rect width="{width}" height="{y}" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _row(verdict: dict[str, Any], lines: list[str], y: int) -> str:
    """Return one criterion: its words, its scale, and its numbers."""
    evidence, estimate, colour = verdict["evidence"], verdict["estimate"], COLOURS[verdict["outcome"]]
    bar, test, middle = evidence["bar"], evidence["test"], y + LINE * len(lines) / 2
    bars = [-bar, bar] if test == "within" else [bar]
    known = [estimate[key] for key in ("low", "mean", "high") if estimate[key] is not None] if estimate else []
    low, high = min(known + bars), max(known + bars)
    room = 0.12 * (high - low) or 1.0
    low, high = low - room, high + room

    def at(value: float) -> float:
        return round(LABEL + EDGE + STRIP * (value - low) / (high - low), 1)

    wanted = {"above": (at(bar), at(high)), "below": (at(low), at(bar)), "within": (at(-bar), at(bar))}[test]
    words = "".join(
        f'<tspan x="{EDGE + 20}" dy="{LINE if i else 0}">{escape(line)}</tspan>' for i, line in enumerate(lines)
    )
    strokes = "".join(f'<path d="M{at(b)} {middle - 9}v18" stroke="#222" stroke-width="1.5"/>' for b in bars)
    drawn, said = "", "undefined"
    if estimate:
        drawn = (
            f'<path d="M{at(min(known))} {middle}H{at(max(known))}" stroke="{colour}" stroke-width="3"/>'
            f'<circle cx="{at(estimate["mean"])}" cy="{middle}" r="5" fill="{colour}"/>'
        )
        interval = f" [{min(known):.3g}, {max(known):.3g}]" if min(known) < max(known) else ""
        said = f"{estimate['mean']:.3g}{interval}"
    return (
        f'<text x="{EDGE}" y="{y + LINE - 4}" fill="{colour}">{MARKS[verdict["outcome"]]}</text>'
        f'<text y="{y + LINE - 4}" fill="#222">{words}</text>'
        f'<rect x="{wanted[0]}" y="{middle - 9}" width="{round(wanted[1] - wanted[0], 1)}" height="18" fill="#dff0e8"/>'
        f"{strokes}{drawn}"
        f'<text x="{LABEL + STRIP + 2 * EDGE}" y="{middle + 5}" fill="{colour}">{said} '
        f'<tspan fill="#6b6b6b">({SIGNS[test]}{bar:.3g})</tspan></text>'
    )
