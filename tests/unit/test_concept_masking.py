"""Concept masking: attributions that add up, the tokens that are masked, and what fine-tuning on them does."""

from __future__ import annotations

import pytest
import torch
from text_lives import live

from strategies.base import Access
from strategies.objectives._text import TextObjective
from strategies.unlearners.concept_masking import integrated_gradients, masked
from streams.errors import ConfigError
from streams.source import Source
from streams.text import ANSWER, GIVEN, UNKNOWN


@pytest.mark.nightly
def test_attributions_sum_to_the_difference(source: Source) -> None:
    life = live(source, "concept-masking", passes=10)
    objective = TextObjective.of(life.setting.objective)
    batch = life.data(0).all().part(0, 6)
    life.model.train(False)
    misses = []
    for steps in (4, 128):
        values, difference = integrated_gradients(life.model, objective, batch, UNKNOWN, steps)
        misses.append(float((values.sum(1) - difference).abs().mean()))
    assert float(difference.mean()) > 1.0  # the answer hangs on the text
    assert misses[1] < 0.05 * float(difference.abs().mean())
    assert misses[1] < misses[0]
    padding = batch.x[:, 1, : values.shape[1]] == 0
    assert not values[padding].any()


def test_the_highest_are_masked_and_never_start_or_end(source: Source) -> None:
    life = live(source, "concept-masking")
    batch = life.data(0).all().part(0, 2)
    assert source.text is not None
    end = source.text.tokenizer.eos
    values = torch.arange(batch.x.shape[2], dtype=torch.float32).expand(2, -1)
    length = int((batch.x[0, 1] > 0).sum())
    x = masked(batch, values, 0.5, "all", UNKNOWN, end)
    changed = (x != batch.x)[0]
    assert not changed[1].any()
    assert changed[0].nonzero().squeeze(1).tolist() == list(range(length - 1 - round(0.5 * (length - 2)), length - 1))
    for tokens, part in (("prompt", GIVEN), ("answer", ANSWER)):
        x = masked(batch, -values, 1.0, tokens, UNKNOWN, end)
        changed = (x != batch.x)[0, 0]
        where = (batch.x[0, 1] == part) & (batch.x[0, 0] != end) & (torch.arange(batch.x.shape[2]) > 0)
        assert torch.equal(changed, where)
    assert int((masked(batch, values, 1e-6, "all", UNKNOWN, end) != batch.x).sum()) == 2  # at least one a row


@pytest.mark.nightly
def test_it_takes_the_answers_and_keeps_the_others(source: Source) -> None:
    life = live(source, "concept-masking", passes=25, epochs=8, lr=0.01, share=0.5, steps=8)
    assert life.strategy.access == Access(forget_set=True, retained="full")
    objective = life.setting.objective
    sides = [life.data(0).all(), life.data(1).all().concat(life.data(2).all())]

    def losses() -> list[float]:
        life.model.train(False)
        with torch.no_grad():
            return [float(objective.losses(objective.outputs(life.model, b), b).mean()) for b in sides]

    before = losses()
    outcome = life.forget(0)
    after = losses()
    assert outcome.traits["event"]["attribution_miss"] < 0.5
    assert after[0] > before[0] + 0.5
    assert after[1] < before[1] + 0.1


def test_the_mask_is_a_token(source: Source) -> None:
    with pytest.raises(ConfigError, match=r"concept-masking\.mask: '<none>' is no token"):
        live(source, "concept-masking", mask="<none>")
