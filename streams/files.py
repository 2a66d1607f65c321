"""Where shared results are kept, and files that are whole or absent."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO


def write_atomically(file: Path, content: bytes | memoryview | Callable[[IO[bytes]], object]) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never half of it.

    Args:
        file: where to.
        content: the bytes, or what writes them (for content that should not be in memory twice).
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as handle:
            if callable(content):
                content(handle)
            else:
                handle.write(content)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Return where shared results are kept: ``$LIFELONG_CACHE``, else ``~/.cache/lifelong``."""
    return Path(os.environ.get("LIFELONG_CACHE") or Path.home() / ".cache" / "lifelong")
