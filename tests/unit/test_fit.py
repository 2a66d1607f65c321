from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from strategies.parts.fit import Hooks, Slopes, Training, fit, observed
from strategies.parts.model import FlatModel, Network, digest, num_bytes
from streams.data import Batch
from streams.errors import TrainingError
from streams.randomness import Key
from streams.source import Source

KEY = Key(0) / "fit"


def plain_loop(network: nn.Module, source: Source, training: Training, key: Key) -> float:
    """What anybody would write with PyTorch alone. Returns the mean loss of the last epoch."""
    optimizer = torch.optim.SGD(
        network.parameters(), lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay
    )
    ids = source.train_ids
    network.train()
    total = 0.0
    for epoch in range(training.epochs):
        total = 0.0
        shuffled = torch.from_numpy(ids[(key / "epoch" / epoch).order(ids)])
        for rows in shuffled.split(training.batch_size):
            loss = nn.functional.cross_entropy(network(source.x[rows]), source.y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
    return total / len(ids)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "weight_decay": 1e-2}, {"batch_size": 7, "epochs": 3}])
@pytest.mark.parametrize("between", [nn.Tanh, nn.ReLU])
def test_fit_is_a_bare_pytorch_loop(between: type[nn.Module], options: dict[str, float], tools: Any) -> None:
    """To the bit; perceptrons with ReLU, which are passed by hand, to the rounding of sums."""
    source = tools.source()
    setting = tools.setting(source, **options)
    torch.manual_seed(0)
    model = FlatModel(Network(nn.Sequential(nn.Linear(5, 8), between()), nn.Linear(8, 4)))
    bare = Network(nn.Sequential(nn.Linear(5, 8), between()), nn.Linear(8, 4))
    bare.load_state_dict(model.network.state_dict())
    outcome = fit(model, setting.objective, tools.lend(source), setting.training, KEY)
    loss = plain_loop(bare, source, setting.training, KEY)
    theirs = nn.utils.parameters_to_vector(bare.parameters()).detach()
    rounding = 1e-6 if between is nn.ReLU else 0.0
    torch.testing.assert_close(model.parameters, theirs, rtol=0, atol=rounding)
    assert outcome.losses["loss"] == pytest.approx(loss, rel=1e-6)
    steps = setting.training.epochs * -(-24 // setting.training.batch_size)
    assert outcome.steps == steps == setting.training.num_steps(24)
    assert outcome.forward == outcome.backward == 24 * setting.training.epochs


class Recorder(Hooks):
    """Notes what it is called with and passes a scaled value on."""

    def __init__(self, name: str, log: list[tuple[str, str]]) -> None:
        self.name, self.log = name, log

    def extend(self, batch: Batch, step: int) -> Batch:
        self.log.append((self.name, f"extend {step} {len(batch)}"))
        return batch.concat(Batch(batch.ids[:1], batch.x[:1], batch.y[:1]))

    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        self.log.append((self.name, f"loss {len(outputs)}"))
        return 2 * loss

    def gradient(self, gradient: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        self.log.append((self.name, "gradient"))
        return 3 * gradient


def test_hooks_run_in_order_and_on_values(tools: Any) -> None:
    source = tools.source()
    setting = tools.setting(source, epochs=1, batch_size=4, lr=0.01)
    log: list[tuple[str, str]] = []
    model = setting.make_model()
    data = tools.lend(source, range(4))
    outcome = fit(model, setting.objective, data, setting.training, KEY, [Recorder("a", log), Recorder("b", log)])
    assert log == [
        ("a", "extend 0 4"),
        ("b", "extend 0 5"),
        ("a", "loss 6"),
        ("b", "loss 6"),
        ("a", "gradient"),
        ("b", "gradient"),
    ]
    assert outcome.forward == 6
    # One step by hand: 2 x 2 on the loss and 3 x 3 on its gradient.
    by_hand = setting.make_model()
    rows = torch.from_numpy(data.ids[(KEY / "epoch" / 0).order(data.ids)])
    rows = torch.cat([rows, rows[:1], rows[:1]])
    nn.functional.cross_entropy(by_hand(source.x[rows]), source.y[rows]).backward()
    expected = by_hand.parameters - 0.01 * 36 * by_hand.gradient
    assert torch.allclose(model.parameters, expected, atol=1e-7)
    assert outcome.losses["loss"] == pytest.approx(
        4 * nn.functional.cross_entropy(by_hand(source.x[rows]), source.y[rows]).item(), rel=1e-5
    )


class Steps(Hooks):
    """Notes the steps, and tries to change them."""

    def __init__(self) -> None:
        self.steps: list[tuple[torch.Tensor, torch.Tensor]] = []

    def stepped(self, gradient: torch.Tensor, change: torch.Tensor) -> None:
        self.steps.append((gradient.clone(), change.clone()))
        gradient.zero_()
        change.zero_()


class Triple(Hooks):
    def gradient(self, gradient: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        return gradient.mul_(3.0)


@pytest.mark.parametrize("order", ["before", "after"])
def test_stepped_gets_the_losss_gradient_and_the_change(order: str, tools: Any) -> None:
    source = tools.source()
    setting = tools.setting(source, epochs=2, batch_size=8, lr=0.1, momentum=0.9, weight_decay=0.1)
    watched, plain = setting.make_model(), setting.make_model()
    data, steps = tools.lend(source), Steps()
    hooks = [steps, Triple()] if order == "before" else [Triple(), steps]
    fit(watched, setting.objective, data, setting.training, KEY, hooks)
    fit(plain, setting.objective, data, setting.training, KEY, [Triple()])
    assert torch.equal(watched.parameters, plain.parameters)  # watching changes nothing
    assert len(steps.steps) == 6
    start = setting.make_model()
    total = torch.stack([change for _, change in steps.steps]).sum(0)
    assert torch.allclose(start.parameters + total, watched.parameters, atol=1e-6)
    rows = torch.from_numpy(data.ids[(KEY / "epoch" / 0).order(data.ids)][:8])
    nn.functional.cross_entropy(start(source.x[rows]), source.y[rows]).backward()
    assert torch.allclose(steps.steps[0][0], start.gradient, atol=1e-7)  # not tripled, no weight decay
    expected = -0.1 * (3 * start.gradient + 0.1 * start.parameters)
    assert torch.allclose(steps.steps[0][1], expected, atol=1e-6)


def test_hooks_that_are_not_overridden_are_never_called(tools: Any) -> None:
    source = tools.source()
    setting = tools.setting(source)
    plain, hooked = setting.make_model(), setting.make_model()
    fit(plain, setting.objective, tools.lend(source), setting.training, KEY)
    fit(hooked, setting.objective, tools.lend(source), setting.training, KEY, [Hooks()])
    assert torch.equal(plain.parameters, hooked.parameters)


def test_the_order_of_an_epoch_follows_ids_not_positions(tools: Any) -> None:
    source = tools.source()
    setting = tools.setting(source, epochs=1, batch_size=1)
    seen: list[int] = []

    class Watch(Hooks):
        def extend(self, batch: Batch, step: int) -> Batch:
            seen.extend(batch.ids.tolist())
            return batch

    fit(setting.make_model(), setting.objective, tools.lend(source), setting.training, KEY, [Watch()])
    whole, seen = seen, []
    rest = [i for i in source.train_ids.tolist() if i != whole[3]]
    fit(setting.make_model(), setting.objective, tools.lend(source, rest), setting.training, KEY, [Watch()])
    assert seen == [i for i in whole if i != whole[3]]


def test_no_data_means_no_step(tools: Any) -> None:
    setting = tools.setting(tools.source())
    model = setting.make_model()
    before = model.parameters.clone()
    outcome = fit(model, setting.objective, tools.lend(tools.source(), []), setting.training, KEY)
    assert outcome.steps == 0
    assert torch.equal(model.parameters, before)


def test_divergence_is_an_error_that_names_the_learning_rate(tools: Any) -> None:
    source = tools.source()
    setting = tools.setting(source, lr=1e30, epochs=4)
    with pytest.raises(TrainingError, match=r"Lower training\.lr \(now 1e\+30\)"):
        fit(setting.make_model(), setting.objective, tools.lend(source), setting.training, KEY)


def test_fit_leaves_the_global_generator_alone(tools: Any) -> None:
    source = tools.source()
    setting = tools.setting(source)
    before = torch.random.get_rng_state()
    fit(setting.make_model(), setting.objective, tools.lend(source), setting.training, KEY)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_parameters_and_gradients_are_views(tools: Any) -> None:
    model = tools.mlp((5, 8, 4))
    named = dict(model.network.named_parameters())
    assert model.slices == {
        "body.0.weight": slice(0, 40),
        "body.0.bias": slice(40, 48),
        "head.weight": slice(48, 80),
        "head.bias": slice(80, 84),
    }
    model.parameters.fill_(0.5)
    assert all(bool((p == 0.5).all()) for p in named.values())
    with torch.no_grad():
        named["head.bias"].fill_(2.0)
    assert model.parameters[80:].tolist() == [2.0] * 4
    model(torch.ones(3, 5)).sum().backward()
    assert torch.equal(model.gradient[80:], torch.full((4,), 3.0))
    assert named["body.0.weight"].grad is not None
    assert named["body.0.weight"].grad.data_ptr() == model.gradient.data_ptr()


def test_views_survive_training_and_loading(tools: Any) -> None:
    source = tools.source()
    setting = tools.setting(source)
    model = setting.make_model()
    start = model.state_dict()
    fit(model, setting.objective, tools.lend(source), setting.training, KEY)
    assert not torch.equal(model.parameters, start["parameters"])
    model.load_state_dict(start)
    assert torch.equal(nn.utils.parameters_to_vector(model.network.parameters()), start["parameters"])
    fit(model, setting.objective, tools.lend(source), setting.training, KEY)
    again = setting.make_model()
    fit(again, setting.objective, tools.lend(source), setting.training, KEY)
    assert torch.equal(model.parameters, again.parameters)


def test_frozen_parameters_are_no_part_of_the_vector() -> None:
    network = Network(nn.Linear(3, 2), nn.Linear(2, 2))
    network.body.requires_grad_(False)
    model = FlatModel(network)
    assert model.slices == {"head.weight": slice(0, 4), "head.bias": slice(4, 6)}


def test_masks(tools: Any) -> None:
    model = tools.mlp((5, 8, 4))
    assert model.mask("all").sum() == 84
    assert model.mask("body").sum() == 48
    assert model.mask("head").nonzero().flatten().tolist() == list(range(48, 84))


def test_buffers_are_part_of_the_state() -> None:
    model = FlatModel(Network(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.Linear(4, 2)))
    state = model.state_dict()
    model.train()
    model(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    assert digest(model.state_dict()) != digest(state)
    model.load_state_dict(state)
    assert digest(model.state_dict()) == digest(state)


def test_digest_sees_types_shapes_names_and_order() -> None:
    one = torch.arange(4)
    states = [
        {"a": one},
        {"b": one},
        {"a": one.float()},
        {"a": one.view(2, 2)},
        {"a": [one]},
        {"a": [one, one]},
        {"a": 1},
        {"a": 1.0},
        {"a": "1"},
        {"a": None},
        {"a": {"a": one}},
        {},
        [1, 2],
        [2, 1],
        [[1], [2]],
        [[1, 2]],
        [[1, 2], []],
        {"a": {"b": 1}, "c": 2},
        {"a": {"b": 1, "c": 2}},
        ["xstr|1|y"],
        ["x", "y"],
        {1: 1},
        {"1": 1},
    ]
    assert len({digest(s) for s in states}) == len(states)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": one.t()}) == digest({"a": one.clone()})


def test_num_bytes() -> None:
    assert num_bytes({"a": torch.zeros(3), "b": [torch.zeros(2, dtype=torch.int64), 5]}) == 12 + 16
    assert num_bytes({"derived": torch.zeros(100, dtype=torch.bool), "x": torch.zeros(1)}) == 4


def test_losses_are_changed_before_they_are_reduced(tools: Any) -> None:
    source = tools.source()
    setting = tools.setting(source, epochs=1, batch_size=64, lr=0.05)

    class Weigh(Hooks):
        def losses(self, losses: torch.Tensor, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
            return losses * (batch.y == 1)

    model, by_hand = setting.make_model(), setting.make_model()
    data = tools.lend(source)
    outcome = fit(model, setting.objective, data, setting.training, KEY, [Weigh()])
    batch = data.all()
    losses = nn.functional.cross_entropy(by_hand(batch.x), batch.y, reduction="none")
    (losses * (batch.y == 1)).mean().backward()
    assert torch.allclose(model.parameters, by_hand.parameters - 0.05 * by_hand.gradient, atol=1e-7)
    assert outcome.losses["loss"] == pytest.approx((losses * (batch.y == 1)).mean().item(), rel=1e-6)


def test_displaced_weights_are_stepped_from(tools: Any) -> None:
    source = tools.source()
    setting = tools.setting(source, epochs=1, batch_size=64, lr=0.05)

    class Move(Hooks):
        def displace(self, parameters: torch.Tensor, slopes: Slopes) -> torch.Tensor:
            return parameters + 0.1

    model, by_hand = setting.make_model(), setting.make_model()
    data = tools.lend(source)
    outcome = fit(model, setting.objective, data, setting.training, KEY, [Move(), Move()])
    batch = data.all()
    by_hand.parameters.add_(0.1).add_(0.1)
    nn.functional.cross_entropy(by_hand(batch.x), batch.y).backward()
    assert torch.allclose(model.parameters, by_hand.parameters - 0.05 * by_hand.gradient, atol=1e-7)
    assert outcome.forward == 24, "only gradients that were asked for are counted"


def test_long_gradients_are_clipped(tools: Any) -> None:
    source = tools.source()
    data = tools.lend(source)
    start = tools.setting(source).make_model()
    nn.functional.cross_entropy(start(data.all().x), data.all().y).backward()
    norm = start.gradient.norm().item()
    for clip, expected in ((norm / 4, 0.25), (2 * norm, 1.0)):
        setting = tools.setting(source, epochs=1, batch_size=64, lr=1.0, clip_norm=clip)
        model = setting.make_model()
        fit(model, setting.objective, data, setting.training, KEY)
        assert torch.allclose(model.parameters, start.parameters - expected * start.gradient, atol=1e-5)


def test_an_observer_sees_every_step_and_changes_nothing(tools: Any) -> None:
    source = tools.source()
    setting = tools.setting(source, epochs=2, batch_size=5)
    plain, watched = setting.make_model(), setting.make_model()
    steps: list[int] = []

    def look(step: int) -> None:
        steps.append(step)
        watched.train(False)

    class Mode(Hooks):
        def extend(self, batch: Batch, step: int) -> Batch:
            assert watched.network.training
            return batch

    fit(plain, setting.objective, tools.lend(source), setting.training, KEY)
    with observed(look):
        fit(watched, setting.objective, tools.lend(source), setting.training, KEY, [Mode()])
    assert steps == list(range(1, 11))
    assert torch.equal(plain.parameters, watched.parameters)
    fit(watched, setting.objective, tools.lend(source), setting.training, KEY)
    assert len(steps) == 10, "it ends with its block"
