"""What every strategy promises. All of them are found by the registry and held to all of it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from contract import facts, promises
from contract.promises import through_disk
from contract.recorded import FILE, differs, made_here, record_of, skip_elsewhere

from lifelong.setup.suitability import check_stream
from strategies.base import Access
from strategies.composed import Composed
from strategies.parts.model import digest, num_bytes
from strategies.step import step
from streams.errors import AccessError, CheckpointError, ConfigError, StreamError
from streams.events import DeletionRequest, Experience
from streams.timeline import surviving


def claims_exact(life: Any) -> bool:
    """Whether it says so of every request; whether that is true is for the tests to tell."""
    claimed = all(moment.outcome.exactness == "bits" for _, moment in life.requests())
    return claimed and facts.exact(life.strategy) != "sometimes"


def repeatable(event_index: int, life: Any) -> bool:
    """What is restored by living once more cannot be where a request had another answer than that."""
    served = any(index <= event_index for index, _ in life.requests())
    return not facts.relives(life.strategy) or claims_exact(life) or not served


def test_the_life_has_everything(kit: Any) -> None:
    events = kit.world("class-incremental").stream.events
    requests = [e for e in events if isinstance(e, DeletionRequest)]
    assert {a.scope for r in requests for a in r.requests} == {"sample", "class", "task", "user"}
    assert any(len(r.barred_ids) for r in requests)
    assert any(isinstance(e, Experience) and e.incarnation for e in events)
    assert sum(isinstance(e, Experience) and not e.incarnation for e in events) == 5


def test_the_registry_is_covered(kit: Any) -> None:
    names = {c.name for c in kit.candidates()}
    assert {"naive+retrain", "ewc+none", "replay+finetune", "ewc+replay+l2+gradient-ascent", "independent"} <= names


def test_what_is_for_other_models_is_refused(kit: Any) -> None:
    refused = 0
    for candidate in kit.candidates():
        for form in ("class-incremental", "regression"):
            if not candidate.lives(form):
                with pytest.raises(ConfigError, match=r"this one predicts (classes|numbers)\. Those that can: "):
                    kit.world(form).build(candidate)
                refused += 1
    assert refused > 10


def test_what_compares_outputs_of_classes_refuses_text(kit: Any) -> None:
    refused = ("lwf", "feature-distillation", "der", "der-plus-plus", "er-ace", "cpr", "avalanche")
    found = 0
    for candidate in kit.candidates():
        name, _, unlearner = candidate.name.partition("+")
        if name in refused and unlearner == "none":
            with pytest.raises(ConfigError, match="this one predicts tokens"):
                kit.world("text").build(candidate)
            found += 1
    assert found == len(refused)


def test_another_seed_gives_other_bits(kit: Any, candidate: Any, home: str) -> None:
    world = kit.world(candidate.place(home))
    other = kit.go_on(kit.begin(world, candidate, seed=1), world.stream.events[:1])
    assert other.digests[0] != kit.life(world, candidate).digests[0]


def check_resume(kit: Any, world: Any, candidate: Any, life: Any, index: int) -> None:
    """Restore the state after one event and live on: what is not in the state is not there."""
    moment = life.moments[index]
    state = through_disk(moment.state)
    if not repeatable(index, life):
        with pytest.raises(CheckpointError):
            kit.resumed(world, candidate, state, index)
        return
    restored, end = kit.resumed(world, candidate, state, index)
    assert restored == moment.whole
    assert end == life.wholes[-1], f"resumed after event {index}"
    assert digest(state) == moment.digest, "loading a state must not tie the strategy to it"


def test_same_seed_and_resume_give_the_same_bits(kit: Any, candidate: Any, world: Any, life: Any, every: bool) -> None:
    """A second life is the first, whatever was drawn before; with `every` one that is resumed after every event."""
    np.random.seed(3)  # noqa: NPY002 (whatever the process did before must not matter)
    torch.manual_seed(3)
    if every and not facts.relives(life.strategy):
        start, wholes, states = kit.resumed_again_and_again(world, candidate, through_disk)
        assert start == life.start
        assert wholes == life.wholes, "resumed after every event"
        assert states == life.digests, "loading a state must not tie the strategy to it"
        return
    if every:  # each restore lives the whole life again
        assert kit.wholes_of(world, candidate, world.stream.events) == [life.start, *life.wholes]
    first_request, _ = next(life.requests())
    for index in (first_request, len(life.moments) - 2):
        check_resume(kit, world, candidate, life, index)


@pytest.mark.nightly
def test_resume_at_every_event_gives_the_same_bits(kit: Any, candidate: Any, world: Any, life: Any) -> None:
    for index in range(len(life.moments)):
        if not facts.relives(life.strategy) or index % 4 == 3:  # each of their restores lives the whole life again
            check_resume(kit, world, candidate, life, index)


def test_promises(candidate: Any, world: Any, life: Any) -> None:
    promises.check(promises.PROMISES, promises.Case(candidate, world, life))


@pytest.mark.nightly  # other processors part from a record now and then: it is of one
def test_the_life_is_as_recorded(kit: Any, candidate: Any, recorded: str) -> None:
    """See `contract.recorded`, also for what to do where a change is meant."""
    records = json.loads(FILE.read_text(encoding="utf-8"))
    skip_elsewhere(records, made_here())
    expected = records.get(f"{recorded}-{candidate.name}")
    assert expected is not None, f"new here: python tests/contract/recorded.py {candidate.name}"
    difference = differs(record_of(kit.life(kit.world(candidate.place(recorded)), candidate)), expected)
    assert difference is None, f"{difference}. If that is meant: python tests/contract/recorded.py {candidate.name}"


def test_a_broken_promise_is_named_whatever_else_is_broken(kit: Any) -> None:
    def first(case: Any) -> None:
        assert case is None, "the first"

    def second(case: Any) -> None:
        with pytest.raises(ValueError, match="the second"):
            pass

    promises.check((), None)
    with pytest.raises(BaseExceptionGroup, match="broken: first, second") as caught:
        promises.check((first, lambda _: None, second), 1)
    assert [type(e).__name__ for e in caught.value.exceptions] == ["AssertionError", "Failed"]
    assert "the first" in str(caught.value.exceptions[0])


def test_reading_more_than_declared_fails(kit: Any, candidate: Any, world: Any, life: Any) -> None:
    if life.strategy.reads_permanent_only:
        pytest.skip("this life declares nothing permanent, so nothing is read")
    access = life.strategy.access
    lies = [Access(retained=access.retained)] if access.forget_set else []
    lies += [Access(access.forget_set, 0)] if access.retained != 0 else []
    for declared in lies:
        with pytest.raises(AccessError):
            kit.go_on(kit.begin(world, candidate, declared), world.stream.events)


def requests_of(life: Any, every: bool) -> list[tuple[int, Any]]:
    """Index and moment of all requests, or of the last."""
    return list(life.requests())[0 if every else -1 :]


def test_deleted_data_interferes_exactly_if_not_claimed_otherwise(
    kit: Any, candidate: Any, world: Any, life: Any, every: bool
) -> None:
    """Replace what is deleted by other data: an exact strategy ends in the same state, any other does not."""
    for index, moment in requests_of(life, every):
        other = world.altered(moment.event.sample_ids)
        same = kit.end_of(other, candidate, other.stream.events[: index + 1]) == moment.whole
        assert same == (exact_this_time(moment) or not promises.holds_own(moment)), moment.event.name


def test_what_is_kept_of_samples_is_named(kit: Any, half: Any, place: str) -> None:
    if half.config.isolated is not None or half.config.unlearner.name != "none":
        pytest.skip("learners keep things; unlearners do not, and may take them away again")
    if half.name == "refresh+none":
        pytest.skip("it is refused where weights stand still")
    assert promises.unnamed(kit.world(place), half) == set(), "holds does not name what is there"


def exact_this_time(moment: Any) -> bool:
    return moment.outcome.exactness == "bits"


def gives_up(moment: Any) -> bool:
    """Whether live samples no longer count, because what was trained on them went with the deleted ones."""
    return moment.outcome.notes.get("stranded_samples", 0) > 0


def test_exact_is_a_life_without_the_data(kit: Any, candidate: Any, world: Any, life: Any, every: bool) -> None:
    for index, moment in requests_of(life, every):
        if gives_up(moment) or (exact_this_time(moment) and moment.held):
            continue
        without = kit.end_of(world, candidate, surviving(world.stream.events[: index + 1]))
        assert (without == moment.whole) == exact_this_time(moment), moment.event.name


def test_everything_deleted_and_learned_again(kit: Any, candidate: Any, home: str, everything: str) -> None:
    world = kit.world(candidate.place(everything))
    strategy = world.build(candidate)
    if isinstance(strategy, Composed) and strategy.unlearner.needs_retained:
        with pytest.raises(ConfigError, match=r"nothing is left to retain\. Those that can: .*retrain"):
            check_stream(strategy, world.stream, "mine")
        with pytest.raises(StreamError, match="leaves nothing to retain"):  # also if nobody asked before
            kit.go_on(kit.begin(world, candidate), world.stream.events)
        return
    life = kit.life(world, candidate)
    gone, back = life.moments[-2], life.moments[-1]
    assert len(gone.deleted) == len(world.stream.source.train_ids)
    assert len(gone.stored) == 0
    assert len(back.deleted) == 0
    assert back.event.incarnation == 1
    if claims_exact(life):
        assert gone.whole == life.start
        assert kit.end_of(world, candidate, surviving(world.stream.events)) == back.whole
    data = world.ledger().lend(world.stream.source.test_ids).all()
    outputs = life.strategy.predict(data)
    assert torch.isfinite(world.setting.objective.scores(outputs, data)).all()
    assert not torch.equal(outputs, world.build(candidate).predict(data)), "what was learned again is not heard"
    assert back.digest not in (gone.digest, life.start[0])


def sizes_of(strategy: Any, world: Any) -> list[int]:
    """Let the whole life happen; bytes of the state after each experience, and of the raw samples that it keeps."""
    row, ledger, sizes = world.stream.source.x[0].numel() * 4, world.ledger(), []
    for event in world.stream.events:
        step(strategy, event, ledger)
        if isinstance(event, Experience):
            sizes.append(strategy.state_bytes() + len(strategy.stored_ids()) * row)
            assert strategy.state_bytes() == num_bytes(strategy.state_dict())
    assert len(sizes) == 30
    return sizes


def test_state_stays_as_large_as_it_is(kit: Any, candidate: Any, keeper: str) -> None:
    world = kit.world(candidate.place("online"))
    strategy = world.build(candidate)
    sizes = sizes_of(strategy, world)
    grows = max(sizes[10:]) > max(sizes[:10])
    if grows and candidate.own:
        pytest.skip(f"its state grows with what it has seen, from {max(sizes[:10])} to {max(sizes[10:])} bytes")
    assert grows == facts.grows(strategy), "a state that grows is declared: state_grows"


def test_independent_models_are_as_many_as_their_units(kit: Any) -> None:
    candidate = next(c for c in kit.candidates() if c.name == "independent")
    world = kit.world("online")
    strategy, events = world.build(candidate), [e for e in world.stream.events if isinstance(e, Experience)]
    sizes = sizes_of(strategy, world)
    assert len(strategy.state_dict()["models"]) == len({u for e in events for u in e.units}) == max(sizes) // sizes[0]
    assert all(size % sizes[0] == 0 for size in sizes)


def test_a_lazy_server_ends_where_an_eager_one_does(kit: Any, candidate: Any, home: str) -> None:
    eager, lazy = kit.world(candidate.place(home)), kit.world(candidate.place("lazy"))
    assert len(lazy.stream.requests) < len(eager.stream.requests)
    one, other = kit.life(eager, candidate), kit.life(lazy, candidate)
    if facts.exact(one.strategy) and any(gives_up(m) for life in (one, other) for m in life.moments):
        pytest.skip("what is given up with a request depends on what else was live then")
    ends = [kit.whole_of(eager, life.strategy) for life in (one, other)]  # both are asked the same
    assert (ends[0] == ends[1]) == claims_exact(one)
