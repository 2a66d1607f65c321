"""SISA: exact to the bit, at the cost of the closed form, with checkpoints that hold nothing deleted."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any, final

import numpy as np
import pytest
import torch

from strategies.isolated.sisa import Config, Recipe, Sisa, stage_epochs
from strategies.parts.fit import Hooks, fit
from strategies.parts.model import digest, num_bytes
from strategies.parts.sharding.deltas import decode, encode, pack, unpack
from strategies.parts.sharding.ensembles import mean_probability, vote
from strategies.parts.sharding.stages import partition
from strategies.step import step
from streams.events import DeletionRequest, Experience, Request
from streams.ledger import Ledger
from streams.randomness import Key

SHARDS, SLICES = 3, 4


@pytest.fixture(scope="module")
def source(tools: Any) -> Any:
    return tools.source(num_classes=4, per_class=30, test_per_class=5)


def request(*ids: int, number: int = 0) -> DeletionRequest:
    rows = np.array(sorted(ids))
    return DeletionRequest(f"request-{number}", (Request("sample", tuple(ids), rows, rows[:0], 1),))


def live(tools: Any, source: Any, events: list[Any], config: Config | None = None, **training: Any) -> Any:
    """The strategy after `events`, its ledger, and the outcomes."""
    strategy = Sisa(config or Config(shards=SHARDS, slices=SLICES), tools.setting(source, **training))
    ledger = Ledger(source)
    return strategy, ledger, [step(strategy, event, ledger).outcome for event in events]


def everything(source: Any, without: tuple[int, ...] = ()) -> Experience:
    return Experience("all", (), np.setdiff1d(source.train_ids, without))


def places(source: Any) -> tuple[np.ndarray, np.ndarray]:
    key = Key(0) / "sisa"
    ids = source.train_ids
    return partition(ids, SHARDS, key / "shard"), partition(ids, SLICES, key / "slice")


def test_deleting_equals_never_seeing(tools: Any, source: Any) -> None:
    """One sample of a first, a middle and a last slice: every shard is, bit for bit, that of a life without it."""
    ids, (shard_of, slice_of) = source.train_ids, places(source)
    before = live(tools, source, [everything(source)])[0].state_dict()["shards"]
    for part in (0, 2, SLICES - 1):
        x = int(ids[(shard_of == 1) & (slice_of == part)][0])
        after = live(tools, source, [everything(source), request(x)])[0].state_dict()["shards"]
        never = live(tools, source, [everything(source, (x,))])[0].state_dict()["shards"]
        assert digest(after) == digest(never)
        assert digest(after[1]) != digest(before[1])
        # Checkpoints from before the slice are those that were there.
        assert [s["delta"].tolist() for s in after[1][:part]] == [s["delta"].tolist() for s in before[1][:part]]
        for untouched in (0, 2):
            assert digest(after[untouched]) == digest(before[untouched])


def test_class_weights_from_all_data_are_caught(tools: Any, source: Any) -> None:
    """A negative control: losses weighted by how often each class was seen, deleted samples counted."""
    counts = torch.ones(4)

    @final
    class Weigh(Hooks):
        def losses(self, losses: torch.Tensor, outputs: torch.Tensor, batch: Any) -> torch.Tensor:
            return losses / counts[batch.y]

    def weighted(model: Any, setting: Any, data: Any, training: Any, key: Any) -> Any:
        return fit(model, setting.objective, data, training, key, [Weigh()])

    x = int(source.train_ids[7])
    digests = {}
    for faulty in (False, True):
        states = []
        for events in ([everything(source), request(x)], [everything(source, (x,))]):
            seen = source.y[events[0].sample_ids] if faulty else torch.arange(4)
            counts.copy_(torch.bincount(seen, minlength=4))
            strategy = Sisa(
                Config(shards=SHARDS, slices=SLICES), tools.setting(source), Recipe(partition, fit=weighted)
            )
            ledger = Ledger(source)
            for event in events:
                step(strategy, event, ledger)
            states.append(digest(strategy.state_dict()))
        digests[faulty] = states
    assert digests[False][0] == digests[False][1]
    assert digests[True][0] != digests[True][1]


def test_a_generator_per_stage_is_no_fault(tools: Any, source: Any) -> None:
    """Positional shuffling from a generator named by shard, stage and epoch is exact, too: no control."""

    @final
    class Noisy(Hooks):
        def __init__(self, key: Key) -> None:
            self._generator = key.torch()

        def losses(self, losses: torch.Tensor, outputs: torch.Tensor, batch: Any) -> torch.Tensor:
            return losses * torch.rand(len(losses), generator=self._generator)

    def drawn(model: Any, setting: Any, data: Any, training: Any, key: Any) -> Any:
        return fit(model, setting.objective, data, training, key, [Noisy(key / "generator")])

    x = int(source.train_ids[7])
    states = []
    for events in ([everything(source), request(x)], [everything(source, (x,))]):
        strategy = Sisa(Config(shards=SHARDS, slices=SLICES), tools.setting(source), Recipe(partition, fit=drawn))
        ledger = Ledger(source)
        for event in events:
            step(strategy, event, ledger)
        states.append(digest(strategy.state_dict()))
    assert states[0] == states[1]


def test_every_stage_has_randomness_of_its_own(tools: Any, source: Any) -> None:
    """No two stages of any shard are named alike: otherwise all shards would meet the same noise."""
    keys: list[Key] = []

    def noted(model: Any, setting: Any, data: Any, training: Any, key: Key) -> Any:
        keys.append(key)
        return fit(model, setting.objective, data, training, key)

    strategy = Sisa(Config(shards=SHARDS, slices=SLICES), tools.setting(source), Recipe(partition, fit=noted))
    step(strategy, everything(source), Ledger(source))
    assert len({key.path for key in keys}) == len(keys) == SHARDS * SLICES


def test_order_and_batching_make_no_difference(tools: Any, source: Any) -> None:
    x, y = (int(i) for i in source.train_ids[[3, 50]])
    lives = [
        [everything(source), request(x), request(y, number=1)],
        [everything(source), request(y), request(x, number=1)],
        [everything(source), request(x, y)],
        [everything(source, (x, y))],
    ]
    assert len({digest(live(tools, source, events)[0].state_dict()) for events in lives}) == 1


def test_untouched_shards_are_not_trained(tools: Any, source: Any) -> None:
    shard_of, slice_of = places(source)
    x = int(source.train_ids[(shard_of == 2) & (slice_of == SLICES - 1)][0])
    strategy, ledger, _ = live(tools, source, [everything(source)])
    states = [chain.state for chain in strategy._chains]
    outcome = step(strategy, request(x), ledger).outcome
    assert [chain.state is state for chain, state in zip(strategy._chains, states, strict=True)] == [True, True, False]
    assert outcome.notes == {"stages": 1.0}


def even(source: Any, each: int = 2) -> np.ndarray:
    """As many samples for every shard and slice."""
    ids, (shard_of, slice_of) = source.train_ids, places(source)
    cells = [ids[(shard_of == k) & (slice_of == s)][:each] for k in range(SHARDS) for s in range(SLICES)]
    assert all(len(c) == each for c in cells)
    return np.sort(np.concatenate(cells))


@pytest.mark.parametrize("trains_on", ["cumulative", "slice"])
def test_cost_is_the_closed_form(tools: Any, source: Any, trains_on: Any) -> None:
    """Sample visits of one request, averaged over all slices: e n (L + 1)(2L + 1) / 6 with slices of n samples, less
    what the deleted sample itself would have cost in the stages that are trained again."""
    ids, (shard_of, slice_of) = even(source), places(source)
    config = Config(shards=SHARDS, slices=SLICES, trains_on=trains_on, epochs="training")
    visits, e, n = [], 2, 2
    learned = Experience("all", (), ids)
    for k in range(SHARDS):
        for s in range(SLICES):
            inside = source.train_ids[(shard_of == k) & (slice_of == s)]
            x = int(np.intersect1d(ids, inside)[0])
            *_, outcomes = live(tools, source, [learned, request(x)], config)
            visits.append(outcomes[-1].backward)
            assert outcomes[-1].notes["stages"] == SLICES - s
    if trains_on == "cumulative":
        assert outcomes[0].backward == e * len(ids) * (SLICES + 1) / 2
        assert np.mean(visits) == e * (n * (SLICES + 1) * (2 * SLICES + 1) / 6 - (SLICES + 1) / 2)
    else:
        assert outcomes[0].backward == e * len(ids)
        assert np.mean(visits) == e * (n * (SLICES + 1) / 2 - 1)


def test_a_batch_uses_the_smallest_slice_once(tools: Any, source: Any) -> None:
    shard_of, slice_of = places(source)
    early = int(source.train_ids[(shard_of == 0) & (slice_of == 1)][0])
    late = int(source.train_ids[(shard_of == 0) & (slice_of == 3)][0])
    *_, outcomes = live(tools, source, [everything(source), request(early, late)])
    assert outcomes[-1].notes["stages"] == SLICES - 1


def test_no_checkpoint_of_the_deleted_is_left(tools: Any, source: Any) -> None:
    """Neither memory nor what is saved can bring the sample back."""
    x = int(source.train_ids[7])
    strategy, ledger, _ = live(tools, source, [everything(source)])
    old = {
        s["delta"].numpy().tobytes() for chain in strategy.state_dict()["shards"] for s in chain if x in s["derived"]
    }
    assert len(old) == 1
    step(strategy, request(x), ledger)
    buffer = io.BytesIO()
    torch.save(strategy.state_dict(), buffer)
    assert not any(delta in buffer.getvalue() for delta in old)
    assert strategy.holds(np.array([x])) == {}
    again = Sisa(Config(shards=SHARDS, slices=SLICES), tools.setting(source))
    buffer.seek(0)
    again.load_state_dict(torch.load(buffer, weights_only=True))
    assert again.holds(np.array([x])) == {}
    data = ledger.lend(source.test_ids).all()
    assert torch.equal(again.predict(data), strategy.predict(data))


def test_fresh_randomness_is_exact_in_law_only(tools: Any, source: Any) -> None:
    x = int(source.train_ids[7])
    config = Config(shards=SHARDS, slices=SLICES, fresh="stages")
    strategy, ledger, outcomes = live(tools, source, [everything(source), request(x)], config)
    assert outcomes[-1].exactness == "law"
    never = live(tools, source, [everything(source, (x,))], config)[0]
    assert digest(strategy.state_dict()) != digest(never.state_dict())
    other = replace(source, x=source.x.clone())
    other.x[x] = 9.0
    altered = live(tools, other, [everything(source), request(x)], config)[0]
    assert digest(strategy.state_dict()) == digest(altered.state_dict())


def test_everything_fresh_has_another_partition(tools: Any, source: Any) -> None:
    x, y = (int(i) for i in source.train_ids[[7, 8]])
    config = Config(shards=SHARDS, slices=1, fresh="everything")
    events = [everything(source), request(x), request(y, number=1)]
    strategy, ledger, outcomes = live(tools, source, events, config)
    shard_of = partition(ledger.live_ids, SHARDS, Key(0) / "sisa" / "request-1" / "shard")
    for number, chain in enumerate(strategy._chains):
        assert chain.stages[0].ids.tolist() == ledger.live_ids[shard_of == number].tolist()
    assert outcomes[-1].exactness == "law"
    again = Sisa(config, tools.setting(source))
    again.load_state_dict(strategy.state_dict())
    assert digest(again.state_dict()) == digest(strategy.state_dict())
    more = Experience("more", (), source.train_ids[:0])
    assert again.learn(more, ledger.door(again.access, more.sample_ids)).steps == 0


def test_deltas_are_lossless_and_smaller(tools: Any, source: Any) -> None:
    strategy, *_ = live(tools, source, [everything(source)], hidden=64)
    model = strategy._model
    whole = model.num_bytes() * SHARDS * SLICES
    assert num_bytes(strategy.state_dict()) < 0.9 * whole
    packed = pack(model)
    model.parameters.mul_(1.0001)
    moved = pack(model)
    assert np.array_equal(decode(encode(moved, packed), packed), moved)
    unpack(model, packed)
    assert np.array_equal(pack(model), packed)


def test_votes() -> None:
    votes = torch.tensor([[[3.0, 1.0, -torch.inf]], [[0.0, 1.0, -torch.inf]]])
    assert vote(votes).argmax(1).tolist() == [0], "of equal votes the lowest class wins"
    assert vote(votes)[0, 2] == -torch.inf
    # Of text every position has a vote of its own, and is what it would be alone.
    logits = torch.randn(3, 2, 4, 7, generator=torch.Generator().manual_seed(0))
    for together in (vote, mean_probability):
        assert torch.equal(together(logits)[:, 2], together(logits[:, :, 2]))
    p = torch.tensor([[[0.7, 0.3]], [[0.1, 0.9]]])
    torch.testing.assert_close(mean_probability(p.log()).exp(), torch.tensor([[0.4, 0.6]]))


@pytest.mark.parametrize(("aggregate", "said"), [("vote", vote), ("mean", mean_probability)])
def test_shards_answer_as_is_asked_for(aggregate: Any, said: Any, tools: Any, source: Any) -> None:
    config = Config(shards=SHARDS, slices=1, aggregate=aggregate)
    strategy, ledger, _ = live(tools, source, [everything(source)], config)
    data = ledger.lend(np.flatnonzero(source.is_test)).all()
    shards = strategy.constituents(data)
    assert len(shards) == SHARDS
    assert torch.equal(strategy.predict(data), said(torch.stack(shards)))


def test_epoch_rule() -> None:
    assert [stage_epochs(10, slices) for slices in (1, 3, 4, 9)] == [10, 5, 4, 2]
