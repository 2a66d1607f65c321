"""What every strategy promises of a life that it has lived: looked at all together, since nothing is run for it.

Each promise is a function. One test checks all of them and names those that are broken.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from contract import facts
from contract.candidates import Candidate
from contract.lived import Lived, Moment, begin, generators, go_on, state_after
from contract.worlds import World

from strategies.composed import Composed
from strategies.outcome import GRADES
from strategies.parts.model import digest, num_bytes
from streams.errors import LedgerError
from streams.events import Experience
from streams.ledger import Life as Ledgered


@dataclass(frozen=True)
class Case:
    """A candidate, where it lived, and how."""

    candidate: Candidate
    world: World
    life: Lived

    @functools.cached_property
    def saved(self) -> list[bytes]:
        """What a checkpoint file holds, after each event."""
        return [on_disk(moment.state) for moment in self.life.moments]


Promise = Callable[[Case], None]


def check(promises: tuple[Promise, ...], case: Case) -> None:
    """Check all, whatever fails before.

    Raises:
        BaseExceptionGroup: names every promise that is broken, and holds what each of them said.
    """
    broken: dict[str, BaseException] = {}
    for promise in promises:
        try:
            promise(case)
        except (Exception, pytest.fail.Exception) as error:
            error.add_note(f"Promise: {promise.__name__}")
            broken[promise.__name__] = error
    if broken:
        raise BaseExceptionGroup(f"broken: {', '.join(broken)}", list(broken.values()))


def on_disk(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def through_disk(state: Any) -> Any:
    return torch.load(io.BytesIO(on_disk(state)), weights_only=True)


def holds_own(moment: Moment) -> bool:
    """Whether the state still derives from any of what this request names."""
    return any(np.isin(moment.event.sample_ids, ids).any() for ids in moment.held.values())


def unnamed(moving: World, candidate: Candidate) -> set[str]:
    """Parts of a state that took something from a request's samples, and of which `holds` names none of these.

    Two lives are held against each other, in which these samples hold something else. Weights stand still, so that what
    differs was taken from the samples themselves, and not from weights. Tensors of any type count, and plain values.
    """
    training = moving.setting.training.model_copy(update={"lr": 0.0})
    world = replace(moving, setting=replace(moving.setting, training=training))
    parts: set[str] = set()
    for index, moment in go_on(begin(world, candidate), world.stream.events).requests():
        other = world.altered(moment.event.sample_ids)
        state = state_after(other, candidate, other.stream.events[: index + 1])
        assert digest(state["model"]) == digest(moment.state["model"]), "weights moved"
        plugins = moment.state.get("plugins", {})
        differing = {name for name in plugins if digest(plugins[name]) != digest(state["plugins"][name])}
        held = [c for c, ids in moment.held.items() if np.isin(moment.event.sample_ids, ids).any()]
        parts |= {name for name in differing if not any(c.startswith(f"{name}.") for c in held)}
    return parts


def plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(k, str) and plain(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(plain(v) for v in value)
    return value is None or type(value) in (torch.Tensor, bool, int, float, str)


def state_is_tensors_and_plain_values(case: Case) -> None:
    for moment, saved in zip(case.life.moments, case.saved, strict=True):
        assert plain(moment.state)
        assert digest(torch.load(io.BytesIO(saved), weights_only=True)) == moment.digest


def state_is_a_copy(case: Case) -> None:
    # The whole life went on after each of these was taken.
    assert [digest(m.state) for m in case.life.moments] == case.life.digests


def no_sample_is_in_a_checkpoint(case: Case) -> None:
    source = case.world.stream.source
    rows = [source.x[i].numpy().tobytes() for i in source.train_ids]
    for saved in case.saved:
        assert not any(row in saved for row in rows)


def holds_nothing_exactly_if_it_claims_so(case: Case) -> None:
    exact, trains_on, graded = facts.exact(case.life.strategy), facts.trains_on(case.life.strategy), 0
    for _, moment in case.life.requests():
        exactness = moment.outcome.exactness
        assert exactness in GRADES
        graded += exactness == "bits"
        assert all(len(ids) and np.isin(ids, moment.deleted).all() for ids in moment.held.values())
        if exactness not in {"none", "certified"}:
            assert not holds_own(moment)
            assert moment.held == {} or exact == "sometimes"  # of earlier requests
        elif exact == "sometimes":
            assert moment.held != {}
        else:
            assert exact != "always"
            guarded = case.candidate.config.guard is not None  # and may keep more than the weights hold
            assert guarded or "weights" in moment.held
            reported = np.concatenate(list(moment.held.values())) if trains_on or guarded else moment.held["weights"]
            assert np.isin(moment.event.sample_ids, reported).all() or trains_on == {"draw"}
    assert graded or exact != "always"


def a_certificate_states_what_it_is_about(case: Case) -> None:
    """The grade certified comes with a guarantee, stated anew after every event, that covers earlier requests."""
    open_requests: set[str] = set()
    for moment in case.life.moments:
        outcome, stated = moment.outcome, moment.outcome.guarantee
        if outcome.exactness != "certified" and stated is None:
            continue
        assert stated is not None
        assert 0 < stated.delta < 1
        assert stated.epsilon > 0
        assert stated.sigma > 0
        if not isinstance(moment.event, Experience):
            open_requests.add(moment.event.name)
            assert (outcome.exactness == "certified") == (stated.spent[moment.event.name] <= stated.mu)
        elif moment.event.incarnation:
            open_requests &= set(stated.spent)  # what is learned again is legitimately there
        assert set(stated.spent) == set(stated.publications) == open_requests
        assert {name for name, mu in stated.spent.items() if mu > stated.mu} == set(stated.exhausted)


def what_stays_in_the_weights_is_said(case: Case) -> None:
    """Bit for bit the same model after a request, and it derives from what was named: nothing was erased."""
    for index, moment in case.life.requests():
        before = case.life.moments[index - 1].state.get("model", {}).get("parameters")
        if before is not None and isinstance(case.life.strategy, Composed):
            same = torch.equal(before, moment.state["model"]["parameters"])
            derived = np.isin(moment.event.sample_ids, moment.held.get("weights", ())).any()
            assert moment.outcome.weights_erased == (not (same and derived))


def a_guard_keeps_nothing_before_it_is_asked(case: Case) -> None:
    if case.candidate.config.guard is None:
        return
    assert num_bytes(case.world.build(case.candidate).guard.state_dict()) == 0
    first = next(index for index, _ in case.life.requests())
    assert all("guard" not in moment.state for moment in case.life.moments[:first])
    assert all("guard" in moment.state for moment in case.life.moments[first:])
    assert any(name.startswith("guard.") for _, moment in case.life.requests() for name in moment.held)


def no_raw_sample_is_kept_after_its_deletion(case: Case) -> None:
    for moment in case.life.moments:
        assert not np.isin(moment.stored, moment.deleted).any()


def learning_is_not_graded_and_costs_are_counted(case: Case) -> None:
    for moment in case.life.moments:
        outcome = moment.outcome
        assert all(type(v) is int and v >= 0 for v in (outcome.steps, outcome.forward, outcome.backward))
        assert all(type(v) is float for v in outcome.losses.values())
        if isinstance(moment.event, Experience):
            assert outcome.exactness is None
            assert outcome.steps > 0
            assert outcome.forward >= len(moment.event.sample_ids) - len(moment.deleted)


def the_ledger_is_never_violated(case: Case) -> None:
    for moment in case.life.moments:
        assert moment.door is not None
        assert moment.door.states <= {int(Ledgered.LEARNED)}
        for ids in moment.door.fetched:
            assert not np.isin(ids, moment.deleted).any()


def what_is_declared_is_what_is_read(case: Case) -> None:
    access = case.life.strategy.access
    earlier = max(len(m.door.earlier) for m in case.life.moments)
    assert any(m.door.forget_set_lent for m in case.life.moments) == access.forget_set
    assert not any(m.door.forget_set_lent for m in case.life.moments if isinstance(m.event, Experience))
    if access.retained == "full":
        assert earlier > 0
    else:
        assert (earlier > 0) == (access.retained > 0) or case.life.strategy.reads_permanent_only
        assert earlier <= access.retained


def each_half_needs_what_it_declares(case: Case) -> None:
    if not isinstance(case.life.strategy, Composed):
        return
    learner, unlearner = case.life.strategy.learner.access, case.life.strategy.unlearner.access
    learning = max(len(m.door.earlier) for m in case.life.moments if isinstance(m.event, Experience))
    forgetting = max(len(m.door.earlier) for _, m in case.life.requests())
    assert (learning > 0) == (learner.retained != 0)
    if unlearner.retained == "full" and learner.retained != "full":
        assert forgetting > learner.retained


def what_was_lent_is_closed_afterwards(case: Case) -> None:
    lent = [data for m in case.life.moments for data in m.door.lent]
    assert lent
    for data in lent:
        with pytest.raises(LedgerError):
            data.all()
        with pytest.raises(LedgerError):
            data.targets()


def global_generators_are_left_alone(case: Case) -> None:
    assert all(m.globals_kept for m in case.life.moments)
    before = generators()
    strategy = case.world.build(case.candidate)
    data = case.world.ledger().lend(case.world.stream.source.test_ids)
    (batch,) = case.world.setting.objective.batches(data, len(data))
    strategy.predict(batch)
    strategy.features(batch)
    assert generators() == before


def predicting_changes_nothing(case: Case) -> None:
    data, objective = case.world.ledger().lend(case.world.stream.source.test_ids), case.world.setting.objective
    (everything,) = objective.batches(data, len(data))
    first, features = case.life.strategy.predict(everything), case.life.strategy.features(everything)
    second = case.life.strategy.predict(everything)
    assert (first.shape[0], first.shape[-1]) == (len(data), objective.num_outputs)
    assert torch.equal(first, second)
    asked = case.life.strategy.predict(objective.asked(everything))
    assert torch.equal(first, asked), "who gave the samples and what they are labelled has no say in predictions"
    assert not first.requires_grad
    assert features is None or len(features) == len(data)
    assert digest(case.life.strategy.state_dict()) == case.life.digests[-1]
    # One by one or all at once: a sample's output does not depend on its neighbours.
    for row, batch in zip(first, objective.batches(data, 1), strict=True):
        alone = case.life.strategy.predict(batch)[0]
        among = row[: len(alone)]  # a row of text has as many positions as the longest of its batch
        finite = torch.isfinite(among)
        assert torch.equal(finite, torch.isfinite(alone))
        torch.testing.assert_close(alone[finite], among[finite], rtol=1e-4, atol=1e-5)


def a_class_deleted_is_learned_again(case: Case) -> None:
    again = next(i for i, m in enumerate(case.life.moments) if isinstance(m.event, Experience) and m.event.incarnation)
    before, after = case.life.moments[again - 1], case.life.moments[again]
    assert np.isin(after.event.sample_ids, before.deleted).all()
    assert not np.isin(after.event.sample_ids, after.deleted).any()
    assert after.digest != before.digest
    read = np.concatenate(after.door.fetched)
    assert np.isin(after.event.sample_ids, read).all()


PROMISES: tuple[Promise, ...] = (
    state_is_tensors_and_plain_values,
    state_is_a_copy,
    no_sample_is_in_a_checkpoint,
    holds_nothing_exactly_if_it_claims_so,
    a_certificate_states_what_it_is_about,
    what_stays_in_the_weights_is_said,
    a_guard_keeps_nothing_before_it_is_asked,
    no_raw_sample_is_kept_after_its_deletion,
    learning_is_not_graded_and_costs_are_counted,
    the_ledger_is_never_violated,
    what_is_declared_is_what_is_read,
    each_half_needs_what_it_declares,
    what_was_lent_is_closed_afterwards,
    global_generators_are_left_alone,
    predicting_changes_nothing,
    a_class_deleted_is_learned_again,
)
