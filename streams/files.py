"""Where shared results are kept, and files that are whole or absent."""

from __future__ import annotations

import glob
import hashlib
import io
import logging
import lzma
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from streams.errors import ConfigError

logger = logging.getLogger(__name__)


class _Raw(io.FileIO):
    """A file that remembers why it could not be written: torch.save turns that into another error without a reason."""

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write as much as the system takes."""
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


def check_on_disk(place: Path | str, what: str) -> Path:
    """Return a folder of the file system.

    Args:
        place: where it is to be.
        what: names it in messages.

    Raises:
        ConfigError: that is an address such as ``s3://bucket/runs``. Folders are locked, renamed and cut, which object
            storage cannot do.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(place)):
        raise ConfigError(
            f"{what}: {place} is an address, and runs need a folder of the file system: they lock it, rename files "
            f"whole into their place and cut them back. Give a folder, and copy it there and back when nothing runs, "
            f"for example with 'aws s3 sync' or 'rclone sync'; a run that was copied back goes on where it was."
        )
    return Path(place)


def write_atomically(
    file: Path, content: bytes | memoryview | Callable[[IO[bytes]], object], fsync: bool = False
) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never half of it.

    Args:
        file: where to.
        content: the bytes, or what writes them (for content that should not be in memory twice).
        fsync: wait until the disk has it, so that a power cut, too, leaves the old content or the new.

    Raises:
        OSError: the disk does not take it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        raw = _Raw(part, "wb")
        try:
            with io.BufferedWriter(raw) as handle:
                if callable(content):
                    content(handle)
                else:
                    handle.write(content)
                if fsync:
                    sync(handle)
        except Exception as error:
            if raw.error is None or isinstance(error, OSError):
                raise
            raise raw.error from error
        part.replace(file)
        if fsync:
            _sync_folder(file.parent)
    finally:
        part.unlink(missing_ok=True)


def remembered(
    file: Path, stamp: str, compute: Callable[[], str], may_be_kept: Callable[[], bool] = lambda: True
) -> str:
    """Return a word that a file of the cache holds under a stamp; where it holds no such, compute and keep it there.

    Args:
        file: where the word is kept.
        stamp: what the word depends on.
        compute: makes the word.
        may_be_kept: asked after that; whether the stamp is still right.
    """
    try:
        known, word, check = file.read_text().split()
        if (known, check) == (stamp, _check_of(stamp, word)):
            return word
    except (OSError, ValueError):
        pass
    word = compute()
    if may_be_kept():
        try:
            write_atomically(file, f"{stamp} {word} {_check_of(stamp, word)}\n".encode())
        except OSError as error:
            logger.warning("%s cannot be written (%s); what it holds is computed again next time.", file, error)
    return word


def _check_of(*words: str) -> str:
    return hashlib.blake2b(" ".join(words).encode(), digest_size=8).hexdigest()


def write_cached(file: Path, content: bytes | memoryview | Callable[[IO[bytes]], object]) -> None:
    """Write a file of the cache, and remove what is left of it by processes that were killed while they wrote it.

    In a run folder the next attempt does that; nobody goes on with a cache.

    Raises:
        OSError: the disk does not take it.
    """
    for half in halves(file.parent, glob.escape(file.name)):
        half.unlink(missing_ok=True)
    write_atomically(file, content)


def halves(folder: Path, pattern: str) -> list[Path]:
    """Return what is left of the files of a pattern by processes that were killed while they wrote them."""
    return [part for part in sorted(folder.glob(f".{pattern}.*.part")) if not _is_alive(part.suffixes[-2][1:])]


def _is_alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def sync(handle: IO[bytes]) -> None:
    """Wait until the disk has all that was written."""
    handle.flush()
    os.fsync(handle.fileno())


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def is_sound_zip(file: Path) -> bool:
    """Return whether a file is there, and all in it is as it was written: what numpy and torch save is such a file.

    `torch.load` takes flipped bits for content, and `numpy.load` stumbles over them in many ways.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, struct.error, zipfile.BadZipFile):
        return False
    except (zlib.error, lzma.LZMAError):  # a flipped bit says that it is compressed
        return False


def cache_folder() -> Path:
    """Return where shared results are kept: ``$LIFELONG_CACHE``, else ``~/.cache/lifelong``."""
    place = os.environ.get("LIFELONG_CACHE")
    return check_on_disk(place, "LIFELONG_CACHE") if place else Path.home() / ".cache" / "lifelong"
