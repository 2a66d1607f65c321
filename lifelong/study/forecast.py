"""Roughly how long a study takes and how much it writes: from some of its runs, played for a while."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from lifelong.config.run import RunConfig
from lifelong.execution.runner import lives
from lifelong.processes.settings import torch_settings
from lifelong.references.size import size_of
from lifelong.results.table import Row
from lifelong.setup.preparation import Prepared, prepare
from lifelong.study.config import Cell
from lifelong.study.jobs import Job
from lifelong.trackers._base import RunInfo, Tracker, Watch
from streams.config import parse
from streams.events import DeletionRequest, Event

_MOST_POINTS, _MOST_S = 8, 20.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """An estimate of what one or more jobs take.

    Attributes:
        seconds: of one process.
        size: bytes in run folders and in the cache of references.
        longest: seconds of the longest of the jobs, which no second process shortens.
    """

    seconds: float = 0.0
    size: float = 0.0
    longest: float = 0.0

    def __add__(self, other: Forecast) -> Forecast:
        """Return both together."""
        return Forecast(self.seconds + other.seconds, self.size + other.size, max(self.longest, other.longest))

    def times(self, factor: float) -> Forecast:
        """Return that many of it."""
        return Forecast(factor * self.seconds, factor * self.size, self.longest)

    def on(self, processes: int) -> float:
        """Return the seconds that so many processes take beside each other, with a core for each."""
        return max(self.seconds / processes, self.longest)


def forecast(jobs: Sequence[Job], cells: Sequence[Cell]) -> Forecast:
    """Estimate what `jobs` take together.

    One job of each kind (grid point and strategies) is played, at most of 8 grid points, to its end if that is soon.
    Of longer ones what the other events take is extrapolated by the samples they bring; requests of which none was seen
    are taken to cost as much as learning everything again if they retrain, else as one experience; references by the
    events in their tree, and by what it takes to measure one model.
    """
    kinds: dict[tuple[str, tuple[str, ...]], list[Job]] = {}
    for job in jobs:
        point = json.dumps(cells[job.cell].values, sort_keys=True)
        kinds.setdefault((point, tuple(job.config["strategies"])), []).append(job)
    if not kinds:
        return Forecast()
    points = list(dict.fromkeys(point for point, _ in kinds))
    chosen = set(points[:: -(-len(points) // _MOST_POINTS)])
    tried = [key for key in kinds if key[0] in chosen]
    estimates = {key: _of_job(kinds[key][0], _MOST_S / len(tried)) for key in tried}
    total = Forecast()
    for key, jobs_alike in kinds.items():
        like = [estimates[key]] if key in estimates else [f for (_, names), f in estimates.items() if names == key[1]]
        like = like or list(estimates.values())
        summed = sum(like, Forecast())
        total += replace(summed.times(len(jobs_alike) / len(like)), longest=summed.seconds / len(like))
    return total


@dataclass(slots=True)
class _Trial(Tracker):
    """A tracker that lets lives go on for a while each, notes what events take, and ends what is not over by then.

    A life does not end before its first request if that comes next: what a request takes can hardly be told from
    what learning takes.
    """

    allowed_s: float
    references_s: Callable[[float, float], float]
    events: tuple[Event, ...] = ()
    acted: list[float] = field(default_factory=list)
    told: int = 0
    other_s: float = 0.0
    is_whole: bool = False
    _began: float = 0.0
    _last: float = 0.0

    def begin(self, info: RunInfo, first_event: int) -> None:
        """Forget the life before and start the clock."""
        self.events, self.acted, self.told, self.other_s, self.is_whole = info.stream.events, [], 0, 0.0, False
        self._began = self._last = time.perf_counter()

    def event(self, index: int, rows: Sequence[Row], seconds: float) -> None:
        """Take the time of an event; end the life when there is no time left, for the references neither."""
        now = time.perf_counter()
        self.acted.append(seconds)
        if now - self._last < seconds:  # lived by another strategy, as far as they have it in common
            self.told += 1
        else:
            self.other_s += now - self._last - seconds
        self._last = now
        passed, left = now - self._began, self.events[index + 1 :]
        if passed + (0.0 if left else self.references_s(_rate(self), self.measuring())) <= self.allowed_s:
            return
        if left and isinstance(left[0], DeletionRequest) and not isinstance(self.events[index], DeletionRequest):
            return
        raise _Enough

    def references(self, rows: Sequence[Row], seconds: float) -> None:
        """Take note that it came to its end."""
        self.is_whole = True

    def measuring(self) -> float:
        """Return the seconds that it takes to measure a model once."""
        return self.other_s / max(len(self.acted) - self.told, 1)


class _Enough(BaseException):
    """Ends a trial. Not an `Exception`, since those of trackers end nothing."""


def _of_job(job: Job, allowed_s: float) -> Forecast:
    """Play every strategy of a job for a while in a temporary folder, and extrapolate where that was not all."""
    started = time.perf_counter()
    prepared = prepare(parse(RunConfig, job.config))
    seconds, size = time.perf_counter() - started, 0.0
    stream, names = prepared.stream, prepared.config.strategies
    trial = _Trial(allowed_s / len(names), partial(_references, prepared))
    references: list[float] = []
    are_lived = False  # by one of the strategies, which share them
    with tempfile.TemporaryDirectory() as folder, torch_settings(prepared.config):
        for name, open_life in lives(prepared, Path(folder), Watch([trial])).items():
            started = time.perf_counter()
            with contextlib.suppress(_Enough):
                open_life().live()
            took = time.perf_counter() - started
            retrains = prepared.resolved["strategies"][name].get("unlearner", {}).get("name") == "retrain"
            rate = _rate(trial)
            acting = _seconds(trial, rate, retrains)[trial.told :]
            seconds += took if trial.is_whole else sum(acting) + trial.measuring() * len(acting)
            references.append(_references(prepared, rate, trial.measuring()))
            are_lived |= trial.is_whole
            if stream.requests and not trial.is_whole:
                seconds += sum(acting) * prepared.config.references.shadows
            written = sum(f.stat().st_size for f in (Path(folder) / "strategies" / name).rglob("*") if f.is_file())
            size += written * len(stream.events) / max(len(trial.acted), 1)
    seconds += 0.0 if are_lived else max(references)
    points = size_of(stream, prepared.config.references, prepared.config.service.copies).references
    return Forecast(seconds, size + 8.0 * len(prepared.plan.ids) * points, seconds)


def _rate(trial: _Trial) -> float:
    """Return the seconds that a sample of an experience takes."""
    learned = [(e, s) for e, s in zip(trial.events, trial.acted, strict=False) if not isinstance(e, DeletionRequest)]
    return sum(s for _, s in learned) / max(sum(len(e.sample_ids) for e, _ in learned), 1)


def _seconds(trial: _Trial, rate: float, retrains: bool) -> list[float]:
    """Return what every event takes."""
    costs, samples, learned = [], 0, 0
    for event, acted in zip(trial.events, trial.acted, strict=False):
        if isinstance(event, DeletionRequest):
            costs.append(acted / max(samples, 1))
        else:
            samples += len(event.sample_ids)
    seconds: list[float] = []
    samples = 0
    for event in trial.events:
        if not isinstance(event, DeletionRequest):
            samples, learned = samples + len(event.sample_ids), learned + 1
            seconds.append(rate * len(event.sample_ids))
        elif costs:
            seconds.append(sum(costs) / len(costs) * samples)
        else:
            seconds.append(rate * samples if retrains else rate * samples / max(learned, 1))
    return seconds


def _references(prepared: Prepared, rate: float, measuring_s: float) -> float:
    """Return the seconds that references take: every event of the tree of their lives once, and measuring each."""
    config, stream = prepared.config, prepared.stream
    size = size_of(stream, config.references, config.service.copies)
    # Beside every shadow a retrained life of its own seed.
    beside_shadows = config.references.shadows * size.retrained if stream.requests else 0
    return rate * (size.samples + beside_shadows) + measuring_s * size.references
