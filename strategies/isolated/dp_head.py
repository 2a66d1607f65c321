"""DP head (DP-SGD): learning is private; a request changes nothing and is covered as a group; certified or none."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Outcome, Release, Setting, State
from strategies.isolated._convex_head import ConvexConfig, ConvexHead, told
from strategies.outcome import Guarantee
from strategies.parts.convex.accounts import Accounts
from strategies.parts.convex.gaussian import group, mu_of
from strategies.parts.convex.softmax import Rows, errors
from strategies.ranges import linear, log
from streams.events import DeletionRequest, Experience


class Config(ConvexConfig):
    """Options of `dp-head`.

    DP-SGD (Abadi et al. 2016, arXiv 1607.00133) with all rows in every batch; accounting by Gaussian differential
    privacy (Dong, Roth and Su 2022, arXiv 1905.02383).
    """

    epsilon: float = Field(1.0, gt=0)
    """A request is certified if the privacy of all its rows together is (epsilon, delta)."""
    delta: float = Field(1e-5, gt=0, lt=1)
    """See `epsilon`."""
    noise_multiplier: float = Field(100.0, gt=0)
    """Standard deviation of the noise on the summed gradient, over `clip_norm`."""
    clip_norm: float = Field(1.0, gt=0)
    """Every row's gradient is cut to that norm."""
    steps: int = Field(30, ge=1)
    """Gradient steps for an experience, over all live rows."""
    lr: float = Field(4.0, gt=0)
    """Step size, of the gradient summed over live rows and divided by the number of all rows of the source (a public
    number; that of the live rows would tell of deletions)."""


@final
class DPHead(ConvexHead):
    """Every step is private, so that no row matters much to anything that is published, and a request is a no-op.

    A row that took part in t steps of noise multiplier z has mu = sqrt(t) / z, and k rows together k times as much.
    """

    supports = frozenset({"classes"})
    state_grows = True
    test_options = {"steps": 3}
    ranges = {"lr": log(0.1, 20.0), "steps": linear(5, 200), "clip_norm": log(0.1, 10.0)}
    inert = dict.fromkeys(
        ("epsilon", "delta"), "they decide which requests are certified, and nothing about the weights"
    )

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start at the weights zero."""
        super().__init__(config, setting)
        self._config = config
        self._steps = np.zeros(setting.num_samples, dtype=np.int64)  # that each row took part in
        self._accounts = Accounts(setting.num_samples, mu_of(config.epsilon, config.delta), "transcript")

    @property
    @override
    def access(self) -> Access:
        """All live samples, to learn; nothing at a request."""
        return Access(retained="full")

    @override
    def learn(self, experience: Experience, door: Door) -> Outcome:
        """Take noisy steps over all live rows."""
        self._accounts.learned(experience.sample_ids)
        data = door.retained()
        rows, notes = self._rows(data)
        self._derived[experience.sample_ids] = True
        self._steps[data.ids] += self._config.steps
        weights = self._secret
        for number in range(self._config.steps):
            name = f"{experience.name}|{experience.incarnation}|{number}"
            weights = self._stepped(weights, rows, self._normal(name))
        self._publish(weights, weights)
        passed = self._config.steps * len(rows)
        return self._told(Outcome(self._config.steps, passed, passed), None, notes)

    @override
    def forget(self, request: DeletionRequest, door: Door) -> Outcome:
        """Do nothing; account for the rows as a group."""
        ids = request.sample_ids
        self._accounts.open(request.name, ids)
        self._accounts.owe(group(math.sqrt(float(self._steps[ids].max())) / self._config.noise_multiplier, len(ids)))
        return replace(self._told(Outcome(), request.name, {}), weights_erased=False)

    @override
    def release(self) -> Release | None:
        """Return None: nothing is secret, and noise is in every step."""
        return None

    @override
    def state_dict(self) -> State:
        took_part = {"derived": torch.from_numpy(self._steps.copy())}
        return {**super().state_dict(), "accounts": self._accounts.state_dict(), "took_part": took_part}

    @override
    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self._accounts.load_state_dict(state["accounts"])
        self._steps = state["took_part"]["derived"].numpy().copy()

    def _stepped(self, weights: torch.Tensor, rows: Rows, normal: torch.Tensor) -> torch.Tensor:
        config = self._config
        wrong = errors(weights, rows)
        norms = rows.x.norm(dim=1, keepdim=True) * wrong.norm(dim=1, keepdim=True)
        wrong = wrong * (config.clip_norm / norms.clamp(min=1e-300)).clamp(max=1.0)
        noisy = rows.x.T @ wrong + config.noise_multiplier * config.clip_norm * normal
        return weights - config.lr * (noisy / self._setting.num_samples + config.l2 * weights)

    def _told(self, outcome: Outcome, request: str | None, notes: dict[str, float]) -> Outcome:
        config = self._config
        guarantee = Guarantee(
            config.epsilon,
            config.delta,
            mu_of(config.epsilon, config.delta),
            covers="state",
            scope="transcript",
            reference="per-request",
            adaptive=True,
            basis="differential privacy",
            residual=0.0,
            reference_residual=0.0,
            sigma=config.noise_multiplier * config.clip_norm,
            spent=self._accounts.spent(),
            publications=self._accounts.publications(),
            steps=outcome.steps,
            resolved=False,
            exhausted=self._accounts.exhausted(),
        )
        return told(outcome, guarantee, request, notes)
