"""Capacity: sequences as published, closed forms as derived, and a simulation that agrees with both."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import lifelong
from cli.commands.capacity import _numbers, capacity
from lifelong.capacity import theory
from lifelong.capacity.figure import write_figure
from lifelong.capacity.simulate import System, simulate, waits
from lifelong.capacity.sizing import Load, Measured, measured, size, systems
from strategies.parts.sharding.sequences import drawn, edit_distance, matched, prefixes, rotations, score
from streams.config import parse
from streams.errors import ConfigError
from streams.randomness import Key

ROOT = Path(__file__).parents[2]
LOAD = Load(rate=1000, throughput=1e4, checkpoint=1e6)


def test_rotations_as_published() -> None:
    assert rotations(4, 3) == [(0, 1, 2, 3), (3, 0, 1, 2), (2, 3, 0, 1)]
    full = rotations(3, 6)
    assert len(set(full)) == 6
    assert Counter(o[0] for o in full) == {0: 2, 1: 2, 2: 2}
    many = rotations(4, 13)
    assert len(set(many)) == 13
    assert sorted(Counter(o[0] for o in many).values()) == [3, 3, 3, 4]
    assert len({o[:2] for o in many}) == 12
    assert len(rotations(3, 99)) == 6
    assert [len(prefixes(rotations(n, count))) for n, count in ((3, 6), (4, 24), (4, 4))] == [15, 64, 16]
    for count in range(1, 5):
        for place in range(4):
            assert len({o[place] for o in rotations(4, count)}) == count


def test_matching_gives_a_latin_square() -> None:
    orders = matched((0.4, 0.3, 0.2, 0.1), 4)
    assert edit_distance(orders) == 4.0
    assert all(sorted(o[place] for o in orders) == [0, 1, 2, 3] for place in range(4))
    best = matched((0.4, 0.3, 0.2, 0.1), 1)[0]
    assert score(best, (0.4, 0.3, 0.2, 0.1)) == max(score(o, (0.4, 0.3, 0.2, 0.1)) for o in orders)


def test_scores() -> None:
    prior = (0.1, 0.2, 0.3, 0.4)
    there, back = (0, 1, 2, 3), (3, 2, 1, 0)
    found = [score(o, prior, t, w) for w in (True, False) for o in (there, back) for t in (1, 2)]
    assert found == pytest.approx([3.5, 2.27, 1.5, 0.57, 2.0, 1.46, 1.0, 0.46])


def test_drawn_orders_put_what_is_seldom_hit_first() -> None:
    prior = (0.97, 0.01, 0.01, 0.01)
    orders = drawn(prior, 10, Key(0).numpy())
    assert len(set(orders)) == 10
    firsts = [drawn(prior, 1, (Key(0) / i).numpy())[0][0] for i in range(500)]
    assert np.mean([f == 0 for f in firsts]) == pytest.approx(0.03 / 3, abs=0.015)


def test_a_prior_by_which_too_few_orders_come_up_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"isolated\.prior: .* 2 of the 3 orders wanted .* Lower `sequences`"):
        drawn((0.5, 0.1, 1.0), 3, Key(0).numpy())


LIFETIMES = [  # m, L, B, until all are dead, until the first is
    (5, 4, 1, 45.667, 4.0),
    (5, 4, 2, 58.579, 10.127),
    (5, 4, 4, 71.955, 19.286),
    (5, 6, 1, 68.5, 6.0),
    (5, 6, 6, 119.850, 38.525),
    (3, 4, 2, 29.4, 8.4),
]


@pytest.mark.parametrize(("m", "slices", "b", "all_dead", "first"), LIFETIMES)
def test_lifetimes(m: int, slices: int, b: int, all_dead: float, first: float) -> None:
    assert theory.deletion_rate(m, slices, b) == pytest.approx(all_dead, abs=6e-4)
    assert theory.first_shard_dead(m, slices, b) == pytest.approx(first, abs=6e-4)
    done = simulate(System(shards=m, slices=slices, sequences=b, requests=round(4500 * all_dead)))
    assert len(done.lifetimes) > 1500
    assert done.lifetimes.mean() == pytest.approx(all_dead, rel=0.03)
    assert done.first_dead.mean() == pytest.approx(first, rel=0.03)
    visits = theory.training_per_request(1_000_000, m, slices, b)
    assert done.visits / done.requests == pytest.approx(visits, rel=0.03)


@pytest.mark.parametrize("b", [1, 2, 4])
def test_shard_by_shard(b: int) -> None:
    done = simulate(System(sequences=b, retrain_when="shard-dead", requests=200_000))
    assert done.retrains == 0
    assert done.shard_retrains / done.requests == pytest.approx(theory.shard_retrain_rate(4, b), rel=0.02)
    expected = theory.training_per_request(1_000_000, 5, 4, b, by_shard=True)
    assert done.visits / done.requests == pytest.approx(expected, rel=0.02)
    assert done.histogram[0] == pytest.approx(0.0, abs=1e-12)


def test_demanding_more_slices_costs_more_and_serves_more() -> None:
    by_need = [simulate(System(sequences=2, retrain_when="below", keep=k, requests=100_000)) for k in (1, 2, 4)]
    assert [s.shard_retrains for s in by_need] == sorted(s.shard_retrains for s in by_need)
    assert by_need[0].best < by_need[1].best < by_need[2].best == 4.0
    with pytest.raises(ConfigError, match="keep=5 is more than slices=4"):
        parse(System, {"keep": 5})


COSTS = [(5, 4, 1, 7.5, 1.0), (5, 4, 10, 38.419, 4.4631), (10, 1, 7, 5.2170, 5.2170), (3, 8, 5, 76.412, 2.6049)]


@pytest.mark.parametrize(("m", "slices", "k", "cost", "touched"), COSTS)
def test_lazy_costs(m: int, slices: int, k: int, cost: float, touched: float) -> None:
    cells = m * slices
    assert theory.batch_cost(cells, m, slices, k) == pytest.approx(cost, abs=6e-4)
    assert theory.touched_shards(m, k) == pytest.approx(touched, abs=6e-5)
    done = simulate(System(method="sisa", shards=m, slices=slices, samples=cells, together=k, requests=4000 * k))
    assert done.visits / 4000 == pytest.approx(cost, rel=0.02)
    assert done.shard_retrains / 4000 == pytest.approx(touched, rel=0.02)
    assert theory.batch_cost(cells, m, slices, 1) == pytest.approx(theory.request_cost(cells, m, slices))
    assert theory.batch_cost(cells, m, slices, 10**6) == pytest.approx(theory.training_cost(cells, slices))


RETENTION = [(4, 2, 2, 2, 0.4375), (4, 4, 2, 2, 0.75), (4, 4, 1, 3, 1.0), (6, 6, 3, 2, 0.9444)]


@pytest.mark.parametrize(("slices", "b", "r", "k", "chance"), RETENTION)
def test_retention(slices: int, b: int, r: int, k: int, chance: float) -> None:
    orders = rotations(slices, b)
    assert theory.kept(orders, 1, r, k) == pytest.approx(chance, abs=6e-5)
    hits = Key(slices).numpy().integers(0, slices, (40_000, r))
    alive = np.zeros(40_000, dtype=bool)
    for order in orders:
        alive |= ~np.isin(hits, order[:k]).any(1)
    assert alive.mean() == pytest.approx(chance, abs=0.01)


def test_the_papers_form_takes_sequences_to_be_independent() -> None:
    assert theory.kept_if_independent(4, 4, 2, 2) == pytest.approx(0.6836, abs=6e-5)
    assert theory.kept_if_independent(4, 1, 2, 2) == theory.kept(rotations(4, 1), 1, 2, 2)
    apart = theory.kept(rotations(4, 2, even=True), 1, 2, 2)
    assert apart == pytest.approx(0.5)


def test_expected_prefix() -> None:
    table = {1: [1.5, 0.875, 0.3828, 0.104], 2: [2.25, 1.4375, 0.6992, 0.2041], 4: [3.0, 2.0, 1.1562, 0.3927]}
    for b, expected in table.items():
        found = [theory.best_prefix(rotations(4, b), 1, r) for r in (1, 2, 4, 8)]
        assert found == pytest.approx(expected, abs=1e-4)


def test_more_sequences_buy_rarer_outages_and_not_less_training() -> None:
    done = [simulate(System(sequences=b, requests=100_000)) for b in (1, 2, 4)]
    assert done[0].retrains > done[1].retrains > done[2].retrains
    assert done[0].visits < done[1].visits < done[2].visits
    beyond = simulate(System(sequences=12, requests=100_000))
    assert beyond.retrains == pytest.approx(done[2].retrains, rel=0.05), "beyond L nothing is gained"
    assert beyond.visits > done[2].visits
    rates = [4 / 4 * b / theory.deletion_rate(5, 4, b) for b in (1, 2, 4)]
    assert rates == pytest.approx([0.0219, 0.0341, 0.0556], abs=1e-4)


def test_gathered_requests_wait() -> None:
    for together, rate in ((10, 0.5), (4, 3.0)):
        found = waits(together, rate, 10_000, Key(0)).mean()
        assert found == pytest.approx(theory.exposure(together, rate), rel=0.05)
    assert waits(1, 1.0, 100, Key(0)).max() == 0


def test_a_million_requests_take_seconds() -> None:
    started = time.process_time()
    simulate(System(sequences=4))
    simulate(System(method="sisa", shards=1000, slices=20))
    assert time.process_time() - started < 10


def test_distributions() -> None:
    for name in ("zipf", "recent"):
        system = System(distribution=name, exponent=1.5, sequences=4, order="matched", requests=100_000)
        assert system.weights().sum() == pytest.approx(1)
        assert simulate(system).retrains > 0
    # When late slices are hit more often, orders that learn them last live longer.
    common = {"distribution": "recent", "exponent": 3.0, "requests": 100_000}
    best = simulate(System(order="matched", **common)).best
    assert best > simulate(System(slices=4, order="rotations", distribution="uniform", requests=100_000)).best


def test_sizing_a_grid(tmp_path: Path) -> None:
    grid = {"method": ["sisa", "s3t"], "shards": [5], "slices": [4], "sequences": [1, 4], "together": [1]}
    sized = [size(s, LOAD) for s in systems(System(requests=50_000), grid)]
    assert [(s.system.method, s.system.sequences) for s in sized] == [("sisa", 1), ("s3t", 1), ("s3t", 4)]
    for s in sized:
        assert s.visits_simulated == pytest.approx(s.visits, rel=0.05)
        assert s.busy == pytest.approx(s.visits_simulated * 1000 / 86400 / 1e4)
    assert sized[2].storage == 4 * sized[1].storage == 80e6
    write_figure(sized, tmp_path / "capacity.html", [Measured("mine", 10, 500.0, 480.0)])
    page = (tmp_path / "capacity.html").read_text(encoding="utf-8")
    assert "s3t m=5 L=4 B=4" in page
    assert "mine (run)" in page
    assert "real run" in page


@pytest.mark.nightly  # by default the closed forms are held against simulation
def test_a_real_run_costs_what_the_closed_form_says(tmp_path: Path) -> None:
    requests = [{"after": 1, "scope": "sample", "count": 1}] * 30
    config = {
        "scenario": {"name": "class-incremental", "experiences": 1},
        "schedule": {"name": "explicit", "requests": requests},
        "model": {"name": "mlp", "hidden": [8, 8]},
        "training": {"epochs": 1, "batch_size": 256},
        "evaluation": {"probe": 10},
        "references": {"kinds": []},
        "strategies": {
            "sisa": {"isolated": {"name": "sisa", "shards": 4, "slices": 3}},
            "s3t": {"isolated": {"name": "s3t", "shards": 1, "slices": 2, "sequences": 2, "alpha": 1.0}},
            "other": {"learner": "naive"},
        },
    }
    run = lifelong.run(parse(lifelong.RunConfig, config), tmp_path)
    found = {m.strategy: m for m in measured(run.folder)}
    assert set(found) == {"sisa", "s3t"}
    # Where requests fall is a draw of 30; S3T is trained again about every third.
    for each in found.values():
        assert each.requests == 30
        assert each.visits / each.expected == pytest.approx(1.0, abs=0.35)
    line = [sys.executable, "-c", "from cli.main import main; main()", "capacity", "--requests", "10000", "--json"]
    done = subprocess.run([*line, "--run", str(run.folder)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    out = json.loads(done.stdout)
    assert out["run"][0]["visits"] == found["sisa"].visits
    assert [s["system"]["method"] for s in out["systems"]] == ["sisa", "s3t", "s3t"]


def test_wrong_numbers_say_so() -> None:
    with pytest.raises(ConfigError, match="--shards: 'five'"):
        _numbers("shards", "five")
    with pytest.raises(ConfigError, match="--rate: nan must be a finite number"):
        capacity(rate=float("nan"))
    with pytest.raises(ConfigError, match="--throughput: inf must be a finite number"):
        capacity(throughput=float("inf"))
