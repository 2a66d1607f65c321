"""MUDMAN: a step by hand, the mask that spares what is retained, and what is left of the adversary."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from text_lives import Life, live, slope

from strategies.base import Access
from strategies.objectives._base import Scored
from strategies.unlearners.mudman import agreeing, forgetting
from streams.source import Source
from streams.sources import people

ONE = {"epochs": 1, "batch_size": 200}
"""All of a request, and all that is retained, in one step."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(tmp_path_factory.mktemp("cache")))
        return people.load(people.Config(people=3, groups=1, holdout=0, world=False, vocabulary=400))


def gradients(life: Life) -> tuple[torch.Tensor, torch.Tensor]:
    """Those of the retained loss, and of minus the entropy of the forget set's answers."""
    objective: Any = life.setting.objective.for_unlearning()
    kept = life.data(1).all().concat(life.data(2).all())
    life.model.train(False)
    retained = objective.losses(objective.outputs(life.model, kept), kept).mean()
    forget = life.data(0).all()
    answers = objective.scored(objective.outputs(life.model, forget), forget)
    log_p = answers.logits.log_softmax(1)
    return slope(life, retained), slope(life, (log_p.exp() * log_p).sum(1).mean())


def test_what_is_lowered_by_hand() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    scored = Scored(logits, torch.tensor([0]), torch.tensor([0]), 1)
    p = logits.softmax(1)[0]
    assert forgetting(scored, "logit").tolist() == [1.0]
    assert float(forgetting(scored, "descent")) == pytest.approx(float(p[0].log()))
    assert float(forgetting(scored, "entropy")) == pytest.approx(float((p * p.log()).sum()))


def test_the_mask_keeps_what_agrees() -> None:
    gradient, retained = torch.tensor([1.0, -2.0, 3.0, 0.0]), torch.tensor([0.5, 1.0, -1.0, 2.0])
    kept = agreeing(gradient, retained)
    assert kept.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert bool((kept * retained >= 0).all())


@pytest.mark.parametrize("norm", ["masked", "released"])
def test_a_step_by_hand(norm: str, source: Source) -> None:
    """Without an adversary: theta - eta_r g_r - eta_u m g_f, g_f at the model as it was, scaled to its first length."""
    life = live(source, "mudman", **ONE, lr=0.02, retain_lr=0.05, adversary_lr=0.0, mu=0.0, norm=norm)
    before = life.model.parameters.clone()
    g_r, g_f = gradients(life)
    masked = agreeing(g_f, g_r)
    step = masked * (g_f.norm() / (masked if norm == "masked" else g_f).norm())
    life.forget(0)
    assert torch.allclose(life.model.parameters, before - 0.05 * g_r - 0.02 * step, atol=5e-6)
    assert float((masked == 0).float().mean()) > 0.1


def test_unlearning_does_not_raise_the_retained_loss_to_first_order(source: Source) -> None:
    for masked in (True, False):
        life = live(source, "mudman", **ONE, passes=10, lr=0.01, retain_lr=0.0, adversary_lr=0.0, mu=0.0, masked=masked)
        before = life.model.parameters.clone()
        g_r, g_f = gradients(life)
        life.forget(0)
        step = life.model.parameters - before
        if masked:
            assert float((g_r * step).max()) <= 0.0  # no entry of it
            assert float((g_f * step).sum()) < 0.0
        else:
            assert float((g_r * step).max()) > 0.0


def test_the_gradient_is_taken_where_the_adversary_stands(source: Source) -> None:
    life = live(source, "mudman", **ONE, lr=0.02, retain_lr=0.0, adversary_lr=0.5, masked=False, mu=0.0)
    before = life.model.parameters.clone()
    objective: Any = life.setting.objective.for_unlearning()
    forget = life.data(0).all()
    life.model.train(False)
    learned = slope(life, objective.losses(objective.outputs(life.model, forget), forget).mean())
    life.model.parameters.sub_(learned, alpha=0.5)
    _, g_f = gradients(life)
    life.model.parameters.copy_(before)
    life.forget(0)
    assert torch.allclose(life.model.parameters, before - 0.02 * g_f, atol=5e-6)


def test_it_forgets_keeps_nothing_and_serves_requests_that_leave_nothing(source: Source) -> None:
    life = live(source, "mudman", passes=25, epochs=4, lr=0.1)
    batch = life.data(0).all()

    def level() -> float:
        with torch.no_grad():
            return float(life.setting.objective.losses(life.model(batch.x), batch).mean())

    before = level()
    outcome = life.forget(0)
    assert level() > before + 0.05
    assert outcome.exactness == "none"
    assert life.strategy.state_dict().keys() == {"model", "plugins", "derived"}
    assert life.strategy.access == Access(True, "full")
    life.forget(None, "request-1")
    assert bool(torch.isfinite(life.model.parameters).all())


def test_the_adversary_is_renewed(source: Source) -> None:
    moved = []
    for fork in (1, 50):
        life = live(source, "mudman", epochs=3, fork=fork, adversary_lr=0.5, lr=0.01)
        life.forget(0)
        moved.append(life.model.parameters.clone())
    assert not torch.equal(moved[0], moved[1])
