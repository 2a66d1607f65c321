"""S3T: adapters trained slice by slice in several orders; a request switches off what saw a slice, without training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, final

import numpy as np
import torch
from pydantic import Field, model_validator
from typing_extensions import override

from strategies.base import Access, Door, Outcome, Setting, State, Strategy
from strategies.isolated._adapters import AdapterHost
from strategies.parts.fit import fit
from strategies.parts.sharding.ensembles import pool
from strategies.parts.sharding.sequences import Order, drawn, matched, prefixes, rotations
from strategies.parts.sharding.stages import partition
from strategies.ranges import linear, log
from streams.config import Config as BaseConfig
from streams.data import Batch
from streams.events import DeletionRequest, Experience
from streams.randomness import Key


class Config(BaseConfig):
    """Options of `s3t` (arXiv 2406.16257); adapters as in its experiments on images."""

    shards: int = Field(5, ge=1)
    """Disjoint parts of each experience (m)."""
    slices: int = Field(4, ge=1)
    """Parts of a shard, each with a block of layers (L); the body needs as many layers with linear maps."""
    sequences: int = Field(4, ge=1)
    """Orders in which each shard's slices are learned (B), at most L!; more mean rarer retraining, and more of it."""
    order: Literal["rotations", "even"] = "rotations"
    """Without a prior: consecutive rotations (the paper), or rotations by floor(L / B), whose prefixes overlap less."""
    prior: tuple[float, ...] | None = None
    """Chance of each slice to be hit by a request. Orders are then matched to it (B at most L) or drawn by it."""
    hits: int = Field(1, ge=1)
    """Requests that matched orders are scored for (t; the released code takes 100, where all scores vanish)."""
    weighted_score: bool = False
    """Score orders with the factor n, as the paper prints it, instead of by the expected number of surviving slices."""
    epochs: int | None = Field(None, ge=1)
    """Epochs of a stage; null takes those of training."""
    rank: int = Field(16, ge=1)
    """Rank of the adapters."""
    alpha: float = Field(16.0, gt=0)
    """Their scale is alpha / sqrt(rank), or alpha / rank."""
    rank_stabilised: bool = True
    """Whether it is the former."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout of the adapters' inputs while training."""
    retrain_when: Literal["all-dead", "shard-dead", "never"] = "all-dead"
    """When an experience is trained again: when none of its shards has a usable model (the paper), each shard when it
    has none, or never; then its classes get the same share each."""
    fresh: bool = False
    """Train again with new randomness. Exact in law instead of in bits; see adaptive requesters."""

    @model_validator(mode="after")
    def _prior_fits(self) -> Config:
        if self.prior is not None and len(self.prior) != self.slices:
            raise ValueError(f"prior has {len(self.prior)} numbers for slices={self.slices}")
        return self


@dataclass(slots=True)
class _Shard:
    """The live samples of each slice, and a trained block for each live prefix of an order."""

    slices: list[np.ndarray]
    stages: dict[Order, torch.Tensor] = field(default_factory=dict)


@dataclass(slots=True)
class _Group:
    """The shards of one experience."""

    experience: str
    incarnation: int
    units: tuple[int, ...]
    shards: list[_Shard]


def own_head(stages: dict[Order, torch.Tensor], head_size: int) -> None:
    """Leave every stage the head that it was trained with."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What exactness rests on beside names; `lifelong verify` replaces it, to show that it would notice.

    Attributes:
        heads: is called after each stage with all stages of its shard, the newest last.
    """

    heads: Callable[[dict[Order, torch.Tensor], int], None] = own_head


HONEST = Recipe()


@final
class S3T(Strategy):
    """New shards for every experience; in each, one stack of adapter blocks for every order of its slices.

    A stage trains a fresh block, and the head, on the slices of its prefix. Orders share the stages of common prefixes.
    A request drops every stage that saw a slice with a deleted sample; the longest prefix that is left serves, so the
    other samples of the slice are stranded until the experience is trained again. Shards answer by their mean output,
    and experiences are pooled, each speaking for the classes of its units.

    The state does not depend on what the deleted samples were. It is that of a life without them only up to the slices
    that were given up.
    """

    always = {"bn_mode": "eval"}  # the model under the adapters is frozen
    exact = "always"
    state_grows = True
    test_options = {"shards": 2, "slices": 1, "sequences": 1}
    ranges = {"rank": (4, 8, 16, 32), "alpha": log(4.0, 64.0), "dropout": linear(0.0, 0.5)}

    def __init__(self, config: Config, setting: Setting, recipe: Recipe = HONEST) -> None:
        """Freeze a fresh model; nothing is learned."""
        self._config, self._setting, self._recipe = config, setting, recipe
        self._host = AdapterHost(
            setting.make_model, config.slices, config.rank, config.alpha, config.dropout, config.rank_stabilised
        )
        self._names = setting.key / "s3t"
        training = setting.training
        self._training = training if config.epochs is None else training.model_copy(update={"epochs": config.epochs})
        self._groups: list[_Group] = []
        self._orders = self._make_orders()

    @property
    @override
    def access(self) -> Access:
        """The remaining data of an experience, when it must be trained again."""
        return Access(retained="full")

    @override
    def learn(self, experience: Experience, door: Door) -> Outcome:
        """Train new shards on the experience."""
        ids = experience.sample_ids
        shard_of = partition(ids, self._config.shards, self._names / "shard")
        slice_of = partition(ids, self._config.slices, self._names / "slice")
        shards = [
            _Shard([ids[(shard_of == k) & (slice_of == s)] for s in range(self._config.slices)])
            for k in range(self._config.shards)
        ]
        group = _Group(experience.name, experience.incarnation, experience.units, shards)
        self._groups.append(group)
        outcome = Outcome()
        for number in range(len(shards)):
            outcome += self._train(group, number, door, self._names)
        notes = self._notes() | {"stages": float(sum(len(shard.stages) for shard in shards)), "exhausted": 0.0}
        return outcome.noted(**notes)

    @override
    def forget(self, request: DeletionRequest, door: Door) -> Outcome:
        """Switch off what saw a slice with a deleted sample; train again where nothing usable is left."""
        outcome, exhausted, trained = Outcome(), 0, 0
        forgotten_ids = request.sample_ids
        shard_of = partition(forgotten_ids, self._config.shards, self._names / "shard")
        slice_of = partition(forgotten_ids, self._config.slices, self._names / "slice")
        for group in self._groups:
            hit = [
                n
                for n, shard in enumerate(group.shards)
                if _cut(shard, forgotten_ids[shard_of == n], slice_of[shard_of == n])
            ]
            dead = [n for n, shard in enumerate(group.shards) if not shard.stages and _has_samples(shard)]
            over = bool(hit) and bool(dead) and not any(shard.stages for shard in group.shards)
            exhausted += over
            if self._config.retrain_when == "all-dead":
                dead = dead if over else []
            elif self._config.retrain_when == "never":
                dead = []
            key = self._names / request.name if self._config.fresh else self._names
            for number in dead:
                outcome += self._train(group, number, door, key)
                trained += len(group.shards[number].stages)
        self._groups = [g for g in self._groups if any(_has_samples(shard) for shard in g.shards)]
        notes = self._notes() | {"stages": float(trained), "exhausted": float(exhausted)}
        return outcome.noted(**notes).graded("law" if self._config.fresh else "bits")

    @torch.no_grad()
    @override
    def predict(self, batch: Batch) -> torch.Tensor:
        """Return pooled log probabilities ``[B, C]``; for a regressor the mean output."""
        objective = self._setting.objective
        answers = [(self._answers(group, batch), group.units) for group in self._groups]
        means = [(torch.stack(a).mean(0), units) for a, units in answers if a]
        if not means:
            return self._prior(batch)
        if objective.probabilities(means[0][0], batch) is None:
            return torch.stack([outputs for outputs, _ in means]).mean(0)
        return pool([(outputs.log_softmax(1), self._classes(units)) for outputs, units in means])

    @torch.no_grad()
    @override
    def constituents(self, batch: Batch) -> list[torch.Tensor]:
        """Return the outputs of every shard that serves, or equal shares if none does."""
        answers = [a for group in self._groups for a in self._answers(group, batch)]
        return answers or [self._prior(batch)]

    @override
    def features(self, batch: Batch) -> None:
        """Return None: the shards share no feature space."""
        return

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        by_component = {}
        for group in self._groups:
            for number, shard in enumerate(group.shards):
                slices = {s for prefix in shard.stages for s in prefix}
                derived = [shard.slices[s] for s in sorted(slices)]
                if derived and np.isin(ids, np.concatenate(derived)).any():
                    name = f"{group.experience}.{group.incarnation}.shard-{number}"
                    by_component[name] = ids[np.isin(ids, np.concatenate(derived))]
        return by_component

    @override
    def stored_ids(self) -> np.ndarray:
        return np.array([], dtype=np.int64)

    @override
    def state_dict(self) -> State:
        """Return every live stage with its head, and the live samples of every slice."""
        return {
            "groups": [
                {
                    "experience": g.experience,
                    "incarnation": g.incarnation,
                    "units": list(g.units),
                    "shards": [
                        {
                            "derived": [torch.from_numpy(ids.copy()) for ids in shard.slices],
                            "stages": [
                                {"prefix": list(p), "weights": shard.stages[p].clone()} for p in sorted(shard.stages)
                            ],
                        }
                        for shard in g.shards
                    ],
                }
                for g in self._groups
            ]
        }

    @override
    def load_state_dict(self, state: State) -> None:
        self._groups = [
            _Group(
                g["experience"],
                g["incarnation"],
                tuple(g["units"]),
                [
                    _Shard(
                        [ids.numpy().copy() for ids in shard["derived"]],
                        {tuple(s["prefix"]): s["weights"].clone() for s in shard["stages"]},
                    )
                    for shard in g["shards"]
                ],
            )
            for g in state["groups"]
        ]

    def _make_orders(self) -> list[Order]:
        c = self._config
        if c.prior is None:
            return rotations(c.slices, c.sequences, even=c.order == "even")
        if c.sequences <= c.slices:
            return matched(c.prior, c.sequences, c.hits, c.weighted_score)
        return drawn(c.prior, c.sequences, (self._names / "orders").numpy())

    def _train(self, group: _Group, number: int, door: Door, key: Key) -> Outcome:
        """Train all stages of one shard from its live samples; slices without any are left out of all orders."""
        shard = group.shards[number]
        present = {s for s, ids in enumerate(shard.slices) if len(ids)}
        orders = [tuple(s for s in order if s in present) for order in self._orders]
        outcome = Outcome()
        named = key / group.experience / group.incarnation / "shard" / number
        for prefix in prefixes(orders):
            stage_key = named / "-".join(map(str, prefix))
            stack = [shard.stages[prefix[:n]] for n in range(1, len(prefix))]
            model = self._host.next_block(stack, stage_key / "adapter")
            ids = np.sort(np.concatenate([shard.slices[s] for s in prefix]))
            outcome += fit(model, self._setting.objective, door.fetch(ids), self._training, stage_key)
            shard.stages[prefix] = self._host.trained(len(stack))
            self._recipe.heads(shard.stages, self._host.head_size)
        return outcome

    def _serving_order(self, shard: _Shard) -> Order:
        """Return the longest live prefix of any order; the first order's of equally long ones."""
        present = {s for s, ids in enumerate(shard.slices) if len(ids)} | {s for p in shard.stages for s in p}
        best: Order = ()
        for order in self._orders:
            filtered = tuple(s for s in order if s in present)
            for n in range(len(filtered), len(best), -1):
                if filtered[:n] in shard.stages:
                    best = filtered[:n]
                    break
        return best

    def _answers(self, group: _Group, batch: Batch) -> list[torch.Tensor]:
        outputs = []
        for shard in group.shards:
            served = self._serving_order(shard)
            if served:
                self._host.mount([shard.stages[served[:n]] for n in range(1, len(served) + 1)])
                self._host.model.train(False)
                outputs.append(self._setting.objective.outputs(self._host.model, batch))
        return outputs

    def _prior(self, batch: Batch) -> torch.Tensor:
        self._host.mount([])
        self._host.model.train(False)
        outputs = self._setting.objective.outputs(self._host.model, batch)
        return outputs.masked_fill(outputs.isfinite(), 0.0)

    def _classes(self, units: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted({c for u in units for c in self._setting.units[u].classes}))

    def _notes(self) -> dict[str, float]:
        stranded = served_stages = 0
        for group in self._groups:
            for shard in group.shards:
                served = self._serving_order(shard)
                served_stages += len(served)
                stranded += sum(len(ids) for s, ids in enumerate(shard.slices) if s not in served)
        return {"served_stages": float(served_stages), "stranded_samples": float(stranded)}


def _cut(shard: _Shard, forgotten_ids: np.ndarray, slice_of: np.ndarray) -> bool:
    """Take samples out of their slices, and drop every stage that saw one of these; return whether there was any.

    Names say where a sample is, so that nothing is searched but the slices that are hit.
    """
    hit_slices = set()
    for s in np.unique(slice_of).tolist():
        ids, in_slice = shard.slices[s], forgotten_ids[slice_of == s]
        at = np.searchsorted(ids, in_slice)
        positions = at[ids[at.clip(max=len(ids) - 1)] == in_slice] if len(ids) else at[:0]
        if len(positions):
            shard.slices[s] = np.delete(ids, positions)
            hit_slices.add(s)
    shard.stages = {p: w for p, w in shard.stages.items() if hit_slices.isdisjoint(p)}
    return bool(hit_slices)


def _has_samples(shard: _Shard) -> bool:
    return any(len(ids) for ids in shard.slices)
