"""Tiny language models, checkpoints and low-rank adapters."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from lifelong.models import causal_checkpoint, mlp, tiny_gpt2, tiny_llama, tiny_mixtral
from lifelong.models._language import Decoder
from strategies.objectives.causal_lm import CausalLM
from strategies.parts.model import FlatModel, digest, frozen, without_values
from streams.config import parse
from streams.data import Batch
from streams.errors import ConfigError
from streams.randomness import Key, seeded_globals
from streams.sources import people
from streams.text import train_tokenizer

V = 90
TINY = (tiny_llama, tiny_gpt2, tiny_mixtral)
HAS_PEFT = importlib.util.find_spec("peft") is not None


def made(module: Any, **options: Any) -> FlatModel:
    with seeded_globals(Key(0)):
        sizes = {"width": 16, "inner": 24, "heads": 2} | options
        return FlatModel(module.build(parse(module.Config, sizes), (2, 12), V))


def text(rows: int = 3, seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    x = torch.zeros(rows, 2, 12, dtype=torch.int32)
    for i, row in enumerate(x):
        length = 5 + 2 * i
        row[0, :length] = torch.randint(3, V, (length,), generator=draw)
        row[1, :length] = 2
        row[1, :2] = 1
    return Batch(torch.arange(rows), x, torch.zeros(rows, dtype=torch.long))


@pytest.mark.parametrize("module", TINY)
def test_a_row_does_not_see_its_neighbours_or_what_follows(module: Any) -> None:
    model, batch = made(module), text()
    model.train(False)
    outputs = model(batch.x)
    assert outputs.shape == (3, 9, V)
    alone = model(batch.x[:1])
    assert alone.shape == (1, 5, V)
    assert torch.allclose(alone[0], outputs[0, :5], atol=1e-5)
    later = batch.x.clone()
    later[2, 0, 6:] = 7
    assert torch.allclose(model(later)[2, :6], outputs[2, :6], atol=1e-6)
    assert not torch.allclose(model(later)[2, 6:], outputs[2, 6:], atol=1e-3)


@pytest.mark.parametrize("module", TINY)
def test_the_head_is_the_embedding_or_not(module: Any) -> None:
    tied, free = made(module), made(module, tied=False)
    assert len(free.parameters) - len(tied.parameters) == V * 16
    assert not any(name.startswith("head") for name in tied.slices)
    body = tied.network.body
    assert isinstance(body, Decoder)
    assert tied.network.head.weight is body.inner.get_input_embeddings().weight
    assert len(body.layers) == 2


@pytest.mark.parametrize("module", TINY)
def test_they_learn_a_few_rows_by_heart(module: Any) -> None:
    from strategies.parts.fit import FitConfig, fit
    from streams.data import Data

    model, batch = made(module, width=32), text()
    objective = CausalLM(V)
    data = Data(batch.ids.numpy(), batch.x, batch.y, None)
    config = FitConfig(epochs=60, lr=0.01, optimizer="adam", batch_size=3)
    fit(model, objective, data, config, Key(0))
    model.train(False)
    assert objective.scores(model(batch.x), batch).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("module", TINY)
def test_bad_sizes_are_named(module: Any) -> None:
    with pytest.raises(ConfigError, match="heads"):
        made(module, width=18, heads=4)
    with pytest.raises(ConfigError, match="at most 8 tokens"):
        made(module, context=8)
    with pytest.raises(ConfigError, match="reads text"):
        module.build(module.Config(), (1, 28, 28), 10)


def test_text_needs_the_objective_of_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from strategies.objectives import causal_lm, classification
    from streams.sources import digits

    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path))
    source = people.load(people.Config(people=3, groups=1, holdout=0, world=False, vocabulary=320))
    with pytest.raises(ConfigError, match="causal-lm"):
        classification.Classification.for_data(classification.Config(), source, None, "cpu")
    with pytest.raises(ConfigError, match="no text"):
        causal_lm.CausalLM.for_data(causal_lm.Config(), digits.load(digits.Config()), None, "cpu")
    assert mlp.Config().hidden


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("llama")
    config = LlamaConfig(
        vocab_size=V + 6,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=32,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=None,
    )
    with seeded_globals(Key(7)):
        LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def test_a_checkpoint_is_what_transformers_makes_of_it(checkpoint: str) -> None:
    from transformers import AutoModelForCausalLM

    batch = text()
    model = FlatModel(causal_checkpoint.build(causal_checkpoint.Config(checkpoint=checkpoint), (2, 12), V))
    model.train(False)
    theirs = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    expected = theirs(input_ids=batch.x[2:, 0, :9].long()).logits
    assert torch.allclose(model(batch.x)[2:], expected, atol=1e-5)
    cut = causal_checkpoint.build(causal_checkpoint.Config(checkpoint=checkpoint, depth=1), (2, 12), V)
    assert isinstance(cut.body, Decoder)
    assert len(cut.body.layers) == 1
    with seeded_globals(Key(1)):
        fresh = causal_checkpoint.build(causal_checkpoint.Config(checkpoint=checkpoint, weights="none"), (2, 12), V)
    assert digest(dict(fresh.state_dict())) != digest(dict(theirs.state_dict()))


def gradient_of_a_step(model: FlatModel, batch: Batch) -> torch.Tensor:
    objective = CausalLM(V)
    model.train(True)
    with seeded_globals(Key(3)):
        objective.losses(objective.outputs(model, batch), batch).mean().backward()
    return model.gradient


def from_checkpoint(folder: str, **options: Any) -> FlatModel:
    config = parse(causal_checkpoint.Config, {"checkpoint": folder} | options)
    with seeded_globals(Key(0)):
        return FlatModel(causal_checkpoint.build(config, (2, 12), V))


def test_gradient_checkpointing_changes_no_bit(checkpoint: str) -> None:
    plain, saving = from_checkpoint(checkpoint), from_checkpoint(checkpoint, gradient_checkpointing=True)
    copied = FlatModel(copy.deepcopy(saving.network))
    passes = {id(saving): 0, id(copied): 0}
    for model in (saving, copied):
        body = model.network.body
        assert isinstance(body, Decoder)

        def count(*_: Any, which: int = id(model)) -> None:
            passes[which] += 1

        body.layers[1].input_layernorm.register_forward_hook(count)
    for model in (plain, saving, copied):
        for module in model.network.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.5
    expected = gradient_of_a_step(plain, text())
    assert bool(expected.any())
    assert torch.equal(gradient_of_a_step(saving, text()), expected)
    assert torch.equal(gradient_of_a_step(copied, text()), expected)
    assert list(passes.values()) == [2, 2]  # each block has passed a second time, its own


@pytest.mark.skipif(not HAS_PEFT, reason="pip install peft")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_frozen_weights_in_bfloat16_take_half_the_room_and_train_float32(checkpoint: str) -> None:
    lora = {"rank": 2}
    whole, half = from_checkpoint(checkpoint, lora=lora), from_checkpoint(checkpoint, lora=lora, dtype="bfloat16")
    assert {p.dtype for p in frozen(half.network)} == {torch.bfloat16}
    assert half.parameters.dtype == torch.float32
    assert list(half.slices) == list(whole.slices)
    buffers = zip(half.network.buffers(), whole.network.buffers(), strict=True)
    assert all(torch.equal(a, b) for a, b in buffers)  # rotary frequencies are not rounded
    half.take_over(whole)
    with torch.no_grad():
        outputs, expected = half(text().x), whole(text().x)
    assert outputs.dtype == half.features(text().x).dtype == torch.float32
    assert 0 < float((outputs - expected).abs().max()) < 0.05 * float(expected.abs().max())
    before = half.parameters.clone()
    gradient = gradient_of_a_step(half, text())
    assert torch.nn.functional.cosine_similarity(gradient, gradient_of_a_step(whole, text()), dim=0) > 0.99
    half.parameters.sub_(gradient, alpha=0.1)
    assert not torch.equal(half.parameters, before)
    with pytest.raises(ConfigError, match=r"model\.lora"):
        from_checkpoint(checkpoint, dtype="bfloat16")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"depth": 1, "gradient_checkpointing": True},
        pytest.param(
            {"lora": {"rank": 2}, "dtype": "bfloat16"},
            marks=[
                pytest.mark.skipif(not HAS_PEFT, reason="pip install peft"),
                pytest.mark.filterwarnings("ignore::DeprecationWarning"),
            ],
        ),
    ],
)
def test_a_checkpoint_without_values_reads_no_weights(
    checkpoint: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    model = from_checkpoint(checkpoint, **options)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("weights were read"))
    with without_values():
        outline = from_checkpoint(checkpoint, **options)
    assert outline.slices == model.slices
    assert str(outline.network) == str(model.network)
    pairs = zip(outline.network.parameters(), model.network.parameters(), strict=True)
    assert all((a.shape, a.dtype, a.requires_grad) == (b.shape, b.dtype, b.requires_grad) for a, b in pairs)
    assert {p.device.type for p in outline.network.parameters()} == {"meta"}


def test_what_does_not_fit_a_checkpoint_is_named(checkpoint: str) -> None:
    config = causal_checkpoint.Config(checkpoint=checkpoint)
    with pytest.raises(ConfigError, match=r"source\.tokenizer"):
        causal_checkpoint.build(config, (2, 12), V + 7)
    with pytest.raises(ConfigError, match="at most 32 tokens"):
        causal_checkpoint.build(config, (2, 33), V)
    with pytest.raises(ConfigError, match="no folder /nowhere"):
        causal_checkpoint.build(causal_checkpoint.Config(checkpoint="/nowhere"), (2, 12), V)


@pytest.mark.skipif(not HAS_PEFT, reason="pip install peft")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("module", TINY)
def test_adapters_are_all_that_is_trained(module: Any) -> None:
    plain, adapted = made(module), made(module, lora={"rank": 2})
    assert all("lora_" in name for name in adapted.slices)
    batch = text()
    plain.train(False)
    adapted.train(False)
    assert torch.allclose(plain(batch.x), adapted(batch.x), atol=1e-6)  # B starts at zero
    adapted.parameters.add_(0.1)
    assert not torch.allclose(plain(batch.x), adapted(batch.x), atol=1e-3)
    with pytest.raises(ConfigError, match="targets"):
        made(module, lora={"rank": 2, "targets": ["nothing_like_it"]})


def test_trained_tokenisers_fit_tiny_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path))
    assert train_tokenizer(["a b c"], 320).vocab_size <= 320
