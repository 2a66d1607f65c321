from __future__ import annotations

import logging
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from strategies.base import Setting
from strategies.composed import Composed
from strategies.learner import SGDLearner
from strategies.learners import cpr, der_plus_plus, ewc, lwf, naive, replay, si
from strategies.learners.refresh import Config, Refresh, relative_climb
from strategies.objectives.classification import Classification
from strategies.parts.fit import Hooks, Slopes, Training, fit
from strategies.parts.model import FlatModel, Network, digest
from strategies.parts.weights.fisher import diagonal_fisher
from strategies.unlearners import none
from streams.data import Batch
from streams.errors import ConfigError
from streams.events import DeletionRequest, Request
from streams.ledger import Ledger
from streams.plan import Learn, Plan, RequestSpec, Service, assemble
from streams.randomness import Key, seeded_globals
from streams.scenarios import class_incremental

HOSTS: dict[str, tuple[Any, Any]] = {
    "naive": (naive.Naive, naive.Config()),
    "replay": (replay.Replay, replay.Config(memory=12, batch=3)),
    "der-plus-plus": (der_plus_plus.DERPlusPlus, der_plus_plus.Config(memory=12, batch=3)),
    "lwf": (lwf.LwF, lwf.Config()),
    "cpr": (cpr.CPR, cpr.Config()),
    "ewc": (ewc.EWC, ewc.Config(strength=5.0)),
    "si": (si.SI, si.Config()),
}


@pytest.fixture
def plan(tools: Any) -> Plan:
    return class_incremental.build(
        tools.source(num_classes=6, per_class=10), class_incremental.Config(experiences=3), 0
    )


def learner_of(setting: Setting, hosts: tuple[str, ...], config: Config | None) -> SGDLearner:
    def plugins() -> list[tuple[str, Any]]:
        found = [(h, HOSTS[h][0](HOSTS[h][1], setting)) for h in hosts]
        return found if config is None else [*found, ("refresh", Refresh(config, setting))]

    return SGDLearner(setting, plugins)


def teach(learner: SGDLearner, plan: Plan) -> None:
    ledger = Ledger(plan.source, plan.task_of)
    for experience in plan.experiences:
        door = ledger.door(learner.access, experience.sample_ids)
        learner.learn(ledger.admit(experience), door)
        door.close()


class Still(Hooks):
    """Makes every descent a step of length zero, so that only displacements are left."""

    def gradient(self, gradient: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(gradient)


def displaced(setting: Setting, config: Config, data: Any, fisher: torch.Tensor | None = None) -> FlatModel:
    """The model after the displacements of one pass, and nothing else."""
    # With loss: full, `Still` would make the climb one of length zero too.
    model, plugin = setting.make_model(), Refresh(config.model_copy(update={"loss": "batch"}), setting)
    if fisher is not None:
        plugin._fisher = fisher
    lesson = type("Lesson", (), {"key": setting.key, "model": model, "data": data})()
    plugin.begin(lesson)
    fit(model, setting.objective, data, setting.training, setting.key, [plugin, Still()])
    return model


# ------------------------------------------------------------------------------------------------ 1, identity


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("config", [Config(gamma=0.0), Config(form="released", delta=0.0)], ids=["paper", "released"])
def test_a_step_of_zero_is_the_host_to_the_bit(host: str, config: Config, plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    alone, refreshed = learner_of(setting, (host,), None), learner_of(setting, (host,), config)
    before = random.getstate(), torch.random.get_rng_state(), np.random.get_state()[1].tobytes()  # noqa: NPY002
    teach(alone, plan)
    teach(refreshed, plan)
    assert torch.equal(alone.model.parameters, refreshed.model.parameters)
    assert digest(alone.plugins[host].state_dict()) == digest(refreshed.plugins[host].state_dict())
    assert (alone.stored_ids() == refreshed.stored_ids()).all()
    assert before[0] == random.getstate()
    assert torch.equal(before[1], torch.random.get_rng_state())
    assert before[2] == np.random.get_state()[1].tobytes()  # noqa: NPY002


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("config", [Config(gamma=0.02), Config(form="released", delta=1e-3)], ids=["paper", "released"])
def test_it_composes_with_any_host(host: str, config: Config, plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    alone, refreshed = learner_of(setting, (host,), None), learner_of(setting, (host,), config)
    teach(alone, plan)
    teach(refreshed, plan)
    assert not torch.equal(alone.model.parameters, refreshed.model.parameters)
    assert (alone.stored_ids() == refreshed.stored_ids()).all(), "what is kept must not depend on it"
    assert bool(refreshed.model.parameters.isfinite().all())


def test_dropout_meets_the_noise_it_would_have_met(plan: Plan, tools: Any) -> None:
    """The climb passes the network too, and must not take the step's noise away."""

    def make() -> FlatModel:
        with seeded_globals(Key(0)):
            return FlatModel(Network(nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5)), nn.Linear(8, 6)))

    setting = replace(tools.setting(plan.source, plan), make_model=make)
    tiny = Config(form="released", delta=1e-30, noise=0.0)  # climbs by less than one bit
    alone, refreshed = learner_of(setting, ("naive",), None), learner_of(setting, ("naive",), tiny)
    teach(alone, plan)
    teach(refreshed, plan)
    assert torch.equal(alone.model.parameters, refreshed.model.parameters)


# --------------------------------------------------------------------------------------------- 2, first order


@pytest.mark.parametrize(("gamma", "tolerance"), [(1e-1, 0.01), (1e-2, 0.0005)])
def test_the_loss_rises_by_the_preconditioned_gradient_norm(gamma: float, tolerance: float, tools: Any) -> None:
    source = tools.source(num_classes=4, per_class=8)
    source = replace(source, x=source.x.double())
    setting = tools.setting(source, epochs=1, batch_size=64, lr=1.0)

    def make() -> FlatModel:
        with seeded_globals(Key(0)):
            network = Network(nn.Sequential(nn.Linear(5, 8), nn.Tanh()), nn.Linear(8, 4))
        return FlatModel(network.double())

    setting = replace(setting, make_model=make)
    model, data = make(), tools.lend(source)
    fisher = torch.rand(model.parameters.shape, generator=torch.Generator().manual_seed(1)).double() + 5.0

    def loss_of(m: FlatModel) -> torch.Tensor:
        batch = data.all()
        return setting.objective.losses(setting.objective.outputs(m, batch), batch).mean()

    loss_of(model).backward()
    slope = model.gradient.clone()
    config = Config(gamma=gamma, damping=1e-9 + 1.0, loss="batch")
    moved = displaced(setting, config, data, fisher)
    rise = float((loss_of(moved) - loss_of(model)).detach()) / gamma
    expected = float((slope.square() / (config.damping + fisher)).sum())
    assert rise == pytest.approx(expected, rel=tolerance)


# ----------------------------------------------------------------------------------------------- 3, closed form


def test_the_released_step_is_its_closed_form(tools: Any) -> None:
    source = tools.source()
    setting = tools.setting(source, epochs=1, batch_size=64)
    model, data = setting.make_model(), tools.lend(source)
    fisher = torch.rand(model.parameters.shape, generator=torch.Generator().manual_seed(2))
    config = Config(form="released", delta=1e-2, noise=0.0, preconditioner=0.5)
    moved = displaced(setting, config, data, fisher)
    batch = data.all()
    setting.objective.losses(setting.objective.outputs(model, batch), batch).mean().backward()
    for where in model.slices.values():
        theta, g, f = model.parameters[where], model.gradient[where], fisher[where]
        step = 1e-2 * theta.norm() * g / g.norm() / (1 + 0.5 * f)
        assert torch.allclose(moved.parameters[where], theta + step, atol=1e-7)
    even = displaced(setting, config, data, torch.full_like(fisher, 3.0))
    for where in model.slices.values():
        relative = (even.parameters - model.parameters)[where].norm() / model.parameters[where].norm()
        assert float(relative) == pytest.approx(1e-2 / (1 + 0.5 * 3.0), rel=1e-4)


def test_the_scratch_learning_rate_cancels() -> None:
    generator = torch.Generator().manual_seed(0)
    theta, g = torch.randn(10, generator=generator), torch.randn(10, generator=generator)
    sizes = torch.tensor([4, 6])
    assert torch.allclose(relative_climb(theta, 0.01 * g, sizes), relative_climb(theta, 1.0 * g, sizes), rtol=1e-5)
    still = torch.cat([torch.zeros(4), theta[4:]])
    assert relative_climb(still, g, sizes)[:4].tolist() == [0.0] * 4, "a tensor of norm zero does not climb"
    assert bool(relative_climb(theta, torch.zeros(10), sizes).isfinite().all())


# --------------------------------------------------------------------------------------------------- 4, noise


def test_the_noise_has_the_law_of_the_paper(tools: Any) -> None:
    source = tools.source(width=64)
    setting = tools.setting(source, hidden=200, epochs=1, batch_size=64)
    data, gamma = tools.lend(source), 1e-3
    count = len(setting.make_model().parameters)
    assert count > 1e4
    fisher = 4 * torch.rand(count, generator=torch.Generator().manual_seed(3))
    quiet = displaced(setting, Config(gamma=gamma), data, fisher)
    noisy = displaced(setting, Config(gamma=gamma, temperature=1.0), data, fisher)
    xi = (noisy.parameters - quiet.parameters) * (1 + fisher).sqrt()
    assert float(xi.std()) == pytest.approx((2 * gamma) ** 0.5, rel=0.02)
    assert abs(float(xi.mean())) < 3 * (2 * gamma / count) ** 0.5
    again = displaced(setting, Config(gamma=gamma, temperature=1.0), data, fisher)
    assert torch.equal(noisy.parameters, again.parameters), "the noise has a name"


def test_literal_noise_is_warned_about(tools: Any, caplog: pytest.LogCaptureFixture) -> None:
    setting = tools.setting(tools.source())
    with caplog.at_level(logging.WARNING):
        Refresh(Config(gamma=1e-6, temperature=1.0), setting)
        assert not caplog.records
        Refresh(Config(gamma=1e-3, temperature=1.0), setting)
    assert "destroy" in caplog.text


def test_a_climb_as_long_as_the_descent_is_refused(tools: Any) -> None:
    setting = tools.setting(tools.source(), lr=0.1)
    with pytest.raises(ConfigError, match=r"refresh\.gamma: 0\.1 must be below damping x training\.lr = 0\.1"):
        Refresh(Config(gamma=0.1), setting)
    Refresh(Config(gamma=0.1, damping=2.0), setting)
    Refresh(Config(gamma=0.1), tools.setting(tools.source(), lr=0.1, optimizer="adam"))


# ------------------------------------------------------------------------------------------------ 5, not SAM


def test_the_displacement_stays(tools: Any) -> None:
    source = tools.source()
    setting = tools.setting(source, epochs=1, batch_size=64)
    data, model = tools.lend(source), setting.make_model()
    moved = displaced(setting, Config(gamma=0.09), data)
    batch = data.all()

    def loss_of(m: FlatModel) -> float:
        return float(setting.objective.losses(setting.objective.outputs(m, batch), batch).mean().detach())

    assert not torch.equal(moved.parameters, model.parameters)
    assert loss_of(moved) > loss_of(model)


# ----------------------------------------------------------------------------------------------- 6, Fisher


def test_the_fisher_is_p_weighted_and_comes_at_the_end(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan, epochs=2)
    setting = replace(setting, make_model=lambda: _linear(5, 6))
    learner = learner_of(setting, ("naive",), Config(decay=0.25))
    refresh = learner.plugins["refresh"]
    seen: list[float] = []

    class Watch(Hooks):
        def extend(self, batch: Batch, step: int) -> Batch:
            seen.append(float(refresh._fisher.abs().max()))
            return batch

    learner.plugins["watch"] = type("WatchPlugin", (Watch, naive.Naive), {})(naive.Config(), setting)
    ledger = Ledger(plan.source)
    expected = torch.zeros_like(learner.model.parameters)
    for number, experience in enumerate(plan.experiences[:2]):
        door = ledger.door(learner.access, experience.sample_ids)
        learner.learn(ledger.admit(experience), door)
        if number == 0:
            assert set(seen) == {0.0}
        x, y = plan.source.x[experience.sample_ids], plan.source.y[experience.sample_ids]
        p = learner.model(x).softmax(1).detach()
        delta = nn.functional.one_hot(y, 6) - p
        weight = p.gather(1, y.unsqueeze(1))
        own = torch.einsum("bc,bd->cd", weight * delta.square(), x.square()) / len(x)
        bias = (weight * delta.square()).mean(0)
        expected = 0.25 * expected + torch.cat([own.reshape(-1), bias])
        assert torch.allclose(refresh._fisher, expected, rtol=1e-4, atol=1e-8)
    assert len(set(seen)) == 2, "it is renewed at the end of an experience only"


def _linear(inputs: int, outputs: int) -> FlatModel:
    with seeded_globals(Key(0)):
        return FlatModel(Network(nn.Identity(), nn.Linear(inputs, outputs)))


# -------------------------------------------------------------------------------------------- 7, isolation


def test_the_climb_leaves_buffers_and_moments_alone(tools: Any) -> None:
    source = tools.source()

    def make() -> FlatModel:
        with seeded_globals(Key(0)):
            return FlatModel(Network(nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU()), nn.Linear(8, 4)))

    setting = replace(tools.setting(source, epochs=2, batch_size=8, momentum=0.9), make_model=make)
    runs = {}
    for name, steps in (("none", 0), ("one", 1)):
        model, data = make(), tools.lend(source)
        plugin = Refresh(Config(gamma=0.0 if not steps else 1e-30), setting)  # moves nothing, but passes the network
        plugin.begin(type("Lesson", (), {"key": setting.key})())
        fit(model, setting.objective, data, setting.training, setting.key, [plugin])
        runs[name] = digest(model.state_dict())
    assert runs["none"] == runs["one"]


def test_the_climb_is_counted(tools: Any) -> None:
    setting = tools.setting(tools.source(), epochs=1)
    plugin = Refresh(Config(gamma=0.01, steps=3), setting)
    plugin.begin(type("Lesson", (), {"key": setting.key})())
    outcome = fit(
        setting.make_model(), setting.objective, tools.lend(tools.source()), setting.training, setting.key, [plugin]
    )
    assert outcome.forward == outcome.backward == 4 * 24


def test_what_is_climbed(plan: Plan, tools: Any) -> None:
    """full takes replayed samples and penalties along, batch does not; both use the draws of the step."""
    setting = tools.setting(plan.source, plan, epochs=1, batch_size=5)
    asked: list[tuple[str, int]] = []

    class Add(Hooks):
        def extend(self, batch: Batch, step: int) -> Batch:
            return batch.concat(batch.part(0, 2))

        def losses(self, losses: torch.Tensor, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
            asked.append(("losses", len(batch)))
            return losses

    class Climb(Hooks):
        def displace(self, parameters: torch.Tensor, slopes: Slopes) -> torch.Tensor:
            start = parameters.clone()
            full = slopes.full(parameters).clone()
            own = slopes.own(parameters).clone()
            assert not torch.equal(full, own)
            elsewhere = slopes.own(start + 0.1)
            assert not torch.equal(own, elsewhere)
            return start

    model = setting.make_model()
    data = tools.lend(plan.source, range(5))
    fit(model, setting.objective, data, setting.training, setting.key, [Add(), Climb()])
    assert asked == [("losses", 7), ("losses", 7)]
    plain = setting.make_model()
    fit(plain, setting.objective, data, setting.training, setting.key, [Add()])
    assert torch.equal(model.parameters, plain.parameters), "what it looks at elsewhere is put back"


# ------------------------------------------------------------------------------------------------- 9, two J


def test_two_climbs_take_the_gradient_twice(tools: Any) -> None:
    source = tools.source()
    setting = tools.setting(source, epochs=1, batch_size=64)
    data = tools.lend(source)
    twice = displaced(setting, Config(gamma=0.05, steps=2), data)
    once = displaced(setting, Config(gamma=0.05), data)
    again = displaced(replace(setting, make_model=lambda: _copy(once, setting)), Config(gamma=0.05), data)
    double = displaced(setting, Config(gamma=0.0999), data)
    assert torch.equal(twice.parameters, again.parameters)
    assert not torch.allclose(twice.parameters, double.parameters, atol=1e-5)


def _copy(model: FlatModel, setting: Setting) -> FlatModel:
    other = setting.make_model()
    other.load_state_dict(model.state_dict())
    return other


# ------------------------------------------------------------------------------------------------- requests


def test_a_request_takes_its_fisher_away_and_is_not_served(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    stream = assemble(plan, [Learn(0), Learn(1), RequestSpec("class", (0,)), Learn(2)], Service(), Key(0))
    strategy = Composed(learner_of(setting, ("naive",), Config(gamma=0.02)), none.NoUnlearning(none.Config(), setting))
    ledger = Ledger(plan.source)
    tools.live(strategy, ledger, stream.events[:2])
    request = stream.requests[0]
    assert np.isin(request.sample_ids, strategy.holds(request.sample_ids)["refresh.fisher"]).all()
    before = strategy.learner.model.parameters.clone()
    ledger.delete(request)
    door = ledger.door(strategy.access, request.sample_ids[:0], request.sample_ids)
    assert strategy.forget(request, door).exactness == "none"
    door.close()
    assert torch.equal(before, strategy.learner.model.parameters)
    assert set(strategy.holds(request.sample_ids)) == {"weights"}
    assert not bool(strategy.learner.plugins["refresh"]._fisher.any())


def test_a_request_that_names_other_data_too_takes_the_fisher_away(plan: Plan, tools: Any) -> None:
    """With decay 0 the Fisher is the last experience's alone; the request names one of its samples and many others."""
    setting = tools.setting(plan.source, plan)
    learner = learner_of(setting, ("naive",), Config(gamma=0.02, decay=0.0))
    teach(learner, plan)
    refresh = learner.plugins["refresh"]
    ids = np.append(plan.experiences[0].sample_ids, plan.experiences[2].sample_ids[0])
    learner.purge(DeletionRequest("r", (Request("sample", tuple(ids.tolist()), ids, ids[:0], 0),)))
    assert not bool(refresh._fisher.any())
    assert not len(refresh.holds(plan.experiences[2].sample_ids)["fisher"])


def test_a_request_for_other_data_leaves_the_fisher(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    learner = learner_of(setting, ("naive",), Config(gamma=0.02, decay=0.0))
    teach(learner, plan)
    ids = plan.experiences[0].sample_ids
    refresh = learner.plugins["refresh"]
    assert not len(refresh.holds(ids)["fisher"]), "with decay 0 it is the last experience's alone"
    learner.purge(assemble(plan, [Learn(0), RequestSpec("class", (0,))], Service(), Key(0)).requests[0])
    assert bool(refresh._fisher.any())


# -------------------------------------------------------------------------------------------------- 8, sanity


@pytest.mark.slow
def test_the_released_step_is_nearly_nothing_and_a_large_one_harms(digits: Any) -> None:
    plan = class_incremental.build(digits, class_incremental.Config(experiences=5), 0)

    def accuracy(seed: int, config: Config | None) -> float:
        def make() -> FlatModel:
            with seeded_globals(Key(seed) / "init"):
                body = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU())
                return FlatModel(Network(body, nn.Linear(100, 10)))

        training = Training(epochs=5, batch_size=10, lr=0.1)
        setting = Setting(Key(seed), make, Classification(10), training, plan.units, len(digits))
        HOSTS["host"] = (der_plus_plus.DERPlusPlus, der_plus_plus.Config(memory=50, batch=10, alpha=0.1, beta=0.5))
        learner = learner_of(setting, ("host",), config)
        teach(learner, plan)
        learner.model.train(False)
        x, y = digits.x[digits.test_ids], digits.y[digits.test_ids]
        return float((learner.model(x).argmax(1) == y).float().mean())

    host = [accuracy(s, None) for s in range(5)]
    released = [accuracy(s, Config(form="released")) for s in range(5)]
    damaged = [accuracy(s, Config(form="released", delta=1e-2)) for s in range(5)]
    HOSTS.pop("host")
    assert np.mean(host) > 0.75
    assert abs(np.mean(released) - np.mean(host)) < 0.01
    assert np.mean(damaged) < np.mean(host) - 0.04


def test_the_fisher_pass_leaves_the_model_in_its_mode(tools: Any) -> None:
    model = tools.mlp((5, 8, 4))
    model.train()
    diagonal_fisher(model, Classification(4), tools.lend(tools.source()), "p-weighted", Key(0))
    assert model.network.training
