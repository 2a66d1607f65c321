"""What objectives say that they predict, what methods say that they support, and what is drawn for a batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from typing_extensions import override

from lifelong.setup.suitability import part_of
from strategies.learners.lwf import Config as LwFConfig
from strategies.learners.lwf import LwF
from strategies.objectives._base import EVALUATION, ClassObjective, Objective, Predicts
from strategies.objectives._text import TextObjective
from strategies.objectives.causal_lm import CausalLM
from strategies.objectives.classification import Classification
from strategies.objectives.regression import Regression
from strategies.parts.fit import FitConfig, Hooks, fit
from strategies.parts.model import FlatModel, Network
from strategies.parts.teachers.tap import Tap
from strategies.parts.text.other_answers import Passed, Values, before_request
from strategies.predicts import EVERYTHING
from streams.data import Batch
from streams.errors import ConfigError
from streams.randomness import Key, seeded_globals
from streams.registry import Entry, entries, load

METHODS = [(kind, name) for kind in ("learners", "unlearners", "guards", "isolated") for name in entries(kind)]


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_what_a_file_says_unread_is_what_its_class_says(kind: str, name: str) -> None:
    supports = part_of(kind, load(kind, name)).supports
    assert supports
    assert supports <= EVERYTHING
    assert frozenset(entries(kind)[name].declared("supports") or EVERYTHING) == supports


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('    supports = frozenset({"tokens", "classes"})', ("classes", "tokens")),
        ('    supports: ClassVar[frozenset[Predicts]] = frozenset(\n        {"numbers"}\n    )', ("numbers",)),
        ("    x = 1", None),
        ('supports = "of no class"', None),
    ],
)
def test_declarations_are_read_from_files(line: str, found: tuple[str, ...] | None, tmp_path: Any) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f'"""It supports nothing."""\n\n\nclass A:\n    """A."""\n\n{line}\n    """More."""\n')
    assert Entry("learners", "mine", "mine", file).declared("supports") == found


def test_objectives_say_what_they_predict(tools: Any) -> None:
    objectives: list[Objective] = [Classification(3), Regression(), CausalLM(50)]
    assert [o.predicts for o in objectives] == ["classes", "numbers", "tokens"]
    assert not any(o.draws for o in objectives)
    batch = tools.lend(tools.source(num_classes=3)).all()
    assert all(o.drawn(batch, EVALUATION) is batch for o in objectives)
    assert isinstance(ClassObjective.of(objectives[0]), Classification)
    for kind, objective in ((ClassObjective, Regression()), (TextObjective, Classification(3))):
        with pytest.raises(ConfigError, match=rf"{type(objective).__name__} predicts .* and is no {kind.__name__}"):
            kind.of(objective)


class Noisy(Objective):
    """Squared error of three numbers, seen under noise that is drawn; the model is called with it as a second input."""

    predicts: ClassVar[Predicts] = "numbers"
    measure: ClassVar[str] = "negative_error"
    num_outputs = 3

    @override
    def drawn(self, batch: Batch, key: Key) -> Batch:
        noise = torch.from_numpy(key.normals(batch.ids.numpy(), 5)).to(batch.x)
        return replace(batch, extra={"noise": noise})

    @override
    def outputs(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        return model(batch.x + batch.extra["noise"])

    @override
    def losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return 0.5 * (outputs - batch.y.unsqueeze(1)).square().sum(1)

    @override
    def scores(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return -self.losses(outputs, batch)

    @override
    def probabilities(self, outputs: torch.Tensor, batch: Batch) -> None:
        return

    @override
    def fisher_terms(self, *_: Any) -> Any:
        raise NotImplementedError


def model_of() -> FlatModel:
    with seeded_globals(Key(0)):
        return FlatModel(Network(nn.Sequential(nn.Linear(5, 4), nn.Tanh()), nn.Linear(4, 3)))


def test_a_tap_hears_the_pass_of_the_loop_whatever_the_model_is_given(tools: Any) -> None:
    """A plugin passes other batches between; the model's input is none of the batch's columns."""
    model, data = model_of(), tools.lend(tools.source(num_classes=3, per_class=8))
    heard: list[torch.Tensor] = []

    class Listening(Hooks):
        @override
        def extend(self, batch: Batch, step: int) -> Batch:
            model(batch.x)
            return batch

        @override
        def losses(self, losses: torch.Tensor, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
            model(batch.x)
            heard.append(tap.take(batch) - model.network.body(batch.x + batch.extra["noise"]))
            return losses

    tap = Tap(model, model.network.body)
    fit(model, Noisy(), data, FitConfig(epochs=2, batch_size=8), Key(1), [Listening()])
    tap.close()
    assert len(heard) == 6
    assert all(not difference.any() for difference in heard)


def test_lwf_distils_every_number_and_under_the_noise_of_the_step(tools: Any) -> None:
    """The teacher is the student: what it says of the same batch is the same, so that no term is left."""
    source = tools.source(num_classes=3, per_class=8)
    setting = replace(tools.setting(source), objective=Noisy(), make_model=model_of)
    plugin = LwF(LwFConfig(strength=2.0), setting)
    model, objective = model_of(), Noisy()
    plugin._teacher.start(model)
    lesson: Any = type("Lesson", (), {"model": model, "data": tools.lend(source)})()
    plugin.begin(lesson)
    assert [h.tolist() for h in plugin._heads] == [[0, 1, 2]]
    batch = objective.batches(tools.lend(source), 24, Key(4))[0]
    outputs = objective.outputs(model, batch)
    zero = torch.zeros(())
    assert float(plugin.loss(zero, outputs, batch, model).detach()) == 0
    moved = outputs + torch.tensor([0.0, 0.0, 1.0])
    assert float(plugin.loss(zero, moved, batch, model).detach()) == pytest.approx(2.0 * 0.5)


def test_what_was_before_a_request_is_asked_under_the_noise_of_the_step(tools: Any) -> None:
    source = tools.source(num_classes=3, per_class=8)
    setting = replace(tools.setting(source), objective=Noisy(), make_model=model_of)
    model, data, objective = model_of(), tools.lend(source), Noisy()
    before, cost = before_request(setting, model, objective, data, epochs=3)
    assert isinstance(before, Passed)
    assert cost.forward == 3 * 24
    model.parameters.mul_(2)  # what trains is another model by now
    for name in ("a", "b"):
        batch = objective.batches(data, 24, Key(0) / name)[0]
        wanted = -objective.losses(objective.outputs(model_of(), batch), batch)
        assert torch.allclose(before.of(batch), wanted)
    once, cost = before_request(tools.setting(source), tools.setting(source).make_model(), Classification(3), data, 3)
    assert isinstance(once, Values)
    assert cost.forward == 24


def test_batches_are_drawn_and_ordered_by_one_key(tools: Any) -> None:
    data, objective = tools.lend(tools.source(num_classes=3, per_class=8)), Noisy()
    plain, named = objective.batches(data, 10), objective.batches(data, 10, Key(1) / "x")
    assert [len(b) for b in plain] == [10, 10, 4]
    assert torch.cat([b.ids for b in plain]).tolist() == data.ids.tolist()
    assert (
        torch.cat([b.ids for b in named]).tolist()
        == torch.cat([b.ids for b in data.batches(10, Key(1) / "x")]).tolist()
    )
    assert torch.equal(plain[1].extra["noise"], objective.drawn(data.batches(10)[1], EVALUATION).extra["noise"])


def test_draws_of_many_numbers_have_their_law_and_no_neighbours() -> None:
    key, ids = Key(5) / "noise", np.arange(1000, 1200)
    uniforms, normals = key.uniforms(ids, 300), key.normals(ids, 300)
    assert uniforms.shape == normals.shape == (200, 300)
    assert 0 < uniforms.min() < 1e-4
    assert 1 - 1e-4 < uniforms.max() < 1
    count = normals.size
    for moment, value, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((normals**moment).mean() - value) < 4 * (variance / count) ** 0.5
    for matrix, n in ((np.corrcoef(normals), 300), (np.corrcoef(normals.T), 200)):
        assert np.abs(matrix - np.eye(len(matrix))).max() < 5.5 / n**0.5
    assert np.array_equal(key.normals(ids[[7, 3]], 300), normals[[7, 3]])
    assert np.array_equal(key.normals(ids, 100), normals[:, :100])
    assert not np.isclose((Key(5) / "other").normals(ids, 300), normals).all(1).any()
    # row i and column i are hashed apart: with one key they would cancel out
    small = key.uniforms(np.arange(50), 50)
    assert len(np.unique(small)) == small.size
