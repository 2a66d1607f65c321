"""SIGTERM as a wish: a training stops after its step with its state kept, and everything else where it is."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

from strategies.parts.training.progress import stop_after_step


def stop(number: int, frame: object) -> None:
    """Handle a signal that asks this process to end. When it does, it is not disturbed by being asked again.

    Raises:
        KeyboardInterrupt: no training goes on here that would stop after its step.
    """
    if not stop_after_step():
        signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Heed SIGTERM in this way inside; the main thread alone can."""
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
