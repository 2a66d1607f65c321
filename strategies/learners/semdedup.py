"""SemDeDup: train on the samples that are least like another one of their cluster in what the model makes of them."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.learners._selection import Chosen, SurveyConfig, SurveyingSelection
from strategies.outcome import Draw
from strategies.parts.model import FlatModel
from strategies.parts.selection.clustering import clusters, default_clusters
from strategies.parts.selection.deduplication import earlier_similarity
from strategies.parts.selection.gradient_features import normalised
from streams.data import Data
from streams.randomness import Key


class Config(SurveyConfig):
    """Options of `semdedup` (Abbas et al. 2023, arXiv 2303.09540)."""

    clusters: int | None = Field(None, ge=1)
    """Groups within which samples are compared; null takes min(10, pool / 50), 2 at least."""
    keep: Literal["hard", "easy"] = "hard"
    """Of a group of duplicates, the one farthest from its centroid (hard, as published) or nearest to it."""


def redundancy(embeddings: torch.Tensor, labels: np.ndarray, keep: str, memory: int) -> np.ndarray:
    """Return the highest cosine of each sample with one that comes before it in its cluster, ``[n]``.

    Samples come in the order of their cosine to the centroid: ascending to keep hard ones, descending for easy ones.
    """
    similarity = np.zeros(len(embeddings), dtype=np.float32)
    unit = normalised(embeddings)
    for k in range(labels.max() + 1):
        members = np.flatnonzero(labels == k)
        near = (unit[members] @ normalised(unit[members].mean(0, keepdim=True)).squeeze(0)).numpy()
        members = members[np.argsort(near if keep == "hard" else -near, kind="stable")]
        similarity[members] = earlier_similarity(unit[members], memory)[0]
    return similarity


@final
class SemDeDup(SurveyingSelection):
    """One threshold for the whole pool, set by the budget: the most redundant samples of any cluster go first."""

    inert = SurveyingSelection.inert | dict.fromkeys(
        ("block", "formulas", "no_image"), "it compares hidden states, and takes no scores and no gradients"
    )
    config: Config
    name: ClassVar[str] = "semdedup"
    scores: ClassVar[bool] = False

    @override
    def choose(self, data: Data, allowed: np.ndarray, budget: int, model: FlatModel, key: Key) -> Chosen:
        config = self.config
        surveyed = self.look(data, model, key, (), embeddings=True)
        count = config.clusters or default_clusters(len(data))
        labels = clusters(normalised(surveyed.embeddings).numpy(), count, key / "clusters")
        similarity = redundancy(surveyed.embeddings, labels, config.keep, config.memory)
        order = np.lexsort((key.priorities(data.ids), similarity))
        drawn = np.zeros(len(data), dtype=bool)
        drawn[order[allowed[order]][:budget]] = True
        return Chosen(Draw(data.ids, drawn, labels), surveyed.cost, {})
