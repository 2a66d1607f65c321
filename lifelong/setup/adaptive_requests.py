"""The adaptive requester: lives with a strategy's published models, and chooses what to delete by them."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import numpy as np
import torch

from strategies.base import Setting, Strategy
from strategies.step import step
from streams.errors import StreamError
from streams.events import Event
from streams.ledger import Ledger
from streams.plan import Aim, Plan, RequestSpec
from streams.randomness import Key
from streams.source import Source

_BATCH = 512


@final
class Requester:
    """Follows one strategy through the stream as it is being made. See `streams.schedules.adaptive`."""

    def __init__(
        self,
        build: Callable[[str | None], tuple[Strategy, Setting]],
        source: Source,
        task_of: np.ndarray | None,
        device: str,
    ) -> None:
        """Start before the first event.

        Args:
            build: from a strategy's name to the strategy in its initial state, and its setting.
            source, task_of: the data.
            device: where the strategy computes.
        """
        self._build = build
        self._ledger = Ledger(source, task_of, device)
        self._lived = 0
        self._strategy: Strategy | None = None

    def __call__(
        self, plan: Plan, events: tuple[Event, ...], candidates: np.ndarray, spec: RequestSpec, key: Key
    ) -> np.ndarray:
        """Return the ids that the aim is surest of, given what was published so far; see `streams.plan.Choose`.

        Raises:
            StreamError: the strategy publishes fewer models.
        """
        aim = spec.choice
        assert isinstance(aim, Aim)
        if self._strategy is None:
            self._strategy, self._setting = self._build(aim.publisher)
        for event in events[self._lived :]:
            step(self._strategy, event, self._ledger)
        self._lived = len(events)
        sure = self._sureness(self._strategy, aim.constituent, candidates)
        chosen: np.ndarray = candidates[np.argsort(-sure, kind="stable")[: spec.count]]
        return chosen

    def _sureness(self, strategy: Strategy, constituent: int, ids: np.ndarray) -> np.ndarray:
        objective, parts = self._setting.objective, []
        for batch in objective.batches(self._ledger.lend(ids), _BATCH):
            outputs = strategy.constituents(objective.asked(batch))
            losses = torch.stack([objective.losses(o, batch) for o in outputs])
            if constituent >= len(losses):
                raise StreamError(
                    f"schedule.constituent: {constituent} is past the last of {len(losses)} that are published."
                )
            parts.append(sureness((-losses).exp(), constituent))
        return torch.cat(parts).cpu().numpy()


def sureness(likelihood: torch.Tensor, constituent: int) -> torch.Tensor:
    """Return, per sample, the likelihood under one constituent minus the highest under any other, ``[B]``.

    >>> sureness(torch.tensor([[0.9, 0.5], [0.2, 0.8]]), 0).tolist()
    [0.699999988079071, -0.30000001192092896]

    Args:
        likelihood: of the true targets, ``[M, B]``.
        constituent: number of the one.
    """
    others = torch.cat([likelihood[:constituent], likelihood[constituent + 1 :]])
    return likelihood[constituent] - (others.max(0).values if len(others) else 0.0)
