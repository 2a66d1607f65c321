"""EWC: keep each weight near its earlier values in proportion to its Fisher information, one anchor per experience."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Lesson, Outcome, Plugin, Setting, State
from strategies.objectives._base import FisherEstimator
from strategies.parts.model import FlatModel
from strategies.parts.weights.fisher import diagonal_fisher
from strategies.parts.weights.importance import Pull, Tie, TieConfig, check_stiff, make_pull
from strategies.ranges import log
from streams.data import Data
from streams.events import DeletionRequest
from streams.randomness import Key


class Config(TieConfig):
    """Options of `ewc` (Kirkpatrick et al. 2017, arXiv 1612.00796)."""

    strength: float = Field(100.0, ge=0)
    """lambda in (lambda / 2) sum_k F_k (theta - theta_k)^2. Its scale depends on the estimator."""
    fisher: FisherEstimator = "sampled"
    """exact: mean_x sum_c p(c|x) (d l(x,c))^2. sampled: mean_x (d l(x,y'))^2, y' ~ p, unbiased for exact at one
    backward. empirical: mean_x (d l(x,y))^2. p-weighted: mean_x p(y|x) (d l(x,y))^2. batch: mean over batches of
    (d mean l)^2, as in Avalanche, about 1/fisher_batch of empirical."""
    fisher_batch: int = Field(256, ge=1)
    """Samples per Fisher pass; changes the result of `batch` only."""
    on_deletion: Literal["keep", "drop", "recompute"] = "keep"
    """What a request does to the Fisher of an experience whose data it names. keep: nothing; the past is folded into
    two vectors of constant size. drop: take that experience's Fisher out of the sum. recompute: also estimate it anew
    at the unlearned weights, from the experience's data that is left, when the next experience is learned (needs full
    access). The last two keep two vectors per experience."""


@dataclass(slots=True, eq=False)
class Share:
    """What one experience adds to the penalty; `fisher` and `anchor` are missing while it waits to be recomputed."""

    ids: np.ndarray
    fisher: torch.Tensor | None
    anchor: torch.Tensor | None


@final
class EWC(Plugin):
    """Adds the gradient of all past experiences' penalties in closed form."""

    carries = ()
    test_options = {"strength": 10.0}
    config: Config
    ranges = {"strength": log(1.0, 1e5)}
    becomes = {"naive": {"strength": 0.0}}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start without any tie."""
        super().__init__(config, setting)
        check_stiff(config.stiff, setting.training, "ewc")
        self.state_grows = config.on_deletion != "keep"
        setting.outline().mask(config.parameters)  # a part that is not there is refused here
        self._tie = Tie(setting.zeros())
        self._shares: dict[str, Share] = {}
        self._experiences = 0
        self._pull: Pull | None = None
        self._recomputed = Outcome()
        self._in_fisher = np.zeros(setting.num_samples, dtype=bool)
        self._in_anchors = np.zeros(setting.num_samples, dtype=bool)

    @property
    @override
    def access(self) -> Access:
        return Access(retained="full" if self.config.on_deletion == "recompute" else 0)

    @override
    def begin(self, lesson: Lesson) -> None:
        """Recompute what waits for it, and prepare lambda sum F."""
        self._recomputed = Outcome()
        waiting = {name: share for name, share in self._shares.items() if share.fisher is None}
        for name, share in waiting.items():
            key = lesson.key / "fisher-again" / name
            share.fisher, cost = self._estimate(lesson.model, lesson.door.fetch(share.ids), key)
            share.anchor = lesson.model.parameters.clone()
            self._in_fisher[share.ids] = True
            self._recomputed += cost
        if waiting:
            self._fold()
        curvature = self.config.strength * self._tie.weight
        training = self.setting.training
        self._pull = None
        if self._experiences:
            self._pull = make_pull(curvature, self._tie.center, self.config.stiff, training, "ewc")

    @override
    def gradient(self, gradient: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Add lambda sum_k F_k (theta - theta_k)."""
        return gradient if self._pull is None else self._pull.add_to(gradient, parameters)

    @override
    def end(self, lesson: Lesson) -> Outcome:
        theta = lesson.model.parameters
        ended_with = self.config.strength / 2 * self._tie.penalty(theta)
        clamped = 0.0 if self._pull is None else self._pull.clamped
        self._pull = None
        fisher, cost = self._estimate(lesson.model, lesson.data, lesson.key / "fisher")
        self._tie.add(fisher, theta)
        if self.config.on_deletion != "keep":
            name = f"{lesson.experience.name}/{lesson.experience.incarnation}"
            self._shares[name] = Share(lesson.data.ids.copy(), fisher, theta.clone())
        self._experiences += 1
        self._in_fisher[lesson.data.ids] = self._in_anchors[lesson.data.ids] = True
        return self._recomputed + cost + Outcome(losses={"ewc_penalty": ended_with, "ewc_clamped": clamped})

    @override
    def purge(self, request: DeletionRequest) -> None:
        """Take the Fisher of every experience that the request touches out of the sum, if it is kept apart."""
        touched = {n: s for n, s in self._shares.items() if np.isin(s.ids, request.sample_ids).any()}
        for name, share in touched.items():
            left = share.ids[~np.isin(share.ids, request.sample_ids)]
            if self.config.on_deletion == "recompute" and len(left):
                self._shares[name] = Share(left, None, None)
            else:
                del self._shares[name]
        if touched:
            self._fold()
            self._in_fisher[:] = False
            for share in self._shares.values():
                if share.fisher is not None:
                    self._in_fisher[share.ids] = True

    @override
    def settle(self, model: FlatModel) -> None:
        """Move every anchor to the unlearned weights; otherwise the penalty would pull the forgotten back."""
        self._tie.anchor_at(model.parameters)
        for share in self._shares.values():
            if share.fisher is not None:
                share.anchor = model.parameters.clone()

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return whose gradients are in the Fisher sum, and what the anchors were derived from."""
        return {"fisher": ids[self._in_fisher[ids]], "anchors": ids[self._in_anchors[ids]]}

    @override
    def state_dict(self) -> State:
        """Return the running form, and every experience's share if they are kept apart."""
        return {
            "tie": self._tie.state_dict(),
            "experiences": self._experiences,
            "shares": {
                name: {"ids": torch.from_numpy(s.ids.copy()), "fisher": _copy(s.fisher), "anchor": _copy(s.anchor)}
                for name, s in self._shares.items()
            },
            "derived": {
                "fisher": torch.from_numpy(self._in_fisher.copy()),
                "anchors": torch.from_numpy(self._in_anchors.copy()),
            },
        }

    @override
    def load_state_dict(self, state: State) -> None:
        self._tie.load_state_dict(state["tie"])
        self._experiences = state["experiences"]
        self._shares = {
            name: Share(s["ids"].numpy().copy(), _copy(s["fisher"]), _copy(s["anchor"]))
            for name, s in state["shares"].items()
        }
        self._in_fisher = state["derived"]["fisher"].numpy().copy()
        self._in_anchors = state["derived"]["anchors"].numpy().copy()

    def _estimate(self, model: FlatModel, data: Data, key: Key) -> tuple[torch.Tensor, Outcome]:
        config = self.config
        fisher, cost = diagonal_fisher(model, self.setting.objective, data, config.fisher, key, config.fisher_batch)
        return fisher.mul_(model.mask(config.parameters)), cost

    def _fold(self) -> None:
        """Add up the shares anew: a difference of sums would leave a trace of what was taken out."""
        self._tie = Tie(self._tie.weight)
        for share in self._shares.values():
            if share.fisher is not None and share.anchor is not None:
                self._tie.add(share.fisher, share.anchor)


def _copy(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.clone()
