"""What Composed does with a guard: order, restoring, grades, sharing, and what it says of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from typing_extensions import override

from lifelong.audits._base import Context
from lifelong.audits.readout import Readout
from lifelong.config.run import EvaluationConfig
from lifelong.evaluation.planning import plan_evaluation
from lifelong.evaluation.samples import Samples
from strategies.base import Access, Door, Guard, Learner, Outcome, Plugin, Setting, State, Unlearner
from strategies.composed import Composed
from strategies.learner import SGDLearner
from strategies.outcome import Exactness, weaker
from strategies.parts.model import FlatModel, digest, num_bytes
from strategies.unlearners import none, retrain
from streams.config import Config
from streams.data import Batch
from streams.errors import ConfigError, TrainingError
from streams.events import DeletionRequest, Experience, Request, Unit
from streams.ledger import Ledger
from streams.plan import Learn, Plan, RequestSpec, Service, assemble
from streams.randomness import Key
from streams.source import Source


class Shift(Guard):
    """Adds 1 to the first output for every sample that was deleted; grades itself as it is told."""

    grade: Exactness = "none"
    fails = touches = False

    def __init__(self, config: Config, setting: Setting) -> None:
        super().__init__(config, setting)
        self.ids = np.array([], dtype=np.int64)

    @property
    @override
    def access(self) -> Access:
        return Access(forget_set=True)

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        self.ids = np.union1d(self.ids, door.forget_set().all().ids.numpy())
        if self.fails:
            raise TrainingError("the guard failed")
        if self.touches:
            learner.model.parameters[0] += 1
        return Outcome(steps=3, exactness=self.grade)

    @override
    def relearned(self, ids: np.ndarray) -> None:
        self.ids = np.setdiff1d(self.ids, ids)

    @override
    def predict(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        assert not model.network.training
        outputs = self.setting.objective.outputs(model, batch)
        outputs[:, 0] += len(self.ids)
        return outputs

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        return {"ids": ids[np.isin(ids, self.ids)], "nothing": ids[:0]}

    @override
    def state_dict(self) -> State:
        return {"ids": torch.from_numpy(self.ids.copy())}

    @override
    def load_state_dict(self, state: State) -> None:
        self.ids = state["ids"].numpy().copy()


class Nudge(Unlearner):
    """Moves every weight a little."""

    @property
    @override
    def access(self) -> Access:
        return Access()

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        learner.model.parameters.add_(0.01)
        return Outcome(steps=1, exactness="none")


class WithoutFive(Plugin):
    """Never trains on the first five samples."""

    @override
    def select(self, ids: np.ndarray, experience: Experience, door: Door, model: FlatModel) -> np.ndarray:
        return ids[5:]


@dataclass
class Life:
    """A guarded strategy that has learned all training rows of a small source."""

    tools: Any
    unlearner: type[Unlearner] = none.NoUnlearning
    plugins: Sequence[tuple[str, type[Plugin]]] = ()
    guard_type: type[Shift] = Shift
    source: Source = field(init=False)
    guard: Shift = field(init=False)
    strategy: Composed = field(init=False)
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.source = self.tools.source()
        setting = self.tools.setting(self.source)
        self.guard = self.guard_type(Config(), setting)
        learner = SGDLearner(setting, lambda: [(name, make(Config(), setting)) for name, make in self.plugins])
        self.strategy = Composed(learner, self.unlearner(Config(), setting), self.guard)
        self.ledger = Ledger(self.source)
        self.learn("all", self.source.train_ids)

    @property
    def weights(self) -> torch.Tensor:
        return self.strategy.learner.model.parameters

    def learn(self, name: str, ids: np.ndarray, incarnation: int = 0) -> None:
        experience = self.ledger.admit(Experience(name, (), ids, incarnation=incarnation))
        self.strategy.learn(experience, self.ledger.door(self.strategy.access, experience.sample_ids))

    def forget(self, ids: np.ndarray, name: str = "request-0") -> Outcome:
        request = DeletionRequest(name, (Request("sample", tuple(ids.tolist()), ids, ids[:0], 0),))
        self.ledger.delete(request)
        return self.strategy.forget(request, self.ledger.door(self.strategy.access, ids[:0], ids))

    def outputs(self) -> torch.Tensor:
        return self.strategy.predict(self.tools.lend(self.source).all())


def test_a_guard_takes_part_in_every_prediction_until_what_it_guards_is_back(tools: Any) -> None:
    life = Life(tools)
    before, weights = life.outputs(), life.weights.clone()
    ids = life.source.train_ids[:5]
    outcome = life.forget(ids)
    assert torch.equal(life.weights, weights)
    guarded = life.outputs()
    assert torch.equal(guarded[:, 0], before[:, 0] + 5)
    assert torch.equal(guarded[:, 1:], before[:, 1:])
    batch = tools.lend(life.source).all()
    assert torch.equal(life.strategy.constituents(batch)[0], guarded)
    bare = life.strategy.network()
    bare.train(False)
    with torch.no_grad():
        assert torch.equal(bare(batch.x), before), "audits of weights see the bare model"
    assert life.strategy.access == Access(forget_set=True)
    assert (outcome.steps, outcome.exactness, outcome.weights_erased) == (3, "none", False)
    held = life.strategy.holds(ids)
    assert set(held) == {"weights", "guard.ids"}
    life.learn("again", ids[:2], incarnation=1)
    assert life.guard.ids.tolist() == ids[2:].tolist()


def test_what_learner_and_guard_store_is_stored(tools: Any) -> None:
    class Keeper(Shift):
        """Keeps the samples that it guards against."""

        @override
        def stored_ids(self) -> np.ndarray:
            return self.ids

    class Memory(Plugin):
        """Says that it keeps two samples."""

        @override
        def stored_ids(self) -> np.ndarray:
            return np.array([3, 8])

    life = Life(tools, plugins=[("memory", Memory)], guard_type=Keeper)
    assert life.strategy.stored_ids().tolist() == [3, 8]
    ids = life.source.train_ids[:2]
    life.forget(ids)
    assert life.strategy.stored_ids().tolist() == sorted({3, 8, *ids.tolist()})
    assert life.strategy.state_bytes() == num_bytes(life.strategy.state_dict())


def test_a_readout_reads_the_bare_weights(tools: Any) -> None:
    class Blind(Shift):
        """Makes all features alike, on top."""

        @override
        def features(self, model: FlatModel, batch: Batch) -> torch.Tensor:
            return super().features(model, batch) * 0

    life = Life(tools, guard_type=Blind)
    source = life.source
    every = Experience("all", (0,), source.train_ids)
    unit = Unit("all", tuple(range(source.num_classes)), np.flatnonzero(source.is_test))
    plan = Plan(source, (unit,), (every,))
    stream = assemble(plan, [Learn(0), RequestSpec("class", (0,))], Service(), Key(0))
    looks = plan_evaluation(stream, EvaluationConfig(audits=("readout",), probe=100))
    objective = life.strategy.learner.setting.objective
    samples = Samples(stream, looks, objective, 64, "cpu")
    audit = Readout("readout", Config(), Context(life.strategy.learner.setting, source, looks, samples, stream))
    request = looks.requests[0]
    batch = samples.batch(request.forget)
    assert not life.strategy.features(batch).any()
    unguarded = Composed(life.strategy.learner, life.strategy.unlearner)
    guarded = audit.of_request(life.strategy, request.event, request)
    assert guarded == audit.of_request(unguarded, request.event, request)
    assert guarded["readout_accuracy"] > 0.5


def test_the_unlearner_acts_first_and_weights_that_changed_are_known(tools: Any) -> None:
    life = Life(tools, Nudge)
    weights = life.weights.clone()
    outcome = life.forget(life.source.train_ids[:5])
    assert torch.equal(life.weights, weights + 0.01)
    assert (outcome.steps, outcome.weights_erased) == (4, True)


@pytest.mark.parametrize(("grade", "expected"), [("none", "none"), ("law", "law"), ("bits", "bits")])
def test_an_exact_unlearner_beneath_a_guard_counts_as_the_weaker(grade: Exactness, expected: str, tools: Any) -> None:
    life = Life(tools, retrain.Retrain)
    life.guard.grade = grade
    old, ids = life.strategy.learner.model, life.source.train_ids[:5]
    outcome = life.forget(ids)
    assert (outcome.exactness, outcome.weights_erased) == (expected, True)
    assert life.strategy.learner.model is not old, "it was built anew, and the guard acts on the new one"
    assert set(life.strategy.holds(ids)) == {"guard.ids"}
    bare = life.strategy.network()
    bare.train(False)
    with torch.no_grad():
        assert torch.equal(life.outputs()[:, 0], bare(tools.lend(life.source).all().x)[:, 0] + 5)


def test_grades_by_rank() -> None:
    grades: tuple[Exactness | None, ...] = (None, "none", "law", "bits")
    assert [[weaker(a, b) for a in grades] for b in grades] == [
        [None, None, None, None],
        [None, "none", "none", "none"],
        [None, "none", "law", "law"],
        [None, "none", "law", "bits"],
    ]


def test_what_was_never_trained_on_leaves_nothing_to_erase(tools: Any) -> None:
    life = Life(tools, plugins=[("without-five", WithoutFive)])
    ids = life.source.train_ids
    assert life.forget(ids[:5]).weights_erased
    assert not life.forget(ids[5:7], "request-1").weights_erased


def test_model_and_guard_are_restored_where_a_guard_fails(tools: Any) -> None:
    life = Life(tools, Nudge)
    life.forget(life.source.train_ids[:3])
    state = digest(life.strategy.state_dict())
    life.guard.fails = True
    with pytest.raises(TrainingError, match="the guard failed"):
        life.forget(life.source.train_ids[3:6], "request-1")
    assert digest(life.strategy.state_dict()) == state
    fresh = Life(tools)
    fresh.guard.fails = True
    before = digest(fresh.strategy.state_dict())
    with pytest.raises(TrainingError):
        fresh.forget(fresh.source.train_ids[:3])
    assert digest(fresh.strategy.state_dict()) == before


def test_a_guard_that_changes_weights_is_refused(tools: Any) -> None:
    life = Life(tools)
    life.guard.touches = True
    with pytest.raises(TypeError, match=r"Shift\.forget changed the learner's weights"):
        life.forget(life.source.train_ids[:3])


def test_until_it_is_asked_a_guarded_strategy_has_the_state_of_its_learner(tools: Any) -> None:
    life, other = Life(tools), Life(tools)
    plain = Composed(other.strategy.learner, other.strategy.unlearner)
    assert digest(life.strategy.state_dict()) == digest(plain.state_dict())
    life.forget(life.source.train_ids[:3])
    asked = life.strategy.state_dict()
    assert set(asked) == {*plain.state_dict(), "guard"}
    life.strategy.load_state_dict(plain.state_dict())  # as one that takes over a life up to the first request does
    assert not len(life.guard.ids)
    assert digest(life.strategy.state_dict()) == digest(plain.state_dict())
    life.strategy.load_state_dict(asked)
    assert digest(life.strategy.state_dict()) == digest(asked)


def test_a_guard_alone_leaves_the_weights_and_stands_beside_no_isolated_strategy() -> None:
    from lifelong.config.run import StrategyConfig, find_strategy
    from streams.config import parse

    alone = parse(StrategyConfig, {"guard": "in-context"})
    assert find_strategy(alone, "it").data()["unlearner"] == {"name": "none"}
    assert parse(StrategyConfig, {"guard": "in-context", "unlearner": "retrain"}).unlearner.name == "retrain"
    assert parse(StrategyConfig, {"learner": "ewc"}).unlearner.name == "retrain"
    assert "guard" not in find_strategy(parse(StrategyConfig, {}), "it").data()
    again = parse(StrategyConfig, find_strategy(alone, "it").data())
    assert find_strategy(again, "it").data() == find_strategy(alone, "it").data()
    with pytest.raises(ConfigError, match="drop learner, unlearner, guard"):
        parse(StrategyConfig, {"isolated": "sisa", "guard": "o3"})
