"""How much of what was forgotten is still there: relearn time and a new last layer. Both work on copies."""

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
SLACK = 0.05
"""Relearned: the loss is within that many nats of what it was before the request."""


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


def relearn_time(curve: np.ndarray, threshold: float) -> int | None:
    """Return the first step at which the loss is at most `threshold`, or None if it never is.

    >>> relearn_time(np.array([2.0, 1.0, 0.4, 0.5]), 0.5)
    2
    """
    reached = np.flatnonzero(curve <= threshold)
    return int(reached[0]) if len(reached) else None


def anamnesis(run: int | None, reference: int | None, limit: int) -> float | None:
    """Return the anamnesis index: relearn time of the run over that of the reference (Tarun et al. 2023).

    1 is ideal; below 1 information was left, above 1 the model was damaged more than retraining would. A time beyond
    the limit counts as the limit, which pulls the index towards 1; it is None if both are beyond, or if the reference
    needs no step at all.

    >>> anamnesis(0, 40, 200), anamnesis(40, 40, 200), anamnesis(10, None, 200), anamnesis(None, None, 200)
    (0.0, 1.0, 0.05, None)
    """
    if reference == 0 or (run is None and reference is None):
        return None
    return (limit if run is None else run) / (limit if reference is None else reference)


def readout(
    forgotten: np.ndarray,
    forgotten_labels: np.ndarray,
    retained: np.ndarray,
    retained_labels: np.ndarray,
    held_out: np.ndarray,
    held_out_labels: np.ndarray,
) -> float:
    """Return the accuracy on `held_out` of a linear layer fitted anew on frozen features ``[n, F]``.

    It is fitted on the forgotten data and as much retained data; features are standardised on these. A class that is
    only hidden (a bias, a masked output) is read out in full; one that is gone as far as the features can.
    """
    from sklearn.linear_model import LogisticRegression

    x, y = np.concatenate([forgotten, retained]), np.concatenate([forgotten_labels, retained_labels])
    if len(np.unique(y)) == 1:
        return float(np.mean(held_out_labels == y[0]))
    mean, scale = x.mean(0), x.std(0)
    scale[scale < 1e-6] = 1.0
    layer = LogisticRegression(max_iter=200).fit((x - mean) / scale, y)
    return float(np.mean(layer.predict((held_out - mean) / scale) == held_out_labels))
