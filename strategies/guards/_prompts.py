"""Names for the prompts of rows, so that what is drawn for a prompt is always the same."""

from __future__ import annotations

import hashlib

import torch

from streams.text import GIVEN


def name_of_prompt(row: torch.Tensor) -> str:
    """Return a name of a row's prompt, whatever follows it.

    Args:
        row: int ``[2, L]``: tokens and marks.
    """
    return hashlib.blake2b(row[0][row[1] == GIVEN].cpu().numpy().tobytes(), digest_size=8).hexdigest()
