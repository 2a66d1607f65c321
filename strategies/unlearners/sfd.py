"""SFD: distil the model into a generator that draws, for what goes, what the model would call an anchor."""

from __future__ import annotations

from typing import Literal, Self, final

import numpy as np
import torch
from pydantic import Field, model_validator
from typing_extensions import override

from strategies.base import Outcome
from strategies.parts.diffusion.parts import GeneratorPart, part_mask
from strategies.parts.diffusion.prompts import NOTHING
from strategies.parts.diffusion.schedules import STEPS
from strategies.parts.model import FlatModel
from strategies.parts.teachers.teacher import frozen_copy
from strategies.parts.training.optimizers import Beta, make_optimizer
from strategies.parts.weights.fisher import evaluating
from strategies.ranges import linear, log
from strategies.unlearners._anchors import anchor_of
from strategies.unlearners._erase import Eraser, EraserConfig, Erasure, Noised


class Config(EraserConfig):
    """Options of `sfd` (score forgetting distillation; Chen et al. 2025, arXiv 2409.11219).

    Published for CIFAR-10: 50,000 steps of 128 at lr 1e-5, `forget: 0.01`; for Stable Diffusion lr 1e-6 (score 3e-6),
    `alpha: 1`, `forget: 1`, from a generator that is distilled already. The authors serve the generator, which draws in
    one step and cannot learn what comes later. Here the score network that was trained on what it draws is served
    instead: the same images, in a model that is sampled and trained as all others are.
    """

    part: GeneratorPart = "all"
    """Which weights move; see `esd`. Published: all."""
    steps: int = Field(300, ge=1)
    """Steps of each network."""
    batch_size: int = Field(64, ge=1)
    """Images per step."""
    lr: float = Field(3e-5, gt=0)
    """Learning rate of the generator."""
    betas: tuple[Beta, Beta] = (0.0, 0.999)
    """Decay rates of `adam`'s moments, of both networks."""
    score_lr: float = Field(1e-3, gt=0)
    """Learning rate of the score network."""
    alpha: float = Field(1.2, ge=0)
    """How much of the difference of the scores is taken out of the distance to the image, in the loss of the generator
    (score identity distillation, arXiv 2404.04057)."""
    forget: float = Field(1.0, ge=0)
    """Weight of prompts that go, in the losses of both networks."""
    warm_up: int = Field(50, ge=0)
    """Steps in which the generator is distilled without forgetting, before all others."""
    target: Literal["nearest", "random"] = "random"
    """What the model should call images for prompts that go: random, another prompt that stays for each image; or the
    one whose answers differ least. The authors fix one class, or draw."""
    sigma: float = Field(2.5, gt=0)
    """Noise over signal from which the generator draws."""
    sigmas: tuple[float, float] = (0.13, 13.0)
    """Least and most noise over signal where scores are compared. Published: steps 38 to 712 of a linear schedule."""

    @model_validator(mode="after")
    def _trains_several(self) -> Self:
        if self.protect != "none" or self.l1_sp or self.l2_sp or self.selected < 1:
            raise ValueError("protect, l1_sp, l2_sp and selected hold one network, and sfd trains two; leave them out")
        if not 0 < self.sigmas[0] < self.sigmas[1]:
            raise ValueError(f"sigmas: {self.sigmas[0]:g} must be above 0 and below {self.sigmas[1]:g}")
        return self


def distillation_loss(real: torch.Tensor, fake: torch.Tensor, drawn: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return mean <p - s, (p - x) - alpha (p - s)> / omega; omega is the mean |p - x| of an image, without gradient.

    Args:
        real, fake: p and s ``[B, P]``: images that the model and the score network make of noised ones.
        drawn: x ``[B, P]``, what the generator drew.
        alpha: see `Config`.
    """
    weight = (real - drawn).detach().abs().mean(1, keepdim=True).clamp(min=1e-6)
    gap = real - fake
    return (gap * ((real - drawn) - alpha * gap) / weight).mean()


@final
class SFD(Eraser):
    """Trains a generator and the score of what it draws in turn, under the frozen model. It reads no sample."""

    test_options = {"steps": 3, "images": 4, "batch_size": 4, "warm_up": 1}
    ranges = {
        "lr": log(1e-6, 1e-2),
        "score_lr": log(1e-6, 1e-2),
        "steps": linear(100, 2000),
        "alpha": linear(0.5, 1.5),
        "forget": log(0.01, 1.0),
    }
    inert = {
        "images": "the generator draws anew in every step",
        **dict.fromkeys(("protect", "l1_sp", "l2_sp", "selected"), "refused: they hold one network, and it trains two"),
    }
    supports = frozenset({"images"})
    config: Config

    @property
    @override
    def needs_retained(self) -> bool:
        return True

    @override
    def erase(self, erasure: Erasure) -> Outcome:
        config, model = self.config, erasure.model
        erasure.teacher.network.requires_grad_(False)
        score = frozen_copy(self.setting, model)
        distillation = Distillation(erasure, score, config)
        mask = part_mask(model, config.part)
        learning = make_optimizer(config.model_copy(update={"lr": config.score_lr}), score.parameters)

        def loss_of(step: int, size: int) -> torch.Tensor:
            with score.moving_only(mask):
                score.gradient.zero_()
                distillation.score_loss(step, size).backward()  # type: ignore[no-untyped-call]
                learning.step(score.parameters, score.gradient)
                score.hold()
            return distillation.generator_loss(step, size)

        outcome = erasure.descend(config, loss_of, passed=2, moving=[score, learning])
        model.take_over(score)
        passed = 2 * outcome.steps * config.batch_size
        return outcome + Outcome(forward=2 * passed, backward=passed)


@final
class Distillation:
    """The two losses, each with its own draws in every step."""

    def __init__(self, erasure: Erasure, score: FlatModel, config: Config) -> None:
        """Compare the scores of the teacher and of `score`."""
        self._erasure, self._score, self._config = erasure, score, config
        noise_over_signal = ((1 - erasure.objective.shares) / erasure.objective.shares).sqrt().numpy()
        self._start, self._low, self._high = (
            int(np.searchsorted(noise_over_signal, sigma).clip(0, STEPS - 1))
            for sigma in (config.sigma, *config.sigmas)
        )
        self._nearest = None
        if config.target == "nearest":
            self._nearest = np.stack([anchor_of(erasure, "nearest", p, n) for n, p in enumerate(erasure.prompts)])

    def score_loss(self, step: int, size: int) -> torch.Tensor:
        """Return the error of the score network on what the generator draws; some of it is without its prompt."""
        erasure, config = self._erasure, self._config
        total = torch.zeros(())
        for name, weight in (("live", 1.0), ("gone", config.forget)):
            prompts, _ = self._prompts(name, "score", step, size)
            with torch.no_grad(), evaluating(erasure.model):
                drawn = self._generated(prompts, f"score-{name}", step)
            told = (erasure.key / "told" / name / step).uniform(np.arange(size)) >= erasure.objective.config.drop
            shown = np.where(told[:, None], prompts, NOTHING)
            total = total + weight * erasure.error(self._score, self._noised(drawn, shown, f"score-{name}", step))
        return total

    def generator_loss(self, step: int, size: int) -> torch.Tensor:
        """Return L(c_r, c_r) + forget L(c_a, c_f)."""
        config = self._config
        total = torch.zeros(())
        for name, weight in (("live", 1.0), ("gone", config.forget if step >= config.warm_up else 0.0)):
            if weight:
                prompts, called = self._prompts(name, "generator", step, size)
                drawn = self._generated(prompts, f"generator-{name}", step)
                noised = self._noised(drawn, prompts, f"generator-{name}", step)
                real = self._image(self._erasure.teacher, noised, called)
                fake = self._image(self._score, noised, prompts)
                total = total + weight * distillation_loss(real, fake, drawn, config.alpha)
        return total

    def _prompts(self, name: str, what: str, step: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Return what is asked for and what the model should call it, ``[B, 2]`` each."""
        erasure, key = self._erasure, self._erasure.key / what / name / step
        others = erasure.live[(key / "others").below(np.arange(size), len(erasure.live))]
        if name == "live":
            return others, others
        rows = (key / "rows").below(np.arange(size), len(erasure.prompts))
        return erasure.prompts[rows], others if self._nearest is None else self._nearest[rows]

    def _generated(self, prompts: np.ndarray, name: str, step: int) -> torch.Tensor:
        """Return what the generator draws in one step, ``[B, P]``."""
        erasure = self._erasure
        noise = (erasure.key / "z" / name / step).normals(np.arange(len(prompts)), erasure.objective.num_outputs)
        time = torch.full((len(prompts),), self._start, device=erasure.model.parameters.device)
        blank = torch.from_numpy(noise).to(erasure.model.parameters)
        noisy = erasure.objective.schedule.noised(torch.zeros_like(blank), blank, time)
        return self._image(erasure.model, Noised(noisy, time, erasure.tensor(prompts), blank, noisy), prompts)

    def _noised(self, drawn: torch.Tensor, prompts: np.ndarray, name: str, step: int) -> Noised:
        key, places, erasure = self._erasure.key / "noise" / name / step, np.arange(len(drawn)), self._erasure
        shares = (key / "time").uniform(places)
        time = erasure.tensor((self._low + (self._high - self._low) * shares).astype(np.int64))
        noise = torch.from_numpy(key.normals(places, drawn.shape[1])).to(drawn)
        noisy = erasure.objective.schedule.noised(drawn, noise, time)
        return Noised(noisy, time, erasure.tensor(prompts), noise, drawn)

    def _image(self, model: FlatModel, noised: Noised, prompts: np.ndarray) -> torch.Tensor:
        erasure = self._erasure
        return erasure.image(erasure.says(model, noised, erasure.tensor(prompts)), noised)
