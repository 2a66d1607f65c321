"""How well requests were served, one row per strategy: beside retraining, and where bad data was to be corrected."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape

import numpy as np

from lifelong.report.facts import Facts
from lifelong.report.markup import cell, table
from lifelong.report.tables import meaning

_Column = tuple[str, str, Callable[[str], float | None], str]
"""Head, what it means, the value of a strategy, and how it is written."""


def beside_retraining(facts: Facts) -> str:
    """Return the columns that tables of unlearning have, means over requests right after each was served.

    Above the strategies stands the retrained reference of their learner: another learner has another reference. Nothing
    is returned where it was not measured in detail.
    """
    if not any(s.subjects("average_gap", "retrained") for s in facts.series.values()):
        return ""
    measure = facts.measure
    forget, retain, test = f"forget_{measure}", f"retain_{measure}", f"sample_{measure}"

    def mean(metric: str, model: str = "run", subject: str | None = None) -> Callable[[str], float | None]:
        def value(strategy: str) -> float | None:
            series = facts.series[strategy]
            scores = [series.value(metric, subject or r.name, r.event, model) for r in facts.requested]
            values = [v for v in scores if v is not None]
            return float(np.mean(values)) if values else None

        return value

    def unlearned(model: str) -> Callable[[str], float | None]:
        def value(strategy: str) -> float | None:
            known = mean(forget, model)(strategy)
            return None if known is None else 1 - known

        return value

    def seconds(strategy: str) -> float | None:
        taken = [facts.seconds[strategy].get(r.event) for r in facts.requested]
        return float(np.mean([t for t in taken if t is not None])) if any(t is not None for t in taken) else None

    def four(model: str) -> list[_Column]:
        return [
            ("UA", f"1 - {meaning(forget)}", unlearned(model), ".3f"),
            ("RA", meaning(retain), mean(retain, model, "stream"), ".3f"),
            ("TA", meaning(test), mean(test, model, "stream"), ".3f"),
            ("MIA", meaning("mia_efficacy"), mean("mia_efficacy", model), ".3f"),
        ]

    def of(head: str, metric: str, spec: str = ".3f", model: str = "retrained") -> _Column:
        return (head, meaning(metric), mean(metric, model), spec)

    columns: list[_Column] = [
        *four("run"),
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
        of("forgetting score / null", "forgetting_score_ratio", ".2f", "run"),
    ]
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in facts.strategies:
        target = tuple("-" if (v := value(name)) is None else f"{v:.3f}" for _, _, value, _ in four("retrained"))
        groups.setdefault(target, []).append(name)
    note = " Learners differ, and so do their references: each stands above the strategies it is for."
    caption = (
        "Requests beside retraining: means over requests, right after each was served. The nearer to the retrained "
        "reference the better, in UA and MIA too; no number means anything without it."
    )
    return _table(facts, caption + (note if len(groups) > 1 else ""), columns, groups)


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
        at_end("recovery", "recovery", "clean"),
        at_end("attack success", "attack_success"),
        at_end("unaffected accuracy", f"unaffected_{measure}"),
        at_end("fit of what was not named", "unnamed_fit"),
    ]
    caption = "Manipulated data: what is left of the damage at the end."
    return _table(facts, caption, columns, {(): facts.strategies})


def _table(
    facts: Facts, caption: str, columns: Sequence[_Column], groups: Mapping[tuple[str, ...], Sequence[str]]
) -> str:
    """Return a table of strategies, without columns in which nobody has a value.

    Args:
        facts: of the run.
        caption: above the table.
        columns: what it shows.
        groups: strategies by the first cells of the reference that stands above them; none stands above without cells.
    """
    values = {(head, name): value(name) for head, _, value, _ in columns for name in facts.strategies}
    shown_columns = [c for c in columns if any(values[c[0], name] is not None for name in facts.strategies)]

    def row(head: str, cells: Sequence[str]) -> str:
        shown = "".join(cell(text) for text in [*cells, *[""] * (len(shown_columns) - len(cells))])
        return f'<tr><th scope="row">{escape(head)}</th>{shown}</tr>'

    bodies = []
    for target, names in groups.items():
        rows = [row("retrained reference", target)] if target else []
        for name in names:
            shown = (values[head, name] for head, *_ in shown_columns)
            rows.append(
                row(name, ["-" if v is None else format(v, c[3]) for v, c in zip(shown, shown_columns, strict=True)])
            )
        bodies.append(f'<tbody class="{"beside" if target else ""}">{"".join(rows)}</tbody>')
    heads = [("strategy", ""), *((head, why) for head, why, *_ in shown_columns)]
    return table(caption, heads, bodies)
