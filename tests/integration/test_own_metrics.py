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
from streams.config import parse
from streams.errors import ConfigError

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


def test_a_report_explains_them_without_the_files(run: lifelong.Run) -> None:
    assert read_manifest(run.folder)["metrics"]["measures"].keys() == {"top_two"}
    Path(run.config.objective.name).rename(Path(run.config.objective.name).with_suffix(".gone"))
    try:
        page = write_report(run).read_text(encoding="utf-8")
        assert gather(run).catalogue.is_share("top_two")
    finally:
        Path(run.config.objective.name).with_suffix(".gone").rename(Path(run.config.objective.name))
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
