"""What unlearners that climb the forget loss share: when to stop, and what to do when the numbers give out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.outcome import Outcome
from strategies.parts.fit import Hooks
from strategies.parts.model import FlatModel
from streams.config import Config
from streams.data import Batch
from streams.errors import TrainingError
from streams.events import DeletionRequest


class AscentConfig(Config):
    """Options of everything that climbs."""

    stop_loss: float | None = Field(None, gt=0)
    """Stop before the step at which the mean loss of the forget batch is that high; ln K is a natural choice for K
    classes. null never stops: ascent is unbounded."""
    on_divergence: Literal["fail", "restore", "stop"] = "fail"
    """What to do once the loss is no longer a finite number. fail: the request fails, with a message. restore: put back
    the weights from before the request and go on with the stream. stop: stay at the last weights at which it was
    finite."""


@final
class Brake(Hooks):
    """Watches the forget loss of every step. Whoever computes it sets `forget_loss` in the `loss` hook."""

    carries = ("good", "steps", "stopped", "diverged")

    def __init__(self, config: AscentConfig, model: FlatModel) -> None:
        """Watch `model`."""
        self._config, self._model = config, model
        self.forget_loss = torch.zeros(())
        self.good = model.parameters.clone()
        self.steps = 0
        self.stopped = self.diverged = False

    @override
    def proceed(self, loss: torch.Tensor) -> bool:
        """Return whether the loss is finite, and the forget loss below the limit."""
        forget_loss = float(self.forget_loss)
        self.diverged = not (math.isfinite(float(loss)) and math.isfinite(forget_loss))
        if self.diverged:
            return False
        self.good.copy_(self._model.parameters)
        self.stopped = self._config.stop_loss is not None and forget_loss >= self._config.stop_loss
        self.steps += not self.stopped
        return not self.stopped


@final
class Ascend(Hooks):
    """Turns descent into ascent."""

    carries = ()

    def __init__(self, brake: Brake) -> None:
        """Tell `brake` the loss."""
        self._brake = brake

    @override
    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        self._brake.forget_loss = loss.detach()
        return -loss


def climb(
    model: FlatModel, config: AscentConfig, brake: Brake, request: DeletionRequest, train: Callable[[], Outcome]
) -> Outcome:
    """Run `train`, which trains with `brake` as its first hook, and see to what it did.

    Returns:
        The outcome; its terms ``stopped`` and ``diverged`` are 1 if that happened, and are there if it may happen.

    Raises:
        TrainingError: it diverged and that is to fail.
    """
    before = model.state_dict()
    try:
        outcome = train()
    except TrainingError:  # the last step of all led out of the numbers
        outcome, brake.diverged = Outcome(steps=brake.steps), True
    if brake.diverged:
        if config.on_divergence == "fail":
            raise TrainingError(
                f"{request.name}: ascent diverged after {brake.steps} steps. Lower lr, set stop_loss, or choose "
                f"on_divergence: restore (as before the request) or stop (the last weights with a finite loss)."
            )
        if config.on_divergence == "restore":
            model.load_state_dict(before)
        else:
            model.parameters.copy_(brake.good)
    flags = {} if config.stop_loss is None else {"stopped": float(brake.stopped)}
    if config.on_divergence != "fail":
        flags["diverged"] = float(brake.diverged)
    return replace(outcome, losses=outcome.losses | flags)
