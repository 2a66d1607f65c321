"""What every command says, and how it ends: its options and help, and what it prints of small folders and wrong input.

Runs answer what is made up (`made_up.py`), so that numbers are the same on every processor; times, places and versions
are replaced by words. If a change is meant, write the records anew and look at the difference before committing it::

    python tests/golden/test_commands.py
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import json
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
import typer
import yaml

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from golden.made_up import SMALL, differences, made_up, write, write_files
from golden.test_made_up import figures_of, steady, words_of

from cli.main import app, main
from lifelong.report import html
from lifelong.report import study as study_report
from lifelong.study import forkserver, jobs, local, place
from lifelong.verification import lives

FILE = Path(__file__).with_name("commands.json")
WIDTH = "110"
CONFIG: dict[str, Any] = SMALL | {
    "name": "small",
    "scenario": {"name": "class-incremental", "experiences": 3},
    "schedule": {
        "name": "explicit",
        "requests": [
            {"after": 1, "scope": "sample", "count": 4},
            {"after": 2, "scope": "class", "keys": ["b"], "again_after": 3},
            {"after": 3, "scope": "user", "keys": ["Ada", "Cy"]},
        ],
    },
    "strategies": SMALL["strategies"] | {"again": {"learner": {"name": "replay", "memory": 9}, "unlearner": "retrain"}},
    "references": {"kinds": ["retrained", "retrained-2"]},
}
LONG = {
    "scenario": {"name": "recurring", "tasks": 130},
    "schedule": {"name": "periodic", "scope": "sample", "samples": 1, "every": 9},
}
SHARDS = {"isolated": {"name": "sisa", "shards": 2, "slices": 2}}
STUDY: dict[str, Any] = {
    "name": "question",
    "claim": "Ascent forgets.",
    "base": CONFIG
    | {
        "scenario": "joint",
        "schedule": {"name": "explicit", "requests": [{"after": 1, "scope": "class", "keys": ["c"]}]},
        "references": {"kinds": ["retrained"]},
    },
    "seeds": 3,
    "grid": {"training.epochs": [1, 2]},
    "strategies": {"ascent": SMALL["strategies"]["ascent"], "none": {"unlearner": "none"}},
    "comparisons": [{"metric": "average_accuracy", "of": ["ascent"], "minus": "none"}],
    "variances": [{"metric": "average_accuracy", "of": ["ascent"], "levels": ["training.epochs"]}],
    "validity": [{"name": "learns", "metric": "average_accuracy", "of": "none", "above": 0.0}],
    "criteria": [
        {"name": "more", "of": "ascent", "minus": "none", "above": 0.9, "metric": "average_accuracy"},
        {"name": "some", "of": "ascent", "below": 0.99, "metric": "average_accuracy"},
    ],
    "sizes": {"one": {"seeds": 2, "grid": {"training.epochs": [1, 3]}}},
}

SESSION = """
run small.yaml --json
run small.yaml --training.lr=0.01
run small.yaml seed=1 --quiet
run small.yaml --seeds 2
run small.yaml --seeds 2 --json --quiet
run small.yaml --seeds 2 --fresh
run few.yaml --quiet --references.kinds=[]
run shards.yaml --quiet
run small.yaml training.lr=-1
run small.yaml trainin.lr=1
run small.yaml other.yaml
run small.yaml --nonsense
run nothing.yaml
run nothing
run small.yaml --tracker=nobody.py
resume runs/few
resume small last --json --quiet
resume small
resume nothing
compare runs/few
compare runs/few runs/shards
compare runs/few --json
compare runs/few --strategy none
compare runs/few --strategy nobody
compare runs/few runs/few --strategy again --strategy ascent
terminal compare runs/few
report runs/few
report runs/few --format md
report runs/few --out a.tex
report runs/few runs/shards --format csv
report runs/few runs/shards --out b.csv
report runs/few --format doc
report nothing
compare last --strategy sisa
report runs/few --out nowhere/at/all.md
traces runs/few --sample 0
traces runs/few --sample 5 --json
traces runs/few --sample 1000
clean runs/few --dry-run
clean runs/few --deleted --dry-run
clean runs/few --deleted
clean runs/few --deleted
clean
clean --deleted --older-than 1
clean --older-than 30 --dry-run
verify nothing
verify runs/few --strategy nobody --no-controls
preview small.yaml
preview small.yaml --json
terminal preview small.yaml
ascii preview small.yaml
preview long.yaml
terminal preview long.yaml
preview many.yaml
preview small.yaml --questions questions
preview small.yaml --schedule.name=none --references.kinds=[joint]
preview small.yaml --device=tpu
list ready
list schedules
list guard --json
list nonsense
show ready quickstart
show schedules periodic
show schedule
show gradient-ascent
show gradient-ascent --json
show replay
show none
show unlearners quick
show quick
show ready nothing
init
init
init quickstart --file mine.yaml
init other.yaml --file nowhere/at/all.yaml
capacity --samples 4000 --requests 300
capacity --method s3t --shards 2,3 --order even --distribution zipf --retrain-when below --samples 900 --requests 90
capacity --samples 4000 --requests 300 --together 1,7 --method sisa --epochs 2 --seed 3 --json
capacity --samples 4000 --requests 300 --run runs/shards-* --method sisa --plot figure.html
capacity --samples 4000 --requests 300 --run runs/shards-* --method sisa --json
capacity --rate 0
capacity --shards 2,x
capacity --shards 0
capacity --run runs/few-* --samples 400 --requests 30
capacity --run runs/few
verify shards --no-controls --requests 2
verify few shards --strategy sisa
verify few --no-controls --quiet --json
study study.yaml --list-jobs
study study.yaml --list-jobs --json
study study.yaml --list-jobs --dry-run
study study.yaml --dry-run
study study.yaml --job 0
study study.yaml --job 12
study study.yaml --job x
study study.yaml --job slurm
study study.yaml --collect
study study.yaml
study study.yaml --json --quiet
study study-question --collect
study runs/study-question --size one
study study.yaml --size one --list-jobs
study study.yaml --size two
study study.yaml --dry-run
study study.yaml --dry-run --json --workers 2
study quickstart
study small.yaml
terminal study study.yaml --collect
report study-question --format md
report study-question --format tex
report study-question --format csv
compare study-question
compare runs/few runs/study-question
tune small.yaml --trials 2 --strategy ascent --quiet --file tuned.yaml
tune small.yaml --trials 2 --strategy ascent --quiet --file tuned.yaml
tune small.yaml --trials 2 --strategy ascent --quiet --file again.yaml --json
tune small.yaml --strategy nobody --file none.yaml
tune small.yaml --trials 1
bench --json
bench
bench smoke --strategy naive --seeds 99
bench smoke --strategy naive --strategy ewc --out x.json
bench smoke file.json
bench smoke --seed 3
bench nothing
bench check
bench check small.yaml
export-model runs/few none
export-model runs/few nobody
audit nowhere --scenario small.yaml
pretrain --set pretrained=glyphs
pretrain nothing
nonsense
--version
--debug run nothing.yaml
"""
"""Commands in their order; before some of them what they print to: a terminal, or one that knows ASCII alone."""

WRITTEN = ("*.tex", "experiment.yaml", "mine.yaml", "tuned.yaml", "runs/*/report.*", "runs/*/results.csv")
"""Files that are kept as well: all of them, or a few lines of a table."""
MOST = {".csv": 20, ".html": 0}
"""Lines that are kept of some kinds of files; of all their number is."""


def commands() -> list[str]:
    """Return the commands."""
    return SESSION.strip().splitlines()


def prepare(folder: Path) -> None:
    """Write what commands read."""
    write_files(folder)
    few = CONFIG | {"name": "few", "source": SMALL["source"] | {"users": 2}}
    shards = CONFIG | {"name": "shards", "strategies": {"sisa": SHARDS}, "references": {"kinds": ["retrained"]}}
    many = SMALL | {"name": "many", "scenario": {"name": "domain-incremental", "kind": "permuted", "domains": 45}}
    files = {
        "many": many,
        "small": CONFIG,
        "few": few,
        "shards": shards,
        "long": CONFIG | LONG | {"name": "long"},
        "study": STUDY,
    }
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def said(command: str) -> dict[str, Any]:
    """Return how a command ends, and what it prints."""
    first, _, rest = command.partition(" ")
    kind, arguments = (first, rest) if first in ("terminal", "ascii") else ("", command)
    out, err = (io.TextIOWrapper(io.BytesIO(), "ascii" if kind == "ascii" else "utf-8", "replace") for _ in range(2))
    words = [w for word in shlex.split(arguments) for w in (sorted(map(str, Path().glob(word))) or [word])]
    code: object = 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["lifelong", *words])
        if kind == "terminal":
            patch.setenv("FORCE_COLOR", "1")
        try:
            main()
        except SystemExit as error:
            code = error.code
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    return {"exit": code, **{name: lines_of(t) for name, t in zip(("out", "err"), texts, strict=True) if t.strip()}}


def lines_of(text: str) -> list[str]:
    """Return the lines of what was printed, without colours and what a machine decides."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace(os.getcwd(), "HERE")
    text = re.sub(r"\b\d+(?:\.\d+)? (?:s|min|h|ms|MB)\b", "SIZE", steady(text))
    text = re.sub(r'("(?:cpu_seconds|wall_seconds|bytes|seconds|workers)": )[\d.e-]+', r"\1SIZE", text)
    text = re.sub(r"on \d+ cores", "on CORES", text).replace(", SIZE left", "")
    text = re.sub(r"(Usage: .*)(?s:.*)", r"\1", text)  # Typer's words
    text = re.sub(r"Traceback.*\n(?s:(?: .*?\n)|\n)*", "Traceback\n", text)
    if "HERE" in text or "RUNS/" in text:  # columns are as wide as the names of folders
        text = re.sub(" {2,}", "  ", text)
    lines = (line.rstrip() for line in re.split(r"[\r\n]+", text))
    return [line for line in lines if line and "so far" not in line]  # that is said where something takes long


def options_of(command: Callable[..., Any]) -> dict[str, list[Any]]:
    """Return the parameters of a command: names, type, default, bounds, metavar and help."""
    hints, found = get_type_hints(command, include_extras=True), {}
    for parameter in inspect.signature(command).parameters.values():
        kind, *about = get_args(hints[parameter.name]) or (hints[parameter.name],)
        default = None if parameter.default is parameter.empty else parameter.default
        default = default if isinstance(default, bool | int | float | list) else str(default)
        limits = [[a.param_decls, a.min, a.max, a.metavar, a.help] for a in about if hasattr(a, "param_decls")]
        found[parameter.name] = [str(kind), default, *limits]
    return found


def helps() -> dict[str, dict[str, Any]]:
    """Return what every command says of itself."""
    commands = {c.name or c.callback.__name__: c.callback for c in app.registered_commands if c.callback is not None}
    return {name: {"help": inspect.getdoc(c), **options_of(c)} for name, c in commands.items()}


@contextlib.contextmanager
def here(folder: Path, pages: dict[str, Any]) -> Iterator[None]:
    """Work in `folder`, in one process; the page of a study is written once for each number of unfinished runs."""
    render = study_report.render

    def rendered(of: Any) -> str:
        name = f"page with {len(of.unfinished)} unfinished runs"
        if name not in pages:
            page = render(of)
            pages[name] = {"words": words_of(page, ["repeat", "metrics"]), **figures_of(page)}
        return "a page"

    with made_up(folder), pytest.MonkeyPatch.context() as patch:
        for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "SLURM_ARRAY_TASK_ID", "NO_COLOR"):
            patch.delenv(name, raising=False)
        patch.setenv("COLUMNS", WIDTH)
        patch.setenv("TERM", "xterm")
        patch.setattr(forkserver, "start_forkserver", lambda: None)
        patch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))
        patch.setattr(html, "render", lambda facts: "a page")  # `test_made_up.py` has pages of runs
        patch.setattr(study_report, "render", rendered)
        patch.setattr(lives, "call", lambda function, *arguments: function(*arguments))
        for module in (local, place):
            patch.setattr(module, "run_local", lambda todo, workers=None: map(jobs.execute, todo))
        yield


def played(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what all commands say, and the beginnings of files that they wrote."""
    prepare(folder)
    pages: dict[str, Any] = {}
    with here(folder, pages):
        record: dict[str, Any] = {}
        for command in commands():
            record[f"{command} (again)" if command in record else command] = said(command)
        files = {file for pattern in WRITTEN for file in Path().glob(pattern)}
        for file in sorted(files):
            lines = file.read_text(encoding="utf-8").splitlines()
            name = steady(str(file)).replace(os.sep, "/")
            shown = lines[: MOST.get(file.suffix)]
            record[f"file {name}"] = {"lines": len(lines), "begins": lines_of("\n".join(shown))}
    return record | pages


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return json.loads(json.dumps(played(tmp_path_factory.mktemp("commands"))))


def records() -> dict[str, dict[str, Any]]:
    """Return what is committed."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def test_every_command_has_the_options_that_are_committed() -> None:
    assert list(differences(json.loads(json.dumps(helps())), records()["helps"])) == []


def test_every_command_says_what_is_committed(session: dict[str, dict[str, Any]]) -> None:
    expected = records()["session"]
    assert list(session) == list(expected)
    assert list(differences(session, expected))[:12] == []


def main_here() -> None:
    """Write all records anew, as commands build on each other."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write(FILE, {"helps": helps(), "session": played(Path(folder))})


if __name__ == "__main__":
    main_here()
