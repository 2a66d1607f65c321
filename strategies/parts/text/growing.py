"""Text that is made token by token: rows go on from where they were left, and are not passed again from their start."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

import torch

from strategies.parts.model import FlatModel
from strategies.parts.text.token_body import Prefixes, TokenBody
from streams.data import Batch


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a model has passed last.

    Attributes:
        model: which.
        version: counts the changes of its weights.
        places: by a row's tokens, which of `prefixes` it is.
        prefixes: goes on with the rows.
    """

    model: FlatModel
    version: int
    places: dict[bytes, int]
    prefixes: Prefixes


_kept: ContextVar[dict[int, _Kept] | None] = ContextVar("kept", default=None)


@contextlib.contextmanager
def growing() -> Iterator[None]:
    """Let models keep what they passed while this is open, since the rows of the next pass go on from it.

    Who opens it reads the outputs at the last token of every row alone: those of other positions say the same.
    """
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def is_growing() -> bool:
    """Return whether text is being made at this moment."""
    return _kept.get() is not None


# Why: docs/decisions.md#text-grows-without-strategies-knowing-it
def last_outputs(model: FlatModel, batch: Batch) -> torch.Tensor | None:
    """Return the outputs at each row's last token, ``[B, V]``, where text is growing; None where it is not, or cannot.

    A row whose tokens but the last were passed before, by the same weights, passes its last token alone; if one was
    not, all rows pass from their start. Equal to a whole pass up to rounding.

    Args:
        model: to which no hook listens.
        batch: rows ``x [B, 2, L]``.
    """
    kept_by_model, body = _kept.get(), model.network.body
    if kept_by_model is None or batch.images is not None or not isinstance(body, TokenBody) or model.network.training:
        return None
    if not body.can_go_on(batch.x.shape[2]) or model.parameters.is_inference():  # whose changes nobody counts
        return None
    tokens, lengths = batch.x[:, 0].cpu().numpy(), (batch.x[:, 1] > 0).sum(1)
    rows = [row[:n].tobytes() for row, n in zip(tokens, lengths.tolist(), strict=True)]
    kept = kept_by_model.get(id(model))

    def outputs(x: torch.Tensor) -> torch.Tensor:
        places = _places(kept, model, [row[: -x.element_size()] for row in rows])
        if kept is not None and places is not None:
            last, prefixes = x[:, 0].gather(1, lengths.unsqueeze(1) - 1), kept.prefixes
            states = prefixes.go_on(torch.tensor(places, device=x.device), last, lengths - 1)
        else:
            states, prefixes = body.begin(x)
        numbers = {row: number for number, row in enumerate(rows)}
        kept_by_model[id(model)] = _Kept(model, model.parameters._version, numbers, prefixes)
        logits: torch.Tensor = model.network.head(states)
        return logits

    return model.network.passing.through(outputs, batch.x)


def _places(kept: _Kept | None, model: FlatModel, prefixes: list[bytes]) -> list[int] | None:
    """Return which of the rows that are kept begin so, or None if some are not, or are another model's."""
    if kept is None or kept.model is not model or kept.version != model.parameters._version:
        return None
    places = [kept.places.get(prefix, -1) for prefix in prefixes]
    return places if min(places) >= 0 else None
