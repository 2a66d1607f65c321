"""What a system of a given size costs in practice: closed forms beside simulation, and beside real runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from lifelong.capacity.simulate import Simulated, System, simulate
from lifelong.capacity.theory import (
    batch_cost,
    deletion_rate,
    shard_retrain_rate,
    training_cost,
    training_per_request,
)
from lifelong.execution.manifest import stream_from_manifest
from lifelong.execution.runner import load_run
from strategies.isolated import s3t, sisa
from streams.config import parse
from streams.errors import ConfigError
from streams.events import DeletionRequest
from streams.ledger import Ledger, Life
from streams.stream import Stream

DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Load:
    """What the system is embedded in.

    Attributes:
        rate: requests per day.
        throughput: sample visits per second that the trainer manages.
        checkpoint: bytes of one stored stage.
    """

    rate: float
    throughput: float
    checkpoint: float


@dataclass(frozen=True, slots=True, eq=False)
class Sized:
    """One system: what closed forms and simulation say.

    Attributes:
        system: what was simulated.
        simulated: the outcome.
        lifetime: expected requests until everything must be trained again; None where nothing ever must, or where
            there is no closed form for the distribution and the policy.
        lifetime_simulated: the same by simulation, None if it never happened.
        visits: expected sample visits per request, None as above.
        visits_simulated: by simulation.
        against_retraining: how many times more it would cost to train everything again, in one order, at each batch.
        busy: share of the trainer's time that retraining takes; above 1 the system cannot keep up.
        outage: seconds that training again takes when it comes: the whole, or one shard.
        storage: bytes of all checkpoints.
    """

    system: System
    simulated: Simulated
    lifetime: float | None
    lifetime_simulated: float | None
    visits: float | None
    visits_simulated: float
    against_retraining: float | None
    busy: float
    outage: float
    storage: float

    def to_json(self) -> dict[str, object]:
        """Return plain data."""
        s = self.simulated
        return {
            "system": self.system.model_dump(mode="json"),
            "requests": s.requests,
            "retrains": s.retrains,
            "shard_retrains": s.shard_retrains,
            "lifetime": self.lifetime,
            "lifetime_simulated": self.lifetime_simulated,
            "visits_per_request": self.visits,
            "visits_per_request_simulated": self.visits_simulated,
            "against_retraining": self.against_retraining,
            "busy": self.busy,
            "outage_s": self.outage,
            "storage_bytes": self.storage,
            "live_share": 1 - s.idle,
            "prefix_histogram": s.histogram.tolist(),
        }


def systems(base: System, grid: dict[str, Sequence[object]]) -> Iterator[System]:
    """Return the system at every point of a grid of its keys; SISA has no sequences, and is there once.

    Raises:
        ConfigError: a point is not valid.
    """
    yielded: set[str] = set()
    for values in product(*grid.values()):
        point = base.model_dump() | dict(zip(grid, values, strict=True))
        if point["method"] == "sisa":
            point["sequences"] = 1
        system = parse(System, point)
        if system.model_dump_json() not in yielded:
            yielded.add(system.model_dump_json())
            yield system


def size(system: System, load: Load) -> Sized:
    """Simulate a system and put the closed forms beside it."""
    s = simulate(system)
    m, slices, b, n, e = system.shards, system.slices, system.sequences, system.samples, system.epochs
    uniform, one_by_one = system.distribution == "uniform", system.together == 1
    lifetime: float | None = None
    visits: float | None = None
    if system.method == "sisa":
        visits = batch_cost(n, m, slices, system.together, e) / system.together if uniform else None
    elif uniform and one_by_one and b <= slices and system.retrain_when != "below":
        by_shard = system.retrain_when == "shard-dead"
        lifetime = 1 / shard_retrain_rate(slices, b) if by_shard else deletion_rate(m, slices, b)
        visits = training_per_request(n, m, slices, b, e, by_shard)
    outages = s.retrains + s.shard_retrains
    per_request = s.visits / s.requests
    retraining_cost = training_cost(n, slices, e)
    return Sized(
        system=system,
        simulated=s,
        lifetime=lifetime,
        lifetime_simulated=None if system.method == "sisa" or not outages else s.requests / outages,
        visits=visits,
        visits_simulated=per_request,
        against_retraining=retraining_cost / system.together / per_request if per_request else None,
        busy=per_request * load.rate / DAY / load.throughput,
        outage=s.visits / outages / load.throughput if outages else 0.0,
        storage=s.stages * load.checkpoint,
    )


@dataclass(frozen=True, slots=True)
class Measured:
    """What the requests of a real run cost a strategy, and what the closed form says.

    Attributes:
        strategy: its name.
        requests: served.
        visits: sample visits of all of them.
        expected: by the closed form for the data that was live, with the run's number of slices.
    """

    strategy: str
    requests: int
    visits: float
    expected: float


def measured(folder: Path, trust: bool = False) -> list[Measured]:
    """Return what requests cost every `sisa` and `s3t` strategy of a run, of those for which there is a closed form.

    The closed form takes samples to be deleted at random, and all slices to be of one size.

    Raises:
        TrustError: it names code that was not run here before, and `trust` does not say that it may.
        ConfigError: the run has no such strategy.
    """
    run = load_run(folder)
    stream = stream_from_manifest(folder / "stream.json", trust)
    strategies = []
    for name, strategy in run.config.strategies.items():
        if strategy.isolated is None:
            continue
        options, where = strategy.isolated.options, f"strategies.{name}.isolated"
        expected = None
        if strategy.isolated.name == "sisa":
            expected = _expected_sisa(stream, parse(sisa.Config, options, where), run.config.training.epochs)
        elif strategy.isolated.name == "s3t":
            expected = _expected_s3t(stream, parse(s3t.Config, options, where), run.config.training.epochs)
        if expected is not None:
            served = {i for i, e in enumerate(stream.events) if isinstance(e, DeletionRequest)}
            rows = run.tables[name].rows
            visits = sum(r.value or 0.0 for r in rows if r.metric == "backward" and r.event in served)
            strategies.append(Measured(name, len(served), visits, expected))
    if not strategies:
        raise ConfigError(f"--run: {folder} has no 'sisa' or 's3t' with options for which there is a closed form.")
    return strategies


def _expected_sisa(stream: Stream, config: sisa.Config, epochs: int) -> float | None:
    """Return the sample visits of all requests; every experience has brought its slices to every shard."""
    if config.trains_on != "cumulative" or config.fresh == "everything":
        return None
    if config.epochs == "sliced":
        epochs = sisa.stage_epochs(epochs, config.slices)
    ledger, learned, expected = Ledger(stream.source), 0, 0.0
    for event in stream.events:
        if isinstance(event, DeletionRequest):
            live, count = len(ledger.live_ids), len(event.sample_ids)
            ledger.delete(event)
            expected += batch_cost(live - count / 2, config.shards, config.slices * learned, count, epochs)
        else:
            ledger.admit(event)
            learned += not event.consolidates
    return expected


def _expected_s3t(stream: Stream, config: s3t.Config, epochs: int) -> float | None:
    """Return the sample visits of all requests: of each experience, those of a lifetime for as many as one lasts."""
    if config.retrain_when != "all-dead" or config.sequences > config.slices:
        return None
    ledger, expected = Ledger(stream.source), 0.0
    groups: list[np.ndarray] = []
    for event in stream.events:
        if isinstance(event, DeletionRequest):
            for ids in groups:
                live, count = int((ledger.life[ids] == Life.LEARNED).sum()), int(np.isin(event.sample_ids, ids).sum())
                per_sample = training_per_request(
                    live, config.shards, config.slices, config.sequences, config.epochs or epochs
                )
                expected += count * per_sample
            ledger.delete(event)
        elif not event.consolidates:
            groups.append(ledger.admit(event).sample_ids)
    return expected
