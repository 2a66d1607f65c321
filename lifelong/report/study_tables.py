"""The tables of a report, as text; HTML, Markdown and LaTeX are made of the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lifelong.execution.runner import Run
from lifelong.report.columns import FOOTNOTE, MARK, REMARK, Cell, Column, Kind, columns, marked, shown
from lifelong.report.lives import Lives, Point
from lifelong.report.look import MAX_ROWS, words
from lifelong.report.matrix import kept_events
from lifelong.report.spread import Spread, band_in_words, spread
from lifelong.report.summary import UNFINISHED, Line, beside, measure_of, summarize
from lifelong.report.tables import meaning
from lifelong.study.judging import Verdict
from lifelong.study.statistics import Estimate


@dataclass(frozen=True, slots=True)
class Grid:
    """A table as text.

    Attributes:
        caption: what it shows.
        heads: of the columns, each with what it means.
        groups: titles (empty for none) and rows; the first cell of a row is its head. A cell that ends in `MARK` says
            nothing.
    """

    caption: str
    heads: tuple[tuple[str, str], ...]
    groups: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]

    @property
    def footnote(self) -> str:
        """What the mark of cells means, if any has it."""
        is_marked = any(cell.endswith(MARK) for _, rows in self.groups for row in rows for cell in row)
        return FOOTNOTE if is_marked else ""

    @property
    def num_rows(self) -> int:
        """All rows."""
        return sum(len(rows) for _, rows in self.groups)


def validity(lives: Lives) -> Grid:
    """Return one row for everything that must hold for criteria to be testable."""
    return _judged("What must hold for the criteria to be testable.", lives.validity, lives)


def verdicts(lives: Lives) -> Grid:
    """Return one row for every criterion."""
    return _judged("What the criteria of the study came to.", lives.verdicts, lives)


def _judged(caption: str, verdicts: Sequence[Verdict], lives: Lives) -> Grid:
    interval = lives.study.rule.interval
    heads = (
        ("criterion", "declared before the study ran"),
        (
            "verdict",
            "reproduced: beyond the bar (in the margin) with a corrected p below 5 %; contradicted: on the other side",
        ),
        ("what was asked", ""),
        ("found", f"mean over seeds and its {interval}; where the bar is a margin, of the two one-sided tests"),
        ("both sides", "means over seeds of what is compared"),
        ("p", "t test of the bar (of the margin: two one-sided tests), for this criterion alone"),
        ("corrected p", "the looks are allowed for, and the number of criteria (Holm)"),
        ("seeds", ""),
        ("BCa", "95 % bootstrap interval, from 20 seeds on"),
        ("why", ""),
    )
    rows = []
    for v in verdicts:
        e = v.estimate
        sides = sides_in_words(v.evidence.sides if v.evidence else None)
        numbers = (in_words(e), sides, *p_values(e, v.p_corrected), *_seeds_and_bca(e))
        rows.append((v.name, v.outcome, v.bar, *numbers, v.reason or ""))
    return _without_empty(Grid(caption, heads, (("", tuple(rows)),)))


def comparisons(lives: Lives) -> Grid:
    """Return one row for every comparison."""
    heads = (
        ("comparison", "of two strategies that lived through the same stream under the same seed"),
        ("of what", ""),
        ("difference", f"mean over seeds and its {lives.study.rule.interval}"),
        ("both sides", "means over seeds"),
        ("p", "paired t test"),
        ("corrected p", "the looks are allowed for, and the number of comparisons (Holm)"),
        ("seeds", ""),
        ("BCa", "95 % bootstrap interval, from 20 seeds on"),
    )
    rows = []
    for d in lives.differences:
        e = d.estimate
        numbers = (in_words(e), sides_in_words(d.sides), *p_values(e, d.p_corrected), *_seeds_and_bca(e))
        rows.append((f"{d.of} - {d.minus}", d.what or d.metric, *numbers))
    caption = "Paired differences between strategies, seed by seed."
    if lives.study.config.grid:
        caption += " Unless it names points of the grid, a seed's number is the mean over all of them."
    return _without_empty(Grid(caption, heads, (("", tuple(rows)),)))


def components(lives: Lives) -> Grid:
    """Return one row for every level of every variance."""
    heads = (
        ("number", "and the strategy that it is of"),
        ("drawn anew", "each level nested in the one above it"),
        ("times", "values of the level"),
        ("standard deviation", "that the level adds; 0 where the estimate of the variance was negative"),
        ("share of the variance", ""),
        ("mean", "over everything, and its 95 % t interval over the seeds' means"),
    )
    rows = []
    for c in lives.components:
        if c.reason:
            rows.append((f"{c.of}: {c.what}", ", ".join(c.levels), "-", "-", "-", c.reason))
        mean = in_words(Estimate(c.mean, c.low, c.high, None, c.counts[0])) if c.mean is not None else ""
        for level, count, variance, share, negative in zip(
            c.levels, c.counts, c.variances, c.shares, c.negative, strict=False
        ):
            deviation = f"{variance**0.5:.3g}" + (" (negative)" if negative else "")
            rows.append((f"{c.of}: {c.what}", level, str(count), deviation, f"{share:.0%}", mean))
    return Grid("Where the variance of a number comes from.", heads, (("", tuple(rows)),))


def of_run(run: Run) -> Grid:
    """Return one row for every strategy of a run, grouped by what the strategies were allowed to read."""
    heads = columns(measure_of(run))
    groups = []
    for group in summarize(run):
        rows = [(line.strategy, line.remark, *_texts(line.cells, heads)) for line in group.lines]
        rows += [(what, "", *_texts(cells, heads)) for what, cells in group.beside]
        groups.append((group.access, tuple(rows)))
    caption = "Results at the end, grouped by what the strategies were allowed to read; compare within a group only."
    return Grid(caption, (("strategy", ""), REMARK, *((h.title, h.explained) for h in heads)), tuple(groups))


def results(point: Point) -> Grid:
    """Return one row for every strategy, grouped by what the strategies were allowed to read.

    Below the strategies of a group stands what doing nothing gets and what a second retraining gets.
    """
    heads = columns(point.measure)
    rows_by_access: dict[str, list[tuple[str, ...]]] = {}
    lines_by_seed: dict[str, dict[int, list[Line]]] = {}
    for _, name in point.begun:
        lives = point.lives[name]
        finished = {seed: life for seed, life in lives.items() if life.done}
        counted = finished or lives
        of_seeds = [life.line for life in counted.values()]
        seeds = str(len(lives)) if len(finished) == len(lives) else f"{len(finished)} of {len(lives)} finished"
        access = point.access.get(name, UNFINISHED)
        numbers = _all_over_seeds([line.cells for line in of_seeds], heads)
        rows_by_access.setdefault(access, []).append((name, seeds, _remarks(of_seeds), *numbers))
        for seed, life in counted.items():
            lines_by_seed.setdefault(access, {}).setdefault(seed, []).append(life.line)
    for access, by_seed in lines_by_seed.items():
        references: dict[str, list[tuple[Cell, ...]]] = {}
        for lines in by_seed.values():
            for what, cells in beside(lines):
                references.setdefault(what, []).append(cells)
        rows_by_access[access] += [
            (what, str(len(c)), "", *_all_over_seeds(c, heads)) for what, c in references.items()
        ]
    caption = (
        f"Results at the end: {band_in_words(point.num_seeds())}. Grouped by what the strategies were allowed to read; "
        f"compare within a group only."
    )
    titles = (("strategy", ""), ("seeds", ""), REMARK, *((h.title, h.explained) for h in heads))
    groups = sorted(rows_by_access.items(), key=lambda item: item[0] == UNFINISHED)
    return Grid(caption, titles, tuple((access, tuple(rows)) for access, rows in groups))


def _texts(cells: Sequence[Cell], heads: Sequence[Column]) -> list[str]:
    return [marked(shown(c, h.kind), c.grey) for c, h in zip(cells, heads, strict=True)]


def _remarks(lines: Sequence[Line]) -> str:
    """Return what is remarked of a strategy, with the number of seeds where it is not of all."""
    counts = Counter(line.remark for line in lines if line.remark)
    return "; ".join(r if n == len(lines) else f"{r}: {n} of {len(lines)} seeds" for r, n in counts.items())


def _all_over_seeds(rows: Sequence[Sequence[Cell]], heads: Sequence[Column]) -> list[str]:
    """Return the cells over seeds, marked where most seeds' say nothing."""
    texts = []
    for cells, head in zip(zip(*rows, strict=True), heads, strict=True):
        grey = [c.grey for c in cells if c.grey]
        texts.append(marked(_over_seeds(cells, head.kind), grey[0] if 2 * len(grey) > len(cells) else None))
    return texts


def requests(point: Point) -> Grid:
    """Return what was left right after each request, beside the references, and what is left at the end."""
    forget = f"forget_{point.measure}"
    shape: tuple[tuple[str, str, str, str], ...] = (
        ("forget", words(forget), ".3f", meaning(forget)),
        ("retrained", "retrained", ".3f", f"the same of the retrained reference. {meaning(forget)}"),
        ("withheld", "withheld", ".3f", f"the same of the withheld reference. {meaning(forget)}"),
        ("gap", "gap", "+.3f", meaning(f"gap_{forget}")),
        ("gap_end", "gap at the end", "+.3f", f"after the last event. {meaning(f'gap_{forget}')}"),
        ("js", "JS", ".3f", meaning("js")),
        ("js_end", "JS at the end", ".3f", f"after the last event. {meaning('js')}"),
        ("average_gap", "average gap", ".3f", meaning("average_gap")),
        ("tow", "ToW", ".3f", meaning("tow")),
        ("relapse_end", "relapse at the end", "+.3f", meaning("relapse")),
        ("steps", "steps", ",.0f", meaning("steps")),
        ("seconds", "seconds", ".3f", "that the event took, without evaluation"),
        ("latency", "latency", ".1f", meaning("latency")),
        ("exposure", "exposure", ".1f", meaning("exposure")),
    )
    requests, rows = point.requests, []
    bands = {name: {key: spread(point.by_request(name, key)) for key, *_ in shape} for _, name in point.begun}
    for k, request in enumerate(requests):
        for _, name in point.begun:
            cells = [_band(_at_place(bands[name][key], k), spec) for key, _, spec, _ in shape]
            rows.append((f"{request.name} ({request.what})", name, *cells))
    heads = (("request", ""), ("strategy", ""), *((title, why) for _, title, _, why in shape))
    caption = (
        f"Every request, right after it was served and at the end: {band_in_words(point.num_seeds())}. A dash: "
        f"undefined, learned again, or not computed."
    )
    return Grid(caption, heads, (("", tuple(rows)),))


def by_scope(point: Point) -> Grid:
    """Return what requests left right after they were served, apart by what they name; no row if all name the same."""
    forget = f"forget_{point.measure}"
    heads = (
        ("strategy", ""),
        ("requests name", "what their keys are: samples, classes, users or tasks"),
        (words(forget), meaning(forget, point.catalogue)),
        ("retrained", "the same of the retrained reference"),
        ("forget gap 0", meaning(f"abs_gap_{forget}", point.catalogue)),
        ("relapse 0", f"size after the last event. {meaning('relapse')}"),
        ("steps", meaning("steps")),
    )
    columns = (("forget", False), ("retrained", False), ("gap", True), ("relapse_end", True), ("steps", False))
    rows = []
    for _, name in point.begun if len(point.scopes) > 1 else ():
        for scope in point.scopes:
            bands = [spread(point.by_scope(name, key, scope, size)) for key, size in columns]
            rows.append((name, scope, *(_band(b, ",.0f" if b is bands[-1] else ".3f") for b in bands)))
    caption = (
        f"Requests apart by what they name: means over those of one kind, right after each was served; "
        f"{band_in_words(point.num_seeds())}."
    )
    return Grid(caption, heads, (("", tuple(rows)),))


def averages(point: Point) -> Grid:
    """Return the numbers of the first figure, for whoever cannot see it."""
    metric = f"average_{point.measure}"
    events = kept_events(point.num_events, point.deletions, MAX_ROWS)
    bands = [spread(point.by_event(name, "average")) for _, name in point.begun]
    rows = tuple((str(e), *(_band(_at_place(band, e), ".4f") for band in bands)) for e in events)
    heads = (("event", ""), *((name, meaning(metric)) for _, name in point.begun))
    return Grid(f"{words(metric).capitalize()} after every event.", heads, (("", rows),))


def in_words(estimate: Estimate | None) -> str:
    """Return a mean and its interval.

    >>> in_words(Estimate(0.25, 0.2, 0.3, None, 3))
    '0.25 [0.2, 0.3]'
    """
    if estimate is None:
        return "-"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.mean:.4g}"
    return f"{estimate.mean:.4g} [{estimate.low:.4g}, {estimate.high:.4g}]"


def sides_in_words(sides: Sequence[float] | None) -> str:
    """Return the means of both sides of a comparison.

    >>> sides_in_words((0.5, 0.25))
    '0.5, 0.25'
    """
    return "-" if sides is None else f"{sides[0]:.4g}, {sides[1]:.4g}"


def p_in_words(p: float | None) -> str:
    """Return a p-value; a dash where there is none.

    >>> p_in_words(0.04321), p_in_words(1e-9), p_in_words(None)
    ('0.043', '< 1e-4', '-')
    """
    if p is None:
        return "-"
    return "< 1e-4" if p < 1e-4 else f"{p:.2g}"


def p_values(e: Estimate | None, corrected: float | None) -> tuple[str, str]:
    """Return the p-value of an estimate before and after correction; neither where seeds agree or are too few."""
    if e is None or e.low == e.high:
        return "-", "-"
    return p_in_words(e.p), p_in_words(corrected)


def _seeds_and_bca(e: Estimate | None) -> tuple[str, str]:
    if e is None:
        return "0", ""
    return str(e.n), "" if e.bca is None else f"[{e.bca[0]:.4g}, {e.bca[1]:.4g}]"


def _without_empty(grid: Grid) -> Grid:
    """Return the grid without columns that no row has anything in."""
    ((title, rows),) = grid.groups
    filled = [k for k in range(len(grid.heads)) if any(row[k] not in ("", "-") for row in rows) or not rows]
    return Grid(
        grid.caption,
        tuple(grid.heads[k] for k in filled),
        ((title, tuple(tuple(row[k] for k in filled) for row in rows)),),
    )


def _over_seeds(cells: Sequence[Cell], kind: Kind) -> str:
    band = spread(np.array([np.nan if c.value is None else c.value for c in cells]))
    if not band.count:
        return shown(Cell(None), kind)
    mean, low, high = (shown(Cell(float(x)), kind) for x in (band.mean, band.low, band.high))
    return mean if low == high else f"{mean} [{low}, {high}]"


def _at_place(band: Spread, place: int) -> Spread:
    return Spread(band.mean[place], band.low[place], band.high[place], band.count[place])


def _band(band: Spread, spec: str) -> str:
    if not band.count:
        return "-"
    mean, low, high = (format(float(x), spec) for x in (band.mean, band.low, band.high))
    return mean if low == high else f"{mean} [{low}, {high}]"
