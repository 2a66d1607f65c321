"""AdvUnlearn: erase a prompt from the text encoder under the worst words that could be put before it."""

from __future__ import annotations

from typing import Literal, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Outcome
from strategies.parts.diffusion.parts import GeneratorPart
from strategies.parts.diffusion.prompts import NOTHING
from strategies.parts.diffusion.words import vocabulary
from strategies.parts.training.optimizers import OptimizerConfig, make_optimizer
from strategies.parts.weights.fisher import evaluating
from strategies.ranges import linear, log
from strategies.unlearners._erase import Eraser, EraserConfig, Erasure, Noised, esd_target


class Config(EraserConfig):
    """Options of `adv-unlearn` (Zhang et al. 2024, arXiv 2405.15234).

    Published for Stable Diffusion: 1,000 steps at lr 1e-5, of which 200 without an attack; attacks of 30 steps of 1e-3
    from random words, of any length; `gamma: 0.3` on 5 prompts for objects. Their gradients are never set to zero, so
    that a step of an attack follows the sum of all before it; here each follows its own.
    """

    part: GeneratorPart = "text-layers"
    """Which weights move; see `esd`. Published: the text encoder without its embeddings."""
    eta: float = 1.0
    """How far beyond the answer to the empty prompt; see `esd`."""
    gamma: float = Field(1.0, ge=0)
    """Weight of (f(prompt) - f_served(prompt))^2 on as many images of prompts that stay."""
    words: int = Field(1, ge=1, le=8)
    """How many words an attack puts before the prompt."""
    radius: float | None = Field(1.0, ge=0)
    """Largest length of such a word, over the mean length of the vocabulary's; null sets no limit, as published. 0 is
    no attack."""
    warm_up: int = Field(30, ge=0)
    """Steps without an attack, before all others."""
    attack_steps: int = Field(10, ge=0)
    """Steps of an attack (Adam), in each step of the model."""
    attack_lr: float = Field(0.05, gt=0)
    """Learning rate of an attack. For embeddings of length 5; published for CLIP: 1e-3."""
    start: Literal["latest", "random"] = "latest"
    """Where an attack begins: at the words that the one before it found, or at drawn ones."""


@final
class AdvUnlearn(Eraser):
    """Needs neither the forget set nor retained data. What attacks find is dropped when the request is served."""

    test_options = {"steps": 3, "images": 4, "batch_size": 4, "warm_up": 1, "attack_steps": 2}
    ranges = {
        "lr": log(1e-5, 1e-2),
        "steps": linear(20, 500),
        "gamma": linear(0.0, 4.0),
        "radius": linear(0.0, 3.0),
        "attack_steps": linear(1, 30),
    }
    supports = frozenset({"images"})
    config: Config

    @override
    def erase(self, erasure: Erasure) -> Outcome:
        config, model, teacher = self.config, erasure.model, erasure.teacher
        shown = erasure.drawn(erasure.prompts, config.images, "erased")
        kept = erasure.kept(config.gamma, config.images)
        attack = Attack(erasure, config)
        attacks = range(config.warm_up, config.steps) if config.radius != 0 else range(0)

        def loss_of(step: int, size: int) -> torch.Tensor:
            asked = erasure.noised(shown, size, "forget", step)
            prompted = erasure.answers(teacher, asked)
            free = erasure.answers(teacher, asked, torch.full_like(asked.prompts, NOTHING))
            target = esd_target(prompted, free, config.eta)
            if step in attacks:
                attack.find(asked, prompted, step)
                said = attack.said(asked)
            else:
                said = erasure.says(model, asked)
            loss = (said - target).square().mean()
            if kept is None:
                return loss
            return loss + config.gamma * erasure.drift(erasure.noised(kept, size, "retain", step))

        outcome = erasure.descend(config, loss_of, passed=1 if kept is None else 2, moving=[attack.found])
        passed = len(attacks) * config.attack_steps * config.batch_size
        return outcome + Outcome(forward=passed, backward=passed)


@final
class Attack:
    """Words that bring back what is erased, found by gradients.

    Attributes:
        found: float ``[k, size]``, the latest ones.
    """

    def __init__(self, erasure: Erasure, config: Config) -> None:
        """Begin at drawn words."""
        self._erasure, self._config = erasure, config
        words = vocabulary(erasure.model.network)
        self._length = float(words.norm(dim=1).mean())
        self._size, self._device = words.shape[1], words.device
        self.found = self._drawn(-1)

    def find(self, asked: Noised, shown: torch.Tensor, step: int) -> None:
        """Take steps towards words before which the model answers ``[B, P]`` what the served one answered without.

        The model stands still, in evaluation mode.
        """
        config, erasure = self._config, self._erasure
        if config.start == "random":
            self.found.copy_(self._drawn(step))
        optimizer = make_optimizer(OptimizerConfig(optimizer="adam", lr=config.attack_lr), self.found.view(-1))
        with evaluating(erasure.model):
            for _ in range(config.attack_steps):
                words = self.found.clone().requires_grad_()
                loss = (erasure.says_after(erasure.model, asked, words) - shown).square().mean()
                (gradient,) = torch.autograd.grad(loss, words)
                optimizer.step(self.found.view(-1), gradient.reshape(-1))
                self._hold()

    def said(self, asked: Noised) -> torch.Tensor:
        """Return what the model answers after the words that were found, ``[B, P]``, with a gradient."""
        return self._erasure.says_after(self._erasure.model, asked, self.found)

    def _drawn(self, step: int) -> torch.Tensor:
        count = self._config.words
        drawn = (self._erasure.key / "words" / step).normals(np.arange(count), self._size)
        words = torch.from_numpy(drawn).float().to(self._device)
        words = words / words.norm(dim=1, keepdim=True) * self._length
        return words if self._config.radius is None else words * min(self._config.radius, 1.0)

    def _hold(self) -> None:
        """Shorten words that are too long."""
        if self._config.radius is not None:
            limit = self._config.radius * self._length
            self.found.mul_((limit / self.found.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1.0))
