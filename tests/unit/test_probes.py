"""MUSE's measures and the attacks on text, with models that say what they are told, and against numbers by hand."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lifelong.audits import quantise
from lifelong.audits._relearning import Relearning
from lifelong.audits.muse import Muse
from lifelong.audits.probe import Probe
from lifelong.audits.quantise import Quantise
from lifelong.audits.reintroduce import ALIAS, Reintroduce
from lifelong.audits.relearn_rest import RelearnRest
from lifelong.config.run import RunConfig
from lifelong.evaluation.planning import plan_evaluation
from lifelong.formulas.attacks import area, halves, probed, round_weights, rounded, unmoved
from lifelong.formulas.language import priv_leak
from lifelong.formulas.muse import acceleration, cut_answer, lasting, operating_point, rouge_f
from lifelong.metrics.answers import attack_auc, true_positives
from lifelong.metrics.over_stream import UTILITY, over_stream_rows
from lifelong.models import tiny_gpt2, tiny_llama
from lifelong.models._language import Decoder
from lifelong.setup.build import make_setting, make_settings, make_source, make_strategy, make_stream
from lifelong.setup.instruments import check_instruments, make_instruments
from strategies.objectives._answers import Answers
from strategies.parts.model import FlatModel, Network, digest
from strategies.parts.text.generation import continued
from strategies.parts.text.scores import choice_probability, truth_probability, truth_ratio
from strategies.step import step
from streams.config import parse
from streams.data import Batch
from streams.errors import ConfigError
from streams.events import Experience
from streams.ledger import Ledger
from streams.randomness import Key, seeded_globals
from streams.text import ANSWER, GIVEN

PEOPLE = {"name": "people", "people": 6, "groups": 2, "holdout": 3, "world": False, "vocabulary": 400}


def config_of(audits: list[str], users: list[list[int]], **more: Any) -> RunConfig:
    data: dict[str, Any] = {
        "source": PEOPLE,
        "scenario": "joint",
        "schedule": {
            "name": "explicit",
            "requests": [{"after": 1, "scope": "user", "keys": keys} for keys in users],
        },
        "objective": {"name": "causal-lm", "loss_on": "all"},
        "model": {"name": "tiny-llama", "width": 16, "inner": 24, "depth": 2, "heads": 2},
        "training": {"epochs": 1, "optimizer": "adam", "lr": 0.01, "batch_size": 40},
        "strategies": {"ascent": {"unlearner": {"name": "gradient-ascent", "epochs": 1, "batch_size": 20}}},
        "evaluation": {"audits": audits},
    }
    return parse(RunConfig, data | more)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path_factory.getbasetemp() / "text-cache"))


class World:
    """A stream of text, and what measures it."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.source = make_source(config)
        self.stream = make_stream(config, self.source)
        self.setting = make_setting(config, self.stream)
        self.plan = plan_evaluation(self.stream, config.evaluation, self.setting.objective.measurements())
        instruments = make_instruments(config.evaluation, self.stream, self.plan, self.setting, "cpu")
        self.evaluator, audits = instruments.evaluator, {a.name: a for a in instruments.audits}
        self.muse, self.reintroduce = audits.get("muse"), audits.get("reintroduce")
        self.audits = audits
        assert self.source.text is not None
        self.text = self.source.text

    def strategy(self) -> Any:
        return make_strategy(self.config.strategies["ascent"], self.setting, "strategies.ascent")


def muse_of(world: World) -> Muse:
    assert isinstance(world.muse, Muse)
    return world.muse


def reintroduce_of(world: World) -> Reintroduce:
    assert isinstance(world.reintroduce, Reintroduce)
    return world.reintroduce


class Speaker:
    """A strategy without a model of its own: behind every prompt that it knows, it says what it is told to say."""

    def __init__(self, world: World, says: dict[tuple[int, ...], list[int]]) -> None:
        self.says, self.vocabulary = says, world.text.tokenizer.vocab_size
        self.eos = world.text.tokenizer.eos

    def network(self) -> None:
        return None

    def predict(self, batch: Batch) -> torch.Tensor:
        length = int((batch.x[:, 1] > 0).sum(1).max())
        logits = torch.zeros(len(batch), length, self.vocabulary)
        for i, x in enumerate(batch.x):
            ids = tuple(x[0][x[1] > 0].tolist())
            for n in range(1, len(ids) + 1):
                begun = next((p for p in self.says if ids[: len(p)] == p and len(p) <= n), None)
                said = [] if begun is None else self.says[begun]
                at = n - len(begun or ())
                follows = said[at] if at < len(said) and list(ids[len(begun or ()) : n]) == said[:at] else self.eos
                logits[i, n - 1, follows] = 9.0
        return logits


def tokens(x: torch.Tensor) -> list[int]:
    ids: list[int] = x[0][x[1] > 0].tolist()
    return ids


# -- MUSE


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(tmp_path_factory.getbasetemp() / "text-cache"))
        return World(config_of(["muse", "reintroduce"], [[1], [4]]))


def halves_of(world: World, keep: int) -> dict[tuple[int, ...], list[int]]:
    """The first half of every deleted text, and `keep` tokens of its second half."""
    audit = world.plan.requests[0]
    made = {}
    for i in world.plan.ids[audit.forget]:
        ids = tokens(world.source.x[i])
        cut = len(ids) // 2
        made[tuple(ids[:cut])] = ids[cut:][:keep]
    return made


def test_verbatim_memory_of_who_knows_all_and_of_who_says_nothing(world: World) -> None:
    audit = world.plan.requests[0]
    positions = audit.forget
    everything = muse_of(world).verbatim(Speaker(world, halves_of(world, 99)), positions)  # type: ignore[arg-type]
    nothing = muse_of(world).verbatim(Speaker(world, {}), positions)  # type: ignore[arg-type]
    some = muse_of(world).verbatim(Speaker(world, halves_of(world, 6)), positions)  # type: ignore[arg-type]
    assert everything == 100.0
    assert nothing == 0.0
    assert 0 < some < 100


def test_verbatim_scores_by_hand() -> None:
    assert rouge_f([("a b", "a b c d")])[0] == pytest.approx(200 / 3)  # the F-measure; recall would be 100
    backwards = rouge_f([("a b c d", "d c b a")])[0]
    assert 0 < backwards < 100


def answers_of(world: World, then: str) -> dict[tuple[int, ...], list[int]]:
    made = {}
    for i in world.plan.ids[world.plan.requests[0].forget_test]:
        x = world.source.x[i]
        answer = x[0][x[1] == ANSWER].tolist()[:-1]
        made[tuple(x[0][x[1] == GIVEN].tolist())] = [*answer, *world.text.tokenizer.encode(then)]
    return made


def test_knowledge_is_cut_at_a_further_question(world: World) -> None:
    audit = world.plan.requests[0]
    for then in ("", "\n\nQ: And what then?\nA: No.", "\nQuestion: x"):
        speaker = Speaker(world, answers_of(world, then))
        assert muse_of(world).knowledge(speaker, audit.forget_test) == 100.0, then  # type: ignore[arg-type]
    rambling = Speaker(world, answers_of(world, " and so on and on."))
    assert 0 < muse_of(world).knowledge(rambling, audit.forget_test) < 100  # type: ignore[arg-type]
    assert cut_answer("Paris\n\nQuestion: x") == "Paris"
    for kept in ("The Question of Ages", "Paris\n \nRome", "Paris\nQ: Rome?", "Unquestioned"):
        assert cut_answer(kept) == kept, "MUSE cuts at a blank line, a line that begins with Question, and Question:"
    assert rouge_f([("Paris", cut_answer("Paris\n\nQuestion: x"))])[0] == 100.0


def test_examples_are_of_held_out_people_and_come_first() -> None:
    world = World(config_of(["muse"], [[1]], evaluation={"audits": {"name": "muse", "shots": 2}}))
    assert world.text.holdout is not None
    said = world.text.tokenizer.decode(muse_of(world).examples())
    assert said.count("Q:") == said.count("\nA:") == 2
    assert said.endswith("\n\n")
    many = config_of([], [[1]], evaluation={"audits": {"name": "muse", "shots": 99}})
    with pytest.raises(ConfigError, match=r"evaluation.audits.muse.shots: 99 .* has 3"):
        check_instruments(many.evaluation, world.source, world.setting)


@pytest.mark.parametrize(("answers", "fits"), [((), True), ({"tokens": 100}, True), ({"tokens": 600}, False)])
def test_greedy_text_that_is_longer_than_the_model_reads_is_refused(answers: Any, fits: bool) -> None:
    world = World(config_of([], [[1]], objective={"name": "causal-lm", "answers": dict(answers)}))
    with contextlib.nullcontext() if fits else pytest.raises(ConfigError, match=r"answers.tokens: .* at most 512"):
        check_instruments(config_of([], [[1]]).evaluation, world.source, world.setting)


def test_greedy_text_that_is_not_recorded_may_be_long() -> None:
    answers = {"tokens": 600, "records": ["wrong"]}
    world = World(config_of([], [[1]], objective={"name": "causal-lm", "answers": answers}))
    check_instruments(config_of([], [[1]]).evaluation, world.source, world.setting)


def test_what_is_kept_is_asked_without_the_deleted(world: World) -> None:
    first, second = (a.event for a in world.plan.requests)
    users = [
        set(world.source.user_ids[world.plan.ids[world.plan.kept_questions(e)]].tolist())
        for e in (first - 1, first, second)
    ]
    assert users == [{0, 1, 2, 3, 4, 5}, {0, 2, 3, 4, 5}, {0, 2, 3, 5}]
    assert world.source.is_test[world.plan.ids[world.plan.kept_questions(second)]].all()
    latest = replace(world.plan, numbers={second: (1,)})  # the deleted are gone, whether they are followed or not
    assert latest.kept_questions(second).tolist() == world.plan.kept_questions(second).tolist()


def test_operating_points() -> None:
    assert operating_point([60, 40, 33, 20], 33) == (2, False)
    assert operating_point([60, 40, 34, 50], 33) == (3, True)


def test_sustainability_of_a_curve(world: World) -> None:
    assert acceleration([100, 90, 80, 70]) == pytest.approx(1.0)
    assert acceleration([100, 90, 85]) == pytest.approx(0.75)
    assert acceleration([100, 100, 50]) is None
    assert lasting([100, 96, 94, 99]) == 1
    assert lasting([100, 94]) == 0
    work = {(0, UTILITY): 90.0, (1, UTILITY): 80.0, (2, UTILITY): 60.0}
    rows = {r.metric: r.value for r in over_stream_rows(world.stream, [], work, "exact_match")}
    assert rows["utility_slope"] == pytest.approx(-15.0)
    assert rows["utility_acceleration"] == pytest.approx(1.5)
    assert rows["utility_capacity"] == 0
    assert "utility_slope" not in {r.metric for r in over_stream_rows(world.stream, [], {}, "exact_match")}


# -- contexts


def test_what_is_put_before_a_question(world: World) -> None:
    audit = world.plan.requests[0]
    named = np.array([1])
    name = world.source.user_names[1]
    for own in world.plan.ids[audit.forget_test].tolist():
        assert reintroduce_of(world).context("none", own, named) == ""
        true = reintroduce_of(world).context("true", own, named)
        other = reintroduce_of(world).context("other", own, named)
        definition = reintroduce_of(world).context("definition", own, named)
        assert true is not None
        assert other is not None
        assert definition is not None
        fact = reintroduce_of(world).statement(own)
        assert fact in true
        assert true.count(name) >= 4
        assert fact not in other
        assert definition.startswith(f"{ALIAS} is {name}. ")
        assert fact.replace(name, ALIAS) in definition


def test_who_copies_from_the_context_gains_by_it(world: World) -> None:
    """A model that repeats the statement it has read answers right where the fact was put before the question."""
    audit = world.plan.requests[0]

    class Copier(Speaker):
        def predict(self, batch: Batch) -> torch.Tensor:
            length = int((batch.x[:, 1] > 0).sum(1).max())
            logits = torch.zeros(len(batch), length, self.vocabulary)
            for i, x in enumerate(batch.x):
                given = int((x[1] == GIVEN).sum())
                answer = x[0][x[1] == ANSWER].tolist()
                context = world.text.tokenizer.decode(x[0][:given].tolist())
                stated = world.text.tokenizer.decode(answer[:-1]).strip().rstrip(".").split()[-1]
                if stated in context.split("Q:")[0]:
                    logits[i, torch.arange(len(answer)) + given - 1, torch.tensor(answer)] = 20.0
            return logits

    found = reintroduce_of(world).of_request(Copier(world, {}), audit.event, audit)  # type: ignore[arg-type]
    assert found["context_none_accuracy"] == 0.0
    assert found["context_true_accuracy"] == found["context_definition_accuracy"] == 1.0
    assert found["context_other_accuracy"] < 0.4
    assert found["reintroduction_gain_accuracy"] == 1.0
    assert found["reintroduction_gain_probability"] > 0.9


# -- attacks on weights


def test_rounding_by_hand() -> None:
    weight = torch.tensor([[1.27, -0.5, 0.004], [0.0, 0.0, 0.0]])
    assert torch.allclose(rounded(weight, 8), torch.tensor([[1.27, -0.5, 0.0], [0.0, 0.0, 0.0]]), atol=1e-6)
    four = rounded(weight, 4)
    assert len({round(v, 5) for v in (four[0] / (1.27 / 7)).tolist()} - set(range(-7, 8))) == 0
    assert torch.equal(rounded(four, 4), rounded(rounded(four, 4), 4))
    draw = torch.randn(20, 50, generator=torch.Generator().manual_seed(0))
    for bits in (4, 8):
        step_size = draw.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        assert bool(((rounded(draw, bits) - draw).abs() <= step_size / 2 + 1e-6).all())
        assert torch.allclose(rounded(draw.T, bits, 0), rounded(draw, bits).T)


@pytest.mark.parametrize("module", [tiny_llama, tiny_gpt2])
def test_rounding_leaves_embeddings_norms_and_biases(module: Any) -> None:
    with seeded_globals(Key(0)):
        sizes = {"width": 16, "inner": 24, "heads": 2}
        model = FlatModel(module.build(parse(module.Config, sizes), (2, 12), 90))
    before = model.parameters.clone()
    assert isinstance(model.network.body, Decoder)
    round_weights(model.network.body.layers, 4)
    for name, where in model.slices.items():
        moved = not torch.equal(before[where], model.parameters[where])
        in_block = any(f".{kind}." in name for kind in ("layers", "h"))
        is_matrix = name.endswith("weight") and "norm" not in name and "ln_" not in name
        assert moved == (in_block and is_matrix), name


def test_robustness_and_areas() -> None:
    assert unmoved(0.4, 0.4) == 1.0
    assert unmoved(0.0, 0.3) == 0.0
    assert unmoved(0.1, 0.3) == pytest.approx(0.5)
    assert area((0, 1, 5, 10, 20), [0.3] * 5) == pytest.approx(0.3)
    assert area((0, 10), (0.0, 1.0)) == pytest.approx(0.5)


def test_what_is_relearned_is_never_looked_at() -> None:
    groups = np.array([4, 4, 9, 9, 2, 2, 7])
    taught, rest = halves(groups, np.array([9, 2, 4, 7]))
    assert groups[taught].tolist() == [9, 9, 2, 2]
    assert not set(groups[taught].tolist()) & set(groups[rest].tolist())


def test_what_is_taught_again_and_what_is_looked_at_are_the_two_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(config_of(["relearn-rest"], [[1], [4]]))
    audit, request, strategy = world.audits["relearn-rest"], world.plan.requests[0], world.strategy()
    assert isinstance(audit, RelearnRest)
    sides: list[np.ndarray] = []

    def noted(self: Relearning, model: FlatModel, again: Batch, retained: Batch, others: Batch) -> np.ndarray:
        assert len(retained) == 0
        sides.extend(batch.ids.numpy() for batch in (again, others))
        return np.zeros(len(self.looks or ()))

    monkeypatch.setattr(Relearning, "curve", noted)
    audit.of_request(strategy, 1, request)
    taught, seen = (np.unique(audit.fact_ids(ids)) for ids in sides)
    facts = np.unique(audit.fact_ids(world.plan.ids[request.forget]))
    assert np.intersect1d(taught, seen).size == 0
    assert np.array_equal(np.union1d(taught, seen), facts)


def test_what_rounding_adds_is_what_is_there_afterwards_minus_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding everything to zero leaves a model that knows nothing of the prompt."""
    world = World(config_of(["quantise"], [[1], [4]]))
    audit, request, strategy = world.audits["quantise"], world.plan.requests[0], world.strategy()
    assert isinstance(audit, Quantise)
    step(strategy, world.stream.events[0], Ledger(world.source))
    batch = audit.samples.batch(audit.asked(request.forget))
    before = audit._probability(strategy.network(), batch)
    monkeypatch.setattr(quantise, "round_weights", lambda layers, bits: [p.data.zero_() for p in layers.parameters()])
    values = audit.of_request(strategy, 0, request)
    for bits in (8, 4):
        after = values[f"int{bits}_probability"]
        assert abs(after - before) > 1e-4
        assert values[f"int{bits}_recovered"] == pytest.approx(after - before)
        assert values[f"int{bits}_robustness"] == pytest.approx(1 - abs(after - before) / (after + before))


def test_membership_at_few_false_alarms() -> None:
    non_members = np.linspace(1, 2, 100)
    assert true_positives(np.array([0.5, 0.9, 1.5]), non_members) == pytest.approx(2 / 3)
    assert true_positives(non_members, non_members) == pytest.approx(0.05)
    one = np.array([1.0])
    assert choice_probability(one, np.ones((1, 3)))[0] == pytest.approx(0.25)


def test_truth_probability_is_openunlearning_s() -> None:
    """It averages losses of wrong answers, and not their probabilities, which would give 0.3 / (0.3 + 0.17) here."""
    wrong = -np.log([0.01, 0.1, 0.4])
    ratio = truth_ratio(-np.log(0.3), wrong.tolist())
    expected = 0.3 / (0.3 + (0.01 * 0.1 * 0.4) ** (1 / 3))
    assert truth_probability(np.array([ratio]))[0] == pytest.approx(expected)
    assert truth_probability(np.array([truth_ratio(1.0, [1.0, 1.0]), truth_ratio(2e4, [1e4])])).tolist() == [0.5, 0.0]
    assert truth_probability(np.array([truth_ratio(1e4, [2e4])])).tolist() == [1.0]  # a destroyed model


# -- probes of hidden states


def test_a_probe_reads_what_is_linear_and_nothing_else() -> None:
    draw = np.random.default_rng(0)
    labels = np.repeat([0, 1], 40)
    plain, shuffled = draw.normal(size=(80, 5)), draw.permutation(labels)
    plain[:, 2] += 4 * labels
    test = draw.normal(size=(60, 5))
    truth = np.repeat([0, 1], 30)
    test[:, 2] += 4 * truth
    assert np.mean(probed(plain, labels, test) == truth) > 0.9
    assert 0.2 < np.mean(probed(plain, shuffled, test) == truth) < 0.8
    assert probed(plain, np.full(80, 7), test).tolist() == [7] * 60


class Positions:
    """A model whose only state at a position is its number."""

    def states(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [torch.arange(x.shape[2]).expand(len(x), -1).unsqueeze(2).float()]


def test_questions_are_read_at_their_end_and_answers_at_the_last_token_that_says_something() -> None:
    world = World(config_of(["probe"], [[1], [4]]))
    probe = world.audits["probe"]
    assert isinstance(probe, Probe)
    assert world.text.paraphrased is not None
    x = world.text.paraphrased[world.source.train_ids[::7]]
    asked, answered = (probe._states(Positions(), x, last)[0][:, 0] for last in (GIVEN, ANSWER))  # type: ignore[arg-type]
    for (ids, marks), question, answer in zip(x, asked.astype(int), answered.astype(int), strict=True):
        assert marks[question : question + 2].tolist() == [GIVEN, ANSWER]
        assert int(marks[answer]) == ANSWER
        assert int(ids[answer + 1]) == world.text.tokenizer.eos


# -- relearning


def test_relearning_trains_as_training_does_and_looks_as_evaluation_does(tools: Any) -> None:
    """A batch norm counts the batches that it learned from: one in every step, and none when it is looked at."""
    source = tools.source(num_classes=3, per_class=12)
    body = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU())
    for looks in (None, (0, 4)):
        model = FlatModel(Network(copy.deepcopy(body), nn.Linear(8, 3)))
        parts = [tools.lend(source, ids).all() for ids in np.array_split(source.train_ids, 3)]
        Relearning(tools.setting(source), Key(0), 4, looks).curve(model, *parts)
        assert int(model.network.body[1].num_batches_tracked) == 4


# -- the evaluator


def hooks_of(strategy: Any) -> list[int]:
    """How many hooks hang on every module. Its mode is set by whoever trains or predicts, so it tells nothing."""
    modules = strategy.learner.model.network.modules()
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in modules]


ALL = ["muse", "relearn-rest", "quantise", "reintroduce", "probe"]


@pytest.mark.nightly
def test_looking_changes_nothing_and_sees_every_change() -> None:
    """State, noise and the next lesson are those of a life that nobody looked at; other weights give other numbers."""
    looks = {"audits": [{"name": "relearn", "steps": 3}, *ALL]}
    seen, unseen = (World(config_of([], [[1], [4]], evaluation=looks)) for _ in range(2))
    strategies = [w.strategy() for w in (seen, unseen)]
    ledgers = [Ledger(w.source) for w in (seen, unseen)]
    events = seen.stream.events
    found = []
    for number, event in enumerate(events):
        for w, strategy, ledger in zip((seen, unseen), strategies, ledgers, strict=True):
            step(strategy, event, ledger)
            if w is seen:
                before = digest(strategy.state_dict())
                noise = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
                hooks = hooks_of(strategy)
                found.append(w.evaluator.evaluate(strategy, number))
                assert digest(strategy.state_dict()) == before
                assert hooks_of(strategy) == hooks
                assert torch.equal(torch.get_rng_state(), noise[0])
                assert np.random.get_state()[1].tolist() == noise[1]  # type: ignore[index]
    again = seen.evaluator.evaluate(strategies[0], len(events) - 1)
    assert found[-1].stored().keys() == again.stored().keys()
    for name, values in found[-1].stored().items():
        assert np.array_equal(values, again.stored()[name], equal_nan=True), name
    assert digest(strategies[0].state_dict()) == digest(strategies[1].state_dict())
    first, second = (f.audits["quantise"].requests["int8_probability"][0] for f in found[1:])
    assert first != second


def test_folds_follow_each_other_and_a_single_request_is_the_first_fold() -> None:
    """MUSE's chain: every request starts where the last one ended, folds are disjoint; scaling starts from the same."""
    folds = [[0], [1], [4], [5]]
    chain, at_once = World(config_of([], folds)), World(config_of([], [[0]]))
    ids = [set(r.sample_ids.tolist()) for r in chain.stream.requests]
    assert len({frozenset(i) for i in ids}) == 4
    assert sum(len(i) for i in ids) == len(set().union(*ids))
    strategies = [w.strategy() for w in (chain, at_once)]
    ledgers = [Ledger(w.source) for w in (chain, at_once)]
    digests: list[list[str]] = [[], []]
    for i, (w, strategy, ledger) in enumerate(zip((chain, at_once), strategies, ledgers, strict=True)):
        for event in w.stream.events:
            step(strategy, event, ledger)
            digests[i].append(digest(strategy.learner.model.state_dict()))
    assert digests[0][:2] == digests[1]  # the target model, and one fold less: the same to the bit
    assert len(set(digests[0])) == 5
    nested = World(config_of([], [folds[0] + folds[1]]))
    assert set(nested.stream.requests[0].sample_ids.tolist()) == ids[0] | ids[1]


@pytest.mark.slow  # half a minute
def test_sharded_retraining_keeps_utility_and_leaks_no_more_than_retraining_does() -> None:
    """MUSE's exact baseline: SISA serves a chain of folds. That it is exact to the bit on text is a contract, too."""
    world = World(
        config_of(
            ["muse"],
            [[1], [4]],
            model={"name": "tiny-llama", "width": 32, "inner": 64, "depth": 2, "heads": 4},
            training={"epochs": 30, "optimizer": "adam", "lr": 0.01, "batch_size": 20, "betas": [0.9, 0.98]},
            strategies={
                "sisa": {"isolated": {"name": "sisa", "shards": 2, "slices": 1, "aggregate": "mean"}},
                "plain": {"unlearner": "none"},
            },
        )
    )
    forgotten = np.concatenate([r.sample_ids for r in world.stream.requests])
    holdout = world.text.holdout
    assert holdout is not None

    def built(name: str, seed: int) -> Any:
        return make_strategy(world.config.strategies[name], make_settings(world.config, world.stream)(seed), name)

    def retrained(name: str, seed: int) -> Any:
        strategy, event = built(name, seed), world.stream.events[0]
        assert isinstance(event, Experience)
        kept = replace(event, sample_ids=np.setdiff1d(event.sample_ids, forgotten))
        step(strategy, kept, Ledger(world.source))
        return strategy

    def auc(strategy: Any) -> float:
        sides = []
        for x in (world.source.x[forgotten], holdout):
            nothing = torch.zeros(len(x), dtype=torch.long)
            answers = Answers(replace(world.text, holdout=x), world.setting.objective.responses)
            sides.append(answers.held_out(strategy.predict, Batch(nothing, x, nothing), 256)["min_k"])
        return attack_auc(*sides) or 0.0

    def leak(strategy: Any, reference: Any) -> float:
        found = priv_leak(auc(strategy), auc(reference))
        assert found is not None
        return abs(found)

    sisa, ledger, utility, leaks = built("sisa", 0), Ledger(world.source), [], []
    target, others = retrained("sisa", 0), [retrained("sisa", seed) for seed in (1, 2)]
    for number, event in enumerate(world.stream.events):
        step(sisa, event, ledger)
        utility.append(muse_of(world).of_stream(sisa, number)["retain_know_mem"])
        leaks.append(leak(sisa, target))
    assert leaks[0] > 90, "the model that was never asked to forget"
    assert leaks[-1] == 0.0
    assert max(leak(other, target) for other in others) > 1.0, "what another seed would be"
    # Ensembles of models that saw half of the data are no plain models, and yet not far from them in this.
    plain = [retrained("plain", seed) for seed in range(3)]
    spread = max(leak(a, b) for a in plain for b in plain)
    assert min(leak(sisa, p) for p in plain) < spread
    # Two standard errors of the difference of two means of about fifty answers, from 0 to 100 each.
    assert min(utility) > 40
    assert max(utility) - min(utility) < 16


def test_audits_of_text_need_text_and_come_as_often_as_asked() -> None:
    digits = parse(RunConfig, {"evaluation": {"audits": ["muse"]}})
    stream = make_stream(digits, make_source(digits))
    with pytest.raises(ConfigError, match=r"evaluation.audits: 'muse'.*source of text"):
        check_instruments(digits.evaluation, stream.source, make_setting(digits, stream))
    seldom = World(config_of([], [[0], [1], [2], [4]], evaluation={"audits": ["muse"], "audits_every": 3}))
    assert np.flatnonzero(seldom.plan.audited).tolist() == [1, 4]
    assert [len(seldom.plan.due(e)) for e in range(5)] == [0, 1, 2, 3, 4]


def test_earlier_requests_are_looked_at_after_learning_too(tmp_path: Path) -> None:
    groups = {"name": "domain-incremental", "kind": "natural"}
    request = {"name": "explicit", "requests": [{"after": 1, "scope": "user", "keys": [0]}]}
    often = World(config_of([], [], scenario=groups, schedule=request, evaluation={"detailed_every": 1, "audits": []}))
    seldom = World(config_of([], [], scenario=groups, schedule=request))
    later = {"name": "explicit", "requests": [{"after": 1, "scope": "user", "keys": [0], "again_after": 2}]}
    again = World(config_of([], [], scenario=groups, schedule=later, evaluation={"detailed_every": 1, "audits": []}))
    assert [len(often.plan.due(e)) for e in range(3)] == [0, 1, 1]
    assert [len(seldom.plan.due(e)) for e in range(3)] == [0, 1, 1]
    # Once its data is taught again, a request is no longer held to have been forgotten.
    assert [len(again.plan.due(e)) for e in range(4)] == [0, 1, 1, 0]


def test_greedy_text_stops_where_it_should(world: World) -> None:
    eos = world.text.tokenizer.eos
    speaker = Speaker(world, {(1, 5): [7, 8, 9, 10], (1, 6, 6): [11, eos, 12]})
    like = Batch(torch.zeros(1, dtype=torch.long), world.source.x[:1], torch.zeros(1, dtype=torch.long))
    said = continued(speaker.predict, like, [[1, 5], [1, 6, 6], [1, 5]], [3, 9, 0], world.text.tokenizer)
    decode = world.text.tokenizer.decode
    assert said == [decode([7, 8, 9]), decode([11]), ""]
