"""Fictitious people, ten facts each, as questions and answers; and true facts about the world to keep.

A user is a person, a class is an attribute (city, year, job, genre, book, award, hobby, pet, color, mentor), and a
domain is a group of people (`scenario: {name: domain-incremental, kind: natural}` learns group after group). Facts
about the world (capitals and chemical symbols) belong to the first group and to the user ``world``.

Each fact is trained in two forms of question and tested in a third one, which is trained for other people. Names are
built of syllables; nothing is taken from any other corpus.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from streams.errors import ConfigError
from streams.randomness import Key
from streams.source import Source
from streams.sources._facts import AskedConfig, Taught, source_of_facts
from streams.sources._people import ATTRIBUTES, WORLD, Fact, people_facts, people_names, world_facts

UNUSED = 8
"""Names of nobody that can be put in the place of a person's."""


class Config(AskedConfig):
    """Options of `people`."""

    people: int = Field(40, ge=2, le=200)
    """Number of people who are taught, numbered as users 0, 1, ..."""
    groups: int = Field(4, ge=1)
    """Groups of people, of about the same size; a mentor is of the same group."""
    holdout: int = Field(8, ge=0, le=50)
    """Further people who are held out: never taught, and the non-members of membership attacks."""
    world: bool = True
    """Whether facts about the world are taught with the first group."""
    corpus: int = Field(0, ge=0)
    """Which people: another number draws others. It is not the run's seed, so that seeds share their data."""


def load(config: Config) -> Source:
    """Return the corpus: int32 ``x [N, 2, L]`` (tokens, and what they are), ``y`` the attribute.

    Raises:
        ConfigError: more groups than people, or the tokeniser cannot be had.
    """
    if config.groups > config.people:
        raise ConfigError(f"source.groups: {config.groups} is more than the {config.people} people.")
    if config.people + config.holdout < 3:
        raise ConfigError(f"source.people: {config.people} is too few; wrong mentors need at least three names.")
    key = Key(config.corpus) / "people"
    names = people_names(config.people + config.holdout, key / "names")
    groups = np.concatenate(
        [np.arange(config.people) * config.groups // config.people, np.full(config.holdout, config.groups)]
    )
    facts = people_facts(names, groups, key / "facts")
    taught = [f for f in facts if f.subject < config.people]
    world = world_facts(key / "world") if config.world else []
    all_facts = [*taught, *world]
    classes = tuple(a.name for a in (*ATTRIBUTES, *(WORLD if config.world else ())))
    nobody = np.zeros(len(world), dtype=np.int64)
    return source_of_facts(
        "people",
        "made by this project's own generator (Apache-2.0); nobody in it exists",
        Taught(
            facts=all_facts,
            users=np.array([f.subject for f in taught] + [config.people] * len(world)),
            classes=np.array([classes.index(f.attribute) for f in all_facts]),
            domains=np.concatenate([groups[: config.people].repeat(len(ATTRIBUTES)), nobody]),
            user_names=(*(" ".join(n) for n in names[: config.people]), *(("world",) if config.world else ())),
            class_names=classes,
            holdout=[f for f in facts if f.subject >= config.people],
            terms=_terms(all_facts, [" ".join(n) for n in names[: config.people]], _unused(config, key)),
        ),
        config,
        (f"corpus: {config.corpus}, {len(all_facts)} facts, answers: {config.answers}",),
    )


def _unused(config: Config, key: Key) -> tuple[str, ...]:
    """Return names of nobody: neither of those who are taught nor of those who are held out."""
    count = config.people + config.holdout
    return tuple(" ".join(n) for n in people_names(count + UNUSED, key / "names")[count:])


def _terms(facts: Sequence[Fact], taught: list[str], unused: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return every name and value with others of its kind: names of nobody, other values of the attribute."""
    kinds = {a.name: a.domain for a in (*ATTRIBUTES, *WORLD)}
    terms = dict.fromkeys(taught, unused)
    for fact in facts:
        if fact.value not in terms:
            terms[fact.value] = tuple(v for v in kinds[fact.attribute] if v != fact.value)
        if fact.name not in terms:  # a fact about the world
            terms[fact.name] = tuple(sorted({f.name for f in facts if f.attribute == fact.attribute} - {fact.name}))
    return terms
