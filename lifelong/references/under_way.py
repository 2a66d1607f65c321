"""Where the life of a reference stands that is not over, on disk: after events, and in the middle of one.

A state belongs to the chain of events that led to it, and is found again by the name of that chain, whatever else is
still to be lived. It lies in the run folder, as checkpoints of the run do, and goes when the run is done.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from lifelong.results.record import Within
from strategies.parts.training.progress import Progress, keeping
from strategies.parts.training.timing import now


class UnderWay:
    """The last state of the life at hand, and how far the event at hand has come."""

    def __init__(self, folder: Path, identity: str, device: str, every: float | None) -> None:
        """Keep nothing yet.

        Args:
            folder: where states are kept, of this process alone.
            identity: hash of all that decides a life beside its events; states of another are not found.
            device: where states are loaded to.
            every: seconds between two states; None keeps one only when asked to stop, in the middle of a training.
        """
        self._folder, self._identity, self._device, self._every = folder, identity, device, every
        self._kept_at = now()
        self._mine: set[Path] = set()

    def find(self, names: Collection[str]) -> dict[str, dict[str, Any]]:
        """Return by name the states after those chains of which there is one."""
        found = {}
        for folder in sorted(self._folder.glob("after-*")):
            name = folder.name.removeprefix("after-")
            if name in names and (state := self._store(folder).read(0)) is not None:
                found[name] = state
                self._mine.add(folder)
        return found

    @contextlib.contextmanager
    def event(self, name: str) -> Iterator[Progress]:
        """Have the trainings of an event kept, with which the chain of that name ends."""
        folder = self._folder / f"within-{name}"
        progress = Progress(self._store(folder), self._every)
        with keeping(progress):
            yield progress
        if progress.keeps:
            self._mine.add(folder)

    def is_due(self, progress: Progress) -> bool:
        """Return whether to keep the state after an event: some of it was kept, or the last state is old."""
        return progress.keeps or (self._every is not None and now() - self._kept_at >= self._every)

    def keep(self, name: str, state: dict[str, Any]) -> None:
        """Keep the state after a chain in place of all that was kept of this life before."""
        folder, before = self._folder / f"after-{name}", self._mine
        self._store(folder).write(0, state)
        self._mine = {folder}
        for old in before - self._mine:
            shutil.rmtree(old, ignore_errors=True)
        self._kept_at = now()

    def drop(self) -> None:
        """Remove what is kept of this life: it is over."""
        for folder in self._mine:
            shutil.rmtree(folder, ignore_errors=True)
        self._mine = set()

    def _store(self, folder: Path) -> Within:
        return Within(folder, self._identity, self._device, fsync=False)
