"""Whose code a folder names: asked before any of it is imported.

A configuration may name files of one's own, and importing a file runs it. Who starts a run has chosen these files, and
that is remembered outside of the folder, by path and content. A folder that came from somebody else brings no such
memory: whatever it says of itself, its code is not run unless one says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from lifelong.files import digest_of
from streams.errors import TrustError
from streams.files import cache_folder, write_atomically
from streams.registry import is_file


def require_trust(configuration: object, folder: Path, trust: bool) -> None:
    """Refuse to go on where a folder names code that has not been run on this machine before.

    Args:
        configuration: plain data that the folder holds; nothing in it has been looked up yet.
        folder: to name in an error.
        trust: whether the user has said that the code may run; it is then remembered.

    Raises:
        TrustError: it names such code; the files are listed.
    """
    unknown = [file for file in _files_in(configuration) if not _mark(file, digest_of(file)).exists()]
    if not unknown:
        return
    if trust:
        remember({file: digest_of(file) for file in unknown})
        return
    inside = "came with it" if all(f.is_relative_to(folder.resolve()) for f in unknown) else "it names"
    raise TrustError(
        f"{folder} asks for code that this machine has not run before: {', '.join(map(str, unknown))}. A file that is "
        f"imported can do whatever you may do. Read what {inside}, and if you trust it, add --trust (in Python: "
        f"trust=True)."
    )


def remember(own: Mapping[Path, bytes]) -> None:
    """Remember that the user has run files, by path and by `lifelong.files.own_code`'s digest of their content."""
    for file, digest in own.items():
        mark = _mark(file, digest)
        if not mark.exists():
            write_atomically(mark, f"{file}\n".encode())


def _files_in(data: object) -> list[Path]:
    """Return the files with code that plain data may name, in whatever place; what is not there cannot be imported."""
    named = {Path(text).expanduser().resolve() for text in _texts(data) if is_file(text)}
    return sorted(file for file in named if file.is_file())


def _texts(data: object) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, Mapping):
        yield from _texts(list(data.values()))
    elif isinstance(data, Iterable):
        for part in data:
            yield from _texts(part)


def _mark(file: Path, digest: bytes) -> Path:
    name = hashlib.blake2b(str(file).encode() + b"\0" + digest, digest_size=16).hexdigest()
    return cache_folder() / "trusted" / name
