"""From numbers over seeds to verdicts; where the numbers come from does not matter here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lifelong.study.inference import LEVEL, Rule
from lifelong.study.statistics import Estimate, holm

_NOTHING = 1e-300
"""Stands for ratios of zero and below, whose logarithm there is not."""

Outcome = Literal["reproduced", "contradicted", "undecided", "not testable"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a criterion is judged by.

    Attributes:
        name: the claim in a few words.
        asked: which number, in words.
        test: what its mean must be.
        bar: to be above, below, or within in both directions; None where it is to come from runs that there are not.
        values: the number for every seed that has one.
        ratio: whether it is a ratio, which is judged on a log scale.
        floor: whether the bar is what one retraining differs from another.
        sides: means over the seeds of both strategies that are compared.
        seeds: that there should be.
        missing: why there are no values, or no bar.
        not_testable: why the values say nothing, if they do not.
    """

    name: str
    asked: str
    test: Literal["above", "below", "within"]
    bar: float | None
    values: tuple[float, ...]
    ratio: bool = False
    floor: bool = False
    sides: tuple[float, float] | None = None
    seeds: int = 0
    missing: str | None = None
    not_testable: str | None = None

    def in_words(self) -> str:
        """Return what was asked."""
        if self.test != "within":
            return f"{self.asked} {'>' if self.test == 'above' else '<'} {self.bar:g}"
        if self.bar is None:
            return f"{self.asked} within what one retraining differs from another"
        margin = f"{self.asked} within +-{self.bar:.3g}"
        return f"{margin}, what one retraining differs from another" if self.floor else margin


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one criterion.

    Attributes:
        name: the claim in a few words.
        outcome: reproduced (the mean is beyond the bar, or within the margin), contradicted (it is on the other side),
            undecided, or not testable (what was compared, or what a criterion of `validity` asks for, is not fit for
            it). The first two are said if the corrected p-value is below 5 %.
        bar: what was asked, in words.
        estimate: the number over seeds, with the p-value before correction; None if no run has it.
        reason: why it is undecided or not testable, or what else to know.
        p_corrected: after the looks are allowed for, and for the number of criteria (Holm).
        evidence: what it is judged by.
    """

    name: str
    outcome: Outcome
    bar: str
    estimate: Estimate | None
    reason: str | None = None
    p_corrected: float | None = None
    evidence: Evidence | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """One comparison: a strategy against another, over paired seeds.

    Attributes:
        metric: that is compared.
        of, minus: the strategies.
        estimate: the difference over seeds, with the p-value of "there is none" before correction; None if there is no
            seed that both have.
        p_corrected: after the looks are allowed for, and for the number of comparisons (Holm).
        what: the number in words.
        sides: means of both strategies over the seeds.
        values: the difference for every seed.
    """

    metric: str
    of: str
    minus: str
    estimate: Estimate | None
    p_corrected: float | None
    what: str = ""
    sides: tuple[float, float] | None = None
    values: tuple[float, ...] = ()


def judge(
    family: Sequence[Evidence], rule: Rule, blocked: Mapping[str, tuple[Outcome, str]] | None = None
) -> list[Verdict]:
    """Judge criteria that belong together, so that any of them is decided falsely with probability 5 % at most.

    Args:
        family: all criteria of a study; those that are not testable count.
        rule: how the study may conclude.
        blocked: outcome and reason of criteria that depend on something that does not hold, by name.
    """
    estimates = [_estimate(e, rule) for e in family]
    allowed = [
        None if estimate is None or estimate.p is None else rule.over_looks(estimate.p, _num_sides(e, estimate))
        for e, estimate in zip(family, estimates, strict=True)
    ]
    verdicts = []
    for e, estimate, alone, p in zip(family, estimates, allowed, holm(allowed), strict=True):
        outcome, reason = _decide(e, estimate, alone, p, len(family), rule)
        if blocked and e.name in blocked:
            outcome, reason = blocked[e.name]
        elif e.not_testable is not None:
            outcome, reason = "not testable", e.not_testable
        lost = 0 if estimate is None else e.seeds - estimate.n
        if lost > 0:
            missing = f"{lost} of {e.seeds} seeds have no value everywhere"
            reason = missing if reason is None else f"{reason}; {missing}"
        shown = estimate if estimate is None or not e.ratio else _exponential(estimate)
        verdicts.append(Verdict(e.name, outcome, e.in_words(), shown, reason, p, e))
    return verdicts


def judge_gates(gates: Sequence[Evidence], rule: Rule) -> list[Verdict]:
    """Judge what must hold for criteria to be testable: each alone, as all of them must hold."""
    return [verdict for gate in gates for verdict in judge([gate], rule)]


def blocked_by(gate: Verdict) -> tuple[Outcome, str] | None:
    """Return outcome and reason of what depends on a gate, or None if the gate lets it through."""
    if gate.outcome == "reproduced":
        return None
    told = f"what it depends on is {gate.outcome}: {gate.name}"
    return ("undecided" if gate.outcome == "undecided" else "not testable"), told


def corrected(differences: Sequence[Difference], rule: Rule) -> list[Difference]:
    """Return comparisons with p-values that allow for the looks and for their number (Holm)."""
    p_values = [d.estimate.p if d.estimate else None for d in differences]
    allowed = holm([None if p is None else rule.over_looks(p) for p in p_values])
    return [replace(d, p_corrected=p) for d, p in zip(differences, allowed, strict=True)]


def _estimate(e: Evidence, rule: Rule) -> Estimate | None:
    if not e.values or e.bar is None:
        return None
    values = [math.log(v) for v in e.values] if e.ratio else list(e.values)
    if e.test == "within":
        return rule.equivalence(values, e.bar)
    bar = math.log(max(e.bar, _NOTHING)) if e.ratio else e.bar
    estimated = rule.estimate(values, bar)
    if estimated.p is not None and _is_on(e, estimated):  # and so not beyond it
        return replace(estimated, p=rule.least_p(estimated.n))
    return estimated


def _is_on(e: Evidence, estimate: Estimate) -> bool:
    """Return whether all seeds agree on the bar; a ratio that went through logarithms is there but for rounding."""
    if e.bar is None or estimate.low is None or estimate.low != estimate.high:
        return False
    return math.isclose(math.exp(estimate.mean), e.bar, rel_tol=1e-12) if e.ratio else estimate.mean == e.bar


def _num_sides(e: Evidence, estimate: Estimate) -> int:
    """Return in how many directions the test looks that gave the p-value."""
    assert e.bar is not None
    return 1 if e.test == "within" and abs(estimate.mean) <= e.bar else 2


def _decide(
    e: Evidence, estimate: Estimate | None, alone: float | None, p: float | None, family: int, rule: Rule
) -> tuple[Outcome, str | None]:
    if estimate is None:
        return "undecided", e.missing
    if alone is None or p is None:
        return "undecided", f"{'one seed decides' if estimate.n == 1 else 'two seeds decide'} nothing"
    if p < LEVEL:
        agreed = f"all {estimate.n} seeds agree; up to {1 - LEVEL ** (1 / estimate.n):.0%} of all might not"
        return _side_of_bar(e, estimate), agreed if estimate.low == estimate.high else None
    if alone < LEVEL:
        return "undecided", f"it would be decided alone, not among {family} criteria"
    if e.test == "within":
        return "undecided", "the interval spans the margin"
    # Without the effect that would have been found, "undecided" does not tell how much was looked for.
    effect = rule.detectable([math.log(v) for v in e.values] if e.ratio else e.values, family)
    if not 0 < effect < math.inf:
        return "undecided", "the interval spans the bar"
    how_far = f"a factor of {math.exp(effect):.3g}" if e.ratio else f"{effect:.2g}"
    return "undecided", f"the interval spans the bar; {how_far} beyond it would be seen with probability 80 %"


def _side_of_bar(e: Evidence, estimate: Estimate) -> Outcome:
    """Return on which side of the bar the mean is; on it is not beyond it."""
    assert e.bar is not None
    if e.test != "within" and _is_on(e, estimate):
        return "contradicted"
    mean = math.exp(estimate.mean) if e.ratio else estimate.mean
    match e.test:
        case "above":
            beyond = mean > e.bar
        case "below":
            beyond = mean < e.bar
        case "within":
            beyond = abs(mean) <= e.bar
    return "reproduced" if beyond else "contradicted"


def _exponential(estimate: Estimate) -> Estimate:
    """Return the estimate of a logarithm as that of the ratio; its mean is geometric."""
    low, high = (None if bound is None else math.exp(bound) for bound in (estimate.low, estimate.high))
    bca = None if estimate.bca is None else (math.exp(estimate.bca[0]), math.exp(estimate.bca[1]))
    return replace(estimate, mean=math.exp(estimate.mean), low=low, high=high, bca=bca)
