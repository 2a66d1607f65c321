"""The tables of a run's report, as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from lifelong.metrics.catalogue import BUILT_IN, Catalogue
from lifelong.report.columns import GREY, REMARK, Cell, Column, columns, shown
from lifelong.report.facts import Facts
from lifelong.report.look import words
from lifelong.report.markup import FOLD, cell, folded, table
from lifelong.report.summary import summarize, unheld
from lifelong.report.yardstick import Yardstick

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
    heads, groups = columns(facts.measure), summarize(facts.run)
    bodies = []
    for group in groups:
        title = f'<tr><th class="group" scope="rowgroup" colspan="{len(heads) + 2}">{escape(group.access)}</th></tr>'
        rows = []
        for line in group.lines:
            remark = f'<td class="text">{escape(line.remark)}</td>'
            rows.append(f'<tr><th scope="row">{escape(line.strategy)}</th>{remark}{_cells(line.cells, heads)}</tr>')
        for what, cells in group.beside:
            rows.append(f'<tr class="held"><th scope="row">{escape(what)}</th><td></td>{_cells(cells, heads)}</tr>')
        bodies.append(f"<tbody>{title}{''.join(rows)}</tbody>")
    named = [("strategy", ""), REMARK, *((head.title, head.meaning) for head in heads)]
    caption = "Results at the end, grouped by what the strategies were allowed to read; compare within a group only."
    if any(cell.grey for group in groups for line in group.lines for cell in line.cells):
        caption += f" {GREY}"
    missing = unheld(groups)
    return table(f"{caption} {missing[0].upper()}{missing[1:]}." if missing else caption, named, bodies)


def _cells(cells: Sequence[Cell], heads: Sequence[Column]) -> str:
    return "".join(
        cell(shown(c, head.kind), c.grey or ("" if c.value is not None else c.reason or ""), bool(c.grey))
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
    return folded("All requests", len(rows), table(caption, heads, [f"<tbody>{''.join(rows)}</tbody>"]))


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
    body = table("Every metric in the tables of this run.", heads, [f"<tbody>{''.join(rows)}</tbody>"])
    return folded("What the metrics mean", FOLD, body)


def meaning(metric: str, catalogue: Catalogue = BUILT_IN) -> str:
    """Return what a metric means and which way is better, or nothing if nothing declares it."""
    try:
        described = catalogue.describe(metric)
    except KeyError:
        return ""
    return f"{described.meaning} {_WAY[described.better].capitalize()}."
