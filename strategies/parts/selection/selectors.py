"""Selectors: how much each sample is worth training on, by several scores, and which score tells samples apart best.

The pool of Adapt-infinity (Maharana et al. 2025, arXiv 2410.10636): perplexity, EL2N and GraNd (Paul et al. 2021),
entropy, image grounding. For every cluster the score counts whose histogram in it has the highest entropy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch

from strategies.objectives._base import Scored
from strategies.outcome import Selector

Formulas = Literal["paper", "released"]
"""The definitions, or what the released code computes."""
Binning = Literal["z", "raw-scale"]
"""Bins in units of the standard deviation, or those of the released code, which depend on a score's scale."""

BINS = 50
_FLAT = 1e-12


def log_perplexities(responses: Scored, formulas: Formulas = "paper") -> torch.Tensor:
    """Return the log perplexity of every response, ``[B]``: the mean of -log p over its tokens.

    `released` takes the log of the mean of 1 / p, which is never lower.
    """
    losses = responses.token_losses()
    if formulas == "released":
        # log mean exp, shifted by each row's largest loss so that nothing overflows.
        top = losses.new_full((responses.num_rows,), float("-inf")).scatter_reduce(0, responses.rows, losses, "amax")
        top = torch.where(top.isfinite(), top, 0.0)
        return (responses.sums((losses - top[responses.rows]).exp()) / responses.counts).log() + top
    return responses.sums(losses) / responses.counts


def el2n(responses: Scored) -> torch.Tensor:
    """Return the mean over response tokens of ||softmax - one-hot||, ``[B]``."""
    p = responses.logits.float().softmax(1)
    p[torch.arange(len(p), device=p.device), responses.targets] -= 1
    return responses.sums(p.norm(dim=1)) / responses.counts


def entropies(responses: Scored) -> torch.Tensor:
    """Return the mean entropy of what is predicted at each response token, in nats, ``[B]``."""
    return responses.sums(torch.special.entr(responses.logits.float().softmax(1)).sum(1)) / responses.counts


def groundings(responses: Scored, without: Scored, had: torch.Tensor, formulas: Formulas = "paper") -> torch.Tensor:
    """Return the log of PPL(response without a part of the input) / PPL(response with it), ``[B]``.

    Above 0 the part helps, below 0 it misleads. Samples that never had the part have exactly 0. `released` is the ratio
    itself, and gives samples without the part the mismatch of its two perplexities.

    Args:
        responses, without: the same responses with and without it.
        had: bool ``[B]``.
        formulas: `released` has the mean of 1 / p below and the plain perplexity above.
    """
    values = log_perplexities(without) - log_perplexities(responses, formulas)
    return values.exp() if formulas == "released" else torch.where(had, values, 0.0)


def histogram_entropy(values: np.ndarray, binning: Binning = "z") -> float:
    """Return the Shannon entropy, in bits, of the histogram of some scores; at most log2(50) = 5.64.

    With `z`, scores are brought to mean 0 and deviation 1 and counted in 50 bins on [-4, 4], outliers in the outermost.
    `raw-scale` is as released: the bins of the same scores are 49 on [-4 s, 4 s] with s the deviation *before*, and
    what lies outside of them is left out, so that the same shape has another entropy at another scale.

    Scores that do not vary, or are not all finite, have 0. As released, those that do not vary have NaN, which wins,
    and a value that is NaN counts as 0.
    """
    if len(values) < 2 or not np.isfinite(values).all():
        return 0.0
    values = values.astype(np.float64)
    deviation = values.std()
    if deviation < _FLAT:
        return 0.0
    standard = (values - values.mean()) / deviation
    if binning == "z":
        counts, _ = np.histogram(standard.clip(-4, 4), np.linspace(-4, 4, BINS + 1))
    else:
        counts, _ = np.histogram(standard, np.linspace(-4 * deviation, 4 * deviation, BINS))
    p = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(p * np.log2(p)).sum()) + 0.0


def best_selector(scores: Mapping[Selector, np.ndarray], binning: Binning = "z") -> Selector:
    """Return the score whose histogram has the highest entropy; among equals the first.

    Args:
        scores: values of the samples of one cluster, by name, in the order of the pool.
        binning: see `histogram_entropy`.
    """
    measured = {name: histogram_entropy(values, binning) for name, values in scores.items()}
    return max(measured, key=measured.__getitem__)
