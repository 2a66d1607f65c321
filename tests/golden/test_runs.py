"""Small runs of many kinds, a study, networks and sized systems: sums of all their rows and numbers are committed.

Rounding makes other numbers on other processors, so that these records are held against what comes out on the kind of
processor that they were made on, every night. If a change is meant, write them anew and look at the difference before
committing it::

    python tests/golden/test_runs.py [NAME ...]
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from contract.recorded import kept, made_here, processor, skip_elsewhere, write

import lifelong
from lifelong.audits import _judge
from lifelong.capacity.simulate import System, waits
from lifelong.capacity.sizing import Load, size, systems
from lifelong.config.run import RunConfig
from lifelong.execution.runner import Run
from lifelong.report import facts as facts_module
from lifelong.report import html, latex, markdown
from lifelong.report.facts import gather
from lifelong.report.gathering import gather_lives
from lifelong.report.study import render
from lifelong.results.table import Table
from lifelong.study.jobs import execute
from lifelong.study.study import Study
from strategies.parts.model import FlatModel
from streams.config import parse
from streams.randomness import Key, seeded_globals
from streams.registry import load
from streams.text import ANSWER, GIVEN, IMAGE

FILE = Path(__file__).with_name("runs.json")
MADE = [*made_here(), processor()]
TOLERANCE, NOISE = 1e-6, 1e-6
BLOBS = {"name": "arrays", "path": "blobs.npz"}
SEVERAL = {
    "name": "explicit",
    "requests": [
        {"after": 1, "scope": "sample", "count": 8},
        {"after": 2, "scope": "class", "keys": [1], "again_after": 3},
        {"after": 3, "scope": "user", "keys": [3]},
    ],
}
ASCENT = {"name": "gradient-ascent", "lr": 0.01, "epochs": 1}
SMALL: dict[str, Any] = {"model": {"name": "mlp", "hidden": [12]}, "training": {"epochs": 2, "lr": 0.1}}
SHORT = {"answers": "short", "vocabulary": 320}
ALL_KINDS = ["retrained", "retrained-2", "original", "withheld", "no-op", "fresh", "joint"]

RUNS: dict[str, dict[str, Any]] = {
    "references": SMALL
    | {
        "scenario": {"name": "class-incremental", "experiences": 3},
        "schedule": SEVERAL,
        "strategies": {
            "ascent": {"learner": ["ewc", {"name": "replay", "memory": 40}], "unlearner": ASCENT},
            "none": {"unlearner": "none"},
            "sisa": {"isolated": {"name": "sisa", "shards": 2, "slices": 2}},
        },
        "references": {"kinds": ALL_KINDS},
    },
    "audits": {
        "source": BLOBS,
        "scenario": "joint",
        "schedule": {
            "name": "explicit",
            "requests": [{"after": 1, "scope": "sample", "count": 40}, {"after": 1, "scope": "class", "keys": [0]}],
        },
        "model": {"name": "mlp", "hidden": [24]},
        "training": {"epochs": 8, "batch_size": 32, "lr": 0.15},
        "strategies": {"none": {"unlearner": "none"}, "finetune": {"unlearner": "finetune"}},
        "evaluation": {"audits": [{"name": "relearn", "steps": 40}, "readout", "weights"]},
        "references": {"kinds": ["retrained", "retrained-2"], "shadows": 8},
    },
    "recurring": SMALL
    | {
        "scenario": {"name": "recurring", "tasks": 14, "classes_per_task": 3, "unevenness": 0.5},
        "schedule": {"name": "periodic", "scope": "sample", "samples": 6, "every": 3},
        "service": {"wait_for": 2, "deadline": 3},
        "strategies": {"replay": {"learner": {"name": "replay", "memory": 30}, "unlearner": ASCENT}},
        "evaluation": {
            **{"every": 2, "follow": "geometric", "dense_every": 2, "tests": 20, "top_classes": 3, "probe": 60},
            "detailed_every": 4,
        },
        "references": {"kinds": ["retrained", "withheld"], "every": 2},
    },
    "few references": SMALL
    | {
        "scenario": {"name": "online", "experiences": 3, "chunk": 120},
        "schedule": {"name": "periodic", "scope": "user", "every": 2},
        "strategies": {"der": {"learner": {"name": "der-plus-plus", "memory": 30}, "unlearner": ASCENT}},
        "evaluation": {"follow": 1, "audits": "weights", "audits_every": 3},
        "references": {"kinds": ["retrained"], "most": 2},
    },
    "subnetworks": SMALL
    | {
        "scenario": {"name": "task-incremental", "experiences": 5},
        "schedule": {"name": "published", "sequence": "clpu"},
        "strategies": {"exssnet": {"isolated": "exssnet"}, "clpu": {"isolated": {"name": "clpu-der", "memory": 30}}},
    },
    "domains": SMALL
    | {
        "scenario": {"name": "domain-incremental", "kind": "rotated", "domains": 3},
        "schedule": {"name": "burst", "scope": "class", "after": 2, "requests": 2, "reason": "suppress"},
        "strategies": {"online-ewc": {"learner": "online-ewc", "unlearner": "random-label"}},
        "references": {"kinds": ["retrained", "joint"]},
    },
    "regression": SMALL
    | {
        "source": {"name": "diabetes", "users": 6},
        "scenario": {"name": "class-incremental", "experiences": 3},
        "objective": "regression",
        "schedule": {"name": "periodic", "scope": "user"},
        "training": {"epochs": 2, "lr": 0.01},
        "strategies": {"none": {"unlearner": "none"}, "finetune": {"unlearner": "finetune"}},
        "references": {"kinds": ["retrained", "original", "joint"]},
    },
    "corrective": SMALL
    | {
        "source": {"name": "corrupted", "of": "digits", "samples": 60, "manipulation": "backdoor"},
        "scenario": {"name": "class-incremental", "experiences": 2},
        "schedule": {"name": "corrective", "found": 0.5, "requests": 2},
        "strategies": {"none": {"unlearner": "none"}, "ascent": {"unlearner": ASCENT}},
        "references": {"kinds": ["retrained", "original", "clean"]},
    },
    "certified": {
        "scenario": {"name": "class-incremental", "experiences": 2},
        "schedule": {
            "name": "explicit",
            "requests": [{"after": 1, "scope": "sample", "count": 3}, {"after": 2, "scope": "class", "keys": [1]}],
        },
        "model": {"name": "mlp", "hidden": []},
        "references": {"kinds": ["retrained"]},
        "strategies": {
            "head": {"isolated": {"name": "certified-head", "l2": 0.01}},
            "ridge": {"isolated": "integer-ridge"},
        },
    },
    "text": {
        "source": {"name": "people", "people": 3, "groups": 1, "holdout": 2, "world": False, **SHORT},
        "scenario": {"name": "class-incremental", "experiences": 2},
        "schedule": {"name": "periodic", "scope": "user", "limit": 2},
        "objective": {"name": "causal-lm", "loss_on": "all"},
        "model": {"name": "tiny-llama", "width": 8, "inner": 16, "depth": 2, "heads": 2},
        "training": {"epochs": 3, "optimizer": "adam", "lr": 0.01, "batch_size": 20},
        "strategies": {"none": {"unlearner": "none"}, "npo": {"unlearner": {"name": "npo", "epochs": 1}}},
        "evaluation": {"audits": ["muse", "relearn-rest", "quantise", "reintroduce", "probe", "relearn"]},
    },
    "selection": {
        "source": {
            **{"name": "instructions", "distributors": ["numbers", "letters"], "samples": 60, "test": 4},
            **{"characters": 3, "size": 16, "users": 3, "vocabulary": 320},
        },
        "scenario": {"name": "class-incremental", "experiences": 2},
        "schedule": {"name": "periodic", "scope": "sample", "samples": 3},
        "objective": "causal-lm",
        "model": {
            **{"name": "tiny-llava", "width": 16, "inner": 32, "depth": 1, "heads": 2, "patch": 8},
            **{"vision_width": 16, "vision_inner": 32, "vision_heads": 2},
        },
        "training": {"epochs": 2, "optimizer": "adam", "lr": 0.01, "batch_size": 20},
        "strategies": {
            "lite": {"learner": {"name": "adapt-infinity", "share": 0.6, "width": 32, "pool": 60}, "unlearner": "none"},
            "balanced": {"learner": "random-selection", "unlearner": "none"},
        },
    },
    "masked": SMALL
    | {
        "scenario": {"name": "task-incremental", "experiences": 4, "class_order": "shuffled"},
        "schedule": {"name": "periodic", "scope": "class", "every": 2},
        "objective": {"name": "classification", "loss": "bce", "mask": "experience"},
        "training": {"epochs": 2, "optimizer": "adam", "lr": 0.01},
        "strategies": {"lwf": {"learner": "lwf", "unlearner": "bad-teacher"}},
        "references": {"kinds": ["retrained", "original"]},
    },
    "worst case": SMALL
    | {
        "scenario": {"name": "class-incremental", "experiences": 2},
        "schedule": {"name": "worst-case", "samples": 20, "rounds": 2, "passes": 1},
        "strategies": {"ascent": {"unlearner": ASCENT}},
    },
    "adaptive": SMALL
    | {
        "scenario": {"name": "class-incremental", "experiences": 3},
        "schedule": {"name": "adaptive", "samples": 6},
        "strategies": {"sisa": {"isolated": {"name": "sisa", "shards": 2, "slices": 2}}},
    },
    "features": {
        "features": {"name": "mlp", "hidden": [16]},
        "scenario": {"name": "class-incremental", "experiences": 2, "class_order": "shuffled"},
        "schedule": {"name": "periodic", "scope": "sample"},
        "model": {"name": "mlp", "hidden": []},
        "training": {"epochs": 2, "lr": 0.1},
        "strategies": {"mas": {"learner": "mas", "unlearner": "ssd"}},
        "trained": "head",
    },
    "guards": {
        "source": {"name": "people", "people": 3, "groups": 1, "holdout": 2, "world": False, **SHORT},
        "scenario": "joint",
        "schedule": {"name": "burst", "after": 1, "scope": "user", "requests": 2},
        "objective": {"name": "causal-lm", "forget_on": "all", "reduction": "sequence"},
        "model": {"name": "tiny-llama", "width": 16, "inner": 32, "depth": 2, "heads": 2},
        "training": {"epochs": 4, "optimizer": "adam", "lr": 0.01, "batch_size": 20},
        "strategies": {"list": {"guard": "in-context"}},
        "evaluation": {"probe": 10},
    },
    "images": {
        "scenario": {"name": "domain-incremental", "kind": "rotated", "domains": 2, "overlap": False},
        "schedule": {"name": "explicit", "requests": [{"after": 1, "scope": "class", "keys": ["3"]}]},
        "objective": {"name": "denoising", "steps": 3},
        "model": {"name": "mlp-denoiser", "width": 24, "blocks": 1},
        "training": {"epochs": 1, "optimizer": "adam", "lr": 2e-3},
        "strategies": {"esd": {"unlearner": {"name": "esd", "steps": 3, "images": 8}}},
        "evaluation": {"audits": [{"name": "images", "per_prompt": 2, "least_accuracy": 0.0}], "probe": 100},
        "recording": {"keep": "images"},
    },
}

STUDY: dict[str, Any] = {
    "name": "golden",
    "claim": "Ascent forgets.",
    "base": RUNS["references"] | {"references": {"kinds": ["retrained", "retrained-2"]}, "strategies": None},
    "grid": {"training.epochs": [1, 2]},
    "seeds": 3,
    "strategies": {"ascent": {"unlearner": ASCENT}, "none": {"unlearner": "none"}, "again": {"unlearner": "retrain"}},
    "comparisons": [{"metric": "average_accuracy", "of": ["ascent", "again"], "minus": "none"}],
    "criteria": [
        {"name": "more", "of": "ascent", "minus": "none", "above": -0.3, "metric": "average_accuracy"},
        {"name": "less", "of": "again", "over": "none", "below": 2.0, "metric": "average_accuracy"},
        {
            **{"name": "equal", "of": "again", "within": "retrained-2", "model": "retrained"},
            **{"metric": "immediate_gap_forget_accuracy", "subject": "requests"},
        },
    ],
}

IMAGES, ROWS = (1, 28, 28), (2, 12)
DECODER = {"width": 16, "inner": 24, "depth": 2, "heads": 2}
MODELS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "mlp": ({"hidden": [9, 7]}, (5,)),
    "lenet": ({}, IMAGES),
    "resnet-18": ({"width": 2}, IMAGES),
    "vit-tiny": ({"width": 8, "depth": 2, "heads": 2, "patch": 14}, IMAGES),
    "text-cnn": ({"vocabulary": 50, "width": 6, "kernels": [2, 3], "filters": 5}, (12,)),
    "tiny-llama": (DECODER, ROWS),
    "tiny-gpt2": (DECODER | {"tied": False}, ROWS),
    "tiny-mixtral": (DECODER | {"experts": 3}, ROWS),
    "tiny-llava": (
        DECODER | {"patch": 8, "vision_width": 8, "vision_inner": 12, "vision_heads": 2},
        (2, 12, 1, 1, 16, 16),
    ),
}

SHORTER = (",", ":")
OTHERS = ("study", "models", "capacity")


def write_files(folder: Path) -> None:
    """Write what runs read: six blobs that overlap."""
    draw = np.random.default_rng(0)
    y = np.tile(np.arange(6), 60)
    x = 0.5 * draw.normal(size=(6, 12))[y] + draw.normal(size=(len(y), 12))
    np.savez(folder / "blobs.npz", x=x.astype(np.float32), y=y, test=np.arange(len(y)) >= 220)


def sums(numbers: list[float | None]) -> list[float]:
    """Return how many there are, how many of them are missing, and two sums: of sizes, and weighted by place."""
    there = np.array([np.nan if v is None else v for v in numbers], dtype=np.float64)
    there[~np.isfinite(there)] = np.nan
    weighted = np.nansum(there * np.cos(np.arange(len(there))))
    sizes = np.nansum(np.abs(there))
    return [len(there), int(np.isnan(there).sum()), *(float(f"{total:.7g}") for total in (sizes, weighted))]


def hash_of(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=6).hexdigest()[:6]


def rows_of(table: Table) -> dict[str, list[Any]]:
    """Return, by model and metric, a hash of what the rows are about and sums of their values."""
    found: dict[str, list[Any]] = {}
    for r in table.rows:
        found.setdefault(f"{r.model} {r.metric}", []).append(r)
    return {
        key: [hash_of([(r.event, r.subject, r.n) for r in rows]), *sums([r.value for r in rows])]
        for key, rows in found.items()
    }


def leaves(value: Any) -> Iterator[float | str | None]:
    """Yield numbers and words of a figure."""
    if isinstance(value, dict) and "bdata" in value:
        yield from np.frombuffer(base64.b64decode(value["bdata"]), dtype=value["dtype"]).astype(float).tolist()
    elif isinstance(value, dict):
        for key, part in value.items():
            if key not in ("template", "uid", "font", "hovertemplate"):
                yield from leaves(part)
    elif isinstance(value, list | tuple | np.ndarray):
        for part in value:
            yield from leaves(part)
    elif isinstance(value, bool | int | float | np.number):
        yield float(value)
    elif value is None or isinstance(value, str):
        yield value


def figure_of(figure: dict[str, Any]) -> list[Any]:
    """Return a hash of the words of a figure, and sums of its numbers."""
    values = list(leaves([figure["data"], figure["layout"]]))
    return [hash_of([v for v in values if isinstance(v, str)]), *sums([v for v in values if not isinstance(v, str)])]


def tables_of(page: str) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield the tables of a page as rows of cells, by section and number in it."""
    for section in page.split("<section")[1:]:
        name = re.search(r'id="(.+?)"', section)
        for place, table in enumerate(re.findall(r"<table.*?</table>", section, flags=re.DOTALL)):
            rows = [
                [re.sub("<.*?>", "", c).strip() for c in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", r, flags=re.DOTALL)]
                for r in re.findall(r"<tr[^>]*>(.*?)</tr>", table, flags=re.DOTALL)
            ]
            yield f"{name[1] if name else '?'} {place}", rows


def table_of(rows: list[list[str]]) -> list[Any]:
    """Return a hash of a table's words, and sums of its numbers."""
    cells = [c for r in rows for c in r]
    numbers = [float(n) for c in cells for n in re.findall(r"-?\d+\.?\d*(?:e[+-]?\d+)?", c)]
    return [hash_of([re.sub(r"[-\d.]+(?:e[+-]?\d+)?", "#", c) for c in cells]), *sums(list(numbers))]


def page_of(page: str) -> dict[str, list[Any]]:
    """Return the record of what stands on a page: its figures and its tables."""
    found = re.findall(r'<script type="application/json" id="figure-(.+?)-data">(.*?)</script>', page)
    record = {f"figure {name}": figure_of(json.loads(text)) for name, text in found}
    unlike = ("repeat", "metrics")
    return record | {name: table_of(rows) for name, rows in tables_of(page) if not name.startswith(unlike)}


def text_of(text: str) -> list[Any]:
    """Return the same of a page in another form, line by line, without what names folders and versions."""
    return table_of([[line] for line in text.splitlines() if "&" in line or line.startswith("|")])


def record_of(run: Run) -> dict[str, Any]:
    """Return what a run comes to."""
    record: dict[str, Any] = {f"rows of {name}": rows_of(table) for name, table in run.tables.items()}
    record["page"] = page_of(html.render(gather(run)))
    record["markdown"] = {"all": text_of(markdown.run_markdown(run))}
    record["latex"] = {"all": text_of(latex.run_latex(run))}
    return record


def record_of_study(folder: Path) -> dict[str, Any]:
    """Return what a study comes to, on its page and in its verdicts."""
    study = Study({k: _without_none(v) for k, v in STUDY.items()}, root=folder)
    for job in study.jobs:
        assert execute(job).error is None
    study.run()
    lives = gather_lives(study)
    record: dict[str, Any] = {"page": page_of(render(lives))}
    record["markdown"] = {"all": text_of(markdown.study_markdown(lives))}
    record["latex"] = {"all": text_of(latex.study_latex(lives))}
    return record


def _without_none(value: Any) -> Any:
    return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value


def lived(name: str, folder: Path) -> dict[str, Any]:
    """Return one record, made in a folder that holds what it reads."""
    if name == "study":
        return record_of_study(folder)
    if name == "models":
        return record_of_models()
    if name == "capacity":
        return record_of_capacity()
    return record_of(lifelong.run(parse(RunConfig, {"name": "golden", **RUNS[name]}), folder))


def record_of_models() -> dict[str, Any]:
    """Return, for every small network, a hash of its parameters, and sums of them and of what it answers."""
    record: dict[str, Any] = {}
    for name, (options, shape) in MODELS.items():
        module: Any = load("models", name)
        with seeded_globals(Key(0)):
            model = FlatModel(module.build(parse(module.Config, options), shape, 60))
            inputs = _inputs(shape)
        model.train(False)
        with torch.no_grad():
            parts = [model.parameters, model(*inputs), model.features(*inputs)]
        layers = [(n, list(p.shape)) for n, p in model.network.named_parameters()]
        record[name] = {
            part: [hash_of(layers), *sums(v.flatten().tolist())]
            for part, v in zip(("parameters", "outputs", "features"), parts, strict=True)
        }
    return record


def _inputs(shape: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    """Return three inputs of a shape: numbers, tokens, or rows of text with images."""
    if len(shape) == 1 and shape[0] > 5:
        return (torch.randint(0, 50, (3, *shape)),)
    if shape[0] != 2:
        return (torch.rand(3, *shape),)
    text = torch.zeros(3, *ROWS, dtype=torch.int32)
    text[:, 0] = torch.randint(3, 60, (3, ROWS[1]))
    text[:, 1], text[:, 1, :4], text[0, :, 9:] = ANSWER, GIVEN, 0
    if len(shape) == 2:
        return (text,)
    text[:, 0, 1], text[:, 1, 1:5] = 0, IMAGE
    return text, torch.randint(0, 256, (3, *shape[2:]), dtype=torch.uint8)


def record_of_capacity() -> dict[str, Any]:
    """Return what sharded systems of all kinds are said to take."""
    grid = {
        "method": ["sisa", "s3t"],
        "distribution": ["uniform", "zipf", "recent"],
        "order": ["rotations", "even", "matched"],
        "retrain_when": ["all-dead", "shard-dead", "below"],
        "sequences": [1, 3],
        "together": [1, 4],
    }
    base = System(shards=3, slices=4, samples=1200, requests=400, epochs=2.0, keep=2)
    record: dict[str, Any] = {}
    for number, system in enumerate(systems(base, grid)):
        told = size(system, Load(rate=50.0, throughput=20.0, checkpoint=1000.0)).to_json()
        values = list(leaves([told, waits(system.together, 10.0, 60, Key(number)).tolist()]))
        key = f"{system.method} {system.distribution} {system.order}"
        numbers = sums([v for v in values if not isinstance(v, str)])
        record.setdefault(key, {})[f"{system.retrain_when} {system.sequences} {system.together}"] = [key, *numbers]
    return record


def made_anew(name: str, folder: Path) -> dict[str, Any]:
    """Return one record; every event took a quarter of a second longer than the one before, and judges are bad."""
    seconds = facts_module._seconds
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LIFELONG_CACHE", str(folder / "cache"))
        patch.setattr(facts_module, "_seconds", lambda file: {e: (e + 1) / 4 for e in seconds(file)})
        patch.setattr(_judge, "STEPS", 30)
        write_files(folder)
        return lived(name, folder / "runs")


def differences(found: Any, expected: Any, where: str = "") -> Iterator[str]:
    """Yield where two records differ."""
    if isinstance(expected, dict):
        for key in [*expected, *(k for k in found if k not in expected)]:
            if (key in found) != (key in expected):
                yield f"{where}{key}: {'new' if key in found else 'missing'}"
            else:
                yield from differences(found[key], expected[key], f"{where}{key}: ")
        return
    (ours, *numbers), (theirs, *wanted) = found, expected
    if ours != theirs or numbers[:2] != wanted[:2]:
        yield f"{where}other rows, words or gaps"
    elif not all(
        math.isclose(a, b, rel_tol=0, abs_tol=TOLERANCE * wanted[2] + NOISE)
        for a, b in zip(numbers, wanted, strict=True)
    ):
        yield f"{where}{numbers}, not {wanted}"


@pytest.mark.nightly
@pytest.mark.parametrize("name", [*RUNS, *OTHERS])
def test_a_run_is_as_committed(name: str, tmp_path: Path) -> None:
    records = json.loads(FILE.read_text(encoding="utf-8"))
    skip_elsewhere(records, MADE)
    found = list(differences(json.loads(json.dumps(made_anew(name, tmp_path))), records[name]))
    assert not found, found[:12]


def main(names: list[str]) -> None:
    """Write records: what is new, and what has one of `names` in its own."""
    torch.set_num_threads(1)  # as in tests; distances of images add up otherwise with more
    old = kept(FILE, names, MADE)
    records: dict[str, Any] = {"made": MADE} | old
    for name in (n for n in [*RUNS, *OTHERS] if n not in old):
        with tempfile.TemporaryDirectory() as folder:
            records[name] = made_anew(name, Path(folder))
        print(name, flush=True)
    write(FILE, {name: records[name] for name in ("made", *RUNS, *OTHERS)}, SHORTER)


if __name__ == "__main__":
    main(sys.argv[1:])
