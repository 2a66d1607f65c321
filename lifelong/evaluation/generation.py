"""Records of single rows of text: one pass over answers, one over other answers, and greedy text."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from lifelong.formulas.language import (
    MIN_K,
    choice_probability,
    exact_memorisation,
    extraction_strength,
    min_k,
    normalised,
    rouge_l,
    truth_probability,
    truth_ratio,
    words,
)
from strategies.objectives.causal_lm import precise, scored
from streams.data import Batch
from streams.text import ANSWER, GIVEN, NOTHING, SAID, Text, Tokenizer, prompt_lengths

Predict = Callable[[Batch], torch.Tensor]

ATTACKS = ("loss", "zlib", "min_k", "min_k_plus_plus")
"""Records whose lowness tells members from non-members."""


@torch.inference_mode()
def records_of(predict: Predict, batch: Batch, text: Text) -> dict[str, np.ndarray]:
    """Return numbers of every row, float32 ``[B]``.

    ``loss`` and ``probability`` are of the whole answer, and ``zlib`` is the loss over the bytes that its text packs
    into; ``exact_memorisation``, ``extraction_strength``, ``min_k`` and ``min_k_plus_plus`` leave its end token out, as
    OpenUnlearning does. ``truth_ratio``, ``truth_prob``, ``choice`` and ``rouge_recall`` are there where the source has
    wrong answers and prompts; all but the last are NaN in rows that have no wrong answer.

    Args:
        predict: from a batch to logits ``[B, T, V]``.
        batch: rows.
        text: of their source.
    """
    records = _of_answers(predict, batch, text.tokenizer)
    if text.paraphrased is not None and text.perturbed is not None:
        ids = batch.ids.cpu()
        right = _losses(predict, batch, text.paraphrased[ids])
        counts = text.wrong_counts(ids)
        wrong = np.full((len(batch), text.perturbed.shape[1]), np.inf, dtype=np.float32)
        for j in range(counts.max()):
            at = np.flatnonzero(counts > j)
            having = torch.from_numpy(at)
            wrong[at, j] = _losses(predict, batch.rows(having.to(batch.x.device)), text.perturbed[ids[having], j])
        some = counts > 0
        ratios = [truth_ratio(r, w[:n].tolist()) for r, w, n in zip(right, wrong, counts, strict=True) if n]
        for name, values in (
            ("truth_ratio", ratios),
            ("truth_prob", truth_probability(right[some], wrong[some])),
            ("choice", choice_probability(records["loss"][some], wrong[some])),
        ):
            records[name] = np.full(len(batch), np.nan, dtype=np.float32)
            records[name][some] = values
        generated = greedy(predict, batch, text.tokenizer)
        true = [text.tokenizer.decode(x[0][x[1] == ANSWER].tolist()) for x in batch.x]
        recall = [rouge_l(words(t), words(g))[0] for t, g in zip(true, generated, strict=True)]
        records["rouge_recall"] = np.array(recall, dtype=np.float32)
    return records


@torch.inference_mode()
def records_of_holdout(predict: Predict, text: Text, like: Batch, batch_size: int) -> dict[str, np.ndarray]:
    """Return the numbers that membership attacks need, of rows that were never taught."""
    if text.holdout is None or not len(text.holdout):
        return {}
    x = text.holdout.to(like.x.device)
    parts = [_of_answers(predict, _batch(part, like), text.tokenizer) for part in x.split(batch_size)]
    return {f"holdout_{name}": np.concatenate([p[name] for p in parts]) for name in ATTACKS}


@torch.inference_mode()
def greedy(predict: Predict, batch: Batch, tokenizer: Tokenizer) -> list[str]:
    """Return what the model answers to each prompt, token by token the most likely one, until its end or a full row."""
    given = prompt_lengths(batch.x)
    return _go_on(predict, batch, given, [batch.x.shape[2] - n for n in given.tolist()], tokenizer)


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
    given = torch.tensor([len(p) for p in prompts], device=like.x.device)
    longest = max((len(p) + m for p, m in zip(prompts, most, strict=True)), default=0)
    x = like.x.new_zeros(len(prompts), 2, longest)
    for row, prompt in zip(x, prompts, strict=True):
        row[0, : len(prompt)], row[1, : len(prompt)] = torch.tensor(prompt, dtype=x.dtype), GIVEN
    return _go_on(predict, _batch(x, like), given, most, tokenizer)


def _go_on(predict: Predict, batch: Batch, given: torch.Tensor, most: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """Continue every row behind its first `given` positions, by at most `most` tokens."""
    x = batch.x.clone()
    x[:, 1][torch.arange(x.shape[2], device=x.device) >= given[:, None]] = NOTHING
    made: list[list[int]] = [[] for _ in most]
    going = torch.tensor([i for i, m in enumerate(most) if m > 0], dtype=torch.long, device=x.device)
    while len(going):
        logits = predict(replace(batch, x=x, task=None).rows(going))
        at = given[going] + torch.tensor([len(made[i]) for i in going.tolist()], device=x.device)
        tokens = logits[torch.arange(len(going), device=x.device), at - 1].argmax(1)
        x[going, 0, at], x[going, 1, at] = tokens.to(x.dtype), SAID
        alive = []
        for i, t in zip(going.tolist(), tokens.tolist(), strict=True):
            if t != tokenizer.eos:
                made[i].append(t)
                if len(made[i]) < most[i]:
                    alive.append(i)
        going = torch.tensor(alive, dtype=torch.long, device=x.device)
    return [tokenizer.decode(ids) for ids in made]


def _batch(x: torch.Tensor, like: Batch) -> Batch:
    nothing = torch.zeros(len(x), dtype=torch.long, device=x.device)
    return Batch(nothing, x, nothing.to(like.y))


def _losses(predict: Predict, batch: Batch, x: torch.Tensor) -> np.ndarray:
    """Return the mean of -log p over each answer of other rows, ``[B]``."""
    found = scored(predict(replace(batch, x=x.to(batch.x.device))), x.to(batch.x.device), "answer")
    return (found.sums(found.token_losses()) / found.counts).cpu().numpy()


def _of_answers(predict: Predict, batch: Batch, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    found = scored(predict(batch), batch.x, "answer")
    log_all = precise(found.logits).log_softmax(1)
    p = log_all.exp()
    mean = (p * log_all).sum(1)
    variance = (p * log_all.square()).sum(1) - mean.square()
    log_p = log_all.gather(1, found.targets.unsqueeze(1)).squeeze(1)
    hits = found.logits.argmax(1) == found.targets
    ends = np.cumsum(np.bincount(found.rows.cpu().numpy(), minlength=len(batch)))[:-1]
    of_rows = [np.split(v.cpu().numpy(), ends) for v in (log_p, mean, variance, hits, found.targets)]
    table = []
    for own, expected, spread, hit, ids in zip(*of_rows, strict=True):
        loss = float(-own.mean()) if len(own) else 0.0
        body = slice(0, max(1, len(own) - 1))  # all but the end token
        units = normalised(own[body], expected[body], spread[body])
        table.append(
            (
                loss,
                float(np.exp(-loss)),
                loss / len(zlib.compress(tokenizer.decode(ids.tolist()).encode())),
                exact_memorisation(hit[body]),
                extraction_strength(hit[body]),
                min_k(own[body], MIN_K),
                min_k(units, MIN_K),
            )
        )
    names = ("loss", "probability", "zlib", "exact_memorisation", "extraction_strength", "min_k", "min_k_plus_plus")
    return {
        name: np.array(values, dtype=np.float32) for name, values in zip(names, zip(*table, strict=True), strict=True)
    }
