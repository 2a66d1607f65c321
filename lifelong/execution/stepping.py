"""One strategy's life, event by event, in the hands of the caller: nothing is written, and models can be looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lifelong.config.run import RunConfig
from lifelong.evaluation.evaluator import Evaluator
from lifelong.processes.settings import torch_settings
from lifelong.setup.instruments import make_instruments
from lifelong.setup.preparation import Prepared, prepare
from strategies.base import Outcome, Strategy
from strategies.step import step
from streams.errors import ConfigError, closest
from streams.events import Event
from streams.ledger import Ledger
from streams.positions import positions_in


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """Where a strategy stands after an event.

    Attributes:
        index, event: which it was.
        outcome: what the strategy did.
        strategy: as the event left it; what is asked of it (``strategy.predict``, ``strategy.network()``) changes
            nothing. It goes on with the next event.
        ledger: what is learned and what is deleted by now.
    """

    index: int
    event: Event
    outcome: Outcome
    strategy: Strategy
    ledger: Ledger
    _prepared: Prepared
    _evaluator: Evaluator

    def scores(self) -> dict[str, float]:
        """Return the mean score (of classification the accuracy) on the test data of every unit, deleted or not."""
        p = self._prepared
        with torch_settings(p.config):
            scores = self._evaluator.evaluate(self.strategy).scores
        return {
            unit.name: float(np.mean(scores[positions_in(p.plan.ids, unit.test_ids)]))
            for unit in p.stream.units
            if len(unit.test_ids)
        }


def live(config: RunConfig, strategy: str | None = None) -> Iterator[Moment]:
    """Let one strategy of a configuration live through its stream, and yield after every event.

    It becomes what it becomes in a run, to the bit, whatever is done in between; nothing is written to disk.

    Args:
        config: what to do.
        strategy: its name; the first of the configuration if none is given.

    Raises:
        ConfigError: there is no such strategy, or the configuration is not valid.
    """
    name = next(iter(config.strategies)) if strategy is None else strategy
    if name not in config.strategies:
        raise ConfigError(f"There is no strategy {name!r}. {closest(name, config.strategies)}")
    alone = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"tests": None})})
    p = prepare(alone)
    return _events(p, p.strategies.build(name))


def _events(p: Prepared, strategy: Strategy) -> Iterator[Moment]:
    evaluator = make_instruments(p.config.evaluation, p.stream, p.plan, p.setting, p.config.device).evaluator
    ledger = Ledger(p.stream.source, p.stream.task_of, p.config.device)
    ledger.held_to(strategy.access)
    for index, event in enumerate(p.stream.events):
        with torch_settings(p.config):
            done = step(strategy, event, ledger)
        yield Moment(index, event, done.outcome, strategy, ledger, p, evaluator)
