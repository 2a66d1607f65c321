"""RNI: draw the head anew, train a few tensors at a time after noise on some of them, and then all."""

from __future__ import annotations

from typing import Annotated, final

import numpy as np
from pydantic import Field
from typing_extensions import override

from strategies.base import Door, Learner, Outcome
from strategies.parts.fit import fit
from strategies.parts.model import FlatModel
from strategies.parts.weights.layers import add_noise, in_norms, redraw_some
from strategies.ranges import LR, linear, log
from strategies.unlearners._retained import RetainConfig, RetainUnlearner, finish
from streams.data import Data
from streams.events import DeletionRequest
from streams.randomness import Key


class Config(RetainConfig):
    """Options of `rni` (an entry of the NeurIPS 2023 competition, ported by arXiv 2410.01276)."""

    epochs: int = Field(5, ge=1)
    """Passes over the retained data in which drawn tensors and all norms are trained, others not."""
    tensors: int = Field(9, ge=1)
    """Tensors (weights or biases of a layer; norms not counted) that are drawn for each of these passes."""
    noise: float = Field(0.04, ge=0)
    """Standard deviation of the noise that tensors get before a pass."""
    noise_share: float = Field(0.7, ge=0, le=1)
    """Share of the drawn tensors that get it, of those that were in no draw before. Before the first pass none does:
    there the head is new."""
    lr: float = Field(2e-4, gt=0)
    """Learning rate of these passes."""
    fine_epochs: int = Field(4, ge=0)
    """Passes after these, in which all is trained."""
    fine_rates: tuple[Annotated[float, Field(gt=0)], ...] = Field((2e-4, 2e-4, 2e-4, 1e-3, 1e-3, 1e-4), min_length=1)
    """Learning rates of these, one after the other; the last stays."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of `sgd`; each pass begins with none."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 penalty added to the gradient."""


def drawn(count: int, size: int, key: Key) -> list[int]:
    """Return the numbers of `size` of `count` tensors, ascending, or of all if there are not as many."""
    return sorted(key.first(np.arange(count), size).tolist())


@final
class RNI(RetainUnlearner):
    """Damages a few tensors at a time, and repairs them on retained data; D_f is not looked at.

    It needs retained data: there is nothing else to train on.
    """

    reads_forget_set = False

    test_options = {"epochs": 2, "fine_epochs": 1, "tensors": 2}
    config: Config
    supports = frozenset({"classes", "numbers"})
    ranges = {
        "lr": LR,
        "noise": log(0.001, 0.3),
        "noise_share": linear(0.0, 1.0),
        "tensors": linear(3, 15),
        "epochs": linear(1, 20),
        "fine_epochs": linear(1, 20),
    }

    @override
    def serve(self, request: DeletionRequest, learner: Learner, retained: Data, door: Door, key: Key) -> Outcome:
        config, model, objective = self.config, learner.model, self.setting.objective
        redraw_some(model, model.mask("head").bool(), self.setting.make_model(), key / "draw")
        norms = in_norms(model)
        tensors = [place for place in model.slices.values() if not norms[place].all()]
        outcome, trained = Outcome(), set[int]()
        once = config.model_copy(update={"epochs": 1})
        for number in range(config.epochs):
            own = key / "pass" / number
            chosen = drawn(len(tensors), config.tensors, own / "tensors")
            if number:
                self._blur(model, tensors, chosen, trained, own / "noise")
            trained |= set(chosen)
            mask = norms.clone()
            for i in chosen:
                mask[tensors[i]] = True
            with model.moving_only(mask):
                outcome += fit(model, objective, retained, once, own)
        for number in range(config.fine_epochs):
            rate = config.fine_rates[min(number, len(config.fine_rates) - 1)]
            fine = once.model_copy(update={"lr": rate})
            outcome += fit(model, objective, retained, fine, key / "fine" / number)
        return outcome + finish(config, learner, retained)

    def _blur(self, model: FlatModel, tensors: list[slice], chosen: list[int], trained: set[int], key: Key) -> None:
        count = int(self.config.noise_share * len(chosen))
        for i in drawn(len(chosen), count, key):
            if chosen[i] not in trained:
                add_noise(model, tensors[chosen[i]], self.config.noise, key / chosen[i])
