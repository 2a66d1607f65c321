"""ECO: who is flagged, what noise does and where, and that all others are answered by the model as it is."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import text_lives
import torch
from text_lives import Life, base

from strategies.guards._names import Names
from strategies.guards.eco import ECO, climbed
from strategies.parts.model import digest
from strategies.parts.text.generation import greedy
from strategies.parts.weights.blocks import blocks_of
from streams.data import Batch
from streams.errors import ConfigError
from streams.ledger import Access
from streams.source import Source
from streams.text import GIVEN

guarded = partial(text_lives.guarded, guard="eco")
guard_of = partial(text_lives.guard_of, ECO)


def mixed(life: Life) -> Batch:
    """Rows about two people, in turn."""
    return life.data(0).part(np.arange(4)).all().concat(life.data(1).part(np.arange(4)).all())


@pytest.mark.parametrize("classifier", ["names", "words"])
def test_what_is_flagged_is_broken_and_nothing_else_changes(classifier: str, source: Source) -> None:
    life = guarded(source, classifier=classifier, threshold=0.5)
    weights = life.model.parameters.clone()
    outcome = life.forget(0)
    assert outcome.exactness == "none"
    assert outcome.weights_erased is False
    assert torch.equal(life.model.parameters, weights)
    assert life.strategy.access == Access(forget_set=True, retained=0 if classifier == "names" else "full")
    kept = life.data(1).all()
    assert torch.equal(life.strategy.predict(kept), base(life, kept))  # to the bit
    batch = mixed(life)
    said, model = life.strategy.predict(batch), base(life, batch)
    assert torch.equal(said[4:], model[4:])
    forgotten = life.data(0).all()
    objective = life.setting.objective
    before, after = (
        float(objective.losses(o, forgotten).mean()) for o in (base(life, forgotten), life.strategy.predict(forgotten))
    )
    assert after > before + 0.2  # facts are gone; how answers are put, this model knows without a name


def test_the_held_out_wording_names_the_same_people(source: Source) -> None:
    life = guarded(source, classifier="names")
    life.forget(0)
    asked = life.data(0, test=True).all()
    flags = guard_of(life)._strengths(asked)
    assert all(f is not None for f in flags)
    assert not any(guard_of(life)._strengths(life.data(2, test=True).all()))


def test_noise_lies_on_names_and_is_the_same_each_time(source: Source) -> None:
    life = guarded(source, classifier="names", sigma=3.0, dims=2)
    life.forget(0)
    guard, batch = guard_of(life), life.data(0).part(np.arange(3)).all()
    (request,) = guard._requests
    assert source.text is not None
    names = Names(source.text, None)
    for row in batch.x:
        noise = guard._noise(row, request)
        marked = names.positions(row)
        named = source.text.tokenizer.decode(row[0][marked].tolist()).strip()
        assert named in source.user_names[0] or source.user_names[0] in named
        assert noise.shape[1] == 2
        assert bool((noise[marked] != 0).all())
        assert not bool(noise[~marked].any())
        wide = torch.nn.functional.pad(row, (0, 7))
        assert torch.equal(guard._noise(wide, request)[: len(noise)], noise)  # padding draws nothing
    other = guarded(source, classifier="names", sigma=3.0, dims=2)
    other.forget(0, "request-7")
    assert not torch.equal(
        guard_of(other)._noise(batch.x[0], guard_of(other)._requests[0]), guard._noise(batch.x[0], request)
    )


def test_without_names_all_of_a_prompt_but_its_ends_is_corrupted(source: Source) -> None:
    life = guarded(source, classifier="names", subjects=("Q",))
    guard = guard_of(life)
    row = life.data(0).part(np.arange(1)).all().x[0]
    life.forget(0)
    (request,) = guard._requests
    guard._names = None
    marked = (guard._noise(row, request) != 0).any(1)
    prompt = (row[1] == GIVEN).nonzero().squeeze(1)
    assert marked.nonzero().squeeze(1).tolist() == prompt[1:-1].tolist()


def test_only_the_embeddings_of_those_tokens_change(source: Source) -> None:
    life = guarded(source, classifier="names", sigma=1.0)
    life.forget(0)
    batch = life.data(0).part(np.arange(2)).all()
    read: list[torch.Tensor] = []
    guard = guard_of(life)
    noise = torch.stack([guard._noise(x, guard._requests[0]) for x in batch.x])
    block = blocks_of(life.model)[0]
    first = block.register_forward_hook(lambda m, args, out: read.append(args[0]))
    life.strategy.predict(batch)
    first.remove()
    clean, corrupted = read
    length = corrupted.shape[1]
    assert torch.allclose(corrupted[:, :, :1] - clean[:, :length, :1], noise[:, :length], atol=1e-5)
    assert torch.equal(corrupted[:, :, 1:], clean[:, :length, 1:])
    assert not block._forward_pre_hooks  # taken out again


def test_no_noise_is_the_model_and_text_agrees_with_scores(source: Source) -> None:
    life = guarded(source, classifier="names", sigma=0.0)
    life.forget(0)
    batch = mixed(life)
    assert torch.allclose(life.strategy.predict(batch), base(life, batch), atol=1e-5)
    loud = guarded(source, classifier="names")
    loud.forget(0)
    assert source.text is not None
    said = greedy(loud.strategy.predict, batch, source.text.tokenizer)
    assert said[4:] == greedy(lambda b: base(loud, b), batch, source.text.tokenizer)[4:]
    alone = [greedy(loud.strategy.predict, batch.part(i, i + 1), source.text.tokenizer)[0] for i in range(8)]
    assert said == alone


def test_the_search_raises_noise_until_answers_are_as_unlikely_as_asked(source: Source) -> None:
    life = guarded(source, classifier="names", sigma=0.01, target=0.62, probe=0.05, rate=5.0, steps=30)
    outcome = life.forget(0)
    batch = life.data(0).all()
    likely = float(life.setting.objective.losses(life.strategy.predict(batch), batch).neg().exp().mean())
    assert likely <= 0.62 + 1e-6
    assert outcome.notes["noise_sigma"] > 0.01
    assert climbed(lambda s: 1.0, 2.0, 0.5, 3, 1.0, 0.1) == (2.0, 10)  # where nothing helps it ends
    with pytest.raises(ConfigError, match=r"guard\.sigma"):
        guarded(source, target=0.3, sigma=0.0)


def test_requests_add_up_and_go_when_they_are_learned_again(source: Source) -> None:
    life, batch = guarded(source, classifier="names"), None
    batch = mixed(life)
    life.forget(0, "request-0")
    one = life.strategy.predict(batch)
    life.forget(1, "request-1")
    both = life.strategy.predict(batch)
    assert torch.equal(both[:4], one[:4])  # the second request does nothing to what the first one hides
    assert not torch.equal(both[4:], one[4:])
    other = guarded(source, classifier="names")
    other.strategy.load_state_dict(life.strategy.state_dict())
    assert torch.equal(other.strategy.predict(batch), both)
    assert digest(other.strategy.state_dict()) == digest(life.strategy.state_dict())
    guard = guard_of(life)
    assert np.array_equal(life.strategy.holds(life.data(0).ids)["guard.request-0.classifier"], life.data(0).ids)
    guard.relearned(life.data(0).ids)
    back = life.strategy.predict(batch)
    assert torch.equal(back[:4], base(life, batch)[:4])
    guard.relearned(life.data(1).ids)
    assert life.strategy.state_dict()["guard"] == {"requests": []}
