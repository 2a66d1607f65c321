"""Concept ablation: teach an image generator to answer the prompt that goes as it answers an anchor that stays."""

from __future__ import annotations

from typing import Literal, final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Outcome
from strategies.parts.diffusion.parts import GeneratorPart
from strategies.ranges import linear, log
from strategies.unlearners._anchors import Anchored, AnchoredConfig
from strategies.unlearners._erase import Erasure


class Config(AnchoredConfig):
    """Options of `concept-ablation` (Kumari et al. 2023, arXiv 2303.13516).

    Published for Stable Diffusion: 100 steps of 8 images, AdamW at 1.6e-5 with weight decay 0.01, `target: current`,
    1,000 anchor images from 200 prompts that were written by a chat model. Here prompts are templates.
    """

    part: GeneratorPart = "key-value"
    """Which weights move; see `esd`. Published: keys and values of cross-attention."""
    target: Literal["current", "frozen"] = "current"
    """Whose answer to the anchor is the target: that of the model as it is in each step, without gradient, which drifts
    (the authors' code); or that of the served model."""
    variant: Literal["model", "noise"] = "model"
    """model: the target is an answer. noise: plain training on images of the anchor under the prompt that goes."""
    prior: float = Field(0.0, ge=0)
    """Weight of plain training on images of the anchor under its own prompt; the authors set 1 where anchor and target
    share words."""


@final
class ConceptAblation(Anchored):
    """Redirects prompts to anchors. A request must leave something to draw in place of what goes."""

    test_options = {"steps": 3, "images": 4, "batch_size": 4}
    ranges = {"lr": log(1e-5, 1e-2), "steps": linear(20, 500), "prior": linear(0.0, 4.0)}
    supports = frozenset({"images"})
    config: Config

    @override
    def erase(self, erasure: Erasure) -> Outcome:
        config, model = self.config, erasure.model
        teacher = model if config.target == "current" else erasure.teacher
        erased, anchors = self.led(erasure)
        renamed, shown = self.shown(erasure, erased, anchors)

        def loss_of(step: int, size: int) -> torch.Tensor:
            asked, own = (erasure.noised(s, size, "forget", step) for s in (renamed, shown))
            aim = erasure.truth(own) if config.variant == "noise" else erasure.answers(teacher, own)
            loss = (erasure.says(model, asked) - aim).square().mean()
            if config.prior:
                loss = loss + config.prior * erasure.error(model, own)
            return loss

        outcome = erasure.descend(config, loss_of, passed=2 if config.prior else 1)
        return outcome.noted(remapped=float(len(erased) - len(erasure.prompts)))
