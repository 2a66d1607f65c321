"""Avalanche as the yardstick (EWC) and Avalanche as the engine (the `avalanche` learner)."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from strategies.base import Setting
from strategies.composed import Composed
from strategies.learners import avalanche
from strategies.parts.fit import fit
from strategies.parts.model import FlatModel, digest
from strategies.parts.weights.fisher import diagonal_fisher
from strategies.parts.weights.importance import Tie
from strategies.unlearners import finetune, gradient_ascent, none, retrain
from streams.errors import CheckpointError, ConfigError, LedgerError
from streams.events import Experience
from streams.ledger import Access, Ledger
from streams.plan import Again, Learn, Plan, RequestSpec, Service, assemble
from streams.randomness import Key, seeded_globals
from streams.scenarios import class_incremental, task_incremental
from streams.stream import Stream
from streams.timeline import surviving

PLUGINS = "avalanche.training.plugins"
CONFIGS: dict[str, dict[str, Any]] = {
    "naive": {},
    "replay": {"strategy": "avalanche.training.Replay", "options": {"mem_size": 20}},
    "ewc-plugin": {"plugins": [{"plugin": f"{PLUGINS}.EWCPlugin", "options": {"ewc_lambda": 1.0}}]},
    "both": {
        "strategy": "avalanche.training.Replay",
        "options": {"mem_size": 20},
        "plugins": [{"plugin": f"{PLUGINS}.EWCPlugin", "options": {"ewc_lambda": 1.0}}],
    },
    "lwf": {"strategy": "avalanche.training.LwF", "options": {"alpha": 1.0, "temperature": 2.0}},
    "gdumb": {"strategy": "avalanche.training.GDumb", "options": {"mem_size": 20}},
    "der": {"strategy": "avalanche.training.DER", "options": {"mem_size": 20}},
}
UNLEARNERS: dict[str, tuple[Any, Any]] = {
    "retrain": (retrain.Retrain, retrain.Config()),
    "none": (none.NoUnlearning, none.Config()),
    "finetune": (finetune.Finetune, finetune.Config(epochs=1)),
    "gradient-ascent": (gradient_ascent.GradientAscent, gradient_ascent.Config(epochs=1)),
}


@pytest.fixture
def plan(tools: Any) -> Plan:
    return class_incremental.build(
        tools.source(num_classes=6, per_class=12), class_incremental.Config(experiences=3), 0
    )


@pytest.fixture
def stream(plan: Plan) -> Stream:
    scheduled = [
        Learn(0),
        Learn(1),
        RequestSpec("sample", None, 6),
        RequestSpec("class", (0,)),
        Learn(2),
        Again(1),
        RequestSpec("user", (1,)),
    ]
    return assemble(plan, scheduled, Service(), Key(0) / "requests")


def composed(setting: Setting, config: dict[str, Any], unlearner: str = "retrain") -> Composed:
    kind, options = UNLEARNERS[unlearner]
    learner = avalanche.Avalanche(avalanche.Config.model_validate(config), setting)
    return Composed(learner, kind(options, setting))


# ------------------------------------------------------------------------------------------- EWC, number by number


class Step:
    """As much of an Avalanche strategy as `EWCPlugin` looks at."""

    def __init__(self, model: nn.Module, dataset: TensorDataset, batch_size: int) -> None:
        self.model, self.device, self.train_mb_size = model, "cpu", batch_size
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        self._criterion = nn.CrossEntropyLoss()
        self.clock = type("Clock", (), {"train_exp_counter": 0})()
        self.experience = type("Experience", (), {"dataset": dataset})()
        self.loss = torch.zeros(1)


def vector(parts: dict[str, Any]) -> torch.Tensor:
    return torch.cat([p.data.reshape(-1) for p in parts.values()])


@pytest.mark.parametrize("mode", ["separate", "online"])
def test_fisher_and_penalty_equal_avalanches(mode: str, plan: Plan, tools: Any) -> None:
    from avalanche.training.plugins import EWCPlugin

    size, strength = 5, 0.7
    setting = tools.setting(plan.source, plan)
    model: FlatModel = setting.make_model()
    decay = {} if mode == "separate" else {"decay_factor": 0.5}
    theirs = EWCPlugin(ewc_lambda=strength, mode=mode, **decay)
    tie = Tie(model.parameters)
    for index, experience in enumerate(plan.experiences[:2]):
        data = tools.lend(plan.source, experience.sample_ids.tolist())
        fit(model, setting.objective, data, setting.training, setting.key / index)
        batch = data.all()
        step = Step(model.network, TensorDataset(batch.x, batch.y, torch.zeros_like(batch.y)), size)
        step.clock.train_exp_counter = index
        fisher, _ = diagonal_fisher(model, setting.objective, data, "batch", setting.key, size)
        grads = {n: p.grad for n, p in model.network.named_parameters()}
        theirs.after_training_exp(step)
        for name, parameter in model.network.named_parameters():  # Avalanche drops the gradient views
            parameter.grad = grads[name]
        theta = model.parameters.clone()
        if mode == "separate":
            assert torch.allclose(vector(theirs.importances[index]), fisher, rtol=1e-5, atol=1e-10)
            tie.add(fisher, theta)
        else:
            tie.weight = 0.5 * tie.weight + fisher
            assert torch.allclose(vector(theirs.importances[index]), tie.weight, rtol=1e-5, atol=1e-10)
            tie.anchor_at(theta)
    assert float(tie.weight.max()) > 1e-4
    model.parameters += 0.1
    step.clock.train_exp_counter = 2
    theirs.before_backward(step)
    # Theirs: lambda sum F (theta - theta_k)^2. Ours has lambda / 2: the same number at twice the strength.
    ours = 2 * (strength / 2) * tie.penalty(model.parameters)
    assert ours == pytest.approx(step.loss.item(), rel=1e-4)


# ---------------------------------------------------------------------------------------- Avalanche as the engine


def plain_avalanche(config: dict[str, Any], setting: Setting, plan: Plan) -> torch.Tensor:
    """The same run written by hand with Avalanche alone, from tensors."""
    import avalanche.training as training
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.utils import DataAttribute
    from avalanche.benchmarks.utils.classification_dataset import TaskAwareSupervisedClassificationDataset
    from avalanche.logging import BaseLogger
    from avalanche.training.plugins import EvaluationPlugin, EWCPlugin

    options = setting.training
    network = setting.make_model().network
    parameters = network.parameters()
    if options.optimizer == "adam":
        optimizer: torch.optim.Optimizer = torch.optim.Adam(parameters, lr=options.lr)
    else:
        optimizer = torch.optim.SGD(parameters, lr=options.lr, momentum=options.momentum)
    datasets = []
    for experience in plan.experiences:
        x, y = plan.source.x[experience.sample_ids], plan.source.y[experience.sample_ids]
        attributes = [
            DataAttribute(y.tolist(), "targets"),
            DataAttribute([0] * len(y), "targets_task_labels", use_in_getitem=True),
        ]
        datasets.append(TaskAwareSupervisedClassificationDataset([TensorDataset(x, y)], data_attributes=attributes))
    kind = getattr(training, config.get("strategy", "avalanche.training.Naive").split(".")[-1])
    strategy = kind(
        model=network,
        optimizer=optimizer,
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=options.batch_size,
        train_epochs=options.epochs,
        plugins=[EWCPlugin(**p["options"]) for p in config.get("plugins", [])],
        evaluator=EvaluationPlugin(loggers=[BaseLogger()]),
        **config.get("options", {}),
    )
    for index, experience in enumerate(benchmark_from_datasets(train=datasets).train_stream):
        with seeded_globals(setting.key / "avalanche" / plan.experiences[index].name / 0):
            strategy.train(experience, eval_streams=[])
    return nn.utils.parameters_to_vector(strategy.model.parameters()).detach()


@pytest.mark.parametrize("training", [{"momentum": 0.9}, {"optimizer": "adam", "lr": 0.01}], ids=["sgd", "adam"])
@pytest.mark.parametrize("name", ["naive", "replay", "ewc-plugin", "both", "gdumb"])
def test_weights_are_those_of_avalanche_alone(name: str, training: dict[str, Any], plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan, **training)
    strategy = composed(setting, CONFIGS[name])
    tools.live(strategy, Ledger(plan.source), plan.experiences)
    assert torch.equal(strategy.learner.model.parameters, plain_avalanche(CONFIGS[name], setting, plan))


def test_methods_differ(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    marks = set()
    for config in CONFIGS.values():
        strategy = composed(setting, config)
        tools.live(strategy, Ledger(plan.source), plan.experiences)
        marks.add(digest(strategy.learner.model.parameters))
    assert len(marks) == len(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_retraining_is_the_life_without_the_data(name: str, stream: Stream, tools: Any) -> None:
    setting = tools.setting(stream.source)
    one, two = composed(setting, CONFIGS[name]), composed(setting, CONFIGS[name])
    ledger = Ledger(stream.source)
    tools.live(one, ledger, stream.events)
    tools.live(two, Ledger(stream.source), surviving(stream.events))
    assert digest(one.state_dict()) == digest(two.state_dict())
    assert one.holds(ledger.deleted_ids) == {}


@pytest.mark.parametrize("name", ["both", "gdumb"])
def test_deleted_data_does_not_interfere(name: str, stream: Stream, tools: Any) -> None:
    ledger = Ledger(stream.source)
    for event in stream.events:
        if isinstance(event, Experience):
            ledger.admit(event)
        else:
            ledger.delete(event)
    marks = []
    for noise in (0.0, 3.0):
        x = stream.source.x.clone()
        x[ledger.deleted_ids] += noise
        source = replace(stream.source, x=x)
        strategy = composed(tools.setting(source), CONFIGS[name])
        tools.live(strategy, Ledger(source), stream.events)
        marks.append(digest(strategy.state_dict()))
    assert marks[0] == marks[1]


@pytest.mark.nightly
@pytest.mark.parametrize("name", CONFIGS)
def test_resume_goes_on_to_the_same_bits_at_every_event(name: str, stream: Stream, tools: Any) -> None:
    setting = tools.setting(stream.source, momentum=0.9)
    whole = composed(setting, CONFIGS[name])
    tools.live(whole, Ledger(stream.source), stream.events)
    for cut in range(len(stream.events) + 1) if name == "both" else [3]:
        first, ledger = composed(setting, CONFIGS[name]), Ledger(stream.source)
        tools.live(first, ledger, stream.events[:cut])
        saved = first.state_dict()
        second = composed(setting, CONFIGS[name])
        second.load_state_dict(saved)
        assert torch.equal(second.learner.model.parameters, first.learner.model.parameters)  # enough to predict
        assert digest(second.state_dict()) == digest(saved)
        door = ledger.door(Access(retained="full"), stream.source.train_ids[:0])
        second.restore(door)
        door.close()
        assert digest(second.state_dict()) == digest(saved)
        second.restore(door)  # nothing is left to do: the closed door is not asked
        tools.live(second, ledger, stream.events[cut:])
        assert digest(second.state_dict()) == digest(whole.state_dict())


def load(strategy: Composed, other: Composed, ledger: Ledger) -> None:
    other.load_state_dict(strategy.state_dict())
    other.restore(ledger.door(Access(retained="full"), np.array([], dtype=np.int64)))


def test_a_state_survives_torch_save(stream: Stream, tools: Any, tmp_path: Any) -> None:
    setting = tools.setting(stream.source)
    strategy = composed(setting, CONFIGS["both"])
    tools.live(strategy, Ledger(stream.source), stream.events)
    torch.save(strategy.state_dict(), tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    assert digest(loaded) == digest(strategy.state_dict())


def test_what_cannot_be_resumed_says_so(stream: Stream, tools: Any) -> None:
    setting = tools.setting(stream.source)
    strategy, ledger = composed(setting, CONFIGS["replay"], "finetune"), Ledger(stream.source)
    tools.live(strategy, ledger, stream.events[:2])
    load(strategy, composed(setting, CONFIGS["replay"], "finetune"), ledger)  # only learned so far: fine
    tools.live(strategy, ledger, stream.events[2:4])
    other = composed(setting, CONFIGS["replay"], "finetune")
    with pytest.raises(CheckpointError, match="not served by unlearner 'retrain'"):
        load(strategy, other, ledger)
    with pytest.raises(CheckpointError, match="must be restored"):
        tools.live(other, ledger, stream.events[4:5])
    assert torch.equal(other.learner.model.parameters, strategy.learner.model.parameters)


def test_another_history_is_not_restored(stream: Stream, tools: Any) -> None:
    setting = tools.setting(stream.source)
    strategy = composed(setting, {})
    tools.live(strategy, Ledger(stream.source), stream.events[:2])
    shorter, changed = Ledger(stream.source), Ledger(replace(stream.source, x=stream.source.x + 1))
    shorter.admit(stream.experiences[0])
    with pytest.raises(CheckpointError, match="has learned 2 experiences, the ledger's history has 1"):
        load(strategy, composed(setting, {}), shorter)
    for experience in stream.experiences[:2]:
        changed.admit(experience)
    with pytest.raises(CheckpointError, match="does not come out the same"):
        load(strategy, composed(setting, {}), changed)


@pytest.mark.parametrize("unlearner", ["none", "finetune", "gradient-ascent"])
@pytest.mark.parametrize("name", ["replay", "ewc-plugin", "der", "gdumb"])
def test_other_unlearners_work_on_the_weights_and_the_buffers(
    name: str, unlearner: str, stream: Stream, tools: Any
) -> None:
    setting = tools.setting(stream.source)
    strategy, ledger = composed(setting, CONFIGS[name], unlearner), Ledger(stream.source)
    tools.live(strategy, ledger, stream.events[:2])
    stored = strategy.stored_ids()
    assert len(stored) == (0 if name == "ewc-plugin" else 20)
    before = strategy.learner.model.parameters.clone()
    tools.live(strategy, ledger, stream.events[2:4])
    model = strategy.learner.model
    assert strategy.learner._strategy.model is strategy.learner._root  # type: ignore[attr-defined]
    assert torch.equal(before, model.parameters) == (unlearner == "none")
    assert torch.equal(nn.utils.parameters_to_vector(model.network.parameters()).detach(), model.parameters)
    gone = np.concatenate([e.sample_ids for e in stream.events[2:4]])
    assert strategy.holds(gone).keys() == {"weights", "avalanche"}  # derived, but not stored
    assert strategy.stored_ids().tolist() == np.setdiff1d(stored, gone).tolist()
    tools.live(strategy, ledger, stream.events[4:])  # goes on learning, and never reads the dead
    assert bool(torch.isfinite(model.parameters).all())


def test_the_model_stays_flat_and_the_globals_stay_put(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    before = torch.random.get_rng_state(), np.random.get_state()[1].tobytes(), random.getstate()  # type: ignore[union-attr]
    strategy = composed(setting, CONFIGS["both"])
    tools.live(strategy, Ledger(plan.source), plan.experiences)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.random.get_state()[1].tobytes() == before[1]  # type: ignore[union-attr]
    assert random.getstate() == before[2]
    model = strategy.learner.model
    for name, parameter in model.network.named_parameters():
        where = model.slices[name]
        assert parameter.data_ptr() == model.parameters[where].data_ptr()
        assert parameter.grad is not None
        assert parameter.grad.data_ptr() == model.gradient[where].data_ptr()


def test_cost_is_counted(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan, epochs=2, batch_size=8)
    learner = avalanche.Avalanche(avalanche.Config.model_validate(CONFIGS["ewc-plugin"]), setting)
    experience = plan.experiences[0]
    ledger = Ledger(plan.source)
    ledger.admit(experience)
    outcome = learner.learn(experience, ledger.door(learner.access, experience.sample_ids))
    assert len(experience.sample_ids) == 24
    assert outcome.steps == 6
    assert (outcome.forward, outcome.backward) == (3 * 24, 3 * 24)  # two epochs and the importance


def test_buffers_read_through_the_door(plan: Plan, tools: Any) -> None:
    setting = tools.setting(plan.source, plan)
    learner = avalanche.Avalanche(avalanche.Config.model_validate(CONFIGS["replay"] | {"retained": 20}), setting)
    strategy = Composed(learner, none.NoUnlearning(none.Config(), setting))
    assert strategy.access == Access(retained=20)
    ledger = Ledger(plan.source)
    tools.live(strategy, ledger, plan.experiences)
    first = plan.experiences[0]
    dataset = next(v for _, _, v in avalanche._reachable(learner._strategy) if avalanche._is_dataset(v) and len(v))
    with pytest.raises(LedgerError, match="outside of an event"):
        dataset[0]
    door = ledger.door(strategy.access, first.sample_ids)
    learner._reader.open(door, first.sample_ids)
    gone = int(plan.experiences[1].sample_ids[0])
    assert learner._reader.sample(gone)[1] == int(plan.source.y[gone])  # asks the door
    ledger.life[gone] = 2
    with pytest.raises(LedgerError, match="deleted"):
        learner._reader.sample(gone)


@pytest.mark.parametrize("name", ["naive", "both", "lwf"])
def test_task_labels_mask_the_outputs(name: str, tools: Any) -> None:
    source = tools.source(num_classes=6, per_class=12)
    plan = task_incremental.build(source, task_incremental.Config(experiences=3), 0)
    setting = tools.setting(source, plan, epochs=4)
    strategy = composed(setting, CONFIGS[name])
    ledger = Ledger(source, plan.task_of)
    tools.live(strategy, ledger, plan.experiences)
    batch = ledger.lend(source.test_ids).all()
    outputs = strategy.predict(batch)
    assert float(setting.objective.scores(outputs, batch).mean()) > 0.9
    if name == "naive":  # after one task the head's other rows have never had a gradient
        first = composed(setting, {})
        start = first.learner.model.parameters.clone()
        tools.live(first, Ledger(source, plan.task_of), plan.experiences[:1])
        where = first.learner.model.slices["head.bias"]
        moved = (first.learner.model.parameters[where] - start[where]).abs()
        assert bool((moved[:2] > 0).all())
        assert float(moved[2:].max()) == 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"strategy": "avalanche.training.Naiv"}, "learner.strategy: avalanche.training has no 'Naiv'"),
        ({"strategy": "Naive"}, "cannot be imported"),
        ({"strategy": "avalanche.training.plugins"}, "is not a class that derives from Avalanche's BaseTemplate"),
        ({"strategy": "subprocess.Popen", "options": {"args": "true"}}, "derives from Avalanche's BaseTemplate"),
        ({"plugins": [{"plugin": "subprocess.Popen"}]}, "derives from Avalanche's BasePlugin"),
        (
            {"strategy": "avalanche.training.Replay", "options": {"memory": 3}},
            r"learner.options: Replay does not accept",
        ),
        ({"options": {"train_epochs": 3}}, "learner.options: train_epochs come from the run"),
        ({"plugins": [{"plugin": "no.such.Plugin"}]}, "learner.plugins.0.plugin: 'no.such.Plugin'"),
        ({"plugins": [{"plugin": f"{PLUGINS}.EWCPlugin"}]}, "learner.plugins.0.options: EWCPlugin does not accept"),
    ],
)
def test_configuration_errors(config: dict[str, Any], message: str, plan: Plan, tools: Any) -> None:
    with pytest.raises(ConfigError, match=message):
        avalanche.Avalanche(avalanche.Config.model_validate(config), tools.setting(plan.source, plan))


def test_regression_is_refused(plan: Plan, tools: Any) -> None:
    from strategies.objectives.regression import Regression

    setting = replace(tools.setting(plan.source, plan), objective=Regression())
    with pytest.raises(ConfigError, match="predicts numbers and is no ClassObjective"):
        avalanche.Avalanche(avalanche.Config(), setting)


@pytest.mark.parametrize(
    ("training", "objective", "key"),
    [
        ({"bn_mode": "eval"}, {}, "training.bn_mode"),
        ({"clip_norm": 1.0}, {}, "training.clip_norm"),
        ({}, {"loss": "bce"}, "objective.loss"),
        ({}, {"mask": "batch"}, "objective.mask"),
    ],
)
def test_what_its_loop_cannot_do_is_refused(
    training: dict[str, Any], objective: dict[str, Any], key: str, plan: Plan, tools: Any
) -> None:
    from strategies.objectives.classification import Classification

    setting = replace(tools.setting(plan.source, plan, **training), objective=Classification(6, **objective))
    with pytest.raises(ConfigError, match=f"{key}: the 'avalanche' learner brings its own loop"):
        avalanche.Avalanche(avalanche.Config(), setting)


@pytest.mark.nightly
def test_the_module_is_importable_without_avalanche() -> None:
    code = "import sys; import strategies.learners.avalanche; sys.exit('avalanche' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
