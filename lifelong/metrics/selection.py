"""What a strategy that chooses its training data has chosen: shares of skills, and clusters against skills."""

from __future__ import annotations

import numpy as np

from lifelong.results.table import Row, row
from strategies.metric import Metric
from strategies.outcome import SELECTORS, Draw
from streams.source import Source
from streams.text import ANSWER

METRICS: dict[str, Metric] = {
    "pool_share": Metric("A skill's share of the pool that was drawn from.", "share", "neither"),
    "draw_share": Metric("A skill's share of what was drawn.", "share", "neither"),
    "draw_balance": Metric(
        "Entropy of the skills' shares of what was drawn, over that of equal shares of all skills in the pool.",
        "share",
        "neither",
        1.0,
    ),
    "cluster_nmi": Metric(
        "Normalised mutual information of a strategy's clusters and the true skills (classes), over the pool.",
        "share",
        "higher",
        1.0,
    ),
    "cluster_nmi_answers": Metric(
        "The same of clusters and answers, in text: where it is the higher one, clusters are what is answered and not "
        "what is asked.",
        "share",
        "neither",
    ),
    "cluster_share": Metric("A cluster's share of the pool.", "share", "neither"),
    "cluster_draw": Metric("Share of a cluster's samples that was drawn.", "share", "neither"),
    "selector": Metric(
        "The score that decided in a cluster, by its place: " + ", ".join(f"{i} {s}" for i, s in enumerate(SELECTORS)),
        "place",
        "neither",
    ),
}


def selection_rows(event: int, draw: Draw, source: Source) -> list[Row]:
    """Return rows on one draw.

    A skill is a class of the source (in text, what its rows are about). Strategies do not know it.

    Args:
        event: index of the learn event.
        draw: what was chosen, and from what.
        source: has the true skills.
    """
    from sklearn.metrics import normalized_mutual_info_score  # takes a while to import

    skills = source.class_ids[draw.pool]
    present, at = np.unique(skills, return_inverse=True)
    num_pool, num_drawn = len(draw.pool), int(draw.drawn.sum())
    in_pool = np.bincount(at, minlength=len(present)) / num_pool
    in_draw = np.bincount(at[draw.drawn], minlength=len(present)) / max(num_drawn, 1)
    rows = [
        row(event, "run", source.class_names[skill], metric, float(share), n)
        for metric, shares, n in (("pool_share", in_pool, num_pool), ("draw_share", in_draw, num_drawn))
        for skill, share in zip(present, shares, strict=True)
    ]
    balance = balance_of(in_draw) if len(present) > 1 else None
    rows.append(row(event, "run", "event", "draw_balance", balance, num_drawn, "the pool has one skill"))
    if draw.clusters is None:
        if draw.selectors:
            rows.append(row(event, "run", "cluster 0", "selector", SELECTORS.index(draw.selectors[0]), num_pool))
        return rows
    nmi = float(normalized_mutual_info_score(skills, draw.clusters)) if len(present) > 1 else None
    rows.append(row(event, "run", "event", "cluster_nmi", nmi, num_pool, "the pool has one skill"))
    if source.text is not None:
        answers = answers_of(source, draw.pool)
        nmi = float(normalized_mutual_info_score(answers, draw.clusters)) if answers.max() else None
        rows.append(row(event, "run", "event", "cluster_nmi_answers", nmi, num_pool, "all have one answer"))
    for k in range(int(draw.clusters.max()) + 1):
        members = draw.clusters == k
        size, subject = int(members.sum()), f"cluster {k}"
        rows.append(row(event, "run", subject, "cluster_share", size / num_pool, num_pool))
        rows.append(row(event, "run", subject, "cluster_draw", float(draw.drawn[members].mean()), size))
        if draw.selectors:
            rows.append(row(event, "run", subject, "selector", SELECTORS.index(draw.selectors[k]), size))
    return rows


def answers_of(source: Source, ids: np.ndarray) -> np.ndarray:
    """Return a number for the answer of each sample, int64 ``[n]``; equal answers have equal numbers."""
    numbers: dict[bytes, int] = {}
    spoken = (tokens[parts == ANSWER].tobytes() for tokens, parts in source.x.numpy()[ids])
    return np.array([numbers.setdefault(answer, len(numbers)) for answer in spoken], dtype=np.int64)


def balance_of(shares: np.ndarray) -> float:
    """Return the entropy of shares over its highest possible value: 1 if all are equal, 0 if one has everything.

    >>> balance_of(np.array([0.25, 0.25, 0.25, 0.25])), balance_of(np.array([1.0, 0.0]))
    (1.0, 0.0)
    """
    p = shares[shares > 0]
    return float(-(p * np.log(p)).sum() / np.log(len(shares))) + 0.0
