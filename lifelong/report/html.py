"""The report of a run: one HTML file that holds everything it needs."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from html import escape
from pathlib import Path

from plotly.graph_objects import Figure

from lifelong.execution.runner import Run
from lifelong.files import write_atomically
from lifelong.report import answers, contact_sheet, figures, look, selection, subnetworks, tables, unlearning
from lifelong.report.advice import advice
from lifelong.report.columns import columns
from lifelong.report.facts import Facts, gather
from lifelong.report.markup import OPEN, opened, pairs
from lifelong.report.matrix import marks_in_words
from lifelong.report.page import drawing, page
from lifelong.report.summary import summarize


def write_report(run: Run, file: Path | None = None) -> Path:
    """Write the report of a run, finished or not.

    Args:
        run: what to report.
        file: where to; ``report.html`` in the run folder if not given.

    Returns:
        The file.
    """
    file = run.folder / "report.html" if file is None else file
    write_atomically(file, render(gather(run)).encode())
    return file


def render(facts: Facts) -> str:
    """Return the report as HTML."""
    begun = bool(facts.strategies)
    sections = [("results", "Results", _results(facts))]
    if begun:
        sections += [("score", "What is known", _score(facts))]
    sections += [("timeline", "What happened", _timeline(facts))]
    if begun:
        sections += [
            ("units", "What was forgotten by accident", tables.lost(facts) + _matrices(facts)),
            ("requests", "What each request left behind", _requests(facts)),
        ]
        if any(r.event < facts.series[name].lived for r in facts.requested for name in facts.strategies):
            sections += [("relapse", "What came back", _came_back(facts))]
        if contact_sheet.described(facts):
            sections += [("images", "What is drawn", contact_sheet.sheets(facts))]
        if subnetworks.described(facts):
            sections += [("subnetworks", "How tasks build on each other", _subnetworks(facts))]
        if selection.described(facts):
            sections += [("selection", "What was chosen to train on", _selection(facts))]
        sections += [("cost", "What it cost", _cost(facts))]
    sections += [("repeat", "How to repeat it", _repeat(facts))]
    metrics = {r.metric for table in facts.run.tables.values() for r in table.rows}
    if metrics:
        sections += [("metrics", "Metrics", tables.glossary(metrics, facts.catalogue))]
    created = escape(str(facts.manifest["created"]))
    foot = f"<p>Begun {created}. Everything on this page is inside this file; nothing is loaded.</p>"
    return page(f"{facts.run.config.name}: a life of {facts.num_events} events", _head(facts), sections, foot)


def run_drawings(facts: Facts) -> Iterator[tuple[str, Figure]]:
    """Yield every figure with a unique name."""
    yield "timeline", figures.timeline(facts)
    if facts.strategies:
        yield "average", figures.average_score(facts)
        for name in facts.strategies:
            yield f"matrix-{name}", figures.matrix(facts, name)
        if figures.panels(facts):
            yield "requests", figures.requests(facts)
        if facts.requested:
            yield "relapse", figures.came_back(facts)
        for name in subnetworks.described(facts):
            yield f"dependencies-{name}", subnetworks.dependency_map(facts, name)
            yield f"capacity-{name}", subnetworks.capacity(facts, name)
        for name in selection.described(facts):
            yield f"shares-{name}", selection.shares(facts, name)
        for name in selection.clustered(facts):
            yield f"selectors-{name}", selection.selectors(facts, name)
        yield "costs", figures.costs(facts)
        yield "paid", figures.paid(facts)


def _results(facts: Facts) -> str:
    groups = summarize(facts.run, facts.series)
    short = answers.in_short(groups, columns(facts.measure))
    said = "".join(f"<li>{escape(text)}</li>" for text in advice(facts.run, facts.series))
    notice = f'<div class="notice"><ul>{said}</ul></div>' if said else ""
    return notice + short + tables.summary(facts) + tables.by_scope(facts)


def _head(facts: Facts) -> str:
    most = facts.run.config.evaluation.tests
    config, again = facts.run.config, sum(e.incarnation > 0 for e in facts.learned)
    life = f"{len(facts.learned)} learned" + (f" ({again} of them again)" if again else "")
    items = [
        ("Data", str(facts.manifest["source"]["name"])),
        ("Scenario", _name_with_options(facts.stream["scenario"])),
        ("Requests", f"{_name_with_options(facts.stream['schedule'])}: {len(facts.requested)}"),
        ("Events", f"{facts.num_events}: {life}, {len(facts.requested)} deletion requests"),
        ("Units", str(len(facts.units))),
        ("Model", str(config.model.name)),
        ("Strategies", ", ".join(config.strategies)),
        ("References", config.references.in_words(len(facts.requested))),
        ("Test samples", "all" if most is None else f"at most {most:,} of each unit, drawn by name"),
        ("Seed", str(config.seed)),
        ("Stream digest", str(facts.manifest["digests"]["stream"])),
    ]
    return _unfinished(facts) + pairs(items)


def _unfinished(facts: Facts) -> str:
    if facts.run.done:
        return ""
    states = []
    for name, series in facts.series.items():
        if name in facts.run.summaries:
            state = "is done"
        elif series.lived == facts.num_events:
            state = "has lived to the end, its references are not computed"
        elif series.lived:
            state = f"has lived {series.lived} of {facts.num_events} events"
        else:
            state = "has not begun"
        states.append(f"<li>{escape(name)} {state}</li>")
    command = f"lifelong resume {shlex.quote(str(facts.run.folder))}"
    return (
        '<div class="notice" role="status"><p><strong>This run is not finished.</strong> The report shows what is '
        f"there. To go on: <code>{escape(command)}</code></p><ul>{''.join(states)}</ul></div>"
    )


def _timeline(facts: Facts) -> str:
    caption = (
        "Events in their order. Squares: units that an experience teaches. Stars: learned again after deletion. "
        "Crosses: deletion requests, by scope, and the units whose test data they delete."
    )
    return drawing("figure-timeline", figures.timeline(facts), caption)


def _score(facts: Facts) -> str:
    meaning = tables.meaning(f"average_{facts.measure}", facts.catalogue)
    figure = figures.average_score(facts)
    marks = "Crosses and dotted lines are" if figure.layout.shapes else "Crosses are"
    deleted = f" {marks} deletion requests: after one, what it deletes no longer counts." if facts.requested else ""
    return drawing("figure-score", figure, meaning + deleted) + tables.averages(facts)


def _matrices(facts: Facts) -> str:
    parts = []
    for number, name in enumerate(facts.strategies):
        figure = figures.matrix(facts, name)
        shown, measured = figures.left_out(facts, name)
        thinned = f" {shown} of {measured} measured events are shown." if shown < measured else ""
        caption = (
            f"{name}: {facts.measure.replace('_', ' ')} on each unit's test data after every event that was measured. "
            f"From yellow to blue: what should be known. Orange: deleted classes and tasks, where high means still "
            f"known. Grey: not learned yet. Empty: nothing to measure.{marks_in_words(figure)}{thinned}"
        )
        drawn = drawing(f"figure-matrix-{number}", figure, caption)
        parts.append(opened(name, drawn, number < OPEN))
    return "".join(parts)


def _requests(facts: Facts) -> str:
    summaries = unlearning.beside_retraining(facts) + unlearning.correction(facts)
    if not figures.panels(facts):
        return summaries + tables.requests(facts)
    figure = figures.requests(facts)
    meaning = tables.meaning(f"forget_{facts.measure}", facts.catalogue)
    caption = f"{meaning}{look.marks_of_references(figure)} The dotted line: the request is served."
    return summaries + drawing("figure-requests", figure, caption) + tables.requests(facts)


def _came_back(facts: Facts) -> str:
    caption = (
        "Deleted data by its age: means over the requests that are so old (or a little older, in long lives), with "
        "fewer requests the farther to the right; data that is learned again leaves. Left: lines are the strategies, "
        "open diamonds the retrained reference of each. Right: the change since the request less that of the retrained "
        "reference: above 0 it came back, below 0 it faded more than it does without it; 0 is ideal."
    )
    return drawing("figure-relapse", figures.came_back(facts), caption)


def _subnetworks(facts: Facts) -> str:
    parts = []
    for number, name in enumerate(subnetworks.described(facts)):
        on_what = (
            f"{name}, at the end: which task was learned on top of which, and what share of its mask the other has "
            f"trained. An empty cell: no dependence at all. A cross: the source was deleted or learned again since, so "
            f"that what stands on it still derives from what is gone."
        )
        how_full = (
            f"{name}: share of each layer's weights that lie in any mask, after every event; stars: the share of a "
            f"task's mask that it could train."
        )
        parts.append(
            f"<h3>{escape(name)}</h3>"
            + drawing(f"figure-dependencies-{number}", subnetworks.dependency_map(facts, name), on_what)
            + drawing(f"figure-capacity-{number}", subnetworks.capacity(facts, name), how_full)
        )
    return "".join(parts)


def _selection(facts: Facts) -> str:
    parts = []
    for number, name in enumerate(selection.described(facts)):
        shares = f"{name}: how often each skill was drawn, over its share of the pool; 1 is what a uniform draw gives."
        drawn = drawing(f"figure-shares-{number}", selection.shares(facts, name), shares)
        if name in selection.clustered(facts):
            scores = f"{name}: which score decided in each cluster. Clusters are made anew at every event."
            drawn += drawing(f"figure-selectors-{number}", selection.selectors(facts, name), scores)
        parts.append(f"<h3>{escape(name)}</h3>{drawn}")
    return "".join(parts)


def _cost(facts: Facts) -> str:
    caption = "Over the life: optimizer steps and seconds (without evaluation) so far, and bytes that a strategy keeps."
    paid = (
        "What it cost against what it gave. Above: what is known at the end, higher is better. Below: the distance to "
        "the retrained reference on deleted data, mean over requests, lower is better. Left is cheaper."
    )
    drawn = drawing("figure-cost", figures.costs(facts), caption) + drawing("figure-paid", figures.paid(facts), paid)
    seconds = [
        f"{name}: {summary['references']['seconds']:.1f} s for {summary['references']['computed']} computed, "
        f"{summary['references']['cached']} found in the cache"
        for name, summary in facts.run.summaries.items()
    ]
    items = "".join(f"<li>{escape(line)}</li>" for line in seconds)
    return drawn + (f"<p>References, which are not part of the above:</p><ul>{items}</ul>" if items else "")


def _repeat(facts: Facts) -> str:
    manifest = facts.manifest
    versions = [(name, str(value)) for name, value in manifest["versions"].items()]
    digests = [(f"{name} digest", str(value)) for name, value in manifest["digests"].items()]
    machine = [(k, str(manifest[k])) for k in ("platform", "device", "threads", "code")]
    source = [("licence of the data", str(manifest["source"]["licence"]))]
    source += [("note on the data", str(note)) for note in manifest["source"]["notes"]]
    command = f"lifelong run {shlex.quote(str(facts.run.folder / 'config.yaml'))} --fresh"
    config = (facts.run.folder / "config.yaml").read_text(encoding="utf-8")  # nothing that it names is imported
    return (
        f"<pre tabindex=0><code>{escape(command)}</code></pre>"
        f"<details><summary>config.yaml, every option written out</summary><pre tabindex=0>{escape(config)}</pre>"
        f"</details>"
        f"{pairs([*versions, *digests, *machine, *source])}"
    )


def _name_with_options(options: dict[str, object]) -> str:
    """Return ``class-incremental (experiences 5)``, with short options only."""
    short = [f"{k} {v}" for k, v in options.items() if k != "name" and isinstance(v, int | float | str)]
    return f"{options['name']} ({', '.join(short)})" if short else str(options["name"])
