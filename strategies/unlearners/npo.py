"""NPO: push the forget set's likelihood below that of the original model, by a pull that fades once it is there."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from pydantic import Field

from strategies.base import Access, Door, Learner, Outcome, Unlearner
from strategies.objectives._base import Objective
from strategies.parts.fisher import evaluating
from strategies.parts.fit import Hooks, fit
from strategies.parts.model import FlatModel
from strategies.unlearners._ascent import AscentConfig, Brake, climb
from strategies.unlearners._retained import (
    DefaultRetainConfig,
    endless,
    finish,
    retained_access,
    some_retained_data,
)
from streams.data import Batch, Data
from streams.events import DeletionRequest
from streams.randomness import Key


class Config(AscentConfig, DefaultRetainConfig):
    """Options of `npo` (negative preference optimisation; Zhang et al. 2024, arXiv 2404.05868), per sample."""

    epochs: int = Field(5, ge=1)
    """Passes over the retained data, or over the forget set where alpha is 0."""
    beta: float = Field(0.1, gt=0)
    """Inverse temperature: gradient ascent in the limit of 0, and the sooner satisfied the larger it is."""
    alpha: float = Field(1.0, ge=0)
    """Weight of the loss on retained data (NPO+RT). 0 reads none of it (NPO alone)."""


def npo_losses(losses: torch.Tensor, reference: torch.Tensor, beta: float) -> torch.Tensor:
    """Return (2 / beta) log(1 + (p / p_ref)^beta) of every sample, ``[B]``.

    Args:
        losses: -log p(y | x) of the present model.
        reference: that of the original model; without gradient.
        beta: inverse temperature.
    """
    return (2 / beta) * F.softplus(beta * (reference - losses))


@final
class Disfavour(Hooks):
    """The preference loss on the batch itself, or on a forget batch beside a retained one."""

    def __init__(self, reference: torch.Tensor, config: Config, brake: Brake) -> None:
        """Compare with the column of `reference` losses ``[N]``; tell `brake` the forget loss."""
        self._reference, self._config, self._brake = reference, config, brake

    def losses(self, losses: torch.Tensor, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the preference losses."""
        self._brake.forget_loss = losses.detach().mean()
        return npo_losses(losses, self._reference[batch.ids], self._config.beta)


@final
class DisfavourBeside(Hooks):
    """Turns the retained loss L_r into L_NPO + alpha L_r, with one forget batch per step."""

    def __init__(self, inner: Disfavour, objective: Objective, forget_set: Data, config: Config, key: Key) -> None:
        """Prepare an endless supply of forget batches."""
        self._inner, self._objective, self._alpha = inner, objective.training_on(forget_set), config.alpha
        self._batches = endless(forget_set, config.batch_size, key)

    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Return the combined loss."""
        forget = next(self._batches)
        own = self._objective.outputs(model, forget)
        return self._inner.losses(self._objective.losses(own, forget), own, forget).mean() + self._alpha * loss


def reference_losses(
    model: FlatModel, objective: Objective, data: Data, num_samples: int, batch_size: int
) -> torch.Tensor:
    """Return a column ``[N]`` with the losses of `data`'s samples at the present weights, in evaluation mode."""
    column = torch.zeros(num_samples, device=model.parameters.device)
    objective = objective.training_on(data)
    with evaluating(model), torch.no_grad():
        for batch in data.batches(batch_size):
            column[batch.ids] = objective.losses(objective.outputs(model, batch), batch)
    return column


@final
class NPO(Unlearner):
    """Minimises the preference loss; the original model is kept as one number per sample, and dropped at the end."""

    config: Config

    @property
    def access(self) -> Access:
        """The forget set with labels, and retained data unless alpha is 0."""
        return retained_access(self.config.retained, forget_set=True) if self.config.alpha else Access(forget_set=True)

    @property
    def needs_retained(self) -> bool:
        """Unless alpha is 0, every step takes a retained batch."""
        return self.config.alpha > 0

    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        """Note the original losses and train."""
        config, model, objective = self.config, learner.model, self.setting.objective
        key = self.setting.key / "npo" / request.name
        forget_set = door.forget_set()
        column = reference_losses(model, objective, forget_set, self.setting.num_samples, config.batch_size)
        cost = Outcome(forward=len(forget_set))
        brake = Brake(config, model)
        disfavour = Disfavour(column, config, brake)
        if not config.alpha:
            alone: list[Hooks] = [brake, disfavour]
            train = lambda: fit(model, objective, forget_set, config, key, alone)  # noqa: E731
            return (cost + climb(model, config, brake, request, train)).graded("none")
        retained = some_retained_data(config.retained, learner, door, request)
        beside = DisfavourBeside(disfavour, objective, forget_set, config, key)
        hooks: list[Hooks] = [brake, beside]
        outcome = climb(model, config, brake, request, lambda: fit(model, objective, retained, config, key, hooks))
        forgotten = outcome.steps * min(config.batch_size, len(forget_set))
        cost += outcome + Outcome(forward=forgotten, backward=forgotten) + finish(config, learner, retained)
        return cost.graded("none")
