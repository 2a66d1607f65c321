"""Concept ablation: teach an image generator to answer the prompt that goes as it answers an anchor that stays."""

from __future__ import annotations

from typing import Literal, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Outcome, Setting
from strategies.parts.diffusion.parts import GeneratorPart
from strategies.parts.diffusion.prompts import NOTHING
from strategies.ranges import linear, log
from strategies.unlearners._erase import Eraser, EraserConfig, Erasure, Noised, Shown
from streams.errors import ConfigError, StreamError, closest

KINDS = ("nearest", "superclass", "random", "empty")
"""Anchors that are no names."""
PROBES = 64
"""Noisy images on which prompts are compared."""


class Config(EraserConfig):
    """Options of `concept-ablation` (Kumari et al. 2023, arXiv 2303.13516).

    Published for Stable Diffusion: 100 steps of 8 images, AdamW at 1.6e-5 with weight decay 0.01, `target: current`,
    1,000 anchor images from 200 prompts that were written by a chat model. Here prompts are templates.
    """

    part: GeneratorPart = "key-value"
    """Which weights move; see `esd`. Published: keys and values of cross-attention."""
    anchor: str = "nearest"
    """What is drawn in place of what goes, among what stays: nearest (whose answers differ least from those to the
    prompt that goes), superclass (the nearest of its superclass, or of all where none of it stays), random, empty (the
    empty prompt), or the name of a class or style."""
    target: Literal["current", "frozen"] = "current"
    """Whose answer to the anchor is the target: that of the model as it is in each step, without gradient, which drifts
    (the authors' code); or that of the served model."""
    variant: Literal["model", "noise"] = "model"
    """model: the target is an answer. noise: plain training on images of the anchor under the prompt that goes."""
    prior: float = Field(0.0, ge=0)
    """Weight of plain training on images of the anchor under its own prompt; the authors set 1 where anchor and target
    share words."""
    remap: bool = True
    """Erase anew what an earlier request erased, where it is drawn like what goes now: its anchor goes, too."""


@final
class ConceptAblation(Eraser):
    """Redirects prompts to anchors. A request must leave something to draw in place of what goes."""

    test_options = {"steps": 3, "images": 4, "batch_size": 4}
    ranges = {"lr": log(1e-5, 1e-2), "steps": linear(20, 500), "prior": linear(0.0, 4.0)}
    supports = frozenset({"images"})
    config: Config

    def __init__(self, config: Config, setting: Setting) -> None:
        """Refuse an anchor that names nothing.

        Raises:
            ConfigError: it does.
        """
        super().__init__(config, setting)
        prompts = self._objective.prompts
        known = (*KINDS, *prompts.classes, *prompts.styles)
        if config.anchor not in known:
            raise ConfigError(
                f"unlearner.anchor: {config.anchor!r} names no class or style of the data, and is none of "
                f"{', '.join(KINDS)}. {closest(config.anchor, known)}"
            )

    @property
    @override
    def needs_retained(self) -> bool:
        return self.config.anchor != "empty"

    @override
    def erase(self, erasure: Erasure) -> Outcome:
        """Serve a request.

        Raises:
            StreamError: the anchor is not live, or nothing is left that could be one.
        """
        config, model = self.config, erasure.model
        teacher = model if config.target == "current" else erasure.teacher
        erased = erasure.prompts
        if config.remap and len(erasure.gone):
            lost = anchored_on(erasure, np.concatenate([erased, erasure.live]), erased)
            erased = np.concatenate([erased, erasure.gone[lost]])
        anchors = np.stack([self._anchor(erasure, prompt, number) for number, prompt in enumerate(erased)])
        shown = erasure.drawn(anchors, config.images, "anchors")
        renamed = Shown(shown.images, erasure.tensor(erased[np.arange(config.images) % len(erased)]))

        def loss_of(step: int, size: int) -> torch.Tensor:
            asked, own = (erasure.noised(s, size, "forget", step) for s in (renamed, shown))
            aim = _truth(erasure, own) if config.variant == "noise" else erasure.answers(teacher, own)
            loss = (erasure.says(model, asked) - aim).square().mean()
            if config.prior:
                loss = loss + config.prior * (erasure.says(model, own) - _truth(erasure, own)).square().mean()
            return loss

        outcome = erasure.descend(config, loss_of, passed=2 if config.prior else 1)
        return outcome.noted(remapped=float(len(erased) - len(erasure.prompts)))

    def _anchor(self, erasure: Erasure, prompt: np.ndarray, number: int) -> np.ndarray:
        """Return what is drawn in place of one prompt: the same but for the object, or the style, that goes."""
        chosen, axis, prompts = self.config.anchor, erasure.axis, erasure.objective.prompts
        if chosen == "empty":
            return np.full(2, NOTHING)
        names = prompts.styles if axis else prompts.classes
        candidates = erasure.live
        alike = candidates[candidates[:, 1 - axis] == prompt[1 - axis]]
        candidates = alike if len(alike) else candidates
        if not len(candidates):
            raise StreamError("nothing is left that could be an anchor; set unlearner.anchor: empty.")
        if chosen in names:
            named = candidates[candidates[:, axis] == names.index(chosen)]
            if not len(named):
                raise StreamError(
                    f"unlearner.anchor: {chosen!r} is not live at that moment (it is deleted, or not learned yet), and "
                    f"what is erased would lead to it. Name one that stays, or choose nearest."
                )
            return named[0]
        if chosen == "random":
            return candidates[(erasure.key / "anchor").order(np.arange(len(candidates)))[number % len(candidates)]]
        if chosen == "superclass" and prompts.groups is not None and not axis:
            same = candidates[prompts.groups[candidates[:, 0]] == prompts.groups[prompt[0]]]
            candidates = same if len(same) else candidates
        return candidates[int(distances(erasure, prompt[None], candidates)[0].argmin())]


def distances(erasure: Erasure, prompts: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the mean absolute difference between the served model's answers to prompts and to others, ``[n, m]``.

    All are asked about the same noisy images, which are made for `prompts`.
    """
    images = erasure.drawn(prompts, PROBES, "probe")
    probe = erasure.noised(images, PROBES, "probe", 0)

    def answers(prompt: np.ndarray) -> torch.Tensor:
        return erasure.answers(erasure.teacher, probe, erasure.tensor(np.tile(prompt, (PROBES, 1))))

    theirs = torch.stack([answers(prompt) for prompt in others])
    rows = [(theirs - answers(prompt)).abs().flatten(1).mean(1) for prompt in prompts]
    return torch.stack(rows).cpu().numpy()


def anchored_on(erasure: Erasure, known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return which of the prompts that are gone are answered like one of `wanted` (the first of `known`), bool."""
    nearest = distances(erasure, erasure.gone, known).argmin(1)
    return nearest < len(wanted)


def _truth(erasure: Erasure, noised: Noised) -> torch.Tensor:
    return erasure.objective.schedule.target(noised.clean, noised.noise, noised.time)
