"""A data set of Hugging Face's `datasets`, your own or one of the hub: documents, or questions with answers, by domain.

A row is a document; with `prompt` it is a question with its answer, and a row without a question is a document. A user
is a row, a class is its domain. Rows of a split ``test`` are held out; where there is none, a share of each domain is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from streams.errors import ConfigError, DataError, closest
from streams.randomness import Key
from streams.source import Source
from streams.sources._documents import Document, DocumentsConfig, source_of_documents


class Config(DocumentsConfig):
    """Options of `datasets`."""

    path: str
    """A folder that `save_to_disk` has written, or a name on the hub."""
    subset: str | None = None
    """Configuration of a data set of the hub that has several."""
    text: str = "text"
    """Column of the documents, or of the answers."""
    prompt: str | None = None
    """Column of the questions; null if all rows are documents."""
    domain: str | None = None
    """Column that tells each row's domain; null if all are one domain."""


def load(config: Config) -> Source:
    """Return the text as int32 ``x [N, 2, length]`` (tokens, and what they are).

    Raises:
        ConfigError: a column is not there.
        DataError: `datasets` or the data set is not there, a text or domain is empty, or there is too little text.
    """
    splits = _splits(config)
    held_out = splits.get("test", [])
    taught = [row for name, split in splits.items() if name != "test" for row in split]
    domains: dict[str, list[Document]] = {}
    for is_test, part in ((False, taught), (True, held_out)):
        for number, row in enumerate(part):
            document = _document(row, f"{'test' if is_test else 'row'}-{number}", is_test, config)
            domains.setdefault(_domain(row, document.name, config), []).append(document)
    if not held_out:
        domains = {name: _hold_out(documents, config, name) for name, documents in domains.items()}
    return source_of_documents("datasets", f"the user's own data set: {config.path}", domains, config)


def _hold_out(documents: list[Document], config: Config, domain: str) -> list[Document]:
    """Return the documents in an order that depends on nothing but their names, the first share of them held out."""
    key = Key(0) / "datasets" / domain
    order = sorted(documents, key=lambda d: (key / d.name).number())
    count = max(1, round(config.test_fraction * len(order)))
    return [Document(d.name, d.text, i < count, d.prompt) for i, d in enumerate(order)]


def _document(row: dict[str, Any], name: str, is_test: bool, config: Config) -> Document:
    text = row[config.text]
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"datasets: {config.text!r} of {name} is {text!r}, no text. Leave such rows out.")
    prompt = None if config.prompt is None else row[config.prompt]
    return Document(name, text, is_test, prompt or None)


def _domain(row: dict[str, Any], name: str, config: Config) -> str:
    if config.domain is None:
        return "all"
    domain = row[config.domain]
    if domain is None or not str(domain).strip():
        raise DataError(f"datasets: {config.domain!r} of {name} is empty. Fill it in, or leave such rows out.")
    return str(domain)


def _splits(config: Config) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each split that is there."""
    try:
        import datasets
    except ImportError as error:
        raise DataError("datasets: the package is not installed. pip install datasets") from error
    folder = Path(config.path).expanduser()
    try:
        if folder.is_dir():
            loaded = datasets.load_from_disk(str(folder))
        else:
            loaded = datasets.load_dataset(config.path, config.subset)
    except (OSError, ValueError, RuntimeError) as error:  # its own errors are all of these
        raise DataError(
            f"source.path: {config.path!r} cannot be loaded ({error}). Name a folder that save_to_disk has written, or "
            f"a data set of the hub."
        ) from error
    splits = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"train": loaded}
    for split in splits.values():
        for option in ("text", "prompt", "domain"):
            column = getattr(config, option)
            if column is not None and column not in split.column_names:
                raise ConfigError(
                    f"source.{option}: there is no column {column!r}. {closest(column, split.column_names)}"
                )
    return {name: split.to_list() for name, split in splits.items()}
