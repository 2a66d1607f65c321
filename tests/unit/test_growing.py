"""Greedy text that keeps what was passed: the same tokens as by whole rows, and each token is passed once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lifelong.models import tiny_gpt2, tiny_llama, tiny_mixtral
from strategies.objectives import causal_lm
from strategies.objectives.causal_lm import CausalLM, Config
from strategies.parts.model import FlatModel, Passing
from strategies.parts.text import generation
from strategies.parts.text.generation import as_batch, continued
from strategies.parts.text.growing import growing, last_outputs
from strategies.parts.training.ragged import every_position, row_outputs
from strategies.parts.weights.blocks import Listener, blocks_of
from streams.config import parse
from streams.data import Batch
from streams.randomness import Key, seeded_globals
from streams.text import ANSWER, GIVEN, train_tokenizer

V, L = 320, 40
TINY = (tiny_llama, tiny_gpt2, tiny_mixtral)
PROMPTS = [[1, 7, 9], [1, *range(40, 60)], [1, 5], [1, *range(100, 111)], [1, 7, 9]]
MOST = [12, 6, 20, 0, 12]


def made(module: Any = tiny_llama, outputs: int = V) -> FlatModel:
    with seeded_globals(Key(0)):
        config = parse(module.Config, {"width": 16, "inner": 24, "heads": 2, "tied": False})
        model = FlatModel(module.build(config, (2, L), outputs))
    model.parameters.mul_(6)  # so that what is likeliest does not hang on the last bit
    model.train(False)
    return model


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield train_tokenizer(["the quick brown fox jumps over the lazy dog"], V)


def like() -> Batch:
    return Batch(torch.zeros(1, dtype=torch.long), torch.zeros(1, 2, 1, dtype=torch.int32), torch.zeros(1).long())


def texts(predict: Callable[[Batch], torch.Tensor], tokenizer: Any) -> list[str]:
    return continued(predict, like(), PROMPTS, MOST, tokenizer)


def by_whole_rows(predict: Callable[[Batch], torch.Tensor], tokenizer: Any) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "growing", contextlib.nullcontext)
        return texts(predict, tokenizer)


def tokens_passed(model: FlatModel) -> list[int]:
    """Count the positions of every pass from now on."""
    seen: list[int] = []
    inner = model.network.body.inner
    forward = inner.forward

    def counting(*args: Any, **options: Any) -> Any:
        seen.append(options["inputs_embeds"].shape[0] * options["inputs_embeds"].shape[1])
        return forward(*args, **options)

    counting.__signature__ = __import__("inspect").signature(forward)  # type: ignore[attr-defined]
    inner.forward = counting
    return seen


@pytest.mark.parametrize("module", TINY)
def test_the_tokens_are_those_of_whole_rows(module: Any, tokenizer: Any) -> None:
    """Rows of unequal length, one twice, one without room, that end after different numbers of tokens."""
    model, objective = made(module), CausalLM(V)
    expected = by_whole_rows(lambda b: objective.outputs(model, b), tokenizer)
    seen = tokens_passed(model)
    assert texts(lambda b: objective.outputs(model, b), tokenizer) == expected
    assert len({t for t in expected if t}) >= 3
    assert seen[0] == 4 * 21  # the prompts, padded; then one position of every row that goes on
    assert max(seen[1:]) <= 4
    assert len(seen) <= 20


def test_a_mean_of_models_grows_too(tokenizer: Any) -> None:
    objective, models = CausalLM(V), [made(), made(tiny_gpt2)]

    def predict(batch: Batch) -> torch.Tensor:
        return objective.blend([objective.outputs(m, batch) for m in models], batch)

    expected = by_whole_rows(predict, tokenizer)
    seen = [tokens_passed(m) for m in models]
    assert texts(predict, tokenizer) == expected
    assert all(max(s[1:]) <= 4 for s in seen)


def test_weights_that_change_while_text_grows_pass_whole_rows(tokenizer: Any) -> None:
    """As where one model takes the weights of several, one after the other."""
    objective, model = CausalLM(V), made()
    weights = [model.parameters.clone(), model.parameters.flip(0)]

    def predict(batch: Batch) -> torch.Tensor:
        outputs = []
        for w in weights:
            model.parameters.copy_(w)
            outputs.append(objective.outputs(model, batch))
        return objective.blend(outputs, batch)

    assert texts(predict, tokenizer) == by_whole_rows(predict, tokenizer)


def test_who_listens_hears_whole_rows(tokenizer: Any) -> None:
    objective, model = CausalLM(V), made()
    expected = texts(lambda b: objective.outputs(model, b), tokenizer)
    listener = Listener(blocks_of(model)[0])
    seen = tokens_passed(model)
    assert texts(lambda b: objective.outputs(model, b), tokenizer) == expected
    assert min(seen) > 4
    listener.close()


def test_the_last_token_says_the_same_in_half_precision() -> None:
    model = made()
    x = torch.zeros(2, 2, 9, dtype=torch.int32)
    x[0, 0, :5], x[0, 1, :5] = torch.arange(5, 10), GIVEN
    x[1, 0, :3], x[1, 1, :3] = torch.arange(5, 8), GIVEN
    batch = as_batch(x, like())
    for precision, near in (("single", 1e-4), ("bf16", 0.1)):
        model.network.passing = Passing(precision)  # type: ignore[arg-type]
        with torch.inference_mode(), growing():
            whole = model(batch.x)[[0, 1], [4, 2]]
            last = last_outputs(model, batch)
            assert last is not None
            assert last.dtype == torch.float32
            assert torch.allclose(last, whole, atol=near * float(whole.abs().max()))
            longer = x.clone()
            longer[0, :, 5], longer[1, :, 3] = torch.tensor([7, GIVEN]), torch.tensor([11, GIVEN])
            grown, whole = last_outputs(model, as_batch(longer, like())), model(longer)[[0, 1], [5, 3]]
            assert grown is not None
            assert torch.allclose(grown, whole, atol=near * float(whole.abs().max()))
    assert last_outputs(model, batch) is None  # nobody makes text


def rows(seed: int = 0) -> Batch:
    draw = np.random.default_rng(seed)
    x = torch.zeros(12, 2, 30, dtype=torch.int32)
    for row, n in zip(x, draw.integers(6, 30, 12).tolist(), strict=True):
        row[0, :n] = torch.from_numpy(draw.integers(3, V, n))
        row[1, : n - 3], row[1, n - 3 : n] = GIVEN, ANSWER
    return Batch(torch.arange(12), x, torch.zeros(12, dtype=torch.long))


@pytest.mark.parametrize("trains", [None, "answer", "all"])
def test_a_large_vocabulary_is_read_where_it_counts(trains: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses, scores and gradients are the same; other positions are NaN, and there for who asks for all."""
    model, batch = made(), rows()
    objective = CausalLM(V, config=Config(), trains=trains)

    def seen() -> list[torch.Tensor]:
        model.gradient.zero_()
        outputs = objective.outputs(model, batch)
        losses = objective.losses(outputs, batch)
        losses.mean().backward()  # type: ignore[no-untyped-call]
        said = objective.probabilities(outputs, batch)
        assert said is not None
        return [losses, objective.scores(outputs, batch), said, model.gradient.clone(), outputs]

    expected = seen()
    monkeypatch.setattr(causal_lm, "LARGE", V)
    found = seen()
    for a, b in zip(found[:-1], expected[:-1], strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    left_out = found[-1].isnan().any(2)
    assert bool(left_out.any()) == (trains != "all")
    assert not left_out[batch.x[:, 1, : left_out.shape[1]] == ANSWER].all()
    with every_position():
        assert not objective.outputs(model, batch).isnan().any()


def test_a_row_of_text_is_read_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = rows()
    x = batch.x.clone()
    x[:, 1, 1:][x[:, 1, 1:] > 0] = ANSWER
    monkeypatch.setattr(causal_lm, "LARGE", V)
    assert torch.equal(CausalLM(V).outputs(made(), replace(batch, x=x)), row_outputs(made(), replace(batch, x=x)))
