"""Every measure of text is ideal for retraining and fails for doing nothing, on one small life; ascent destroys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lifelong
from lifelong.config.run import RunConfig
from lifelong.metrics.catalogue import describe
from lifelong.results.table import Row, read_rows
from lifelong.setup.build import make_setting, make_source, make_strategy, make_stream
from strategies.step import step
from streams.config import parse
from streams.ledger import Ledger

# The numbers themselves are held against hand computations in tests/unit.
pytestmark = pytest.mark.nightly

FIRST, SECOND = "request-0", "request-1"
NONE, RETRAIN, ASCENT = "none", "retrain", "ascent"

CONFIG: dict[str, Any] = {
    "name": "text-audits",
    "source": {"name": "people", "people": 6, "groups": 2, "holdout": 3, "world": False, "vocabulary": 400},
    "scenario": "joint",
    "schedule": {
        "name": "explicit",
        "requests": [{"after": 1, "scope": "user", "keys": [1]}, {"after": 1, "scope": "user", "keys": [4]}],
    },
    "objective": {"name": "causal-lm", "loss_on": "all"},
    "model": {"name": "tiny-llama", "width": 48, "inner": 96, "depth": 2, "heads": 4},
    "training": {"epochs": 30, "optimizer": "adam", "lr": 0.005, "batch_size": 20, "betas": [0.9, 0.98]},
    "strategies": {
        NONE: {"unlearner": "none"},
        RETRAIN: {"unlearner": "retrain"},
        ASCENT: {
            "unlearner": {"name": "gradient-ascent", "epochs": 5, "batch_size": 10, "lr": 0.03, "on_divergence": "stop"}
        },
    },
    "evaluation": {"audits": ["muse", "relearn-rest", "quantise", "reintroduce", "probe"]},
}

# Against the retrained reference: what retraining has, and what doing nothing has.
IDEAL: dict[str, tuple[float, Callable[[float], bool]]] = {
    "ks_distance": (0.0, lambda v: v > 0.3),
    "forget_quality": (1.0, lambda v: v < 0.1),
    "priv_leak": (0.0, lambda v: v < -30),
    "gap_verb_mem": (0.0, lambda v: v > 20),
    "gap_know_mem": (0.0, lambda v: v > 20),
    "gap_probability": (0.0, lambda v: v > 0.2),
    "gap_truth_prob": (0.0, lambda v: v > 0.05),
    "gap_truth_ratio": (0.0, lambda v: v < -0.02),
    "gap_rouge_recall": (0.0, lambda v: v > 0.2),
    "gap_exact_memorisation": (0.0, lambda v: v > 0.15),
    "gap_extraction_strength": (0.0, lambda v: v > 0.25),
    "gap_loss_auc": (0.0, lambda v: v > 0.05),
    "gap_zlib_auc": (0.0, lambda v: v > 0.05),
    "gap_min_k_auc": (0.0, lambda v: v > 0.05),
    "gap_min_k_plus_plus_auc": (0.0, lambda v: v > 0.05),
    "gap_loss_tpr": (0.0, lambda v: v > 0.2),
    "gap_relearned_0": (0.0, lambda v: v > 0.2),
    "gap_relearned": (0.0, lambda v: v > 0.2),
    "gap_int8_probability": (0.0, lambda v: v > 0.2),
    "gap_int4_probability": (0.0, lambda v: v > 0.2),
    "gap_context_none_probability": (0.0, lambda v: v > 0.1),
    "gap_probe_value_layer_2": (0.0, lambda v: v > 0.1),
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Row]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(tmp_path_factory.mktemp("cache")))
        run = lifelong.run(parse(RunConfig, CONFIG), tmp_path_factory.mktemp("runs"))
    return {n: read_rows(Path(run.folder) / "strategies" / n / "results.jsonl") for n in CONFIG["strategies"]}


def value(rows: list[Row], metric: str, subject: str, model: str = "run", event: int = 2) -> float:
    (found,) = [r for r in rows if (r.metric, r.subject, r.model, r.event) == (metric, subject, model, event)]
    assert found.value is not None, found
    return found.value


@pytest.mark.parametrize("metric", IDEAL)
def test_retraining_is_ideal_and_doing_nothing_fails(rows: dict[str, list[Row]], metric: str) -> None:
    ideal, fails = IDEAL[metric]
    for subject in (FIRST, SECOND):
        assert value(rows[RETRAIN], metric, subject, "retrained") == pytest.approx(ideal, abs=1e-9)
        assert fails(value(rows[NONE], metric, subject, "retrained")), value(rows[NONE], metric, subject, "retrained")
    described = describe(metric)
    assert described.ideal == ideal
    assert described.better in {"zero", "higher" if ideal == 1 else "lower"}


def test_every_gap_of_retraining_is_nothing(rows: dict[str, list[Row]]) -> None:
    """Two copies of one model: every difference is 0, to the bit, at every event."""
    gaps = [r for r in rows[RETRAIN] if r.metric.startswith("gap_") and r.value is not None]
    assert len({r.metric for r in gaps}) > 50
    assert all(r.value == 0 for r in gaps), [r for r in gaps if r.value]
    assert value(rows[RETRAIN], "joint_priv_leak", "requests", "retrained") == 0
    assert all(r.value == 0 for r in rows[RETRAIN] if r.metric == "relapse")
    # one model that nobody touches; after the last request nothing can come back
    same = [r.value for r in rows[NONE] if r.metric == "raw_relapse" and r.value is not None]
    assert same
    assert set(same) == {0.0}


def test_every_row_says_which_way_is_better_and_what_it_is_held_against(rows: dict[str, list[Row]]) -> None:
    probed = [r for r in rows[NONE] if r.subject in {FIRST, SECOND, "stream", "requests"}]
    assert len({r.metric for r in probed}) > 100
    for r in probed:
        assert describe(r.metric).better in {"higher", "lower", "zero", "reference", "neither"}, r.metric
        assert r.value is not None or r.reason, r
    # What counts by its distance to the reference has the reference's own number, and the difference, beside it.
    requests = [r for r in probed if r.model == "run" and r.subject in {FIRST, SECOND}]
    own = {r.metric for r in requests if describe(r.metric).better == "reference"}
    beside = {r.metric for r in probed if r.model == "retrained"}
    assert {m for m in own if m not in beside or f"gap_{m}" not in beside} == set()


def test_a_model_that_knows_and_one_that_does_not(rows: dict[str, list[Row]]) -> None:
    assert value(rows[NONE], "extraction_strength", FIRST) > 0.9
    assert value(rows[NONE], "extraction_strength", FIRST, "retrained") < 0.4
    assert value(rows[NONE], "min_k_auc", FIRST) > 0.9
    assert value(rows[NONE], "min_k_auc", FIRST, "retrained") <= value(rows[NONE], "min_k_auc", FIRST) - 0.05
    assert value(rows[NONE], "verb_mem", FIRST) > 90
    assert value(rows[NONE], "joint_priv_leak", "requests", "retrained") < -30
    # Rounding gives nothing back that was never there, and takes little that is.
    assert abs(value(rows[RETRAIN], "int4_recovered", FIRST)) < 0.1
    assert value(rows[NONE], "int8_robustness", FIRST) > 0.9


def test_utility_is_followed_from_before_the_first_request(rows: dict[str, list[Row]]) -> None:
    curve = [value(rows[NONE], "retain_know_mem", "stream", event=e) for e in (0, 1, 2)]
    assert min(curve) > 50
    assert value(rows[NONE], "utility_slope", "stream") == pytest.approx((curve[2] - curve[0]) / 2, abs=1e-4)
    assert value(rows[NONE], "utility_capacity", "stream") == 2
    assert value(rows[NONE], "model_utility", "stream", event=0) > 0.3
    gap = value(rows[NONE], "gap_retain_know_mem", "stream", "retrained")
    assert gap == pytest.approx(curve[2] - value(rows[RETRAIN], "retain_know_mem", "stream"), abs=1e-4)


def test_destruction_meets_no_three_criteria_at_once(rows: dict[str, list[Row]]) -> None:
    """Ascent that goes on: nothing is known any more, nothing is kept either, and the deleted stand out as unseen."""
    for metric in ("verb_mem", "know_mem"):
        assert value(rows[ASCENT], metric, FIRST) < 25
    assert value(rows[ASCENT], "retain_know_mem", "stream") < 20
    assert value(rows[ASCENT], "utility_capacity", "stream") == 0
    assert abs(value(rows[ASCENT], "priv_leak", SECOND, "retrained")) > 10


def test_only_what_is_taught_again_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three people go, one after the other, then the first is taught again: nobody else returns, nor he before."""
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path))
    requests: list[dict[str, Any]] = [{"after": 1, "scope": "user", "keys": [user]} for user in (1, 4, 2)]
    requests[0]["again_after"] = 1
    npo = {"name": "npo", "epochs": 10, "batch_size": 10, "lr": 0.002}
    changes: dict[str, Any] = {
        "source": {**CONFIG["source"], "answers": "short", "holdout": 0},
        "schedule": {"name": "explicit", "requests": requests},
        "strategies": {"npo": {"learner": {"name": "replay", "memory": 200, "batch": 10}, "unlearner": npo}},
        "evaluation": {},
    }
    config = parse(RunConfig, CONFIG | changes)
    source = make_source(config)
    stream = make_stream(config, source)
    setting = make_setting(config, stream)
    objective = setting.objective
    strategy = make_strategy(config.strategies["npo"], setting, "strategies.npo")
    ledger = Ledger(source)
    deleted = [Ledger(source).lend(r.sample_ids).all() for r in stream.requests]
    known = []  # by event, of each request
    for event in stream.events:
        step(strategy, event, ledger)
        with torch.inference_mode():
            scores = [objective.scores(strategy.predict(b), b) for b in deleted]
        known.append([float(s.mean()) for s in scores])
    assert min(known[0]) >= 0.6, known
    for request in range(3):
        assert max(known[event][request] for event in range(request + 1, 4)) <= 0.2, known
    assert known[4][0] >= 0.8, known
    # A few short answers are right by chance, among them those of the one who is taught.
    assert max(known[4][1:]) <= 0.5, known
