"""Language models in files of somebody's own: accepted, trained, and looked into as those of the project are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import lifelong
from lifelong.config.run import RunConfig
from lifelong.config.shipped import ready_scenarios
from lifelong.setup.preparation import prepare
from streams.config import parse
from streams.errors import ConfigError

GRU = str(Path(__file__).parents[1] / "fixtures" / "gru.py")
RUN: dict[str, Any] = {
    "source": {"name": "people", "people": 6, "groups": 2, "holdout": 3, "world": False, "vocabulary": 400},
    "scenario": "joint",
    "schedule": {"name": "explicit", "requests": [{"after": 1, "scope": "user", "keys": [1]}]},
    "objective": {"name": "causal-lm", "loss_on": "all"},
    "model": GRU,
    "training": {"epochs": 8, "optimizer": "adam", "lr": 0.01, "batch_size": 20},
    "strategies": {"mine": {"learner": "replay", "unlearner": {"name": "npo", "epochs": 1}}},
    "references": {"kinds": ["retrained"]},
    "evaluation": {"audits": ["quantise", "probe"]},
}
WRAPPED = '''"""One of the project's models under another name."""

from lifelong.models import {module} as inner

Config, build = inner.Config, inner.build
'''


@pytest.mark.parametrize(
    ("module", "scenario"), [("tiny_llama", "people-quickstart"), ("tiny_llava", "instructions-quickstart")]
)
def test_a_file_that_wraps_a_language_model_is_accepted(module: str, scenario: str, tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(WRAPPED.format(module=module), encoding="utf-8")
    config = lifelong.load_config(scenario)
    assert scenario in ready_scenarios()
    prepare(config.model_copy(update={"model": config.model.model_copy(update={"name": str(own)})}))


@pytest.mark.nightly
def test_audits_look_into_a_body_that_says_where_its_layers_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    rows = lifelong.run(parse(RunConfig, RUN), tmp_path).tables["mine"].rows
    found = {r.metric: r.value for r in rows if r.metric.startswith(("int8", "int4", "probe"))}
    assert {"int8_probability", "int4_probability", "probe_value_layer_0", "probe_value_layer_2"} <= set(found)
    assert all(v is not None and math.isfinite(v) for m, v in found.items() if not m.startswith("probe_truth"))


def test_a_model_with_too_few_outputs_is_refused(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    text = Path(GRU).read_text(encoding="utf-8").replace("return Network(body, head)", "return Network(body, few)")
    own.write_text(text.replace("    head.weight =", "    few = nn.Linear(config.width, 7)\n    head.weight ="))
    with pytest.raises(ConfigError, match=r"makes \[2, \d+, 7\] of int32 \[2, 2, \d+\]; it must be \[2, tokens, \d+\]"):
        prepare(parse(RunConfig, {**RUN, "model": str(own)}))
