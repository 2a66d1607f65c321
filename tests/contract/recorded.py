"""What every strategy's small life came to, and with other options; no change of a method goes unnoticed.

If a change is meant, write them anew and look at the difference before committing it::

    python tests/contract/recorded.py [NAME ...]

This, and every script of records in `tests/golden`, makes what is new, and what has one of the names in its own: all of
it with `""`.
"""

from __future__ import annotations

import json
import platform
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from contract.candidates import Candidate, candidates, image_candidates, picture_candidates, text_candidates
from contract.lived import Lived
from contract.worlds import World, world_of

from strategies.base import Outcome, State, Strategy
from strategies.objectives._base import EVALUATION
from strategies.step import step
from streams.ledger import Ledger

FILE, OPTIONS = Path(__file__).with_name("lives.json"), Path(__file__).with_name("options.json")
TOLERANCE, NOISE = 2e-3, 1e-5
"""Of a number by its size, or by that of the state it sums up, and of what is nearly 0: other processors round
otherwise, and lives drift."""


def made_here() -> list[str]:
    """Return what rounding depends on. Where it is another, a mask or a choice flips now and then, and lives part."""
    return [torch.__version__.partition("+")[0], torch.backends.cpu.get_cpu_capability()]


def processor() -> str:
    """Return which processor this is: short lives are the same to many digits on the very same one alone."""
    file = Path("/proc/cpuinfo")
    models = re.findall(r"(?m)^model name\s*:\s*(.*)$", file.read_text(encoding="utf-8")) if file.exists() else []
    return models[0] if models else platform.processor()


def skip_elsewhere(records: dict[str, Any], here: list[str]) -> None:
    """Skip a test where rounding is not that of the records."""
    if records["made"] != here:
        pytest.skip(f"the records are of torch and processor {records['made']}, and these are {here}")


def kept(file: Path, names: list[str], here: list[str] | None = None) -> dict[str, Any]:
    """Return the records of a file that stay as they are: those that have none of `names` in their own.

    None stays where rounding is another than that of the file (see `made_here`): a file is of one processor.
    """
    records = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if records.pop("made", None) != here:
        return {}
    return {key: record for key, record in records.items() if not any(name in key for name in names)}


def write(file: Path, records: dict[str, Any], separators: tuple[str, str] | None = None) -> None:
    """Write records, one a line."""
    lines = [f" {json.dumps(key)}: {json.dumps(record, separators=separators)}" for key, record in records.items()]
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def places() -> list[tuple[Candidate, str]]:
    """Return every strategy once: in the form that it lives in anyway, on text, with pictures, and on images."""
    return [
        *((c, c.home) for c in candidates() if not c.sampled),
        *((c, "text") for c in text_candidates()),
        *((c, "pictures") for c in picture_candidates()),
        *((c, "images") for c in image_candidates()),
    ]


def record_of(life: Lived) -> dict[str, list[float]]:
    """Return the record of a life that was watched."""
    done = [(m.event.name, m.outcome, m.state) for m in life.moments]
    return _record(life.world, life.strategy, done)


def lived_anew(world: World, candidate: Candidate) -> dict[str, list[float]]:
    """Return the same of a life that nobody watches."""
    strategy, ledger, done = world.build(candidate), world.ledger(), []
    for event in world.stream.events:
        outcome = step(strategy, event, ledger).outcome
        done.append((event.name, outcome, strategy.state_dict()))
    return _record(world, strategy, done)


def _record(world: World, strategy: Strategy, events: list[tuple[str, Outcome, State]]) -> dict[str, list[float]]:
    """Return what happened in every event, and what the strategy says at the end.

    Of an event: steps, samples passed forward and backward, size and a sum of the state (see `sums`), and what the
    strategy tells of itself, in order of name.
    """
    record = {}
    for number, (name, done, state) in enumerate(events):
        told = {f"{s} {m}": v for s, metrics in done.traits.items() for m, v in metrics.items()} | done.losses
        numbers = [done.steps, done.forward, done.backward, *sums(_floats(state))[:2], *(told[n] for n in sorted(told))]
        record[f"{number} {name}"] = [float(f"{x:.6g}") for x in numbers]
    record["answers"] = [float(f"{x:.6g}") for x in sums(_floats(outputs_of(world, strategy)))[:2]]
    return record


def outputs_of(world: World, strategy: Strategy) -> list[torch.Tensor]:
    """Return what a strategy says of every seventh sample."""
    data = Ledger(world.original or world.stream.source, world.stream.task_of)
    objective, rows = world.setting.objective, np.arange(0, len(world.stream.source), 7)
    return [strategy.predict(objective.asked(objective.drawn(b, EVALUATION))) for b in data.lend(rows).batches(64)]


def sums(numbers: list[torch.Tensor]) -> list[float]:
    """Return the sum of sizes of all floats, a sum in which each has a weight by its place, and a check of all else.

    That is of ids, masks and counts: a remainder, in which each has a weight by its place as well.
    """
    sizes, weighted, check = 0.0, 0.0, 0
    for place, tensor in enumerate(numbers):
        values = tensor.detach().flatten()
        if tensor.is_floating_point():
            values = values.double().nan_to_num(0.0, 0.0, 0.0)
            sizes += float(values.abs().sum())
            weighted += float(values @ torch.cos(torch.arange(len(values), dtype=torch.float64) + place))
        else:
            check += int((values.long() % 1009 * (torch.arange(len(values)) % 997 + place + 1)).sum())
    return [sizes, weighted, check % 10007]


def alike(found: list[float] | str, expected: list[float] | str) -> bool:
    """Return whether such sums of two lives of a few steps are the same but for rounding."""
    if isinstance(found, str) or isinstance(expected, str):
        return found == expected
    near = all(abs(a - b) <= NOISE * (expected[0] + 1) for a, b in zip(found[:2], expected, strict=False))
    return near and found[2] == expected[2]


def numbers_of(value: Any) -> list[torch.Tensor]:
    """Return the numbers of a state, in order of name: weights, ids, masks and counts."""
    if isinstance(value, bool | int | float):
        return [torch.tensor(value)]
    return _inside(value, numbers_of)


def _floats(value: Any) -> list[torch.Tensor]:
    """Return the floats of a state, in order of name."""
    return [t for t in _inside(value, _floats) if t.is_floating_point()]


def _inside(value: Any, of: Callable[[Any], list[torch.Tensor]]) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for key in sorted(value, key=str) for t in of(value[key])]
    return [t for part in value for t in of(part)] if isinstance(value, list | tuple) else []


def differs(found: dict[str, list[float]], expected: dict[str, list[float]]) -> str | None:
    """Say where two records differ, or None."""
    if list(found) != list(expected):
        return f"events {list(found)}"
    for name, numbers in found.items():
        wanted = expected[name]
        if len(numbers) != len(wanted):
            return f"{name}: {len(numbers)} numbers, not {len(wanted)}"
        sums = 0 if name == "answers" else 3
        for place, (one, other) in enumerate(zip(numbers, wanted, strict=True)):
            size = wanted[sums] if place in (sums, sums + 1) else abs(other)
            if abs(one - other) > TOLERANCE * size + NOISE:
                return f"{name}: number {place} is {one:g}, not {other:g}"
    return None


def main(names: list[str]) -> None:
    """Write records of lives: what is new, and what has one of `names` in its own."""
    torch.set_num_threads(1)
    old = kept(FILE, names, made_here())
    records: dict[str, Any] = {"made": made_here()}
    for candidate, form in places():
        key = f"{form}-{candidate.name}"
        records[key] = old[key] if key in old else lived_anew(world_of(candidate.place(form)), candidate)
        print(key, flush=True)
    write(FILE, records)


def write_options(names: list[str]) -> None:
    """Write records of options: those of parts that are new, or have one of `names` in theirs."""
    from contract.test_options import halves, records_of  # it imports this file

    here = [*made_here(), processor()]
    old = kept(OPTIONS, names, here)
    records: dict[str, Any] = {"made": here}
    for half in (h for h in halves() if h.form != "images"):
        key = f"{half.kind}-{half.name}"
        records[key] = old[key] if key in old else records_of(half)
        print(key, flush=True)
    write(OPTIONS, records)


if __name__ == "__main__":
    main(sys.argv[1:])
    write_options(sys.argv[1:])
