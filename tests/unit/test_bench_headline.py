"""Requests survived, and what it is made of, computed by hand."""

from __future__ import annotations

import doctest
import math
from typing import Any

import numpy as np
import pytest

import lifelong.bench.evidence
import lifelong.bench.headline
import lifelong.bench.standing
import lifelong.bench.table
import lifelong.bench.track
from lifelong.bench.evidence import Life, Moment, Numbers, OfScope, life_of, scores_of
from lifelong.bench.headline import Survival, headline, limits_of, mean_survived, survival
from lifelong.bench.standing import standings
from lifelong.bench.submission import Submission, make
from lifelong.bench.track import MostAccess
from lifelong.config.run import ReferencesConfig
from lifelong.results.table import Row, Table
from streams.events import Experience, Unit
from streams.ledger import Access
from streams.plan import Learn, Plan, RequestSpec, Service, assemble
from streams.randomness import Key
from streams.stream import Stream

MODULES = [
    lifelong.bench.evidence,
    lifelong.bench.headline,
    lifelong.bench.standing,
    lifelong.bench.table,
    lifelong.bench.track,
]


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__.rpartition(".")[2])
def test_examples(module: Any) -> None:
    assert not doctest.testmod(module).failed


def scope(gap: float = 0.0, floor: float = 0.1, attack: float = 0.0, **more: float) -> OfScope:
    return OfScope(
        **{"requests": 1, "chance": 0.05, "control": 0.2, "gap": gap, "floor": floor, "attack": attack} | more
    )


def moment(request: int, retained: float = 0.0, floor: float = 0.01, **scopes: OfScope) -> Moment:
    found = scopes or {"sample": scope()}
    return Moment(request=request, event=2 * request, retained=retained, retained_floor=floor, scopes=found)


def life(seed: int, *moments: Moment, **more: Any) -> Life:
    return Life(seed=seed, served=8, moments=moments, **more)


def whole(seed: int, **last: Any) -> Life:
    return life(seed, moment(1), moment(4, **last), moment(8))


def survived(*lives: Life) -> list[Survival]:
    limits = limits_of(lives)
    return [survival(one, limits) for one in lives]


GOOD = [whole(seed) for seed in range(3)]


def test_a_life_ends_at_the_first_moment_that_shows_anything() -> None:
    assert survived(*GOOD) == [Survival(8, "nothing")] * 3
    assert survived(*GOOD, whole(3, retained=-0.051))[-1] == Survival(1, "retained")
    assert survived(*GOOD, whole(3, retained=-0.05))[-1] == Survival(8, "nothing"), "5 points are still allowed"
    assert survived(*GOOD, whole(3, retained=0.5))[-1] == Survival(8, "nothing"), "better than retrained is no loss"
    assert survived(*GOOD, whole(3, sample=scope(gap=0.11)))[-1] == Survival(1, "gap", "sample")
    assert survived(*GOOD, whole(3, sample=scope(gap=0.1)))[-1] == Survival(8, "nothing"), "at the floor"
    assert survived(*GOOD, whole(3, sample=scope(attack=0.06)))[-1] == Survival(1, "attack", "sample")
    assert survived(*GOOD, life(3, moment(1, retained=-0.2)))[-1] == Survival(0, "retained")
    assert survived(*GOOD, Life(seed=3, diverged="nan"))[-1] == Survival(0, "diverged")


def test_what_recovers_later_has_ended_all_the_same() -> None:
    one = life(3, moment(1), moment(4, sample=scope(gap=0.3)), moment(8, sample=scope(gap=0.0)))
    assert survived(*GOOD, one)[-1] == Survival(1, "gap", "sample")


def test_the_floor_of_a_scope_is_the_largest_gap_of_two_retrainings_under_any_seed() -> None:
    generous = whole(3, sample=scope(floor=0.4))
    late = life(4, moment(1), moment(4), moment(8, sample=scope(gap=0.39)))
    assert survived(*GOOD, generous, late)[-1] == Survival(8, "nothing"), "another seed and moment counts as well"
    other = life(4, moment(1), moment(4, user=scope(gap=0.39)), moment(8))
    assert survived(*GOOD, generous, other)[-1] == Survival(1, "gap", "user"), "another scope does not"


def test_little_retained_data_is_allowed_what_retraining_differs_by_at_that_moment() -> None:
    noisy = whole(3, floor=0.3)
    early = life(4, moment(1), moment(4, retained=-0.25), moment(8))
    assert survived(*GOOD, noisy, early)[-1] == Survival(8, "nothing")
    later = life(4, moment(1), moment(4), moment(8, retained=-0.25))
    assert survived(*GOOD, noisy, later)[-1] == Survival(4, "retained"), "noise of one moment excuses no other"


@pytest.mark.parametrize("control", [0.0, -0.1])
def test_an_attack_counts_only_if_its_control_works(control: float) -> None:
    caught = scope(attack=0.4, control=control)
    lives = [life(s, moment(1, sample=scope(control=control)), moment(8, sample=caught)) for s in range(3)]
    assert survived(*lives) == [Survival(8, "nothing")] * 3
    working = [life(s, moment(1), moment(8, sample=scope(attack=0.4))) for s in range(3)]
    assert survived(*working) == [Survival(1, "attack", "sample")] * 3
    assert survived(*working[:2]) == [Survival(8, "nothing")] * 2, "two seeds show of no control that it works"


def test_an_attack_that_cannot_be_made_ends_nothing() -> None:
    silent = OfScope(requests=1, gap=0.0, floor=0.0, attack=None, chance=None, control=None)
    assert survived(*[whole(s, user=silent) for s in range(3)]) == [Survival(8, "nothing")] * 3


def test_a_third_retraining_is_stopped_about_once_in_seeds_plus_one() -> None:
    """Among S + 1 exchangeable lives, the one that is judged holds the largest gap with probability 1 / (S + 1)."""
    generator, stopped, times = np.random.default_rng(0), 0, 300
    for _ in range(times):
        gaps = generator.exponential(size=(8, 3))
        others = [life(s, *(moment(i + 1, sample=scope(floor=g)) for i, g in enumerate(gaps[s]))) for s in range(7)]
        limits = limits_of(others)
        judged = life(7, *(moment(i + 1, sample=scope(gap=g)) for i, g in enumerate(gaps[7])))
        stopped += survival(judged, limits).end == "gap"
    assert abs(stopped / times - 1 / 8) < 4 * math.sqrt(1 / 8 * 7 / 8 / times)


def test_the_mean_is_geometric_with_an_interval_around_it() -> None:
    mean = mean_survived([0, 2, 8])
    assert mean.value == pytest.approx(2.0)
    assert mean.low is not None
    assert mean.low == 0.0, "nobody survives fewer than none"
    assert (mean.high or 0.0) > 8
    assert mean_survived([4, 4, 4]).low == pytest.approx(4.0)
    assert mean_survived([4]).low is None


def test_a_headline_counts_what_ended_lives_and_leaves_out_what_is_undefined() -> None:
    numbers = [
        Numbers(accumulation=a, forgetting=None, relapse=0.1, cost=0.2, state_bytes=8.0) for a in (0.5, None, 0.7)
    ]
    lives = [life(s, moment(1), moment(8), numbers=n) for s, n in enumerate(numbers)]
    lives.append(life(3, moment(1), moment(8, retained=-0.3)))
    found = headline(lives)
    assert found.survived == (8, 8, 8, 1)
    assert found.ends == {"nothing": 3, "retained": 1}
    assert found.numbers["accumulation"] is not None
    assert (found.numbers["accumulation"].value, found.numbers["accumulation"].n) == (pytest.approx(0.6), 2)
    assert found.numbers["forgetting"] is None


@pytest.fixture
def stream(tools: Any) -> Stream:
    """Learn, forget six samples, learn, forget a class."""
    source = tools.source(num_classes=2, per_class=14, test_per_class=2)
    ids = [np.flatnonzero((source.class_ids == c) & ~source.is_test) for c in range(2)]
    units = tuple(Unit(f"u{c}", (c,), np.flatnonzero((source.class_ids == c) & source.is_test)) for c in range(2))
    plan = Plan(source, units, tuple(Experience(f"e{c}", (c,), ids[c]) for c in range(2)))
    scheduled = [Learn(0), RequestSpec("sample", tuple(ids[0][:6].tolist())), Learn(1), RequestSpec("class", (1,))]
    return assemble(plan, scheduled, Service(), Key(0))


def rows_of(event: int, name: str, scores: dict[str, float], aucs: dict[str, float], n: int = 6) -> list[Row]:
    found = [Row(event, model, name, "forget_accuracy", value, n) for model, value in scores.items()]
    return found + [Row(event, model, name, "membership_auc", value, n) for model, value in aucs.items()]


def test_evidence_takes_the_furthest_request_of_each_scope(stream: Stream) -> None:
    first, second = (e.name for e in stream.events[1::2])
    aucs = {"run": 0.7, "retrained": 0.55, "retrained-2": 0.48, "original": 0.9}
    rows = rows_of(1, first, {"run": 0.8, "retrained": 0.5, "retrained-2": 0.6, "original": 1.0}, aucs)
    rows += rows_of(3, first, {"run": 0.2, "retrained": 0.7, "retrained-2": 0.6, "original": 1.0}, aucs)
    rows += rows_of(3, second, {"run": 0.0, "retrained": 0.0, "retrained-2": 0.0, "original": 1.0}, aucs, n=4)
    rows += [
        Row(3, m, "stream", "retain_accuracy", v, 9)
        for m, v in (("run", 0.5), ("retrained", 0.8), ("retrained-2", 0.7))
    ]
    rows += [Row(e, "run", "stream", "average_accuracy", v, 2) for e, v in ((0, 0.2), (1, 0.4), (3, 0.6))]
    rows += [Row(3, "joint", "stream", "average_accuracy", 0.8, 2), Row(1, "run", first, "exact", 1.0, 1)]
    rows += [Row(3, "run", second, "exact", 0.0, 1)]
    rows += [Row(e, "run", "event", "state_bytes", v, 1) for e, v in ((0, 5.0), (2, 9.0), (3, 7.0))]
    found = life_of(3, Table(rows), stream, scores_of("classification"), ReferencesConfig(), "abc")
    assert (found.seed, found.served, found.exact, found.results) == (3, 2, 0.5, "abc")
    at_first, at_last = found.moments
    assert (at_first.request, at_first.event, at_first.retained) == (1, 1, None)
    assert at_first.scopes["sample"] == OfScope(requests=1, gap=0.3, floor=0.1, attack=0.2, chance=0.05, control=0.365)
    assert (at_last.request, at_last.retained, at_last.retained_floor) == (2, -0.3, 0.1)
    assert (at_last.scopes["sample"].gap, at_last.scopes["sample"].floor) == (0.5, 0.1)
    assert set(at_last.scopes) == {"sample"}, "four samples are too few to be looked at"
    # 0.2 for one event, 0.4 for two, 0.6 for the last
    assert found.numbers.accumulation == pytest.approx((0.2 + 2 * 0.4 + 0.6) / 4 / 0.8)
    assert found.numbers.state_bytes == 9.0
    assert found.numbers.relapse is None


def test_of_an_image_generator_counts_what_judges_see(stream: Stream) -> None:
    """The worse of objects and styles, unlearning accuracy, and nothing that is measured in squared errors."""
    name = stream.events[1].name

    def row(model: str, subject: str, metric: str, value: float) -> Row:
        return Row(1, model, subject, metric, value, 8)

    seen = {"run": (0.9, 0.6, 0.5), "retrained": (0.95, 0.9, 1.0), "retrained-2": (0.95, 0.7, 0.9)}
    rows = [
        row(model, subject, metric, value)
        for model, values in seen.items()
        for subject, metric, value in zip(
            ("stream", "stream", name), ("picture_accuracy", "picture_style_accuracy", "ua"), values, strict=True
        )
    ]
    errors = ("retain", "forget", "average")
    rows += [row(m, "stream", f"{of}_negative_denoising_error", -9.0) for m in seen for of in errors]
    rows += [row("run", "stream", "forgetting_from_first", 7.0), row("retrained", "requests", "abs_relapse", 7.0)]
    rows += [row("joint", "stream", "picture_accuracy", 0.9)]
    found = life_of(0, Table(rows), stream, scores_of("denoising"), ReferencesConfig(), "")
    first = found.moments[0]
    assert (first.retained, first.retained_floor) == (-0.3, 0.2)
    assert (first.scopes["sample"].gap, first.scopes["sample"].floor) == (0.5, 0.1)
    assert found.numbers.accumulation == pytest.approx(1.0)
    assert (found.numbers.forgetting, found.numbers.relapse) == (None, None)


@pytest.mark.parametrize(
    ("most", "access", "allowed"),
    [
        (MostAccess(), Access(True, "full"), True),
        (MostAccess(retained=100), Access(True, "full"), False),
        (MostAccess(retained=100), Access(True, 100), True),
        (MostAccess(retained=100), Access(False, 101), False),
        (MostAccess(forget_set=False), Access(True, 0), False),
        (MostAccess(forget_set=False), Access(False, "full"), True),
    ],
)
def test_access_within_what_a_track_allows(most: MostAccess, access: Access, allowed: bool) -> None:
    assert most.allows(access) is allowed


def submission(name: str, requests: list[int], access: str = "full", **numbers: float) -> Submission:
    fields: dict[str, Any] = {
        **{"track": "t", "version": 1, "frozen": "f", "strategy": name, "config": {}, "access": access},
        **{"code": "c", "versions": {}, "processor": "p", "source": "s", "streams": ["d"] * len(requests)},
    }
    lives = []
    for seed, count in enumerate(requests):
        moments = [moment(1), moment(2), moment(4), moment(8)]
        moments = [m if m.request <= count else moment(m.request, retained=-1.0) for m in moments]
        beside = {"accumulation": 0.5, "forgetting": 0.0, "relapse": 0.0, "cost": 0.1, "state_bytes": 1.0} | numbers
        lives.append(life(seed, *moments, numbers=Numbers(**beside)))
    return make(fields, lives)


def test_places_are_as_wide_as_the_noise() -> None:
    best, close = submission("best", [8, 8, 4, 8, 8]), submission("close", [8, 4, 8, 8, 8], cost=0.2)
    poor, other = submission("poor", [1, 1, 1, 0, 1]), submission("other", [8] * 5, access="buffer")
    found = standings([poor, best, other, close])
    assert list(found) == ["buffer", "full"]
    assert [s.place for s in found["buffer"]] == ["1"]
    places = {s.submission.strategy: (s.place, s.tied, s.on_front) for s in found["full"]}
    assert places["best"] == ("1 to 2", ("close",), True)
    assert places["close"] == ("1 to 2", ("best",), False), "it costs more, and is no better in anything"
    assert places["poor"] == ("3", (), False)


def test_two_seeds_tell_nobody_apart() -> None:
    found = standings([submission("a", [8, 8]), submission("b", [0, 0])])["full"]
    assert [s.place for s in found] == ["1 to 2", "1 to 2"]
