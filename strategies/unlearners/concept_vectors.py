"""Concept vectors: find the value vectors that speak of what is to go, and unlearn in them alone, or ablate them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, Setting
from strategies.objectives._text import TextObjective
from strategies.parts.model import FlatModel
from strategies.parts.text.concepts import concept_tokens
from strategies.parts.weights.blocks import blocks_of
from strategies.parts.weights.feed_forward import projected, top_tokens, value_places
from strategies.ranges import linear, log
from strategies.unlearners._following import Following
from streams.config import Config as BaseConfig
from streams.config import Named, NameOrOptions
from streams.data import Batch, Data
from streams.errors import ConfigError
from streams.events import DeletionRequest
from streams.randomness import Key

_METHOD = "unlearner: 'concept-vectors'"


class Config(BaseConfig):
    """Options of `concept-vectors` (Hong et al. 2024, arXiv 2406.11614)."""

    vectors: int = Field(4, ge=1)
    """Value vectors of a request."""
    words: tuple[str, ...] | None = None
    """What the request is about. null takes the terms that the source knows and its samples mention, or, where it knows
    none, all their answers."""
    share: float = Field(0.02, gt=0, le=1)
    """Share of the vocabulary that counts as what a vector speaks of (published: 200 tokens of 32,000)."""
    candidates: int = Field(16, ge=1)
    """Vectors that speak of it most, among which are chosen those whose noise hurts the forget set more than retained
    data; `vectors` if that is more. With `validated: false` nothing is tried, and no retained data read."""
    validated: bool = True
    """Whether candidates are tried."""
    edit: Literal["noise", "zero", "mean"] = "noise"
    """What is done to the vectors first. noise: Needle's. zero: ablation. mean: each becomes the mean of its block."""
    noise: float = Field(0.5, ge=0)
    """Standard deviation of the noise, in root mean squares of a vector (published: 0.1, of 7 billion weights)."""
    method: NameOrOptions = Named(name="graddiff", retain="none", lr=0.1, epochs=1)  # type: ignore[call-arg]
    """The unlearner that then trains these vectors and nothing else; none for an ablation without training."""


def speaking(logits: torch.Tensor, concept: torch.Tensor, share: float) -> torch.Tensor:
    """Return how much each vector speaks of a concept, ``[n]``: how many of its top tokens belong to it.

    Equal numbers are told apart by the mean logit of the concept's tokens, in spreads of the vector's logits, squeezed
    between 0 and 1.

    Args:
        logits: what the vectors say, ``[n, V]``.
        concept: which tokens belong to it, bool ``[V]``.
        share: of the vocabulary that counts.
    """
    hits = concept[top_tokens(logits, share)].float().sum(1)
    spread = logits.std(1).clamp(min=1e-12)
    return hits + torch.sigmoid((logits[:, concept].mean(1) - logits.mean(1)) / spread)


@final
class ConceptVectors(Following):
    """Needle, and ablation. Every other weight stays to the bit."""

    test_options = {"vectors": 2, "candidates": 3}
    config: Config
    supports = frozenset({"tokens"})
    ranges = {"vectors": linear(1, 32), "noise": log(0.05, 2.0)}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Build the method.

        Raises:
            ConfigError: it is unknown, this one again, or builds the model anew; or the model has no value vectors that
                can be changed.
        """
        if config.method.name == "concept-vectors":
            raise ConfigError("concept-vectors.method: it cannot follow itself; choose graddiff, npo, or none.")
        super().__init__(config, setting, config.method, "concept-vectors.method")
        self.needs_given_weights("concept-vectors.method")
        self._text = TextObjective.of(setting.objective).needed_text(_METHOD)
        outline = setting.outline()
        for block in range(len(blocks_of(outline))):
            value_places(outline, block, _METHOD)

    @property
    @override
    def access(self) -> Access:
        return self.method.access | Access(forget_set=True, retained="full" if self.config.validated else 0)

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        """Locate, edit, then run the method on what was located."""
        config, model, key = self.config, learner.model, self.setting.key / "concept-vectors" / request.name
        forget_set = door.forget_set()
        retained = door.retained() if config.validated else None
        places = [value_places(model, block, _METHOD) for block in range(len(blocks_of(model)))]
        count = self.setting.objective.num_outputs
        concept = concept_tokens(self._text, forget_set.all().x, config.words, count).to(model.parameters.device)
        located = self._located(model, places, concept)
        effect, cost = float("nan"), Outcome()
        if retained is not None and len(retained):
            located, effect, cost = self._caused(model, places, located, forget_set, retained, key)
        chosen = located[: config.vectors]
        mask = torch.zeros_like(model.parameters, dtype=torch.bool)
        edited = [self._edited(model, places[b], n, key / "noise" / b / n) for b, n in chosen]  # before any is changed
        for (block, neuron), vector in zip(chosen, edited, strict=True):
            where = places[block][neuron].to(mask.device)
            mask[where] = True
            model.parameters[where] = vector
        with model.moving_only(mask):
            outcome = self.method.forget(request, learner, door)
            model.hold()  # methods that do not train, such as dampening
        notes = {"vectors_changed": float(len(chosen))}
        return (outcome + cost).noted(**notes, **({} if math.isnan(effect) else {"vector_effect": effect}))

    def _located(self, model: FlatModel, places: list[torch.Tensor], concept: torch.Tensor) -> list[tuple[int, int]]:
        """Return block and number of the candidates, those that speak of the concept most first."""
        scores = []
        for of_block in places:
            vectors = model.parameters[of_block.to(model.parameters.device)]
            parts = [speaking(projected(model, v), concept, self.config.share) for v in vectors.split(256)]
            scores.append(torch.cat(parts))
        sizes = [len(s) for s in scores]
        count = min(max(self.config.candidates, self.config.vectors), sum(sizes))
        best = torch.cat(scores).topk(count).indices.tolist()
        return [_split(number, sizes) for number in best]

    @torch.no_grad()
    def _caused(
        self,
        model: FlatModel,
        places: list[torch.Tensor],
        candidates: list[tuple[int, int]],
        forget_set: Data,
        retained: Data,
        key: Key,
    ) -> tuple[list[tuple[int, int]], float, Outcome]:
        """Return the candidates by what their noise does, its mean over those that are chosen, and what that cost.

        What it does is how much it raises the mean loss of the forget set, minus that of as much retained data.
        """
        order = np.sort((key / "retained").order(retained.ids)[: len(forget_set)])
        sides = [self.setting.objective.batches(d, 64) for d in (forget_set, retained.part(order))]
        model.train(False)
        before, effects = self._losses(model, sides), []
        for block, neuron in candidates:
            where = places[block][neuron].to(model.parameters.device)
            value = model.parameters[where].clone()
            model.parameters[where] = self._noisy(value, key / "noise" / block / neuron)
            after = self._losses(model, sides)
            model.parameters[where] = value
            effects.append((after[0] - before[0]) - (after[1] - before[1]))
        ranked = sorted(range(len(candidates)), key=lambda i: -effects[i])
        chosen = ranked[: self.config.vectors]
        passed = (1 + len(candidates)) * (len(forget_set) + len(order))
        mean = sum(effects[i] for i in chosen) / len(chosen)
        return [candidates[i] for i in ranked], mean, Outcome(forward=passed)

    def _losses(self, model: FlatModel, sides: Sequence[Sequence[Batch]]) -> list[float]:
        objective = self.setting.objective
        losses = [torch.cat([objective.losses(objective.outputs(model, b), b) for b in side]) for side in sides]
        return [float(values.mean()) for values in losses]

    def _edited(self, model: FlatModel, places: torch.Tensor, neuron: int, key: Key) -> torch.Tensor:
        """Return what a vector becomes before it is trained, ``[width]``."""
        values = model.parameters[places.to(model.parameters.device)]
        if self.config.edit == "zero":
            return torch.zeros_like(values[neuron])
        return values.mean(0) if self.config.edit == "mean" else self._noisy(values[neuron], key)

    def _noisy(self, value: torch.Tensor, key: Key) -> torch.Tensor:
        drawn = torch.randn(value.shape, generator=key.torch()).to(value)
        return value + self.config.noise * value.square().mean().sqrt() * drawn


def _split(number: int, sizes: list[int]) -> tuple[int, int]:
    """Return block and place in it of a number among all blocks' vectors.

    >>> _split(5, [3, 4])
    (1, 2)
    """
    for block, size in enumerate(sizes):
        if number < size:
            return block, number
        number -= size
    raise ValueError(f"{number} is beyond the last vector")
