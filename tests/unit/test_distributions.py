"""Predicted distributions of many classes: what is kept, and how far that moves what is told of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lifelong.evaluation.distributions import gathered, mean_over
from lifelong.formulas.distance import activation_distance, jensen_shannon
from lifelong.formulas.quality import agreement

D, K = 60, 500


@pytest.fixture
def predicted() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [(3 * torch.randn(D, K, generator=generator)).softmax(1) for _ in range(2)]


def test_all_classes_stay_as_they_are(predicted: list[torch.Tensor]) -> None:
    for most in (None, K, K + 1):
        kept = gathered(predicted[0].split(7), most, D)
        assert kept is not None
        assert kept.top_classes is None
        assert np.array_equal(kept.whole(np.arange(D)), predicted[0].numpy())
    assert gathered([None, None], 3, 2) is None


def test_the_rest_is_shared_evenly() -> None:
    kept = gathered([torch.tensor([[0.1, 0.5, 0.3, 0.06, 0.04]])], 2, 1)
    assert kept is not None
    assert kept.top_classes is not None
    assert kept.top_classes.tolist() == [[1, 2]]
    np.testing.assert_allclose(kept.whole(np.array([0])), [[0.2 / 3, 0.5, 0.3, 0.2 / 3, 0.2 / 3]], rtol=1e-6)


def test_what_is_told_of_the_top_is_within_the_mass_of_the_rest(
    predicted: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lifelong.evaluation.distributions._VALUES", 7 * K)  # parts of about seven samples
    at = np.arange(0, D, 2)
    whole = [gathered([p], None, D) for p in predicted]
    most_rest = []
    for most in (20, 100):
        top = [gathered(p.split(9), most, D) for p in predicted]
        rest = np.mean([1 - t.probabilities[at].sum(1) for t in top])
        most_rest.append(rest)
        assert mean_over(agreement, *top, at) == pytest.approx(mean_over(agreement, *whole, at))
        for formula in (jensen_shannon, activation_distance):
            error = abs(mean_over(formula, *top, at) - mean_over(formula, *whole, at))
            assert 0 < error < 2 * rest
    assert most_rest[1] < most_rest[0] / 2


def test_whole_distributions_of_many_classes_are_compared_part_by_part(
    predicted: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (gathered([p], None, D) for p in predicted)
    sizes: list[int] = []

    def counted(p: np.ndarray, q: np.ndarray) -> float:
        sizes.append(len(p))
        return jensen_shannon(p, q)

    at = np.arange(D)
    whole = mean_over(counted, one, other, at)
    monkeypatch.setattr("lifelong.evaluation.distributions._VALUES", 7 * K)
    assert mean_over(counted, one, other, at) == pytest.approx(whole, rel=1e-12)
    assert sizes[0] == D
    assert sum(sizes[1:]) == D
    assert max(sizes[1:]) <= 7
