"""S3T: what is left after a request never saw the slice, costs nothing to get, and is what theory says it is."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from strategies.isolated._adapters import AdapterHost, LowRank, layers_of
from strategies.isolated.s3t import S3T, Config, Recipe
from strategies.parts.model import FlatModel, Network, digest, num_bytes
from strategies.parts.sharding.sequences import prefixes, rotations
from strategies.parts.sharding.stages import partition
from strategies.step import ledger_after, restore, step
from streams.errors import ConfigError
from streams.events import DeletionRequest, Experience, Request, Unit
from streams.ledger import Ledger
from streams.randomness import Key, seeded_globals

M, L, B = 2, 3, 2


@pytest.fixture(scope="module")
def source(tools: Any) -> Any:
    return tools.source(num_classes=4, per_class=30, test_per_class=5)


def config(**options: Any) -> Config:
    return Config.model_validate({"shards": M, "slices": L, "sequences": B, "rank": 2, "alpha": 2.0} | options)


def build(tools: Any, source: Any, options: Config, recipe: Recipe | None = None, seed: int = 0) -> S3T:
    """On an MLP with three hidden layers."""
    setting = replace(tools.setting(source), key=Key(seed), make_model=lambda: tools.mlp((5, 8, 8, 8, 4)))
    return S3T(options, setting) if recipe is None else S3T(options, setting, recipe)


def request(*ids: int, number: int = 0) -> DeletionRequest:
    rows = np.array(sorted(ids))
    return DeletionRequest(f"request-{number}", (Request("sample", tuple(ids), rows, rows[:0], 1),))


def live(strategy: S3T, source: Any, *events: Any) -> Any:
    ledger = Ledger(source)
    return ledger, [step(strategy, event, ledger).outcome for event in events]


def everything(source: Any, without: Any = ()) -> Experience:
    return Experience("all", (), np.setdiff1d(source.train_ids, without))


def cell(source: Any, shard: int, part: int) -> np.ndarray:
    ids, key = source.train_ids, Key(0) / "s3t"
    return ids[(partition(ids, M, key / "shard") == shard) & (partition(ids, L, key / "slice") == part)]


def served(strategy: S3T) -> list[tuple[int, ...]]:
    return [strategy._serving_order(shard) for group in strategy._groups for shard in group.shards]


def stage_digests(strategy: S3T, shard: int) -> dict[tuple[int, ...], str]:
    return {p: digest(w) for p, w in strategy._groups[0].shards[shard].stages.items()}


@pytest.mark.parametrize("position", [1, 2])
def test_what_is_left_never_saw_the_slice(tools: Any, source: Any, position: int) -> None:
    """The served state after deleting from the slice at a later position is that of a life without the slice."""
    order = rotations(L, 1)[0]
    part = order[position]
    whole, without = (build(tools, source, config(sequences=1)) for _ in range(2))
    live(whole, source, everything(source), request(int(cell(source, 0, part)[0])))
    live(without, source, everything(source, cell(source, 0, part)))
    assert served(whole)[0] == order[:position]
    assert served(whole)[1] == order
    after, never = stage_digests(whole, 0), stage_digests(without, 0)
    assert list(after) == [order[:n] for n in range(1, position + 1)]
    assert all(never[p] == d for p, d in after.items())
    assert stage_digests(whole, 1) == stage_digests(without, 1)


@pytest.mark.parametrize(
    "retrain_when",
    ["shard-dead", *(pytest.param(when, marks=pytest.mark.nightly) for when in ("all-dead", "never"))],
)
def test_the_state_does_not_depend_on_what_was_deleted(tools: Any, source: Any, retrain_when: Any) -> None:
    """Other data in place of the deleted, through switching off, exhaustion and training again."""
    chosen = [int(cell(source, k, s)[0]) for s in range(L) for k in range(M)]
    other = replace(source, x=source.x.clone(), y=source.y.clone())
    other.x[chosen] = 3.0
    other.y[chosen] = (other.y[chosen] + 1) % 4
    requests = [request(x, number=n) for n, x in enumerate(chosen)]
    exhausted = retrained = 0.0
    for count in range(1, len(requests) + 1):
        digests = set()
        for data in (source, other):
            changed = data
            if data is other:  # only what is deleted by then may differ
                changed = replace(source, x=source.x.clone(), y=source.y.clone())
                changed.x[chosen[:count]], changed.y[chosen[:count]] = other.x[chosen[:count]], other.y[chosen[:count]]
            strategy = build(tools, source, config(retrain_when=retrain_when))
            _, outcomes = live(strategy, changed, everything(source), *requests[:count])
            digests.add(digest(strategy.state_dict()))
        assert len(digests) == 1, count
        exhausted += outcomes[-1].notes["exhausted"]
        retrained += outcomes[-1].notes["stages"]
        assert strategy.holds(np.array(chosen[:count])) == {}
        assert outcomes[-1].exactness == "bits"
    assert (exhausted > 0) == (retrain_when != "shard-dead")
    assert (retrained > 0) == (retrain_when != "never")


def test_a_shared_head_is_caught(tools: Any, source: Any) -> None:
    """Switching blocks off but keeping the last head: all tensors but the head's are right, and it is not exact."""

    def shared(stages: dict[Any, torch.Tensor], size: int) -> None:
        newest = next(reversed(stages.values()))
        for weights in stages.values():
            weights[-size:] = newest[-size:]

    part = rotations(L, 1)[0][-1]
    states = []
    for recipe in (Recipe(), Recipe(shared)):
        faulty, without = (build(tools, source, config(sequences=1), recipe) for _ in range(2))
        live(faulty, source, everything(source), request(int(cell(source, 0, part)[0])))
        live(without, source, everything(source, cell(source, 0, part)))
        states.append((faulty, without))
    (honest, never), (faulty, _) = states
    assert all(stage_digests(never, 0)[p] == d for p, d in stage_digests(honest, 0).items())
    size = faulty._host.head_size
    for prefix, weights in faulty._groups[0].shards[0].stages.items():
        right = never._groups[0].shards[0].stages[prefix]
        assert torch.equal(weights[:-size], right[:-size])
        assert not torch.equal(weights[-size:], right[-size:])


def test_exhaustion_trains_again_on_what_is_live(tools: Any, source: Any) -> None:
    firsts = {order[0] for order in rotations(L, B)}
    gone = [int(cell(source, k, s)[0]) for k in range(M) for s in firsts]
    strategy = build(tools, source, config())
    _, outcomes = live(strategy, source, everything(source), *(request(x, number=n) for n, x in enumerate(gone)))
    assert [o.notes["exhausted"] for o in outcomes[1:]] == [0.0] * (len(gone) - 1) + [1.0]
    assert all(o.steps == 0 for o in outcomes[1:-1])
    assert outcomes[-1].notes["stages"] == M * B * L
    assert outcomes[-1].notes["stranded_samples"] == 0
    fresh = build(tools, source, config())
    live(fresh, source, everything(source, gone))
    assert digest(fresh.state_dict()) == digest(strategy.state_dict())


def test_training_again_costs_what_the_closed_form_says(tools: Any, source: Any) -> None:
    """B e N (L + 1) / 2 sample visits, to the visit: with B = L orders each slice is once at each place."""
    gone = [int(cell(source, k, s)[0]) for k in range(M) for s in range(L)]
    strategy = build(tools, source, config(sequences=L))
    _, outcomes = live(strategy, source, everything(source), request(*gone))
    epochs, samples = 2, len(source.train_ids)
    assert outcomes[0].backward == epochs * L * samples * (L + 1) / 2
    assert outcomes[1].backward == epochs * L * (samples - len(gone)) * (L + 1) / 2


def test_without_training_again_the_prior_is_served(tools: Any, source: Any) -> None:
    gone = [int(cell(source, k, s)[0]) for k in range(M) for s in range(L)]
    strategy = build(tools, source, config(retrain_when="never"))
    ledger, outcomes = live(strategy, source, everything(source), request(*gone))
    assert outcomes[-1].notes["exhausted"] == 1.0
    assert outcomes[-1].notes["served_stages"] == 0.0
    data = ledger.lend(source.test_ids).all()
    outputs = strategy.predict(data)
    assert torch.equal(outputs, torch.zeros_like(outputs))
    assert torch.isfinite(strategy._setting.objective.losses(outputs, data)).all()


def test_an_experience_is_exhausted_once(tools: Any, source: Any) -> None:
    """A later request that does not touch it does not count it again."""
    early, late = np.array_split(source.train_ids, 2)
    experiences = Experience("early", (0,), early), Experience("late", (1,), late)
    strategy = build(tools, source, config(shards=1, slices=1, sequences=1, retrain_when="never"))
    hits = [request(int(early[0])), request(int(late[0]), number=1)]
    _, outcomes = live(strategy, source, *experiences, hits[0], hits[1])
    assert [o.notes["exhausted"] for o in outcomes[2:]] == [1.0, 1.0]


def test_the_longest_prefix_serves_and_the_rest_is_stranded(tools: Any, source: Any) -> None:
    orders = rotations(L, B)
    strategy = build(tools, source, config())
    gone = cell(source, 0, orders[0][0])
    _, outcomes = live(strategy, source, everything(source), request(int(gone[0])))
    expected = max((o[: o.index(orders[0][0])] for o in orders), key=len)
    assert served(strategy) == [expected, orders[0]]
    alive = sum(len(cell(source, 0, s)) for s in range(L) if s not in expected) - 1
    assert outcomes[-1].notes["stranded_samples"] == alive
    assert outcomes[-1].notes["served_stages"] == len(expected) + L


def test_switching_off_reads_nothing_and_is_fast(tools: Any, source: Any) -> None:
    strategy = build(tools, source, config())
    ledger, _ = live(strategy, source, everything(source))
    started = time.perf_counter()
    done = step(strategy, request(int(cell(source, 0, 1)[0])), ledger)
    assert time.perf_counter() - started < 0.05
    assert done.samples_read == 0
    assert (done.outcome.steps, done.outcome.backward) == (0, 0)


def test_fresh_adapters_change_nothing(tools: Any, source: Any) -> None:
    host = AdapterHost(lambda: tools.mlp((5, 8, 8, 8, 4)), 3, rank=2, alpha=16.0, dropout=0.1, rank_stabilised=True)
    x = source.x[:20]
    plain = tools.mlp((5, 8, 8, 8, 4))(x)
    host.mount([])
    assert torch.equal(host.model(x), plain)
    model = host.next_block([], Key(0))
    model.train(False)
    assert torch.equal(model(x), plain)
    assert model.parameters.numel() == 8 * 2 + 8 * 2 + host.head_size
    assert bool((model.parameters != 0).any())


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_dropout_is_of_adapters_and_of_training(dropout: float, tools: Any, source: Any) -> None:
    host = AdapterHost(lambda: tools.mlp((5, 8, 8, 8, 4)), 3, 2, alpha=2.0, dropout=dropout, rank_stabilised=True)
    model = host.next_block([], Key(0))
    model.parameters.add_(0.5)
    x = source.x[:20]
    torch.manual_seed(0)
    model.train(False)
    still = model(x)
    assert torch.equal(model(x), still)
    model.train(True)
    first, second = model(x), model(x)
    assert torch.equal(first, still) == (dropout == 0)
    assert torch.equal(first, second) == (dropout == 0)


def test_a_stage_changes_its_block_and_the_head_only(tools: Any, source: Any) -> None:
    """Twelve layers in twelve blocks: layer 1 must not be layer 10 or 11."""
    options = config(slices=12, sequences=1, shards=1, epochs=1)
    setting = replace(tools.setting(source), make_model=lambda: tools.mlp((5, *([8] * 12), 4)))
    strategy = S3T(options, setting)
    before = {n: p.clone() for n, p in strategy._host._network.named_parameters() if ".inner.weight" in n}
    live(strategy, source, everything(source))
    stages = strategy._groups[0].shards[0].stages
    assert len(stages) == 12
    for n, p in strategy._host._network.named_parameters():
        if ".inner.weight" in n:
            assert torch.equal(p, before[n])
    longest = max(stages, key=len)
    for n in range(1, 12):
        # What the next stage starts from is what this one left: nothing below was touched in between.
        host = strategy._host
        host.mount([stages[longest[:i]] for i in range(1, n + 1)])
        assert [a.on for block in host.blocks for a in block] == [True] * n + [False] * (12 - n)
        assert torch.equal(host.trained(n - 1), stages[longest[:n]])
    assert [len(block) for block in strategy._host.blocks] == [1] * 12


def isolated(strategy: S3T) -> bool:
    """Whether every stage left the blocks before it as they were."""
    stages, host = strategy._groups[0].shards[0].stages, strategy._host
    (last,) = [p for p in stages if len(p) == len(host.blocks)]
    left = []
    for n in range(1, len(last) + 1):
        host.mount([stages[last[:i]] for i in range(1, n)])
        host.next_block([stages[last[:i]] for i in range(1, n)], Key(n))
        left += [
            torch.equal(host.trained(j)[: -host.head_size], stages[last[: j + 1]][: -host.head_size])
            for j in range(n - 1)
        ]
    return all(left)


def test_layers_by_substring_are_caught(tools: Any, source: Any) -> None:
    """The released code's fault: "layer.1" is in "layer.10" and "layer.11", whose blocks are trained with it again."""
    setting = replace(tools.setting(source), make_model=lambda: tools.mlp((5, *([8] * 12), 4)))
    for faulty in (False, True):
        strategy = S3T(config(slices=12, sequences=1, shards=1, epochs=1), setting)
        blocks = strategy._host.blocks  # from the top: layer 11 is the first, layer 1 the last but one
        if faulty:
            blocks[10] = blocks[10] + blocks[1] + blocks[0]
        live(strategy, source, everything(source))
        assert isolated(strategy) != faulty


def test_switching_off_searches_no_other_slice(tools: Any, source: Any) -> None:
    """A sample's name says where it is: the slices that are not hit are not even looked at."""
    strategy = build(tools, source, config())
    ledger, _ = live(strategy, source, everything(source))
    gone = int(cell(source, 0, 1)[0])
    before = [shard.slices for shard in strategy._groups[0].shards]
    kept = {(k, s): before[k][s] for k in range(M) for s in range(L) if (k, s) != (0, 1)}
    step(strategy, request(gone), ledger)
    assert all(strategy._groups[0].shards[k].slices[s] is ids for (k, s), ids in kept.items())
    assert gone not in strategy._groups[0].shards[0].slices[1]


def test_blocks_go_from_the_top(tools: Any) -> None:
    model = tools.mlp((5, 8, 8, 8, 8, 4))
    assert layers_of(model.network.body) == [["0"], ["2"], ["4"], ["6"]]
    host = AdapterHost(lambda: tools.mlp((5, 6, 7, 8, 9, 4)), 2, rank=2, alpha=1.0, dropout=0.0, rank_stabilised=False)
    assert [[a.inner.out_features for a in block] for block in host.blocks] == [[8, 9], [6, 7]]
    with pytest.raises(ConfigError, match="5 slices need as many layers, and the body of the model has 4"):
        AdapterHost(lambda: tools.mlp((5, 6, 7, 8, 9, 4)), 5, 2, 1.0, 0.0, False)


def test_layers_of_transformers_are_whole_components() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value = (nn.Linear(4, 4) for _ in range(3))

    body = nn.Module()
    body.layers = nn.ModuleList(nn.ModuleDict({"attention": Attention(), "up": nn.Linear(4, 8)}) for _ in range(12))
    layers = layers_of(body)
    assert len(layers) == 12
    assert layers[1] == ["layers.1.attention.query", "layers.1.attention.value"]


def test_the_layers_of_a_vision_transformer() -> None:
    from lifelong.models import vit_tiny

    network = vit_tiny.build(vit_tiny.Config(depth=12, width=8, heads=2), (1, 14, 14), 4)
    layers = layers_of(network.body)
    assert [len(layer) for layer in layers] == [2] * 12
    assert layers[1] == ["inner.layers.1.attention.q_proj", "inner.layers.1.attention.v_proj"]
    host = AdapterHost(lambda: FlatModel(network), 4, rank=2, alpha=2.0, dropout=0.0, rank_stabilised=True)
    assert [len(block) for block in host.blocks] == [6] * 4


def test_frozen_buffers_stand_still(tools: Any, source: Any) -> None:
    """Batch norm in the backbone neither learns nor moves its statistics."""

    def make() -> FlatModel:
        with seeded_globals(Key(0) / "init"):
            body = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
            return FlatModel(Network(body, nn.Linear(8, 4)))

    strategy = S3T(config(slices=2, sequences=2), replace(tools.setting(source), make_model=make))
    live(strategy, source, everything(source))
    buffers = dict(strategy._host._network.named_buffers())
    assert torch.equal(buffers["body.inner.1.running_mean"], torch.zeros(8))
    assert int(buffers["body.inner.1.num_batches_tracked"]) == 0


def test_resuming_is_exact(tools: Any, source: Any) -> None:
    events = [everything(source), request(int(cell(source, 0, 0)[0])), request(int(cell(source, 1, 2)[0]), number=1)]
    whole = build(tools, source, config())
    live(whole, source, *events)
    for count in range(1, 3):
        first = build(tools, source, config())
        live(first, source, *events[:count])
        buffer = io.BytesIO()
        torch.save(first.state_dict(), buffer)
        buffer.seek(0)
        second, ledger = build(tools, source, config()), ledger_after(Ledger(source), tuple(events[:count]))
        restore(second, torch.load(buffer, weights_only=True), ledger)
        for event in events[count:]:
            step(second, event, ledger)
        assert digest(second.state_dict()) == digest(whole.state_dict())


def test_only_adapters_and_heads_are_stored(tools: Any, source: Any) -> None:
    strategy = build(tools, source, config())
    live(strategy, source, everything(source))
    each = {len(w) for shard in strategy._groups[0].shards for w in shard.stages.values()}
    head, hidden, bottom = 8 * 4 + 4, 2 * (8 + 8), 2 * (5 + 8)
    assert each == {hidden + head, bottom + head}
    stages = prefixes(rotations(L, B))
    bottoms = sum(len(p) == L for p in stages)
    floats = M * (len(stages) * head + (len(stages) - bottoms) * hidden + bottoms * bottom)
    assert num_bytes(strategy.state_dict()) == 4 * floats


def test_fresh_randomness(tools: Any, source: Any) -> None:
    gone = [int(cell(source, k, s)[0]) for k in range(M) for s in range(L)]
    strategy, without = (build(tools, source, config(fresh=True)) for _ in range(2))
    _, outcomes = live(strategy, source, everything(source), request(*gone))
    live(without, source, everything(source, gone))
    assert outcomes[-1].exactness == "law"
    assert digest(strategy.state_dict()) != digest(without.state_dict())


def test_it_learns_digits(tools: Any, digits: Any) -> None:
    """Low-rank adapters on random features, by the mean of three shards of 450 samples."""
    setting = tools.setting(digits, epochs=3, lr=0.01, batch_size=32, optimizer="adam")
    units = (Unit("all", tuple(range(10)), digits.test_ids),)
    setting = replace(setting, make_model=lambda: tools.mlp((64, 64, 64, 10)), units=units)
    strategy = S3T(config(shards=3, slices=2, sequences=2, rank=8, alpha=8.0), setting)
    ledger, _ = live(strategy, digits, Experience("all", (0,), digits.train_ids))
    data = ledger.lend(digits.test_ids).all()
    assert float(setting.objective.scores(strategy.predict(data), data).mean()) > 0.7
    assert len(strategy.constituents(data)) == 3
    assert isinstance(strategy._host.blocks[0][0], LowRank)
