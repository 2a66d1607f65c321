"""Descent-to-delete (Neel et al.): gradient steps from the last iterate, which stays secret; certified."""

from __future__ import annotations

import math
from typing import final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Outcome, Setting, State
from strategies.isolated._convex_head import ConvexConfig, ConvexHead, told
from strategies.outcome import Guarantee
from strategies.parts.convex.accounts import Accounts
from strategies.parts.convex.bounds import contraction, neel_error, neel_sigma
from strategies.parts.convex.gaussian import mu_of
from strategies.parts.convex.softmax import Rows, gradient, lipschitz, smoothness
from streams.errors import StreamError
from streams.events import DeletionRequest, Experience


class Config(ConvexConfig):
    """Options of `descent-to-delete` (Neel, Roth and Sharifi-Malvajerdi 2021, arXiv 2007.02923)."""

    l2: float = Field(0.01, gt=0)
    """lambda of the mean loss: mean loss + lambda/2 ||W||^2. A step brings the iterate nearer by about 1 - 2 lambda."""
    epsilon: float = Field(1.0, gt=0)
    """What is promised of every request, together with `delta`."""
    delta: float = Field(1e-5, gt=0, lt=1)
    """See `epsilon`."""
    rows: int = Field(500, ge=1)
    """How many rows there are at the beginning: a public number, which the noise is made for. There must never be less
    than half as many, unless there are none."""
    steps: int = Field(100, ge=1)
    """Gradient steps for a deletion of one row (I). More rows take as many more as the bound needs."""


@final
class DescentToDelete(ConvexHead):
    """Projected gradient descent from the last iterate; its error stays under a bound that requests do not raise.

    Where k rows come or go at once the minimiser moves up to k times as far, and as many steps are taken as bring the
    error back under the bound.
    """

    supports = frozenset({"classes"})
    state_grows = True
    test_options = {"l2": 0.1, "steps": 10, "rows": 4}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start at the weights zero."""
        super().__init__(config, setting)
        self._config = config
        reach = self._head.reach
        self._radius = lipschitz(reach) / config.l2  # of a ball in which the minimiser lies
        smooth = smoothness(reach) + config.l2
        self._rate, self._left = 2 / (smooth + config.l2), contraction(smooth, config.l2)
        bound = lipschitz(reach), config.l2, config.rows, self._left**config.steps
        self._error = neel_error(*bound)
        self._sigma = neel_sigma(*bound, config.epsilon, config.delta)
        self._accounts = Accounts(setting.num_samples, mu_of(config.epsilon, config.delta), "last")

    @property
    @override
    def access(self) -> Access:
        """All live samples."""
        return Access(retained="full")

    @override
    def learn(self, experience: Experience, door: Door) -> Outcome:
        """Take as many steps as the new rows need."""
        self._accounts.learned(experience.sample_ids)
        self._derived[experience.sample_ids] = True
        event = f"{experience.name}|{experience.incarnation}"
        return self._updated(door, len(experience.sample_ids), event, None)

    @override
    def forget(self, request: DeletionRequest, door: Door) -> Outcome:
        """Take as many steps as the deleted rows need."""
        self._accounts.open(request.name, request.sample_ids)
        return self._updated(door, len(request.sample_ids), request.name, request.name)

    @override
    def state_dict(self) -> State:
        return {**super().state_dict(), "accounts": self._accounts.state_dict()}

    @override
    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self._accounts.load_state_dict(state["accounts"])

    def _updated(self, door: Door, changed: int, event: str, request: str | None) -> Outcome:
        rows, notes = self._rows(door.retained())
        if 2 * len(rows) < self._config.rows and len(rows):
            raise StreamError(
                f"descent-to-delete: {len(rows)} rows are left, and its noise was made for {self._config.rows}: at "
                f"least half of them must stay. Set `rows` to at most {2 * len(rows)}."
            )
        weights, steps = self._head.zeros(), 0
        if len(rows):
            steps = self._needed(changed)
            weights = self._descended(rows, steps)
        else:
            self._derived[:] = False
        self._publish(weights, weights + self._sigma * self._normal(event))
        error = self._error if len(rows) else 0.0
        self._accounts.charge(2 * error / self._sigma)
        config = self._config
        guarantee = Guarantee(
            config.epsilon,
            config.delta,
            mu_of(config.epsilon, config.delta),
            covers="published",
            scope="last",
            reference="all-deleted",
            adaptive=False,
            basis="neel",
            residual=error,
            reference_residual=error,
            sigma=self._sigma,
            spent=self._accounts.spent(),
            publications=self._accounts.publications(),
            steps=steps,
            resolved=False,
            exhausted=self._accounts.exhausted(),
        )
        return told(Outcome(steps, steps * len(rows), steps * len(rows)), guarantee, request, notes)

    def _needed(self, changed: int) -> int:
        """Return the steps that bring the error back under its bound after so many rows have come or gone.

        For one row these are `steps`.
        """
        moved = changed * 4 * lipschitz(self._head.reach) / (self._config.l2 * self._config.rows)
        farthest = min(self._error + moved, 2 * self._radius)
        return max(1, math.ceil(math.log(farthest / self._error) / -math.log(self._left) - 1e-9))

    def _descended(self, rows: Rows, steps: int) -> torch.Tensor:
        weights = self._secret
        for _ in range(steps):
            weights = weights - self._rate * gradient(weights, rows, self._config.l2)
            weights = weights * (self._radius / weights.norm()).clamp(max=1.0)
        return weights
