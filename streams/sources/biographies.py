"""Biographies of fictitious people by domain, and general questions: what is known, apart from how it is asked for.

Domain 0 is general: biographies of its people, questions about them, and questions about the world. The other domains
are documents alone, biographies of further people; their test rows ask about those people, which no training row does.
So a model that learns a domain gains from it only what it can also say when asked, in a format that it knows from the
general data. Questions are plain text: the question, a line break, the answer.

With `reserved` people domain 1 is general, too, about other people. A learner that mixes in nothing of it shows there
how much it keeps of what it could do before, and not of what it rehearses.

A user is a person (or ``world``), a class is an attribute or ``biography``; people and facts are those of `people`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field

from streams.randomness import Key
from streams.source import Source
from streams.sources._facts import FactsConfig, tokenizer_of_facts
from streams.sources._people import (
    ATTRIBUTES,
    TRAINED_FORMS,
    WORLD,
    Fact,
    people_facts,
    people_names,
    world_facts,
)
from streams.text import TEMPLATE, Text, Tokenizer, put_in, refusals, rows, template

Pair = tuple[list[int], list[int]]


class Config(FactsConfig):
    """Options of `biographies`."""

    general: int = Field(16, ge=3, le=100)
    """People of the general domain."""
    reserved: int = Field(0, ge=0, le=100)
    """People of a second general domain, number 1, about whom it has biographies and questions; 0: there is none."""
    domains: int = Field(4, ge=1)
    """Further domains."""
    people: int = Field(4, ge=2, le=50)
    """People of each of them."""
    renderings: int = Field(3, ge=1)
    """Biographies of each person, their sentences in different orders."""
    sentences: int = Field(5, ge=1, le=10)
    """Sentences of a row; a biography has ten."""
    world: bool = True
    """Whether the general domain has facts about the world."""
    asked: Literal["plain", "chat"] = "plain"
    """How test questions are put: as plain text, or in the chat template."""
    template: tuple[str, str] = TEMPLATE
    """The chat template of `asked: chat`; give the learner the same."""
    corpus: int = Field(0, ge=0)
    """Which people: another number draws others. It is not the run's seed, so that seeds share their data."""


def load(config: Config) -> Source:
    """Return the rows, int32 ``x [N, 2, L]`` (tokens, and what they are), ``y`` the class.

    Raises:
        ConfigError: there are more people than book titles, or the tokeniser cannot be had.
    """
    key = Key(config.corpus) / "biographies"
    num_general, num_asked = config.general + config.reserved, 1 + bool(config.reserved)
    count = num_general + config.domains * config.people
    names = people_names(count, key / "names")
    groups = np.maximum(0, (np.arange(count) - num_general) // config.people + num_asked)
    groups[:num_general] = np.arange(num_general) >= config.general
    facts = people_facts(names, groups, key / "facts")
    world = world_facts(key / "world") if config.world else []
    documents = [part for f in _by_person(facts) for part in _biographies(f, config, key / "orders")]
    more = [f"{fact.question(i)}\n" for fact in (*facts, *world) for i in range(len(fact.forms))]
    more += [_document_of(d, "sentence") for d in documents] + list(config.template)
    maker = _Maker(config, tokenizer_of_facts([*facts, *world], config, more=more))
    for document in documents:
        person = document[0].subject
        maker.document(document, person, int(groups[person]))
    for fact in facts:
        maker.questions(fact, fact.subject, int(groups[fact.subject]))
    for fact in world:
        maker.questions(fact, count, 0)
    return maker.source((*(" ".join(n) for n in names), *(("world",) if config.world else ())))


class _Maker:
    """Gathers rows, each with its answer in other words and with wrong ones."""

    def __init__(self, config: Config, tokenizer: Tokenizer) -> None:
        self._config, self._tokenizer = config, tokenizer
        self._classes = (*(a.name for a in ATTRIBUTES), "biography", *(a.name for a in WORLD if config.world))
        self._plain: list[Pair] = []
        self._other: list[Pair] = []
        self._wrong: list[list[Pair]] = []
        self._about: list[tuple[int, int, int, bool]] = []

    def document(self, facts: list[Fact], user: int, domain: int) -> None:
        """Add a part of a biography to train on."""
        wrong = min(len(f.wrong) for f in facts)
        mistaken = [" ".join(f.stated(f.wrong[i], "") for f in facts) for i in range(wrong)]
        texts = [_document_of(facts, "sentence"), " ".join(f.stated(f.value, "") for f in facts), *mistaken]
        self._add("", texts, "biography", user, domain, is_test=False)

    def questions(self, fact: Fact, user: int, domain: int) -> None:
        """Add the questions about a fact: two forms to train on if it is general, and one to test with."""
        style, is_general = self._config.answers, domain <= bool(self._config.reserved)
        texts = [fact.answer(style), fact.stated(fact.value, style), *(fact.stated(w, style) for w in fact.wrong)]
        for form in range(TRAINED_FORMS + 1):
            is_test = form == TRAINED_FORMS
            if is_test or is_general:
                self._add(f"{fact.question(form)}\n", texts, fact.attribute, user, domain, is_test)

    def source(self, user_names: tuple[str, ...]) -> Source:
        """Return all of it."""
        config, max_wrong = self._config, max(len(w) for w in self._wrong)
        wrong = [w[i % len(w)] for w in self._wrong for i in range(max_wrong)]
        x, n = rows([*self._plain, *self._other, *wrong], self._tokenizer), len(self._plain)
        classes, users, domains, is_test = (np.array(column) for column in zip(*self._about, strict=True))
        if config.asked == "chat":
            chat = put_in(template(config.template, self._tokenizer), x)
            wider = x.new_zeros(len(x), 2, chat.shape[2])
            wider[:, :, : x.shape[2]] = x
            asked = np.concatenate([is_test, is_test, is_test.repeat(max_wrong)])
            wider[torch.from_numpy(asked)] = chat[torch.from_numpy(asked)]
            x = wider
        return Source(
            name="biographies",
            licence="made by this project's own generator (Apache-2.0); nobody in it exists",
            x=x[:n].clone(),
            y=torch.from_numpy(classes),
            class_ids=classes,
            user_ids=users,
            is_test=is_test,
            class_names=self._classes,
            user_names=user_names,
            domain_ids=domains,
            notes=(f"corpus: {config.corpus}, domain 0 is general, test questions: {config.asked}",),
            text=Text(
                tokenizer=self._tokenizer,
                refusals=refusals(self._tokenizer),
                paraphrased=x[n : 2 * n].clone(),
                perturbed=x[2 * n :].view(n, max_wrong, 2, -1).clone(),
            ),
        )

    def _add(self, prompt: str, answers: list[str], name: str, user: int, domain: int, is_test: bool) -> None:
        given = self._tokenizer.encode(prompt)
        pairs = [(given, [*self._tokenizer.encode(a), self._tokenizer.eos]) for a in answers]
        self._plain.append(pairs[0])
        self._other.append(pairs[1])
        self._wrong.append(pairs[2:])
        self._about.append((self._classes.index(name), user, domain, is_test))


def _by_person(facts: list[Fact]) -> list[list[Fact]]:
    size = len(ATTRIBUTES)
    return [facts[i : i + size] for i in range(0, len(facts), size)]


def _biographies(facts: list[Fact], config: Config, key: Key) -> list[list[Fact]]:
    """Return the parts of all biographies of one person."""
    parts = []
    for rendering in range(config.renderings):
        order = (key / facts[0].name / rendering).order(np.arange(len(facts)))
        ordered = [facts[i] for i in order]
        parts += [ordered[i : i + config.sentences] for i in range(0, len(ordered), config.sentences)]
    return parts


def _document_of(facts: list[Fact], style: str) -> str:
    return " ".join(f.answer(style) for f in facts)
