"""How well requests were served, one row per strategy: beside retraining, and where bad data was to be corrected."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

import numpy as np

from lifelong.formulas.quality import Quality, average_gap, tow_factors
from lifelong.metrics.controls import CONTROLS, is_at_chance
from lifelong.report.facts import Facts
from lifelong.report.markup import cell, table
from lifelong.report.tables import meaning
from lifelong.report.yardstick import Numbers, Yardstick, tells_nothing
from lifelong.results.series import Series

_Column = tuple[str, str, Callable[[str], float | None], str]
"""Head, what it means, the value of a strategy, and how it is written."""
_Rows = tuple[tuple[str, tuple[str, ...]], ...]
"""Rows of references: what each is, and its first cells."""
_GREY = "A number in grey italics says nothing; point at it for the reason."
_POWERLESS = "The attack found nothing before the requests either, when there was all to be found."


def beside_retraining(facts: Facts) -> str:
    """Return the columns that tables of unlearning have, means over requests right after each was served.

    Above the strategies stands the retrained reference of their learner, a second retraining, and what doing nothing
    gets: another learner has others. Nothing is returned where it was not measured in detail.
    """
    if not any(s.subjects("average_gap", "retrained") for s in facts.series.values()):
        return ""
    measure, columns = facts.measure, _columns(facts)
    groups: dict[_Rows, list[str]] = {}
    whys: dict[tuple[str, str], str | None] = {}
    for name in facts.strategies:
        yardstick = Yardstick(facts.run.config, name, facts.series, measure)
        rows = [("retrained reference", _texts(value(name) for _, _, value, _ in _four(facts, "retrained")))]
        for what, numbers in _held(yardstick):
            quality = [value(numbers.strategy) for _, _, value, _ in _four(facts, numbers.model)]
            rows.append((what, _texts([*quality, *_quality_beside(yardstick, numbers, measure)])))
        groups.setdefault(tuple(rows), []).append(name)
        whys |= {(head, name): why for head, why in _whys_grey(facts, yardstick).items()}
    note = " Learners differ, and so do their references: each stands above the strategies it is for."
    caption = (
        "Requests beside retraining: means over requests, right after each was served. The nearer to the retrained "
        "reference the better, in UA and MIA too; no number means anything without it."
    )
    return _table(facts, caption + (note if len(groups) > 1 else ""), columns, groups, whys)


def _columns(facts: Facts) -> list[_Column]:
    def of(head: str, metric: str, spec: str = ".3f", model: str = "retrained") -> _Column:
        return (head, meaning(metric), _mean(facts, metric, model), spec)

    def seconds(strategy: str) -> float | None:
        taken = [facts.seconds[strategy].get(r.event) for r in facts.requested]
        return float(np.mean([t for t in taken if t is not None])) if any(t is not None for t in taken) else None

    return [
        *_four(facts, "run"),
        of("average gap", "average_gap"),
        of("ToW", "tow"),
        ("RTE in s", "Seconds that serving a request took (run-time efficiency), without evaluation.", seconds, ".3f"),
        of("cost / retraining", "cost_ratio"),
        of("calibrated AUC", "calibrated_loss_auc"),
        of("activation distance", "activation_distance"),
        of("anamnesis", "anamnesis", ".2f"),
        of("readout gap", "gap_readout_accuracy", "+.3f"),
        of("U-LiRA", "ulira_auc", ".3f", "run"),
        of("RMIA", "rmia_auc", ".3f", "run"),
        of("LiRA before", "lira_auc", ".3f", "run"),
        of("RMIA before", "rmia_before_auc", ".3f", "run"),
        of("forgetting score / null", "forgetting_score_ratio", ".2f", "run"),
    ]


def _four(facts: Facts, model: str) -> list[_Column]:
    """Return the columns of the average gap, which a reference has as well."""
    forget, retain, test = f"forget_{facts.measure}", f"retain_{facts.measure}", f"sample_{facts.measure}"
    forget_score = _mean(facts, forget, model)

    def unlearned(strategy: str) -> float | None:
        score = forget_score(strategy)
        return None if score is None else 1 - score

    return [
        ("UA", f"1 - {meaning(forget)}", unlearned, ".3f"),
        ("RA", meaning(retain), _mean(facts, retain, model, "stream"), ".3f"),
        ("TA", meaning(test), _mean(facts, test, model, "stream"), ".3f"),
        ("MIA", meaning("mia_efficacy"), _mean(facts, "mia_efficacy", model), ".3f"),
    ]


def _mean(facts: Facts, metric: str, model: str, subject: str | None = None) -> Callable[[str], float | None]:
    """Return what gives the mean of a strategy over requests, of each or of another subject, right after it."""

    def value(strategy: str) -> float | None:
        series = facts.series[strategy]
        scores = [series.value(metric, subject or r.name, r.event, model) for r in facts.requested]
        values = [v for v in scores if v is not None]
        return float(np.mean(values)) if values else None

    return value


def _whys_grey(facts: Facts, yardstick: Yardstick) -> dict[str, str | None]:
    """Return, by head of a column, why the number of a strategy says nothing, or None where it does."""
    series, measure = yardstick.run.series, facts.measure

    def why_powerless(attack: str) -> str | None:
        p_values = [series.value(CONTROLS[attack], r.name, r.event) for r in facts.requested]
        return _POWERLESS if is_at_chance(p_values) else None

    (nothing, _), (second, _) = (_quality_beside(yardstick, n, measure) for n in (yardstick.nothing, yardstick.second))
    why_gap = None
    if nothing is not None and second is not None and tells_nothing(nothing, second):
        why_gap = f"Says nothing here: the gap of doing nothing is {nothing:.3f}, of a second retraining {second:.3f}."
    return {
        "UA": yardstick.why_grey(f"forget_{measure}"),
        "MIA": yardstick.why_grey("mia_efficacy"),
        "average gap": why_gap,
        "ToW": why_gap,
        "U-LiRA": why_powerless("ulira_auc"),
        "RMIA": why_powerless("rmia_auc"),
    }


def _held(yardstick: Yardstick) -> list[tuple[str, Numbers]]:
    """Return what stands beside the retrained reference; not a strategy of the run, which has a row of its own."""
    idle = yardstick.nothing
    models = [("second retraining", yardstick.second)]
    models.append(("doing nothing", None if idle and idle.model == "run" else idle))
    return [(what, numbers) for what, numbers in models if numbers is not None]


def _quality_beside(yardstick: Yardstick, numbers: Numbers | None, measure: str) -> tuple[float | None, float | None]:
    """Return average gap and tug of war of a model, means over requests; None where it was not attacked."""
    if numbers is None:
        return None, None
    gaps, tugs = [], []
    for request, event in yardstick.served.items():
        model = _quality(numbers.series, numbers.model, request, event, measure)
        retrained = _quality(numbers.series, "retrained", request, event, measure)
        if model is not None and retrained is not None:
            gaps.append(average_gap(model, retrained))
            tugs.append(np.prod(tow_factors(model, retrained)))
    return (float(np.mean(gaps)), float(np.mean(tugs))) if gaps else (None, None)


def _quality(series: Series, model: str, request: str, event: int, measure: str) -> Quality | None:
    known = [
        series.value(f"forget_{measure}", request, event, model),
        series.value(f"retain_{measure}", "stream", event, model),
        series.value(f"sample_{measure}", "stream", event, model),
        series.value("mia_efficacy", request, event, model),
    ]
    values = [v for v in known if v is not None]
    return Quality(*values) if len(values) == len(known) else None


def _texts(values: Iterable[float | None]) -> tuple[str, ...]:
    return tuple("-" if v is None else f"{v:.3f}" for v in values)


def correction(facts: Facts) -> str:
    """Return what is left of the damage at the end, where data was manipulated; else nothing."""
    measure, last = facts.measure, facts.num_events - 1
    if not any(s.subjects(f"corrected_{measure}") for s in facts.series.values()):
        return ""

    def at_end(head: str, metric: str, model: str = "run") -> _Column:
        return (head, meaning(metric), lambda name: facts.series[name].value(metric, "stream", last, model), ".3f")

    columns = [
        at_end("corrected accuracy", f"corrected_{measure}"),
        at_end("clean reference", f"corrected_{measure}", "clean"),
        at_end("doing nothing", f"corrected_{measure}", "original"),
        at_end("recovery", "recovery", "clean"),
        at_end("attack success", "attack_success"),
        at_end("unaffected accuracy", f"unaffected_{measure}"),
        at_end("fit of what was not named", "unnamed_fit"),
    ]
    caption = "Manipulated data: what is left of the damage at the end."
    return _table(facts, caption, columns, {(): facts.strategies}, {})


def _table(
    facts: Facts,
    caption: str,
    columns: Sequence[_Column],
    groups: Mapping[_Rows, Sequence[str]],
    whys: Mapping[tuple[str, str], str | None],
) -> str:
    """Return a table of strategies, without columns in which nobody has a value.

    Args:
        facts: of the run.
        caption: above the table.
        columns: what it shows.
        groups: strategies by the rows that stand above them: what each is, and its first cells.
        whys: by head of a column and strategy, why its number says nothing, where that is so.
    """
    values = {(head, name): value(name) for head, _, value, _ in columns for name in facts.strategies}
    kept = [k for k, c in enumerate(columns) if any(values[c[0], name] is not None for name in facts.strategies)]
    shown_columns = [columns[k] for k in kept]

    def row(head: str, cells: Sequence[str], kind: str = "") -> str:
        return f'<tr{kind}><th scope="row">{escape(head)}</th>{"".join(cells)}</tr>'

    bodies, any_grey = [], False
    for above, names in groups.items():
        rows = []
        for number, (what, texts) in enumerate(above):
            shown = [cell(texts[k] if k < len(texts) else "") for k in kept]
            rows.append(row(what, shown, ' class="held"' if number else ""))
        for name in names:
            cells = []
            for head, _, _, spec in shown_columns:
                value, why = values[head, name], whys.get((head, name))
                grey = value is not None and why is not None
                any_grey |= grey
                cells.append(cell("-" if value is None else format(value, spec), why or "", grey))
            rows.append(row(name, cells))
        bodies.append(f'<tbody class="{"beside" if above else ""}">{"".join(rows)}</tbody>')
    heads = [("strategy", ""), *((head, why) for head, why, *_ in shown_columns)]
    return table(f"{caption} {_GREY}" if any_grey else caption, heads, bodies)
