"""The functions that approximate unlearners are made of, held against hand-made numbers and slow twins."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from strategies.objectives.classification import Classification
from strategies.outcome import Outcome
from strategies.parts.fit import FitConfig, Hooks, fit
from strategies.parts.model import FlatModel, Network
from strategies.parts.preference import npo_losses
from strategies.parts.teachers.divergence import softened_kl
from strategies.parts.weights.dampening import ImportanceLog, adaptive_alpha, dampened
from strategies.parts.weights.fisher import diagonal_fisher, loss_gradient
from strategies.parts.weights.layers import last_layers, redraw
from strategies.parts.weights.ranks import largest
from strategies.parts.weights.updates import UpdateLog
from strategies.unlearners._norms import recalibrate
from strategies.unlearners._relabel import draw_labels
from strategies.unlearners.blindspot import attention_map
from strategies.unlearners.concept_poisoning import pasted
from strategies.unlearners.fisher_forgetting import Config as FisherConfig
from strategies.unlearners.fisher_forgetting import noise_variance, output_rows
from strategies.unlearners.gaussian_finetune import gaussian_targets
from strategies.unlearners.influence import (
    conjugate_gradients,
    gauss_newton_product,
    released_recursion,
    removal_direction,
    woodfisher_inverse,
)
from strategies.unlearners.l1_sparse import Config as L1Config
from strategies.unlearners.l1_sparse import Shrink, l1_weight
from strategies.unlearners.laf import alignment, psi
from strategies.unlearners.salun import pull_back, saliency
from streams.data import Batch, Data
from streams.errors import ConfigError
from streams.randomness import Key


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_l1_weights_fall_to_zero_before_the_plain_epochs() -> None:
    assert [l1_weight(1.0, e, 4, 1) for e in range(4)] == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert l1_weight(0.5, 0, 1, 0) == 0.5


def test_the_l1_penalty_is_the_same_throughout_an_epoch() -> None:
    shrink, found = Shrink(L1Config(epochs=4, gamma=1.0, plain_epochs=1), steps_per_epoch=3), []
    theta = torch.tensor([2.0, -3.0, 0.0])
    batch = Batch(torch.arange(1), torch.zeros(1, 1), torch.zeros(1))
    for step in range(12):
        assert shrink.extend(batch, step) is batch
        found.append(shrink.gradient(torch.zeros(3), theta).tolist())
    expected = [[w, -w, 0.0] for e in range(4) for w in [l1_weight(1.0, e, 4, 1)] * 3]
    assert np.allclose(found, expected)


def test_drawn_labels_are_uniform_over_the_candidates() -> None:
    n, k, true = 20_000, 10, 3
    ids = np.arange(n)
    candidates = torch.ones(n, k, dtype=torch.bool)
    every = draw_labels(ids, candidates, Key(0) / "a")
    sd = math.sqrt(0.1 * 0.9 / n)
    assert abs(float((every == true).float().mean()) - 0.1) < 3 * sd
    candidates[:, [true, 7]] = False  # the true label, and a class that is deleted
    drawn = draw_labels(ids, candidates, Key(0) / "a")
    counts = torch.bincount(drawn, minlength=k)
    assert counts[true] == counts[7] == 0
    assert stats.chisquare(counts[[c for c in range(k) if c not in (true, 7)]].numpy()).pvalue > 1e-3


def test_a_drawn_label_depends_on_its_name_and_sample_alone() -> None:
    candidates = torch.ones(50, 7, dtype=torch.bool)
    ids = np.arange(50)
    labels = draw_labels(ids, candidates, Key(1))
    assert torch.equal(draw_labels(ids[10:20], candidates[:10], Key(1)), labels[10:20])
    assert not torch.equal(draw_labels(ids, candidates, Key(2)), labels)


def test_saliency_masks_the_largest_sums_and_opposite_gradients_cancel(tools: Any) -> None:
    mask = largest(torch.tensor([0.1, -5.0, 0.0, 3.0, -0.2]), 0.4)
    assert mask.tolist() == [False, True, False, True, False]
    assert abs(int(largest(noise(1001), 0.3).sum()) - 0.3 * 1001) <= 1
    # Two samples of one input and both labels, at equal probabilities: their gradients are opposite.
    source = tools.source(num_classes=2, per_class=1, test_per_class=1)
    source.x[1:] = source.x[0]
    model = tools.mlp((5, 4, 2))
    model.parameters[model.mask("head").bool()] = 0.0
    data = tools.lend(source)
    assert data.targets().tolist() == [0, 1]
    whole = saliency(model, Classification(2), data)
    assert float(whole.abs().max()) < 1e-7
    assert float(saliency(model, Classification(2), data.part(np.array([0]))).abs().max()) > 1e-2


def test_soft_thresholding_puts_a_share_back() -> None:
    start = torch.zeros(5)
    moved = torch.tensor([0.1, -0.2, 0.3, -0.4, 0.5])
    assert pull_back(moved, start, 0.4).tolist() == pytest.approx([0, 0, 0.1, -0.2, 0.3])
    assert torch.equal(pull_back(moved, start, 0.0), moved)


def test_dampening_by_hand() -> None:
    theta = torch.tensor([1.0, -2.0, 3.0, -4.0])
    whole, forget = torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([1.0, 4.0, 20.0, 0.0])
    after, share = dampened(theta, whole, forget, alpha=3.0, strength=1.0)
    assert after.tolist() == pytest.approx([1.0, -0.5, 0.15, -4.0])
    assert share == 0.5
    # lambda = alpha is continuous at the boundary, and nothing ever grows.
    at_boundary, _ = dampened(torch.ones(1), torch.ones(1), torch.tensor([3.0 + 1e-6]), 3.0, 3.0)
    assert float(at_boundary) == pytest.approx(1.0, abs=1e-5)
    large, _ = dampened(theta, whole, forget, alpha=0.5, strength=100.0)
    assert (large.abs() <= theta.abs()).all()


def test_the_adaptive_alpha_is_a_percentile() -> None:
    ratio = torch.arange(1.0, 101.0)
    # n_f / n = 0.1: p = 100 - ln 11 = 97.6.
    assert adaptive_alpha(torch.ones(100), ratio, 0.1) == 98.0


def test_a_log_of_importances_is_a_mean_and_gives_back() -> None:
    log = ImportanceLog("loss", torch.zeros(3))
    a, b = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([3.0, 0.0, 1.0])
    log.add(a, 0)  # an experience of which nothing is selected
    assert (log.mean.tolist(), log.count) == ([0, 0, 0], 0)
    log.add(a, 10)
    log.add(b, 30)
    assert torch.allclose(log.mean, (10 * a + 30 * b) / 40)
    log.remove(b, 30)
    assert torch.allclose(log.mean, a, atol=1e-6)
    log.remove(a, 10)
    assert log.mean.tolist() == [0, 0, 0]
    assert log.count == 0


def test_what_is_left_of_importances_is_never_negative() -> None:
    """Later weights may say more of some samples than was noted of all."""
    log = ImportanceLog("loss", torch.zeros(3))
    log.add(torch.tensor([1.0, 2.0, 3.0]), 10)
    log.remove(torch.tensor([4.0, 2.0, 0.0]), 5)
    assert log.mean.tolist() == [0.0, 2.0, 6.0]
    assert log.count == 5


def test_a_log_of_updates_gives_back_what_touched_the_samples() -> None:
    log = UpdateLog()
    for ids, value in (([1, 2], 1.0), ([3], 10.0), ([2, 4], 100.0)):
        log.add(np.array(ids), torch.full((2,), value))
    assert log.touched(np.array([2])) == [0, 2]
    assert log.take(np.array([2, 9])).tolist() == [101.0, 101.0]  # type: ignore[union-attr]
    assert len(log) == 1
    assert log.take(np.array([2])) is None


def test_softened_kl_is_kl_per_sample_also_where_outputs_are_forbidden() -> None:
    student, teacher = noise(6, 5), noise(6, 5, seed=1)
    p, q = (teacher / 4).softmax(1), (student / 4).softmax(1)
    slow = 16 * (p * (p.log() - q.log())).sum(1)
    assert torch.allclose(softened_kl(student, teacher, 4.0), slow, atol=1e-6)
    assert float(softened_kl(student, student, 2.0).abs().max()) < 1e-6
    forbidden = torch.zeros(6, 5, dtype=torch.bool)
    forbidden[:, 3:] = True
    leaf = student.clone().requires_grad_(True)
    masked = softened_kl(leaf.masked_fill(forbidden, -torch.inf), teacher.masked_fill(forbidden, -torch.inf), 4.0)
    assert torch.allclose(masked, softened_kl(student[:, :3], teacher[:, :3], 4.0), atol=1e-6)
    masked.sum().backward()
    assert torch.isfinite(leaf.grad).all()  # type: ignore[arg-type]
    # A kl_div that averages over all elements is K times smaller (section 1.3).
    elementwise = nn.functional.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="none").mean()
    assert float(softened_kl(student, teacher, 1.0).mean() / elementwise) == pytest.approx(5, rel=1e-4)


def test_npo_at_the_start_and_its_weights() -> None:
    reference = torch.tensor([0.5, 2.0])
    assert npo_losses(reference, reference, 0.3).tolist() == pytest.approx([2 / 0.3 * math.log(2)] * 2, rel=1e-6)
    losses = torch.tensor([0.2, 5.0], requires_grad=True)
    npo_losses(losses, reference, 0.7).sum().backward()
    ratio = ((reference - losses.detach()) * 0.7).exp()  # (p / p_ref)^beta
    assert torch.allclose(losses.grad, -2 * ratio / (1 + ratio))  # type: ignore[arg-type]


def test_npo_tends_to_gradient_ascent_for_small_beta() -> None:
    losses, reference = torch.tensor([0.2, 5.0, 1.0]), torch.tensor([0.5, 2.0, 1.5])
    beta = 1e-3
    shifted = npo_losses(losses.double(), reference.double(), beta) - 2 / beta * math.log(2)
    assert torch.allclose(shifted, (reference - losses).double(), atol=5e-3)


def test_psi_rises_from_one_to_e() -> None:
    a = torch.linspace(0, 50, 101)
    assert float(psi(a)[0]) == 1.0
    assert (psi(a).diff() > 0).all()
    assert float(psi(torch.tensor(1e6))) == pytest.approx(math.e, rel=1e-5)


def test_alignment_where_nothing_moved() -> None:
    e_r, e_f = noise(8, 4), noise(5, 4, seed=2)
    assert float(alignment(e_r, e_r, e_f, e_f, 20.0)) == pytest.approx(-8 * math.log(5), rel=1e-5)


def test_attention_maps_do_not_know_the_scale() -> None:
    a = noise(3, 4, 5, 5)
    assert attention_map(a).shape == (3, 25)
    assert torch.allclose(attention_map(a), attention_map(7.5 * a), atol=1e-6)
    assert torch.allclose(attention_map(a).norm(dim=1), torch.ones(3))
    assert attention_map(noise(3, 6)).shape == (3, 6)


def test_gaussian_targets_are_drawn_once_by_name() -> None:
    ids = np.arange(4000)
    drawn = gaussian_targets(ids, 3.0, 2.0, Key(0))
    assert torch.equal(gaussian_targets(ids[100:200], 3.0, 2.0, Key(0)), drawn[100:200])
    assert abs(float(drawn.mean()) - 3.0) < 3 * 2.0 / math.sqrt(4000)
    assert abs(float(drawn.std()) - 2.0) < 3 * 2.0 / math.sqrt(2 * 4000)


def test_a_patch_changes_its_window_and_nothing_else() -> None:
    x, donors = noise(2, 1, 8, 8), noise(2, 1, 8, 8, seed=3)
    corners = torch.tensor([[0, 1], [5, 5]])
    out = pasted(x, donors, corners, 0.4)  # 3 x 3
    for i, (top, left) in enumerate(corners.tolist()):
        inside = torch.zeros(8, 8, dtype=torch.bool)
        inside[top : top + 3, left : left + 3] = True
        assert torch.equal(out[i, 0][inside], donors[i, 0][inside])
        assert torch.equal(out[i, 0][~inside], x[i, 0][~inside])
    whole = pasted(x, donors, None, 0.4)
    assert int((whole != x)[0].sum()) == 25  # 5 / 7 of 8


def test_fisher_noise_is_capped_averaged_and_scaled(tools: Any) -> None:
    model = tools.mlp((4, 3, 2))
    fisher = torch.zeros_like(model.parameters)
    weight = model.slices["body.0.weight"]
    fisher[weight] = torch.tensor([0.0, 0.01, 1.0, 1.0] * 3)
    v = noise_variance(model, fisher, FisherConfig(alpha=1e-6))
    row = (1e3 + 100 + 1 + 1) / 4
    assert torch.allclose(v[weight], torch.full((12,), 1e-6 * row), rtol=1e-4)
    assert torch.allclose(v[model.slices["body.0.bias"]], torch.full((3,), 1e-6 * 1e3 * 10))
    assert torch.allclose(v[model.slices["head.weight"]], torch.full((6,), 1e-6 * 1e2 * 10))
    rows = output_rows(model, [1], 2)
    expected = torch.zeros_like(rows)
    expected[model.slices["head.weight"]] = torch.tensor([False] * 3 + [True] * 3)
    expected[model.slices["head.bias"]] = torch.tensor([False, True])
    assert torch.equal(rows, expected)


def test_the_exact_fisher_does_not_depend_on_the_batch(tools: Any) -> None:
    source = tools.source(num_classes=4)
    model, data = tools.mlp((5, 6, 4)), tools.lend(source)
    one, seven = (diagonal_fisher(model, Classification(4), data, "exact", Key(0), b)[0] for b in (1, 7))
    assert torch.allclose(one, seven, atol=1e-5)


def test_conjugate_gradients_solve() -> None:
    root = noise(12, 12).double()
    matrix = root @ root.t() + torch.eye(12)
    v = noise(12, seed=1).double()
    x = conjugate_gradients(lambda u: matrix @ u, v, 100, 1e-10)
    assert torch.allclose(matrix @ x, v, atol=1e-8)


def test_gauss_newton_products_are_those_of_the_exact_fisher(tools: Any) -> None:
    """For the softmax both are the same matrix: E_p of (d log p)(d log p)^T."""
    source = tools.source(num_classes=3, per_class=2)
    model, data, objective = tools.mlp((5, 3, 3)), tools.lend(source), Classification(3)
    batch = data.all()
    size = len(model.parameters)
    matrix = torch.zeros(size, size)
    parameters = list(model.network.parameters())
    log_p = objective.outputs(model, batch).log_softmax(1)
    for i in range(len(batch)):
        for c in range(3):
            g = torch.cat([x.reshape(-1) for x in torch.autograd.grad(log_p[i, c], parameters, retain_graph=True)])
            matrix += log_p[i, c].exp().detach() * torch.outer(g, g) / len(batch)
    product = gauss_newton_product(model, objective, data, 0.1, batch_size=5)
    for seed in range(3):
        v = noise(size, seed=seed)
        assert torch.allclose(product(v), matrix @ v + 0.1 * v, atol=1e-5)


def test_woodfisher_is_the_inverse_and_the_published_recursion_is_not() -> None:
    gradients, v = noise(40, 60).double(), noise(60, seed=1).double()
    curvature = 0.1 * torch.eye(60, dtype=torch.float64) + gradients.t() @ gradients / 40
    exact = torch.linalg.solve(curvature, v)
    ours = woodfisher_inverse(gradients, v, 0.1)
    assert torch.allclose(ours, exact, atol=1e-8)

    def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(nn.functional.cosine_similarity(a, b, dim=0))

    # Rank-one updates, one by one, come to the same.
    inverse = torch.eye(60, dtype=torch.float64) / 0.1
    for g in gradients:
        a = inverse @ g
        inverse -= torch.outer(a, a) / (40 + g @ a)
    assert torch.allclose(inverse @ v, ours, atol=1e-8)
    published = released_recursion(gradients, v)
    assert abs(cosine(published - v, gradients[0])) == pytest.approx(1.0, abs=1e-9)
    assert cosine(published, v) > 0.99
    assert abs(cosine(ours - v, gradients[0])) < 0.9


def test_the_direction_of_removal_is_minus_the_retained_gradient_where_the_whole_is_stationary() -> None:
    g_f = noise(7)
    g_r = -g_f  # sums: the gradient of all vanishes
    v = removal_direction(g_f, g_r, 3, 9)
    assert torch.allclose(v, -g_r / 9, atol=1e-6)


def normed(seed: int = 0) -> FlatModel:
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU())
    return FlatModel(Network(body, nn.Linear(4, 3)))


def test_last_layers_take_their_norms_along() -> None:
    model = normed()
    names = [n for n, where in model.slices.items() if last_layers(model, 2, "k")[where].all()]
    assert names == ["body.3.weight", "body.3.bias", "body.4.weight", "body.4.bias", "head.weight", "head.bias"]
    assert last_layers(model, 3, "k").all()
    with pytest.raises(ConfigError, match="k: 4, but the model has 3"):
        last_layers(model, 4, "k")


def test_redraw_reaches_every_depth() -> None:
    model, before = normed(), normed().parameters.clone()
    with torch.no_grad():
        redraw(model, Key(5))
    for name, where in model.slices.items():
        norm = name.startswith(("body.1", "body.4"))
        assert torch.equal(model.parameters[where], before[where]) == norm, name  # norms start at 1 and 0
    again = redraw(normed(), Key(5)).parameters
    assert torch.equal(again, model.parameters)


def test_only_what_may_move_moves_also_under_momentum_and_decay(tools: Any) -> None:
    source = tools.source(num_classes=3, per_class=8)
    model, data = normed(), tools.lend(source)
    config = FitConfig(epochs=3, batch_size=8, lr=0.1, momentum=0.9, weight_decay=0.1)
    fit(model, Classification(3), data, config, Key(0))
    before, buffers = model.parameters.clone(), [b.clone() for b in model.network.buffers()]
    movable = last_layers(model, 2, "k")
    with model.moving_only(movable):
        fit(model, Classification(3), data, config, Key(1))
    assert torch.equal(model.parameters[~movable], before[~movable])
    assert not torch.equal(model.parameters[movable], before[movable])
    same = [torch.equal(a, b) for a, b in zip(model.network.buffers(), buffers, strict=True)]
    assert same == [True] * 3 + [False] * 3  # the frozen norm's statistics stay, too
    fit(model, Classification(3), data, config, Key(2))
    assert not torch.equal(model.parameters[~movable], before[~movable])


def test_norms_are_not_recalibrated_on_batches_of_one(tools: Any) -> None:
    """They have no variance: all were left out, and the norms stayed reset to mean 0 and variance 1."""
    torch.manual_seed(0)
    model = FlatModel(Network(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.Linear(4, 2)))
    data = Data(np.arange(6), torch.randn(6, 3), torch.tensor([0, 1] * 3), None)
    seen = []
    for size in (1, 2):
        assert recalibrate(model, Classification(2), data, batch_size=size) == Outcome(forward=6)
        seen.append({name: b.clone() for name, b in model.network.named_buffers()})
    assert all(torch.equal(seen[0][name], seen[1][name]) for name in seen[0])
    assert bool((seen[0]["body.1.running_mean"] != 0).all())


def test_recalibrated_norms_are_the_statistics_of_the_data(tools: Any) -> None:
    source = tools.source(num_classes=3, per_class=8)
    model, data = normed(), tools.lend(source)
    fit(model, Classification(3), data, FitConfig(epochs=2, batch_size=8, lr=0.1), Key(0))
    weights = model.parameters.clone()
    recalibrate(model, Classification(3), data, batch_size=len(data))
    first = model.network.body[1]
    inner = model.network.body[0](data.all().x).detach()
    assert torch.allclose(first.running_mean, inner.mean(0), atol=1e-5)
    assert torch.allclose(first.running_var, inner.var(0), atol=1e-5)
    assert first.momentum == 0.1
    assert torch.equal(model.parameters, weights)
    recalibrate(model, Classification(3), data, batch_size=len(data) // 3)
    assert torch.allclose(first.running_mean, inner.mean(0), atol=1e-5), "every batch counts as much as the others"


def test_training_ends_where_a_hook_says_so(tools: Any) -> None:
    class Three(Hooks):
        calls = 0

        def proceed(self, loss: torch.Tensor) -> bool:
            self.calls += 1
            return self.calls <= 3

    source = tools.source()
    model, twin, data = tools.mlp((5, 4, 4)), tools.mlp((5, 4, 4)), tools.lend(source)
    config = FitConfig(epochs=5, batch_size=24, lr=0.1)
    outcome = fit(model, Classification(4), data, config, Key(0), [Three()])
    assert outcome.steps == 3
    fit(twin, Classification(4), data, config.model_copy(update={"epochs": 3}), Key(0))
    assert torch.equal(model.parameters, twin.parameters)


def test_the_gradient_of_a_set_is_the_sum_over_it(tools: Any) -> None:
    source = tools.source()
    model, data = tools.mlp((5, 4, 4)), tools.lend(source)
    batch = data.all()
    model.gradient.zero_()
    nn.functional.cross_entropy(model(batch.x), batch.y, reduction="sum").backward()
    expected = model.gradient.clone()
    assert torch.allclose(loss_gradient(model, Classification(4), data, batch_size=7), expected, atol=1e-5)
    assert torch.equal(model.gradient, expected)


def test_views_of_views_close_with_them(tools: Any) -> None:
    from streams.errors import LedgerError

    source = tools.source()
    one, two = tools.lend(source, [0, 1]), tools.lend(source, [8, 9])
    both = one.joined(two.relabelled(torch.tensor([3, 2])))
    assert both.ids.tolist() == [0, 1, 8, 9]
    assert both.targets().tolist() == [0, 0, 3, 2]
    assert source.y[[8, 9]].tolist() == [1, 1]
    two.close()
    with pytest.raises(LedgerError):
        both.all()
    assert one.all().y.tolist() == [0, 0]
