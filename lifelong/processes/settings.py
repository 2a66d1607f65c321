"""Torch's settings, which hold for a whole process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from lifelong.config.run import RunConfig


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
