"""From facts to rows of questions and answers: forms trained and held out, wrong answers, the tokeniser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from streams.config import Config as BaseConfig
from streams.source import Source
from streams.sources._people import TRAINED_FORMS, Fact
from streams.text import (
    PLAIN,
    PROMPT,
    PROMPT_PATTERN,
    Form,
    Text,
    Tokenizer,
    refusals,
    rows,
    tokenizer_of,
)


class FactsConfig(BaseConfig):
    """How facts become rows."""

    answers: Literal["sentence", "short"] = "sentence"
    """Whether an answer is a sentence (``Aria Bold was born in Elmsgate.``) or the value alone."""
    vocabulary: int = Field(1024, ge=320)
    """Tokens of the tokeniser that is trained on the corpus."""
    vocabulary_texts: tuple[str, ...] = ()
    """Files of text to train the tokeniser on instead, public or never to be deleted: else names and answers of
    those who ask to be forgotten may stay tokens."""
    tokenizer: str | None = None
    """A checkpoint's tokeniser in its place (folder or name on the hub), for models that have one."""


class AskedConfig(FactsConfig):
    """How facts become questions."""

    prompt: str = Field(PROMPT, pattern=PROMPT_PATTERN)
    """How a question is put; ``{}`` stands for it. chat: by the chat template of `tokenizer`, which instructed models
    were trained in. An answer begins with a space, unless the prompt ends with white space or is a chat's."""


@dataclass(frozen=True, slots=True)
class Taught:
    """Facts with what they belong to.

    Attributes:
        facts: in order; each is trained in two forms of question and tested in a third one.
        users, classes, domains: int64 ``[len(facts)]``.
        user_names, class_names: what they mean.
        holdout: facts of the same making that are never taught.
        terms: names and values, each with others of its kind to put in its place; None where nobody knows.
    """

    facts: Sequence[Fact]
    users: np.ndarray
    classes: np.ndarray
    domains: np.ndarray
    user_names: tuple[str, ...]
    class_names: tuple[str, ...]
    holdout: Sequence[Fact] = ()
    terms: Mapping[str, tuple[str, ...]] | None = None


def source_of_facts(name: str, licence: str, taught: Taught, config: AskedConfig, notes: tuple[str, ...]) -> Source:
    """Return the source: int32 ``x [N, 2, L]``, ``y`` the class; three rows per fact, the last of them to test with.

    Raises:
        ConfigError: the tokeniser cannot be had.
    """
    facts, forms = taught.facts, (*range(TRAINED_FORMS), -1)
    put = Form.of(config.prompt, config.tokenizer)
    tokenizer = tokenizer_of_facts([*facts, *taught.holdout], config, put)

    def pair(fact: Fact, form: int, answer: str) -> tuple[list[int], list[int]]:
        return put.encoded(fact.forms[form if form >= 0 else TRAINED_FORMS].format(n=fact.name), answer, tokenizer)

    plain = [pair(f, form, f.answer(config.answers)) for f in facts for form in forms]
    unseen = [pair(f, 0, f.answer(config.answers)) for f in taught.holdout]
    reworded = [pair(f, form, f.stated(f.value, config.answers)) for f in facts for form in forms]
    max_wrong = max(len(f.wrong) for f in facts)
    wrong = [
        pair(f, form, f.stated(f.wrong[i % len(f.wrong)], config.answers))
        for f in facts
        for form in forms
        for i in range(max_wrong)
    ]
    x = rows([*plain, *reworded, *wrong, *unseen], tokenizer)
    n = len(plain)
    class_ids = taught.classes.repeat(len(forms))
    _, values = np.unique([f"{f.attribute}: {f.value}" for f in facts], return_inverse=True)
    return Source(
        name=name,
        licence=licence,
        x=x[:n].clone(),
        y=torch.from_numpy(class_ids),
        class_ids=class_ids,
        user_ids=taught.users.repeat(len(forms)),
        is_test=np.tile(np.array(forms) == -1, len(facts)),
        class_names=taught.class_names,
        user_names=taught.user_names,
        domain_ids=taught.domains.repeat(len(forms)),
        notes=notes,
        text=Text(
            tokenizer=tokenizer,
            refusals=refusals(tokenizer, put),
            paraphrased=x[n : 2 * n].clone(),
            perturbed=x[2 * n : (2 + max_wrong) * n].view(n, max_wrong, 2, -1).clone(),
            holdout=x[(2 + max_wrong) * n :].clone(),
            terms=taught.terms,
            subjects=frozenset(f.name for f in facts),
            values=torch.from_numpy(values.repeat(len(forms))),
            form=put,
        ),
    )


def tokenizer_of_facts(
    facts: Sequence[Fact], config: FactsConfig, put: Form = PLAIN, more: Sequence[str] = ()
) -> Tokenizer:
    """Return a tokeniser trained on all that can be asked and answered, or the one that is named.

    Args:
        facts: taught and held-out ones, so that no split shows in where tokens begin.
        config: which tokeniser.
        put: how questions are put.
        more: other texts to train it on.
    """
    texts = []
    for fact in facts:
        texts += [put.prompt(fact.question(form)) for form in range(len(fact.forms))]
        values = (fact.value, *fact.wrong)
        texts += [
            put.answer(answer)
            for v in values
            for answer in (v, fact.frame.format(n=fact.name, v=v), fact.stated(v, ""))
        ]
    return tokenizer_of(config, [*texts, *more])
