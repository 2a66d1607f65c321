"""How far sets of images lie apart: by hand, and against torchmetrics."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lifelong.audits import _judge
from lifelong.audits._judge import altered, judge_of
from lifelong.audits._judges import has_many, judges_of, real_images
from lifelong.audits.images import Drawn
from lifelong.formulas.generation import (
    extracted,
    frechet_distance,
    kernel_distance,
    label_divergence,
    mean_distance,
    nearest,
)
from lifelong.report.contact_sheet import columns_of
from strategies.objectives.denoising import Config as DenoisingConfig
from strategies.objectives.denoising import Denoising
from streams.errors import ConfigError
from streams.sources import digits


def gaussian(n: int, mean: float, spread: float, seed: int) -> np.ndarray:
    """Samples whose mean and covariance are exactly those, in four dimensions."""
    x = np.random.default_rng(seed).normal(size=(n, 4))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return x * spread + mean


def test_the_frechet_distance_of_gaussians_has_a_closed_form() -> None:
    one, other = gaussian(40, 0.0, 1.0, 0), gaussian(70, 2.0, 3.0, 1)
    expected = 4 * 2.0**2 + 4 * (1 + 9 - 2 * 3)
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(one, other[:1]) is None


def test_the_kernel_distance_is_unbiased() -> None:
    """Of two samples of one law it is zero in the mean, not above it."""
    draw = np.random.default_rng(0)
    values = [kernel_distance(draw.normal(size=(20, 4)), draw.normal(size=(30, 4))) for _ in range(300)]
    assert np.mean(values) == pytest.approx(0, abs=3 * np.std(values) / 300**0.5)
    apart = kernel_distance(draw.normal(size=(200, 4)), draw.normal(size=(200, 4)) + 2)
    assert apart is not None
    assert apart > 5
    by_hand = [[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [0.0, 0.0]]
    x, y = np.array(by_hand[0]), np.array(by_hand[1])
    # kernels: within x (0 / 2 + 1)^3 = 1, within y 1, between 1.5^3 twice and 1 twice
    assert kernel_distance(x, y) == pytest.approx(1 + 1 - 2 * (2 * 1.5**3 + 2) / 4)
    assert kernel_distance(x, y[:1]) is None


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
def test_both_are_those_of_torchmetrics() -> None:
    from torchmetrics.image.fid import _compute_fid
    from torchmetrics.image.kid import poly_mmd

    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(60, 8)), draw.normal(size=(60, 8)) * 1.5 + 0.3
    tensors = torch.from_numpy(x), torch.from_numpy(y)
    moments = [m for t in tensors for m in (t.mean(0), t.T.cov())]
    assert frechet_distance(x, y) == pytest.approx(float(_compute_fid(*moments)), rel=1e-6)
    assert kernel_distance(x, y) == pytest.approx(float(poly_mmd(*tensors)), rel=1e-6)


def test_the_nearest_other_image() -> None:
    points = np.array([[0.0], [1.0], [5.0]])
    assert nearest(points, points, leave_self_out=True).tolist() == [1.0, 1.0, 4.0]
    assert nearest(np.array([[4.0]]), points).tolist() == [1.0]


def test_what_is_reproduced_is_far_nearer_than_others() -> None:
    others = np.array([[10.0, 0.0], [0.0, 10.0], [-10.0, 0.0]])
    images = np.array([[0.0, 0.0], [0.0, -3.0]])
    assert extracted(np.array([[0.5, 0.0]]), images, others) == 0.5 + 0.5 * (np.hypot(0.5, 3) < 10 / 3)
    assert extracted(np.array([[9.0, 0.0]]), images, others, neighbours=1) == 0


def test_what_is_seen_instead() -> None:
    assert label_divergence(np.array([1, 1, 2]), np.array([1, 2, 1]), 3) == pytest.approx(0)
    assert label_divergence(np.array([0, 0]), np.array([1, 2]), 3) == pytest.approx(math.log(2))
    assert mean_distance(np.zeros((2, 2, 2)), np.full((2, 2, 2), 3.0)) == pytest.approx(18**0.5)


def test_accuracies_on_a_grid_of_two_objects_in_two_styles() -> None:
    prompts = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    seen = np.array([[[0, 1], [1, 1], [0, 0], [0, 0]], [[0, 0], [0, 0], [1, 0], [1, 1]]])
    drawn = Drawn(prompts, np.array([True, True, False, False]), seen, np.zeros((4, 2, 3)), np.ones((4, 2), bool))
    assert drawn.right(0).mean(1).tolist() == [0.5, 1.0, 1.0, 0.0]
    assert drawn.right(1).mean(1).tolist() == [1.0, 1.0, 0.5, 1.0]


def test_deleted_prompts_come_first_on_a_sheet() -> None:
    assert columns_of(np.array([True] * 3)) == [0, 1, 2]
    assert columns_of(np.array([True, False, True])) == [1, 0, 2]
    assert len(columns_of(np.array([False] * 40 + [True] * 40))) == 8
    assert columns_of(np.array([False] * 40 + [True] * 40))[:4] == [0, 13, 26, 39]


# -- judges


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path))
    monkeypatch.setattr(_judge, "STEPS", 40)
    return tmp_path


@pytest.mark.nightly
def test_a_judge_is_trained_once_and_says_how_good_it_is(cache: Path) -> None:
    source = digits.load(digits.Config())
    objective = Denoising.for_data(DenoisingConfig(), source, None, "cpu")
    real = real_images(objective, source)
    assert has_many(source)
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    judge = judge_of(source, real, source.class_ids, "object", many=True)
    assert torch.equal(torch.random.get_rng_state(), state)
    images = source.x[source.test_ids].view(-1, 1, 8, 8)
    labels, features = judge.looks(images)
    assert features.shape == (len(images), 128)
    assert (labels == source.class_ids[source.test_ids]).mean() > 0.7
    assert 0.7 < judge.accuracy < 1
    (file,) = (cache / "judges").glob("*.pt")
    written = file.stat().st_mtime_ns
    again = judge_of(source, real, source.class_ids, "object", many=True)
    assert again.accuracy == judge.accuracy
    assert np.array_equal(again.looks(images)[1], features)
    file.write_bytes(file.read_bytes()[:100])
    repaired = judge_of(source, real, source.class_ids, "object", many=True)
    assert np.array_equal(repaired.looks(images)[1], features), "a damaged file is made again, to the same bits"
    assert file.stat().st_mtime_ns != written
    with pytest.raises(ConfigError, match=r"the judge of objects is right about 0\.\d+ of images.*least_accuracy: 1"):
        judges_of(objective, source, 1.0, "evaluation.audits.images")


def test_copies_are_shifted_and_noisy() -> None:
    images = torch.zeros(50, 1, 16, 16)
    images[:, :, 8, 8] = 1
    moved = altered(images, torch.Generator().manual_seed(0))
    places = moved.flatten(1).argmax(1)
    assert {int(p) for p in places} <= {r * 16 + c for r in (7, 8, 9) for c in (7, 8, 9)}
    assert len(places.unique()) > 5
    assert float((moved - moved.round()).std()) == pytest.approx(_judge.NOISE, rel=0.2)
