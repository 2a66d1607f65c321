"""Files that are whole or absent, directories for caches, and identities of code."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from streams.errors import ConfigError, LifelongError
from streams.files import cache_folder, write_atomically, write_cached
from streams.registry import others_code

__all__ = [
    "PACKAGES",
    "cache_folder",
    "code_of",
    "code_version",
    "digest_of",
    "disk_errors",
    "names_in",
    "own_code",
    "write_atomically",
    "write_cached",
]

PACKAGES = ("streams", "strategies", "lifelong")
ONLOOKERS = (
    "lifelong/bench/",
    "lifelong/capacity/",
    "lifelong/config/annotate.py",
    "lifelong/config/shipped.py",
    "lifelong/execution/stepping.py",
    "lifelong/interface.py",
    "lifelong/metrics/catalogue.py",
    "lifelong/report/",
    "lifelong/results/columns.py",
    "lifelong/setup/doctor.py",
    "lifelong/setup/preview.py",
    "lifelong/study/",
    "lifelong/trackers/",
    "lifelong/verification/",
)
"""Code that starts runs, is told of them or reads what they wrote: changing it changes no result."""


@functools.cache
def code_version() -> str:
    """Return a hash of all code that decides results (hex, 16 characters)."""
    h = hashlib.blake2b(digest_size=8)
    root = Path(__file__).parent.parent
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            name = file.relative_to(root).as_posix()
            if not name.startswith(ONLOOKERS):
                h.update(name.encode())
                h.update(file.read_bytes())
    return h.hexdigest()


def code_of(configuration: object, own: Mapping[Path, bytes] | None = None) -> str:
    """Return a hash of all code that decides the results of a configuration.

    Args:
        configuration: JSON-ready data; what it names and is not part of this project counts, too.
        own: digests of such code that `own_code` returned earlier; the files may have been changed since.
    """
    files, known = others_code(names_in(configuration)), own or {}
    if not files:
        return code_version()
    h = hashlib.blake2b(code_version().encode(), digest_size=8)
    for file in files:
        h.update(known[file] if file in known else digest_of(file))
    return h.hexdigest()


def own_code(configuration: object) -> dict[Path, bytes]:
    """Return the digests of all code that a configuration names and that is not part of this project."""
    return {file: digest_of(file) for file in others_code(names_in(configuration))}


def digest_of(file: Path) -> bytes:
    """Return the digest of the content of a file with code, 64 bytes."""
    return hashlib.blake2b(file.read_bytes()).digest()


def names_in(data: object) -> Iterator[str]:
    """Yield every name in a configuration, JSON-ready and with every thing written out as ``{"name": ...}``."""
    if isinstance(data, dict):
        if isinstance(data.get("name"), str):
            yield data["name"]
        data = list(data.values())
    if isinstance(data, list | tuple):
        for part in data:
            yield from names_in(part)


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Say what to do when the disk does not take what is written."""
    try:
        yield
    except OSError as error:
        place = Path(error.filename or folder)
        problem = f"Cannot write to {place}: {error.strerror or error}."
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise LifelongError(
                f"{problem} Free some space and run the same command again; nothing is lost."
            ) from error
        if error.errno == errno.ENAMETOOLONG:
            raise ConfigError(f"{problem} Choose a shorter `name`.") from error
        cached = place.is_relative_to(cache_folder())
        remedy = "Point LIFELONG_CACHE at another folder" if cached else "Choose another place with --runs"
        raise ConfigError(f"{problem} {remedy}; what was finished so far is kept.") from error
