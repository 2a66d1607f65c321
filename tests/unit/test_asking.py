"""Audits that ask in other forms, attack guards and look into the weights: with who knows all, and by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lifelong.audits._items import Fact, cloze, fact_of, reversed_question, with_typos
from lifelong.audits.concept_trace import ConceptTrace, traced
from lifelong.audits.evade import Evade
from lifelong.audits.lens import Lens
from lifelong.audits.rwku import PROBES, RWKU
from lifelong.config.run import RunConfig
from lifelong.evaluation.planning import plan_evaluation
from lifelong.setup.build import make_setting, make_source, make_strategy, make_stream
from lifelong.setup.instruments import make_instruments
from strategies.objectives.causal_lm import scored
from strategies.parts.weights.feed_forward import top_tokens, value_places
from streams.config import parse
from streams.data import Batch
from streams.randomness import Key
from streams.text import ANSWER, GIVEN, prompt_lengths

SURE = 30.0
"""Logit of what is said."""


class World:
    """A stream of text with one request, and what looks at it."""

    def __init__(self) -> None:
        data = {
            "source": {"name": "people", "people": 4, "groups": 1, "holdout": 2, "world": False, "vocabulary": 400},
            "scenario": "joint",
            "schedule": {"name": "explicit", "requests": [{"after": 1, "scope": "user", "keys": [1]}]},
            "objective": "causal-lm",
            "model": {"name": "tiny-llama", "width": 16, "inner": 24, "depth": 2, "heads": 2},
            "strategies": {"it": {"unlearner": "none"}},
            "evaluation": {"audits": ["rwku", {"name": "evade", "most": 5}, "lens", "concept-trace"]},
        }
        config = parse(RunConfig, data)
        self.source = make_source(config)
        self.stream = make_stream(config, self.source)
        self.setting = make_setting(config, self.stream)
        self.plan = plan_evaluation(self.stream, config.evaluation, self.setting.objective.measurements())
        instruments = make_instruments(config.evaluation, self.stream, self.plan, self.setting, "cpu")
        self.audits: dict[str, Any] = {a.name: a for a in instruments.audits}
        self.strategy: Any = make_strategy(config.strategies["it"], self.setting, "it")
        (self.request,) = self.plan.requests
        assert self.source.text is not None
        self.text = self.source.text

    @property
    def event(self) -> int:
        return self.request.event


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(tmp_path_factory.mktemp("cache")))
        return World()


class Speaker:
    """Says what it was told behind the prompts that it knows, and nothing behind others."""

    def __init__(self, world: World, says: dict[tuple[int, ...], list[int]]) -> None:
        self.says, self.size, self.end = says, world.text.tokenizer.vocab_size, world.text.tokenizer.eos

    def network(self) -> None:
        return None

    def predict(self, batch: Batch) -> torch.Tensor:
        length = int((batch.x[:, 1] > 0).sum(1).max())
        logits = torch.zeros(len(batch), length, self.size)
        logits[:, :, self.end] = SURE
        for row, x in zip(logits, batch.x, strict=True):
            given = int(prompt_lengths(x[None]))
            said = self.says.get(tuple(x[0][:given].tolist()), [])
            for place, token in enumerate(said):
                if given - 1 + place < length:
                    row[given - 1 + place] = 0.0
                    row[given - 1 + place, token] = SURE
        return logits


class Gate:
    """Knows every answer, and refuses the prompts that it was told to."""

    def __init__(self, world: World, refused: set[tuple[int, ...]]) -> None:
        self.refused, self.size = refused, world.text.tokenizer.vocab_size

    def network(self) -> None:
        return None

    def predict(self, batch: Batch) -> torch.Tensor:
        tokens = batch.x[:, 0, : int((batch.x[:, 1] > 0).sum(1).max())].long()
        logits = SURE * torch.nn.functional.one_hot(tokens.roll(-1, 1), self.size).float()
        for row, x in zip(logits, batch.x, strict=True):
            if tuple(x[0][: int(prompt_lengths(x[None]))].tolist()) in self.refused:
                row.zero_()
        return logits


def questions(world: World, positions: np.ndarray) -> dict[tuple[int, ...], list[int]]:
    rows = world.source.x[torch.from_numpy(world.plan.ids[positions])]
    return {tuple(x[0][x[1] == GIVEN].tolist()): x[0][x[1] == ANSWER].tolist() for x in rows}


def test_forms_by_hand() -> None:
    fact = fact_of(
        "Where was Ann born?", "Ann was born in Rome.", "The birthplace of Ann is Rome.", ("Rome",), ("Ann",)
    )
    assert fact == Fact("Where was Ann born?", "Ann was born in Rome.", "The birthplace of Ann is Rome.", "Ann", "Rome")
    assert cloze(fact) == "The birthplace of Ann is"
    assert reversed_question(fact) == "Who was born in Rome?"
    assert cloze(Fact("Where?", "Rome", "Rome", "Ann", "Rome")) is None
    assert reversed_question(Fact("Where?", "Rome", "Rome", None, "Rome")) is None
    spoiled = [with_typos("Where was Anna Bold born?", "Anna Bold", Key(n)) for n in range(8)]
    for text in spoiled:
        assert sorted(text) == sorted("Where was Anna Bold born?")
        assert text.startswith("W")
        words = zip(text.split(), ["Where", "was", "Anna", "Bold", "born?"], strict=True)
        assert [a != b for a, b in words][2:4].count(True) <= 1
    assert len(set(spoiled)) > 3


def test_who_knows_the_questions_and_who_knows_nothing(world: World) -> None:
    audit: RWKU = world.audits["rwku"]
    known = audit.of_request(Speaker(world, questions(world, world.request.forget)), world.event, world.request)  # type: ignore[arg-type]
    unknown = audit.of_request(Speaker(world, {}), world.event, world.request)  # type: ignore[arg-type]
    assert known["rwku_question"] == 1.0
    assert known["rwku_paraphrase"] == known["rwku_cloze"] == known["rwku_prefix"] == 0.0
    assert known["rwku_retain_question"] == 0.0
    asked = [f"rwku_{probe}" for probe in (*PROBES, "choice")]
    assert known["rwku_forget"] == pytest.approx(np.nanmean([known[name] for name in asked]))
    assert all(unknown[f"rwku_{probe}"] == 0.0 for probe in PROBES)
    assert np.isnan(known["rwku_bare"])  # there is no single model
    assert np.isnan(known["rwku_hidden"])


def test_what_the_bare_weights_know_is_hidden(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    audit: RWKU = world.audits["rwku"]
    knower = Speaker(world, questions(world, world.request.forget))
    monkeypatch.setattr(audit, "bare", lambda strategy: knower.predict)
    values = audit.of_request(Speaker(world, {}), world.event, world.request)  # type: ignore[arg-type]
    assert values["rwku_forget"] < 0.05
    assert values["rwku_bare"] > 0.1
    assert values["rwku_hidden"] == pytest.approx(values["rwku_bare"] - values["rwku_forget"])


def test_what_is_asked(world: World) -> None:
    audit: RWKU = world.audits["rwku"]
    positions = audit.some(world.request.forget, 40, "forget")
    assert len(positions) == 10  # one wording of each fact
    facts, decode = audit.facts(positions), world.text.tokenizer.decode
    name = world.source.user_names[1]
    assert {f.subject for f in facts} == {name}
    for fact in facts:
        assert fact.value in fact.answer
        assert fact.value in fact.stated
    for item, fact in zip(audit._clozes(facts), facts, strict=True):
        assert decode(item.prompt) in fact.answer or decode(item.prompt) in fact.stated
    reverse = audit._reversed(positions, facts)
    assert reverse
    for item in reverse:
        assert decode(item.prompt).startswith("Q: Who ")
        assert name not in decode(item.prompt)
        assert item.expected == name
    for item, fact in zip(audit._hinted(positions, facts), facts, strict=False):
        hint, question = decode(item.prompt).split("\n", 1)
        assert name in hint
        assert question == f"Q: {fact.question}\nA:"
    for item, fact in zip(audit._behind_others(facts), facts, strict=True):
        assert decode(item.prompt).count("Q: ") == 4
        assert decode(item.prompt).endswith(f"Q: {fact.question}\nA:")


def test_neighbours_share_a_term(world: World) -> None:
    audit: RWKU = world.audits["rwku"]
    near, far = audit.neighbours(world.event, world.request)
    assert len(near)
    assert len(far)
    gone = {t for row in world.plan.ids[world.request.forget].tolist() for t in audit._terms_of(row)}
    for positions, shares in ((near, True), (far, False)):
        for row in world.plan.ids[positions].tolist():
            assert bool(gone & set(audit._terms_of(row))) == shares
            assert world.source.user_ids[row] != 1


def test_a_choice_is_the_likeliest(world: World) -> None:
    audit: RWKU = world.audits["rwku"]
    positions = audit.some(world.request.forget, 4, "forget")
    ids = torch.from_numpy(world.plan.ids[positions])
    assert world.text.paraphrased is not None
    assert world.text.perturbed is not None
    right = {tuple(x[0][x[1] == ANSWER].tolist()) for x in world.text.paraphrased[ids]}
    second = {tuple(x[0][x[1] == ANSWER].tolist()) for x in world.text.perturbed[ids, 1]}

    def preferring(first: set[tuple[int, ...]], other: set[tuple[int, ...]]) -> Any:
        def predict(batch: Batch) -> torch.Tensor:
            tokens = batch.x[:, 0, : int((batch.x[:, 1] > 0).sum(1).max())].long()
            logits = torch.nn.functional.one_hot(tokens.roll(-1, 1), world.text.tokenizer.vocab_size).float()
            for row, x in zip(logits, batch.x, strict=True):
                answer = tuple(x[0][x[1] == ANSWER].tolist())
                row *= 20 if answer in first else 10 if answer in other else 1
            return logits

        return predict

    assert audit._choice(preferring(right, second), positions) == 1.0
    assert audit._choice(preferring(second, right), positions) == 0.0
    assert audit._choice(preferring(right, right), positions) == 1.0


@pytest.mark.nightly
def test_a_gate_of_exact_prompts_is_evaded(world: World) -> None:
    audit: Evade = world.audits["evade"]
    gate = Gate(world, set(questions(world, world.request.forget)))
    values = audit.of_request(gate, world.event, world.request)  # type: ignore[arg-type]
    assert values["evade_none"] < 0.01
    for attack in ("typo", "many_shot", "search", "paraphrase"):
        assert values[f"evade_{attack}"] > 0.9, attack
    assert values["evade_recovered"] > 0.9
    assert np.isnan(values["evade_bare"])
    open_ = audit.of_request(Gate(world, set()), world.event, world.request)  # type: ignore[arg-type]
    assert open_["evade_none"] > 0.9
    assert open_["evade_recovered"] == pytest.approx(0.0, abs=1e-6)


def test_a_search_keeps_what_is_best(world: World) -> None:
    audit: Evade = world.audits["evade"]
    positions = audit.some(world.request.forget, 5, "forget")
    pairs = audit.pairs(positions)
    tried: list[np.ndarray] = []

    def likely(predict: Any, asked: Any) -> np.ndarray:
        tried.append(np.array([(sum(q[:4]) % 97) / 97 for q, _ in asked], dtype=np.float32))
        return tried[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "_likely", likely)
        best = audit._searched(lambda batch: batch.x, positions, pairs, np.zeros(5, dtype=np.float32))
    assert len(tried) == 1 + audit.config.rounds * audit.config.tries
    assert best.tolist() == np.max(tried, axis=0).tolist()


def test_hidden_is_what_the_weights_say_and_the_guard_does_not(world: World) -> None:
    audit: Evade = world.audits["evade"]
    values = audit.of_request(world.strategy, world.event, world.request)
    assert values["evade_bare"] == pytest.approx(values["evade_none"], rel=1e-4)
    assert values["evade_hidden"] == pytest.approx(0.0, abs=1e-6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "room", lambda strategy: 8)
        narrow = audit.of_request(world.strategy, world.event, world.request)
    assert all(np.isnan(narrow[f"evade_{attack}"]) for attack in ("typo", "many_shot", "search"))
    assert narrow["evade_recovered"] == 0.0


def test_the_lens_reads_states_through_norm_and_head(world: World) -> None:
    audit: Lens = world.audits["lens"]
    values = audit.of_request(world.strategy, world.event, world.request)
    batch = audit.samples.batch(world.request.forget)
    model = world.strategy.network()
    model.train(False)
    objective = world.setting.objective
    with torch.no_grad():
        likely = objective.losses(objective.outputs(model, batch), batch).neg().exp().mean()
        state = model.network.body.states(batch.x)[1]
        tokens = scored(model.network.head(model.network.body.inner.norm(state)), batch.x, "answer")
        inner = (tokens.sums(tokens.token_losses()) / tokens.counts).neg().exp().mean()
    assert values["lens_probability_layer_2"] == pytest.approx(float(likely), rel=1e-3)
    assert values["lens_probability_layer_1"] == pytest.approx(float(inner), rel=1e-3)
    assert values["lens_probability_deepest"] == max(
        values["lens_probability_layer_0"], values["lens_probability_layer_1"]
    )
    assert "lens_hits_layer_2" in values
    assert audit.of_request(Speaker(world, {}), world.event, world.request) == {}  # type: ignore[arg-type]


def test_traces_by_hand() -> None:
    head = torch.eye(4)
    then = torch.tensor([[3.0, 2.0, 0.0, 0.0], [0.0, 0.0, 3.0, 2.0]])
    concept = torch.tensor([True, True, False, False])
    same = traced(then, then, head, head, concept, 0.5)
    assert same == {"cosine": pytest.approx(1.0), "distance": 0.0, "jaccard": 1.0, "kept": 1.0}
    now = torch.tensor([[3.0, 0.0, 2.0, 0.0], [0.0, 0.0, 6.0, 4.0]])
    moved = traced(now, then, head, head, concept, 0.5)
    assert moved["cosine"] == pytest.approx((9 / 13 + 1) / 2)
    assert moved["distance"] == pytest.approx(((8 / 13) ** 0.5 + 1) / 2)
    assert moved["jaccard"] == pytest.approx((1 / 3 + 1) / 2)
    assert moved["kept"] == 0.5  # the second vector never spoke of it


def test_a_trace_that_is_turned_round(world: World) -> None:
    audit: ConceptTrace = world.audits["concept-trace"]
    model = world.strategy.learner.model
    before = model.parameters.clone()
    places = torch.cat([value_places(model, block, "it") for block in range(2)])
    then = audit.look(world.strategy, world.event)
    (row,) = audit.rows("run", world.event, then, {})
    concept = audit._concept(world.request, world.text.tokenizer.vocab_size)
    said = top_tokens(model.parameters[places] @ model.network.head.weight.detach().T, 0.02)  # type: ignore[operator]
    assert row.value == pytest.approx(float(concept[said].float().mean(1).max()))
    same = {r.metric: r.value for r in audit.rows_beside("no-op", world.event, then, then, {})}
    assert same["trace_cosine"] == pytest.approx(1.0, abs=1e-5)
    assert same["trace_jaccard"] == same["trace_kept"] == 1.0
    model.parameters[places] = -model.parameters[places]
    now = audit.look(world.strategy, world.event)
    gone = {r.metric: r.value for r in audit.rows_beside("no-op", world.event, now, then, {})}
    assert gone["trace_cosine"] == pytest.approx(-1.0, abs=1e-5)
    assert gone["trace_distance"] == pytest.approx(2.0, abs=1e-5)
    assert gone["trace_jaccard"] < 0.1
    assert gone["trace_kept"] < 1.0
    model.parameters.copy_(before)
    assert audit.look(Speaker(world, {}), world.event).stream == {}  # type: ignore[arg-type]
