"""Bilevel selection of forget sets: the projection, the step, and what it finds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lifelong.config.run import RunConfig
from lifelong.setup import worst_case_requests
from lifelong.setup.preparation import prepare
from lifelong.setup.worst_case_requests import project, select, unlearn, updated
from strategies.parts.fit import FitConfig, fit
from streams.errors import StreamError
from streams.plan import Choice, Learn, Plan, RequestSpec, Service, assemble
from streams.randomness import Key

CHOICE = Choice("worst", rounds=6, passes=2, lr=1e-3, step=10.0, gamma=0.0)


def exact_projection(values: np.ndarray, total: float) -> np.ndarray:
    """Find mu from the breakpoints of the piecewise linear sum."""
    points = np.sort(np.concatenate([values, values - 1]))
    sums = np.array([np.clip(values - mu, 0, 1).sum() for mu in points])
    at = int(np.searchsorted(-sums, -total, side="right")) - 1
    left, right = points[at], points[min(at + 1, len(points) - 1)]
    high, low = sums[at], sums[min(at + 1, len(points) - 1)]
    mu = left if high == low else left + (high - total) / (high - low) * (right - left)
    return np.clip(values - mu, 0, 1)


@pytest.mark.parametrize("total", [5.0, 100.0, 20.0])
def test_projection_is_exact(total: float) -> None:
    values = np.random.default_rng(0).normal(size=2000) * 3
    found = project(values, total)
    assert np.abs(found - exact_projection(values, total)).max() < 1e-5
    assert abs(found.sum() - total) < 1e-5 * 2000
    order = np.random.default_rng(1).permutation(2000)
    assert np.allclose(project(values[order], total), found[order], atol=1e-9)


def test_the_step_of_the_outer_problem() -> None:
    w = np.array([1.0, 1.0, 0.0, 0.0])
    assert np.allclose(updated(w, np.full(4, 0.7), 10.0, 0.0, easy=False), w, atol=1e-5), "all alike: nothing changes"
    losses = np.array([5.0, 0.1, 0.1, 5.0])
    low = updated(w, losses, 10.0, 0.0, easy=False)
    assert np.allclose(low, [0, 1, 1, 0], atol=1e-5)
    assert np.allclose(updated(w, losses, 10.0, 0.0, easy=True), [1, 0, 0, 1], atol=1e-5)
    swap = [3, 1, 2, 0]
    assert np.allclose(updated(w[swap], losses[swap], 0.1, 0.2, False), updated(w, losses, 0.1, 0.2, False)[swap])
    # A step of the published default cannot move a sample by itself.
    assert np.allclose(updated(w, losses, 0.01, 0.0, easy=False).round(), w)


def trained(tools: Any, relabelled: list[int] | None = None) -> tuple[Any, Any, Any]:
    """A network that knows overlapping blobs by heart, its objective and its data; or the same with other labels."""
    source = tools.source(num_classes=4, per_class=50, width=8, seed=3)
    draw = np.random.default_rng(0)
    noisy = replace(source, x=source.x + torch.from_numpy(draw.normal(size=source.x.shape).astype(np.float32)))
    setting = tools.setting(noisy, hidden=64)
    model, data = tools.mlp((8, 64, 4)), tools.lend(noisy)
    fit(model, setting.objective, data, FitConfig(epochs=150, batch_size=20, lr=0.2), Key(0))
    if relabelled is not None:
        labels = torch.tensor(relabelled)
        data = tools.lend(replace(noisy, y=labels[noisy.y], class_ids=np.array(relabelled)[noisy.class_ids]))
        for name in ("head.weight", "head.bias"):
            rows = model.parameters[model.slices[name]].view(4, -1)
            rows[labels] = rows.clone()
    return model, setting.objective, data


def test_the_gradient_by_the_weights_is_the_loss(tools: Any) -> None:
    """Signs of gradients do not depend on a weight as long as none flips: unlearning drops out of the derivative."""
    model, objective, data = trained(tools)
    start, w, gamma = model.state_dict(), np.random.default_rng(0).uniform(0.2, 0.8, len(data)), 0.3

    def unlearned(w: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        model.load_state_dict(start)
        unlearn(model, objective, data, w, replace(CHOICE, passes=1), Key(0))
        with torch.inference_mode():
            batch = data.all()
            losses = objective.losses(objective.outputs(model, batch), batch)
        return model.parameters.clone(), losses.double().numpy()

    def value(w: np.ndarray, losses: np.ndarray) -> float:
        return float((w * losses).sum() + gamma * (w**2).sum())

    parameters, losses = unlearned(w)
    same, small = 0, 1e-3
    for i in range(0, len(data), 10):
        more = w.copy()
        more[i] += small
        moved, after = unlearned(more)
        if torch.equal(moved, parameters):
            same += 1
            slope = (value(more, after) - value(w, losses)) / small
            assert slope == pytest.approx(losses[i] + 2 * gamma * w[i] + gamma * small, abs=1e-6)
    assert same > 10
    expected = project(w - 0.1 * (losses + 2 * gamma * w), w.sum())
    assert np.array_equal(updated(w, losses, 0.1, gamma, easy=False), expected)


def test_names_of_classes_do_not_matter(tools: Any) -> None:
    found = []
    for labels in (None, [2, 0, 3, 1]):
        model, objective, data = trained(tools, labels)
        found.append(select(model, objective, data, 20, CHOICE, Key(0)))
    # Sums over classes in another order round otherwise, and a sign or two flips.
    assert len(np.intersect1d(*found)) >= 18


def test_worst_stays_known_and_easy_does_not(tools: Any) -> None:
    model, objective, data = trained(tools)
    start = model.state_dict()
    means = {}
    key = Key(0) / "test"
    found = {}
    for kind in ("worst", "easy"):
        model.load_state_dict(start)
        found[kind] = select(model, objective, data, 20, replace(CHOICE, kind=kind), key)
    found["random"] = data.ids[(key / "start").order(data.ids)[:20]]
    for kind, ids in found.items():
        model.load_state_dict(start)
        w = np.isin(data.ids, ids).astype(float)
        assert w.sum() == 20
        unlearn(model, objective, data, w, replace(CHOICE, passes=10), key / "judge")
        batch = data.all()
        model.train(False)
        with torch.inference_mode():
            losses = objective.losses(objective.outputs(model, batch), batch).numpy()
        means[kind] = losses[w > 0].mean()
    assert means["worst"] < means["random"] < means["easy"]
    for kind in ("worst", "easy"):
        assert np.isin(found[kind], found["random"]).mean() < 0.4, "most of the random start has left"
    model.load_state_dict(start)
    again = select(model, objective, data, 20, CHOICE, key)
    assert np.array_equal(again, found["worst"])


def test_whole_classes_are_chosen_by_their_mean_loss(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tools.source(num_classes=4, per_class=20, width=8, seed=3)
    data, model, objective = tools.lend(source), tools.mlp((8, 4, 4)), tools.setting(source, hidden=4).objective
    classes = source.class_ids[data.ids]
    losses = np.array([2.0, 1.0, 4.0, 3.0])[classes] + np.random.default_rng(0).normal(size=len(data))
    weights: list[np.ndarray] = []
    monkeypatch.setattr(worst_case_requests, "_losses", lambda *arguments: losses)
    monkeypatch.setattr(worst_case_requests, "unlearn", lambda m, o, d, w, *rest: weights.append(w))
    for kind, expected in (("worst", [0, 1]), ("easy", [2, 3])):
        for seed in range(8):
            key = Key(seed)
            if sorted((key / "start").order(np.arange(4))[:2]) != expected:
                found = select(model, objective, data, 2, replace(CHOICE, kind=kind), key, classes)
                assert found.tolist() == expected
    assert all(len(np.unique(w[classes == c])) == 1 for w in weights for c in range(4)), "all of a class weigh the same"


def test_prompts_are_chosen_where_images_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path))
    config = {
        "scenario": "joint",
        "schedule": {"name": "worst-case", "scope": "class", "samples": 3, "rounds": 2, "passes": 1},
        "objective": "denoising",
        "model": {"name": "mlp-denoiser", "width": 8, "blocks": 1},
        "training": {"epochs": 1},
    }
    stream = prepare(RunConfig.model_validate(config)).stream
    (request,) = stream.requests
    assert len(np.unique(stream.source.class_ids[request.sample_ids])) == 3
    assert request.requests[0].scope == "class"


def test_a_step_that_is_too_small_is_refused(tools: Any) -> None:
    model, objective, data = trained(tools)
    with pytest.raises(StreamError, match="still its random start"):
        select(model, objective, data, 20, replace(CHOICE, step=1e-9), Key(0))


def test_a_stream_alone_has_no_model_to_choose_by() -> None:
    stream = prepare(RunConfig()).stream
    plan = Plan(stream.source, stream.units, stream.experiences)
    with pytest.raises(StreamError, match="chosen by a model"):
        assemble(plan, [Learn(0), RequestSpec("sample", None, 3, choice=CHOICE)], Service(), Key(0))


def test_requests_in_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path))
    config = {
        "scenario": {"name": "class-incremental", "experiences": 5},
        "schedule": {"name": "worst-case", "samples": 30, "start": 2, "every": 2, "window": 1, "rounds": 3},
        "model": {"name": "mlp", "hidden": [16]},
        "training": {"epochs": 3, "lr": 0.1},
    }
    stream = prepare(RunConfig.model_validate(config)).stream
    assert [e.name for e in stream.events] == [
        *("task-0", "task-1", "request-0", "task-2", "task-3", "request-1", "task-4")
    ]
    for request, taught in zip(stream.requests, (stream.events[1], stream.events[4]), strict=True):
        assert len(request.sample_ids) == 30
        assert np.isin(request.sample_ids, taught.sample_ids).all(), "only of the latest experience"
    assert len(list((tmp_path / "selections").iterdir())) == 2
    for file in (tmp_path / "selections").iterdir():
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1  # in one of the chosen samples
        file.write_bytes(content)
    assert prepare(RunConfig.model_validate(config)).stream.digest() == stream.digest()
    easy = config | {"schedule": config["schedule"] | {"kind": "easy"}}
    other = prepare(RunConfig.model_validate(easy)).stream
    assert not np.array_equal(other.requests[0].sample_ids, stream.requests[0].sample_ids)
    drawn = prepare(RunConfig.model_validate(config | {"schedule": config["schedule"] | {"kind": "random"}})).stream
    assert len(drawn.requests[1].sample_ids) == 30
