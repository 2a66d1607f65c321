"""Lives that several test modules play by hand; pytest puts this folder on the path, so that they can import it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from lifelong.config.run import RunConfig
from lifelong.setup.build import make_setting, make_source, make_stream
from strategies.base import Learner, Setting, State, Strategy
from strategies.step import step
from streams.config import parse
from streams.data import Data
from streams.events import DeletionRequest, Request
from streams.ledger import Ledger
from streams.plan import Plan
from streams.stream import Stream

S = TypeVar("S", bound=Strategy)


class TaskLife(Generic[S]):
    """Three tasks of digits, and requests for whole tasks."""

    def __init__(
        self, make: Callable[[Setting], S], forget: Iterable[tuple[int, int]], hidden: list[int], epochs: int
    ) -> None:
        """Make the stream.

        Args:
            make: the strategy in its initial state.
            forget: pairs: after so many experiences, that task is to go.
            hidden: layers of the MLP.
            epochs: passes over each task.
        """
        requests = [{"after": after, "scope": "task", "keys": [task]} for after, task in forget]
        config = parse(
            RunConfig,
            {
                "scenario": {"name": "task-incremental", "experiences": 3},
                "schedule": {"name": "explicit", "requests": requests},
                "model": {"name": "mlp", "hidden": hidden},
                "training": {"epochs": epochs, "batch_size": 32, "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0005},
            },
        )
        self.stream = make_stream(config, make_source(config))
        self.setting = make_setting(config, self.stream)
        self._make = make
        self._told: tuple[S, Ledger] | None = None
        self._after: list[tuple[State, Any]] = []

    def build(self) -> S:
        return self._make(self.setting)

    def on(self, stream: Stream) -> TaskLife[S]:
        """Return the life of the same strategy on another stream."""
        other = copy.copy(self)
        other.stream, other._told = stream, None
        return other

    def until(self, count: int | None = None) -> tuple[S, list[Any]]:
        """Play the first events, and return a strategy of the caller's own and what each of them did.

        What was played before is not played again: the strategy takes its state then from there.
        """
        if self._told is None:
            self._told = self.build(), Ledger(self.stream.source, self.stream.task_of)
            self._after = []
        strategy, ledger = self._told
        for event in self.stream.events[len(self._after) : count]:
            done = step(strategy, event, ledger)
            self._after.append((strategy.state_dict(), done))
        played = self._after[:count]
        theirs = self.build()
        if played:
            theirs.load_state_dict(played[-1][0])
        return theirs, [done for _, done in played]

    def outputs(self, strategy: S, task: int) -> torch.Tensor:
        return strategy.predict(self._tests(task))

    def accuracy(self, strategy: S, task: int) -> float:
        data = self._tests(task)
        return float(self.setting.objective.scores(strategy.predict(data), data).mean())

    def _tests(self, task: int) -> Data:
        return Ledger(self.stream.source, self.stream.task_of).lend(self.stream.units[task].test_ids).all()


def teach(learner: Learner, plan: Plan, indices: Iterable[int] | None = None, ledger: Ledger | None = None) -> Ledger:
    """Let a learner live through the experiences of a plan, or some of them."""
    ledger = ledger or Ledger(plan.source, plan.task_of)
    for i in range(len(plan.experiences)) if indices is None else indices:
        experience = ledger.admit(plan.experiences[i])
        door = ledger.door(learner.access, experience.sample_ids)
        learner.learn(experience, door)
        door.close()
    return ledger


def delete(learner: Learner, ledger: Ledger, ids: np.ndarray) -> DeletionRequest:
    """Delete samples, and let a learner clean its own state of them."""
    request = DeletionRequest("r", (Request("sample", tuple(ids.tolist()), ids, ids[:0], 0),))
    ledger.delete(request)
    learner.purge(request)
    return request
