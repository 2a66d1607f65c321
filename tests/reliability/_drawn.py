"""Random streams for the scripts beside this: drawn by name, with what strategies are built in."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from contract.candidates import Candidate
from contract.worlds import World, _model, _source, world_of

from lifelong.setup.build import make_strategy
from lifelong.setup.suitability import check_stream
from strategies.base import Setting, Strategy
from strategies.objectives._base import Objective
from strategies.objectives.classification import Classification
from strategies.objectives.regression import Regression
from strategies.parts.fit import Training
from streams.config import parse
from streams.errors import ConfigError, StreamError
from streams.plan import Plan, Service, assemble
from streams.randomness import Key
from streams.registry import load
from streams.schedules import explicit
from streams.source import Source
from streams.stream import Stream

SCENARIOS: dict[str, Callable[[random.Random], dict[str, Any]]] = {
    "class-incremental": lambda d: {"experiences": d.randint(2, 5), "class_order": d.choice(["natural", "shuffled"])},
    "task-incremental": lambda d: {"experiences": d.randint(2, 5), "class_order": d.choice(["natural", "shuffled"])},
    "blurry": lambda d: {"experiences": d.randint(2, 4), "blur": d.choice([0.1, 0.3, 0.6])},
    "online": lambda d: {"experiences": 2, "chunk": d.randint(40, 90)},
    "recurring": lambda d: {"tasks": d.randint(3, 6), "classes_per_task": 2, "samples_per_class": d.randint(8, 20)},
    "domain-incremental": lambda d: {
        "domains": 2,
        "kind": d.choice(["permuted", "rotated"]),
        "task_labels": d.random() < 0.5,
    },
    "joint": lambda d: {},
}
EVERY_TEXT = 8
"""One stream in so many is of text."""


def draw_source(dice: random.Random) -> Source:
    """A few digits, given by a few users, some of them twice."""
    whole = _source()
    draw = np.random.default_rng(dice.getrandbits(32))
    per_class, classes = dice.randint(10, 24), dice.choice([4, 6, 10])
    rows = np.concatenate(
        [draw.choice(np.flatnonzero(whole.class_ids == c), per_class, replace=False) for c in range(classes)]
    )
    rows = np.concatenate([rows, draw.choice(rows, dice.choice([0, 5, 12]), replace=False)])
    columns = {name: getattr(whole, name)[rows] for name in ("x", "y", "class_ids")}
    is_test = draw.random(len(rows)) < 0.2
    for c in range(classes):  # every class is taught and tested
        members = np.flatnonzero(columns["class_ids"] == c)
        is_test[members[0]], is_test[members[1]] = True, False
    users = dice.randint(2, 7)
    return replace(
        whole,
        **columns,
        is_test=is_test,
        user_ids=draw.integers(0, users, len(rows)),
        class_names=whole.class_names[:classes],
        user_names=tuple(f"user-{u}" for u in range(users)),
    )


def draw_requests(dice: random.Random, experiences: int) -> list[dict[str, Any]]:
    found = []
    for _ in range(dice.randint(1, 4)):
        after = dice.randint(1, experiences)
        scope = dice.choice(["sample", "sample", "class", "user", "task"])
        request = {"after": after, "scope": scope, "count": dice.randint(1, 12) if scope == "sample" else 1}
        if dice.random() < 0.35:
            request["again_after"] = dice.randint(after, experiences)
        found.append(request)
    return found


def draw_stream(dice: random.Random, plan: Plan) -> Stream:
    """Requests on a plan.

    Raises:
        StreamError, ConfigError: they name more than there is.
    """
    config = parse(explicit.Config, {"requests": draw_requests(dice, len(plan.experiences))})
    service = Service(wait_for=dice.choice([1, 1, 2]), copies=dice.random() < 0.4)
    key = Key(dice.getrandbits(31))
    stream = assemble(plan, explicit.place(plan, config, key), service, key / "requests")
    if not stream.requests:
        raise StreamError("no request was ever served")
    return stream


def draw_training(dice: random.Random) -> Training:
    optimizer = dice.choice(["sgd", "sgd", "adam"])
    return Training(
        epochs=dice.randint(1, 2),
        batch_size=dice.choice([8, 20, 40]),
        optimizer=optimizer,
        lr=0.005 if optimizer == "adam" else dice.choice([0.02, 0.1]),
        momentum=dice.choice([0.0, 0.9]) if optimizer == "sgd" else 0.0,
        weight_decay=dice.choice([0.0, 0.001]),
        clip_norm=dice.choice([None, 1.0]),
    )


def draw_world(dice: random.Random) -> World:
    """A stream, and what strategies are built in.

    Raises:
        StreamError, ConfigError: what was drawn makes no stream.
    """
    name = dice.choice([*sorted(SCENARIOS), "task-incremental", "task-incremental"])  # some live nowhere else
    module, source = load("scenarios", name), draw_source(dice)
    if numbers := name in ("class-incremental", "blurry") and dice.random() < 0.2:
        source = replace(source, y=source.x.mean(1) + torch.from_numpy(source.class_ids).float() / 10)
    plan = module.build(source, parse(module.Config, SCENARIOS[name](dice)), dice.getrandbits(31))
    stream = draw_stream(dice, plan)
    tasks = tuple(unit.classes for unit in plan.units) if plan.task_of is not None else None
    objective: Objective = Regression() if numbers else Classification(source.num_classes, tasks)
    seed, noisy = dice.getrandbits(31), dice.random() < 0.3
    make_model = partial(_model, objective, seed, noisy, "cpu")
    training = draw_training(dice)
    setting = Setting(Key(seed), make_model, objective, training, stream.units, len(stream.source))
    return World(f"regression of {name}" if numbers else name, stream, setting)


def draw_text(dice: random.Random) -> World:
    """Other requests for the two people of the contract tests, under another seed."""
    world = world_of("text")
    plan = Plan(world.stream.source, world.stream.units, world.stream.experiences, world.stream.task_of)
    # Those of a stream are learned as often as it says; a plan's are learned once.
    plan = replace(plan, experiences=tuple(e for e in plan.experiences if not e.incarnation))
    stream = draw_stream(dice, plan)
    seed = dice.getrandbits(31)
    make_model = partial(_model, world.setting.objective, seed, False, "cpu")
    return World("text", stream, replace(world.setting, key=Key(seed), make_model=make_model))


def world_number(seed: int, number: int) -> World:
    """The first valid stream under a name."""
    draw = draw_text if number % EVERY_TEXT == EVERY_TEXT - 1 else draw_world
    for attempt in range(100):
        try:
            return draw(random.Random(f"{seed}/stream-{number}/{attempt}"))
        except (StreamError, ConfigError):
            continue
    raise RuntimeError(f"a hundred draws made no stream {number}")


def world_build(world: World, candidate: Candidate) -> Strategy:
    """Build a strategy for a stream.

    Raises:
        ConfigError: the stream is not for it.
    """
    strategy = make_strategy(candidate.config, world.setting, candidate.name)
    check_stream(strategy, world.stream, candidate.name)
    return strategy
