"""Frozen features: a model's body run over a whole source once, so that streams can be lived on what it sees."""

from __future__ import annotations

import hashlib
import io
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lifelong.config.parts import find_part
from lifelong.config.run import content_hash
from lifelong.files import cache_folder, code_of, write_cached
from strategies.parts.model import Network, digest
from streams.config import Named
from streams.errors import ConfigError
from streams.files import is_sound_zip
from streams.inputs import inputs_of
from streams.randomness import Key, seeded_globals
from streams.source import Source

logger = logging.getLogger(__name__)

BATCH = 128
"""Samples per pass. Fixed: the last bits of a feature depend on it."""


def embedded(source: Source, model: Named, device: str = "cpu") -> Source:
    """Return the source with every input replaced by its features under a frozen model, in evaluation mode.

    They are computed once, for all rows, in one fixed order, and kept by content (source, model with all its options,
    weights, code): every run, reference and resumed run reads the same bits.

    Raises:
        ConfigError: the model cannot be built for such inputs, or the source is text.
    """
    if source.text is not None:
        raise ConfigError(
            f"features: {source.name!r} is text, whose tokens objectives need. Leave features out, and choose a model "
            f"that reads it (causal-checkpoint); trained: head trains its last layer alone."
        )
    part = find_part("models", model, "features")
    with seeded_globals(Key(0) / "features"):
        network: Network = part.module.build(part.options, tuple(source.x.shape[1:]), 1)
    # Weights do not tell everything: to which size images are brought, how many heads share a width.
    made_by = content_hash([part.data(), code_of(part.data())])
    recipe = [source.digest(), digest(dict(network.body.state_dict())), made_by, torch.device(device).type]
    key = hashlib.blake2b(repr(recipe).encode(), digest_size=8).hexdigest()
    file = cache_folder() / "features" / f"{source.name}-{model.name}-{key}.npz"
    x = _read(file, len(source))
    if x is None:
        logger.info("computing features of %d samples with %s", len(source), model.name)
        x = _compute(network, source, device)
        content = io.BytesIO()
        np.savez(content, x=x.numpy())
        write_cached(file, content.getvalue())
    notes = (*source.notes, f"inputs: frozen features of {model.name} ({x.shape[1]})")
    return replace(source, name=f"{source.name}@{model.name}", x=x, notes=notes, scale=None)


@torch.inference_mode()
def _compute(network: Network, source: Source, device: str) -> torch.Tensor:
    body = network.body.to(device).eval()
    parts = (inputs_of(part, source.scale) for part in source.x.split(BATCH))
    return torch.cat([body(part.to(device)).float().cpu() for part in parts]).clone()


def _read(file: Path, rows: int) -> torch.Tensor | None:
    """Return cached features, or None if there are none or the file is damaged (they are computed again then)."""
    if not is_sound_zip(file):
        return None
    try:
        with file.open("rb") as content, np.load(content, allow_pickle=False) as arrays:
            x = torch.from_numpy(arrays["x"])
    except (OSError, ValueError, KeyError):
        return None
    return x if len(x) == rows else None
