"""certified-head in a stream: what is published and stated, what verify finds, and that no attack beats the bound."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import lifelong
from lifelong.setup.build import make_setting
from lifelong.verification.certificate import verify
from lifelong.verification.certified import noise, recomputed_epsilon
from lifelong.verification.certified_controls import CERTIFIED_CONTROLS
from lifelong.verification.replay import Lived, altered, find, live
from strategies.base import Setting, Strategy
from strategies.isolated.certified_head import HONEST, CertifiedHead, Config, Recipe
from strategies.parts.convex.gaussian import epsilon_of, mu_of
from strategies.step import step
from streams.config import parse
from streams.errors import ConfigError
from streams.events import Event
from streams.ledger import Ledger
from streams.randomness import Key
from streams.stream import Stream
from streams.timeline import surviving

CONFIG: dict[str, Any] = {
    "name": "certified",
    "scenario": {"name": "class-incremental", "experiences": 2},
    "schedule": {
        "name": "explicit",
        "requests": [
            {"after": 1, "scope": "sample", "count": 3},
            {"after": 2, "scope": "class", "keys": [1]},
            {"after": 2, "scope": "sample", "count": 20},
        ],
    },
    "model": {"name": "mlp", "hidden": []},
    "references": {"kinds": []},
    "strategies": {"head": {"isolated": {"name": "certified-head", "l2": 0.01}}},
}
OPTIONS = Config(l2=0.01)


@pytest.fixture(scope="module")
def config() -> lifelong.RunConfig:
    return parse(lifelong.RunConfig, CONFIG)


@pytest.fixture(scope="module")
def stream(config: lifelong.RunConfig) -> Stream:
    return lifelong.prepare(config).stream


@pytest.fixture(scope="module")
def setting(config: lifelong.RunConfig, stream: Stream) -> Setting:
    return make_setting(config, stream)


def lived(strategy: Strategy, stream: Stream, events: tuple[Event, ...] | None = None) -> list[Any]:
    """The outcomes of a life; the strategy is left as it ends."""
    ledger = Ledger(stream.source, stream.task_of)
    return [step(strategy, event, ledger).outcome for event in (stream.events if events is None else events)]


def test_what_is_promised_is_stated_and_restated(setting: Setting, stream: Stream) -> None:
    outcomes = lived(CertifiedHead(OPTIONS, setting), stream)
    assert [o.exactness for o in outcomes] == [None, "certified", None, "certified", "certified"]
    stated = [o.guarantee for o in outcomes]
    assert [sorted(g.spent) for g in stated] == [
        [],
        ["request-0"],
        ["request-0"],
        ["request-0", "request-1"],
        ["request-0", "request-1", "request-2"],
    ]
    assert stated[-1].publications == {"request-0": 4, "request-1": 2, "request-2": 1}
    costs = [(g.residual + g.reference_residual) / g.sigma for g in stated]
    assert stated[-1].spent["request-0"] == pytest.approx(math.sqrt(sum(c * c for c in costs[1:])))
    assert stated[-1].mu == mu_of(1.0, 1e-5)
    assert all(g.resolved for g in (stated[0], stated[2]))
    assert not stated[3].resolved
    traits = outcomes[-1].traits
    assert traits["request-0"]["epsilon_spent"] == epsilon_of(stated[-1].spent["request-0"], 1e-5)
    assert traits["event"]["epsilon_spent_max"] <= 1.0


def test_a_class_takes_more_steps_than_a_few_samples_and_a_small_budget_more_than_a_large_one(
    setting: Setting, stream: Stream
) -> None:
    few, many = (
        [o.guarantee.steps for o in lived(CertifiedHead(OPTIONS.model_copy(update=u), setting), stream)]
        for u in ({"epsilon": 5.0}, {"epsilon": 0.01, "sigma": 1e-4})
    )
    assert few[1] <= few[3]
    assert many[1] > few[1]
    assert many[3] > few[3]


def test_a_budget_that_would_be_exceeded_is_met_by_more_steps(setting: Setting, stream: Stream) -> None:
    hasty = OPTIONS.model_copy(update={"steps": 1, "sigma": 3e-4, "l2": 0.001})
    outcomes = lived(CertifiedHead(hasty, setting), stream)
    assert [o.exactness for o in outcomes if o.exactness] == ["certified"] * 3
    assert any(o.guarantee.steps > 1 for o in outcomes[1::2])
    assert max(outcomes[-1].guarantee.spent.values()) <= outcomes[-1].guarantee.mu


def test_what_the_budget_cannot_hold_is_no_longer_certified(setting: Setting, stream: Stream) -> None:
    """Publications at the solver's tolerance cost something, too: four of them are one too many here."""
    least = 2 * (1e-6 + 1e-12) / 0.01 / mu_of(1.0, 1e-5)
    short = Config(l2=0.01, tol=1e-6, publications=1, sigma=least)
    outcomes = lived(CertifiedHead(short, setting), stream)
    assert outcomes[1].exactness == "certified"
    assert outcomes[1].guarantee.exhausted == ()
    assert outcomes[-1].guarantee.exhausted == ("request-0",)
    assert outcomes[-1].traits["event"]["exhausted_requests"] == 1.0
    with pytest.raises(ConfigError, match=r"certified-head: sigma 1e-06 is too little noise.*at least"):
        CertifiedHead(short.model_copy(update={"sigma": 1e-6}), setting)


def test_predictions_are_made_with_what_is_published(setting: Setting, stream: Stream) -> None:
    strategy = CertifiedHead(OPTIONS, setting)
    lived(strategy, stream)
    data = Ledger(stream.source).lend(stream.source.test_ids[:50]).all()
    before = strategy.predict(data)
    strategy._secret = torch.full_like(strategy._secret, float("nan"))
    assert torch.equal(before, strategy.predict(data))
    shown = strategy.release()
    x = data.x.flatten(1)
    x = torch.cat([x / x.norm(dim=1, keepdim=True), torch.ones(50, 1)], 1)
    torch.testing.assert_close(before, x @ shown.published.float(), rtol=1e-4, atol=1e-4)
    assert torch.equal(strategy.network()(data.x), before)


def test_all_samples_gone_are_the_weights_of_the_beginning(setting: Setting, stream: Stream) -> None:
    first, request, second, *_ = stream.events
    everything = replace(request.requests[0], sample_ids=np.union1d(first.sample_ids, second.sample_ids))
    whole = replace(request, requests=(everything,))
    strategy = CertifiedHead(OPTIONS, setting)
    outcome = lived(strategy, stream, (first, second, whole))[-1]
    assert (outcome.exactness, outcome.guarantee.residual) == ("certified", 0.0)
    assert not strategy.release().secret.any()
    assert strategy.holds(stream.source.train_ids) == {}


def test_a_clip_leaves_nothing_of_the_length_of_a_row(setting: Setting, stream: Stream) -> None:
    x = stream.source.x.clone()
    x[stream.events[0].sample_ids[0]] *= 1000
    longer = replace(stream, source=replace(stream.source, x=x))
    ends = []
    for s in (stream, longer):
        strategy = CertifiedHead(OPTIONS, setting)
        lived(strategy, s, s.events[:1])
        ends.append(strategy.release().secret)
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-6, atol=1e-6)  # the pixels are float32
    cut = CertifiedHead(OPTIONS.model_copy(update={"clip": 2.0}), setting)
    notes = lived(cut, longer, longer.events[:1])[0].notes
    assert 0 < notes["clipped_share"] <= 1
    assert cut._head.reach == math.hypot(2.0, 1.0)


def test_a_batch_is_one_by_one_and_copies_are_not_lost(setting: Setting, stream: Stream) -> None:
    x, y = stream.source.x.clone(), stream.source.y.clone()
    one, two, *_ = ids = stream.events[0].sample_ids[:6]
    x[two], y[two] = x[one], y[one]
    copies = replace(stream, source=replace(stream.source, x=x, y=y))
    request = stream.events[1]

    def asking(name: str, ids: np.ndarray) -> Event:
        return replace(request, name=name, requests=(replace(request.requests[0], sample_ids=ids),))

    together = CertifiedHead(OPTIONS, setting)
    all_at_once = lived(together, copies, (copies.events[0], asking("all", np.delete(ids, 1))))
    apart = CertifiedHead(OPTIONS, setting)
    one_by_one = lived(apart, copies, (copies.events[0], *(asking(str(i), np.array([i])) for i in np.delete(ids, 1))))
    allowed = all_at_once[-1].guarantee.residual + one_by_one[-1].guarantee.residual
    assert float((together.release().secret - apart.release().secret).norm()) <= allowed
    without = CertifiedHead(OPTIONS, setting)
    lived(without, copies, (replace(copies.events[0], sample_ids=np.setdiff1d(copies.events[0].sample_ids, ids)),))
    assert float((together.release().secret - without.release().secret).norm()) > allowed, "the copy is still there"


def _found(strategy: Any, stream: Stream, requests: tuple[int, ...]) -> tuple[Lived, list[Any]]:
    def live_on(events: tuple[Event, ...], ids: np.ndarray, key: Key) -> Lived:
        return live(strategy, altered(stream, ids, key) if len(ids) else stream, events)

    life, findings = find(live_on, stream, requests, Key(0))
    return life, list(findings)


def test_verify_upholds_what_is_true(setting: Setting, stream: Stream) -> None:
    life, findings = _found(lambda: CertifiedHead(OPTIONS, setting), stream, (1, 3, 4))
    assert all(f.upheld for f in findings)
    for finding in findings:
        found = finding.certified
        assert 0 < found.distance <= found.allowed
        assert 0 < found.other_distance <= found.other_allowed
        assert found.epsilon <= 1.0
        assert (found.close, found.same_noise, found.counted, found.within) == (True, True, True, True)
    assert max(f.certified.distance / f.certified.allowed for f in findings) > 0.05, "any distance would be allowed"
    assert noise(life.shown).upheld
    assert recomputed_epsilon(0.2681, 1e-5) == pytest.approx(epsilon_of(0.2681, 1e-5), abs=1e-4)


@pytest.mark.parametrize(
    ("control", "by"),
    [
        ("no noise", "noise"),
        ("same noise", "noise"),
        ("noise by residual", "other noise"),
        ("last publication only", "account"),
        ("gradient as distance", "distance"),
        ("nothing done", "distance"),
    ],
)
def test_every_fault_is_caught(control: str, by: str, setting: Setting, stream: Stream) -> None:
    life, findings = _found(lambda: CERTIFIED_CONTROLS[control](OPTIONS, setting), stream, (1, 3))
    if by == "noise":
        assert not noise(life.shown).upheld
        return
    assert by in {f.certified.refuted_by for f in findings}
    assert set(CERTIFIED_CONTROLS) == {"no noise", "same noise", "noise by residual", "last publication only"} | {
        "gradient as distance",
        "nothing done",
    }


@pytest.mark.nightly
def test_the_certificate_of_a_run(config: lifelong.RunConfig, tmp_path: Any) -> None:
    found = verify(lifelong.run(config, tmp_path).folder)
    assert found.upheld
    assert [(v.claim, v.grade) for v in found.verified] == [("certified", "certified")]
    assert {c.control for c in found.controls if c.caught} >= set(CERTIFIED_CONTROLS)
    written = json.loads(found.file.read_text(encoding="utf-8"))
    stated = written["strategies"][0]["requests"][0]["certified"]["guarantee"]
    assert (stated["epsilon"], stated["delta"], stated["scope"], stated["adaptive"]) == (1.0, 1e-5, "transcript", True)
    assert any("secret state" in line for line in written["does_not_support"])


def _attack(setting: Setting, stream: Stream, recipe: Recipe, draws: int) -> tuple[float, float]:
    """The best attack there is: project what is published on the difference of both lives' secret weights.

    Returns:
        The difference of the projections' means over the noise (what mu is meant to bound), and mu as stated.
    """
    unlearned, reference = (CertifiedHead(OPTIONS, setting, recipe) for _ in range(2))
    guarantee = lived(unlearned, stream, stream.events[:2])[-1].guarantee
    lived(reference, stream, surviving(stream.events[:2]))
    secrets = [s.release().secret for s in (unlearned, reference)]
    direction = (secrets[0] - secrets[1]).flatten()
    direction = direction / direction.norm()
    seen = []
    for life, strategy in enumerate((unlearned, reference)):
        scores = []
        for number in range(draws):
            strategy._setting = replace(setting, key=Key(number) / life)
            drawn = recipe.scale(guarantee.sigma, guarantee.residual, guarantee.mu) * strategy._normal("again")
            scores.append(float((strategy.release().secret + drawn).flatten() @ direction))
        seen.append(np.array(scores))
    spread = guarantee.sigma
    return abs(seen[0].mean() - seen[1].mean()) / spread, guarantee.spent["request-0"]


def test_no_attack_beats_the_bound_and_the_same_attack_beats_a_broken_one(setting: Setting, stream: Stream) -> None:
    """The z-test of the stated mu at N = 1000 on either side; too little noise and no unlearning are found out."""
    draws = 1000
    reach = stats.norm.isf(0.001) * math.sqrt(2 / draws)
    found, stated = _attack(setting, stream, HONEST, draws)
    assert found <= stated + reach
    budget = mu_of(OPTIONS.epsilon, OPTIONS.delta)
    assert found <= budget + reach

    def idle(here: Any, rows: Any, l2: float) -> Any:
        return replace(here, norm=0.0, steps=here.steps + 1)

    broken, stated = _attack(setting, stream, replace(HONEST, step=idle), draws)
    assert broken > budget + reach > stated + reach, "an attack without power proves nothing"
