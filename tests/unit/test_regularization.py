"""Ties between weights: SI, MAS, L2, EWC and what they share; training losses, masks and modes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lives import delete, teach
from torch import nn

from strategies.base import Access, Lesson, Plugin, Setting
from strategies.learner import SGDLearner
from strategies.learners import ewc, l2, mas, naive, online_ewc, replay, si
from strategies.objectives.classification import Classification
from strategies.parts.fit import Hooks, Training, fit
from strategies.parts.model import FlatModel, Network, digest
from strategies.parts.weights.fisher import diagonal_fisher, output_sensitivity
from strategies.parts.weights.importance import Tie, make_pull
from streams.data import Batch, Data
from streams.errors import ConfigError, TrainingError
from streams.ledger import Ledger
from streams.plan import Plan
from streams.randomness import Key, seeded_globals
from streams.scenarios import class_incremental

KEY = Key(0) / "test"
PLUGINS: dict[type, type[Plugin]] = {
    naive.Config: naive.Naive,
    l2.Config: l2.L2,
    ewc.Config: ewc.EWC,
    online_ewc.Config: online_ewc.OnlineEWC,
    si.Config: si.SI,
    mas.Config: mas.MAS,
    replay.Config: replay.Replay,
}
TIES = [
    l2.Config(strength=0.5),
    ewc.Config(strength=5.0),
    online_ewc.Config(strength=5.0),
    si.Config(strength=5.0),
    mas.Config(strength=0.5),
]


@pytest.fixture
def plan(tools: Any) -> Plan:
    source = tools.source(num_classes=6, per_class=10)
    return class_incremental.build(source, class_incremental.Config(experiences=3), 0)


def learner_of(setting: Setting, *configs: Any) -> SGDLearner:
    def plugins() -> list[tuple[str, Plugin]]:
        return [(type(c).__module__.rsplit(".", 1)[-1], PLUGINS[type(c)](c, setting)) for c in configs]

    return SGDLearner(setting, plugins)


def lesson_of(setting: Setting, plan: Plan, index: int = 0) -> Lesson:
    ledger, experience = Ledger(plan.source), plan.experiences[index]
    ledger.admit(experience)
    door = ledger.door(Access(retained="full"), experience.sample_ids)
    return Lesson(experience, ledger.lend(experience.sample_ids), door, setting.make_model(), Key(0), 1)


def autograd(penalty: Any, theta: torch.Tensor) -> torch.Tensor:
    theta = theta.clone().requires_grad_()
    return torch.autograd.grad(penalty(theta), theta)[0]


def noise_like(parameters: torch.Tensor, seed: int) -> torch.Tensor:
    return torch.randn(parameters.shape, generator=torch.Generator().manual_seed(seed))


def data_of(x: torch.Tensor, y: torch.Tensor) -> Data:
    return Data(np.arange(len(x)), x, y, None)


# ------------------------------------------------------------------------------------------------- strength zero


@pytest.mark.parametrize("training", [{"momentum": 0.9}, {"optimizer": "adam", "lr": 0.01}], ids=["sgd", "adam"])
@pytest.mark.parametrize(
    "config", [si.Config(strength=0.0), si.Config(strength=0.0, stiff="implicit"), mas.Config(strength=0.0)], ids=repr
)
def test_strength_zero_is_naive_to_the_bit(config: Any, training: dict[str, Any], plan: Plan, tools: Any) -> None:
    if training.get("optimizer") == "adam" and config.stiff == "implicit":
        pytest.skip("implicit steps are defined for sgd")
    setting = tools.setting(plan.source, plan, carry_optimizer=True, **training)
    plain, tied = learner_of(setting, naive.Config()), learner_of(setting, config)
    before = torch.random.get_rng_state()
    for learner in (plain, tied):
        teach(learner, plan)
    assert torch.equal(plain.model.parameters, tied.model.parameters)
    assert digest(plain.state_dict()["optimizer"]) == digest(tied.state_dict()["optimizer"])
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("config", TIES, ids=repr)
def test_a_tie_changes_the_weights_and_a_strong_one_holds_them(config: Any, plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    ends, weight = [], torch.ones(())
    for c in (naive.Config(), config, config.model_copy(update={"strength": 1e5, "stiff": "implicit"})):
        learner = learner_of(setting, c)
        ledger = teach(learner, plan, [0])
        start = learner.model.parameters.clone()
        (state,) = (p.state_dict() for p in learner.plugins.values())
        weight = (state["tie"]["weight"] > 1e-3).float() if "tie" in state else weight
        teach(learner, plan, [1], ledger)
        ends.append(learner.model.parameters - start)
    assert not torch.allclose(ends[1], ends[0], atol=1e-3)
    # From the initial weights L2 ties the first experience too.
    assert float((weight * ends[2]).norm()) < 0.1 * float((weight * ends[0]).norm())


# --------------------------------------------------------------------------------------------------- what ties share


def test_the_running_form_is_the_explicit_sum() -> None:
    like = torch.zeros(50)
    tie, terms = Tie(like), []
    for k in range(40):
        importance, theta = noise_like(like, k).abs() * (noise_like(like, 100 + k) > 0), 3 + noise_like(like, 200 + k)
        tie.add(importance, theta)
        terms.append((importance, theta))
    theta = 3 + noise_like(like, 999)
    explicit = sum(float((f.double() * (theta - t).double().square()).sum()) for f, t in terms)
    assert tie.penalty(theta) == pytest.approx(explicit, rel=1e-5)
    expected = sum(f * (theta - t) for f, t in terms)
    assert torch.allclose(tie.weight * (theta - tie.center), expected, rtol=1e-4, atol=1e-3)
    one = Tie(like)
    one.add(terms[0][0], terms[0][1])
    held = terms[0][0] > 0
    assert torch.equal(one.center[held], terms[0][1][held])  # exactly zero pull at a single anchor
    again = Tie(like)
    again.load_state_dict(tie.state_dict())
    assert digest(again.state_dict()) == digest(tie.state_dict())


def test_explicit_steps_overshoot_where_theory_says() -> None:
    # On the penalty alone x <- (1 - lr c) x: 1.9 converges, 2.1 explodes.
    for stiffness, converges in ((1.9, True), (2.1, False)):
        x = torch.ones(1)
        for _ in range(200):
            x = x - 0.1 * (stiffness / 0.1) * x
        assert (float(x.abs()) < 1) == converges
    training = Training(lr=0.1)
    curvature, zero = torch.tensor([5.0, 19.0, 21.0, 1e6]), torch.zeros(4)
    with pytest.raises(TrainingError, match=r"ewc.strength: lr x curvature .* 1e\+05 .* need less than 2.*clamp"):
        make_pull(curvature, zero, "refuse", training, "ewc")
    clamped = make_pull(curvature, zero, "clamp", training, "ewc")
    assert clamped.curvature.tolist() == [5.0, 19.0, 10.0, 10.0]
    assert clamped.clamped == 0.5
    assert make_pull(curvature[:2], zero[:2], "refuse", training, "ewc").clamped == 0.0
    assert make_pull(curvature, zero, "refuse", Training(optimizer="adam"), "ewc").clamped == 0.0


def test_the_implicit_step_solves_its_own_equation() -> None:
    # theta' = theta - lr (g + c (theta' - A)): stable at any strength.
    training = Training(lr=0.1)
    curvature, anchor = torch.tensor([0.0, 1.0, 100.0, 1e8]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    theta, gradient = torch.zeros(4), torch.tensor([1.0, -1.0, 2.0, 3.0])
    pull = make_pull(curvature, anchor, "implicit", training, "ewc")
    stepped = theta - 0.1 * pull.add_to(gradient.clone(), theta)
    expected = (theta - 0.1 * gradient + 0.1 * curvature * anchor) / (1 + 0.1 * curvature)
    assert torch.allclose(stepped, expected, rtol=1e-5)
    assert float(stepped[3]) == pytest.approx(4.0)


@pytest.mark.parametrize("config", TIES, ids=repr)
def test_implicit_steps_need_sgd(config: Any, plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan, optimizer="adam")
    with pytest.raises(ConfigError, match=r"stiff: implicit steps are defined for training.optimizer: sgd"):
        learner_of(setting, config.model_copy(update={"stiff": "implicit"}))


@pytest.mark.parametrize("config", TIES, ids=repr)
@pytest.mark.parametrize("parameters", ["all", "body", "head"])
def test_penalty_gradients(parameters: Any, config: Any, plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan, lr=1e-4)
    config = config.model_copy(update={"parameters": parameters})
    learner = learner_of(setting, config)
    teach(learner, plan, [0])
    (plugin,) = learner.plugins.values()
    state = plugin.state_dict()
    weight, anchor = (state["tie"]["weight"], state["tie"]["center"]) if "tie" in state else (None, state["anchor"])
    mask = learner.model.mask(parameters)
    if weight is None:
        weight = mask
    factor = config.strength * (0.5 if isinstance(config, ewc.Config | online_ewc.Config) else 1.0)
    theta = anchor + noise_like(anchor, 1)
    plugin.begin(lesson_of(setting, plan))
    found = plugin.gradient(torch.zeros_like(theta), theta)
    expected = autograd(lambda t: factor * (weight * (t - anchor).square()).sum(), theta)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert float(found.abs().max()) > 0
    assert float((found * (1 - mask)).abs().max()) == 0
    assert float(plugin.gradient(torch.zeros_like(theta), anchor).abs().max()) == 0


@pytest.mark.parametrize("config", TIES, ids=repr)
def test_the_penalty_that_is_reported_is_what_training_ended_with(config: Any, plan: Plan, tools: Any) -> None:
    """A quadratic with one anchor, where the experience began, is half the way times its gradient there."""
    setting = tools.setting(plan.source, plan)
    learner = learner_of(setting, config)
    ledger = teach(learner, plan, [0])
    (name,) = learner.plugins
    before, start = PLUGINS[type(config)](config, setting), learner.model.parameters.clone()
    before.load_state_dict(learner.plugins[name].state_dict())
    before.begin(lesson_of(setting, plan, 1))
    admitted = ledger.admit(plan.experiences[1])
    outcome = learner.learn(admitted, ledger.door(learner.access, admitted.sample_ids))
    end = learner.model.parameters
    expected = float((end - start).dot(before.gradient(torch.zeros_like(end), end))) / 2
    assert expected > 1e-4
    assert outcome.losses[f"{name}_penalty"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("config", [si.Config(strength=5.0), mas.Config(strength=5.0), online_ewc.Config()], ids=repr)
def test_the_first_step_of_the_next_experience_is_naive(config: Any, plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan, epochs=1, batch_size=20)
    plain, tied = learner_of(setting, naive.Config()), learner_of(setting, config)
    for learner in (plain, tied):
        teach(learner, plan, [0, 1])
    assert torch.equal(plain.model.parameters, tied.model.parameters)


@pytest.mark.parametrize("config", TIES, ids=repr)
def test_a_request_moves_anchors_and_what_stays_is_reported(config: Any, plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan, lr=0.05)
    learner = learner_of(setting, config)
    ledger = teach(learner, plan, [0, 1])
    gone = plan.experiences[0].sample_ids[:3]
    delete(learner, ledger, gone)
    learner.model.parameters += 0.3
    learner.settle()
    (name,) = learner.plugins
    plugin, theta = learner.plugins[name], learner.model.parameters
    plugin.begin(lesson_of(setting, plan))
    assert float(plugin.gradient(torch.zeros_like(theta), theta).abs().max()) == 0
    inner = {"si": "importance", "mas": "importance", "ewc": "fisher", "online_ewc": "fisher"}
    expected = {"weights"} | {f"{name}.{inner[name]}"} if name in inner else {"weights"}
    expected |= {f"{name}.anchors" if name == "ewc" else f"{name}.anchor"}
    assert learner.holds(gone).keys() == expected
    learner.reset()
    assert learner.holds(plan.source.train_ids) == {}


@pytest.mark.parametrize("config", TIES, ids=repr)
def test_state_goes_on_to_the_same_bits(config: Any, plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan, carry_optimizer=True, momentum=0.9)
    whole, first, second = (learner_of(setting, config) for _ in range(3))
    teach(whole, plan)
    ledger = teach(first, plan, [0, 1])
    second.load_state_dict(first.state_dict())
    assert digest(second.state_dict()) == digest(first.state_dict())
    teach(second, plan, [2], ledger)
    assert digest(second.state_dict()) == digest(whole.state_dict())


def test_online_size_and_cost_do_not_grow_with_experiences(tools: Any) -> None:
    source = tools.source(num_classes=6, per_class=10)
    plan = class_incremental.build(source, class_incremental.Config(experiences=6), 0)
    setting = tools.setting(source, plan)
    for config in (online_ewc.Config(), ewc.Config(), si.Config(), mas.Config()):
        learner = learner_of(setting, config)
        ledger = teach(learner, plan, [0])
        size = sum(
            t.numel()
            for t in learner.plugins[next(iter(learner.plugins))].state_dict()["tie"].values()
            if isinstance(t, torch.Tensor)
        )
        teach(learner, plan, [1, 2, 3, 4, 5], ledger)
        (plugin,) = learner.plugins.values()
        assert size == sum(t.numel() for t in plugin.state_dict()["tie"].values() if isinstance(t, torch.Tensor))


# ---------------------------------------------------------------------------------------------- EWC taken apart


@pytest.mark.parametrize("mode", ["drop", "recompute"])
def test_ewc_takes_the_fisher_of_a_touched_experience_out(mode: Any, plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan, lr=0.05)
    config = ewc.Config(strength=5.0, fisher="exact", on_deletion=mode)
    learner, kept = learner_of(setting, config), learner_of(setting, ewc.Config(strength=5.0, fisher="exact"))
    ledger = teach(learner, plan, [0, 1])
    teach(kept, plan, [0, 1])
    plugin = learner.plugins["ewc"]
    assert torch.equal(plugin.state_dict()["tie"]["weight"], kept.plugins["ewc"].state_dict()["tie"]["weight"])
    first, second = (plugin.state_dict()["shares"][f"{e.name}/0"]["fisher"] for e in plan.experiences[:2])
    gone = plan.experiences[0].sample_ids[:3]
    delete(learner, ledger, gone)
    assert torch.equal(plugin.state_dict()["tie"]["weight"], second)  # to the bit: nothing of the first is left
    assert learner.holds(plan.experiences[0].sample_ids).keys() == {"weights", "ewc.anchors"}
    assert len(learner.holds(plan.experiences[1].sample_ids)["ewc.fisher"]) == 20
    assert plugin.access == Access(retained="full" if mode == "recompute" else 0)
    saved, (other,) = learner.state_dict(), [learner_of(setting, config)]
    other.load_state_dict(saved)
    theta = learner.model.parameters.clone()
    teach(other, plan, [2], ledger)
    state = other.plugins["ewc"].state_dict()
    if mode == "drop":
        assert len(state["shares"]) == 2
        return
    left = plan.experiences[0].sample_ids[3:]
    share = state["shares"][f"{plan.experiences[0].name}/0"]
    model = setting.make_model()
    model.parameters.copy_(theta)
    expected, _ = diagonal_fisher(model, setting.objective, tools.lend(plan.source, left), "exact", KEY)
    assert torch.allclose(share["fisher"], expected, rtol=1e-5, atol=1e-9)
    assert not torch.allclose(share["fisher"], first, rtol=1e-2)
    assert torch.equal(share["anchor"], theta)
    assert share["ids"].tolist() == left.tolist()
    assert "ewc.fisher" not in other.holds(gone)
    assert other.holds(left)["ewc.fisher"].tolist() == left.tolist()


@pytest.mark.parametrize("mode", ["drop", "recompute"])
def test_every_anchor_moves_to_the_unlearned_weights(mode: Any, plan: Plan, tools: Any) -> None:
    """Also of experiences that no request has named, whose anchors are added up anew later."""
    setting = tools.setting(plan.source, plan, lr=0.05)
    learner = learner_of(setting, ewc.Config(strength=5.0, fisher="exact", on_deletion=mode))
    ledger = teach(learner, plan, [0, 1, 2])
    delete(learner, ledger, plan.experiences[0].sample_ids[:3])
    learner.model.parameters += 0.3
    learner.settle()
    plugin, theta = learner.plugins["ewc"], learner.model.parameters.clone()
    assert isinstance(plugin, ewc.EWC)
    experience = plan.experiences[0]
    door = ledger.door(plugin.access, experience.sample_ids[:0])
    lesson = Lesson(experience, ledger.lend(experience.sample_ids[3:]), door, learner.model, Key(0), 1)
    plugin.begin(lesson)  # recompute estimates the touched Fisher, and adds everything up anew
    assert not plugin.gradient(torch.zeros_like(theta), theta).any()
    shares = plugin.state_dict()["shares"]
    assert len(shares) == (2 if mode == "drop" else 3)
    assert all(torch.equal(share["anchor"], theta) for share in shares.values())
    delete(learner, ledger, plan.experiences[1].sample_ids[:3])
    plugin.begin(lesson)
    assert not plugin.gradient(torch.zeros_like(theta), theta).any(), "nor does the next request bring them back"
    assert plugin.gradient(torch.zeros_like(theta), theta + 1).any()


def test_recomputing_reads_through_the_door_and_is_paid_for(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    learner = learner_of(setting, ewc.Config(on_deletion="recompute"))
    ledger = teach(learner, plan, [0, 1])
    ids = plan.experiences[0].sample_ids
    delete(learner, ledger, ids[:4])
    experience = ledger.admit(plan.experiences[2])
    door = ledger.door(learner.access, experience.sample_ids)
    outcome = learner.learn(experience, door)
    assert door.num_read == 20 + 16
    assert outcome.backward == 2 * 20 + 20 + 16
    delete(learner, ledger, ids[4:])
    assert len(learner.plugins["ewc"].state_dict()["shares"]) == 2


# ------------------------------------------------------------------------------------------------------------ SI


class _Drop(Hooks):
    """Sums path shares and the true loss decrease is checked against them."""

    def __init__(self, size: int) -> None:
        self.omega = torch.zeros(size)

    def stepped(self, gradient: torch.Tensor, change: torch.Tensor) -> None:
        self.omega += si.path_share(gradient, change)


@pytest.mark.parametrize(("lr", "tolerance"), [(0.1, 0.01), (0.01, 0.001)])
def test_si_paths_sum_to_the_loss_decrease(lr: float, tolerance: float, digits: Any, tools: Any) -> None:
    setting = tools.setting(digits, hidden=32, lr=lr, epochs=30, batch_size=10_000)
    data = tools.lend(digits)
    model, batch = setting.make_model(), data.all()

    def loss() -> float:
        with torch.no_grad():
            return float(setting.objective.losses(model(batch.x), batch).mean())

    before, hook = loss(), _Drop(len(model.parameters))
    fit(model, setting.objective, data, setting.training, KEY, [hook])
    assert before - loss() > 0.01
    assert float(hook.omega.sum()) == pytest.approx(before - loss(), rel=tolerance)


def test_si_counts_the_task_gradient_only(plan: Plan, tools: Any) -> None:
    """Zero task gradient and a penalty that pulls: the weights move, and no path is counted."""
    setting = tools.setting(plan.source, plan, lr=0.1, epochs=3)
    plugin = si.SI(si.Config(strength=2.0), setting)
    lesson = lesson_of(setting, plan)
    weight = torch.ones_like(lesson.model.parameters)
    plugin.load_state_dict(
        {
            "tie": {"weight": weight, "center": lesson.model.parameters + 1.0, "spread": 0.0},
            "active": True,
            "derived": torch.zeros(setting.num_samples, dtype=torch.bool),
        }
    )

    class Nothing(Hooks):
        def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
            return loss * 0.0

    start = lesson.model.parameters.clone()
    plugin.begin(lesson)
    fit(lesson.model, setting.objective, lesson.data, setting.training, KEY, [Nothing(), plugin])
    assert float((lesson.model.parameters - start).min()) > 0.5
    plugin.end(lesson)
    assert torch.equal(plugin.state_dict()["tie"]["weight"], weight)


class _Climb(Hooks):
    def gradient(self, gradient: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        return gradient.neg_()


@pytest.mark.parametrize("negative", ["clamp", "keep"])
@pytest.mark.parametrize("climbing", [False, True])
def test_si_importance_of_an_experience(climbing: bool, negative: Any, plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan, lr=0.1)
    lesson = lesson_of(setting, plan)
    plugin, watch = si.SI(si.Config(damping=0.01, negative=negative), setting), _Drop(len(lesson.model.parameters))
    start = lesson.model.parameters.clone()
    plugin.begin(lesson)
    hooks = [watch, plugin, *([_Climb()] if climbing else [])]
    fit(lesson.model, setting.objective, lesson.data, setting.training, KEY, hooks)
    plugin.end(lesson)
    expected = watch.omega / ((lesson.model.parameters - start).square() + 0.01)
    assert (float(expected.sum()) < 0) == climbing
    if negative == "clamp":
        expected = expected.clamp(min=0)
    assert torch.allclose(plugin.state_dict()["tie"]["weight"], expected, rtol=1e-4, atol=1e-7)


def test_si_s_importance_is_a_sum_over_experiences_each_with_a_path_of_its_own(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan, lr=0.1)
    plugin, expected = si.SI(si.Config(damping=0.01, strength=0.0), setting), 0.0
    for index in (0, 1, 2):
        lesson, watch = lesson_of(setting, plan, index), _Drop(len(setting.make_model().parameters))
        start = lesson.model.parameters.clone()
        plugin.begin(lesson)
        fit(lesson.model, setting.objective, lesson.data, setting.training, KEY, [watch, plugin])
        plugin.end(lesson)
        expected = expected + (watch.omega / ((lesson.model.parameters - start).square() + 0.01)).clamp(min=0)
    assert torch.allclose(plugin.state_dict()["tie"]["weight"], expected, rtol=1e-4, atol=1e-7)


def test_si_is_not_misled_by_other_penalties_or_their_order(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan, lr=0.05)
    found = []
    for order in (
        (si.Config(strength=0.0), l2.Config(strength=1.0)),
        (l2.Config(strength=1.0), si.Config(strength=0.0)),
    ):
        learner = learner_of(setting, *order)
        teach(learner, plan)
        found.append(learner.plugins["si"].state_dict()["tie"]["weight"])
    assert torch.allclose(found[0], found[1], rtol=1e-5, atol=1e-8)


# ----------------------------------------------------------------------------------------------------------- MAS


def linear_model(inputs: int, outputs: int) -> FlatModel:
    with seeded_globals(Key(3)):
        return FlatModel(Network(nn.Identity(), nn.Linear(inputs, outputs, bias=False)))


@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_mas_on_a_linear_map(batch_size: int) -> None:
    # Omega_ij = mean |2 (W x)_i x_j|.
    model, x = linear_model(4, 3), noise_like(torch.zeros(20, 4), 0)
    data = data_of(x, torch.zeros(20, dtype=torch.int64))
    found, outcome = output_sensitivity(model, Classification(3), data, batch_size)
    z = x @ model.parameters.view(3, 4).t()
    expected = (2 * z.unsqueeze(2) * x.unsqueeze(1)).abs().mean(0)
    assert torch.allclose(found.view(3, 4), expected, atol=1e-6)
    assert (outcome.forward, outcome.backward) == (20, 20)


@pytest.mark.parametrize("kind", ["linear", "convolution", "norm"])
def test_mas_is_the_loop_over_samples(kind: str) -> None:
    with seeded_globals(Key(1)):
        body: nn.Module = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
        if kind == "convolution":
            body = nn.Sequential(
                nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 2, 2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5)
            )
        if kind == "norm":
            body = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5))
        model = FlatModel(Network(body, nn.Linear(5, 3)))
    x = noise_like(torch.zeros(9, 6), 1)
    model.train()
    model(x)
    before = digest(model.state_dict())
    found, _ = output_sensitivity(model, Classification(3), data_of(x, torch.zeros(9, dtype=torch.int64)), 4)
    assert digest(model.state_dict()) == before
    assert model.network.training
    model.train(False)
    expected = torch.zeros_like(found)
    for row in x:
        model.gradient.zero_()
        model(row.unsqueeze(0)).square().sum().backward()
        expected += model.gradient.abs() / len(x)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_mas_does_not_read_labels_and_ignores_forbidden_outputs(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    ids = plan.experiences[0].sample_ids
    model = setting.make_model()
    found, _ = output_sensitivity(model, setting.objective, tools.lend(plan.source, ids))
    relabelled = Data(ids, plan.source.x, (plan.source.y + 1) % 6, None)
    assert torch.equal(found, output_sensitivity(model, setting.objective, relabelled)[0])
    task_aware = Classification(6, ((0, 1), (2, 3, 4, 5)))
    task = torch.zeros(len(plan.source), dtype=torch.int64)
    masked, _ = output_sensitivity(model, task_aware, Data(ids, plan.source.x, plan.source.y, task))
    rows = model.slices["head.bias"]
    assert bool((masked[rows][:2] > 0).all())
    assert float(masked[rows][2:].abs().max()) == 0
    assert bool(torch.isfinite(masked).all())


def test_mas_accumulation() -> None:
    old, new = torch.tensor([1.0, 3.0]), torch.tensor([5.0, 1.0])
    assert mas.combine(None, new, mas.Config()).tolist() == [5.0, 1.0]
    assert mas.combine(old, new, mas.Config()).tolist() == [6.0, 4.0]
    assert mas.combine(old, new, mas.Config(accumulate="average", alpha=0.75)).tolist() == [2.0, 2.5]


# ------------------------------------------------------------------------------------------- training loss and mask


def test_defaults_train_and_evaluate_by_the_same_loss(tools: Any) -> None:
    objective = Classification(4)
    assert objective.training_on(tools.lend(tools.source())) is objective


@pytest.mark.parametrize("loss", ["ce", "bce"])
@pytest.mark.parametrize("mask", ["none", "batch", "experience"])
def test_training_losses(loss: Any, mask: Any) -> None:
    objective = Classification(5, loss=loss, mask=mask)
    x, y = torch.zeros(4, 1), torch.tensor([0, 1, 2, 2])
    taught = objective.training_on(data_of(x, y))
    outputs = noise_like(torch.zeros(2, 5), 0).requires_grad_()
    batch = Batch(torch.arange(2), x[:2], torch.tensor([0, 4]))  # 4 is replayed: not a class of the experience
    counts = {"none": [0, 1, 2, 3, 4], "batch": [0, 4], "experience": [0, 1, 2, 4]}[mask]
    found = taught.losses(outputs, batch)
    part, labels = outputs[:, counts], torch.tensor([counts.index(0), counts.index(4)])
    if loss == "ce":
        expected = F.cross_entropy(part, labels, reduction="none")
    else:
        one_hot = F.one_hot(labels, len(counts)).float()
        expected = F.binary_cross_entropy_with_logits(part, one_hot, reduction="none").mean(1)
    assert torch.allclose(found, expected, atol=1e-6)
    found.sum().backward()
    rest = [c for c in range(5) if c not in counts]
    assert outputs.grad is not None
    assert bool((outputs.grad[:, rest] == 0).all())
    # Evaluation does not know about any of it.
    plain = Classification(5)
    for name in ("losses", "scores", "probabilities"):
        assert torch.equal(getattr(objective, name)(outputs, batch), getattr(plain, name)(outputs, batch))


def test_absent_rows_of_the_head_get_no_gradient_under_the_mask(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    moved = {}
    for mask in ("none", "batch"):
        model = setting.make_model()
        start = model.parameters.clone()
        data = tools.lend(plan.source, plan.experiences[0].sample_ids)
        fit(model, Classification(6, mask=mask), data, setting.training, KEY)
        moved[mask] = (model.parameters - start)[model.slices["head.bias"]].abs()
    classes = np.unique(plan.source.class_ids[plan.experiences[0].sample_ids])
    rest = np.setdiff1d(np.arange(6), classes)
    assert float(moved["none"][rest].min()) > 0
    assert float(moved["batch"][rest].max()) == 0
    assert float(moved["batch"][classes].min()) > 0


@pytest.mark.parametrize("mask", ["none", "experience"])
def test_task_labels_and_training_masks_agree(mask: Any) -> None:
    objective = Classification(4, ((0, 1), (2, 3)), loss="bce", mask=mask)
    x, y, task = torch.zeros(3, 1), torch.tensor([0, 1, 0]), torch.zeros(3, dtype=torch.int64)
    data = Data(np.arange(3), x, y, task)
    batch = data.all()
    logits = noise_like(torch.zeros(3, 4), 2).requires_grad_()
    losses = objective.training_on(data).losses(objective.mask(logits, batch), batch)
    one_hot = F.one_hot(y, 2).float()
    assert torch.allclose(losses, F.binary_cross_entropy_with_logits(logits[:, :2], one_hot, reduction="none").mean(1))
    losses.sum().backward()
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())


@pytest.mark.parametrize("mask", ["none", "batch", "experience"])
@pytest.mark.parametrize("loss", ["ce", "bce"])
@pytest.mark.parametrize("estimator", ["exact", "empirical", "p-weighted", "sampled"])
def test_fisher_follows_the_training_loss(estimator: Any, loss: Any, mask: Any) -> None:
    """Against closed forms of linear models, in any batch size."""
    model, x = linear_model(3, 4), noise_like(torch.zeros(12, 3), 4)
    y = torch.arange(12) % 2
    objective = Classification(4, loss=loss, mask=mask)
    found, _ = diagonal_fisher(model, objective, data_of(x, y), estimator, KEY, 12)
    again, _ = diagonal_fisher(model, objective, data_of(x, y), estimator, KEY, 5)
    if estimator != "sampled":
        assert torch.allclose(found, again, rtol=1e-5, atol=1e-9)
    units = 4 if mask == "none" else 2
    z = (x @ model.parameters.view(4, 3).t())[:, :units]
    p = z.softmax(1) if loss == "ce" else z.sigmoid()
    one_hot = F.one_hot(y, units).float()
    scale = 1 if loss == "ce" else units
    if estimator == "exact":
        delta = p * (1 - p)
    elif estimator == "sampled":
        assert float(found.view(4, 3)[units:].abs().sum()) == 0
        return
    else:
        delta = (p - one_hot).square()
        if estimator == "p-weighted":
            likelihood = (
                p.gather(1, y.unsqueeze(1))
                if loss == "ce"
                else (p * one_hot + (1 - p) * (1 - one_hot)).prod(1, keepdim=True)
            )
            delta = delta * likelihood
    expected = torch.zeros(4, 3)
    expected[:units] = delta.t() @ x.square() / len(x) / scale**2
    assert torch.allclose(found.view(4, 3), expected, rtol=1e-4, atol=1e-7)


def test_the_sampled_bce_fisher_is_unbiased_for_the_exact() -> None:
    model, x = linear_model(3, 4), noise_like(torch.zeros(12, 3), 4)
    objective = Classification(4, loss="bce")
    data = data_of(x, torch.arange(12) % 4)
    exact, _ = diagonal_fisher(model, objective, data, "exact", KEY)
    draws = torch.stack([diagonal_fisher(model, objective, data, "sampled", KEY / i)[0] for i in range(400)])
    error = (draws.mean(0) - exact).abs() / (draws.std(0) / 20)
    assert float(error.max()) < 4


# ------------------------------------------------------------------------------ batch norm, carried optimizers, parts


def normed(trained: Any = "all") -> FlatModel:
    with seeded_globals(Key(0)):
        body = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU())
        return FlatModel(Network(body, nn.Linear(8, 6)), trained)


def test_batch_norm_modes(plan: Plan, tools: Any) -> None:
    data = tools.lend(plan.source, plan.experiences[0].sample_ids)
    ends = {}
    for mode in ("train", "eval"):
        model = normed()
        buffers = digest(model.state_dict()["buffers"])
        fit(model, Classification(6), data, Training(lr=0.1, bn_mode=mode), KEY)
        assert (digest(model.state_dict()["buffers"]) == buffers) == (mode == "eval")
        assert model.network.training  # dropout would still drop
        ends[mode] = model.parameters
    assert not torch.allclose(ends["train"], ends["eval"])


def test_frozen_parts_stay_to_the_bit(plan: Plan, tools: Any) -> None:
    data = tools.lend(plan.source, plan.experiences[0].sample_ids)
    model = normed("head")
    before = {n: t.clone() for n, t in [*model.network.named_parameters(), *model.network.named_buffers()]}
    fit(model, Classification(6), data, Training(lr=0.1, momentum=0.9), KEY)
    after = dict([*model.network.named_parameters(), *model.network.named_buffers()])
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert moved == {"head.weight", "head.bias"}
    assert set(model.slices) == moved


def test_l2_with_huge_strength_is_a_frozen_body(plan: Plan, tools: Any) -> None:
    """By implicit steps, which no strength can break."""
    setting = tools.setting(plan.source, plan, lr=0.1)
    learner = learner_of(setting, l2.Config(strength=1e9, parameters="body", stiff="implicit"))
    start = setting.make_model().parameters
    teach(learner, plan)
    body = learner.model.mask("body") > 0
    assert torch.allclose(learner.model.parameters[body], start[body], atol=1e-6)

    def frozen_model() -> FlatModel:
        return FlatModel(setting.make_model().network, "head")

    frozen = frozen_model()
    ledger = Ledger(plan.source)
    for e in plan.experiences:
        ledger.admit(e)
        key = setting.key / "fit" / e.name / 0
        fit(frozen, setting.objective, ledger.lend(e.sample_ids), setting.training, key)
    assert torch.allclose(learner.model.parameters[~body], frozen.parameters, atol=1e-4)


@pytest.mark.parametrize("training", [{"momentum": 0.9}, {"optimizer": "adam", "lr": 0.01}], ids=["sgd", "adam"])
def test_carrying_the_optimizer_is_one_long_torch_run(training: dict[str, Any], plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan, carry_optimizer=True, epochs=1, **training)
    carried = learner_of(setting, naive.Config())
    teach(carried, plan)
    reset = learner_of(tools.setting(plan.source, plan, epochs=1, **training), naive.Config())
    teach(reset, plan)
    assert not torch.allclose(carried.model.parameters, reset.model.parameters, atol=1e-4)
    assert "optimizer" not in reset.state_dict()
    network, t = setting.make_model().network, setting.training
    parameters = list(network.parameters())
    optimizer = (
        torch.optim.Adam(parameters, lr=t.lr)
        if t.optimizer == "adam"
        else torch.optim.SGD(parameters, lr=t.lr, momentum=0.9)
    )
    for e in plan.experiences:
        order = (setting.key / "fit" / e.name / 0 / "epoch" / 0).order(e.sample_ids)
        for rows in torch.from_numpy(e.sample_ids[order]).split(t.batch_size):
            optimizer.zero_grad()
            F.cross_entropy(network(plan.source.x[rows]), plan.source.y[rows]).backward()
            optimizer.step()
    expected = nn.utils.parameters_to_vector(network.parameters()).detach()
    assert torch.allclose(carried.model.parameters, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [{"momentum": 0.9}, {"optimizer": "adam", "lr": 0.01}], ids=["sgd", "adam"])
def test_a_request_resets_the_moments_that_derive_from_it(training: dict[str, Any], plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan, carry_optimizer=True, **training)
    learner = learner_of(setting, naive.Config())
    fresh = digest(learner.state_dict()["optimizer"])
    ledger = teach(learner, plan, [0])
    gone = plan.experiences[0].sample_ids[:2]
    assert learner.holds(gone).keys() == {"weights", "optimizer"}
    assert digest(learner.state_dict()["optimizer"]) != fresh
    delete(learner, ledger, gone)
    assert learner.holds(plan.experiences[0].sample_ids).keys() == {"weights"}
    assert digest(learner.state_dict()["optimizer"]) == fresh


def test_one_sample_of_the_moments_is_enough_to_reset_them(plan: Plan, tools: Any) -> None:
    """The others of the request were learned before the moments were last reset, and are not in them."""
    setting = tools.setting(plan.source, plan, carry_optimizer=True, momentum=0.9)
    learner = learner_of(setting, naive.Config())
    fresh = digest(learner.state_dict()["optimizer"])
    ledger = teach(learner, plan, [0])
    early, late = plan.experiences[0].sample_ids, plan.experiences[1].sample_ids
    delete(learner, ledger, early[:1])
    teach(learner, plan, [1], ledger)
    moments = digest(learner.state_dict()["optimizer"])
    delete(learner, ledger, early[1:3])
    assert digest(learner.state_dict()["optimizer"]) == moments != fresh
    delete(learner, ledger, np.concatenate([early[3:], late[:1]]))
    assert digest(learner.state_dict()["optimizer"]) == fresh


def test_attention_is_matched_by_whole_path_components() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.self_attn = nn.Linear(2, 2)
            self.attention_like = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.attention_like(self.self_attn(x))

    with seeded_globals(Key(0)):
        model = FlatModel(Network(nn.Sequential(Block(), nn.LayerNorm(2)), nn.Linear(2, 2)))
        trained = FlatModel(Network(nn.Sequential(Block(), nn.LayerNorm(2)), nn.Linear(2, 2)), "attention")
    inside = {n for n, where in model.slices.items() if bool(model.mask("attention")[where].all())}
    assert inside == {"body.0.self_attn.weight", "body.0.self_attn.bias"}
    assert set(trained.slices) == inside | {"head.weight", "head.bias"}
    with pytest.raises(ConfigError, match="no.* attention|has none"):
        normed().mask("attention")
    with pytest.raises(ConfigError, match="has none"):
        normed("attention")


def test_tied_weights_are_one_parameter(tools: Any) -> None:
    with seeded_globals(Key(0)):
        first, second = nn.Linear(4, 4), nn.Linear(4, 4)
        second.weight = first.weight
        model = FlatModel(Network(nn.Sequential(first, second), nn.Linear(4, 3)))
    assert len(model.parameters) == 16 + 4 + 4 + 12 + 3
    assert first.weight is second.weight
    model(torch.ones(2, 4)).sum().backward()
    model.parameters.fill_(0.5)
    assert bool((second.weight == 0.5).all())
    data = data_of(noise_like(torch.zeros(6, 4), 0), torch.arange(6) % 3)
    found, _ = diagonal_fisher(model, Classification(3), data, "empirical", KEY)
    expected = torch.zeros_like(found)
    for i in range(6):
        model.gradient.zero_()
        batch = data.batch(torch.tensor([i]))
        F.cross_entropy(model(batch.x), batch.y).backward()
        expected += model.gradient.square() / 6
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-8)
    model.gradient.zero_()
    assert model.network.body[0].weight.grad is not None


def test_nothing_to_train_is_an_error() -> None:
    network = Network(nn.Linear(2, 2), nn.Linear(2, 2))
    network.requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameter to train"):
        FlatModel(network)
