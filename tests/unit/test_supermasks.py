"""The maths of supermasks: choosing, straight-through steps, bits, and telling tasks apart."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from torch.nn import functional as F

from strategies.isolated import _kkt as kkt
from strategies.isolated._supermasks import (
    Lens,
    ScoreStep,
    Span,
    WeightStep,
    binary,
    choose,
    deal,
    entropy,
    initial_scores,
    keep_largest,
    layers_of,
    maskable,
    one_shot,
    pack,
    positions_of,
    signed_constants,
    slopes_of,
    smallest,
    spans_of,
    superfluous,
    union,
    unpack,
)
from strategies.parts.model import FlatModel, Network
from strategies.parts.training.optimizers import OptimizerConfig
from streams.errors import ConfigError
from streams.randomness import Key, seeded_globals


def make_model(outputs: int | None = None) -> FlatModel:
    with seeded_globals(Key(0)):
        body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 20))
        return maskable(FlatModel(Network(nn.Sequential(body, nn.LayerNorm(20)), nn.Linear(20, 6))), outputs, Key(0))


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("density", [0.02, 0.05, 0.1, 0.3, 1.0])
def test_every_layer_keeps_its_share(density: float) -> None:
    layers = layers_of(make_model())
    assert [(layer.name, layer.size, layer.fan_in) for layer in layers] == [
        ("body.0.0", 36, 9),
        ("body.0.4", 2880, 144),
        ("head", 120, 20),
    ]
    spans = spans_of(layers, density, "head", outputs=6)
    scores = initial_scores(layers, Key(1), torch.device("cpu"))
    mask = choose(scores, spans)
    for layer in layers:
        kept = int(mask[layer.start : layer.stop].sum())
        expected = layer.size - int((1 - density) * layer.size)
        assert kept == (max(expected, 6) if layer.name == "head" else expected)
    flipped = scores.clone()
    flipped[::3] *= -1
    assert torch.equal(choose(flipped, spans), mask), "the sign of a score makes no difference"


def test_a_task_uses_the_first_rows_of_the_head() -> None:
    layers = layers_of(make_model())
    spans = spans_of(layers, 0.5, "head", outputs=2)
    mask = choose(initial_scores(layers, Key(1), torch.device("cpu")), spans)
    head = layers[-1]
    assert int(mask[head.start : head.start + 40].sum()) == 20
    assert not mask[head.start + 40 :].any()


def test_scores_are_kaiming_uniform_and_named() -> None:
    layers = layers_of(make_model())
    scores = initial_scores(layers, Key(1), torch.device("cpu"))
    for layer in layers:
        part = scores[layer.start : layer.stop].abs()
        assert 0.9 / math.sqrt(layer.fan_in) < part.max() <= 1 / math.sqrt(layer.fan_in)
    assert torch.equal(scores, initial_scores(layers, Key(1), torch.device("cpu")))
    assert not torch.equal(scores, initial_scores(layers, Key(2), torch.device("cpu")))
    one, two = (scores[la.start : la.start + 36] * math.sqrt(la.fan_in) for la in layers[:2])
    assert not torch.allclose(one, two, atol=0.1), "each layer draws by its own name"


def test_weights_are_signed_constants_without_bias() -> None:
    model = make_model()
    names = [n for n, p in model.network.named_parameters() if p.requires_grad]
    assert names == ["body.0.0.weight", "body.0.4.weight", "head.weight"]
    assert not any(n.endswith("bias") for n in names)
    frozen = {n: p for n, p in model.network.named_parameters() if not p.requires_grad}
    assert set(frozen) == {"body.1.weight", "body.1.bias"}, "the layer norm stays, the batch norm has nothing to train"
    layers = layers_of(model)
    weights = signed_constants(model.parameters, layers)
    assert torch.equal(weights.sign(), model.parameters.sign())
    for layer in layers:
        sizes = weights[layer.start : layer.stop].abs().unique()
        assert len(sizes) == 1
        assert float(sizes) == pytest.approx(math.sqrt(2 / layer.fan_in))


def test_superfluous_outputs_take_a_linear_head() -> None:
    assert layers_of(make_model(outputs=50))[-1].size == 50 * 20
    with seeded_globals(Key(0)):
        odd = FlatModel(Network(nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 2))))
    with pytest.raises(ConfigError, match=r"outputs: the head is a Sequential"):
        maskable(odd, 4, Key(0))


def test_a_model_without_any_weight_is_refused() -> None:
    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.by = nn.Parameter(torch.zeros(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.by

    with pytest.raises(ConfigError, match="the model has none"):
        maskable(FlatModel(Network(Shift(), nn.Identity())), None, Key(0))


@pytest.mark.parametrize("guess", [None, 0.0, 0.5, 0.9, 0.899, 5.0])
def test_the_bar_is_that_of_sorting(guess: float | None) -> None:
    size = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    for k in (1, 500, 899, 900, 1000):
        assert smallest(size, k, guess) == float(size.sort().values[k - 1])


def test_ties_are_broken_by_position() -> None:
    size = torch.tensor([1.0, 0.0, 1.0, 1.0, 2.0, 1.0])
    for drop in range(7):
        order = sorted(range(6), key=lambda i: (float(size[i]), i))
        assert torch.nonzero(keep_largest(size, drop)).squeeze(1).tolist() == sorted(order[drop:])


def test_the_step_is_straight_through() -> None:
    """sign(s) * W * dL/d(W * m) at all positions, those outside the mask too, and nothing happens to W."""
    weights, scores, x, y = draw(3, 8), draw(3, 8, seed=1), draw(16, 8, seed=2), torch.arange(16) % 3
    spans = (Span(0, 24, 14),)
    before = weights.clone(), scores.clone()
    config = OptimizerConfig(optimizer="adam", lr=1e-3)
    step = ScoreStep(config, scores.view(-1), spans, 1, 1, "constant")
    mask = step.mask.view(3, 8).clone()
    assert int(mask.sum()) == 10

    masked = (weights * mask).requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(x @ masked.t(), y), masked)
    expected = before[1].sign() * weights * slope
    assert bool((expected[~mask] != 0).all())

    gradient = slope.clone().view(-1)
    step.step(weights.view(-1), gradient)
    assert torch.equal(weights, before[0])
    torch.testing.assert_close(gradient.view(3, 8), expected)
    # Adam's first step is lr * sign(gradient).
    torch.testing.assert_close(scores, before[1] - 1e-3 * expected.sign(), rtol=0, atol=1e-5)
    assert torch.equal(step.mask, choose(scores.view(-1), spans))


def as_shown(effective: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """What the network of `make_model` computes with the weights that are given, by torch's own means, and no lens."""
    plain = make_model()
    plain.train(False)
    shapes = {n: p.shape for n, p in plain.network.named_parameters()}
    tensors = {n: effective[s].view(shapes[n]) for n, s in plain.slices.items()}
    return torch.func.functional_call(plain.network, tensors, (x,))


def test_a_lens_shows_masked_weights_and_passes_gradients_straight_through() -> None:
    model = make_model()
    layers, x = layers_of(model), draw(5, 1, 8, 8, seed=3)
    weights, mask = model.parameters.clone(), draw(len(model.parameters), seed=4) > 0.3
    lens = Lens(model)
    model.train(False)
    names = [n for n, p in model.network.named_parameters() if p.requires_grad]
    assert len(names) == len(layers)
    bare = model(x)
    for shown, effective in (
        ((mask, None), weights * mask),
        ((pack(mask), None), weights * mask),
        ((0.3 * mask, None), weights * (0.3 * mask)),
        ((pack(mask), weights + 1), weights + 1),
    ):
        lens.show(*shown)
        expected = effective.clone().requires_grad_()
        outputs = as_shown(expected, x)
        model.gradient.zero_()
        for inference in (True, False):
            with torch.inference_mode(inference):
                torch.testing.assert_close(model(x), outputs.detach())
        (slopes,) = torch.autograd.grad(outputs.square().sum(), expected)
        if shown[1] is None:
            model(x).square().sum().backward()
            torch.testing.assert_close(model.gradient, slopes, rtol=1e-4, atol=1e-4)
            assert bool((model.gradient[~mask] != 0).any()), "outside of the mask too"
    lens.show(None)
    assert torch.equal(model(x), bare)
    assert torch.equal(model.parameters, weights)


def test_a_lens_is_before_every_use_of_a_weight() -> None:
    """Tied weights, and attention, whose output layer is read and never called."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.attention = nn.Embedding(7, 4), nn.MultiheadAttention(4, 2, batch_first=True)
            self.out = nn.Linear(4, 7, bias=False)
            self.out.weight = self.words.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            states = self.words(x)
            return self.out(self.attention(states, states, states, need_weights=False)[0]).sum(1)

    with seeded_globals(Key(0)):
        model = maskable(FlatModel(Network(Tied(), nn.Linear(7, 2))), None, Key(0))
    assert [layer.name for layer in layers_of(model)] == [
        "body.words",
        "body.attention.in_proj_weight",
        "body.attention.out_proj",
        "head",
    ]
    lens, x = Lens(model), torch.arange(12).view(3, 4) % 7
    for on in (True, False):
        model.train(on)
        lens.show(torch.zeros(len(model.parameters), dtype=torch.bool))
        with torch.inference_mode(not on):
            assert torch.equal(model(x), torch.zeros(3, 2))
        for part in model.slices.values():
            mask = torch.ones(len(model.parameters), dtype=torch.bool)
            mask[part] = False
            lens.show(None)
            whole = model(x)
            lens.show(mask)
            assert not torch.allclose(model(x), whole)


def test_only_chosen_weights_are_ever_written() -> None:
    weights = draw(20)
    before, positions = weights.clone(), torch.tensor([2, 5, 11])
    step = WeightStep(OptimizerConfig(optimizer="adam", lr=0.1), weights, positions, 1, 2, "constant")
    for seed in range(2):
        step.step(weights, draw(20, seed=seed + 2))
    changed = torch.nonzero(weights != before).squeeze(1)
    assert torch.equal(changed, positions)


def test_the_learning_rate_falls_by_epoch() -> None:
    own = torch.zeros(1)
    step = WeightStep(OptimizerConfig(optimizer="adam", lr=1.0), own, torch.tensor([0]), 4, 8, "cosine")
    moved = []
    for _ in range(8):
        before = own.clone()
        step.step(own, torch.ones(1))
        moved.append(round(float(before - own), 4))
    expected = [(1 + math.cos(math.pi * e / 4)) / 2 for e in (0, 0, 1, 1, 2, 2, 3, 3)]
    assert moved == pytest.approx(expected, abs=1e-3)


def test_scores_dealt_anew_give_the_mask_back() -> None:
    spans = (Span(0, 30, 21), Span(30, 50, 0), Span(60, 100, 39))
    mask = choose(draw(100), spans)
    fresh = draw(100, seed=5)
    dealt = deal(fresh, mask, spans)
    assert not torch.equal(choose(fresh, spans), mask)
    assert torch.equal(choose(dealt, spans), mask)
    assert torch.equal(dealt.sign(), fresh.sign())
    for span in spans:
        part = slice(span.start, span.stop)
        assert torch.equal(dealt[part].abs().sort().values, fresh[part].abs().sort().values)


@pytest.mark.parametrize("size", [1, 7, 8, 9, 1000])
def test_masks_are_bits(size: int) -> None:
    masks = [draw(size, seed=i) > 0.5 for i in range(3)]
    bits = [pack(m) for m in masks]
    assert all(b.dtype == torch.uint8 and len(b) == math.ceil(size / 8) for b in bits)
    assert all(torch.equal(unpack(b, size), m) for b, m in zip(bits, masks, strict=True))
    for mask, packed in zip(masks, bits, strict=True):
        assert torch.equal(positions_of(packed, size), torch.nonzero(mask).squeeze(1))
    assert torch.equal(unpack(union(bits, size), size), masks[0] | masks[1] | masks[2])
    assert not unpack(union([], size), size).any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_a_bit_for_each_weight_whatever_the_scores_are(dtype: torch.dtype) -> None:
    bits = pack(choose(draw(1001).to(dtype), (Span(0, 1001, 900),)))
    assert bits.dtype == torch.uint8
    assert bits.numel() * bits.element_size() == 126
    assert int(unpack(bits, 1001).sum()) == 101


def test_slopes_are_autograds() -> None:
    model = make_model()
    weights = signed_constants(model.parameters, layers_of(model))
    model.parameters.copy_(weights)
    lens = Lens(model)
    masks = [draw(len(weights), seed=i) > 0 for i in range(3)]
    x, alpha = draw(5, 1, 8, 8, seed=9), torch.tensor([0.5, 0.2, 0.3])
    model.train(False)
    positions = [torch.nonzero(m).squeeze(1) for m in masks]

    def mixed() -> tuple[torch.Tensor, torch.Tensor]:
        free = alpha.clone().requires_grad_()
        return free, as_shown(weights * sum(a * m for a, m in zip(free, masks, strict=True)), x)

    slopes = slopes_of(model, lens, positions, alpha, x, lambda logits: entropy(logits[:, :4]))
    free, logits = mixed()
    p = logits[:, :4].softmax(1)
    (expected,) = torch.autograd.grad(-(p * p.log()).sum(1).mean(), free)
    torch.testing.assert_close(slopes, expected, rtol=1e-4, atol=1e-5)

    # G: as if every output were in the sum, and only those beyond the classes moved.
    slopes = slopes_of(model, lens, positions, alpha, x, lambda logits: superfluous(logits, 4))
    free, logits = mixed()
    shares = logits.softmax(1).detach()[:, 4:]
    (expected,) = torch.autograd.grad((shares * logits[:, 4:]).sum(1).mean(), free)
    torch.testing.assert_close(slopes, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(superfluous(logits, 4), logits.logsumexp(1))
    assert entropy(torch.zeros(2, 4)).tolist() == pytest.approx([math.log(4)] * 2)


def test_the_steepest_fall_of_entropy_wins() -> None:
    slopes = torch.tensor([0.1, -0.4, 0.0, 0.3, -0.2])
    asked = []

    def of(coefficients: torch.Tensor) -> torch.Tensor:
        asked.append(coefficients)
        return slopes

    assert one_shot(of, 5) == 1
    assert [c.tolist() for c in asked] == [[pytest.approx(0.2)] * 5]
    asked.clear()
    assert binary(of, 5) == 1
    assert [int((c > 0).sum()) for c in asked] == [5, 3, 2]
    assert all(float(c.sum()) == pytest.approx(1) for c in asked)
    assert binary(of, 1) == 0


def test_a_probe_knows_useful_features() -> None:
    y = (draw(90) > 0).long() * 5 + 2
    useful = y.unsqueeze(1) + 0.3 * draw(90, 3, seed=1)
    assert kkt.probe(useful, y, 10) > 0.95
    assert kkt.probe(useful, y[draw(90, seed=2).argsort()], 10) < 0.75
    assert kkt.probe(useful, y.float(), 10) > 0.9
    assert kkt.probe(useful[:3], y[:3], 10) == 0.0
    assert kkt.probe(useful[:4], y[:4], 200) >= 0.0
    noisy = draw(90, 3, seed=4) + 0.3 * y.unsqueeze(1)
    judge = KNeighborsClassifier(7, algorithm="brute").fit(noisy[:59].numpy(), y[:59].numpy())
    assert kkt.probe(noisy, y, 7) == pytest.approx(judge.score(noisy[59:].numpy(), y[59:].numpy()))


def test_few_samples_have_few_neighbours() -> None:
    """Of six that are fitted three vote at most: two near ones outvote a far one, and not four far ones two near."""
    features = torch.tensor([0.0, 0.0, 9.0, 9.0, 9.0, 9.0, 0.0, 0.0, 0.0, 0.0]).unsqueeze(1)
    targets = torch.tensor([0, 0, 1, 1, 1, 1, 0, 0, 0, 0])
    assert kkt.probe(features, targets, 200) == 1.0


def test_who_is_worth_starting_from() -> None:
    assert kkt.worthy([0.5, 0.4], 0.5, "best") == []
    assert kkt.worthy([0.5, 0.4], 0.5, "always") == [0]
    assert kkt.worthy([0.7, 0.7, 0.6], 0.5, "best") == [0]
    assert kkt.worthy([0.7, 0.5, 0.6], 0.5, "all") == [0, 2]
    assert kkt.worthy([0.9], 0.5, "none") == []
