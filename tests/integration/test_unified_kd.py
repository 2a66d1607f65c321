"""UniCLUN: what goes is pulled to a network that has learned nothing, what stays is rehearsed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lifelong.config.run import RunConfig
from lifelong.setup.build import make_setting, make_source, make_stream
from strategies.base import Setting
from strategies.isolated._contrastive import contrastive_distillation, rotated_views, supervised_contrastive
from strategies.isolated.unified_kd import Config, UnifiedKD
from strategies.parts.model import FlatModel, Network, digest
from strategies.parts.weights.layers import redraw
from strategies.step import step
from streams.config import parse
from streams.errors import ConfigError
from streams.events import DeletionRequest
from streams.ledger import Ledger
from streams.randomness import Key, seeded_globals


class Life:
    """Three experiences of digits, and one class of the first forgotten after the second."""

    def __init__(self, images: bool = False, **options: Any) -> None:
        config = parse(
            RunConfig,
            {
                "scenario": {"name": "class-incremental", "experiences": 5},
                "schedule": {"name": "explicit", "requests": [{"after": 2, "scope": "class", "keys": [0]}]},
                "model": {"name": "mlp", "hidden": [64]},
                "training": {"epochs": 6, "batch_size": 32, "lr": 0.05},
            },
        )
        source = make_source(config)
        if images:
            source = replace(source, x=source.x.view(-1, 1, 8, 8))
        self.stream = make_stream(config, source)
        self.setting = make_setting(config, self.stream)
        self.options = Config.model_validate({"memory": 200, "projection": 16} | options)
        self.strategy = UnifiedKD(self.options, self.setting)
        self.ledger = Ledger(self.stream.source, self.stream.task_of)

    def until(self, count: int) -> list[Any]:
        return [step(self.strategy, e, self.ledger) for e in self.stream.events[:count]]

    def confidence(self, classes: list[int], model: FlatModel | None = None) -> float:
        """Mean probability of the label on test samples of some classes."""
        source = self.stream.source
        ids = np.flatnonzero(source.is_test & np.isin(source.class_ids, classes))
        data = Ledger(source, self.stream.task_of).lend(ids).all()
        outputs = self.strategy.predict(data) if model is None else self.setting.objective.outputs(model, data)
        return float(outputs.softmax(1).gather(1, data.y.unsqueeze(1)).detach().mean())

    @property
    def gone(self) -> np.ndarray:
        return self.stream.requests[0].sample_ids


def test_a_class_is_forgotten_and_the_others_stay() -> None:
    life = Life()
    (request,) = life.stream.requests
    place = life.stream.events.index(request)
    life.until(place)
    before = [life.confidence(c) for c in ([0], [1, 2, 3])]
    assert min(before) > 0.55
    assert np.isin(life.gone, life.strategy.stored_ids()).any()
    done = step(life.strategy, request, life.ledger)
    assert life.confidence([0]) < 0.4 < before[0] - 0.3
    assert life.confidence([1, 2, 3]) > before[1] - 0.1
    assert done.outcome.exactness == "none"
    assert not np.isin(life.strategy.stored_ids(), life.gone).any()
    held = life.strategy.holds(life.gone)
    assert {name: len(ids) for name, ids in held.items()} == {"weights": len(life.gone), "teacher": len(life.gone)}
    memory = len(life.strategy.stored_ids())
    assert done.samples_read == len(life.gone) + memory
    # Forget set, and at every step a draw, seen by student and random network; no teacher to distil from.
    steps, drawn = done.outcome.steps, min(32, memory)
    assert steps == life.setting.training.num_steps(len(life.gone))
    assert done.outcome.backward == 6 * len(life.gone) + steps * drawn
    assert done.outcome.forward == 2 * 6 * len(life.gone) + steps * drawn


@pytest.mark.nightly
def test_a_teacher_that_is_kept_still_knows() -> None:
    """The relapse route of the released code: the teacher is not unlearned, and teaches on."""
    known = {}
    for teacher in ("clear", "keep"):
        life = Life(teacher=teacher)
        life.until(life.stream.events.index(life.stream.requests[0]) + 1)
        known[teacher] = life.confidence([0], life.strategy.teacher)
        assert (life.strategy.steps == 0) == (teacher == "clear"), "one that starts again follows quickly"
        assert life.confidence([0]) < 0.4
    assert known["clear"] < 0.4
    assert known["keep"] > known["clear"] + 0.2, known


def test_the_random_teacher_is_one_for_all_requests_and_not_the_start() -> None:
    life = Life()
    life.until(1)
    names = life.strategy.names / "unlearning-teacher"
    one, two = (redraw(life.setting.make_model(), names) for _ in range(2))
    assert torch.equal(one.parameters, two.parameters)
    assert not torch.equal(one.parameters, life.setting.make_model().parameters)


def test_the_memory_is_used_within_its_own_experience() -> None:
    life = Life(memory=40)
    (first, *_) = life.until(1)
    samples = len(life.stream.events[0].sample_ids)
    assert len(life.strategy.stored_ids()) == 40
    batches = math.ceil(samples / 32)
    # The memory is empty at the first step, holds one batch at the second, and is full then.
    expected = (6 * batches - 1) * 32
    assert first.outcome.backward == 6 * samples + expected
    assert first.samples_read == samples


def test_one_step_is_the_loss_that_is_written_down() -> None:
    """The gradient of one learning step with everything on, against the terms put together by hand."""
    life = Life(images=True, batch=16, temperature=0.5)
    life.until(2)
    s, config = life.strategy, life.options
    reference = UnifiedKD(life.options, life.setting)
    reference.load_state_dict(s.state_dict())
    one = replace(life.stream.experiences[2], sample_ids=life.stream.experiences[2].sample_ids[:24])
    training = life.setting.training.model_copy(update={"epochs": 1, "batch_size": 24})
    for each in (s, reference):
        each.setting = replace(life.setting, training=training)
    step(s, one, life.ledger)
    moved = (reference.student.parameters - s.student.parameters) / training.lr

    key = reference.names / one.name / one.incarnation
    table = Ledger(life.stream.source, life.stream.task_of)
    data = table.lend(one.sample_ids)
    batch = data.batch(data.positions(key / "epoch" / 0))
    drawn = table.lend(np.sort(reference.memory[(key / "memory" / 0).order(reference.memory)[:16]])).all()
    model, teacher = reference.student, reference.teacher
    model.train()
    features, own = model.features(batch.x), model.features(drawn.x)
    heads, taught = model.network.head, teacher.network.head
    with torch.no_grad():
        old = teacher.features(drawn.x)
        z, v = taught(old), F.normalize(taught.project(old), dim=1)
    loss = F.cross_entropy(heads(features), batch.y) + F.cross_entropy(heads(own), drawn.y)
    weight = z.softmax(1)[range(16), drawn.y]
    loss = loss + 0.1 * (weight * (heads(own) - z).square().mean(1)).mean()
    loss = loss + 0.1 * contrastive_distillation(F.normalize(heads.project(own), dim=1), v, drawn.y, 0.5)
    x, y = torch.cat([batch.x, drawn.x]), torch.cat([batch.y, drawn.y])
    generator = (key / "views" / 0).torch()
    turns = torch.randint(0, 4, (40,), generator=generator)
    plain = F.normalize(heads.project(torch.cat([features, own])), dim=1)
    seen = model.features(rotated_views(x, turns, generator))
    turned = F.normalize(heads.project(seen), dim=1)
    loss = loss + 0.3 * F.cross_entropy(heads.turns(seen), turns)
    loss = loss + 0.3 * supervised_contrastive([plain, turned], y, 0.5)
    model.gradient.zero_()
    loss.backward()
    torch.testing.assert_close(moved, model.gradient, rtol=1e-3, atol=2e-5)
    assert config.rotations is None


def test_one_step_of_a_request_by_hand() -> None:
    """(1 - gamma) KL to the random network + gamma times the loss on a draw; that network has no noise of its own."""

    def make_model() -> FlatModel:
        with seeded_globals(Key(1)):
            body = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU())
            return FlatModel(Network(body, nn.Linear(16, 10)))

    off = {"distil": 0.0, "contrast": 0.0, "supervised": 0.0, "rotate": 0.0}
    life = Life(gamma=0.2, batch=16, **off)
    training = life.setting.training.model_copy(update={"epochs": 1, "batch_size": 500})
    life.setting = replace(life.setting, make_model=make_model, training=training)
    life.strategy = UnifiedKD(life.options, life.setting)
    request = life.stream.requests[0]
    life.until(life.stream.events.index(request))
    reference = UnifiedKD(life.options, life.setting)
    reference.load_state_dict(life.strategy.state_dict())
    step(life.strategy, request, life.ledger)
    moved = (reference.student.parameters - life.strategy.student.parameters) / training.lr

    key = reference.names / request.name
    memory = np.setdiff1d(reference.memory, life.gone)
    source, model = life.stream.source, reference.student
    drawn = np.sort(memory[(key / "memory" / 0).order(memory)[:16]])
    bad = redraw(life.setting.make_model(), reference.names / "unlearning-teacher")
    bad.train(False)
    model.train(True)
    with torch.no_grad():
        taught = bad(source.x[life.gone]).log_softmax(1)
    divergence = F.kl_div(model(source.x[life.gone]).log_softmax(1), taught, reduction="batchmean", log_target=True)
    (0.8 * divergence + 0.2 * F.cross_entropy(model(source.x[drawn]), source.y[drawn])).backward()
    torch.testing.assert_close(moved, model.gradient, rtol=1e-3, atol=2e-5)


def test_contrastive_terms_against_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (F.normalize(torch.randn(6, 4, generator=generator), dim=1) for _ in range(2))
    y = torch.tensor([0, 0, 1, 1, 1, 2])
    total = 0.0
    for i in range(6):
        p = (b[i] @ a.T / 0.2).softmax(0)
        total -= float(torch.stack([p[j].log() for j in range(6) if y[j] == y[i]]).mean())
    assert float(contrastive_distillation(a, b, y, 0.2)) == pytest.approx(total / 6, rel=1e-5)
    for views in ([a], [a, b]):
        z, labels = torch.cat(views), y.repeat(len(views))
        terms = []
        for i in range(len(z)):
            others = [j for j in range(len(z)) if j != i]
            same = [j for j in others if labels[j] == labels[i]]
            scale = torch.stack([(z[i] @ z[j] / 0.2).exp() for j in others]).sum()
            if same:
                terms.append(-torch.stack([z[i] @ z[j] / 0.2 - scale.log() for j in same]).mean())
        assert len(terms) == (5 if len(views) == 1 else 12), "the only one of its class has no positive in one view"
        found = float(supervised_contrastive(views, y, 0.2))
        assert found == pytest.approx(float(torch.stack(terms).mean()), rel=1e-5)


def test_turned_images() -> None:
    x = torch.arange(32.0).view(2, 1, 4, 4)
    whole = rotated_views(x, torch.tensor([0, 1]), torch.Generator(), (1.0, 1.0))
    torch.testing.assert_close(whole, torch.stack([x[0], torch.rot90(x[1], 1, (-2, -1))]), rtol=1e-5, atol=1e-4)
    cropped = rotated_views(x, torch.tensor([0, 0]), torch.Generator(), (0.25, 0.25))
    assert float((cropped.amax((1, 2, 3)) - cropped.amin((1, 2, 3))).max()) < 15


def test_what_does_not_fit_is_refused(tools: Any) -> None:
    from strategies.objectives.regression import Regression

    setting: Setting = tools.setting(tools.source())
    with pytest.raises(ConfigError, match="predicts numbers and is no ClassObjective"):
        UnifiedKD(Config(), replace(setting, objective=Regression()))
    body, head = nn.Linear(5, 8), nn.Sequential(nn.Linear(8, 4))
    with pytest.raises(ConfigError, match="needs a linear head; the model has a Sequential"):
        UnifiedKD(Config(), replace(setting, make_model=lambda: FlatModel(Network(body, head))))
    life = Life(rotations=True)
    with pytest.raises(ConfigError, match=r"rotations: true, but inputs have the shape \(64,\)"):
        life.until(1)


@pytest.mark.nightly
def test_the_sum_of_the_released_code_is_twice_the_half() -> None:
    """gamma 0.5 at twice the learning rate is the plain sum at the plain one."""
    states = []
    for options in ({"gamma": 0.5, "lr": 0.1}, {"gamma": None, "lr": 0.05}):
        life = Life(**options)
        place = life.stream.events.index(life.stream.requests[0])
        life.until(place + 1)
        states.append(life.strategy.student.parameters)
    torch.testing.assert_close(states[0], states[1], rtol=1e-3, atol=1e-4)
    assert digest(life.strategy.state_dict()) != digest(Life().strategy.state_dict())
    assert isinstance(life.stream.requests[0], DeletionRequest)
