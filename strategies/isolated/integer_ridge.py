"""Integer ridge: least squares from sums of integers; deleting is subtracting, exact in bits."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Outcome, Setting, State
from strategies.isolated._convex_head import ConvexHead, HeadConfig
from strategies.parts.convex.ridge import Moments, moments, solve
from streams.events import DeletionRequest, Experience


class Config(HeadConfig):
    """Options of `integer-ridge` (quantisation after Ginart et al. 2019, arXiv 1907.05012)."""

    l2: float = Field(1e-3, gt=0)
    """lambda of the mean loss: mean of 1/2 ||W^T x - onehot(y)||^2 + lambda/2 ||W||^2, over the rows that are there."""
    bits: int = Field(16, ge=2, le=16)
    """Of every feature, with its sign; the scale is the length that `clip` allows."""


@final
class IntegerRidge(ConvexHead):
    """Keeps sums of products of integers, which are the same in whatever order samples come and go.

    It reads the request's samples and keeps none. The head is solved from the sums, in float64. A sample that comes
    again while it is there counts once.
    """

    supports = frozenset({"classes"})
    exact = "always"
    test_options = {"l2": 0.01}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with sums of nothing."""
        super().__init__(config, setting)
        self._config = config
        self._scale = (2 ** (config.bits - 1) - 1) / (1.0 if config.clip == "unit" else float(config.clip))
        self._sums = Moments.nothing(*self._head.shape, self._secret.device)
        self._counted = np.zeros(setting.num_samples, dtype=bool)

    @property
    @override
    def access(self) -> Access:
        """What is to be forgotten."""
        return Access(forget_set=True)

    @override
    def learn(self, experience: Experience, door: Door) -> Outcome:
        """Add the samples that are not there yet."""
        new = experience.sample_ids[~self._counted[experience.sample_ids]]
        self._counted[new] = True
        rows, notes = self._rows(door.fetch(new))
        self._sums = self._sums + moments(rows, self._scale, self._head.shape[1])
        self._solve()
        return Outcome(1, len(rows), 0).noted(**notes)

    @override
    def forget(self, request: DeletionRequest, door: Door) -> Outcome:
        """Subtract the samples."""
        rows, _ = self._rows(door.forget_set())
        self._counted[request.sample_ids] = False
        self._sums = self._sums - moments(rows, self._scale, self._head.shape[1])
        self._solve()
        return Outcome(1, len(rows), 0, exactness="bits")

    @override
    def release(self) -> None:
        """Return None: nothing is hidden."""
        return

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return nothing: what is deleted has left the sums."""
        return {}

    @override
    def state_dict(self) -> State:
        sums = {"gram": self._sums.gram.clone(), "products": self._sums.products.clone(), "count": self._sums.count}
        return {**sums, "counted": torch.from_numpy(self._counted.copy())}

    @override
    def load_state_dict(self, state: State) -> None:
        self._sums = Moments(state["gram"].clone(), state["products"].clone(), state["count"])
        self._counted = state["counted"].numpy().copy()
        self._solve()

    def _solve(self) -> None:
        weights = solve(self._sums, self._scale, self._config.l2)
        self._publish(weights, weights)
