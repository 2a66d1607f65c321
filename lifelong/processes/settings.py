"""Torch's settings, which hold for a whole process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from lifelong.config.run import RunConfig
from strategies.parts.training.torch_settings import put_settings, shared_settings


@contextlib.contextmanager
def torch_settings(config: RunConfig) -> Iterator[None]:
    """Set threads, determinism and the type of new tensors for the run, and put them back."""
    before = shared_settings()
    put_settings((config.threads, 2 if config.deterministic else 0, torch.float32))
    try:
        yield
    finally:
        put_settings(before)
