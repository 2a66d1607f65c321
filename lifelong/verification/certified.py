"""What of the grade certified can be tested: distances, what noise depends on, the account, and the noise itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from scipy import integrate, optimize, stats

from strategies.base import Release
from strategies.outcome import Guarantee

LARGEST_P, LARGEST_CORRELATION = 1e-6, 5.0
"""Of honest noise, one life in a million is taken for another, and one pair of publications in a million."""


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """What is known of one publication.

    Attributes:
        event: its name.
        is_request: whether the event is a request.
        guarantee: after it.
        release: secret and published weights.
    """

    event: str
    is_request: bool
    guarantee: Guarantee
    release: Release


@dataclass(frozen=True, slots=True)
class CertifiedFinding:
    """What the tests say of the guarantee at one request.

    Attributes:
        guarantee: as it was stated there, as plain data.
        distance: of the secret weights to those of the life without what was deleted by then; None where nothing can be
            compared (the two lives' weights have noise of other names in them).
        other_distance: to those of the life with other data in place of it.
        allowed, other_allowed: the sums of both residuals, which these may not exceed.
        same_noise: whether noise, budget and publications are the same whatever the deleted samples were.
        account: what the request has spent at the end of the life, recomputed from the residuals.
        stated: the same, as the strategy states it; None if the account was closed before the end.
        epsilon: of the recomputed account, at the promised delta.
        within: whether that is what was promised, or less, as long as the strategy said so.
        steps_tell: whether the number of steps tells the lives apart: a channel outside of the guarantee.
    """

    guarantee: dict[str, Any]
    distance: float | None
    other_distance: float | None
    allowed: float
    other_allowed: float
    same_noise: bool
    account: float
    stated: float | None
    epsilon: float
    within: bool
    steps_tell: bool

    @property
    def close(self) -> bool:
        """Whether the distances are as small as stated."""
        as_without = self.distance is None or self.distance <= self.allowed
        return as_without and (self.other_distance is None or self.other_distance <= self.other_allowed)

    @property
    def counted(self) -> bool:
        """Whether the account holds every publication, and no less than it cost."""
        return self.stated is None or math.isclose(self.account, self.stated, rel_tol=1e-6, abs_tol=1e-12)

    @property
    def upheld(self) -> bool:
        """Whether nothing speaks against the guarantee."""
        return self.close and self.same_noise and self.counted and self.within

    @property
    def refuted_by(self) -> str:
        """The first test that it fails."""
        tests = {"distance": self.close, "other noise": self.same_noise, "account": self.counted and self.within}
        return next((name for name, passed in tests.items() if not passed), "")


@dataclass(frozen=True, slots=True)
class NoiseFinding:
    """What the noise of all publications of a life looks like.

    Attributes:
        publications: how many.
        variance: over the stated one.
        p_value: of the two-sided chi-square test of that.
        correlation: the largest between successive publications, over its standard deviation.
        repeated: whether two publications of other weights have the same noise.
    """

    publications: int
    variance: float
    p_value: float
    correlation: float
    repeated: bool

    @property
    def upheld(self) -> bool:
        """Whether it looks as stated."""
        return self.p_value > LARGEST_P and self.correlation < LARGEST_CORRELATION and not self.repeated


def check(
    index: int, lived: Mapping[int, Shown], other: Mapping[int, Shown], without: Mapping[int, Shown]
) -> CertifiedFinding:
    """Test the guarantee that was given at event `index`.

    Args:
        index: of a request's event.
        lived: everything that was published in the whole life.
        other: up to the request, with other data in place of what was deleted by then.
        without: of the life without what was deleted by then; it has fewer events.
    """
    here, there = lived[index], other[index]
    name, stated = here.event, here.guarantee
    reference = without[max(without)] if without else None
    distance = _distance(here.release, None if reference is None else reference.release)
    other_distance = _distance(here.release, there.release)
    schedule = [_noise(lived[i].guarantee) for i in sorted(lived) if i <= index]
    fixed = {lived[i].guarantee.sigma for i in lived} == {stated.sigma}
    account, last = _account(name, index, lived)
    epsilon = recomputed_epsilon(account, stated.delta)
    exhausted = last is not None and name in last.exhausted
    declared = None if last is None else last.spent.get(name)
    return CertifiedFinding(
        guarantee=asdict(stated),
        distance=distance,
        other_distance=other_distance,
        allowed=stated.residual + stated.reference_residual,
        other_allowed=stated.residual + there.guarantee.residual,
        same_noise=fixed and schedule == [_noise(other[i].guarantee) for i in sorted(other)],
        account=account,
        stated=declared,
        epsilon=epsilon,
        within=exhausted or (account <= stated.mu * (1 + 1e-9) and epsilon <= stated.epsilon * (1 + 1e-3)),
        steps_tell=any(lived[i].guarantee.steps != other[i].guarantee.steps for i in other),
    )


def noise(lived: Mapping[int, Shown]) -> NoiseFinding | None:
    """Return what the noise between secret and published weights looks like; None where no noise is stated."""
    shown = [s for _, s in sorted(lived.items()) if s.guarantee.covers == "published" and s.guarantee.sigma]
    draws = [((s.release.published - s.release.secret) / s.guarantee.sigma).flatten() for s in shown]
    if not draws:
        return None
    both = torch.stack(draws)
    count = both.numel()
    square = float(both.square().sum())
    p = 2 * min(stats.chi2.cdf(square, count), stats.chi2.sf(square, count))
    products = (both[1:] * both[:-1]).mean(1) * math.sqrt(both.shape[1])
    rounded = {tuple((d * 1e6).round().tolist()[:8]) for d in draws}
    different = len({tuple(s.release.secret.flatten()[:8].tolist()) for s in shown})
    return NoiseFinding(
        publications=len(draws),
        variance=square / count,
        p_value=min(1.0, float(p)),
        correlation=float(products.abs().max()) if len(products) else 0.0,
        repeated=len(rounded) < different,
    )


def recomputed_epsilon(mu: float, delta: float) -> float:
    """Return the smallest epsilon of a Gaussian shift by `mu`, by integrating the densities themselves.

    It shares no formula with `strategies.parts.convex.gaussian`.
    """
    if mu < 1e-6 or not math.isfinite(mu):
        return 0.0 if mu < 1e-6 else math.inf

    def excess(epsilon: float) -> float:
        # max(0, p(x) - e^epsilon q(x)) with p = N(mu, 1) and q = N(0, 1) is positive from x = epsilon / mu + mu / 2 on.
        start = epsilon / mu + mu / 2
        value, _ = integrate.quad(
            lambda x: stats.norm.pdf(x, mu) - math.exp(epsilon - x * x / 2) / math.sqrt(2 * math.pi),
            start,
            start + 12,
            epsabs=1e-16,
            epsrel=1e-9,
        )
        return float(value)

    if excess(0.0) <= delta:
        return 0.0
    return float(optimize.bisect(lambda e: excess(e) - delta, 0.0, mu * mu / 2 + 10 * mu, xtol=1e-6))


def _distance(one: Release, other: Release | None) -> float | None:
    if other is None or one.coupling != other.coupling:
        return None
    return one.scale * float((one.secret - other.secret).norm())


def _noise(guarantee: Guarantee) -> tuple[float, float, float, int]:
    return guarantee.sigma, guarantee.mu, guarantee.delta, max(guarantee.publications.values(), default=0)


def _cost(guarantee: Guarantee) -> float:
    """Return the mu of one publication: without noise it tells everything, unless there is nothing to tell."""
    apart = guarantee.residual + guarantee.reference_residual
    if not guarantee.sigma:
        return math.inf if apart else 0.0
    return apart / guarantee.sigma


def _account(name: str, index: int, lived: Mapping[int, Shown]) -> tuple[float, Guarantee | None]:
    """Return what all publications from the request on cost together, and the last guarantee that names it."""
    total, last = 0.0, None
    for i in sorted(lived):
        guarantee = lived[i].guarantee
        if i < index or name not in guarantee.spent:
            continue
        total = _cost(guarantee) ** 2 + (total if guarantee.scope == "transcript" else 0.0)
        last = guarantee
    return math.sqrt(total), last
