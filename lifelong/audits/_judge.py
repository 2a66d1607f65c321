"""Judges of images: small networks that stand for somebody who looks at a picture and says what it shows."""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from lifelong.files import cache_folder, write_cached
from streams.randomness import Key, seeded_globals
from streams.source import Source

logger = logging.getLogger(__name__)

FEATURES = 128
STEPS = 500
BATCH = 64
NOISE = 0.05
"""Standard deviation of the noise on images that a judge is trained on: what samplers leave."""
MANY = 10
"""Images of every class and style from which on some can be held out to test a judge."""


Real = Callable[[np.ndarray], torch.Tensor]
"""From ids of samples to their images ``[n, C, H, W]`` in [0, 1]."""


@final
class Eye(nn.Module):
    """Two convolutions, features, and what is seen."""

    def __init__(self, channels: int, height: int, width: int, classes: int) -> None:
        """Look at images ``[channels, height, width]`` of at least 4 pixels a side."""
        super().__init__()
        flat = 64 * (height // 4) * (width // 4)
        self.body = nn.Sequential(
            *(nn.Conv2d(channels, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(flat, FEATURES), nn.ReLU()),
        )
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits ``[B, classes]`` of images ``[B, C, H, W]`` in [0, 1]."""
        return self.head(self.body(images))


@final
@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """A trained eye.

    Attributes:
        eye: in evaluation mode.
        accuracy: share of images it had not seen that it was right about: held-out ones where every class and style has
            at least ten; else copies of all, shifted and with noise.
    """

    eye: Eye
    accuracy: float

    @torch.no_grad()
    def looks(self, images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return labels int64 ``[B]`` and features float32 ``[B, 128]`` of images ``[B, C, H, W]`` in [0, 1]."""
        features = torch.cat([self.eye.body(part) for part in images.float().cpu().split(256)])
        labels: np.ndarray = self.eye.head(features).argmax(1).numpy()
        return labels, features.numpy()


def judge_of(source: Source, real: Real, labels: np.ndarray, what: str, many: bool) -> Judge:
    """Return the judge of a source, trained on all its images (deleted ones too) if it is not in the cache.

    Args:
        source: of images.
        real: gives them.
        labels: int64 ``[N]``, what it is to tell.
        what: names it: object or style.
        many: whether images can be held out to test it.
    """
    recipe = (source.digest(), labels.tobytes(), what, FEATURES, STEPS, BATCH, NOISE, many)
    key = hashlib.blake2b(repr(recipe).encode(), digest_size=8).hexdigest()
    file = cache_folder() / "judges" / f"{source.name}-{what}-{key}.pt"
    shape = tuple(real(np.array([0])).shape[1:])
    eye = _blank(shape, labels, Key(0)).eval()
    known = _read(file, eye)
    if known is not None:
        return Judge(eye, known)
    logger.info("training a judge of the %s of images", what)
    with torch.inference_mode(False), torch.enable_grad():
        everything = np.arange(len(source))
        eye = _trained(real, labels, everything, shape, Key(0) / "judge" / what)
        if many:
            tested = _trained(real, labels, source.train_ids, shape, Key(0) / "judge" / what)
            accuracy = _accuracy(tested, real(source.test_ids), labels[source.test_ids])
        else:
            copies = real(everything)
            copies = altered(copies, (Key(0) / "judge" / what / "copies").torch())
            accuracy = _accuracy(eye, copies, labels)
    content = io.BytesIO()
    torch.save({"eye": eye.state_dict(), "accuracy": accuracy}, content)
    write_cached(file, content.getvalue())
    return Judge(eye, accuracy)


def altered(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return images shifted by up to a pixel (of every 16) each way, and with noise; the border is repeated."""
    reach = max(1, images.shape[-1] // 16)
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    left, top = torch.randint(0, 2 * reach + 1, (2, len(images)), generator=generator)
    height, width = images.shape[-2:]
    rows = (top.unsqueeze(1) + torch.arange(height))[:, None, :, None]
    columns = (left.unsqueeze(1) + torch.arange(width))[:, None, None, :]
    each, channel = torch.arange(len(images))[:, None, None, None], torch.arange(images.shape[1])[:, None, None]
    moved = padded[each, channel, rows, columns]
    return moved + NOISE * torch.randn(moved.shape, generator=generator)


def _blank(shape: tuple[int, ...], labels: np.ndarray, key: Key) -> Eye:
    channels, height, width = shape
    with seeded_globals(key):
        return Eye(channels, height, width, int(labels.max()) + 1)


def _trained(real: Real, labels: np.ndarray, ids: np.ndarray, shape: tuple[int, ...], key: Key) -> Eye:
    eye = _blank(shape, labels, key)
    generator = (key / "draws").torch()
    optimizer = torch.optim.Adam(eye.parameters(), 1e-3)
    targets = torch.from_numpy(labels)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - step / STEPS)
        chosen = ids[torch.randint(0, len(ids), (BATCH,), generator=generator).numpy()]
        images = altered(real(chosen), generator)
        loss = F.cross_entropy(eye(images), targets[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return eye.eval()


def _accuracy(eye: Eye, images: torch.Tensor, labels: np.ndarray) -> float:
    told, _ = Judge(eye, 0.0).looks(images)
    return float((told == labels).mean())


def _read(file: Path, eye: Eye) -> float | None:
    """Put the weights of a file into an eye and return its accuracy; None if it is not there or damaged."""
    try:
        content = torch.load(file, weights_only=True)
        eye.load_state_dict(content["eye"])
        return float(content["accuracy"])
    except (OSError, RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError):
        return None
