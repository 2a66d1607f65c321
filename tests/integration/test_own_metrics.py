"""Numbers of an objective, a measurement and a strategy of one's own: in tables, reports and studies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lifelong
from lifelong.config.run import RunConfig
from lifelong.execution.manifest import read_manifest
from lifelong.metrics.catalogue import catalogue_of, describe
from lifelong.report.facts import gather
from lifelong.report.html import write_report
from lifelong.results.table import Row
from lifelong.study.checks import check
from lifelong.study.config import StudyConfig, lay_out
from lifelong.study.study import Study
from streams.config import parse
from streams.errors import ConfigError

FIXTURES = Path(__file__).parents[1] / "fixtures"

OBJECTIVE = '''"""Classification, scored by whether the label is among the two most likely classes."""

from dataclasses import replace
from typing import ClassVar

from strategies.measurement import Measurement
from strategies.metric import Metric
from strategies.objectives.classification import Classification, Config


class _Steadiness(Measurement):
    averaged: ClassVar = {
        "steadiness": Metric("Share of samples whose class stays when the input is halved.", "share", "neither")
    }
    retained: ClassVar = 5
    follows_requests: ClassVar = True

    def records(self, predict, batch):
        classes = [predict(b).argmax(1) for b in (batch, replace(batch, x=batch.x / 2))]
        return {"steadiness": (classes[0] == classes[1]).float().cpu().numpy()}


METRICS = {
    "top_two": Metric("share of samples whose label is among the two most likely classes", "share", "higher", 1.0),
    **_Steadiness.averaged,
}


class TopTwo(Classification):
    measure: ClassVar = "top_two"

    def measurements(self):
        return (_Steadiness(),)

    def scores(self, outputs, batch):
        return (outputs.topk(2, dim=1).indices == batch.y[:, None]).any(1).float()
'''

UNLEARNER = '''"""Halves all weights."""

from strategies.base import Access, Outcome, Unlearner
from strategies.metric import Metric
from streams.config import Config as BaseConfig


class Config(BaseConfig):
    pass


METRICS = {"halvings": Metric("How often the weights were halved.", "times", "neither")}


class Halve(Unlearner):
    @property
    def access(self):
        return Access()

    def forget(self, request, learner, door):
        learner.model.parameters.mul_(0.5)
        return Outcome(exactness="none").noted(halvings=1.0, undeclared=2.0)
'''


PAINTER = '''"""A denoiser that is also asked to paint: many forward passes from noise to an image."""

import math
from dataclasses import replace
from typing import ClassVar

import torch
from denoising import Config, Denoising

from strategies.measurement import Measurement
from strategies.metric import Metric
from streams.randomness import Key

METRICS = {"painted_right": Metric("Share of images painted for labels that show them.", "share", "reference")}


class _Painted(Measurement):
    averaged: ClassVar = METRICS

    def __init__(self, means):
        self._means = means

    def records(self, predict, batch):
        noise = torch.from_numpy((Key(0) / "paint").normals(batch.ids.numpy(), batch.x[0].numel())).to(batch.x)
        noisy = noise
        for level, following in zip((1.0, 0.8, 0.6, 0.4), (0.8, 0.6, 0.4, 0.2)):
            # The objective mixes image (grey is 0) and noise to what the model reads: as noise it reads what is given.
            extra = {"level": torch.full((len(batch),), level), "noise": noisy / math.sin(0.5 * math.pi * level)}
            clean = predict(replace(batch, x=torch.full_like(batch.x, 0.5), extra=extra))
            angle = 0.5 * math.pi * following
            noisy = math.cos(angle) * clean + math.sin(angle) * noise
        judged = torch.cdist((clean + 1) / 2, self._means).argmin(1)
        return {"painted_right": (judged == batch.y).float().numpy()}


class Painter(Denoising):
    @classmethod
    def for_data(cls, config, source, task_classes, device):
        objective = super().for_data(config, source, task_classes, device)
        x, labels = source.x[~source.is_test].flatten(1), source.class_ids[~source.is_test]
        objective.means = torch.stack([x[labels == c].mean(0) for c in range(source.num_classes)])
        return objective

    def measurements(self):
        return (_Painted(self.means),)
'''


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("mine")
    (folder / "top_two.py").write_text(OBJECTIVE)
    (folder / "halve.py").write_text(UNLEARNER)
    data: dict[str, Any] = {
        "scenario": {"name": "class-incremental", "experiences": 2},
        "schedule": {"name": "periodic", "limit": 1},
        "objective": str(folder / "top_two.py"),
        "model": {"name": "mlp", "hidden": [16]},
        "strategies": {"mine": {"unlearner": str(folder / "halve.py")}},
    }
    return parse(RunConfig, data)


@pytest.fixture(scope="module")
def run(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> lifelong.Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(tmp_path_factory.mktemp("cache")))
        return lifelong.run(config, tmp_path_factory.mktemp("runs"))


def last(run: lifelong.Run, metric: str, subject: str, model: str = "run") -> Row:
    row = run.tables["mine"].last(metric, subject, model)
    assert row is not None, metric
    return row


def test_they_are_in_the_table(run: lifelong.Run) -> None:
    assert last(run, "average_top_two", "stream").value is not None
    gap = last(run, "gap_steadiness", "request-0", "retrained").value
    own, other = (last(run, "steadiness", "request-0", model).value for model in ("run", "retrained"))
    assert own is not None
    assert other is not None
    assert gap == pytest.approx(own - other)
    assert 0 <= own <= 1
    assert last(run, "halvings", "event").value == 1.0
    assert last(run, "undeclared", "event").value == 2.0


def test_a_measurement_that_follows_requests_is_made_again_at_the_end(run: lifelong.Run) -> None:
    events = [r.event for r in run.tables["mine"].select("steadiness", "request-0")]
    assert len(events) == 2
    assert events[-1] == last(run, "average_top_two", "stream").event


def test_the_catalogue_of_a_run_describes_them(config: RunConfig) -> None:
    catalogue = catalogue_of(config)
    assert catalogue.describe("gap_forget_top_two").ideal == 0.0
    assert "two most likely classes" in catalogue.describe("average_top_two").meaning
    assert catalogue.describe("gap_steadiness").better == "zero"
    assert catalogue.describe("halvings").unit == "times"
    assert catalogue.is_share("top_two")
    assert not catalogue.knows("undeclared")
    with pytest.raises(KeyError):
        describe("average_top_two")


def test_a_report_explains_them(run: lifelong.Run) -> None:
    own = read_manifest(run.folder)["metrics"]
    assert own["measures"].keys() == {"top_two"}
    assert own["metrics"].keys() == {"steadiness", "halvings"}
    assert gather(run).catalogue.is_share("top_two")
    page = write_report(run).read_text(encoding="utf-8")
    assert "label is among the two most likely classes" in page
    assert "whose class stays when the input is halved" in page
    assert "How often the weights were halved." in page


@pytest.mark.parametrize("metric", ["average_top_two", "gap_steadiness", "halvings", "immediate_gap_forget_top_two"])
def test_a_study_may_ask_for_them(metric: str, config: RunConfig, tmp_path: Path) -> None:
    study = study_of(config, metric, tmp_path)
    check(study, lay_out(study))


def test_a_study_refuses_what_nothing_declares(config: RunConfig, tmp_path: Path) -> None:
    study = study_of(config, "average_top_three", tmp_path)
    with pytest.raises(ConfigError, match=r"no run produces 'average_top_three'.*METRICS"):
        check(study, lay_out(study))


def study_of(config: RunConfig, metric: str, folder: Path) -> StudyConfig:
    criterion = {"name": "c", "metric": metric, "of": "mine", "above": 0}
    base = config.model_dump(mode="json", exclude_unset=True)
    return parse(StudyConfig, {"name": "mine", "claim": "it works", "base": base, "criteria": [criterion]})


@pytest.mark.nightly
def test_images_sampled_from_a_denoiser_are_measured_and_judged_in_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Judged by the nearest mean of a class: what is learned can be painted. The evaluator knows nothing of images."""
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(FIXTURES))
    (tmp_path / "painter.py").write_text(PAINTER)
    base: dict[str, Any] = {
        "scenario": "joint",
        "schedule": {"name": "explicit", "requests": [{"after": 1, "scope": "class", "keys": [1]}]},
        "objective": str(tmp_path / "painter.py"),
        "model": str(FIXTURES / "denoiser.py"),
        "training": {"epochs": 12, "optimizer": "adam", "lr": 0.003},
        "strategies": {"mine": {"unlearner": "none"}},
    }
    place = {"subject": "request-0", "model": "retrained", "of": "mine"}
    criteria = [
        {"name": "what is kept can be painted", "metric": "gap_painted_right", **place, "above": 0.2},
        {"name": "it is forgotten", "metric": "gap_forget_negative_squared_error", **place, "below": 0},
    ]
    values = {"name": "painter", "claim": "doing nothing keeps a class", "base": base, "criteria": criteria, "seeds": 3}
    study = Study(values, root=tmp_path / "runs")
    assert [result.error for result in study.run()] == [None] * 3
    run = lifelong.load_run(study.jobs[0].folder)
    own, other = (last(run, "painted_right", "request-0", model).value for model in ("run", "retrained"))
    assert own is not None
    assert other is not None
    assert own > 0.7
    assert other < 0.4, "nobody taught it that class"
    assert last(run, "gap_painted_right", "request-0", "retrained").value == pytest.approx(own - other)
    assert "painted_right" in gather(run).catalogue.metrics
    assert [v.outcome for v in study.verdicts()] == ["reproduced", "contradicted"]
