"""Disruption mask: run another unlearner, and take back of every step what would raise the retained loss."""

from __future__ import annotations

from typing import Any, final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, Setting
from strategies.objectives._base import Objective
from strategies.parts.model import FlatModel
from strategies.parts.training.endless import Endless
from strategies.parts.training.progress import keep_beside
from strategies.parts.weights.fisher import evaluating, gradient_of
from strategies.ranges import linear
from strategies.unlearners._following import Following
from strategies.unlearners._retained import RetainedData, retained_access, retained_data
from streams.config import Config as BaseConfig
from streams.config import Named, NameOrOptions
from streams.errors import ConfigError
from streams.events import DeletionRequest


class Config(BaseConfig):
    """Options of `disruption-mask` (of MUDMAN, Sondej et al. 2025, arXiv 2506.12484)."""

    method: NameOrOptions = Named(name="graddiff")
    """The unlearner that is run."""
    mu: float = Field(0.8, ge=0, lt=1)
    """Decay of the running mean of retained gradients."""
    batch_size: int = Field(16, ge=1)
    """Retained samples that are looked at after every step."""
    retained: RetainedData = "full"
    """Look at all live data, or at what the learner's plugins keep (a replay memory)."""


def spared(before: torch.Tensor, after: torch.Tensor, retained: torch.Tensor) -> torch.Tensor:
    """Return the weights ``[P]`` after a step of which only that is left which lowers the retained loss.

    What is left goes against the retained gradient in every weight, so that their product has no positive term.

    Args:
        before, after: the weights.
        retained: gradient of the retained loss before the step.

    >>> spared(torch.zeros(3), torch.tensor([1.0, 1.0, -1.0]), torch.tensor([1.0, -1.0, 1.0]))
    tensor([ 0.,  1., -1.])
    """
    return torch.where((after - before).sign() == -retained.sign(), after, before)


@final
class _Rule:
    """Corrects steps by a running mean of retained gradients, each at the weights before the step."""

    def __init__(self, model: FlatModel, objective: Objective, batches: Endless, mu: float) -> None:
        self._model, self._objective, self._batches, self._mu = model, objective, batches, mu
        self._before, self._mean = model.parameters.clone(), torch.zeros_like(model.parameters)
        self.passed = 0
        self._look()

    def __call__(self) -> None:
        self._model.parameters.copy_(spared(self._before, self._model.parameters, self._mean))
        self._before.copy_(self._model.parameters)
        self._look()

    def _look(self) -> None:
        batch = next(self._batches)
        self.passed += len(batch)
        with evaluating(self._model), torch.enable_grad():
            losses = self._objective.losses(self._objective.outputs(self._model, batch), batch)
            self._mean.mul_(self._mu).add_(gradient_of(self._model, losses.mean()), alpha=1 - self._mu)

    def state_dict(self) -> dict[str, Any]:
        state = {"before": self._before.clone(), "mean": self._mean.clone(), "passed": self.passed}
        return state | {"batches": self._batches.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._before.copy_(state["before"])
        self._mean.copy_(state["mean"])
        self.passed = state["passed"]
        self._batches.load_state_dict(state["batches"])


@final
class DisruptionMask(Following):
    """Masks the steps themselves, so that neither momentum nor weight decay moves a weight the wrong way."""

    test_options = {"method": {"name": "graddiff", "epochs": 1}}
    config: Config
    ranges = {"mu": linear(0.0, 0.99)}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Build the method.

        Raises:
            ConfigError: it is unknown, this one again, or builds the model anew, so that no step is masked.
        """
        if config.method.name == "disruption-mask":
            raise ConfigError("disruption-mask.method: it cannot follow itself; choose graddiff, npo, or another.")
        super().__init__(config, setting, config.method, "disruption-mask.method")
        self.needs_given_weights("disruption-mask.method")

    @property
    @override
    def access(self) -> Access:
        return self.method.access | retained_access(self.config.retained, forget_set=False)

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        """Run the method under the mask; where nothing is retained there is none."""
        config, model = self.config, learner.model
        retained = retained_data(config.retained, learner, door)
        if not len(retained):
            return self.method.forget(request, learner, door)
        objective = self.setting.objective.training_on(retained)
        key = self.setting.key / "disruption-mask" / request.name
        rule = _Rule(model, objective, Endless(objective, retained, config.batch_size, key), config.mu)
        keep_beside(rule)
        with model.corrected(rule):
            outcome = self.method.forget(request, learner, door)
        model.drop_gradient()
        return outcome + Outcome(forward=rule.passed, backward=rule.passed)
