"""Runs and studies as Markdown: verdicts, tables, and how to repeat them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from lifelong.execution.manifest import read_manifest
from lifelong.execution.runner import Run
from lifelong.report import study_tables
from lifelong.report.lives import Lives
from lifelong.report.study import command
from lifelong.report.study_tables import Grid
from lifelong.study.declaration import added


def run_markdown(run: Run) -> str:
    """Return the results of a run."""
    grid = study_tables.of_run(run)
    unfinished = "" if run.done else "**This run is not finished; the tables show what is there.**"
    manifest = read_manifest(run.folder)
    digests = ", ".join(f"{name} {digest}" for name, digest in manifest["digests"].items())
    repeat = f"lifelong run {shlex.quote(str(run.folder / 'config.yaml'))} --fresh"
    meanings = "\n".join(f"- {head}: {meaning}" for head, meaning in grid.heads if meaning)
    parts = [f"# {run.config.name}", unfinished, f"Seed {run.config.seed}. Digests: {digests}.", "## Results"]
    return _joined([*parts, _table(grid), meanings, "## How to repeat it", f"```\n{repeat}\n```"])


def study_markdown(lives: Lives) -> str:
    """Return the verdicts and results of a study."""
    study, config = lives.study, lives.study.config
    missing, count = len(lives.unfinished), len(study.jobs)
    unfinished = f"**This study is not finished: {missing} of {count} runs are missing or incomplete.**"
    parts = [f"# Study: {config.name}", f"Claim: {config.claim}", f"Source: {config.source}"]
    parts += [unfinished if missing else "", "## Verdicts"]
    parts += [f"Intervals: {study.rule.interval}.", added(study.looked_before)]
    for make in (study_tables.validity, study_tables.verdicts, study_tables.comparisons, study_tables.components):
        grid = make(lives)
        parts.append(_table(grid) if grid.num_rows else "")
    for title, of_point in (("Results", study_tables.results), ("Requests", study_tables.requests)):
        for point in lives.points:
            parts += [f"## {title}{f': {point.label}' if point.label else ''}", _table(of_point(point))]
    code = ", ".join(sorted({str(m["code"]) for m in lives.manifests})) or "none has run"
    parts += ["## How to repeat it", f"```\n{command(study)}\n```", f"Study {study.identity}, code {code}."]
    return _joined(parts)


def _table(grid: Grid) -> str:
    parts = [grid.caption]
    for title, rows in grid.groups:
        lines = [[head for head, _ in grid.heads], ["---"] * len(grid.heads), *rows]
        parts += [f"*{_safe(title)}*" if title else "", "\n".join(map(_line, lines))]
    return _joined([*parts, grid.footnote])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_safe, cells))} |"


def _safe(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _joined(parts: Sequence[str]) -> str:
    return "\n\n".join(p.rstrip("\n") for p in parts if p) + "\n"
