"""What heads over frozen features share: the body that stays, what is published, and whose samples are in it."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Outcome, Release, Setting, State, Strategy
from strategies.objectives._base import ClassObjective
from strategies.outcome import Guarantee
from strategies.parts.convex.frozen import FrozenHead
from strategies.parts.convex.gaussian import epsilon_of
from strategies.parts.convex.softmax import Rows
from strategies.parts.fit import Training
from strategies.parts.model import FlatModel
from streams.config import Config as BaseConfig
from streams.data import Batch, Data

SLACK = 1e-12
"""What rounding can add to the norm of a mean gradient in float64."""

Length = Annotated[float, Field(gt=0)]


class HeadConfig(BaseConfig):
    """What every convex head is told."""

    clip: Literal["unit"] | Length = "unit"
    """Length of a row of features: unit makes all of them 1; a number cuts longer ones. It must not be chosen by
    looking at data that can be deleted."""


class ConvexConfig(HeadConfig):
    """What every head with a regularised loss is told."""

    l2: float = Field(1e-3, gt=0)
    """lambda of the mean loss: mean loss + lambda/2 ||W||^2, over the rows that are there."""


class ConvexHead(Strategy):
    """A linear head on features of a body that stays as it was when the model was made.

    The body must not have seen what can be deleted. With `trained: head` in other strategies' runs it is the same body.
    """

    supports = frozenset({"classes"})
    unheeded = {}
    always = dict.fromkeys(Training.model_fields, "its head is solved for, or trained by options of its own")

    def __init__(self, config: HeadConfig, setting: Setting) -> None:
        """Start at the weights zero.

        Raises:
            ConfigError: the model's head is not linear, or its objective is not of classes.
        """
        self._setting = setting
        self._objective = ClassObjective.of(setting.objective)
        self._head = FrozenHead(setting.make_model(), config.clip)
        self._clips = config.clip != "unit"
        self._derived = np.zeros(setting.num_samples, dtype=bool)
        self._secret = self._head.zeros()
        self._published = self._secret
        self._head.set(self._published)

    @torch.inference_mode()
    @override
    def predict(self, batch: Batch) -> torch.Tensor:
        """Return outputs of the body under the published head."""
        return self._objective.outputs(self._head.model, batch)

    @torch.inference_mode()
    @override
    def features(self, batch: Batch) -> torch.Tensor:
        return self._objective.features(self._head.model, batch)

    @override
    def network(self) -> FlatModel:
        """Return a copy of the body under the published head."""
        return self._head.model.copied(self._published.device)

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        held = ids[self._derived[ids]]
        return {"weights": held} if len(held) else {}

    @override
    def stored_ids(self) -> np.ndarray:
        return np.array([], dtype=np.int64)

    @override
    def release(self) -> Release | None:
        return Release(self._secret.clone(), self._published.clone())

    @override
    def state_dict(self) -> State:
        return {
            "weights": self._secret.clone(),
            "published": self._published.clone(),
            "derived": torch.from_numpy(self._derived.copy()),
        }

    @override
    def load_state_dict(self, state: State) -> None:
        self._secret, self._published = state["weights"].clone(), state["published"].clone()
        self._derived = state["derived"].numpy().copy()
        self._head.set(self._published)

    def _rows(self, data: Data) -> tuple[Rows, dict[str, float]]:
        """Return the features of samples, and what was cut of them."""
        rows, clipped = self._head.rows(data, self._objective)
        return rows, {"clipped_share": clipped} if self._clips else {}

    def _normal(self, name: str) -> torch.Tensor:
        """Return a standard normal draw of the weights' shape that is named by an event."""
        generator = (self._setting.key / "noise" / name).torch()
        return torch.randn(self._secret.shape, generator=generator, dtype=torch.float64).to(self._secret.device)

    def _publish(self, secret: torch.Tensor, published: torch.Tensor) -> None:
        self._secret, self._published = secret, published
        self._head.set(published)


def told(outcome: Outcome, guarantee: Guarantee, request: str | None, notes: dict[str, float]) -> Outcome:
    """Return an outcome with a guarantee: in numbers for the tables, and as the grade of a request.

    Args:
        outcome: what the event did.
        guarantee: after it.
        request: the name of the request that it served, if it did.
        notes: more numbers of the event.
    """
    spent = {name: epsilon_of(mu, guarantee.delta) for name, mu in guarantee.spent.items()}
    outcome = outcome.traced({name: {"epsilon_spent": epsilon} for name, epsilon in spent.items()})
    outcome = outcome.noted(
        residual=guarantee.residual,
        noise=guarantee.sigma,
        mu_spent_max=max(guarantee.spent.values(), default=0.0),
        epsilon_spent_max=max(spent.values(), default=0.0),
        resolved=float(guarantee.resolved),
        exhausted_requests=float(len(guarantee.exhausted)),
        **notes,
    )
    if request is not None:
        outcome = outcome.graded("none" if request in guarantee.exhausted else "certified")
    return replace(outcome, guarantee=guarantee)
