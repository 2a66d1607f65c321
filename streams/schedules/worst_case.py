"""Requests for the samples or classes whose unlearning is least (or most) effective, chosen by bilevel selection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field

from streams.config import Config as BaseConfig
from streams.errors import DataError
from streams.plan import Choice, Learn, Plan, RequestSpec, Scheduled
from streams.randomness import Key


class Config(BaseConfig):
    """Options of `worst-case` (Fan et al. 2024, arXiv 2403.07362)."""

    kind: Literal["worst", "easy", "random"] = "worst"
    """worst: samples whose loss stays low once they are unlearned, which are redundant ones: retraining predicts them
    too. easy: those whose loss becomes high, which are memorised ones. random: drawn, for comparison."""
    scope: Literal["sample", "class"] = "sample"
    """What is chosen: single samples; or whole classes, by the mean loss of their samples. For image generators these
    are sets of prompts (the authors choose prompts of UnlearnCanvas so)."""
    samples: int = Field(100, ge=1)
    """How many samples, or classes, a request names."""
    every: int = Field(1, ge=1)
    """Experiences between two requests."""
    start: int = Field(1, ge=1)
    """Number of experiences before the first request."""
    limit: int | None = Field(None, ge=0)
    """At most that many requests; null means no limit."""
    window: int | None = Field(None, ge=1)
    """Choose only from data of that many latest experiences; null from all."""
    rounds: int = Field(10, ge=1)
    """Updates of the selection; before each, unlearning is simulated from the model as it is."""
    passes: int = Field(2, ge=1)
    """Passes over the data that simulate unlearning, by signs of the gradient."""
    lr: float = Field(1e-3, gt=0)
    """Step of these."""
    step: float = Field(10.0, gt=0)
    """Step of the selection's weights, over the median loss of the data. With a small one (the published default is
    0.01, not divided) nothing ever leaves the random start; that is an error here."""
    gamma: float = Field(0.0, ge=0)
    """Strength of the penalty gamma ||w||^2 on the selection's weights."""
    chosen: str | None = None
    """A JSON file with choices that were made before: for each seed (its number as text) a list of samples or classes
    for each request. A choice may turn on the last bits of a model, which differ between processors; with the file the
    stream is the same everywhere. For a seed that is not in the file, and with null, the choice is made."""


def place(plan: Plan, config: Config, key: Key) -> list[Scheduled]:
    """Return the experiences with a request after each of numbers start, start + every, ..."""
    choice = None
    if config.kind != "random":
        choice = Choice(config.kind, config.rounds, config.passes, config.lr, config.step, config.gamma)
    made = None if config.chosen is None else _made(Path(config.chosen), key.seed)
    scheduled: list[Scheduled] = []
    number = 0
    for index in range(len(plan.experiences)):
        scheduled.append(Learn(index))
        past = index + 1 - config.start
        if past >= 0 and past % config.every == 0 and (config.limit is None or number < config.limit):
            if made is None:
                spec = RequestSpec(config.scope, None, config.samples, choice=choice, window=config.window)
            elif number < len(made):
                spec = RequestSpec(config.scope, made[number], len(made[number]))
            else:
                raise DataError(
                    f"schedule.chosen: {config.chosen} has {len(made)} requests for seed {key.seed}, and more are due. "
                    f"Lower schedule.limit, or leave schedule.chosen out, so that the choice is made."
                )
            scheduled.append(spec)
            number += 1
    return scheduled


def _made(file: Path, seed: int) -> list[tuple[int, ...]] | None:
    """Return the keys of every request of a seed, or None where the file does not have the seed."""
    try:
        by_seed = json.loads(file.expanduser().read_text(encoding="utf-8"))
        requests = by_seed.get(str(seed))
        made = None if requests is None else [tuple(int(key) for key in keys) for keys in requests]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"schedule.chosen: {file} cannot be read as choices by seed ({error}). It must hold an object with a list "
            f"of lists of numbers for each seed."
        ) from error
    if made is not None and () in made:
        raise DataError(f"schedule.chosen: in {file} request {made.index(())} of seed {seed} names nothing.")
    return made
