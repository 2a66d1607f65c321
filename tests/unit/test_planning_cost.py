"""Planning takes time in proportion to events and requests, whatever asks for them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch

from lifelong.config.run import RunConfig
from lifelong.evaluation.planning import plan_evaluation
from lifelong.setup.preview import preview
from lifelong.setup.suitability import check_stream
from strategies.composed import Composed
from strategies.learner import SGDLearner
from strategies.unlearners import none
from streams.config import parse, resolve
from streams.errors import StreamError
from streams.events import DeletionRequest, Experience
from streams.plan import Again, Learn, Plan, RequestSpec, Scheduled, Service, assemble
from streams.randomness import Key
from streams.scenarios import recurring
from streams.source import Source
from streams.stream import Stream

_ONE = {"name": "class-incremental", "experiences": 1}


def source_of(rows: int, classes: int, users: int) -> Source:
    """Return rows of one number each; every fourth of a class is a test row."""
    number = np.arange(rows)
    return Source(
        name="numbers",
        licence="none",
        x=torch.arange(rows, dtype=torch.float32)[:, None],
        y=torch.from_numpy(number % classes),
        class_ids=number % classes,
        user_ids=number // classes % users,
        is_test=number // classes % 4 == 3,
        class_names=tuple(map(str, range(classes))),
        user_names=tuple(map(str, range(users))),
    )


def again(scope: str, r: int, **options: Any) -> dict[str, Any]:
    """Return a schedule whose requests are each learned again after one more experience."""
    asked = [{"after": n, "scope": scope, "again_after": n + 1, **options} for n in range(8, r)]
    return {"name": "explicit", "requests": asked}


# For r requests or so: rows, classes and users of the data, scenario, schedule, service.
CASES: dict[str, Callable[[int], tuple[tuple[int, int, int], dict[str, Any], dict[str, Any], Service]]] = {
    "samples, some waiting": lambda r: (
        (8 * r, 10, 8),
        _ONE,
        {"name": "burst", "after": 1, "requests": r, "samples": 1},
        Service(wait_for=r // 4, copies=True),
    ),
    "classes": lambda r: (
        (8 * r, r, 2),
        {"name": "blurry", "experiences": r},
        {"name": "delayed", "age": 3, "scope": "class"},
        Service(),
    ),
    "users": lambda r: (
        (16 * r, 8, 2 * r),
        {"name": "online", "chunk": 8},
        {"name": "poisson", "rate": 0.5, "start": r // 2, "scope": "user"},
        Service(deadline=3, wait_for=5),
    ),
    "tasks": lambda r: (
        (8 * r, r, 2),
        {"name": "task-incremental", "experiences": r},
        {"name": "burst", "after": r, "requests": r - 2, "scope": "task"},
        Service(),
    ),
    "tasks that recur": lambda r: (
        (8 * r, r, 2),
        {"name": "recurring", "tasks": r, "samples_per_class": 1},
        {"name": "periodic", "start": 3, "every": 3, "scope": "task"},
        Service(),
    ),
    "pall": lambda r: (
        (8 * r, r, 2),
        {"name": "class-incremental", "experiences": r},
        {"name": "published", "sequence": "pall", "forgets": r // 2},
        Service(),
    ),
    "samples again": lambda r: ((16 * r, 10, 8), {"name": "online", "chunk": 8}, again("sample", r), Service()),
    "users again": lambda r: (
        (16 * r, 10, 8),
        {"name": "recurring", "tasks": r, "samples_per_class": 4},
        again("user", r),
        Service(),
    ),
    "tasks again": lambda r: (
        (16 * r, 8, 8),
        {"name": "recurring", "tasks": r, "samples_per_class": 4, "classes_per_task": 1},
        again("task", r),
        Service(),
    ),
}


def calls_of(do: Callable[[], Any]) -> tuple[int, Any]:
    """Return how many functions are called, in Python and in C, and what `do` returns."""
    count = 0

    def note(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        result = do()
    finally:
        sys.setprofile(None)
    return count, result


def costs_of(case: str, r: int, tools: Any) -> dict[str, int]:
    """Return by stage how many functions planning calls."""
    (rows, classes, users), scenario, schedule, service = CASES[case](r)
    source, key = source_of(rows, classes, users), Key(0)
    config = parse(
        RunConfig,
        {
            "source": {"name": "digits"},
            "scenario": scenario,
            "schedule": schedule,
            "evaluation": {"every": 50, "follow": "geometric"},
            "strategies": {"it": {}},
        },
    )
    setting = tools.setting(source)
    strategy = Composed(SGDLearner(setting, list), none.NoUnlearning(none.Config(), setting))

    def stream_of() -> Stream:
        builder, scenario_options = resolve("scenarios", config.scenario, "scenario")
        placer, options = resolve("schedules", config.schedule, "schedule")
        plan: Plan = builder.build(source, scenario_options, 0)
        return assemble(plan, placer.place(plan, options, key), service, key)

    costs: dict[str, int] = {}
    costs["stream"], stream = calls_of(stream_of)
    assert len(stream.requests) > 3
    costs["evaluation"], plan = calls_of(lambda: plan_evaluation(stream, config.evaluation))
    costs["suitability"], _ = calls_of(lambda: check_stream(strategy, stream, "strategies.it"))
    costs["described"], _ = calls_of(stream.describe)
    costs["preview"], _ = calls_of(lambda: preview(config, stream))
    events = np.flatnonzero(plan.measured[:-1]).tolist()  # after the last event every request is looked at
    costs["measuring"], _ = calls_of(lambda: [(plan.detailed(e), plan.followed(e), plan.looked_at(e)) for e in events])
    return costs


@pytest.mark.parametrize("case", CASES)
def test_twice_the_requests_take_twice_the_time(case: str, tools: Any) -> None:
    costs_of(case, 16, tools)  # what is loaded once
    less, more = costs_of(case, 60, tools), costs_of(case, 120, tools)
    for stage, count in more.items():
        # What is quadratic takes four times as much; logarithms are allowed.
        assert count < 2.7 * less[stage], f"{stage}: {less[stage]:,} calls for 60, {count:,} for 120"


def members_of(plan: Plan, spec: RequestSpec) -> set[int]:
    """Return all that a request names, learned or not."""
    source, keys = plan.source, set(spec.keys or ())
    match spec.scope:
        case "sample":
            return keys
        case "task":
            return {i for e in plan.experiences if keys & set(e.units) for i in e.sample_ids.tolist()}
        case "class":
            column = source.class_ids
        case "user":
            column = source.user_ids
    return {i for i in source.train_ids.tolist() if column[i] in keys}


def by_looking_back(stream: Stream, plan: Plan, number: int, specs: list[RequestSpec], waits: int) -> Experience:
    """Return what teaches again what a request deleted: by looking at all other requests, and all experiences."""
    event = stream.requests[number // waits]
    own = event.requests[number % waits]
    served = len([e for e in stream.events if isinstance(e, DeletionRequest)]) * waits
    ids = set(own.sample_ids.tolist())
    for other in range(number // waits * waits, min(served, len(specs))):
        if other != number:
            ids -= members_of(plan, specs[other])
    touched = [e for e in stream.experiences if ids & set(e.sample_ids.tolist())]
    tasks = {e.task for e in touched}
    return Experience(
        f"wish-{number}-again",
        tuple(sorted({u for e in touched for u in e.units})),
        np.array(sorted(ids), dtype=np.int64),
        tasks.pop() if len(tasks) == 1 else None,
        1 + max(e.incarnation for e in touched),
    )


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("waits", [1, 2])
def test_what_is_learned_again_is_what_looking_back_says(waits: int, labelled: bool, tools: Any) -> None:
    source = tools.source(num_classes=5, per_class=6, num_users=4)
    plan = recurring.build(source, recurring.Config(tasks=6, samples_per_class=3), 0)
    if labelled:
        tasks = [Experience(e.name, e.units, e.sample_ids, n % 2) for n, e in enumerate(plan.experiences)]
        plan = Plan(plan.source, plan.units, tuple(tasks), np.zeros(len(source), dtype=np.int64))
    draw, compared = np.random.default_rng(0), 0
    for _ in range(40):
        scheduled: list[Scheduled] = [Learn(0), Learn(1), Learn(2), Learn(3)]
        specs: list[RequestSpec] = []
        for step in range(6):
            if draw.random() < 0.3:
                scheduled.append(Learn(4 + (step > 2)))
            stream = None
            for _ in range(waits):
                scope = draw.choice(["sample", "class", "user", "task"]).item()
                drawn = RequestSpec(scope, None, 1)
                before = _assembled(plan, [*scheduled, drawn], waits)
                if before is None:
                    break
                spec = RequestSpec(scope, before.requests[-1].requests[-1].keys)
                specs.append(spec)
                scheduled.append(spec)
                stream = _assembled(plan, scheduled, waits)
            if stream is None or len(specs) % waits:
                break
            number = int(draw.integers(len(specs)))
            after = _assembled(plan, [*scheduled, Again(number)], waits)
            if after is not None:
                made, expected = after.events[-1], by_looking_back(stream, plan, number, specs, waits)
                assert isinstance(made, Experience)
                assert made.sample_ids.tolist() == expected.sample_ids.tolist()
                assert (made.name, made.units, made.task, made.incarnation) == (
                    (expected.name, expected.units, expected.task, expected.incarnation)
                )
                compared += 1
                scheduled.append(Again(number))
    assert compared > 40


def _assembled(plan: Plan, scheduled: list[Scheduled], waits: int) -> Stream | None:
    """Return the stream, or None where it cannot happen."""
    try:
        return assemble(plan, scheduled, Service(wait_for=waits), Key(0))
    except StreamError:
        return None
