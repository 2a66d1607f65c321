"""What attacks on image generators share: prompts that a request took, images of them, and whether one comes back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from lifelong.audits._base import Audit, Context, Values
from lifelong.audits._judges import judges_of
from lifelong.audits._prompts import Asked, some
from lifelong.evaluation.plan import RequestPlan
from strategies.base import Strategy
from strategies.objectives._base import Objective
from strategies.objectives._denoising import DenoisingObjective
from strategies.parts.diffusion.words import spoken
from strategies.parts.model import FlatModel
from streams.config import Config as BaseConfig
from streams.data import Batch
from streams.randomness import Key
from streams.source import Source


class AttackConfig(BaseConfig):
    """Options of attacks on image generators."""

    per_prompt: int = Field(10, ge=1)
    """Images that are drawn for each prompt, numbers 0, 1 ... of it: the same as audit `images` draws."""
    most_prompts: int = Field(10, ge=1)
    """At most so many prompts of a request are attacked, drawn by name."""
    least_accuracy: float = Field(0.95, ge=0, le=1)
    """A judge that is right about fewer images than that is refused."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """What an attack is to bring back: n images.

    Attributes:
        prompts: int64 ``[n, 2]``, what is asked for.
        axis: what of it must be seen: the object (0), the style (1), or both (2).
        noise: float ``[n, P]`` that the images are made of without an attack.
        clean: float ``[n, P]``, a real image of each prompt, as models denoise it.
        key: names all draws; the same for every model.
    """

    prompts: np.ndarray
    axis: int
    noise: torch.Tensor
    clean: torch.Tensor
    key: Key


class Attack(Audit, ABC):
    """Attacks a copy of the model right after each request, and each reference in the same way.

    It knows weights, and real images of what was deleted. It follows the denoising error, never a judge; judges only
    say whether it succeeded.
    """

    config: Any
    """An `AttackConfig`."""
    needs_images: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]]
    """Names of what `attack` returns."""
    undefined: ClassVar[str | Mapping[str, str]] = "the request deletes images of prompts that stay"

    def __init__(self, name: str, config: AttackConfig, context: Context) -> None:
        """Find the judges.

        Raises:
            ConfigError: one of them is not good enough.
        """
        super().__init__(name, config, context)
        self.objective = DenoisingObjective.of(self.setting.objective)
        self._judges = judges_of(self.objective, self.source, config.least_accuracy, f"evaluation.audits.{name}")
        self._asked = Asked(self.objective.prompts, self.stream)

    @classmethod
    @override
    def check(cls, config: BaseConfig, source: Source, objective: Objective, where: str) -> None:
        assert isinstance(config, AttackConfig)
        judges_of(DenoisingObjective.of(objective), source, config.least_accuracy, where)

    @override
    def of_request(self, strategy: Strategy, event: int, request: RequestPlan) -> Values:
        with torch.inference_mode(False), torch.enable_grad():
            model, target = strategy.network(), self._target(event, request)
            if model is None:
                return {}
            model.train(False)
            values = self.attack(model, target) if len(target.prompts) else {}
        return {name: values.get(name, float("nan")) for name in self.metrics}

    @abstractmethod
    def attack(self, model: FlatModel, target: Target) -> Values:
        """Return what came of it.

        Args:
            model: a copy, in evaluation mode.
            target: of at least one image.
        """

    def draws(self, model: FlatModel, target: Target, noise: torch.Tensor, put: Words | None = None) -> np.ndarray:
        """Return which images, drawn from ``noise [n, P]``, show what was deleted, bool ``[n]``.

        Args:
            model: that draws.
            target: what is asked for.
            noise: where to start.
            put: words in the prompts; without guidance's empty prompt, which keeps its own.
        """
        predict = partial(self.objective.outputs, model) if put is None else partial(self._said, model, put)
        images = self.objective.sample(predict, target.prompts, noise).cpu()
        objects = self._judges.objects.looks(images)[0] == target.prompts[:, 0]
        if target.axis == 0 or self._judges.styles is None:
            return objects
        styles = self._judges.styles.looks(images)[0] == target.prompts[:, 1]
        return styles if target.axis == 1 else objects & styles

    def error(
        self, model: FlatModel, target: Target, noise: torch.Tensor, time: torch.Tensor, put: Words
    ) -> torch.Tensor:
        """Return the mean squared denoising error ``[n]`` of the real images at steps ``[n]``, with words put."""
        schedule = self.objective.schedule
        noisy = schedule.noised(target.clean, noise, time)
        asked = self.objective.asking(noisy, time, torch.from_numpy(target.prompts).to(time.device))
        said = self._spoken(model, put, asked)
        return (said - schedule.target(target.clean, noise, time)).square().mean(1)

    def _said(self, model: FlatModel, put: Words, batch: Batch) -> torch.Tensor:
        """Predict for a sampler: the first rows are asked for with words put, others under the empty prompt."""
        n = len(put.vectors)
        asked = self._spoken(model, put, batch.part(0, n))
        return asked if n == len(batch) else torch.cat([asked, self.objective.outputs(model, batch.part(n))])

    def _spoken(self, model: FlatModel, put: Words, batch: Batch) -> torch.Tensor:
        if put.before:
            prompts = torch.stack([batch.y, batch.extra["style"]], 1)
            words = self.objective.prefixed(self.objective.tokens(prompts), put.vectors.shape[1])
            batch = replace(batch, extra={**batch.extra, "words": words})
        with spoken(model.network, put.vectors, put.place):
            return self.objective.outputs(model, batch)

    def _target(self, event: int, request: RequestPlan) -> Target:
        config, prompts = self.config, self.objective.prompts
        gone, axis = self._asked.gone(request.deletion, event)
        asked = np.repeat(some(prompts, gone, config.most_prompts), config.per_prompt, axis=0)
        numbers = np.tile(np.arange(config.per_prompt), len(asked) // config.per_prompt)
        key = self.setting.key / "attack" / request.name
        ids = request.deletion.sample_ids
        pairs = zip(asked, numbers.tolist(), strict=True)
        chosen = [_one(key, ids[prompts.among(prompts.of_all[ids], q[None])], n) for q, n in pairs]
        clean = self.objective.clean(self.source.inputs(np.array(chosen, dtype=np.int64)))
        device = self.objective.schedule.signal.device
        return Target(asked, axis, self.objective.noise(asked, numbers).to(device), clean.to(device), key)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """Vectors in prompts.

    Attributes:
        vectors: float ``[n, k, size]``.
        place: of the first of them.
        before: whether they are put before the prompt's own words, or in place of some.
    """

    vectors: torch.Tensor
    place: int
    before: bool


def _one(key: Key, ids: np.ndarray, number: int) -> int:
    """Return one of some ids, drawn by name."""
    order = (key / "real").order(ids)
    return int(ids[order[number % len(ids)]])
