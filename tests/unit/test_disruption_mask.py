"""The disruption mask: what is left of a step, by hand and of every step, and the method itself without it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from text_lives import Life, live, slope

from strategies.base import Access
from strategies.unlearners.disruption_mask import spared
from streams.errors import ConfigError
from streams.source import Source

ASCENT: dict[str, Any] = {"name": "graddiff", "retain": "none", "epochs": 1, "lr": 0.01, "weight_decay": 0.1}
WHOLE = {"batch_size": 200}
"""All that is retained in one batch."""


def retained_slope(life: Life) -> torch.Tensor:
    objective: Any = life.setting.objective.for_unlearning()
    kept = life.data(1).all().concat(life.data(2).all())
    life.model.train(False)
    return slope(life, objective.losses(objective.outputs(life.model, kept), kept).mean())


def test_what_is_left_of_a_step() -> None:
    before, retained = torch.zeros(5), torch.tensor([1.0, -1.0, 1.0, -1.0, 0.0])
    left = spared(before, torch.tensor([-2.0, 2.0, 3.0, -3.0, 1.0]), retained)
    assert left.tolist() == [-2.0, 2.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_step_does_not_raise_the_retained_loss_to_first_order(optimizer: str, source: Source) -> None:
    method = ASCENT | {"batch_size": 200, "optimizer": optimizer}
    life = live(source, "disruption-mask", method=method, mu=0.0, **WHOLE)
    assert life.strategy.access == Access(forget_set=True, retained="full")
    before, g_r = life.model.parameters.clone(), retained_slope(life)
    outcome = life.forget(0)
    assert outcome.steps == 1
    change = life.model.parameters - before
    plain = live(source, "graddiff", **{k: v for k, v in method.items() if k != "name"})
    plain.forget(0)
    whole = plain.model.parameters - before
    agrees = whole.sign() == -g_r.sign()
    assert 0.05 < float(agrees.float().mean()) < 0.95
    assert float(((change != 0) & ~agrees).float().mean()) < 1e-3  # rounding may turn a sign or two
    torch.testing.assert_close(change[agrees & (change != 0)], whole[agrees & (change != 0)])
    assert float(g_r @ change) < 0
    assert outcome.backward == 20 + 2 * 40


def test_every_step_is_corrected_by_the_running_mean(source: Source) -> None:
    """Two steps, each against (1 - mu) g_0, then mu (1 - mu) g_0 + (1 - mu) g_1."""
    method = ASCENT | {"batch_size": 200, "epochs": 2, "optimizer": "sgd", "lr": 0.1, "weight_decay": 0.0}
    seen: list[torch.Tensor] = []
    life = live(source, "disruption-mask", method=method, mu=0.5, **WHOLE)
    mean = 0.5 * retained_slope(life)
    hold = life.model.hold

    def held() -> None:
        hold()
        seen.append(life.model.parameters.clone())

    before = life.model.parameters.clone()
    life.model.hold = held  # type: ignore[method-assign]
    life.forget(0)
    assert len(seen) == 2
    assert float((seen[0] - before) @ mean) < 0
    life.model.parameters.copy_(seen[0])
    mean = 0.5 * mean + 0.5 * retained_slope(life)
    step = seen[1] - seen[0]
    wrong = (step != 0) & (step.sign() != -mean.sign())
    assert float(wrong.float().mean()) < 1e-3
    assert float(step @ mean) < 0


@pytest.mark.nightly
def test_it_spares_what_is_retained(source: Source) -> None:
    losses = {}
    for name, options in (("graddiff", ASCENT), ("disruption-mask", {"method": ASCENT})):
        given = {k: v for k, v in options.items() if k != "name"}
        life = live(
            source,
            name,
            passes=10,
            **(given | {"epochs": 4} if name == "graddiff" else {"method": ASCENT | {"epochs": 4}}),
        )
        life.forget(0)
        life.model.train(False)
        objective = life.setting.objective
        with torch.no_grad():
            sides = [life.data(0).all(), life.data(1).all().concat(life.data(2).all())]
            losses[name] = [float(objective.losses(objective.outputs(life.model, b), b).mean()) for b in sides]
    assert losses["disruption-mask"][1] < losses["graddiff"][1]
    assert losses["disruption-mask"][0] > losses["disruption-mask"][1]


@pytest.mark.nightly
def test_where_nothing_is_retained_it_is_the_method(source: Source) -> None:
    plain = live(source, "graddiff", **{k: v for k, v in ASCENT.items() if k != "name"})
    masked = live(source, "disruption-mask", method=ASCENT)
    plain.forget(None)
    masked.forget(None)
    assert torch.equal(plain.model.parameters, masked.model.parameters)
    assert masked.model.is_free
    with pytest.raises(ConfigError, match="cannot follow itself"):
        live(source, "disruption-mask", method="disruption-mask")
