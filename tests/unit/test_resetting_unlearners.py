"""Unlearners that damage or climb, then repair (msg, ct, fcs, kde ...), held against what is said of their steps."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from strategies.base import Setting
from strategies.outcome import Outcome
from strategies.parts.fit import fit
from strategies.parts.model import FlatModel, Network
from strategies.parts.training.optimizers import SGD, OptimizerConfig, make_optimizer
from strategies.parts.training.rates import Scheduled, by_epoch, cosine, triangle
from strategies.parts.weights.fisher import diagonal_fisher, loss_gradient
from strategies.parts.weights.layers import first_convolution
from strategies.unlearners import cfw, ct, fcs, kde, msg, prmq, rni, sfron
from streams.data import Data
from streams.errors import ConfigError
from streams.events import DeletionRequest, Request
from streams.randomness import Key, seeded_globals
from streams.source import Source

deletion = importlib.import_module("strategies.unlearners.del")  # its name is a word of Python's
CLASSES = 3
FORGOTTEN = np.arange(12)
KEY = Key(0) / "it"


def convolutional(kernel: tuple[int, int] = (3, 3)) -> FlatModel:
    """Two convolutions on pictures of 4 x 4, averaged over the picture, and a head."""
    with seeded_globals(Key(0) / "init"):
        convolutions = [nn.Conv2d(1, 6, kernel, padding="same"), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.ReLU()]
        body = nn.Sequential(nn.Unflatten(1, (1, 4, 4)), *convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return FlatModel(Network(body, nn.Linear(4, CLASSES)))


class Case:
    """A network that learned a small source, part of which is to go."""

    def __init__(self, tools: Any, make_model: Callable[[], FlatModel]) -> None:
        self.source: Source = tools.source(num_classes=CLASSES, per_class=20, width=16)
        self.setting: Setting = replace(tools.setting(self.source), make_model=make_model)
        self.model = make_model()
        self.retained: Data = tools.lend(self.source, np.setdiff1d(self.source.train_ids, FORGOTTEN))
        self.forget_set: Data = tools.lend(self.source, FORGOTTEN)
        fit(self.model, self.setting.objective, tools.lend(self.source), self.setting.training, KEY / "learned")

    def serve(self, kind: Any, options: Any, forget_set: Data | None = None) -> Outcome:
        learner: Any = SimpleNamespace(model=self.model, setting=self.setting)
        door: Any = SimpleNamespace(forget_set=lambda: self.forget_set if forget_set is None else forget_set)
        request = DeletionRequest("request-0", (Request("sample", tuple(FORGOTTEN), FORGOTTEN, FORGOTTEN[:0], 0),))
        return kind(options, self.setting).serve(request, learner, self.retained, door, KEY)

    def kernels(self) -> list[torch.Tensor]:
        return [
            p.detach().clone() for n, p in self.model.network.named_parameters() if n.endswith("weight") and p.ndim == 4
        ]


@pytest.fixture
def case(tools: Any) -> Case:
    return Case(tools, convolutional)


def normed() -> FlatModel:
    """The same with a norm behind the first convolution."""
    network = convolutional().network
    layers = list(network.body.children())
    return FlatModel(Network(nn.Sequential(*layers[:2], nn.BatchNorm2d(6), *layers[2:]), network.head))


def without_training(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    monkeypatch.setattr(module, "fit", lambda *_, **__: Outcome())


def watched(monkeypatch: pytest.MonkeyPatch, module: Any) -> list[SimpleNamespace]:
    """What every training of a method begins and ends with."""
    seen: list[SimpleNamespace] = []

    def fit_and_note(model: FlatModel, objective: Any, data: Data, config: Any, *more: Any) -> Outcome:
        before = model.parameters.clone()
        outcome = fit(model, objective, data, config, *more)
        seen.append(SimpleNamespace(before=before, after=model.parameters.clone(), data=data, config=config))
        return outcome

    monkeypatch.setattr(module, "fit", fit_and_note)
    return seen


# ------------------------------------------------------------------ learning rates


def test_rates_rise_and_fall_as_in_released_code() -> None:
    assert triangle(5) == pytest.approx([1 / 3, 2 / 3, 1, 2 / 3, 1 / 3])
    assert triangle(1) == [1]
    assert min(triangle(4)) > 0
    weight = torch.nn.Parameter(torch.zeros(1))
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(torch.optim.SGD([weight], lr=0.2), 7, eta_min=0.02)
    for factor in cosine(7, end=0.1):
        assert 0.2 * factor == pytest.approx(theirs.get_last_lr()[0])
        theirs.optimizer.step()
        theirs.step()


def test_a_scheduled_optimizer_takes_each_step_at_its_rate_and_goes_on_from_its_state() -> None:
    config = OptimizerConfig(lr=0.5, momentum=0.5)
    rates = by_epoch([1.0, 0.5, 0.25], 2)

    def walk(parameters: torch.Tensor, optimizer: Scheduled, steps: int) -> torch.Tensor:
        for _ in range(steps):
            optimizer.step(parameters, torch.ones(1))
        return parameters

    whole = walk(torch.zeros(1), Scheduled(SGD(config, torch.zeros(1)), rates), 6)
    velocity, expected = 0.0, 0.0
    for rate in (0.5, 0.5, 0.25, 0.25, 0.125, 0.125):
        velocity = 0.5 * velocity + 1
        expected -= rate * velocity
    assert float(whole) == pytest.approx(expected)
    first = Scheduled(SGD(config, torch.zeros(1)), rates)
    halfway = walk(torch.zeros(1), first, 3)
    other = Scheduled(SGD(config, torch.zeros(1)), rates)
    other.load_state_dict(first.state_dict())
    assert torch.equal(walk(halfway, other, 3), whole)


# ------------------------------------------------------------------ msg


def test_msg_draws_anew_what_neither_side_pulls_at(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    without_training(monkeypatch, msg)
    before, start = case.kernels(), case.model.parameters.clone()
    objective, kept = case.setting.objective, case.retained
    compared = kept.part(np.sort((KEY / "compared").first(kept.ids, len(FORGOTTEN))))
    gradient = loss_gradient(case.model, objective, compared) - loss_gradient(case.model, objective, case.forget_set)
    case.serve(msg.MSG, msg.Config(share=0.3))
    for old, new in zip(before, case.kernels(), strict=True):
        assert int((old != new).sum()) == round(0.3 * old.numel())
    moved = case.model.parameters != start
    for name, part in case.model.slices.items():
        if name.endswith("weight") and name.startswith("body"):
            assert gradient[part].abs()[moved[part]].max() <= gradient[part].abs()[~moved[part]].min()
        else:
            assert not moved[part].any(), name


def test_draws_are_kaimings_by_fan_out() -> None:
    drawn = msg.kaiming(torch.Size((50, 20, 3, 3)), KEY)
    assert float(drawn.std()) == pytest.approx(math.sqrt(2 / (50 * 9)), rel=0.02)
    assert float(msg.kaiming(torch.Size((50, 2000)), KEY).std()) == pytest.approx(math.sqrt(2 / 50), rel=0.02)


def test_msg_that_draws_and_slows_nothing_is_fine_tuning_at_its_rates(case: Case) -> None:
    config = msg.Config(share=0.0, kept=1.0, epochs=3, batch_size=16, lr=0.05)
    other = case.setting.make_model()
    other.take_over(case.model)
    rates = by_epoch(triangle(3), math.ceil(len(case.retained) / 16))
    optimizer = Scheduled(make_optimizer(config, other.parameters), rates)
    fit(other, case.setting.objective, case.retained, config, KEY, optimizer=optimizer)
    case.serve(msg.MSG, config)
    assert torch.equal(case.model.parameters, other.parameters)


@pytest.mark.parametrize("decay", ["all", "gradient"])
def test_kept_weights_of_msg_may_decay_in_full(case: Case, decay: Any) -> None:
    before = case.kernels()
    config = msg.Config(share=0.3, kept=0.0, decay=decay, weight_decay=0.1, epochs=1, batch_size=16, lr=0.05)
    outcome = case.serve(msg.MSG, config)
    for old, new in zip(before, case.kernels(), strict=True):
        same = int((old == new).sum())
        assert same == (old.numel() - round(0.3 * old.numel()) if decay == "gradient" else 0)
    assert outcome.steps == math.ceil(len(case.retained) / 16)


# ------------------------------------------------------------------ ct


def test_ct_transposes_and_a_second_request_transposes_back(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    without_training(monkeypatch, ct)
    start, before = case.model.parameters.clone(), case.kernels()
    pictures = case.source.x[:5]
    outputs = case.model(pictures)
    case.serve(ct.CT, ct.Config())
    for old, new in zip(before, case.kernels(), strict=True):
        assert torch.equal(new, old.transpose(2, 3))
    assert not torch.allclose(case.model(pictures), outputs)
    turned = pictures.view(-1, 4, 4).transpose(1, 2).reshape(-1, 16)
    assert torch.allclose(case.model(turned), outputs, atol=1e-6)  # as the head sees averages over the picture
    case.serve(ct.CT, ct.Config())
    assert torch.equal(case.model.parameters, start)


def test_the_eight_ways_to_turn_a_kernel_differ_and_the_drawn_one_is_never_none() -> None:
    kernels = torch.arange(18.0).view(2, 1, 3, 3)
    ways = {tuple(ct.turned(kernels, way).flatten().tolist()) for way in range(8)}
    assert len(ways) == 8
    assert torch.equal(ct.turned(kernels, 0), kernels)


def test_a_drawn_turn_goes_by_the_name_of_the_request(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    without_training(monkeypatch, ct)
    before = case.kernels()[0]
    way = 1 + (KEY / "turn").number() % 7
    case.serve(ct.CT, ct.Config(turn="drawn"))
    assert torch.equal(case.kernels()[0], ct.turned(before, way))


def test_what_cannot_be_transposed_is_refused(tools: Any) -> None:
    flat = Case(tools, lambda: tools.mlp((16, 8, CLASSES)))
    with pytest.raises(ConfigError, match="this model trains none. Choose msg with layers: weights"):
        ct.CT(ct.Config(), flat.setting)
    with pytest.raises(ConfigError, match="Set msg.layers: weights"):
        msg.MSG(msg.Config(), flat.setting)
    msg.MSG(msg.Config(layers="weights"), flat.setting)
    oblong = replace(flat.setting, make_model=lambda: convolutional((1, 3)))
    with pytest.raises(ConfigError, match=r"body.1 is not square \(1 x 3\)"):
        ct.CT(ct.Config(), oblong)


# ------------------------------------------------------------------ fcs


def test_contrast_is_least_where_products_are_equal() -> None:
    retained = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(3, 5, requires_grad=True)
    value = fcs.contrast(zero, retained, 1.15)
    assert float(value.detach()) == pytest.approx(math.log(8))
    (slope,) = torch.autograd.grad(value, zero)
    assert slope.abs().max() < 1e-6
    other = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    by_hand = [
        -math.log(float(torch.exp(f @ r / 1.15) / torch.exp(retained @ f / 1.15).sum()))
        for f in other
        for r in retained
    ]
    assert float(fcs.contrast(other, retained, 1.15)) == pytest.approx(sum(by_hand) / len(by_hand), rel=1e-5)
    assert float(fcs.contrast(other, retained, 1.15)) > math.log(8)


def test_forbidden_outputs_count_in_neither_term() -> None:
    few = torch.tensor([[1.0, -1.0, 0.5]])
    many = torch.cat([few, torch.full((1, 2), -math.inf)], 1)
    assert torch.allclose(fcs.from_uniform(many), fcs.from_uniform(few))
    uniform = torch.full((1, 3), 1 / 3)
    kl = torch.nn.functional.kl_div(few.log_softmax(1), uniform, reduction="sum")
    assert float(fcs.from_uniform(few)) == pytest.approx(float(kl))
    others = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    masked = others.clone()
    masked[:, 3:] = -math.inf
    assert torch.allclose(fcs.contrast(many, masked, 1.0), fcs.contrast(few, others[:, :3], 1.0))


def test_fcs_reads_no_label_of_the_forget_set(case: Case) -> None:
    config = fcs.Config(epochs=2, batch_size=16, forget_lr=0.01)
    start = case.model.state_dict()
    case.serve(fcs.FCS, config)
    first = case.model.parameters.clone()
    case.model.load_state_dict(start)
    wrong = case.forget_set.relabelled((case.forget_set.targets() + 1) % CLASSES)
    outcome = case.serve(fcs.FCS, config, wrong)
    assert torch.equal(case.model.parameters, first)
    assert outcome.steps == 1 + 2 * (1 + math.ceil(len(case.retained) / 16))


def test_fcs_flattens_answers_to_what_is_forgotten(case: Case) -> None:
    def flatness() -> float:
        outputs = case.setting.objective.outputs(case.model, case.forget_set.batch(case.forget_set.positions()))
        return float(fcs.from_uniform(outputs.detach()).mean())

    before = flatness()
    case.serve(fcs.FCS, fcs.Config(epochs=1, batch_size=16, uniform_lr=0.5, lr=1e-6))
    assert flatness() < 0.5 * before


# ------------------------------------------------------------------ del


def test_a_unit_scores_by_its_largest_weights() -> None:
    scores = torch.arange(40.0)
    found = deletion.unit_scores(scores, torch.Size((2, 20)), 0.1, "unit")
    assert found.tolist() == [(18 + 19) / 2, (38 + 39) / 2]
    assert deletion.unit_scores(scores, torch.Size((20, 2)), 0.1, "layer").tolist() == [2 * i + 0.5 for i in range(20)]
    with pytest.raises(ConfigError, match="2 units of a layer is less than one"):
        deletion.unit_scores(scores, torch.Size((2, 20)), 0.1, "layer")
    assert torch.equal(deletion.unit_scores(scores, torch.Size((40,)), 0.1, "layer"), scores)


def test_units_are_chosen_until_the_share_is_reached() -> None:
    units, sizes = torch.tensor([1.0, 3.0, 2.0, 0.0]), torch.tensor([10, 1, 4, 5])
    assert deletion.chosen_units(units, sizes, 0.05).tolist() == [False, True, False, False]
    assert deletion.chosen_units(units, sizes, 0.2).tolist() == [False, True, True, False]
    assert deletion.chosen_units(units, sizes, 1.0).all()


@pytest.mark.parametrize("initial", ["fresh", "original"])
def test_del_resets_whole_units_and_moves_nothing_else_but_the_head(case: Case, initial: Any) -> None:
    config = deletion.Config(epochs=1, share=0.4, weight_decay=0.01, initial=initial, batch_size=16)
    start = case.model.parameters.clone()
    gradient = loss_gradient(case.model, case.setting.objective, case.forget_set)
    mask = deletion.most_needed(case.model, gradient, config)
    assert 0.4 * len(start) <= int(mask.sum()) < 0.4 * len(start) + max(9, CLASSES * 4)
    for name, parameter in case.model.network.named_parameters():
        by_unit = mask[case.model.slices[name]].view(len(parameter), -1)
        assert torch.equal(by_unit.any(1), by_unit.all(1)), name
    case.serve(deletion.DEL, config)
    may_move = mask | case.model.mask("head").bool()
    assert torch.equal(case.model.parameters[~may_move], start[~may_move])
    assert (case.model.parameters[may_move] != start[may_move]).all()


def test_reset_weights_are_initial_or_fresh(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    without_training(monkeypatch, deletion)
    initial, start = case.setting.make_model().parameters, case.model.state_dict()
    case.serve(deletion.DEL, deletion.Config(share=1.0, initial="original"))
    assert torch.equal(case.model.parameters, initial)
    case.model.load_state_dict(start)
    case.serve(deletion.DEL, deletion.Config(share=1.0))
    assert (case.model.parameters != initial).all()


def test_what_del_resets_does_not_depend_on_how_layers_are_scaled(case: Case) -> None:
    """Weights of a layer times c and those of the next by c: the same function, and the same units."""
    objective, config = case.setting.objective, deletion.Config(share=0.4)

    def found() -> tuple[torch.Tensor, torch.Tensor]:
        gradient = loss_gradient(case.model, objective, case.forget_set)
        return deletion.most_needed(case.model, gradient, config), gradient.abs().topk(len(gradient) // 3).indices

    before, steepest = found()
    with torch.no_grad():
        for name, parameter in case.model.network.named_parameters():
            parameter.mul_({"body.1.weight": 8.0, "body.1.bias": 8.0, "body.3.weight": 0.125}.get(name, 1.0))
    after, other = found()
    assert torch.equal(after, before)
    assert set(other.tolist()) != set(steepest.tolist())


# ------------------------------------------------------------------ sfron


def test_weights_of_forgotten_samples_have_mean_one() -> None:
    losses = torch.tensor([0.0, 1e-4, 1.0, 4.0])
    weights = sfron.adaptive(losses, 0.5)
    assert float(weights.mean()) == pytest.approx(1)
    assert float(weights[2] / weights[3]) == pytest.approx(2)
    assert weights[0] == weights[1]  # losses next to nothing count alike
    assert sfron.adaptive(losses, 0.0).tolist() == [1, 1, 1, 1]


def test_weights_move_up_where_they_matter_more() -> None:
    forgotten, retained = torch.tensor([2.0, 1.0, 0.0, 0.0]), torch.tensor([1.0, 2.0, 0.0, 1.0])
    assert sfron.matters_more(forgotten, retained, 1.0).tolist() == [True, False, True, False]
    assert sfron.matters_more(forgotten, retained, 0.0).all()


def test_sfron_is_ascent_and_descent_in_turns(case: Case) -> None:
    """One batch of each kind, no momentum: the steps can be written down."""
    options: dict[str, Any] = {"batch_size": 100, "momentum": 0.0, "weight_decay": 0.0, "forget_every": 2}
    config = sfron.Config(steps=3, lr=0.1, alpha=0.5, adapt=0.0, gamma=1.0, forget_clip=1e9, **options)
    other = case.setting.make_model()
    other.take_over(case.model)
    objective = case.setting.objective
    fishers = [
        diagonal_fisher(other, objective, data, "empirical", KEY)[0] for data in (case.forget_set, case.retained)
    ]
    mask = fishers[0] >= fishers[1]
    assert 0 < int(mask.sum()) < len(mask)
    for step, factor in enumerate(cosine(3)):
        if step % 2 == 0:
            up = loss_gradient(other, objective, case.forget_set) / len(case.forget_set)
            other.parameters += 0.1 * factor * 0.5 * factor * up * mask
        other.parameters -= 0.1 * factor * loss_gradient(other, objective, case.retained) / len(case.retained)
    outcome = case.serve(sfron.SFRon, config)
    assert torch.allclose(case.model.parameters, other.parameters, atol=1e-6)
    assert outcome.steps == 3


@pytest.mark.parametrize(("momenta", "holds"), [("separate", True), ("shared", False)])
def test_a_step_up_leaves_weights_outside_the_mask_where_momenta_are_separate(
    case: Case, momenta: Any, holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sfron, "matters_more", lambda *_: torch.zeros(len(case.model.parameters), dtype=torch.bool))
    down = sfron.Config(steps=4, batch_size=16, alpha=0.0, forget_every=4, momenta="separate")
    start = case.model.state_dict()
    case.serve(sfron.SFRon, down)
    expected = case.model.parameters.clone()
    case.model.load_state_dict(start)
    case.serve(sfron.SFRon, down.model_copy(update={"alpha": 50.0, "forget_every": 1, "momenta": momenta}))
    assert torch.equal(case.model.parameters, expected) == holds


def test_a_step_up_is_no_longer_than_it_may_be(case: Case) -> None:
    start = case.model.parameters.clone()
    options: dict[str, Any] = {"momentum": 0.0, "weight_decay": 0.0, "gamma": 0.0, "forget_every": 1, "steps": 1}
    case.serve(sfron.SFRon, sfron.Config(lr=1e-3, alpha=1e6, forget_clip=2.0, **options))
    down = 1e-3 * float(loss_gradient(case.model, case.setting.objective, case.retained).norm()) / len(case.retained)
    assert 2e-3 - 2 * down <= float((case.model.parameters - start).norm()) <= 2e-3 + 2 * down


# ------------------------------------------------------------------ kde


def test_kde_draws_both_ends_anew(case: Case, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    without_training(monkeypatch, kde)
    start = case.model.parameters.clone()
    case.serve(kde.KDE, kde.Config())
    ends = case.model.mask("head").bool() | first_convolution(case.model)
    assert int(ends.sum()) == 4 * CLASSES + CLASSES + 6 * 9 + 6
    assert torch.equal(case.model.parameters != start, ends)
    flat = Case(tools, lambda: tools.mlp((16, 8, CLASSES)))
    start = flat.model.parameters.clone()
    flat.serve(kde.KDE, kde.Config())
    assert torch.equal(flat.model.parameters != start, flat.model.mask("head").bool())


def test_kde_has_the_gradient_of_both_soft_terms_of_the_released_code(case: Case) -> None:
    teacher, batch, t = case.setting.make_model(), case.retained.batch(case.retained.positions()[:10]), 5.0
    says = case.model(batch.x).detach().requires_grad_()
    soft, student = (teacher(batch.x).detach() / t).softmax(1), (says / t).log_softmax(1)
    theirs = -(soft * student).sum(1).mean() + F.kl_div(student, soft, reduction="batchmean")
    (slope,) = torch.autograd.grad(theirs + F.cross_entropy(says, batch.y), says)
    losses = case.setting.objective.losses(says, batch)
    ours = kde.Answers(case.setting.objective, teacher, t, labels=True).losses(losses, says, batch).mean()
    assert torch.allclose(torch.autograd.grad(ours, says)[0], slope, atol=1e-6)
    alone = kde.Answers(case.setting.objective, teacher, t, labels=False).losses(losses, says, batch).mean()
    (slope,) = torch.autograd.grad(F.kl_div((says / t).log_softmax(1), soft, reduction="batchmean"), says)
    assert torch.allclose(torch.autograd.grad(alone, says)[0], slope, atol=1e-6)


def test_kde_warms_up_on_a_slice_and_reads_no_labels_there(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, start = watched(monkeypatch, kde), case.model.state_dict()
    config = kde.Config(warmup_share=0.25, batch_size=16, warmup_epochs=2)
    outcome = case.serve(kde.KDE, config)
    assert [len(one.data) for one in seen] == [12, 48]
    assert [(one.config.epochs, one.config.lr) for one in seen] == [(2, 9e-4), (3, 1e-3)]
    assert outcome.forward == 2 * outcome.backward == 2 * (2 * 12 + 3 * 48), "the teacher is asked, too"
    case.model.load_state_dict(start)
    case.retained = case.retained.relabelled((case.retained.targets() + 1) % CLASSES)
    case.serve(kde.KDE, config)
    assert torch.equal(seen[2].after, seen[0].after)
    assert not torch.equal(seen[3].after, seen[1].after)


# ------------------------------------------------------------------ prmq


def test_prmq_keeps_the_largest_weights_and_rounds(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    without_training(monkeypatch, prmq)
    start = case.model.parameters.clone()
    case.serve(prmq.PRMQ, prmq.Config(amount=0.8))
    kept = case.model.parameters == start.half().float()
    assert int(kept.sum()) == len(start) - round(0.8 * len(start))
    assert start.abs()[kept].min() >= start.abs()[~kept].max()
    for name, place in case.model.slices.items():
        shape = case.model.network.get_parameter(name).shape
        fresh = case.model.parameters[place][~kept[place]]
        bound = 0.0 if len(shape) == 1 else math.prod(shape[1:]) ** -0.5
        assert fresh.abs().max() <= bound * 1.001, name
    case.model.parameters[:] = start
    case.serve(prmq.PRMQ, prmq.Config(amount=0.0))
    assert torch.equal(case.model.parameters, start.half().float())


def test_prmq_weighs_classes_and_stays_as_sure_as_the_teacher(case: Case) -> None:
    says = torch.randn(6, CLASSES, generator=torch.Generator().manual_seed(0))
    teacher, batch = case.setting.make_model(), case.retained.batch(case.retained.positions()[:6])
    weights = prmq.class_weights(torch.tensor([0] * 9 + [1] + [2] * 4), CLASSES)
    assert weights.tolist() == pytest.approx([9**-0.1, 1.0, 4**-0.1])
    told = teacher(batch.x).detach()
    entropy = [torch.distributions.Categorical(logits=z).entropy() for z in (says, told)]
    expected = F.cross_entropy(says, batch.y, weight=weights) + F.mse_loss(*entropy)
    hook = prmq.Retrain(case.setting.objective, teacher, weights)
    losses = hook.losses(case.setting.objective.losses(says, batch), says, batch)
    assert float(losses.mean()) == pytest.approx(float(expected), rel=1e-5)


def test_entropies_leave_out_what_is_forbidden_also_in_their_gradient() -> None:
    few = torch.tensor([[1.0, -1.0, 0.5]])
    many = torch.cat([few, torch.full((1, 2), -math.inf)], 1).requires_grad_()
    entropy = prmq.entropies(many)
    assert torch.allclose(entropy, prmq.entropies(few))
    assert torch.autograd.grad(entropy.sum(), many)[0].isfinite().all()


def test_prmq_passes_three_times_and_a_fifth(case: Case) -> None:
    outcome = case.serve(prmq.PRMQ, prmq.Config(batch_size=16))
    assert (outcome.steps, outcome.backward) == (3 * 3 + 1, 3 * 48 + 10)
    assert torch.equal(case.model.parameters, case.model.parameters.half().float())


# ------------------------------------------------------------------ cfw


@pytest.mark.parametrize("blurred", ["first", "all"])
def test_cfw_blurs_the_first_kernel_or_all(case: Case, blurred: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    without_training(monkeypatch, cfw)
    start = case.model.parameters.clone()
    case.serve(cfw.CFW, cfw.Config(blurred=blurred, last_sigma=0.0))
    change = case.model.parameters - start
    kernels = [place for name, place in case.model.slices.items() if name in ("body.1.weight", "body.3.weight")]
    reached = kernels if blurred == "all" else kernels[:1]
    expected = torch.zeros(len(start), dtype=torch.bool)
    for place in reached:
        expected[place] = True
        assert float(change[place].std()) == pytest.approx(0.6, rel=0.5)
    assert torch.equal(change != 0, expected)


def test_cfw_blurs_again_before_the_last_pass(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watched(monkeypatch, cfw)
    case.serve(cfw.CFW, cfw.Config(batch_size=16, epochs=3))
    assert [one.config.epochs for one in seen] == [2, 1]
    change = seen[1].before - seen[0].after
    kernel = case.model.slices["body.1.weight"]
    assert float(change[kernel].std()) == pytest.approx(0.005, rel=0.5)
    change[kernel] = 0.0
    assert not change.any()
    case.serve(cfw.CFW, cfw.Config(batch_size=16, epochs=1))
    assert len(seen) == 3, "with one pass there is none before the last"


def test_balanced_classes_count_alike_and_a_weighed_batch_does_not_turn(case: Case) -> None:
    labels = torch.tensor([0, 0, 0, 0, 2, 2])
    weights = cfw.balanced(labels, 4)
    assert torch.zeros(4).index_add(0, labels, weights[labels]).tolist() == [3, 0, 3, 0]
    says = torch.randn(6, CLASSES, generator=torch.Generator().manual_seed(0), requires_grad=True)
    batch: Any = SimpleNamespace(y=labels)
    losses = F.cross_entropy(says, labels, reduction="none")
    (plain,) = torch.autograd.grad(losses.mean(), says, retain_graph=True)
    slopes = {}
    for weigh in ("samples", "batch"):
        hook = cfw.Balanced(weights * torch.tensor([2.0, 1.0, 1.0, 1.0]), weigh)
        weighed = hook.losses(losses, says, batch).mean()
        slopes[weigh] = torch.autograd.grad(weighed, says, retain_graph=True)[0]
    assert torch.allclose(slopes["batch"], 1.5 * plain)
    assert torch.allclose(slopes["samples"], torch.tensor([[1.5]] * 6) * plain)  # 4 x .75 x 2 and 2 x 1.5
    assert not torch.allclose(cfw.Balanced(weights, "samples").losses(losses, says, batch), losses)


# ------------------------------------------------------------------ rni


def test_rni_trains_drawn_tensors_and_norms_and_then_all(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(tools, normed)
    seen = watched(monkeypatch, rni)
    case.serve(rni.RNI, rni.Config(tensors=2, epochs=3, fine_epochs=5, fine_rates=(1e-3, 2e-3), weight_decay=0.1))
    assert [one.config.lr for one in seen] == [2e-4] * 3 + [1e-3] + [2e-3] * 4
    for one in seen:
        moved = {name for name, place in case.model.slices.items() if (one.before != one.after)[place].any()}
        assert {"body.2.weight", "body.2.bias"} <= moved
        if one.config.lr == 2e-4:
            assert len(moved) <= 4
        else:
            assert len(moved) == len(case.model.slices)


def test_rni_blurs_some_of_the_drawn_tensors_once(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, start = watched(monkeypatch, rni), case.model.parameters.clone()
    config = rni.Config(tensors=3, epochs=8, fine_epochs=1, noise_share=1.0, noise=0.5, batch_size=16)
    case.serve(rni.RNI, config)
    head = case.model.mask("head").bool()
    assert torch.equal(seen[0].before[~head], start[~head]), "before the first pass there is a new head, and no noise"
    assert (seen[0].before[head] != start[head]).all()
    tensors, trained, blurred = list(case.model.slices.values()), set[int](), set[int]()
    for number, (earlier, one) in enumerate(zip(seen, seen[1:], strict=False)):
        trained |= set(rni.drawn(6, 3, KEY / "pass" / number / "tensors"))
        now = {i for i, place in enumerate(tensors) if (one.before != earlier.after)[place].any()}
        chosen = set(rni.drawn(6, 3, KEY / "pass" / (number + 1) / "tensors"))
        assert now == (chosen - trained if number < 7 else set())
        blurred |= now
    assert len(blurred) == 3, "those of the first draw never are"
    case.model.parameters[:] = start
    case.serve(rni.RNI, config.model_copy(update={"noise_share": 0.3}))
    assert all(torch.equal(a.after, b.before) for a, b in zip(seen[9:], seen[10:], strict=False)), "int(.3 x 3) is 0"
