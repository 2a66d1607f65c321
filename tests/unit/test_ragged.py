"""Rows of unequal length, passed in groups: the same outputs and gradients, and one pass for whoever listens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lifelong.models import tiny_gpt2, tiny_llama, tiny_llava, tiny_mixtral
from strategies.objectives.causal_lm import CausalLM, Config
from strategies.parts.fit import FitConfig, Hooks, fit
from strategies.parts.lowrank.gated import Adapters
from strategies.parts.model import FlatModel
from strategies.parts.training.ragged import MOST_GROUPS, PASS, WORTH, is_heard, rows_per_pass, rows_together
from strategies.parts.weights.blocks import Listener, blocks_of
from streams.config import parse
from streams.data import Batch, Data
from streams.randomness import Key, seeded_globals
from streams.text import ANSWER, GIVEN, IMAGE

V, L = 60, 48
TINY = (tiny_llama, tiny_gpt2, tiny_mixtral)


def made(module: Any, shape: tuple[int, ...] = (2, L), **options: Any) -> FlatModel:
    with seeded_globals(Key(0)):
        sizes = {"width": 16, "inner": 24, "heads": 2} | options
        return FlatModel(module.build(parse(module.Config, sizes), shape, V))


def ragged(rows: int = 24, seed: int = 0) -> Batch:
    """Rows of 3 to 48 tokens, short ones mostly, in no order."""
    draw = np.random.default_rng(seed)
    x = torch.zeros(rows, 2, L, dtype=torch.int32)
    for row, length in zip(x, (3 * 16 ** draw.random(rows)).astype(int).tolist(), strict=True):
        row[0, :length] = torch.from_numpy(draw.integers(3, V, length))
        row[1, :length] = ANSWER
        row[1, :2] = GIVEN
    return Batch(torch.arange(rows), x, torch.zeros(rows, dtype=torch.long))


def passes(model: FlatModel) -> list[int]:
    """Count the rows of every pass from now on, without a hook."""
    seen: list[int] = []
    forward = model.network.body.forward

    def counting(*inputs: torch.Tensor) -> torch.Tensor:
        seen.append(len(inputs[0]))
        return forward(*inputs)

    model.network.body.forward = counting  # type: ignore[method-assign]
    return seen


def there(batch: Batch, outputs: torch.Tensor) -> torch.Tensor:
    """Return the logits at tokens."""
    return outputs[batch.x[:, 1, : outputs.shape[1]] > 0]


def test_full_rows_people_and_small_batches_pass_at_once() -> None:
    assert rows_per_pass([64] * 32) == 32
    assert rows_per_pass(sorted([18, 20, 21, 22, 23, 25, 26, 29] * 2)) == 16  # 79 % filled
    assert rows_per_pass(sorted([18, 20, 21, 22, 23, 25, 26, 29] * 32)) == 256
    assert rows_per_pass([4, 5, 9]) == 3
    assert rows_per_pass([7]) == 1


def test_ragged_rows_pass_in_the_groups_that_cost_least() -> None:
    lengths = sorted((4 * 16 ** np.random.default_rng(0).random(32)).astype(int).tolist())
    size = rows_per_pass(lengths)
    assert 4 <= size <= 16

    def cost(step: int) -> int:
        return sum(len(g) * max(g) + PASS for g in (lengths[i : i + step] for i in range(0, 32, step)))

    assert cost(size) == min(cost(-(-32 // groups)) for groups in range(1, MOST_GROUPS + 1)) <= WORTH * cost(32)
    # A pass more must not cost more than the padding it saves.
    assert rows_per_pass([1] + [PASS // 2] * 2) == 3


@pytest.mark.parametrize("module", TINY)
def test_groups_give_the_outputs_and_gradients_of_one_padded_pass(module: Any) -> None:
    model, batch, objective = made(module), ragged(), CausalLM(V, config=Config(loss_on="all"))
    objective = objective.training_on(Data(batch.ids.numpy(), batch.x, batch.y, None))  # type: ignore[assignment]
    found = []
    for together in (True, False):
        seen = passes(model)
        model.gradient.zero_()
        if together:
            with rows_together():
                outputs = objective.outputs(model, batch)
        else:
            outputs = objective.outputs(model, batch)
        objective.losses(outputs, batch).mean().backward()  # type: ignore[no-untyped-call]
        found.append((len(seen), sum(seen), outputs.shape, there(batch, outputs.detach()), model.gradient.clone()))
        del model.network.body.forward  # type: ignore[method-assign]
    padded, groups = found
    assert padded[0] == 1
    assert groups[0] > 1
    assert padded[1:3] == groups[1:3]
    assert torch.allclose(groups[3], padded[3], atol=1e-5)
    assert padded[4].abs().max() > 1e-2
    assert torch.allclose(groups[4], padded[4], atol=1e-5)


@pytest.mark.parametrize("module", TINY)
def test_a_row_is_the_same_in_any_company(module: Any) -> None:
    model, batch, objective = made(module), ragged(), CausalLM(V)
    model.train(False)
    with torch.no_grad():
        losses = objective.losses(objective.outputs(model, batch), batch)
        for rows in (torch.tensor([5]), torch.randperm(24, generator=torch.Generator().manual_seed(1))[:17]):
            part = batch.rows(rows)
            assert torch.allclose(objective.losses(objective.outputs(model, part), part), losses[rows], atol=1e-5)


def test_images_go_with_their_rows() -> None:
    batch = ragged(32, seed=3)
    model = FlatModel(tiny_llava.build(tiny_llava.Config(), (2, L, 1, 1, 28, 28), V))
    positions = model.network.body.image_tokens
    assert isinstance(positions, int)
    long = (batch.x[:, 1] > 0).sum(1) > positions + 3
    assert 4 < int(long.sum()) < 28
    batch.x[long, 1, 1 : 1 + positions] = IMAGE
    images = torch.randint(0, 256, (32, 1, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pictured = Batch(batch.ids, batch.x, batch.y, None, images)
    seen = passes(model)
    with torch.no_grad():
        groups = CausalLM(V).outputs(model, pictured)
        assert len(seen) > 1
        padded = model(*pictured.inputs)
    assert torch.allclose(there(batch, groups), there(batch, padded), atol=1e-5)


def test_whoever_listens_gets_the_batch_in_one_pass() -> None:
    model, batch, objective = made(tiny_llama), ragged(), CausalLM(V)
    listener = Listener(blocks_of(model)[1])
    assert is_heard(model.network)
    objective.outputs(model, batch)
    assert listener.state.shape == (24, int((batch.x[:, 1] > 0).sum(1).max()), 16)
    listener.close()
    assert not is_heard(model.network)
    for listen in (
        model.network.body.register_forward_pre_hook,
        blocks_of(model)[0].register_full_backward_hook,
        model.network.head.register_full_backward_pre_hook,
        torch.nn.modules.module.register_module_forward_hook,
    ):
        handle = listen(lambda *_: None)  # type: ignore[operator]
        assert is_heard(model.network)
        handle.remove()
        assert not is_heard(model.network)


def test_having_been_asked_for_hidden_states_changes_nothing() -> None:
    model, batch, objective = made(tiny_llama), ragged(), CausalLM(V)
    model.train(False)
    before = objective.outputs(model, batch)
    model.network.body.states(batch.x)  # type: ignore[operator]
    assert not is_heard(model.network)
    assert torch.equal(objective.outputs(model, batch), before)


@pytest.mark.parametrize("module", TINY)
def test_gates_stay_with_their_rows(module: Any) -> None:
    model, batch, objective = made(module), ragged(), CausalLM(V)
    adapters = Adapters(model, 2, 4.0, 0.0)
    model.train(False)
    adapter = torch.randn(adapters.fresh(Key(0), model.parameters).shape, generator=torch.Generator().manual_seed(0))
    gates = torch.linspace(0, 1, 24)[:, None]
    with torch.no_grad():
        with adapters.gated(model, [adapter], gates):
            whole = objective.outputs(model, batch)
        for i in (0, 7, 23):
            one = batch.part(i, i + 1)
            with adapters.gated(model, [adapter], gates[i : i + 1]):
                alone = objective.outputs(model, one)
            assert torch.allclose(there(one, whole[i : i + 1]), there(one, alone), atol=1e-4)


def test_training_repeats_to_the_bit_and_hooks_see_whole_batches() -> None:
    class Sizes(Hooks):
        seen: list[tuple[int, ...]] = []

        def losses(self, losses: torch.Tensor, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
            self.seen.append((len(losses), *outputs.shape))
            return losses

    batch = ragged(48)
    data, config = Data(batch.ids.numpy(), batch.x, batch.y, None), FitConfig(batch_size=24, optimizer="adam", lr=0.01)
    first, second = made(tiny_llama), made(tiny_llama)
    seen = passes(first)
    for model in (first, second):
        fit(model, CausalLM(V), data, config, Key(0), [Sizes()])
    assert len(seen) > 2
    assert torch.equal(first.parameters, second.parameters)
    assert [s[:2] for s in Sizes.seen] == [(24, 24)] * 4
