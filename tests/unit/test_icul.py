"""ICUL: what stands before a prompt, in which order, and that nothing changes without a request."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import text_lives
import torch
from text_lives import Life, base

from strategies.base import Access
from strategies.guards.icul import ICUL
from strategies.parts.model import digest
from strategies.parts.text.generation import greedy
from streams.errors import ConfigError
from streams.source import Source
from streams.sources import people
from streams.text import GIVEN


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(tmp_path_factory.mktemp("cache")))
        return people.load(people.Config(people=3, groups=1, holdout=1, world=False, vocabulary=400))


guarded = partial(text_lives.guarded, guard="icul", passes=3)
guard_of = partial(text_lives.guard_of, ICUL)


def said_before(life: Life, row: torch.Tensor, shown: list[tuple[int, ...]]) -> str:
    assert life.source.text is not None
    return life.source.text.tokenizer.decode(guard_of(life)._prefix(shown, int((row[1] > 0).sum())))


def test_wrong_answers_stand_before_right_ones_and_those_before_the_prompt(source: Source) -> None:
    life = guarded(source, right=2, context=2048)
    batch = life.data(0).all()
    assert torch.equal(life.strategy.predict(batch), base(life, batch))  # nobody is forgotten
    weights = life.model.parameters.clone()
    outcome = life.forget(0)
    assert (outcome.exactness, outcome.weights_erased) == ("none", False)
    assert torch.equal(life.model.parameters, weights)
    assert life.strategy.access == Access(forget_set=True)
    (shown,) = {tuple(e) for e in guard_of(life)._shown(batch)}
    text = said_before(life, batch.x[0], list(shown)).strip("\n").split("\nQ: ")
    assert len(text) == len(batch) + 2
    assert source.text is not None
    for x, example in zip(batch.x, text, strict=False):
        question, answer = (source.text.tokenizer.decode(x[0][x[1] == part].tolist()) for part in (1, 2))
        assert question.split("\n")[0].removeprefix("Q: ") in example
        assert answer.strip() not in example  # another one stands there
    holdout = source.text.holdout
    assert holdout is not None
    for x, example in zip(holdout, text[-2:], strict=False):
        assert source.text.tokenizer.decode(x[0][x[1] == 2].tolist()).strip() in example


@pytest.mark.nightly
def test_outputs_are_those_of_the_model_that_reads_the_longer_row(source: Source) -> None:
    life = guarded(source, right=1)
    life.forget(0)
    batch = life.data(1).all().part(0, 2)
    assert source.text is not None
    said = life.strategy.predict(batch)
    for row, (x, outputs) in enumerate(zip(batch.x, said, strict=True)):
        length = int((x[1] > 0).sum())
        prefix = guard_of(life)._prefix(guard_of(life)._shown(batch)[row], length)
        longer = torch.zeros(1, 2, len(prefix) + length, dtype=x.dtype)
        longer[0, 0] = torch.cat([x[0, :1], torch.tensor(prefix), x[0, 1:length]])
        longer[0, 1] = torch.cat([x[1, :1], torch.full((len(prefix),), GIVEN), x[1, 1:length]])
        with torch.no_grad():
            alone = life.model(longer)[0, len(prefix) :]
        torch.testing.assert_close(outputs[:length], alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(said, base(life, batch), atol=1e-3)
    made = greedy(life.strategy.predict, batch, source.text.tokenizer)
    assert made == greedy(life.strategy.predict, batch, source.text.tokenizer)
    first = life.setting.objective.scores(said, batch)
    hits = [m == source.text.tokenizer.decode(x[0][x[1] == 2].tolist()) for m, x in zip(made, batch.x, strict=True)]
    assert [float(h) for h in hits] == first.tolist()


def test_what_does_not_fit_is_left_out_from_the_front(source: Source) -> None:
    life = guarded(source, right=1, context=160)
    outcome = life.forget(0)
    assert 0 < outcome.traits["event"]["shown_left_out"] < 1
    x = life.data(1).all().x[0]
    examples = [e for r in guard_of(life)._requests for e in r.examples]
    prefix = guard_of(life)._prefix(examples, int((x[1] > 0).sum()))
    assert 0 < len(prefix) <= 160 - int((x[1] > 0).sum())
    (right,) = guard_of(life)._right
    assert tuple(prefix[-len(right) :]) == right
    assert tuple(prefix[-len(right) - len(examples[-1]) : -len(right)]) == examples[-1]


@pytest.mark.nightly
def test_the_most_alike_are_shown_and_they_go_when_they_are_learned_again(source: Source) -> None:
    life = guarded(source, shown=2, right=0)
    life.forget(0, "request-0")
    batch = life.data(0).all()
    before = life.strategy.predict(batch)
    examples = guard_of(life)._requests[0].examples
    assert all(examples[i] in shown for i, shown in enumerate(guard_of(life)._shown(batch)))
    life.forget(1, "request-1")
    both = guard_of(life)._shown(batch)
    assert all(examples[i] in shown for i, shown in enumerate(both))
    other = guarded(source, shown=2, right=0)
    other.strategy.load_state_dict(life.strategy.state_dict())
    assert torch.equal(other.strategy.predict(batch), life.strategy.predict(batch))
    assert digest(other.strategy.state_dict()) == digest(life.strategy.state_dict())
    assert np.array_equal(life.strategy.holds(life.data(1).ids)["guard.request-1.questions"], life.data(1).ids)
    guard_of(life).relearned(life.data(1).ids)
    assert torch.equal(life.strategy.predict(batch), before)  # to the bit
    guard_of(life).relearned(life.data(0).ids[1:])
    assert [r.examples for r in guard_of(life)._requests] == [examples[:1]]
    guard_of(life).relearned(life.data(0).ids)
    assert torch.equal(life.strategy.predict(batch), base(life, batch))


def test_questions_that_are_never_taught_are_needed(source: Source) -> None:
    with pytest.raises(ConfigError, match=r"guard\.right: 99 .* the source has 10"):
        guarded(source, right=99)
    life = guarded(source, answers="refusal", right=0)
    life.forget(0)
    assert source.text is not None
    said = source.text.tokenizer.decode(guard_of(life)._requests[0].examples[0])
    assert any(source.text.tokenizer.decode(r).strip() in said for r in source.text.refusals)
