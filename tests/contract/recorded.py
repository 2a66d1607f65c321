"""What every strategy's small life came to, in a few committed numbers: no change of a method goes unnoticed.

If a change is meant, write them anew and look at the difference before committing it; names are parts of theirs::

    python tests/contract/recorded.py [NAME ...]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from contract.candidates import Candidate, candidates, picture_candidates, text_candidates
from contract.lived import Lived
from contract.worlds import World, world_of

from strategies.base import Outcome, State, Strategy
from strategies.step import step
from streams.ledger import Ledger

FILE = Path(__file__).with_name("lives.json")
TOLERANCE, NOISE = 2e-3, 1e-5
"""Of a number by its size, or by that of the state it sums up, and of what is nearly 0: other processors round
otherwise, and lives drift."""


def made_here() -> list[str]:
    """Return what rounding depends on. Where it is another, a mask or a choice flips now and then, and lives part."""
    return [torch.__version__.partition("+")[0], torch.backends.cpu.get_cpu_capability()]


def places() -> list[tuple[Candidate, str]]:
    """Return every strategy once: in the form that it lives in anyway, on text, and with pictures."""
    return [
        *((c, c.home) for c in candidates() if not c.sampled),
        *((c, "text") for c in text_candidates()),
        *((c, "pictures") for c in picture_candidates()),
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

    Of an event: steps, samples passed forward and backward, size and a sum of the state (see `_sums`), and what the
    strategy tells of itself, in order of name.
    """
    record = {}
    for number, (name, done, state) in enumerate(events):
        told = {f"{s} {m}": v for s, metrics in done.traits.items() for m, v in metrics.items()} | done.losses
        numbers = [done.steps, done.forward, done.backward, *_sums(state), *(told[n] for n in sorted(told))]
        record[f"{number} {name}"] = [float(f"{x:.6g}") for x in numbers]
    data = Ledger(world.original or world.stream.source, world.stream.task_of)
    objective = world.setting.objective
    rows = np.arange(0, len(world.stream.source), 7)
    outputs = [strategy.predict(objective.asked(b)) for b in data.lend(rows).batches(64)]
    record["answers"] = [float(f"{x:.6g}") for x in _sums(outputs)]
    return record


def _sums(value: Any) -> tuple[float, float]:
    """Return the sum of all sizes of numbers, and a sum in which each has a weight by its place."""
    sizes, weighted = 0.0, 0.0
    for place, tensor in enumerate(_tensors(value)):
        numbers = tensor.detach().double().flatten().nan_to_num(0.0, 0.0, 0.0)
        sizes += float(numbers.abs().sum())
        weighted += float(numbers @ torch.cos(torch.arange(len(numbers), dtype=torch.float64) + place))
    return sizes, weighted


def _tensors(value: Any) -> list[torch.Tensor]:
    """Return the floats of a state, in order of name."""
    if isinstance(value, torch.Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict):
        return [t for key in sorted(value, key=str) for t in _tensors(value[key])]
    return [t for part in value for t in _tensors(part)] if isinstance(value, list | tuple) else []


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
    """Write records, all or those whose names contain one of `names`."""
    torch.set_num_threads(1)
    old = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    records: dict[str, Any] = {"made": made_here()}
    for candidate, form in places():
        key = f"{form}-{candidate.name}"
        if key in old and names and not any(name in key for name in names):
            records[key] = old[key]
            continue
        records[key] = lived_anew(world_of(candidate.place(form)), candidate)
        print(key, flush=True)
    lines = [f" {json.dumps(key)}: {json.dumps(record)}" for key, record in records.items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
