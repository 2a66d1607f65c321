"""What commands print, word by word: sessions at a terminal are committed as text beside this file, in `words/`.

Seconds, dates, folders and hashes are left out. Numbers are held against the record on the kind of processor that it
was made on, and elsewhere only those without decimals, which nothing rounds. If a change is meant, write the records
anew and look at the difference before committing it::

    python tests/golden/test_words.py [NAME ...]
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from contract.recorded import made_here, processor

from cli import main as command_line
from lifelong.report import facts

FOLDER = Path(__file__).with_name("words")
MADE = FOLDER / "made.json"
TINY: dict[str, Any] = {
    "name": "tiny",
    "source": "digits",
    "scenario": {"name": "class-incremental", "experiences": 3},
    "schedule": {
        "name": "explicit",
        "requests": [
            {"after": 1, "scope": "sample", "count": 5},
            {"after": 2, "scope": "class", "keys": [1], "again_after": 3},
        ],
    },
    "model": {"name": "mlp", "hidden": [16]},
    "training": {"epochs": 3, "lr": 0.1},
    "strategies": {
        "kept": {"learner": "naive", "unlearner": "none"},
        "tuned": {"learner": [{"name": "replay", "memory": 40}], "unlearner": "finetune"},
        "again": {"learner": "naive", "unlearner": "retrain"},
        "shards": {"isolated": {"name": "sisa", "shards": 2, "slices": 2}},
    },
    "references": {"kinds": ["retrained", "retrained-2"]},
}
STUDY: dict[str, Any] = {
    "name": "asked",
    "claim": "Retraining answers a request exactly.",
    "base": "one.yaml",
    "grid": {"training.lr": [0.1, 0.02]},
    "seeds": 2,
    "strategies": {
        "kept": {"learner": "naive", "unlearner": "none"},
        "again": {"learner": "replay", "unlearner": "retrain"},
    },
    "comparisons": [{"metric": "average_accuracy", "of": ["again"], "minus": "kept"}],
    "criteria": [
        {"name": "again is exact", "of": "again", "below": 1e-9, "metric": "immediate_js", "subject": "requests"}
        | {"model": "retrained"},
        {"name": "kept is exact", "of": "kept", "below": 1e-9, "metric": "immediate_js", "subject": "requests"}
        | {"model": "retrained"},
        {"name": "more is known", "of": "again", "minus": "kept", "above": 0.0, "metric": "average_accuracy"},
    ],
}
WORDS: dict[str, Any] = {
    "name": "words",
    "source": {"name": "people", "people": 3, "groups": 1, "holdout": 2, "world": False, "answers": "short"}
    | {"vocabulary": 320},
    "scenario": {"name": "class-incremental", "experiences": 2},
    "schedule": {"name": "periodic", "scope": "user", "limit": 1},
    "objective": {"name": "causal-lm", "loss_on": "all"},
    "model": {"name": "tiny-llama", "width": 8, "inner": 16, "depth": 1, "heads": 2},
    "training": {"epochs": 2, "optimizer": "adam", "lr": 0.01, "batch_size": 20},
    "strategies": {"npo": {"unlearner": {"name": "npo", "epochs": 1}}, "guarded": {"guard": "in-context"}},
}
FILES = {
    "tiny.yaml": TINY,
    "one.yaml": TINY | {"strategies": None},
    "study.yaml": STUDY,
    "words.yaml": WORDS,
    "long.yaml": TINY
    | {
        "name": "long",
        "scenario": {"name": "recurring", "tasks": 90, "samples_per_class": 2},
        "schedule": {"name": "periodic", "every": 20, "samples": 1},
        "service": {"wait_for": 2, "deadline": 30},
    },
}
KINDS = ("scenarios", "schedules", "objectives", "metrics", "trackers")

SESSIONS: dict[str, list[str]] = {
    "run": [
        "preview tiny.yaml",
        "preview long.yaml",
        "preview tiny.yaml --json",
        "run tiny.yaml",
        "run tiny.yaml --json --quiet",
        "compare last --strategy tuned --strategy again",
        "compare last --json",
        "report last --format md --out out.md",
        "report last --format tex --out out.tex",
        "report last --format csv --out out.csv",
        "verify last --requests 1 --no-controls",
        "verify last --requests 1 --no-controls --json --quiet",
        "capacity --run last --samples 1000 --requests 200",
        "traces last --sample 12",
        "clean last --deleted --dry-run",
        "clean last",
        "run tiny.yaml --set training.lr=0.02 --set references.kinds=[]",
        "compare tiny- last --strategy kept",
        "resume last",
    ],
    "seeds": ["run tiny.yaml --seeds 2 --quiet", "run tiny.yaml --seeds 2 --json --quiet"],
    "terminal": ["run tiny.yaml --quiet", "preview tiny.yaml", "list schedules"],
    "study": [
        "study study.yaml --list-jobs",
        *(f"study study.yaml --job {number}" for number in range(4)),
        "study study.yaml --collect",
        *(f"study study.yaml --job {number}" for number in range(4, 8)),
        "study study.yaml --list-jobs --json",
        "study study.yaml --collect",
        "study study.yaml --collect --json",
        "study study.yaml --dry-run",
        "report asked --format md --out study.md",
        "report asked --format tex --out study.tex",
    ],
    "text": ["preview words.yaml", "run words.yaml", "export-model last npo --out model", "report last --format md"],
    "capacity": [
        "capacity --samples 1000 --requests 300",
        "capacity --method s3t --samples 1000 --requests 300 --distribution zipf --order matched --retrain-when below",
        "capacity --method sisa --shards 2,4 --together 1,5 --samples 1000 --requests 300 --json",
    ],
    "named": [
        *(f"list {kind}" for kind in KINDS),
        "show quickstart",
        "show sisa",
        "show learners replay --json",
        "show npo",
        "show digits",
        "init mine",
    ],
    "refused": [
        "run nothing",
        "run tiny.yaml --set nothing",
        "run tiny.yaml --set training.nothing=1",
        "run tiny.yaml --set source.name=digit",
        "run tiny.yaml --set seed=[1,2]",
        "run study.yaml",
        "study tiny.yaml",
        "study nothing",
        "study study.yaml --dry-run --collect",
        "study study.yaml --job x",
        "study study.yaml --job 99",
        "study study.yaml --job slurm",
        "study study.yaml --size small",
        "report nothing",
        "compare nothing",
        "clean",
        "clean --older-than 30 --deleted",
        "clean --older-than 30",
        "capacity --rate 0",
        "capacity --shards x",
        "capacity --method other",
        "show nothing",
        "list nothing",
        "export-model nothing npo",
        "tune tiny.yaml --strategy nothing",
    ],
}
"""Commands, one after the other, in a folder of their own."""

MASKS = [
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(\+00:00|Z)?", "DATE"),
    (r"\b(?=[0-9a-f]*[a-f])(?=[0-9a-f]*\d)[0-9a-f]{7,64}\b", "HASH"),
    (r"\b\d[\d,.]*(?= ?(s|ms|min|h|days?|MB|kB)\b)", "#"),
    (r"\b\d+:\d\d(:\d\d)?\b", "#"),
    (r'("[a-z_]*seconds"): [\d.e-]+', r"\1: #"),
    (r"(?m)^strategy \d+/\d+ \S+: \d+/\d+ events.*\n", ""),  # a sign of life, where it takes long
]


def masked(text: str, folder: Path) -> str:
    """Return what is printed without what differs from one time to the next."""
    text = text.replace(str(folder), "HERE")
    for pattern, instead in MASKS:
        text = re.sub(pattern, instead, text)
    return "\n".join(line.rstrip() for line in text.splitlines())


def printed(command: str) -> str:
    """Return a command with what it prints, its exit status and what it writes to standard error."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lifelong", *shlex.split(command)])
        try:
            command_line.main()
        except SystemExit as error:
            status = int(error.code or 0)
    parts = [f"$ lifelong {command}", out.getvalue().rstrip()]
    parts += [f"-- standard error\n{err.getvalue().rstrip()}"] if err.getvalue().strip() else []
    return "\n".join([*parts, *([f"-- exit status {status}"] if status else []), ""])


def session(name: str, folder: Path) -> str:
    """Return all that the commands of a session print, and what they write as text."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LIFELONG_CACHE", str(folder / "cache"))
        patch.setenv("COLUMNS", "120")
        patch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
        for variable in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            patch.delenv(variable, raising=False)
        if name == "terminal":
            patch.setenv("FORCE_COLOR", "1")
            patch.setenv("NO_COLOR", "1")
            patch.setenv("COLUMNS", "70")
        seconds = facts._seconds
        patch.setattr(facts, "_seconds", lambda file: {e: (e + 1) / 4 for e in seconds(file)})
        for file, content in FILES.items():
            Path(file).write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}), encoding="utf-8")
        told = [printed(command) for command in SESSIONS[name]]
        written = [f"== {f}\n{f.read_text(encoding='utf-8')}" for f in sorted(Path().glob("*.[mtc][desx][xv]*"))]
        return masked("\n".join([*told, *written]), folder) + "\n"


def without_decimals(text: str) -> str:
    """Return a text without numbers that depend on rounding, and without what lines them up."""
    return re.sub(r"[ -]+", " ", re.sub(r"-?\d+\.\d+(e[-+]\d+)?", "#", text))


@pytest.mark.nightly
@pytest.mark.parametrize("name", list(SESSIONS))
def test_what_is_printed_is_as_committed(name: str, tmp_path: Path) -> None:
    found, expected = session(name, tmp_path), (FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    if json.loads(MADE.read_text(encoding="utf-8")) != [*made_here(), processor()]:
        found, expected = without_decimals(found), without_decimals(expected)
    assert found.splitlines() == expected.splitlines()


def main(names: list[str]) -> None:
    """Write records, all or those of sessions whose names contain one of `names`."""
    FOLDER.mkdir(exist_ok=True)
    for name in SESSIONS:
        if not names or any(part in name for part in names):
            with tempfile.TemporaryDirectory() as folder:
                text = session(name, Path(folder).resolve())
            (FOLDER / f"{name}.txt").write_text(text, encoding="utf-8")
            print(name, flush=True)
    MADE.write_text(json.dumps([*made_here(), processor()]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
