"""What functions of numbers and words return where it is unusual: nothing, one value, ties, NaN, ends of ranges.

Each line of a file in `functions/` is an expression that is evaluated in the module that the heading names (with
`np`, `A` for arrays, `H` for what is in `by_hand.py` (of reports and commands in `reported.py`), what is in `small.py`,
and the tables below); its value is committed, or what it raises. Every public function of the modules in `WHOLE` is in
one. To record another call, write it there. Where a change is meant, or a call is new, write the records of a file (or
of all) anew and look at the difference before committing it::

    python tests/golden/test_functions.py streams
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from golden import by_hand, small
from golden.made_up import differences, write

from lifelong.evaluation.changes import Changes

FOLDER = Path(__file__).with_name("functions")

WHOLE = (
    *("formulas.distance", "formulas.forgetting_score", "formulas.generation", "formulas.informedness"),
    *("formulas.klom", "formulas.language", "formulas.logistic", "formulas.membership", "formulas.muse"),
    *("formulas.per_sample", "formulas.quality", "formulas.calibration", "metrics.knowledge", "study.statistics"),
    *("study.anytime", "study.looks", "capacity.theory"),
)
"""Modules of `lifelong` of which every public function is called."""
AT_NIGHT = ("lifelong.study.inference", "lifelong.study.looks", "pages")
"""Modules whose functions draw thousands of studies, and the file whose calls draw whole pages: at night."""

_DRAW = np.random.default_rng(3)
P, Q = (_DRAW.dirichlet(np.ones(4), 6).round(3) for _ in range(2))
X, Y = (_DRAW.integers(-3, 4, (8, 3)).astype(float) for _ in range(2))
PHI, INSIDE = _DRAW.integers(-4, 9, (16, 5)) / 2, (np.arange(16)[:, None] + np.arange(5)) % 2 == 0
PHI_IN = PHI + 1.5 * INSIDE
LOSSES, CLASSES = _DRAW.integers(0, 9, 24) / 4, np.arange(24) % 3


TOOLS = ("P", "Q", "X", "Y", "PHI", "INSIDE", "PHI_IN", "LOSSES", "CLASSES")
SMALL = {name: value for name, value in vars(small).items() if name.isupper() or name == "Key"}


def plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, np.ndarray | torch.Tensor):
        return plain(value.tolist())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, str):
        return by_hand.without_folders(value)
    if isinstance(value, bool | int | None):
        return value
    if isinstance(value, float | np.floating):
        return float(f"{value:.9g}")
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, set | frozenset):
        return sorted((plain(v) for v in value), key=str)
    if isinstance(value, list | tuple | map) or hasattr(value, "__next__"):
        return [plain(v) for v in value]
    if isinstance(value, Changes):
        return [plain(value[event]) for event in range(len(value))]
    return by_hand.without_folders(str(value))


def value_of(module: str, expression: str) -> Any:
    """Return what an expression in a module comes to, or what it raises."""
    from lifelong.results.table import Row, Table

    rows = [
        Row(0, "run", "stream", "m", 0.25, 4),
        Row(1, "run", "stream", "m", 0.75, 4),
        Row(2, "run", "stream", "m", None, 0, "nothing is left"),
        Row(1, "run", "u", "m", 1.0, 2),
        Row(2, "retrained", "stream", "m", 0.5, 4),
        Row(1, "run", "request-0", "exact", 1.0, 1),
    ]
    names = vars(importlib.import_module(module))
    tools = SMALL | {name: globals()[name] for name in TOOLS} | {"A": np.array, "H": by_hand, "np": np, "torch": torch}
    tools |= {"Path": Path, "Row": Row, "Table": Table, "TABLE": Table(rows)}
    if module.startswith(("lifelong.report", "cli")):  # imported late: it brings all that is drawn
        tools["H"] = importlib.import_module("golden.reported")
    try:
        return plain(eval(expression, tools | dict(names)))
    except Exception as error:
        return by_hand.without_folders(f"{type(error).__name__}: {error}")


@functools.cache
def calls() -> dict[tuple[str, str], list[str]]:
    """Return the expressions, by file and module."""
    found = {}
    for file in sorted(FOLDER.glob("*.txt")):
        for part in ("\n" + file.read_text(encoding="utf-8")).split("\n# ")[1:]:
            module, *lines = part.splitlines()
            found[file.stem, module] = [line for line in lines if line]
    return found


def record_of(file: str, module: str) -> dict[str, Any]:
    """Return the values of all expressions of a module."""
    return {expression: value_of(module, expression) for expression in calls()[file, module]}


@pytest.mark.parametrize(
    ("file", "module"),
    [
        pytest.param(
            f, m, marks=[pytest.mark.nightly] if {f, m} & {*AT_NIGHT} else [], id=f"{m}, {f}" if f == "pages" else m
        )
        for f, m in calls()
    ],
)
def test_functions_return_what_is_committed(file: str, module: str) -> None:
    expected = json.loads((FOLDER / f"{file}.json").read_text(encoding="utf-8"))[module]
    assert list(differences(json.loads(json.dumps(record_of(file, module))), expected)) == []


@pytest.mark.parametrize("module", WHOLE)
def test_every_public_function_is_called(module: str) -> None:
    there = importlib.import_module(f"lifelong.{module}")
    called = "\n".join(line for (_, m), lines in calls().items() if m == there.__name__ for line in lines)
    own = [n for n, f in inspect.getmembers(there, inspect.isfunction) if f.__module__ == there.__name__]
    assert [n for n in own if not n.startswith("_") and f"{n}(" not in called] == []


def main() -> None:
    """Write the records of some files, or of all, anew."""
    torch.set_num_threads(1)
    for file in sys.argv[1:] or sorted({f for f, _ in calls()}):
        write(FOLDER / f"{file}.json", {m: record_of(f, m) for f, m in calls() if f == file})


if __name__ == "__main__":
    main()
