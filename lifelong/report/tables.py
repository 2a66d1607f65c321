"""The tables of a run's report, as HTML."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from html import escape

import numpy as np

from lifelong.metrics.catalogue import BUILT_IN, Catalogue
from lifelong.report.answers import best
from lifelong.report.columns import GREY, REMARK, Cell, Column, columns, shown
from lifelong.report.facts import Facts, matrix_of
from lifelong.report.look import words
from lifelong.report.markup import FOLD, cell, folded, table
from lifelong.report.matrix import Matrix
from lifelong.report.summary import summarize, unheld
from lifelong.report.yardstick import Yardstick
from lifelong.results.series import Series

_WAY = {
    "higher": "higher is better",
    "lower": "lower is better",
    "zero": "closer to 0 is better",
    "reference": "closer to the retrained reference is better",
    "neither": "neither way is better",
}


def summary(facts: Facts) -> str:
    """Return one row per strategy, grouped by what the strategies were allowed to read.

    Below the strategies of a group stands what doing nothing gets and what a second retraining gets.
    """
    heads, groups = columns(facts.measure), summarize(facts.run, facts.series)
    bodies = []
    for group in groups:
        title = f'<tr><th class="group" scope="rowgroup" colspan="{len(heads) + 2}">{escape(group.access)}</th></tr>'
        rows, winners = [], best(group, heads)
        for line in group.lines:
            remark = f'<td class="text">{escape(line.remark)}</td>'
            first = {key for key, names in winners.items() if line.strategy in names}
            cells = _cells(line.cells, heads, first)
            rows.append(f'<tr><th scope="row">{escape(line.strategy)}</th>{remark}{cells}</tr>')
        for what, held in group.beside:
            rows.append(f'<tr class="held"><th scope="row">{escape(what)}</th><td></td>{_cells(held, heads)}</tr>')
        bodies.append(f"<tbody>{title}{''.join(rows)}</tbody>")
    named = [("strategy", ""), REMARK, *((f"{head.title} {_ARROW[head.better]}", head.explained) for head in heads)]
    caption = (
        "Results at the end, grouped by what the strategies were allowed to read; compare within a group only. An "
        "arrow: where better numbers are; 0: nearer to 0 is better. Marked: the best of a group, with all that are no "
        "farther from retraining than a second retraining is."
    )
    if any(cell.grey for group in groups for line in group.lines for cell in line.cells):
        caption += f" {GREY}"
    missing = unheld(groups)
    caption += f" {missing[0].upper()}{missing[1:]}." if missing else ""
    return table(caption, named, bodies, texts=[REMARK[0]])


_ARROW = {"higher": "\u2191", "lower": "\u2193", "zero": "0", None: ""}


def _cells(cells: Sequence[Cell], heads: Sequence[Column], best: Collection[str] = ()) -> str:
    return "".join(
        cell(
            shown(c, head.kind),
            c.grey or ("" if c.value is not None else c.reason or ""),
            bool(c.grey),
            head.key in best,
        )
        for c, head in zip(cells, heads, strict=True)
    )


def requests(facts: Facts) -> str:
    """Return what was left right after each request, beside the references, and what is left at the end."""
    measure = facts.measure
    forget, gap = f"forget_{measure}", f"gap_forget_{measure}"
    heads = [
        ("request", "served by this event"),
        ("strategy", ""),
        (words(forget), meaning(forget, facts.catalogue)),
        ("retrained", f"the same of the retrained reference: {meaning(forget, facts.catalogue)}"),
        ("withheld", f"the same of the withheld reference: {meaning(forget, facts.catalogue)}"),
        ("gap", meaning(gap, facts.catalogue)),
        ("gap at the end", f"after the last event. {meaning(gap, facts.catalogue)}"),
        ("JS", meaning("js")),
        ("JS at the end", f"after the last event. {meaning('js')}"),
        ("membership AUC", meaning("membership_auc")),
        ("AUC of retrained", f"the same of the retrained reference. {meaning('membership_auc')}"),
        ("relapse", f"at the last event that measures it. {meaning('relapse')}"),
    ]
    # of each number after the request and its strategy, by which number of the forget set it may say nothing
    of = (forget, None, None, forget, None, "js", None, "membership_auc", None, None)
    rows: list[str] = []
    last = facts.num_events - 1
    yardsticks = {name: Yardstick(facts.run.config, name, facts.series, measure) for name in facts.strategies}
    for request in facts.requested:
        for strategy in facts.strategies:
            s, name, at = facts.series[strategy], request.name, request.event
            if at >= s.lived:
                continue
            relapse = list(s.rows("relapse", name, "retrained").values())
            values = [
                (s.value(forget, name, at), ".3f"),
                (s.value(forget, name, at, "retrained"), ".3f"),
                (s.value(forget, name, at, "withheld"), ".3f"),
                (s.value(gap, name, at, "retrained"), "+.3f"),
                (s.value(gap, name, last, "retrained"), "+.3f"),
                (s.value("js", name, at, "retrained"), ".3f"),
                (s.value("js", name, last, "retrained"), ".3f"),
                (s.value("membership_auc", name, at), ".3f"),
                (s.value("membership_auc", name, at, "retrained"), ".3f"),
                (relapse[-1].value if relapse else None, "+.3f"),
            ]
            whys = [yardsticks[strategy].why_grey(metric, name) if metric else None for metric in of]
            cells = "".join(
                cell("-" if v is None else format(v, spec), why or "", bool(why) and v is not None)
                for (v, spec), why in zip(values, whys, strict=True)
            )
            label = escape(f"{request.name} ({request.what}), event {at}")
            rows.append(f'<tr><th scope="row">{label}</th><td class="text">{escape(strategy)}</td>{cells}</tr>')
    if not rows:
        return "<p>No deletion request has been served.</p>"
    caption = (
        "Every request: right after it was served, and at the end. A dash: undefined, learned again, or not computed. "
        f"{GREY}"
    )
    bodies = [f"<tbody>{''.join(rows)}</tbody>"]
    return folded("All requests", len(rows), table(caption, heads, bodies, texts=["strategy"]))


def by_scope(facts: Facts) -> str:
    """Return what requests left right after they were served, apart by what they name; nothing if all name the same."""
    scopes = list(dict.fromkeys(scope for r in facts.requested for scope in r.scopes))
    if len(scopes) < 2:
        return ""
    forget, gap = f"forget_{facts.measure}", f"abs_gap_forget_{facts.measure}"
    rows = []
    for strategy in facts.strategies:
        series = facts.series[strategy]
        for scope in scopes:
            asked = [r for r in facts.requested if r.scopes == (scope,) and r.event < series.lived]
            if not asked:
                continue
            values = [
                mean(series.value(forget, r.name, r.event) for r in asked),
                mean(series.value(forget, r.name, r.event, "retrained") for r in asked),
                mean(_abs(series.value(f"gap_{forget}", r.name, r.event, "retrained")) for r in asked),
                mean(_abs(_last(series, "relapse", r.name)) for r in asked),
                mean(series.value("collateral_mean", r.name, r.event) for r in asked),
                mean(series.value("steps", "event", r.event) for r in asked),
            ]
            specs = (".3f", ".3f", ".3f", ".3f", "+.3f", ",.0f")
            cells = "".join(cell("-" if v is None else format(v, spec)) for v, spec in zip(values, specs, strict=True))
            label = f'<th scope="row">{escape(strategy)}</th><td class="text">{scope}</td><td>{len(asked)}</td>'
            rows.append(f"<tr>{label}{cells}</tr>")
    if not rows:  # every request names several kinds
        return ""
    heads = [
        ("strategy", ""),
        ("request names", "what its keys are: samples, classes, users or tasks"),
        ("requests", "that name nothing else"),
        (words(forget), meaning(forget, facts.catalogue)),
        ("retrained", "the same of the retrained reference"),
        ("forget gap 0", meaning(gap, facts.catalogue)),
        ("relapse 0", f"size at the last event that measures it. {meaning('relapse')}"),
        ("collateral 0", meaning("collateral_mean")),
        ("steps \u2193", meaning("steps")),
    ]
    caption = "Requests apart by what they name: means over those of one kind, right after each was served."
    bodies = [f"<tbody>{''.join(rows)}</tbody>"]
    return folded(caption, len(rows), table(caption, heads, bodies, texts=["request names"]))


def lost(facts: Facts) -> str:
    """Return what was forgotten without being asked: while others were learned, and through requests for others."""
    rows = []
    for strategy in facts.strategies:
        scores = matrix_of(facts, strategy)
        falls = falls_of(scores)
        total = mean(fall for fall, _ in falls.values())
        through = mean(at_requests for _, at_requests in falls.values())
        worst = sorted(falls, key=lambda unit: -falls[unit][0])[:3]
        named = ", ".join(f"{unit} ({falls[unit][0]:+.3f})" for unit in worst if falls[unit][0] > 0) or "none"
        numbers = [total, None if total is None or through is None else total - through, through]
        cells = "".join(cell("-" if v is None else f"{v:+.3f}") for v in numbers)
        name = f'<th scope="row">{escape(strategy)}</th>'
        rows.append(f'<tr>{name}{cells}<td class="text">{escape(named)}</td></tr>')
    heads = [
        ("strategy", ""),
        (
            "fall \u2193",
            "of a unit's score since it was first measured after it had been learned, mean over held units",
        ),
        ("while learning \u2193", "the part of it that came with events that teach"),
        ("through requests \u2193", "the part of it that came with requests, which named other data or a part of it"),
        ("most", "up to three units that lost most"),
    ]
    caption = (
        f"Forgotten by accident: how much {words(facts.measure)} the units that should still be known have lost at the "
        f"end. Positive: lost."
    )
    return table(caption, heads, [f"<tbody>{''.join(rows)}</tbody>"], texts=["most"])


def falls_of(scores: Matrix) -> dict[str, tuple[float, float]]:
    """Return, for units that are held at the end, how far their score fell, and the part of it that requests brought.

    It falls from what it was when the unit was first measured after it had been learned.
    """
    found, deletions = {}, np.sort(scores.deletions)
    for number, (unit, first) in enumerate(zip(scores.units, scores.first_learned, strict=True)):
        known = np.flatnonzero(np.isfinite(scores.held[number]))
        known = known[known >= first]
        if len(known) < 2 or known[-1] != max(scores.measured, default=-1):
            continue
        values = scores.held[number, known].astype(float)
        steps = -np.diff(values)
        served = np.searchsorted(deletions, known, side="right")  # requests up to each of these events
        found[unit] = (float(values[0] - values[-1]), float(steps[np.diff(served) > 0].sum()))
    return found


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of what is known, or None."""
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _abs(value: float | None) -> float | None:
    return None if value is None else abs(value)


def _last(series: Series, metric: str, request: str) -> float | None:
    rows = list(series.rows(metric, request, "retrained").values())
    return rows[-1].value if rows else None


def averages(facts: Facts) -> str:
    """Return the numbers of the first figure, for whoever cannot see it."""
    metric = f"average_{facts.measure}"
    heads = [("event", ""), *((name, meaning(metric, facts.catalogue)) for name in facts.strategies)]
    happened = {e.event: f"learn {e.name}" for e in facts.learned} | {r.event: r.name for r in facts.requested}
    rows = []
    for event in range(max((facts.series[name].lived for name in facts.strategies), default=0)):
        values = [facts.series[name].value(metric, "stream", event) for name in facts.strategies]
        cells = "".join(cell("-" if v is None else f"{v:.4f}") for v in values)
        rows.append(f'<tr><th scope="row">{event}: {escape(happened.get(event, ""))}</th>{cells}</tr>')
    body = table(f"{words(metric).capitalize()} after every event.", heads, [f"<tbody>{''.join(rows)}</tbody>"])
    return folded("The same as numbers", FOLD, body)


def glossary(metrics: Iterable[str], catalogue: Catalogue = BUILT_IN) -> str:
    """Return what every metric means."""
    rows = []
    for name in sorted(metrics):
        try:
            metric = catalogue.describe(name)
        except KeyError:
            continue  # nothing declares it
        ideal = "" if metric.ideal is None else f"{metric.ideal:g}"
        cells = [metric.meaning, metric.unit, _WAY[metric.better], ideal]
        data = "".join(f'<td class="text">{escape(c)}</td>' for c in cells)
        rows.append(f'<tr><th scope="row"><code>{escape(name)}</code></th>{data}</tr>')
    heads = [("metric", ""), ("meaning", ""), ("unit", ""), ("better", ""), ("ideal", "")]
    bodies = [f"<tbody>{''.join(rows)}</tbody>"]
    body = table("Every metric in the tables of this run.", heads, bodies, of_words=True)
    return folded("What the metrics mean", FOLD, body)


def meaning(metric: str, catalogue: Catalogue = BUILT_IN) -> str:
    """Return what a metric means and which way is better, or nothing if nothing declares it."""
    try:
        described = catalogue.describe(metric)
    except KeyError:
        return ""
    return f"{described.meaning} {_WAY[described.better].capitalize()}."
