"""Rows of unequal length pass through a model in groups of similar length, so that little padding is computed."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Final

import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook

from strategies.parts.model import FlatModel
from strategies.parts.text.growing import is_growing, last_outputs
from streams.data import Batch

MOST_GROUPS: Final = 8
"""Groups that a batch is split into at most."""
PASS: Final = 64
"""What a pass more costs on a CPU, in positions of a tiny model; a large one spends less."""
WORTH: Final = 0.8
"""Share of the cost of one padded pass that groups may have at most; copying logits takes some of what is saved."""

_together: ContextVar[bool] = ContextVar("together", default=False)
_everywhere: ContextVar[bool] = ContextVar("everywhere", default=False)


@contextlib.contextmanager
def rows_together() -> Iterator[None]:
    """Have the rows of a batch pass together inside: for modules that hold a number for every row of it."""
    token = _together.set(True)
    try:
        yield
    finally:
        _together.reset(token)


@contextlib.contextmanager
def every_position() -> Iterator[None]:
    """Have outputs of all positions while this is open: for who reads more than what counts in losses."""
    token = _everywhere.set(True)
    try:
        yield
    finally:
        _everywhere.reset(token)


def is_heard(network: nn.Module) -> bool:
    """Return whether a hook listens to any module: it would see the groups one by one, and not the batch.

    The hooks that transformers puts in to collect hidden states do not count. They stay in the model once it was
    asked for any, and are silent in every other pass.
    """
    return _has_any_global_hook() or any(
        hook
        for m in network.modules()
        for hooks in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._backward_pre_hooks)
        for hook in hooks.values()
        if not (getattr(hook, "__module__", None) or "").startswith("transformers.")
    )


def rows_per_pass(lengths: Sequence[int]) -> int:
    """Return how many rows to pass at a time, neighbours in length: all of them where groups save too little.

    The cost of passes is their rows times their longest row, and `PASS` for each; the cheapest number of groups counts,
    if it costs at most `WORTH` of one pass.

    Args:
        lengths: tokens of every row, ascending, at least one.

    >>> rows_per_pass([10] * 20), rows_per_pass([10] * 40 + [90] * 40)
    (20, 40)
    """
    rows = len(lengths)

    def cost(size: int) -> int:
        return sum((min(i + size, rows) - i) * lengths[min(i + size, rows) - 1] + PASS for i in range(0, rows, size))

    best = min((-(-rows // groups) for groups in range(1, min(MOST_GROUPS, rows) + 1)), key=cost)
    return best if cost(best) <= WORTH * cost(rows) else rows


# Why: docs/decisions.md#rows-are-padded-or-pass-in-groups-they-are-not-packed
def row_outputs(model: FlatModel, batch: Batch, wanted: torch.Tensor | None = None) -> torch.Tensor:
    """Return the outputs ``[B, T, V]`` of rows of tokens, T being at least the longest row's length.

    Equal to one padded pass up to rounding, with other noise of dropout. In groups the head sees no padding, and its
    outputs there are zero. It is one pass where groups would not pay, on other devices than a CPU, where the price of a
    pass was not measured, and where anything wants to see the batch at once: a hook in the model (`is_heard`), or
    `rows_together`.

    Args:
        model: whose outputs for a row depend on that row alone, and not on padding to its right; its head reads single
            positions.
        batch: ``x`` int ``[B, 2, L]``, tokens and what they are; 0 is padding.
        wanted: bool ``[B, L]``, where outputs will be read, if that is not everywhere: the head sees those alone, and
            outputs elsewhere are NaN, for who reads them all the same.
    """
    if _together.get():
        return model(*batch.inputs)
    if _everywhere.get():
        wanted = None
    lengths, order = (batch.x[:, 1] > 0).sum(1).sort(stable=True)
    size = rows_per_pass(lengths.tolist()) if batch.x.device.type == "cpu" else len(batch)
    is_plain = size == len(batch) and wanted is None and not is_growing()
    if is_plain or is_heard(model.network):
        return model(*batch.inputs)
    longest = int(lengths[-1])
    last = last_outputs(model, batch)
    if last is not None:
        return last.unsqueeze(1).expand(-1, longest, -1)
    is_read = (batch.x[:, 1] > 0 if wanted is None else wanted)[:, :longest].flatten()
    hidden, places = [], []
    for rows in order.split(size):
        states = model.features(*batch.rows(rows).inputs)[:, :longest]
        hidden.append(states.flatten(0, 1))
        places.append((rows[:, None] * longest + torch.arange(states.shape[1], device=rows.device)).flatten())
    place = torch.cat(places)
    read = is_read[place].nonzero().squeeze(1)
    logits = model.network.passing.through(model.network.head, torch.cat(hidden).index_select(0, read))
    elsewhere = 0.0 if wanted is None else math.nan
    padded = logits.new_full((len(is_read), logits.shape[1]), elsewhere).index_copy_(0, place[read], logits)
    return padded.view(len(batch), longest, -1)
