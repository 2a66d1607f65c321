"""O3's parts against hand computations, and what a request does and does not do on a tiny language model."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lifelong.config.run import StrategyConfig
from lifelong.models import tiny_gpt2, tiny_llama
from lifelong.setup.build import make_strategy
from strategies.base import Access, Setting
from strategies.composed import Composed
from strategies.guards import o3
from strategies.guards._detector import (
    contrastive_entropy,
    fit_detector,
    gate_values,
    layer_scores,
    mean_states,
    precision_of,
    released_gate,
    soft_gate,
)
from strategies.guards._prompt_encoder import _Contrast, looked_at
from strategies.guards.o3 import O3
from strategies.objectives.causal_lm import CausalLM, Config
from strategies.parts.fit import Training
from strategies.parts.lowrank.changes import overlap, overlap_ratio
from strategies.parts.lowrank.gated import Adapters, gated_change
from strategies.parts.model import FlatModel, Network, digest
from strategies.parts.text.other_answers import WrongAnswers
from streams.config import parse
from streams.data import Batch, Data
from streams.errors import ConfigError
from streams.events import DeletionRequest, Experience, Request
from streams.ledger import Ledger
from streams.randomness import Key, seeded_globals
from streams.source import Source
from streams.sources import people
from streams.text import ANSWER, GIVEN, SAID, rows

NOTHING = np.array([], dtype=np.int64)

# -- the gate


def cdf(d: np.ndarray, one: tuple[float, float], two: tuple[float, float]) -> np.ndarray:
    def phi(x: np.ndarray) -> np.ndarray:
        return np.array([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x])

    return (phi((d - one[0]) / one[1]) + phi((d - two[0]) / two[1])) / 2


def test_the_mixture_is_symmetric_with_one_spread_and_not_with_two() -> None:
    d = np.linspace(-4, 5, 19)
    assert np.allclose(cdf(d, (0, 1), (1, 1)) + cdf(1 - d, (0, 1), (1, 1)), 1, atol=1e-12)
    assert not np.allclose(cdf(d, (0, 0.5), (1, 1)) + cdf(1 - d, (0, 0.5), (1, 1)), 1, atol=1e-3)
    here = gate_values(d, (0.0, 1.0), (1.0, 1.0), one_sided=False)
    f = cdf(d, (0, 1), (1, 1))
    assert np.allclose(here, 2 * np.minimum(f, 1 - f), atol=1e-12)
    unequal = cdf(d, (0, 0.5), (1, 1)), cdf(1 - d, (0, 0.5), (1, 1))
    expected = 1 - np.maximum(*unequal) + np.minimum(*unequal)
    assert np.allclose(gate_values(d, (0.0, 0.5), (1.0, 1.0), one_sided=False), expected, atol=1e-12)


def test_the_soft_gate_is_a_tent() -> None:
    d = np.array([0.5, 1.5, 2.5, 4.0, -3.0])
    v = gate_values(d, (0.0, 1.0), (1.0, 1.0), one_sided=False)
    w = soft_gate(v, 10.0)
    assert w[0] == pytest.approx(0.9997, abs=1e-4)
    assert (v[1], w[1]) == (pytest.approx(0.3753, abs=1e-4), pytest.approx(0.852, abs=1e-3))
    assert (v[2], w[2]) == (pytest.approx(0.073, abs=1e-3), pytest.approx(0.219, abs=1e-3))
    assert w[3] == pytest.approx(w[4], abs=1e-12)
    assert w[3] == pytest.approx(0.1207, abs=1e-4)
    far = soft_gate(gate_values(np.array([-50.0, 50.0]), (0.0, 1.0), (1.0, 1.0), one_sided=False), 10.0)
    assert far == pytest.approx(0.1192, abs=1e-4)
    distances = np.abs(np.linspace(-4, 5, 200) - 0.5)
    gates = soft_gate(gate_values(np.linspace(-4, 5, 200), (0.0, 1.0), (1.0, 1.0), one_sided=False), 10.0)
    assert (np.diff(gates[np.argsort(distances)]) <= 1e-9).all()


def test_a_one_sided_gate_lets_the_typical_through() -> None:
    d = np.array([-3.0, 0.0, 0.5, 1.0, 4.0])
    both = gate_values(d, (1.0, 1.0), (0.0, 1.0), one_sided=False)
    one = gate_values(d, (1.0, 1.0), (0.0, 1.0), one_sided=True)
    assert one[:3] == pytest.approx(both[:3])
    assert one[3:].tolist() == [1.0, 1.0]


def test_the_tables_of_the_released_evaluation() -> None:
    assert released_gate(np.array([0.95, 0.85, 0.35, 0.25]), "qa").tolist() == [1.2, 0.0, 0.35, 0.0]
    assert released_gate(np.array([0.32, 0.25, 0.1]), "tofu").tolist() == pytest.approx([1.0, 0.625, 0.0])


# -- orthogonality


def test_overlap_measures_shared_subspaces() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(4, 32, generator=generator)
    other = torch.randn(4, 32, generator=generator)
    apart = torch.zeros(4, 32)
    left, right = apart.clone(), apart.clone()
    left[:, :16], right[:, 16:] = a[:, :16], a[:, 16:]
    assert float(overlap(left, right)) == 0.0
    assert float((left.T @ right).norm()) > 1  # the d x d product is no measure of it
    assert float(overlap(a, a)) == pytest.approx(float((a @ a.T).square().sum()))
    q, _ = torch.linalg.qr(torch.randn(4, 4, generator=generator))
    assert float(overlap(q @ a, other)) == pytest.approx(float(overlap(a, other)), rel=1e-5)
    free = a.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(overlap(free, a), free)
    assert float(slope.norm()) > 1
    balanced, _ = torch.linalg.qr(torch.randn(32, 4, generator=generator))
    assert overlap_ratio(balanced.T, balanced.T) == pytest.approx(1 / math.sqrt(4), rel=1e-5)
    assert overlap_ratio(a, torch.zeros(4, 32)) == 0.0


@pytest.mark.parametrize("resumed", [True, False])
def test_orthogonality_takes_overlap_away_and_costs_fit(resumed: bool) -> None:
    """A second adapter on a layer of 32 inputs that a first one changed for other targets, with lambda 0, .1 and 10."""
    generator = torch.Generator().manual_seed(0)
    weight, mix = (torch.randn(n, 32, generator=generator) / math.sqrt(32) for n in (11, 32))
    inputs = [torch.randn(96, 32, generator=generator) @ mix for _ in range(2)]
    targets = [torch.randint(0, 11, (96,), generator=generator) for _ in range(2)]
    first, second = ((torch.rand(4, 32, generator=generator) * 2 - 1) / math.sqrt(32) for _ in range(2))

    def trained(a: torch.Tensor, b: torch.Tensor, part: int, other: torch.Tensor, strength: float) -> Any:
        a, b = a.clone().requires_grad_(True), b.clone().requires_grad_(True)
        optimizer, losses = torch.optim.Adam([a, b], lr=3e-3), []
        for _ in range(400):
            loss = nn.functional.cross_entropy(inputs[part] @ (weight + 2 * b @ a).T, targets[part])
            losses.append(float(loss.detach()))
            optimizer.zero_grad()
            (loss + strength * overlap(a, other)).backward()
            optimizer.step()
        return a.detach(), b.detach(), losses[0], losses[-1]

    nothing = torch.zeros(11, 4)
    a, b, *_ = trained(first, nothing, 0, torch.zeros(4, 32), 0.0)
    ratios, ends = [], []
    for strength in (0.0, 0.1, 10.0):
        start = (a, b) if resumed else (second, nothing)
        found, _, before, after = trained(*start, 1, a, strength)
        ratios.append(overlap_ratio(found, a))
        ends.append(after)
        assert after < 0.85 * before
    assert ratios[0] > 3 * ratios[1]
    assert ratios[1] > 1.1 * ratios[2]
    assert ends[0] < ends[1] < ends[2]


# -- adapters


def small_network(seed: int = 0) -> FlatModel:
    with seeded_globals(Key(seed) / "init"):
        return FlatModel(Network(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5)), nn.Linear(5, 3)))


def test_an_adapter_is_scaled_before_what_follows() -> None:
    generator = torch.Generator().manual_seed(0)
    down, up = torch.randn(2, 6, generator=generator), torch.randn(4, 2, generator=generator)
    x = torch.randn(5, 6, generator=generator)
    whole, half, none = (gated_change(x, down, up, torch.full((5, 1), w), 3.0) for w in (1.0, 0.5, 0.0))
    assert torch.allclose(whole, 3.0 * x @ down.T @ up.T, atol=1e-6)
    assert torch.allclose(half, whole / 2, atol=1e-6)
    assert torch.equal(none, torch.zeros(5, 4))


def test_positions_of_a_row_share_its_gates() -> None:
    """Some maps see a batch as rows, others as one long list of positions, those of a row one after the other."""
    generator = torch.Generator().manual_seed(0)
    down, up = torch.randn(4, 6, generator=generator), torch.randn(5, 4, generator=generator)
    x, gates = torch.randn(3, 2, 6, generator=generator), torch.rand(3, 2, generator=generator)
    expected = torch.zeros(3, 2, 5)
    for row in range(3):
        for n, rank in enumerate((slice(0, 2), slice(2, 4))):
            expected[row] += gates[row, n] * 0.5 * (x[row] @ down[rank].T @ up[:, rank].T)
    assert torch.allclose(gated_change(x, down, up, gates, 0.5), expected, atol=1e-6)
    assert torch.allclose(gated_change(x.view(6, 6), down, up, gates, 0.5), expected.view(6, 5), atol=1e-6)


def test_a_gate_of_zero_is_the_base_and_of_one_the_adapted_model() -> None:
    model, x = small_network(), torch.randn(7, 6, generator=torch.Generator().manual_seed(1))
    adapters = Adapters(model, rank=2, alpha=4.0, dropout=0.0)
    modules = dict(model.network.named_modules())
    before, weights = model(x), model.parameters.clone()
    start = adapters.fresh(Key(0) / "adapter", weights)
    with adapters.training(model, start) as lesson:
        assert lesson.model.parameters.shape == start.shape
        lesson.model.parameters.add_(0.1)
        expected = model(x)
        with lesson.resting():
            assert torch.equal(model(x), before)
        trained = lesson.adapter()
    assert not torch.equal(expected, before)
    assert torch.equal(model(x), before)
    assert torch.equal(model.parameters, weights)
    assert all(p.requires_grad for p in model.network.parameters())
    with adapters.gated(model, [trained], torch.zeros(7, 1)):
        assert torch.equal(model(x), before)
    with adapters.gated(model, [trained], torch.ones(7, 1)):
        assert torch.allclose(model(x), expected, atol=1e-6)
    # Each row has its own gate, and two adapters add up.
    gates = torch.zeros(7, 1)
    gates[3] = 1.0
    with adapters.gated(model, [trained], gates):
        mixed = model(x)
    assert torch.equal(mixed[:3], before[:3])
    assert torch.allclose(mixed[3], expected[3], atol=1e-6)
    with adapters.gated(model, [trained, trained], torch.tensor([[0.25, 0.75]] * 7)):
        assert torch.allclose(model(x), expected, atol=1e-5)
    # Nothing of it stays in the model, and another one can have the same adapters.
    assert dict(model.network.named_modules()) == modules
    assert not any(m._forward_hooks for m in modules.values())
    other = small_network()
    with adapters.gated(other, [trained], torch.ones(7, 1)):
        assert torch.allclose(other(x), expected, atol=1e-6)


def test_adapters_fit_transposed_maps() -> None:
    with seeded_globals(Key(0) / "init"):
        network = tiny_gpt2.build(tiny_gpt2.Config(width=16, inner=16, depth=1, heads=2), (2, 32), 50)
    model = FlatModel(network)
    adapters = Adapters(model, rank=2, alpha=4.0, dropout=0.0)
    x = torch.ones(2, 2, 9, dtype=torch.int32)
    before = model(x)
    adapter = adapters.fresh(Key(0), model.parameters) + 0.01
    with adapters.gated(model, [adapter], torch.tensor([[0.0], [1.0]])):
        after = model(x)
    assert torch.equal(after[0], before[0])
    assert not torch.allclose(after[1], before[1], atol=1e-4)


# -- the detector


def gaussian(n: int, shift: float, seed: int, layers: int = 2, width: int = 16) -> torch.Tensor:
    draw = np.random.default_rng(seed)
    centre = np.random.default_rng(99).normal(size=width)
    other = np.random.default_rng(98).normal(size=width)
    x = draw.normal(size=(layers, n, width)) * 0.5 + centre + shift * (other - centre)
    return torch.from_numpy(x.astype(np.float32))


def fitted(used: torch.Tensor, rest: torch.Tensor, **options: Any) -> Any:
    settings = {"gamma": 1000.0, "form": "consistent", "nu": 0.1, "spread": "rest", "passes": 0.95, "shrink": False}
    return fit_detector(used, rest, **(settings | options))


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    return float((inside[:, None] > outside[None]).mean())


@pytest.mark.parametrize("gamma", [1000.0, 0.0])
def test_a_detector_separates_domains_and_nothing_else(gamma: float) -> None:
    detector, _ = fitted(gaussian(200, 0, 0), gaussian(50, 0, 1), gamma=gamma)
    fresh = detector.decisions(gaussian(400, 0, 2))
    assert auroc(fresh, detector.decisions(gaussian(400, 1, 3))) > 0.95
    assert auroc(fresh, detector.decisions(gaussian(400, 0, 4))) == pytest.approx(0.5, abs=0.05)
    assert float((fresh >= detector.limit).mean()) > 0.8
    assert (detector.bank.shape[1] == 0) == (gamma == 0)


def test_being_ones_own_neighbour_tells_used_from_rest() -> None:
    used, rest = gaussian(320, 0, 0), gaussian(320, 0, 1)
    bank = nn.functional.normalize(used, dim=2)
    mean, flat = used.mean(1), torch.zeros(2, 16, 16)  # no Mahalanobis part

    def nearest(features: torch.Tensor, itself: bool) -> np.ndarray:
        return layer_scores(features, mean, flat, bank, 1.0, itself=itself)[:, 0].numpy()

    other = nearest(rest, False)
    left_out, kept = nearest(used, True), nearest(used, False)
    error = math.sqrt(other.var() / 320 + left_out.var() / 320)
    assert abs(left_out.mean() - other.mean()) < 3 * error
    assert kept.mean() - other.mean() > 10 * error
    assert kept == pytest.approx(1.0, abs=1e-5)


def test_a_request_of_one_sample_is_like_itself() -> None:
    """It has no other neighbour: left out, it would be as far from itself as can be."""
    used = gaussian(1, 0, 0)
    bank = nn.functional.normalize(used, dim=2)
    scores = layer_scores(used, used.mean(1), torch.zeros(2, 16, 16), bank, 1.0, itself=True)
    assert scores.numpy() == pytest.approx(1.0, abs=1e-5)


def test_distances_are_smaller_in_sample() -> None:
    """Hence limits come from the rest."""
    used, rest = gaussian(320, 0, 0, layers=1), gaussian(320, 0, 1, layers=1)
    precision, _ = precision_of(used[0], shrink=False)
    inside, outside = (
        -2 * layer_scores(x, used.mean(1), precision[None], used[:, :0], 0.0).mean() for x in (used, rest)
    )
    assert float(inside) == pytest.approx(16.0, abs=0.1)  # the width, but for what is added to every variance
    assert 16.5 < float(outside) < 19
    detector, _ = fitted(used, rest, gamma=0.0)
    assert float((detector.decisions(rest) >= detector.limit).mean()) == pytest.approx(0.95, abs=0.01)
    assert detector.used[0] > detector.rest[0]


@pytest.mark.parametrize("passes", [0.95, 0.7])
def test_a_hard_gate_lets_the_share_of_the_rest_pass(passes: float) -> None:
    rest = gaussian(400, 0, 1)
    detector, _ = fitted(gaussian(200, 0, 0), rest, passes=passes)
    assert float((detector.decisions(rest) >= detector.limit).mean()) == pytest.approx(passes, abs=0.01)


def test_what_is_stored_is_nearest_at_every_layer() -> None:
    used = gaussian(100, 0, 0)
    mean = used.mean(1)
    precision = torch.stack([precision_of(layer, shrink=False)[0] for layer in used])
    bank = nn.functional.normalize(used, dim=2)
    same, strange = used[:, :1], gaussian(1, 2, 5)
    scores = [layer_scores(x, mean, precision, bank, 1000.0) for x in (same, strange)]
    assert bool((scores[0] > scores[1]).all())
    flipped = [layer_scores(x, mean, precision, bank, 1000.0, "released") for x in (same, strange)]
    assert not bool((flipped[0] > flipped[1]).all())


def test_scores_by_hand() -> None:
    used = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    precision = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]])
    x = torch.tensor([[[3.0, 4.0]]])
    found = layer_scores(x, torch.tensor([[1.0, 1.0]]), precision, used, 10.0)
    assert found.tolist() == [[pytest.approx(-0.5 * (2 * 4 + 9) + 10 * 0.8)]]
    released = layer_scores(x, torch.tensor([[1.0, 1.0]]), precision, used, 10.0, "released")
    assert released.tolist() == [[pytest.approx(-0.5 * (2 * 4 + 9) - 10 * 0.8)]]


def test_the_inverse_covariance_is_one_and_finite_for_few_samples() -> None:
    layer = gaussian(2000, 0, 0)[0]
    precision, condition = precision_of(layer, shrink=False)
    covariance = torch.from_numpy(np.cov(layer.numpy().T, bias=True)).float()
    assert torch.allclose(precision @ covariance, torch.eye(16), atol=5e-3)
    assert 1 <= condition < 3
    for n in (1, 2, 5):
        few, condition = precision_of(layer[:n], shrink=True)
        assert bool(torch.isfinite(few).all())
        assert math.isfinite(condition)


def test_contrastive_entropy_by_hand() -> None:
    z = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    key = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    rows = [[1.0, 0.0], [2.0, 2.0]]
    total = 0.0
    for row in rows:
        e = [math.exp(v) for v in row]
        total += -sum(v / sum(e) * math.log(v / sum(e) + 1e-5) for v in e)
    assert float(contrastive_entropy(z, key)) == pytest.approx(total / 2, rel=1e-5)
    assert float(contrastive_entropy(100 * z, key)) < float(contrastive_entropy(z, key))


def test_means_are_over_what_counts() -> None:
    states = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    counts = torch.tensor([[True, True, False, False, False], [False, True, True, True, False]])
    found = mean_states(states, counts)
    assert torch.allclose(found[0], states[0, :2].mean(0))
    assert torch.allclose(found[1], states[1, 1:4].mean(0))
    wide, room = nn.functional.pad(states, (0, 0, 0, 5)), nn.functional.pad(counts, (0, 5))
    assert torch.equal(mean_states(wide, room), found)
    unmasked = [mean_states(x, torch.ones(x.shape[:2], dtype=torch.bool)) for x in (states, wide)]
    assert float((unmasked[0] - unmasked[1]).abs().max()) > 0.1


def test_the_prompt_is_looked_at_and_nothing_that_is_said() -> None:
    marks = torch.tensor([[GIVEN, GIVEN, GIVEN, SAID, 0], [GIVEN, ANSWER, ANSWER, ANSWER, 0]])
    x = torch.stack([torch.zeros_like(marks), marks], 1)
    assert looked_at(x).tolist() == [[False, True, True, False, False], [False, True, True, True, False]]


def test_prompts_alone_are_masked_and_no_mark_changes() -> None:
    marks = torch.tensor([[GIVEN] * 60 + [ANSWER] * 30 + [0] * 10, [GIVEN] + [ANSWER] * 90 + [0] * 9])
    x = torch.stack([torch.full_like(marks, 7), marks], 1).repeat(50, 1, 1)
    batch = Batch(torch.arange(100), x, torch.zeros(100))
    lesson: Any = None
    hook = _Contrast(lesson, [], 0.15, 3, torch.Generator().manual_seed(0))
    masked = hook.extend(batch, 0)
    hidden, seen = masked.x[:, 0] != 7, looked_at(x)
    assert bool((masked.x[:, 0][hidden] == 3).all())
    assert not bool(hidden[~seen].any())
    assert float(hidden[seen].float().mean()) == pytest.approx(0.15, abs=0.02)
    assert torch.equal(masked.x[:, 1], marks.repeat(50, 1))
    assert bool((batch.x[:, 0] == 7).all()), "the batch itself stays as it is"


# -- the guard


@dataclass(frozen=True)
class Life:
    """A source, and a guarded strategy that has learned everything of some people."""

    source: Source
    setting: Setting
    strategy: Composed
    ledger: Ledger

    @property
    def guard(self) -> O3:
        assert isinstance(self.strategy.guard, O3)
        return self.strategy.guard

    def rows(self, user: int, test: bool = False) -> Batch:
        ids = np.flatnonzero((self.source.user_ids == user) & (self.source.is_test == test))
        return Data(ids, self.source.x, self.source.y, None).all()

    def forget(self, user: int, name: str) -> Any:
        ids = self.source.train_ids
        ids = np.setdiff1d(ids[self.source.user_ids[ids] == user], self.ledger.deleted_ids)
        request = DeletionRequest(name, (Request("user", (user,), ids, NOTHING, 0),))
        self.ledger.delete(request)
        door = self.ledger.door(self.strategy.access, NOTHING, ids)
        outcome = self.strategy.forget(request, door)
        door.close()
        return outcome

    def learn(self, ids: np.ndarray, name: str, incarnation: int = 0) -> None:
        experience = self.ledger.admit(Experience(name, (), ids, incarnation=incarnation))
        self.strategy.learn(experience, self.ledger.door(self.strategy.access, experience.sample_ids))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(tmp_path_factory.mktemp("cache")))
        return people.load(people.Config(people=3, groups=1, holdout=0, world=False, answers="short", vocabulary=400))


def live(source: Source, taught: int = 1, learner: str = "naive", unlearner: str = "none", **options: Any) -> Life:
    objective = CausalLM.for_data(Config(), source, None, "cpu")

    def make_model() -> FlatModel:
        with seeded_globals(Key(0) / "init"):
            sizes = tiny_llama.Config(width=16, inner=16, depth=2, heads=2)
            return FlatModel(tiny_llama.build(sizes, (2, 64), objective.num_outputs))

    training = Training(epochs=taught, lr=0.01, batch_size=16, optimizer="adam")
    setting = Setting(Key(0), make_model, objective, training, (), len(source))
    settings = {"epochs": 2, "rank": 4, "encoder": {"rank": 4}} | options
    parts = {"learner": learner, "unlearner": unlearner, "guard": {"name": "o3", **settings}}
    strategy = make_strategy(parse(StrategyConfig, parts), setting, "it")
    assert isinstance(strategy, Composed)
    life = Life(source, setting, strategy, Ledger(source))
    life.learn(source.train_ids, "all")
    return life


def test_a_request_leaves_the_base_as_it_is_and_reads_the_request_alone(source: Source) -> None:
    life = live(source)
    assert life.strategy.access == Access(forget_set=True)  # the door refuses everything else
    model = life.strategy.network()
    base, batch = digest(model.state_dict()), life.rows(0)
    model.train(False)
    with torch.inference_mode():
        before = life.setting.objective.outputs(model, batch)
    outcome = life.forget(0, "request-0")
    assert outcome.exactness == "none"
    assert digest(life.strategy.network().state_dict()) == base
    after = life.strategy.predict(batch)
    assert not torch.equal(after, before)
    # Suppression, not deletion: with its gates shut the model is what it was.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(O3, "gates", lambda self, batch: torch.zeros(len(batch), 1))
        assert torch.equal(life.strategy.predict(batch), before)
    held = life.strategy.holds(life.ledger.deleted_ids)
    assert set(held) == {"weights", "guard.encoder", "guard.request-0.adapter", "guard.request-0.detector"}
    assert len(held["guard.request-0.adapter"]) == 16  # the rest is kept from it
    assert len(held["guard.request-0.detector"]) == 20
    assert outcome.notes["detector_small"] == 1.0
    assert math.isfinite(outcome.notes["detector_condition"])


@pytest.mark.parametrize(("learner", "unlearner"), [("lora", "none"), ("o-lora", "retrain"), ("naive", "npo")])
def test_it_stands_beside_any_learner_and_unlearner(learner: str, unlearner: str, source: Source) -> None:
    life = live(source, learner=learner, unlearner=unlearner)
    life.forget(0, "request-0")
    batch, model = life.rows(0), life.strategy.network()
    model.train(False)
    with torch.inference_mode():
        bare = life.setting.objective.outputs(model, batch)
    assert not torch.equal(life.strategy.predict(batch), bare)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(O3, "gates", lambda self, batch: torch.zeros(len(batch), 1))
        assert torch.equal(life.strategy.predict(batch), bare)
    network = life.strategy.learner.model.network
    assert not any(m._forward_hooks for m in network.modules()), "nothing of it stays in the model"
    rest = np.flatnonzero((source.user_ids > 0) & ~source.is_test)
    life.learn(rest, "more")  # the low-rank learner finds the model as it left it
    assert not any("guard" not in name and name != "weights" for name in life.strategy.holds(life.ledger.deleted_ids))


@pytest.mark.parametrize("mode", ["stack", "resume"])
def test_more_requests_never_close_a_gate(mode: str, source: Source) -> None:
    life = live(source, adapters=mode)
    batch = life.rows(1)
    life.forget(0, "request-0")
    one = life.guard.gates(batch)
    alone = life.guard.state_dict()
    outcome = life.forget(1, "request-1")
    two = life.guard.gates(batch)
    assert torch.equal(one[:, 0], two[:, 0])
    assert bool((two.amax(1) >= one.amax(1)).all())
    assert outcome.traits["request-0 > request-1"]["gate"] == pytest.approx(
        float(life.guard.gates(life.rows(1))[:, 0].mean()), abs=1e-5
    )
    assert "adapter_overlap" in outcome.notes
    life.learn(np.flatnonzero((source.user_ids == 1) & ~source.is_test), "again", incarnation=1)
    assert torch.equal(life.guard.gates(batch), one), "the second detector goes when its samples are back"
    assert digest(life.guard.state_dict()["bundles"]) == digest(alone["bundles"])


def test_a_request_is_served_until_its_last_sample_is_back(source: Source) -> None:
    life = live(source, epochs=1, encoder={"epochs": 0})
    life.forget(0, "request-0")
    batch, back = life.rows(0), np.flatnonzero((source.user_ids == 0) & ~source.is_test)
    gates = life.guard.gates(batch)
    life.learn(back[:-1], "most", incarnation=1)
    assert torch.equal(life.guard.gates(batch), gates)
    life.learn(back[-1:], "all", incarnation=1)
    assert life.guard.state_dict() == {"bundles": []}


@pytest.mark.parametrize("mode", ["stack", "resume"])
def test_what_an_adapter_was_derived_from(mode: str, source: Source) -> None:
    """One that is resumed derives from the requests before, too; nothing is left of an encoder without requests."""
    life = live(source, adapters=mode, epochs=1, encoder={"epochs": 0})
    for user in (0, 1):
        life.forget(user, f"request-{user}")
    first = life.rows(0).ids.numpy()
    held = life.guard.holds(first)
    assert len(held["request-0.adapter"]) == 16
    assert len(held["request-1.adapter"]) == (16 if mode == "resume" else 0)
    assert len(held["encoder"]) == 20
    start = digest(life.guard._encoder.model.state_dict())
    life.learn(np.flatnonzero((source.user_ids < 2) & ~source.is_test), "again", incarnation=1)
    assert {name: len(ids) for name, ids in life.guard.holds(first).items()} == {"encoder": 0}
    life.forget(0, "request-2")
    now = digest(life.guard._encoder.model.state_dict())
    assert now == digest(life.strategy.learner.model.state_dict()) != start, "the next request takes a new one"


def test_a_resumed_adapter_acts_by_the_widest_gate(source: Source) -> None:
    """As strongly as any request asks for, and not as the last one does."""
    life = live(source, adapters="resume", epochs=1, encoder={"epochs": 0})
    for user in (0, 1):
        life.forget(user, f"request-{user}")
    batch, gates = life.rows(2), {}
    for name, opened in (("shut", [0.0, 0.0]), ("first", [1.0, 0.0]), ("last", [0.0, 1.0]), ("both", [1.0, 1.0])):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(O3, "gates", lambda self, batch, row=opened: torch.tensor([row] * len(batch)))
            gates[name] = life.strategy.predict(batch)
    assert torch.equal(gates["first"], gates["last"])
    assert torch.equal(gates["both"], gates["last"])
    assert not torch.equal(gates["shut"], gates["last"])


def test_more_orthogonality_is_less_overlap(source: Source) -> None:
    ratios = []
    for strength in (0.0, 10.0):
        life = live(source, orthogonality=strength, epochs=10, lr=0.01)
        life.forget(0, "request-0")
        ratios.append(life.forget(1, "request-1").notes["adapter_overlap"])
    assert ratios[1] < 0.5 * ratios[0]


@pytest.fixture(scope="module")
def domains(source: Source) -> Source:
    """Four domains of 32 questions, each in words of its own; an answer is one of six words that they share."""
    assert source.text is not None
    draw, pairs = np.random.default_rng(0), []
    for domain in range(4):
        always, words = [20 + 25 * domain, 21 + 25 * domain], np.arange(22 + 25 * domain, 45 + 25 * domain)
        asked = {tuple(draw.choice(words, 2, replace=False).tolist()) for _ in range(50)}
        answers = draw.integers(10, 16, size=32).tolist()
        pairs += [([*always, *q], [a, source.text.tokenizer.eos]) for q, a in zip(sorted(asked), answers, strict=False)]
    owner = np.repeat(np.arange(4), 32)
    text = replace(source.text, paraphrased=None, perturbed=None, holdout=None, values=None)
    names = ("one", "two", "three", "four")
    return Source(
        name="domains",
        licence="none",
        x=rows(pairs, source.text.tokenizer),
        y=torch.from_numpy(owner.copy()),
        class_ids=owner,
        user_ids=owner,
        is_test=np.zeros(128, dtype=bool),
        class_names=names,
        user_names=names,
        text=text,
    )


@pytest.mark.nightly
def test_later_requests_leave_the_first_where_it_was_unless_one_adapter_is_resumed(domains: Source) -> None:
    options = {"gate": "hard", "passes": 0.6, "epochs": 15, "lr": 0.01, "min_samples": 50, "encoder": {"epochs": 0}}
    start, drifts = live(domains, 25).strategy.state_dict(), {}
    for mode in ("stack", "resume"):
        life = live(domains, adapters=mode, **options)
        life.strategy.load_state_dict(start)
        objective, batch = life.setting.objective, life.rows(0)
        taught = objective.scores(life.strategy.predict(batch), batch)
        life.forget(0, "request-0")
        first = life.strategy.predict(batch)
        assert float((taught - objective.scores(first, batch)).mean()) > 0.3
        for domain in (1, 2, 3):
            life.forget(domain, f"request-{domain}")
        gates = life.guard.gates(batch)
        # Where no other gate opens by mistake nothing may move; an adapter that is resumed learns three more requests.
        alone = (gates[:, 0] == 1) & (gates[:, 1:] == 0).all(1)
        assert float(alone.float().mean()) > 0.2, "the domains are disjoint"
        last = life.strategy.predict(batch)
        before, after = (objective.losses(outputs, batch)[alone] for outputs in (first, last))
        drifts[mode] = float((after - before).abs().mean())
    assert drifts["stack"] < 1e-4
    assert drifts["resume"] > 0.1


def test_padding_changes_nothing(source: Source) -> None:
    life = live(source)
    life.forget(0, "request-0")
    batch = life.rows(1)
    wide = Batch(batch.ids, nn.functional.pad(batch.x, (0, batch.x.shape[2])), batch.y)
    assert torch.allclose(life.guard.gates(batch), life.guard.gates(wide), atol=1e-5)


def test_an_answer_does_not_move_its_gate(source: Source) -> None:
    life = live(source)
    life.forget(0, "request-0")
    batch = life.rows(1)
    said = batch.x.clone()
    said[:, 1][said[:, 1] == ANSWER] = SAID
    said[:, 0][said[:, 1] == SAID] = 7
    gates = life.guard.gates(batch)
    assert torch.equal(gates, life.guard.gates(Batch(batch.ids, said, batch.y))), "kept while text is generated"
    assert torch.equal(gates[3:7], life.guard.gates(batch.part(3, 7)))
    life.guard.gates(life.rows(2))  # another batch takes their place
    assert torch.allclose(gates, life.guard.gates(Batch(batch.ids, said, batch.y)), atol=1e-6)


def test_a_hard_gate_opens_or_not_and_a_single_sample_is_served(source: Source) -> None:
    life = live(source, gate="hard", encoder={"epochs": 0})
    life.forget(0, "request-0")
    assert set(life.guard.gates(life.rows(0)).unique().tolist()) <= {0.0, 1.0}
    ids = life.rows(1).ids.numpy()[:1]
    request = DeletionRequest("request-1", (Request("sample", tuple(ids.tolist()), ids, NOTHING, 0),))
    life.ledger.delete(request)
    life.strategy.forget(request, life.ledger.door(life.strategy.access, NOTHING, ids))
    assert bool(torch.isfinite(life.strategy.predict(life.rows(2))).all())


def test_wrong_answers_are_wrong_unless_all_are_asked_for(source: Source) -> None:
    objective = CausalLM.for_data(Config(), source, None, "cpu")
    assert isinstance(objective, CausalLM)
    batch = Data(source.train_ids, source.x, source.y, None).all()

    def own(options: WrongAnswers, step: int) -> float:
        asked = options.put(batch, options.drawn(batch, step))
        same = [torch.equal(a[0][a[1] == ANSWER], b[0][b[1] == ANSWER]) for a, b in zip(asked.x, batch.x, strict=True)]
        return float(np.mean(same))

    assert own(WrongAnswers(objective, Key(0), true_too=False), 0) == 0.0
    # Five wrong ones and the true one: one in six, over 600 draws.
    share = np.mean([own(WrongAnswers(objective, Key(0), true_too=True), step) for step in range(10)])
    assert share == pytest.approx(1 / 6, abs=3 * math.sqrt(5 / 36 / 600))


@pytest.mark.parametrize("relabel", ["wrong", "any"])
def test_the_true_answer_is_among_any_and_not_among_wrong_ones(
    relabel: str, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def noted(objective: CausalLM, key: Key, true_too: bool) -> WrongAnswers:
        asked.append(true_too)
        return WrongAnswers(objective, key, true_too)

    monkeypatch.setattr(o3, "WrongAnswers", noted)
    live(source, relabel=relabel, epochs=1, encoder={"epochs": 0}).forget(0, "request-0")
    assert asked == [relabel == "any"]


@pytest.mark.parametrize("gate", ["soft", "hard", "released-qa", "released-tofu"])
def test_which_gate_is_which(gate: str) -> None:
    decisions = np.linspace(-0.4, 1.2, 33)
    detector: Any = SimpleNamespace(decisions=lambda features: decisions, used=(0.0, 0.3), rest=(0.2, 0.3), limit=0.1)
    guard: Any = SimpleNamespace(config=SimpleNamespace(gate=gate, one_sided=False, sharpness=9.0))
    soft = soft_gate(gate_values(decisions, (0.0, 0.3), (0.2, 0.3), False), 9.0)
    expected = {
        "soft": soft,
        "hard": (decisions >= 0.1).astype(float),
        "released-qa": released_gate(soft, "qa"),
        "released-tofu": released_gate(soft, "tofu"),
    }
    assert np.array_equal(O3._gate(guard, detector, torch.zeros(33)), expected[gate])
    assert len({tuple(values) for values in expected.values()}) == 4


def test_gates_that_are_reported_are_of_what_was_used_and_of_the_rest(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = live(source, epochs=1, encoder={"epochs": 0})
    monkeypatch.setattr(O3, "_gate", lambda self, detector, features: np.full(features.shape[1], features.shape[1]))
    notes = life.forget(0, "request-0").notes
    assert (notes["gate_used"], notes["gate_rest"]) == (16.0, 4.0)


def test_it_is_for_text(tools: Any) -> None:
    with pytest.raises(ConfigError, match="is for models that predict tokens; this one predicts classes"):
        make_strategy(parse(StrategyConfig, {"guard": "o3"}), tools.setting(tools.source()), "it")


def test_a_layer_that_is_not_there_is_refused(source: Source) -> None:
    with pytest.raises(ConfigError, match="blocks 0 to 1"):
        live(source, layers=(2,))
    with pytest.raises(ConfigError, match="rank"):
        live(source, rank=17)
