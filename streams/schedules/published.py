"""Task sequences printed in papers: CLPU's fixed one, UnCLe's nine, and PALL's random generator."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from streams.config import Config as BaseConfig
from streams.errors import ConfigError
from streams.plan import Consolidate, Learn, Plan, RequestSpec, Scheduled
from streams.randomness import Key

# L = learn, P = learn as permanent, T = learn as temporary, C = make permanent, U = unlearn a task.
# CLPU: Liu et al. 2022 (arXiv 2203.12817), released code. UnCLe: arXiv 2509.17530, table 4.
SEQUENCES = {
    "clpu": "P0 T1 T2 P3 C1 U2 T4 U4",
    "uncle-ten-1": "L1 L0 U1 L5 L8 L9 L7 U0 L2 L3 L4 U8 U3 U5 L6",
    "uncle-ten-2": "L6 L7 L2 L1 L0 U1 L9 U7 U2 U0 L4 U4 L8 U6 L5",
    "uncle-ten-3": "L7 L1 L2 L8 L0 U1 L3 L6 U3 U2 L4 L5 U8 L9 U7",
    "uncle-five-1": "L0 L1 U0 L2 L3 L4 U1",
    "uncle-five-2": "L3 L4 L2 L0 L1 U3 U0",
    "uncle-five-3": "L0 L2 U0 L4 L3 U2 U4",
    "uncle-twenty-1": "L3 L0 U3 L9 L5 L17 L1 L7 L14 L15 L19 U17 U7 L6 U15 U9 L12 L4 U5 U4 U6 U0 U1 U14 U12 L13 L18 L2"
    " L11 L8",
    "uncle-twenty-2": "L12 L13 L5 L8 L2 U8 L14 U13 U5 U2 L3 U3 L16 U12 L11 U16 L7 L15 L10 L19 L9 U14 U7 L18 L6 L1 L0 L4"
    " U6 L17",
    "uncle-twenty-3": "L2 L7 U2 L18 L12 U7 U18 L16 L0 U16 U0 L13 L4 U12 U13 L9 L19 U19 U4 L10 L14 L5 U5 U10 L11 L1 U1"
    " L17 L6 L3",
}


class Config(BaseConfig):
    """Options of `published`."""

    sequence: Literal[
        "clpu",
        "pall",
        "uncle-ten-1",
        "uncle-ten-2",
        "uncle-ten-3",
        "uncle-five-1",
        "uncle-five-2",
        "uncle-five-3",
        "uncle-twenty-1",
        "uncle-twenty-2",
        "uncle-twenty-3",
    ] = "uncle-five-1"
    """Which one; the number in UnCLe's names is the number of tasks the scenario must have."""
    forgets: int = Field(3, ge=1)
    """Tasks that `pall` forgets (the paper uses 3); the printed sequences ignore it."""


def place(plan: Plan, config: Config, key: Key) -> list[Scheduled]:
    """Return what the sequence places.

    Raises:
        ConfigError: the scenario does not have the tasks the sequence names, or its experiences are no tasks.
    """
    count = len(plan.experiences)
    strange = next((e for index, e in enumerate(plan.experiences) if e.units != (index,)), None)
    if strange is not None:
        raise ConfigError(
            f"schedule: 'published' learns and unlearns tasks, and {strange.name} of the scenario is no task of its "
            "own. Use a scenario with a unit for each experience (class-incremental, task-incremental)."
        )
    if config.sequence == "pall":
        if config.forgets > count:
            raise ConfigError(f"schedule.forgets: {config.forgets} is more than the {count} tasks of the scenario.")
        return pall(count, config.forgets, key.numpy())
    tokens = SEQUENCES[config.sequence].split()
    needed = 1 + max(int(t[1:]) for t in tokens)
    if count != needed:
        raise ConfigError(f"schedule.sequence: {config.sequence!r} is for {needed} tasks, the scenario has {count}.")
    return [_scheduled(t[0], int(t[1:])) for t in tokens]


def _scheduled(kind: str, task: int) -> Scheduled:
    match kind:
        case "U":
            return RequestSpec("task", (task,))
        case "C":
            return Consolidate(task)
        case _:
            return Learn(task, {"P": "permanent", "T": "temporary", "L": None}[kind])


def pall(count: int, forgets: int, generator: np.random.Generator) -> list[Scheduled]:
    """Return PALL's generator (arXiv 2505.10941, released code): distinct tasks, each at a uniform later position."""
    scheduled: list[Scheduled] = [Learn(i) for i in range(count)]
    place_of = np.arange(count)  # where each task is learned
    for task in generator.choice(count, forgets, replace=False):
        place = int(generator.integers(place_of[task] + 1, len(scheduled) + 1))
        scheduled.insert(place, RequestSpec("task", (int(task),)))
        place_of[place_of >= place] += 1
    return scheduled
