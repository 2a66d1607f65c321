"""A refusal said in a model's place, which guards share that do not let it answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from streams.data import Batch
from streams.text import GIVEN

FORCED = 50.0
"""Logit of a token that is said in any case; all others have 0."""


def refusal_logits(row: torch.Tensor, length: int, refusal: Sequence[int], num_outputs: int) -> torch.Tensor:
    """Return logits ``[length, V]`` of a row that say a refusal behind its prompt, and then nothing.

    Args:
        row: int ``[2, L]``, with a prompt.
        length: positions.
        refusal: token ids, the last of them the end token.
        num_outputs: V.
    """
    start = int((row[1] == GIVEN).sum()) - 1
    logits = torch.zeros(length, num_outputs, device=row.device)
    for position in range(max(0, start), length):
        logits[position, refusal[min(position - start, len(refusal) - 1)]] = FORCED
    return logits


def with_refusals(
    outputs: torch.Tensor, batch: Batch, refusals: Sequence[Sequence[int] | None], num_outputs: int
) -> torch.Tensor:
    """Return outputs ``[B, T, V]`` with a refusal in the place of each row that has one.

    Args:
        outputs: of the model.
        batch: the rows.
        refusals: token ids for each row, or None.
        num_outputs: V.
    """
    rows = [
        said if refusal is None else refusal_logits(x, outputs.shape[1], refusal, num_outputs)
        for x, said, refusal in zip(batch.x, outputs, refusals, strict=True)
    ]
    return torch.stack(rows)
