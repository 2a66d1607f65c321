"""What a system of a given size costs in practice: closed forms beside simulation, and beside real runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from lifelong.capacity.simulate import Simulated, System, simulate
from lifelong.capacity.theory import (
    batch_cost,
    deletion_rate,
    shard_retrain_rate,
    training_cost,
    training_per_request,
)
from lifelong.config import RunConfig
from lifelong.manifest import stream_from_manifest
from lifelong.runner import load_run
from strategies.isolated import sisa
from streams.config import parse
from streams.errors import ConfigError
from streams.events import DeletionRequest
from streams.ledger import Ledger

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
    seen: set[str] = set()
    for values in product(*grid.values()):
        point = base.model_dump() | dict(zip(grid, values, strict=True))
        if point["method"] == "sisa":
            point["sequences"] = 1
        system = parse(System, point)
        if system.model_dump_json() not in seen:
            seen.add(system.model_dump_json())
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
    whole = training_cost(n, slices, e)
    return Sized(
        system=system,
        simulated=s,
        lifetime=lifetime,
        lifetime_simulated=None if system.method == "sisa" or not outages else s.requests / outages,
        visits=visits,
        visits_simulated=per_request,
        against_retraining=whole / system.together / per_request if per_request else None,
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


def measured(folder: Path) -> list[Measured]:
    """Return what requests cost every `sisa` strategy of a run.

    The closed form takes samples to be deleted at random, and all slices to be of one size.

    Raises:
        ConfigError: the run has no such strategy.
    """
    run = load_run(folder)
    chains = {
        name: parse(sisa.Config, s.isolated.options, f"strategies.{name}.isolated")
        for name, s in run.config.strategies.items()
        if s.isolated is not None and s.isolated.name == "sisa"
    }
    if not chains:
        raise ConfigError(f"--run: {folder} has no strategy 'sisa', for which there is a closed form.")
    return [_measured(run.config, folder, name, config) for name, config in chains.items()]


def _measured(run: RunConfig, folder: Path, name: str, config: sisa.Config) -> Measured:
    stream = stream_from_manifest(folder / "stream.json")
    table = load_run(folder).tables[name]
    epochs = run.training.epochs
    if config.epochs == "sliced":
        epochs = sisa.stage_epochs(epochs, config.slices)
    backward = {r.event: r.value or 0.0 for r in table.rows if r.metric == "backward" and r.subject == "event"}
    ledger, learned = Ledger(stream.source), 0
    requests, visits, expected = 0, 0.0, 0.0
    for index, event in enumerate(stream.events):
        if not isinstance(event, DeletionRequest):
            ledger.admit(event)
            learned += 1
            continue
        live, count = len(ledger.live_ids), len(event.sample_ids)
        ledger.delete(event)
        slices = config.slices * learned
        expected += batch_cost(live - count / 2, config.shards, slices, count, epochs)
        visits += backward.get(index, 0.0)
        requests += 1
    return Measured(name, requests, visits, expected)
