"""Convex heads: constants, the accountant, Newton's residual, and the papers' bounds, each held against the truth."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from strategies.isolated import integer_ridge
from strategies.parts.convex import newton
from strategies.parts.convex.accounts import Accounts
from strategies.parts.convex.gaussian import delta_of, epsilon_of, group, mu_of
from strategies.parts.convex.softmax import THIRD, Rows, gradient, hessian, lipschitz, smoothness
from streams.config import parse
from streams.errors import ConfigError

SLACK = 1e-12


def problem(seed: int, n: int = 200, d: int = 6, classes: int = 3) -> Rows:
    """Rows of length 1 whose classes can be learned."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=draw, dtype=torch.float64)
    x = x / x.norm(dim=1, keepdim=True)
    y = (x @ torch.randn(d, classes, generator=draw, dtype=torch.float64) * 3).softmax(1).multinomial(1, generator=draw)
    return Rows(x, y.squeeze(1))


def solved(rows: Rows, l2: float, tol: float = 1e-12, start: torch.Tensor | None = None) -> newton.Solved:
    if start is None:
        start = torch.zeros(rows.x.shape[1], int(rows.y.max()) + 1, dtype=torch.float64)
    return newton.solve(newton.at(start, rows, l2), rows, l2, tol)


def without(rows: Rows, removed: int) -> Rows:
    return rows.part(torch.arange(removed, len(rows)))


@pytest.mark.parametrize("clip", [0, -1.0])
def test_features_have_a_length(clip: float) -> None:
    """None of 0, which leaves nothing of them, and no negative one, which would turn them round."""
    with pytest.raises(ConfigError, match="clip"):
        parse(integer_ridge.Config, {"clip": clip})
    assert parse(integer_ridge.Config, {"clip": 2}).clip == 2.0


def test_constants_are_those_of_the_losses() -> None:
    p = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    assert float((p * (1 - p) * (1 - 2 * p)).max()) == pytest.approx(0.0962250, abs=1e-6)  # logistic
    draw = torch.Generator().manual_seed(0)
    classes = torch.rand(200_000, 3, generator=draw, dtype=torch.float64).pow(3)
    p = classes / classes.sum(1, keepdim=True)
    v = torch.randn(200_000, 3, generator=draw, dtype=torch.float64)
    v = v / v.norm(dim=1, keepdim=True)
    centred = v - (p * v).sum(1, keepdim=True)
    third = float((p * centred**3).sum(1).abs().max())
    assert 0.265 < third <= THIRD
    pair = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64) / math.sqrt(2)  # where it is attained
    share = (1 - 1 / math.sqrt(3)) / 2
    p = torch.tensor([share, 1 - share, 0.0], dtype=torch.float64)
    assert abs(float((p * (pair - (p * pair).sum()) ** 3).sum())) == pytest.approx(THIRD, rel=1e-9)
    assert pytest.approx(0.27217, abs=1e-5) == THIRD
    assert float(((classes / classes.sum(1, keepdim=True)) * centred**2).sum(1).max()) <= smoothness(1.0)


def test_gradient_and_hessian_are_those_of_the_loss() -> None:
    rows = problem(0)
    forbidden = torch.zeros(len(rows), 3, dtype=torch.bool)
    forbidden[:50, 2] = True
    forbidden[rows.y == 2] = False
    tilt = torch.randn(6, 3, dtype=torch.float64)
    for masked in (None, forbidden):
        part = Rows(rows.x, rows.y, masked)

        def loss(w: torch.Tensor, part: Rows = part) -> torch.Tensor:
            logits = part.x @ w
            logits = logits if part.forbidden is None else logits.masked_fill(part.forbidden, -math.inf)
            mean = torch.nn.functional.cross_entropy(logits, part.y)
            return mean + 0.1 / 2 * w.square().sum() + (tilt * w).sum() / len(part)

        w = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(loss(w), w, create_graph=True)
        torch.testing.assert_close(gradient(w.detach(), part, 0.1, tilt), slope.detach())
        v = torch.randn(6, 3, dtype=torch.float64)
        (product,) = torch.autograd.grad((slope * v).sum(), w)
        w = w.detach()
        torch.testing.assert_close(hessian(w, part, 0.1)(v), product)
        each = rows.x.norm(dim=1) * torch.stack(
            [gradient(w, part.part(torch.tensor([i])), 0.0).norm() for i in range(200)]
        )
        assert float(each.max()) <= lipschitz(1.0)


def test_the_accountant_agrees_with_tables_and_with_itself() -> None:
    for epsilon, delta, mu in [(1, 1e-5, 0.2681), (0.1, 1e-5, 0.0325), (1, 1e-4, 0.3139), (5, 1e-5, 1.1212)]:
        assert mu_of(epsilon, delta) == pytest.approx(mu, abs=1e-4)
    for mu in (0.03, 0.27, 1.0, 4.0):
        assert delta_of(epsilon_of(mu, 1e-5), mu) == pytest.approx(1e-5, rel=1e-9)
    mus, deltas = np.linspace(0.05, 3, 20), np.logspace(-9, -2, 20)
    assert all(a < b for a, b in pairwise(epsilon_of(mu, 1e-5) for mu in mus))
    assert all(a > b for a, b in pairwise(epsilon_of(1.0, delta) for delta in deltas))
    assert epsilon_of(0.0, 1e-5) == 0.0
    assert math.isinf(epsilon_of(math.inf, 1e-5))
    assert group(0.1, 7) == pytest.approx(0.7)


def test_a_budget_allows_as_many_publications_as_it_holds() -> None:
    accounts = Accounts(10, mu_of(1, 1e-5), "transcript")
    accounts.open("one", np.array([1, 2]))
    for _ in range(28):
        assert accounts.fits(0.05)
        accounts.charge(0.05)
    assert not accounts.fits(0.05)
    assert accounts.exhausted() == ()
    accounts.charge(0.05)  # published all the same
    assert accounts.spent()["one"] == pytest.approx(0.2693, abs=1e-4)
    assert accounts.exhausted() == ("one",)
    accounts.open("two", np.array([3]))
    assert accounts.fits(0.05), "one account that is over does not speak for the others"
    accounts.charge(0.05)
    assert accounts.publications() == {"one": 30, "two": 1}


def test_the_last_publication_alone_counts_if_that_is_what_is_said() -> None:
    accounts = Accounts(10, 0.1, "last")
    accounts.open("one", np.array([1]))
    for cost in (0.09, 0.02):
        assert accounts.fits(cost)
        accounts.charge(cost)
    assert accounts.spent() == {"one": pytest.approx(0.02)}
    assert not accounts.fits(0.11)


def test_an_account_is_closed_when_all_of_it_is_learned_again() -> None:
    accounts = Accounts(10, 1.0, "transcript")
    accounts.open("one", np.array([1, 2]))
    accounts.open("two", np.array([5]))
    accounts.charge(0.1)
    accounts.learned(np.array([2, 9]))
    assert list(accounts.spent()) == ["one", "two"]
    accounts.learned(np.array([1]))
    assert list(accounts.spent()) == ["two"]
    other = Accounts(10, 1.0, "transcript")
    other.load_state_dict(accounts.state_dict())
    other.open("three", np.array([6]))
    other.learned(np.array([5]))
    assert other.spent() == {"three": 0.0}
    assert list(accounts.spent()) == ["two"], "the state is a copy"


def test_the_residual_bounds_the_distance_whatever_the_problem() -> None:
    draw = np.random.default_rng(0)
    tightest = 0.0
    for seed in range(60):
        n, d, k = int(draw.integers(50, 300)), int(draw.integers(2, 12)), int(draw.integers(2, 5))
        l2 = float(10 ** draw.uniform(-4, 0))
        rows = problem(seed, n, d, k)
        left = without(rows, int(draw.integers(1, n // 2)))
        start = torch.zeros(d, k, dtype=torch.float64)
        here = newton.at(solved(rows, l2, 1e-10, start).weights, left, l2)
        truth = solved(left, l2, 1e-13, start).weights
        for _ in range(2):  # without a step, and after one
            distance, residual = float((here.weights - truth).norm()), (here.norm + SLACK) / l2
            assert distance <= residual * (1 + 1e-9) + 1e-13 / l2
            tightest = max(tightest, distance / residual)
            here = newton.step(here, left, l2)
    assert tightest > 0.3, "the bound would hold of anything"


def test_any_order_of_the_same_deletions_ends_within_the_residuals() -> None:
    rows, l2 = problem(1, 300), 1e-3
    ends = []
    for sizes in ([30], [1] * 30, [10, 20]):
        here, gone = solved(rows, l2, 1e-10), 0
        for size in sizes:
            gone += size
            left = without(rows, gone)
            here = newton.step(newton.at(here.weights, left, l2), left, l2)
        ends.append((here.weights, (here.norm + SLACK) / l2))
    for one, r in ends:
        for other, s in ends:
            assert float((one - other).norm()) <= r + s
    at_once, one_by_one, _ = (r for _, r in ends)
    assert one_by_one < at_once / 5, "nothing adds up over requests"


def test_newton_stops_where_float64_does_and_takes_few_steps() -> None:
    rows = problem(2, 500)
    cold = solved(rows, 1e-3, 1e-12)
    assert 3 <= cold.steps <= 9
    warm = solved(without(rows, 5), 1e-3, 1e-12, cold.weights)
    assert warm.steps <= 3
    assert warm.passes < cold.passes
    assert solved(rows, 1e-3, 1e-12, cold.weights).steps == 0
    with pytest.raises(newton.LifelongError, match="larger `tol`"):
        solved(rows, 1e-3, 1e-30)


def test_an_undamped_step_diverges_where_backtracking_does_not() -> None:
    rows = problem(3, 300)
    far = 60 * torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    here = newton.at(far, rows, 1e-4)
    direction, _ = newton.conjugate_gradient(hessian(far, rows, 1e-4), gradient(far, rows, 1e-4))
    assert newton.at(far - direction, rows, 1e-4).norm > here.norm
    assert newton.step(here, rows, 1e-4).norm < here.norm
    assert newton.solve(here, rows, 1e-4, 1e-10).norm <= 1e-10
