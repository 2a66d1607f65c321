"""Sources with manipulated data, requests that name part of it, and who can see what."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lifelong.config.run import RunConfig
from lifelong.evaluation.planning import plan_evaluation
from lifelong.metrics.snapshots.corrective import recovery
from lifelong.references.points import Point, chain
from lifelong.setup.build import make_strategy
from lifelong.setup.preparation import prepare
from strategies.parts.model import digest
from strategies.step import step
from streams.errors import ConfigError
from streams.events import DeletionRequest
from streams.ledger import Ledger
from streams.source import Source
from streams.sources import corrupted, digits


def load(**options: Any) -> Source:
    return corrupted.load(corrupted.Config.model_validate(options))


@pytest.fixture(scope="module")
def clean() -> Source:
    return digits.load(digits.Config())


def images(folder: Path) -> Path:
    """40 colour images of 6 x 6 pixels in two classes."""
    draw = np.random.default_rng(0)
    np.savez(folder / "images.npz", x=draw.random((40, 3, 6, 6), dtype=np.float32), y=np.arange(40) % 2)
    return folder / "images.npz"


def test_a_backdoor_is_where_it_should_be(clean: Source) -> None:
    source = load(samples=30, target=2)
    bad = source.corruption
    assert bad is not None
    n = len(clean)
    assert source.x.shape == (n + len(bad.extra), 64 + 4)
    triggered = (source.x[:, -4:] == 3.0).all(1).numpy()
    assert np.flatnonzero(triggered).tolist() == sorted([*bad.samples, *bad.affected, *bad.attack])
    assert (source.x[~torch.from_numpy(triggered), -4:] == 0).all()
    assert torch.equal(source.x[:n, :64], clean.x), "nothing else changes"
    assert set(source.class_ids[bad.samples]) == {2}
    others = np.setdiff1d(np.arange(n), bad.samples)
    assert np.array_equal(source.class_ids[others], clean.class_ids[others])
    assert np.array_equal(source.y.numpy(), source.class_ids)
    # What is measured has true labels; what the attacker wants has his.
    assert np.array_equal(bad.unaffected, clean.test_ids)
    assert np.array_equal(source.class_ids[bad.affected], clean.class_ids[clean.test_ids])
    assert set(source.class_ids[bad.attack]) == {2}
    assert len(bad.attack) == (clean.class_ids[clean.test_ids] != 2).sum()
    assert source.is_test[bad.extra].all()
    assert not source.is_test[bad.samples].any()


def test_the_patch_has_the_highest_value_of_its_channel(tmp_path: Path) -> None:
    source = load(of={"name": "arrays", "path": str(images(tmp_path))}, samples=8, patch=3)
    plain = corrupted.resolve("sources", corrupted.Named(name="arrays", path=str(tmp_path / "images.npz")), "")
    clean = plain[0].load(plain[1])
    bad = source.corruption
    assert bad is not None
    highest = clean.x.amax(dim=(0, 2, 3))
    for rows in (bad.samples, bad.affected, bad.attack):
        assert torch.equal(source.x[rows, :, -3:, -3:], highest[:, None, None].expand(len(rows), 3, 3, 3))
    assert torch.equal(source.x[bad.samples, :, :3], clean.x[bad.samples, :, :3])


def test_confusion_swaps_exactly_as_many_labels(clean: Source) -> None:
    source = load(manipulation="confusion", samples=40, classes=[3, 5])
    bad = source.corruption
    assert bad is not None
    n = len(clean)
    changed = np.flatnonzero(source.class_ids[:n] != clean.class_ids)
    assert np.array_equal(changed, bad.samples)
    assert [(clean.class_ids[changed] == c).sum() for c in (3, 5)] == [20, 20]
    assert np.array_equal(source.class_ids[changed], 8 - clean.class_ids[changed])
    assert torch.equal(source.x[:n], clean.x)
    assert set(source.class_ids[bad.affected]) == {3, 5}
    assert not set(source.class_ids[bad.unaffected]) & {3, 5}
    assert np.array_equal(source.class_ids[bad.attack], 8 - source.class_ids[bad.affected])
    assert torch.equal(source.x[bad.attack], source.x[bad.affected])


def test_more_samples_include_fewer() -> None:
    few, many = (load(samples=k).corruption for k in (10, 40))
    assert few is not None
    assert many is not None
    assert np.isin(few.samples, many.samples).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 2000}, "2000 is more than the"),
        ({"target": 10}, "no class 10"),
        ({"manipulation": "confusion", "classes": [3, 3]}, "confused with itself"),
        ({"manipulation": "confusion", "samples": 300}, "training samples of class"),
        ({"of": "digitts"}, "source.of: 'digitts' is not known"),
        ({"of": "people"}, "source.of: 'people' is text"),
    ],
)
def test_what_cannot_be_manipulated_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(**options)


CONFIG: dict[str, Any] = {
    "source": {"name": "corrupted", "of": "digits", "samples": 40, "target": 9},
    "scenario": {"name": "class-incremental", "experiences": 5},
    "schedule": {"name": "corrective", "found": 0.5, "requests": 2},
    "model": {"name": "mlp", "hidden": [8]},
    "references": {"kinds": ["clean"]},
}


def stream_of(**changes: Any) -> Any:
    return prepare(RunConfig.model_validate(CONFIG | changes)).stream


def test_part_is_named_and_the_rest_stays_in_the_retained_data() -> None:
    stream = stream_of()
    bad = stream.source.corruption
    requests = stream.requests
    assert [r.reason for r in requests] == ["correct", "correct"]
    named = np.unique(np.concatenate([r.sample_ids for r in requests]))
    assert len(named) == 20
    assert np.isin(named, bad.samples).all()
    ledger = Ledger(stream.source)
    for event in stream.events:
        if isinstance(event, DeletionRequest):
            ledger.delete(event)
        else:
            ledger.admit(event)
    left = np.setdiff1d(bad.samples, named)
    assert np.isin(left, ledger.live_ids).all()
    batch = ledger.lend(left).all()
    assert set(batch.y.tolist()) == {9}, "with its wrong labels"
    assert (batch.x[:, -4:] == 3.0).all(), "and its trigger"
    # A larger find includes a smaller one.
    more = stream_of(schedule={"name": "corrective", "found": 0.8}).requests[0]
    assert np.isin(named, more.sample_ids).all()
    assert len(more.sample_ids) == 32


def test_no_unit_counts_what_only_shows_the_damage() -> None:
    stream = stream_of()
    bad = stream.source.corruption
    for unit in stream.units:
        assert not np.isin(unit.test_ids, bad.extra).any()
    plan = plan_evaluation(stream, RunConfig().evaluation)
    for audit in plan.requests:
        assert not np.isin(plan.ids[audit.non_members], bad.extra).any()
    damage = plan.damage
    assert damage is not None
    assert np.array_equal(plan.ids[damage.affected], bad.affected)
    assert damage.live[-1].sum() == 20
    assert damage.live[4].sum() == 40


def test_the_clean_reference_has_no_bad_sample() -> None:
    stream = stream_of()
    last = len(stream.events) - 1
    clean, retrained = (chain(stream, Point(kind, last)) for kind in ("clean", "retrained"))
    bad = stream.source.corruption.samples
    assert not any(np.isin(e.sample_ids, bad).any() for e in clean)
    assert sum(len(e.sample_ids) for e in retrained) - sum(len(e.sample_ids) for e in clean) == 20


def test_no_weight_depends_on_what_is_only_measured() -> None:
    """Labels of test data, the affected ones included, may be anything while a strategy lives."""
    config = RunConfig.model_validate(CONFIG | {"strategies": {"ssd": {"unlearner": {"name": "ssd", "alpha": 3.0}}}})
    p = prepare(config)
    blank = replace(p.stream.source, y=p.stream.source.y.clone())
    blank.y[p.stream.source.is_test] = -1
    found = []
    for source in (p.stream.source, blank):
        strategy, ledger = make_strategy(config.strategies["ssd"], p.setting, "ssd"), Ledger(source)
        for event in p.stream.events:
            step(strategy, event, ledger)
        found.append(digest(strategy.state_dict()))
    assert found[0] == found[1]


def test_requests_are_spread() -> None:
    schedule = {"name": "corrective", "found": 1.0, "after": 5, "requests": 3}
    names = [e.name for e in stream_of(schedule=schedule).events]
    assert names == ["task-0", "task-1", "task-2", "task-3", "task-4", "request-0", "request-1", "request-2"]
    spread = {"name": "corrective", "found": 1.0, "after": 2, "requests": 2, "every": 2}
    source = CONFIG["source"] | {"target": 0}
    names = [e.name for e in stream_of(schedule=spread, source=source).events]
    assert names == ["task-0", "task-1", "request-0", "task-2", "task-3", "request-1", "task-4"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "digits", "references": {"kinds": []}}, "needs manipulated data"),
        ({"source": "digits", "schedule": "none"}, "'clean' needs manipulated data"),
        ({"schedule": {"name": "corrective", "after": 9}}, "past the last of 5"),
        ({"schedule": {"name": "corrective", "after": 1}}, "none of the 20 samples"),
        ({"scenario": {"name": "domain-incremental"}}, "makes new samples of its own"),
    ],
)
def test_what_cannot_be_corrected_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        stream_of(**changes)


def test_options_of_the_inner_source_are_written_out() -> None:
    config = RunConfig.model_validate(CONFIG)
    written = config.resolved()["source"]["of"]
    assert written["name"] == "digits"
    assert written["users"] == 20
    again = RunConfig.model_validate(CONFIG | {"source": CONFIG["source"] | {"of": {"name": "digits", "users": 20}}})
    assert again.resolved() == config.resolved()
    with pytest.raises(ConfigError, match=r"source\.of\.userz"):
        RunConfig.model_validate(
            CONFIG | {"source": CONFIG["source"] | {"of": {"name": "digits", "userz": 1}}}
        ).resolved()


def test_recovery() -> None:
    assert recovery(0.1, 0.1, 0.9, 400) == 0.0
    assert recovery(0.9, 0.1, 0.9, 400) == 1.0
    assert recovery(0.05, 0.1, 0.9, 400) == pytest.approx(-0.0625)
    assert recovery(0.5, 0.88, 0.9, 400) is None
