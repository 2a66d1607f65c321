"""CFW: blur the first convolution, and fine-tune on retained data with balanced classes; blur again before the end."""

from __future__ import annotations

from typing import Literal, final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Door, Learner, Outcome, Setting
from strategies.parts.fit import Hooks, fit
from strategies.parts.model import FlatModel
from strategies.parts.training.rates import at_rates, cosine
from strategies.parts.weights.layers import add_noise, convolutions
from strategies.ranges import TRAINED, log
from strategies.unlearners._retained import RetainConfig, RetainUnlearner, finish
from streams.data import Batch, Data
from streams.events import DeletionRequest
from streams.randomness import Key


class Config(RetainConfig):
    """Options of `cfw` (an entry of the NeurIPS 2023 competition, ported by arXiv 2410.01276)."""

    sigma: float = Field(0.6, ge=0)
    """Standard deviation of the noise that is added before training."""
    last_sigma: float = Field(0.005, ge=0)
    """The same before the last pass."""
    blurred: Literal["first", "all"] = "first"
    """first: the first convolution, which is all that the entry's noise reaches in a ResNet, and what its strength was
    chosen for. all: all convolutions (ours)."""
    weigh: Literal["samples", "batch"] = "samples"
    """samples: the loss of a sample by the weight of its class. batch: the mean loss of a batch by the mean weight of
    its samples, as in the released code: this changes the length of steps, and no class counts for more."""
    epochs: int = Field(4, ge=1)
    """Passes over the retained data; the learning rate falls by a cosine from one to the next."""
    lr: float = Field(7e-4, gt=0)
    """Learning rate of the first pass."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of `sgd`."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 penalty added to the gradient."""


def balanced(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Return the weights ``[K]`` under which classes count alike: n / (present classes x samples of the class).

    Their mean over samples is 1; classes without a sample have weight 0.

    >>> balanced(torch.tensor([2, 2, 2, 0]), 3).tolist()
    [2.0, 0.0, 0.6666666865348816]
    """
    counts = torch.bincount(labels, minlength=num_classes).float()
    return torch.where(counts > 0, len(labels) / ((counts > 0).sum() * counts.clamp(min=1)), 0.0)


@final
class Balanced(Hooks):
    """Weighs losses by class, or the mean loss of a batch."""

    carries = ()

    def __init__(self, weights: torch.Tensor, weigh: Literal["samples", "batch"]) -> None:
        """Weigh classes by ``weights [K]``."""
        self._weights, self._by_sample = weights, weigh == "samples"

    @override
    def losses(self, losses: torch.Tensor, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        weights = self._weights[batch.y]
        return losses * (weights if self._by_sample else weights.mean())


@final
class CFW(RetainUnlearner):
    """Damages the network by noise on its kernels, and repairs it on retained data; D_f is not looked at.

    It needs retained data: there is nothing else to train on.
    """

    reads_forget_set = False
    needs_convolutions = True

    test_options = {"epochs": 2}
    config: Config
    supports = frozenset({"classes"})
    ranges = TRAINED | {"sigma": log(0.01, 1.0), "last_sigma": log(0.001, 0.1)}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Make sure that there is a kernel to blur.

        Raises:
            ConfigError: the model trains no convolution.
        """
        super().__init__(config, setting)
        self._kernels(setting.outline())

    @override
    def serve(self, request: DeletionRequest, learner: Learner, retained: Data, door: Door, key: Key) -> Outcome:
        config, model, objective = self.config, learner.model, self.setting.objective
        hook = Balanced(balanced(retained.targets(), objective.num_outputs), config.weigh)
        optimizer = at_rates(config, model.parameters, cosine(config.epochs), len(retained))
        self._blur(model, config.sigma, key / "noise" / "first")
        outcome = Outcome()
        if config.epochs > 1:
            most = config.model_copy(update={"epochs": config.epochs - 1})
            outcome += fit(model, objective, retained, most, key, [hook], optimizer)
            self._blur(model, config.last_sigma, key / "noise" / "last")
        last = config.model_copy(update={"epochs": 1})
        outcome += fit(model, objective, retained, last, key / "last", [hook], optimizer)
        return outcome + finish(config, learner, retained)

    def _blur(self, model: FlatModel, sigma: float, key: Key) -> None:
        for name, place in self._kernels(model).items():
            add_noise(model, place, sigma, key / name)

    def _kernels(self, model: FlatModel) -> dict[str, slice]:
        found = convolutions(model, "cfw", "Choose msg with layers: weights, rni, or prmq.")
        kernels = {name: place for name, (place, _) in found.items()}
        return kernels if self.config.blurred == "all" else dict([next(iter(kernels.items()))])
