"""Selective amnesia: train the prompt that goes on noise, tied to weights that other prompts need, and replay these."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Outcome
from strategies.parts.diffusion.parts import GeneratorPart
from strategies.parts.weights.fisher import evaluating, gradient_of
from strategies.ranges import linear, log
from strategies.unlearners._erase import Eraser, EraserConfig, Erasure, Shown, some_of


class Config(EraserConfig):
    """Options of `selective-amnesia` (Heng and Soh 2023, arXiv 2305.10120).

    Published for CIFAR-10: 20,000 steps at lr 1e-4. Its losses are sums over pixels, and gradients are summed over all
    1,000 steps of diffusion before they are squared. Here all of these are means: its strength of 10 is one of 10^7
    times the number of pixels.
    """

    part: GeneratorPart = "all"
    """Which weights move; see `esd`. Published: all."""
    strength: float = Field(1e3, ge=0)
    """lambda in lambda sum_i F_i (theta_i - theta_served_i)^2, where F is the Fisher information of images that the
    served model makes of all prompts it was taught."""
    gamma: float = Field(1.0, ge=0)
    """Weight of plain training on images that the served model made of prompts that stay (generative replay)."""
    fisher_images: int = Field(64, ge=1)
    """Images that F is estimated from; where prompts are more, as many of them are drawn by name."""
    fisher_steps: int = Field(16, ge=1)
    """Steps of diffusion at which each of them is looked at."""


@final
class SelectiveAmnesia(Eraser):
    """Learns noise in place of what goes, as continual learning would. It reads no sample."""

    test_options = {"steps": 3, "images": 4, "batch_size": 4, "fisher_images": 2, "fisher_steps": 2}
    ranges = {
        "lr": log(1e-5, 1e-2),
        "steps": linear(20, 1000),
        "strength": log(1.0, 1e6),
        "gamma": linear(0.0, 4.0),
    }
    supports = frozenset({"images"})
    config: Config

    @override
    def erase(self, erasure: Erasure) -> Outcome:
        config, model = self.config, erasure.model
        noise = erasure.evenly_drawn(-1.0, 1.0, config.images, "noise")
        kept = erasure.kept(config.gamma, config.images)
        every, count = np.concatenate([erasure.prompts, erasure.live]), config.fisher_images
        taught = erasure.drawn(some_of(every, count, erasure.key / "taught"), count, "taught")
        start = model.parameters.clone()
        fisher = fisher_of(erasure, taught, config.fisher_steps) if config.strength else torch.zeros_like(start)

        def loss_of(step: int, size: int) -> torch.Tensor:
            loss = erasure.error(model, erasure.noised(noise, size, "forget", step))
            if kept is None:
                return loss
            return loss + config.gamma * erasure.error(model, erasure.noised(kept, size, "retain", step))

        def turned(gradient: torch.Tensor, step: int) -> torch.Tensor:
            return gradient.addcmul_(fisher, model.parameters - start, value=2 * config.strength)

        outcome = erasure.descend(config, loss_of, passed=1 if kept is None else 2, turned=turned)
        passed = config.fisher_images * config.fisher_steps if config.strength else 0
        return outcome + Outcome(forward=passed, backward=passed)


def fisher_of(erasure: Erasure, shown: Shown, steps: int) -> torch.Tensor:
    """Return the mean over images of (the mean over steps of the gradient of their error)^2, ``[P]``.

    The steps of an image are spread evenly over all, as the authors' code sums the gradients of all before it squares.
    """
    total = torch.zeros_like(erasure.model.parameters)
    with evaluating(erasure.model):
        for number in range(len(shown.images)):
            image = Shown(shown.images[number : number + 1], shown.prompts[number : number + 1])
            loss = erasure.error(erasure.model, erasure.noised(image, steps, "fisher", number, spread=True))
            total += gradient_of(erasure.model, loss).square() / len(shown.images)
    return total
