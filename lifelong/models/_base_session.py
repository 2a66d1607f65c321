"""The base session: train a model's body on characters that no stream will show, once, and keep the weights."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from lifelong.files import cache_folder, write_cached
from strategies.objectives.classification import Classification
from strategies.parts.fit import FitConfig, fit
from strategies.parts.model import FlatModel
from streams.config import parse
from streams.data import Data
from streams.errors import ConfigError
from streams.files import is_sound_zip
from streams.randomness import Key, seeded_globals
from streams.registry import load
from streams.source import Source
from streams.sources import glyphs

logger = logging.getLogger(__name__)


class BaseSession(FitConfig):
    """How the base session trains. Everything here, the model and the data name the cached weights."""

    optimizer: Literal["sgd", "adam"] = "adam"
    """Update rule."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate."""
    epochs: int = Field(100, ge=1)
    """Passes over the base characters' training faces."""
    batch_size: int = Field(32, ge=1)
    """Samples per step."""
    classes: int = Field(300, ge=2)
    """Base characters: the last so many of the pool of 673, by code point."""
    shift: int = Field(2, ge=0)
    """Every image is shown at shifts of up to that many pixels as well, drawn by name, one for each pass."""
    seed: int = Field(0, ge=0)
    """Root of the session's randomness."""


@dataclass(frozen=True, slots=True)
class Session:
    """What a base session came to.

    Attributes:
        file: where the weights are.
        accuracy: on held-out faces of the base characters.
        cached: whether it had been run before.
    """

    file: Path
    accuracy: float
    cached: bool


def weights_file(model: str, options: dict[str, Any], input_shape: tuple[int, ...], session: BaseSession) -> Path:
    """Return where the weights of a base session are kept: its name is a hash of all that decides them."""
    sizes = {k: v for k, v in options.items() if k != "pretrained"}
    recipe = json.dumps([model, sizes, list(input_shape), session.model_dump(mode="json")], sort_keys=True)
    return cache_folder() / "pretrained" / f"{model}-{hashlib.blake2b(recipe.encode(), digest_size=8).hexdigest()}.pt"


def base_weights(model: str, options: dict[str, Any], input_shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Return the body's weights after the base session with default options.

    Raises:
        ConfigError: it has not been run, or not for inputs of this shape.
    """
    file = weights_file(model, options, input_shape, BaseSession())
    flags = " ".join(f"--set {k}={v}" for k, v in options.items() if k != "pretrained")
    if input_shape != (1, 28, 28):
        raise ConfigError(f"model.pretrained: glyphs are 1x28x28 images, the source has {input_shape}. Choose none.")
    if not is_sound_zip(file):
        raise ConfigError(
            f"model.pretrained: the base session for these sizes has not been run here, or what it wrote was damaged "
            f"since. Run it once (minutes): lifelong pretrain {model} {flags}"
        )
    return torch.load(file, map_location="cpu", weights_only=True)["body"]


def pretrain(model: str, options: dict[str, Any], session: BaseSession) -> Session:
    """Run a base session, unless its weights are there already.

    Args:
        model: name of a model with a `pretrained` option.
        options: its options.
        session: how to train.

    Raises:
        ConfigError: the model or an option is not valid.
    """
    module = load("models", model, "model")
    config = parse(module.Config, {**options, "pretrained": "none"}, "model")
    file = weights_file(model, config.model_dump(mode="json"), (1, 28, 28), session)
    if is_sound_zip(file):
        return Session(file, torch.load(file, map_location="cpu", weights_only=True)["accuracy"], cached=True)
    source, key = glyphs.load(glyphs.Config(pool=673)).unpacked(), Key(session.seed) / "pretrain"
    first = source.num_classes - session.classes
    ids = np.flatnonzero(~source.is_test & (source.class_ids >= first))
    test = np.flatnonzero(source.is_test & (source.class_ids >= first))
    labels = (source.y - first).clamp(min=0)
    with seeded_globals(key / "init"):
        flat = FlatModel(module.build(config, (1, 28, 28), session.classes))
    objective = Classification(session.classes)
    for epoch, x in enumerate(_shifted(source, session, key)):
        one = session.model_copy(update={"epochs": 1})
        outcome = fit(flat, objective, Data(ids, x, labels, None), one, key / epoch)
        logger.info("base session: pass %d of %d, loss %.3f", epoch + 1, session.epochs, outcome.losses["loss"])
    flat.train(False)
    batches = Data(test, source.x, labels, None).batches(256)
    with torch.inference_mode():
        right = torch.cat([objective.scores(flat(b.x), b) for b in batches])
    accuracy = float(right.mean())
    content = io.BytesIO()
    torch.save({"body": flat.network.body.state_dict(), "accuracy": accuracy}, content)
    write_cached(file, content.getvalue())
    return Session(file, accuracy, cached=False)


def _shifted(source: Source, session: BaseSession, key: Key) -> Iterator[torch.Tensor]:
    """Yield all images once per pass, each rolled by its own few pixels (the margins are empty)."""
    ids, steps = np.arange(len(source)), range(-session.shift, session.shift + 1)
    for epoch in range(session.epochs):
        x = source.x.clone()
        down, right = (
            (key / "shift" / epoch / axis).below(ids, len(steps)) - session.shift for axis in ("down", "right")
        )
        for dy in steps:
            for dx in steps:
                rows = torch.from_numpy((down == dy) & (right == dx))
                x[rows] = source.x[rows].roll((dy, dx), (2, 3))
        yield x
