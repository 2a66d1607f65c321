"""Write pages that follow from the program and from what was measured; ``--check`` compares.

They are configuration.md, metrics.md, reliability.md, leaderboard.md, and the numbers in choosing.md and scale.md.

The pages are generated so that they cannot disagree with what the program does and what its studies have measured; a
test runs the check. In docs/choosing.md a comment names what stands between it and ``<!-- end -->``:

- ``<!-- STUDY: CRITERION -->``: the criterion's estimate and verdict;
- ``<!-- STUDY: A - B, WHAT -->``: the estimate of a comparison;
- ``<!-- table STUDY -->``: all comparisons of a study, a row for each strategy;
- ``<!-- table unlearners -->``: what every unlearner reads and serves.

In docs/scale.md ``<!-- table many_requests -->`` stands before what the benchmark of that name has measured.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the code beside these pages, whichever is installed

from _leaderboard import leaderboard
from _reliability import reliability
from _scale import many_requests
from torch import nn

from lifelong.config.annotate import Option, options
from lifelong.config.run import RunConfig
from lifelong.metrics.catalogue import MEASURES, OF_MEASURE, THEMES, Metric
from lifelong.setup.preparation import prepare
from lifelong.setup.suitability import Method, part_of
from lifelong.study.config import StudyConfig
from strategies.base import EVERYTHING, Unlearner
from strategies.parts.model import FlatModel, Network
from strategies.ranges import in_words
from streams.config import parse
from streams.registry import KINDS, class_of, entries, load

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "studies" / "results"
MARK = re.compile(r"<!-- (?!end)(.+?) -->(.*?)<!-- end -->", re.DOTALL)
METHODS = ("learners", "unlearners", "guards", "isolated")
SKIPPED_KINDS = {"trackers", "metrics"}  # without options: flags of the command line, and what is always measured


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
            module = load(kind, name)
            rows = options(module.Config)
            tuned = _tuned(part_of(kind, module)) if kind in METHODS else ""
            parts.append(f"### {name}\n\n{entry.summary()}\n\n" + (_table(rows) if rows else "No options.\n") + tuned)
    return "\n".join(parts)


def _tuned(part: type[Method]) -> str:
    """Return what a study tunes of a method, or nothing."""
    ranges = [f"`{option}` {in_words(space)}" for option, space in part.ranges.items()]
    return f"\nTuned: {'; '.join(ranges)}.\n" if ranges else ""


def metrics() -> str:
    """Return the list of metrics."""
    measured = {
        f"{prefix}accuracy": Metric(text.format(MEASURES["accuracy"].meaning), "share", better)
        for prefix, (text, better) in OF_MEASURE.items()
    }
    parts = []
    for theme, found in {"Scores": measured, **THEMES}.items():
        rows = "\n".join(f"| `{n}` | {_cell(m.meaning)} | {m.unit} | {_better(m)} |" for n, m in found.items())
        parts.append(f"## {theme}\n\n| metric | meaning | unit | better |\n| --- | --- | --- | --- |\n{rows}\n")
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
        + "\n".join(parts)
    )


def choosing() -> str:
    """Return docs/choosing.md with what its marks name filled in."""
    return MARK.sub(lambda m: f"<!-- {m[1]} -->{_marked(m[1])}<!-- end -->", (DOCS / "choosing.md").read_text("utf-8"))


def scale() -> str:
    """Return docs/scale.md with what was measured filled in."""
    mark = "<!-- table many_requests -->"
    before, _, after = (DOCS / "scale.md").read_text("utf-8").partition(mark)
    return f"{before}{mark}{many_requests()}<!-- end -->{after.partition('<!-- end -->')[2]}"


def _marked(mark: str) -> str:
    if mark == "table unlearners":
        return "\n" + _unlearners()
    name, _, what = mark.partition(": ")
    table = name.startswith("table ")
    outcome = _outcome(name.removeprefix("table "))
    if outcome is None:
        return "\nNot measured yet.\n" if table else "not measured yet"
    return "\n" + _differences(outcome) if table else _evidence(outcome, what)


def _outcome(study: str) -> dict[str, Any] | None:
    """Return what is kept of a study, of its largest size."""
    if not (DOCS.parent / "studies" / f"{study}.yaml").exists():
        raise SystemExit(f"docs/choosing.md names a study that does not exist: {study}")
    for size in ("full", "small"):
        if (file := RESULTS / f"{study}-{size}.json").exists():
            kept: dict[str, Any] = json.loads(file.read_text("utf-8"))
            return kept
    return None


def _evidence(outcome: dict[str, Any], what: str) -> str:
    """Return the estimate of a criterion or of a comparison, linked to where it comes from."""
    link = f"reproduction.md#{outcome['name']}-{outcome['size']}"
    for verdict in outcome["verdicts"]:
        if verdict["name"] == what:
            earlier = "" if "rule" in outcome else " by an earlier rule"
            return f"[{_estimate(verdict['estimate'])}, {verdict['outcome']}{earlier}]({link})"
    for c in outcome["comparisons"]:
        if f"{c['of']} - {c['minus']}, {c['what']}" == what:
            return f"[{_estimate(c['estimate'])}]({link})"
    raise SystemExit(f"docs/choosing.md: the study {outcome['name']} has neither criterion nor comparison {what!r}")


def _differences(outcome: dict[str, Any]) -> str:
    columns = list(dict.fromkeys((c["what"], c["minus"]) for c in outcome["comparisons"]))
    titles = {c["what"]: _title(c["metric"], c["what"]) for c in outcome["comparisons"]}
    rows = list(dict.fromkeys(c["of"] for c in outcome["comparisons"]))
    cells = {(c["of"], c["what"], c["minus"]): _estimate(c["estimate"]) for c in outcome["comparisons"]}
    heads = " | ".join(f"{titles[what]}, minus that of `{minus}`" for what, minus in columns)
    lines = [f"| | {heads} |", "| --- " * (len(columns) + 1) + "|"]
    lines += [f"| `{row}` | " + " | ".join(cells.get((row, *column), "") for column in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _title(metric: str, what: str) -> str:
    """Return a number in words.

    >>> _title("immediate_abs_gap_forget_accuracy", "immediate_abs_gap_forget_accuracy (retrained) of requests")
    'distance to `retrained` in forget accuracy, right after each request'
    """
    found = re.fullmatch(r"(?: \((?P<model>\S+)\))?(?: of (?P<subject>\S+))?(?P<rest>.*)", what.removeprefix(metric))
    assert found is not None
    model, subject, rest = found["model"], found["subject"], found["rest"]
    name, when = metric.removeprefix("immediate_"), f" of {subject}" if subject else ""
    if name != metric:
        when = ", right after each request"
    for prefix, said in (("abs_gap_", "distance to {} in "), ("gap_", "difference from {} in ")):
        if name.startswith(prefix):
            return said.format(f"`{model}`") + name.removeprefix(prefix).replace("_", " ") + when + rest
    return name.replace("_", " ") + (f" to `{model}`" if model else "") + when + rest


def _estimate(estimate: dict[str, Any] | None) -> str:
    if estimate is None:
        return "undefined"
    mean, low, high = (estimate[key] for key in ("mean", "low", "high"))
    return _short(mean) if low is None else f"{_short(mean)} [{_short(low)}, {_short(high)}]"


def _short(value: float) -> str:
    """Return two digits, or all before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2g}"


def _unlearners() -> str:
    """Return what every unlearner reads by default, and what it serves."""
    setting = prepare(parse(RunConfig, {"schedule": "none"})).setting
    images = {"objective": "denoising", "model": {"name": "mlp-denoiser", "width": 8, "blocks": 1}}
    of_images = prepare(parse(RunConfig, {"schedule": "none", **images})).setting
    convolved = Network(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten()), nn.Linear(64, 10))
    with_convolutions = replace(setting, make_model=lambda: FlatModel(convolved), make_outline=None)
    lines = ["| unlearner | reads | requests | for models of | |", "| --- | --- | --- | --- | --- |"]
    text = []
    for name, entry in entries("unlearners").items():
        module = load("unlearners", name)
        kind: type[Unlearner] = class_of(module, Unlearner)
        if kind.supports == {"tokens"}:
            text.append(f"`{name}`")
            continue
        place = of_images if kind.supports == {"images"} else with_convolutions if kind.needs_convolutions else setting
        unlearner = kind(module.Config(), place)
        scopes = ", ".join(s for s in ("sample", "class", "task", "user") if s in unlearner.scopes)
        what = "everything" if kind.supports == EVERYTHING else ", ".join(sorted(kind.supports))
        served = ("whole classes: " if unlearner.whole_classes else "") + scopes
        lines.append(f"| `{name}` | {unlearner.access.label()} | {served} | {what} | {entry.summary()} |")
    return "\n".join(lines) + f"\n\nFor text alone: {', '.join(text)}.\n"


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
    """Write all pages, or compare them with what would be written."""
    stale = []
    pages = {"configuration.md": configuration(), "metrics.md": metrics(), "choosing.md": choosing()}
    pages |= {"reliability.md": reliability(), "scale.md": scale(), "leaderboard.md": leaderboard()}
    for name, text in pages.items():
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
