"""Losses that end by themselves (UNDIAL, CE-U, WGA, SatImp, AltPO) and PDU: by hand, and what they must not do."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from text_lives import Life, live, slope

from strategies.objectives.causal_lm import joined
from strategies.parts.text.generation import sampled
from strategies.unlearners import altpo, pdu
from strategies.unlearners._weighted import weighted_ascent
from strategies.unlearners.ce_u import places, without_truth
from strategies.unlearners.pdu import flatness
from strategies.unlearners.undial import lowered, soft_cross_entropies
from streams.data import Batch
from streams.errors import DataError
from streams.ledger import Access
from streams.randomness import Key
from streams.source import Source
from streams.sources import people
from streams.text import ANSWER

BOUNDED = ("undial", "ce-u", "wga", "satimp", "altpo")
ALONE = ("undial", "ce-u")
"""Those that read the forget set alone."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(tmp_path_factory.mktemp("cache")))
        return people.load(people.Config(people=3, groups=1, holdout=0, world=False, vocabulary=400))


def pull(losses: Any, p: float, vocabulary: int = 4) -> torch.Tensor:
    """The gradient on the logits of one token whose true one has probability p."""
    logits = torch.tensor([[math.log(p), *[math.log((1 - p) / (vocabulary - 1))] * (vocabulary - 1)]])
    logits = logits.double().requires_grad_(True)
    return torch.autograd.grad(losses(logits, torch.tensor([0])).sum(), logits)[0][0]


# -- where each starts, and where it ends


@pytest.mark.parametrize(("known", "unsure"), [(1.0, 0.0), (5.0, 1.0), (0.0, 0.0)])
@pytest.mark.parametrize("p", [0.99, 0.5, 1e-3])
def test_the_pull_of_weighted_ascent(known: float, unsure: float, p: float) -> None:
    def losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return weighted_ascent(torch.nn.functional.cross_entropy(logits, targets, reduction="none"), known, unsure)

    found = pull(losses, p)
    assert float(found[0]) == pytest.approx(p**known * (1 - p) ** unsure * (1 - p), rel=1e-6)
    assert float(found.sum()) == pytest.approx(0, abs=1e-9)


def test_weighted_ascent_is_bounded_where_ascent_is_not() -> None:
    losses = torch.linspace(0, 60, 5000)
    wga, satimp, plain = (weighted_ascent(losses, *beta) for beta in ((1.0, 0.0), (5.0, 1.0), (0.0, 0.0)))
    assert torch.equal(plain, -losses)
    assert -0.368 < float(wga.min()) < -0.36
    assert -0.019 < float(satimp.min()) < -0.017
    assert float(wga[-1]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("p", [0.99, 0.5, 1e-3])
def test_ce_u_pulls_most_where_the_answer_is_sure(p: float) -> None:
    found = pull(without_truth, p)
    assert float(found[0]) == pytest.approx(p, rel=1e-6)
    assert found[1:].tolist() == pytest.approx([-p / 3] * 3, rel=1e-6)  # -p_v p / (1 - p)
    two = without_truth(torch.tensor([[math.log(p), math.log(1 - p)]]).double(), torch.tensor([0]))
    assert float(two) == pytest.approx(-math.log(1 - p), rel=1e-6)


def test_the_distribution_that_ce_u_holds_the_model_to_stands_still() -> None:
    logits = torch.tensor([[0.6, 0.3, 0.1]]).double().log().requires_grad_(True)
    (found,) = torch.autograd.grad(without_truth(logits, torch.tensor([0])).sum(), logits)
    assert found[0].tolist() == pytest.approx([0.6, -0.3 * 0.6 / 0.4, -0.1 * 0.6 / 0.4], rel=1e-6)


def test_targets_of_undial_by_hand() -> None:
    logits = torch.tensor([[5.0, 1.0, 0.0]])
    for beta, expected in ((3.0, (0.665, 0.245, 0.090)), (10.0, (0.0018, 0.730, 0.269)), (30.0, (0.0, 0.731, 0.269))):
        assert lowered(logits, torch.tensor([0]), beta)[0].tolist() == pytest.approx(expected, abs=6e-4)
    assert lowered(logits, torch.tensor([0]), 99.0, margin=1.0)[0].tolist() == pytest.approx(
        torch.tensor([0.0, 1.0, 0.0]).softmax(0).tolist(), abs=1e-6
    )
    kept = lowered(logits, torch.tensor([2]), 99.0, margin=1.0)  # it is lower than that already
    assert torch.equal(kept, logits.softmax(1))


def test_undial_starts_with_all_that_is_to_go_and_ends_at_its_target() -> None:
    def losses(logits: torch.Tensor, targets: torch.Tensor, beta: float = 10.0) -> torch.Tensor:
        return soft_cross_entropies(logits, lowered(logits.detach(), targets, beta))

    p = 0.99
    after = p * math.exp(-10) / (1 - p + p * math.exp(-10))
    assert float(pull(losses, p)[0]) == pytest.approx(p - after, rel=1e-5)
    assert pull(lambda z, t: losses(z, t, 0.0), p).tolist() == pytest.approx([0.0] * 4, abs=1e-9)
    target = lowered(torch.tensor([[5.0, 1.0, 0.0]]), torch.tensor([0]), 3.0)
    z = target.log().requires_grad_(True)
    assert torch.autograd.grad(soft_cross_entropies(z, target).sum(), z)[0].abs().max() < 1e-6


# -- on a model


def loss_of(life: Life, batch: Batch, step: int = 0) -> torch.Tensor:
    unlearner: Any = life.strategy.unlearner
    objective = life.setting.objective.for_unlearning()
    loss, _ = unlearner.prepare(life.model, objective, life.data(0), Key(3))
    extended = loss.extend(batch, step)
    value: torch.Tensor = loss(objective.outputs(life.model, extended), extended, life.model)
    return value


@pytest.mark.parametrize("name", BOUNDED)
def test_padding_and_prompts_do_not_count(name: str, source: Source) -> None:
    life = live(source, name, **({"answers": "source"} if name == "altpo" else {}))
    batch = life.data(0).part(np.arange(6)).all()
    wide = torch.nn.functional.pad(batch.x, (0, 5))
    wide[:, 0][wide[:, 1] == 0] = 7
    with torch.no_grad():
        values = [float(loss_of(life, replace(batch, x=x))) for x in (wide, batch.x)]
    assert values[0] == pytest.approx(values[1], rel=1e-6)


@pytest.mark.parametrize("name", ["undial", "wga", "satimp"])
def test_a_batch_is_the_mean_over_its_tokens(name: str, source: Source) -> None:
    life = live(source, name)
    rows = [life.data(0).part(np.array([i])).all() for i in (0, 7)]
    tokens = [int((b.x[:, 1] == ANSWER).sum()) for b in rows]
    assert tokens[0] != tokens[1]
    with torch.no_grad():
        whole = float(loss_of(life, joined(*rows)))
        alone = [float(loss_of(life, b)) for b in rows]
    assert whole == pytest.approx(np.average(alone, weights=tokens), rel=1e-5)


def test_without_exponents_it_is_graddiff(source: Source) -> None:
    batch = live(source, "graddiff").data(0).part(np.arange(6)).all()
    slopes = []
    for name, options in (("graddiff", {}), ("wga", {"beta": 0.0}), ("satimp", {"beta1": 0.0, "beta2": 0.0})):
        life = live(source, name, **options)
        slopes.append(slope(life, loss_of(life, batch)))
    assert torch.allclose(slopes[0], slopes[1], atol=1e-7)
    assert torch.allclose(slopes[0], slopes[2], atol=1e-7)


def test_satimp_weighs_importance_by_its_first_exponent(source: Source) -> None:
    life = live(source, "satimp", beta1=5.0, beta2=1.0)
    batch, objective = life.data(0).part(np.arange(6)).all(), life.setting.objective.for_unlearning()
    with torch.no_grad():
        losses = objective.scored(objective.outputs(life.model, batch), batch).token_losses()
        found = float(loss_of(life, batch))
    right, swapped = (float(weighted_ascent(losses, *beta).mean()) for beta in ((5.0, 1.0), (1.0, 5.0)))
    assert found == pytest.approx(right, rel=1e-5)
    assert found != pytest.approx(swapped, rel=0.1)


def test_nothing_is_lowered_by_beta_0(source: Source) -> None:
    life = live(source, "undial", beta=0.0)
    assert float(slope(life, loss_of(life, life.data(0).all())).abs().max()) < 1e-6


def test_ce_u_leaves_the_first_tokens_and_refuses_answers_that_have_no_more(source: Source) -> None:
    life = live(source, "ce-u")
    batch = life.data(0).part(np.arange(4)).all()
    objective: Any = life.setting.objective.for_unlearning()
    scored = objective.scored(objective.outputs(life.model, batch), batch)
    counts = torch.bincount(scored.rows).tolist()
    assert places(scored).tolist() == [i for n in counts for i in range(n)]
    values = []
    for skip in (0, 1):
        each = without_truth(scored.logits, scored.targets)
        expected = each[places(scored) >= skip].mean()
        values.append(float(loss_of(live(source, "ce-u", skip=skip), batch).detach()))
        assert values[-1] == pytest.approx(float(expected.detach()), rel=1e-5)
    assert values[0] != values[1]
    short = batch.x.clone()
    is_answer = short[:, 1] == ANSWER
    short[:, 1][is_answer & (is_answer.cumsum(1) > 1)] = 0
    with pytest.raises(DataError, match=r"ce-u\.skip.*Set skip: 0"):
        loss_of(life, replace(batch, x=short))
    loss_of(live(source, "ce-u", skip=0), replace(batch, x=short))


@pytest.mark.parametrize("name", BOUNDED)
def test_they_forget_by_what_they_declare_to_read(name: str, source: Source) -> None:
    life = live(source, name, passes=25, epochs=4, lr=2e-3, **({"answers": "source"} if name == "altpo" else {}))
    batch = life.data(0).all()

    def level() -> float:
        with torch.no_grad():
            return float(life.setting.objective.losses(life.model(batch.x), batch).mean())

    before = level()
    assert life.strategy.access == (Access(forget_set=True) if name in ALONE else Access(True, "full"))
    outcome = life.forget()
    assert outcome.exactness == "none"
    assert bool(torch.isfinite(life.model.parameters).all())
    assert level() > before + (0.0 if name == "satimp" else 0.05)
    assert life.strategy.state_dict().keys() == {"model", "plugins", "derived"}


@pytest.mark.parametrize("name", ALONE)
def test_the_second_request_does_not_undo_the_first(name: str, source: Source) -> None:
    """They stop by themselves: what the first request left stays about where it is while the second is served."""
    life = live(source, name, passes=25, epochs=6, lr=2e-3)

    def level(user: int) -> float:
        batch = life.data(user).all()
        with torch.no_grad():
            return float(life.setting.objective.losses(life.model(batch.x), batch).mean())

    start = level(0)
    life.forget(0, "request-0")
    first = level(0)
    life.forget(1, "request-1")
    assert level(0) > start + 0.5 * (first - start)
    assert bool(torch.isfinite(life.model.parameters).all())


# -- PDU


def test_flat_logits_have_no_loss() -> None:
    assert flatness(torch.tensor([[2.0, 1.0, 0.0], [7.0, 7.0, 7.0]])).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(("bound", "rises"), [(-5.0, True), (1e4, False)])
def test_the_multiplier_rises_where_the_bound_is_missed_and_falls_to_0(
    bound: float, rises: bool, source: Source
) -> None:
    life = live(source, "pdu")
    objective: Any = life.setting.objective.for_unlearning()
    config = pdu.Config(start=1.0, warm_up=0.5, rate=0.5, memory=0.0)
    batch = life.data(1).part(np.arange(4)).all()
    hook = pdu.Multiplier(objective, itertools.repeat(batch), bound, config, 8)
    nothing, values = torch.zeros(0), []
    for _ in range(8):
        hook.loss(torch.zeros(()), objective.outputs(life.model, batch), batch, life.model)
        hook.stepped(nothing, nothing)
        values.append(hook.value)
    assert values[:4] == [1.0] * 4  # it waits while it warms up
    retained = float(objective.losses(objective.outputs(life.model, batch), batch).detach().mean())
    expected = 1.0 + 0.5 * (retained - bound)
    assert values[4] == pytest.approx(max(0.0, expected), rel=1e-4)
    assert (values[-1] > values[4]) if rises else values[-1] == 0.0
    capped = pdu.Multiplier(objective, itertools.repeat(batch), -1e9, config.model_copy(update={"most": 7.0}), 1)
    capped.loss(torch.zeros(()), objective.outputs(life.model, batch), batch, life.model)
    capped.stepped(nothing, nothing)
    assert capped.value == 7.0


def test_pdu_by_hand(source: Source) -> None:
    """One step of SGD on all of the request: flatness of its answers plus lambda_0 times the retained loss."""
    life = live(source, "pdu", epochs=1, batch_size=200, optimizer="sgd", lr=0.01, clip_norm=None, start=3.0)
    forget, kept = life.data(0).all(), life.data(1).all().concat(life.data(2).all())
    objective: Any = life.setting.objective.for_unlearning()

    def answers(batch: Batch) -> Any:
        return objective.scored(objective.outputs(life.model, batch), batch)

    loss = flatness(answers(forget).logits).mean() + 3.0 * answers(kept).token_losses().mean()
    expected = life.model.parameters - 0.01 * slope(life, loss)
    outcome = life.forget(0)
    assert torch.allclose(life.model.parameters, expected, atol=2e-5)
    assert outcome.notes["multiplier"] == pytest.approx(3.0, abs=0.5)


@pytest.mark.nightly
def test_the_budget_of_a_stream_is_that_of_the_first_request(source: Source) -> None:
    """The bound of later requests does not follow what the earlier ones have broken."""
    bounds = {}
    for budget in ("request", "stream"):
        learner = "first-reference" if budget == "stream" else "naive"
        life = live(source, "pdu", passes=10, learner=learner, budget=budget, epochs=3, lr=5e-3, start=0.0, rate=0.0)
        bounds[budget] = [life.forget(user, f"request-{user}").notes["retained_bound"] for user in (0, 1)]
    assert bounds["request"][0] == pytest.approx(bounds["stream"][0], rel=0.05)
    assert bounds["request"][1] > 1.3 * bounds["stream"][1]


# -- alternatives


def test_alternatives_are_drawn_by_name_and_are_not_the_truth(source: Source) -> None:
    """Memorised answers are drawn: those that hold the truth are left out, and counted."""
    life = live(source, "altpo", passes=25)
    unlearner: Any = life.strategy.unlearner
    objective: Any = life.setting.objective.for_unlearning()
    data = life.data(0)
    first, share = unlearner.alternatives(life.model, objective, data, Key(1))
    again, _ = unlearner.alternatives(life.model, objective, data, Key(1))
    other, _ = unlearner.alternatives(life.model, objective, data, Key(2))
    assert first.answers == again.answers
    assert first.answers != other.answers
    assert 0 <= share < 1
    decode = objective.text.tokenizer.decode
    for row, answers in zip(data.all().x, first.answers, strict=True):
        true = decode(row[0][row[1] == ANSWER].tolist()).strip()
        assert 1 <= len(answers) <= 5
        assert all(true not in decode(list(a)) for a in answers)
        assert all(a[-1] == objective.text.tokenizer.eos for a in answers)


def test_who_knows_nothing_but_the_truth_says_a_refusal(source: Source) -> None:
    life = live(source, "altpo", temperature=1e-3, passes=25)
    unlearner: Any = life.strategy.unlearner
    objective: Any = life.setting.objective.for_unlearning()
    batch = life.data(0).all()
    with torch.no_grad():
        known = life.setting.objective.scores(life.model(batch.x), batch) > 0
    found, share = unlearner.alternatives(life.model, objective, life.data(0), Key(1))
    refusal = objective.text.refusals[0]
    assert share >= float(known.float().mean()) - 1e-6
    assert all(a == [refusal] for a, k in zip(found.answers, known.tolist(), strict=True) if k)


def test_an_instruction_stands_before_the_question(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Batch] = []

    def noted(predict: Any, batch: Batch, *args: Any) -> list[str]:
        asked.append(batch)
        return sampled(predict, batch, *args)

    monkeypatch.setattr(altpo, "sampled", noted)
    life = live(source, "altpo", instruction="Say something else. ", alternatives=1)
    unlearner: Any = life.strategy.unlearner
    objective: Any = life.setting.objective.for_unlearning()
    unlearner.alternatives(life.model, objective, life.data(0), Key(1))
    text = objective.text.tokenizer.decode(asked[0].x[0, 0].tolist())
    assert text.startswith("Say something else. Q: ")


def test_answers_of_the_source_are_its_wrong_ones(source: Source) -> None:
    life = live(source, "altpo", answers="source", alternatives=3)
    unlearner: Any = life.strategy.unlearner
    objective: Any = life.setting.objective.for_unlearning()
    found, _ = unlearner.alternatives(life.model, objective, life.data(0), Key(1))
    assert source.text is not None
    assert source.text.perturbed is not None
    for sample, answers in zip(life.data(0).ids.tolist(), found.answers, strict=True):
        wrong = {tuple(x[0][x[1] == ANSWER].tolist()) for x in source.text.perturbed[sample]}
        assert set(answers) <= wrong


def test_alternatives_are_preferred(source: Source) -> None:
    """The loss starts at (2 / beta) log 2, for reference and model are the same; its slope raises the alternative."""
    life = live(source, "altpo", answers="source", alternatives=2)
    batch = life.data(0).all()
    value = loss_of(life, batch)
    assert float(value.detach()) == pytest.approx(20 * math.log(2), rel=1e-5)
    unlearner: Any = life.strategy.unlearner
    objective: Any = life.setting.objective.for_unlearning()
    alternatives, _ = unlearner.alternatives(life.model, objective, life.data(0), Key(3))
    other = alternatives.put(batch, alternatives.drawn(batch, 0))
    toward = slope(life, objective.log_likelihoods(objective.outputs(life.model, other), other).mean())
    away = slope(life, objective.log_likelihoods(objective.outputs(life.model, batch), batch).mean())
    assert torch.allclose(slope(life, loss_of(life, batch)), away - toward, atol=1e-4)


def test_drawn_text_follows_the_distribution() -> None:
    """One token of a fixed table, drawn for 4,000 prompts: shares are the probabilities; temperature sharpens them."""

    class Letters:
        bos, eos = 1, 2

        def decode(self, ids: list[int]) -> str:
            return "".join("abcdefgh"[i] for i in ids)

    p = torch.tensor([1e-9, 1e-9, 0.5, 0.2, 0.3])
    x = torch.zeros(4000, 2, 3, dtype=torch.int32)
    x[:, :, 0] = 1
    batch = Batch(torch.arange(4000), x, torch.zeros(4000).long())

    def predict(b: Batch) -> torch.Tensor:
        return p.log().expand(len(b), int((b.x[:, 1] > 0).sum(1).max()), -1)

    for temperature in (1.0, 0.5):
        said = sampled(predict, batch, Letters(), Key(0), temperature, most=1)  # type: ignore[arg-type]
        expected = (p.log() / temperature).softmax(0)
        shares = [np.mean([s == t for s in said]) for t in ("", "d", "e")]
        assert shares == pytest.approx(expected[2:].tolist(), abs=0.03)
    few = sampled(predict, batch.part(5, 9), Letters(), Key(0), most=1)  # type: ignore[arg-type]
    assert few == sampled(predict, batch, Letters(), Key(0), most=1)[5:9]  # type: ignore[arg-type]
    assert isinstance(altpo.Config().temperature, float)
