"""When memory runs out: find the batch size that would fit, and say so."""

from __future__ import annotations

import contextlib
import gc
import traceback
from collections.abc import Callable, Iterator

import torch

from streams.errors import ResourceError


def ran_out(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def fitting(attempt: Callable[[int], object], size: int) -> int | None:
    """Return the largest of size / 2, size / 4, ... for which `attempt` does not run out of memory, or None."""
    while size > 1:
        size //= 2
        _free_memory()
        try:
            attempt(size)
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            traceback.clear_frames(error.__traceback__)
        else:
            return size
    return None


@contextlib.contextmanager
def memory_errors(key: str, size: int, attempt: Callable[[int], object]) -> Iterator[None]:
    """Turn running out of memory into an error that names a batch size which was tried and fits.

    Args:
        key: of the configuration, that sets the batch size.
        size: samples per batch.
        attempt: does the same with that many samples.

    Raises:
        ResourceError: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        traceback.clear_frames(error.__traceback__)  # what the failed batch left there would take the room
        fitting_size = fitting(attempt, size)
        if fitting_size is None:
            remedy = (
                "not even one sample fits. Take a smaller model (model.depth), shorter rows (source.length), or train "
                "low-rank adapters alone (model.lora)"
            )
        else:
            remedy = f"{fitting_size} at a time fit when they pass the model alone: set {key} to that or less"
        raise ResourceError(f"Out of memory with {size} samples at a time; {remedy}.") from error


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
