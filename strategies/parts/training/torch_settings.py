"""Settings of torch that all strategies of a run share: none of them may change what the others compute."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from streams.errors import IntegrityError

Settings = tuple[int, int, torch.dtype]
"""Threads, determinism (torch's debug mode: 0 none, 1 warn, 2 error) and the type of new tensors."""


def shared_settings() -> Settings:
    """Return torch's settings as they are."""
    return torch.get_num_threads(), torch.get_deterministic_debug_mode(), torch.get_default_dtype()


def put_settings(settings: Settings) -> None:
    """Set threads, determinism and the type of new tensors."""
    threads, deterministic, dtype = settings
    torch.set_num_threads(threads)
    # The same as `use_deterministic_algorithms`, which as of torch 2.13 also imports the compiler, for a second.
    torch.set_deterministic_debug_mode(deterministic)
    torch.set_default_dtype(dtype)


@contextlib.contextmanager
def unchanged_torch() -> Iterator[None]:
    """Hold a strategy's code to the settings that it found.

    Raises:
        IntegrityError: they are others when it ends. They are put back, also where it fails.
    """
    before = shared_settings()
    try:
        yield
    finally:
        after = shared_settings()
        if after != before:
            put_settings(before)
    if after != before:
        names = (
            "threads (torch.set_num_threads)",
            "determinism (torch.use_deterministic_algorithms)",
            "default type (torch.set_default_dtype)",
        )
        changes = [f"{n}: {a}, now {b}" for n, a, b in zip(names, before, after, strict=True) if a != b]
        raise IntegrityError(
            f"The strategy changed settings of torch that all strategies of a run share: {'; '.join(changes)}. They "
            f"are put back. Remove the call, or set `threads` and `deterministic` in the configuration."
        )
