"""What one strategy leaves on disk: rows, per-sample outputs, timings, checkpoints. Kill it anywhere, it goes on.

A checkpoint says how long every file was when it was written, and its digest. Resuming cuts the files back to that
length and plays the rest again, which gives the same bytes; so after any crash there is either a whole event or none.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import pickle
import shutil
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lifelong.evaluation.outputs import Arrays, Outputs, with_stored
from lifelong.evaluation.plan import EvaluationPlan
from lifelong.files import write_atomically
from lifelong.results.columns import write_columns
from lifelong.results.integrity import Appended, Mark, mark_of, with_digest
from lifelong.results.pieces import Pieces, joined, places
from lifelong.results.stored import Stored, packed
from lifelong.results.table import Row
from strategies.base import State
from strategies.outcome import Draw
from strategies.parts.training import timing
from streams.errors import CheckpointError
from streams.files import is_sound_zip

_LOG = logging.getLogger(__name__)
_FORMAT = 3
# Why: docs/decisions.md#checkpoints-are-put-off-when-they-would-cost-more-than-they-save
# A checkpoint may be put off until the last one lies this many times its own cost back.
_PATIENCE = 40.0
_APPENDED = ("results.jsonl", "scores.bin", "losses.bin", "timings.jsonl")
SHOWN = "shown"
"""Folder of what reports show beside numbers."""
DRAWS = "draws"
"""Folder of what a selection drew, a file for each event: the list that another trainer would take."""
_FIELDS = {"identity", "event", "alone", "files", "details", "state", "pieces"}
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A saved moment.

    Attributes:
        event: which it follows; -1 is before the first.
        state: of the strategy.
        whole: whether all of it goes into one file; else what it shares with the state before it lies beside.
    """

    event: int
    state: State
    whole: bool = False


def shown_file(folder: Path, event: int, model: str) -> Path:
    """Return where the folder of a strategy keeps what reports show of a model (run, or a reference) after an event."""
    return folder / SHOWN / f"event-{event:06d}-{model}.npz"


def shown_files(folder: Path) -> dict[int, dict[str, Path]]:
    """Return what `shown_file` names and is there, by event and model, both in order."""
    files: dict[int, dict[str, Path]] = {}
    for file in sorted((folder / SHOWN).glob("event-*.npz")):
        event, _, model = file.stem.removeprefix("event-").partition("-")
        files.setdefault(int(event), {})[model] = file
    return files


class Record:
    """The folder of one strategy of one run."""

    def __init__(
        self, folder: Path, identity: str, plan: EvaluationPlan, keep_details: bool = False, fsync: bool = False
    ) -> None:
        """Open or create the folder.

        Args:
            folder: where everything goes.
            identity: hash of configuration and code; a checkpoint of anything else is refused.
            plan: what is evaluated.
            keep_details: whether details stay when all numbers have been made of them.
            fsync: wait for the disk at every checkpoint.
        """
        self.folder = folder
        self._identity = identity
        self._plan = plan
        self._keep_details, self._fsync = keep_details, fsync
        self._cost, self._saved_at = 0.0, 0.0
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        self._files = {name: Appended(folder / name) for name in _APPENDED}
        self._details = hashlib.blake2b(digest_size=16)  # of all details that were written
        self._pieces = Pieces(folder / "checkpoints" / "pieces", fsync)
        self._pieces_of: dict[Path, set[str]] = {}  # by checkpoint of this process
        self._within = folder / "checkpoints" / "within"

    @property
    def references(self) -> Path:
        """Folder for states of references whose lives are not over, until the strategy is done."""
        return self.folder / "checkpoints" / "references"

    @property
    def done(self) -> bool:
        """Whether the strategy has lived to the end and its references are written."""
        return (self.folder / "done.json").exists()

    def write(self, rows: list[Row], outputs: Outputs | None = None) -> None:
        """Append rows, and the per-sample outputs they came from."""
        if rows:
            self._files["results.jsonl"].write("".join(r.to_json() + "\n" for r in rows).encode())
        if outputs is not None:
            self._files["scores.bin"].write(packed(outputs.scores, outputs.at))
            self._files["losses.bin"].write(packed(outputs.losses, outputs.at))

    def write_timing(self, timing: dict[str, float | int | str]) -> None:
        """Append what differs from machine to machine: seconds."""
        self._files["timings.jsonl"].write((json.dumps(timing) + "\n").encode())

    def write_details(self, event: int, outputs: Outputs) -> None:
        """Keep what was measured in detail after one event."""
        buffer = io.BytesIO()
        np.savez(buffer, **outputs.stored())  # type: ignore[arg-type]
        self._details.update(buffer.getbuffer())
        write_atomically(self._detail(event), buffer.getbuffer(), fsync=self._fsync)

    def write_shown(self, event: int, model: str, arrays: Arrays) -> None:
        """Keep for good what reports show of one model after one event."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        write_atomically(shown_file(self.folder, event, model), buffer.getbuffer(), fsync=self._fsync)

    def write_draw(self, event: int, draw: Draw) -> None:
        """Keep for good which samples were drawn to train on, with the cluster of each where there are clusters."""
        ids = draw.pool[draw.drawn]
        columns = {"sample": ids} if draw.clusters is None else {"sample": ids, "cluster": draw.clusters[draw.drawn]}
        lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
        file = self.folder / DRAWS / f"event-{event:06d}.csv"
        write_atomically(file, ("\n".join(lines) + "\n").encode(), fsync=self._fsync)

    def read_details(self, event: int, outputs: Outputs) -> Outputs:
        """Return the outputs of one event with the details kept for it."""
        file = self._detail(event)
        if not file.exists():
            return outputs
        with np.load(file) as arrays:
            return with_stored(outputs.scores, outputs.losses, arrays)

    def stored(self, count: int) -> Stored:
        """Return scores and losses of the initial model and of the evaluations since, `count` in all.

        Raises:
            CheckpointError: there are fewer.
        """
        self.flush()
        return Stored(self.folder, self._plan, count)

    def flush(self) -> None:
        """Hand everything to the operating system; after that, killing the process loses nothing."""
        for file in self._files.values():
            file.flush(self._fsync)

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            file.close()

    def is_due(self, must: bool) -> bool:
        """Return whether to write a checkpoint: not if the last is so recent that it would cost more than it saves.

        Args:
            must: write in any case, as after a deletion.
        """
        return must or timing.now() - self._saved_at >= _PATIENCE * self._cost

    def save(self, checkpoint: Checkpoint, must: bool) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: what to save.
            must: whether it had to be written. After a deletion this is so, and then no older checkpoint is kept: it
                would still derive from the deleted data.

        Raises:
            CheckpointError: the state holds what no checkpoint can hold.
        """
        now = timing.now()
        if (path := _unsavable(checkpoint.state, "state_dict()")) is not None:
            raise CheckpointError(
                f"{path}, which a checkpoint cannot hold. A state is made of tensors, numbers, texts, None, and dicts, "
                f"lists and tuples of these: torch.from_numpy(array) for an array, .item() for a number of numpy."
            )
        self.flush()
        state, pieces = (checkpoint.state, {}) if checkpoint.whole else self._pieces.split(checkpoint.state)
        content = {
            "format": _FORMAT,
            "identity": self._identity,
            "event": checkpoint.event,
            "alone": must,
            "files": {name: file.mark() for name, file in self._files.items()},
            "details": self._details.hexdigest(),
            "state": state,
            "pieces": pieces,
        }
        new = self.folder / "checkpoints" / f"event-{checkpoint.event + 1:06d}.pt"
        write_atomically(new, lambda handle: torch.save(content, handle), fsync=self._fsync)
        older = [f for f in sorted(new.parent.glob("event-*.pt")) if f != new]
        for file in older if must else older[:-1]:
            file.unlink()
        self._pieces_of[new] = set(pieces.values())
        self._drop_pieces([new] if must else [new, *older[-1:]])
        if self._within.exists():  # of this event or of one before
            shutil.rmtree(self._within)
        self._saved_at = timing.now()
        self._cost = self._saved_at - now

    def within(self, event: int, device: str) -> Within:
        """Return where the states of the trainings of one event are kept; the next checkpoint removes them."""
        return Within(self._within / f"event-{event + 1:06d}", self._identity, device, self._fsync)

    def latest(self, device: str) -> Checkpoint | None:
        """Return the newest intact checkpoint and cut all files back to it, or None if there is none.

        Where the newest is damaged, or does not fit the files beside it, the one before it is taken, with a warning.

        Raises:
            CheckpointError: a checkpoint belongs to another configuration or code, or none can be used.
        """
        for part in self.folder.rglob(".*.part"):  # of a process that was killed while it wrote
            part.unlink()
        files = sorted((self.folder / "checkpoints").glob("event-*.pt"), reverse=True)
        broken: dict[Path, str] = {}
        for file in files:
            content = _load(file, device)
            if content is not None and content["identity"] != self._identity:
                raise CheckpointError(
                    f"{file} was written by another configuration or another version of the code. "
                    f"Run again with --fresh to start over, or go back to the version that wrote it."
                )
            problem = f"{file} is corrupt" if content is None else self._differs(content)
            if content is None or problem is not None:
                broken[file] = problem or ""
                continue
            self._cut({name: mark["bytes"] for name, mark in content["files"].items()})
            self._details = self._hash_details(content["event"])
            for why in broken.values():
                _LOG.warning("%s; going on from %s, the checkpoint before it.", why, file.name)
            # A crash may have come between writing this one and removing what derives from deleted data.
            older = [f for f in files if f < file] if content["alone"] else []
            for stale in (*broken, *older):
                stale.unlink()
            self._drop_pieces([f for f in files if f.exists()])
            self._drop_within(content["event"])
            return Checkpoint(content["event"], content["state"])
        if broken:
            raise CheckpointError(
                f"{next(iter(broken.values()))}, and there is no older checkpoint to go on from. Run again with "
                f"--fresh."
            )
        self._cut(dict.fromkeys(self._files, 0))
        self._drop_within(len(self._plan.measured))
        return None

    def finish(self, summary: dict[str, Any]) -> None:
        """Mark the strategy as done, with digests of what it leaves; drop the details that nothing needs any more."""
        self.flush()
        write_columns(self.folder / "results.jsonl")
        marks: dict[str, Mark] = {name: file.mark() for name, file in self._files.items()}
        kept = [self.folder / "columns.bin", *sorted((self.folder / "checkpoints").glob("event-*.pt"))]
        kept += sorted((self.folder / "details").glob("event-*.npz")) if self._keep_details else []
        kept += sorted((self.folder / SHOWN).glob("event-*.npz"))
        kept += sorted((self.folder / DRAWS).glob("event-*.csv"))
        marks |= {file.relative_to(self.folder).as_posix(): mark_of(file) for file in kept}
        write_atomically(self.folder / "done.json", with_digest(summary | {"files": marks}), fsync=self._fsync)
        self.drop_rest()

    def drop_rest(self) -> None:
        """Remove details, unless they are to be kept, with what they tell of deleted samples; and lives under way."""
        shutil.rmtree(self.references, ignore_errors=True)
        if not self._keep_details:
            shutil.rmtree(self.folder / "details", ignore_errors=True)

    def _drop_pieces(self, checkpoints: list[Path]) -> None:
        """Remove the files beside checkpoints that none of `checkpoints` speaks of."""
        for file in checkpoints:
            if file not in self._pieces_of:
                content = _load(file, "cpu")
                self._pieces_of[file] = set() if content is None else set(content["pieces"].values())
        self._pieces_of = {file: self._pieces_of[file] for file in checkpoints}
        self._pieces.keep_only(set().union(*self._pieces_of.values()))

    def _drop_within(self, last: int) -> None:
        """Remove what was kept within the events up to `last`."""
        for folder in self._within.glob("event-*") if self._within.exists() else ():
            if folder.name <= f"event-{last + 1:06d}":
                shutil.rmtree(folder)

    def _detail(self, event: int) -> Path:
        return self.folder / "details" / f"event-{event:06d}.npz"

    def _hash_details(self, last: int) -> hashlib.blake2b:
        """Return the hash of the details of the events up to `last`, to be gone on with."""
        h = hashlib.blake2b(digest_size=16)
        for file in sorted((self.folder / "details").glob("event-*.npz")):
            if file.name <= self._detail(last).name:
                h.update(file.read_bytes())
        return h

    def _differs(self, content: dict[str, Any]) -> str | None:
        """Return what is wrong with the files that a checkpoint speaks of, or None."""
        problems = [self._files[name].differs(mark) for name, mark in content["files"].items()]
        if self._hash_details(content["event"]).hexdigest() != content["details"]:
            problems.append(
                f"{self.folder / 'details'} is not what its checkpoint says: a file was damaged, edited or removed"
            )
        return next((p for p in problems if p is not None), None)

    def _cut(self, lengths: dict[str, int]) -> None:
        for name, file in self._files.items():
            file.cut(lengths[name])


class Within:
    """The states of the trainings of one event that is not over, a file each (a `Store`)."""

    def __init__(self, folder: Path, identity: str, device: str, fsync: bool) -> None:
        """Keep them in `folder`, which is made when it is needed; load them to `device`."""
        self._folder, self._identity, self._device, self._fsync = folder, identity, device, fsync

    def read(self, number: int) -> State | None:
        """Return the state of a training, or None: there is none, it is damaged, or another version wrote it."""
        file = self._file(number)
        if not file.exists():
            return None
        content = _read_sound(file, self._device)
        if content is None:
            _LOG.warning("%s is corrupt; that training begins again.", file)
            return None
        state: State = content["state"]
        return state if content["identity"] == self._identity else None

    def write(self, number: int, state: State) -> None:
        """Keep the state of a training in place of the one before it.

        Raises:
            CheckpointError: it holds what no checkpoint can hold.
        """
        if (path := _unsavable(state, "what a hook names in `carries`")) is not None:
            raise CheckpointError(f"{path}, which a checkpoint cannot hold. Name tensors, arrays, numbers and texts.")
        self._folder.mkdir(parents=True, exist_ok=True)
        content = {"format": _FORMAT, "identity": self._identity, "state": state}
        write_atomically(self._file(number), lambda handle: torch.save(content, handle), fsync=self._fsync)

    def _file(self, number: int) -> Path:
        return self._folder / f"training-{number:06d}.pt"


def _unsavable(state: object, path: str) -> str | None:
    """Return where a state holds what `torch.load` refuses to read again, and what that is; None if it does not."""
    if isinstance(state, torch.Tensor) or type(state) in _PLAIN:
        return None
    items: list[tuple[str, object]] = []
    if isinstance(state, dict) and type(state) in (dict, OrderedDict):
        items += [(f"the key {key!r} of {path}", key) for key in state if type(key) not in _PLAIN]
        items += [(f"{path}[{key!r}]", value) for key, value in state.items() if type(value) not in _PLAIN]
    elif isinstance(state, list | tuple | set) and type(state) in (list, tuple, set):
        items += [(f"{path}[{i}]", value) for i, value in enumerate(state) if type(value) not in _PLAIN]
    else:
        return f"{path} is a {type(state).__module__}.{type(state).__qualname__}"
    return next((problem for where, value in items if (problem := _unsavable(value, where)) is not None), None)


def read_checkpoint(file: Path, device: str) -> Checkpoint:
    """Return what a file holds, with what lies beside it, on a device.

    Raises:
        CheckpointError: it is damaged.
    """
    content = _load(file, device)
    if content is None:
        raise CheckpointError(f"{file} is corrupt, or one of the files in {file.parent / 'pieces'} is.")
    return Checkpoint(content["event"], content["state"])


def _load(file: Path, device: str) -> dict[str, Any] | None:
    """Return a checkpoint's content with its whole state, or None if it is no whole checkpoint of this format."""
    content = _read_sound(file, device)
    if content is None or not content.keys() >= _FIELDS:
        return None
    state = joined(content["state"], content["pieces"], file.parent / "pieces", device)
    return None if state is None else content | {"state": state}


def _read_sound(file: Path, device: str) -> dict[str, Any] | None:
    """Return what was saved in a file, or None if it is damaged or of another format.

    `torch.load` takes flipped bits for content; the checksums that `torch.save` wrote are compared here.
    """
    if not is_sound_zip(file):
        return None
    try:
        content = torch.load(file, map_location=places(device), weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError):
        return None
    return content if isinstance(content, dict) and content.get("format") == _FORMAT else None
