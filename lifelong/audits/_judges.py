"""Who says what images show: a judge of objects and one of styles, who are good enough or refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch

from lifelong.audits._judge import MANY, Judge, Real, judge_of
from strategies.objectives._denoising import DenoisingObjective
from strategies.parts.diffusion.prompts import prompts_of
from streams.errors import ConfigError
from streams.source import Source


@final
@dataclass(frozen=True, slots=True, eq=False)
class Judges:
    """Who says what images show.

    Attributes:
        objects: names classes; distances are taken in its features.
        styles: names domains; None where there are none.
    """

    objects: Judge
    styles: Judge | None


def real_images(objective: DenoisingObjective, source: Source) -> Real:
    """Return what gives the images of samples; those of latents are made once."""

    def made(ids: np.ndarray) -> torch.Tensor:
        return objective.pictures(objective.clean(source.inputs(ids)))

    if objective.config.checkpoint is None:
        return made
    whole = made(np.arange(len(source)))
    return lambda ids: whole[ids]


def judges_of(objective: DenoisingObjective, source: Source, least_accuracy: float, where: str) -> Judges:
    """Return the judges of a source.

    Raises:
        ConfigError: its images are too small, or one of them is not good enough.
    """
    real = real_images(objective, source)
    shape = list(real(np.array([0])).shape[1:])
    if min(shape[1:]) < 4:
        raise ConfigError(f"{where}: images of {shape} are too small for a judge; it takes 4 pixels a side.")
    many = has_many(source)
    judges = {"objects": judge_of(source, real, source.class_ids, "object", many)}
    if objective.prompts.styles:
        judges["styles"] = judge_of(source, real, objective.prompts.style_of, "style", many)
    for name, judge in judges.items():
        if judge.accuracy < least_accuracy:
            raise ConfigError(
                f"{where}: the judge of {name} is right about {judge.accuracy:.3f} of images, which is less than "
                f"least_accuracy: {least_accuracy}. What it says of generated images is bounded by that. Use "
                f"data whose {name} are easier to tell apart, or lower least_accuracy and read numbers accordingly."
            )
    return Judges(judges["objects"], judges.get("styles"))


def has_many(source: Source) -> bool:
    """Return whether there are so many images of every class, in every style, that some can be held out."""
    prompts = prompts_of(source, "{object}", with_styles=source.domain_ids is not None)
    counts = [
        np.unique(prompts.of_all[part], axis=0, return_counts=True)[1] for part in (source.train_ids, source.test_ids)
    ]
    return min(counts[0].min(), 3 * counts[1].min() if len(counts[1]) else 0) >= MANY
