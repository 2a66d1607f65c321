"""Boundary expand: train the forget set into a class of its own, which is then dropped; needs nothing else."""

from __future__ import annotations

import copy
from typing import final

import torch
from pydantic import Field
from torch import nn
from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, Setting, Unlearner
from strategies.objectives._base import ClassObjective
from strategies.parts.fit import FitConfig, fit
from strategies.parts.model import FlatModel, Network
from strategies.ranges import TRAINED
from streams.errors import ConfigError
from streams.events import DeletionRequest
from streams.randomness import Key, seeded_torch


class Config(FitConfig):
    """Options of `boundary-expand` (Chen et al. 2023, CVPR), as reimplemented in SalUn's code."""

    epochs: int = Field(10, ge=1)
    """Passes over the forget set."""
    batch_size: int = Field(256, ge=1)
    """Samples per step."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of `sgd`."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 penalty added to the gradient."""


def expanded(network: Network, key: Key) -> Network:
    """Return a copy of the network with one more output, drawn as torch draws a linear layer."""
    wider = copy.deepcopy(network)
    old = wider.head
    assert isinstance(old, nn.Linear)
    with seeded_torch(key):
        new = nn.Linear(old.in_features, old.out_features + 1, old.bias is not None)
    new = new.to(old.weight)
    with torch.no_grad():
        new.weight[:-1] = old.weight
        if old.bias is not None:
            new.bias[:-1] = old.bias
    wider.head = new
    return wider


@final
class BoundaryExpand(Unlearner):
    """Adds an output, trains the forget set towards it, and takes it off again."""

    test_options = {"epochs": 1}
    config: Config
    supports = frozenset({"classes"})
    ranges = TRAINED

    def __init__(self, config: Config, setting: Setting) -> None:
        """Make sure that the head can get another output.

        Raises:
            ConfigError: it is not a linear layer, or not trained.
        """
        super().__init__(config, setting)
        model = setting.outline()
        if not isinstance(model.network.head, nn.Linear) or len(model.parameters) != sum(
            p.numel() for p in model.network.parameters()
        ):
            raise ConfigError("boundary-expand needs a model with a linear head, and `trained: all`.")

    @property
    @override
    def access(self) -> Access:
        """The inputs of the forget set."""
        return Access(forget_set=True)

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        objective, model, data = ClassObjective.of(self.setting.objective), learner.model, door.forget_set()
        num_classes = objective.num_outputs
        key = self.setting.key / "boundary-expand" / request.name
        wide = FlatModel(expanded(model.network, key / "output"))
        tasks = tuple((*u.classes, num_classes) for u in self.setting.units) if objective.masks else None
        wider = objective.widened(num_classes + 1, tasks)
        shadow = torch.full_like(data.targets(), num_classes)
        outcome = fit(wide, wider, data.relabelled(shadow), self.config, key)
        for name, where in model.slices.items():  # rows come first: what is cut off is the end
            model.parameters[where] = wide.parameters[wide.slices[name]][: where.stop - where.start]
        for mine, theirs in zip(model.network.buffers(), wide.network.buffers(), strict=True):
            mine.copy_(theirs)
        return outcome.graded("none")
