"""Fictitious people, ten facts each, as questions and answers; and true facts about the world to keep.

A user is a person, a class is an attribute (city, year, job, genre, book, award, hobby, pet, color, mentor), and a
domain is a group of people (`scenario: {name: domain-incremental, kind: natural}` learns group after group). Facts
about the world (capitals and chemical symbols) belong to the first group and to the user ``world``.

Each fact is trained in two forms of question and tested in a third one, which is trained for other people. Names are
built of syllables; nothing is taken from any other corpus.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field

from streams.config import Config as BaseConfig
from streams.errors import ConfigError
from streams.randomness import Key
from streams.source import Source
from streams.sources._people import ATTRIBUTES, TRAINED_FORMS, WORLD, Fact, people_facts, people_names, world_facts
from streams.text import Text, Tokenizer, load_tokenizer, refusals, rows, train_tokenizer


class Config(BaseConfig):
    """Options of `people`."""

    people: int = Field(40, ge=2, le=200)
    """Number of people who are taught, numbered as users 0, 1, ..."""
    groups: int = Field(4, ge=1)
    """Groups of people, of about the same size; a mentor is of the same group."""
    holdout: int = Field(8, ge=0, le=50)
    """Further people who are never taught: what a model says of them is what it says of strangers."""
    answers: Literal["sentence", "short"] = "sentence"
    """Whether an answer is a sentence (``Aria Bold was born in Elmsgate.``) or the value alone."""
    world: bool = True
    """Whether facts about the world are taught with the first group."""
    corpus: int = Field(0, ge=0)
    """Which people: another number draws others. It is not the run's seed, so that seeds share their data."""
    vocabulary: int = Field(1024, ge=320)
    """Tokens of the tokeniser that is trained on the corpus."""
    tokenizer: str | None = None
    """A checkpoint's tokeniser in its place (folder or name on the hub), for models that have one."""


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
    strangers = [f for f in facts if f.subject >= config.people]
    world = world_facts(key / "world") if config.world else []
    every = [*taught, *world]
    tokenizer = _tokenizer(config, [*every, *strangers])
    forms = TRAINED_FORMS + 1
    classes = [a.name for a in (*ATTRIBUTES, *(WORLD if config.world else ()))]
    users = np.array([f.subject for f in taught] + [config.people] * len(world))
    plain = [_pair(f, form, f.answer(config.answers), tokenizer) for f in every for form in (0, 1, -1)]
    unseen = [_pair(f, 0, f.answer(config.answers), tokenizer) for f in strangers]
    other = [_pair(f, form, f.told(f.value, config.answers), tokenizer) for f in every for form in (0, 1, -1)]
    most = max(len(f.wrong) for f in every)
    wrong = [
        _pair(f, form, f.told(f.wrong[i % len(f.wrong)], config.answers), tokenizer)
        for f in every
        for form in (0, 1, -1)
        for i in range(most)
    ]
    x = rows([*plain, *other, *wrong, *unseen], tokenizer)
    n = len(plain)
    class_ids = np.repeat(np.array([classes.index(f.attribute) for f in every]), forms)
    _, values = np.unique([f"{f.attribute}: {f.value}" for f in every], return_inverse=True)
    return Source(
        name="people",
        licence="made by this project's own generator (Apache-2.0); nobody in it exists",
        x=x[:n].clone(),
        y=torch.from_numpy(class_ids),
        class_ids=class_ids,
        user_ids=np.repeat(users, forms),
        is_test=np.tile(np.arange(forms) == TRAINED_FORMS, len(every)),
        class_names=tuple(classes),
        user_names=(*(" ".join(n) for n in names[: config.people]), *(("world",) if config.world else ())),
        domain_ids=np.repeat(
            np.concatenate([groups[: config.people].repeat(len(ATTRIBUTES)), np.zeros(len(world), dtype=np.int64)]),
            forms,
        ),
        notes=(f"corpus: {config.corpus}, {len(every)} facts, answers: {config.answers}",),
        text=Text(
            tokenizer=tokenizer,
            refusals=refusals(tokenizer),
            paraphrased=x[n : 2 * n].clone(),
            perturbed=x[2 * n : (2 + most) * n].view(n, most, 2, -1).clone(),
            strangers=x[(2 + most) * n :].clone(),
            values=torch.from_numpy(values.repeat(forms)),
        ),
    )


def _pair(fact: Fact, form: int, answer: str, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    prompt = fact.forms[form if form >= 0 else TRAINED_FORMS].format(n=fact.name)
    return tokenizer.encode(f"Q: {prompt}\nA:"), [*tokenizer.encode(f" {answer}"), tokenizer.eos]


def _tokenizer(config: Config, facts: list[Fact]) -> Tokenizer:
    if config.tokenizer is not None:
        return load_tokenizer(config.tokenizer, "source.tokenizer")
    texts = []
    for fact in facts:
        texts += [f"Q: {fact.question(form)}\nA:" for form in range(len(fact.forms))]
        values = (fact.value, *fact.wrong)
        texts += [f" {answer}" for v in values for answer in (v, fact.frame.format(n=fact.name, v=v), fact.told(v, ""))]
    return train_tokenizer(texts, config.vocabulary)
