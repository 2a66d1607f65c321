"""Adapt-infinity: train on a draw from all data so far, balanced over clusters of gradients (Maharana et al. 2025)."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Lesson, Outcome, Setting, State
from strategies.learners._selection import Chosen, SurveyConfig, SurveyingSelection
from strategies.outcome import Draw, Selector
from strategies.parts.model import FlatModel
from strategies.parts.selection.budgets import (
    Shares,
    densities,
    equal_shares,
    handed_on_shares,
    spreads,
    weighted_shares,
)
from strategies.parts.selection.clustering import Algorithm, clusters, default_clusters
from strategies.parts.selection.coverage import coverage_draw
from strategies.parts.selection.deduplication import earlier_similarity, least_redundant
from strategies.parts.selection.gradient_features import Form, Kind, Projector
from strategies.parts.selection.selectors import Binning, best_selector
from strategies.parts.selection.survey import Surveyed
from streams.data import Data
from streams.errors import ConfigError
from streams.events import DeletionRequest
from streams.randomness import Key


class Config(SurveyConfig):
    """Options of `adapt-infinity` (Maharana et al. 2025, arXiv 2410.10636)."""

    selectors: tuple[Selector, ...] | None = Field(None, min_length=1)
    """The pool of scores, the first winning ties. Null takes perplexity, el2n, entropy and grand, and image-grounding
    where inputs have images."""
    binning: Binning = "z"
    """Histograms that choose the score of a cluster: of standardised values (z), or as released (raw-scale), where bins
    depend on the scale of the score."""
    clusters: int | None = Field(None, ge=2)
    """K, the pseudo-skills; null takes min(10, pool / 50), 2 at least."""
    algorithm: Algorithm = "k-means"
    """k-means with 10 starts, or mini-batches as released."""
    gradient: Form = "sgd"
    """Project gradients, or their signs."""
    projection: Kind | None = None
    """A dense +-1 matrix as released (rademacher), or a tensor sketch, which never builds the gradients. Null takes the
    dense one for text, as in the paper, and the sketch elsewhere: on wide layers that see one position per sample the
    dense one costs many epochs of training."""
    width: int = Field(256, ge=8)
    """Numbers that a gradient is projected to; the release takes 8192 for billions of parameters."""
    shares: Shares = "equal"
    """How the budget is shared out over clusters: equally, or by one of the alternatives in the released code."""
    strata: int | None = Field(None, ge=1)
    """Strata of the chosen score in a cluster; null takes 50, and 20 in clusters of fewer than 500 samples."""
    tails: float = Field(5.0, ge=0, lt=50)
    """Percent of a cluster left out at each end of its score."""
    pool: int | None = Field(None, ge=1)
    """LITE: after each experience prune the pool to this size for good, by the most redundant samples of each cluster;
    null keeps all."""
    redundancy: str = Field("hidden", pattern="^(hidden|gradient)$")
    """What redundancy is measured by: mean hidden states, or gradient features."""
    readmit: bool = False
    """Whether pruned samples come back when the sample they were most like is deleted. Their data must be there."""


def draw(
    surveyed: Surveyed, labels: np.ndarray, allowed: np.ndarray, ids: np.ndarray, budget: int, key: Key, config: Config
) -> tuple[np.ndarray, tuple[Selector, ...], int]:
    """Draw from every cluster by the score that tells its samples apart best.

    Args:
        surveyed: scores and features ``[n]``.
        labels: int64 ``[n]`` cluster of each.
        allowed: bool ``[n]`` what may be drawn.
        ids: int64 ``[n]``, ascending.
        budget: samples in all.
        key: names the draws.
        config: see `Config`.

    Returns:
        Drawn bool ``[n]``, the score of each cluster, and how many were drawn outside of the band of their cluster.
    """
    members = [np.flatnonzero((labels == k) & allowed) for k in range(labels.max() + 1)]
    sizes = np.array([len(m) for m in members])
    if config.shares == "equal":
        budgets = equal_shares(sizes, budget)
    elif config.shares == "proportional":
        budgets = weighted_shares(sizes, sizes.astype(np.float64), budget)
    elif config.shares == "el2n-spread":
        budgets = handed_on_shares(sizes, spreads(surveyed.scores["el2n"], labels), budget)
    else:
        budgets = weighted_shares(sizes, densities(surveyed.features.numpy(), labels), budget)
    drawn, outside = np.zeros(len(ids), dtype=bool), 0
    chosen: list[Selector] = []
    pool = config.selectors or tuple(surveyed.scores)
    for k, rows in enumerate(members):
        inside = {name: surveyed.scores[name][labels == k] for name in pool}
        chosen.append(best_selector(inside, config.binning))
        if budgets[k]:
            strata = config.strata or (50 if len(rows) >= 500 else 20)
            tails = (config.tails, config.tails)
            values = surveyed.scores[chosen[-1]][rows]
            drawn_positions, more = coverage_draw(values, ids[rows], int(budgets[k]), key / "coverage", strata, tails)
            drawn[rows[drawn_positions]] = True
            outside += more
    return drawn, tuple(chosen), outside


def prune(
    features: torch.Tensor, labels: np.ndarray, order: np.ndarray, cap: int, memory: int
) -> tuple[np.ndarray, np.ndarray]:
    """Choose what stays in a pool of `cap` samples: an equal share of every cluster, the least redundant of each.

    Args:
        features: ``[n, F]``.
        labels: int64 ``[n]``.
        order: ``[n]`` positions from the earliest to the latest; the earlier of two copies stays.
        cap: size of the pool.
        memory: bytes for a block of similarities.

    Returns:
        Stays, bool ``[n]``, and the position of the earlier sample that each is most like, or -1.
    """
    stays, partner = np.zeros(len(labels), dtype=bool), np.full(len(labels), -1, dtype=np.int64)
    shares = equal_shares(np.bincount(labels), cap)
    for k, share in enumerate(shares):
        members = order[labels[order] == k]
        if share == len(members):  # nothing of it has to go
            stays[members] = True
            continue
        similarity, earlier = earlier_similarity(features[members], memory)
        stays[members] = least_redundant(similarity, int(share))
        partner[members] = np.where(earlier >= 0, members[earlier], -1)
    return stays, partner


@final
class AdaptInfinity(SurveyingSelection):
    """Surveys the whole pool anew before every experience; of that, nothing outlives the experience but the pruning."""

    test_options = {"share": 1.0, "width": 32}
    config: Config
    supports = frozenset({"classes", "tokens"})
    name: ClassVar[str] = "adapt-infinity"

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with an empty pool.

        Raises:
            ConfigError: options do not fit each other, or the model predicts no distributions.
        """
        super().__init__(config, setting)
        if config.shares == "el2n-spread" and config.selectors is not None and "el2n" not in config.selectors:
            raise ConfigError("learner.adapt-infinity.shares: el2n-spread needs el2n among the selectors.")
        kind: Kind = "rademacher" if setting.objective.predicts == "tokens" else "tensor-sketch"
        self._projector = Projector(config.projection or kind, config.width, self._key, config.memory)
        nothing = np.array([], dtype=np.int64)
        self._pruned = {"ids": nothing, "keepers": nothing, "arrivals": nothing}
        self._going: tuple[np.ndarray, np.ndarray] | None = None

    @property
    @override
    def access(self) -> Access:
        return Access(retained=self.config.pool or "full")

    @override
    def choose(self, data: Data, allowed: np.ndarray, budget: int, model: FlatModel, key: Key) -> Chosen:
        """Survey, cluster, choose scores, draw; and choose what will be pruned once the experience is learned."""
        config = self.config
        self._pruned = _without(self._pruned, np.isin(self._pruned["ids"], data.ids))  # taught again
        hidden = config.pool is not None and config.redundancy == "hidden"
        surveyed = self.look(data, model, key, config.selectors, self._projector, hidden, config.gradient == "sign")
        count = config.clusters or default_clusters(len(data))
        labels = clusters(surveyed.features.numpy(), count, key / "clusters", config.algorithm)
        drawn, selectors, outside = draw(surveyed, labels, allowed, data.ids, budget, key, config)
        if config.pool is not None and len(data) > config.pool:
            features = surveyed.embeddings if hidden else surveyed.features
            order = np.argsort(self._arrival[data.ids], kind="stable")
            stays, partner = prune(features, labels, order, config.pool, config.memory)
            keepers = np.where(partner >= 0, data.ids[partner], -1)
            self._going = (data.ids[~stays], keepers[~stays])
        notes = {"outside_band": float(outside), "small_gradients": surveyed.small}
        return Chosen(Draw(data.ids, drawn, labels, selectors), surveyed.cost, notes)

    @override
    def end(self, lesson: Lesson) -> Outcome:
        """Prune the pool; tell what was drawn."""
        if self._going is not None:
            (ids, keepers), self._going = self._going, None
            more = {"ids": ids, "keepers": keepers, "arrivals": self._arrival[ids].astype(np.int64)}
            self._pruned = {name: np.concatenate([old, more[name]]) for name, old in self._pruned.items()}
            self._arrival[ids] = -1
        return super().end(lesson)

    @override
    def purge(self, request: DeletionRequest) -> None:
        """Take the request's samples out of pool and notes; readmit what was pruned because of them, if so chosen."""
        before = len(self.pool)
        super().purge(request)
        deleted = request.sample_ids
        self._pruned = _without(self._pruned, np.isin(self._pruned["ids"], deleted))
        orphans = np.isin(self._pruned["keepers"], deleted)
        self._pruned["keepers"] = np.where(orphans, -1, self._pruned["keepers"])
        if self.config.readmit:
            order = np.lexsort((self._pruned["ids"], self._pruned["arrivals"]))
            back = order[orphans[order]][: before - len(self.pool)]
            self._arrival[self._pruned["ids"][back]] = self._pruned["arrivals"][back]
            self._pruned = _without(self._pruned, np.isin(np.arange(len(orphans)), back))

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return what is in the pool or noted as pruned, and what had a say in earlier draws."""
        noted = np.isin(ids, self._pruned["ids"]) | np.isin(ids, self._pruned["keepers"])
        return super().holds(ids) | {"pruned": ids[noted]}

    @override
    def state_dict(self) -> State:
        pruned = {name: torch.from_numpy(column.copy()) for name, column in self._pruned.items()}
        return super().state_dict() | {"pruned": pruned}

    @override
    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self._pruned = {name: column.numpy().copy() for name, column in state["pruned"].items()}


def _without(columns: dict[str, np.ndarray], gone: np.ndarray) -> dict[str, np.ndarray]:
    return {name: column[~gone] for name, column in columns.items()}
