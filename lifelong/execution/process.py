"""What surrounds a run: a lock on its folder, and torch's settings."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

import torch

from lifelong.config.run import RunConfig
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
    """Set threads and determinism for the run, and put them back."""
    threads, deterministic = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    torch.set_num_threads(config.threads)
    # The same as `use_deterministic_algorithms`, which as of torch 2.13 also imports the compiler, for a second.
    torch.set_deterministic_debug_mode("error" if config.deterministic else "default")
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(deterministic)
