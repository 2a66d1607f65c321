"""Few-shot erasing: a few steps of the text encoder away from a few images under the prompts that go."""

from __future__ import annotations

from typing import Literal, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, Setting
from strategies.parts.diffusion.parts import GeneratorPart
from strategies.parts.training.optimizers import Beta
from strategies.ranges import linear, log
from strategies.unlearners._erase import Eraser, EraserConfig, Erasure, Shown
from streams.events import DeletionRequest


class Config(EraserConfig):
    """Options of `few-shot-erasing` (Fuchi and Takagi 2024, arXiv 2405.07288).

    Published for Stable Diffusion: 8 to 10 steps of 2 out of 4 images at lr 1e-5, with 27 templates of prompts. Loss is
    climbed without a bound, so that the number of steps is the strength: on small models eight do hardly anything.
    """

    part: GeneratorPart = "text-mlp"
    """Which weights move; see `esd`. Published: the text encoder's perceptrons and its last self-attention."""
    steps: int = Field(60, ge=1)
    """Steps."""
    batch_size: int = Field(4, ge=1)
    """Images per step."""
    images: int = Field(4, ge=1)
    """How many images of the request are looked at, drawn by name."""
    seen: Literal["images", "noise"] = "images"
    """images: of the request. noise: numbers drawn evenly from 0 to 1 in their place, for who has no image (the
    authors' zero-shot form, in which latents are drawn so); the request's samples are not read then."""
    stop_at: float | None = Field(None, gt=0)
    """End when the loss of a step's images reaches that; null takes all steps."""
    betas: tuple[Beta, Beta] = (0.9, 0.98)
    """Decay rates of `adam`'s moments."""
    eps: float = Field(1e-6, gt=0)
    """Term added to `adam`'s denominator."""
    weight_decay: float = Field(1e-8, ge=0)
    """L2 penalty added to the gradient."""


@final
class FewShotErasing(Eraser):
    """Climbs the denoising loss. It has no anchor and no term for what stays, which every request moves a little."""

    test_options = {"steps": 3, "images": 4, "batch_size": 2}
    ranges = {"lr": log(1e-5, 1e-2), "steps": linear(4, 200)}
    supports = frozenset({"images"})
    config: Config

    def __init__(self, config: Config, setting: Setting) -> None:
        """Serve requests of all kinds: it works on images, and what they show goes with them."""
        super().__init__(config, setting)
        self.scopes = ("sample", "class", "task", "user")

    @property
    @override
    def access(self) -> Access:
        return Access(forget_set=self.config.seen == "images")

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        """Climb on images of the request, or on noise under its prompts."""
        erasure = self.erasure(request, learner, door, self._objective.prompts.of(request.sample_ids))
        if self.config.seen == "noise":
            return self.erase(erasure).graded("none")
        forget_set = door.forget_set()
        rows = (erasure.key / "few").first(forget_set.ids, self.config.images)
        few = forget_set.part(np.sort(rows)).all()
        prompts = self._objective.prompts.of_all[few.ids.cpu().numpy()]
        shown = Shown(self._objective.clean(few.x), erasure.tensor(prompts))
        return self._climb(erasure, shown).graded("none")

    @override
    def erase(self, erasure: Erasure) -> Outcome:
        """Climb on noise."""
        return self._climb(erasure, erasure.evenly_drawn(0.0, 1.0, self.config.images, "seen"))

    def _climb(self, erasure: Erasure, shown: Shown) -> Outcome:
        config = self.config

        def loss_of(step: int, size: int) -> torch.Tensor:
            return -erasure.error(erasure.model, erasure.noised(shown, size, "forget", step))

        limit = config.stop_at
        until = None if limit is None else lambda loss: bool(-loss >= limit)
        return erasure.descend(config, loss_of, until=until)
