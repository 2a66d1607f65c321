"""What every strategy promises. All of them are found by the registry and held to all of it."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch

from lifelong.setup.suitability import check_stream
from strategies.base import Access
from strategies.composed import Composed
from strategies.parts.model import digest, num_bytes
from strategies.step import ledger_after, restore, step
from streams.errors import AccessError, CheckpointError, ConfigError, LedgerError, StreamError
from streams.events import DeletionRequest, Experience
from streams.timeline import surviving

# The state of these grows with what they have seen; everything else must stay as large as it is.
GROWS = (
    "amnesiac-hat",
    "pall",
    "uncle",
    "cumulative",
    "adapt-infinity",
    "ccs",
    "random-selection",
    "score-selection",
    "semdedup",
    "independent",
    "frequency-replay",
    "update-log",
    "ewc(drop)",
    "ewc(recompute)",
    "sisa",
    "arcane",
    "s3t",
    "clpu-der",
    "supsup",
    "ssnet",
    "exssnet",
    "o-lora",
)
# They train on a draw: what is never drawn is not in the weights, and may have shaped the draw.
DRAWS = ("adapt-infinity", "ccs", "random-selection", "score-selection", "semdedup")
# A request may cost these more than the samples it names; they say how many.
GIVES_UP = ("s3t", "clpu-der", "pall", "amnesiac-hat")
# They read memories of what is declared permanent, and this life declares nothing so.
PERMANENT_ONLY = ("clpu-der",)
# Exact at some requests only, and they say at which: what others build on is not deleted exactly.
SOMETIMES = ("pall", "amnesiac-hat", "exssnet(none)", "ssnet(kkt,none)")
# Exact at every request, and they must not cease to be.
EXACT = (
    "retrain",
    "independent",
    "sisa",
    "arcane",
    "s3t",
    "clpu-der",
    "supsup",
    "supsup(kkt)",
    "ssnet",
    "exssnet",
    "exssnet(private)",
)


def through_disk(state: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def claims_exact(candidate: Any, life: Any) -> bool:
    """Whether it says so of every request; whether that is true is for the tests to tell."""
    claimed = all(moment.outcome.exactness == "bits" for _, moment in life.requests())
    return claimed and candidate.name not in SOMETIMES


def draws(candidate: Any) -> bool:
    return candidate.name.startswith(DRAWS)


def repeatable(candidate: Any, event_index: int, life: Any) -> bool:
    """Avalanche's inner state is not in a checkpoint: it is rebuilt, which a patched-up life cannot be."""
    served = any(index <= event_index for index, _ in life.requests())
    return not candidate.own_learner or claims_exact(candidate, life) or not served


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


def test_same_seed_same_bits(kit: Any, candidate: Any, world: Any, life: Any) -> None:
    np.random.seed(3)  # noqa: NPY002 (whatever the process did before must not matter)
    torch.manual_seed(3)
    again = kit.go_on(kit.begin(world, candidate), world.stream.events)
    assert again.start == life.start
    assert again.digests == life.digests


def test_another_seed_gives_other_bits(kit: Any, candidate: Any) -> None:
    world = kit.world(candidate.place("class-incremental"))
    other = kit.go_on(kit.begin(world, candidate, seed=1), world.stream.events[:1])
    assert other.digests[0] != kit.life(world, candidate).digests[0]


def test_resume_at_every_event_gives_the_same_bits(kit: Any, candidate: Any, world: Any, life: Any) -> None:
    events = world.stream.events
    for index, moment in enumerate(life.moments):
        if candidate.own_learner and index % 4 != 3:
            continue  # each restore lives the whole life again
        state = through_disk(moment.state)
        strategy, ledger = world.build(candidate), ledger_after(world.ledger(), events[: index + 1])
        if not repeatable(candidate, index, life):
            with pytest.raises(CheckpointError):
                restore(strategy, state, ledger)
            continue
        restore(strategy, state, ledger)
        assert digest(strategy.state_dict()) == moment.digest
        for event in events[index + 1 :]:
            step(strategy, event, ledger)
        assert digest(strategy.state_dict()) == life.digests[-1], f"resumed after event {index}"
        assert digest(state) == moment.digest, "loading a state must not tie the strategy to it"


def test_resume_again_and_again_gives_the_same_bits(kit: Any, candidate: Any, world: Any, life: Any) -> None:
    if candidate.own_learner:
        pytest.skip("each restore lives the whole life again")
    strategy, ledger = world.build(candidate), world.ledger()
    for index, event in enumerate(world.stream.events):
        step(strategy, event, ledger)
        state = through_disk(strategy.state_dict())
        strategy = world.build(candidate)
        restore(strategy, state, ledger)
        assert digest(strategy.state_dict()) == life.digests[index]


def plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(k, str) and plain(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(plain(v) for v in value)
    return value is None or type(value) in (torch.Tensor, bool, int, float, str)


def test_state_is_tensors_and_plain_values(life: Any) -> None:
    for moment in life.moments:
        assert plain(moment.state)
        assert digest(through_disk(moment.state)) == moment.digest


def test_state_is_a_copy(life: Any) -> None:
    # The whole life went on after each of these was taken.
    assert [digest(m.state) for m in life.moments] == life.digests


def test_no_sample_is_in_a_checkpoint(world: Any, life: Any) -> None:
    source = world.stream.source
    rows = [source.x[i].numpy().tobytes() for i in source.train_ids]
    for moment in life.moments:
        buffer = io.BytesIO()
        torch.save(moment.state, buffer)
        assert not any(row in buffer.getvalue() for row in rows)


def test_holds_nothing_exactly_if_it_claims_so(candidate: Any, life: Any) -> None:
    graded = 0
    for _, moment in life.requests():
        exactness = moment.outcome.exactness
        assert exactness in {"bits", "law", "none"}
        graded += exactness == "bits"
        assert all(len(ids) and np.isin(ids, moment.deleted).all() for ids in moment.held.values())
        if exactness != "none":
            assert not holds_own(moment)
            assert moment.held == {} or candidate.name in SOMETIMES  # of earlier requests
        elif candidate.name in SOMETIMES:
            assert moment.held != {}
        else:
            guarded = candidate.config.guard is not None  # and may keep more than the weights hold
            assert guarded or "weights" in moment.held
            everything = draws(candidate) or guarded
            reported = np.concatenate(list(moment.held.values())) if everything else moment.held["weights"]
            assert np.isin(moment.event.sample_ids, reported).all() or candidate.name.startswith("random-selection")
    assert graded or not candidate.name.endswith(EXACT)


def test_what_stays_in_the_weights_is_said(world: Any, life: Any) -> None:
    """Bit for bit the same model after a request, and it derives from what was named: nothing was erased."""
    for index, moment in life.requests():
        before = life.moments[index - 1].state.get("model", {}).get("parameters")
        if before is not None and isinstance(life.strategy, Composed):
            same = torch.equal(before, moment.state["model"]["parameters"])
            derived = np.isin(moment.event.sample_ids, moment.held.get("weights", ())).any()
            assert moment.outcome.weights_erased == (not (same and derived))


def test_a_guard_keeps_nothing_before_it_is_asked(world: Any, candidate: Any, life: Any) -> None:
    if candidate.config.guard is None:
        return
    assert num_bytes(world.build(candidate).guard.state_dict()) == 0
    first = next(index for index, _ in life.requests())
    assert all("guard" not in moment.state for moment in life.moments[:first])
    assert all("guard" in moment.state for moment in life.moments[first:])
    assert any(name.startswith("guard.") for _, moment in life.requests() for name in moment.held)


def test_no_raw_sample_is_kept_after_its_deletion(life: Any) -> None:
    for moment in life.moments:
        assert not np.isin(moment.stored, moment.deleted).any()


def test_learning_is_not_graded_and_costs_are_counted(life: Any) -> None:
    for moment in life.moments:
        outcome = moment.outcome
        assert all(type(v) is int and v >= 0 for v in (outcome.steps, outcome.forward, outcome.backward))
        assert all(type(v) is float for v in outcome.losses.values())
        if isinstance(moment.event, Experience):
            assert outcome.exactness is None
            assert outcome.steps > 0
            assert outcome.forward >= len(moment.event.sample_ids) - len(moment.deleted)


def test_the_ledger_is_never_violated(kit: Any, life: Any) -> None:
    for moment in life.moments:
        assert moment.door is not None
        assert moment.door.states <= {kit.LEARNED}
        for ids in moment.door.fetched:
            assert not np.isin(ids, moment.deleted).any()


def test_what_is_declared_is_what_is_read(candidate: Any, life: Any) -> None:
    access = life.strategy.access
    earlier = max(len(m.door.earlier) for m in life.moments)
    assert any(m.door.forget_set_lent for m in life.moments) == access.forget_set
    assert not any(m.door.forget_set_lent for m in life.moments if isinstance(m.event, Experience))
    if access.retained == "full":
        assert earlier > 0
    else:
        assert (earlier > 0) == (access.retained > 0) or candidate.name in PERMANENT_ONLY
        assert earlier <= access.retained


def test_each_half_needs_what_it_declares(life: Any) -> None:
    if not isinstance(life.strategy, Composed):
        return
    learner, unlearner = life.strategy.learner.access, life.strategy.unlearner.access
    learning = max(len(m.door.earlier) for m in life.moments if isinstance(m.event, Experience))
    forgetting = max(len(m.door.earlier) for _, m in life.requests())
    assert (learning > 0) == (learner.retained != 0)
    if unlearner.retained == "full" and learner.retained != "full":
        assert forgetting > learner.retained


def test_reading_more_than_declared_fails(kit: Any, candidate: Any, world: Any, life: Any) -> None:
    if candidate.name in PERMANENT_ONLY:
        pytest.skip("this life declares nothing permanent, so nothing is read")
    access = life.strategy.access
    lies = [Access(retained=access.retained)] if access.forget_set else []
    lies += [Access(access.forget_set, 0)] if access.retained != 0 else []
    for declared in lies:
        with pytest.raises(AccessError):
            kit.go_on(kit.begin(world, candidate, declared), world.stream.events)


def test_what_was_lent_is_closed_afterwards(life: Any) -> None:
    lent = [data for m in life.moments for data in m.door.lent]
    assert lent
    for data in lent:
        with pytest.raises(LedgerError):
            data.all()
        with pytest.raises(LedgerError):
            data.targets()


def test_global_generators_are_left_alone(kit: Any, candidate: Any, world: Any, life: Any) -> None:
    assert all(m.globals_kept for m in life.moments)
    before = kit.generators()
    strategy = world.build(candidate)
    data = world.ledger().lend(world.stream.source.test_ids).all()
    strategy.predict(data)
    strategy.features(data)
    assert kit.generators() == before


def test_predicting_changes_nothing(world: Any, life: Any) -> None:
    data = world.ledger().lend(world.stream.source.test_ids)
    first, features = life.strategy.predict(data.all()), life.strategy.features(data.all())
    second = life.strategy.predict(data.all())
    assert (first.shape[0], first.shape[-1]) == (len(data), world.setting.objective.num_outputs)
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert features is None or len(features) == len(data)
    assert digest(life.strategy.state_dict()) == life.digests[-1]
    # One by one or all at once: a sample's output does not depend on its neighbours.
    for row, batch in zip(first, data.batches(1), strict=True):
        alone = life.strategy.predict(batch)[0]
        among = row[: len(alone)]  # a row of text has as many positions as the longest of its batch
        finite = torch.isfinite(among)
        assert torch.equal(finite, torch.isfinite(alone))
        torch.testing.assert_close(alone[finite], among[finite], rtol=1e-4, atol=1e-5)


def test_deleted_data_interferes_exactly_if_not_claimed_otherwise(
    kit: Any, candidate: Any, world: Any, life: Any
) -> None:
    """Replace what is deleted by other data: an exact strategy ends in the same state, any other does not."""
    for index, moment in life.requests():
        other = world.altered(moment.event.sample_ids)
        again = kit.go_on(kit.begin(other, candidate), other.stream.events[: index + 1])
        same = again.digests[-1] == moment.digest
        assert same == (exact_this_time(moment) or not holds_own(moment)), moment.event.name


def exact_this_time(moment: Any) -> bool:
    return moment.outcome.exactness == "bits"


def holds_own(moment: Any) -> bool:
    """Whether the state still derives from any of what this request names."""
    return any(np.isin(moment.event.sample_ids, ids).any() for ids in moment.held.values())


def gives_up(moment: Any) -> bool:
    """Whether live samples no longer count, because what was trained on them went with the deleted ones."""
    return moment.outcome.notes.get("stranded_samples", 0) > 0


def test_exact_is_a_life_without_the_data(kit: Any, candidate: Any, world: Any, life: Any) -> None:
    for index, moment in life.requests():
        if gives_up(moment) or (exact_this_time(moment) and moment.held):
            continue
        without = kit.go_on(kit.begin(world, candidate), surviving(world.stream.events[: index + 1]))
        assert (without.digests[-1] == moment.digest) == exact_this_time(moment), moment.event.name


@pytest.mark.parametrize("name", ["everything", "everything-task-aware"])
def test_everything_deleted_and_learned_again(name: str, kit: Any, candidate: Any) -> None:
    world = kit.world(candidate.place(name))
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
    if claims_exact(candidate, life):
        assert gone.digest == life.start
        reborn = kit.go_on(kit.begin(world, candidate), surviving(world.stream.events))
        assert reborn.digests == [back.digest]
    data = world.ledger().lend(world.stream.source.test_ids).all()
    outputs = life.strategy.predict(data)
    assert torch.isfinite(world.setting.objective.scores(outputs, data)).all()
    assert not torch.equal(outputs, world.build(candidate).predict(data)), "what was learned again is not heard"
    assert back.digest not in (gone.digest, life.start)


def test_a_class_deleted_is_learned_again(kit: Any, candidate: Any, world: Any, life: Any) -> None:
    again = next(i for i, m in enumerate(life.moments) if isinstance(m.event, Experience) and m.event.incarnation)
    before, after = life.moments[again - 1], life.moments[again]
    assert np.isin(after.event.sample_ids, before.deleted).all()
    assert not np.isin(after.event.sample_ids, after.deleted).any()
    assert after.digest != before.digest
    read = np.concatenate(after.door.fetched)
    assert np.isin(after.event.sample_ids, read).all()


def test_state_stays_as_large_as_it_is(kit: Any, candidate: Any) -> None:
    world = kit.world(candidate.place("online"))
    life = kit.life(world, candidate)
    row = world.stream.source.x[0].numel() * 4
    learned = [m for m in life.moments if isinstance(m.event, Experience)]
    sizes = [num_bytes(m.state) + len(m.stored) * row for m in learned]
    assert len(learned) == 30
    if candidate.name == "independent":
        models = [len(m.state["models"]) for m in learned]
        assert max(models) == len({u for m in learned for u in m.event.units})
        assert all(size == count * sizes[0] for size, count in zip(sizes, models, strict=True))
    elif not candidate.name.startswith(GROWS):
        grows = max(sizes[10:]) > max(sizes[:10])
        if grows and candidate.own:
            pytest.skip(f"its state grows with what it has seen, from {max(sizes[:10])} to {max(sizes[10:])} bytes")
        assert not grows


def test_a_lazy_server_ends_where_an_eager_one_does(kit: Any, candidate: Any) -> None:
    eager, lazy = kit.world(candidate.place("class-incremental")), kit.world(candidate.place("lazy"))
    assert len(lazy.stream.requests) < len(eager.stream.requests)
    if candidate.name in GIVES_UP:
        pytest.skip("what is given up with a request depends on what else was live then")
    one, other = kit.life(eager, candidate), kit.life(lazy, candidate)
    assert (one.digests[-1] == other.digests[-1]) == claims_exact(candidate, one)
