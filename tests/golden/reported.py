"""What reports and commands are made of, in a few words: tables, runs, studies, and what is drawn and printed of them.

`test_functions.py` lends it as `H` to the expressions on modules of `lifelong.report` and `cli`.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
import re
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import typer

from lifelong.config.run import RunConfig
from lifelong.execution.runner import Run
from lifelong.report.columns import Cell, Column, columns
from lifelong.report.facts import Facts, Learned, Requested
from lifelong.report.lives import Life, Lives, Point
from lifelong.report.matrix import Matrix
from lifelong.report.spread import Spread
from lifelong.report.summary import Group, Line
from lifelong.results.series import Series, indexed
from lifelong.results.table import Row, Table
from lifelong.study.judging import Difference, Verdict
from lifelong.study.statistics import Estimate
from lifelong.study.verdicts import Components
from streams.config import parse

__all__ = ["Cell", "Column", "Components", "Difference", "Estimate", "Line", "Matrix", "Spread", "Verdict", "columns"]

NS = SimpleNamespace
EVENTS = 6
LEARNED = (
    Learned(0, "task-0", ("a",), 10, 0),
    Learned(1, "task-1", ("b", "c"), 1200, 0),
    Learned(3, "task-0", ("a",), 5, 1),
)
REQUESTED = (
    Requested(2, "request-0", ("class",), "class 'a'", 5, ("a",)),
    Requested(4, "request-1", ("sample",), "3 samples", 3, ()),
    Requested(5, "request-2", ("user", "class"), "user Ada; class b", 7, ("b",)),
)
STRATEGIES: dict[str, Any] = {
    "idle": {"unlearner": "none"},
    "one": {"unlearner": "finetune"},
    "two": {"learner": "ewc", "unlearner": "finetune"},
    "half": {"isolated": "independent"},
    "late": {"learner": "replay"},
}
SHARED = (
    *("exact/request-0: . . 0", "exact/request-1: . . . . 0.5", "exact/request-2: . . . . . 0"),
    *("state_bytes/event: 10 20 20 40 30 1500", "steps/event: 8 9 3 6 0 2"),
    *("accuracy/a: 0.5 0.25 . 0.75 0.5 0.25", "accuracy/b: . 0.5 0.75 . 0.25 0.5"),
    "deleted_accuracy/a: . . 0.75 . 0.5 -",
)
TABLES: dict[str, tuple[str, ...]] = {
    "idle": (
        *("average_accuracy/stream: 0.5 0.25 - 0.75 0.5 0.625", "forget_accuracy/request-0: . . 0.75 0.5 - 0.25"),
        *("forget_accuracy/request-0/retrained: . . 0.25 0.25 0.25 0.125", "forget_accuracy/request-1: . . . . 1 0.5"),
        *("forget_accuracy/request-1/retrained: . . . . 0.25 0.25", "js/request-0/retrained: . . 0.5 . . 0.25"),
        *("forget_accuracy/request-2: . . . . . 0.5", "retain_accuracy/stream: . . 0.5 . 0.75 0.25"),
        *("membership_auc/request-0: . . 0.75", "membership_auc/request-0/retrained: . . 0.5"),
    ),
    "one": (
        *("average_accuracy/stream: 0.5 0.75 0.25 - 0.5 0.875", "forget_accuracy/request-0: . . 0.5 0.25 0.75 1"),
        *("forget_accuracy/request-0/retrained: . . 0.25 0.5 0.25 0.5", "forget_accuracy/request-1: . . . . 0.5 0.75"),
        *("forget_accuracy/request-1/retrained: . . . . 0.125 -", "forget_accuracy/request-0/retrained-2: . . 0.375"),
        *("forget_accuracy/request-0/withheld: . . 0.625 . . 0.5", "forget_accuracy/request-2: . . . . . 0.25"),
        *(
            "forget_accuracy/request-1/retrained-2: . . . . 0.5",
            "gap_forget_accuracy/request-0/retrained: . . 0.25 . . 0.5",
        ),
        *("gap_forget_accuracy/request-1/retrained: . . . . 0.375 -", "js/request-0/retrained: . . 0.25 . 0.5 0.125"),
        *("js/request-1/retrained: . . . . - 0.5", "relapse/request-0/retrained: . . . 0.25 -0.5 -0.125"),
        *("relapse/request-1/retrained: . . . . . 0.25", "relapse/requests/retrained: . . . 0.25 - 0.0625"),
        *("retain_accuracy/stream: . . 0.75 . 0.5 0.375", "retain_accuracy/stream/retrained: . . 0.5 . 0.75 0.5"),
        *(
            "collateral_mean/request-0: . . -0.25",
            "collateral_mean/request-1: . . . . 0.125",
            "js_to_retrained/request-0/retrained-2: . . 0.125",
        ),
        *(
            "immediate_abs_gap_forget_accuracy/requests/retrained: . . 0.25 . 0.3125 0.3",
            "membership_auc/request-0: . . 0.625 . . 0.5",
        ),
        *(
            "immediate_js/requests/retrained: . . 0.25 . . 0.375",
            "membership_auc/request-0/retrained: . . 0.5 . . 0.75",
        ),
        *(
            "forgetting_from_first/stream: . 0.25 . . . 0.125",
            "weights_erased/request-0: . . 1",
            "weights_erased/request-1: . . . . 0",
        ),
        *(
            "latency/request-0: . . 1",
            "latency/request-1: . . . . 0",
            "exposure/request-0: . . 2",
            "tow/request-0/retrained: . . 0.75",
        ),
        *("abs_relapse/requests/retrained: . . . 0.25 . 0.1875", "average_gap/request-0/retrained: . . 0.125"),
    ),
    "two": (
        *("average_accuracy/stream: 0.25 0.5 0.75 0.25 0.5 0.75", "forget_accuracy/request-0: . . 0.25 0.25 0.25 0.25"),
        *(
            "forget_accuracy/request-0/original: . . 0.75",
            "forget_accuracy/request-0/retrained: . . 0.25 0.25 0.25 0.25",
        ),
        *("forget_accuracy/request-1: . . . . 0.75 0.5", "forget_accuracy/request-1/original: . . . . 0.5"),
        *(
            "immediate_abs_gap_forget_accuracy/requests/retrained: . . 0 . 0.5 -",
            "retain_accuracy/stream: . . 0.25 . 0.5 0.5",
        ),
    ),
    "half": ("average_accuracy/stream: 0.5 0.125 0.375", "forget_accuracy/request-0: . . 1", "accuracy/a: 1 0.5"),
    "late": (),
}
SECONDS = {"idle": {0: 0.5, 2: 1.5, 4: 0.25}, "one": {0: 2.0, 1: 0.5, 2: 4.0, 4: 3.0}, "two": {}, "half": {0: 1.0}}


def rows(*lines: str) -> list[Row]:
    """Return rows of lines ``metric/subject/model: values by event``; ``-`` is undefined, ``.`` is not there."""
    found = []
    for line in lines:
        head, _, numbers = line.rpartition(": ")
        metric, subject, model, *_ = [*head.split("/"), "run"]
        for event, text in enumerate(numbers.split()):
            if text == "-":
                found.append(Row(event, model, subject, metric, None, 0, f"no {metric} at {event}"))
            elif text != ".":
                found.append(Row(event, model, subject, metric, float(text), event + 2))
    return found


def table(*lines: str) -> Table:
    """Return a table of such lines."""
    return Table(rows(*lines))


def series(*lines: str) -> Series:
    """Return the same, to be looked up."""
    return Series(table(*lines))


def config(strategies: Mapping[str, Any] = STRATEGIES) -> RunConfig:
    """Return the configuration of a run of some strategies."""
    return parse(RunConfig, {"name": "few", "strategies": dict(strategies)})


def run(
    tables: Mapping[str, Sequence[str]] = TABLES,
    strategies: Mapping[str, Any] | None = None,
    access: Mapping[str, str] | None = None,
    shared: Sequence[str] = SHARED,
) -> Run:
    """Return a run: by default one of five strategies, of which one is half way and one has not begun."""
    done = {"idle": "full", "one": "full", "two": "none"} if access is None else access
    made = {name: table(*lines, *shared[: 99 if len(lines) > 4 else 0]) for name, lines in tables.items()}
    summaries = {
        name: {"access": a, "references": {"seconds": 1.5, "computed": 2, "cached": 1}} for name, a in done.items()
    }
    known = STRATEGIES if strategies is None else strategies
    return Run(
        Path("runs/few"), config({name: known.get(name, {}) for name in tables} or {"late": {}}), made, summaries
    )


def facts(of: Run | None = None, num_events: int = EVENTS, **changes: Any) -> Facts:
    """Return what a report of a run is drawn from."""
    of = of or run()
    digests = {"stream": "0f", "data": "1e"}
    manifest = {"source": {"name": "made up"}, "digests": digests, "created": "once", "metrics": {}}
    stream = {"scenario": {"name": "class-incremental", "experiences": 3}, "schedule": {"name": "none", "keys": [1]}}
    made = Facts(
        of,
        indexed(of.tables),
        "accuracy",
        num_events,
        ("a", "b", "c"),
        LEARNED,
        REQUESTED,
        stream,
        manifest,
        {name: SECONDS.get(name, {}) for name in of.tables},
    )
    return replace(made, **changes)


def requested(count: int, every: int = 1, scopes: tuple[str, ...] = ("class",)) -> tuple[Requested, ...]:
    """Return so many requests."""
    return tuple(Requested(k * every, f"request-{k}", scopes, f"class {k}", k + 1, ()) for k in range(count))


def numbers(name: str, count: int, gaps: int = 7) -> np.ndarray:
    """Return numbers that a name decides, some of them not there."""
    places = zlib.crc32(name.encode()) % 1000 + np.arange(count)
    return np.where(places % gaps == 0, np.nan, places * 5 % 13 / 8)


BY_EVENT = ("average", "relapse", "steps", "seconds", "state")
BY_REQUEST = (
    *("forget", "retrained", "withheld", "gap", "gap_end", "js", "js_end", "average_gap", "tow", "relapse_end"),
    *("steps", "seconds", "latency", "exposure"),
)


def line(name: str, values: Sequence[float | None] = (), **more: Any) -> Line:
    """Return a strategy's line; values that are not given are those that its name decides."""
    drawn = [None if np.isnan(v) else float(v) for v in numbers(name, len(columns("accuracy")))]
    return Line(name, tuple(Cell(v, 3) for v in [*values, *drawn[len(values) :]]), **more)


def life(name: str, seed: int, num_events: int = EVENTS, num_requests: int = 3, **changes: Any) -> Life:
    """Return a life whose numbers its name and seed decide."""

    def each(keys: Sequence[str], count: int) -> dict[str, np.ndarray]:
        return {key: numbers(f"{key} {name} {seed}", count) for key in keys}

    made = Life(
        num_events,
        True,
        each(BY_EVENT, num_events),
        each(BY_REQUEST, num_requests),
        each(("forget", "retrained", "relapse"), num_events),
        {key: float(numbers(f"{key} {name} {seed}", 1, 99)[0]) for key in ("retained", "distance", "js")},
        line(f"{name} {seed}"),
    )
    return replace(made, **changes)


def point(
    names: Sequence[str] = ("one", "two"),
    seeds: int = 3,
    asked: Sequence[Requested] = REQUESTED,
    num_events: int = EVENTS,
    **changes: Any,
) -> Point:
    """Return a point of a grid; `late` has not begun."""
    made = Point({}, ("late", *names), facts(series={}, seconds={}))
    made.access = {name: "full" if number % 2 == 0 else "none" for number, name in enumerate(names)}
    made.lives = {name: {s: life(name, s, num_events, len(asked)) for s in range(seeds)} for name in names}
    made.streams = {s: f"digest-{s % 2}" for s in range(seeds)}
    made.requested = dict.fromkeys(range(seeds), tuple(asked))
    made.num_events = num_events
    counts = {name: np.arange(2 * 3 * num_events).reshape(2, 3, num_events) % (3 + n) for n, name in enumerate(names)}
    made.totals = {name: (c / 4, c) for name, c in counts.items()}
    for key, value in changes.items():
        setattr(made, key, value)
    return made


JOBS = tuple(NS(label=f"seed={s}", cell=s, folder=Path(f"runs/{s}")) for s in range(3))


def study(**changes: Any) -> Any:
    """Return what reports ask of a study."""
    about = {"name": "Small & few", "claim": "It <works>.", "source": "nobody", "criteria": [], "grid": {}}
    made = NS(
        config=NS(**about, model_dump=lambda **_: {"name": "small", "seeds": [1, 2]}),
        rule=NS(interval="95 % t interval"),
        jobs=JOBS,
        seeds=[0, 1, 2],
        size=None,
        folder=Path("runs/study"),
        file=Path("study.yaml"),
        identity="0a1b",
        looked_before=[],
        tuning=None,
        tuned={},
        prospect=lambda: "enough",
        cells=[],
    )
    for key, value in changes.items():
        setattr(made.config if key in about else made, key, value)
    return made


def lives(*points: Point, **changes: Any) -> Lives:
    """Return what the report of a study is drawn from."""
    machine = {"versions": {"torch": "2"}, "code": "c0de", "platform": "here", "device": "cpu"}
    manifest = {**machine, "digests": {"data": "1e"}, "source": {"licence": "free"}, "metrics": {}}
    made = Lives(
        study(), points, (), (), (), (), ("late", "one", "two"), (), (manifest,), {"one": (2, 1, 0.25)}, frozenset()
    )
    of_study = {k: changes.pop(k) for k in list(changes) if k not in Lives.__dataclass_fields__}
    return replace(made, **({"study": study(**of_study)} | changes))


def group(*made: Line, access: str = "full") -> Group:
    """Return lines of one access."""
    return Group(access, made)


STYLE = {"template", "font", "paper_bgcolor", "plot_bgcolor", "modebar", "hoverlabel", "legend", "margin"}
STYLE |= {"gridcolor", "linecolor", "zerolinecolor", "automargin", "zeroline"}
"""What figures have in common."""


def drawn(figure: go.Figure) -> Any:
    """Return the traces and the layout of a figure, without what figures have in common."""
    return _bare({key: figure.to_dict()[key] for key in ("data", "layout")})


def _bare(value: Any) -> Any:
    if isinstance(value, dict) and "bdata" in value:
        flat = np.frombuffer(base64.b64decode(value["bdata"]), dtype=value["dtype"]).astype(float)
        return flat.reshape([int(n) for n in str(value.get("shape", len(flat))).split(", ")]).tolist()
    if isinstance(value, dict):
        return {k: _bare(v) for k, v in value.items() if k not in STYLE}
    return [_bare(v) for v in value] if isinstance(value, list | tuple) else value


def text_of(html: str) -> str:
    """Return what is written in HTML: a space for every tag, and a line for every row."""
    html = re.sub("<script.*?</script>", "", re.sub(r"</tr>|</p>|</li>|</h\d>", "\n", html), flags=re.DOTALL)
    return "\n".join(" ".join(one.split()) for one in re.sub("<[^>]*>", " ", html).splitlines())


def printed(function: Callable[..., Any], *arguments: Any, terminal: int = 0, **more: Any) -> list[Any]:
    """Return what a function prints to both streams, in a terminal of that width or to a pipe, and what it raises."""
    out, err, end = io.StringIO(), io.StringIO(), None
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "NO_COLOR"):
            patch.delenv(name, raising=False)
        if terminal:
            for name, value in (("FORCE_COLOR", "1"), ("COLUMNS", str(terminal)), ("TERM", "xterm")):
                patch.setenv(name, value)
        try:
            returned = function(*arguments, **more)
        except typer.Exit as error:
            returned, end = None, error.exit_code
    texts = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", one.getvalue().replace("\x1b[2m", "~")) for one in (out, err)]
    found = [[one.rstrip() for one in text.split("\n")] for text in texts]
    return [*found, returned] if end is None else [*found, f"exit {end}"]


def among(files: Mapping[str, str], ask: Callable[[], Any]) -> Any:
    """Return what something comes to in a folder of its own with such files; the later stand, the newer they are."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LIFELONG_CACHE", str(Path(folder) / "cache"))
        for number, (name, text) in enumerate(files.items(), 1):
            file = Path(name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
            os.utime(file, (number, number))
        return ask()
