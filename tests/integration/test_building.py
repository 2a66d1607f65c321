"""How often a run builds its network and its strategies: with a checkpoint of a gigabyte every time counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lifelong
from lifelong.execution.runner import run_prepared
from lifelong.models import mlp
from lifelong.setup.preparation import prepare
from strategies.composed import Composed
from strategies.parts.model import Network, needs_values
from streams import registry
from streams.config import parse
from streams.errors import ConfigError

MODEL = '''"""Two layers that write down when they are built."""
import math
from pathlib import Path
from threading import Lock
from torch import nn
from strategies.parts.model import Network
from streams.config import Config as BaseConfig


class Config(BaseConfig):
    """Options."""

    locked: bool = False
    """Whether to hold something that cannot be copied."""


def build(config, input_shape, num_outputs):
    with Path(__file__).with_suffix(".txt").open("a") as file:
        file.write("built ")
    body = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), 8), nn.ReLU())
    if config.locked:
        body.lock = Lock()
    return Network(body, nn.Linear(8, num_outputs))
'''

STRATEGY = '''"""Models of their own, and a note when a strategy is built."""
from pathlib import Path
from strategies.isolated.independent import Config, Independent


class Counted(Independent):
    """Writes down that it is built."""

    def __init__(self, config, setting):
        with Path(__file__).with_suffix(".txt").open("a") as file:
            file.write("built ")
        super().__init__(config, setting)
'''

PLUGIN = '''"""Does nothing but note that it is built."""
from pathlib import Path
from strategies.base import Plugin
from streams.config import Config as BaseConfig


class Config(BaseConfig):
    """No options."""


class Counted(Plugin):
    """Writes down that it is built."""

    def __init__(self, config, setting):
        super().__init__(config, setting)
        with Path(__file__).with_suffix(".txt").open("a") as file:
            file.write("built ")
'''

UNLEARNER = '''"""Adds to all weights."""
from strategies.base import Access, Outcome, Unlearner
from streams.config import Config as BaseConfig


class Config(BaseConfig):
    """No options."""


class Add(Unlearner):
    """Adds to all weights."""

    access = Access()

    def forget(self, request, learner, door):
        learner.model.parameters += AMOUNT
        return Outcome()
'''


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    model = tmp_path / "counted.py"
    model.write_text(MODEL, encoding="utf-8")
    return {
        "scenario": {"name": "class-incremental", "experiences": 2},
        "schedule": {"name": "periodic", "limit": 1},
        "model": str(model),
        "strategies": {
            "a": {"learner": "ewc", "unlearner": "finetune"},
            "b": {"learner": "replay", "unlearner": "retrain"},
        },
        "evaluation": {"audits": ["relearn"]},
    }


@pytest.mark.nightly
def test_a_run_builds_its_network_once_and_an_untrained_one(config: dict[str, Any], tmp_path: Path) -> None:
    run = lifelong.run(parse(lifelong.RunConfig, config), tmp_path / "runs")
    assert {r.model for t in run.tables.values() for r in t.rows} == {"run", "retrained"}
    built = tmp_path / "counted.txt"
    # Two strategies with plugins, teachers, copies for audits and retrained references; zrf compares with another seed.
    assert built.read_text().split() == ["built"] * 2
    built.unlink()
    lifelong.run(parse(lifelong.RunConfig, config), tmp_path / "runs")
    assert built.read_text().split() == ["built"], "to check the configuration of a run that is done"


def test_a_network_that_cannot_be_copied_is_refused_before_any_compute(config: dict[str, Any], tmp_path: Path) -> None:
    config["model"] = {"name": config["model"], "locked": True}
    with pytest.raises(ConfigError, match=r"model: the network of .*counted\.py cannot be copied: .*lock.*deepcopy"):
        lifelong.prepare(parse(lifelong.RunConfig, config))


def test_what_does_not_run_needs_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    learners = ["ewc", "online-ewc", "si", "mas", "refresh", "lora", "o-lora", "der", "importance-log", "lwf"]
    unlearners = ["cf-k", "eu-k", "laf", "boundary-expand", "scrub", "salun", "retrain"]
    strategies: dict[str, Any] = {name: {"learner": name} for name in learners}
    strategies |= {name: {"learner": "naive", "unlearner": name} for name in unlearners}
    config = parse(lifelong.RunConfig, {"strategies": strategies, "evaluation": {"audits": ["weights"]}})
    build = mlp.build

    def shapes_alone(*arguments: Any) -> Network:
        assert not needs_values()
        return build(*arguments)

    monkeypatch.setattr(mlp, "build", shapes_alone)
    prepared = prepare(config, runs=False)
    assert prepared.setting.zeros().shape == prepared.setting.outline().parameters.shape
    with pytest.raises(AssertionError):
        prepare(config)
    low = parse(lifelong.RunConfig, {"strategies": {"a": {"learner": {"name": "lora", "rank": 500}}}})
    with pytest.raises(ConfigError, match="rank"):
        prepare(low, runs=False)


def _builds(counted: Path, run: Callable[[], object]) -> int:
    """Return how many strategies were built."""
    counted.unlink(missing_ok=True)
    run()
    return len(counted.read_text().split())


@pytest.mark.parametrize(
    ("kinds", "processes"), [([], 0), (["retrained"], 1), (["retrained", "original", "withheld"], 2), (["no-op"], 1)]
)
def test_a_strategy_is_built_once_for_every_life(
    config: dict[str, Any], tmp_path: Path, kinds: list[str], processes: int
) -> None:
    """References of a file of one's own live in processes of their own, which do not check what the run has checked."""
    own, counted = tmp_path / "own.py", tmp_path / "own.txt"
    own.write_text(STRATEGY, encoding="utf-8")
    config |= {"strategies": {"own": {"isolated": str(own)}}, "references": {"kinds": kinds}, "evaluation": {}}
    parsed = parse(lifelong.RunConfig, config)
    assert _builds(counted, lambda: lifelong.run(parsed, tmp_path / "runs")) == 1 + processes
    assert _builds(counted, lambda: lifelong.run(parsed, tmp_path / "runs")) == 1, "to check a run that is done"


def test_strategies_that_share_a_beginning_and_one_that_goes_on_are_built_once(
    config: dict[str, Any], tmp_path: Path
) -> None:
    plugin, counted = tmp_path / "own.py", tmp_path / "own.txt"
    plugin.write_text(PLUGIN, encoding="utf-8")
    learners = [{"learner": str(plugin), "unlearner": unlearner} for unlearner in ("finetune", "none")]
    config |= {"strategies": dict(zip("ab", learners, strict=True)), "references": {"kinds": []}, "evaluation": {}}
    config |= {"recording": {"keep": "all"}}  # without its details a finished run cannot be finished once more
    parsed = parse(lifelong.RunConfig, config)
    assert _builds(counted, lambda: lifelong.run(parsed, tmp_path / "runs")) == 2
    folder = lifelong.prepare(parsed).folder(tmp_path / "runs")
    (folder / "strategies" / "b" / "done.json").unlink()
    assert _builds(counted, lambda: lifelong.run(parsed, tmp_path / "runs")) == 2


def test_a_learner_that_waits_for_its_turn_holds_no_model(config: dict[str, Any]) -> None:
    config["strategies"]["b"]["learner"] = "naive"
    prepared = lifelong.prepare(parse(lifelong.RunConfig, config))
    strategy = prepared.strategies.build("b")
    assert isinstance(strategy, Composed)
    assert "model" not in vars(strategy.learner)
    with torch.inference_mode():
        model = strategy.learner.model
    assert not model.parameters.is_inference(), "who looks first is not who trains"
    assert strategy.learner.model is model
    strategy.learner.reset()
    assert strategy.learner.model is not model


@pytest.mark.nightly
def test_a_file_that_is_changed_while_a_run_goes_on_changes_nothing(config: dict[str, Any], tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(UNLEARNER.replace("AMOUNT", "0.0"), encoding="utf-8")
    config |= {"strategies": {"own": {"learner": "naive", "unlearner": str(own)}}, "references": {"kinds": ["no-op"]}}
    parsed, cache = parse(lifelong.RunConfig, config), tmp_path / "cache" / "references"
    first = lifelong.run(parsed, tmp_path / "first")
    references = set(cache.iterdir())
    prepared = lifelong.prepare(parsed)
    prepared.strategies.build("own")  # so that the run has to build another
    own.write_text(UNLEARNER.replace("AMOUNT", "9.0"), encoding="utf-8")
    assert run_prepared(prepared, tmp_path / "second").tables["own"].rows == first.tables["own"].rows
    assert set(cache.iterdir()) == references, "what is computed by the file of then is kept under it"
    assert lifelong.run(parsed, tmp_path / "third").tables["own"].rows != first.tables["own"].rows
    assert len(set(cache.iterdir())) == 2 * len(references)


@pytest.mark.nightly
def test_names_of_strategies_are_looked_up_once(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin, unlearner = tmp_path / "own.py", tmp_path / "add.py"
    plugin.write_text(PLUGIN, encoding="utf-8")
    unlearner.write_text(UNLEARNER.replace("AMOUNT", "0.1"), encoding="utf-8")
    kinds = ["retrained", "no-op", "joint"]
    config |= {"strategies": {"own": {"learner": str(plugin), "unlearner": str(unlearner)}}}
    parsed, asked = parse(lifelong.RunConfig, config | {"references": {"kinds": kinds}}), []
    find = registry.find
    monkeypatch.setattr(registry, "find", lambda kind, name, where=None: asked.append(name) or find(kind, name, where))
    lifelong.run(parsed, tmp_path / "runs")
    assert [asked.count(str(file)) for file in (plugin, unlearner)] == [1, 1]
