"""What erasers share that lead a prompt to an anchor: which prompt that is, and what earlier requests led there."""

from __future__ import annotations

from abc import ABC
from typing import Any

import numpy as np
import torch
from typing_extensions import override

from strategies.base import Setting
from strategies.parts.diffusion.prompts import NOTHING
from strategies.unlearners._erase import Eraser, EraserConfig, Erasure, Shown, in_turn
from streams.errors import ConfigError, StreamError, closest

KINDS = ("nearest", "superclass", "random", "empty")
"""Anchors that are no names."""
PROBES = 64
"""Noisy images on which prompts are compared."""


class AnchoredConfig(EraserConfig):
    """Options of erasers that draw something else in place of what goes."""

    anchor: str = "nearest"
    """What is drawn in place of what goes, among what stays: nearest (whose answers differ least from those to the
    prompt that goes), superclass (the nearest of its superclass, or of all where none of it stays), random, empty (the
    empty prompt), or the name of a class or style."""
    remap: bool = True
    """Erase anew what an earlier request erased, where it is drawn like what goes now: its anchor goes, too."""


class Anchored(Eraser, ABC):
    """An eraser with anchors. A request must leave something to draw in place of what goes."""

    config: Any
    """An `AnchoredConfig`."""

    def __init__(self, config: AnchoredConfig, setting: Setting) -> None:
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

    def led(self, erasure: Erasure) -> tuple[np.ndarray, np.ndarray]:
        """Return the prompts to erase, those of earlier requests too that must be led elsewhere, and their anchors.

        Raises:
            StreamError: the anchor is not live, or nothing is left that could be one.
        """
        erased = erasure.prompts
        if self.config.remap and len(erasure.gone):
            lost = anchored_on(erasure, np.concatenate([erased, erasure.live]), erased)
            erased = np.concatenate([erased, erasure.gone[lost]])
        chosen = self.config.anchor
        return erased, np.stack([anchor_of(erasure, chosen, prompt, n) for n, prompt in enumerate(erased)])

    def shown(self, erasure: Erasure, erased: np.ndarray, anchors: np.ndarray) -> tuple[Shown, Shown]:
        """Return images of anchors, drawn by the served model, under the prompts that go and under their own."""
        own = erasure.drawn(anchors, self.config.images, "anchors")
        return Shown(own.images, erasure.tensor(in_turn(erased, len(own.images)))), own


def anchor_of(erasure: Erasure, chosen: str, prompt: np.ndarray, number: int) -> np.ndarray:
    """Return what is drawn in place of one prompt: the same but for the object, or the style, that goes.

    Args:
        erasure: of what goes.
        chosen: one of `KINDS`, or a name.
        prompt: ``[2]``.
        number: of the prompt, for `random`.

    Raises:
        StreamError: the anchor is not live, or nothing is left that could be one.
    """
    axis, prompts = erasure.axis, erasure.objective.prompts
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
