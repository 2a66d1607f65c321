"""What is refused before a run: audits that do not fit data or model, options, names and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lifelong.config.run import RunConfig
from lifelong.evaluation.outputs import Certainty, Details, Findings, Outputs, with_stored
from lifelong.setup.preparation import prepare
from streams.config import parse
from streams.errors import ConfigError
from streams.positions import positions_in
from streams.registry import entries, load

PEOPLE: dict[str, Any] = {
    "source": {"name": "people", "people": 4, "groups": 2, "holdout": 2, "vocabulary": 400},
    "scenario": "joint",
    "objective": "causal-lm",
    "model": {"name": "tiny-llama", "width": 16, "inner": 24, "depth": 1, "heads": 2},
}
BARE = '''"""A language model whose body says nothing of its blocks."""
from torch import nn
from lifelong.models.tiny_llama import Config
from lifelong.models import tiny_llama
from strategies.parts.model import Network
class Body(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
    def forward(self, x, images=None):
        return self.inner(x, images)
def build(config, input_shape, num_outputs):
    network = tiny_llama.build(config, input_shape, num_outputs)
    return Network(Body(network.body), network.head)
'''


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path_factory.getbasetemp() / "text-cache"))


@pytest.mark.parametrize(
    ("data", "evaluation", "message"),
    [
        ({}, {"audits": "probe"}, r"^evaluation\.audits: 'probe' looks at answers in text, .*Leave it out"),
        ({}, {"audits": "relern"}, r"^evaluation\.audits\.relern: 'relern' is not known.*'relearn'"),
        ({}, {"audits": ["relearn", {"name": "relearn"}]}, r"^evaluation\.audits: 'relearn' is named twice"),
        ({}, {"audits": {"name": "relearn", "steps": 0}}, r"^evaluation\.audits\.relearn\.steps"),
        ({}, {"relearn_steps": 5}, r"relearn_steps"),
        (
            PEOPLE,
            {"audits": {"name": "muse", "shots": 99}},
            r"^evaluation\.audits\.muse\.shots: 99 .* has 20\. Lower it",
        ),
        ({}, {"metrics": "retained"}, r"^evaluation\.metrics: 'retained' is measured in every run\. Leave it out"),
        ({}, {"metrics": "./nowhere.py"}, r"^evaluation\.metrics\.\./nowhere\.py: .* does not exist"),
    ],
)
def test_what_does_not_fit_is_named(data: dict[str, Any], evaluation: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare(parse(RunConfig, data | {"evaluation": evaluation}))


def test_audits_of_blocks_need_a_body_that_tells_of_them(tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text(BARE)
    model = PEOPLE["model"] | {"name": str(tmp_path / "bare.py")}
    prepare(parse(RunConfig, PEOPLE | {"model": model, "evaluation": {"audits": ["muse", "relearn-rest"]}}))
    with pytest.raises(ConfigError, match=r"evaluation\.audits: 'quantise' looks into the blocks .* no TokenBody"):
        prepare(parse(RunConfig, PEOPLE | {"model": model, "evaluation": {"audits": ["quantise"]}}))


@pytest.mark.parametrize(("kind", "lacks"), [("audits", "METRICS"), ("metrics", "rows")])
def test_a_file_must_have_what_its_kind_has(kind: str, lacks: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("class Config: ...\n")
    with pytest.raises(ConfigError, match=f"defines no '{lacks}'"):
        load(kind, str(tmp_path / "mine.py"))


def test_files_of_audits_and_metrics_are_part_of_the_identity(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    text = (
        '"""Nothing."""\nfrom streams.config import Config\nMETRICS = {}\ndef rows(snapshot, config):\n    return []\n'
    )
    file.write_text(text)
    config = parse(RunConfig, {"evaluation": {"metrics": str(file)}})
    before = prepare(config).identity
    file.write_text(text + "# changed\n")
    assert prepare(config).identity != before


def test_every_audit_says_what_its_numbers_mean() -> None:
    assert set(entries("audits")) == {
        *("relearn", "readout", "weights"),
        *("muse", "relearn-rest", "quantise", "reintroduce", "probe", "images"),
        *("unlearn-diff-atk", "invert"),
        *("rwku", "evade", "lens", "concept-trace"),
    }
    assert all(load("audits", name).METRICS for name in entries("audits"))


def test_outputs_are_stored_and_read() -> None:
    one = np.ones(2)
    muse = Findings({"a": one}, {"s": one})
    details = Details(features=one, certainty=Certainty(one, 2 * one, 3 * one, 4 * one), shadow_kept=one)
    outputs = Outputs(one, one, details, {"holdout_loss": one}, {"muse": muse})
    again = with_stored(one, one, outputs.stored())
    assert again.details.probabilities is again.details.visits is None
    assert again.details.features is not None
    assert again.details.certainty is not None
    assert again.details.certainty.modified_entropies.tolist() == [4.0, 4.0]
    assert with_stored(one, one, Outputs(one, one).stored()).details.certainty is None
    assert again.records.keys() == {"holdout_loss"}
    assert again.audits["muse"].requests.keys() == {"a"}
    assert again.audits["muse"].stream.keys() == {"s"}
    path = Outputs(one, one, audits={"./folder/mine.py": Findings({"a": one}, {})})
    assert with_stored(one, one, path.stored()).audits.keys() == {"./folder/mine.py"}


def test_a_position_that_is_not_there_is_an_error() -> None:
    ids = np.array([2, 5, 7])
    assert positions_in(ids, np.array([7, 2, 7])).tolist() == [2, 0, 2]
    assert positions_in(ids, ids[:0]).tolist() == []
    for missing in (1, 6, 8):
        with pytest.raises(ValueError, match=rf"1 of 2 values .* 3 .* first is {missing}"):
            positions_in(ids, np.array([2, missing]))
    with pytest.raises(ValueError, match="not among the 0"):
        positions_in(ids[:0], ids)
