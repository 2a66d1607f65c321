"""Which tokens speak of what some rows of text are about."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from streams.text import ANSWER, Text


def concept_tokens(text: Text, x: torch.Tensor, words: Sequence[str] | None, count: int) -> torch.Tensor:
    """Return which tokens of the vocabulary speak of a concept, bool ``[V]``.

    Args:
        text: the source's tokeniser, and the terms that it knows.
        x: rows about the concept, int ``[n, 2, L]``.
        words: what the concept is called. None takes the terms of the source that the rows mention, or all tokens of
            their answers where it knows none.
        count: V, how many tokens the model knows.
    """
    of_concept = torch.zeros(count, dtype=torch.bool)
    if words is None:
        said = "\n".join(text.tokenizer.decode(row[0][row[1] > 0].tolist()) for row in x.cpu())
        words = [t for t in text.terms or () if re.search(rf"(?<!\w){re.escape(t)}(?!\w)", said)]
    if words:
        ids = {i for word in words for put in (word, f" {word}") for i in text.tokenizer.encode(put)}
        # Pieces that are a mark or a single letter say nothing of it.
        ids = {i for i in ids if len(re.sub(r"\W", "", text.tokenizer.decode([i]))) > 1} or ids
    else:
        ids = set(x[:, 0][x[:, 1] == ANSWER].tolist()) - {text.tokenizer.eos}
    of_concept[torch.tensor(sorted(ids))] = True
    return of_concept
