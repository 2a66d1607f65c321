"""CT: transpose the kernels of all convolutions, and fine-tune on the retained data."""

from __future__ import annotations

from typing import Literal, final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Door, Learner, Outcome, Setting
from strategies.parts.fit import fit
from strategies.parts.model import FlatModel
from strategies.parts.training.rates import at_rates, cosine
from strategies.parts.weights.layers import convolutions
from strategies.ranges import TRAINED
from strategies.unlearners._retained import RetainConfig, RetainUnlearner, finish
from streams.data import Data
from streams.errors import ConfigError
from streams.events import DeletionRequest
from streams.randomness import Key


class Config(RetainConfig):
    """Options of `ct` (convolution transpose; from the NeurIPS 2023 competition, ported by arXiv 2410.01276)."""

    epochs: int = Field(3, ge=1)
    """Passes over the retained data; the learning rate falls by a cosine from one to the next."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate of the first pass."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of `sgd`."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 penalty added to the gradient."""
    turn: Literal["transpose", "drawn"] = "transpose"
    """transpose: as published; a second request puts every kernel back into the orientation that it was learned in.
    drawn: each request draws, by its name, one of the seven ways to turn or mirror a square (ours)."""


def turned(kernels: torch.Tensor, way: int) -> torch.Tensor:
    """Return kernels ``[out, in, k, k]`` in one of the eight orientations of a square.

    Args:
        kernels: as they are.
        way: 0 leaves them, 1 to 3 turn by so many quarters, 4 transposes, 5 to 7 turn and then transpose.
    """
    quarters = torch.rot90(kernels, way % 4, (-2, -1))
    return quarters.transpose(-2, -1) if way >= 4 else quarters


@final
class CT(RetainUnlearner):
    """Damages the network by transposed kernels, and repairs it on retained data; the forget set is not looked at.

    It needs retained data: there is nothing else to train on.
    """

    reads_forget_set = False
    needs_convolutions = True

    test_options = {"epochs": 1}
    config: Config
    supports = frozenset({"classes", "numbers"})
    ranges = TRAINED

    def __init__(self, config: Config, setting: Setting) -> None:
        """Make sure that there are kernels that can be transposed.

        Raises:
            ConfigError: the model trains no convolution, or one whose kernel is not square.
        """
        super().__init__(config, setting)
        self._kernels(setting.outline())

    @override
    def serve(self, request: DeletionRequest, learner: Learner, retained: Data, door: Door, key: Key) -> Outcome:
        config, model = self.config, learner.model
        way = 4 if config.turn == "transpose" else 1 + (key / "turn").number() % 7
        for place, shape in self._kernels(model).values():
            model.parameters[place] = turned(model.parameters[place].view(shape), way).flatten()
        optimizer = at_rates(config, model.parameters, cosine(config.epochs), len(retained))
        outcome = fit(model, self.setting.objective, retained, config, key, optimizer=optimizer)
        return outcome + finish(config, learner, retained)

    def _kernels(self, model: FlatModel) -> dict[str, tuple[slice, torch.Size]]:
        found = convolutions(model, "ct", "Choose msg with layers: weights, or eu-k.")
        for name, (_, shape) in found.items():
            if shape[-1] != shape[-2]:
                size = f"{shape[-2]} x {shape[-1]}"
                raise ConfigError(f"ct transposes kernels, and that of {name} is not square ({size}). Choose msg.")
        return found
