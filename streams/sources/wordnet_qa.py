"""WordNet's definitions as questions and answers: what a word means, by topic (noun.animal, noun.food ...).

A user is a word, a class is a topic, and a domain is a topic too (`scenario: {name: domain-incremental, kind: natural}`
learns topic after topic). Each definition is trained in two forms of question and tested in a third one, which is
trained for other words. Wrong answers are definitions of other words of the topic.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from streams.errors import ConfigError, DataError, closest
from streams.randomness import Key
from streams.source import Source
from streams.sources._facts import AskedConfig, Taught, source_of_facts
from streams.sources._people import WRONG, Attribute, Fact, fact_about, wrong_values
from streams.sources.wordnet import FILES, TOPICS, folder_of_wordnet, read_synsets

MEANING = Attribute(
    "meaning",
    ("What does {n} mean?", "What is the meaning of {n}?", "How is {n} defined?", "Define {n}."),
    ("{n} means {v}.", "The meaning of {n} is {v}."),
)


class Config(AskedConfig):
    """Options of `wordnet-qa`."""

    root: str | None = None
    """Folder with data.noun, data.verb, data.adj and data.adv; null looks where Debian's wordnet-base puts them."""
    topics: tuple[str, ...] = Field(("noun.animal", "noun.food", "noun.body", "noun.substance"), min_length=1)
    """Which topics, in the order in which they are numbered."""
    per_topic: int = Field(100, ge=3)
    """Most words of a topic, drawn by name."""
    words: int = Field(16, ge=2)
    """Longer definitions are left out."""
    answers: Literal["sentence", "short"] = "short"
    """Whether an answer is a sentence (``aardvark means ...``) or the definition alone."""
    vocabulary: int = Field(4096, ge=320)
    """Tokens of the tokeniser that is trained on the definitions."""


def load(config: Config) -> Source:
    """Return the definitions, int32 ``x [N, 2, L]`` (tokens, and what they are), ``y`` the topic.

    A word is asked for once, by its first meaning in the topics.

    Raises:
        ConfigError: there is no such topic.
        DataError: WordNet is not there, or a topic has too few short definitions.
    """
    topics = list(dict.fromkeys(config.topics))
    for topic in topics:
        if topic not in TOPICS:
            raise ConfigError(f"source.topics: there is no topic {topic!r}. {closest(topic, TOPICS)}")
    key = Key(0) / "wordnet-qa"
    meanings = _meanings(config, topics)
    facts: list[Fact] = []
    classes: list[int] = []
    for index, topic in enumerate(topics):
        definitions = meanings[topic]
        chosen = sorted(definitions, key=lambda word: (key / "word" / word).number())[: config.per_topic]
        if len(chosen) < 2:
            raise DataError(
                f"source.topics: {topic!r} has {len(chosen)} definitions of at most {config.words} words; raise "
                f"source.words, or take another topic."
            )
        domain = sorted({definitions[word] for word in chosen})
        for word in chosen:
            word_key = key / topic / word
            wrong = wrong_values(definitions[word], domain, WRONG, (word_key / "wrong").numpy())
            facts.append(fact_about(len(facts), word, MEANING, definitions[word], wrong, word_key))
            classes.append(index)
    return source_of_facts(
        "wordnet-qa",
        "WordNet 3 (Princeton University; WordNet licence, permissive)",
        Taught(
            facts=facts,
            users=np.arange(len(facts)),
            classes=np.array(classes),
            domains=np.array(classes),
            user_names=tuple(f.name for f in facts),
            class_names=tuple(topics),
        ),
        config,
        (f"{len(facts)} definitions of at most {config.words} words, answers: {config.answers}",),
    )


def _meanings(config: Config, topics: list[str]) -> dict[str, dict[str, str]]:
    """Return the definition of every word by topic."""
    folder = folder_of_wordnet(config.root)
    kinds = {t.split(".")[0] for t in topics}
    meanings: dict[str, dict[str, str]] = {t: {} for t in topics}
    used_words: set[str] = set()
    for name in FILES:
        if name.split(".")[1] not in kinds:
            continue
        for number, word, gloss in read_synsets(folder / name):
            topic, text = TOPICS[number], gloss.split(";", 1)[0].strip()
            plain = word.split("(")[0].replace("_", " ")  # an adjective may be marked: galore(ip)
            if topic in meanings and plain not in used_words and text and len(text.split()) <= config.words:
                used_words.add(plain)
                meanings[topic][plain] = text
    return meanings
