"""CURaTE: prompts as vectors, who is refused, and what a store of prompts adds up to."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import text_lives
import torch
from text_lives import base

from strategies.base import Access
from strategies.guards._prompts import hashed_words
from strategies.guards.curate import CURaTE
from strategies.parts.model import digest
from strategies.parts.text.generation import greedy
from streams.source import Source
from streams.text import ANSWER, GIVEN

guarded = partial(text_lives.guarded, guard="curate", passes=10)
guard_of = partial(text_lives.guard_of, CURaTE)


def test_words_are_counted_and_answers_are_not() -> None:
    x = torch.zeros(4, 2, 6, dtype=torch.int32)
    x[:, 0, 0], x[:, 1, :4], x[:, 1, 4] = 1, GIVEN, ANSWER
    x[:, 0, 1:4] = torch.tensor([[5, 6, 7], [7, 5, 6], [5, 5, 6], [50, 60, 70]])
    x[:, 0, 4] = torch.tensor([9, 8, 7, 6])
    vectors = hashed_words(x, 4096)
    cosines = vectors @ vectors.T
    assert torch.allclose(cosines.diagonal(), torch.ones(4))
    assert float(cosines[0, 1]) == pytest.approx(1.0)  # the same words
    assert float(cosines[0, 2]) == pytest.approx(3 / (3 * 5) ** 0.5)  # (1, 1, 1) and (2, 1, 0)
    assert float(cosines[0, 3]) == pytest.approx(0.0)


@pytest.mark.parametrize("options", [{"tau": 0.999}, {"tau": None}, {"tau": None, "encoder": "states"}])
def test_what_is_near_is_refused_and_the_rest_is_the_model_to_the_bit(options: dict[str, Any], source: Source) -> None:
    life = guarded(source, **options)
    weights = life.model.parameters.clone()
    outcome = life.forget(0)
    assert (outcome.exactness, outcome.weights_erased) == ("none", False)
    assert torch.equal(life.model.parameters, weights)
    wanted = Access(forget_set=True) if options["tau"] else Access(forget_set=True, retained="full")
    assert life.strategy.access == wanted
    batch = life.data(0).all().concat(life.data(1).all())
    near = np.array(guard_of(life)._near(life.model, batch))
    count = len(life.data(0))
    assert near[:count].all()
    assert near[count:].mean() <= 0.1
    said, model = life.strategy.predict(batch), base(life, batch)
    for i in np.flatnonzero(~near).tolist():
        assert torch.equal(said[i], model[i])
    assert source.text is not None
    made = greedy(life.strategy.predict, batch.part(0, 12), source.text.tokenizer)
    refusals = {source.text.tokenizer.decode(list(r)) for r in source.text.refusals}
    assert set(made) <= refusals
    assert len(set(made)) > 1
    assert made == greedy(life.strategy.predict, batch.part(0, 12), source.text.tokenizer)


def test_a_later_request_changes_nothing_far_from_it(source: Source) -> None:
    life = guarded(source, tau=0.999)
    batch = life.data(0).all().concat(life.data(1).all())
    life.forget(0, "request-0")
    one = life.strategy.predict(batch)
    life.forget(1, "request-1")
    both = life.strategy.predict(batch)
    count = len(life.data(0))
    assert torch.equal(one[:count], both[:count])
    assert guard_of(life)._near(life.model, batch) == [True] * len(batch)
    other = guarded(source, tau=0.999)
    other.strategy.load_state_dict(life.strategy.state_dict())
    assert torch.equal(other.strategy.predict(batch), both)
    assert digest(other.strategy.state_dict()) == digest(life.strategy.state_dict())


def test_prompts_leave_the_store_when_they_are_learned_again(source: Source) -> None:
    life = guarded(source, tau=0.999)
    life.forget(0)
    ids = life.data(0).ids
    assert np.array_equal(life.strategy.holds(ids)["guard.request-0.features"], ids)
    guard_of(life).relearned(ids[:5])
    assert np.array_equal(life.strategy.holds(ids)["guard.request-0.features"], ids[5:])
    guard_of(life).relearned(ids[5:])
    assert life.strategy.state_dict()["guard"] == {"requests": []}
    batch = life.data(0).all()
    assert torch.equal(life.strategy.predict(batch), base(life, batch))
