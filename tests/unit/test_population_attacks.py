"""Population attacks where sides differ in size and values tie: held against loops and scikit-learn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression

from lifelong.formulas import membership
from lifelong.formulas.membership import entropy_member_rate, membership_auc, membership_ks, membership_p, mia_efficacy

SEEDS = range(5)


@pytest.mark.parametrize("seed", SEEDS)
def test_sides_of_other_sizes_weigh_alike(seed: int) -> None:
    draw = np.random.default_rng(seed)
    members, others = draw.normal(0.0, 1.0, 300), draw.normal(1.0, 1.0, 40)
    forget = draw.normal(0.5, 1.0, 60)
    fitted = np.concatenate([members, others])
    scaled = lambda v: ((v - fitted.mean()) / fitted.std())[:, None]  # noqa: E731
    attack = LogisticRegression(class_weight="balanced").fit(scaled(fitted), np.repeat([1, 0], [300, 40]))
    expected = float((attack.predict(scaled(forget)) == 1).mean())
    plain = LogisticRegression().fit(scaled(fitted), np.repeat([1, 0], [300, 40]))
    assert entropy_member_rate(members, others, forget) == expected
    assert expected < float((plain.predict(scaled(forget)) == 1).mean()), "else this test would see nothing"


def test_the_share_that_is_taken_for_unseen() -> None:
    sure, unsure = np.linspace(0.86, 0.94, 50), np.linspace(0.56, 0.64, 50)
    forget = np.concatenate([sure[:3], unsure[:1]])
    assert mia_efficacy(sure, unsure, forget) == 0.25


@pytest.mark.parametrize("seed", SEEDS)
def test_distances_and_areas_with_ties_are_those_of_loops(seed: int) -> None:
    """Few values, so that most of them tie, and classes of other shares on the two sides."""
    draw = np.random.default_rng(seed)
    values, classes = draw.integers(0, 5, 70).astype(float), draw.integers(0, 3, 70)
    classes[:3] = classes[40:43] = [0, 1, 2]
    mine, own, theirs, other = values[:40], classes[:40], values[40:], classes[40:]
    weight = np.array([(own == c).sum() / (other == c).sum() for c in other])
    share = weight / weight.sum()
    apart = [abs((mine <= at).mean() - share[theirs <= at].sum()) for at in range(5)]
    assert membership_ks(mine, own, theirs, other) == pytest.approx(max(apart))
    area = np.mean([share[theirs > v].sum() + share[theirs == v].sum() / 2 for v in mine])
    assert membership_auc(mine, own, theirs, other) == pytest.approx(area)


def test_without_weights_the_distance_is_scipys() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=30), draw.normal(0.4, size=50)
    zeros = np.zeros(50, dtype=int)
    assert membership_ks(a, zeros[:30], b, zeros) == pytest.approx(stats.ks_2samp(a, b).statistic)


def test_a_p_value_counts_the_true_deal_and_those_as_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """With so few samples all deals can be listed; drawn ones come near their share."""
    monkeypatch.setattr(membership, "PERMUTATIONS", 4000)
    values, zeros = np.array([1.0, 2.0, 5.0, 3.0, 4.0, 6.0]), np.zeros(3, dtype=int)
    found = membership_p(values[:3], zeros, values[3:], zeros)

    def far(members: tuple[int, ...]) -> float:
        rest = [i for i in range(6) if i not in members]
        return abs(np.mean([values[i] < values[j] for i in members for j in rest]) - 0.5)

    true = far((0, 1, 2))
    share = np.mean([far(m) >= true - 1e-9 for m in itertools.combinations(range(6), 3)])
    assert found == pytest.approx(share, abs=0.03)
    same = np.full(6, 2.0)
    assert membership_p(same[:3], zeros, same[3:], zeros) == 1.0
