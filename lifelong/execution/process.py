"""What surrounds a run: a lock on its folder, and torch's settings."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

import torch

from lifelong.config.run import RunConfig
from strategies.parts.training.torch_settings import put_settings, shared_settings
from streams.errors import BusyError


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Keep a second process out of the run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(f"{folder} is being run by another process. Wait for it, or stop it.") from error
        yield


@contextlib.contextmanager
def torch_settings(config: RunConfig) -> Iterator[None]:
    """Set threads, determinism and the type of new tensors for the run, and put them back."""
    before = shared_settings()
    put_settings((config.threads, 2 if config.deterministic else 0, torch.float32))
    try:
        yield
    finally:
        put_settings(before)
