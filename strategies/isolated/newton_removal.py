"""Newton removal (Guo et al.): a perturbed objective and one Newton step a request, within a bound; certified."""

from __future__ import annotations

from typing import Literal, final

from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Outcome, Release, Setting, State
from strategies.isolated._convex_head import ConvexConfig, ConvexHead, told
from strategies.outcome import Guarantee
from strategies.parts.convex import newton
from strategies.parts.convex.accounts import Accounts
from strategies.parts.convex.bounds import guo, guo_budget, guo_worst_case
from strategies.parts.convex.newton import Solved, conjugate_gradient
from strategies.parts.convex.softmax import Rows, gradient, hessian, lipschitz
from streams.events import DeletionRequest, Experience


class Config(ConvexConfig):
    """Options of `newton-removal` (Guo et al. 2020, arXiv 1911.03030)."""

    epsilon: float = Field(1.0, gt=0)
    """What is promised of every request, together with `delta`."""
    delta: float = Field(1e-5, gt=0, lt=1)
    """See `epsilon`."""
    noise: float = Field(10.0, gt=0)
    """Standard deviation of b in the objective: summed loss + <b, W>."""
    bound: Literal["paper", "fourth", "worst-case"] = "paper"
    """What a removal adds to the residual. paper: their data-dependent bound. fourth: a tighter one, by fourth powers
    of the logits' moves. worst-case: their Theorem 3, whatever the data."""
    tol: float = Field(1e-10, gt=0)
    """Norm of the mean gradient to which is trained."""


@final
class NewtonRemoval(ConvexHead):
    """The weights are published as they are; noise is in the objective that they solve, and is drawn at every training.

    A removal steps by the removed rows' gradient through the Hessian of what is left. What that leaves of the gradient
    is bounded, not looked at; the bounds of all removals since the last training add up, and when they exceed noise
    epsilon / c, delta = 1.5 exp(-c^2 / 2), it trains again with new noise.
    """

    supports = frozenset({"classes"})
    state_grows = True
    test_options = {"l2": 0.3, "noise": 3.0}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start at the weights zero."""
        super().__init__(config, setting)
        self._config = config
        self._budget = guo_budget(config.epsilon, config.delta)
        self._accounts = Accounts(setting.num_samples, self._budget, "last")
        self._root = ""
        self._residual = 0.0
        self._count = 0

    @property
    @override
    def access(self) -> Access:
        """The removed rows, and all others for their Hessian."""
        return Access(forget_set=True, retained="full")

    @override
    def learn(self, experience: Experience, door: Door) -> Outcome:
        """Train on all live samples, with new noise."""
        self._accounts.learned(experience.sample_ids)
        rows, notes = self._rows(door.retained())
        self._derived[experience.sample_ids] = True
        solved = self._train(rows, f"{experience.name}|{experience.incarnation}")
        return self._told(solved, rows, None, notes, resolved=True)

    @override
    def forget(self, request: DeletionRequest, door: Door) -> Outcome:
        """Remove by one Newton step, or train again if the bounds are used up."""
        removed, _ = self._rows(door.forget_set())
        rows, notes = self._rows(door.retained())
        self._accounts.open(request.name, request.sample_ids)
        if not len(rows):
            self._root, self._residual = request.name, 0.0
            self._derived[:] = False
            nothing = Solved(self._head.zeros(), 0.0)
            self._publish(nothing.weights, nothing.weights)
            return self._told(nothing, rows, request.name, notes, resolved=True)
        step, left = self._removal(rows, removed)
        residual = self._residual + left
        resolved = (residual + self._reference(rows)) / self._config.noise > self._budget
        if resolved:
            trained = self._train(rows, request.name)
            step = Solved(trained.weights, trained.norm, trained.steps + 1, trained.passes + step.passes)
        else:
            self._residual = residual
            self._publish(step.weights, step.weights)
        return self._told(step, rows, request.name, notes, resolved)

    @override
    def release(self) -> Release:
        return Release(self._secret.clone(), self._published.clone(), self._root, self._config.l2 * self._count)

    @override
    def state_dict(self) -> State:
        more = {"root": self._root, "residual": self._residual, "count": self._count}
        return {**super().state_dict(), **more, "accounts": self._accounts.state_dict()}

    @override
    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self._root, self._residual, self._count = state["root"], state["residual"], state["count"]
        self._accounts.load_state_dict(state["accounts"])

    def _train(self, rows: Rows, root: str) -> Solved:
        """Solve the perturbed objective, whose noise is named by an event and kept nowhere."""
        tilt, l2 = self._config.noise * self._normal(root), self._config.l2
        solved = newton.solve(newton.at(self._secret, rows, l2, tilt), rows, l2, self._config.tol, tilt)
        self._root, self._residual = root, self._reference(rows)
        self._publish(solved.weights, solved.weights)
        return solved

    def _removal(self, rows: Rows, removed: Rows) -> tuple[Solved, float]:
        """Return the weights after one step, and what it leaves of the summed loss's gradient at most."""
        config, count = self._config, len(rows)
        sum_of_removed = len(removed) * gradient(self._secret, removed, config.l2)
        move, products = conjugate_gradient(hessian(self._secret, rows, config.l2), sum_of_removed / count)
        if config.bound == "worst-case":
            # The noise makes the solution, and with it a removed row's share of the regulariser, that much larger.
            tilt = config.noise * float(self._normal(self._root).norm()) / count
            largest = 2 * lipschitz(self._head.reach) + tilt
            left = guo_worst_case(largest, config.l2, count, len(removed), self._head.reach)
        else:
            left = guo(rows.x, move, self._head.reach, config.bound)
        inexact = newton.PRECISION * float(sum_of_removed.norm())
        return Solved(self._secret + move, 0.0, 1, products + 1), left + inexact

    def _reference(self, rows: Rows) -> float:
        """Return what training leaves of the summed loss's gradient."""
        return self._config.tol * len(rows)

    def _told(self, done: Solved, rows: Rows, request: str | None, notes: dict[str, float], resolved: bool) -> Outcome:
        config, reference = self._config, self._reference(rows)
        self._count = len(rows)
        self._accounts.charge((self._residual + reference) / config.noise)
        guarantee = Guarantee(
            config.epsilon,
            config.delta,
            self._budget,
            covers="state",
            scope="last",
            reference="all-deleted",
            adaptive=False,
            basis=f"guo ({config.bound})",
            residual=self._residual,
            reference_residual=reference,
            sigma=config.noise,
            spent=self._accounts.spent(),
            publications=self._accounts.publications(),
            steps=done.steps,
            resolved=resolved,
            exhausted=self._accounts.exhausted(),
        )
        passed = done.passes * len(rows)
        notes = {**notes, "newton_steps": float(done.steps)}
        if request is not None:
            notes["trained_again"] = float(resolved)
        return told(Outcome(done.steps, passed, passed), guarantee, request, notes)
