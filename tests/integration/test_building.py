"""How often a run builds its network: with a checkpoint of a gigabyte every time counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lifelong
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
