from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from strategies.objectives._base import FisherEstimator
from strategies.objectives.classification import Classification
from strategies.objectives.regression import Regression
from strategies.parts.model import FlatModel, Network, digest
from strategies.parts.weights import fisher as fisher_module
from strategies.parts.weights.fisher import diagonal_fisher, loss_gradient
from streams.data import Batch, Data
from streams.randomness import Key, seeded_globals

KEY = Key(0) / "fisher"
PER_SAMPLE: tuple[FisherEstimator, ...] = ("exact", "sampled", "empirical", "p-weighted")


def data_of(x: torch.Tensor, y: torch.Tensor, task: torch.Tensor | None = None) -> Data:
    return Data(np.arange(len(x)), x, y, task)


def made(network: Any) -> FlatModel:
    with seeded_globals(Key(1) / "init"):
        body, head = network()
        return FlatModel(Network(body, head))


def softmax_regression() -> tuple[nn.Module, nn.Module]:
    return nn.Identity(), nn.Linear(6, 3, bias=False)


def mlp() -> tuple[nn.Module, nn.Module]:
    return nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5, bias=False), nn.ReLU()), nn.Linear(5, 3)


def lenet() -> tuple[nn.Module, nn.Module]:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 4, 2, stride=2, dilation=1, bias=False),
        nn.ReLU(),
        nn.Flatten(),
    ), nn.Linear(16, 3)


def layer_norm() -> tuple[nn.Module, nn.Module]:
    return nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.ReLU()), nn.Linear(5, 3)


def shared_layer() -> tuple[nn.Module, nn.Module]:
    twice = nn.Linear(6, 6)
    return nn.Sequential(twice, nn.Tanh(), twice, nn.Tanh()), nn.Linear(6, 3)


def grouped() -> tuple[nn.Module, nn.Module]:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten()), nn.Linear(64, 3)


def same_padding() -> tuple[nn.Module, nn.Module]:
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding="same"), nn.ReLU(), nn.Flatten()), nn.Linear(128, 3)


def tokens() -> tuple[nn.Module, nn.Module]:
    """A linear layer that is applied at several positions of every sample."""
    return nn.Sequential(nn.Unflatten(1, (3, 2)), nn.Linear(2, 4), nn.Tanh(), nn.Flatten()), nn.Linear(12, 3)


NETWORKS = {
    f.__name__: f for f in (softmax_regression, mlp, lenet, layer_norm, shared_layer, grouped, same_padding, tokens)
}
IMAGES = {"lenet", "grouped", "same_padding"}
FALLBACK = {"layer_norm", "shared_layer", "grouped", "same_padding"}


def toy_data(name: str, count: int = 10) -> Data:
    generator = torch.Generator().manual_seed(3)
    shape = (count, 1, 8, 8) if name in IMAGES else (count, 6)
    return data_of(torch.randn(shape, generator=generator), torch.randint(0, 3, (count,), generator=generator))


def loop_twin(model: FlatModel, data: Data, estimator: FisherEstimator) -> torch.Tensor:
    """One backward per sample and label, as slowly as possible."""
    batch = data.all()
    parameters = [p for p in model.network.parameters() if p.requires_grad]
    labels = torch.multinomial(model(batch.x).softmax(1).detach(), 1, generator=KEY.torch()).squeeze(1)
    total = torch.zeros_like(model.parameters)
    for i in range(len(batch)):
        p = model(batch.x[i : i + 1]).softmax(1).detach()[0]
        true = int(batch.y[i])
        weights = {
            "exact": dict(enumerate(p.tolist())),
            "sampled": {int(labels[i]): 1.0},
            "empirical": {true: 1.0},
            "p-weighted": {true: float(p[true])},
        }[estimator]
        for label, weight in weights.items():
            loss = nn.functional.cross_entropy(model(batch.x[i : i + 1]), torch.tensor([label]))
            gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters)])
            total += weight * gradient.square() / len(batch)
    return total


def test_estimators_are_the_ones_tested_here() -> None:
    assert set(get_args(FisherEstimator)) == {*PER_SAMPLE, "batch"}


@pytest.mark.parametrize("estimator", ["exact", "empirical", "p-weighted"])
def test_closed_form_of_softmax_regression(estimator: FisherEstimator) -> None:
    # z = W x: exact F_cd = mean x_d^2 p_c (1 - p_c); empirical F_cd = mean x_d^2 (1[y=c] - p_c)^2.
    model, data = made(softmax_regression), toy_data("softmax_regression", 200)
    batch = data.all()
    p = (batch.x @ model.parameters.view(3, 6).t()).softmax(1)
    residual = (nn.functional.one_hot(batch.y, 3) - p).square()
    factor = {
        "exact": p * (1 - p),
        "empirical": residual,
        "p-weighted": residual * p.gather(1, batch.y.unsqueeze(1)),
    }[estimator]
    expected = (factor.t() @ batch.x.square()) / 200
    found, _ = diagonal_fisher(model, Classification(3), data, estimator, KEY)
    assert torch.allclose(found.view(3, 6), expected, atol=1e-6)
    assert float(expected.max()) > 0.05  # the tolerance means something


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("estimator", PER_SAMPLE)
def test_hooks_equal_a_loop_over_samples(name: str, estimator: FisherEstimator) -> None:
    model, data = made(NETWORKS[name]), toy_data(name)
    found, _ = diagonal_fisher(model, Classification(3), data, estimator, KEY)
    expected = loop_twin(model, data, estimator)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-7)
    assert float(expected.abs().max()) > 1e-3


@pytest.mark.parametrize("name", NETWORKS)
def test_the_slow_path_is_taken_only_where_it_must(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    added: list[str] = []
    real = fisher_module._add
    monkeypatch.setattr(fisher_module, "_add", lambda *a: (added.append("layer"), real(*a))[1])
    diagonal_fisher(made(NETWORKS[name]), Classification(3), toy_data(name), "empirical", KEY)
    assert bool(added) == (name not in FALLBACK)


@pytest.mark.parametrize("name", ["mlp", "lenet", "layer_norm"])
@pytest.mark.parametrize("estimator", PER_SAMPLE)
def test_batch_size_does_not_matter(name: str, estimator: FisherEstimator) -> None:
    data = toy_data(name, 17)
    found = [
        diagonal_fisher(made(NETWORKS[name]), Classification(3), data, estimator, KEY, size)[0]
        for size in (1, 5, 16, 99)
    ]
    if estimator == "sampled":  # the draws are consumed in the same order whatever the batches
        assert all(torch.allclose(f, found[0], rtol=1e-4, atol=1e-6) for f in found[1:])
    assert all(torch.allclose(f, found[0], atol=1e-5, rtol=1e-4) for f in found[1:])


def test_the_batch_estimator_squares_means() -> None:
    model, data = made(mlp), toy_data("mlp", 12)
    batch = data.all()
    parameters = list(model.network.parameters())
    expected = torch.zeros_like(model.parameters)
    for rows in torch.arange(12).split(5):  # 5, 5 and a short 2, each with the same weight
        loss = nn.functional.cross_entropy(model(batch.x[rows]), batch.y[rows])
        expected += torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters)]).square() / 3
    found, outcome = diagonal_fisher(model, Classification(3), data, "batch", KEY, 5)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-9)
    assert (outcome.forward, outcome.backward, outcome.steps) == (12, 12, 0)
    one, _ = diagonal_fisher(model, Classification(3), data, "batch", KEY, 1)
    empirical, _ = diagonal_fisher(model, Classification(3), data, "empirical", KEY)
    assert torch.allclose(one, empirical, rtol=1e-4, atol=1e-8)


def test_sampled_is_unbiased_for_exact() -> None:
    model, data = made(softmax_regression), toy_data("softmax_regression", 40)
    exact, _ = diagonal_fisher(model, Classification(3), data, "exact", KEY)
    draws = torch.stack([diagonal_fisher(model, Classification(3), data, "sampled", KEY / i)[0] for i in range(400)])
    error = (draws.mean(0) - exact).abs() / (draws.std(0) / 400**0.5)
    assert float(error.max()) < 4
    assert not torch.equal(draws[0], draws[1])


def test_cost_counts_backward_passes() -> None:
    model, data = made(mlp), toy_data("mlp", 10)
    _, outcome = diagonal_fisher(model, Classification(3), data, "exact", KEY, 4)
    assert (outcome.forward, outcome.backward) == (10, 30)
    _, outcome = diagonal_fisher(model, Classification(3), data, "sampled", KEY, 4)
    assert (outcome.forward, outcome.backward) == (10, 10)


@pytest.mark.parametrize("estimator", [*PER_SAMPLE, "batch"])
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_found(estimator: FisherEstimator, training: bool) -> None:
    def dropout_and_norm() -> tuple[nn.Module, nn.Module]:
        return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5)), nn.Linear(5, 3)

    model = made(dropout_and_norm)
    model.train(training)
    model.gradient.fill_(7.0)
    before, generator = digest(model.state_dict()), torch.random.get_rng_state()
    first, _ = diagonal_fisher(model, Classification(3), toy_data("mlp"), estimator, KEY)
    assert digest(model.state_dict()) == before
    assert model.network.training is training
    assert model.network.body[1].training is training
    assert bool((model.gradient == 7.0).all())
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert all(not m._forward_hooks for m in model.network.modules())
    second, _ = diagonal_fisher(model, Classification(3), toy_data("mlp"), estimator, KEY)
    assert torch.equal(first, second)  # evaluation mode: dropout is off


@pytest.mark.parametrize("estimator", [*PER_SAMPLE, "batch"])
def test_masked_outputs_get_no_importance(estimator: FisherEstimator) -> None:
    model = made(mlp)
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    y, task = torch.tensor([0, 1] * 4), torch.zeros(8, dtype=torch.int64)
    found, _ = diagonal_fisher(model, Classification(3, ((0, 1), (2,))), data_of(x, y, task), estimator, KEY)
    assert torch.isfinite(found).all()
    head = found[model.slices["head.weight"]].view(3, 5)
    assert float(head[2].abs().max()) == 0
    assert float(head[:2].abs().max()) > 0


@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_the_gradient_of_the_loss_is_that_of_training(loss: Any) -> None:
    """Summed over samples, with training's loss and its mask: no class that the data lacks is pushed down."""
    model, objective = made(mlp), Classification(3, loss=loss, mask="experience")
    x = torch.randn(7, 6, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 2, 2, 0, 2, 0, 0])
    found = loss_gradient(model, objective, data_of(x, y), batch_size=3)
    logits = model(x)[:, [0, 2]]
    if loss == "ce":
        total = F.cross_entropy(logits, y // 2, reduction="sum")
    else:
        total = F.binary_cross_entropy_with_logits(logits, F.one_hot(y // 2).float(), reduction="none").mean(1).sum()
    total.backward()
    torch.testing.assert_close(found, model.gradient, rtol=1e-4, atol=1e-6)
    assert not found[model.slices["head.bias"]][1]
    assert bool(found[model.slices["head.bias"]][[0, 2]].all())


@pytest.mark.parametrize("frozen", ["body.0.weight", "body.0", "body"])
def test_frozen_parameters_are_left_out(frozen: str) -> None:
    network = Network(*mlp())
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    model = FlatModel(network)
    found, _ = diagonal_fisher(model, Classification(3), toy_data("mlp"), "exact", KEY)
    assert len(found) == sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert torch.allclose(found, loop_twin(model, toy_data("mlp"), "exact"), rtol=1e-4, atol=1e-7)


def test_regression_closed_form() -> None:
    # f = w x: exact F_d = mean x_d^2; empirical F_d = mean x_d^2 (f - y)^2.
    model = FlatModel(Network(nn.Identity(), nn.Linear(4, 1, bias=False)))
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 4, generator=generator), torch.randn(50, generator=generator)
    residual = x @ model.parameters - y
    exact, _ = diagonal_fisher(model, Regression(), data_of(x, y), "exact", KEY)
    assert torch.allclose(exact, x.square().mean(0), atol=1e-6)
    empirical, _ = diagonal_fisher(model, Regression(), data_of(x, y), "empirical", KEY)
    assert torch.allclose(empirical, (x * residual.unsqueeze(1)).square().mean(0), atol=1e-6)
    draws = torch.stack(
        [diagonal_fisher(model, Regression(), data_of(x, y), "sampled", KEY / i)[0] for i in range(300)]
    )
    assert torch.allclose(draws.mean(0), exact, rtol=0.1)


def test_losses_and_divergences_of_a_regressor_are_those_of_unit_gaussians() -> None:
    now, before, y = torch.randn(3, 20, 1, generator=torch.Generator().manual_seed(0))
    batch = Batch(torch.arange(20), torch.zeros(20, 1), y.squeeze(1))
    normal, other = torch.distributions.Normal(now, 1.0), torch.distributions.Normal(before, 1.0)
    constant = 0.5 * torch.log(torch.tensor(2 * torch.pi))
    assert torch.allclose(Regression().losses(now, batch), -normal.log_prob(y).squeeze(1) - constant, atol=1e-5)
    expected = torch.distributions.kl_divergence(normal, other).squeeze(1)
    assert torch.allclose(Regression().divergences(now, before, batch), expected, atol=1e-5)
    ((weight, _),) = Regression().fisher_terms(now, batch, "p-weighted", torch.Generator())
    assert torch.allclose(weight, normal.log_prob(y).exp().squeeze(1), atol=1e-5)
