"""What attacks on single samples find, with many lives of one strategy and as many retrained ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lifelong.evaluation.plan import RequestPlan
from lifelong.formulas.forgetting_score import epsilon_bound, forgetting_score
from lifelong.formulas.klom import klom
from lifelong.formulas.per_sample import attack, attack_p, rmia, rmia_p
from lifelong.results.table import Row, row
from strategies.metric import Metric

METRICS: dict[str, Metric] = {
    "lira_auc": Metric(
        "AUC of an attack on single samples (LiRA, with shadow models) just before the request: how much there is to "
        "find. 0.5 is chance.",
        "AUC",
        "neither",
    ),
    "lira_p": Metric("p-value of lira_auc; see ulira_p.", "probability", "neither"),
    "ulira_auc": Metric(
        "AUC of an attack on single samples (U-LiRA) that tells lives that learned and unlearned a sample from lives "
        "in which it never occurred; 0.5, chance, is what retraining gives.",
        "AUC",
        "neither",
        0.5,
    ),
    "ulira_low": Metric("Lower end of the 95 % interval of ulira_auc, from pairs of twin lives.", "AUC", "neither"),
    "ulira_high": Metric("Upper end of the 95 % interval of ulira_auc, from pairs of twin lives.", "AUC", "neither"),
    "ulira_p": Metric(
        "p-value of ulira_auc: how often an AUC as high comes up where every pair of twin lives is told the wrong way "
        "round or not by a coin, with the attack fitted again. Large where U-LiRA finds nothing, which means "
        "something only where lira_p is small.",
        "probability",
        "neither",
    ),
    "ulira_accuracy": Metric(
        "Balanced accuracy of U-LiRA, calling a sample known where its likelihood ratio is above 1.",
        "share",
        "neither",
        0.5,
    ),
    "ulira_tpr_1": Metric("True positive rate of U-LiRA at 1 % false positives.", "share", "neither", 0.01),
    "ulira_tpr_01": Metric("True positive rate of U-LiRA at 0.1 % false positives.", "share", "neither", 0.001),
    "rmia_auc": Metric(
        "AUC of RMIA, an attack on single samples that weighs a sample's likelihood against that of unseen ones; 0.5, "
        "chance, is what retraining gives.",
        "AUC",
        "neither",
        0.5,
    ),
    "rmia_low": Metric("Lower end of the 95 % interval of rmia_auc, from pairs of twin lives.", "AUC", "neither"),
    "rmia_high": Metric("Upper end of the 95 % interval of rmia_auc, from pairs of twin lives.", "AUC", "neither"),
    "rmia_p": Metric("p-value of rmia_auc; see ulira_p.", "probability", "neither"),
    "rmia_tpr_1": Metric("True positive rate of RMIA at 1 % false positives.", "share", "neither", 0.01),
    "rmia_before_auc": Metric(
        "AUC of RMIA just before the request: how much there is for it to find. 0.5 is chance.", "AUC", "neither"
    ),
    "rmia_before_low": Metric("Lower end of the 95 % interval of rmia_before_auc.", "AUC", "neither"),
    "rmia_before_high": Metric("Upper end of the 95 % interval of rmia_before_auc.", "AUC", "neither"),
    "rmia_before_tpr_1": Metric("True positive rate of RMIA at 1 % false positives, before.", "share", "neither"),
    "rmia_before_p": Metric("p-value of rmia_before_auc; see ulira_p.", "probability", "neither"),
    "klom_median": Metric(
        "Median over forgotten samples of KLoM: divergence of the log odds in lives that unlearned the sample from "
        "those in retrained lives of other seeds; compare with klom_median_null.",
        "nats",
        "lower",
    ),
    "klom_95": Metric("95 % quantile over forgotten samples of KLoM.", "nats", "lower"),
    "klom_median_null": Metric(
        "Median KLoM of retrained lives from other retrained ones: what a perfect method gets, to within chance.",
        "nats",
        "neither",
    ),
    "forgetting_score": Metric(
        "Forgetting score F of the NeurIPS 2023 challenge: mean worth of every forgotten sample's epsilon, between "
        "shadow lives that unlearned it and retrained ones of other seeds. Even retraining scores about 0.2.",
        "0 to 1",
        "higher",
    ),
    "forgetting_score_null": Metric(
        "Forgetting score of retrained lives against other retrained ones: what a perfect method gets, to within "
        "chance.",
        "0 to 1",
        "neither",
    ),
    "forgetting_score_ratio": Metric("Forgetting score over that of retrained lives.", "ratio", "higher", 1.0),
    "forgetting_score_final": Metric(
        "Forgetting score times the lives' retained and test accuracy over those of retrained lives.",
        "0 to 1",
        "higher",
    ),
    "forgetting_epsilon": Metric("Median over forgotten samples of epsilon.", "epsilon", "lower"),
    "forgetting_epsilon_bound": Metric(
        "Mean over forgotten samples of a lower bound of epsilon (95 %, threshold chosen on other lives).",
        "epsilon",
        "lower",
        0.0,
    ),
}


_TOO_FEW = "there are too few shadows"


def _row(event: int, request: RequestPlan, metric: str, value: float | None, n: int, why: str = _TOO_FEW) -> Row:
    return row(event, "run", request.name, metric, value, n, why)


def lira_rows(event: int, request: RequestPlan, phi: np.ndarray, inside: np.ndarray) -> Iterator[Row]:
    """Yield what LiRA tells of lives just before the request; see `lifelong.formulas.per_sample.attack`."""
    attacked = attack(phi, inside)
    yield _row(event, request, "lira_auc", *(attacked.auc, attacked.n) if attacked else (None, 0))
    if attacked is not None:
        yield _row(event, request, "lira_p", attack_p(phi, inside), attacked.n)


def ulira_rows(event: int, request: RequestPlan, phi: np.ndarray, inside: np.ndarray) -> Iterator[Row]:
    """Yield what U-LiRA tells of lives after the request; see `lifelong.formulas.per_sample.attack`."""
    attacked = attack(phi, inside)
    yield _row(event, request, "ulira_auc", *(attacked.auc, attacked.n) if attacked else (None, 0))
    if attacked is not None:
        for metric in ("low", "high", "accuracy", "tpr_1", "tpr_01"):
            yield _row(event, request, f"ulira_{metric}", getattr(attacked, metric), attacked.n)
        yield _row(event, request, "ulira_p", attack_p(phi, inside), attacked.n)


def rmia_rows(
    event: int,
    request: RequestPlan,
    phi: np.ndarray,
    population: np.ndarray,
    inside: np.ndarray,
    gamma: float,
    prefix: str,
) -> Iterator[Row]:
    """Yield what RMIA tells; see `lifelong.formulas.per_sample.rmia` for the arrays.

    Args:
        event, request: for the rows.
        phi, population, inside, gamma: of the attack.
        prefix: ``rmia``, or ``rmia_before`` for lives just before the request.
    """
    attacked = rmia(phi, population, inside, gamma)
    for metric in ("auc", "low", "high", "tpr_1"):
        value, n = (None, 0) if attacked is None else (getattr(attacked, metric), attacked.n)
        yield _row(event, request, f"{prefix}_{metric}", value, n, f"{_TOO_FEW}, or no unseen samples")
    if attacked is not None:
        yield _row(event, request, f"{prefix}_p", rmia_p(phi, population, inside, gamma), attacked.n)


def score_rows(
    event: int,
    request: RequestPlan,
    margins: np.ndarray,
    retrained_margins: np.ndarray,
    inside: np.ndarray,
    kept: float,
) -> Iterator[Row]:
    """Yield the challenge's score and KLoM: lives that unlearned a sample against lives retrained without it.

    Half of the retrained lives stand for retraining, and the other half is held against them for the null. The lives
    that unlearned must have other seeds than they: a model that retrains would be compared with itself.

    Args:
        event, request: for the rows.
        margins, retrained_margins: ``[J, n]`` log odds of the request's samples in both kinds of lives.
        inside: bool ``[J, n]``: which samples occur in which life.
        kept: retained times test accuracy of the lives, over that of retrained ones.
    """
    n = margins.shape[1]
    half = len(retrained_margins) // 2
    unlearned = [margins[inside[:, i], i] for i in range(n)]
    first, second = ([part[:, i] for i in range(n)] for part in (retrained_margins[:half], retrained_margins[half:]))
    score, epsilons = forgetting_score(unlearned, second)
    null, _ = forgetting_score(first, second)
    bounds = [epsilon_bound(x, y) for x, y in zip(unlearned, second, strict=True)]
    apart, apart_null = (
        np.array([klom(x, y) for x, y in zip(side, second, strict=True)]) for side in (unlearned, first)
    )
    values = {
        "forgetting_score": score,
        "forgetting_score_null": null,
        "forgetting_score_ratio": score / null if null else None,
        "forgetting_score_final": score * kept,
        "forgetting_epsilon": float(np.median(epsilons)),
        "forgetting_epsilon_bound": float(np.mean(bounds)),
        "klom_median": float(np.median(apart)),
        "klom_95": float(np.percentile(apart, 95)),
        "klom_median_null": float(np.median(apart_null)),
    }
    for metric, value in values.items():
        yield row(event, "run", request.name, metric, value, n, "two sets of retrained lives score 0")
