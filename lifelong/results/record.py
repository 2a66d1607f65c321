"""What one strategy leaves on disk: rows, per-sample outputs, timings, checkpoints. Kill it anywhere, it goes on.

A checkpoint says how long every file was when it was written. Resuming cuts the files back to that length and plays
the rest again, which gives the same bytes; so after any crash there is either a whole event or none.
"""

from __future__ import annotations

import io
import json
import pickle
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lifelong.evaluation.outputs import Outputs, with_stored
from lifelong.files import write_atomically
from lifelong.results.columns import write_columns
from lifelong.results.table import Row
from strategies.base import State
from streams.errors import CheckpointError

_FORMAT = 1
# Why: docs/decisions.md#checkpoints-are-put-off-when-they-would-cost-more-than-they-save
# A checkpoint may be put off until the last one lies this many times its own cost back.
_PATIENCE = 40.0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A saved moment: the event it follows (-1 before the first) and the strategy's state."""

    event: int
    state: State


class Record:
    """The folder of one strategy of one run."""

    def __init__(self, folder: Path, identity: str, num_samples: int) -> None:
        """Open or create the folder.

        Args:
            folder: where everything goes.
            identity: hash of configuration and code; a checkpoint of anything else is refused.
            num_samples: evaluated samples per event.
        """
        self.folder = folder
        self._identity = identity
        self._num_samples = num_samples
        self._cost, self._saved_at = 0.0, 0.0
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (folder / "details").mkdir(exist_ok=True)
        self._files = {
            name: (folder / name).open("ab") for name in ("results.jsonl", "scores.bin", "losses.bin", "timings.jsonl")
        }

    @property
    def done(self) -> bool:
        """Whether the strategy has lived to the end and its references are written."""
        return (self.folder / "done.json").exists()

    def write(self, rows: list[Row], outputs: Outputs | None = None) -> None:
        """Append rows, and the per-sample outputs they came from."""
        if rows:
            self._files["results.jsonl"].write("".join(r.to_json() + "\n" for r in rows).encode())
        if outputs is not None:
            self._files["scores.bin"].write(outputs.scores.astype("<f4").tobytes())
            self._files["losses.bin"].write(outputs.losses.astype("<f4").tobytes())

    def write_timing(self, timing: dict[str, float | int | str]) -> None:
        """Append what differs from machine to machine: seconds."""
        self._files["timings.jsonl"].write((json.dumps(timing) + "\n").encode())

    def write_details(self, event: int, outputs: Outputs) -> None:
        """Keep what was measured in detail after one event."""
        buffer = io.BytesIO()
        np.savez(buffer, **outputs.stored())  # type: ignore[arg-type]
        write_atomically(self.folder / "details" / f"event-{event:06d}.npz", buffer.getbuffer())

    def read_details(self, event: int, scores: np.ndarray, losses: np.ndarray) -> Outputs:
        """Return the outputs of one event with the details kept for it."""
        file = self.folder / "details" / f"event-{event:06d}.npz"
        if not file.exists():
            return Outputs(scores, losses)
        with np.load(file) as arrays:
            return with_stored(scores, losses, arrays)

    def read_outputs(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and losses, float32 ``[count, N]``, of the initial model and the events so far."""
        self.flush()
        shape = (count, self._num_samples)
        arrays = []
        for name in ("scores.bin", "losses.bin"):
            values = np.fromfile(self.folder / name, dtype="<f4", count=count * self._num_samples)
            if values.size != count * self._num_samples:
                raise CheckpointError(
                    f"{self.folder / name} is shorter than its checkpoint says; delete {self.folder}."
                )
            arrays.append(values.reshape(shape))
        return arrays[0], arrays[1]

    def flush(self) -> None:
        """Hand everything to the operating system; after that, killing the process loses nothing."""
        for file in self._files.values():
            file.flush()

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            file.close()

    def save(self, checkpoint: Checkpoint, must: bool) -> None:
        """Write a checkpoint, unless the last one is so recent that writing would cost more than it saves.

        Args:
            checkpoint: what to save.
            must: write in any case. After a deletion this is so, and then no older checkpoint is kept: it would
                still derive from the deleted data.
        """
        now = time.perf_counter()
        if not must and now - self._saved_at < _PATIENCE * self._cost:
            return
        self.flush()
        content = {
            "format": _FORMAT,
            "identity": self._identity,
            "event": checkpoint.event,
            "alone": must,
            "lengths": {name: file.tell() for name, file in self._files.items()},
            "state": checkpoint.state,
        }
        new = self.folder / "checkpoints" / f"event-{checkpoint.event + 1:06d}.pt"
        write_atomically(new, lambda handle: torch.save(content, handle))
        older = [f for f in sorted(new.parent.glob("event-*.pt")) if f != new]
        for file in older if must else older[:-1]:
            file.unlink()
        self._saved_at = time.perf_counter()
        self._cost = self._saved_at - now

    def latest(self) -> Checkpoint | None:
        """Return the newest intact checkpoint and cut all files back to it, or None if there is none.

        Raises:
            CheckpointError: a checkpoint belongs to another configuration or code, or all are corrupt.
        """
        for part in self.folder.rglob(".*.part"):  # of a process that was killed while it wrote
            part.unlink()
        files = sorted((self.folder / "checkpoints").glob("event-*.pt"), reverse=True)
        broken = []
        for file in files:
            content = _load(file)
            if content is None:
                broken.append(file)
                continue
            if content["identity"] != self._identity:
                raise CheckpointError(
                    f"{file} was written by another configuration or another version of the code. "
                    f"Run again with --fresh to start over, or go back to the version that wrote it."
                )
            self._cut(content["lengths"])
            # A crash may have come between writing this one and removing what derives from deleted data.
            older = [f for f in files if f < file] if content["alone"] else []
            for stale in (*broken, *older):
                stale.unlink()
            return Checkpoint(content["event"], content["state"])
        if broken:
            raise CheckpointError(f"{broken[0]} is corrupt and there is no older one. Run again with --fresh.")
        self._cut(dict.fromkeys(self._files, 0))
        return None

    def finish(self, summary: dict[str, Any]) -> None:
        """Mark the strategy as done."""
        self.flush()
        write_columns(self.folder / "results.jsonl")
        write_atomically(self.folder / "done.json", json.dumps(summary, indent=1).encode())

    def _cut(self, lengths: dict[str, int]) -> None:
        for name, file in self._files.items():
            file.flush()
            if (self.folder / name).stat().st_size < lengths[name]:
                raise CheckpointError(f"{self.folder / name} is shorter than its checkpoint says. Run with --fresh.")
            file.truncate(lengths[name])
            file.seek(0, io.SEEK_END)


def _load(file: Path) -> dict[str, Any] | None:
    """Return a checkpoint's content, or None if the file is not a whole checkpoint of this format."""
    try:
        content = torch.load(file, weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError):
        return None
    whole = isinstance(content, dict) and content.get("format") == _FORMAT
    return content if whole and {"identity", "event", "alone", "lengths", "state"} <= content.keys() else None
