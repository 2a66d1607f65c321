"""Your own text: a folder of .txt files, or of one sub-folder of them per domain, cut into rows of tokens.

A domain is a sub-folder (or the whole folder), a user is a file, and a class is the domain again. Files are UTF-8.
Those in a sub-folder ``test`` of a domain are held out, and their users are called ``test/...``; where there is none, a
share of the domain's files is.
"""

from __future__ import annotations

from pathlib import Path

from streams.errors import DataError
from streams.randomness import Key
from streams.source import Source
from streams.sources._documents import Document, DocumentsConfig, source_of_documents, split


class Config(DocumentsConfig):
    """Options of `text-files`."""

    path: str
    """The folder."""


def load(config: Config) -> Source:
    """Return the text as int32 ``x [N, 2, length]`` (tokens, and what they are).

    Raises:
        DataError: the folder is missing, or a file is empty or not UTF-8, or there is too little text.
    """
    root = Path(config.path).expanduser()
    if not root.is_dir():
        raise DataError(f"source.path: {config.path!r} is no folder. Name one that holds .txt files.")
    folders = [f for f in sorted(root.iterdir()) if f.is_dir() and f.name != "test" and any(f.rglob("*.txt"))]
    domains = {folder.name: _documents(folder, config) for folder in folders or [root]}
    return source_of_documents("text-files", f"the user's own text: {root.name}", domains, config)


def _documents(folder: Path, config: Config) -> list[Document]:
    """Return the documents of one domain."""
    taught = {file.stem: _text(file) for file in sorted(folder.glob("*.txt"))}
    held = {f"test/{file.stem}": _text(file) for file in sorted((folder / "test").glob("*.txt"))}
    if held:
        return [Document(n, t, True) for n, t in held.items()] + [Document(n, t, False) for n, t in taught.items()]
    if len(taught) < 2:
        raise DataError(
            f"{folder}: there are {len(taught)} .txt files, and some must be held out for testing. Add files, or put "
            f"those to test on into {folder / 'test'}."
        )
    return split(taught, config, Key(0) / "text-files" / folder.name)


def _text(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as UTF-8 ({error}). Convert it, or take it away.") from error
    if not text.strip():
        raise DataError(f"{file}: is empty. Write something into it, or take it away.")
    return text
