"""Whether files still hold what was written: a cut, an edit or a flipped bit must not pass for a result."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from lifelong.config.run import content_hash
from streams.errors import CheckpointError
from streams.files import sync

Mark = dict[str, Any]
"""How long a file is (``bytes``), and the ``digest`` of that much of it (blake2b, hex, 32 characters)."""

_NEEDED = ("results.jsonl",)  # what workers with a disk of their own bring back is not all
_CHUNK = 1 << 20


def mark_of(file: Path) -> Mark:
    """Return the length of a whole file and its digest."""
    length = file.stat().st_size
    return {"bytes": length, "digest": _hash_of(file, length).hexdigest()}


def _hash_of(file: Path, length: int) -> hashlib.blake2b:
    """Return the hash of the first `length` bytes of a file, to be gone on with."""
    h = hashlib.blake2b(digest_size=16)
    with file.open("rb") as content:
        while length > 0 and (chunk := content.read(min(length, _CHUNK))):
            h.update(chunk)
            length -= len(chunk)
    return h


class Appended:
    """A file that is only added to, and the digest of all that it holds, kept up while it is written."""

    def __init__(self, file: Path) -> None:
        """Open or create it; what is in it already counts after `cut`."""
        self.file, self._handle = file, file.open("ab")
        self._hash, self._length = hashlib.blake2b(digest_size=16), 0

    def write(self, content: bytes) -> None:
        """Add to the end."""
        self._handle.write(content)
        self._hash.update(content)
        self._length += len(content)

    def mark(self) -> Mark:
        """Return the length, and the digest so far."""
        return {"bytes": self._length, "digest": self._hash.hexdigest()}

    def differs(self, mark: Mark) -> str | None:
        """Return what is wrong with the part of the file that is marked, or None."""
        self._handle.flush()
        if self.file.stat().st_size < mark["bytes"]:
            return f"{self.file} is shorter than its checkpoint says"
        if _hash_of(self.file, mark["bytes"]).hexdigest() != mark["digest"]:
            return f"{self.file} is not what its checkpoint says: it was damaged or edited"
        return None

    def cut(self, length: int) -> None:
        """Cut it back to `length` bytes and go on from there."""
        self._handle.flush()
        self._handle.truncate(length)
        self._handle.seek(0, io.SEEK_END)
        self._hash, self._length = _hash_of(self.file, length), length

    def flush(self, fsync: bool) -> None:
        """Hand everything to the operating system, or wait until the disk has it."""
        if fsync:
            sync(self._handle)
        else:
            self._handle.flush()

    def close(self) -> None:
        """Close it."""
        self._handle.close()


def with_digest(content: dict[str, Any]) -> bytes:
    """Return a JSON file of `content` and of its digest, which `read_json` compares."""
    content = json.loads(json.dumps(content))  # as it will be read
    return json.dumps(content | {"digest": content_hash(content)}, indent=1).encode()


def read_json(file: Path, remedy: str) -> dict[str, Any]:
    """Return the keys of a JSON file.

    Raises:
        CheckpointError: it is corrupt, or not what its digest says; `remedy` says what to do.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is corrupt ({error}). {remedy}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{file} is corrupt (it holds no keys). {remedy}")
    # Earlier versions wrote some of these files without a digest.
    if "digest" in data and content_hash({k: v for k, v in data.items() if k != "digest"}) != data["digest"]:
        raise CheckpointError(f"{file} was damaged or edited after it was written. {remedy}")
    return data


def check_finished(folder: Path, summary: dict[str, Any], read: Collection[str] | None = None) -> None:
    """Check the files of a strategy that is done.

    Args:
        folder: of the strategy.
        summary: what its ``done.json`` holds: see `read_json`.
        read: names of files whose content is compared; None compares all. Lengths are compared in any case.

    Raises:
        CheckpointError: one was cut, edited or removed.
    """
    remedy = "Restore it from a copy, or run again with --fresh."
    for name, mark in summary.get("files", {}).items():
        file = folder / name
        if not file.exists():
            if name in _NEEDED:
                raise CheckpointError(f"{file} is gone. {remedy}")
            continue  # what can be made again, and what `lifelong clean` removes
        length = file.stat().st_size
        if length != mark["bytes"]:
            raise CheckpointError(
                f"{file} was cut or edited: it has {length} bytes, and {mark['bytes']} when the run had finished. "
                f"{remedy}"
            )
        if (read is None or name in read) and mark_of(file) != mark:
            raise CheckpointError(f"{file} was damaged or edited after the run had finished. {remedy}")


def table_files(folder: Path) -> set[str]:
    """Return which files the table of a strategy that is done is read from (`lifelong.results.columns`)."""
    return {"columns.bin"} if (folder / "columns.bin").exists() else {"results.jsonl"}
