"""Write docs/configuration.md and docs/metrics.md from the code; with ``--check`` only compare.

Both pages are generated so that they cannot disagree with what the program does; a test runs the check.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lifelong.annotate import Option, options
from lifelong.config import RunConfig
from lifelong.metrics.catalogue import MEASURES, METRICS, OF_MEASURE, Metric
from lifelong.study.config import StudyConfig
from streams.registry import KINDS, entries, load

DOCS = Path(__file__).parent
SKIPPED_KINDS = {"trackers"}  # chosen by flags of the command line, without options


def configuration() -> str:
    """Return the configuration reference."""
    parts = [
        "# Configuration\n\n"
        "Generated from the models by `python docs/generate.py`. A key may be set in a file or on the command line "
        "(`--set training.lr=0.1`). Where a thing is *named*, write its name (`source: digits`) or its name with "
        "options (`source: {name: digits, users: 5}`); its options are listed below by kind.\n",
        "## A run\n\n" + _table(options(RunConfig)),
        "## A study\n\n" + _table(options(StudyConfig)),
    ]
    for kind in KINDS:
        if kind in SKIPPED_KINDS:
            continue
        parts.append(f"## {kind.capitalize()}\n")
        for name, entry in entries(kind).items():
            rows = options(load(kind, name).Config)
            parts.append(f"### {name}\n\n{entry.summary()}\n\n" + (_table(rows) if rows else "No options.\n"))
    return "\n".join(parts)


def metrics() -> str:
    """Return the list of metrics."""
    named = [(name, metric) for name, metric in METRICS.items()]
    measured = [
        (f"{prefix}accuracy", Metric(text.format(MEASURES["accuracy"].meaning), "share", better))
        for prefix, (text, better) in OF_MEASURE.items()
    ]
    rows = "\n".join(f"| `{n}` | {m.meaning} | {m.unit} | {_better(m)} |" for n, m in [*measured, *named])
    return (
        "# Metrics\n\n"
        "Generated from the catalogue by `python docs/generate.py`. A row of results has an event, a model (`run`, or "
        "the reference it belongs to), a subject (`stream`, a unit, a request, `requests` for means over requests, "
        "`event` for costs, `layer X` and `A > B` for what a strategy tells of its layers and tasks), a metric, a "
        "value, and the number of samples or units it rests on. Undefined values are "
        "null with a reason.\n\n"
        "Names are made of parts. `gap_` is the run minus a reference, `abs_` its absolute value, `immediate_` the "
        "mean over requests right after each was served, `final_` after the last event; `loss_` is a term of what was "
        "minimised. For regression, `negative_absolute_error` stands where `accuracy` does, for text `exact_match`.\n\n"
        "| metric | meaning | unit | better |\n| --- | --- | --- | --- |\n" + rows + "\n"
    )


def _better(metric: Metric) -> str:
    words = {
        "zero": "closer to 0",
        "reference": "closer to the retrained reference",
        "neither": "-",
    }.get(metric.better, metric.better)
    return words if metric.ideal is None else f"{words} (ideal {metric.ideal:g})"


def _table(rows: list[Option]) -> str:
    lines = ["| key | allowed | default | meaning |", "| --- | --- | --- | --- |"]
    for row in rows:
        default = "required" if row.default is None else f"`{row.default}`"
        lines.append("| " + " | ".join(_cell(c) for c in (f"`{row.key}`", row.allowed, default, row.meaning)) + " |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main() -> int:
    """Write both pages, or compare them with what would be written."""
    stale = []
    for name, text in (("configuration.md", configuration()), ("metrics.md", metrics())):
        file = DOCS / name
        if "--check" in sys.argv:
            if not file.exists() or file.read_text(encoding="utf-8") != text:
                stale.append(name)
        else:
            file.write_text(text, encoding="utf-8")
    if stale:
        sys.stderr.write(f"Not up to date: {', '.join(stale)}. Run: python docs/generate.py\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
