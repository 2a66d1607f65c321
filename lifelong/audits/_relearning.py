"""Teaching again what was forgotten: the same lesson for every model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from strategies.base import Setting
from strategies.parts.model import FlatModel
from strategies.parts.training.optimizers import OptimizerConfig, make_optimizer
from streams.data import Batch
from streams.randomness import Key, seeded_torch

SIDE = 32
"""Samples of each kind in a step of relearning."""


@dataclass(frozen=True, slots=True)
class Relearning:
    """The same lesson for every model: optimizer, batches and their order do not depend on who relearns.

    Attributes:
        setting: gives the objective.
        key: names the order of samples.
        steps: how many steps to take.
        looks: the steps before which `held_out` is looked at, ascending; None looks before each and after the last.
        measure: what is noted of outputs and batch, per sample; None notes the objective's losses.
        lr: learning rate.
    """

    setting: Setting
    key: Key
    steps: int
    looks: tuple[int, ...] | None = None
    measure: Callable[[torch.Tensor, Batch], torch.Tensor] | None = None
    lr: float = 1e-3

    def curve(self, model: FlatModel, forgotten: Batch, retained: Batch, held_out: Batch) -> np.ndarray:
        """Return the mean of what is noted on `held_out` at every look, by default float32 ``[steps + 1]`` losses.

        Half of every batch is forgotten data and half retained, where there is any: on forgotten data alone a
        constant would do. Steps are Adam's. `model` is changed; hand over a copy.
        """
        objective = self.setting.objective
        optimizer = make_optimizer(OptimizerConfig(optimizer="adam", lr=self.lr), model.parameters)
        supplies = [_endless(forgotten, self.key / "forgotten")]
        if len(retained):
            supplies.append(_endless(retained, self.key / "retained"))
        measure, looks = self.measure or objective.losses, self.looks or tuple(range(self.steps + 1))
        curve = torch.empty(len(looks))
        with seeded_torch(self.key / "noise"):
            for step in range(self.steps + 1):
                if step in looks:
                    model.train(False)
                    with torch.inference_mode():
                        curve[looks.index(step)] = measure(objective.outputs(model, held_out), held_out).mean()
                if step == self.steps:
                    break
                model.train()
                batch = next(supplies[0])
                for supply in supplies[1:]:
                    batch = batch.concat(next(supply))
                batch = objective.drawn(batch, self.key / "drawn" / step)
                model.gradient.zero_()
                objective.losses(objective.outputs(model, batch), batch).mean().backward()  # type: ignore[no-untyped-call]
                optimizer.step(model.parameters, model.gradient)
        return curve.numpy()


def _endless(data: Batch, key: Key) -> Iterator[Batch]:
    ids = data.ids.cpu().numpy()
    epoch = 0
    while True:
        for positions in torch.from_numpy((key / epoch).order(ids)).to(data.ids.device).split(SIDE):
            yield data.rows(positions)
        epoch += 1
