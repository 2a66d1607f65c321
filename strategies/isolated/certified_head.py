"""Certified head: Newton steps on a convex head, the measured residual hidden by noise; grade certified."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, final

from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Outcome, Setting, State
from strategies.isolated._convex_head import SLACK, ConvexConfig, ConvexHead, told
from strategies.outcome import Guarantee
from strategies.parts.convex import newton
from strategies.parts.convex.accounts import Accounts, Scope
from strategies.parts.convex.gaussian import mu_of
from strategies.parts.convex.newton import Solved
from strategies.parts.convex.softmax import Rows
from streams.errors import ConfigError
from streams.events import DeletionRequest, Experience

Steps = Literal["auto"] | int


class Config(ConvexConfig):
    """Options of `certified-head`.

    It is ours: the residual's bound is that of strong convexity, the noise on what is published that of Sekhari et al.
    2021 (arXiv 2103.03279), the accounting that of Dong, Roth and Su 2022 (arXiv 1905.02383).
    """

    epsilon: float = Field(1.0, gt=0)
    """What every request is promised over its whole scope, together with `delta`."""
    delta: float = Field(1e-5, gt=0, lt=1)
    """It should be below one over the number of samples."""
    sigma: float = Field(0.01, ge=0)
    """Standard deviation of the noise on every published weight. It is fixed here, since noise that followed the
    residual would tell of it. 0 publishes the solution itself, and promises nothing unless `start` is cold."""
    scope: Scope = "transcript"
    """transcript: all publications since a request share its budget. last: each has the whole of it, which says
    nothing of two of them together."""
    publications: int = Field(100, ge=1)
    """How many publications a request's budget should last for, under `scope: transcript`; decides how far `steps:
    auto` goes. If there are more, later ones take more steps."""
    steps: Steps = "auto"
    """Newton steps at a request: at least that many, or until the residual fits `publications`. More are taken where a
    budget would be exceeded."""
    tol: float = Field(1e-10, gt=0)
    """Norm of the mean gradient to which experiences are learned, and to which the reference is assumed to be."""
    start: Literal["warm", "cold"] = "warm"
    """warm: every event goes on from the weights before it. cold: every event solves from zero, so that the weights
    depend on the live samples alone: retraining, exact in bits without noise and in law with it, without accounts."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """The choices that the certificate rests on. `lifelong verify` replaces them, to show that it would notice.

    Attributes:
        step: of Newton's method at a request.
        bound: from the norm of the mean gradient, and lambda, to a distance.
        draw: from an event's name to that of its noise.
        scale: from sigma, the residual and the budget to the noise that is used.
        charge: lets the accounts pay for a publication.
    """

    step: Callable[[Solved, Rows, float], Solved] = newton.step
    bound: Callable[[float, float], float] = lambda norm, l2: (norm + SLACK) / l2
    draw: Callable[[str], str] = lambda name: name
    scale: Callable[[float, float, float], float] = lambda sigma, residual, mu: sigma
    charge: Callable[[Accounts, float], None] = Accounts.charge


HONEST = Recipe()


@final
class CertifiedHead(ConvexHead):
    """Keeps the weights secret and publishes them with noise, anew at every event.

    How far the weights are from the minimiser of what is live is measured, by the gradient over all of it, and does not
    depend on the way there: nothing adds up over requests or experiences but the costs of publications.
    """

    supports = frozenset({"classes"})
    state_grows = True
    test_options = {"l2": 0.01}
    inert = {}

    def __init__(self, config: Config, setting: Setting, recipe: Recipe = HONEST) -> None:
        """Start at the weights zero.

        Raises:
            ConfigError: the budget is too small for the noise, or see `ConvexHead`.
        """
        super().__init__(config, setting)
        self._config, self._recipe = config, recipe
        self._mu = mu_of(config.epsilon, config.delta)
        lasting = math.sqrt(config.publications) if config.scope == "transcript" else 1.0
        self._reference = self._residual(config.tol)
        self._enough = config.sigma * self._mu / lasting - self._reference
        self._cold = config.start == "cold"
        self._grade: Literal["bits", "law", "none"] = "none" if not self._cold else "law" if config.sigma else "bits"
        self.exact = "always" if self._grade == "bits" else None
        self.state_grows = bool(config.sigma) and not self._cold
        if self.state_grows and self._enough < self._reference:
            least = 2 * self._reference * lasting / self._mu
            raise ConfigError(
                f"certified-head: sigma {config.sigma:g} is too little noise to hide what the solver leaves at "
                f"tol {config.tol:g} and l2 {config.l2:g}: it must be at least {least:.2g}. Set a larger sigma or "
                f"epsilon, or a smaller tol."
            )
        self._accounts = Accounts(setting.num_samples, self._mu, config.scope)

    @property
    @override
    def access(self) -> Access:
        """All live samples: the residual is measured on them. What is deleted is not looked at."""
        return Access(retained="full")

    @override
    def learn(self, experience: Experience, door: Door) -> Outcome:
        """Solve for all live samples, and publish."""
        self._accounts.learned(experience.sample_ids)
        rows, notes = self._rows(door.retained())
        self._derived[experience.sample_ids] = True
        start = self._head.zeros() if self._cold else self._secret
        solved = newton.solve(newton.at(start, rows, self._config.l2), rows, self._config.l2, self._config.tol)
        return self._served(solved, rows, f"{experience.name}|{experience.incarnation}", None, notes)

    @override
    def forget(self, request: DeletionRequest, door: Door) -> Outcome:
        """Take Newton steps over what is left until the residual is small enough, and publish."""
        rows, notes = self._rows(door.retained())
        if self._cold or not len(rows):
            self._derived[request.sample_ids] = False
        if self._tells:
            self._accounts.open(request.name, request.sample_ids)
        if not len(rows):
            self._derived[:] = False
            return self._served(Solved(self._head.zeros(), 0.0), rows, request.name, request.name, notes)
        config, l2 = self._config, self._config.l2
        here = newton.at(self._head.zeros() if self._cold else self._secret, rows, l2)
        if self._cold or not self._tells:
            here = newton.solve(here, rows, l2, config.tol)
        elif config.steps == "auto":
            while here.norm > config.tol and self._residual(here.norm) > self._enough:
                here = self._recipe.step(here, rows, l2)
        else:
            while here.norm > config.tol and here.steps < config.steps:
                here = self._recipe.step(here, rows, l2)
        return self._served(here, rows, request.name, request.name, notes)

    @override
    def state_dict(self) -> State:
        return {**super().state_dict(), "accounts": self._accounts.state_dict()}

    @override
    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self._accounts.load_state_dict(state["accounts"])

    @property
    def _tells(self) -> bool:
        """Whether it gives the grade certified."""
        return self.state_grows

    def _residual(self, norm: float) -> float:
        """Return how far weights can be from the minimiser at which the mean gradient has that norm."""
        return self._recipe.bound(norm, self._config.l2)

    def _served(self, here: Solved, rows: Rows, event: str, request: str | None, notes: dict[str, float]) -> Outcome:
        """Solve on while a budget would be exceeded, publish, and let all accounts pay."""
        config = self._config

        def cost(norm: float) -> float:
            return (self._residual(norm) + self._reference) / config.sigma if len(rows) else 0.0

        while self._tells and here.norm > config.tol and not self._accounts.fits(cost(here.norm)):
            here = self._recipe.step(here, rows, config.l2)
        residual = self._residual(here.norm) if len(rows) else 0.0
        sigma = self._recipe.scale(config.sigma, residual, self._mu)
        noise = sigma * self._normal(self._recipe.draw(event)) if sigma else 0.0
        self._publish(here.weights, here.weights + noise)
        passed = here.passes * len(rows)
        outcome = Outcome(here.steps, passed, passed)
        notes = {**notes, "newton_steps": float(here.steps)}
        if not self._tells:
            outcome = outcome.noted(residual=residual, noise=sigma, **notes)
            return outcome if request is None else outcome.graded(self._grade)
        self._recipe.charge(self._accounts, cost(here.norm))
        guarantee = Guarantee(
            config.epsilon,
            config.delta,
            self._mu,
            covers="published",
            scope=config.scope,
            reference="all-deleted",
            adaptive=True,
            basis="measured",
            residual=residual,
            reference_residual=self._reference if len(rows) else 0.0,
            sigma=sigma,
            spent=self._accounts.spent(),
            publications=self._accounts.publications(),
            steps=here.steps,
            resolved=here.norm <= config.tol,
            exhausted=self._accounts.exhausted(),
        )
        return told(outcome, guarantee, request, notes)
