"""Which samples keys stand for, who taught a sample, and a life without one request: held against loops over all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from streams.events import DeletionRequest, Experience
from streams.members import Members
from streams.plan import Again, Learn, RequestSpec, Scheduled, Service, assemble
from streams.randomness import Key
from streams.returns import Returns
from streams.scenarios import domain_incremental, recurring
from streams.skipping import without_request
from streams.stream import Stream
from streams.timeline import admitted

SEEDS = range(6)


def recurring_stream(tools: Any, seed: int, scheduled: list[Scheduled] | None = None) -> Stream:
    config = recurring.Config(tasks=8, classes_per_task=2)
    plan = recurring.build(tools.source(num_classes=5, per_class=6, test_per_class=1), config, seed)
    placed = scheduled or [Learn(i) for i in range(len(plan.experiences))]
    return assemble(plan, placed, Service(), Key(seed) / "requests")


@pytest.mark.parametrize("seed", SEEDS)
def test_members_are_found_one_by_one(tools: Any, seed: int) -> None:
    stream = recurring_stream(tools, seed)
    source, draw = stream.source, np.random.default_rng(seed)
    experiences = stream.experiences[: 1 + seed]
    members = Members(source, len(stream.units), experiences)
    wanted = draw.random(len(source)) < 0.1
    wanted &= ~source.is_test
    for scope in ("class", "user", "task"):

        def own(key: int, scope: str = scope) -> set[int]:
            if scope == "task":
                return {i for e in experiences if key in e.units for i in e.sample_ids.tolist()}
            column = source.class_ids if scope == "class" else source.user_ids
            return {i for i in range(len(source)) if column[i] == key and not source.is_test[i]}

        for keys in ([0], [1, 3], [4, 0, 2]):
            assert members.of(scope, keys).tolist() == sorted(set().union(*map(own, keys)))  # type: ignore[arg-type]
        every = range(len(stream.units) if scope == "task" else 10)
        expected = [k for k in every if any(wanted[i] for i in own(k))]
        assert members.keys_with(scope, wanted).tolist() == expected  # type: ignore[arg-type]


def test_keys_of_nothing_stand_for_nothing(tools: Any) -> None:
    stream = recurring_stream(tools, 0)
    members = Members(stream.source, len(stream.units), stream.experiences)
    assert members.of("class", [77]).tolist() == []
    assert Members(stream.source, 3, ()).keys_with("task", np.ones(len(stream.source), dtype=bool)).tolist() == []


@pytest.mark.parametrize("seed", SEEDS)
def test_who_taught_a_sample_and_who_named_it_last(seed: int) -> None:
    draw = np.random.default_rng(seed)
    returns, taught = Returns(12), []
    for n in range(9):
        ids = np.flatnonzero(draw.random(12) < 0.4)
        experience = Experience(
            f"e{n}", (int(draw.integers(4)), 4), ids, [None, 0, 1][n % 3], incarnation=int(draw.integers(3))
        )
        returns.learned(experience)
        taught.append(experience)
    known = np.unique(np.concatenate([e.sample_ids for e in taught]))
    for _ in range(10):
        ids = np.sort(draw.choice(known, size=1 + int(draw.integers(3)), replace=False))
        again = returns.taught_again("again", ids)
        own = [e for e in taught if set(e.sample_ids.tolist()) & set(ids.tolist())]
        tasks = {e.task for e in own}
        assert again.units == tuple(sorted({u for e in own for u in e.units}))
        assert again.task == (tasks.pop() if len(tasks) == 1 else None)
        assert again.incarnation == 1 + max(e.incarnation for e in own)
        assert again.sample_ids.tolist() == ids.tolist()
    named: list[tuple[np.ndarray, int, int]] = []
    for number in range(7):
        ids, place = np.flatnonzero(draw.random(12) < 0.5), number // 2
        returns.named(ids, number, place)
        named.append((ids, number, place))
    everything = np.arange(12)
    for number in range(7):
        place = number // 2
        expected = [any(i in ids and n != number and p >= place for ids, n, p in named) for i in everything]
        # Of the last two that named a sample, those before cannot be in `place` or later without these.
        assert returns.named_by_others(everything, number, place).tolist() == expected


@pytest.mark.parametrize("skipped", range(4))
def test_a_life_without_a_request_is_the_one_in_which_nobody_made_it(tools: Any, skipped: int) -> None:
    """Requests for what they stand for are resolved anew, so that they are those of a stream without the first."""
    requests = [
        RequestSpec("class", (0,)),
        RequestSpec("sample", (8, 9)),
        RequestSpec("class", (1,)),
        RequestSpec("user", (0,)),
    ]
    source = tools.source(num_classes=3, per_class=6, test_per_class=1)
    plan = domain_incremental.build(source, domain_incremental.Config(domains=2), 0)
    full = [Learn(0), Learn(1), *requests]
    stream = assemble(plan, full, Service(), Key(0))
    names = [e.name for e in stream.events if isinstance(e, DeletionRequest)]
    found = without_request(stream, len(stream.events), names[skipped])
    left = [s for s in full if s is not requests[skipped]]
    expected = admitted(assemble(plan, left, Service(), Key(0)).events)
    assert [e.sample_ids.tolist() for e in found] == [e.sample_ids.tolist() for e in expected]
    assert names[skipped] not in [e.name for e in found]


def test_what_is_taught_again_is_no_longer_the_skipped_requests(tools: Any) -> None:
    source = tools.source(num_classes=2, per_class=4, test_per_class=1)
    config = domain_incremental.Config(domains=2)
    plan = domain_incremental.build(source, config, 0)
    scheduled = [Learn(0), RequestSpec("class", (0,)), Again(0), RequestSpec("class", (0,)), Learn(1)]
    stream = assemble(plan, scheduled, Service(), Key(0))
    first = stream.events[1]
    found = without_request(stream, len(stream.events), first.name)
    second = next(e for e in found if isinstance(e, DeletionRequest))
    assert second.sample_ids.tolist() == sorted(set(second.sample_ids.tolist())) == stream.events[3].sample_ids.tolist()
