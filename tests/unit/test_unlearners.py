from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from strategies.base import Access, Door, Learner, Setting, Unlearner
from strategies.composed import Composed
from strategies.learner import SGDLearner
from strategies.learners import ewc, naive, replay
from strategies.outcome import Outcome
from strategies.parts.fit import fit
from strategies.parts.model import FlatModel, digest
from strategies.step import step
from strategies.unlearners import finetune, gradient_ascent, neggrad_plus, none, retrain
from streams.config import parse
from streams.errors import AccessError, ConfigError, TrainingError
from streams.events import DeletionRequest, Request
from streams.ledger import Ledger
from streams.plan import Plan
from streams.scenarios import class_incremental
from streams.timeline import surviving

KINDS: dict[str, tuple[Any, Any]] = {
    "finetune": (finetune.Finetune, finetune.Config),
    "gradient-ascent": (gradient_ascent.GradientAscent, gradient_ascent.Config),
    "neggrad-plus": (neggrad_plus.NegGradPlus, neggrad_plus.Config),
    "none": (none.NoUnlearning, none.Config),
    "retrain": (retrain.Retrain, retrain.Config),
}
NONE = np.array([], dtype=np.int64)


@pytest.fixture
def plan(tools: Any) -> Plan:
    return class_incremental.build(
        tools.source(num_classes=6, per_class=10), class_incremental.Config(experiences=3), 0
    )


def composed(setting: Setting, name: str, memory: int = 0, **options: Any) -> Composed:
    def plugins() -> list[tuple[str, Any]]:
        kept = [("replay", replay.Replay(replay.Config(memory=memory), setting))] if memory else []
        return [("naive", naive.Naive(naive.Config(), setting)), *kept]

    kind, config = KINDS[name]
    return Composed(SGDLearner(setting, plugins), kind(config(**options), setting))


def learned(strategy: Composed, plan: Plan, tools: Any) -> Ledger:
    ledger = Ledger(plan.source)
    tools.live(strategy, ledger, plan.experiences)
    return ledger


def request_of(*values: int) -> DeletionRequest:
    ids = np.array(sorted(values), dtype=np.int64)
    return DeletionRequest("request-0", (Request("sample", values, ids, NONE, 0),))


def forget(strategy: Composed, ledger: Ledger, request: DeletionRequest) -> Outcome:
    ledger.delete(request)
    door = ledger.door(strategy.access, NONE, request.sample_ids)
    outcome = strategy.forget(request, door)
    door.close()
    return outcome


def mean_gradient(model: FlatModel, plan: Plan, ids: np.ndarray) -> torch.Tensor:
    rows = torch.from_numpy(ids)
    model.gradient.zero_()
    nn.functional.cross_entropy(model(plan.source.x[rows]), plan.source.y[rows]).backward()
    return model.gradient.clone()


GONE = (0, 1, 2, 12, 13, 24, 25, 36)


def test_gradient_ascent_is_one_step_up_the_mean_gradient(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    options = {"epochs": 1, "lr": 0.05, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 256}
    strategy = composed(setting, "gradient-ascent", **options)
    ledger = learned(strategy, plan, tools)
    before = strategy.learner.model.parameters.clone()
    gradient = mean_gradient(strategy.learner.model, plan, np.array(GONE))
    outcome = forget(strategy, ledger, request_of(*GONE))
    assert torch.allclose(strategy.learner.model.parameters - before, 0.05 * gradient, atol=1e-6)
    assert float(gradient.abs().max()) > 0.01
    assert (outcome.steps, outcome.forward, outcome.exactness) == (1, 8, "none")


def test_gradient_ascent_raises_the_loss_of_what_it_forgets(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan, epochs=5)
    strategy = composed(setting, "gradient-ascent", lr=0.05)
    ledger = learned(strategy, plan, tools)
    rows = torch.tensor(GONE)

    def loss() -> float:
        return nn.functional.cross_entropy(strategy.learner.model(plan.source.x[rows]), plan.source.y[rows]).item()

    before = loss()
    outcome = forget(strategy, ledger, request_of(*GONE))
    assert loss() > before + 0.1
    assert outcome.losses["loss"] < 0  # what is minimised is minus the loss


def test_weights_that_are_no_numbers_are_put_back(plan: Plan, tools: Any) -> None:
    class Halved(finetune.Finetune):
        def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
            outcome = super().forget(request, learner, door)
            learner.model.parameters[::2].div_(0.0)
            return outcome

    setting = tools.setting(plan.source, plan)
    strategy = Composed(SGDLearner(setting, list), Halved(finetune.Config(), setting))
    ledger = learned(strategy, plan, tools)
    before = digest(strategy.learner.model.state_dict())
    with pytest.raises(TrainingError, match="request-0: the unlearner left weights that are not finite"):
        forget(strategy, ledger, request_of(*GONE))
    assert digest(strategy.learner.model.state_dict()) == before


def test_finetune_is_a_fit_on_the_retained_data(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    strategy, other = composed(setting, "finetune", epochs=2, batch_size=16), composed(setting, "none")
    ledger, twin = learned(strategy, plan, tools), learned(other, plan, tools)
    outcome = forget(strategy, ledger, request_of(*GONE))
    forget(other, twin, request_of(*GONE))
    model = other.learner.model
    data = tools.lend(plan.source, ledger.live_ids.tolist())
    config = finetune.Config(epochs=2, batch_size=16)
    expected = fit(model, setting.objective, data, config, setting.key / "finetune" / "request-0")
    assert torch.equal(model.parameters, strategy.learner.model.parameters)
    assert outcome.steps == expected.steps == 2 * -(-52 // 16)


def neggrad(plan: Plan, tools: Any, alpha: float, **options: Any) -> torch.Tensor:
    strategy = composed(tools.setting(plan.source, plan), "neggrad-plus", alpha=alpha, **options)
    ledger = learned(strategy, plan, tools)
    forget(strategy, ledger, request_of(*GONE))
    return strategy.learner.model.parameters.clone()


def test_neggrad_plus_at_alpha_one_is_finetune(plan: Plan, tools: Any) -> None:
    # To the bit: the same fit in the same order, with 1 x L_r - 0 x L_f.
    options = {"epochs": 2, "batch_size": 16}
    setting = tools.setting(plan.source, plan)
    strategy = composed(setting, "none")
    ledger = learned(strategy, plan, tools)
    forget(strategy, ledger, request_of(*GONE))
    model, data = strategy.learner.model, tools.lend(plan.source, ledger.live_ids.tolist())
    fit(model, setting.objective, data, finetune.Config(**options), setting.key / "neggrad-plus" / "request-0")
    assert torch.equal(neggrad(plan, tools, 1.0, **options), model.parameters)


def test_neggrad_plus_at_alpha_zero_is_gradient_ascent(plan: Plan, tools: Any) -> None:
    # 52 retained samples in one batch make one step per epoch, and the forget set is one batch in any order.
    options = {"epochs": 3, "batch_size": 60, "lr": 0.05}
    strategy = composed(tools.setting(plan.source, plan), "gradient-ascent", **options)
    ledger = learned(strategy, plan, tools)
    forget(strategy, ledger, request_of(*GONE))
    assert torch.allclose(neggrad(plan, tools, 0.0, **options), strategy.learner.model.parameters, atol=1e-6)


def asked_in_vain(plan: Plan, tools: Any) -> tuple[FlatModel, np.ndarray]:
    """Return the model that a request finds, and the samples that are retained."""
    strategy = composed(tools.setting(plan.source, plan), "none")
    ledger = learned(strategy, plan, tools)
    forget(strategy, ledger, request_of(*GONE))
    return strategy.learner.model, ledger.live_ids


def test_neggrad_plus_step_by_hand(plan: Plan, tools: Any) -> None:
    options = {"epochs": 1, "batch_size": 60, "lr": 0.05, "momentum": 0.0, "weight_decay": 0.0}
    model, retained = asked_in_vain(plan, tools)
    start = model.parameters.clone()
    direction = 0.9 * mean_gradient(model, plan, retained) - 0.1 * mean_gradient(model, plan, np.array(GONE))
    assert torch.allclose(neggrad(plan, tools, 0.9, **options), start - 0.05 * direction, atol=1e-6)


def test_neggrad_plus_counts_both_kinds_of_samples(plan: Plan, tools: Any) -> None:
    strategy = composed(tools.setting(plan.source, plan), "neggrad-plus", epochs=2, batch_size=20)
    ledger = learned(strategy, plan, tools)
    outcome = forget(strategy, ledger, request_of(*GONE))
    assert outcome.steps == 6
    assert outcome.forward == outcome.backward == 2 * 52 + 6 * 8


def test_ascent_first_climbs_before_it_descends_in_the_first_epochs_alone(plan: Plan, tools: Any) -> None:
    """By hand, with steps of whole sets: up and down, then down alone."""
    options = {"epochs": 2, "batch_size": 60, "lr": 0.05, "momentum": 0.0, "weight_decay": 0.0}
    model, retained = asked_in_vain(plan, tools)
    for sign, ids in ((1, np.array(GONE)), (-1, retained), (-1, retained)):
        model.parameters.add_(0.05 * sign * mean_gradient(model, plan, ids))
    turned = composed(
        tools.setting(plan.source, plan), "neggrad-plus", schedule="ascent-first", ascent_epochs=1, **options
    )
    outcome = forget(turned, learned(turned, plan, tools), request_of(*GONE))
    assert torch.allclose(turned.learner.model.parameters, model.parameters, atol=1e-6)
    assert (outcome.steps, outcome.backward) == (3, 8 + 2 * 52)


def test_ascent_first_climbs_no_more_once_the_forget_loss_is_high_enough(plan: Plan, tools: Any) -> None:
    options = {"epochs": 3, "batch_size": 60, "schedule": "ascent-first", "stop_loss": 1e-6}
    strategy = composed(tools.setting(plan.source, plan), "neggrad-plus", **options)
    outcome = forget(strategy, learned(strategy, plan, tools), request_of(*GONE))
    assert (outcome.steps, outcome.losses["stopped"]) == (3, 1.0), "it descends in all three epochs"


@pytest.mark.parametrize(
    ("options", "says"),
    [({"schedule": "ascent-first", "alpha": 0.9}, "alpha: 0.9 weighs two"), ({"ascent_epochs": 2}, "is for schedule")],
)
def test_options_of_the_other_schedule_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse(neggrad_plus.Config, options)


def test_retrain_is_the_life_without_the_data(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    strategy, other = composed(setting, "retrain", memory=9), composed(setting, "retrain", memory=9)
    ledger = learned(strategy, plan, tools)
    outcome = forget(strategy, ledger, request_of(*GONE))
    tools.live(other, Ledger(plan.source), ledger.history())
    assert digest(strategy.state_dict()) == digest(other.state_dict())
    assert outcome.exactness == "bits"
    assert strategy.holds(np.array(GONE)) == {}
    assert outcome.steps == sum(2 * -(-n // 4) for n in (len(e.sample_ids) for e in ledger.history()))


def test_retrain_does_not_teach_twice_what_became_permanent(plan: Plan, tools: Any) -> None:
    """Against the life of the retrained reference, in which a consolidation teaches nothing either."""
    setting = tools.setting(plan.source, plan)
    first, *others = plan.experiences
    events = (first, replace(first, name="it-consolidated", consolidates=True), *others, request_of(*GONE))
    strategy, other = composed(setting, "retrain"), composed(setting, "retrain")
    for one, its_events in ((strategy, events), (other, surviving(events))):
        ledger = Ledger(plan.source)
        for event in its_events:
            step(one, event, ledger)
    assert digest(strategy.state_dict()) == digest(other.state_dict())


def test_retrain_does_not_look_at_the_deleted_data(plan: Plan, tools: Any) -> None:
    marks = []
    for noise in (0.0, 5.0):
        source = tools.source(num_classes=6, per_class=10)
        source.x[list(GONE)] += noise
        changed = Plan(source, plan.units, plan.experiences)
        strategy = composed(tools.setting(source, changed), "retrain", memory=9)
        ledger = learned(strategy, changed, tools)
        before = digest(strategy.state_dict())
        forget(strategy, ledger, request_of(*GONE))
        marks.append((before, digest(strategy.state_dict())))
    assert marks[0][0] != marks[1][0]
    assert marks[0][1] == marks[1][1]


def test_none_changes_nothing_but_the_memory(plan: Plan, tools: Any) -> None:
    strategy = composed(tools.setting(plan.source, plan), "none", memory=30)
    ledger = learned(strategy, plan, tools)
    before = strategy.learner.model.parameters.clone()
    stored = strategy.stored_ids().tolist()
    gone = (stored[0], stored[5])
    outcome = forget(strategy, ledger, request_of(*gone))
    assert torch.equal(strategy.learner.model.parameters, before)
    assert set(stored) - set(strategy.stored_ids().tolist()) == set(gone)
    assert strategy.holds(np.array(gone)).keys() == {"weights"}
    assert outcome == Outcome(exactness="none", weights_erased=False)


@pytest.mark.parametrize(
    ("name", "options", "access"),
    [
        ("none", {}, Access()),
        ("retrain", {}, Access(retained="full")),
        ("finetune", {}, Access(retained="full")),
        ("finetune", {"retained": "memory"}, Access()),
        ("gradient-ascent", {}, Access(forget_set=True)),
        ("neggrad-plus", {}, Access(True, "full")),
        ("neggrad-plus", {"retained": "memory"}, Access(True)),
    ],
)
def test_declared_access(name: str, options: dict[str, Any], access: Access, plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    strategy = composed(setting, name, **options)
    assert strategy.access == access
    assert composed(setting, name, memory=5, **options).access == access | Access(retained=5)


@pytest.mark.parametrize("name", ["finetune", "gradient-ascent", "neggrad-plus", "retrain"])
def test_what_an_unlearner_declares_is_what_it_needs(name: str, plan: Plan, tools: Any) -> None:
    """Every declared right is used: with anything less the door refuses."""
    setting = tools.setting(plan.source, plan)
    full = composed(setting, name).access
    lesser = [Access(full.forget_set, 0)] if full.retained == "full" else []
    lesser += [Access(False, full.retained)] if full.forget_set else []
    for access in lesser:
        strategy = composed(setting, name)
        ledger = learned(strategy, plan, tools)
        request = request_of(*GONE)
        ledger.delete(request)
        with pytest.raises(AccessError):
            strategy.forget(request, ledger.door(access, NONE, request.sample_ids))


@pytest.mark.parametrize("name", ["finetune", "neggrad-plus"])
def test_memory_only_unlearning_reads_the_memory_only(name: str, plan: Plan, tools: Any) -> None:
    strategy = composed(tools.setting(plan.source, plan), name, memory=10, retained="memory")
    ledger = learned(strategy, plan, tools)
    gone = strategy.stored_ids()[:2]
    request = request_of(*gone.tolist())
    ledger.delete(request)
    door = ledger.door(strategy.access, NONE, request.sample_ids)
    outcome = strategy.forget(request, door)
    assert door.num_read == 8 + (2 if name == "neggrad-plus" else 0)
    assert outcome.steps == strategy.unlearner.config.epochs  # type: ignore[attr-defined]


def test_anchors_follow_an_approximate_unlearner_and_not_an_exact_one(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)

    def build(kind: type[Unlearner], config: Any) -> Composed:
        def plugins() -> list[tuple[str, Any]]:
            return [("ewc", ewc.EWC(ewc.Config(strength=1.0, fisher="exact"), setting))]

        return Composed(SGDLearner(setting, plugins), kind(config, setting))

    approximate = build(gradient_ascent.GradientAscent, gradient_ascent.Config(lr=0.01))
    ledger = learned(approximate, plan, tools)
    forget(approximate, ledger, request_of(*GONE))
    state = approximate.state_dict()["plugins"]["ewc"]["tie"]
    assert torch.equal(state["center"], approximate.learner.model.parameters)
    exact = build(retrain.Retrain, retrain.Config())
    ledger = learned(exact, plan, tools)
    forget(exact, ledger, request_of(*GONE))
    state = exact.state_dict()["plugins"]["ewc"]["tie"]
    assert not torch.allclose(state["center"], exact.learner.model.parameters)


def test_outcomes_add_up() -> None:
    one = Outcome(1, 2, 3, {"loss": 1.0, "a": 5.0})
    two = Outcome(10, 20, 30, {"loss": 2.0}, "law")
    assert one + two == Outcome(11, 22, 33, {"loss": 2.0, "a": 5.0}, "law")
    assert (two + one).exactness == "law"
    assert one.graded("bits").exactness == "bits"
    assert one.exactness is None
