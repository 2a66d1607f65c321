"""What functions of numbers and words return where it is unusual: nothing, one value, ties, NaN, ends of ranges.

Each entry of `CALLS` is an expression that is evaluated in its module (with `np`, `A` for arrays, and a few tables);
its value is committed, or what it raises. Every public function of the packages in `WHOLE` has one. If a change is
meant, write the records anew and look at the difference before committing it::

    python tests/golden/test_functions.py
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from golden.made_up import differences, write

FILE = Path(__file__).with_name("functions.json")

WHOLE = (
    *("formulas.distance", "formulas.forgetting_score", "formulas.generation", "formulas.informedness"),
    *("formulas.klom", "formulas.language", "formulas.logistic", "formulas.membership", "formulas.muse"),
    *("formulas.per_sample", "formulas.quality", "formulas.calibration", "metrics.knowledge", "study.statistics"),
    *("study.anytime", "study.looks", "capacity.theory"),
)
"""Modules of `lifelong` of which every public function is called."""

_DRAW = np.random.default_rng(3)
P, Q = (_DRAW.dirichlet(np.ones(4), 6).round(3) for _ in range(2))
X, Y = (_DRAW.integers(-3, 4, (8, 3)).astype(float) for _ in range(2))
PHI, INSIDE = _DRAW.integers(-4, 9, (16, 5)) / 2, (np.arange(16)[:, None] + np.arange(5)) % 2 == 0
PHI_IN = PHI + 1.5 * INSIDE
LOSSES, CLASSES = _DRAW.integers(0, 9, 24) / 4, np.arange(24) % 3

CALLS: dict[str, str] = {
    "formulas.attacks": """
        rounded(torch.tensor([[0.3, -1.0, 0.55], [0.0, 0.0, 0.0]]), 4).tolist()
        rounded(torch.tensor([[0.3, -1.0, 0.55], [0.1, 0.2, 0.7]]), 2, 0).tolist()
        [unmoved(0.0, 0.1), unmoved(0.2, 0.1), unmoved(1.0, 1.0)]
        area((0, 2, 3), (1.0, 0.0, 0.5))
        halves(A([3, 3, 5, 9, 9, 1]), A([9, 3, 1, 5]))
        halves(A([3, 3, 5, 9]), A([9, 3, 5]))
    """,
    "formulas.calibration": """
        expected_calibration_error(A([0.0, 1.0, 0.5, 0.5]), A([0, 1, 1, 0]))
        expected_calibration_error(A([1 / 15, 2 / 15, 0.2, 0.21, 0.99]), A([0, 1, 1, 0, 1]))
        expected_calibration_error(A([0.7]), A([1.0]))
    """,
    "formulas.distance": """
        jensen_shannon(P, Q)
        [jensen_shannon(P, P), jensen_shannon(np.eye(4)[:2], np.eye(4)[2:])]
        [euclidean(X, Y), cosine(X, Y), cka_distance(X, Y)]
        [cosine(np.zeros((2, 3)), np.ones((2, 3))), cosine(X, X), cosine(X, -X)]
        [cka_distance(np.ones((4, 2)), X[:4]), cka_distance(X[:1], Y[:1]), cka_distance(X, X)]
        [activation_distance(P, Q), zero_retrain_forgetting(P, Q), zero_retrain_forgetting(P, P)]
        layer_distances(A([1.0, 2, 3, 4]), A([1.0, 0, 0, 0]), {"a": slice(0, 2), "b.c": slice(2, 4)})
    """,
    "formulas.forgetting_score": """
        [epsilon(PHI_IN[:, 0], PHI[:, 1]), epsilon(PHI[:, 0], PHI[:, 0]), epsilon(A([5.0, 6]), A([1.0, 2]))]
        [epsilon(A([1.0, 9, 1, 9]), A([4.0, 5, 5, 4])), epsilon(A([0.0]), A([0.0]))]
        [worth(e, m) for e in (0.0, 0.5, 0.49, 1.0, 4.9, 5.0) for m in (3, 64, 148)]
        forgetting_score(list(PHI_IN.T), list(PHI.T))
        [epsilon_bound(PHI_IN[:, 0], PHI[:, 1]), epsilon_bound(PHI[:, 1], PHI_IN[:, 0], 0.5)]
        epsilon_bound(np.arange(40.0) + 30, np.arange(40.0))
    """,
    "formulas.generation": """
        [frechet_distance(X, Y), frechet_distance(X, X), frechet_distance(X[:1], Y), frechet_distance(X[:2], Y[:2])]
        [kernel_distance(X, Y), kernel_distance(X, X[::-1]), kernel_distance(X, Y[:1]), kernel_distance(X[:5], Y[:2])]
        [nearest(X, Y), nearest(X, X, True), nearest(X[:1], Y[:2])]
        extracted(X, Y[:3], X[:5], 2)
        [extracted(X + 0.01, X, Y, 3), extracted(X, X[:2], Y)]
        [label_divergence(A([0, 0, 1]), A([2, 2, 1]), 3), label_divergence(A([0]), A([0]), 2)]
        [label_divergence(A([0]), A([1]), 2), mean_distance(X, Y), mean_distance(X[0], Y[0])]
    """,
    "formulas.informedness": """
        informedness(A([1.0, 0, 1, 0, 1]), A([0, 0, 1, 2, 2]), A([0, 0, 0, 0, 0]))
        informedness(A([1.0, 0, 1, 0, 1]), A([0, 0, 1, 2, 2]), A([5, 5, 5, 7, 7]))
        [informedness(A([1.0, 0]), A([1, 1]), A([0, 0])), informedness(A([]), A([]), A([]))]
        informedness(A([0.0, 0.0]), A([1, 2]), A([0, 0]))
    """,
    "formulas.klom": """
        [klom(PHI_IN[:, 0], PHI[:, 1]), klom(PHI[:, 0], PHI[:, 0]), klom(A([9.0] * 8), A([0.0] * 8))]
        [klom(A([1.0]), A([1.0])), klom(A([0.0, 1]), A([0.0, 1, 2, 3]))]
    """,
    "formulas.language": """
        [harmonic_mean([0.5]), harmonic_mean([1.0, 0.25]), harmonic_mean([0.3, -0.1])]
        [priv_leak(0.0, 0.5), priv_leak(0.5, 1.0), priv_leak(0.7, 0.4), priv_leak(0.4, 0.7)]
    """,
    "formulas.logistic": """
        logistic_fits(A([[1.0, 2, 3, 4], [0, 0, 0, 0], [9, -9, 9, -9]]), A([0, 1, 0, 1]))
    """,
    "formulas.membership": """
        entropies(torch.tensor([[1.0, 0.0], [0.5, 0.5]])).tolist()
        modified_entropies(torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.1, 0.9]]), torch.tensor([0, 1, 0])).tolist()
        mia_efficacy(A([0.9, 0.8, 1.0, 0.7]), A([0.1, 0.5, 0.4, 0.3]), A([0.95, 0.2, 0.6, 0.55]))
        [efficacy_attack(A([0.9, 0.8]), A([0.1, 0.2]))(A([v])) for v in (0.0, 0.49, 0.51)]
        entropy_member_rate(A([0.1, 0.2, 0.3]), A([0.6, 0.9, 1.0]), A([0.15, 0.4, 0.5, 0.8]))
        [entropy_attack(A([0.5, 0.5]), A([0.5]))(A([0.5])), entropy_attack(A([0.1]), A([0.9, 0.8]))(A([0.2, 0.7]))]
        [cross_validated_accuracy(LOSSES[:12], LOSSES[12:] + 1, 3), cross_validated_accuracy(LOSSES[:9], LOSSES[9:], 0)]
        [cross_validated_accuracy(A([1.0] * 10), A([1.0] * 10), 0), cross_validated_accuracy(A([500.0] * 10), LOSSES[:10], 0)]
        membership_ks(LOSSES[:9], CLASSES[:9], LOSSES[9:], CLASSES[9:])
        [membership_ks(LOSSES[:1], CLASSES[:1], LOSSES[9:], CLASSES[9:]), membership_ks(A([1.0]), A([9]), LOSSES, CLASSES)]
        [membership_auc(LOSSES[:9], CLASSES[:9], LOSSES[9:], CLASSES[9:]), membership_auc(LOSSES, CLASSES, LOSSES, CLASSES)]
        [membership_auc(A([0.0]), A([0]), A([1.0]), A([0])), membership_auc(A([1.0]), A([0]), A([1.0]), A([0]))]
        [membership_auc(A([1.0]), A([9]), LOSSES, CLASSES), membership_auc(A([2.0, 0]), A([0, 1]), A([1.0, 1, 1]), A([0, 0, 1]))]
        MembershipAttack(LOSSES, CLASSES).auc(A([0, 1, 5]), np.arange(9, 24))
        [MembershipAttack(LOSSES, CLASSES).auc(A([i]), np.arange(9, 24)) for i in (0, 4)]
        [membership_p(LOSSES[:9], CLASSES[:9], LOSSES[9:] + s, CLASSES[9:]) for s in (0, 1, 2)]
        membership_p(A([1.0]), A([9]), LOSSES, CLASSES)
    """,
    "formulas.muse": """
        rouge_f([("", "a"), ("A b.", "a b"), ("a b c", "c b a")])
        [cut_answer(t) for t in ("", "\\n\\nx", "Rome \\nQuestion", "QuestionQuestion: no")]
        [operating_point([5], 9), operating_point([9, 5, 4], 5), operating_point([9, 8, 7], 1)]
        [acceleration(c) for c in ([5], [5, 6], [9, 8], [9, 8, 9], [9, 7, 6, 1])]
        [lasting(c) for c in ([9], [100, 94], [100, 95], [100, 99, 98, 1], [0, 0])]
        lasting([100, 89, 91], 0.9)
    """,
    "formulas.per_sample": """
        log_ratios(PHI_IN, INSIDE, np.arange(0, 8), np.arange(8, 12))
        log_ratios(PHI_IN, INSIDE, np.arange(0, 8), np.arange(7, 12))
        log_ratios(PHI_IN[:3], INSIDE[:3], np.arange(2), np.arange(2, 3))
        log_ratios(np.tile(PHI_IN, (9, 1)), np.tile(INSIDE, (9, 1)), np.arange(0, 140), np.arange(140, 144))
        [attack(PHI_IN, INSIDE), attack(PHI, INSIDE)]
        [attack(PHI[:4], INSIDE[:4]), attack(PHI[:, :0], INSIDE[:, :0])]
        [attack_p(PHI_IN, INSIDE), attack_p(PHI, INSIDE)]
        [rmia(PHI_IN, PHI[:, :4], INSIDE, 1.0), rmia(PHI_IN, PHI[:, :4], INSIDE, 2.0), rmia(PHI, PHI, INSIDE, 1.0)]
        [rmia(PHI[:4], PHI[:4], INSIDE[:4], 1.0), rmia(PHI, PHI[:, :0], INSIDE, 1.0)]
        [rmia_p(PHI_IN, PHI[:, :4], INSIDE, 1.0), rmia_p(PHI, PHI, INSIDE, 2.0)]
    """,
    "formulas.quality": """
        average_gap(Quality(0.1, 0.9, 0.8, 0.5), Quality(0.3, 0.6, 0.9, 0.1))
        tow_factors(Quality(0.1, 0.9, 0.8, 0.5), Quality(0.3, 0.6, 0.9, 0.1))
        tow_mia(Quality(0.1, 0.9, 0.8, 0.5), Quality(0.3, 0.6, 0.9, 0.1))
        [agreement(P, Q), agreement(A([[0.5, 0.5]]), A([[0.4, 0.6]]))]
        [request_slope(A(v)) for v in ([], [1.0], [1.0, 2.0], [1.0, 5.0, 2.0], [2.0, 2.0, 2.0, 2.0])]
    """,
    "metrics.accumulation": """
        unit_means(LOSSES[:6], A([0, 0, 1, 3]), A([0, 1, 2, 5]), 4, A([True, False, True, True, True, False]))
        [forgetting(A([0.5, 0.9, np.nan]), A([0.9, 0.5, 0.5]), A([True, True, True]))]
        forgetting(A([0.5, 0.9]), A([0.9, 0.5]), A([False, False]))
    """,
    "metrics.answers": """
        [attack_auc(A([1.0, 1]), A([1.0, 2])), attack_auc(A([3.0]), A([1.0]))]
        [true_positives(A([0.1, 0.5]), A([0.5])), true_positives(A([0.1, 0.5]), np.arange(20) / 20, 0.1)]
        true_positives(A([0.05, 0.04]), np.arange(20) / 20)
        [_mean(_defined(A([np.nan]))), _mean(_defined(A([1.0, np.nan, 3])))]
    """,
    "metrics.catalogue": """
        [_lower_first(s) for s in ("Mean of it.", "AUC of it.", "A", "")]
    """,
    "metrics.controls": """
        [is_at_chance(p) for p in ([], [None], [0.04], [0.06], [0.04, 0.9, 0.9, 0.9], [0.5, None], [0.5, 0.02, 0.5])]
    """,
    "metrics.knowledge": """
        [_span(0, 1), _span(4, 8), _span(32, None)]
        [moving_average(A([1.0, 3, 5]), 1), moving_average(A([1.0, 3, 5]), 9), moving_average(A([]), 3)]
        [slope(A([1.0]), A([2.0])), slope(A([]), A([])), slope(A([2.0, 2]), A([0.0, 1])), slope(A([1.0, 2, 4]), A([1.0, 0, 0]))]
        [events_to([3, 5], [0.1, 0.5], 0.5), events_to([3], [0.4], 0.5), events_to([], [], 0.5)]
        [normalised(A([0.3, 0.6]), 0.6)]
        retention(A([1.0, 0.5, 0.7, 0.1, 0.3]), A([0, 2, 3, 4, 99]), LAGS)
        retention(A([]), A([]), (0, 1))
        [rank_correlation(A(a), A(b)) for a, b in (([1, 1, 2], [3, 1, 2]), ([1], [2]), ([1, 1], [1, 2]), ([3, 2, 1], [1, 5, 9]))]
        _ranks(A([5, 1, 5, 0]))
        [stability(A([0.9, 0.2]), A([[0.5, 0.4]])), stability(A([0.9]), np.zeros((0, 1))), stability(A([0.1]), A([[0.5], [0.3]]))]
    """,
    "metrics.pairs": """
        _moved(A([np.inf, 2.0, np.inf, 1.0]), A([np.inf, 1.0, 0.0, np.inf]))
    """,
    "metrics.perplexity": """
        [perplexity_of(np.float64(v)) for v in (0.0, 1.0, 100.0, 1000.0)]
        growth(A([2.0, 3.0, np.nan]), A([1.0, 3.0, 1.0]), A([True, True, True]))
        growth(A([2.0, 3.0]), A([1.0, 3.0]), A([False, True]))
    """,
    "metrics.relapse": """
        mean_relapse([Row(e, "retrained", s, "relapse", v, n) for e, s, v, n in ((2, "a", 0.5, 3), (2, "b", -0.3, 1), (1, "a", None, 2))])
    """,
    "metrics.requests": """
        [mean_of(A([2.0])), mean_of(A([2.0, 5.0]))]
        collateral(A([0.9, np.nan, 0.5]), A([0.5, 0.1, 0.9]), A([True, True, True]))
        collateral(A([0.9, np.nan]), A([0.5, 0.1]), A([False, True]))
        mean_rows(3, "run", [Row(3, "run", s, "m", v, n) for s, v, n in (("a", 0.5, 3), ("b", None, 2), ("c", 1.0, 4))], ("m", "k"))
        [attribution(*v, 9) for v in ((0.5, 0.9, 0.1), (0.5, 0.5, 0.5), (0.9, 0.9, 0.1), (0.0, 0.9, 0.1))]
    """,
    "metrics.selection": """
        [balance_of(A([0.5, 0.5, 0.0])), balance_of(A([0.2, 0.8]))]
    """,
    "metrics.snapshots.corrective": """
        [recovery(*v, 9) for v in ((0.5, 0.1, 0.9), (0.9, 0.5, 0.5), (0.1, 0.3, 0.9))]
    """,
    "bench.headline": """
        [works(v) for v in ([], [0.0], [0.1, 0.2, 0.15], [-0.1, -0.2, -0.15], [0.5, -0.4, 0.1])]
        [mean_survived(v) for v in ([0], [0, 0, 0], [1, 2, 4], [8, 8])]
    """,
    "bench.standing": """
        front([(1.0, 1.0), (1.0, 1.0), (0.0, 2.0), (0.0, 1.0), (2.0, 0.0)])
        [front([]), front([(1.0,)])]
    """,
    "capacity.theory": """
        [harmonic(n) for n in (0, 1, 5)]
        [deletion_rate(*v) for v in ((1, 1, 1), (5, 4, 1), (3, 8, 4))]
        [first_shard_dead(*v) for v in ((1, 1, 1), (5, 4, 1), (3, 8, 4))]
        [shard_retrain_rate(*v) for v in ((1, 1), (4, 2), (8, 8))]
        [training_cost(100.0, *v) for v in ((1, 1.0), (4, 2.0))]
        [request_cost(100.0, *v) for v in ((1, 1, 1.0), (5, 4, 2.0))]
        [batch_cost(100.0, *v) for v in ((1, 1, 1, 1.0), (5, 4, 3, 2.0), (5, 4, 50, 1.0))]
        [touched_shards(*v) for v in ((1, 1), (5, 1), (5, 7))]
        kept([(0, 1, 2), (2, 0, 1)], 3, 4, 2)
        [kept([(0, 1, 2)], 1, 0, 1), kept([(0, 1, 2)], 1, 2, 3)]
        [kept_if_independent(*v) for v in ((4, 1, 3, 2), (4, 3, 3, 2), (4, 2, 0, 4))]
        [best_prefix([(0, 1, 2), (2, 0, 1)], 3, 4), best_prefix([(0, 1)], 1, 0)]
        [training_per_request(100.0, *v) for v in ((2, 4, 1, 1.0, True), (2, 4, 2, 1.0, False), (5, 4, 4, 2.0, True))]
        [exposure(*v) for v in ((1, 10.0), (5, 10.0), (3, 0.5))]
    """,
    "study.anytime": """
        [anytime_p(v, b) for v in ([1.0, 2, 3], [1.0, 1, 1], [0.5, 0.1, 0.9, 0.2]) for b in (0.0, 1.0)]
        [anytime_interval(v) for v in ([1.0, 2, 3], [0.5, 0.1, 0.9, 0.2, 0.4, 0.4, 0.3])]
        anytime_interval([0.5, 0.1, 0.9, 0.2, 0.4, 0.4, 0.3], 0.5)
        [radius(n, level) for n in (1, 2, 5, 20) for level in (0.05, 0.5)]
        [least_p(n) for n in (1, 2, 5, 20)]
    """,
    "study.looks": """
        [level_of_each(looks, 0.05, sides) for looks in ((5,), (5, 10), (3, 6, 12)) for sides in (1, 2)]
        [over_looks(p, looks, sides) for p in (0.001, 0.04, 0.6) for looks in ((), (5,), (5, 10)) for sides in (1, 2)]
    """,
    "study.statistics": """
        [estimate(v, b) for v in ([0.5], [1.0, 1, 1], [0.1, 0.5, 0.3]) for b in (0.0, 1.0)]
        [estimate([0.1, 0.5, 0.3, 0.2], 0.0, 0.5), estimate([0.1, 0.5])]
        [t_test([1.0, 2.0]), t_test([1.0, 2.0, 4.0], 2.0), t_test([-1.0, -2.0, -4.0])]
        [bca_interval([1.0, 2, 3, 9]), bca_interval([1.0, 1, 1, 2])]
        [holm([]), holm([None]), holm([0.5, 0.01, 0.04]), holm([0.04, 0.04, None, 0.9]), holm([0.9, 0.8])]
        [t_interval([1.0, 2.0]), t_interval([1.0, 2.0, 4.0], 0.5)]
        [equivalence(v, 0.2) for v in ([0.1], [0.1, 0.1, 0.1], [0.05, -0.05, 0.0], [0.1, 0.5, 0.3], [-0.5, -0.4, -0.6])]
        [equivalence([0.05, -0.05, 0.0, 0.01], m, level) for m in (0.01, 0.1) for level in (0.05, 0.5)]
        [floor_margin([0.1]), floor_margin([0.1, -0.5, 0.3]), floor_margin([0.0, 0.0])]
        [nested_variances(X), nested_variances(np.arange(24.0).reshape(2, 3, 4) % 5), nested_variances(np.ones((2, 2)))]
    """,
    "study.quantities": """
        [in_words(Quantity(metric="m", **o)) for o in ({}, {"subject": "requests", "event": 3}, {"event": "request-1", "reduce": "max"})]
        [in_words(Quantity(metric="m", **o)) for o in ({"where": {"a.b": 2}}, {"chance": 0.1, "above_chance": True})]
        [value_of(TABLE, Quantity(metric="m", **o)) for o in ({}, {"event": 1}, {"event": 9}, {"reduce": "max"}, {"reduce": "min"}, {"reduce": "mean"})]
        [value_of(TABLE, Quantity(metric="m", **o)) for o in ({"event": "request-0"}, {"event": "request-9"}, {"event": "request-0", "reduce": "mean"})]
        [value_of(TABLE, Quantity(metric="m", **o)) for o in ({"chance": 0.5, "above_chance": True}, {"chance": 0.5}, {"model": "retrained"}, {"subject": "u"})]
        over_points({("a", 0): 1.0, ("b", 0): 3.0, ("a", 1): 5.0, ("a", 2): 0.0, ("b", 2): 1.0})
        over_points({})
    """,
    "study.inference": """
        [prospect(Rule(), s, f) for s in (1, 3, 20) for f in (1, 3)]
        [prospect(Rule(**o), 10, 2) for o in ({"looks": (5, 10)}, {"anytime": True}, {"looks": (5,)})]
        [Rule(**o).interval for o in ({}, {"looks": (5,)}, {"looks": (5, 10)}, {"anytime": True})]
        [Rule(**o).estimate([0.1, 0.5, 0.3, 0.35], 0.1) for o in ({}, {"looks": (4, 10)}, {"anytime": True})]
        [Rule(**o).equivalence([0.05, -0.05, 0.0, 0.01], 0.1) for o in ({}, {"looks": (4, 10)}, {"anytime": True})]
        [Rule(anytime=True).estimate(v) for v in ([0.5], [0.5, 0.5, 0.5])]
        [Rule(**o).least_p(n) for o in ({}, {"anytime": True}) for n in (1, 2, 3, 9)]
        [Rule(**o).effect_needed(n, f) for o in ({}, {"looks": (5, 10)}, {"anytime": True}) for n in (3, 10) for f in (1, 4)]
        [Rule(**o).detectable([0.1, 0.5, 0.3, 0.35], f) for o in ({}, {"anytime": True}) for f in (1, 3)]
        [Rule(**o).over_looks(0.03, 1) for o in ({}, {"looks": (5, 10)}, {"anytime": True})]
    """,
    "study.progress": """
        [clock(s) for s in (0, 0.4, 59.6, 60, 119, 3599, 3600, 86399, 86400, 200000)]
        [last_line(e) for e in ("", "a\\nb: c\\n", "one", "x\\n\\n  \\n")]
    """,
    "study.seeds": """
        [all_seeds(s) for s in ((3, 4), Looks(looks=(3, 6)))]
        [rule_of(s) for s in ((3, 4), Looks(looks=(3, 6)), Looks(looks=(4, 8, 16)))]
    """,
    "study.jobs": """
        [together(s) for s in (["a"], ["a", "b"], [])]
        [_plain(v) for v in (1, "a", [1, {"b": (2,)}], None)]
    """,
    "study.tuning": """
        [diverged(e) for e in ("", "streams.errors.TrainingError: x", "ValueError: x", "x\\nstreams.errors.TrainingError: the loss is nan\\n")]
        [_mean([(1.0, 2.0), (3.0, 5.0)]), _total([(1.0, 2.0), (3.0, 5.0)]), _spanned([1, 2, 9]), _spanned(["a", "b"])]
    """,
    "study.verdicts": """
        [_difference(0.5, 0.2), _log_ratio(0.5, 0.25)]
        _log_ratio(0.0, 1.0)
    """,
    "study.declaration": """
        [added(v) for v in ((), (5,), (5, 10))]
    """,
    "report.aligned": """
        aligned(["a", "bb"], [["1", "22"], ["333", ""]], "title").splitlines()
        aligned(["a", "bb"], [["1", "22.5"], ["333", "4"]], "", True).splitlines()
        aligned(["a"], [], "t").splitlines()
    """,
    "report.advice": """
        [_listed(v) for v in (["a"], ["a", "b"], ["a", "b", "c"])]
    """,
    "report.columns": """
        [_bytes(v) for v in (0.0, 1.0, 999.0, 1000.0, 1023.0, 1024.0, 1500.0, 2.5e6, 7e9, 3e12)]
        [marked("1.0", g) for g in (None, "why")]
        [(c.key, c.title, c.kind, c.meaning) for m in ("accuracy", "r2") for c in columns(m)]
    """,
    "report.latex": """
        [escaped(t) for t in ("a_b", "50 %", "a & b", "$x^2$", "{}", "~", "#1", "\\\\")]
        [_kind(c, f) for c in (["a", "b"], ["1", "2.5"], ["-", "1 %"], []) for f in (True, False)]
        [_number(t) for t in ("1,234", "-0.5", "+0.5", "-", "5%", "1.5e-07", "word")]
    """,
    "report.markdown": """
        [_safe(t) for t in ("a|b", "a\\nb", "<b>", "*x*")]
        [_line(["a", ""]), _joined(["a", "", "b"])]
    """,
    "report.markup": """
        [quoted(t) for t in ("<a>", '"x"', "a & b")]
        [cell("1", "why", g, b) for g in (True, False) for b in (True, False)]
        [cell("", ""), pairs([("a", "b")]), folded("t", 3, "c"), folded("t", 1, "c"), opened("t", "c", False)]
    """,
    "report.matrix": """
        [kept_events(*v) for v in ((5, [], 9), (20, [3, 7], 5), (20, [1, 2, 3, 4, 5, 6, 7], 4), (3, [0, 2], 2), (9, [8], 1))]
        [_spread([1, 2, 3, 4, 5], c) for c in (0, 1, 2, 5, 9)]
    """,
    "report.look": """
        [(colour(n), symbol(n), faded(n, 0.5)) for n in (0, 1, 9, 10, 25)]
        [words(m) for m in ("forget_accuracy", "js", "average_gap", "dd_cka")]
    """,
    "report.figures": """
        [summed({1: 0.5, 3: None, 2: 1.0}), summed({})]
    """,
    "report.seeds": """
        [_remark(r) for r in (["", ""], ["a", "a"], ["a", ""], ["a", "b", "a"])]
    """,
    "report.spread": """
        [band_in_words(n) for n in (1, 2, 4, 5, 30)]
        [spread(X[:n]) for n in (1, 2, 4, 8)]
        spread(A([[1.0, np.nan], [2.0, np.nan], [np.nan, 3.0]]))
    """,
    "report.study_tables": """
        [p_in_words(p) for p in (None, 0.0, 0.0004, 0.001, 0.04999, 0.2, 1.0)]
        [sides_in_words(s) for s in (None, (0.5, 0.25), (1234.5, 0.00001))]
    """,
    "report.tables": """
        [mean([None]), mean([1.0, None, 3.0]), mean([]), _abs(None), _abs(-2.0)]
    """,
    "report.tradeoff": """
        pareto(A([0.1, 0.1, 0.3, 0.2, np.nan]), A([0.5, 0.6, 0.9, 0.4, 1.0]))
        [pareto(A([0.2]), A([0.4])), pareto(A([0.2, 0.2]), A([0.4, 0.4])), pareto(A([]), A([]))]
    """,
    "report.tuning": """
        [settings(o) for o in ({}, {"a.b": 0.1, "c": [1, 2], "d": None, "e": "x", "f": True, "g": 1e-7})]
        [helped(e) for e in (None, {"mean": 0.5, "low": 0.1, "high": 0.9, "n": 3}, {"mean": 0.5, "low": None, "high": None, "n": 1})]
        [_number(v) for v in (None, 0.0, 0.123456, 1234.5)]
    """,
    "report.yardstick": """
        [tells_nothing(c, f) for c in (None, 0.0, 0.1, 0.2) for f in (None, 0.0, 0.1)]
        [_apart(None, 1.0), _apart(1.0, None), _apart(0.25, 1.0)]
    """,
    "report.export": """
        [form_of(n, o) for n, o in ((None, None), ("md", Path("a.csv")), (None, Path("a")), (None, Path("b.svg")))]
        form_of(None, Path("b.SVG"))
    """,
    "results.table": """
        [row(1, "run", "s", "m", v, 3, r) for v, r in ((None, "why"), (float("nan"), ""), (float("inf"), "big"), (True, ""), (2, "x"))]
        [row(1, "run", "s", "m", v, 3).to_json() for v in (0.1, 1e-9, 3.0, None)]
        [TABLE.select("m"), TABLE.select("m", "u"), TABLE.last("m", "stream"), TABLE.last("k", "stream"), TABLE.last("m", "stream", "retrained")]
        TABLE.frame()
    """,
    "results.series": """
        [Series(TABLE).subjects("m"), Series(TABLE).subjects("m", "retrained"), Series(TABLE).lived, Series(TABLE).served()]
        [Series(TABLE).value("m", "stream", e) for e in (0, 1, 2, 9)]
        [Series(TABLE).has("run"), Series(TABLE).has("joint"), Series(TABLE).rows("m", "u"), Series(Table()).lived]
    """,
    "results.columns": """
        [str(_smallest(v).dtype) for v in ((), (0, 255), (-1, 3), (256,), (-129,), (70000,), (2**40,))]
    """,
    "evaluation.distributions": """
        gathered([torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]), torch.tensor([[0.2, 0.2, 0.6]])], 2, 3)
        [gathered([None], 2, 1), gathered([torch.tensor([[0.5, 0.5]])], None, 1), gathered([torch.tensor([[0.5, 0.5]])], 2, 1)]
    """,
    "references.shadows": """
        [is_inside(j, np.arange(12)) for j in (0, 1, 2, 3, 4, 7)]
    """,
    "references.tree": """
        [_filled(*v) for v in (([1, 2], [1, 3], 2), ([], [], 2), ([1, 2, 3], [4, 4, 9], 8), ([5], [5], 4))]
    """,
    "setup.preview": """
        compact([["", "learn", "held", "held"], ["", "", "learn", "all"], ["part", "", "", "again"]], 2, 2)
        compact([["learn", "held"]], 9, 9)
    """,
    "setup.suitability": """
        [in_words(o) for o in ({}, {"a": 1}, {"a": 1, "b": "x", "c": None})]
        [_listed(v) for v in (["a"], ["a", "b"], ["a", "b", "c"])]
    """,
    "setup.worst_case_requests": """
        [project(A([0.2, 0.9, 0.5]), t) for t in (0.5, 1.0, 2.0, 3.0)]
        updated(A([0.5, 0.5, 0.5]), A([1.0, 2.0, 0.0]), 0.1, 0.5, False)
        updated(A([0.5, 0.5, 0.5]), A([1.0, 2.0, 0.0]), 0.1, 0.5, True)
    """,
    "config.annotate": """
        [_inline(v) for v in (None, True, 1.0, 1e-5, "a b", [1, 2], {"a": None}, {}, [])]
    """,
    "config.run": """
        override({"a": {"b": 1}, "c": "x"}, ["a.b=2", "a.d=[1, 2]", "c.name=y", "e=null", "f=1e-3", "g=yes"])
        override({"a": 1}, ["a.b=2"])
        override({}, ["a"])
        override({"a": [{"b": 1}]}, ["a.0.b=5"])
        [content_hash({"a": 1, "b": 2}), content_hash({"b": 2, "a": 1}), content_hash({})]
        [ReferencesConfig(**o).numbers(12) for o in ({"every": 1}, {"every": 5}, {"every": "geometric"}, {"every": 20})]
        [ReferencesConfig(**o).num_beside(12) for o in ({}, {"most": 0}, {"most": 3}, {"every": 5, "most": 9})]
        [ReferencesConfig(**o).in_words(2000) for o in ({"most": 0}, {"kinds": (), "most": 3}, {"most": 2000})]
    """,
    "config.trust": """
        [_is_code(p) for p in ("a.py", "b.yaml", "c.npz", "dir/x.py", "x.PY")]
    """,
    "trackers._charts": """
        [_thinned(list(range(n)), 4) for n in (3, 4, 5, 11)]
    """,
    "trackers.wandb": """
        flatten({"a": {"b": 1, "c": [1, {"d": 2}]}, "e": None, "f": {}})
        flatten([1, (2, 3)], "x")
        logged(TABLE.rows)
    """,
    "verification.certificate": """
        [weakest(g) for g in (["bits"], ["bits", "law"], ["law", "none"], ["certified", "bits"])]
    """,
    "verification.certified": """
        [round(recomputed_epsilon(m, d), 6) for m in (0.1, 1.0, 3.0) for d in (1e-5, 0.1)]
    """,
}
"""Expressions by module of `lifelong`, one a line."""

TOOLS = ("P", "Q", "X", "Y", "PHI", "INSIDE", "PHI_IN", "LOSSES", "CLASSES")


def plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, np.ndarray | torch.Tensor):
        return plain(value.tolist())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, bool | int | str | None):
        return value
    if isinstance(value, float | np.floating):
        return float(f"{value:.9g}")
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, list | tuple | set | frozenset | map) or hasattr(value, "__next__"):
        return [plain(v) for v in value]
    return str(value)


def value_of(module: str, expression: str) -> Any:
    """Return what an expression in a module comes to, or what it raises."""
    from lifelong.results.table import Row, Table

    rows = [
        Row(0, "run", "stream", "m", 0.25, 4),
        Row(1, "run", "stream", "m", 0.75, 4),
        Row(2, "run", "stream", "m", None, 0, "nothing is left"),
        Row(1, "run", "u", "m", 1.0, 2),
        Row(2, "retrained", "stream", "m", 0.5, 4),
        Row(1, "run", "request-0", "exact", 1.0, 1),
    ]
    names = vars(importlib.import_module(f"lifelong.{module}"))
    tools = {name: globals()[name] for name in TOOLS} | {"A": np.array, "np": np, "torch": torch, "Path": Path}
    try:
        return plain(eval(expression, tools | {"Row": Row, "Table": Table, "TABLE": Table(rows)} | dict(names)))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def expressions(module: str) -> list[str]:
    """Return the expressions of a module."""
    return [line.strip() for line in CALLS[module].strip().splitlines()]


def record_of(module: str) -> dict[str, Any]:
    """Return the values of all expressions of a module."""
    return {expression: value_of(module, expression) for expression in expressions(module)}


@pytest.mark.parametrize("module", list(CALLS))
def test_functions_return_what_is_committed(module: str) -> None:
    expected = json.loads(FILE.read_text(encoding="utf-8"))[module]
    assert list(differences(json.loads(json.dumps(record_of(module))), expected)) == []


@pytest.mark.parametrize("module", WHOLE)
def test_every_public_function_is_called(module: str) -> None:
    there = importlib.import_module(f"lifelong.{module}")
    own = [n for n, f in inspect.getmembers(there, inspect.isfunction) if f.__module__ == there.__name__]
    assert [n for n in own if not n.startswith("_") and f"{n}(" not in CALLS[module]] == []


def main() -> None:
    """Write all records anew."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory():
        write(FILE, {module: record_of(module) for module in CALLS})


if __name__ == "__main__":
    main()
