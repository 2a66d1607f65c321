"""Pictures that are drawn once and kept on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from streams.files import is_sound_zip, write_cached

logger = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray]


def kept(path: Path, fits: Callable[[Arrays], bool], draw: Callable[[], Arrays]) -> Arrays:
    """Return what a file of arrays holds; draw it, and write the file, only if there is no sound one.

    Args:
        path: an ``.npz`` whose name says what is in it and how it was drawn.
        fits: whether what was read can be what belongs there.
        draw: makes it.
    """
    if is_sound_zip(path):
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                stored_arrays = {name: stored[name] for name in stored.files}
            if fits(stored_arrays):
                return stored_arrays
            shapes = ", ".join(f"{name} {a.dtype} {a.shape}" for name, a in stored_arrays.items())
            logger.warning("%s holds something else (%s); drawing again.", path, shapes)
        except (OSError, ValueError) as error:
            logger.warning("%s cannot be read (%s); drawing again.", path, error)
    elif path.exists():
        logger.warning("%s cannot be read (it is damaged); drawing again.", path)
    drawn = draw()
    try:
        write_cached(path, lambda file: np.savez(file, allow_pickle=False, **drawn))
    except OSError as error:
        logger.warning("%s cannot be written (%s); set LIFELONG_CACHE to a folder that can.", path, error)
    return drawn
