r"""Your own instructions with images: .json files as LLaVA's, with several turns; images stay in their files.

A file is a list of objects (or one object per line)::

    {"id": "7", "image": "cats/7.jpg", "conversations": [
        {"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."},
        {"from": "human", "value": "What colour?"}, {"from": "gpt", "value": "Black."}]}

``image`` is a path, a list of paths, or left out; every image is named once by ``<image>`` in what a human says.
Training rows are whole conversations, of which every answer is learned. Held-out rows have one answer each, the last
one, after all that was said before it. A row's id is its place: training conversations in the order of the files, then
the others.

Domains are files, classes (skills) and users what fields tell. Images are read when a batch needs them, in the
resolution that the model reads, and are never kept: neither in memory nor in the cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator

from streams.config import Config as BaseConfig
from streams.errors import DataError
from streams.pictures import Aspect, Pictures
from streams.question_files import read
from streams.randomness import Key
from streams.source import Source, split_by_hash
from streams.text import (
    PICTURED,
    Text,
    Tokenizer,
    conversation_rows,
    refusals,
    tokenizer_of,
)

MARK = "<image>"
_SHAPE = '{"image": ..., "conversations": [...]}'


class Config(BaseConfig):
    """Options of `llava-json`."""

    files: tuple[str, ...] = Field(min_length=1)
    """What is taught; each is a domain."""
    test: tuple[str, ...] = ()
    """What is held out, a file for each of `files`, in their order; none holds out a share of every file."""
    test_fraction: float = Field(0.1, gt=0, lt=1)
    """That share, of every class."""
    images: str = "."
    """Folder that paths of images start from."""
    skill: str | None = None
    """Field that tells the class; null: a file is a class."""
    user: str | None = None
    """Field that tells whose it is; null: every conversation is a user's own."""
    turn: str = "USER: {text} ASSISTANT:"
    """What stands before an answer; as LLaVA 1.5 was taught."""
    turns: Literal["whole", "each"] = "whole"
    """Training rows: whole conversations, or one for every answer, after all that was said before it."""
    size: int = Field(336, ge=8)
    """Side of the images that the model reads, in pixels."""
    channels: Literal[1, 3] = 3
    """Grey, or colours."""
    aspect: Aspect = "pad"
    """Images that are no squares get margins, or are stretched."""
    image_tokens: int = Field(576, ge=1)
    """Positions of a row that an image takes, which the model decides: 576 for LLaVA 1.5, (size / patch)^2 for
    tiny-llava."""
    vocabulary: int = Field(4096, ge=320)
    """Tokens of the tokeniser that is trained on the conversations."""
    vocabulary_texts: tuple[str, ...] = ()
    """Files of text to train the tokeniser on instead, public or never to be deleted: else names and answers of
    those who ask to be forgotten may stay tokens."""
    tokenizer: str | None = None
    """A checkpoint's tokeniser in its place (folder or name on the hub), for models that have one."""

    @field_validator("turn")
    @classmethod
    def _check_turn(cls, turn: str) -> str:
        if turn.count("{text}") != 1:
            raise ValueError("must have {text}, once")
        return turn


@dataclass(frozen=True, slots=True)
class _Conversation:
    """What was said, and where it belongs."""

    turns: tuple[tuple[str, str], ...]
    images: tuple[str, ...]
    skill: str
    user: str
    domain: int
    is_test: bool

    def up_to(self, count: int) -> _Conversation:
        """Return the first so many turns, with the images that they name."""
        shown = sum(asked.count(MARK) for asked, _ in self.turns[:count])
        return _Conversation(self.turns[:count], self.images[:shown], self.skill, self.user, self.domain, self.is_test)


def load(config: Config) -> Source:
    """Return int32 ``x [N, 2, L]`` (tokens, and what they are) with the images that rows speak of.

    Raises:
        ConfigError: the tokeniser cannot be had.
        DataError: a file or an image is missing, two files have one name, or an object is none of LLaVA's.
    """
    if config.test and len(config.test) != len(config.files):
        raise DataError(
            f"source.test: {len(config.test)} files for {len(config.files)} of source.files; name one each."
        )
    stems = [Path(f).stem for f in config.files]
    if len(set(stems)) < len(stems) and (config.user is None or config.skill is None):
        raise DataError(
            f"source.files: two files have one name ({', '.join(stems)}), and users and classes are called by their "
            f"files. Rename one, or name the fields that tell them: source.user and source.skill."
        )
    said = [c for d, f in enumerate(config.files) for c in _read(Path(f), config, d, False)]
    held = [c for d, f in enumerate(config.test) for c in _read(Path(f), config, d, True)]
    if not config.test:
        said, held = _split(said, config)
    tokenizer = _tokenizer(config, [*said, *held])
    each = [(c, range(len(c.turns))) for c in said] if config.turns == "whole" else _each(said)
    drawn = [*each, *_each(held)]
    skills, users = (list(dict.fromkeys(getattr(c, name) for c, _ in drawn)) for name in ("skill", "user"))
    class_ids = np.array([skills.index(c.skill) for c, _ in drawn], dtype=np.int64)
    number_of = {user: n for n, user in enumerate(users)}
    return Source(
        name="llava-json",
        licence=f"the user's own instructions: {', '.join(Path(f).name for f in config.files)}",
        x=conversation_rows([_turns(c, learned, config, tokenizer) for c, learned in drawn], tokenizer),
        y=torch.from_numpy(class_ids),
        class_ids=class_ids,
        user_ids=np.array([number_of[c.user] for c, _ in drawn], dtype=np.int64),
        is_test=np.array([c.is_test for c, _ in drawn]),
        class_names=tuple(skills),
        user_names=tuple(users),
        domain_ids=np.array([c.domain for c, _ in drawn], dtype=np.int64),
        notes=(f"{len(said)} conversations to train on, {len(held)} held out; training rows: {config.turns}",),
        text=Text(tokenizer=tokenizer, refusals=refusals(tokenizer), image_tokens=config.image_tokens),
        images=_pictures([c for c, _ in drawn], config),
        domain_names=tuple(Path(f).stem for f in config.files),
    )


def _read(path: Path, config: Config, domain: int, is_test: bool) -> list[_Conversation]:
    found = []
    for number, located in enumerate(read(path, _SHAPE)):
        one, where = located.fields, located.where
        turns = _said(one, where)
        images = one.get("image") or []
        images = [images] if isinstance(images, str) else images
        if not isinstance(images, list) or not all(isinstance(name, str) for name in images):
            raise DataError(f"{where}: 'image' is {images!r}. Write a path, or a list of paths.")
        marks = sum(asked.count(MARK) for asked, _ in turns)
        if marks != len(images):
            raise DataError(f"{where}: it has {len(images)} images, and names {marks} by {MARK}. Name each once.")
        user = f"{path.stem}-{one.get('id', number)}" if config.user is None else located.name(config.user, "user")
        skill = path.stem if config.skill is None else located.name(config.skill, "skill")
        found.append(_Conversation(turns, tuple(images), skill, user, domain, is_test))
    return found


def _said(one: Mapping[str, Any], where: str) -> tuple[tuple[str, str], ...]:
    """Return what was asked and answered, turn by turn."""
    spoken = one.get("conversations")
    if not isinstance(spoken, list) or not all(
        isinstance(s, dict) and "from" in s and isinstance(s.get("value"), str) for s in spoken
    ):
        raise DataError(f"{where}: it needs 'conversations', a list of {{from: human or gpt, value: text}}.")
    who = [s["from"] for s in spoken]
    if not who or who != ["human", "gpt"] * (len(who) // 2):
        raise DataError(
            f"{where}: 'human' and 'gpt' must take turns, human first; it has {', '.join(map(str, who)) or 'none'}."
        )
    return tuple((a["value"], b["value"]) for a, b in zip(spoken[::2], spoken[1::2], strict=True))


def _split(said: Sequence[_Conversation], config: Config) -> tuple[list[_Conversation], list[_Conversation]]:
    """Hold out a share of every class."""
    skills = list(dict.fromkeys(c.skill for c in said))
    ids = np.array([skills.index(c.skill) for c in said])
    is_test = split_by_hash(ids, config.test_fraction, Key(0) / "llava-json" / "test")
    kept = [c for c, t in zip(said, is_test, strict=True) if not t]
    held = [c for c, t in zip(said, is_test, strict=True) if t]
    return kept, [_Conversation(c.turns, c.images, c.skill, c.user, c.domain, True) for c in held]


def _each(said: Sequence[_Conversation]) -> list[tuple[_Conversation, range]]:
    """Return every turn with all before it, and that its answer alone is learned."""
    return [(c.up_to(n + 1), range(n, n + 1)) for c in said for n in range(len(c.turns))]


def _turns(c: _Conversation, learned: range, config: Config, tokenizer: Tokenizer) -> list[tuple[list[int], list[int]]]:
    """Return what is given and what is to be predicted, turn by turn; what is not `learned` is given."""
    pairs: list[tuple[list[int], list[int]]] = []
    given: list[int] = []
    for n, (asked, answer) in enumerate(c.turns):
        for k, text in enumerate(config.turn.replace("{text}", asked).split(MARK)):
            given += [*([PICTURED] * config.image_tokens if k else []), *tokenizer.encode(text)]
        answer_ids = [*tokenizer.encode(f" {answer}"), tokenizer.eos]
        if n in learned:
            pairs.append((given, answer_ids))
            given = []
        else:
            given += answer_ids
    return pairs


def _pictures(rows: Sequence[_Conversation], config: Config) -> Pictures:
    root = Path(config.images).expanduser()
    names = list(dict.fromkeys(name for c in rows for name in c.images))
    if missing := [name for name in names if not (root / name).is_file()]:
        raise DataError(f"source.images: {len(missing)} images are not in {root}, such as {missing[0]}.")
    place_of = {name: n for n, name in enumerate(names)}
    places = np.full((len(rows), max([1, *(len(c.images) for c in rows)])), -1, dtype=np.int64)
    for row, c in zip(places, rows, strict=True):
        row[: len(c.images)] = [place_of[name] for name in c.images]
    return Pictures([root / name for name in names], places, config.channels, config.size, config.aspect)


def _tokenizer(config: Config, said: Sequence[_Conversation]) -> Tokenizer:
    texts = [config.turn.replace("{text}", asked).replace(MARK, "") for c in said for asked, _ in c.turns]
    texts += [f" {answer}" for c in said for _, answer in c.turns]
    return tokenizer_of(config, sorted(set(texts)))
