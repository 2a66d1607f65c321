"""certified-head in a stream: what is published and stated, what verify finds, and that no attack beats the bound."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import lifelong
from lifelong.setup.build import make_setting
from lifelong.verification.certificate import verify
from lifelong.verification.certified import check, noise, recomputed_epsilon
from lifelong.verification.certified_controls import CERTIFIED_CONTROLS
from lifelong.verification.replay import Lived, altered, find, live
from strategies.base import Setting, Strategy
from strategies.isolated import anchored_head, descent_to_delete, dp_head, integer_ridge, newton_removal
from strategies.isolated.certified_head import HONEST, CertifiedHead, Config, Recipe
from strategies.parts.convex.gaussian import epsilon_of, mu_of
from strategies.parts.convex.softmax import gradient
from strategies.parts.model import digest
from strategies.step import step
from streams.config import parse
from streams.errors import ConfigError, StreamError
from streams.events import DeletionRequest, Event, Request
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


def test_nothing_is_published_where_nothing_happens(setting: Setting, stream: Stream) -> None:
    """Fresh noise around the same weights would average out."""
    strategy = CertifiedHead(OPTIONS, setting)
    lived(strategy, stream, stream.events[:1])
    before, ledger = strategy.release(), Ledger(stream.source)
    data = ledger.lend(stream.source.test_ids[:20]).all()
    seen = {strategy.predict(data).numpy().tobytes() for _ in range(100)}
    again = replace(stream.events[0], consolidates=True)
    assert step(strategy, again, ledger).outcome.guarantee is None
    assert len(seen | {strategy.predict(data).numpy().tobytes()}) == 1
    assert torch.equal(before.published, strategy.release().published)


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


@pytest.mark.nightly
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
    assert by in {f.certified.refuted_by for f in findings if not f.upheld}
    assert set(CERTIFIED_CONTROLS) == {"no noise", "same noise", "noise by residual", "last publication only"} | {
        "gradient as distance",
        "nothing done",
    }


def test_without_noise_all_is_told_but_where_there_is_nothing_to_tell(setting: Setting, stream: Stream) -> None:
    life, _ = _found(lambda: CertifiedHead(OPTIONS, setting), stream, (1,))

    def stated(**values: float) -> dict[int, Any]:
        return {i: replace(s, guarantee=replace(s.guarantee, sigma=0.0, **values)) for i, s in life.shown.items()}

    found = check(1, stated(), {i: s for i, s in stated().items() if i <= 1}, {})
    assert found.account == found.epsilon == math.inf
    assert found.refuted_by == "account"
    nothing = stated(residual=0.0, reference_residual=0.0)
    assert check(1, nothing, nothing, {}).account == 0.0
    assert noise(nothing) is None


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
        The difference of the projections' means over their deviation (what mu is meant to bound), and mu as stated.
    """
    unlearned, reference = (CertifiedHead(OPTIONS, setting, recipe) for _ in range(2))
    guarantee = lived(unlearned, stream, stream.events[:2])[-1].guarantee
    lived(reference, stream, surviving(stream.events[:2]))
    secrets = [s.release().secret for s in (unlearned, reference)]
    direction = (secrets[0] - secrets[1]).flatten()
    direction = direction / direction.norm()
    sigma, scores = recipe.scale(OPTIONS.sigma, guarantee.residual, guarantee.mu), np.zeros((2, draws))
    for life, strategy in enumerate((unlearned, reference)):
        for number in range(draws):  # published once more under every seed
            strategy._setting = replace(setting, key=Key(number) / life)
            scores[life, number] = float((secrets[life] + sigma * strategy._normal("again")).flatten() @ direction)
    apart = abs(scores[0].mean() - scores[1].mean())
    spread = math.sqrt(scores.var(1, ddof=1).mean())
    return math.inf if spread < 1e-12 < apart else apart / spread, guarantee.spent["request-0"]


@pytest.mark.nightly
def test_no_attack_beats_the_bound_and_the_same_attack_beats_broken_ones(setting: Setting, stream: Stream) -> None:
    """The z-test of the stated mu at N = 1000 on either side; without noise, or without unlearning, it succeeds."""
    draws = 1000
    reach = stats.norm.isf(0.001) * math.sqrt(2 / draws)
    found, stated = _attack(setting, stream, HONEST, draws)
    assert found <= stated + reach
    budget = mu_of(OPTIONS.epsilon, OPTIONS.delta)
    assert stated <= budget

    def idle(here: Any, rows: Any, l2: float) -> Any:
        return replace(here, norm=0.0, steps=here.steps + 1)

    for broken in (replace(HONEST, scale=lambda *_: 0.0), replace(HONEST, step=idle)):
        found, stated = _attack(setting, stream, broken, draws)
        assert found > budget + reach > stated + reach, "an attack without power proves nothing"


def _violated(one: np.ndarray, other: np.ndarray, epsilon: float, delta: float) -> bool:
    """Whether scores of two laws cannot be (epsilon, delta)-close, whatever they are distributed like.

    Thresholds are those of half of the scores; on the other half Clopper-Pearson's limits at 1 % over all of them.
    """
    half, level = len(one) // 2, 0.01 / 40
    for threshold in np.quantile(np.concatenate([one[:half], other[:half]]), np.linspace(0.025, 0.975, 20)):
        for a, b in ((one, other), (other, one)):
            hits, false = int((a[half:] > threshold).sum()), int((b[half:] > threshold).sum())
            n = len(a) - half
            low = stats.beta.ppf(level, hits, n - hits + 1) if hits else 0.0
            high = stats.beta.ppf(1 - level, false + 1, n - false) if false < n else 1.0
            if low > math.exp(epsilon) * high + delta:
                return True
    return False


@pytest.mark.nightly
@pytest.mark.parametrize(("noise", "violated"), [(10.0, False), (0.02, True)])
def test_no_attack_on_newton_removal_beats_its_bound(
    noise: float, violated: bool, setting: Setting, stream: Stream
) -> None:
    """Noise inside of what is solved is not Gaussian afterwards, so the attack assumes nothing of its law.

    With too little noise, removal that never trains again is found out.
    """
    first, request, *_ = stream.events
    ids = first.sample_ids[stream.source.class_ids[first.sample_ids] == 1][:60]
    asked = replace(request, requests=(replace(request.requests[0], sample_ids=ids),))
    config = newton_removal.Config(l2=0.01, noise=noise, tol=1e-7)
    secrets = []
    for number in range(150):
        pair = []
        for life, events in enumerate(((first, asked), surviving((first, asked)))):
            strategy = newton_removal.NewtonRemoval(config, replace(setting, key=Key(number) / life))
            if violated:
                strategy._budget = math.inf
            lived(strategy, stream, events)
            pair.append(strategy.release().published.flatten().numpy())
        secrets.append(pair)
    both = np.array(secrets)
    direction = both[:75, 0].mean(0) - both[:75, 1].mean(0)
    scores = both @ direction
    assert _violated(scores[:, 0], scores[:, 1], config.epsilon, config.delta) is violated


@pytest.mark.nightly
def test_newton_removal_trains_again_when_its_bounds_are_spent(setting: Setting, stream: Stream) -> None:
    first, request, *_ = stream.events
    single = [replace(request.requests[0], sample_ids=np.array([i])) for i in first.sample_ids[:12]]
    events = (first, *(replace(request, name=f"single-{n}", requests=(r,)) for n, r in enumerate(single)))
    served = {}
    for bound in ("fourth", "paper", "worst-case"):
        strategy = newton_removal.NewtonRemoval(newton_removal.Config(l2=0.01, noise=0.3, bound=bound), setting)
        outcomes = lived(strategy, stream, events)[1:]
        assert {o.exactness for o in outcomes} == {"certified"}
        stated = [o.guarantee for o in outcomes]
        budget = 0.3 * stated[0].mu
        assert all(g.residual + g.reference_residual <= budget for g in stated)
        for before, after in pairwise(stated):
            assert after.resolved == (after.residual < before.residual), "bounds add up, until it trains again"
        assert stated[0].adaptive is False
        assert (stated[0].covers, stated[0].scope) == ("state", "last")
        served[bound] = sum(not g.resolved for g in stated)
    assert served["fourth"] >= served["paper"] >= served["worst-case"] == 0
    assert 0 < served["paper"] < 12


def test_the_noise_of_an_objective_is_drawn_anew_and_kept_nowhere(setting: Setting, stream: Stream) -> None:
    strategy = newton_removal.NewtonRemoval(newton_removal.Config(l2=0.01, noise=1.0), setting)
    lived(strategy, stream, stream.events[:1])
    tilt = strategy._normal(strategy._root)
    rows, _ = strategy._rows(Ledger(stream.source).lend(stream.events[0].sample_ids))
    here = gradient(strategy.release().secret, rows, 0.01)
    torch.testing.assert_close(here * len(rows), -tilt, rtol=1e-4, atol=1e-4)
    state = strategy.state_dict()
    assert not any(isinstance(v, torch.Tensor) and torch.equal(v, tilt) for v in state.values())
    before = strategy._root
    lived(strategy, stream, stream.events[:1])
    strategy._train(rows, "another")
    assert strategy._root != before
    assert not torch.equal(strategy._normal("another"), tilt)


@pytest.mark.nightly
def test_what_the_literature_proves_is_upheld_by_verify(setting: Setting, stream: Stream) -> None:
    for build in (
        lambda: newton_removal.NewtonRemoval(newton_removal.Config(l2=0.1), setting),
        lambda: descent_to_delete.DescentToDelete(descent_to_delete.Config(l2=0.1, steps=30, rows=200), setting),
        lambda: anchored_head.AnchoredHead(anchored_head.Config(sigma=50.0), setting),
    ):
        life, findings = _found(build, stream, (1, 4))
        assert [f.claim for f in findings] == ["certified"] * 2
        assert all(f.upheld for f in findings), [f.certified for f in findings]
        compared = [f.certified for f in findings if f.certified.distance is not None]
        assert compared
        assert all(c.distance > 0 for c in compared)
        found = noise(life.shown)
        assert found is None or found.upheld


def test_descent_to_delete_needs_half_of_its_rows(setting: Setting, stream: Stream) -> None:
    count = len(stream.events[0].sample_ids)
    config = descent_to_delete.Config(l2=0.1, steps=20, rows=2 * count)
    strategy = descent_to_delete.DescentToDelete(config, setting)
    ledger = Ledger(stream.source)
    step(strategy, stream.events[0], ledger)
    with pytest.raises(StreamError, match=rf"{count - 3} rows are left.*at most {2 * (count - 3)}"):
        step(strategy, stream.events[1], ledger)
    assert strategy._needed(1) == config.steps
    assert config.steps < strategy._needed(5) < strategy._needed(50)


def test_what_lies_behind_fades_from_an_anchored_head(setting: Setting, stream: Stream) -> None:
    """The same request is certified if enough was learned after its task, and is not if nothing was."""
    first, request, second, *_ = stream.events
    parts = np.array_split(second.sample_ids, 12)
    later = tuple(replace(second, name=f"part-{n}", sample_ids=np.sort(ids)) for n, ids in enumerate(parts))
    config = anchored_head.Config(sigma=0.3, scope="last")
    soon, late = (anchored_head.AnchoredHead(config, setting) for _ in range(2))
    at_once = lived(soon, stream, (first, request))[-1]
    afterwards = lived(late, stream, (first, *later, request))[-1]
    assert (at_once.exactness, afterwards.exactness) == ("none", "certified")
    assert at_once.guarantee.exhausted == ("request-0",)
    assert afterwards.guarantee.residual < at_once.guarantee.residual * 0.6**12
    assert not at_once.weights_erased
    whole = replace(request, requests=(replace(request.requests[0], sample_ids=first.sample_ids),))
    by_bound, measured = (
        lived(
            anchored_head.AnchoredHead(config.model_copy(update={"moves": moves}), setting),
            stream,
            (first, *later, whole),
        )
        for moves in ("bound", "measured")
    )
    assert measured[-1].guarantee.residual < by_bound[-1].guarantee.residual


@pytest.mark.parametrize("moves", ["bound", "measured"])
def test_nothing_lies_behind_a_head_that_has_begun_anew(moves: Any, setting: Setting, stream: Stream) -> None:
    """When all that it learned is deleted, its weights are those of nothing, and no move counts any more."""
    first, request, second, *_ = stream.events
    head = anchored_head.AnchoredHead(anchored_head.Config(moves=moves, scope="last"), setting)
    whole = replace(request, requests=(replace(request.requests[0], sample_ids=first.sample_ids),))
    _, gone, later = lived(head, stream, (first, whole, second))
    assert gone.guarantee.residual == 0.0
    assert later.guarantee.residual < 1e-5, "what the solver leaves"
    assert gone.weights_erased
    fresh = anchored_head.AnchoredHead(anchored_head.Config(moves=moves, scope="last"), setting)
    lived(fresh, stream, (second,))
    assert torch.equal(head._secret, fresh._secret)


def test_a_sample_that_two_tasks_taught_is_behind_both(setting: Setting, stream: Stream) -> None:
    """What the earlier one kept of it counts, too."""
    first, request, *_ = stream.events
    config = anchored_head.Config(sigma=0.3, scope="last")
    once, twice = (anchored_head.AnchoredHead(config, setting) for _ in range(2))
    of_one = lived(once, stream, (first, request))[-1].guarantee.residual
    of_both = lived(twice, stream, (first, replace(first, name="again"), request))[-1].guarantee.residual
    assert of_both == pytest.approx(of_one * (1 + config.anchor / (config.anchor + config.l2)))
    assert [int((ids < 0).sum()) for ids in twice._taught] == [len(request.sample_ids)] * 2


def test_a_private_head_pays_for_a_request_by_its_rows(setting: Setting, stream: Stream) -> None:
    config = dp_head.Config(steps=4, noise_multiplier=200.0)
    outcomes = lived(dp_head.DPHead(config, setting), stream)
    spent = outcomes[-1].guarantee.spent
    assert spent["request-0"] == pytest.approx(3 * math.sqrt(4) / 200)
    assert spent["request-2"] == pytest.approx(20 * math.sqrt(8) / 200)
    assert [o.exactness for o in outcomes if o.exactness] == ["certified", "none", "none"]
    assert not any(o.weights_erased for o in outcomes if o.exactness)
    one, other = (dp_head.DPHead(config, setting) for _ in range(2))
    rows, _ = one._rows(Ledger(stream.source).lend(stream.events[0].sample_ids))
    quiet = torch.zeros(one._secret.shape, dtype=torch.float64)
    moved = [s._stepped(s._secret, r, quiet) for s, r in ((one, rows), (other, rows.part(torch.arange(1, len(rows)))))]
    largest = config.lr * config.clip_norm / setting.num_samples
    assert 0 < float((moved[0] - moved[1]).norm()) <= largest * (1 + 1e-9), "one row moves a step by the clip at most"


def test_sums_of_integers_are_exact_whatever_is_deleted(setting: Setting, stream: Stream) -> None:
    build = lambda: integer_ridge.IntegerRidge(integer_ridge.Config(l2=0.01), setting)  # noqa: E731
    _, findings = _found(build, stream, (1, 3, 4))
    assert [(f.claim, f.independent, f.as_without, f.held) for f in findings] == [("bits", True, True, ())] * 3
    strategy = build()
    lived(strategy, stream)
    data = Ledger(stream.source).lend(stream.source.test_ids).all()
    known = data.y != 1
    right = (strategy.predict(data).argmax(1) == data.y)[known].float().mean()
    assert float(right) > 0.8


def test_a_sample_that_comes_twice_counts_once(setting: Setting, stream: Stream) -> None:
    first, last = stream.experiences
    again = replace(last, sample_ids=np.union1d(last.sample_ids, first.sample_ids[::2]))
    ids = first.sample_ids[:6]
    events = (first, again, DeletionRequest("r", (Request("sample", tuple(ids.tolist()), ids, ids[:0], 2),)))
    strategies = [integer_ridge.IntegerRidge(integer_ridge.Config(l2=0.01), setting) for _ in range(2)]
    for strategy, of_life in zip(strategies, (events, surviving(events)), strict=True):
        lived(strategy, stream, of_life)
    assert digest(strategies[0].state_dict()) == digest(strategies[1].state_dict())
    assert strategies[0].state_dict()["count"] == len(np.union1d(first.sample_ids, last.sample_ids)) - len(ids)


def test_solving_from_zero_is_exact_in_law_with_noise(setting: Setting, stream: Stream) -> None:
    """Without noise it is exact to the bit, to which the contract tests hold it."""
    cold = OPTIONS.model_copy(update={"start": "cold"})
    _, findings = _found(lambda: CertifiedHead(cold, setting), stream, (1, 3))
    assert [(f.claim, f.independent, f.as_without, f.upheld) for f in findings] == [("law", True, False, True)] * 2
    quiet = CertifiedHead(OPTIONS.model_copy(update={"sigma": 0.0}), setting)
    assert {o.exactness for o in lived(quiet, stream) if o.exactness} == {"none"}


def test_a_private_head_is_charged_for_the_row_that_took_part_most(setting: Setting, stream: Stream) -> None:
    """A request for rows of both experiences: those of the first took part in the steps of both."""
    first, second = stream.experiences
    ids = np.sort(np.concatenate([first.sample_ids[:1], second.sample_ids[:2]]))
    both = DeletionRequest("both", (Request("sample", tuple(ids.tolist()), ids, ids[:0], 2),))
    head = dp_head.DPHead(dp_head.Config(steps=4, noise_multiplier=200.0), setting)
    spent = lived(head, stream, (first, second, both))[-1].guarantee.spent
    assert spent == {"both": pytest.approx(3 * math.sqrt(8) / 200)}


@pytest.mark.parametrize("bits", [2, 8, 16])
@pytest.mark.parametrize("clip", ["unit", 0.5])
def test_the_longest_feature_is_the_largest_integer(bits: int, clip: Any, setting: Setting) -> None:
    head = integer_ridge.IntegerRidge(integer_ridge.Config(bits=bits, clip=clip), setting)
    assert head._scale * (1.0 if clip == "unit" else clip) == 2 ** (bits - 1) - 1
