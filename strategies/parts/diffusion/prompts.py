"""What an image generator can be asked for: an object (class), in a style (domain) where the data has some."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch

from streams.source import Source

NOTHING = -1
"""Stands for the object or the style that a prompt does not name; a prompt that names neither is the empty one."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Prompts:
    """All prompts of a source. A prompt is a row of int64 ``[2]``: class and style, each `NOTHING` where not named.

    Attributes:
        classes, styles: names of both; no styles where prompts name none.
        class_of: int64 ``[N]``, class of every sample of the source.
        style_of: int64 ``[N]``, style of every sample, `NOTHING` where prompts name none.
        is_training: bool ``[N]``, which samples can be learned.
        tokens: int64 ``[C + 1, S + 1, W]``, the words of prompt (class, style) at ``[class + 1, style + 1]``.
        num_words: size of the vocabulary.
        template: how a prompt is read out.
        groups: int64 ``[C]``, superclass of every class, or None where the data has none.
        of_users, of_samples: whether all training samples of a prompt are those of one user, or just one, so that a
            request which names users or samples names prompts.
    """

    classes: tuple[str, ...]
    styles: tuple[str, ...]
    class_of: np.ndarray
    style_of: np.ndarray
    is_training: np.ndarray
    tokens: torch.Tensor
    num_words: int
    template: str
    groups: np.ndarray | None
    of_users: bool
    of_samples: bool

    def of(self, ids: np.ndarray) -> np.ndarray:
        """Return the prompts of some samples, each once, ``[Q, 2]``, in order."""
        return np.unique(self.of_all[ids], axis=0)

    def text(self, prompt: np.ndarray) -> str:
        """Return a prompt as it is read out; the empty one is an empty text."""
        return _read_out(self.template, self.classes, self.styles, int(prompt[0]), int(prompt[1]))

    def among(self, prompts: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return which of ``prompts [n, 2]`` are among ``others [m, 2]``, bool ``[n]``."""
        return np.isin(self.numbers(prompts), self.numbers(others))

    @property
    def of_all(self) -> np.ndarray:
        """The prompt of every sample of the source, ``[N, 2]``."""
        return np.stack([self.class_of, self.style_of], 1)

    def numbers(self, prompts: np.ndarray) -> np.ndarray:
        """Return one number per prompt ``[Q, 2]``, int64 ``[Q]``: what the noise of its images is named by."""
        numbers: np.ndarray = (prompts[:, 0] + 1) * (len(self.styles) + 1) + prompts[:, 1] + 1
        return numbers


def prompts_of(
    source: Source, template: str, with_styles: bool, encode: Callable[[list[str]], torch.Tensor] | None = None
) -> Prompts:
    """Return the prompts of a source.

    Args:
        source: whose classes are objects, and whose domains are styles.
        template: with ``{object}`` and, where styles are named, ``{style}``.
        with_styles: whether prompts name styles.
        encode: from texts to tokens ``[n, W]``; None makes a word of every class and style, word 0 naming nothing.
    """
    count = len(source)
    names, style_of = _styles(source) if with_styles else ((), np.full(count, NOTHING, dtype=np.int64))
    c, s = source.num_classes, len(names)
    if encode is None:
        tokens = torch.zeros(c + 1, s + 1, 2 if s else 1, dtype=torch.int64)
        tokens[:, :, 0] = torch.arange(c + 1).unsqueeze(1)
        if s:
            tokens[:, 1:, 1] = c + torch.arange(1, s + 1)
        num_words = 1 + c + s
    else:
        texts = [_read_out(template, source.class_names, names, i, j) for i in range(-1, c) for j in range(-1, s)]
        encoded = encode(texts)
        tokens = encoded.view(c + 1, s + 1, -1)
        num_words = int(encoded.max()) + 1
    train = source.train_ids
    pairs = np.stack([source.class_ids[train], style_of[train]], 1)
    with_users = np.column_stack([pairs, source.user_ids[train]])
    count_prompts, count_of_users = (len(np.unique(rows, axis=0)) for rows in (pairs, with_users))
    return Prompts(
        source.class_names,
        names,
        source.class_ids,
        style_of,
        ~source.is_test,
        tokens,
        num_words,
        template,
        source.superclass_ids,
        of_users=count_of_users == count_prompts,
        of_samples=len(train) == count_prompts,
    )


def _styles(source: Source) -> tuple[tuple[str, ...], np.ndarray]:
    assert source.domain_ids is not None
    names = source.domain_names or tuple(f"style-{d}" for d in range(int(source.domain_ids.max()) + 1))
    return names, source.domain_ids.astype(np.int64)


def _read_out(template: str, classes: tuple[str, ...], styles: tuple[str, ...], of_class: int, style: int) -> str:
    if of_class == NOTHING and style == NOTHING:
        return ""
    thing = "something" if of_class == NOTHING else classes[of_class]
    return template.format(object=thing, style="any" if style == NOTHING else styles[style])
