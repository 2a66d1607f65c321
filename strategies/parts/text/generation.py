"""Greedy text from predictions alone: of whatever predicts tokens, with or without a single model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

from strategies.parts.text.growing import growing
from streams.data import Batch
from streams.randomness import Key
from streams.text import GIVEN, NOTHING, SAID, Tokenizer, prompt_lengths

Predict = Callable[[Batch], torch.Tensor]
"""From a batch to outputs; of text, logits ``[B, T, V]``."""
Choose = Callable[[torch.Tensor, Sequence[int], int], torch.Tensor]
"""From logits ``[n, V]``, the rows that they are of and the number of the token to the next tokens ``[n]``."""


@torch.inference_mode()
def greedy(predict: Predict, batch: Batch, tokenizer: Tokenizer, most: int | None = None) -> list[str]:
    """Return what the model answers to each prompt, token by token the most likely one, until its end.

    Args:
        predict: from a batch to logits ``[B, T, V]``.
        batch: rows with prompts.
        tokenizer: gives the end token.
        most: tokens of an answer; None is as many as the row has room for.
    """
    given = prompt_lengths(batch.x)
    if most is None:
        return _continue_rows(predict, batch, given, [batch.x.shape[2] - n for n in given.tolist()], tokenizer)
    room = replace(batch, x=F.pad(batch.x, (0, max(0, int(given.max()) + most - batch.x.shape[2]))))
    return _continue_rows(predict, room, given, [most] * len(batch), tokenizer)


@torch.inference_mode()
def continued(
    predict: Predict, like: Batch, prompts: Sequence[Sequence[int]], most: Sequence[int], tokenizer: Tokenizer
) -> list[str]:
    """Return the greedy continuation of every prompt, until its end token or for `most` tokens.

    Rows are padded on the right, and each goes on behind its own prompt: a text does not depend on its batch.

    Args:
        predict: from a batch to logits ``[B, T, V]``.
        like: gives device and types.
        prompts: token ids, each with the start token.
        most: tokens to make of each.
        tokenizer: gives the end token.
    """
    lengths = torch.tensor([len(p) for p in prompts], device=like.x.device)
    longest = max((len(p) + m for p, m in zip(prompts, most, strict=True)), default=0)
    x = like.x.new_zeros(len(prompts), 2, longest)
    for row, prompt in zip(x, prompts, strict=True):
        row[0, : len(prompt)], row[1, : len(prompt)] = torch.tensor(prompt, dtype=x.dtype), GIVEN
    return _continue_rows(predict, as_batch(x, like), lengths, most, tokenizer)


@torch.inference_mode()
def sampled(
    predict: Predict, batch: Batch, tokenizer: Tokenizer, key: Key, temperature: float = 1.0, most: int | None = None
) -> list[str]:
    """Return an answer to each prompt that is drawn token by token, until its end or for `most` tokens.

    Args:
        predict: from a batch to logits ``[B, T, V]``.
        batch: rows with prompts; what is drawn for one depends on its id and `key` alone.
        tokenizer: gives the end token.
        key: names the draws.
        temperature: logits are divided by it.
        most: tokens of an answer; None is as many as the row has room for.
    """
    ids, given = batch.ids.cpu().numpy(), prompt_lengths(batch.x)
    room = [batch.x.shape[2] - n if most is None else min(most, batch.x.shape[2] - n) for n in given.tolist()]
    steps = [(key / step).uniform(ids) for step in range(max(room, default=0))]

    def draw(logits: torch.Tensor, rows: Sequence[int], step: int) -> torch.Tensor:
        u = torch.from_numpy(steps[step][list(rows)]).to(logits.device)
        shares = (logits.double() / temperature).softmax(1).cumsum(1)
        return (shares < u.unsqueeze(1) * shares[:, -1:]).sum(1).clamp(max=logits.shape[1] - 1)

    return _continue_rows(predict, batch, given, room, tokenizer, draw)


def _likeliest(logits: torch.Tensor, rows: Sequence[int], step: int) -> torch.Tensor:
    return logits.argmax(1)


def _continue_rows(
    predict: Predict,
    batch: Batch,
    lengths: torch.Tensor,
    most: Sequence[int],
    tokenizer: Tokenizer,
    choose: Choose = _likeliest,
) -> list[str]:
    """Continue every row behind its first `lengths` positions, by at most `most` tokens."""
    x = batch.x.clone()
    x[:, 1][torch.arange(x.shape[2], device=x.device) >= lengths[:, None]] = NOTHING
    continuations: list[list[int]] = [[] for _ in most]
    going = torch.tensor([i for i, m in enumerate(most) if m > 0], dtype=torch.long, device=x.device)
    step = 0
    with growing():
        while len(going):
            logits = predict(replace(batch, x=x, task=None).rows(going))
            at = lengths[going] + torch.tensor([len(continuations[i]) for i in going.tolist()], device=x.device)
            last = logits[torch.arange(len(going), device=x.device), at - 1]
            tokens = choose(last, going.tolist(), step)
            step += 1
            x[going, 0, at], x[going, 1, at] = tokens.to(x.dtype), SAID
            alive = []
            for i, t in zip(going.tolist(), tokens.tolist(), strict=True):
                if t != tokenizer.eos:
                    continuations[i].append(t)
                    if len(continuations[i]) < most[i]:
                        alive.append(i)
            going = torch.tensor(alive, dtype=torch.long, device=x.device)
    return [tokenizer.decode(ids) for ids in continuations]


def as_batch(x: torch.Tensor, like: Batch) -> Batch:
    """Return rows of tokens that are in no source as a batch, with the types of another."""
    nothing = torch.zeros(len(x), dtype=torch.long, device=x.device)
    return Batch(nothing, x, nothing.to(like.y))
