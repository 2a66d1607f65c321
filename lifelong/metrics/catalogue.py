"""What every metric in a table of results means: definition, unit, which way is better, and where the ideal lies.

Names are made of parts: ``immediate_abs_gap_forget_accuracy`` is the mean over requests, right after each was served
(`immediate_`), of the absolute (`abs_`) difference between run and reference (`gap_`) in accuracy on the forget
set (`forget_` and the objective's measure).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from lifelong.metrics.knowledge import LAGS, THRESHOLDS

Better = Literal["higher", "lower", "zero", "reference", "neither"]
"""Which way is better. zero: the closer to 0. reference: the closer to the same number of the retrained reference."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        meaning: what it is, as one sentence.
        unit: of the value.
        better: which way.
        ideal: the value that cannot be improved, where there is one.
    """

    meaning: str
    unit: str
    better: Better
    ideal: float | None = None


MEASURES: dict[str, Metric] = {
    "accuracy": Metric("share of samples that are classified right", "share", "higher", 1.0),
    "exact_match": Metric("share of answers in which every token is the most likely one", "share", "higher", 1.0),
    "negative_absolute_error": Metric("minus the mean absolute error", "units of the target", "higher", 0.0),
}
"""What the objectives score; `OF_MEASURE` is about any of them."""

SHARES = frozenset(name for name, metric in MEASURES.items() if metric.unit == "share")
"""Those that lie between 0 and 1."""

OF_MEASURE: dict[str, tuple[str, Better]] = {
    "average_": ("Mean over the units held (learned and not deleted as a whole) of their {} on test data.", "higher"),
    "sample_": ("Over all test samples of the units held, each counted once: {}.", "higher"),
    "whole_": ("Over all test samples of the stream that are not deleted, learned or not: {}.", "higher"),
    "accumulated_": ("Mean over the last 20 evaluations of that on all test samples, learned or not: {}.", "higher"),
    "normalised_": ("Over the units held, the run's mean divided by the reference's: {}.", "higher"),
    "lowest_": ("Mean over earlier units of the lowest value within the experience: {}.", "higher"),
    "retain_": ("On training samples that are learned and not deleted: {}.", "higher"),
    "deleted_": ("On test samples of deleted classes and tasks: {}.", "reference"),
    "forget_": ("On the training samples that a request deletes: {}.", "reference"),
    "forget_test_": ("On test data of the classes, tasks or users that a request names: {}.", "reference"),
    "": ("On a unit's test samples that are not deleted: {}.", "higher"),
}
"""Prefixes to the name of the objective's measure."""


def _span(lag: int, following: int | None) -> str:
    if following is None:
        return f"{lag} or more"
    return str(lag) if following == lag + 1 else f"{lag} to {following - 1}"


METRICS: dict[str, Metric] = {
    "forgetting_from_first": Metric(
        "Mean over earlier units of the score right after a unit was first learned, minus the score now.",
        "as the score",
        "lower",
    ),
    "forgetting_from_best": Metric(
        "Mean over earlier units of the best score at any earlier event, minus the score now.", "as the score", "lower"
    ),
    "backward_transfer": Metric(
        "Minus forgetting from first: how much later learning helped earlier units.", "as the score", "higher"
    ),
    "forward_transfer": Metric(
        "Mean over units of the score just before a unit is learned, minus that of the initial model.",
        "as the score",
        "higher",
    ),
    "plasticity": Metric(
        "Mean over the units held of the score right after the unit was first learned.", "as the score", "higher"
    ),
    "accumulation_slope": Metric(
        "Least-squares slope, over the last 20 evaluations, of the score on all test samples, learned or not.",
        "score per learn event",
        "higher",
    ),
    **{
        f"events_to_{p}": Metric(
            f"Learn events until the mean over 20 evaluations of the score on all test samples first reached {p} %.",
            "events",
            "lower",
        )
        for p in THRESHOLDS
    },
    **{
        f"retention_{lag}": Metric(
            f"Mean score of the units that last came {_span(lag, following)} learn events ago (0 is the event itself).",
            "as the score",
            "higher",
        )
        for lag, following in zip(LAGS, (*LAGS[1:], None), strict=True)
    },
    "lag_correlation": Metric(
        "Rank correlation, over the units held, of the time since a unit last came and its score: below 0 where it "
        "decays between visits.",
        "-1 to 1",
        "neither",
    ),
    "frequency_correlation": Metric(
        "Rank correlation, over the units held, of how often a unit came and its score.", "-1 to 1", "neither"
    ),
    "stability_gap": Metric(
        "Mean over earlier units of the score just before an experience, minus the lowest within it.",
        "as the score",
        "lower",
        0.0,
    ),
    "forget_loss": Metric("Mean loss on the training samples that a request deletes.", "loss", "reference"),
    "membership_auc": Metric(
        "How well the loss tells a request's deleted training samples from unseen ones of the same classes (AUC); "
        "0.5 is chance, and what counts is the distance to the retrained reference.",
        "AUC",
        "reference",
    ),
    "relapse": Metric(
        "Score on a request's deleted samples now, minus right after the request: above 0, they are coming back.",
        "as the score",
        "lower",
    ),
    "relapse_max": Metric("Highest relapse so far.", "as the score", "lower"),
    "relapse_test": Metric("Relapse on test data of what the request names.", "as the score", "lower"),
    "relapse_test_max": Metric("Highest relapse on test data so far.", "as the score", "lower"),
    "spill": Metric(
        "Sum over the other units of the absolute change that the request makes to their score.",
        "as the score",
        "lower",
        0.0,
    ),
    "spill_mean": Metric(
        "Mean over the other units of the absolute change that the request makes to their score.",
        "as the score",
        "lower",
        0.0,
    ),
    "retained_drop": Metric(
        "Mean over the other units of the score before the request, minus after it.", "as the score", "lower"
    ),
    "latency": Metric(
        "Learn events between asking and service, mean over what is served together.", "events", "lower", 0.0
    ),
    "exposure": Metric(
        "Learn events during which the data was still in the model after it was asked for; undefined unless exact.",
        "events",
        "lower",
        0.0,
    ),
    "exact": Metric("Whether service claims to be exact (in bits or in law).", "0 or 1", "higher", 1.0),
    "js": Metric(
        "Jensen-Shannon divergence between the predictions of run and reference on the request's data.",
        "bits",
        "lower",
        0.0,
    ),
    "dd_euclidean": Metric(
        "Mean Euclidean distance between the features of run and reference on the request's data.",
        "feature units",
        "lower",
        0.0,
    ),
    "dd_cosine": Metric(
        "1 - mean cosine similarity between the features of run and reference on the request's data.",
        "0 to 2",
        "lower",
        0.0,
    ),
    "dd_cka": Metric(
        "1 - linear CKA between the features of run and reference on the request's data.", "0 to 1", "lower", 0.0
    ),
    "probability": Metric("Mean over a request's answers of exp(-mean loss of their tokens).", "0 to 1", "reference"),
    "truth_ratio": Metric(
        "Mean of min(R, 1/R), R = exp(loss of the right answer - mean loss of wrong ones), all in other words (TOFU): "
        "near 1 the right answer cannot be told.",
        "0 to 1",
        "reference",
    ),
    "rouge_recall": Metric(
        "ROUGE-L recall of greedy text against a request's answers, without stemming.", "0 to 1", "reference"
    ),
    "exact_memorisation": Metric(
        "Share of the tokens of a request's answers that are the most likely ones, given the true ones before them.",
        "share",
        "reference",
    ),
    "extraction_strength": Metric(
        "1 - k / L over a request's answers: k tokens of L suffice for the rest to be the most likely.",
        "0 to 1",
        "reference",
    ),
    "loss_auc": Metric("Membership attack by loss: forget set against strangers.", "AUC", "reference"),
    "min_k_auc": Metric(
        "The same by the 40 % least likely tokens (Min-K): forget set against strangers.", "AUC", "reference"
    ),
    "min_k_plus_plus_auc": Metric(
        "The same by tokens in units of what their position expects (Min-K++).", "AUC", "reference"
    ),
    "priv_leak": Metric(
        "MUSE's PrivLeak by Min-K: below 0 members still stand out, above 0 they stand out as unseen.",
        "percent",
        "zero",
        0.0,
    ),
    "ks_distance": Metric(
        "Kolmogorov-Smirnov distance between the truth ratios of run and reference on the forget set.",
        "0 to 1",
        "lower",
        0.0,
    ),
    "forget_quality": Metric(
        "TOFU's forget quality: p-value of that distance. It depends on n and does not see collapse.",
        "p-value",
        "higher",
        1.0,
    ),
    "model_utility": Metric(
        "Harmonic mean of probability, ROUGE recall and 1 - truth ratio on retained rows and on facts about the world.",
        "0 to 1",
        "higher",
        1.0,
    ),
    "steps": Metric("Optimizer steps of the event.", "steps", "lower"),
    "forward": Metric("Samples passed forward through the network.", "samples", "lower"),
    "backward": Metric("Samples passed backward through the network.", "samples", "lower"),
    "samples_read": Metric("Distinct training samples that the strategy read.", "samples", "lower"),
    "state_bytes": Metric("Size of everything the strategy keeps, stored samples included.", "bytes", "lower"),
    "skipped": Metric("Whether nothing was left to learn, because all samples are deleted.", "0 or 1", "neither"),
}


def describe(name: str) -> Metric:
    """Return what a metric means.

    >>> describe("average_accuracy").better
    'higher'
    >>> describe("gap_forget_accuracy").ideal
    0.0

    Raises:
        KeyError: no metric of that name is known.
    """
    for prefix, when in (("immediate_", "right after each was served"), ("final_", "after the last event")):
        if name.startswith(prefix):
            inner = describe(name.removeprefix(prefix))
            return replace(inner, meaning=f"Mean over requests, {when}: {_within(inner.meaning)}")
    if name.startswith("abs_"):
        inner = describe(name.removeprefix("abs_"))
        return replace(inner, meaning=f"Absolute value of: {_within(inner.meaning)}", better="lower")
    if name.startswith("gap_"):
        inner = describe(name.removeprefix("gap_"))
        return replace(inner, meaning=f"Run minus reference: {_within(inner.meaning)}", better="zero", ideal=0.0)
    if name in METRICS:
        return METRICS[name]
    if name.startswith("loss_"):
        return Metric(f"Term {name.removeprefix('loss_')!r} of what was minimised, mean per sample.", "loss", "lower")
    return _of_measure(name)


def _of_measure(name: str) -> Metric:
    for prefix, (sentence, better) in OF_MEASURE.items():
        measure = MEASURES.get(name.removeprefix(prefix)) if name.startswith(prefix) else None
        if measure is not None:
            return Metric(sentence.format(measure.meaning), measure.unit, better, _ideal(measure, better))
    raise KeyError(f"The metric {name!r} is not in the catalogue.")


def _ideal(measure: Metric, better: Better) -> float | None:
    return measure.ideal if better == "higher" else None


def _within(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:] if sentence[1:2].islower() else sentence
