"""The table of a run beside strategies that would game it: nothing, next to nothing, and a model that is broken."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import lifelong
from lifelong.execution.runner import Run
from lifelong.report.columns import MARK
from lifelong.report.export import export
from lifelong.report.html import write_report
from lifelong.report.summary import summarize
from streams.config import parse

SCALED = '''"""Scaled: multiply all weights, by nearly 1 or by 0, after which all answers are the same."""

from typing import final

from strategies.base import Access, Door, Learner, Outcome, Unlearner
from streams.config import Config as BaseConfig
from streams.events import DeletionRequest


class Config(BaseConfig):
    """Options."""

    by: float = 0.0


@final
class Scaled(Unlearner):
    """Scales the weights."""

    config: Config

    @property
    def access(self) -> Access:
        """Nothing at all."""
        return Access()

    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        """Scale."""
        learner.model.parameters.mul_(self.config.by)
        return Outcome(exactness="none")
'''
REPLAY = {"name": "replay", "memory": 300}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("headline")
    own = root / "scaled.py"
    own.write_text(SCALED, encoding="utf-8")
    config: dict[str, Any] = {
        "name": "headline",
        "scenario": {"name": "class-incremental", "experiences": 3},
        "schedule": {
            "name": "explicit",
            "requests": [{"after": 2, "scope": "class", "keys": [1]}, {"after": 3, "scope": "class", "keys": [4]}],
        },
        "model": {"name": "mlp", "hidden": [32]},
        "training": {"epochs": 5, "batch_size": 32, "lr": 0.05},
        "strategies": {
            "none": {"learner": REPLAY, "unlearner": "none"},
            "touched": {"learner": REPLAY, "unlearner": {"name": str(own), "by": 1.00001}},
            "zeroed": {"learner": REPLAY, "unlearner": {"name": str(own), "by": 0.0}},
            "flattened": {"learner": REPLAY, "unlearner": {"name": str(own), "by": 0.01}},
            "retrain": {"learner": REPLAY, "unlearner": "retrain"},
            "forgetful": {"learner": "naive", "unlearner": {"name": str(own), "by": 1.00001}},
        },
        "references": {"kinds": ["retrained", "retrained-2", "withheld"]},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(root / "cache"))
        return lifelong.run(parse(lifelong.RunConfig, config), root)


def test_in_words(run: Run) -> None:
    remarks = {line.strategy: line.remark for group in summarize(run) for line in group.lines}
    assert remarks == {
        "none": "no effect",
        "touched": "no effect",
        "zeroed": "collapsed",
        "flattened": "collapsed",  # what is predicted may still be right, but hardly differs from sample to sample
        "retrain": "",
        "forgetful": "no effect",
    }


def test_the_informedness_of_a_constant_model_is_nothing(run: Run) -> None:
    for metric in ("informedness", "soft_informedness"):
        constant = run.tables["zeroed"].select(metric, "stream")[2]  # after the first request
        assert constant.event == 2
        assert constant.value is not None
        assert constant.value <= 1e-6
        (retrained,) = [r for r in run.tables["zeroed"].select(metric, "stream", "retrained") if r.event == 2]
        assert retrained.value is not None
        assert retrained.value > 0.2


def test_the_page_greys_what_says_nothing_and_shows_what_it_is_held_against(run: Run, tmp_path: Path) -> None:
    """Retraining has never seen class 1; a naive learner has lost it by the time it is to be deleted."""
    text = write_report(run, tmp_path / "report.html").read_text(encoding="utf-8")
    (results,) = re.findall(r'<section id="results".*?</section>', text, re.DOTALL)
    rows = dict(re.findall(r'<th scope="row">([^<]+)</th>(.*?)</tr>', results))
    assert {"doing nothing: naive", "second retraining: naive", "second retraining: replay"} <= rows.keys()
    grey = re.findall(r'<td class="grey" title="([^"]+)">', rows["forgetful"])
    assert grey
    assert all("doing nothing is 0.0" in why for why in grey)
    gap = re.findall(r"<td[^>]*>[^<]*</td>", rows["none"])[5]
    assert "grey" not in gap, "replay remembers: doing nothing is far from retraining"


@pytest.mark.parametrize("form", ["md", "tex"])
def test_where_nothing_is_grey_a_mark_stands_and_says_why(form: Any, run: Run, tmp_path: Path) -> None:
    (file,) = export(run, form, tmp_path / f"report.{form}")
    text = file.read_text(encoding="utf-8")
    mark = r"$^{\dagger}$" if form == "tex" else MARK
    assert re.search(rf"\d{re.escape(mark)}", text)
    assert f"{mark} says nothing about unlearning here" in text.replace("\n", " ")
    assert "second retraining: replay" in text
    assert "no effect" in text


def test_the_terminal_marks_them_too(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    from cli.tables import show_runs

    show_runs([run], as_json=False)
    printed = capsys.readouterr().out
    assert re.search(rf"\d{MARK}", printed)
    assert f"{MARK} says nothing about unlearning here" in printed
    assert "add retrained-2" not in printed
