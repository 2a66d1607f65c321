"""Progress of a study: a live table of its runs with time left on a terminal, plain lines where there is none."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, final

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table as Drawn

from lifelong.study.jobs import Job, JobResult, is_done

State = Literal["running", "failed", "done", "waiting"]
_ORDER: tuple[State, ...] = ("running", "failed", "done", "waiting")
_LOOK_EVERY_S, _SAY_FIRST_S, _SAY_EVERY_S, _MOST_SAID = 1.0, 10.0, 30.0, 4


@dataclass(slots=True)
class Standing:
    """How far a job is: events lived of all there are (None before its stream is known), strategies finished."""

    job: Job
    state: State = "waiting"
    lived: int = 0
    events: int | None = None
    finished: int = 0

    def look(self) -> None:
        """Read from the run folder how far it is."""
        folder = self.job.folder
        if self.state in {"failed", "done"} or not folder.exists():
            return
        if self.events is None:
            self.events = _num_events(folder / "stream.json")
        places = [folder / "strategies" / name for name in self.job.config["strategies"]]
        before = self.lived
        self.lived = sum(_num_lines(place / "timings.jsonl") for place in places)
        self.finished = sum((place / "done.json").exists() for place in places)
        if self.lived > before:
            self.state = "running"

    def hear(self, lived: int, events: int) -> None:
        """Take from a node how far it is: its run folder may lie there."""
        self.lived, self.events = max(self.lived, lived), events
        if self.state == "waiting":
            self.state = "running"

    def place(self) -> str:
        """Return which event it is at, and of how many."""
        total = "" if self.events is None else f"/{self.events * len(self.job.config['strategies'])}"
        return f"{self.lived}{total}" if self.lived else ""


@final
class Progress:
    """Looks at run folders while a study runs; works the same wherever the runs are."""

    def __init__(self, jobs: Sequence[Job], console: Console | None = None, silent: bool = False) -> None:
        """Look at where every job stands; show nothing yet.

        Args:
            jobs: all of the study, finished ones too.
            console: where to write; by default standard error.
            silent: show nothing.
        """
        self._console = console or Console(stderr=True, highlight=False)
        self._silent = silent
        self._standing: dict[str, Standing] = {}
        self.expect(jobs)
        self._began, self._before = time.monotonic(), self._work()[0]
        self._said_at = self._began
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Progress:
        """Start to show."""
        self._began = time.monotonic()
        if not self._silent:
            show = self._draw if self._console.is_terminal else self._say
            self._thread = threading.Thread(target=show, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the table away."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def expect(self, jobs: Sequence[Job]) -> None:
        """Look at where these jobs stand as well, of those that are not looked at yet."""
        new = {job.name: Standing(job) for job in jobs if job.name not in self._standing}
        for standing in new.values():
            standing.look()
            standing.state = "done" if is_done(standing.job) else "waiting"
        self._standing = self._standing | new  # a new one, since a thread may be going through the old one

    def result(self, result: JobResult) -> None:
        """Take note that a job is over."""
        standing = self._standing[result.job.name]
        standing.look()
        standing.state = "failed" if result.error else "done"
        if not (self._silent or self._console.is_terminal):
            self._look()
            self._said_at = time.monotonic()
            how = f"FAILED: {last_line(result.error)}" if result.error else f"done in {result.seconds:.1f} s"
            self._console.print(f"{self.summary()}  {result.job.label}: {how}", markup=False, soft_wrap=True)

    def told(self, name: str, lived: int, events: int) -> None:
        """Take note of how far a job on another machine is."""
        self._standing[name].hear(lived, events)

    def summary(self) -> str:
        """Return how far the study is, in words."""
        states = [s.state for s in self._standing.values()]
        done, failed = states.count("done"), states.count("failed")
        words = f"[{done}/{len(states)}" + (f", {failed} failed" if failed else "")
        left = self.seconds_left()
        return words + (f", {clock(left)} left]" if left else "]")

    def seconds_left(self) -> float | None:
        """Return an estimate, or None while nothing is known."""
        done, everything = self._work()
        passed = time.monotonic() - self._began
        return passed * (everything - done) / (done - self._before) if done > self._before else None

    def _work(self) -> tuple[float, float]:
        """Return what is done and what there is, in events; references and start of a strategy count as one more."""
        event_counts = [s.events for s in self._standing.values() if s.events]
        usual = sum(event_counts) / len(event_counts) if event_counts else 1.0
        done = everything = 0.0
        for s in self._standing.values():
            total = len(s.job.config["strategies"]) * ((s.events or usual) + 1)
            everything += total
            done += total if s.state in {"done", "failed"} else s.lived + s.finished
        return done, everything

    def _look(self) -> None:
        for standing in self._standing.values():
            standing.look()

    def _say(self) -> None:
        """Without a terminal, say where the jobs under way are: soon, and whenever nothing was said for a while."""
        after = _SAY_FIRST_S
        while not self._over.wait(max(self._said_at + after - time.monotonic(), _LOOK_EVERY_S / 100)):
            if time.monotonic() - self._said_at < after:
                continue
            self._look()
            self._said_at, after = time.monotonic(), _SAY_EVERY_S
            self._console.print(self.position(), markup=False, soft_wrap=True)

    def position(self) -> str:
        """Return how far the study is, and at which events the jobs under way are."""
        running = [f"{s.job.label} {s.place()}" for s in self._standing.values() if s.state == "running"]
        more = f"; and {len(running) - _MOST_SAID} more" if len(running) > _MOST_SAID else ""
        told = f"at event: {'; '.join(running[:_MOST_SAID])}{more}" if running else "no run has lived an event yet"
        return f"{self.summary()}  {told}"

    def _draw(self) -> None:
        with Live(console=self._console, transient=True, auto_refresh=False) as live:
            while True:
                self._look()
                live.update(self._table(), refresh=True)
                if self._over.wait(_LOOK_EVERY_S):
                    return

    def _table(self) -> Drawn:
        table = Drawn(box=box.SIMPLE_HEAD, title=self.summary(), title_justify="left", pad_edge=False)
        table.add_column("run", overflow="ellipsis", no_wrap=True)
        table.add_column("events", justify="right")
        table.add_column("")
        room = max(self._console.height - 6, 3)
        ordered = sorted(self._standing.values(), key=lambda s: _ORDER.index(s.state))
        for s in ordered[:room]:
            style = {"failed": "bold red", "done": "green", "waiting": "dim"}.get(s.state)
            table.add_row(s.job.label, s.place(), s.state, style=style)
        if len(ordered) > room:
            table.caption = f"and {len(ordered) - room} more"
        return table


def last_line(error: str) -> str:
    """Return the last line of a traceback that says what happened."""
    lines = [line for line in error.strip().splitlines() if line and not line.startswith(" ")]
    return lines[-1] if lines else error


def clock(seconds: float) -> str:
    """Return seconds as people read them.

    >>> clock(59), clock(61), clock(7200)
    ('59 s', '1 min 01 s', '2 h 00 min')
    """
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02d} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60:02d} min"


def _num_lines(file: Path) -> int:
    try:
        return file.read_bytes().count(b"\n")
    except OSError:
        return 0


def _num_events(file: Path) -> int | None:
    try:
        return len(json.loads(file.read_text(encoding="utf-8"))["events"])
    except (OSError, ValueError, KeyError):
        return None
