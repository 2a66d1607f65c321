"""Prediction and feature distillation: their gradients, their teachers, and what a request does to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lives import delete, teach
from torch import nn

from strategies.base import Plugin, Setting
from strategies.learner import SGDLearner
from strategies.learners import feature_distillation, lwf, naive
from strategies.objectives.classification import Classification
from strategies.objectives.regression import Regression
from strategies.parts.model import FlatModel, Network, digest, num_bytes
from streams.data import Batch
from streams.errors import ConfigError
from streams.ledger import Ledger
from streams.plan import Plan
from streams.randomness import Key, seeded_globals
from streams.scenarios import class_incremental, task_incremental

PLUGINS: dict[type, type[Plugin]] = {
    naive.Config: naive.Naive,
    lwf.Config: lwf.LwF,
    feature_distillation.Config: feature_distillation.FeatureDistillation,
}
DISTILLERS = [lwf.Config(), lwf.Config(distance="bce"), feature_distillation.Config()]


@pytest.fixture
def plan(tools: Any) -> Plan:
    source = tools.source(num_classes=6, per_class=10)
    return class_incremental.build(source, class_incremental.Config(experiences=3), 0)


def setting_of(tools: Any, plan: Plan, config: Any = None, **training: Any) -> Setting:
    setting: Setting = tools.setting(plan.source, plan, **training)
    if isinstance(config, lwf.Config) and config.distance == "bce":
        return replaced(setting, objective=Classification(6, loss="bce", mask="experience"))
    return setting


def replaced(setting: Any, **changes: Any) -> Any:
    import dataclasses

    return dataclasses.replace(setting, **changes)


def learner_of(setting: Setting, config: Any, *others: Any) -> SGDLearner:
    return SGDLearner(setting, lambda: [("d", PLUGINS[type(config)](config, setting)), *[("o", o) for o in others]])


def logits(seed: int, columns: int = 4) -> torch.Tensor:
    return torch.randn(6, columns, generator=torch.Generator().manual_seed(seed))


class Watch(Plugin):
    """Keeps the gradient of every step with respect to the head's biases, and replaces the task loss by nothing."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(naive.Config(), setting)
        self.gradients: list[torch.Tensor] = []

    def losses(self, losses: torch.Tensor, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return losses * 0.0

    def gradient(self, gradient: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        self.gradients.append(gradient.clone())
        return gradient


# --------------------------------------------------------------------------------------------------- pure functions


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_softmax_distillation(temperature: float) -> None:
    student, teacher = logits(0).requires_grad_(), logits(1)
    value = lwf.softmax_distillation(student, teacher, temperature)
    p, q = (student / temperature).softmax(1), (teacher / temperature).softmax(1)
    assert float(value.detach()) == pytest.approx(float((q * (q.log() - p.log())).sum(1).mean().detach()), rel=1e-5)
    value.backward()
    # The gradient of cross-entropy with soft targets: (p - q) / (T B).
    assert student.grad is not None
    assert torch.allclose(student.grad, ((p - q) / temperature / 6).detach(), atol=1e-7)
    # Published targets are probabilities to the power 1/T, renormalised: the same thing.
    powered = teacher.softmax(1) ** (1 / temperature)
    assert torch.allclose(powered / powered.sum(1, keepdim=True), q, atol=1e-6)


def test_distances_are_flat_where_student_and_teacher_agree() -> None:
    for distance in (lambda s, t: lwf.softmax_distillation(s, t, 2.0), lwf.bce_distillation, lwf.gaussian_distillation):
        student = logits(0).requires_grad_()
        value = distance(student, logits(0))
        value.backward()
        assert student.grad is not None
        assert float(student.grad.abs().max()) < 1e-7
    assert float(lwf.softmax_distillation(logits(0), logits(0), 2.0)) == pytest.approx(0, abs=1e-7)
    assert float(feature_distillation.feature_distance(logits(0), logits(0))) == 0


def test_other_distances() -> None:
    student, teacher = logits(0), logits(1)
    q = teacher.sigmoid()
    expected = -(q * F.logsigmoid(student) + (1 - q) * F.logsigmoid(-student)).mean()
    assert torch.allclose(lwf.bce_distillation(student, teacher), expected, atol=1e-6)
    assert torch.allclose(feature_distillation.feature_distance(student, teacher), F.mse_loss(student, teacher))
    one = lwf.gaussian_distillation(torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [1.0]]))
    assert float(one) == pytest.approx((0.5 + 2.0) / 2)


# --------------------------------------------------------------------------------------------------------- in the loop


@pytest.mark.parametrize("training", [{"momentum": 0.9}, {"optimizer": "adam", "lr": 0.01}], ids=["sgd", "adam"])
@pytest.mark.parametrize("config", DISTILLERS, ids=repr)
def test_strength_zero_is_naive_to_the_bit(config: Any, training: Any, plan: Plan, tools: Any) -> None:
    setting = setting_of(tools, plan, config, carry_optimizer=True, **training)
    plain, zero = learner_of(setting, naive.Config()), learner_of(setting, config.model_copy(update={"strength": 0.0}))
    teach(plain, plan)
    teach(zero, plan)
    assert torch.equal(plain.model.parameters, zero.model.parameters)
    assert digest(plain.state_dict()["optimizer"]) == digest(zero.state_dict()["optimizer"])
    strong = learner_of(setting, config)
    teach(strong, plan)
    assert not torch.allclose(plain.model.parameters, strong.model.parameters, atol=1e-4)


@pytest.mark.parametrize("config", DISTILLERS, ids=repr)
def test_the_first_step_distils_nothing_and_the_unseen_get_nothing(config: Any, plan: Plan, tools: Any) -> None:
    """Teacher = student at first: no gradient. Later: none on the outputs of classes that the teacher has not seen."""
    setting = setting_of(tools, plan, config, lr=0.1)
    watch = Watch(setting)
    learner = learner_of(setting, config, watch)
    learner.plugins.pop("o")
    ledger = teach(learner, plan, [0])
    noise = torch.randn(learner.model.parameters.shape, generator=torch.Generator().manual_seed(0))
    learner.plugins["o"] = watch
    teach(learner, plan, [1], ledger)
    assert float(watch.gradients[0].abs().max()) < 1e-6
    watch.gradients.clear()
    del learner.plugins["o"]
    learner.model.parameters += 0.3 * noise  # the student moves away from the teacher
    learner.plugins["o"] = watch
    teach(learner, plan, [2], ledger)
    bias = watch.gradients[0][learner.model.slices["head.bias"]]
    seen = np.unique(plan.source.class_ids[np.concatenate([e.sample_ids for e in plan.experiences[:2]])])
    if not isinstance(config, feature_distillation.Config):
        assert float(bias[seen].abs().min()) > 0
    assert float(bias[np.setdiff1d(np.arange(6), seen)].abs().max()) == 0
    assert float(watch.gradients[0].abs().max()) > 1e-4


@pytest.mark.parametrize("again", [False, True], ids=["new", "a-known-class-too"])
def test_bce_shares_one_mean_over_old_and_new_outputs(again: bool, plan: Plan, tools: Any) -> None:
    """The whole loss against Smith et al.'s: targets s(teacher) on old outputs, one-hot on new ones, one mean.

    A class that is known and taught again has its labels alone.
    """
    config = lwf.Config(distance="bce")
    setting = setting_of(tools, plan, config, epochs=1, batch_size=20, lr=0.5)
    learner = learner_of(setting, config)
    ledger = teach(learner, plan, [0, 1])
    teacher = learner.model.state_dict()["parameters"]
    first_step: list[torch.Tensor] = []

    class Keep(Plugin):
        def gradient(self, gradient: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
            first_step.append(gradient.clone())
            return gradient

    learner.plugins["keep"] = Keep(naive.Config(), setting)
    learner.model.parameters += 0.1
    student = setting.make_model()
    student.parameters.copy_(learner.model.parameters)
    rows = plan.experiences[2].sample_ids
    if again:
        rows = np.union1d(rows[5:], plan.experiences[0].sample_ids[:5])
    last = replaced(plan.experiences[2], sample_ids=rows)
    teach(learner, replaced(plan, experiences=(*plan.experiences[:2], last)), [2], ledger)
    old_model = setting.make_model()
    old_model.parameters.copy_(teacher)  # type: ignore[arg-type]
    x, y = plan.source.x[rows], plan.source.y[rows]
    new = np.unique(y.numpy())
    assert len(new) == (3 if again else 2)
    targets = old_model(x).detach().sigmoid()
    targets[:, new] = F.one_hot(y, 6).float()[:, new]
    loss = F.binary_cross_entropy_with_logits(student(x), targets)
    loss.backward()
    assert torch.allclose(first_step[0], student.gradient, rtol=1e-3, atol=1e-6)


def test_without_old_classes_bce_is_plain(plan: Plan, tools: Any) -> None:
    config = lwf.Config(distance="bce")
    setting = setting_of(tools, plan, config)
    plain, distilled = learner_of(setting, naive.Config()), learner_of(setting, config)
    teach(plain, plan, [0])
    teach(distilled, plan, [0])
    assert torch.equal(plain.model.parameters, distilled.model.parameters)


def test_bce_needs_the_objective_it_is_defined_for(plan: Plan, tools: Any) -> None:
    with pytest.raises(ConfigError, match="set objective: {name: classification, loss: bce, mask: experience}"):
        learner_of(tools.setting(plan.source, plan), lwf.Config(distance="bce"))


def test_t_squared_is_explicit(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    plain = learner_of(setting, lwf.Config(temperature=3.0, strength=9.0))
    scaled = learner_of(setting, lwf.Config(temperature=3.0, scale_by_t_squared=True))
    teach(plain, plan)
    teach(scaled, plan)
    assert torch.allclose(plain.model.parameters, scaled.model.parameters, atol=1e-5)


def test_every_old_head_is_distilled_when_task_aware(tools: Any) -> None:
    source = tools.source(num_classes=6, per_class=10)
    plan = task_incremental.build(source, task_incremental.Config(experiences=3), 0)
    setting = tools.setting(source, plan, epochs=1, batch_size=20, lr=0.5)
    learner = learner_of(setting, lwf.Config())
    ledger = teach(learner, plan, [0, 1])
    teacher = setting.make_model()
    teacher.parameters.copy_(learner.model.parameters)
    learner.model.parameters += 0.2 * torch.randn(
        learner.model.parameters.shape, generator=torch.Generator().manual_seed(1)
    )
    student = setting.make_model()
    student.parameters.copy_(learner.model.parameters)
    watch = Watch(setting)
    learner.plugins["o"] = watch
    teach(learner, plan, [2], ledger)
    x = source.x[plan.experiences[2].sample_ids]
    z, target = student(x), teacher(x).detach()
    heads = [list(plan.units[t].classes) for t in (0, 1)]
    sum(lwf.softmax_distillation(z[:, h], target[:, h], 2.0) for h in heads).backward()  # type: ignore[union-attr]
    assert torch.allclose(watch.gradients[0], student.gradient, rtol=1e-3, atol=1e-6)


def test_a_regressor_is_held_to_its_predictions(tools: Any) -> None:
    import dataclasses

    source = tools.source(num_classes=4, per_class=10)
    source = dataclasses.replace(source, y=source.x[:, 0] + source.x[:, 1])
    plan = class_incremental.build(source, class_incremental.Config(experiences=2), 0)
    setting = replaced(
        tools.setting(source, plan, epochs=20, lr=0.05), objective=Regression(), make_model=lambda: tools.mlp((5, 8, 1))
    )
    moves = []
    seen = source.x[plan.experiences[1].sample_ids]
    for strength in (0.0, 20.0):
        learner = learner_of(setting, lwf.Config(strength=strength))
        ledger = teach(learner, plan, [0])
        before = learner.model(seen).detach()
        teach(learner, plan, [1], ledger)
        moves.append(float((learner.model(seen).detach() - before).square().mean()))
    assert moves[1] < 0.3 * moves[0], "on what is distilled"


class Noisy(nn.Module):
    """Dropout and a running mean: a second pass of the student would show."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.passes += 1
        return nn.functional.dropout(x, 0.5, self.training)


@pytest.mark.parametrize("config", DISTILLERS, ids=repr)
def test_the_student_passes_once_and_the_teacher_is_calm(config: Any, plan: Plan, tools: Any) -> None:
    def make_model() -> FlatModel:
        with seeded_globals(Key(0)):
            return FlatModel(Network(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), Noisy()), nn.Linear(8, 6)))

    setting = replaced(setting_of(tools, plan, config, epochs=1, batch_size=5), make_model=make_model)
    learner = learner_of(setting, config)
    teach(learner, plan, [0, 1])
    assert float(learner.model.state_dict()["buffers"]["body.2.passes"]) == 8  # type: ignore[index]
    teacher = learner.plugins["d"]._teacher  # type: ignore[attr-defined]
    x = plan.source.x[:4]
    assert torch.equal(teacher.model(x), teacher.model(x))
    assert not teacher.model.network.training
    assert not learner.model.network.body._forward_hooks
    assert not learner.model.network._forward_hooks


@pytest.mark.parametrize("config", DISTILLERS, ids=repr)
def test_the_teacher_is_counted(config: Any, plan: Plan, tools: Any) -> None:
    setting = setting_of(tools, plan, config, epochs=1, batch_size=5)
    learner = learner_of(setting, config)
    ledger, forward = Ledger(plan.source), []
    sizes = [num_bytes(learner.state_dict())]
    for experience in plan.experiences:
        admitted = ledger.admit(experience)
        outcome = learner.learn(admitted, ledger.door(learner.access, admitted.sample_ids))
        forward.append((outcome.forward, outcome.backward))
        sizes.append(num_bytes(learner.state_dict()))
    assert forward == [(20, 20), (40, 20), (40, 20)]
    assert sizes[1] == sizes[2] == sizes[3] == 2 * sizes[0]


@pytest.mark.parametrize("batch_size", [20, 5])
@pytest.mark.parametrize("config", DISTILLERS, ids=repr)
def test_the_term_that_is_reported_is_its_mean(config: Any, batch_size: int, plan: Plan, tools: Any) -> None:
    """With steps too small to move anything, the same however an experience falls into batches."""
    setting = setting_of(tools, plan, config, epochs=1, batch_size=batch_size, lr=1e-9)
    learner = learner_of(setting, config)
    ledger = teach(learner, plan, [0])
    teacher, x = setting.make_model(), plan.source.x[plan.experiences[1].sample_ids]
    teacher.load_state_dict(learner.model.state_dict())
    learner.model.parameters += 0.5 * torch.randn(teacher.parameters.shape, generator=Key(0).torch())
    old = np.unique(plan.source.class_ids[plan.experiences[0].sample_ids])
    if isinstance(config, feature_distillation.Config):
        expected = feature_distillation.feature_distance(learner.model.features(x), teacher.features(x))
    elif config.distance == "bce":
        expected = lwf.bce_distillation(learner.model(x)[:, old], teacher(x)[:, old])
    else:
        expected = lwf.softmax_distillation(learner.model(x)[:, old], teacher(x)[:, old], config.temperature)
    admitted = ledger.admit(plan.experiences[1])
    outcome = learner.learn(admitted, ledger.door(learner.access, admitted.sample_ids))
    (term,) = (v for n, v in outcome.losses.items() if n.endswith("distillation"))
    assert term == pytest.approx(float(expected.detach()), rel=1e-3)
    assert term > 0


# ------------------------------------------------------------------------------------------------------------ deletion


@pytest.mark.parametrize("distance", ["softmax", "bce"])
def test_deleted_classes_are_no_longer_distilled(distance: Any, plan: Plan, tools: Any) -> None:
    config = lwf.Config(distance=distance)
    setting = setting_of(tools, plan, config, lr=0.1)
    learner = learner_of(setting, config)
    ledger = teach(learner, plan, [0, 1])
    gone_class, *others = np.unique(plan.source.class_ids[plan.experiences[0].sample_ids])
    of_class = ledger.live_ids[plan.source.class_ids[ledger.live_ids] == gone_class]
    delete(learner, ledger, of_class[:4])
    assert gone_class in learner.plugins["d"]._teacher.known  # type: ignore[attr-defined]
    delete(learner, ledger, of_class[4:])
    assert gone_class not in learner.plugins["d"]._teacher.known  # type: ignore[attr-defined]
    watch = Watch(setting)
    learner.model.parameters += 0.1
    learner.plugins["o"] = watch
    teach(learner, plan, [2], ledger)
    bias = watch.gradients[0][learner.model.slices["head.bias"]]
    assert float(bias[gone_class]) == 0
    assert float(bias[others].abs().min()) > 0


@pytest.mark.parametrize("config", DISTILLERS, ids=repr)
def test_the_teacher_follows_the_unlearned_model(config: Any, plan: Plan, tools: Any) -> None:
    setting = setting_of(tools, plan, config)
    learner = learner_of(setting, config)
    assert learner.state_dict()["plugins"]["d"]["model"] is None
    learner.settle()  # nothing to refresh yet
    assert learner.state_dict()["plugins"]["d"]["model"] is None
    ledger = teach(learner, plan, [0])
    gone = plan.experiences[0].sample_ids[:3]
    delete(learner, ledger, gone)
    assert learner.holds(gone).keys() == {"weights", "d.teacher"}
    learner.model.parameters += 1.0
    learner.settle()
    assert torch.equal(learner.state_dict()["plugins"]["d"]["model"]["parameters"], learner.model.parameters)
    delete(learner, ledger, plan.experiences[0].sample_ids[3:])
    assert learner.state_dict()["plugins"]["d"]["model"] is None
    assert learner.holds(gone).keys() == {"weights"}


@pytest.mark.parametrize("config", [*DISTILLERS, feature_distillation.Config(from_start=True)], ids=repr)
def test_state_goes_on_to_the_same_bits(config: Any, plan: Plan, tools: Any) -> None:
    setting = setting_of(tools, plan, config)
    whole = learner_of(setting, config)
    teach(whole, plan)
    for cut in (0, 1, 2):
        first, second = learner_of(setting, config), learner_of(setting, config)
        ledger = teach(first, plan, range(cut))
        saved = first.state_dict()
        mark = digest(saved)
        second.load_state_dict(saved)
        assert digest(second.state_dict()) == mark
        teach(second, plan, range(cut, 3), ledger)
        assert digest(second.state_dict()) == digest(whole.state_dict())
        assert digest(saved) == mark


def test_features_are_tied_from_the_start_if_asked(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan, lr=0.02, epochs=10)
    moved = []
    for from_start in (False, True):
        learner = learner_of(setting, feature_distillation.Config(strength=20.0, from_start=from_start))
        teach(learner, plan, [0])
        x, start = plan.source.x, setting.make_model()
        moved.append(float((learner.model.features(x) - start.features(x)).detach().norm()))
    assert moved[1] < 0.5 * moved[0]
