"""What every option of a run, of its objective, model and audits does to its rows, or why it is refused: committed.

Each is set to other values in a small run, one at a time, some of them out of range; options of strategies are in
`contract/options.json`, those of streams in `stream_options.json`. Held against what comes out on the kind of processor
that the records were made on. If a change is meant, write them anew and look at the difference before committing it::

    python tests/golden/test_run_options.py [NAME ...]
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic_core import PydanticUndefined

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from contract.changes import Change, Options, is_switch, options_of, others, value_of, with_option
from contract.recorded import kept, skip_elsewhere, write
from golden.test_runs import ASCENT, MADE, NOISE, RUNS, SEVERAL, SHORT, SMALL, TOLERANCE, hash_of, sums

import lifelong
from lifelong.audits import _judge
from lifelong.config.run import RunConfig
from streams.config import parse
from streams.errors import LifelongError
from streams.registry import load

FILE = Path(__file__).with_name("run_options.json")
PARTS = {"objective": "objectives", "model": "models"}
LEFT_OUT = ("name", "device", "threads", "recording", "strategies")
"""Options that change no row, or depend on the machine."""
RUN = SMALL | {
    "scenario": {"name": "class-incremental", "experiences": 3},
    "schedule": SEVERAL,
    "strategies": {"ascent": {"learner": {"name": "replay", "memory": 40}, "unlearner": ASCENT}},
    "training": {"epochs": 2, "lr": 0.1, "momentum": 0.5, "weight_decay": 0.01},
    "evaluation": {"audits": [{"name": "relearn", "steps": 10, "lr": 0.1}]},
    "references": {"kinds": ["retrained", "withheld"]},
}
PICTURE = {"per_prompt": 2, "least_accuracy": 0.0}
BASES: dict[str, tuple[Options, int]] = {
    "classes": (RUN, 3),
    "adam": (
        RUN
        | {
            "objective": {"name": "classification", "mask": "experience"},
            "training": {"optimizer": "adam", "clip_norm": 0.5},
            "scenario": {"name": "task-incremental", "experiences": 3},
            "evaluation": {"follow": 1, "tests": 9, "probe": 30},
        },
        1,
    ),
    "text": (RUNS["text"] | {"evaluation": {"audits": ["muse", "relearn-rest", {"name": "relearn", "steps": 20}]}}, 2),
    "answers": (
        RUNS["text"]
        | {
            "source": {"name": "people", "people": 2, "groups": 1, "holdout": 1, "world": False, **SHORT},
            "objective": {"name": "causal-lm", "loss_on": "all", "answers": {"tokens": 3}},
            "strategies": {"npo": {"unlearner": {"name": "npo", "epochs": 1}}},
            "evaluation": {},
        },
        1,
    ),
    "pictures": (RUNS["images"], 1),
    "attacked": (
        RUNS["images"]
        | {
            "strategies": {"none": {"unlearner": "none"}},
            "evaluation": {
                "audits": [
                    {"name": "unlearn-diff-atk", **PICTURE, "most_prompts": 2, "words": 2, "tries": 2, "steps": 2},
                    {"name": "invert", **PICTURE, "most_prompts": 2, "steps": 2, "batch_size": 4},
                ],
                "probe": 20,
            },
        },
        1,
    ),
}
"""Small runs, and how many values of an option that says how much are tried."""
WHOLE, AUDITS = ("classes", "adam"), ("text", "attacked")
"""Runs of which all options are changed, and those of audits alone; of the others those of objective and model, too."""


def changes(name: str) -> dict[str, Options]:
    """Return configurations in which one option of a small run is another, by what is changed."""
    base, most = BASES[name]
    found: dict[str, Options] = {"": base}
    if name in WHOLE:
        found |= {f"{'.'.join(p)}={v!r}": with_option(base, p, v) for p, v in _others(RunConfig, base, most)}
    for key, kind in PARTS.items():
        if key in base and name not in AUDITS:
            found |= {f"{key}.{c}": base | {key: new} for c, new in _of_part(kind, base[key], most)}
    audits = base.get("evaluation", {}).get("audits", [])
    for place, audit in enumerate(audits):
        for change, new in _of_part("audits", audit, most):
            changed = with_option(base, ("evaluation", "audits"), [*audits[:place], new, *audits[place + 1 :]])
            found[f"audits.{new['name']}.{change}"] = changed
    return {change: config for change, config in found.items() if not change.startswith(LEFT_OUT)}


def _of_part(kind: str, given: str | Options, most: int) -> Iterator[tuple[str, Options]]:
    named = {"name": given} if isinstance(given, str) else given
    own = {k: v for k, v in named.items() if k != "name"}
    for path, value in _others(load(kind, named["name"]).Config, own, most):
        yield f"{'.'.join(path)}={value!r}", with_option(named, path, value)


def _others(config: Any, own: Options, most: int) -> Iterator[Change]:
    parsed = parse(config, dict(own))
    for path, annotation, default in options_of(config):
        values = [v for v in others(annotation, value_of(parsed, path), default) if v is not PydanticUndefined]
        yield from ((path, value) for value in values[: 5 if is_switch(annotation) else most])


def come_of(config: Options, folder: Path) -> list[Any] | str:
    """Return a hash of what the rows of a run are about, and sums of their values, or what refuses the run."""
    try:
        run = lifelong.run(parse(RunConfig, {"name": "options", **config}), folder)
    except LifelongError as error:
        return str(error)
    rows = [r for table in run.tables.values() for r in table.rows]
    return [hash_of([(r.event, r.model, r.metric, r.subject, r.n) for r in rows]), *sums([r.value for r in rows])]


def records_of(name: str, folder: Path, known: Mapping[str, list[Any] | str] = {}) -> dict[str, list[Any] | str]:
    """Return what comes of every change, in a folder that nobody else uses; what is known is not made again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LIFELONG_CACHE", str(folder / "cache"))
        patch.setattr(_judge, "STEPS", 30)
        return {
            change: known.get(change) or come_of(config, folder / "runs") for change, config in changes(name).items()
        }


def alike(found: list[Any] | str, expected: list[Any] | str) -> bool:
    """Return whether rows are about the same, and their sums but for rounding."""
    if isinstance(found, str) or isinstance(expected, str):
        return found == expected
    near = pytest.approx(expected[3:], rel=0, abs=TOLERANCE * expected[3] + NOISE)
    return found[:3] == expected[:3] and found[3:] == near


@pytest.mark.nightly
@pytest.mark.parametrize("name", list(BASES))
def test_what_an_option_does_to_a_run_is_as_committed(name: str, tmp_path: Path) -> None:
    records = json.loads(FILE.read_text(encoding="utf-8"))
    skip_elsewhere(records, MADE)
    expected, found = records[name], records_of(name, tmp_path)
    assert list(found) == list(expected)
    assert {c: (v, expected[c]) for c, v in found.items() if not alike(v, expected[c])} == {}


def main(names: list[str]) -> None:
    """Write records: what is new, and of runs that have one of `names` in theirs everything."""
    torch.set_num_threads(1)  # as in tests; distances of images add up otherwise with more
    old = kept(FILE, names, MADE)
    records: dict[str, Any] = {"made": MADE}
    for name in BASES:
        with tempfile.TemporaryDirectory() as folder:
            records[name] = records_of(name, Path(folder), old.get(name, {}))
        print(name, len(records[name]), flush=True)
    write(FILE, records)


if __name__ == "__main__":
    main(sys.argv[1:])
