"""Low-rank learners and LoKU: steps of factors by hand, subspaces, and where FILA starts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lifelong.config.run import StrategyConfig
from lifelong.models import tiny_gpt2
from lifelong.setup.build import make_strategy
from strategies.composed import Composed
from strategies.learners import _lowrank
from strategies.parts.lowrank.changes import (
    LowRankSteps,
    fresh_factors,
    linear_maps,
    matrices_of,
    overlap_ratio,
)
from strategies.parts.model import FlatModel, Network
from strategies.parts.training.optimizers import OptimizerConfig
from strategies.unlearners.loku import fila
from streams.config import parse
from streams.errors import ConfigError
from streams.events import DeletionRequest, Experience, Request
from streams.ledger import Ledger
from streams.randomness import Key, seeded_globals


def gpt2(depth: int = 1) -> FlatModel:
    with seeded_globals(Key(0) / "init"):
        return FlatModel(tiny_gpt2.build(tiny_gpt2.Config(width=8, inner=16, depth=depth, heads=2), (2, 16), 20))


def mlp(seed: int = 0) -> FlatModel:
    with seeded_globals(Key(seed) / "init"):
        return FlatModel(Network(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5)), nn.Linear(5, 3)))


def test_matrices_are_read_as_maps_whichever_way_they_lie() -> None:
    model = gpt2()
    found = matrices_of(model)
    assert len(found) == len(linear_maps(model.network.body)) == 4
    for matrix, module in zip(found, linear_maps(model.network.body).values(), strict=True):
        assert matrix.transposed
        assert torch.equal(matrix.read(model.parameters), module.weight.T)
        assert matrix.read(model.parameters).shape == (matrix.outputs, matrix.inputs)
    plain = matrices_of(mlp())
    assert [(m.outputs, m.inputs, m.transposed) for m in plain] == [(8, 6, False), (5, 8, False)]


def test_a_step_of_factors_is_what_autograd_says() -> None:
    """The gradient of the weights, turned into that of A and B, is the one that differentiating W + s B A gives."""
    model, scale = mlp(), 2.0
    matrices = matrices_of(model)
    generator = torch.Generator().manual_seed(0)
    factors = [
        (torch.randn(2, m.inputs, generator=generator), torch.randn(m.outputs, 2, generator=generator))
        for m in matrices
    ]
    earlier = [[torch.randn(2, m.inputs, generator=generator) for m in matrices]]
    x = torch.randn(9, 6, generator=generator)
    base = [m.read(model.parameters).clone() for m in matrices]
    others = model.parameters.clone()
    config = OptimizerConfig(optimizer="sgd", lr=0.1)
    for absolute in (False, True):
        model.parameters.copy_(others)
        steps = LowRankSteps(config, model.parameters, matrices, factors, scale, None, earlier, 0.3, absolute)
        model.gradient.zero_()
        model(x).square().mean().backward()
        steps.step(model.parameters, model.gradient)
        free = [(a.clone().requires_grad_(), b.clone().requires_grad_()) for a, b in factors]
        w = [w0 - scale * (b @ a).detach() + scale * (b @ a) for w0, (a, b) in zip(base, free, strict=True)]
        first, last = model.network.body[0].bias, model.network.body[2].bias
        out = model.network.head(torch.relu(x @ w[0].T + first) @ w[1].T + last)
        products = [a @ o.T for (a, _), o in zip(free, earlier[0], strict=True)]
        loss = out.square().mean() + 0.3 * sum((p.abs() if absolute else p.square()).sum() for p in products)
        slopes = torch.autograd.grad(loss, [t for pair in free for t in pair])
        for (a, b), (a0, b0), to_a, to_b in zip(steps.factors(), factors, slopes[::2], slopes[1::2], strict=True):
            assert torch.allclose(a, a0 - 0.1 * to_a, atol=1e-5)
            assert torch.allclose(b, b0 - 0.1 * to_b, atol=1e-5)
        for m, w0, (a, b), (a0, b0) in zip(matrices, base, steps.factors(), factors, strict=True):
            assert torch.allclose(m.read(model.parameters), w0 + scale * (b @ a - b0 @ a0), atol=1e-5)
        changed = model.parameters != others
        assert not bool(changed[model.slices["head.weight"]].any())
        assert not bool(changed[model.slices["body.0.bias"]].any())


def test_fresh_factors_change_nothing_and_free_weights_move() -> None:
    model = mlp()
    matrices = matrices_of(model)
    factors = fresh_factors(matrices, 2, Key(0), model.parameters)
    free = model.mask("head").nonzero().squeeze(1)
    before = model.parameters.clone()
    steps = LowRankSteps(OptimizerConfig(lr=0.1), model.parameters, matrices, factors, 2.0, free)
    steps.step(model.parameters, torch.zeros_like(before))
    assert torch.equal(model.parameters, before)
    steps.step(model.parameters, torch.ones_like(before))
    assert torch.allclose(model.parameters[free], before[free] - 0.1)
    state = steps.state_dict()
    again = LowRankSteps(OptimizerConfig(lr=0.1), before, matrices, factors, 2.0, free)
    again.load_state_dict(state)
    for one, two in ((steps, model.parameters), (again, model.parameters.clone())):
        one.step(two, torch.full_like(before, 0.5))
    assert torch.equal(torch.cat([t.flatten() for p in again.factors() for t in p]),
                       torch.cat([t.flatten() for p in steps.factors() for t in p]))  # fmt: skip


# -- learners


def taught(
    tools: Any, learner: Any, unlearner: Any = "none", **training: Any
) -> tuple[Composed, list[torch.Tensor], Any]:
    """Three experiences of two classes each; the weights after each of them."""
    source = tools.source(num_classes=6, width=12)
    setting = tools.setting(source, hidden=10, **training)
    strategy = make_strategy(parse(StrategyConfig, {"learner": learner, "unlearner": "none"}), setting, "it")
    assert isinstance(strategy, Composed)
    ledger, weights = Ledger(source), []
    for number in range(3):
        ids = source.train_ids[np.isin(source.class_ids[source.train_ids], (2 * number, 2 * number + 1))]
        experience = ledger.admit(Experience(f"task-{number}", (number,), ids))
        strategy.learn(experience, ledger.door(strategy.access, experience.sample_ids))
        weights.append(strategy.learner.model.parameters.clone())
    return strategy, weights, ledger


@pytest.mark.parametrize("name", ["lora", "o-lora"])
def test_every_experience_after_the_first_changes_the_weights_in_low_rank(name: str, tools: Any) -> None:
    strategy, weights, _ = taught(tools, {"name": name, "rank": 2}, epochs=4)
    model = strategy.learner.model
    body = matrices_of(model)[0]
    free = model.mask("head").bool()
    for before, after in zip(weights, weights[1:], strict=False):
        change = body.read(after - before)
        assert int(torch.linalg.matrix_rank(change, atol=1e-5)) == 2
        still = ~free
        still[body.where] = False
        assert torch.equal(before[still], after[still]), "biases stay"
        assert not torch.equal(before[free], after[free]), "the head of classes learns"
    start = strategy.learner.setting.make_model().parameters
    assert int(torch.linalg.matrix_rank(body.read(weights[0] - start), atol=1e-5)) > 2


@pytest.mark.parametrize("name", ["lora", "o-lora"])
def test_factors_are_scaled_by_alpha_over_rank(name: str, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scales: list[float] = []

    def noted(training: Any, parameters: Any, matrices: Any, factors: Any, scale: float, *rest: Any) -> LowRankSteps:
        scales.append(scale)
        return LowRankSteps(training, parameters, matrices, factors, scale, *rest)

    monkeypatch.setattr(_lowrank, "LowRankSteps", noted)
    taught(tools, {"name": name, "rank": 2, "alpha": 6.0})
    assert scales == [3.0, 3.0]


def test_a_pretrained_model_changes_in_low_rank_from_the_start(tools: Any) -> None:
    strategy, weights, _ = taught(tools, {"name": "lora", "rank": 1, "base": 0})
    model = strategy.learner.model
    change = matrices_of(model)[0].read(weights[0] - strategy.learner.setting.make_model().parameters)
    assert int(torch.linalg.matrix_rank(change, atol=1e-5)) == 1


def test_more_strength_is_less_overlap_between_experiences(tools: Any) -> None:
    ratios = []
    for strength in (0.0, 5.0):
        learner = {"name": "o-lora", "rank": 2, "base": 0, "strength": strength}
        strategy, _, _ = taught(tools, learner, epochs=30, optimizer="adam", lr=0.02)
        kept = strategy.learner.plugins["o-lora"].earlier()
        ratios.append(np.mean([overlap_ratio(kept[i][0], kept[j][0]) for i in range(3) for j in range(i)]))
    assert ratios[1] < 0.3 * ratios[0]


def test_a_subspace_goes_when_nothing_of_its_experience_is_left(tools: Any) -> None:
    strategy, _, ledger = taught(tools, {"name": "o-lora", "rank": 2, "base": 0})
    plugin = strategy.learner.plugins["o-lora"]
    nothing = np.array([], dtype=np.int64)
    first = ledger.live_ids[ledger._source.class_ids[ledger.live_ids] < 2]
    for number, ids in enumerate((first[:3], first[3:])):
        request = DeletionRequest(f"request-{number}", (Request("sample", tuple(ids.tolist()), ids, nothing, 0),))
        ledger.delete(request)
        strategy.forget(request, ledger.door(strategy.access, nothing, ids))
        assert len(plugin.earlier()) == (3 if number == 0 else 2)
        assert set(strategy.holds(ids)) == ({"weights", "o-lora.subspaces"} if number == 0 else {"weights"})


def test_low_rank_learners_refuse_what_has_no_meaning(tools: Any) -> None:
    with pytest.raises(ConfigError, match="rank"):
        taught(tools, {"name": "lora", "rank": 11})
    with pytest.raises(ConfigError, match="carry_optimizer"):
        taught(tools, "o-lora", carry_optimizer=True)
    both = parse(StrategyConfig, {"learner": ["lora", "replay", "o-lora"], "unlearner": "none"})
    with pytest.raises(ConfigError, match=r"s\.learner: 'lora' and 'o-lora' both take the steps"):
        make_strategy(both, tools.setting(tools.source()), "s")


# -- FILA


def test_fila_starts_at_the_best_part_in_the_weighted_norm() -> None:
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(6, 5, generator=generator)
    ratio = torch.rand(6, 5, generator=generator) * 10
    down, up = fila(w, ratio, 2, 4.0)
    rows = ratio.sum(1).sqrt().unsqueeze(1)
    u, s, v = torch.linalg.svd(rows * w, full_matrices=False)
    best = (u[:, :2] * s[:2]) @ v[:2]
    assert torch.allclose(4.0 * rows * (up @ down), best, atol=1e-3)
    # With equal weights it is the plain truncated decomposition.
    down, up = fila(w, torch.ones(6, 5), 5, 4.0)
    assert torch.allclose(4.0 * (up @ down), w, atol=1e-4)


def test_steps_that_start_at_fila_do_not_change_the_function() -> None:
    model = gpt2(depth=2)
    matrices = matrices_of(model)
    x = torch.ones(2, 2, 9, dtype=torch.int32)
    x[:, 0] = torch.randint(4, 20, (2, 9), generator=torch.Generator().manual_seed(0))
    before = model(x)
    generator = torch.Generator().manual_seed(1)
    factors = [
        fila(m.read(model.parameters), torch.rand(m.outputs, m.inputs, generator=generator), 4, 2.0) for m in matrices
    ]
    steps = LowRankSteps(OptimizerConfig(lr=0.1), model.parameters, matrices, factors, 2.0)
    steps.step(model.parameters, torch.zeros_like(model.parameters))
    assert float((model(x) - before).detach().abs().max()) < 1e-4
    assert float(steps.factors()[0][0].abs().max()) > 1e-3
