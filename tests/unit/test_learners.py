from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from lives import delete, teach

from strategies.base import Access, Lesson, Plugin, Setting
from strategies.learner import SGDLearner
from strategies.learners import cumulative, ewc, l2, naive, online_ewc, replay
from strategies.parts.fit import Hooks, fit
from strategies.parts.memory.buffers import draw_positions, keep_balanced, keep_uniform
from strategies.parts.memory.exemplars import Remember
from strategies.parts.model import digest
from strategies.parts.weights.fisher import diagonal_fisher
from strategies.parts.weights.importance import Tie
from streams.data import Batch
from streams.errors import TrainingError
from streams.events import Experience
from streams.ledger import Ledger
from streams.plan import Plan
from streams.randomness import Key
from streams.scenarios import class_incremental
from streams.source import Source

KEY = Key(0) / "buffer"


@pytest.fixture
def plan(tools: Any) -> Plan:
    source = tools.source(num_classes=6, per_class=10)
    return class_incremental.build(source, class_incremental.Config(experiences=3), 0)


def learner_of(setting: Setting, *plugins: tuple[str, Any]) -> SGDLearner:
    """A learner with plugins given as (name, config); the class is the module's only plugin."""
    classes = {
        naive.Config: naive.Naive,
        l2.Config: l2.L2,
        ewc.Config: ewc.EWC,
        online_ewc.Config: online_ewc.OnlineEWC,
        replay.Config: replay.Replay,
        cumulative.Config: cumulative.Cumulative,
    }
    return SGDLearner(setting, lambda: [(n, classes[type(c)](c, setting)) for n, c in plugins])


def seen_ids(learner: SGDLearner, plan: Plan, ledger: Ledger, index: int) -> list[list[int]]:
    """Ids of every batch that is trained on, replayed ones included."""
    seen: list[list[int]] = []

    class Watch(Plugin):
        def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Any, model: Any) -> torch.Tensor:
            seen.append(batch.ids.tolist())
            return loss

    learner.plugins["watch"] = Watch(naive.Config(), learner.setting)
    teach(learner, plan, [index], ledger)
    del learner.plugins["watch"]
    return seen


@pytest.mark.parametrize(
    "config",
    [
        l2.Config(strength=0.0),
        l2.Config(strength=0.0, anchor="initial"),
        ewc.Config(strength=0.0),
        ewc.Config(strength=0.0, on_deletion="recompute"),
        online_ewc.Config(strength=0.0, fisher="exact"),
        ewc.Config(strength=0.0, fisher="batch"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_strength_zero_is_naive_to_the_bit(config: Any, momentum: float, plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan, momentum=momentum)
    plain, tied = learner_of(setting, ("naive", naive.Config())), learner_of(setting, ("tie", config))
    teach(plain, plan)
    teach(tied, plan)
    assert torch.equal(plain.model.parameters, tied.model.parameters)


@pytest.mark.parametrize("config", [l2.Config(strength=1.0), ewc.Config(strength=3.0, fisher="exact")], ids=repr)
def test_a_tie_changes_the_weights(config: Any, plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    plain, tied = learner_of(setting, ("naive", naive.Config())), learner_of(setting, ("tie", config))
    teach(plain, plan)
    teach(tied, plan)
    assert not torch.allclose(plain.model.parameters, tied.model.parameters, atol=1e-3)


def autograd(penalty: Any, theta: torch.Tensor) -> torch.Tensor:
    theta = theta.clone().requires_grad_()
    return torch.autograd.grad(penalty(theta), theta)[0]


def random_like(parameters: torch.Tensor, seed: int) -> torch.Tensor:
    return torch.randn(parameters.shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("parameters", ["all", "body"])
def test_l2_gradient_is_the_penaltys(parameters: Any, plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    plugin = l2.L2(l2.Config(strength=0.7, parameters=parameters), setting)
    plugin.begin(lesson_of(setting, plan, tools))
    anchor, mask = setting.make_model().parameters, setting.make_model().mask(parameters)
    theta = anchor + random_like(anchor, 1)
    expected = autograd(lambda t: 0.7 * (mask * (t - anchor).square()).sum(), theta)
    assert torch.allclose(plugin.gradient(torch.zeros_like(theta), theta), expected, atol=1e-6)
    assert float(plugin.gradient(torch.zeros_like(theta), anchor).abs().max()) == 0  # zero at the anchor


def test_l2_anchors(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    start = setting.make_model().parameters
    previous, initial = (l2.L2(l2.Config(anchor=a), setting) for a in ("previous", "initial"))
    learner = SGDLearner(setting, lambda: [("p", previous), ("i", initial)])
    teach(learner, plan, [0])
    assert torch.equal(previous.state_dict()["anchor"], learner.model.parameters)
    assert torch.equal(initial.state_dict()["anchor"], start)
    everything = plan.source.train_ids
    assert learner.holds(everything).keys() == {"weights", "p.anchor"}
    learner.model.parameters += 0.3
    learner.settle()
    assert torch.equal(previous.state_dict()["anchor"], learner.model.parameters)
    assert torch.equal(initial.state_dict()["anchor"], start), "a request does not move the initial weights"
    late = l2.L2(l2.Config(from_start=False), setting)
    zero = torch.zeros_like(start)
    late.begin(lesson_of(setting, plan, tools))
    assert float(late.gradient(zero.clone(), start + 1).abs().max()) == 0
    late_learner = SGDLearner(setting, lambda: [("l", late)])
    teach(late_learner, plan, [0])
    late.begin(lesson_of(setting, plan, tools))
    assert float(late.gradient(zero.clone(), start + 1).abs().max()) > 0


def trained_ewc(plan: Plan, setting: Setting, config: Any) -> tuple[Any, list[torch.Tensor], list[torch.Tensor]]:
    """An EWC plugin after all experiences, and every Fisher and anchor computed apart."""
    learner = learner_of(setting, ("ewc", config))
    ledger = Ledger(plan.source)
    fishers, anchors = [], []
    for i, experience in enumerate(plan.experiences):
        teach(learner, plan, [i], ledger)
        data = ledger.lend(experience.sample_ids)
        fisher, _ = diagonal_fisher(learner.model, setting.objective, data, "exact", KEY)
        fishers.append(fisher * learner.model.mask(config.parameters))
        anchors.append(learner.model.parameters.clone())
    return learner.plugins["ewc"], fishers, anchors


def lesson_of(setting: Setting, plan: Plan, tools: Any) -> Lesson:
    ledger = Ledger(plan.source)
    experience = plan.experiences[0]
    return Lesson(
        experience,
        ledger.lend(experience.sample_ids),
        ledger.door(Access(), experience.sample_ids),
        setting.make_model(),
        Key(0),
        1,
    )


@pytest.mark.parametrize("parameters", ["all", "body"])
def test_offline_ewc_is_the_explicit_sum_over_experiences(parameters: Any, plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan, lr=0.05)
    config = ewc.Config(strength=2.0, parameters=parameters, fisher="exact")
    plugin, fishers, anchors = trained_ewc(plan, setting, config)
    theta = anchors[-1] + 0.1 * random_like(anchors[-1], 2)

    def penalty(t: torch.Tensor) -> torch.Tensor:
        return 2.0 / 2 * sum((f * (t - a).square()).sum() for f, a in zip(fishers, anchors, strict=True))

    plugin.begin(lesson_of(setting, plan, tools))
    found = plugin.gradient(torch.zeros_like(theta), theta)
    assert torch.allclose(found, autograd(penalty, theta), rtol=1e-4, atol=1e-6)
    assert float(found.abs().max()) > 0.01
    tie = Tie(theta)
    tie.load_state_dict(plugin.state_dict()["tie"])
    value = 2.0 / 2 * tie.penalty(theta)
    assert value == pytest.approx(float(penalty(theta)), rel=1e-4)


@pytest.mark.parametrize("paper", [True, False])
@pytest.mark.parametrize("decay", [1.0, 0.5, 0.0])
def test_online_ewc(decay: float, paper: bool, plan: Plan, tools: Any) -> None:
    # F <- decay F + F_new with one anchor. decay 1: the plain sum; 0: the last F only. In the paper the penalty weighs
    # decay F, so that 0 removes it.
    setting = tools.setting(plan.source, plan, lr=0.05)
    config = online_ewc.Config(strength=2.0, decay=decay, decay_in_penalty=paper, fisher="exact")
    plugin, fishers, anchors = trained_ewc(plan, setting, config)
    accumulated = decay**2 * fishers[0] + decay * fishers[1] + fishers[2]
    assert torch.allclose(plugin.state_dict()["tie"]["weight"], accumulated, rtol=1e-4, atol=1e-7)
    theta = anchors[-1] + 0.1 * random_like(anchors[-1], 2)
    plugin.begin(lesson_of(setting, plan, tools))
    found = plugin.gradient(torch.zeros_like(theta), theta)
    weighed = (decay if paper else 1.0) * accumulated
    assert torch.allclose(found, 2.0 * weighed * (theta - anchors[-1]), rtol=1e-3, atol=1e-5)
    if decay == 0:
        assert (float(found.abs().max()) == 0) == paper
        assert torch.allclose(accumulated, fishers[2])


def test_online_and_offline_agree_only_while_there_is_one_anchor(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan, lr=0.05)
    models = []
    for config in (ewc.Config(strength=5.0, fisher="exact"), online_ewc.Config(strength=5.0, fisher="exact")):
        learner = learner_of(setting, ("ewc", config))
        ledger = teach(learner, plan, [0, 1])
        two = learner.model.parameters.clone()
        teach(learner, plan, [2], ledger)
        models.append((two, learner.model.parameters.clone()))
    assert torch.allclose(models[0][0], models[1][0], atol=1e-6)
    assert not torch.allclose(models[0][1], models[1][1], atol=1e-4)


def test_the_first_step_after_an_anchor_is_naive(plan: Plan, tools: Any) -> None:
    # The penalty's gradient is zero at the anchor. 20 samples in one batch: one step per experience.
    setting = tools.setting(plan.source, plan, epochs=1, batch_size=20)
    plain = learner_of(setting, ("naive", naive.Config()))
    tied = learner_of(setting, ("ewc", ewc.Config(strength=5.0, fisher="exact")))
    for learner in (plain, tied):
        teach(learner, plan, [0, 1])
    assert torch.allclose(plain.model.parameters, tied.model.parameters, atol=1e-6)


def test_settling_moves_the_anchors_to_the_unlearned_weights(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan, lr=0.05)
    off, on = ewc.Config(strength=1.0, fisher="exact"), online_ewc.Config(strength=1.0, fisher="exact")
    configs = {"off": off, "on": on, "l2": l2.Config()}
    learner = learner_of(setting, *configs.items())
    teach(learner, plan)
    weight = learner.plugins["off"].state_dict()["tie"]["weight"]
    learner.model.parameters += 0.3
    learner.settle()
    theta = learner.model.parameters
    for plugin in learner.plugins.values():
        plugin.begin(lesson_of(setting, plan, tools))
        assert float(plugin.gradient(torch.zeros_like(theta), theta).abs().max()) == 0
    state = learner.plugins["off"].state_dict()["tie"]
    assert torch.equal(state["weight"], weight)
    assert torch.equal(state["center"], theta)
    assert state["spread"] == 0


def test_stiff_weights_are_refused_or_snap_to_their_anchor(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    refusing = learner_of(setting, ("ewc", ewc.Config(strength=1e6, stiff="refuse")))
    ledger = teach(refusing, plan, [0])
    with pytest.raises(TrainingError, match="ewc.strength: lr x curvature of the penalty is .* need less than 2"):
        teach(refusing, plan, [1], ledger)
    plugin = online_ewc.OnlineEWC(online_ewc.Config(strength=10.0), setting)
    theta = setting.make_model().parameters
    weight = torch.zeros_like(theta)
    weight[:2] = torch.tensor([1.0, 100.0])  # lr x strength x F = 1 and 100
    plugin.load_state_dict(
        {
            "tie": {"weight": weight, "center": torch.full_like(theta, 2.0), "spread": 0.0},
            "active": True,
            "derived": torch.zeros(setting.num_samples, dtype=torch.bool),
        }
    )
    plugin.begin(lesson_of(setting, plan, tools))
    stepped = theta - 0.1 * plugin.gradient(torch.zeros_like(theta), theta)
    assert stepped[:2].tolist() == pytest.approx([2.0, 2.0], abs=1e-5)
    assert torch.equal(stepped[2:], theta[2:])


def test_ewc_reports_whose_gradients_it_holds(plan: Plan, tools: Any) -> None:
    learner = learner_of(tools.setting(plan.source, plan), ("ewc", ewc.Config()))
    ledger = teach(learner, plan, [0])
    ids = plan.experiences[0].sample_ids
    assert learner.holds(plan.source.train_ids)["ewc.fisher"].tolist() == ids.tolist()
    delete(learner, ledger, ids[:3])
    assert learner.holds(ids[:3]).keys() == {"weights", "ewc.fisher", "ewc.anchors"}  # a sum cannot be undone


# ---------------------------------------------------------------------------------------------------- buffers


def test_keep_uniform_is_uniform_to_the_last_slot() -> None:
    draws, ids = 4000, np.arange(20)
    counts = np.zeros(20)
    for i in range(draws):
        counts[keep_uniform(ids, 5, KEY / i)] += 1
    assert counts.sum() == draws * 5
    sigma = np.sqrt(draws * 0.25 * 0.75)
    assert np.abs(counts - draws * 0.25).max() < 3.5 * sigma
    assert abs(counts[-1] - draws * 0.25) < 3 * sigma
    assert abs(counts[0] - draws * 0.25) < 3 * sigma


def test_a_memory_filled_piece_by_piece_is_the_memory_of_the_whole() -> None:
    ids = np.arange(50)
    kept = ids[:0]
    for start in range(0, 50, 7):
        kept = keep_uniform(np.concatenate([kept, ids[start : start + 7]]), 6, KEY)
    assert kept.tolist() == keep_uniform(ids, 6, KEY).tolist()
    assert (np.diff(kept) > 0).all()
    without = ids[ids != kept[2]]  # taking a kept sample out changes the memory by its successor only
    assert len(set(keep_uniform(without, 6, KEY)) - set(kept)) == 1
    assert keep_uniform(ids, 99, KEY).tolist() == ids.tolist()


@pytest.mark.parametrize(
    ("sizes", "capacity", "quotas"),
    [([10, 10, 10], 6, [2, 2, 2]), ([10, 1, 10], 7, [3, 1, 3]), ([2, 2], 10, [2, 2]), ([10, 10], 0, [0, 0])],
)
def test_keep_balanced_quotas(sizes: list[int], capacity: int, quotas: list[int]) -> None:
    classes = np.repeat(np.arange(len(sizes)), sizes)
    ids = np.arange(len(classes)) * 3
    kept = keep_balanced(ids, classes, capacity, KEY)
    assert np.bincount(classes[kept // 3], minlength=len(sizes)).tolist() == quotas
    assert (np.diff(kept) > 0).all()


def test_outputs_are_remembered_from_the_epoch_that_is_drawn_for_each() -> None:
    """Outputs say in which epoch they were shown; samples that are not kept leave no trace."""
    kept, key, epochs = np.arange(0, 200, 2), Key(0) / "remember", 4
    found = torch.full((len(kept), 1), -1.0)
    hook = Remember(kept, found, steps_per_epoch=5, epochs=epochs, key=key)
    for epoch in range(epochs):
        for ids in torch.from_numpy((Key(1) / epoch).order(np.arange(200))).split(40):
            batch = Batch(ids, torch.zeros(40, 1), torch.zeros(40))
            hook.losses(torch.zeros(40), torch.full((40, 1), float(epoch)), batch)
    drawn = np.floor((key / "epoch").uniform(kept) * epochs)
    assert found[:, 0].tolist() == drawn.tolist()
    assert np.bincount(drawn.astype(int)).min() > 10


def test_keep_balanced_gives_the_odd_places_by_priority() -> None:
    classes, ids = np.repeat([0, 1, 2], 10), np.arange(30)
    extra = np.zeros(3)
    for i in range(600):
        counts = np.bincount(classes[keep_balanced(ids, classes, 7, KEY / i)], minlength=3)
        assert sorted(counts.tolist()) == [2, 2, 3]
        extra[counts.argmax()] += 1
    assert np.abs(extra - 200).max() < 3 * np.sqrt(600 * 2 / 9)


def test_draw_positions_runs_through_the_memory_before_it_repeats() -> None:
    ids = np.array([5, 9, 30, 31])
    positions = draw_positions(ids, 10, KEY)
    assert len(positions) == 10
    assert sorted(positions[:4].tolist()) == sorted(positions[4:8].tolist()) == [0, 1, 2, 3]
    assert draw_positions(ids, 4, KEY).tolist() == positions[:4].tolist()
    assert len({tuple(draw_positions(ids, 4, KEY / i).tolist()) for i in range(30)}) > 10
    assert draw_positions(ids, 0, KEY).tolist() == []


# ----------------------------------------------------------------------------------------------------- replay


@pytest.mark.parametrize("policy", ["reservoir", "class-balanced"])
def test_replay_keeps_and_replays_old_samples(policy: Any, plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan, batch_size=5, epochs=1)
    learner = learner_of(setting, ("replay", replay.Config(memory=8, batch=3, policy=policy)))
    assert learner.access == Access(retained=8)
    ledger = Ledger(plan.source)
    first = seen_ids(learner, plan, ledger, 0)
    assert [len(b) for b in first] == [5] * 4
    memory = set(learner.stored_ids().tolist())
    assert len(memory) == 8
    second = seen_ids(learner, plan, ledger, 1)
    assert [len(b) for b in second] == [8] * 4
    replayed = [i for b in second for i in b[5:]]
    assert set(replayed) == memory  # 12 draws from 8: everything once before anything twice
    classes = plan.source.class_ids[learner.stored_ids()]
    if policy == "class-balanced":
        assert np.bincount(classes, minlength=4)[:4].tolist() == [2, 2, 2, 2]
    else:
        ids = np.concatenate([e.sample_ids for e in plan.experiences[:2]])
        kept = keep_uniform(ids, 8, setting.key / "replay" / "priority")
        assert learner.stored_ids().tolist() == kept.tolist()
    assert learner.plugins["replay"].state_dict()["classes"].tolist() == classes.tolist()


@pytest.mark.parametrize("policy", ["reservoir", "class-balanced"])
def test_purge_takes_samples_out_and_gives_their_places_back(policy: Any, plan: Plan, tools: Any) -> None:
    learner = learner_of(tools.setting(plan.source, plan), ("replay", replay.Config(memory=8, policy=policy)))
    ledger = teach(learner, plan, [0, 1])
    gone = np.flatnonzero((plan.source.class_ids == 0) & ~plan.source.is_test)
    delete(learner, ledger, gone)
    assert len(learner.stored_ids()) < 8
    # Their classes had a say in how many of the others are kept.
    balance = {"replay.balance"} if policy == "class-balanced" else set()
    assert learner.holds(gone).keys() == {"weights"} | balance
    teach(learner, plan, [2], ledger)
    stored = learner.stored_ids()
    assert len(stored) == 8
    assert not set(stored.tolist()) & set(gone.tolist())
    if policy == "class-balanced":
        assert sorted(np.bincount(plan.source.class_ids[stored], minlength=6)[1:].tolist()) == [1, 1, 2, 2, 2]


def test_a_sample_that_comes_again_is_not_replayed_beside_itself(tools: Any) -> None:
    source = tools.source(num_classes=2, per_class=6)
    ids = source.train_ids
    plan = Plan(source, (), tuple(Experience(f"e{i}", (), ids) for i in range(2)))
    learner = learner_of(tools.setting(source, batch_size=6, epochs=1), ("replay", replay.Config(memory=4)))
    ledger = Ledger(source)
    for index in (0, 1):
        batches = seen_ids(learner, plan, ledger, index)
        assert sorted(i for b in batches for i in b) == ids.tolist()
        assert len(learner.stored_ids()) == 4


def test_cumulative_trains_on_everything_alive(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan, epochs=1)
    learner = learner_of(setting, ("cumulative", cumulative.Config()))
    ledger = teach(learner, plan, [0, 1])
    gone = plan.experiences[0].sample_ids[:4]
    delete(learner, ledger, gone)
    seen = sorted(i for b in seen_ids(learner, plan, ledger, 2) for i in b)
    assert seen == sorted(ledger.live_ids.tolist())
    assert learner.stored_ids().tolist() == seen
    assert learner.access == Access(retained="full")


def test_naive_is_a_sequence_of_fits(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    learner = learner_of(setting, ("naive", naive.Config()))
    teach(learner, plan)
    model = setting.make_model()
    for experience in plan.experiences:
        data = tools.lend(plan.source, experience.sample_ids.tolist())
        fit(model, setting.objective, data, setting.training, setting.key / "fit" / experience.name / 0, [Hooks()])
    assert torch.equal(model.parameters, learner.model.parameters)
    assert learner.access == Access()


ALL = (
    ("ewc", ewc.Config(strength=1.0)),
    ("replay", replay.Config(memory=6)),
    ("l2", l2.Config()),
)


def test_a_saved_learner_goes_on_to_the_same_bits(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    whole = learner_of(setting, *ALL)
    teach(whole, plan)
    first = learner_of(setting, *ALL)
    ledger = teach(first, plan, [0, 1])
    saved = first.state_dict()
    mark = digest(saved)
    second = learner_of(setting, *ALL)
    second.load_state_dict(saved)
    assert digest(second.state_dict()) == mark
    teach(second, plan, [2], ledger)
    assert digest(second.state_dict()) == digest(whole.state_dict())
    assert digest(saved) == mark  # a state is a copy


def test_reset_forgets_everything(plan: Plan, tools: Any) -> None:
    learner = learner_of(tools.setting(plan.source, plan), *ALL)
    fresh = digest(learner.state_dict())
    teach(learner, plan)
    learner.reset()
    assert digest(learner.state_dict()) == fresh
    assert learner.holds(plan.source.train_ids) == {}


def test_access_adds_up(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    two = learner_of(setting, ("a", replay.Config(memory=6)), ("b", replay.Config(memory=5)))
    assert two.access == Access(retained=11)
    assert learner_of(setting, ("a", replay.Config()), ("c", cumulative.Config())).access == Access(retained="full")


@pytest.fixture(autouse=True)
def _globals_stay(plan: Plan) -> Any:
    before = torch.random.get_rng_state(), np.random.get_state()[1].tobytes()  # type: ignore[union-attr]
    yield
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.random.get_state()[1].tobytes() == before[1]  # type: ignore[union-attr]


def test_the_source_is_never_changed(tools: Any) -> None:
    source: Source = tools.source(num_classes=6, per_class=10)
    before = source.digest()
    plan = class_incremental.build(source, class_incremental.Config(experiences=3), 0)
    teach(learner_of(tools.setting(source, plan), *ALL), plan)
    assert source.digest() == before
