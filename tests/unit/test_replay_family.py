"""DER, DER++, ER-ACE, A-GEM, CPR and frequency replay: their maths, their memories, and what a request takes away."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lifelong.config.run import StrategyConfig
from lifelong.setup.build import make_strategy
from strategies.base import Lesson, Plugin, Setting
from strategies.learner import SGDLearner
from strategies.learners import (
    agem,
    cpr,
    der,
    der_plus_plus,
    er_ace,
    frequency_replay,
    naive,
    random_selection,
    replay,
)
from strategies.learners._dark import DarkMemory, distillation
from strategies.learners.agem import project
from strategies.learners.cpr import mean_entropy
from strategies.learners.er_ace import competing
from strategies.learners.frequency_replay import rare_classes
from strategies.objectives.classification import Classification
from strategies.objectives.regression import Regression
from strategies.parts.memory.buffers import draw_positions, keep_uniform
from strategies.parts.model import FlatModel, Network, digest
from streams.config import parse
from streams.data import Batch
from streams.errors import ConfigError
from streams.events import DeletionRequest, Experience
from streams.ledger import Ledger
from streams.plan import Again, Learn, Plan, RequestSpec, Scheduled, Service, assemble
from streams.randomness import Key, seeded_globals
from streams.scenarios import class_incremental, task_incremental

INF = float("inf")


@pytest.fixture
def plan(tools: Any) -> Plan:
    return class_incremental.build(
        tools.source(num_classes=6, per_class=10), class_incremental.Config(experiences=3), 0
    )


def learner_of(setting: Setting, *plugins: Plugin) -> SGDLearner:
    return SGDLearner(setting, lambda: [(str(i), p) for i, p in enumerate(plugins)])


def teach(learner: SGDLearner, experiences: Any, ledger: Ledger) -> None:
    for experience in experiences:
        admitted = ledger.admit(experience)
        door = ledger.door(learner.access, admitted.sample_ids)
        learner.learn(admitted, door)
        door.close()


def live(learner: SGDLearner, plan: Plan, scheduled: list[Scheduled]) -> Ledger:
    """Play what is scheduled; a request purges and leaves the weights."""
    ledger = Ledger(plan.source, plan.task_of)
    for event in assemble(plan, scheduled, Service(), Key(0)).events:
        if isinstance(event, Experience):
            teach(learner, [event], ledger)
        else:
            ledger.delete(event)
            learner.purge(event)
    return ledger


class Watch(naive.Naive):
    """Notes ids and outputs of every step, as the loss sees them."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(naive.Config(), setting)
        self.seen: list[tuple[np.ndarray, torch.Tensor]] = []

    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        self.seen.append((batch.ids.numpy().copy(), outputs.detach().clone()))
        return loss


# ----------------------------------------------------------------------------------------------- nothing is nothing


@pytest.mark.parametrize(
    "make",
    [
        lambda s: der.DER(der.Config(alpha=0.0), s),
        lambda s: der_plus_plus.DERPlusPlus(der_plus_plus.Config(alpha=0.0, beta=0.0), s),
        lambda s: cpr.CPR(cpr.Config(strength=0.0), s),
    ],
    ids=["der", "der-plus-plus", "cpr"],
)
def test_a_weight_of_zero_is_naive_to_the_bit(make: Any, plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    plain, plugged = learner_of(setting), learner_of(setting, make(setting))
    for learner in (plain, plugged):
        teach(learner, plan.experiences, Ledger(plan.source))
    assert torch.equal(plain.model.parameters, plugged.model.parameters)


class FirstOnly(naive.Naive):
    """Selects nothing of any experience but the first."""

    def select(self, ids: np.ndarray, experience: Experience, *_: Any) -> np.ndarray:
        self.first = vars(self).get("first", experience.name)
        return ids if experience.name == self.first else ids[:0]


@pytest.mark.parametrize(
    "make",
    [
        lambda s: replay.Replay(replay.Config(memory=6), s),
        lambda s: agem.AGEM(agem.Config(memory=6), s),
        lambda s: er_ace.ERACE(er_ace.Config(memory=6), s),
        lambda s: der.DER(der.Config(memory=6), s),
        lambda s: der.DER(der.Config(memory=6, stored="final"), s),
    ],
    ids=["replay", "agem", "er-ace", "der", "der final"],
)
def test_an_experience_of_which_nothing_is_selected_changes_nothing(make: Any, plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    learner = learner_of(setting, FirstOnly(naive.Config(), setting), make(setting))
    ledger = Ledger(plan.source)
    teach(learner, plan.experiences[:1], ledger)
    weights, kept = learner.model.parameters.clone(), learner.stored_ids()
    teach(learner, plan.experiences[1:2], ledger)
    assert torch.equal(learner.model.parameters, weights)
    assert learner.stored_ids().tolist() == kept.tolist()


def test_what_is_drawn_from_what_an_experience_brings_may_have_come_before(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    plugin = random_selection.RandomSelection(random_selection.Config(samples=5, draw_from="new"), setting)
    learner, ledger = learner_of(setting, plugin), Ledger(plan.source)
    teach(learner, plan.experiences[:2], ledger)
    again = replace(plan.experiences[0], name="again")
    teach(learner, [again], ledger)
    (drawn,) = plugin.offers()
    assert len(drawn.ids) == 5
    assert np.isin(drawn.ids, again.sample_ids).all()


# ------------------------------------------------------------------------------------------------------ dark memory


def test_distillation_is_the_mean_squared_error_of_what_is_known() -> None:
    generator = torch.Generator().manual_seed(0)
    now, stored = torch.randn(5, 4, generator=generator), torch.randn(5, 4, generator=generator)
    assert torch.allclose(distillation(now, stored), F.mse_loss(now, stored))
    stored[:, 2] = -INF
    now.requires_grad_()
    loss = distillation(now, stored)
    assert torch.allclose(loss, F.mse_loss(now[:, [0, 1, 3]], stored[:, [0, 1, 3]]))
    loss.backward()
    assert now.grad is not None
    assert now.grad[:, 2].tolist() == [0.0] * 5
    assert distillation(now, torch.full((5, 4), -INF)).item() == 0.0


def test_masked_outputs_of_other_tasks_give_no_gradient() -> None:
    logits = torch.zeros(1, 3, requires_grad=True)
    outputs = logits.masked_fill(torch.tensor([[False, False, True]]), -INF)
    distillation(outputs, torch.tensor([[1.0, 0.0, -INF]])).backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[-1.0, 0.0, 0.0]]


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_the_memory_keeps_the_lowest_priorities_however_they_come(chunk: int) -> None:
    ids = np.random.default_rng(1).permutation(100)
    key = Key(0) / "memory"
    memory = DarkMemory(12, 2, torch.zeros(1), 100, key)
    for part in np.array_split(ids, -(-100 // chunk)):
        memory.offer(part, torch.from_numpy(np.stack([part, -part], 1)).float())
    assert np.sort(memory.ids).tolist() == keep_uniform(np.arange(100), 12, key).tolist()
    assert memory.outputs[:, 0].tolist() == memory.ids.tolist(), "outputs stay with their sample"
    memory.offer(memory.ids[:3].copy(), torch.full((3, 2), 0.5))
    assert memory.outputs[:3].tolist() == [[0.5, 0.5]] * 3, "a sample that comes again shows new outputs"
    assert len(memory) == 12
    memory.drop(memory.ids[:5].copy())
    assert len(memory) == 7
    assert memory.outputs[:, 0].tolist() == memory.ids.tolist()


def test_draws_are_distinct_and_uniform() -> None:
    memory = DarkMemory(10, 1, torch.zeros(1), 10, Key(0))
    memory.offer(np.arange(10), torch.zeros(10, 1))
    counts = np.zeros(10)
    for step in range(2000):
        slots = memory.draw(3, Key(1) / step)
        assert len(set(slots.tolist())) == 3
        counts[slots] += 1
    assert abs(counts / 2000 - 0.3).max() < 0.05
    assert sorted(memory.draw(30, Key(1)).tolist()) == list(range(10))


# ---------------------------------------------------------------------------------------------------- stored outputs


def test_stored_outputs_are_those_of_the_training_step(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan, epochs=3)
    watch, plugin = Watch(setting), der.DER(der.Config(memory=8, batch=3), setting)
    learner = learner_of(setting, watch, plugin)
    teach(learner, plan.experiences[:1], Ledger(plan.source))
    state = plugin.state_dict()
    shown: dict[int, list[torch.Tensor]] = {}
    for ids, outputs in watch.seen:
        for i, o in zip(ids.tolist(), outputs, strict=True):
            shown.setdefault(i, []).append(o)
    epochs = set()
    for i, stored in zip(state["ids"].tolist(), state["outputs"], strict=True):
        matches = [e for e, o in enumerate(shown[i]) if torch.equal(o, stored)]
        assert len(matches) == 1
        epochs.add(matches[0])
    assert len(epochs) > 1, "in which epoch a sample shows its outputs is drawn"


def test_samples_enter_the_memory_in_the_epoch_that_is_drawn_for_them(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan, epochs=3)
    plugin = der.DER(der.Config(memory=60, batch=3), setting)
    learner = learner_of(setting, plugin)
    inside: list[np.ndarray] = []
    visits: list[np.ndarray] = []

    class Look(naive.Naive):
        def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
            inside.append(plugin.stored_ids())
            visits.append(plugin._visit.copy())
            return loss

    learner.plugins["look"] = Look(naive.Config(), setting)
    own = plan.experiences[0].sample_ids
    teach(learner, plan.experiences[:1], Ledger(plan.source))
    assert len(inside) == 15
    for epoch in (1, 2):  # before the first step of each: what was to come in the epochs before
        due = own[visits[0][own] < epoch]
        assert inside[5 * epoch].tolist() == due.tolist()
        assert 0 < len(due) < 20
    assert plugin.stored_ids().tolist() == own.tolist()


def test_samples_are_replayed_while_their_experience_lasts(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan, epochs=2)
    plugin = der.DER(der.Config(memory=8, batch=3), setting)
    first = plan.experiences[0]
    alone = learner_of(setting)
    teach(alone, [first], Ledger(plan.source))
    learner = learner_of(setting, plugin)
    teach(learner, [first], Ledger(plan.source))
    assert not torch.equal(alone.model.parameters, learner.model.parameters)


def test_final_outputs_are_those_of_the_finished_model(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    plugin = der.DER(der.Config(memory=8, stored="final"), setting)
    learner = learner_of(setting, plugin)
    ledger = Ledger(plan.source)
    teach(learner, plan.experiences[:1], ledger)
    state = plugin.state_dict()
    learner.model.train(False)
    outputs = learner.model(plan.source.x[state["ids"]]).detach()
    assert torch.allclose(outputs, state["outputs"], atol=1e-6)
    teach(learner, plan.experiences[1:2], ledger)
    kept = set(state["ids"].tolist()) & set(plugin.state_dict()["ids"].tolist())
    rows = dict(zip(state["ids"].tolist(), state["outputs"], strict=True))
    now = dict(zip(plugin.state_dict()["ids"].tolist(), plugin.state_dict()["outputs"], strict=True))
    assert kept
    assert all(torch.equal(rows[i], now[i]) for i in kept), "outputs are not renewed later"


def test_a_step_of_der_plus_plus_by_hand(plan: Plan, tools: Any) -> None:
    """With a memory smaller than a draw, both draws are the whole memory."""
    setting = tools.setting(plan.source, plan, epochs=1, batch_size=100, lr=0.05)
    config = der_plus_plus.Config(memory=6, alpha=0.2, beta=0.7, stored="final")
    plugin = der_plus_plus.DERPlusPlus(config, setting)
    learner, ledger = learner_of(setting, plugin), Ledger(plan.source)
    teach(learner, plan.experiences[:1], ledger)
    state = plugin.state_dict()
    model = setting.make_model()
    model.load_state_dict(learner.model.state_dict())
    own = plan.experiences[1].sample_ids
    x, y = plan.source.x, plan.source.y
    loss = F.cross_entropy(model(x[own]), y[own])
    loss = loss + 0.2 * F.mse_loss(model(x[state["ids"]]), state["outputs"])
    loss = loss + 0.7 * F.cross_entropy(model(x[state["ids"]]), y[state["ids"]])
    loss.backward()
    teach(learner, plan.experiences[1:2], ledger)
    assert torch.allclose(learner.model.parameters, model.parameters - 0.05 * model.gradient, atol=1e-6)


class Normed(nn.Module):
    """A linear map and a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(5, 8), nn.BatchNorm1d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(self.linear(x)))


def normed() -> FlatModel:
    with seeded_globals(Key(3) / "init"):
        return FlatModel(Network(Normed(), nn.Linear(8, 6)))


class Noisy(nn.Module):
    """A linear map, a batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.dropout = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(F.relu(self.norm(self.linear(x))))


def noisy() -> FlatModel:
    with seeded_globals(Key(3) / "init"):
        return FlatModel(Network(Noisy(), nn.Linear(8, 6)))


class Draws(naive.Naive):
    """Notes the ids of every step and, of a plugin, the two draws and the outputs that they had when stored."""

    def __init__(self, setting: Setting, plugin: der_plus_plus.DERPlusPlus) -> None:
        super().__init__(naive.Config(), setting)
        self.plugin = plugin
        self.noted: list[tuple[torch.Tensor, ...]] = []

    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        drawn, count = self.plugin._drawn, self.plugin._num_distilled
        if drawn is not None:
            self.noted.append((batch.ids, drawn.ids[:count], self.plugin._stored.clone(), drawn.ids[count:]))
        return loss


@pytest.mark.parametrize("draws", ["apart", "together"])
def test_two_steps_through_batch_norms_are_mammoth_s(draws: str, plan: Plan, tools: Any) -> None:
    """Mammoth passes the new batch, what is distilled and what is labelled one after the other."""
    setting = replace(tools.setting(plan.source, plan, epochs=1, batch_size=10, lr=0.1), make_model=normed)
    config = der_plus_plus.Config.model_validate(
        {"memory": 12, "batch": 5, "alpha": 0.4, "beta": 0.7, "stored": "final", "draws": draws}
    )
    plugin = der_plus_plus.DERPlusPlus(config, setting)
    watch = Draws(setting, plugin)
    learner, ledger = learner_of(setting, watch, plugin), Ledger(plan.source)
    teach(learner, plan.experiences[:1], ledger)
    network = normed()
    network.load_state_dict(learner.model.state_dict())
    start = network.parameters.clone()
    teach(learner, plan.experiences[1:2], ledger)
    assert len(watch.noted) == 2
    x, y = plan.source.x, plan.source.y
    network.train()
    for own, first, stored, second in watch.noted:
        loss = F.cross_entropy(network(x[own]), y[own])
        loss = loss + 0.4 * F.mse_loss(network(x[first]), stored)
        loss = loss + 0.7 * F.cross_entropy(network(x[second]), y[second])
        network.gradient.zero_()
        loss.backward()
        network.parameters -= 0.1 * network.gradient
    same = torch.allclose(learner.model.parameters, network.parameters, atol=1e-6)
    running = torch.allclose(learner.model.network.body.norm.running_mean, network.network.body.norm.running_mean)
    assert (same, running) == ((True, True) if draws == "apart" else (False, False))
    if draws == "together":
        gap = (learner.model.parameters - network.parameters).norm() / (network.parameters - start).norm()
        assert gap > 0.02


def test_without_batch_norms_draws_pass_together(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    digests = set()
    for draws in ("apart", "together"):
        config = der_plus_plus.Config.model_validate({"memory": 12, "batch": 5, "draws": draws})
        learner = learner_of(setting, der_plus_plus.DERPlusPlus(config, setting))
        teach(learner, plan.experiences, Ledger(plan.source))
        digests.add(digest(learner.state_dict()))
    assert len(digests) == 1


def test_both_terms_have_their_own_draw(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan, epochs=1, batch_size=5)
    plugin = der_plus_plus.DERPlusPlus(der_plus_plus.Config(memory=15), setting)
    learner, ledger = learner_of(setting, plugin), Ledger(plan.source)
    draws: list[list[int]] = []

    class Look(naive.Naive):
        def extend(self, batch: Batch, step: int) -> Batch:
            if plugin._drawn is not None:
                draws.append(plugin._drawn.ids.tolist())
            return batch

    learner.plugins["look"] = Look(naive.Config(), setting)
    teach(learner, plan.experiences[:2], ledger)
    full = [d for d in draws if len(d) == 10]
    assert full
    assert any(set(d[:5]) != set(d[5:]) for d in full)


# ------------------------------------------------------------------------------------------------ DER and requests


def test_a_request_takes_samples_and_outputs_away(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    plugin = der_plus_plus.DERPlusPlus(der_plus_plus.Config(memory=20, batch=3), setting)
    live(learner_of(setting, plugin), plan, [Learn(0), Learn(1), RequestSpec("class", (1,))])
    state = plugin.state_dict()
    classes = plan.source.class_ids[state["ids"].numpy()]
    assert len(classes)
    assert 1 not in classes
    assert len(state["ids"]) == len(state["outputs"])
    assert bool((state["outputs"][:, 1] == -INF).all()), "the deleted class's outputs are no longer distilled"
    assert bool(state["outputs"][:, [0, 2, 3, 4, 5]].isfinite().all())


def test_outputs_of_deleted_classes_stay_out_until_the_class_is_learned_again(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    plugin = der.DER(der.Config(memory=30, batch=3), setting)
    learner = learner_of(setting, plugin)
    live(learner, plan, [Learn(0), RequestSpec("class", (1,)), Learn(1)])
    assert plugin.state_dict()["dead"] == [1]
    assert bool((plugin.state_dict()["outputs"][:, 1] == -INF).all())
    plugin = der.DER(der.Config(memory=30, batch=3), setting)
    live(learner_of(setting, plugin), plan, [Learn(0), RequestSpec("class", (1,)), Again(0), Learn(1)])
    state = plugin.state_dict()
    assert state["dead"] == []
    old = np.isin(plan.source.class_ids[state["ids"].numpy()], [0])
    assert bool((state["outputs"][old][:, 1] == -INF).all()), "what was stored before knows nothing of it"
    assert bool(state["outputs"][~old][:, 1].isfinite().all())


def test_a_task_takes_the_outputs_of_its_classes_along(tools: Any) -> None:
    source = tools.source(num_classes=6, per_class=10)
    plan = task_incremental.build(source, task_incremental.Config(experiences=3), 0)
    setting = tools.setting(source, plan)
    plugin = der.DER(der.Config(memory=20, batch=3), setting)
    learner = learner_of(setting, plugin)
    live(learner, plan, [Learn(0), Learn(1), RequestSpec("task", (0,)), Learn(2)])
    state = plugin.state_dict()
    assert state["dead"] == [0, 1]
    for i, stored in zip(state["ids"].tolist(), state["outputs"], strict=True):
        task = int(source.class_ids[i]) // 2
        finite = stored.isfinite().nonzero().flatten().tolist()
        assert finite == [2 * task, 2 * task + 1], "a task's outputs are those of its classes"
    assert bool(learner.model.parameters.isfinite().all())


@pytest.mark.parametrize("choice", ["recompute", "keep"])
def test_stored_outputs_follow_an_unlearner(choice: Any, plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    plugin = der.DER(der.Config(memory=8, after_request=choice, alpha=0.0), setting)
    learner, ledger = learner_of(setting, plugin), Ledger(plan.source)
    teach(learner, plan.experiences[:1], ledger)
    before = plugin.state_dict()
    learner.model.parameters.mul_(0.5)
    learner.settle()
    model = setting.make_model()
    model.load_state_dict(learner.model.state_dict())
    model.train(False)
    anew = model(plan.source.x[before["ids"]]).detach()
    lesson_ids = plan.experiences[1].sample_ids
    teach(learner, [Experience("last", (1,), lesson_ids)], ledger)
    after = dict(zip(plugin.state_dict()["ids"].tolist(), plugin.state_dict()["outputs"], strict=True))
    expected = anew if choice == "recompute" else before["outputs"]
    kept = [(i, o) for i, o in zip(before["ids"].tolist(), expected, strict=True) if i in after]
    assert kept
    assert all(torch.allclose(after[i], o, atol=1e-6) for i, o in kept)


def test_outputs_are_computed_anew_in_evaluation_mode(plan: Plan, tools: Any) -> None:
    """Without noise, and without moving the statistics of batch norms."""
    setting = replace(tools.setting(plan.source, plan), make_model=noisy)
    plugin = der.DER(der.Config(memory=8, alpha=0.0, stored="final"), setting)
    learner, ledger = learner_of(setting, plugin), Ledger(plan.source)
    teach(learner, plan.experiences[:1], ledger)
    for scale in (1.0, 0.5):  # those of the finished model, and after a request those of the unlearned one
        learner.model.parameters.mul_(scale)
        model = noisy()
        model.load_state_dict(learner.model.state_dict())
        model.train(False)
        learner.settle()
        experience, before = plan.experiences[0], digest(learner.model.state_dict())
        door = ledger.door(learner.access, experience.sample_ids)
        plugin.begin(Lesson(experience, ledger.lend(experience.sample_ids), door, learner.model, Key(0), 10))
        door.close()
        state = plugin.state_dict()
        assert torch.allclose(state["outputs"], model(plan.source.x[state["ids"]]).detach(), atol=1e-6)
        assert digest(learner.model.state_dict()) == before


def test_a_resume_after_a_request_computes_outputs_anew(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    whole, resumed = (
        learner_of(setting, der_plus_plus.DERPlusPlus(der_plus_plus.Config(memory=10, batch=3), setting))
        for _ in range(2)
    )
    ledger = Ledger(plan.source)
    teach(whole, plan.experiences[:2], ledger)
    whole.model.parameters.mul_(0.5)
    whole.settle()
    resumed.load_state_dict(whole.state_dict())
    ends = []
    for learner in (whole, resumed):
        experience = ledger.admit(replace(plan.experiences[2], incarnation=0))
        learner.learn(experience, ledger.door(learner.access, experience.sample_ids))
        ends.append(digest(learner.state_dict()))
    assert ends[0] == ends[1]


def test_what_stored_outputs_derive_from_is_reported(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    plugin = der.DER(der.Config(memory=20), setting)
    live(learner_of(setting, plugin), plan, [Learn(0), Learn(1), RequestSpec("class", (1,))])
    deleted = np.flatnonzero((plan.source.class_ids == 1) & ~plan.source.is_test)
    held = plugin.holds(deleted)
    assert not len(held["memory"])
    assert held["outputs"].tolist() == deleted.tolist(), "others' outputs are those of a model that has seen them"
    everything = np.flatnonzero(~plan.source.is_test)
    assert np.sort(plugin.stored_ids()).tolist() == plugin.holds(everything)["memory"].tolist()


# ----------------------------------------------------------------------------------------------------------- ER-ACE


def test_er_ace_by_hand(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan, epochs=1, batch_size=100, lr=0.05)
    plugin = er_ace.ERACE(er_ace.Config(memory=6, strength=0.5), setting)
    learner, ledger = learner_of(setting, plugin), Ledger(plan.source)
    plain = learner_of(setting)
    teach(plain, plan.experiences[:1], Ledger(plan.source))
    teach(learner, plan.experiences[:1], ledger)
    assert torch.equal(plain.model.parameters, learner.model.parameters), "nothing is masked in the first experience"
    memory, model = plugin.stored_ids(), setting.make_model()
    model.load_state_dict(learner.model.state_dict())
    own, x, y = plan.experiences[1].sample_ids, plan.source.x, plan.source.y
    logits = model(x[own]).clone()
    logits[:, [0, 1]] = -INF  # classes that were seen and are not in the batch; 4 and 5 have never been seen
    loss = F.cross_entropy(logits, y[own]) + 0.5 * F.cross_entropy(model(x[memory]), y[memory])
    loss.backward()
    teach(learner, plan.experiences[1:2], ledger)
    assert torch.allclose(learner.model.parameters, model.parameters - 0.05 * model.gradient, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_er_ace_masks_nothing_in_the_first_experience(batch_size: int, plan: Plan, tools: Any) -> None:
    """Not even where a batch lacks classes of the experience; afterwards that makes a difference."""
    setting = tools.setting(plan.source, plan, epochs=1, batch_size=batch_size)
    plain, learner = learner_of(setting), learner_of(setting, er_ace.ERACE(er_ace.Config(strength=0.0), setting))
    ledgers = [Ledger(plan.source) for _ in range(2)]
    for after in (0, 1):
        for one, ledger in zip((plain, learner), ledgers, strict=True):
            teach(one, plan.experiences[after : after + 1], ledger)
        same = torch.equal(plain.model.parameters, learner.model.parameters)
        assert same == (after == 0)


def test_er_ace_spares_the_classes_of_the_experience_that_are_not_in_the_batch(plan: Plan, tools: Any) -> None:
    """With one sample per step: nothing is said of the other class of the experience, nor of earlier ones."""
    setting = tools.setting(plan.source, plan, epochs=1, batch_size=1)
    learner = learner_of(setting, er_ace.ERACE(er_ace.Config(strength=0.0), setting))
    ledger = Ledger(plan.source)
    teach(learner, plan.experiences[:1], ledger)
    pushed: list[tuple[int, list[int]]] = []

    class Look(naive.Naive):
        def extend(self, batch: Batch, step: int) -> Batch:
            self.label = int(batch.y[0])
            return batch

        def gradient(self, gradient: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
            bias = gradient[learner.model.slices["head.bias"]]
            pushed.append((self.label, torch.nonzero(bias).flatten().tolist()))
            return gradient

    learner.plugins["look"] = Look(naive.Config(), setting)
    teach(learner, plan.experiences[1:2], ledger)
    assert {label for label, _ in pushed} == {2, 3}
    assert all(classes == [label, 4, 5] for label, classes in pushed), "itself, and what has never been seen"


def test_what_new_samples_compete_with() -> None:
    seen = torch.tensor([True, True, True, False])
    assert competing(torch.tensor([2, 2]), seen).tolist() == [False, False, True, True]
    assert seen.tolist() == [True, True, True, False], "the record is not changed"


# ------------------------------------------------------------------------------------------------------------ A-GEM


def test_projection() -> None:
    g, r = torch.tensor([1.0, -3.0]), torch.tensor([1.0, 1.0])
    assert project(g, r).tolist() == [2.0, -2.0]
    assert abs(float(project(g, r).dot(r))) < 1e-6
    agree = torch.tensor([1.0, 0.5])
    assert torch.equal(project(agree, r), agree)
    assert torch.equal(project(g, torch.zeros(2)), g)


def test_agem_never_steps_against_its_memory(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan, epochs=1, batch_size=100)
    plugin = agem.AGEM(agem.Config(memory=12), setting)
    learner, ledger = learner_of(setting, plugin), Ledger(plan.source)
    teach(learner, plan.experiences[:1], ledger)
    memory, start = plugin.stored_ids(), learner.model.parameters.clone()
    assert np.bincount(plan.source.class_ids[memory]).tolist() == [6, 6]
    model = setting.make_model()
    model.load_state_dict(learner.model.state_dict())
    F.cross_entropy(model(plan.source.x[memory]), plan.source.y[memory]).backward()
    reference = model.gradient.clone()
    own = plan.experiences[1].sample_ids
    model.gradient.zero_()
    F.cross_entropy(model(plan.source.x[own]), plan.source.y[own]).backward()
    assert float(model.gradient.dot(reference)) < 0
    teach(learner, plan.experiences[1:2], ledger)
    step = learner.model.parameters - start
    assert abs(float(step.dot(reference))) < 1e-4 * float(step.norm() * reference.norm())
    assert torch.allclose(step, -0.1 * project(model.gradient, reference), atol=1e-6)


def test_agem_s_steps_by_hand_have_a_draw_each(plan: Plan, tools: Any) -> None:
    """Seven steps with a memory of 12 and draws of 3: every one is projected on a batch of its own."""
    setting = tools.setting(plan.source, plan, epochs=1, batch_size=3)
    plugin = agem.AGEM(agem.Config(memory=12, batch=3), setting)
    learner, ledger = learner_of(setting, plugin), Ledger(plan.source)
    teach(learner, plan.experiences[:1], ledger)
    memory, model = plugin.stored_ids(), setting.make_model()
    model.load_state_dict(learner.model.state_dict())
    steps: list[torch.Tensor] = []

    class Look(naive.Naive):
        def extend(self, batch: Batch, step: int) -> Batch:
            steps.append(batch.ids)
            return batch

    learner.plugins["look"] = Look(naive.Config(), setting)
    teach(learner, plan.experiences[1:2], ledger)
    key = setting.key / "fit" / plan.experiences[1].name / 0 / "agem"
    drawn = torch.from_numpy(memory[draw_positions(memory, 3 * 7, key)]).view(7, 3)
    assert len(steps) == 7
    assert sorted(drawn[:4].flatten().tolist()) == memory.tolist(), "everything once before anything twice"
    x, y, turned = plan.source.x, plan.source.y, 0
    for own, reference_ids in zip(steps, drawn, strict=True):
        gradients = []
        for ids in (reference_ids, own):
            model.gradient.zero_()
            F.cross_entropy(model(x[ids]), y[ids]).backward()
            gradients.append(model.gradient.clone())
        turned += bool(gradients[0].dot(gradients[1]) < 0)
        model.parameters -= 0.1 * project(gradients[1], gradients[0])
    assert turned > 1
    assert torch.allclose(learner.model.parameters, model.parameters, atol=1e-6)


# ---------------------------------------------------------------------------------------------- what comes once more


def test_what_comes_again_brings_its_budget_again(plan: Plan, tools: Any) -> None:
    """A quarter of the twenty samples that an experience brings, whether or not they are in the pool already."""
    setting = tools.setting(plan.source, plan)
    plugin = random_selection.RandomSelection(random_selection.Config(share=0.25), setting)
    learner, ledger = learner_of(setting, plugin), Ledger(plan.source)
    for name in ("first", "again"):
        experience = ledger.admit(replace(plan.experiences[0], name=name))
        outcome = learner.learn(experience, ledger.door(learner.access, experience.sample_ids))
        assert outcome.draw is not None
        assert (len(outcome.draw.pool), int(outcome.draw.drawn.sum())) == (20, 5)


# ------------------------------------------------------------------------------------------- the loss that is trained


@pytest.mark.parametrize(
    "make",
    [
        lambda s: der_plus_plus.DERPlusPlus(der_plus_plus.Config(memory=6, alpha=0.2, beta=0.7, stored="final"), s),
        lambda s: er_ace.ERACE(er_ace.Config(memory=6, strength=0.7), s),
        lambda s: agem.AGEM(agem.Config(memory=6), s),
    ],
    ids=["der-plus-plus", "er-ace", "agem"],
)
def test_old_samples_have_the_loss_that_is_trained(make: Any, plan: Plan, tools: Any) -> None:
    """One step by hand where another loss is trained than the one that evaluates."""
    setting = tools.setting(plan.source, plan, epochs=1, batch_size=100, lr=0.05)
    setting = replace(setting, objective=Classification(6, loss="bce"))
    longer = replace(setting, training=setting.training.model_copy(update={"epochs": 300, "lr": 1.0}))
    plugin, ledger = make(setting), Ledger(plan.source)
    learner, before = learner_of(setting, plugin), learner_of(longer, make(longer))
    teach(before, plan.experiences[:1], ledger)
    learner.load_state_dict(before.state_dict())
    state, kept, model = plugin.state_dict(), torch.from_numpy(plugin.stored_ids()), setting.make_model()
    model.load_state_dict(learner.model.state_dict())
    own, x, y = torch.from_numpy(plan.experiences[1].sample_ids), plan.source.x, plan.source.y

    def gradient(ids: torch.Tensor, outputs: list[int]) -> torch.Tensor:
        model.gradient.zero_()
        taught = F.one_hot(y[ids], 6)[:, outputs].float()
        F.binary_cross_entropy_with_logits(model(x[ids])[:, outputs], taught).backward()
        return model.gradient.clone()

    everything, old = list(range(6)), gradient(kept, list(range(6)))
    if isinstance(plugin, agem.AGEM):
        new = gradient(own, everything)
        assert float(new.dot(old)) < 0
        expected = project(new, old)
    elif isinstance(plugin, er_ace.ERACE):
        expected = gradient(own, [2, 3, 4, 5]) + 0.7 * old
    else:
        expected = gradient(own, everything) + 0.7 * old
        model.gradient.zero_()
        F.mse_loss(model(x[state["ids"]]), state["outputs"]).backward()
        expected = expected + 0.2 * model.gradient
    start = learner.model.parameters.clone()
    teach(learner, plan.experiences[1:2], ledger)
    assert torch.allclose(learner.model.parameters, start - 0.05 * expected, atol=1e-6)


# -------------------------------------------------------------------------------------------------------------- CPR


def test_entropy_and_its_gradient() -> None:
    logits = torch.tensor([[0.3, -0.2, 1.0], [0.0, 0.0, -INF]], requires_grad=True)
    p = logits.softmax(1)
    assert mean_entropy(p).item() == pytest.approx(torch.special.entr(p).sum(1).mean().item(), rel=1e-6)
    mean_entropy(p).backward()
    assert logits.grad is not None
    assert bool(logits.grad[0].isfinite().all())
    uniform = torch.full((4, 8), 1 / 8)
    assert mean_entropy(uniform).item() == pytest.approx(np.log(8), rel=1e-6)


def test_cpr_makes_predictions_less_sure(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan, epochs=20)
    entropies = []
    for strength in (0.0, 0.5):
        learner = learner_of(setting, cpr.CPR(cpr.Config(strength=strength), setting))
        teach(learner, plan.experiences[:1], Ledger(plan.source))
        x = plan.source.x[plan.experiences[0].sample_ids]
        entropies.append(mean_entropy(learner.model(x).softmax(1)).item())
    assert entropies[1] > entropies[0] + 0.2


# ------------------------------------------------------------------------------------------------- frequency replay


def test_which_classes_are_rare() -> None:
    counts = np.array([30, 2, 3, 4, 5, 6])
    assert rare_classes(counts, 100, np.array([0, 5]), 3, 0.01, 0.1) == [2, 3], "at most as many as the experience has"
    assert rare_classes(counts, 100, np.array([0, 2, 3, 5]), 3, 0.01, 0.1) == [4], "too rare, present or too frequent"
    assert rare_classes(counts, 20, np.array([0, 5]), 3, 0.01, 0.1) == [], "stops at the first that is frequent"
    assert rare_classes(counts, 1000, np.array([0, 5]), 3, 0.01, 0.1) == [], "too rare to be worth it"


@pytest.mark.nightly
def test_numbers_are_no_classes_that_could_be_rare(tools: Any) -> None:
    setting = replace(tools.setting(tools.source()), objective=Regression())
    with pytest.raises(ConfigError, match="frequency-replay is for models that predict classes"):
        make_strategy(parse(StrategyConfig, {"learner": "frequency-replay"}), setting, "it")


def test_frequency_replay_learns_rare_classes_along(tools: Any) -> None:
    source = tools.source(num_classes=6, per_class=10)
    ids = {c: np.flatnonzero((source.class_ids == c) & ~source.is_test) for c in range(6)}
    setting = replace(tools.setting(source, epochs=1), units=())
    config = frequency_replay.Config(per_class=6, min_occurrences=3, low=0.01, high=0.5)
    plugin = frequency_replay.FrequencyReplay(config, setting)
    learner, ledger = learner_of(setting, plugin), Ledger(source)
    order = [0, 0, 0, 1, 1, 1, 1, 2]
    read = []
    for number, c in enumerate(order):
        experience = ledger.admit(Experience(f"e{number}", (), ids[c]))
        door = ledger.door(learner.access, experience.sample_ids)
        learner.learn(experience, door)
        read.append(door.num_read)
        door.close()
    # Before the 7th, class 0 has come 3 times in 6 (0.5); it is replayed, which counts: before the 8th it is 4 in 7.
    assert read == [10, 10, 10, 10, 10, 10, 16, 10]
    state = plugin.state_dict()
    assert state["occurrences"].tolist()[:3] == [4, 4, 1]
    assert state["experiences"] == 8
    assert [len(i) for i in state["ids"]] == [6, 6, 6, 0, 0, 0]
    request = assemble_request(source, ids[0])
    learner.purge(request)
    assert plugin.state_dict()["occurrences"].tolist()[:3] == [0, 4, 1]
    assert not len(plugin.holds(ids[0])["memory"])


@pytest.mark.parametrize(("per_class", "renewed"), [(200, [100, 66, 10]), (20, [10, 6, 1])])
def test_frequency_replay_renews_a_twentieth_at_least(per_class: int, renewed: list[int], tools: Any) -> None:
    source = tools.source(num_classes=2, per_class=40 * per_class // 4)
    setting = tools.setting(source, epochs=1)
    plugin = frequency_replay.FrequencyReplay(frequency_replay.Config(per_class=per_class), setting)
    ids = np.flatnonzero((source.class_ids == 0) & ~source.is_test)
    plugin._renew(0, ids[:per_class], setting.key)
    for turn, (occurrences, count) in enumerate(zip([1, 2, 100], renewed, strict=True), start=1):
        plugin._occurrences[0] = occurrences
        before = plugin.stored_ids()
        plugin._renew(0, ids[turn * per_class : (turn + 1) * per_class], setting.key / turn)
        after = plugin.stored_ids()
        assert len(after) == per_class
        assert len(np.setdiff1d(after, before)) == count


def assemble_request(source: Any, ids: np.ndarray) -> DeletionRequest:
    from streams.events import Request

    return DeletionRequest("r", (Request("class", (0,), ids, ids[:0], 0),))


@pytest.mark.parametrize("probability", [1.0, 0.5, 0.0])
def test_random_replay_is_named_and_leaves_the_experience_out(probability: float, tools: Any) -> None:
    source = tools.source(num_classes=6, per_class=10)
    plan = class_incremental.build(source, class_incremental.Config(experiences=6), 0)
    setting = tools.setting(source, plan, epochs=1)
    config = frequency_replay.Config(choice="random", probability=probability, per_class=4)
    plugin = frequency_replay.FrequencyReplay(config, setting)
    learner, ledger = learner_of(setting, plugin), Ledger(source)
    read = []
    for experience in plan.experiences:
        door = ledger.door(learner.access, experience.sample_ids)
        learner.learn(ledger.admit(experience), door)
        read.append(door.num_read)
        door.close()
    assert read[0] == 10, "there is nothing to replay yet"
    assert set(read) <= {10, 14}
    if probability == 0.5:
        assert 1 <= sum(n == 14 for n in read) <= 4
    else:
        assert read[1:] == [14 if probability else 10] * 5


# ---------------------------------------------------------------------------------------------- parity with Avalanche


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.0), (0.1, 0.5)])
def test_a_step_equals_avalanches_der(alpha: float, beta: float, plan: Plan, tools: Any) -> None:
    """Avalanche has one draw for both terms and outputs of the finished model: a memory as large as a draw agrees."""
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.supervised.der import DER

    setting = tools.setting(plan.source, plan, epochs=1, batch_size=100, lr=0.05)
    config = der_plus_plus.Config(memory=6, alpha=alpha, beta=beta, stored="final")
    plugin = der_plus_plus.DERPlusPlus(config, setting)
    learner, ledger = learner_of(setting, plugin), Ledger(plan.source)
    teach(learner, plan.experiences[:1], ledger)
    state, own = plugin.state_dict(), plan.experiences[1].sample_ids
    theirs = setting.make_model()
    theirs.load_state_dict(learner.model.state_dict())
    strategy = DER(
        model=theirs.network,
        optimizer=torch.optim.SGD(theirs.network.parameters(), lr=0.05),
        mem_size=6,
        batch_size_mem=6,
        alpha=alpha,
        beta=beta,
        train_mb_size=100,
        evaluator=EvaluationPlugin(loggers=[]),
    )
    x, y = plan.source.x, plan.source.y
    zeros = torch.zeros(100, dtype=torch.int64)
    strategy.replay_loader = iter([(x[state["ids"]], y[state["ids"]], zeros[:6], state["outputs"])])
    strategy.dataloader = [[x[own], y[own], zeros[: len(own)]]]
    strategy._stop_training = False
    strategy.training_epoch()
    teach(learner, plan.experiences[1:2], ledger)
    moved = nn.utils.parameters_to_vector(theirs.network.parameters()).detach()
    assert torch.allclose(learner.model.parameters, moved, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_a_step_equals_avalanches_agem(plan: Plan, tools: Any) -> None:
    from avalanche.training.plugins import AGEMPlugin

    setting = tools.setting(plan.source, plan, epochs=1, batch_size=100, lr=0.05)
    plugin = agem.AGEM(agem.Config(memory=8), setting)
    learner, ledger = learner_of(setting, plugin), Ledger(plan.source)
    teach(learner, plan.experiences[:1], ledger)
    memory, own = plugin.stored_ids(), plan.experiences[1].sample_ids
    network = setting.make_model()
    network.load_state_dict(learner.model.state_dict())
    model = network.network
    x, y = plan.source.x, plan.source.y
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    strategy = type("S", (), {"model": model, "optimizer": optimizer, "device": "cpu"})()
    strategy._criterion = nn.CrossEntropyLoss()
    theirs = AGEMPlugin(patterns_per_experience=8, sample_size=8)
    theirs.buffers = [None]
    theirs.buffer_dliter = iter([(x[memory], y[memory], torch.zeros(8, dtype=torch.int64))])
    theirs.before_training_iteration(strategy)
    optimizer.zero_grad()
    F.cross_entropy(model(x[own]), y[own]).backward()
    theirs.after_backward(strategy)
    optimizer.step()
    teach(learner, plan.experiences[1:2], ledger)
    moved = nn.utils.parameters_to_vector(model.parameters()).detach()
    assert torch.allclose(learner.model.parameters, moved, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (der_plus_plus.DERPlusPlus, der_plus_plus.Config(memory=10, batch=3)),
        (er_ace.ERACE, er_ace.Config(memory=10, batch=3)),
        (agem.AGEM, agem.Config(memory=10, batch=3)),
    ],
    ids=["der-plus-plus", "er-ace", "agem"],
)
def test_resuming_in_the_middle_of_a_life_gives_the_same_memory(kind: Any, config: Any, plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)

    def make() -> SGDLearner:
        return SGDLearner(setting, lambda: [("it", kind(config, setting))])

    whole, ledger = make(), Ledger(plan.source)
    teach(whole, plan.experiences[:2], ledger)
    resumed = make()
    resumed.load_state_dict(whole.state_dict())
    other = Ledger(plan.source)
    for experience in plan.experiences[:2]:
        other.admit(experience)
    teach(whole, plan.experiences[2:], ledger)
    teach(resumed, plan.experiences[2:], other)
    assert digest(whole.state_dict()) == digest(resumed.state_dict())
