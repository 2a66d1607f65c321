"""What every metric in a table of results means: definition, unit, which way is better, and where the ideal lies.

Names are made of parts: ``immediate_abs_gap_forget_accuracy`` is the mean over requests, right after each was served
(`immediate_`), of the absolute (`abs_`) difference between run and reference (`gap_`) in accuracy on the forget
set (`forget_` and the objective's measure).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from lifelong.formulas.language import BITS, LOOKS
from lifelong.metrics.knowledge import LAGS, THRESHOLDS
from lifelong.metrics.over_stream import CAPACITY_LOSS, SURVIVED_GAP, SURVIVED_LOSS
from strategies.outcome import SELECTORS

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
    "lifetime_": (
        "Over all evaluations so far and the units held at each, every pair counted once (ACC of CLPU): {}.",
        "higher",
    ),
    "normalised_": ("Over the units held, the run's mean divided by the reference's: {}.", "higher"),
    "relative_": ("Mean over the units held of the run's value divided by the reference's: {}.", "higher"),
    "lowest_": ("Mean over earlier units of the lowest value within the experience: {}.", "higher"),
    "retain_": ("On training samples that are learned and not deleted: {}.", "higher"),
    "corrected_": ("On test data where manipulated data does its damage, with true labels: {}.", "higher"),
    "unaffected_": ("On test data where manipulated data does no damage: {}.", "higher"),
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


_ECE = Metric(
    "Expected calibration error on {}: mean distance between confidence and accuracy over 15 bins.",
    "0 to 1",
    "lower",
    0.0,
)

_LEARNING: dict[str, Metric] = {
    "forgetting_from_first": Metric(
        "Mean over earlier units of the score right after a unit was first learned, minus the score now.",
        "as the score",
        "lower",
    ),
    "forgetting_from_best": Metric(
        "Mean over earlier units of the best score at any earlier event, minus the score now.", "as the score", "lower"
    ),
    "lifetime_forgetting": Metric(
        "Mean, over all evaluations so far and the units held at each, of the score right after the unit was first "
        "learned, minus the score then (Forgetting of CLPU).",
        "as the score",
        "lower",
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
}

_REQUESTS: dict[str, Metric] = {
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
    "collateral": Metric(
        "Collateral change: how much a request changes the score of other units (absolute, summed; UnCLe's Spill).",
        "as the score",
        "lower",
        0.0,
    ),
    "collateral_mean": Metric(
        "Collateral change: how much a request changes the score of other units (absolute, mean over units).",
        "as the score",
        "lower",
        0.0,
    ),
    "retained_drop": Metric(
        "Mean over the other units of the score before the request, minus after it.", "as the score", "lower"
    ),
    "latency": Metric(
        "Learn events between a request's arrival and its service, mean over what is served together.",
        "events",
        "lower",
        0.0,
    ),
    "exposure": Metric(
        "Learn events during which the data was still in the model after the request arrived; undefined unless exact.",
        "events",
        "lower",
        0.0,
    ),
    "exact": Metric("Whether service claims to be exact (in bits or in law).", "0 or 1", "higher", 1.0),
    "weights_erased": Metric(
        "0 where the request left weights that derive from its samples as they were, bit for bit: what was learned "
        "stays in the weights, and at most something beside them hides it (a guard, or nothing at all). 1 where they "
        "were changed, rebuilt or thrown away, or where none derived from the samples; it does not say how well.",
        "0 or 1",
        "higher",
        1.0,
    ),
    "trained_share": Metric(
        "Share of a request's samples that the weights were trained on (`trained-only`).", "share", "neither"
    ),
}

_RETRAINED: dict[str, Metric] = {
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
    "attribution": Metric(
        "Accuracy on the forget set in the life without the request, minus the run's, over the same minus the "
        "retrained reference's: 1 where the request closed the gap, 0 where it did nothing (needs both references).",
        "ratio",
        "neither",
        1.0,
    ),
    "average_gap": Metric(
        "Mean of the absolute differences to the reference in UA (1 - accuracy on the forget set), RA (on retained "
        "training data), TA (on test data that counts) and MIA (mia_efficacy).",
        "share",
        "lower",
        0.0,
    ),
    "tow": Metric(
        "Tug of war: product over forget set, retained data and test data of 1 - absolute difference in accuracy to "
        "the reference.",
        "0 to 1",
        "higher",
        1.0,
    ),
    "tow_mia": Metric(
        "Tug of war with the difference in mia_efficacy in place of that on the forget set.", "0 to 1", "higher", 1.0
    ),
    "tow_forget": Metric("Factor of the tug of war on the forget set.", "0 to 1", "higher", 1.0),
    "tow_retain": Metric("Factor of the tug of war on retained training data.", "0 to 1", "higher", 1.0),
    "tow_test": Metric("Factor of the tug of war on test data that counts.", "0 to 1", "higher", 1.0),
    "cost_ratio": Metric(
        "Samples passed forward and backward to serve the request, over those of living all surviving experiences "
        "again from the start (RTE in a unit that no machine changes).",
        "ratio",
        "lower",
    ),
    **{
        f"{of}_ece": replace(_ECE, meaning=_ECE.meaning.format(what))
        for of, what in (
            ("retain", "training samples that are learned and not deleted"),
            ("sample", "all test samples of the units held"),
        )
    },
    **{
        f"{of}_ece": Metric(_ECE.meaning.format(what), _ECE.unit, "reference")
        for of, what in (
            ("forget", "the training samples that a request deletes"),
            ("forget_test", "test data of the classes, tasks or users that a request names"),
        )
    },
    "zrf": Metric(
        "1 - Jensen-Shannon divergence in bits between the predictions on the forget set and an untrained network's.",
        "0 to 1",
        "reference",
    ),
    "activation_distance": Metric(
        "Mean L1 distance between the predictions of run and reference on the forget set.", "0 to 2", "lower", 0.0
    ),
    "agreement": Metric(
        "Share of the forget set for which run and reference predict the same class (completeness).",
        "share",
        "higher",
        1.0,
    ),
    "layer_distance": Metric(
        "Distance of all trained weights to the reference's, relative to their length.", "ratio", "lower", 0.0
    ),
    "layer_distance_max": Metric(
        "Largest relative distance of one layer's weights to the reference's.", "ratio", "lower", 0.0
    ),
    "relearn_steps": Metric(
        "Steps on half forgotten and half retained data until the loss on held-out data of the request (on the forget "
        "set if it has none) is within 0.05 nats of what it was before the request.",
        "steps",
        "reference",
    ),
    "anamnesis": Metric(
        "Relearn steps of the run over those of the reference: below 1 information was left, above 1 the model was "
        "damaged; a time beyond the limit counts as the limit.",
        "ratio",
        "neither",
        1.0,
    ),
    "readout_accuracy": Metric(
        "Accuracy, on test data of what the request names, of a last layer fitted anew on frozen features of the "
        "forget set and as much retained data.",
        "share",
        "reference",
    ),
}

_ATTACKS: dict[str, Metric] = {
    "mia_efficacy": Metric(
        "MIA: share of the forget set that an attack takes for unseen (RBF support vector machine on the confidence, "
        "fitted on retained training data against test data).",
        "share",
        "reference",
    ),
    "entropy_member_rate": Metric(
        "Share of the forget set that an attack takes for members (logistic regression on the entropy, fitted on "
        "retained training data against test data); the other way round than mia_efficacy.",
        "share",
        "reference",
    ),
    "attack_accuracy": Metric(
        "Cross-validated accuracy of telling the forget set from as many unseen samples of its classes by their loss "
        "(logistic regression); 0.5 is chance.",
        "share",
        "reference",
    ),
    "entropy_auc": Metric(
        "As membership_auc, by the entropy of the prediction instead of the loss.", "AUC", "reference"
    ),
    "modified_entropy_auc": Metric(
        "As membership_auc, by the modified entropy, which is low only where the model is sure of the label.",
        "AUC",
        "reference",
    ),
    "membership_ks": Metric(
        "Two-sided distance (Kolmogorov-Smirnov) between the log odds of the forget set and of unseen samples of its "
        "classes: also seen where some of the forget set stands out high and some low.",
        "0 to 1",
        "reference",
    ),
    "calibrated_loss_auc": Metric(
        "How well the run's loss, minus the reference's loss on the same sample, tells the forget set from unseen "
        "samples of its classes; above 0.5 it is still known, below it is pushed away.",
        "AUC",
        "neither",
        0.5,
    ),
    "calibrated_confidence_auc": Metric(
        "As calibrated_loss_auc, by the confidence in the label.", "AUC", "neither", 0.5
    ),
    "calibrated_entropy_auc": Metric(
        "As calibrated_loss_auc, by the entropy of the prediction.", "AUC", "neither", 0.5
    ),
    "streisand": Metric(
        "Absolute difference of membership_auc to the reference's: the forget set stands out more, or less, than in a "
        "model that never saw it.",
        "AUC",
        "lower",
        0.0,
    ),
}

_SHADOWS: dict[str, Metric] = {
    "lira_auc": Metric(
        "AUC of an attack on single samples (LiRA, with shadow models) just before the request: how much there is to "
        "find. 0.5 is chance.",
        "AUC",
        "neither",
    ),
    "ulira_auc": Metric(
        "AUC of an attack on single samples (U-LiRA) that tells lives that learned and unlearned a sample from lives "
        "in which it never occurred; 0.5, chance, is what retraining gives.",
        "AUC",
        "neither",
        0.5,
    ),
    "ulira_low": Metric("Lower end of the 95 % interval of ulira_auc, from pairs of twin lives.", "AUC", "neither"),
    "ulira_high": Metric("Upper end of the 95 % interval of ulira_auc, from pairs of twin lives.", "AUC", "neither"),
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
    "rmia_tpr_1": Metric("True positive rate of RMIA at 1 % false positives.", "share", "neither", 0.01),
    "klom_median": Metric(
        "Median over forgotten samples of KLoM: divergence of the log odds in lives that unlearned the sample from "
        "those in retrained lives; compare with klom_median_null.",
        "nats",
        "lower",
    ),
    "klom_95": Metric("95 % quantile over forgotten samples of KLoM.", "nats", "lower"),
    "klom_median_null": Metric(
        "Median KLoM of retrained lives from other retrained ones: what a perfect method gets.", "nats", "neither"
    ),
    "forgetting_score": Metric(
        "Forgetting score F of the NeurIPS 2023 challenge: mean worth of every forgotten sample's epsilon, between "
        "shadow lives that unlearned it and retrained ones. Even retraining scores about 0.2.",
        "0 to 1",
        "higher",
    ),
    "forgetting_score_null": Metric(
        "Forgetting score of retrained lives against other retrained ones: what a perfect method gets.",
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

_CORRECTIONS: dict[str, Metric] = {
    "attack_success": Metric(
        "Share of test data on which the manipulation succeeds: triggered inputs of other classes that are taken for "
        "the target, or samples of two confused classes that are taken for each other.",
        "share",
        "lower",
    ),
    "unnamed_fit": Metric(
        "Share of the manipulated samples that are learned and were not named for which the model predicts the label "
        "they were given: below 1, the damage is leaving where nobody pointed at it.",
        "share",
        "neither",
    ),
    "recovery": Metric(
        "Accuracy on affected test data, from 0 (as in the life without requests) to 1 (as without any bad data).",
        "share",
        "higher",
        1.0,
    ),
}

_MANY: dict[str, Metric] = {
    "amplification": Metric(
        "Optimizer steps of the request over the mean steps of a learn event until then.", "ratio", "lower"
    ),
    "debt_slope": Metric(
        "Least-squares slope, on the number of the request, of the absolute gap on the forget set when it is served: "
        "above 0, each request is served worse than the last.",
        "as the score",
        "lower",
    ),
    "deletion_capacity": Metric(
        f"Training samples deleted before the average score first fell {CAPACITY_LOSS} below the retrained "
        "reference's.",
        "samples",
        "higher",
    ),
    "requests_survived": Metric(
        f"Requests served before retained accuracy first fell {SURVIVED_LOSS} below the retrained reference's, or a "
        f"gap on any forgotten data first exceeded {SURVIVED_GAP}.",
        "requests",
        "higher",
    ),
}

_TEXT: dict[str, Metric] = {
    "probability": Metric("Mean over a request's answers of exp(-mean loss of their tokens).", "0 to 1", "reference"),
    "truth_ratio": Metric(
        "Mean of min(R, 1/R), R = exp(loss of the right answer - mean loss of wrong ones), all in other words (TOFU): "
        "near 1 the right answer is not recognised.",
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
    "truth_prob": Metric(
        "Mean of p / (p + mean p of wrong answers), all in other words: above 0.5 the right answer is likelier.",
        "0 to 1",
        "reference",
    ),
    "loss_auc": Metric(
        "Membership attack by loss: forget set against non-members (held-out rows).", "AUC", "reference"
    ),
    "min_k_auc": Metric(
        "The same by the 40 % least likely tokens (Min-K): forget set against non-members (held-out rows).",
        "AUC",
        "reference",
    ),
    "min_k_plus_plus_auc": Metric(
        "The same by tokens in units of what their position expects (Min-K++).", "AUC", "reference"
    ),
    "zlib_auc": Metric("The same by the loss over the bytes that the answer packs into.", "AUC", "reference"),
    **{
        f"{attack}_tpr": Metric(
            f"Share of the forget set that {attack}_auc's attack tells at 5 % false positives.", "share", "reference"
        )
        for attack in ("loss", "zlib", "min_k", "min_k_plus_plus")
    },
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
    **{
        f"{where}_{what}": Metric(f"Part of model_utility: {meaning} {of}.", "0 to 1", "higher", 1.0)
        for where, of in (("retained", "on retained rows"), ("world", "on facts about the world"))
        for what, meaning in (
            ("probability", "mean probability of the answer, over that of it and the wrong ones")
            if where == "world"
            else ("probability", "mean probability of the answer"),
            ("rouge_recall", "ROUGE-L recall of greedy text"),
            ("truth", "mean of max(0, 1 - truth ratio)"),
        )
    },
}

_TEXT_AUDITS: dict[str, Metric] = {
    "verb_mem": Metric(
        "MUSE's VerbMem: ROUGE-L F-measure of the second half of each deleted text against what the model makes of the "
        "first half.",
        "percent",
        "reference",
    ),
    "know_mem": Metric(
        "MUSE's KnowMem: ROUGE-L F-measure of answers to questions about what is deleted, in words that were not "
        "trained where there are any.",
        "percent",
        "reference",
    ),
    "retain_know_mem": Metric(
        "MUSE's utility: ROUGE-L F-measure of answers to questions about what is kept, in words that were not trained.",
        "percent",
        "higher",
        100.0,
    ),
    "joint_priv_leak": Metric(
        "PrivLeak on all that was deleted until now, together, against a reference that never saw any of it.",
        "percent",
        "zero",
        0.0,
    ),
    "utility_slope": Metric(
        "Least-squares slope of MUSE's utility over the requests, from before the first.",
        "percent per request",
        "higher",
        0.0,
    ),
    "utility_acceleration": Metric(
        "Utility lost over k requests, over k times that lost by the first: 1 adds up, above 1 accelerates, below 1 "
        "saturates.",
        "ratio",
        "lower",
    ),
    "utility_capacity": Metric(
        "Requests served before MUSE's utility first fell below 95 % of that before the first.", "requests", "higher"
    ),
    **{
        f"relearned_{steps}": Metric(
            f"Mean probability of a request's answers after {steps} steps of fine-tuning on the other half of its "
            "facts.",
            "0 to 1",
            "reference",
        )
        for steps in LOOKS
    },
    "relearned": Metric(
        "Mean height of that curve over its steps; the difference to the reference is the relearning gap.",
        "0 to 1",
        "reference",
    ),
    **{
        f"int{bits}_{what}": metric
        for bits in BITS
        for what, metric in (
            (
                "probability",
                Metric(
                    f"Mean probability of a request's answers with the blocks' weights rounded to {bits} bits.",
                    "0 to 1",
                    "reference",
                ),
            ),
            (
                "recovered",
                Metric(f"What rounding to {bits} bits adds to that probability.", "-1 to 1", "reference"),
            ),
            (
                "robustness",
                Metric(
                    f"1 - |after - before| / (after + before) of that probability under rounding to {bits} bits.",
                    "0 to 1",
                    "higher",
                    1.0,
                ),
            ),
        )
    },
    **{
        f"context_{condition}_{what}": Metric(
            f"{meaning} to questions about what is deleted, {before}.", "0 to 1", "reference"
        )
        for condition, before in (
            ("none", "with nothing put before them"),
            ("true", "with the fact and others about the same person put before them"),
            ("other", "with facts about another person put before them"),
            ("definition", "with the fact stated about an alias, and who the alias is, put before them"),
        )
        for what, meaning in (
            ("accuracy", "Share of right answers"),
            ("probability", "Mean probability of the right answers"),
        )
    },
    "reintroduction_gain_accuracy": Metric(
        "UnUnlearning: right answers with the facts in the context minus those without. As large as the reference's "
        "where only the knowledge went; smaller where the method damaged the use of contexts.",
        "-1 to 1",
        "reference",
    ),
    "reintroduction_gain_probability": Metric(
        "The same by the probability of the right answers.", "-1 to 1", "reference"
    ),
    "probe_value_layer": Metric(
        "Share of forgotten facts whose value a linear probe reads from that layer (0: the embedding) at the end of a "
        "question in other words than it was fitted on.",
        "share",
        "reference",
    ),
    "probe_selectivity_layer": Metric(
        "That share minus what the same probe reaches with the values dealt out anew.", "-1 to 1", "reference"
    ),
    "probe_truth_layer": Metric(
        "Share of right and wrong answers about forgotten facts that a linear probe on that layer, fitted on answers "
        "that are kept, tells apart; 0.5 is chance.",
        "share",
        "reference",
    ),
}

_PRETRAINING: dict[str, Metric] = {
    "perplexity": Metric(
        "Of text: e to the mean, over a unit's test rows that are not deleted, of each row's mean of -log p over the "
        "tokens to be predicted.",
        "tokens",
        "lower",
        1.0,
    ),
    "average_perplexity": Metric("Geometric mean of the perplexity over the units held.", "tokens", "lower", 1.0),
    "perplexity_growth": Metric(
        "Geometric mean, over units learned before this event, of their perplexity over that when they were learned.",
        "factor",
        "lower",
    ),
    "mixture_domain": Metric(
        "Share of an experience's tokens in stage 1 of mix-cpt that are the domain's own.", "share", "neither"
    ),
    "mixture_instructions": Metric("The same of general instructions.", "share", "neither"),
    "mixture_preferences": Metric("The same of the preferred answers of preference data.", "share", "neither"),
    "preference_margin": Metric(
        "Over the last pass of preference optimisation, the mean of log p(preferred) - log p(rejected), each minus "
        "that of the reference.",
        "nats",
        "higher",
    ),
}

_COST: dict[str, Metric] = {
    "steps": Metric("Optimizer steps of the event.", "steps", "lower"),
    "forward": Metric("Samples passed forward through the network.", "samples", "lower"),
    "backward": Metric("Samples passed backward through the network.", "samples", "lower"),
    "samples_read": Metric("Distinct training samples that the strategy read.", "samples", "lower"),
    "state_bytes": Metric("Size of everything the strategy keeps, stored samples included.", "bytes", "lower"),
    "skipped": Metric("Whether nothing was left to learn, because all samples are deleted.", "0 or 1", "neither"),
}

_ISOLATED: dict[str, Metric] = {
    "stages": Metric("Stages of training that the event ran (strategies that train in stages).", "stages", "lower"),
    "stranded_samples": Metric(
        "Live samples that no longer count because what was trained on them was given up with deleted ones.",
        "samples",
        "lower",
        0.0,
    ),
    "served_stages": Metric("Stages that still serve, over all constituents.", "stages", "higher"),
    "exhausted": Metric("Constituent groups that a request left without any usable model.", "groups", "lower", 0.0),
    "consolidation_drop": Metric(
        "Score of a temporary task on its stored samples, before minus after it became permanent.",
        "as the score",
        "lower",
    ),
    "mask_density": Metric("Share of the weights that a task's mask keeps, when it was learned.", "share", "neither"),
    "mask_overlap": Metric("Share of a task's mask that other masks contain too.", "share", "neither"),
    "free_share": Metric("Share of a task's mask that it could train.", "share", "neither"),
    "inherited": Metric(
        "For `A > B`: B depends on A; the share of B's mask that A has trained (0: through scores or territory).",
        "share",
        "neither",
    ),
    "capacity_used": Metric("Share of a layer's weights that lie in any mask.", "share", "neither"),
    "storage_share": Metric(
        "Masks, running statistics, kept scores and trained weights, over one whole network per task.", "share", "lower"
    ),
}

_GUARDS: dict[str, Metric] = {
    "gate_used": Metric(
        "Mean gate on the part of a request's data that adapter and detector were made of (o3).",
        "share",
        "higher",
    ),
    "gate_rest": Metric(
        "Mean gate on the part of a request's data that was kept to calibrate it (o3).", "share", "higher"
    ),
    "gate": Metric(
        "For `A > B`: mean gate of request A on the data of request B: how often an adapter acts on what others asked "
        "for (o3).",
        "share",
        "lower",
        0.0,
    ),
    "adapter_overlap": Metric(
        "Mean over matrices and earlier requests of ||A_i A^T|| / (||A_i|| ||A||): 0 where adapters read orthogonal "
        "inputs, about 1 / sqrt(rank) where they read the same (o3).",
        "ratio",
        "lower",
        0.0,
    ),
    "detector_condition": Metric(
        "Largest condition number of a layer's covariance in the request's detector (o3).", "ratio", "lower"
    ),
    "detector_small": Metric(
        "Whether a request had so few samples that covariances were shrunk (o3).", "0 or 1", "neither"
    ),
    "guarded": Metric("Subjects on the guardrail's list (in-context).", "subjects", "neither"),
}

_SELECTION: dict[str, Metric] = {
    "pool_size": Metric("Samples that a selecting strategy may draw from, after the event.", "samples", "neither"),
    "drawn_samples": Metric("Samples that the event was trained on, where a strategy selects.", "samples", "neither"),
    "selection_forward": Metric("Of `forward`, what looking at the pool took.", "samples", "lower"),
    "selection_backward": Metric("Of `backward`, what looking at the pool took.", "samples", "lower"),
    "pool_share": Metric("A skill's share of the pool that was drawn from.", "share", "neither"),
    "draw_share": Metric("A skill's share of what was drawn.", "share", "neither"),
    "draw_balance": Metric(
        "Entropy of the skills' shares of what was drawn, over that of equal shares of all skills in the pool.",
        "share",
        "neither",
        1.0,
    ),
    "cluster_nmi": Metric(
        "Normalised mutual information of a strategy's clusters and the true skills (classes), over the pool.",
        "share",
        "higher",
        1.0,
    ),
    "cluster_share": Metric("A cluster's share of the pool.", "share", "neither"),
    "cluster_draw": Metric("Share of a cluster's samples that was drawn.", "share", "neither"),
    "selector": Metric(
        "The score that decided in a cluster, by its place: " + ", ".join(f"{i} {s}" for i, s in enumerate(SELECTORS)),
        "place",
        "neither",
    ),
    "outside_band": Metric(
        "Samples drawn from the tails of a score, because the band between them had too few.", "samples", "neither"
    ),
    "small_gradients": Metric(
        "Share of the pool with a gradient norm below 1e-6, the direction of which is noise.", "share", "neither"
    ),
}

THEMES: dict[str, dict[str, Metric]] = {
    "What is learned and kept": _LEARNING,
    "Requests": _REQUESTS,
    "Beside retraining": _RETRAINED,
    "Attacks on one model": _ATTACKS,
    "Attacks with many lives": _SHADOWS,
    "Corrections": _CORRECTIONS,
    "Many requests": _MANY,
    "Text: answers": _TEXT,
    "Text: what an attacker gets back": _TEXT_AUDITS,
    "Text: continual pretraining": _PRETRAINING,
    "Cost": _COST,
    "Isolated strategies": _ISOLATED,
    "Guards": _GUARDS,
    "Selection of training data": _SELECTION,
}
"""All but those of `OF_MEASURE`, by what they are about."""

METRICS = {name: metric for theme in THEMES.values() for name, metric in theme.items()}


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
    if name.startswith("worst_"):
        inner = describe(name.removeprefix("worst_"))
        return replace(inner, meaning=f"Mean over requests of the highest at any reference: {_within(inner.meaning)}")
    if name.startswith("abs_"):
        inner = describe(name.removeprefix("abs_"))
        return replace(inner, meaning=f"Absolute value of: {_within(inner.meaning)}", better="lower")
    if name.startswith("gap_"):
        inner = describe(name.removeprefix("gap_"))
        return replace(inner, meaning=f"Run minus reference: {_within(inner.meaning)}", better="zero", ideal=0.0)
    by_layer = re.sub(r"(?<=_layer)_\d+$", "", name)
    if by_layer in METRICS:
        return METRICS[by_layer]
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
