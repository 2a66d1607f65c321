"""Progress on a terminal: a live bar with events, steps and time left; plain lines where there is no terminal."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import final

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn

from lifelong.results.table import Row
from lifelong.trackers._base import RunInfo, Tracker


@final
class ConsoleTracker(Tracker):
    """Shows how far a run has come, and remembers it for the message that an interruption leaves."""

    def __init__(
        self, console: Console | None = None, interval_s: float = 10.0, silent: bool = False, still_s: float = 30.0
    ) -> None:
        """Write nothing yet.

        Args:
            console: where to write; by default standard error.
            interval_s: where there is no terminal, at most one line in that time for a strategy that is under way.
            silent: only remember.
            still_s: where there is no terminal, a line is written after that time without one, say in a long event or
                among the references.
        """
        self._console = console or Console(stderr=True, highlight=False)
        self._interval_s, self._silent, self._still_s = interval_s, silent, still_s
        self._over = threading.Event()
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._info: RunInfo | None = None
        self._done = self._steps = 0
        self._spoke_at = self._began_at = 0.0
        self._finished = False

    @property
    def folder(self) -> Path | None:
        """The run folder, once a strategy had something left to do."""
        return None if self._info is None else self._info.folder.parent.parent

    @property
    def position(self) -> str:
        """Where the run stands, in words."""
        if self._info is None:
            return "before the first event"
        total = len(self._info.stream.events)
        where = f"of strategy {self._info.strategy}"
        if self._finished:
            return f"after strategy {self._info.strategy}"
        if self._done == total:
            return f"among the references {where}, after its last event"
        return f"after event {self._done} of {total} {where}"

    def begin(self, info: RunInfo, first_event: int) -> None:
        """Start the strategy's line."""
        self._info, self._done, self._steps, self._finished = info, first_event, 0, False
        self._began_at = self._spoke_at = time.monotonic()
        if self._silent:
            return
        if info.taken_from is not None:
            self._say(f"{self._label()}: taken over from {info.taken_from}")
        elif self._console.is_terminal:
            self._open()
        else:
            going_on = f", going on after event {first_event}" if first_event else ""
            self._say(f"{self._label()}: {len(info.stream.events)} events{going_on}")
            self._over = threading.Event()
            threading.Thread(target=self._still, args=(self._over,), daemon=True).start()

    def event(self, index: int, rows: Sequence[Row], seconds: float) -> None:
        """Move the line on."""
        self._done = index + 1
        self._steps += int(sum(r.value or 0 for r in rows if r.metric == "steps" and r.subject == "event"))
        if self._progress is not None and self._task is not None:
            events, steps, phase = self._fields()
            self._progress.update(self._task, completed=self._done, events=events, steps=steps, phase=phase)
        elif not self._is_quiet() and time.monotonic() - self._spoke_at >= self._interval_s:
            events, steps, _ = self._fields()
            self._say(f"{self._label()}: {events} events, {steps} steps")

    def references(self, rows: Sequence[Row], seconds: float) -> None:
        """Say that the strategy is done."""
        self._finished = True
        self._close()
        if not self._is_quiet():
            took = time.monotonic() - self._began_at
            self._say(
                f"{self._label()}: done in {took:.1f} s, {self._steps:,} steps (references: {seconds:.1f} s of it)"
            )

    def end(self) -> None:
        """Take the bar away."""
        self._over.set()
        self._close()

    def _still(self, over: threading.Event) -> None:
        """Say where the strategy is whenever nothing has been said for a while, until it is over."""
        while not over.wait(max(self._spoke_at + self._still_s - time.monotonic(), 0.01)):
            if time.monotonic() - self._spoke_at >= self._still_s:
                events, steps, phase = self._fields()
                where = f"{steps} steps" if not phase else f"{steps} steps; its {phase} are lived"
                self._say(
                    f"{self._label()}: {events} events, {where}, {time.monotonic() - self._began_at:.0f} s so far"
                )

    def _open(self) -> None:
        assert self._info is not None
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("event {task.fields[events]}, {task.fields[steps]} steps"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[phase]}"),
            console=self._console,
            transient=True,
        )
        total = len(self._info.stream.events)
        events, steps, phase = self._fields()
        self._task = self._progress.add_task(
            self._label(), total=total, completed=self._done, events=events, steps=steps, phase=phase
        )
        self._progress.start()

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _fields(self) -> tuple[str, str, str]:
        assert self._info is not None
        total = len(self._info.stream.events)
        phase = "references" if self._done == total else ""
        return f"{self._done}/{total}", f"{self._steps:,}", phase

    def _is_quiet(self) -> bool:
        """Return whether nothing is to be said of what happens: of a life that was lived elsewhere neither."""
        return self._silent or (self._info is not None and self._info.taken_from is not None)

    def _label(self) -> str:
        assert self._info is not None
        names = list(self._info.config["strategies"])
        return f"strategy {names.index(self._info.strategy) + 1}/{len(names)} {self._info.strategy}"

    def _say(self, text: str) -> None:
        self._spoke_at = time.monotonic()
        self._console.print(text, markup=False, soft_wrap=True)
