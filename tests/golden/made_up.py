"""Small lives whose models answer what is made up from names and numbers, the same on every processor.

What a model learns depends on how a processor rounds; what metrics, reports and commands make of its answers should
not. So the models of these runs train as usual, and where they are evaluated their answers are replaced: by numbers
that a sample, a model's place in the run and the event decide. They are coarse, so that there are ties, and a model
knows some samples and forgets others. Clocks tick a quarter of a second each time that they are read.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lifelong
from lifelong.config.run import RunConfig
from lifelong.evaluation.evaluator import Evaluator
from lifelong.execution import life
from lifelong.execution.runner import Run
from lifelong.references import shadows, tree
from streams.config import parse

TOLERANCE, NOISE = 2e-5, 2e-6
"""Of a number by its size, and of what is nearly 0: of means and logarithms in single precision."""

SMALL: dict[str, Any] = {
    "source": {"name": "arrays", "path": "few.npz"},
    "model": {"name": "mlp", "hidden": [4]},
    "training": {"epochs": 1, "lr": 0.01},
    "strategies": {"none": {"unlearner": "none"}, "ascent": {"unlearner": {"name": "gradient-ascent", "epochs": 1}}},
}
ALL_KINDS = ["retrained", "retrained-2", "original", "withheld", "no-op", "fresh", "joint"]

RUNS: dict[str, dict[str, Any]] = {
    "every reference": SMALL
    | {
        "scenario": {"name": "class-incremental", "experiences": 3},
        "schedule": {
            "name": "explicit",
            "requests": [
                {"after": 1, "scope": "sample", "count": 5},
                {"after": 2, "scope": "class", "keys": ["b"], "again_after": 3},
                {"after": 3, "scope": "user", "keys": ["Ada"]},
            ],
        },
        "strategies": {"none": {"unlearner": "none"}, "independent": {"isolated": "independent"}},
        "references": {"kinds": ALL_KINDS},
    },
    "now and then": SMALL
    | {
        "scenario": {"name": "recurring", "tasks": 9, "classes_per_task": 2, "unevenness": 0.5},
        "schedule": {"name": "periodic", "scope": "sample", "samples": 3, "every": 2},
        "service": {"wait_for": 2, "deadline": 3},
        "evaluation": {
            **{"every": 3, "follow": "geometric", "dense_every": 1, "tests": 2, "top_classes": 2, "probe": 9},
            "detailed_every": 4,
        },
        "references": {"kinds": ["retrained", "withheld"], "every": 2, "most": 2},
    },
    "no request": SMALL
    | {
        "scenario": {"name": "task-incremental", "experiences": 2},
        "strategies": {"naive": {}},
        "evaluation": {"probe": 0},
        "references": {"kinds": ["retrained", "joint"]},
    },
    "one event, and all is gone": SMALL
    | {
        "scenario": "joint",
        "schedule": {
            "name": "explicit",
            "requests": [{"after": 1, "scope": "class", "keys": [c], "exact": c == "a"} for c in "abcdef"],
        },
        "strategies": {"exact": {"unlearner": "retrain"}},
        "references": {"kinds": ["retrained", "original", "joint"]},
    },
    "suppressed domains": SMALL
    | {
        "scenario": {"name": "domain-incremental", "kind": "permuted", "domains": 2},
        "schedule": {"name": "burst", "scope": "class", "after": 1, "requests": 2, "reason": "suppress"},
        "evaluation": {"follow": 1, "probe": 30, "tests": 3},
    },
    "regression": SMALL
    | {
        "source": {"name": "arrays", "path": "targets.csv", "target": "regression", "strata": 3, "users": 3},
        "scenario": {"name": "class-incremental", "experiences": 3},
        "objective": "regression",
        "schedule": {"name": "periodic", "scope": "user"},
        "references": {"kinds": ["retrained", "retrained-2", "joint"]},
    },
    "corrected": SMALL
    | {
        "source": {"name": "corrupted", "of": SMALL["source"], "samples": 12, "manipulation": "confusion"}
        | {"classes": [0, 1]},
        "scenario": "joint",
        "schedule": {"name": "corrective", "found": 0.5, "requests": 2},
        "references": {"kinds": ["retrained", "original", "clean"]},
    },
    "many lives": SMALL
    | {
        "scenario": "joint",
        "schedule": {"name": "explicit", "requests": [{"after": 1, "scope": "sample", "count": 6}]},
        "strategies": {"none": {"unlearner": "none"}},
        "references": {"kinds": [], "shadows": 8},
    },
}


def write_files(folder: Path) -> None:
    """Write what runs read: 96 rows of six classes and three people, and 60 rows with a number to be predicted."""
    draw = np.random.default_rng(0)
    rows = np.arange(96)
    x = draw.integers(0, 4, size=(len(rows), 5)).astype(np.float32)
    users = np.array(["Ada", "Bo", "Cy"])[rows % 7 % 3]
    np.savez(folder / "few.npz", x=x, y=np.array(list("abcdef"))[rows % 6], user=users, test=rows % 4 == 3)
    lines = [f"{a},{b},{a + 2 * b}" for a, b in draw.integers(-4, 5, size=(60, 2))]
    (folder / "targets.csv").write_text("a,b,target\n" + "\n".join(lines) + "\n", encoding="utf-8")


@contextlib.contextmanager
def made_up(folder: Path) -> Iterator[None]:
    """Work in `folder`, with answers that are made up."""
    evaluate, predict = Evaluator.evaluate, Evaluator._predict
    numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
    come, looks = itertools.count(), itertools.count()
    asked_at = 0

    def evaluated(self: Evaluator, strategy: Any, event: int | None = None) -> Any:
        nonlocal asked_at
        asked_at = 50 + next(looks) if event is None else event
        return evaluate(self, strategy, event)

    def answers(self: Evaluator, strategy: Any, batch: Any) -> torch.Tensor:
        real = predict(self, strategy, batch)
        if strategy not in numbers:
            numbers[strategy] = next(come)
        places = torch.arange(real[0].numel()).reshape(real.shape[1:])
        rows = batch.ids.reshape(-1, *[1] * places.dim())
        made = ((7 * rows + 3 * asked_at + 5 * numbers[strategy] + 11 * places + rows * places) % 13).float() / 4
        if real.dim() == 2 and not batch.y.is_floating_point():  # classes: what is known of more and more samples
            known = (5 * batch.ids + asked_at + numbers[strategy]) % 8 < 4
            made[torch.arange(len(batch)), batch.y] += 2.0 * known
        return made

    ticks = itertools.count()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LIFELONG_CACHE", str(folder / "cache"))
        patch.setattr(Evaluator, "evaluate", evaluated)
        patch.setattr(Evaluator, "_predict", answers)
        for module in (life, tree, shadows):
            patch.setattr(module, "now", lambda: next(ticks) / 4)
        yield


def lived(name: str, folder: Path) -> Run:
    """Return one of the runs, lived in a folder that holds what it reads."""
    with made_up(folder):
        root = folder / "runs" / name.replace(" ", "-").replace(",", "")
        return lifelong.run(parse(RunConfig, {"name": "made-up", **RUNS[name]}), root)


def differences(found: Any, expected: Any, where: str = "") -> Iterator[str]:
    """Yield where two records differ by more than rounding: a number that is shown, by one in its last digit."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in [*expected, *(k for k in found if k not in expected)]:
            if (key in found) != (key in expected):
                yield f"{where}{key}: {'new' if key in found else 'missing'}"
            else:
                yield from differences(found[key], expected[key], f"{where}{key}: ")
    elif isinstance(expected, list) and isinstance(found, list):
        if len(found) != len(expected):
            yield f"{where}{len(found)} entries, not {len(expected)}: {_first(found, expected)}"
            return
        for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
            yield from differences(ours, theirs, f"{where}{number}: ")
    elif not _alike(found, expected):
        yield f"{where}{found!r}, not {expected!r}"


def _first(found: list[Any], expected: list[Any]) -> str:
    pairs = itertools.zip_longest(found, expected)
    different = (f"{ours!r}, not {theirs!r}" for ours, theirs in pairs if not _alike(ours, theirs))
    return next(different, "None at the end")


def _alike(found: Any, expected: Any) -> bool:
    if isinstance(found, str) and isinstance(expected, str):
        return found == expected or _same_words(found, expected)
    if isinstance(found, float | int) and isinstance(expected, float | int):
        near = math.isclose(found, expected, rel_tol=TOLERANCE, abs_tol=NOISE)
        return near or (math.isnan(found) and math.isnan(expected))
    return bool(found == expected)


_NUMBER = re.compile(r"-?\d+(?:,\d{3})*\.?\d*(?:e[+-]?\d+)?")


def _same_words(found: str, expected: str) -> bool:
    if _NUMBER.split(found) != _NUMBER.split(expected):
        return False
    return all(map(_same_number, _NUMBER.findall(found), _NUMBER.findall(expected)))


def _same_number(found: str, expected: str) -> bool:
    if found == expected:
        return True
    mantissas = [text.partition("e")[0].replace(",", "") for text in (found, expected)]
    digits = [len(m.partition(".")[2]) for m in mantissas]
    unit = 10.0 ** -digits[0]
    near = abs(float(mantissas[0]) - float(mantissas[1])) <= 1.01 * unit
    return digits[0] == digits[1] > 0 and near and found.partition("e")[2] == expected.partition("e")[2]


def write(file: Path, records: dict[str, Any]) -> None:
    """Write records: every text of a list of texts on a line of its own, and other lists and numbers on one."""
    file.write_text(_written(records, 0) + "\n", encoding="utf-8")


def _written(value: Any, depth: int) -> str:
    indent = "\n" + " " * (depth + 1)
    if isinstance(value, dict) and value and depth < 3:
        parts = [f"{json.dumps(key)}: {_written(part, depth + 1)}" for key, part in value.items()]
        return "{" + indent + ("," + indent).join(parts) + indent[:-1] + "}"
    if isinstance(value, list) and len(value) > 1 and all(isinstance(v, str) for v in value):
        return "[" + indent + ("," + indent).join(map(json.dumps, value)) + indent[:-1] + "]"
    return json.dumps(value)


def made_anew(file: Path, cases: Iterable[str], names: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the records of a file that stay, and the cases to be made: those that are new or have one of `names`."""
    old = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    todo = [case for case in cases if case not in old or any(name in case for name in names)]
    return old, todo
