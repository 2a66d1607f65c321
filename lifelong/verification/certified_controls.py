"""Negative controls of the grade certified: a certified head with one thing done wrong each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from strategies.base import Setting, Strategy
from strategies.isolated.certified_head import HONEST, CertifiedHead, Config, Recipe
from strategies.parts.convex.accounts import Accounts
from strategies.parts.convex.newton import Solved
from strategies.parts.convex.softmax import Rows

CertifiedControl = Callable[[Config, Setting], Strategy]
"""Takes the options of the run's own `certified-head`, or the defaults."""


def _faulty(config: Config, setting: Setting, recipe: Recipe) -> Strategy:
    sigma = config.sigma or Config().sigma
    return CertifiedHead(config.model_copy(update={"start": "warm", "sigma": sigma}), setting, recipe)


def no_noise(config: Config, setting: Setting) -> Strategy:
    """Publish the secret weights as they are."""
    noisy = _faulty(config, setting, HONEST)
    noisy._normal = lambda name: torch.zeros_like(noisy._secret)  # type: ignore[attr-defined]
    return noisy


def same_noise(config: Config, setting: Setting) -> Strategy:
    """Share one draw among all events: the difference of two publications is that of the secret weights."""
    return _faulty(config, setting, replace(HONEST, draw=lambda name: "all"))


def noise_by_residual(config: Config, setting: Setting) -> Strategy:
    """Make the noise as large as the residual needs, so that it tells of it."""
    return _faulty(config, setting, replace(HONEST, scale=lambda sigma, residual, mu: 2 * residual / mu))


def last_publication_only(config: Config, setting: Setting) -> Strategy:
    """Keep the last publication in an account that is said to hold all of them."""

    def charge(accounts: Accounts, cost: float) -> None:
        accounts._squares[:] = 0.0
        accounts.charge(cost)

    return _faulty(config.model_copy(update={"scope": "transcript"}), setting, replace(HONEST, charge=charge))


def gradient_as_distance(config: Config, setting: Setting) -> Strategy:
    """Take the norm of the gradient for a distance, without the strong convexity that divides it."""
    return _faulty(config, setting, replace(HONEST, bound=lambda norm, l2: norm))


def nothing_done(config: Config, setting: Setting) -> Strategy:
    """Leave the weights as they are and claim that they solve for what is left."""

    def step(here: Solved, rows: Rows, l2: float) -> Solved:
        return Solved(here.weights, 0.0, here.steps + 1, here.passes)

    return _faulty(config, setting, replace(HONEST, step=step))


CERTIFIED_CONTROLS: dict[str, CertifiedControl] = {
    "no noise": no_noise,
    "same noise": same_noise,
    "noise by residual": noise_by_residual,
    "last publication only": last_publication_only,
    "gradient as distance": gradient_as_distance,
    "nothing done": nothing_done,
}
