"""Whose code a folder names: asked before any of it is imported.

A configuration may name files of one's own, and importing a file runs it. It may also name code that is installed, by a
dotted path, and say what to call it with. Who starts a run has chosen both, and that is remembered outside of the
folder: a file by path and content, a call by path and arguments. A folder that came from somebody else brings no such
memory: whatever it says of itself, its code is not run unless one says so.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from lifelong.files import digest_of
from streams.errors import TrustError
from streams.files import cache_folder, write_atomically
from streams.registry import is_file

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_OURS = ("streams", "strategies", "lifelong", "cli")


def require_trust(configuration: object, folder: Path, trust: bool) -> None:
    """Refuse to go on where a folder names code that has not been run on this machine before.

    Args:
        configuration: plain data that the folder holds; nothing in it has been looked up yet.
        folder: to name in an error.
        trust: whether the user has said that the code may run; it is then remembered.

    Raises:
        TrustError: it names such code; the files and calls are listed.
    """
    files = {file: digest_of(file) for file in _files_in(configuration)}
    unknown = [(name, digest) for name, digest in _named(files, configuration) if not _mark(name, digest).exists()]
    if not unknown:
        return
    if trust:
        _remember(unknown)
        return
    names = [name for name, _ in unknown]
    inside = "came with it" if all(Path(name).is_relative_to(folder.resolve()) for name in names) else "it names"
    raise TrustError(
        f"{folder} asks for code that this machine has not run before: {', '.join(names)}. A file that is imported, or "
        f"a function that is called with arguments of the folder's choice, can do whatever you may do. Read what "
        f"{inside}, and if you trust it, add --trust (in Python: trust=True)."
    )


def remember(own: Mapping[Path, bytes], configuration: object) -> None:
    """Remember that the user has run code.

    Args:
        own: files by path, with `lifelong.files.own_code`'s digest of their content.
        configuration: plain data, in which dotted paths stand beside their arguments.
    """
    _remember(_named(own, configuration))


def _named(files: Mapping[Path, bytes], configuration: object) -> list[tuple[str, bytes]]:
    """Return what may run by name, each with a digest of what it is or of what it is called with."""
    return [*((str(file), digest) for file, digest in files.items()), *sorted(set(_calls_in(configuration)))]


def _remember(named: Iterable[tuple[str, bytes]]) -> None:
    for name, digest in named:
        mark = _mark(name, digest)
        if not mark.exists():
            write_atomically(mark, f"{name}\n".encode())


def _files_in(data: object) -> list[Path]:
    """Return the files with code that plain data may name, in whatever place; what is not there cannot be imported."""
    named = {Path(text).expanduser().resolve() for text, _ in _texts(data) if is_file(text)}
    return sorted(file for file in named if file.is_file())


def _calls_in(data: object) -> Iterator[tuple[str, bytes]]:
    """Yield the dotted paths of code that plain data may name, each with a digest of the mapping that it stands in."""
    for text, around in _texts(data):
        if _DOTTED.fullmatch(text) and not is_file(text) and _is_code(text):
            yield text, hashlib.blake2b(json.dumps(around, sort_keys=True, default=str).encode()).digest()


def _is_code(path: str) -> bool:
    """Whether a dotted path may be imported; nothing is imported to find out, except packages of this project."""
    root = path.partition(".")[0]
    try:
        return importlib.util.find_spec(path.rpartition(".")[0] if root in _OURS else root) is not None
    except (ImportError, ValueError):  # it has no such part
        return False


def _texts(data: object, around: object = None) -> Iterator[tuple[str, object]]:
    """Yield every text in plain data, with the innermost mapping that it stands in."""
    if isinstance(data, str):
        yield data, around
    elif isinstance(data, Mapping):
        for part in data.values():
            yield from _texts(part, data)
    elif isinstance(data, Iterable):
        for part in data:
            yield from _texts(part, around)


def _mark(name: str, digest: bytes) -> Path:
    mark = hashlib.blake2b(name.encode() + b"\0" + digest, digest_size=16).hexdigest()
    return cache_folder() / "trusted" / mark
