"""ARCANE: distances by hand, who is never the answer, and what a request costs and leaves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from strategies.isolated.arcane import Arcane, Config
from strategies.parts.model import digest
from strategies.parts.sharding.deltas import unpack
from strategies.parts.sharding.stages import partition
from strategies.step import step
from streams.events import DeletionRequest, Experience, Request
from streams.ledger import Ledger
from streams.randomness import Key
from streams.source import Source


@pytest.fixture(scope="module")
def source(tools: Any) -> Source:
    """Four classes, each spread out more than the one before; of the last nothing will be taught."""
    made: Source = tools.source(num_classes=4, per_class=24, test_per_class=6)
    spread = torch.tensor([0.3, 1.0, 3.0, 1.0])
    centres = torch.stack([made.x[made.y == c].mean(0) for c in range(4)])
    made.x.copy_(centres[made.y] + spread[made.y].unsqueeze(1) * (made.x - centres[made.y]))
    return made


def of_classes(source: Source, *classes: int) -> np.ndarray:
    return np.flatnonzero(np.isin(source.class_ids, classes) & ~source.is_test)


def request(ids: np.ndarray) -> DeletionRequest:
    return DeletionRequest("request-0", (Request("sample", tuple(ids.tolist()), ids, ids[:0], 1),))


def live(tools: Any, source: Source, *events: Any, **options: Any) -> tuple[Arcane, list[Any]]:
    strategy = Arcane(Config.model_validate({"blocks": 3} | options), tools.setting(source, epochs=4, lr=0.05))
    ledger = Ledger(source)
    return strategy, [step(strategy, event, ledger).outcome for event in events]


def everything(source: Source, without: Any = ()) -> Experience:
    return Experience("all", (), np.setdiff1d(of_classes(source, 0, 1, 2), without))


@torch.no_grad()
def by_hand(tools: Any, source: Source, strategy: Arcane, c: int, x: torch.Tensor) -> torch.Tensor:
    """Minus the squared distances of `x` to the centre of class c, in units of their mean over its training data."""
    fresh, trained = tools.setting(source).make_model(), tools.setting(source).make_model()
    unpack(trained, strategy._chains[c].state)
    fresh.train(False)
    trained.train(False)
    ids = of_classes(source, c)
    first = ids[partition(ids, 3, Key(0) / "arcane" / "block") == 0]
    centre = fresh.features(source.x[first]).mean(0)
    unit = (trained.features(source.x[ids]) - centre).square().sum(1).mean()
    return -(trained.features(x) - centre).square().sum(1) / unit


def test_a_class_speaks_by_its_distance_in_units_of_its_spread(tools: Any, source: Source) -> None:
    """The centre is the first block's mean feature before training, and stays while later blocks are learned."""
    strategy, _ = live(tools, source, everything(source))
    tests = Ledger(source).lend(np.flatnonzero(source.is_test)).all()
    outputs = strategy.predict(tests)
    units = [float(strategy._load(strategy._chains[c].state)[1]) for c in range(3)]
    assert units[2] > 3 * units[0], "without units the widest class would never speak"
    for c in range(3):
        torch.testing.assert_close(outputs[:, c], by_hand(tools, source, strategy, c, tests.x), rtol=1e-4, atol=1e-5)
    known = tests.y < 3
    assert float((outputs.argmax(1) == tests.y)[known].float().mean()) > 0.8


def test_a_class_without_a_model_is_never_the_answer(tools: Any, source: Source) -> None:
    """One that was never taught, and one that was deleted as a whole; their outputs are finite, below all others."""
    tests = Ledger(source).lend(np.flatnonzero(source.is_test)).all()
    strategy, outcomes = live(tools, source, everything(source), request(of_classes(source, 1)))
    outputs = strategy.predict(tests)
    assert set(outputs.argmax(1).tolist()) == {0, 2}
    below = outputs[:, [0, 2]].min(1).values - 1
    assert torch.equal(outputs[:, 1], below)
    assert torch.equal(outputs[:, 3], below)
    assert (outcomes[1].steps, outcomes[1].exactness) == (0, "bits")
    nobody, _ = live(tools, source)
    assert not nobody.predict(tests).any()


@pytest.mark.parametrize("part", [0, 2])
def test_forgetting_equals_never_seeing_and_costs_one_class(part: int, tools: Any, source: Source) -> None:
    ids = of_classes(source, 1)
    gone = ids[partition(ids, 3, Key(0) / "arcane" / "block") == part][:1]
    before, _ = live(tools, source, everything(source))
    after, outcomes = live(tools, source, everything(source), request(gone))
    never, _ = live(tools, source, everything(source, gone))
    assert digest(after.state_dict()) == digest(never.state_dict())
    assert outcomes[1].notes == {"stages": 3.0 - part}
    chains = [[digest(s._chains[c].state_dict()) for c in range(3)] for s in (before, after)]
    assert [one == other for one, other in zip(*chains, strict=True)] == [True, False, True]
    assert after.holds(gone) == {}


def test_it_learns_digits(tools: Any, digits: Source) -> None:
    setting = tools.setting(digits, hidden=32, epochs=5, lr=0.01, batch_size=16)
    strategy, ledger = Arcane(Config(blocks=1), setting), Ledger(digits)
    step(strategy, Experience("all", (), digits.train_ids), ledger)
    tests = ledger.lend(np.flatnonzero(digits.is_test)).all()
    assert float((strategy.predict(tests).argmax(1) == tests.y).float().mean()) > 0.8


def test_a_share_of_each_class_is_kept_by_name(tools: Any, source: Source) -> None:
    """Deleting what was left out costs nothing and changes nothing."""
    ids = of_classes(source, 0, 1, 2)
    kept = ids[(Key(0) / "arcane" / "keep").uniform(ids) < 0.5]
    left_out = np.setdiff1d(ids, kept)
    assert 20 < len(kept) < 50
    before, _ = live(tools, source, everything(source), keep=0.5)
    derived = np.concatenate(list(before.holds(ids).values()))
    assert np.sort(derived).tolist() == kept.tolist()
    after, outcomes = live(tools, source, everything(source), request(left_out), keep=0.5)
    assert (outcomes[1].steps, outcomes[1].exactness) == (0, "bits")
    assert digest(after.state_dict()) == digest(before.state_dict())
