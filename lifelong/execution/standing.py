"""A strategy as it stood after one event of a run that is on disk: restored from a checkpoint, or lived up to there."""

from __future__ import annotations

import logging
from pathlib import Path

from lifelong.processes.settings import torch_settings
from lifelong.results.record import read_checkpoint
from lifelong.setup.preparation import Prepared
from strategies.base import Strategy
from strategies.step import ledger_after, restore, step
from streams.errors import CheckpointError, ConfigError, closest
from streams.ledger import Ledger

_LOG = logging.getLogger(__name__)


def strategy_after(p: Prepared, folder: Path, name: str, event: int | None = None) -> Strategy:
    """Return a strategy of a run as it stood after an event.

    After a deletion no older checkpoint is kept, so that an event before the last request is lived up to once more,
    from the start or from a checkpoint before it, to the same bits.

    Args:
        p: what `prepare` returned for the run's configuration.
        folder: of the run.
        name: of the strategy.
        event: its index; None is the last of the stream.

    Raises:
        ConfigError: there is no such strategy or event.
        CheckpointError: the run has not come that far, or its checkpoint is another version's.
    """
    if name not in p.config.strategies:
        raise ConfigError(f"There is no strategy {name!r} in {folder}. {closest(name, p.config.strategies)}")
    last = len(p.stream.events) - 1
    event = last if event is None else event
    if not 0 <= event <= last:
        raise ConfigError(f"--event: there is no event {event}; the events of this run are 0 to {last}.")
    place = folder / "strategies" / name / "checkpoints"
    kept = {int(file.stem.removeprefix("event-")) - 1: file for file in sorted(place.glob("event-*.pt"))}
    if not kept or max(kept) < event:
        reached = f"{name} has come to event {max(kept)}" if kept else f"{name} has not begun"
        raise CheckpointError(f"{folder}: {reached}. Go on with the run first: lifelong resume {folder}")
    strategy, ledger = p.strategies.build(name), Ledger(p.stream.source, p.stream.task_of, p.config.device)
    earlier = [e for e in kept if e <= event]
    start = 0
    if earlier:
        checkpoint = read_checkpoint(kept[max(earlier)], p.config.device)
        ledger_after(ledger, p.stream.events[: checkpoint.event + 1])
        restore(strategy, checkpoint.state, ledger)
        start = checkpoint.event + 1
    with torch_settings(p.config):
        for index in range(start, event + 1):
            _LOG.info("event %d of %d is lived once more", index, event)
            step(strategy, p.stream.events[index], ledger)
    return strategy
