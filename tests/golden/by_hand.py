"""What expressions of records are about: a small stream, plans to evaluate it, answers, folders of files, a study.

All of it is made of small whole numbers, the same on every processor.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import re
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from lifelong.audits._base import Context
from lifelong.config.run import EvaluationConfig, RunConfig
from lifelong.evaluation.outputs import Certainty, Details, Outputs
from lifelong.evaluation.plan import EvaluationPlan
from lifelong.evaluation.planning import plan_evaluation
from lifelong.results.record import Record
from lifelong.results.table import Row, Table
from lifelong.study.config import Cell, StudyConfig, lay_out
from lifelong.verification.replay import Finding
from strategies.objectives.classification import Classification
from strategies.outcome import Outcome
from streams.config import parse
from streams.events import DeletionRequest, Experience, Request, Unit
from streams.source import Source
from streams.stream import Stream


def _ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


@functools.cache
def source() -> Source:
    """Return 18 rows: of each of three classes four to train and two to test, of three users in turn."""
    rows = np.arange(18)
    return Source(
        name="few",
        licence="none",
        x=torch.from_numpy(np.stack([rows % 5, rows % 7], 1).astype(np.float32)),
        y=torch.from_numpy(rows // 6),
        class_ids=rows // 6,
        user_ids=rows % 3,
        is_test=rows % 6 >= 4,
        class_names=("a", "b", "c"),
        user_names=("Ada", "world", "authors"),
    )


def request(name: str, *asked: tuple[Any, tuple[int, ...], tuple[int, ...], int], **options: Any) -> DeletionRequest:
    """Return a request of (scope, keys, samples, learn events when it came)."""
    return DeletionRequest(name, tuple(Request(s, k, _ids(*i), _ids(), r) for s, k, i, r in asked), **options)


@functools.cache
def stream() -> Stream:
    """Return eight events: two classes, two requests, a third class, a sample again, two requests at once, a class."""
    units = tuple(Unit(f"u{c}", (c,), _ids(6 * c + 4, 6 * c + 5)) for c in range(3))
    events = (
        Experience("e0", (0,), _ids(0, 1, 2, 3)),
        Experience("e1", (1,), _ids(6, 7, 8, 9)),
        request("request-0", ("sample", (0, 1), (0, 1), 2)),
        request("request-1", ("class", (1,), (6, 7, 8, 9), 1)),
        Experience("e2", (2,), _ids(12, 13, 14, 15)),
        Experience("e0", (0,), _ids(0), incarnation=1),
        request("request-2", ("user", (2,), (2, 14), 3), ("task", (2,), (12, 13, 14, 15), 4), reason="correct"),
        Experience("e1", (1,), _ids(6, 7, 8, 9), incarnation=1),
    )
    return Stream(source(), units, events)


@functools.cache
def plan(asks: bool = False, follows: bool = False, unseen: bool = False, **options: Any) -> EvaluationPlan:
    """Return how the stream is evaluated: with records of answers, that follow requests or not, and options."""
    asked = SimpleNamespace(
        follows_requests=follows,
        retained=3,
        averaged=("rouge_recall", "nothing"),
        undefined="why not",
        tests_are_non_members=lambda source: unseen,
    )
    config = EvaluationConfig(**{"probe": 9} | options)
    return plan_evaluation(stream(), config, [asked] if asks else [])  # type: ignore[list-item]


RECORDS = ("min_k", "min_k_plus_plus", "loss", "zlib", "truth_ratio", "rouge_recall", "probability", "choice")


def outputs(number: int, event: int = 3, of: EvaluationPlan | None = None, records: Iterable[str] = ()) -> Outputs:
    """Return the answers of a model, with details and some records after an event."""
    of = of or plan()
    at, detailed = np.arange(len(of.ids)), of.detailed(event)
    weights = 1.0 + (at[:, None] * 3 + number * 5 + np.arange(3) * (2 + number)) % 7
    weights[at, of.classes] += 4 * ((at + number) % 3 > 0)
    p = weights / weights.sum(1, keepdims=True)
    label = p[at, of.classes]
    entropy = -(p * np.log(p)).sum(1)
    certainty = Certainty(np.log(label / (1 - label)), p.max(1), entropy, entropy - np.log(label))
    features = (detailed[:, None] * (2 + np.arange(3)) + number * detailed[:, None] ** 2) % 7 / 4
    losses = ((5 * at + 3 * number) % 8 / 4).astype(np.float32)
    recorded = {
        name: (3 * detailed + 2 * number + 5 * k) % 9 / 8 + 0.125
        for k, name in enumerate(RECORDS)
        if name in records and len(detailed)
    }
    scores = (p.argmax(1) == of.classes).astype(np.float32)
    return Outputs(scores, losses, Details(p[detailed], features, certainty), recorded)


def brief(rows: Iterable[Row]) -> list[str]:
    """Return rows as lines."""
    lines = []
    for r in rows:
        value = "" if r.value is None else f"{round(r.value, 6) + 0.0:.6f} "
        why = f", {r.reason}" if r.reason else ""
        lines.append(f"{r.event} {r.model} {r.subject} {r.metric}: {value}of {r.n}{why}")
    return lines


_ROOT = tempfile.TemporaryDirectory(prefix="records-")
atexit.register(_ROOT.cleanup)
_NUMBER = itertools.count()


def folder(files: dict[str, str | bytes]) -> Path:
    """Return a new folder that holds these files."""
    place = Path(_ROOT.name).resolve() / f"folder-{next(_NUMBER)}"
    place.mkdir()
    for name, content in files.items():
        file = place / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return place


def without_folders(text: str) -> str:
    """Return a text that may name such a folder without its name."""
    return re.sub(re.escape(str(Path(_ROOT.name).resolve())) + r"/folder-\d+", "FOLDER", text)


def config(**keys: Any) -> RunConfig:
    """Return the configuration of a run."""
    return parse(RunConfig, keys)


def study(**keys: Any) -> StudyConfig:
    """Return a study of two strategies on a grid of two values with three seeds."""
    base: dict[str, Any] = {"name": "few", "claim": "it is so", "base": {"model": {"name": "mlp", "hidden": [4]}}}
    grid = {"training.epochs": [1, 2]}
    return parse(StudyConfig, base | {"grid": grid, "strategies": {"naive": {}, "none": {"unlearner": "none"}}} | keys)


def outcome(exactness: Any = "none", erased: bool = False) -> Outcome:
    """Return what an event did."""
    return Outcome(
        *(3, 20, 10), exactness=exactness, weights_erased=erased, losses={"b": 0.5, "a": 0.25}, traits={"s": {"t": 2.0}}
    )


def record() -> Record:
    """Return the record of a life in a folder of its own."""
    return Record(folder({}), "life", plan())


@functools.cache
def judged() -> StudyConfig:
    """Return a study with criteria of all kinds, on rows that `finished` makes."""
    asks: list[dict[str, Any]] = [
        {"name": "high", "metric": "average_accuracy", "of": "naive", "above": 0.4},
        {"name": "better", "metric": "average_accuracy", "of": "naive", "minus": "none", "above": 0.0},
        {"name": "share", "metric": "average_accuracy", "of": "naive", "over": "none", "below": 2.0},
        {
            "name": "near",
            "metric": "gap_average_accuracy",
            "of": "naive",
            "model": "retrained",
            "within": "retrained-2",
        },
        {"name": "first", "metric": "average_accuracy", "of": "naive", "below": 0.9, "where": {"training.epochs": 1}},
        {"name": "longer", "metric": "average_accuracy", "of": "naive", "minus": "none", "above": 0.0}
        | {"where": {"training.epochs": 1}, "against": {"training.epochs": 2}},
        {"name": "chance", "metric": "average_accuracy", "of": "none", "above": 0.1, "chance": 0.9},
    ]
    gate = {"name": "gate", "metric": "average_accuracy", "of": "none", "above": 0.9, "criteria": ["better"]}
    about = {"metric": "average_accuracy", "of": ["naive"]}
    return study(
        seeds=6,
        set={"references.kinds": ["retrained", "retrained-2"]},
        criteria=asks,
        validity=[gate],
        comparisons=[about | {"of": ["naive", "none"], "minus": "none"}],
        variances=[about | {"levels": ["training.epochs"]}],
    )


def finished(seeds: int, gaps: bool = True) -> tuple[tuple[Cell, dict[str, Table]], ...]:
    """Return tables of the runs of that study on so many seeds, of which one has no value."""
    runs = []
    for number, cell in enumerate(lay_out(judged())):
        if cell.seed >= seeds:
            continue
        tables = {}
        for place, name in enumerate(cell.config.strategies):
            value = 0.5 + (7 * number + 3 * place) % 11 / 40 - 0.2 * place
            rows = [Row(3, "run", "stream", "average_accuracy", None if number == 5 else value, 1)]
            if gaps:
                rows += [
                    Row(3, f"retrained{k}", "stream", "gap_average_accuracy", (number % 5 - 2) / 50 + 0.01 * bool(k), 1)
                    for k in ("", "-2")
                ]
            tables[name] = Table(rows)
        runs.append((cell, tables))
    return tuple(runs)


def found(claim: Any = "bits", **options: Any) -> Finding:
    """Return what verification found at a request: that it is upheld, unless `options` say otherwise."""
    passed: dict[str, Any] = {"independent": True, "as_without": True, "stranded": 0, "held": (), "traces": 0}
    return Finding("request-0", 2, 2, claim, **passed | options, digest="", answers="")


def objective() -> Classification:
    """Return an objective of the three classes."""
    return Classification(3)


def audit(kind: Any, config: Any = None, setting: Any = None) -> Any:
    """Return an audit of the small stream, whose rows begin with questions of up to two words."""
    rows = np.arange(18)
    parts = np.where(np.arange(5) <= rows[:, None] % 3, 1, 2)
    tokens = np.where(np.arange(5) == 0, 1, 5 + (rows[:, None] + np.arange(5)) % 9)
    x = torch.from_numpy(np.stack([tokens, parts], 1))
    terms = tuple(f"t{n}" for n in range(5, 14))
    text = SimpleNamespace(values=None, paraphrased=None, terms=terms, subjects=terms[:3])
    text.form = SimpleNamespace(before="", behind="")
    text.tokenizer = SimpleNamespace(decode=lambda ids: " ".join(f"t{n}" for n in ids))
    asked = replace(source(), x=x)
    object.__setattr__(asked, "text", text)
    return kind("audit", config, Context(setting, asked, plan(True), None, stream()))  # type: ignore[arg-type]
