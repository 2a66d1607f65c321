"""GS-LoRA: which matrices move and in which rank, where the push stops, and what the group penalty does to blocks."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from typing_extensions import override

from strategies.outcome import Outcome
from strategies.parts.fit import fit
from strategies.parts.lowrank.changes import LowRankSteps, fresh_factors
from strategies.parts.model import FlatModel, Network
from strategies.parts.training.optimizers import OptimizerConfig
from strategies.unlearners import gs_lora
from strategies.unlearners.gs_lora import GSLoRA
from streams.data import Data
from streams.errors import ConfigError
from streams.events import DeletionRequest, Request
from streams.randomness import Key, seeded_globals

CLASSES, WIDTH = 3, 8
KEY = Key(0) / "it"


class Block(nn.Module):
    """One map in the place of attention, and two of a feed-forward layer."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.ReLU(), nn.Linear(2 * WIDTH, WIDTH))

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(x)
        return x + self.mlp(x)


class Body(nn.Module):
    """Two blocks behind an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Linear(16, WIDTH)
        self.layers = nn.ModuleList([Block(), Block()])

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embedding(x)
        for block in self.layers:
            x = block(x)
        return x


def transformer() -> FlatModel:
    with seeded_globals(Key(0) / "init"):
        return FlatModel(Network(Body(), nn.Linear(WIDTH, CLASSES)))


class Case:
    """A model that learned three classes, of which the first is to go."""

    def __init__(self, tools: Any) -> None:
        source = tools.source(num_classes=CLASSES, per_class=20, width=16)
        self.setting = replace(tools.setting(source), make_model=transformer)
        self.model = transformer()
        self.gone: np.ndarray = source.train_ids[source.y[source.train_ids].numpy() == 0]
        self.retained: Data = tools.lend(source, np.setdiff1d(source.train_ids, self.gone))
        self.forget_set: Data = tools.lend(source, self.gone)
        training = self.setting.training.model_copy(update={"epochs": 20, "lr": 0.05})
        fit(self.model, self.setting.objective, tools.lend(source), training, KEY / "learned")

    def serve(self, **options: Any) -> Outcome:
        learner: Any = SimpleNamespace(model=self.model, setting=self.setting)
        door: Any = SimpleNamespace(forget_set=lambda: self.forget_set)
        request = DeletionRequest("request-0", (Request("class", (0,), self.gone, self.gone[:0], 0),))
        config = gs_lora.Config(**({"batch_size": 16, "rank": 2, "epochs": 10} | options))
        return GSLoRA(config, self.setting).serve(request, learner, self.retained, door, KEY)

    def loss(self, data: Data) -> float:
        outputs = self.setting.objective.outputs(self.model, batch := data.batch(data.positions()))
        return float(self.setting.objective.losses(outputs, batch).mean().detach())


@pytest.fixture(scope="module")
def learned(tools: Any) -> tuple[Case, dict[str, object]]:
    case = Case(tools)
    return case, case.model.state_dict()


@pytest.fixture
def case(learned: tuple[Case, dict[str, object]]) -> Case:
    case, state = learned
    case.model.load_state_dict(state)
    return case


def test_feed_forward_matrices_change_in_low_rank_and_nothing_else_does(case: Case) -> None:
    start = case.model.parameters.clone()
    outcome = case.serve()
    change = case.model.parameters - start
    for name, place in case.model.slices.items():
        if ".mlp." in name and name.endswith("weight"):
            shape = case.model.network.get_parameter(name).shape
            assert int(torch.linalg.matrix_rank(change[place].view(shape), rtol=1e-3)) == 2
        else:
            assert not change[place].any(), name
    assert outcome.steps == 10 * math.ceil(len(case.retained) / 16)


def test_the_forget_set_is_pushed_away_and_the_rest_stays(case: Case) -> None:
    forgotten, kept = case.loss(case.forget_set), case.loss(case.retained)
    case.serve(epochs=30)
    assert case.loss(case.forget_set) > forgotten + 0.5
    assert case.loss(case.retained) < kept + 0.1


def test_the_push_stops_at_its_bound(case: Case) -> None:
    objective = case.setting.objective
    batch, own = (d.batch(d.positions()) for d in (case.retained, case.forget_set))
    outputs = objective.outputs(case.model, batch)
    plain = objective.losses(outputs, batch).mean().detach()
    forget_loss = case.loss(case.forget_set)
    for bound, expected in ((forget_loss - 0.01, 0.0), (forget_loss + 0.25, 0.25)):
        push = gs_lora.Push(objective, iter([own]), gs_lora.Config(beta=2.0), bound, None)
        added = push.loss(plain, outputs, batch, case.model) - plain
        assert float(added.detach()) == pytest.approx(2 * expected, abs=1e-5)
    start = case.model.state_dict()
    case.serve(beta=0.0, alpha=0.0)
    without = case.model.parameters.clone()
    case.model.load_state_dict(start)
    case.serve(bound=1e-6, alpha=0.0)
    assert torch.equal(case.model.parameters, without), "beyond the bound there is no push"


def test_steps_have_the_gradient_of_the_group_penalty() -> None:
    model, alpha, lr, scale = transformer(), 0.3, 0.1, 0.5
    matrices, groups = gs_lora.feed_forward(model)
    assert groups == [[0, 1], [2, 3]]
    factors = [(a, torch.ones_like(b)) for a, b in fresh_factors(matrices, 2, KEY, model.parameters)]
    slope = torch.randn(len(model.parameters), generator=KEY.torch())
    leaves = [t.clone().requires_grad_() for pair in factors for t in pair]
    linear = [
        (m.read(slope) * (scale * b @ a)).sum() for m, a, b in zip(matrices, leaves[::2], leaves[1::2], strict=True)
    ]
    norms = [torch.cat([leaves[2 * i + k].flatten() for i in group for k in (0, 1)]).norm() for group in groups]
    (torch.stack(linear).sum() + alpha * torch.stack(norms).sum()).backward()
    steps = LowRankSteps(
        OptimizerConfig(lr=lr), model.parameters, matrices, factors, scale, groups=groups, sparsity=alpha
    )
    assert steps.group_norms() == pytest.approx([float(n.detach()) for n in norms])
    steps.step(model.parameters, slope.clone())
    for leaf, now in zip(leaves, (t for pair in steps.factors() for t in pair), strict=True):
        assert leaf.grad is not None
        assert torch.allclose(leaf.detach() - lr * leaf.grad, now, atol=1e-6)


def test_a_strong_penalty_leaves_blocks_as_they_are(case: Case) -> None:
    start, moved = case.model.state_dict(), {}
    for alpha in (0.0, 100.0):
        case.model.load_state_dict(start)
        before = case.model.parameters.clone()
        case.serve(alpha=alpha, epochs=20, lr=0.05)
        moved[alpha] = float((case.model.parameters - before).norm())
    assert moved[100.0] < 0.02 * moved[0.0]


def test_prototypes_are_means_and_distances_are_divergences(case: Case) -> None:
    sets = (case.forget_set, case.retained)
    means = gs_lora.prototypes(case.model, case.setting.objective, sets, 7)
    batch = case.forget_set.batch(case.forget_set.positions())
    features = case.model.features(batch.x).detach()
    assert torch.allclose(means[0], features.mean(0), atol=1e-5)
    theirs = F.kl_div(features.log_softmax(1), means[batch.y].log_softmax(1), reduction="batchmean", log_target=True)
    assert float(gs_lora.apart(features, means[batch.y])) == pytest.approx(float(theirs), rel=1e-4)
    case.serve(beta=0.0, away=5.0, near=1.0)
    moved = case.model.features(batch.x).detach()
    assert float(gs_lora.apart(moved, means[batch.y])) > 2 * float(theirs)


def test_few_samples_of_each_class_may_do(case: Case) -> None:
    outcome = case.serve(per_class=4, epochs=3, batch_size=4)
    assert outcome.backward == 3 * (2 * 4) + 3 * 2 * 4, "eight retained samples, and a batch of four beside each step"


def test_without_blocks_every_map_is_one_and_without_maps_it_is_refused(tools: Any, case: Case) -> None:
    assert gs_lora.feed_forward(tools.mlp((16, 8, 4, CLASSES)))[1] == [[0], [1]]
    with pytest.raises(ConfigError, match="gs-lora.rank: 9 is too high"):
        GSLoRA(gs_lora.Config(rank=9), case.setting)
    bare = replace(case.setting, make_model=lambda: tools.mlp((16, CLASSES)))
    with pytest.raises(ConfigError, match="no linear map"):
        GSLoRA(gs_lora.Config(), bare)


def test_the_learning_rate_falls_to_its_least(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []

    def noted(*args: Any, **options: Any) -> LowRankSteps:
        rates.extend(options["rate"](step) for step in range(0, 30, 3))
        return LowRankSteps(*args, **options)

    monkeypatch.setattr(gs_lora, "LowRankSteps", noted)
    case.serve()
    expected = [1e-3 + (1 - 1e-3) * (1 + math.cos(math.pi * e / 10)) / 2 for e in range(10)]
    assert rates == pytest.approx(expected)
