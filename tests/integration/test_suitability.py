"""What an unlearner cannot do is refused before any compute, with the names of those that can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lifelong
from lifelong.config.run import RunConfig
from lifelong.setup.preparation import prepare
from streams.config import parse
from streams.errors import ConfigError, TrainingError


def config(unlearner: Any, requests: list[dict[str, Any]], learner: Any = "naive", **more: Any) -> RunConfig:
    return parse(
        RunConfig,
        {
            "scenario": {"name": "class-incremental", "experiences": 2},
            "schedule": {"name": "explicit", "requests": requests},
            "model": {"name": "mlp", "hidden": [16]},
            "training": {"epochs": 1, "batch_size": 32, "lr": 0.05},
            "strategies": {"mine": {"learner": learner, "unlearner": unlearner}},
            **more,
        },
    )


NOT_A_NUMBER = '''"""Divide by nothing."""

from strategies.base import Access, Outcome, Unlearner
from streams.config import Config


class Zero(Unlearner):
    """Zero by zero."""

    access = Access()

    def forget(self, request, learner, door):
        """Divide the weights."""
        learner.model.parameters.mul_(0.0).div_(0.0)
        return Outcome(exactness="none")
'''
SAMPLES = {"after": 1, "scope": "sample", "count": 5}
CLASS = {"after": 1, "scope": "class", "keys": [1]}


@pytest.mark.parametrize("request_", [SAMPLES, {"after": 1, "scope": "user", "keys": [3]}], ids=["sample", "user"])
@pytest.mark.parametrize("name", ["unsir", "concept-poisoning"])
def test_scopes(name: str, request_: dict[str, Any]) -> None:
    message = rf"strategies\.mine\.unlearner: {name} cannot serve request-1, which names a {request_['scope']}"
    with pytest.raises(ConfigError, match=message + r".* Those that can: .*salun.*scrub"):
        prepare(config(name, [CLASS, {**request_, "after": 2}]))
    prepare(config(name, [CLASS, {"after": 2, "scope": "task", "keys": [1]}]))


def test_whole_classes_only() -> None:
    """In a domain-incremental stream a task is not a class: its classes stay."""
    permuted = {"scenario": {"name": "domain-incremental", "kind": "permuted", "domains": 2}}
    with pytest.raises(ConfigError, match=r"it deletes whole classes, and samples of class \d stay\. Those that can"):
        prepare(config("unsir", [{"after": 2, "scope": "task", "keys": [0]}], **permuted))


def test_a_forget_set_that_is_the_whole_data() -> None:
    everything = [{"after": 1, "scope": "task", "keys": [0]}]
    with pytest.raises(ConfigError, match=r"nothing is left to retain\. Those that can: .*gradient-ascent.*retrain"):
        prepare(config("finetune", everything))
    for name in ("retrain", "none", "gradient-ascent", "ssd", {"name": "npo", "retain": "none"}):
        prepare(config(name, everything))


def test_a_memory_that_is_not_there() -> None:
    for unlearner in ({"name": "salun", "retained": "memory"}, {"name": "ssd", "whole": "memory"}):
        with pytest.raises(ConfigError, match=r"naive keeps no samples\. Add a memory"):
            prepare(config(unlearner, [CLASS]))
        prepare(config(unlearner, [CLASS], {"name": "replay", "memory": 20}))


def test_notes_that_nobody_takes() -> None:
    with pytest.raises(ConfigError, match=r"amnesiac reads what the plugin 'update-log' .* \[replay, update-log\]"):
        prepare(config("amnesiac", [CLASS], "replay"))
    prepare(config("amnesiac", [CLASS], ["replay", "update-log"]))


def test_a_diverging_request_leaves_the_run_at_the_state_before(tmp_path: Path) -> None:
    wild = {"name": "gradient-ascent", "lr": 1e6, "epochs": 20}
    with pytest.raises(
        TrainingError, match=r"Strategy 'mine', event 1 \(request-0\), unlearner 'gradient-ascent': .* diverged"
    ):
        lifelong.run(config(wild, [CLASS]), tmp_path)
    run = lifelong.run(config({**wild, "on_divergence": "restore"}, [CLASS]), tmp_path)
    rows = run.tables["mine"]
    found = {r.metric: r.value for r in rows.rows if r.event == 1 and r.subject == "event"}
    assert found["loss_diverged"] == 1.0


def test_pictures_are_no_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="text-cnn reads the numbers of words, and the inputs are measurements"):
        lifelong.run(config("none", [CLASS], model="text-cnn", source={"name": "digits"}), tmp_path)


def test_weights_that_are_no_numbers_are_told_at_the_request(tmp_path: Path) -> None:
    own = tmp_path / "zero.py"
    own.write_text(NOT_A_NUMBER)
    where = rf"Strategy 'mine', event 1 \(request-0\), unlearner '{own}': request-0: the unlearner left weights"
    with pytest.raises(TrainingError, match=where + r" that are not finite\. Lower its lr.*lifelong show unlearners"):
        lifelong.run(config(str(own), [CLASS]), tmp_path / "runs")
    # the same of training that an unlearner does: the advice is about its lr, not the learner's
    where = r"event 1 \(request-0\), unlearner 'finetune': Training diverged: .* Lower its lr \(now 1e\+30\)"
    with pytest.raises(TrainingError, match=where):
        lifelong.run(config({"name": "finetune", "lr": 1e30}, [CLASS]), tmp_path / "runs")


def test_an_update_log_that_would_outgrow_memory_is_refused(tmp_path: Path) -> None:
    learner = ["naive", {"name": "update-log", "max_megabytes": 0.01}]
    with pytest.raises(TrainingError, match=r"steps of this model take .* MB; update-log.max_megabytes is 0.01"):
        lifelong.run(config("amnesiac", [CLASS], learner), tmp_path)
