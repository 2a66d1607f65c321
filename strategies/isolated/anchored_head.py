"""Anchored head (Hu et al.): each experience is learned near the last weights, so old ones fade; certified or none."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Outcome, Setting, State
from strategies.isolated._convex_head import SLACK, ConvexConfig, ConvexHead, told
from strategies.outcome import Guarantee
from strategies.parts.convex import newton
from strategies.parts.convex.accounts import Accounts, Scope
from strategies.parts.convex.bounds import Link, anchored
from strategies.parts.convex.gaussian import mu_of
from strategies.parts.convex.softmax import lipschitz
from streams.events import DeletionRequest, Experience


class Config(ConvexConfig):
    """Options of `anchored-head` (Hu, Duan and Zhang 2026, arXiv 2606.29832)."""

    l2: float = Field(0.1, gt=0)
    """Strong convexity of every experience's own loss: mean loss + l2/2 ||W||^2."""
    anchor: float = Field(0.1, gt=0)
    """lambda: an experience is learned by minimising its loss + lambda/2 ||W - W_before||^2. The smaller, the faster
    what came before fades."""
    moves: Literal["bound", "measured"] = "bound"
    """How far an experience that is deleted as a whole can have moved the weights. bound: L / lambda, for any data.
    measured: as far as it did."""
    epsilon: float = Field(1.0, gt=0)
    """What is promised of every request over its whole scope, together with `delta`."""
    delta: float = Field(1e-5, gt=0, lt=1)
    """See `epsilon`."""
    sigma: float = Field(0.1, gt=0)
    """Standard deviation of the noise on every published weight."""
    scope: Scope = "transcript"
    """See `certified-head`."""
    tol: float = Field(1e-10, gt=0)
    """Norm of the gradient to which an experience is learned."""


@final
class AnchoredHead(ConvexHead):
    """Reads nothing but the experience at hand, keeps no sample, and does nothing at a request.

    A request can be certified if enough was learned after what it names: each experience that is still there brings the
    weights of both lives nearer by lambda / (lambda + l2). What cannot be certified is graded ``none``.
    """

    supports = frozenset({"classes"})
    state_grows = True
    test_options = {"sigma": 1.0}
    inert = dict.fromkeys(
        ("epsilon", "delta"), "they decide which requests are certified, and nothing about the weights"
    )

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start at the weights zero."""
        super().__init__(config, setting)
        self._config = config
        self._accounts = Accounts(setting.num_samples, mu_of(config.epsilon, config.delta), config.scope)
        self._taught: list[np.ndarray] = []  # the samples of every task, -1 for those that were deleted since
        self._moves = np.zeros(0)  # how far it moved the weights

    @property
    @override
    def access(self) -> Access:
        """Nothing."""
        return Access()

    @override
    def learn(self, experience: Experience, door: Door) -> Outcome:
        """Learn an experience near the weights before it."""
        ids, config = experience.sample_ids, self._config
        self._accounts.learned(ids)
        rows, notes = self._rows(door.fetch(ids))
        # lambda/2 ||W - W_before||^2 is a stronger regulariser and a tilt.
        strength, tilt = config.l2 + config.anchor, -config.anchor * len(rows) * self._secret
        here = newton.at(self._secret, rows, strength, tilt)
        solved = newton.solve(here, rows, strength, config.tol, tilt)
        self._derived[ids] = True
        self._taught.append(ids.copy())
        self._moves = np.append(self._moves, float((solved.weights - self._secret).norm()))
        passed = solved.passes * len(rows)
        outcome = Outcome(solved.steps, passed, passed)
        notes = {**notes, "newton_steps": float(solved.steps)}
        return self._told(
            solved.weights, f"{experience.name}|{experience.incarnation}", None, outcome, notes, solved.steps
        )

    @override
    def forget(self, request: DeletionRequest, door: Door) -> Outcome:
        """Find out how much of the request's samples can still be there."""
        self._accounts.open(request.name, request.sample_ids)
        for ids in self._taught:
            ids[np.isin(ids, request.sample_ids)] = -1
        weights = self._secret
        if all((ids < 0).all() for ids in self._taught):
            weights = self._head.zeros()
            self._derived[:] = False
            self._moves[:] = 0.0
        return self._told(weights, request.name, request.name, Outcome(), {}, 0)

    @override
    def state_dict(self) -> State:
        chain = {
            "taught": [torch.from_numpy(ids.copy()) for ids in self._taught],
            "moves": torch.from_numpy(self._moves.copy()),
        }
        return {**super().state_dict(), "accounts": self._accounts.state_dict(), "chain": chain}

    @override
    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self._accounts.load_state_dict(state["accounts"])
        self._taught = [ids.numpy().copy() for ids in state["chain"]["taught"]]
        self._moves = state["chain"]["moves"].numpy().copy()

    def _distance(self) -> float:
        """Return how far the weights can be from those of a life without all that is deleted."""
        config, bound = self._config, lipschitz(self._head.reach)
        strength = config.l2 + config.anchor
        solver = 2 * (config.tol + SLACK) / strength
        links: list[Link] = []
        for ids, move in zip(self._taught, self._moves, strict=True):
            taught, gone = len(ids), int((ids < 0).sum())
            if gone == taught:
                farthest = 2 * bound / config.anchor  # L is that of the loss and of its regulariser in the ball
                links.append(("gone", min(move, farthest) if config.moves == "measured" or not move else farthest))
            else:
                links.append(("kept", 2 * bound * gone / (taught * strength) + solver))
        return anchored(links, config.anchor / strength)

    def _told(
        self,
        weights: torch.Tensor,
        event: str,
        request: str | None,
        outcome: Outcome,
        notes: dict[str, float],
        steps: int,
    ) -> Outcome:
        config = self._config
        self._publish(weights, weights + config.sigma * self._normal(event))
        distance = self._distance()
        self._accounts.charge(distance / config.sigma)
        guarantee = Guarantee(
            config.epsilon,
            config.delta,
            mu_of(config.epsilon, config.delta),
            covers="published",
            scope=config.scope,
            reference="all-deleted",
            adaptive=True,
            basis=f"anchor ({config.moves})",
            residual=distance,
            reference_residual=0.0,
            sigma=config.sigma,
            spent=self._accounts.spent(),
            publications=self._accounts.publications(),
            steps=steps,
            resolved=False,
            exhausted=self._accounts.exhausted(),
        )
        untouched = request is not None and bool(self._derived.any())
        told_outcome = told(outcome, guarantee, request, notes)
        return replace(told_outcome, weights_erased=not untouched)
