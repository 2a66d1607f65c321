"""Every loss of language models and their unlearners against a hand computation and its limit cases."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from strategies.objectives.causal_lm import CausalLM, Config, answered, joined, scored
from strategies.parts.preference import npo_losses
from strategies.unlearners._hinge import inverted_hinge
from strategies.unlearners._preference import dpo_losses
from strategies.unlearners._steering import mean_of_rows
from strategies.unlearners.flat import flat_loss
from strategies.unlearners.simnpo import simnpo_losses
from strategies.unlearners.topr import tapered_losses
from streams.data import Batch, Data
from streams.errors import ConfigError
from streams.text import ANSWER, BOS, EOS, GIVEN

V = 7


def number(value: torch.Tensor) -> float:
    return float(value.detach())


def batch_of(*texts: tuple[list[int], list[int]], length: int | None = None) -> Batch:
    """Rows of (prompt, answer); the start token and the end are added."""
    width = length or max(2 + len(p) + len(a) for p, a in texts)
    x = torch.zeros(len(texts), 2, width, dtype=torch.int32)
    for row, (prompt, answer) in zip(x, texts, strict=True):
        ids = [BOS, *prompt, *answer, EOS]
        row[0, : len(ids)] = torch.tensor(ids)
        row[1, : 1 + len(prompt)], row[1, 1 + len(prompt) : len(ids)] = GIVEN, ANSWER
    return Batch(torch.arange(len(texts)), x, torch.zeros(len(texts), dtype=torch.long))


BATCH = batch_of(([3, 4], [5]), ([4], [6, 3, 5]))


def logits_of(batch: Batch, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(batch), batch.x.shape[2], V, generator=generator, dtype=torch.float64).requires_grad_()


def by_hand(logits: torch.Tensor) -> list[list[float]]:
    """-log p of every token that is to be predicted, position by position."""
    log_p = logits.detach().log_softmax(2)
    # Row 0: bos 3 4 [5 eos], predicted from positions 2 and 3. Row 1: bos 4 [6 3 5 eos], from 1 to 4.
    return [
        [-number(log_p[0, 2, 5]), -number(log_p[0, 3, EOS])],
        [-number(log_p[1, 1 + t, token]) for t, token in enumerate([6, 3, 5, EOS])],
    ]


def test_losses_are_means_over_answers() -> None:
    logits = logits_of(BATCH)
    hand = by_hand(logits)
    objective = CausalLM(V)
    assert objective.losses(logits, BATCH).tolist() == pytest.approx([np.mean(h) for h in hand], rel=1e-6)
    assert objective.log_likelihoods(logits, BATCH).tolist() == pytest.approx([-sum(h) for h in hand], rel=1e-6)


def test_training_takes_the_mean_over_tokens_or_over_rows() -> None:
    logits, hand = logits_of(BATCH), by_hand(logits_of(BATCH))
    data = Data(np.arange(2), BATCH.x, BATCH.y, None)
    tokens = CausalLM(V, config=Config()).training_on(data)
    rows = CausalLM(V, config=Config(reduction="sequence")).training_on(data)
    flat = [v for h in hand for v in h]
    assert number(tokens.losses(logits, BATCH).mean()) == pytest.approx(np.mean(flat), rel=1e-6)
    assert number(rows.losses(logits, BATCH).mean()) == pytest.approx(np.mean([np.mean(h) for h in hand]), rel=1e-6)
    assert np.mean(flat) != pytest.approx(np.mean([np.mean(h) for h in hand]), rel=1e-3)


def test_training_on_all_tokens_counts_the_prompts_and_forgetting_does_not() -> None:
    logits = logits_of(BATCH)
    log_p = logits.detach().log_softmax(2)
    everything = [
        -number(log_p[r, t, BATCH.x[r, 0, t + 1]]) for r in range(2) for t in range(5) if BATCH.x[r, 1, t + 1] > 0
    ]
    assert len(everything) == 9
    objective = CausalLM(V, config=Config(loss_on="all"))
    data = Data(np.arange(2), BATCH.x, BATCH.y, None)
    trained = objective.training_on(data).losses(logits, BATCH).mean()
    assert number(trained) == pytest.approx(np.mean(everything), rel=1e-6)
    answers = [v for h in by_hand(logits) for v in h]
    forgetting = objective.for_unlearning()
    assert number(forgetting.losses(logits, BATCH).mean()) == pytest.approx(np.mean(answers), rel=1e-6)
    # `fit` asks for the form to train with once more.
    assert number(forgetting.training_on(data).losses(logits, BATCH).mean()) == pytest.approx(
        np.mean(answers), rel=1e-6
    )


def test_padding_and_what_it_holds_change_nothing() -> None:
    wide = batch_of(([3, 4], [5]), ([4], [6, 3, 5]), length=11)
    wide.x[:, 0][wide.x[:, 1] == 0] = 6
    logits = torch.cat([logits_of(BATCH), torch.full((2, 5, V), 9.0, dtype=torch.float64)], 1)
    narrow = logits_of(BATCH)
    for config in (Config(), Config(loss_on="all"), Config(reduction="sequence")):
        data = Data(np.arange(2), BATCH.x, BATCH.y, None)
        objective = CausalLM(V, config=config)
        for form in (objective, objective.training_on(data), objective.for_unlearning()):
            assert torch.equal(form.losses(logits, wide), form.losses(narrow, BATCH))
        assert torch.equal(objective.scores(logits, wide), objective.scores(narrow, BATCH))
    # Changing a prompt changes nothing that is scored on answers.
    other = replace(BATCH, x=BATCH.x.clone())
    other.x[:, 0, 1] = 6
    assert torch.equal(CausalLM(V).losses(narrow, other), CausalLM(V).losses(narrow, BATCH))


def test_a_ragged_batch_is_its_rows_one_by_one() -> None:
    logits = logits_of(BATCH)
    alone = [number(CausalLM(V).losses(logits[i : i + 1], BATCH.part(i, i + 1))) for i in range(2)]
    assert CausalLM(V).losses(logits, BATCH).tolist() == pytest.approx(alone, rel=1e-9)


def test_accumulating_halves_weighed_by_their_tokens_is_the_whole() -> None:
    logits = logits_of(BATCH)
    objective = CausalLM(V).for_unlearning()
    (whole,) = torch.autograd.grad(objective.losses(logits, BATCH).mean(), logits)
    total = torch.zeros_like(whole)
    for i, share in ((0, 2 / 6), (1, 4 / 6)):
        part = objective.losses(logits[i : i + 1], BATCH.part(i, i + 1)).mean() * share
        total += torch.autograd.grad(part, logits)[0]
    assert torch.allclose(total, whole, atol=1e-12)


def test_the_score_needs_every_token() -> None:
    logits = torch.zeros(2, 6, V)
    for row, column in ((0, 2), (0, 3), (1, 1), (1, 2), (1, 3), (1, 4)):
        logits[row, column, BATCH.x[row, 0, column + 1].long()] = 1.0
    assert CausalLM(V).scores(logits, BATCH).tolist() == [1.0, 1.0]
    logits[1, 4] = 0.0  # the end
    logits[1, 4, 6] = 1.0
    assert CausalLM(V).scores(logits, BATCH).tolist() == [1.0, 0.0]


def test_what_is_predicted_first_is_the_distribution() -> None:
    logits = logits_of(BATCH)
    expected = torch.stack([logits[0, 2], logits[1, 1]]).softmax(1)
    assert torch.allclose(CausalLM(V).probabilities(logits, BATCH), expected)


def test_kl_is_zero_at_the_reference_and_by_hand_elsewhere() -> None:
    now, then = logits_of(BATCH), logits_of(BATCH, 1).detach()
    objective = CausalLM(V).for_unlearning()
    same = objective.divergences(now, now.detach(), BATCH).mean()
    assert number(same) == pytest.approx(0.0, abs=1e-7)
    assert number(torch.autograd.grad(same, now)[0].abs().max()) < 1e-7
    p, q = now.detach().softmax(2), then.softmax(2)
    positions = [(0, 2), (0, 3), (1, 1), (1, 2), (1, 3), (1, 4)]
    hand = np.mean([number((q[i] * (q[i] / p[i]).log()).sum()) for i in positions])
    assert number(objective.divergences(now, then, BATCH).mean()) == pytest.approx(hand, rel=1e-5)
    shifted = objective.divergences(now + 5.0, then - 3.0, BATCH).mean()
    assert number(shifted) == pytest.approx(hand, rel=1e-5)


def test_kl_is_never_negative() -> None:
    for seed in range(100):
        assert number(CausalLM(V).divergences(logits_of(BATCH, seed), logits_of(BATCH, 200 + seed), BATCH).min()) >= 0


# -- NPO


def gradient(loss: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, logits, retain_graph=True)[0].flatten()


def test_npo_starts_at_two_over_beta_log_two_with_the_gradient_of_ascent() -> None:
    logits = logits_of(BATCH)
    log_p = CausalLM(V).log_likelihoods(logits, BATCH)
    loss = npo_losses(-log_p, -log_p.detach(), 0.1).mean()
    assert number(loss) == pytest.approx(13.8629, abs=1e-4)
    assert torch.allclose(gradient(loss, logits), gradient(log_p.mean(), logits), atol=1e-7)


@pytest.mark.parametrize("beta", [0.1, 1.0, 5.0])
def test_npo_weighs_by_two_r_over_one_plus_r(beta: float) -> None:
    log_p = torch.tensor([-1.0, -4.0, -9.0], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-2.0, -4.0, -1.0], dtype=torch.float64)
    (weights,) = torch.autograd.grad(npo_losses(-log_p, -reference, beta).sum(), log_p)
    r = (log_p.detach() - reference).exp() ** beta
    assert torch.allclose(weights, 2 * r / (1 + r), atol=1e-10)
    assert bool((weights <= 2).all())
    assert number(weights[1]) == pytest.approx(1.0)


def test_npo_is_ascent_in_the_limit_of_small_beta() -> None:
    logits = logits_of(BATCH)
    log_p = CausalLM(V).log_likelihoods(logits, BATCH)
    reference = CausalLM(V).log_likelihoods(logits_of(BATCH, 1), BATCH).detach()
    ascent = gradient(log_p.mean(), logits)
    found = []
    for beta in (10.0, 1.0, 1e-2, 1e-4):
        own = gradient(npo_losses(-log_p, -reference, beta).mean(), logits)
        found.append(number(torch.cosine_similarity(own, ascent, 0)))
    assert found[-1] > 0.99999
    assert number(own.norm() / ascent.norm()) == pytest.approx(1.0, abs=0.01)
    assert found[0] < 0.999
    value = npo_losses(-log_p.double(), -reference.double(), 1e-4) - 2 / 1e-4 * math.log(2)
    assert number(value.mean()) == pytest.approx(number((log_p - reference).mean()), abs=1e-2)


def test_npo_does_not_overflow() -> None:
    log_p = torch.tensor([-4000.0, 0.0], requires_grad=True)
    loss = npo_losses(-log_p, -torch.tensor([0.0, -4000.0]), 1.0)
    assert bool(torch.isfinite(loss).all())
    assert torch.autograd.grad(loss.sum(), log_p)[0].tolist() == pytest.approx([0.0, 2.0])


# -- SimNPO


def test_simnpo_by_hand_and_without_regard_to_length() -> None:
    losses = torch.tensor([0.5, 2.0], dtype=torch.float64)
    hand = [2 / 4.5 * math.log1p(math.exp(-4.5 * (v - 0.1))) for v in (0.5, 2.0)]
    assert simnpo_losses(losses, 4.5, 0.1).tolist() == pytest.approx(hand)
    once, twice = batch_of(([3], [5, 6])), batch_of(([3], [5, 6, 5, 6]))
    flat = torch.zeros(1, 7, V)  # every token is as likely as any other
    value = [simnpo_losses(CausalLM(V).losses(flat[:, : b.x.shape[2]], b), 2.5, 0.0) for b in (once, twice)]
    assert torch.allclose(value[0], value[1])
    sums = [
        npo_losses(-CausalLM(V).log_likelihoods(flat[:, : b.x.shape[2]], b), torch.zeros(1), 2.5) for b in (once, twice)
    ]
    assert not torch.allclose(sums[0], sums[1])


def test_simnpo_is_ascent_on_rows_in_the_limit_of_small_beta() -> None:
    logits = logits_of(BATCH)
    losses = CausalLM(V).losses(logits, BATCH)
    own = gradient(simnpo_losses(losses, 1e-4, 0.0).mean(), logits)
    rows = gradient(-losses.mean(), logits)
    tokens = gradient(-CausalLM(V).for_unlearning().losses(logits, BATCH).mean(), logits)
    assert number(torch.cosine_similarity(own, rows, 0)) > 0.99999
    assert number(torch.cosine_similarity(own, tokens, 0)) < 0.999


# -- DPO


def test_dpo_starts_like_npo_and_its_gradient_is_that_of_the_difference() -> None:
    preferred = torch.tensor([-3.0, -7.0], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([-2.0, -5.0], dtype=torch.float64, requires_grad=True)
    loss = dpo_losses(preferred - preferred.detach(), rejected - rejected.detach(), 0.1).mean()
    assert number(loss) == pytest.approx(2 / 0.1 * math.log(2))
    up, down = torch.autograd.grad(loss, (preferred, rejected))
    assert up.tolist() == pytest.approx([-0.5, -0.5])
    assert down.tolist() == pytest.approx([0.5, 0.5])
    hand = -20 * math.log(1 / (1 + math.exp(-0.1 * (1.5 - -0.5))))
    assert number(dpo_losses(torch.tensor(1.5), torch.tensor(-0.5), 0.1)) == pytest.approx(hand, rel=1e-6)


# -- TOPR


def test_topr_starts_as_reinforce_and_tapers() -> None:
    logits = logits_of(BATCH)
    losses = CausalLM(V).losses(logits, BATCH)
    own = gradient(tapered_losses(losses, torch.zeros(2)).mean(), logits)
    assert torch.allclose(own, gradient(-losses.mean(), logits))
    # Far from where it began the pull is small, but never nothing; where it rose, it is whole.
    log_ratio = torch.tensor([-1.0, 2.0, -5.0], requires_grad=True)
    value = torch.ones(3, requires_grad=True)
    loss = tapered_losses(value, log_ratio).sum()
    assert torch.autograd.grad(loss, value)[0].tolist() == pytest.approx([-0.367879, -1.0, -0.006738], abs=1e-6)
    again = tapered_losses(value, log_ratio).sum()
    assert torch.autograd.grad(again, log_ratio, allow_unused=True) == (None,)


# -- FLAT

NUMBERS = {
    "kl": (0.106531, -0.493430, math.exp(-1)),
    "tv": (0.0, -0.308315, 0.0),
    "js": (0.061860, -0.300744, 0.0),
    "pearson": (0.0625, -0.7975, 0.0),
}


@pytest.mark.parametrize("divergence", sorted(NUMBERS))
def test_flat_in_closed_form(divergence: Any) -> None:
    for (refused, true), expected in zip(((0.5, 0.5), (0.9, 0.1), (0.0, 0.0)), NUMBERS[divergence], strict=True):
        pair = torch.tensor([refused, true], dtype=torch.float64)
        assert number(flat_loss(pair[0], pair[1], divergence)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("divergence", sorted(NUMBERS))
def test_flat_falls_with_refusals_and_rises_with_true_answers(divergence: Any) -> None:
    p = torch.tensor([0.4, 0.6], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(flat_loss(p[0], p[1], divergence), p)
    assert slope[0] < 0 < slope[1]
    step = 1e-6
    for i in range(2):
        up = p.detach().clone()
        up[i] += step
        change = flat_loss(up[0], up[1], divergence) - flat_loss(p[0], p[1], divergence)
        assert number(change / step) == pytest.approx(number(slope[i]), abs=1e-5)


# -- IHL


def test_inverted_hinge_by_hand() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64)
    assert number(inverted_hinge(logits, torch.tensor([0]))) == pytest.approx(1.4205126, abs=1e-6)
    assert inverted_hinge(torch.zeros(4, 9), torch.arange(4)).tolist() == pytest.approx([1.0] * 4)


def test_inverted_hinge_lowers_the_token_and_raises_the_runner_up() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(inverted_hinge(logits, torch.tensor([0])).sum(), logits)
    assert slope[0, 0] > 0 > slope[0, 1]
    assert not torch.isclose(slope[0, 1], slope[0, 3])  # of two equal ones only the first is the runner-up
    step = 1e-6
    for i in (0, 1, 2):
        up = logits.detach().clone()
        up[0, i] += step if i != 1 else 2 * step
        change = inverted_hinge(up, torch.tensor([0])) - inverted_hinge(logits.detach(), torch.tensor([0]))
        assert number(change / (step if i != 1 else 2 * step)) == pytest.approx(number(slope[0, i]), abs=1e-4)


# -- RMU


def test_rows_of_other_lengths_do_not_mix() -> None:
    values = torch.tensor([[2.0, 2.0, 2.0, 2.0, 2.0], [2.0, 9.0, 9.0, 9.0, 9.0]])
    counts = torch.tensor([[True] * 5, [True] + [False] * 4])
    assert number(mean_of_rows(values, counts)) == pytest.approx(2.0)
    values[0, 0] = 12.0
    alone = [number(mean_of_rows(values[i : i + 1], counts[i : i + 1])) for i in range(2)]
    assert number(mean_of_rows(values, counts)) == pytest.approx(np.mean(alone))


# -- rows


def test_other_answers_to_the_same_prompts() -> None:
    changed = answered(BATCH, [(6, EOS), (3, 3, 3, 3, 3, 3, EOS)])
    assert changed.x[0, 0].tolist() == [BOS, 3, 4, 6, EOS, 0, 0, 0, 0]
    assert changed.x[0, 1].tolist() == [1, 1, 1, 2, 2, 0, 0, 0, 0]
    assert changed.x[1, 0].tolist() == [BOS, 4, 3, 3, 3, 3, 3, 3, EOS]
    both = joined(BATCH, changed)
    assert both.x.shape == (4, 2, 9)
    assert torch.equal(both.x[2:], changed.x)
    assert torch.equal(both.x[:2, :, :6], BATCH.x)
    assert not both.x[:2, :, 6:].any()


def test_the_start_is_never_predicted() -> None:
    found = scored(logits_of(BATCH), BATCH.x, "all")
    assert BOS not in found.targets.tolist()
    assert found.counts.tolist() == [4.0, 5.0]


def test_the_exact_fisher_is_refused() -> None:
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(ConfigError, match="sampled"):
        CausalLM(V).fisher_terms(logits_of(BATCH), BATCH, "exact", generator)


def test_the_sampled_fisher_is_unbiased() -> None:
    """Its mean over draws is the sum over positions of the Fisher of each position's distribution."""
    batch = batch_of(([3], [5]))
    logits = logits_of(batch)
    total = torch.zeros_like(logits)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2000):
        ((_, losses),) = CausalLM(V).fisher_terms(logits, batch, "sampled", generator)
        total += torch.autograd.grad(losses.sum(), logits)[0].square() / 2000
    p = logits.detach().softmax(2)
    exact = p * (1 - p) / 4  # both of the two positions weigh a half, squared
    assert torch.allclose(total[0, 1:3], exact[0, 1:3], atol=0.006)
    assert not total[0, 0].any()


def test_what_the_other_estimators_weigh() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = logits_of(BATCH)
    losses = CausalLM(V).losses(logits, BATCH)
    ((one, plain),) = CausalLM(V).fisher_terms(logits, BATCH, "empirical", generator)
    ((weight, same),) = CausalLM(V).fisher_terms(logits, BATCH, "p-weighted", generator)
    assert one.tolist() == [1.0, 1.0]
    assert torch.allclose(plain, losses)
    assert torch.allclose(same, losses)
    assert torch.allclose(weight, (-losses).exp())


def test_full_rows_are_counted_like_others() -> None:
    x = torch.tensor([[[BOS, 3, 4, 5], [1, 2, 2, 2]], [[BOS, 6, 3, 4], [1, 2, 2, 2]]], dtype=torch.int32)
    batch = Batch(torch.arange(2), x, torch.zeros(2, dtype=torch.long))
    logits = logits_of(batch)
    log_p = logits.detach().log_softmax(2)
    hand = [-np.mean([float(log_p[r, t, int(x[r, 0, t + 1])]) for t in range(3)]) for r in range(2)]
    losses = CausalLM(V).losses(logits, batch)
    assert losses.tolist() == pytest.approx(hand, rel=1e-9)
    padded = replace(batch, x=torch.nn.functional.pad(x, (0, 1)))  # goes the other way
    longer = torch.cat([logits, torch.zeros(2, 1, V, dtype=torch.float64)], 1)
    assert torch.equal(CausalLM(V).losses(longer, padded), losses)
