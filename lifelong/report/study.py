"""The report of a study: one HTML file that holds everything it needs."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path

import yaml

from lifelong.files import write_atomically
from lifelong.report import study_drawings, study_tables, tuning
from lifelong.report.answers import in_short_over_seeds
from lifelong.report.columns import GREY, MARK, columns
from lifelong.report.gathering import gather_lives
from lifelong.report.lives import Lives, Point
from lifelong.report.markup import FOLD, OPEN, folded, opened, pairs, quoted, table
from lifelong.report.page import drawing, page
from lifelong.report.study_drawings import MAX_POINTS, Drawn
from lifelong.report.study_tables import Grid
from lifelong.report.summary import Line
from lifelong.report.tables import glossary
from lifelong.study.declaration import read_declared, read_verdicts
from lifelong.study.study import Study

_MARKS = {"reproduced": "✓", "contradicted": "✗", "undecided": "?", "not testable": "–"}


def write_study_report(study: Study, file: Path | None = None) -> Path:
    """Write the report of a study, finished or not.

    Args:
        study: what to report.
        file: where to; ``report.html`` in the study folder if not given.

    Returns:
        The file.
    """
    file = study.folder / "report.html" if file is None else file
    write_atomically(file, render(gather_lives(study)).encode())
    return file


def render(lives: Lives) -> str:
    """Return the report as HTML."""
    sections = [("verdicts", "Verdicts", _verdicts(lives))]
    if lives.study.tuning is not None:
        sections += [("tuning", "Tuning", _tuning(lives.study))]
    if lives.points:
        sections += [
            ("results", "Results", _per_point(lives, _results)),
            ("known", "What is known", _section(lives, study_drawings.known)),
            ("requests", "What each request left behind", _requests(lives)),
            ("relapse", "What came back", _section(lives, study_drawings.came_back)),
            ("tradeoff", "What forgetting costs in what is kept", _section(lives, study_drawings.traded)),
            ("cost", "What it cost", _section(lives, study_drawings.costs) + _references(lives)),
            ("units", "What is known of each unit", _section(lives, study_drawings.matrices)),
            ("timeline", "What happened", _section(lives, study_drawings.happened)),
        ]
    sections += [("repeat", "How to repeat it", _repeat(lives))]
    if lives.metrics:
        sections += [("metrics", "Metrics", glossary(lives.metrics, lives.catalogue))]
    foot = "<p>Everything on this page is inside this file; nothing is loaded.</p>"
    return page(f"Study: {lives.study.config.name}", _head(lives), sections, foot)


def failures(lives: Lives) -> dict[str, tuple[str, str]]:
    """Return traceback and command to run it alone of jobs that failed in the last attempt, by their label."""
    file = lives.study.folder / "verdicts.json"
    if not file.exists():
        return {}
    failed = read_verdicts(file).get("failed", [])
    open_ = {job.label for job, _ in lives.unfinished}
    return {f["job"]: (f["error"], f["command"]) for f in failed if f["job"] in open_}


def declared(study: Study) -> str:
    """Say how many runs were finished when the criteria were first written down."""
    file = study.folder / "study.json"
    if not file.exists():
        return "not yet"
    done = read_declared(file).get("runs_done_when_declared", 0)
    return f"when {done} runs were finished" if done else "before any run"


def command(study: Study) -> str:
    """Return what to type to run, go on with, or repeat the study."""
    if not study.file.exists():  # it was declared in a script
        return f"lifelong study {shlex.quote(str(study.folder))}"
    size = f" --size {shlex.quote(study.size)}" if study.size else ""
    return f"lifelong study {shlex.quote(str(study.file))}{size}"


def _head(lives: Lives) -> str:
    study, config = lives.study, lives.study.config
    outcomes = Counter[str](v.outcome for v in lives.verdicts)
    tally = ", ".join(f"{outcomes[o]} {o}" for o in _MARKS if outcomes[o]) or "no criteria"
    items = [
        ("Source", config.source),
        ("Verdicts", tally),
        ("Criteria declared", declared(study)),
        ("What the seeds can decide", study.prospect() if config.criteria else "nothing is declared"),
        ("Size", study.size or "as written"),
        ("Strategies", ", ".join(lives.strategies)),
        ("Seeds", ", ".join(map(str, study.seeds)) if len(study.seeds) <= 12 else str(len(study.seeds))),
        ("Intervals", study.rule.interval),
        ("Grid", "; ".join(f"{k}: {', '.join(map(json.dumps, v))}" for k, v in config.grid.items()) or "none"),
        ("Runs", f"{len(study.jobs) - len(lives.unfinished)} of {len(study.jobs)} finished"),
    ]
    return f"<p class='claim'><strong>Claim.</strong> {escape(config.claim)}</p>{_unfinished(lives)}{pairs(items)}"


def _unfinished(lives: Lives) -> str:
    if not lives.unfinished:
        return ""
    failed = failures(lives)
    states = []
    for job, state in lives.unfinished[:50]:
        trace, alone = failed.get(job.label, ("", ""))
        shown = (
            f". It failed; alone: <code>{escape(alone)}</code><pre tabindex=0>{escape(trace)}</pre>" if trace else ""
        )
        states.append(f"<li>{escape(job.label)}: {escape(state)}{shown}</li>")
    if len(lives.unfinished) > 50:
        states.append(f"<li>and {len(lives.unfinished) - 50} more</li>")
    return (
        f'<div class="notice" role="status"><p><strong>This study is not finished:</strong> {len(lives.unfinished)} of '
        f"{len(lives.study.jobs)} runs are missing or incomplete. The report shows what is there, and verdicts are so "
        f"far. To go on: <code>{escape(command(lives.study))}</code></p><details><summary>Which</summary>"
        f"<ul>{''.join(states)}</ul></details></div>"
    )


def _results(point: Point) -> str:
    groups: dict[str, dict[str, dict[int, Line]]] = {}
    for _, name in point.begun:
        if name in point.access:
            finished = {seed: life.line for seed, life in point.lives[name].items() if life.done}
            groups.setdefault(point.access[name], {})[name] = finished
    return in_short_over_seeds(groups, columns(point.measure)) + _html(study_tables.results(point))


def _verdicts(lives: Lives) -> str:
    more = (study_tables.comparisons(lives), study_tables.components(lives))
    judged = "".join(_judged(grid) for grid in (study_tables.validity(lives), study_tables.verdicts(lives)))
    return (judged or "<p>The study declares no criteria.</p>") + "".join(_html(grid) for grid in more if grid.num_rows)


def _tuning(study: Study) -> str:
    searches = study.tuning_outcome()
    if not searches:
        return "<p>The searches are not finished.</p>"
    rows = tuple(tuple(tuning.cells(search)) for search in searches)
    return _html(
        Grid("What was searched on seeds of its own, before anything was judged.", tuning.HEADS, (("", rows),))
    )


def _judged(grid: Grid) -> str:
    """Return a table of verdicts, or nothing if it has no row."""
    rows = []
    for name, outcome, *others in grid.groups[0][1]:
        kind = outcome.replace(" ", "-")
        badge = f'<td class="text"><span class="verdict {kind}">{_MARKS[outcome]} {outcome}</span></td>'
        cells = "".join(f'<td class="text">{escape(text)}</td>' for text in others)
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{badge}{cells}</tr>')
    body = f"<tbody>{''.join(rows)}</tbody>"
    return table(grid.caption, grid.heads, [body], of_words=True) if rows else ""


def _requests(lives: Lives) -> str:
    if not any(point.requests for point in lives.points):
        return "<p>No deletion request has been served.</p>"
    return _section(lives, study_drawings.left_behind)


def _references(lives: Lives) -> str:
    items = "".join(
        f"<li>{escape(name)}: {seconds:.1f} s for {computed} computed, {cached} found in the cache</li>"
        for name, (computed, cached, seconds) in lives.references.items()
    )
    return f"<p>References, which are not part of the above:</p><ul>{items}</ul>" if items else ""


def _repeat(lives: Lives) -> str:
    study = lives.study
    versions: dict[str, set[str]] = {}
    for m in lives.manifests:
        shown = {**m["versions"], "code": m["code"], "platform": m["platform"], "device": m["device"]}
        shown |= {"data digest": m["digests"]["data"], "licence of the data": m["source"]["licence"]}
        for key, value in shown.items():
            versions.setdefault(key, set()).add(str(value))
    items = [("study identity", study.identity), *((k, "; ".join(sorted(v))) for k, v in versions.items())]
    config = yaml.safe_dump(study.config.model_dump(mode="json", exclude_unset=True), sort_keys=False)
    rows = [
        (point.label or "all", str(seed), digest) for point in lives.points for seed, digest in point.streams.items()
    ]
    heads = (("grid", ""), ("seed", ""), ("stream digest", "hash of all events"))
    digests = _html(Grid("The stream of every seed.", heads, (("", tuple(rows)),)))
    return (
        f"<pre tabindex=0><code>{escape(command(study))}</code></pre>"
        f"<details><summary>The study</summary><pre tabindex=0>{escape(config)}</pre></details>"
        f"{pairs(items)}{folded('The streams', FOLD, digests) if rows else ''}"
    )


def _section(lives: Lives, part: Callable[[Point, Lives], Iterator[Drawn]]) -> str:
    """Return the figures of one kind, point by point."""
    numbers = {id(point): number for number, point in enumerate(lives.points)}

    def drawn(point: Point) -> str:
        parts = []
        for number, d in enumerate(part(point, lives)):
            key = f"figure-{d.name}-{numbers[id(point)]}"
            figure = drawing(key, d.figure, d.caption)
            parts.append(opened(d.title, figure, number < OPEN) if d.title else figure)
        if part is study_drawings.known:
            parts.append(folded("The same as numbers", FOLD, _html(study_tables.averages(point))))
        if part is study_drawings.left_behind:
            if (scopes := study_tables.by_scope(point)).num_rows:
                parts.insert(0, _html(scopes))
            grid = study_tables.requests(point)
            parts.append(folded("All requests", grid.num_rows, _html(grid)))
        return "".join(parts)

    left_out = len(lives.points) - MAX_POINTS
    note = f"<p>{left_out} more points of the grid are in the table of results only.</p>" if left_out > 0 else ""
    return _per_point(lives, drawn, MAX_POINTS) + note


def _per_point(lives: Lives, content: Callable[[Point], str], limit: int | None = None) -> str:
    return "".join(
        (f"<h3>{escape(point.label)}</h3>" if point.label else "") + content(point) for point in lives.points[:limit]
    )


def _html(grid: Grid) -> str:
    bodies = []
    for title, rows in grid.groups:
        head = f'<tr><th class="group" scope="rowgroup" colspan="{len(grid.heads)}">{escape(title)}</th></tr>'
        lines = "".join(
            f'<tr><th scope="row">{escape(first)}</th>{"".join(map(_cell, others))}</tr>' for first, *others in rows
        )
        bodies.append(f"<tbody>{head if title else ''}{lines}</tbody>")
    caption = f"{grid.caption} {GREY}" if grid.footnote else grid.caption
    return table(caption, grid.heads, bodies)


def _cell(text: str) -> str:
    """Return a cell, with a band below its mean; grey if it says nothing."""
    grey = text.endswith(MARK)
    mean, bracket, band = text.removesuffix(MARK).partition(" [")
    kind = f' class="grey" title={quoted(GREY)}' if grey else ""
    return f"<td{kind}>{escape(mean)}{f'<small>[{escape(band)}</small>' if bracket else ''}</td>"
