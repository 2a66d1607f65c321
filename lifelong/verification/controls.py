"""Negative controls: SISA and S3T with one thing done wrong each. A verification that misses them proves nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from lifelong.verification.certified_controls import CERTIFIED_CONTROLS
from strategies.base import Setting, Strategy
from strategies.isolated import s3t
from strategies.isolated.sisa import HONEST, Config, Sisa
from strategies.outcome import Outcome
from strategies.parts.fit import FitConfig, fit
from strategies.parts.model import FlatModel
from strategies.parts.sharding.sequences import Order
from strategies.parts.training.optimizers import Optimizer, make_optimizer
from streams.data import Data
from streams.randomness import Key

Control = Callable[[Config, Setting], Strategy]
"""Takes the options of the run's own `sisa`, or the defaults."""


def positional_partition(config: Config, setting: Setting) -> Strategy:
    """Shard and slice go by position in the experience: removing one sample moves all behind it."""

    def by_position(ids: np.ndarray, parts: int, key: Key) -> np.ndarray:
        return np.arange(len(ids)) % parts

    return Sisa(config, setting, replace(HONEST, partition=by_position))


def global_generator(config: Config, setting: Setting) -> Strategy:
    """All stages draw from one generator: what one draws depends on how many were trained before it."""
    generator = (setting.key / "global").numpy()

    def drawn(model: FlatModel, setting: Setting, data: Data, training: FitConfig, key: Key) -> Outcome:
        return fit(model, setting.objective, data, training, setting.key / "global" / int(generator.integers(2**32)))

    return Sisa(config, setting, replace(HONEST, fit=drawn))


def wrong_checkpoint(config: Config, setting: Setting) -> Strategy:
    """Training goes on from after the slice that was hit: the deleted sample stays in the weights."""
    return Sisa(config, setting, replace(HONEST, restart=lambda hit: hit + 1))


def unsaved_optimizer(config: Config, setting: Setting) -> Strategy:
    """Momentum lives on from stage to stage but is in no checkpoint: what is trained again starts with another."""
    carried: list[Optimizer] = []

    def carry(model: FlatModel, setting: Setting, data: Data, training: FitConfig, key: Key) -> Outcome:
        if training.optimizer == "sgd" and not training.momentum:
            training = training.model_copy(update={"momentum": 0.9})
        if not carried:
            carried.append(make_optimizer(training, model.parameters))
        return fit(model, setting.objective, data, training, key, optimizer=carried[0])

    return Sisa(config, setting, replace(HONEST, fit=carry))


def shared_head(config: Config, setting: Setting) -> Strategy:
    """S3T with one head for all stages of a shard: blocks are switched off, but the head saw every slice.

    Raises:
        ConfigError: the model is too shallow for two slices.
    """

    def share(stages: dict[Order, torch.Tensor], head_size: int) -> None:
        newest = next(reversed(stages.values()))
        for weights in stages.values():
            weights[-head_size:] = newest[-head_size:]

    return s3t.S3T(
        s3t.Config(shards=config.shards, slices=2, sequences=2, rank=4, alpha=4.0), setting, s3t.Recipe(share)
    )


CONTROLS: dict[str, Control] = {
    "positional partition": positional_partition,
    "global generator": global_generator,
    "wrong checkpoint": wrong_checkpoint,
    "unsaved optimizer": unsaved_optimizer,
    "shared head": shared_head,
}
CONTROLLED: dict[str, tuple[str, Callable[[Any, Setting], Strategy]]] = {
    **{name: ("sisa", control) for name, control in CONTROLS.items()},
    **{name: ("certified-head", control) for name, control in CERTIFIED_CONTROLS.items()},
}
"""All controls, and the strategy whose options in a run they take over."""
