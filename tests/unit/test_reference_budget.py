"""Which requests get references, and what these cost."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch

from lifelong.config.run import ReferenceKind, ReferencesConfig
from lifelong.references.points import chain, requests_with_references, wanted_points
from lifelong.references.size import size_of
from lifelong.references.snapshot import Snapshot
from streams.plan import Learn, RequestSpec, Service, assemble
from streams.randomness import Key
from streams.scenarios import class_incremental
from streams.stream import Stream


@pytest.fixture
def stream(tools: Any) -> Stream:
    plan = class_incremental.build(tools.source(), class_incremental.Config(experiences=2), 0)
    scheduled = [Learn(0), *(RequestSpec("sample", (s,)) for s in (0, 1, 2, 3, 8, 9, 10)), Learn(1)]
    return assemble(plan, scheduled, Service(), Key(0))


def test_a_budget_draws_by_name_and_a_larger_one_only_adds(stream: Stream) -> None:
    drawn = [set(requests_with_references(stream, ReferencesConfig(most=n))) for n in range(9)]
    assert [len(d) for d in drawn] == [0, 1, 2, 3, 4, 5, 6, 7, 7]
    assert all(less < more for less, more in zip(drawn[:7], drawn[1:8], strict=True))
    assert drawn[3] != {0, 1, 2}
    assert [ReferencesConfig(most=n).num_beside(7) for n in range(9)] == [len(d) for d in drawn]
    assert requests_with_references(stream, ReferencesConfig()) == tuple(range(7))
    assert requests_with_references(stream, ReferencesConfig(every=3)) == (2, 5)
    assert set(requests_with_references(stream, ReferencesConfig(every=2, most=2))) < {1, 3, 5}
    assert ReferencesConfig(every=2, most=2).num_beside(7) == 2


def test_geometric_references_are_few_and_mostly_early(stream: Stream) -> None:
    geometric = ReferencesConfig(every="geometric")
    assert requests_with_references(stream, geometric) == (0, 1, 2, 3, 5)
    assert [n + 1 for n in geometric.numbers(100)] == [1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91]
    assert geometric.numbers(0) == []
    assert geometric.numbers(6) == geometric.numbers(100)[:5], "more requests add to what fewer have"
    assert ReferencesConfig(every="geometric", most=2).num_beside(100) == 2
    assert geometric.num_beside(100) == 13


def test_references_always_stand_beside_the_last_event(stream: Stream) -> None:
    points = wanted_points(stream, ReferencesConfig(kinds=("retrained", "no-op"), every=4))
    assert [(p.kind, p.event, p.request) for p in points] == [
        ("retrained", 4, None),
        ("retrained", 8, None),
        ("no-op", 4, 3),
        ("no-op", 8, 3),
    ]


def test_size_counts_shared_events_once(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ReferencesConfig()
    lives = [[tuple(e.sample_ids.tolist()) for e in chain(stream, p)] for p in wanted_points(stream, config)]
    prefixes = {tuple(life[: n + 1]) for life in lives for n in range(len(life))}
    size = size_of(stream, config)
    assert (size.references, size.is_exact) == (8, True)
    assert size.events == len(prefixes) == 8
    assert size.samples == size.retrained == sum(len(p[-1]) for p in prefixes)
    assert size_of(stream, ReferencesConfig(kinds=())).samples == 0
    monkeypatch.setattr("lifelong.references.size._MOST_EVENTS", 2 * len(stream.events))
    rough = size_of(stream, config)
    assert (rough.references, rough.is_exact) == (8, False)
    assert rough.samples == pytest.approx(size.samples, rel=0.3)
    assert rough.retrained == rough.samples, "all of them are lives of retraining"


@pytest.mark.parametrize("kind", get_args(ReferenceKind))
def test_lives_of_another_seed_or_another_way_share_no_event(kind: ReferenceKind, stream: Stream) -> None:
    alone = size_of(stream, ReferencesConfig(kinds=(kind,)))
    retrained = size_of(stream, ReferencesConfig(kinds=("retrained",)))
    both = size_of(stream, ReferencesConfig(kinds=("retrained", kind)))
    assert both.references == retrained.references + alone.references
    if kind in {"retrained", "clean"}:  # of the same seed, and here the same events
        assert both.events == retrained.events
    else:  # another seed, the strategy itself, everything at once or nothing; or an experience that is whole
        assert both.events == retrained.events + alone.events
        assert both.samples == retrained.samples + alone.samples
        of_the_same_seed = kind in {"original", "withheld", "fresh"}
        assert both.retrained == retrained.samples + (alone.samples if of_the_same_seed else 0)


def test_a_snapshot_comes_back_as_it_was() -> None:
    weights = torch.arange(3.0)
    state = {"weights": weights, "many": [(torch.ones(2), 1), "text"], "nothing": None}
    back = Snapshot(state).state()
    assert torch.equal(back["weights"], weights)
    assert torch.equal(back["many"][0][0], torch.ones(2))
    assert (back["many"][0][1], back["many"][1], back["nothing"]) == (1, "text", None)
    assert isinstance(back["many"][0], tuple)


def test_tensors_go_back_to_their_devices() -> None:
    state = Snapshot({"a": torch.ones(2), "b": torch.ones(3)})
    state._devices[1] = torch.device("meta")
    back = state.state()
    assert [t.device.type for t in back.values()] == ["cpu", "meta"]
    assert np.array_equal(back["a"].numpy(), np.ones(2))
