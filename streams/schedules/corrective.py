"""Part of the manipulated data of a `corrupted` source is found, and asked to be corrected."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from streams.config import Config as BaseConfig
from streams.errors import ConfigError
from streams.plan import Learn, Plan, RequestSpec, Scheduled
from streams.randomness import Key


class Config(BaseConfig):
    """Options of `corrective` (Goel et al. 2024, arXiv 2402.14015)."""

    found: float = Field(0.5, gt=0, le=1)
    """Share of the manipulated samples that is found and named (phi); the rest stays in the retained data. What a
    smaller share names, a larger one names too."""
    after: int | None = Field(None, ge=1)
    """Number of experiences learned before the first request; null is all of them."""
    requests: int = Field(1, ge=1)
    """Over how many requests, of about the same size, the find is spread."""
    every: int = Field(1, ge=1)
    """Experiences between two of them."""


def place(plan: Plan, config: Config, key: Key) -> list[Scheduled]:
    """Return the experiences with the requests to correct what was found, as far as it has been learned by then.

    Raises:
        ConfigError: nothing was done to the data, or a request names nothing that has been learned.
    """
    if plan.source.corruption is None:
        raise ConfigError("schedule: 'corrective' needs manipulated data; set source: {name: corrupted, of: ...}.")
    bad = plan.source.corruption.samples
    first = len(plan.experiences) if config.after is None else config.after
    if first > len(plan.experiences):
        raise ConfigError(f"schedule.after: {first} is past the last of {len(plan.experiences)} experiences.")
    named = bad[(key / "found").order(bad)[: max(1, round(config.found * len(bad)))]]
    parts = np.array_split(named, config.requests)[::-1]  # the next one stands last
    scheduled: list[Scheduled] = []
    is_learned = np.zeros(len(plan.source), dtype=bool)
    for index, experience in enumerate(plan.experiences):
        scheduled.append(Learn(index))
        is_learned[experience.sample_ids] = True
        last = index + 1 == len(plan.experiences)
        # Those that would come after the last experience come right after it.
        while parts and (last or index + 1 >= first + (config.requests - len(parts)) * config.every):
            scheduled.append(_spec(parts.pop(), is_learned, index + 1))
    return scheduled


def _spec(part: np.ndarray, is_learned: np.ndarray, after: int) -> RequestSpec:
    keys = np.sort(part[is_learned[part]])
    if not len(keys):
        raise ConfigError(
            f"schedule: none of the {len(part)} samples that a request would name is learned after {after} "
            "experiences. Set schedule.after later, schedule.found higher, or fewer requests."
        )
    return RequestSpec("sample", tuple(keys.tolist()), reason="correct")
