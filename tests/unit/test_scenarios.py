from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from streams.errors import ConfigError
from streams.events import Experience
from streams.plan import Learn, Plan, RequestSpec, Service, assemble
from streams.randomness import Key
from streams.registry import entries
from streams.scenarios import (
    blurry,
    class_incremental,
    domain_incremental,
    joint,
    listed,
    online,
    recurring,
    task_incremental,
)
from streams.source import Source
from streams.sources import people
from streams.timeline import admitted

MODULES: dict[str, Any] = {
    "blurry": blurry,
    "class-incremental": class_incremental,
    "domain-incremental": domain_incremental,
    "joint": joint,
    "listed": listed,
    "online": online,
    "recurring": recurring,
    "task-incremental": task_incremental,
}


def train_ids_of(plan: Plan) -> list[int]:
    return [i for e in plan.experiences for i in e.sample_ids.tolist()]


def test_every_scenario_is_tested_here() -> None:
    assert set(entries("scenarios")) == set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_every_scenario_makes_a_valid_repeatable_plan(name: str, digits: Source, tmp_path: Path) -> None:
    module, file = MODULES[name], tmp_path / "listed.json"
    samples = [digits.train_ids[:90].tolist(), digits.train_ids[90:].tolist()]
    file.write_text(json.dumps({"experiences": [{"name": f"e{n}", "samples": s} for n, s in enumerate(samples)]}))
    config = module.Config(path=str(file)) if name == "listed" else module.Config()
    plan, again = (module.build(digits, config, 3) for _ in range(2))
    assert [(e.name, e.sample_ids.tolist()) for e in plan.experiences] == [
        (e.name, e.sample_ids.tolist()) for e in again.experiences
    ]
    assert len({e.name for e in plan.experiences}) == len(plan.experiences)
    for experience in plan.experiences:
        ids = experience.sample_ids
        assert len(ids)
        assert (np.diff(ids) > 0).all()
        assert not plan.source.is_test[ids].any()
        taught = {c for u in experience.units for c in plan.units[u].classes}
        if name != "blurry":  # strays are of other classes
            assert set(plan.source.class_ids[ids].tolist()) <= taught
    for unit in plan.units:
        assert plan.source.is_test[unit.test_ids].all()
        assert len(unit.test_ids)


@pytest.mark.parametrize("name", ["blurry", "class-incremental", "joint", "online", "task-incremental"])
def test_every_training_sample_arrives_exactly_once(name: str, digits: Source) -> None:
    module = MODULES[name]
    assert sorted(train_ids_of(module.build(digits, module.Config(), 0))) == digits.train_ids.tolist()


@pytest.mark.parametrize(
    ("count", "sizes"), [(3, [4, 3, 3]), (4, [3, 3, 2, 2]), (5, [2] * 5), (1, [10]), (10, [1] * 10)]
)
def test_classes_that_do_not_divide_are_spread(count: int, sizes: list[int], digits: Source) -> None:
    plan = class_incremental.build(digits, class_incremental.Config(experiences=count), 0)
    assert [len(u.classes) for u in plan.units] == sizes
    assert sorted(c for u in plan.units for c in u.classes) == list(range(10))
    assert plan.units[0].classes == tuple(range(sizes[0]))


def test_too_many_experiences_are_refused(digits: Source) -> None:
    with pytest.raises(ConfigError, match="11 is more than the 10 classes"):
        class_incremental.build(digits, class_incremental.Config(experiences=11), 0)


def test_class_order_is_drawn_from_the_seed(digits: Source) -> None:
    config = class_incremental.Config(class_order="shuffled")
    orders = {tuple(u.classes for u in class_incremental.build(digits, config, s).units) for s in range(4)}
    assert len(orders) == 4
    natural = class_incremental.Config()
    assert len({tuple(u.classes for u in class_incremental.build(digits, natural, s).units) for s in range(4)}) == 1


def test_task_incremental_tells_the_task_of_train_and_test_rows(digits: Source) -> None:
    plan = task_incremental.build(digits, task_incremental.Config(), 0)
    assert plan.task_of is not None
    assert [e.task for e in plan.experiences] == [0, 1, 2, 3, 4]
    for index, unit in enumerate(plan.units):
        assert (plan.task_of[unit.test_ids] == index).all()
        assert (plan.task_of[plan.experiences[index].sample_ids] == index).all()
    assert class_incremental.build(digits, class_incremental.Config(), 0).task_of is None


def test_online_chunks_are_small_and_in_class_order(digits: Source) -> None:
    plan = online.build(digits, online.Config(chunk=10), 0)
    sizes = [len(e.sample_ids) for e in plan.experiences]
    assert max(sizes) == 10
    assert sizes.count(10) >= len(sizes) - 5
    units = [e.units[0] for e in plan.experiences]
    assert units == sorted(units)
    first = plan.experiences[0].sample_ids
    assert not np.array_equal(
        first, class_incremental.build(digits, class_incremental.Config(), 0).experiences[0].sample_ids[:10]
    )


@pytest.mark.parametrize("blur", [0.0, 0.1, 0.3, 1.0])
def test_blurry_share_is_exact_for_every_class(blur: float, digits: Source) -> None:
    plan = blurry.build(digits, blurry.Config(blur=blur), 0)
    home = {c: i for i, u in enumerate(plan.units) for c in u.classes}
    place = {i: int(e.name.split("-")[1]) for e in plan.experiences for i in e.sample_ids.tolist()}
    for c in range(10):
        ids = np.flatnonzero((digits.class_ids == c) & ~digits.is_test)
        strays = [i for i in ids.tolist() if place[i] != home[c]]
        assert len(strays) == round(blur * len(ids))
        if blur == 1.0:  # everywhere but at home, in about equal shares
            counts = Counter(place[i] for i in strays)
            assert set(counts) == set(range(5)) - {home[c]}
            assert min(counts.values()) > 0.5 * len(ids) / 4


def test_blurry_needs_two_experiences(digits: Source) -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        blurry.build(digits, blurry.Config(experiences=1), 0)


def test_removing_a_sample_moves_no_other_between_experiences(digits: Source) -> None:
    # What a sample's experience is depends on its own id, but for the rounding of each class's share.
    a = blurry.build(digits, blurry.Config(blur=1.0), 0)
    is_test = digits.is_test.copy()
    is_test[digits.train_ids[0]] = True
    b = blurry.build(replace(digits, is_test=is_test), blurry.Config(blur=1.0), 0)
    place = [{i: e.name for e in p.experiences for i in e.sample_ids.tolist()} for p in (a, b)]
    assert all(place[0][i] == name for i, name in place[1].items())


def test_joint_is_one_experience_with_a_unit_per_class(digits: Source) -> None:
    plan = joint.build(digits, joint.Config(), 0)
    assert len(plan.experiences) == 1
    assert [u.name for u in plan.units] == [f"class-{c}" for c in range(10)]
    assert sorted(i for u in plan.units for i in u.test_ids.tolist()) == digits.test_ids.tolist()


def toy_classes(tools: Any, count: int) -> Source:
    return tools.source(num_classes=count, per_class=1, test_per_class=1, width=1)


@pytest.mark.nightly
def test_recurring_frequencies(tools: Any) -> None:
    # N = 10 classes, k = 2 per task: inclusion k / N, co-occurrence k (k - 1) / (N (N - 1)), never twice in a task.
    tasks = 20_000
    plan = recurring.build(toy_classes(tools, 10), recurring.Config(tasks=tasks), 0)
    chosen = np.array([e.units for e in plan.experiences])
    assert chosen.shape == (tasks, 2)
    assert (chosen[:, 0] != chosen[:, 1]).all()
    inclusion = np.bincount(chosen.ravel(), minlength=10) / tasks
    assert np.abs(inclusion - 0.2).max() < 0.01
    pairs = np.bincount(chosen[:, 0] * 10 + chosen[:, 1], minlength=100)
    observed = pairs[pairs > 0] / tasks
    assert len(observed) == 45
    assert np.abs(observed - 2 / 90).max() < 0.005
    # Independent of the past: the chance that a class comes back at once is its inclusion.
    back = np.mean([bool(set(a) & set(b)) for a, b in zip(chosen[:-1], chosen[1:], strict=True)])
    assert abs(back - (1 - 28 / 45)) < 0.015


def test_class_weights() -> None:
    key = Key(0) / "w"
    assert np.array_equal(recurring.class_weights(10, 0.0, key), np.full(10, 0.1))
    weights = recurring.class_weights(10, 2.0, key)
    assert weights.max() / weights.min() == pytest.approx((1 / 0.55) ** 2)  # 3.306
    assert weights.sum() == pytest.approx(1)
    large = recurring.class_weights(100, 1.0, key)
    assert large.max() / large.min() == pytest.approx(1 / 0.01)
    assert recurring.class_weights(50, 1.0, key).min() > 0  # 0.05 x 49 would be negative
    assert weights.argmax() != 0 or large.argmax() != 0  # not always the first class


def test_uneven_recurring_draws_follow_the_weights(tools: Any) -> None:
    config = recurring.Config(tasks=8000, classes_per_task=1, unevenness=2.0)
    plan = recurring.build(toy_classes(tools, 10), config, 0)
    counts = np.bincount([e.units[0] for e in plan.experiences], minlength=10) / 8000
    expected = recurring.class_weights(10, 2.0, Key(0) / "recurring" / "weights")
    assert np.abs(counts - expected).max() < 0.015


def test_recurring_options(digits: Source) -> None:
    plan = recurring.build(digits, recurring.Config(tasks=30, classes=4, samples_per_class=7), 0)
    used = {u for e in plan.experiences for u in e.units}
    assert len(used) == 4
    assert all(len(e.sample_ids) == 14 for e in plan.experiences)
    same = [e for e in plan.experiences if e.units == plan.experiences[0].units]
    assert len({tuple(e.sample_ids.tolist()) for e in same}) == len(same) > 1  # drawn anew each time
    longer = recurring.build(digits, recurring.Config(tasks=40, classes=4, samples_per_class=7), 0)
    assert [e.units for e in longer.experiences[:30]] == [e.units for e in plan.experiences]
    with pytest.raises(ConfigError, match="classes_per_task=3 and classes=2"):
        recurring.build(digits, recurring.Config(classes=2, classes_per_task=3), 0)


def test_recurring_units_of_several_classes_come_together(digits: Source) -> None:
    options = {"tasks": 30, "classes_per_task": 6, "classes_per_unit": 3, "samples_per_class": 2}
    plan = recurring.build(digits, recurring.Config(**options), 0)
    assert [unit.name for unit in plan.units] == ["unit-0", "unit-1", "unit-2", "class-9"]
    assert [unit.classes for unit in plan.units] == [(0, 1, 2), (3, 4, 5), (6, 7, 8), (9,)]
    tests = np.concatenate([unit.test_ids for unit in plan.units])
    assert sorted(tests.tolist()) == np.flatnonzero(digits.is_test).tolist()
    for experience in plan.experiences:
        assert len(experience.units) == 2
        classes = sorted(c for unit in experience.units for c in plan.units[unit].classes)
        assert np.unique(digits.class_ids[experience.sample_ids]).tolist() == classes
        assert len(experience.sample_ids) == 2 * len(classes)
    with pytest.raises(ConfigError, match="classes_per_task=4 must be a multiple"):
        recurring.build(digits, recurring.Config(classes_per_task=4, classes_per_unit=3), 0)


def test_domains_that_come_several_times_bring_other_samples_each_time(tools: Any) -> None:
    source = tools.source(num_classes=2, per_class=60)
    source = replace(source, domain_ids=np.arange(len(source)) % 3)
    once = domain_incremental.build(source, domain_incremental.Config(kind="natural"), 0)
    plan = domain_incremental.build(source, domain_incremental.Config(kind="natural", visits=4), 0)
    names = [f"domain-{d}-{visit}" for visit in range(4) for d in range(3)]
    assert [e.name for e in plan.experiences] == names
    assert len(plan.units) == 3
    for d, whole in enumerate(once.experiences):
        parts = [e.sample_ids for e in plan.experiences if e.units == (d,)]
        assert np.sort(np.concatenate(parts)).tolist() == whole.sample_ids.tolist()
        assert max(map(len, parts)) < len(whole.sample_ids) / 2
    many = domain_incremental.build(source, domain_incremental.Config(kind="natural", visits=100), 0)
    assert all(len(e.sample_ids) for e in many.experiences), "a visit that brings nothing is left out"


def test_permuted_domains(digits: Source) -> None:
    plan = domain_incremental.build(digits, domain_incremental.Config(domains=3), 0)
    n = len(digits)
    assert len(plan.source) == 3 * n
    assert [e.name for e in plan.experiences] == ["permuted-0", "permuted-1", "permuted-2"]
    for d, experience in enumerate(plan.experiences):
        assert (experience.sample_ids - d * n).tolist() == digits.train_ids.tolist()
        assert (plan.source.class_ids[experience.sample_ids] == digits.class_ids[digits.train_ids]).all()
        assert (plan.source.user_ids[experience.sample_ids] == digits.user_ids[digits.train_ids]).all()
    assert torch.equal(plan.source.x[:n], digits.x)
    one, two = plan.source.x[n : 2 * n], plan.source.x[2 * n :]
    for moved in (one, two):
        assert not torch.equal(moved, digits.x)
        assert torch.equal(moved.sort(1).values, digits.x.sort(1).values)  # the same values elsewhere
    assert not torch.equal(one, two)
    # One permutation for all rows: applied to a picture whose pixels are all different, it shows itself.
    order = (Key(0) / "permutation" / 1).order(np.arange(64))
    assert torch.equal(one, digits.x[:, order])


def test_rotated_domains(tools: Any) -> None:
    picture = torch.arange(16.0).view(1, 4, 4)
    source = replace(
        tools.source(num_classes=1, per_class=1, test_per_class=1, width=16), x=picture.view(1, 16).repeat(2, 1)
    )
    plan = domain_incremental.build(source, domain_incremental.Config(kind="rotated", domains=2), 0)
    assert torch.equal(plan.source.x[:2], source.x)
    quarter = plan.source.x[2].view(4, 4)
    assert torch.allclose(quarter, picture[0].rot90(1), atol=1e-4)  # 180 degrees / 2 domains, counter-clockwise


def test_domains_without_overlap_share_out_the_samples(digits: Source) -> None:
    config = domain_incremental.Config(domains=4, overlap=False, task_labels=True)
    plan = domain_incremental.build(digits, config, 0)
    assert len(plan.source) == len(digits)
    assert sorted(train_ids_of(plan)) == digits.train_ids.tolist()
    assert [e.task for e in plan.experiences] == [0, 1, 2, 3]
    assert plan.task_of is not None
    assert (plan.task_of[plan.experiences[2].sample_ids] == 2).all()
    first = torch.tensor(plan.experiences[0].sample_ids)
    assert torch.equal(plan.source.x[first], digits.x[first])


def test_natural_domains_keep_the_ids(tools: Any) -> None:
    source = tools.source(num_classes=2)
    source = replace(source, domain_ids=np.arange(len(source)) % 3)
    plan = domain_incremental.build(source, domain_incremental.Config(kind="natural"), 0)
    assert plan.source is source
    assert [e.name for e in plan.experiences] == ["domain-0", "domain-1", "domain-2"]
    for d, experience in enumerate(plan.experiences):
        assert experience.sample_ids.tolist() == [i for i in source.train_ids.tolist() if i % 3 == d]
    two = domain_incremental.build(source, domain_incremental.Config(kind="natural", domains=2), 0)
    assert len(two.experiences) == len(two.units) == 2


def test_natural_domains_need_domains(digits: Source) -> None:
    with pytest.raises(ConfigError, match="no domains of its own"):
        domain_incremental.build(digits, domain_incremental.Config(kind="natural"), 0)


def test_rows_that_are_no_squares_cannot_be_rotated(tools: Any) -> None:
    with pytest.raises(ConfigError, match="not square"):
        domain_incremental.build(tools.source(width=5), domain_incremental.Config(kind="rotated"), 0)


@pytest.mark.parametrize("kind", ["permuted", "rotated"])
def test_tokens_are_no_pixels(kind: Any) -> None:
    text = people.load(people.Config(people=12))
    with pytest.raises(ConfigError, match=f"scenario.kind: '{kind}' changes pixels, and 'people' is text. Use kind"):
        domain_incremental.build(text, domain_incremental.Config(kind=kind), 0)


def sequence(count: int, seed: int = 0, **options: Any) -> np.ndarray:
    return np.stack(recurring.class_sequence(count, recurring.Config(**options), Key(seed) / "recurring"))


@pytest.mark.parametrize(("count", "size", "gap"), [(10, 2, 5), (10, 2, 6), (10, 2, 20), (9, 4, 3), (7, 7, 1)])
@pytest.mark.parametrize("unevenness", [0.0, 8.0])
def test_recurring_gaps_are_bounded(count: int, size: int, gap: int, unevenness: float) -> None:
    drawn = sequence(count, tasks=400, classes_per_task=size, max_gap=gap, unevenness=unevenness)
    last = np.full(count, -1)
    for task, chosen in enumerate(drawn):
        assert len(set(chosen.tolist())) == size
        last[chosen] = task
        assert (task - last).max() < gap, "every class comes within any `gap` tasks"
    if gap == 20:
        free = sequence(count, tasks=400, classes_per_task=size)
        assert not np.array_equal(drawn, free)
        assert len({tuple(sorted(c)) for c in drawn.tolist()}) > 30, "it is still random"


def test_recurring_reduction_makes_what_was_just_seen_rarer() -> None:
    def repeats(**options: Any) -> float:
        drawn = sequence(10, tasks=3000, **options)
        return float(
            np.mean([len(set(a) & set(b)) for a, b in zip(drawn[:-1].tolist(), drawn[1:].tolist(), strict=True)])
        )

    assert repeats() == pytest.approx(0.4, abs=0.03)
    assert repeats(reduction=4.0) < 0.25
    assert np.array_equal(sequence(10, tasks=50), sequence(10, tasks=50, reduction=1.0))
    assert np.bincount(sequence(10, tasks=3000, reduction=4.0).reshape(-1)).min() > 550, "none is left out for good"


@pytest.mark.parametrize("gap", [None, 5])
def test_recurring_reduction_goes_on_however_long_a_phase_is(gap: int | None) -> None:
    """Of classes that come 100 times, and of others that no longer do, weights are 1e-400 apart."""
    late = sequence(10, tasks=500, phases="forgetting", reduction=1e4, max_gap=gap)[251:]
    counts = np.bincount(late.reshape(-1), minlength=10)
    assert counts[:5].min() > 80
    assert not counts[5:].any()


def test_recurring_phases() -> None:
    half = sequence(10, tasks=100, phases="forgetting")
    assert np.array_equal(half[:51], sequence(10, tasks=51)[:51]), "the first half is as ever"
    assert (half[51:] < 5).all()
    assert set(half[51:].reshape(-1).tolist()) == set(range(5))
    two = sequence(10, tasks=100, phases="two-period")
    assert (two[:50] < 5).all()
    assert (two[50:] >= 5).all(), "the second period begins with task T / 2, counted from 0"
    some = sequence(10, tasks=100, phases="two-period", subsets=0.5)
    assert (some[:50] < 5).all()
    assert (some[50:] >= 5).all()
    bounded = sequence(10, tasks=100, phases="two-period", max_gap=3)
    for period in (bounded[:50], bounded[50:]):
        for start in range(len(period) - 3):
            assert len(set(period[start : start + 3].reshape(-1).tolist())) == 5
    with pytest.raises(ConfigError, match="leaves 2 classes in a half"):
        sequence(4, tasks=10, classes_per_task=3, phases="forgetting")


def test_recurring_subsets() -> None:
    drawn = sequence(6, tasks=2000, classes_per_task=2, subsets=0.4)
    found, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(found) == 6  # 0.4 of 15
    assert counts.min() > 2000 / 6 * 0.8
    assert not np.array_equal(found, np.unique(sequence(6, 1, tasks=2000, subsets=0.4), axis=0))
    with pytest.raises(ConfigError, match="too many to list"):
        sequence(100, tasks=10, classes_per_task=6, subsets=0.5)
    with pytest.raises(ConfigError, match="subsets"):
        sequence(6, tasks=10, subsets=0.5, max_gap=5)


def test_recurring_gaps_that_cannot_be_met_are_refused() -> None:
    with pytest.raises(ConfigError, match="Choose at least 5"):
        sequence(10, tasks=10, max_gap=4)


def test_recurring_deletions_do_not_move_the_sequence(digits: Source) -> None:
    plan = recurring.build(digits, recurring.Config(tasks=40), 0)
    scheduled = [Learn(i) for i in range(40)]
    plain = assemble(plan, scheduled, Service(), Key(0))
    first = plan.experiences[0].units[0]
    deleted = assemble(plan, [*scheduled[:10], RequestSpec("class", (first,)), *scheduled[10:]], Service(), Key(0))
    rest = [e for e in deleted.events if isinstance(e, Experience)]
    assert [e.sample_ids.tolist() for e in rest] == [e.sample_ids.tolist() for e in plain.experiences]
    later = admitted(deleted.events)[11:]
    assert any(first in e.units for e in later)
    assert all(not (digits.class_ids[e.sample_ids] == first).any() for e in later), "a deleted class does not come back"


def test_recurring_only_has_units_for_its_classes(digits: Source) -> None:
    plan = recurring.build(digits, recurring.Config(tasks=20, classes=4), 0)
    assert len(plan.units) == 4
    for experience in plan.experiences:
        taught = {c for u in experience.units for c in plan.units[u].classes}
        assert set(digits.class_ids[experience.sample_ids].tolist()) == taught
