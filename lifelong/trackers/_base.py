"""What a tracker is told, and the guard that keeps it from ever failing a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lifelong.results.table import Row
from streams.registry import class_of, load
from streams.stream import Stream

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class RunInfo:
    """What a tracker may want to know of a run.

    Attributes:
        name, identity: of the configuration.
        strategy: the strategy that begins.
        config: the resolved configuration, as plain data.
        stream: what it lives through.
        folder: where its record is kept.
        taken_from: folder of the run that has lived it already; events are then told again, as they were there.
    """

    name: str
    identity: str
    strategy: str
    config: dict[str, Any]
    stream: Stream
    folder: Path
    taken_from: Path | None = None


@runtime_checkable
class Tracker(Protocol):
    """Is told what happens. Nothing that it does can change a result, and if it raises it is left out from then on.

    A class that derives from it has only the methods that it needs; the others do nothing (and say `return`, since a
    protocol's empty methods would count as abstract).
    """

    def begin(self, info: RunInfo, first_event: int) -> None:
        """Take note that a strategy begins, or goes on, with event number `first_event`."""
        return

    def event(self, index: int, rows: Sequence[Row], seconds: float) -> None:
        """Take note that an event is over: its rows, and the seconds that the strategy took."""
        return

    def references(self, rows: Sequence[Row], seconds: float) -> None:
        """Take note that the references have been computed, or found: rows of all events."""
        return

    def failed(self, error: Exception) -> None:
        """Take note that the strategy cannot go on: say, since its training has diverged."""
        return

    def end(self) -> None:
        """Take note that the strategy is finished, has failed, or was stopped; the last of all calls for it."""
        return


class Watch:
    """Passes everything on to all trackers; one that raises is reported once and left out from then on."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        """Watch with `trackers`."""
        self._trackers = list(trackers)

    def begin(self, info: RunInfo, first_event: int) -> None:
        """See `Tracker`."""
        self._tell(lambda t: t.begin(info, first_event))

    def event(self, index: int, rows: Sequence[Row], seconds: float) -> None:
        """See `Tracker`."""
        self._tell(lambda t: t.event(index, rows, seconds))

    def references(self, rows: Sequence[Row], seconds: float) -> None:
        """See `Tracker`."""
        self._tell(lambda t: t.references(rows, seconds))

    def failed(self, error: Exception) -> None:
        """See `Tracker`."""
        self._tell(lambda t: t.failed(error))

    def end(self) -> None:
        """See `Tracker`."""
        self._tell(lambda t: t.end())

    def _tell(self, call: Callable[[Tracker], None]) -> None:
        for tracker in list(self._trackers):
            try:
                call(tracker)
            except Exception:  # a tracker must never fail a run, whatever it raises
                logger.exception("The tracker %s failed and is left out; results are not affected.", tracker)
                self._trackers.remove(tracker)


def load_tracker(name: str) -> Tracker:
    """Return a tracker by name, or the one class in a file of the user's own, made without arguments.

    Raises:
        ConfigError: there is none of that name, or the file holds no such class, or more than one.
    """
    tracker: Tracker = class_of(load("trackers", name, "--tracker"), Tracker)()
    return tracker
