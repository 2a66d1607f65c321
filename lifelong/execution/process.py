"""What surrounds a run: a lock on its folder."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

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
