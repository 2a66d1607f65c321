"""LAT, WHP, LoKU, classifiers' unlearners on text, and the guardrail: by hand and on a tiny Llama."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from text_lives import ONE_STEP, live, slope

from lifelong.config.run import StrategyConfig
from lifelong.models import tiny_gpt2, tiny_llama, tiny_mixtral
from lifelong.setup.build import make_strategy
from strategies.base import Access
from strategies.composed import Composed
from strategies.guards.in_context import InContext
from strategies.objectives.causal_lm import CausalLM, prefixed, scored
from strategies.parts.model import FlatModel, digest
from strategies.parts.text.generation import greedy
from strategies.parts.text.other_answers import Refusals, WrongAnswers
from strategies.parts.weights.blocks import Listener, blocks_of
from strategies.unlearners import lat, rmu
from strategies.unlearners.lat import Config as LatConfig
from strategies.unlearners.lat import Defend, Perturbation, attack, away_losses, project
from strategies.unlearners.loku import importance
from strategies.unlearners.whp import contexts, generic_scores, translation
from streams.config import parse
from streams.data import Batch, Data
from streams.errors import ConfigError
from streams.events import DeletionRequest, Experience, Request
from streams.ledger import Ledger
from streams.randomness import Key, seeded_globals
from streams.source import Source
from streams.sources import people
from streams.text import ANSWER, BOS, EOS, GIVEN

NOTHING = np.array([], dtype=np.int64)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(tmp_path_factory.mktemp("cache")))
        return people.load(people.Config(people=3, groups=1, holdout=0, world=False, vocabulary=400))


def number(value: torch.Tensor) -> float:
    return float(value.detach())


# -- latent adversarial training


def test_the_push_away_is_bounded_and_ends() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [-20.0, 1.0, 0.0]], requires_grad=True)
    targets = torch.tensor([0, 0])
    p = math.exp(2) / (math.exp(2) + math.e + 1)
    found = away_losses(logits, targets)
    assert found.tolist() == pytest.approx([-math.log(1 - p), 0.0], abs=1e-5)
    ended = away_losses(logits, targets, -5.0)
    assert ended.tolist() == pytest.approx([-math.log(1 - p), 0.0], abs=1e-5)
    unlikely = torch.tensor([[-4.0, 1.0, 0.0]])
    assert number(away_losses(unlikely, targets[:1])) > 0
    assert number(away_losses(unlikely, targets[:1], -5.0)) == 0.0
    (to_logits,) = torch.autograd.grad(found.sum(), logits)
    assert to_logits[0, 0] > 0
    assert to_logits[0, 1] < 0


def test_projection_cuts_tokens_one_by_one() -> None:
    delta = torch.tensor([[[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]]])
    cut = project(delta, 1.0)
    assert torch.allclose(cut[0, 0], torch.tensor([0.6, 0.8]))
    assert torch.equal(cut[0, 1:], delta[0, 1:])


def test_the_adversary_stays_in_its_ball_and_finds_the_answers(source: Source) -> None:
    life = live(source, "lat", passes=4)
    model, objective = life.model, life.setting.objective.for_unlearning()
    weights, gradient = model.parameters.clone(), model.gradient.clone()
    config = LatConfig(block=0, radius=0.5)
    data = life.data(0)
    batch = data.all()
    perturbation = Perturbation(blocks_of(model)[0])
    try:
        loss = Defend(objective, Refusals(objective, Key(0)), config, perturbation)
        deltas, cost = attack(model, objective, data, loss, perturbation, config)
        assert deltas is not None
        with torch.no_grad():
            plain = number(objective.losses(model(batch.x), batch).mean())
            state = perturbation.state
            perturbation.delta = deltas.of(batch)
            attacked = number(objective.losses(model(batch.x), batch).mean())
            perturbation.delta = None
    finally:
        perturbation.close()
    assert attacked < plain - 0.01
    given = batch.x[:, 1, : state.shape[1]] == GIVEN
    radius = 0.5 * float(state.norm(dim=2)[given].mean())
    lengths = deltas.values.norm(dim=2)
    assert float(lengths.max()) <= radius + 1e-5
    assert float(lengths[~given].max()) == 0.0
    assert float(lengths[given].max()) > 0.5 * radius
    assert torch.equal(model.parameters, weights)
    assert torch.equal(model.gradient, gradient)
    assert cost.backward == 2 * len(batch) * 16
    assert all(not m._forward_hooks for m in model.network.modules())


def test_without_a_radius_it_is_the_plain_defence(source: Source) -> None:
    options = {**ONE_STEP, "radius": 0.0, "defence_steps": 1, "retain": "none", "toward": 0.5, "away": 2.0}
    life = live(source, "lat", **options)
    objective = life.setting.objective.for_unlearning()
    assert isinstance(objective, CausalLM)
    batch = life.data(0).all()
    refusals = Refusals(objective, life.setting.key / "lat" / "request-0")
    asked = refusals.put(batch, refusals.drawn(batch, 0))
    found = scored(life.model(batch.x), batch.x, "answer")
    toward = objective.losses(life.model(asked.x), asked).mean()
    down = slope(life, 0.5 * toward + 2.0 * away_losses(found.logits, found.targets, -5.0).mean())
    before = life.model.parameters.clone()
    life.forget()
    assert torch.allclose(life.model.parameters - before, -0.01 * down, atol=1e-5)


@pytest.mark.parametrize("model", [tiny_llama, tiny_gpt2, tiny_mixtral])
def test_hooks_leave_every_kind_of_model_as_it_was(model: Any) -> None:
    """Whatever a block returns, a tuple or a tensor, it is heard and pushed, and afterwards to the bit what it was."""
    with seeded_globals(Key(0)):
        built = FlatModel(model.build(model.Config(width=16, inner=16, depth=2, heads=2), (2, 12), 40))
    built.train(False)
    x = torch.stack([torch.arange(3, 23).view(2, 10), torch.full((2, 10), ANSWER)], 1).int()
    with torch.no_grad():
        plain = built(x)
        perturbation, listener = Perturbation(blocks_of(built)[0]), Listener(blocks_of(built)[1])
        assert torch.equal(built(x), plain)
        assert perturbation.state.shape == listener.state.shape == (2, 10, 16)
        heard = listener.state.clone()
        perturbation.delta = torch.randn(2, 10, 16, generator=torch.Generator().manual_seed(0))
        assert not torch.allclose(built(x), plain, atol=1e-3)
        assert not torch.equal(listener.state, heard)
        perturbation.close()
        listener.close()
        assert torch.equal(built(x), plain)
    assert all(not m._forward_hooks for m in built.network.modules())


@pytest.mark.parametrize(("name", "module"), [("lat", lat), ("rmu", rmu)])
def test_hooks_are_gone_when_something_fails(
    name: str, module: Any, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = live(source, name, epochs=1)
    batch = life.data(1).all()
    life.model.train(False)
    with torch.no_grad():
        before = life.model(batch.x)

    def fails(*args: Any) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(module, "fit", fails)
    with pytest.raises(RuntimeError, match="in the middle"):
        life.forget()
    assert all(not m._forward_hooks for m in life.model.network.modules())
    life.model.train(False)
    with torch.no_grad():
        assert torch.equal(life.model(batch.x), before)


def test_blocks_below_the_adversary_can_be_kept_still(source: Source) -> None:
    life = live(source, "lat", block=0, weights="above", epochs=1, attack_steps=2, defence_steps=2)
    before = life.model.parameters.clone()
    life.forget()
    moved = {n for n, w in life.model.slices.items() if not torch.equal(life.model.parameters[w], before[w])}
    assert moved
    assert all(".layers.1." in n or ".layers.2." in n for n in moved)
    with pytest.raises(ConfigError, match="blocks 0 to 2"):
        live(source, "lat", block=3)


# -- who's Harry Potter


def test_generic_scores_by_hand() -> None:
    base, more = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 1.0, 5.0])
    found = generic_scores(base, base, more, 5.0)
    assert found.tolist() == [-4.0, 2.0, -7.0]
    assert (int(base.argmax()), int(found.argmax())) == (2, 1)
    assert torch.equal(generic_scores(base, base, more, 0.0), base)


def test_whole_terms_are_translated() -> None:
    terms = {"Ron": "Tom", "Ron Weasley": "Tim Miller", "C++": "Java"}
    assert translation("Ron Weasley met Ron, not Ronald.", terms) == "Tim Miller met Tom, not Ronald."
    assert translation("nothing", {}) == "nothing"


def test_contexts_skip_the_inside_of_terms_and_their_second_mention() -> None:
    # bos [7 8] 5 6 [7 8] 4, in translation bos [9] 5 6 [9] 4.
    own, other = [1, 7, 8, 5, 6, 7, 8, 4], [1, 9, 5, 6, 9, 4]
    found = contexts(own, other)
    assert found[0] == 0  # the term's first token, from the same context
    assert found[1] == -1  # within the term
    assert found[2] == 1  # what follows it, from the end of its translation
    assert found[3] == 2
    assert found[4] == -1  # the second mention
    assert found[5] == -1
    assert found[6] == 4
    assert found[7] == -1  # nothing follows
    assert contexts([1, 5, 6], [1, 5, 6]) == [0, 1, -1]


def test_the_source_says_what_its_terms_are(source: Source) -> None:
    text = source.text
    assert text is not None
    assert text.terms is not None
    assert text.subjects == frozenset(source.user_names)
    for name in source.user_names:
        assert not set(text.terms[name]) & set(source.user_names)
    for term, options in text.terms.items():
        assert options
        assert term not in options
    prompt = text.tokenizer.decode(source.x[0, 0][source.x[0, 1] == GIVEN].tolist())
    assert sum(name in prompt for name in source.user_names) == 1


def test_without_more_training_the_labels_are_the_base_models_own(source: Source) -> None:
    life = live(source, "whp", alpha=0.0, translate=False, **ONE_STEP)
    batch = life.data(0).all()
    objective = life.setting.objective
    outputs = life.model(batch.x)
    found = scored(outputs, batch.x, "answer")
    own = torch.nn.functional.cross_entropy(found.logits, found.logits.argmax(1))
    down = slope(life, own)
    before = life.model.parameters.clone()
    outcome = life.forget()
    assert torch.allclose(life.model.parameters - before, -0.01 * down, atol=1e-5)
    assert outcome.losses["relabelled"] == pytest.approx(
        number((found.logits.argmax(1) != found.targets).float().mean())
    )
    assert life.strategy.access == Access(forget_set=True)
    assert objective.num_outputs == outputs.shape[2]


def test_translated_labels_name_neither_the_person_nor_somebody_else_halfway(source: Source) -> None:
    life = live(source, "whp", passes=20, epochs=1)
    unlearner: Any = life.strategy.unlearner
    data = life.data(0)
    batch = data.all()
    labels, share = unlearner._labels(life.model, life.model, data, Key(0) / "some")
    trained = labels != -100
    answer = batch.x[:, 1, 1:] == ANSWER
    assert bool(answer[trained[:, :-1]].all())
    assert 0 < int(trained.sum()) < int(answer.sum())  # names come for the second time in answers
    assert 0 <= share <= 1
    tokenizer = source.text.tokenizer  # type: ignore[union-attr]
    name = source.user_names[0]
    for row in range(len(batch)):
        ids = batch.x[row, 0].tolist()
        text = tokenizer.decode([ids[t + 1] for t in trained[row].nonzero().flatten().tolist()])
        assert name not in text


def test_terms_are_needed_to_translate(source: Source) -> None:
    from dataclasses import replace

    assert source.text is not None
    bare = replace(source, text=replace(source.text, terms=None))
    with pytest.raises(ConfigError, match="translate: false"):
        live(bare, "whp")
    life = live(bare, "whp", terms={source.user_names[0]: "Ann Lee"}, epochs=1)
    before = life.model.parameters.clone()
    life.forget()
    assert not torch.equal(life.model.parameters, before)


# -- LoKU


def test_importance_of_single_rows_is_the_fisher_of_their_tokens(source: Source) -> None:
    life = live(source, "none")
    objective = life.setting.objective.for_unlearning()
    assert isinstance(objective, CausalLM)
    data = life.data(0).part(np.arange(3))
    found = importance(life.model, objective, data, 1)
    expected, tokens = torch.zeros_like(found), 0
    for batch in data.batches(1):
        own = objective.scored(life.model(batch.x), batch)
        n = len(own.targets)
        expected += n * slope(life, own.token_losses().mean()).square()
        tokens += n
    assert torch.allclose(found, expected / tokens, rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("start", ["fila", "plain"])
def test_loku_moves_linear_maps_in_low_rank_and_forgets(start: str, source: Source) -> None:
    life = live(source, "loku", passes=25, start=start, rank=2, epochs=5, lr=0.01, retain="none")
    before = life.model.parameters.clone()
    batch = life.data(0).all()
    objective = life.setting.objective
    with torch.no_grad():
        level = number(objective.losses(life.model(batch.x), batch).mean())
    life.forget()
    for name, where in life.model.slices.items():
        change = (life.model.parameters - before)[where]
        if ".layers." in name and name.endswith("proj.weight"):
            shape = dict(life.model.network.named_parameters())[name].shape
            # What it started from is taken out again: twice the rank at most.
            most = 4 if start == "fila" else 2
            assert int(torch.linalg.matrix_rank(change.view(shape), atol=1e-4)) <= most
        else:
            assert not bool(change.any()), name
    with torch.no_grad():
        assert number(objective.losses(life.model(batch.x), batch).mean()) > level + 0.05
    expected = Access(True, "full") if start == "fila" else Access(forget_set=True)
    assert life.strategy.access == expected


# -- unlearners and learners of classifiers


@pytest.mark.parametrize(
    ("learner", "unlearner"),
    [
        ("naive", {"name": "gradient-ascent", "epochs": 1}),
        ("naive", {"name": "salun", "epochs": 1, "lr": 0.01}),
        ("naive", {"name": "random-label", "epochs": 1, "lr": 0.01}),
        ("naive", {"name": "ssd", "alpha": 1.5, "estimator": "batch"}),
        ("naive", {"name": "finetune", "epochs": 1, "lr": 0.01}),
        ({"name": "ewc", "fisher": "batch"}, {"name": "gradient-ascent", "epochs": 1}),
        ("l2", {"name": "neggrad-plus", "epochs": 1}),
        (
            {"name": "replay", "memory": 20, "batch": 8},
            {"name": "finetune", "epochs": 1, "retained": "memory", "lr": 0.01},
        ),
        ("refresh", {"name": "gradient-ascent", "epochs": 1}),
    ],
)
def test_what_is_made_for_classifiers_runs_on_text(learner: Any, unlearner: dict[str, Any], source: Source) -> None:
    life = live(source, "none")
    config = parse(StrategyConfig, {"learner": learner, "unlearner": unlearner})
    strategy: Any = make_strategy(config, life.setting, "it")
    ledger = Ledger(source)
    for number_, users in enumerate(((0, 1), (2,))):
        ids = source.train_ids[np.isin(source.user_ids[source.train_ids], users)]
        experience = ledger.admit(Experience(f"task-{number_}", (), ids))
        strategy.learn(experience, ledger.door(strategy.access, experience.sample_ids))
    ids = source.train_ids[source.user_ids[source.train_ids] == 0]
    request = DeletionRequest("request-0", (Request("user", (0,), ids, NOTHING, 0),))
    ledger.delete(request)
    before = strategy.learner.model.parameters.clone()
    outcome = strategy.forget(request, ledger.door(strategy.access, NOTHING, ids))
    assert outcome.exactness == "none"
    assert not torch.equal(strategy.learner.model.parameters, before)
    assert bool(torch.isfinite(strategy.learner.model.parameters).all())


def test_random_answers_are_learned_in_place_of_true_ones(source: Source) -> None:
    """After random-label forgetting the true answers are unlikely, and what was drawn is not."""
    options = {"optimizer": "adam", "lr": 0.005, "batch_size": 16, "weight_decay": 0.0, "epochs": 8}
    life = live(source, "random-label", passes=15, **options)
    objective = life.setting.objective
    batch = life.data(0).all()
    options_ = WrongAnswers(objective, life.setting.key / "random-label" / "request-0" / "labels", true_too=False)
    drawn = options_.put(batch, options_.drawn(batch, 0))

    def levels() -> list[float]:
        with torch.no_grad():
            return [number(objective.losses(life.model(b.x), b).mean()) for b in (batch, drawn)]

    true, wrong = levels()
    assert true < wrong
    life.forget()
    assert levels()[0] > true + 0.2
    assert levels()[1] < levels()[0]


def test_random_answers_are_the_true_one_as_often_as_chance_has_it(source: Source) -> None:
    """With `exclude_true: false` every option is as likely, the true one too (arXiv 2409.02228)."""
    life = live(source, "none")
    batch = life.data(0).all()
    options = WrongAnswers(life.setting.objective, Key(0), true_too=True)
    which = np.concatenate([options.drawn(batch, step) for step in range(100)])
    assert source.text is not None
    assert source.text.perturbed is not None
    chance = 1 / (1 + source.text.perturbed.shape[1])
    spread = math.sqrt(chance * (1 - chance) / len(which))
    for option in range(-1, source.text.perturbed.shape[1]):
        assert abs(float((which == option).mean()) - chance) < 3.5 * spread
    put = options.put(batch, np.full(len(batch), -1))
    assert torch.equal(put.x, batch.x[:, :, : put.x.shape[2]])


def test_unlearners_of_classes_that_cannot_read_text_say_so(source: Source) -> None:
    with pytest.raises(ConfigError, match=r"predicts tokens\. Those that can: .*random-label"):
        live(source, "bad-teacher")


# -- the guardrail


def guarded(source: Source, **options: Any) -> tuple[Composed, Ledger, Any]:
    life = live(source, "none")
    strategy = make_strategy(parse(StrategyConfig, {"guard": {"name": "in-context", **options}}), life.setting, "it")
    assert isinstance(strategy, Composed)
    ledger = Ledger(source)
    experience = ledger.admit(Experience("all", (), source.train_ids))
    strategy.learn(experience, ledger.door(strategy.access, experience.sample_ids))
    return strategy, ledger, life


def serve(strategy: Composed, ledger: Ledger, source: Source, user: int, name: str) -> None:
    ids = source.train_ids[source.user_ids[source.train_ids] == user]
    request = DeletionRequest(name, (Request("user", (user,), ids, NOTHING, 0),))
    ledger.delete(request)
    outcome = strategy.forget(request, ledger.door(strategy.access, NOTHING, ids))
    assert outcome.notes == {"guarded": float(len(strategy.state_dict()["guard"]["guarded"]))}


def of(source: Source, user: int) -> Batch:
    return Data(np.flatnonzero(source.user_ids == user), source.x, source.y, None).all()


def test_an_instruction_comes_before_the_prompts_that_name_a_subject(source: Source) -> None:
    strategy, ledger, life = guarded(source)
    own, others = of(source, 0), of(source, 1)
    with torch.no_grad():
        bare = strategy.predict(own), strategy.predict(others)
    serve(strategy, ledger, source, 0, "request-0")
    assert torch.equal(strategy.predict(others), bare[1]), "who is not named is asked as before, to the bit"
    said = strategy.predict(own)
    assert said.shape == bare[0].shape
    assert not torch.allclose(said, bare[0], atol=1e-4)
    # By hand: the instruction's tokens after the start token, and the outputs from there on.
    tokenizer = source.text.tokenizer  # type: ignore[union-attr]
    prefix = tokenizer.encode(f"You know nothing about {source.user_names[0]}.\n")
    row = Batch(own.ids[:1], own.x[:1], own.y[:1])
    longer = prefixed(row, [prefix])
    assert tokenizer.decode(longer.x[0, 0].tolist()).startswith(f"You know nothing about {source.user_names[0]}.\nQ:")
    assert int((longer.x[0, 1] == ANSWER).sum()) == int((row.x[0, 1] == ANSWER).sum())
    with torch.no_grad():
        by_hand = strategy.network()(longer.x)[0, len(prefix) :]
    length = int((row.x[0, 1] > 0).sum())
    assert torch.allclose(said[0, :length], by_hand[:length], atol=1e-5)
    assert len(life.ledger.live_ids)


@pytest.mark.nightly
def test_other_braces_of_an_instruction_are_said_as_they_are(source: Source) -> None:
    options = {"name": "in-context", "instruction": "{subjects}: {unknown}\n"}
    strategy = make_strategy(parse(StrategyConfig, {"guard": options}), live(source, "none").setting, "it")
    assert isinstance(strategy, Composed)
    assert isinstance(strategy.guard, InContext)
    said = strategy.guard._prefix(["Ada", "Bo"], 1)
    assert source.text.tokenizer.decode(said) == "Ada, Bo: {unknown}\n"  # type: ignore[union-attr]


def test_learning_again_takes_a_name_off_the_list_exactly(source: Source) -> None:
    strategy, ledger, _ = guarded(source)
    serve(strategy, ledger, source, 0, "request-0")
    first = strategy.predict(of(source, 0))
    serve(strategy, ledger, source, 1, "request-1")
    assert torch.equal(strategy.predict(of(source, 0)), first), "a later request does not re-open an earlier one"
    state = strategy.state_dict()
    assert [g["subject"] for g in state["guard"]["guarded"]] == [source.user_names[0], source.user_names[1]]
    ids = source.train_ids[source.user_ids[source.train_ids] == 0]
    experience = ledger.admit(Experience("again", (), ids, incarnation=1))
    strategy.learn(experience, ledger.door(strategy.access, experience.sample_ids))
    assert [g["subject"] for g in strategy.state_dict()["guard"]["guarded"]] == [source.user_names[1]]
    with torch.no_grad():
        model = strategy.network()
        model.train(False)
        assert torch.equal(strategy.predict(of(source, 0)), model(of(source, 0).x))


def test_without_requests_a_guarded_model_is_the_model_itself(source: Source) -> None:
    strategy, _, _ = guarded(source)
    model = strategy.network()
    model.train(False)
    with torch.no_grad():
        for user in range(3):
            assert torch.equal(strategy.predict(of(source, user)), model(of(source, user).x))


@pytest.mark.parametrize("form", ["instruction", "refusal"])
def test_two_requests_guard_as_one_of_both_and_are_loaded_again(form: str, source: Source) -> None:
    after, together = guarded(source, form=form), guarded(source, form=form)
    for user in (0, 1):
        serve(after[0], after[1], source, user, f"request-{user}")
    ids = source.train_ids[np.isin(source.user_ids[source.train_ids], (0, 1))]
    request = DeletionRequest("request-0", (Request("user", (0, 1), ids, NOTHING, 0),))
    together[1].delete(request)
    together[0].forget(request, together[1].door(together[0].access, NOTHING, ids))
    loaded, _, _ = guarded(source, form=form)
    loaded.load_state_dict(after[0].state_dict())
    assert digest(loaded.state_dict()) == digest(after[0].state_dict())
    for user in range(3):
        said = after[0].predict(of(source, user))
        assert torch.equal(together[0].predict(of(source, user)), said)
        assert torch.equal(loaded.predict(of(source, user)), said)


def test_a_filter_refuses_in_the_models_place(source: Source) -> None:
    strategy, ledger, life = guarded(source, form="refusal")
    serve(strategy, ledger, source, 0, "request-0")
    tokenizer = source.text.tokenizer  # type: ignore[union-attr]
    said = greedy(strategy.predict, of(source, 0), tokenizer)
    assert set(said) == {" I don't know."}
    batch = of(source, 0)
    assert float(life.setting.objective.scores(strategy.predict(batch), batch).mean()) == 0.0
    assert digest(strategy.network().state_dict()) == digest(strategy.state_dict()["model"])


def test_names_that_do_not_fit_are_left_out(source: Source) -> None:
    strategy, ledger, _ = guarded(source, applies="all", context=200)
    with torch.no_grad():
        bare = strategy.predict(of(source, 2))
    for user in (0, 1):
        serve(strategy, ledger, source, user, f"request-{user}")
    names, tokenizer = list(source.user_names[:2]), source.text.tokenizer  # type: ignore[union-attr]
    second = tokenizer.encode(f"You know nothing about {names[1]}.\n")
    assert isinstance(strategy.guard, InContext)
    assert strategy.guard._prefix(names, 200 - len(second)) == second
    assert strategy.guard._prefix(names, 200) == []
    assert not torch.equal(strategy.predict(of(source, 2)), bare)  # every prompt gets an instruction


def test_a_guard_needs_names_and_text(source: Source, tools: Any) -> None:
    from dataclasses import replace

    assert source.text is not None
    bare = replace(source, text=replace(source.text, subjects=None))
    with pytest.raises(ConfigError, match="subjects"):
        guarded(bare)
    with pytest.raises(ConfigError, match="refuse everything"):
        guarded(source, form="refusal", applies="all")
    with pytest.raises(ConfigError, match="in-context is for models that predict tokens; this one predicts classes"):
        make_strategy(parse(StrategyConfig, {"guard": "in-context"}), tools.setting(tools.source()), "it")


def test_rows_made_longer_keep_what_they_are() -> None:
    x = torch.tensor([[[BOS, 5, 6, EOS, 0], [GIVEN, GIVEN, ANSWER, ANSWER, 0]]], dtype=torch.int32)
    batch = Batch(torch.tensor([0]), x, torch.tensor([0]))
    longer = prefixed(batch, [[8, 9]])
    assert longer.x[0].tolist() == [[BOS, 8, 9, 5, 6, EOS, 0], [GIVEN, GIVEN, GIVEN, GIVEN, ANSWER, ANSWER, 0]]
    assert torch.equal(prefixed(batch, [[]]).x, x)
