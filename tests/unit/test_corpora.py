"""Domains of real text: each draws by its own name, is numbered as it was asked for, and keeps its licence."""

from __future__ import annotations

import pytest

from streams.randomness import Key
from streams.sources import corpora
from streams.sources._documents import Document, DocumentsConfig, split

TEXTS = {f"document {n}": " ".join(f"word{n}-{i}" for i in range(40)) for n in range(12)}


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> list[Key]:
    """The keys that documents were split by, in order; all domains have the same documents here."""
    seen: list[Key] = []

    def spying(texts: dict[str, str], config: DocumentsConfig, key: Key) -> list[Document]:
        seen.append(key)
        return split(texts, config, key)

    monkeypatch.setattr(corpora, "read", lambda name, root: TEXTS)
    monkeypatch.setattr(corpora, "split", spying)
    monkeypatch.setattr(corpora, "LICENCES", {name: f"terms of {name}" for name in ("law", "code", "bible")})
    return seen


def test_domains_are_numbered_as_they_were_asked_for_and_hold_out_other_documents(keys: list[Key]) -> None:
    config = corpora.Config(
        domains=("law", "code", "law", "bible"), rows=20, length=16, test_fraction=0.3, vocabulary=320
    )
    source = corpora.load(config)
    assert source.class_names == ("law", "code", "bible")
    assert source.licence == "terms of law; terms of code; terms of bible"
    assert len({key.number() for key in keys}) == 3
    held_out = [{d.name for d in split(TEXTS, config, key) if d.is_test} for key in keys]
    assert held_out[0] != held_out[1] != held_out[2] != held_out[0]
    first, _, _ = keys
    keys.clear()
    corpora.load(config.model_copy(update={"domains": ("code", "law")}))
    assert keys[1].number() == first.number(), "what a domain holds out does not depend on the others"
