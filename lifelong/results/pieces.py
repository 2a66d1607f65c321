"""Tensors that a state shares with the one before it: written once, in files of their own beside the checkpoints.

A strategy that gives the very same tensor again has not changed it: SISA's stages, of which a request replaces a few.
Others give copies, and all of their state is written at every checkpoint.
"""

from __future__ import annotations

import hashlib
import io
import weakref
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.types import Storage

from lifelong.files import write_atomically
from strategies.base import State
from strategies.parts.states import map_tensors

_SMALL = 4096  # bytes; below that a file of its own costs more than it saves


@dataclass(slots=True)
class _Seen:
    """A tensor of the last state: itself, how often it had been changed in place, and its file if it has one."""

    tensor: weakref.ref[torch.Tensor]
    version: int
    name: str | None

    def is_still(self, tensor: torch.Tensor) -> bool:
        return self.tensor() is tensor and self.version == tensor._version


# Why: docs/decisions.md#what-a-state-shares-with-the-one-before-it-is-written-once
class Pieces:
    """The files beside the checkpoints of one strategy."""

    def __init__(self, folder: Path, fsync: bool) -> None:
        """Keep them in `folder`, which is made when it is needed; wait for the disk if `fsync`."""
        self._folder, self._fsync = folder, fsync
        self._seen: dict[int, _Seen] = {}

    def split(self, state: State) -> tuple[State, dict[int, str]]:
        """Write what the last state held as well; return the rest, and by number of a tensor the name of its file."""
        seen: dict[int, _Seen] = {}
        names: dict[int, str] = {}
        count = 0

        def put(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal count
            number, count = count, count + 1
            if tensor.numel() * tensor.element_size() < _SMALL or tensor.is_inference():
                return tensor
            known = self._seen.get(id(tensor))
            if known is None or not known.is_still(tensor):
                seen[id(tensor)] = _Seen(weakref.ref(tensor), tensor._version, None)
                return tensor
            known.name = known.name or self._write(tensor)
            seen[id(tensor)], names[number] = known, known.name
            return torch.empty(0)

        rest: State = map_tensors(state, put)
        self._seen = seen
        return rest, names

    def keep_only(self, names: Collection[str]) -> None:
        """Remove all others: no checkpoint speaks of them any more, and they may derive from deleted data."""
        for file in self._folder.glob("*.pt") if self._folder.exists() else ():
            if file.stem not in names:
                file.unlink()

    def _write(self, tensor: torch.Tensor) -> str:
        buffer = io.BytesIO()
        torch.save(tensor.clone(), buffer)  # a view would bring all of its storage along
        name = hashlib.blake2b(buffer.getbuffer(), digest_size=16).hexdigest()
        file = self._folder / f"{name}.pt"
        if not file.exists():
            self._folder.mkdir(exist_ok=True)
            write_atomically(file, buffer.getbuffer(), fsync=self._fsync)
        return name


def places(device: str) -> Callable[[Storage, str], Storage]:
    """Return where `torch.load` is to put tensors: those of the processor stay there, those of a GPU go to `device`.

    A state has both. What strategies note of samples is numpy's, and weights are where they are trained.
    """

    def place(storage: Storage, location: str) -> Storage:
        where = "cpu" if location == "cpu" else device
        there: Storage = torch.serialization.default_restore_location(storage, where)  # type: ignore[no-untyped-call]
        return there

    return place


def joined(state: State, names: Mapping[int, str], folder: Path, device: str = "cpu") -> State | None:
    """Return the state that was split, or None if a file in `folder` is missing or damaged."""
    pieces: dict[int, torch.Tensor] = {}
    for number, name in names.items():
        try:
            content = (folder / f"{name}.pt").read_bytes()
        except OSError:
            return None
        if hashlib.blake2b(content, digest_size=16).hexdigest() != name:
            return None
        pieces[number] = torch.load(io.BytesIO(content), map_location=places(device), weights_only=True)
    count = 0

    def get(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal count
        number, count = count, count + 1
        return pieces.get(number, tensor)

    whole: State = map_tensors(state, get)
    return whole
