"""Real checkpoints in and out: tokenisers, chat templates, Hugging Face folders, audits of what comes back."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import lifelong
from lifelong.execution.exporting import export_model
from lifelong.execution.standing import strategy_after
from lifelong.setup.auditing import audit_config
from lifelong.setup.build import make_source
from lifelong.setup.preparation import prepare
from streams.errors import ConfigError, DataError
from streams.sources import people, questions
from streams.text import ANSWER, GIVEN, Form, train_tokenizer

Call = Callable[..., tuple[int, str, str]]
HAS_PEFT = importlib.util.find_spec("peft") is not None
CHAT = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}[/]{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
CORPUS = {"name": "people", "people": 4, "groups": 2, "holdout": 2, "world": False, "vocabulary": 400}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(root / "cache"))
        patch.chdir(root)
        yield root


@pytest.fixture(scope="module")
def checkpoint(place: Path) -> Path:
    """A tiny Llama with random weights, and a tokeniser with a chat template."""
    from transformers import LlamaConfig, LlamaForCausalLM

    syllables = [a + b for a in "bdfgklmn" for b in "aeiou"]
    words = [x + y for x in syllables for y in syllables[::3]]
    tokenizer = train_tokenizer([" ".join(words[i : i + 8]) for i in range(0, len(words), 8)], 340)
    assert tokenizer.vocab_size == 340
    outer = tokenizer.outer()
    outer.chat_template = CHAT
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(place / "tiny")
    outer.save_pretrained(place / "tiny")
    return place / "tiny"


def scenario(**changes: Any) -> dict[str, Any]:
    return {
        "name": "audited",
        "source": CORPUS,
        "scenario": {"name": "domain-incremental", "kind": "natural"},
        "schedule": {
            "name": "explicit",
            "requests": [{"after": 1, "scope": "user", "keys": [0]}, {"after": 2, "scope": "user", "keys": [3]}],
        },
        "objective": {"name": "causal-lm", "answers": {"records": ["wrong"]}},
        "model": {"name": "tiny-llama", "width": 16, "inner": 16, "depth": 2, "heads": 2, "tied": False},
        "training": {"epochs": 1, "optimizer": "adam", "lr": 0.01, "batch_size": 32},
        "strategies": {"npo": {"unlearner": {"name": "npo", "epochs": 1}}, "kept": {"unlearner": "none"}},
        "evaluation": {"probe": 4},
        "references": {"kinds": ["retrained"]},
    } | changes


def config_of(**changes: Any) -> lifelong.RunConfig:
    return lifelong.RunConfig.model_validate(scenario(**changes))


@pytest.fixture(scope="module")
def run(place: Path) -> lifelong.Run:
    (place / "audited.yaml").write_text(yaml.safe_dump(scenario()), encoding="utf-8")
    return lifelong.run(lifelong.load_config("audited.yaml"), place / "runs")


# -- in


def test_a_checkpoint_beside_rows_of_another_tokeniser_is_refused(checkpoint: Path) -> None:
    model = {"name": "causal-checkpoint", "checkpoint": str(checkpoint)}
    small = CORPUS | {"vocabulary": 330}  # no larger than the checkpoint's, so that every id is there
    with pytest.raises(ConfigError, match=r"source\.tokenizer: .*another tokeniser .*Set source\.tokenizer: .*tiny"):
        prepare(config_of(source=small, model=model))
    with pytest.raises(ConfigError, match=r"source\.tokenizer"):  # also where no weights are read
        prepare(config_of(source=small, model=model), runs=False)
    prepare(config_of(source=small, model=model | {"weights": "none"}))
    prepare(config_of(source=CORPUS | {"tokenizer": str(checkpoint)}, model=model))


def test_a_checkpoint_without_its_tokeniser_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((checkpoint / name).read_bytes())
    model = {"name": "causal-checkpoint", "checkpoint": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"no tokeniser beside its weights.*weights: none"):
        prepare(config_of(source=CORPUS | {"vocabulary": 330}, model=model))
    with pytest.raises(ConfigError, match=r"model\.checkpoint: there is no folder \./nowhere"):
        prepare(config_of(model=model | {"checkpoint": "./nowhere"}))


@pytest.mark.parametrize("name", ["people", "questions"])
def test_questions_are_put_as_the_checkpoints_chat_template_says(name: str, checkpoint: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    if name == "people":
        source = people.load(
            people.Config.model_validate(
                {k: v for k, v in CORPUS.items() if k != "name"} | {"tokenizer": str(checkpoint), "prompt": "chat"}
            )
        )
    else:
        file = tmp_path / "own.jsonl"
        file.write_text(json.dumps({"question": "Who is Ada?", "answer": "A poet."}), encoding="utf-8")
        source = questions.load(questions.Config(files=(str(file),), tokenizer=str(checkpoint), prompt="chat"))
    assert source.text is not None
    x, tokenizer = source.x[0], source.text.tokenizer
    prompt, answer = (x[0][x[1] == part].tolist() for part in (GIVEN, ANSWER))
    asked = tokenizer.decode(prompt).removeprefix("[user]").removesuffix("[/][assistant]")
    outer = AutoTokenizer.from_pretrained(checkpoint)
    expected = outer.apply_chat_template([{"role": "user", "content": asked}], add_generation_prompt=True)
    assert prompt == list(expected["input_ids"] if not isinstance(expected, list) else expected)
    assert prompt.count(tokenizer.bos) == 1
    assert answer[-1] == tokenizer.eos
    assert not tokenizer.decode(answer).startswith(" ")
    assert not tokenizer.decode(list(source.text.refusals[0])).startswith(" ")
    if name == "questions":
        assert (asked, tokenizer.decode(answer)) == ("Who is Ada?", "A poet.")


def test_what_a_chat_template_says_is_today_does_not_change(checkpoint: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    outer = AutoTokenizer.from_pretrained(checkpoint)
    today = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    outer.chat_template = today + "Today: {{ date_string }}\n" + CHAT.removeprefix("{{ bos_token }}")
    outer.save_pretrained(tmp_path)
    assert Form.of("chat", str(tmp_path)).before.startswith("Today: 26 Jul 2024\n")


def test_a_prompt_of_ones_own_and_none(checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps({"question": "Who?", "answer": "Ada."}), encoding="utf-8")
    options = {"files": (str(file),), "tokenizer": str(checkpoint)}
    source = questions.load(questions.Config(**options, prompt="Say: {} => "))
    assert source.text is not None
    assert source.text.tokenizer.decode(source.x[0, 0].tolist()).startswith("Say: Who? => Ada.")
    with pytest.raises(ConfigError, match=r"source\.prompt: chat needs a checkpoint"):
        questions.load(questions.Config(files=(str(file),), prompt="chat"))
    bare = tmp_path / "bare"
    source.text.tokenizer.outer().save_pretrained(bare)
    for folder, says in ((bare, "has no chat template"), (tmp_path, "has no tokeniser that can be loaded")):
        with pytest.raises(ConfigError, match=rf"source\.tokenizer: .* {says}"):
            questions.load(questions.Config(files=(str(file),), tokenizer=str(folder), prompt="chat"))
    with pytest.raises(ValueError, match="prompt"):
        questions.Config(**options, prompt="no place for it")
    missing = questions.Config(files=("gone.jsonl",))
    with pytest.raises(DataError, match=r"gone\.jsonl: there is no such file"):
        questions.load(missing)


# -- out


def logits_of(folder: Path, x: torch.Tensor) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder).eval()(input_ids=x[:, 0].long()).logits


def rows_of(p: Any) -> torch.Tensor:
    x = p.stream.source.x[:6]
    return x[:, :, : int((x[:, 1] > 0).sum(1).min())]


@pytest.mark.parametrize("event", [None, 2, pytest.param(0, marks=pytest.mark.nightly)])
def test_transformers_loads_what_is_exported(run: lifelong.Run, event: int | None, tmp_path: Path) -> None:
    """After the last event, and after earlier ones, whose checkpoints are gone."""
    from transformers import AutoTokenizer

    p = prepare(run.config)
    folder = export_model(run.folder, "npo", event, tmp_path / "out")
    lived = strategy_after(p, run.folder, "npo", event).network()
    assert lived is not None
    lived.train(False)
    with torch.no_grad():
        expected = lived(rows_of(p))
    assert torch.allclose(logits_of(folder, rows_of(p)), expected, atol=1e-5)
    about = json.loads((folder / "lifelong.json").read_text(encoding="utf-8"))
    assert about["event"] == (3 if event is None else event)
    assert about["requests"] == {None: ["request-0", "request-1"], 0: [], 2: ["request-0"]}[event]
    text = p.stream.source.text
    assert text is not None
    outer = AutoTokenizer.from_pretrained(folder)
    said = "Q: Who is Ada Bold?\nA: Nobody."
    assert outer.encode(said, add_special_tokens=False) == text.tokenizer.encode(said)
    assert (outer.bos_token_id, outer.eos_token_id) == (text.tokenizer.bos, text.tokenizer.eos)


def test_models_of_two_events_differ(run: lifelong.Run) -> None:
    p = prepare(run.config)
    first, last = (strategy_after(p, run.folder, "npo", event).network() for event in (2, 3))
    assert first is not None
    assert last is not None
    assert not torch.equal(first.parameters, last.parameters)


@pytest.mark.skipif(not HAS_PEFT, reason="pip install peft")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("merged", [pytest.param(True, marks=pytest.mark.nightly), False])
def test_adapters_are_merged_or_written_beside(merged: bool, checkpoint: Path, tmp_path: Path) -> None:
    config = config_of(
        source=CORPUS | {"tokenizer": str(checkpoint)},
        model={"name": "causal-checkpoint", "checkpoint": str(checkpoint), "lora": {"rank": 2}},
        references={"kinds": []},
        schedule="none",
        strategies={"naive": {}},
    )
    run = lifelong.run(config, tmp_path / "runs")
    if merged:  # over what was written otherwise
        export_model(run.folder, "naive", out=tmp_path / "out", merged=False)
    folder = export_model(run.folder, "naive", out=tmp_path / "out", merged=merged)
    assert list(folder.glob("adapter_*")) == [] if merged else (folder / "adapter_config.json").exists()
    p = prepare(run.config)
    model = strategy_after(p, run.folder, "naive").network()
    assert model is not None
    model.train(False)
    with torch.no_grad():
        expected = model(rows_of(p))
    assert torch.allclose(logits_of(folder, rows_of(p)), expected, atol=1e-5)
    assert not torch.allclose(logits_of(checkpoint, rows_of(p)), expected, atol=1e-3)


def test_what_cannot_be_exported(run: lifelong.Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no strategy 'npoo'.*npo"):
        export_model(run.folder, "npoo", out=tmp_path)
    with pytest.raises(ConfigError, match="no event 9"):
        export_model(run.folder, "npo", 9, tmp_path)
    with pytest.raises(ConfigError, match="trained without"):
        export_model(run.folder, "npo", out=tmp_path, merged=False)
    assert not list(tmp_path.iterdir())


# -- back again


def test_an_exported_model_is_measured_as_it_was(run: lifelong.Run, place: Path, call: Call) -> None:
    """`audit` of what a strategy has come to gives, at its request, the numbers that the strategy has there."""
    code, out, err = call("export-model", "last", "npo", "--runs", str(run.folder.parent), "--out", "theirs")
    assert (code, out.strip()) == (0, "theirs"), err
    code, out, err = call("audit", "theirs", "--scenario", "audited.yaml", "--quiet", "--json")
    assert code == 0, err
    config = audit_config(lifelong.load_config("audited.yaml"), Path("theirs"))
    table = lifelong.load_run(prepare(config).folder("runs")).tables["theirs"]
    ours = run.tables["npo"]
    wanted = [
        r
        for r in ours.rows
        if r.event == 3 and r.subject == "request-1" and r.metric in ("truth_ratio", "gap_truth_ratio", "loss_auc")
    ]
    assert len({r.metric for r in wanted}) == 3
    found = {(r.model, r.metric): r.value for r in table.rows if r.event == 3 and r.subject == "request-1"}
    for r in wanted:
        assert found[r.model, r.metric] == pytest.approx(r.value, abs=1e-6)
    code, out, err = call("compare", str(run.folder), str(prepare(config).folder("runs")))
    assert code == 0, err
    assert "theirs" in out
    assert "npo" in out
    assert "different streams" not in err


@pytest.mark.nightly
def test_another_model_in_the_same_place_is_another_run(run: lifelong.Run, place: Path) -> None:
    export_model(run.folder, "kept", out=place / "mine")
    config = lifelong.load_config("audited.yaml")
    before = prepare(audit_config(config, place / "mine"))
    export_model(run.folder, "npo", out=place / "mine")
    after = prepare(audit_config(config, place / "mine"))
    assert before.identity != after.identity
    with pytest.raises(ConfigError, match="has changed since the audit"):
        prepare(before.config)


def test_what_cannot_be_audited(run: lifelong.Run, checkpoint: Path, tmp_path: Path) -> None:
    config = lifelong.load_config("audited.yaml")
    with pytest.raises(ConfigError, match="no config.json"):
        audit_config(config, tmp_path)
    with pytest.raises(ConfigError, match="no request 'request-7'"):
        audit_config(config, checkpoint, request="request-7")
    with pytest.raises(ConfigError, match="another tokeniser"):
        prepare(audit_config(config, checkpoint))
    other = config_of(model=scenario()["model"] | {"width": 32})
    folder = export_model(run.folder, "kept", out=tmp_path / "kept")
    with pytest.raises(ConfigError, match=r"same architecture and size"):
        prepare(audit_config(other, folder))
    none = config_of(schedule="none")
    with pytest.raises(ConfigError, match="nothing to audit"):
        audit_config(none, folder)


def test_quiet_silences_the_bars_of_others(run: lifelong.Run, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "0")
    code, _, err = call("resume", str(run.folder), "--quiet")
    assert (code, err) == (0, "")
    assert os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1"


def test_the_source_is_what_it_was(place: Path) -> None:
    """Prompts that are said by an option: those of the default are the bytes that they were before."""
    assert make_source(config_of()).digest() == make_source(config_of(source=CORPUS | {"prompt": "Q: {}\nA:"})).digest()
