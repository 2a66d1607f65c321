"""Your own questions and answers: .json or .jsonl files, with wrong answers if there are any; TOFU's load as they are.

A file holds one object per line, or a list of them. Its fields are called as TOFU calls them (Maini et al. 2024, arXiv
2401.06121); only the question and the answer must be there:

question, answer
    What is taught.
paraphrased_question
    What is asked to test; a question without one is tested as it is taught, as TOFU does.
paraphrased_answer
    The answer in other words; where there is none, the truth ratio takes the answer itself.
perturbed_answer
    A list of wrong answers in those other words. Where there are none, there is no truth ratio.

A question that comes again with the same answer is the same question: what it lacks is filled in, so that TOFU's
``full.json`` and ``forget10_perturbed.json`` together teach everything and know wrong answers of a part.

Users, classes and domains are those that fields tell. Otherwise a domain is a file, a class is a domain, and a user is
a question, or `per_user` of them in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from streams.config import Config as BaseConfig
from streams.errors import DataError
from streams.question_files import Located, read
from streams.source import Source
from streams.text import (
    PROMPT,
    PROMPT_PATTERN,
    Form,
    Text,
    Tokenizer,
    refusals,
    rows,
    tokenizer_of,
)


class Config(BaseConfig):
    """Options of `questions`."""

    files: tuple[str, ...] = Field(min_length=1)
    """What is taught."""
    world: tuple[str, ...] = ()
    """Files of facts about the world, taught too: their user is ``world``, and utility counts them apart."""
    authors: tuple[str, ...] = ()
    """Files of facts about real authors, taught too (TOFU's ``real_authors_perturbed.json``): their user is
    ``authors``, the third part of TOFU's utility."""
    holdout: tuple[str, ...] = ()
    """Files of questions that are never taught, for attacks to compare with (TOFU's ``holdout10.json``)."""
    question: str = "question"
    """Field of the question."""
    answer: str = "answer"
    """Field of the answer."""
    paraphrased_question: str = "paraphrased_question"
    """Field of the question to test with."""
    paraphrased_answer: str = "paraphrased_answer"
    """Field of the answer in other words."""
    perturbed_answer: str = "perturbed_answer"
    """Field of the list of wrong answers."""
    user: str | None = None
    """Field that tells whose a question is, in every object of `files`."""
    label: str | None = None
    """Field that tells the class, in every object of `files` and `world`."""
    domain: str | None = None
    """Field that tells the domain, in every object of `files` and `world`."""
    per_user: int = Field(1, ge=1)
    """Without `user`: so many questions in a row are one user's (20 in TOFU)."""
    prompt: str = Field(PROMPT, pattern=PROMPT_PATTERN)
    """How a question is put; ``{}`` stands for it. chat: by the chat template of `tokenizer`, which instructed models
    were trained in. An answer begins with a space, unless the prompt ends with white space or is a chat's."""
    vocabulary: int = Field(4096, ge=320)
    """Tokens of the tokeniser that is trained on the questions and answers."""
    vocabulary_texts: tuple[str, ...] = ()
    """Files of text to train the tokeniser on instead, public or never to be deleted: else names and answers of
    those who ask to be forgotten may stay tokens."""
    tokenizer: str | None = None
    """A checkpoint's tokeniser in its place (folder or name on the hub), for models that have one."""


@dataclass(frozen=True, slots=True)
class _Question:
    """What is taught, and what is known besides; empty where it is not."""

    question: str
    answer: str
    user: str = ""
    label: str = ""
    domain: str = ""
    reasked: str = ""
    reworded: str = ""
    wrong: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Row:
    """One way to ask a question, and whether it is held out."""

    asked: str
    of: _Question
    is_test: bool


def load(config: Config) -> Source:
    """Return the questions, int32 ``x [N, 2, L]`` (tokens, and what they are), ``y`` the class.

    Raises:
        ConfigError: the tokeniser cannot be had.
        DataError: a file is missing, empty, not UTF-8 or not JSON, an object lacks a field, or two files have one name.
    """
    named = (("world", config.world), ("authors", config.authors))
    taught = [*_taught(config.files, config, None), *(q for user, f in named for q in _taught(f, config, user))]
    stems = [Path(f).stem for f in sorted({*config.files, *config.world, *config.authors})]
    twice = next((stem for stem in stems if stems.count(stem) > 1), None)
    if twice is not None and (config.domain is None or config.user is None):
        raise DataError(
            f"source.files: two files are called {twice!r}, and users and domains are called by their files. Rename "
            f"one, or name the fields that tell users and domains: source.user and source.domain."
        )
    holdout = [_Question(*_pair(located, config)) for file in config.holdout for located in read(Path(file))]
    question_rows = _rows(taught)
    form = Form.of(config.prompt, config.tokenizer)
    tokenizer = _tokenizer(config, [*taught, *holdout], form)
    n, max_wrong = len(question_rows), max(len(q.wrong) for q in taught)
    wrong = [(i, j) for i, row in enumerate(question_rows) for j in range(len(row.of.wrong))]
    pairs = [
        *((r.asked, r.of.answer) for r in question_rows),
        *((r.asked, r.of.reworded or r.of.answer) for r in question_rows),
        *((question_rows[i].asked, question_rows[i].of.wrong[j]) for i, j in wrong),
        *((q.question, q.answer) for q in holdout),
    ]
    x = rows([form.encoded(q, a, tokenizer) for q, a in pairs], tokenizer)
    perturbed = None
    if max_wrong:
        perturbed = x.new_zeros(n, max_wrong, *x.shape[1:])
        perturbed[tuple(torch.tensor(wrong).T)] = x[2 * n : 2 * n + len(wrong)]
    class_ids, class_names = _numbered([r.of.label for r in question_rows])
    user_ids, user_names = _numbered([r.of.user for r in question_rows])
    domain_ids, domain_names = _numbered([r.of.domain for r in question_rows])
    _, values = np.unique([f"{r.of.label}: {r.of.answer}" for r in question_rows], return_inverse=True)
    files = [Path(f).name for f in (*config.files, *config.world, *config.authors)]
    return Source(
        name="questions",
        licence=f"the user's own questions: {', '.join(files)}",
        x=x[:n].clone(),
        y=torch.from_numpy(class_ids.copy()),
        class_ids=class_ids,
        user_ids=user_ids,
        is_test=np.array([r.is_test for r in question_rows]),
        class_names=class_names,
        user_names=user_names,
        domain_ids=domain_ids,
        notes=(f"{len(taught)} questions, {sum(bool(q.wrong) for q in taught)} of them with wrong answers",),
        text=Text(
            tokenizer=tokenizer,
            refusals=refusals(tokenizer, form),
            paraphrased=x[n : 2 * n].clone(),
            perturbed=perturbed,
            holdout=x[2 * n + len(wrong) :].clone(),
            subjects=frozenset(q.user for q in taught if q.user in q.question) or None,
            values=torch.from_numpy(values),
            form=form,
        ),
        domain_names=domain_names,
    )


def _taught(files: Sequence[str], config: Config, user: str | None) -> list[_Question]:
    """Return the questions of some files, each once; `user` is whose they are, None to ask the configuration."""
    questions: dict[tuple[str, str, str], _Question] = {}
    names: dict[str, None] = {}
    for file in map(Path, files):
        new = 0
        for located in read(file):
            names |= dict.fromkeys(located.fields)
            question, answer = _pair(located, config)
            owner = user if user is not None else located.name(config.user, "user") if config.user else None
            domain = located.name(config.domain, "domain") if config.domain else file.stem
            new_question = _Question(
                question,
                answer,
                f"{file.stem}-{new // config.per_user}" if owner is None else owner,
                located.name(config.label, "label") if config.label else domain,
                domain,
                located.text(config.paraphrased_question, "paraphrased_question", needed=False),
                located.text(config.paraphrased_answer, "paraphrased_answer", needed=False),
                located.texts(config.perturbed_answer, "perturbed_answer"),
            )
            key = (owner or "", question, answer)
            before = questions.get(key)
            if before is None:
                questions[key] = new_question
                new += 1
            else:
                questions[key] = replace(
                    before,
                    reasked=before.reasked or new_question.reasked,
                    reworded=before.reworded or new_question.reworded,
                    wrong=before.wrong or new_question.wrong,
                )
    for option in ("paraphrased_question", "paraphrased_answer", "perturbed_answer"):
        name = getattr(config, option)
        if user is None and name != Config.model_fields[option].default and name not in names:
            raise DataError(f"source.{option}: no object has a field {name!r}. The fields are {', '.join(names)}.")
    return list(questions.values())


def _pair(located: Located, config: Config) -> tuple[str, str]:
    return located.text(config.question, "question"), located.text(config.answer, "answer")


def _rows(taught: Sequence[_Question]) -> list[_Row]:
    """Return the rows: what is taught, followed by what tests it, which wordings of one question share."""
    groups: dict[tuple[str, str, str], list[_Question]] = {}
    for q in taught:
        groups.setdefault((q.user, q.reasked or q.question, q.answer), []).append(q)
    made = []
    for (_, test, _), wordings in groups.items():
        made += [*(_Row(q.question, q, False) for q in wordings), _Row(test, wordings[0], True)]
    return made


def _numbered(names: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return a number for each row, int64, and what the numbers mean, in order of appearance."""
    place = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([place[name] for name in names], dtype=np.int64), tuple(place)


def _tokenizer(config: Config, questions: Sequence[_Question], form: Form) -> Tokenizer:
    """Return one trained on all that is asked and answered, the held-out too: no split shows in where tokens begin."""
    asked = dict.fromkeys(text for q in questions for text in (q.question, q.reasked) if text)
    answers = dict.fromkeys(text for q in questions for text in (q.answer, q.reworded, *q.wrong) if text)
    return tokenizer_of(config, [*map(form.prompt, asked), *map(form.answer, answers)])
