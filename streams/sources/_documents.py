"""From documents by domain to rows of tokens: which are held out, the tokeniser, and the source."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from streams.config import Config as BaseConfig
from streams.errors import DataError
from streams.randomness import Key
from streams.source import Source
from streams.text import Text, Tokenizer, blocks, refusals, rows, tokenizer_of


class DocumentsConfig(BaseConfig):
    """How documents become rows."""

    length: int = Field(64, ge=8)
    """Tokens of a row, the start token among them; what does not fill a row is left out."""
    rows: int = Field(500, ge=2)
    """Most rows per domain, test rows among them."""
    test_fraction: float = Field(0.2, gt=0, lt=1)
    """Share of each domain's documents, and of its rows, held out for testing."""
    vocabulary: int = Field(2048, ge=320)
    """Tokens of the tokeniser that is trained on the training documents."""
    vocabulary_texts: tuple[str, ...] = ()
    """Files of text to train the tokeniser on instead, public or never to be deleted: else names and answers of
    those who ask to be forgotten may stay tokens."""
    tokenizer: str | None = None
    """A checkpoint's tokeniser in its place (folder or name on the hub), for models that have one."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text by name, and whether it is held out.

    Attributes:
        name: of the document.
        text: of the document, or an answer.
        is_test: whether it is held out.
        prompt: the question that the text answers, or None if it is a document. A question with its answer is one row;
            it is left out if it is too long for that.
    """

    name: str
    text: str
    is_test: bool
    prompt: str | None = None


def split(texts: dict[str, str], config: DocumentsConfig, key: Key) -> list[Document]:
    """Return documents in an order that depends on nothing but their names, the first share of them held out."""
    order = sorted(texts, key=lambda name: (key / name).number())
    count = max(1, round(config.test_fraction * len(order)))
    return [Document(name, texts[name], i < count) for i, name in enumerate(order)]


def source_of_documents(name: str, licence: str, domains: dict[str, list[Document]], config: DocumentsConfig) -> Source:
    """Return the source: a class and a domain for each domain, a user for each document.

    Args:
        name, licence: of the source.
        domains: documents, taken in their order until there are rows enough.
        config: sizes.

    Raises:
        DataError: a domain fills no row to train on, or none to test on.
    """
    shares = {True: round(config.rows * config.test_fraction)}
    shares[False] = config.rows - shares[True]
    shortened = {domain: _cut_to_fill(documents, shares, config.length) for domain, documents in domains.items()}
    trained = [d for documents in shortened.values() for d in documents if not d.is_test]
    tokenizer = tokenizer_of(config, [t for d in trained for t in (d.prompt, d.text) if t])
    parts, domain_ids, user_ids, is_test = [], [], [], []
    users: list[str] = []
    for index, (domain, documents) in enumerate(shortened.items()):
        rows_left = dict(shares)
        for document in documents:
            document_rows = _rows(document, config.length, tokenizer)[: rows_left[document.is_test]]
            if len(document_rows):
                rows_left[document.is_test] -= len(document_rows)
                parts.append(document_rows)
                domain_ids += [index] * len(document_rows)
                user_ids += [len(users)] * len(document_rows)
                is_test += [document.is_test] * len(document_rows)
                users.append(f"{domain}/{document.name}")
        for part, word in ((False, "train"), (True, "test")):
            if rows_left[part] == shares[part]:
                raise DataError(
                    f"{name}: the domain {domain!r} fills no row of {config.length} tokens to {word} on. Add text, "
                    f"or lower source.length."
                )
    ids = np.array(domain_ids, dtype=np.int64)
    return Source(
        name=name,
        licence=licence,
        x=torch.cat(parts),
        y=torch.from_numpy(ids.copy()),
        class_ids=ids,
        user_ids=np.array(user_ids, dtype=np.int64),
        is_test=np.array(is_test),
        class_names=tuple(domains),
        user_names=tuple(users),
        domain_ids=ids.copy(),
        notes=(f"rows of {config.length} tokens, {tokenizer.vocab_size} in the vocabulary",),
        text=Text(tokenizer=tokenizer, refusals=refusals(tokenizer)),
    )


def _cut_to_fill(documents: list[Document], shares: dict[bool, int], length: int) -> list[Document]:
    """Return documents, the last of them cut, that surely fill the rows: a token rarely has more than ten letters."""
    letters_left = {part: 10 * length * rows for part, rows in shares.items()}
    shortened = []
    for document in documents:
        if document.prompt is not None:
            shortened.append(document)
            continue
        text = document.text[: letters_left[document.is_test]]
        letters_left[document.is_test] -= len(text)
        if text:
            shortened.append(replace(document, text=text))
    return shortened


def _rows(document: Document, length: int, tokenizer: Tokenizer) -> torch.Tensor:
    """Return the rows of a document, or the one of a question in plain text, int32 ``[n, 2, length]``."""
    if document.prompt is None:
        return blocks(tokenizer.encode(document.text), length, tokenizer)
    question = (tokenizer.encode(f"{document.prompt}\n"), [*tokenizer.encode(document.text), tokenizer.eos])
    row = rows([question], tokenizer)
    return F.pad(row, (0, length - row.shape[2])) if row.shape[2] <= length else row[:0, :, :length]
