"""Roughly how long a study takes and how much it writes: from the first events of its runs, played for that."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lifelong.config.run import RunConfig
from lifelong.execution.runner import run_prepared
from lifelong.references.size import size_of
from lifelong.results.table import Row
from lifelong.setup.preparation import Prepared, prepare
from lifelong.study.config import Cell
from lifelong.study.jobs import Job
from lifelong.trackers._base import RunInfo
from streams.config import parse
from streams.events import DeletionRequest, Event

_MOST_POINTS, _MOST_S, _ENOUGH_LEARNED = 8, 20.0, 3


@dataclass(frozen=True, slots=True)
class Forecast:
    """An estimate of what one or more jobs take, where no cache has anything of it.

    Attributes:
        seconds: of one process.
        size: bytes in run folders and in the cache of references.
    """

    seconds: float = 0.0
    size: float = 0.0

    def __add__(self, other: Forecast) -> Forecast:
        """Return both together."""
        return Forecast(self.seconds + other.seconds, self.size + other.size)

    def times(self, factor: float) -> Forecast:
        """Return that many of it."""
        return Forecast(factor * self.seconds, factor * self.size)


def forecast(jobs: Sequence[Job], cells: Sequence[Cell]) -> Forecast:
    """Estimate what `jobs` take together.

    One job of each kind (grid point and strategies) plays its first events, at most of 8 grid points. What the other
    events take is extrapolated by the samples they bring; requests that were not reached are taken to cost as much as
    learning everything again if they retrain, else as one experience; references by the events in their tree.
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
        total += Forecast(summed.seconds / len(like) * len(jobs_alike), summed.size / len(like) * len(jobs_alike))
    return total


@dataclass(slots=True)
class _Trial:
    """A tracker that lets a run live its first events, notes what they take, and ends it."""

    allowed_s: float
    events: tuple[Event, ...] = ()
    acted: list[float] = field(default_factory=list)
    other_s: float = 0.0
    _began: float = 0.0
    _last: float = 0.0

    def begin(self, info: RunInfo, first_event: int) -> None:
        """Start the clock."""
        self.events = info.stream.events
        self._began = self._last = time.perf_counter()

    def event(self, index: int, rows: Sequence[Row], seconds: float) -> None:
        """Take the time of an event; end the run when there is enough to go by."""
        now = time.perf_counter()
        self.acted.append(seconds)
        self.other_s += now - self._last - seconds
        self._last = now
        lived = self.events[: index + 1]
        requests = sum(isinstance(e, DeletionRequest) for e in lived)
        wanted = any(isinstance(e, DeletionRequest) for e in self.events)
        if now - self._began > self.allowed_s or (len(lived) - requests >= _ENOUGH_LEARNED and requests >= wanted):
            raise _Enough

    def references(self, rows: Sequence[Row], seconds: float) -> None:
        """Never comes."""

    def end(self) -> None:
        """Nothing to close."""


class _Enough(BaseException):
    """Ends a trial. Not an `Exception`, since those of trackers end nothing."""


def _of_job(job: Job, allowed_s: float) -> Forecast:
    """Play the first events of every strategy of a job in a temporary folder, and extrapolate."""
    total, rates, first = Forecast(), [], 0
    shadows = 0.0
    for name in job.config["strategies"]:
        config = parse(RunConfig, job.config | {"strategies": {name: job.config["strategies"][name]}})
        prepared = prepare(config)
        trial = _Trial(allowed_s / len(job.config["strategies"]))
        with tempfile.TemporaryDirectory() as folder:
            with contextlib.suppress(_Enough):
                run_prepared(prepared, folder, [trial])
            written = sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file())
        retrains = prepared.resolved["strategies"][name].get("unlearner", {}).get("name") == "retrain"
        rate = _rate(trial)
        rates.append(rate)
        share = len(prepared.stream.events) / max(len(trial.acted), 1)
        acting = _seconds(trial, rate, retrains)
        shadows += sum(acting) * prepared.config.references.shadows if prepared.stream.requests else 0.0
        seconds = sum(acting[first:]) + trial.other_s * share
        total += Forecast(seconds, written * share)
        first = next((i for i, e in enumerate(trial.events) if isinstance(e, DeletionRequest)), len(trial.events))
    rate = sum(rates) / len(rates)
    return total + Forecast(shadows, 0.0) + _references(prepared, rate)


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


def _references(prepared: Prepared, rate: float) -> Forecast:
    """Return what the references take: every event of the tree of their lives once."""
    config, stream = prepared.config, prepared.stream
    size = size_of(stream, config.references, config.service.copies)
    # Beside every shadow a retrained life of its own seed.
    beside_shadows = config.references.shadows * size.retrained if stream.requests else 0
    return Forecast(rate * (size.samples + beside_shadows), 8.0 * len(prepared.plan.ids) * size.references)
