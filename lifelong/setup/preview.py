"""What a stream looks like before anything is computed: what each event does to each unit, counts, and the effort."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lifelong.config.run import RunConfig
from streams.events import DeletionRequest, Experience
from streams.ledger import Ledger, Life
from streams.stream import Stream

Mark = Literal["", "held", "learn", "again", "part", "all"]

# What is drawn when several events share a column, or several units a row: the rarer, the more it matters.
_WEIGHT: dict[Mark, int] = {"": 0, "held": 1, "learn": 2, "again": 3, "part": 4, "all": 5}


@dataclass(frozen=True, slots=True)
class Preview:
    """A stream, ready to be drawn.

    Attributes:
        units: names.
        marks: for each unit a mark for each event: learned, learned again, deleted in part, deleted as a whole,
            held from before, or nothing.
        events: one record per event.
        counts: totals.
        digest: the stream's.
    """

    units: tuple[str, ...]
    marks: tuple[tuple[Mark, ...], ...]
    events: tuple[dict[str, Any], ...]
    counts: dict[str, int]
    digest: str

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {"digest": self.digest, "counts": self.counts, "units": list(self.units), "events": list(self.events)}


def preview(config: RunConfig, stream: Stream) -> Preview:
    """Play the stream on a ledger alone and write down what happens to every unit."""
    ledger = Ledger(stream.source)
    marks = np.full((len(stream.units), len(stream.events)), "", dtype=object)
    is_held = np.zeros(len(stream.units), dtype=bool)
    ever = np.zeros(len(stream.source), dtype=bool)  # what was learned; what a request had barred before never is
    taught: dict[int, np.ndarray] = {}
    units_of: dict[int, list[int]] = {}
    for number, own in enumerate(stream.units):
        for c in own.classes:
            units_of.setdefault(c, []).append(number)
    records, learned, skipped, visits, steps = [], 0, 0, 0, 0
    for index, (event, record) in enumerate(zip(stream.events, stream.describe(), strict=True)):
        marks[is_held, index] = "held"
        if isinstance(event, Experience):
            admitted = ledger.admit(event)
            count = len(admitted.sample_ids)
            ever[admitted.sample_ids] = True
            learned += 1
            skipped += len(event.sample_ids) - count
            visits += 0 if event.consolidates else count * config.training.epochs
            steps += 0 if event.consolidates else config.training.num_steps(count)
            record = record | {"skipped_samples": len(event.sample_ids) - count}
            classes = stream.source.class_ids[event.sample_ids]
            for unit in event.units:
                unit_ids = event.sample_ids[np.isin(classes, stream.units[unit].classes)]
                taught[unit] = np.union1d(taught.get(unit, unit_ids), unit_ids)
            is_held[list(event.units)] |= count > 0
            marks[list(event.units), index] = ("again" if event.incarnation else "learn") if count else "held"
        else:
            ledger.delete(event)
            named = np.unique(stream.source.class_ids[event.sample_ids]).tolist()
            able = {unit for c in named for unit in units_of.get(c, ()) if unit in taught}
            all_deleted = _touched({unit: taught[unit] for unit in sorted(able)}, event, ledger)
            for unit, gone in all_deleted.items():
                marks[unit, index] = "all" if gone else "part"
                is_held[unit] &= not gone
            latency = [learned - r.received for r in event.requests]
            record = record | {"units": sorted(all_deleted), "latency": latency}
        records.append(record)
    counts = {
        "events": len(stream.events),
        "experiences": len(stream.experiences),
        "requests": len(stream.requests),
        "requests_received": sum(len(r.requests) for r in stream.requests),
        "units": len(stream.units),
        "samples_learned": int(ever.sum()),
        "samples_deleted": int(ever[ledger.deleted_ids].sum()),
        "samples_skipped": skipped,
        "strategies": len(config.strategies),
        "sample_visits_to_learn": visits,
        "steps_to_learn": steps,
    }
    names = tuple(u.name for u in stream.units)
    return Preview(names, tuple(tuple(row) for row in marks), tuple(records), counts, stream.digest())


def _touched(taught: dict[int, np.ndarray], request: DeletionRequest, ledger: Ledger) -> dict[int, bool]:
    """Return the units that the request takes data from, and whether nothing of the unit is left.

    Args:
        taught: by unit that teaches a class of the request's, ascending, the ids that it has taught.
        request: what is deleted.
        ledger: after that.
    """
    deleted = np.zeros(len(ledger.life), dtype=bool)
    deleted[request.sample_ids] = True
    return {unit: not (ledger.life[ids] == Life.LEARNED).any() for unit, ids in taught.items() if deleted[ids].any()}


def compact(marks: Sequence[Sequence[Mark]], columns: int, rows: int) -> list[list[Mark]]:
    """Fit marks into a grid; where cells fall together the weightiest is kept.

    >>> compact([["learn", "held", "all"], ["", "learn", "held"]], 2, 2)
    [['learn', 'all'], ['learn', 'held']]
    """
    across = np.array_split(np.arange(len(marks[0])), min(columns, len(marks[0])))
    down = np.array_split(np.arange(len(marks)), min(rows, len(marks)))
    return [[max((marks[u][e] for u in us for e in es), key=_WEIGHT.__getitem__) for es in across] for us in down]
