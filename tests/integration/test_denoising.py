"""A modality that the project does not know: images, by an objective and a model in files of somebody's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lifelong
from lifelong.config.run import RunConfig
from lifelong.setup.build import make_strategy
from lifelong.setup.preparation import Prepared, prepare
from strategies.base import Strategy
from strategies.composed import Composed
from strategies.objectives._base import EVALUATION
from strategies.parts.model import digest
from strategies.parts.teachers.teacher import frozen_copy
from strategies.parts.weights.ranks import largest
from strategies.step import step
from strategies.unlearners.salun import saliency
from streams.config import parse
from streams.data import Batch
from streams.errors import ConfigError
from streams.events import DeletionRequest, Event, Experience
from streams.ledger import Ledger
from streams.randomness import Key

FILES = Path(__file__).parents[1] / "fixtures"
CLASS_1 = {"after": 2, "scope": "class", "keys": [1]}
SAMPLES = {"after": 2, "scope": "sample", "count": 30}


def config(strategy: dict[str, Any], *requests: dict[str, Any], epochs: int = 12, **more: Any) -> RunConfig:
    return parse(
        RunConfig,
        {
            "objective": str(FILES / "denoising.py"),
            "model": str(FILES / "denoiser.py"),
            "scenario": {"name": "class-incremental", "experiences": 2},
            "schedule": {"name": "explicit", "requests": list(requests)} if requests else "none",
            "training": {"optimizer": "adam", "lr": 2e-3, "epochs": epochs, "batch_size": 32},
            "strategies": {"mine": strategy},
            **more,
        },
    )


class Life:
    """A strategy that lives through a stream of digits."""

    def __init__(self, strategy: dict[str, Any], *requests: dict[str, Any], **more: Any) -> None:
        self.prepared = prepare(config(strategy, *requests, **more))
        self.strategy: Strategy = make_strategy(self.prepared.config.strategies["mine"], self.prepared.setting, "mine")
        self.objective = self.prepared.setting.objective
        self.source = self.prepared.stream.source
        self.play(self.prepared.stream.events)

    def play(self, events: Sequence[Event]) -> None:
        ledger = Ledger(self.source)
        self.outcomes = [step(self.strategy, e, ledger).outcome for e in events]

    def images(self, *classes: int, test: bool = True) -> Batch:
        ids = np.flatnonzero((self.source.is_test == test) & np.isin(self.source.class_ids, classes))
        return self.objective.batches(Ledger(self.source).lend(ids), len(ids))[0]

    def loss(self, *classes: int) -> float:
        """The mean loss on test images, under noise that is the same for every model."""
        batch = self.images(*classes)
        return float(self.objective.losses(self.strategy.predict(batch), batch).mean())

    def mean_image_loss(self, *classes: int) -> float:
        """What saying the mean image of the training data costs."""
        seen = 2 * self.images(*classes, test=False).x - 1
        return float((2 * self.images(*classes).x - 1 - seen.mean(0)).square().mean())


OLD, NEW = range(5), range(5, 10)
NAIVE = {"learner": "naive", "unlearner": "none"}


@pytest.fixture(scope="module")
def naive() -> Life:
    return Life(NAIVE)


@pytest.mark.nightly
def test_it_learns_and_forgets_what_is_not_replayed(naive: Life) -> None:
    assert naive.loss(*NEW) < 0.55 * naive.mean_image_loss(*NEW)
    assert naive.loss(*OLD) > 1.6 * naive.loss(*NEW)
    for learner in (
        {"name": "replay", "memory": 100},
        {"name": "der-plus-plus", "memory": 100, "stored": "final"},
    ):
        kept = Life({"learner": learner, "unlearner": "none"})
        assert kept.loss(*OLD) < 0.55 * kept.mean_image_loss(*OLD), learner
        assert kept.loss(*NEW) < 0.6 * kept.mean_image_loss(*NEW), learner


def test_a_draw_is_a_function_of_name_and_sample(naive: Life) -> None:
    batch = replace(naive.images(0, 1), extra={})
    drawn = naive.objective.drawn(batch, Key(3) / "a")
    assert drawn.extra.keys() == {"level", "noise"}
    assert 0.2 <= float(drawn.extra["level"].min()) < 0.3 < 0.9 < float(drawn.extra["level"].max()) <= 1
    assert float(drawn.extra["noise"].mean()) == pytest.approx(0, abs=0.05)
    assert float(drawn.extra["noise"].std()) == pytest.approx(1, abs=0.05)
    alone = naive.objective.drawn(batch.part(7, 9), Key(3) / "a")
    other = naive.objective.drawn(batch, Key(3) / "b")
    for name, column in drawn.extra.items():
        assert torch.equal(alone.extra[name], column[7:9])
        assert torch.equal(drawn.rows(torch.tensor([4, 2])).extra[name], column[[4, 2]])
        assert torch.equal(alone.concat(drawn.part(0, 2)).extra[name], torch.cat([column[7:9], column[:2]]))
        assert not torch.isclose(other.extra[name], column).any()


def test_every_step_draws_anew_and_replayed_samples_too(monkeypatch: pytest.MonkeyPatch, naive: Life) -> None:
    seen: list[Batch] = []
    kind = type(naive.objective)
    plain = kind.losses

    def losses(self: Any, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        seen.append(batch)
        return plain(self, outputs, batch)

    monkeypatch.setattr(kind, "losses", losses)
    life = Life({"learner": {"name": "replay", "memory": 20, "batch": 8}, "unlearner": "none"}, epochs=2)
    replays = [b for b in seen if len(b) == 40 and (b.y[32:] < 5).all() and (b.y[:32] >= 5).all()]
    assert len(replays) > 20
    assert all(len(b.extra["noise"]) == len(b) for b in seen)
    noise_of: dict[int, list[torch.Tensor]] = {}
    for batch in replays:
        for row, sample in enumerate(batch.ids.tolist()):
            noise_of.setdefault(sample, []).append(batch.extra["noise"][row])
    often = [torch.stack(n) for n in noise_of.values() if len(n) > 1]
    assert len(often) > 20
    assert all((n[0] != n[1]).any() for n in often)
    assert len(life.outcomes) == 2


def test_teacher_and_student_see_the_same_noise(naive: Life) -> None:
    """Nothing is drawn in a pass, so that a copy says the same of the same batch, bit for bit."""
    assert isinstance(naive.strategy, Composed)
    model = naive.strategy.learner.model
    model.train(False)
    copy, batch = frozen_copy(naive.prepared.setting, model), naive.images(3)
    outputs = [naive.objective.outputs(m, batch) for m in (model, copy, model)]
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])
    assert not naive.objective.divergences(outputs[0], outputs[1], batch).any()
    again = naive.objective.drawn(replace(batch, extra={}), EVALUATION)
    assert torch.equal(naive.objective.outputs(model, again), outputs[0])


# -- forgetting


@pytest.fixture(scope="module")
def served() -> Life:
    """The life in which nothing is done about the request."""
    return forgotten("none")


def forgotten(unlearner: Any, request: dict[str, Any] = CLASS_1, **more: Any) -> Life:
    return Life({"learner": {"name": "replay", "memory": 100}, "unlearner": unlearner}, request, **more)


@pytest.mark.nightly
@pytest.mark.parametrize("retain", ["descent", "kl"])
def test_gradient_difference_breaks_what_goes_and_holds_the_rest(retain: str, served: Life) -> None:
    options = {"epochs": 5, "lr": 2e-4, "batch_size": 32, "retain": retain}
    life = forgotten({"name": "graddiff", **options})
    assert life.loss(1) > 1.5 * served.loss(1)
    assert life.loss(*OLD[2:], *NEW) < 1.25 * served.loss(*OLD[2:], *NEW)


@pytest.mark.nightly
def test_salun_teaches_other_labels_in_salient_weights_alone(served: Life) -> None:
    options = {"epochs": 10, "lr": 1e-3, "optimizer": "adam", "weight_decay": 0.0, "batch_size": 64, "share": 0.5}
    before, life = served, forgotten({"name": "salun", **options})
    assert isinstance(before.strategy, Composed)
    assert isinstance(life.strategy, Composed)
    model, images = before.strategy.learner.model, before.images(1, test=False)
    data = Ledger(before.source).lend(images.ids.numpy())
    mask = largest(saliency(model, before.objective, data), 0.5)
    moved = life.strategy.learner.model.parameters != model.parameters
    assert not (moved & ~mask).any(), "only salient weights move"
    assert float(moved[mask].float().mean()) > 0.9
    assert life.loss(1) > 1.3 * before.loss(1)
    assert life.loss(*OLD[2:], *NEW) < 1.2 * before.loss(*OLD[2:], *NEW)
    # asked for a 1 it makes about what it makes of the same noise when it is asked for something else
    assert apart(life, images) < 0.5 * apart(before, images)


def apart(life: Life, images: Batch) -> float:
    """How far images made as ones are from the mean of those made as other digits."""

    def asked_for(label: int) -> torch.Tensor:
        return life.strategy.predict(replace(images, y=torch.full_like(images.y, label)))

    others = torch.stack([asked_for(label) for label in (0, *range(2, 10))]).mean(0)
    return float((asked_for(1) - others).square().mean())


@pytest.mark.parametrize(
    "request_", [CLASS_1, pytest.param(SAMPLES, marks=pytest.mark.nightly)], ids=["class", "samples"]
)
def test_retraining_has_the_bits_of_a_life_without_the_data(request_: dict[str, Any]) -> None:
    life = forgotten("retrain", request_, epochs=3)
    events = life.prepared.stream.events
    gone = np.concatenate([e.sample_ids for e in events if isinstance(e, DeletionRequest)])
    assert len(gone) >= 30
    without = [replace(e, sample_ids=np.setdiff1d(e.sample_ids, gone)) for e in events if isinstance(e, Experience)]
    other = Life({"learner": {"name": "replay", "memory": 100}, "unlearner": "none"}, epochs=3)
    other.strategy = make_strategy(other.prepared.config.strategies["mine"], other.prepared.setting, "mine")
    other.play(without)
    assert digest(life.strategy.state_dict()) == digest(other.strategy.state_dict())
    served = forgotten("none", request_, epochs=3)
    assert digest(life.strategy.state_dict()["model"]) != digest(served.strategy.state_dict()["model"])


# -- what cannot


def advised(error: ConfigError) -> list[str]:
    return str(error).partition("Those that can: ")[2].rstrip(".").split(", ")


def prepared(strategy: dict[str, Any]) -> Prepared:
    return prepare(config(strategy, CLASS_1))


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("learner", ["lwf", "er-ace", "cpr", "ccs", "score-selection", "adapt-infinity", "mix-cpt"]),
        ("unlearner", ["blindspot", "gaussian-finetune", "boundary-shrink", "boundary-expand", "scrub", "dpo"]),
        ("isolated", ["pall", "uncle", "amnesiac-hat", "unified-kd", "arcane", "clpu-der", "supsup"]),
    ],
)
def test_what_cannot_serve_images_is_refused_and_what_is_advised_works(kind: str, names: list[str]) -> None:
    found: set[str] = set()
    for name in names:
        with pytest.raises(ConfigError, match=rf"{kind}: {name} is for models that .*; this one predicts images") as e:
            prepared({kind: name})
        found |= set(advised(e.value))
    assert found
    for name in found:
        prepared({kind: name})
    assert {"replay", "ewc", "retrain", "graddiff", "salun", "sisa"} & found
    assert not found & set(names)


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["o3", "in-context"])
def test_where_no_other_can_serve_images_the_refusal_says_so(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"guard: {name} is for models that predict tokens.*None of the guards can"):
        prepared({"guard": name})


@pytest.mark.parametrize("name", ["prune-first", "trained-only"])
def test_an_unlearner_that_another_one_runs_is_asked_too(name: str) -> None:
    prepared({"unlearner": {"name": name, "method": "graddiff"}})
    with pytest.raises(ConfigError, match=r"unlearner\.method: scrub is for models that predict classes") as error:
        prepared({"unlearner": {"name": name, "method": "scrub"}})
    assert "amnesiac" not in advised(error.value), "the learner keeps no updates"


def test_outputs_of_training_steps_cannot_be_compared() -> None:
    with pytest.raises(ConfigError, match="set stored: final"):
        prepared({"learner": "der"})
    prepared({"learner": {"name": "der", "stored": "final"}})


def test_an_objective_that_does_not_say_what_it_predicts_is_refused(tmp_path: Path) -> None:
    text = (FILES / "denoising.py").read_text(encoding="utf-8")
    own = tmp_path / "silent.py"
    for line, message in (
        ('predicts: ClassVar[Predicts] = "pictures"', "predicts is 'pictures'; it must be one of classes, images"),
        ("", "predicts is None"),
    ):
        own.write_text(text.replace('predicts: ClassVar[Predicts] = "images"', line), encoding="utf-8")
        with pytest.raises(ConfigError, match=message):
            prepare(config(NAIVE, objective=str(own)))


def test_a_model_that_does_not_take_what_the_objective_gives_is_refused(tmp_path: Path) -> None:
    own = tmp_path / "wrong.py"
    text = (FILES / "denoiser.py").read_text(encoding="utf-8")
    own.write_text(text.replace(", level: torch.Tensor, labels", ", labels"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"wrong\.py under .*denoising\.py does not take the data, float32 \[2, 64\]"):
        prepare(config(NAIVE, model=str(own)))


# -- whole runs


@pytest.mark.parametrize(
    "strategy",
    [
        {"learner": [{"name": "ewc", "fisher": "batch"}, "l2"], "unlearner": {"name": "random-label", "epochs": 1}},
        {"learner": "agem", "unlearner": {"name": "npo", "epochs": 1}},
        {"learner": "feature-distillation", "unlearner": {"name": "neggrad-plus", "epochs": 1}},
        {"isolated": {"name": "sisa", "shards": 2, "slices": 2}},
    ],
    ids=["ewc+l2+random-label", "agem+npo", "features+neggrad-plus", "sisa"],
)
def test_runs_measure_and_compare_them(strategy: dict[str, Any], tmp_path: Path) -> None:
    more = {"references": {"kinds": ["retrained"]}}
    run = lifelong.run(config(strategy, CLASS_1, epochs=2, **more), tmp_path)
    rows = run.tables["mine"].rows
    scores = [r.value for r in rows if r.event == 2 and r.metric == "average_negative_squared_error"]
    assert scores
    assert all(score is not None and -1 < score < 0 for score in scores)


def test_outputs_that_are_pixels_are_not_taken_for_classes() -> None:
    """A deleted class 1 takes no column out of the stored images of other digits."""
    dark = {"name": "der-plus-plus", "memory": 60, "stored": "final"}
    life = Life({"learner": dark, "unlearner": "none"}, {**CLASS_1, "after": 1}, epochs=2)
    kept = life.strategy.state_dict()["plugins"]["der-plus-plus"]
    assert len(kept["ids"]) == 60
    assert kept["outputs"].shape == (60, 64)
    assert kept["outputs"].isfinite().all()
