"""What guards share that look at prompts or put something before them: names, vectors, and answers behind a prefix."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from strategies.objectives._text import TextObjective
from strategies.objectives.causal_lm import prefixed
from strategies.parts.model import FlatModel
from streams.data import Batch
from streams.randomness import mix64
from streams.text import GIVEN


def name_of_prompt(row: torch.Tensor) -> str:
    """Return a name of a row's prompt, whatever follows it, so that what is drawn for a prompt is always the same.

    Args:
        row: int ``[2, L]``: tokens and marks.
    """
    return hashlib.blake2b(row[0][row[1] == GIVEN].cpu().numpy().tobytes(), digest_size=8).hexdigest()


def hashed_words(x: torch.Tensor, dims: int) -> torch.Tensor:
    """Return the prompts of rows as vectors of length 1, ``[B, dims]``: signed counts of their tokens, hashed.

    Args:
        x: int ``[B, 2, L]``; the start token does not count.
        dims: how many numbers.
    """
    rows, places = (x[:, 1] == GIVEN).nonzero(as_tuple=True)
    inner = places > 0
    rows, places = rows[inner].cpu(), places[inner].cpu()
    hashes = mix64(x.cpu()[rows, 0, places].numpy().astype(np.int64), 0x5EED)
    columns = torch.from_numpy((hashes >> np.uint64(1)).astype(np.int64) % dims)
    signs = torch.from_numpy(np.where(hashes & np.uint64(1), 1.0, -1.0).astype(np.float32))
    counts = torch.zeros(len(x), dims).index_put((rows, columns), signs, accumulate=True)
    return F.normalize(counts, dim=1).to(x.device)


def outputs_behind(
    objective: TextObjective, model: FlatModel, batch: Batch, prefixes: Sequence[Sequence[int]]
) -> torch.Tensor:
    """Return what a model says of rows that have tokens before them, at the rows' own positions, ``[B, T, V]``.

    Args:
        objective: of the model.
        model: passed once.
        batch: rows ``x [B, 2, L]``; T is the longest of them.
        prefixes: token ids to put before each row.
    """
    longer, length = prefixed(batch, prefixes), int((batch.x[:, 1] > 0).sum(1).max())
    outputs = objective.outputs(model, longer)
    behind_prefix = [outputs[row, len(p) : len(p) + length] for row, p in enumerate(prefixes)]
    return torch.stack([F.pad(o, (0, 0, 0, length - len(o))) for o in behind_prefix])
