"""Unlearners in one or two steps, each held against what its paper says of that step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from lives import teach
from torch import nn

from strategies.base import Unlearner
from strategies.composed import Composed
from strategies.learner import SGDLearner
from strategies.learners import importance_log, naive, update_log
from strategies.objectives.classification import Classification
from strategies.objectives.regression import Regression
from strategies.outcome import Outcome
from strategies.parts.fit import FitConfig, fit
from strategies.parts.model import FlatModel, Network
from strategies.parts.weights.dampening import ImportanceLog
from strategies.parts.weights.fisher import diagonal_fisher, loss_gradient
from strategies.unlearners import (
    _dampen,
    bad_teacher,
    blindspot,
    boundary_shrink,
    concept_poisoning,
    laf,
    salun,
    scrub,
    ssd,
    unsir,
)
from streams.data import Batch, Data
from streams.errors import TrainingError
from streams.events import DeletionRequest, Request
from streams.ledger import Ledger
from streams.plan import Plan
from streams.randomness import Key
from streams.scenarios import class_incremental

NONE = np.array([], dtype=np.int64)
CLASSES = 4


@pytest.fixture
def plan(tools: Any) -> Plan:
    source = tools.source(num_classes=CLASSES, per_class=10)
    return class_incremental.build(source, class_incremental.Config(experiences=2), 0)


class Learned:
    """A model that has learned a small source, and requests that are served there."""

    def __init__(self, plan: Plan, tools: Any, kind: type[Unlearner], config: Any, noted: bool = False) -> None:
        self.plan, self.setting = plan, tools.setting(plan.source, plan)

        def plugins() -> list[tuple[str, Any]]:
            log = importance_log.Config()
            extra = [("importance-log", importance_log.ImportanceLogger(log, self.setting))] if noted else []
            return [("naive", naive.Naive(naive.Config(), self.setting)), *extra]

        self.strategy = Composed(SGDLearner(self.setting, plugins), kind(config, self.setting))
        self.ledger = Ledger(plan.source)
        tools.live(self.strategy, self.ledger, plan.experiences)

    @property
    def model(self) -> FlatModel:
        return self.strategy.learner.model

    def serve(self, scope: str, *keys: int, name: str = "request-0") -> Outcome:
        source = self.plan.source
        column = source.class_ids if scope == "class" else np.arange(len(source))
        ids = np.flatnonzero(np.isin(column, keys) & ~source.is_test)
        request = DeletionRequest(name, (Request(scope, keys, ids, NONE, 0),))  # type: ignore[arg-type]
        self.ledger.delete(request)
        door = self.ledger.door(self.strategy.access, NONE, request.sample_ids)
        outcome = self.strategy.forget(request, door)
        door.close()
        return outcome


class Fits:
    """Stands in for `fit` in a module: writes down what each training is given, and trains."""

    def __init__(self, module: Any, patch: pytest.MonkeyPatch) -> None:
        self.ids: list[np.ndarray] = []
        self.configs: list[FitConfig] = []
        self.moments: list[list[torch.Tensor]] = []
        patch.setattr(module, "fit", self)

    def __call__(self, model: FlatModel, objective: Any, data: Data, config: FitConfig, *rest: Any) -> Outcome:
        self.ids.append(data.ids.copy())
        self.configs.append(config)
        optimizer = rest[2] if len(rest) > 2 else None
        state = {} if optimizer is None else optimizer.state_dict()
        self.moments.append([v.clone() for v in state.values() if isinstance(v, torch.Tensor)])
        return fit(model, objective, data, config, *rest)


def linear(weight: list[list[float]], bias: list[float], body: nn.Module | None = None) -> FlatModel:
    """A model of one linear layer with these weights."""
    head = nn.Linear(len(weight[0]), len(weight))
    with torch.no_grad():
        head.weight.copy_(torch.tensor(weight))
        head.bias.copy_(torch.tensor(bias))
    return FlatModel(Network(nn.Flatten() if body is None else body, head))


def test_salun_soft_pulls_towards_where_it_began_by_a_share_that_falls() -> None:
    start = torch.zeros(10)
    change = torch.arange(1.0, 11.0)
    soften = salun.Soften(start, share=0.8, steps=4)
    start += 100  # as the model's weights, which it was made with, move on
    back = [int((soften.displace(change.clone(), None) == 0).sum()) for _ in range(4)]  # type: ignore[arg-type]
    assert back == [8, 6, 4, 2]


@pytest.mark.parametrize("order", ["mixed", "forget-first"])
def test_salun_soft_leaves_to_move_what_share_says(
    order: Any, plan: Plan, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = []
    made = salun.Soften.__init__

    def noted(self: Any, start: torch.Tensor, share: float, steps: int) -> None:
        shares.append((share, steps))
        made(self, start, share, steps)

    monkeypatch.setattr(salun.Soften, "__init__", noted)
    config = salun.Config(form="soft", share=0.7, epochs=3, batch_size=10, order=order)
    outcome = Learned(plan, tools, salun.SalUn, config).serve("sample", 0, 1, 2)
    assert shares == [(pytest.approx(0.3), outcome.steps)]


@pytest.mark.parametrize("estimator", ["per-sample", "batch"])
def test_ssd_estimates_importances_as_it_is_told(
    estimator: Any, plan: Plan, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    importances = []

    def spying(theta: torch.Tensor, whole: torch.Tensor, forget: torch.Tensor, *rest: float) -> Any:
        importances.append((whole.clone(), forget.clone()))
        return dampened(theta, whole, forget, *rest)

    dampened = _dampen.dampened
    monkeypatch.setattr(_dampen, "dampened", spying)
    life = Learned(plan, tools, ssd.SSD, ssd.Config(estimator=estimator, alpha=1.5))
    live, forget_ids = life.ledger.live_ids, np.array([0, 1, 2])
    expected = []
    for ids in (live, forget_ids):
        data = tools.lend(plan.source, ids)
        if estimator == "batch":  # all are in one batch
            expected.append((loss_gradient(life.model, life.setting.objective, data) / len(data)).square())
        else:
            rows = [loss_gradient(life.model, life.setting.objective, tools.lend(plan.source, [i])) for i in ids]
            expected.append(torch.stack(rows).square().mean(0))
    life.serve("sample", 0, 1, 2)
    for given, by_hand in zip(importances[0], expected, strict=True):
        assert torch.allclose(given, by_hand, rtol=1e-4, atol=1e-9)


def test_stored_importances_are_reduced_by_what_a_request_deletes(plan: Plan, tools: Any) -> None:
    life = Learned(plan, tools, ssd.SSD, ssd.Config(whole="stored"), noted=True)
    log = life.strategy.learner.part(ImportanceLog)
    total, count = log.mean * log.count, log.count
    assert count == len(life.ledger.live_ids)
    data = tools.lend(plan.source, [0, 1, 2])
    mine, _ = diagonal_fisher(life.model, life.setting.objective, data, "empirical", Key(0), 256)
    life.serve("sample", 0, 1, 2)
    assert log.count == count - 3
    assert torch.allclose(log.mean, (total - 3 * mine).clamp(min=0) / (count - 3), atol=1e-7)


def test_scrub_takes_its_moments_over_a_decay(plan: Plan, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = Fits(scrub, monkeypatch)
    options = {"epochs": 2, "max_epochs": 0, "decay_epochs": (1,), "momentum": 0.9, "batch_size": 100}
    Learned(plan, tools, scrub.SCRUB, scrub.Config.model_validate(options)).serve("class", 0)
    assert [c.lr for c in fits.configs] == pytest.approx([5e-4, 5e-5])
    assert any(bool((m != 0).any()) for m in fits.moments[1])


def test_scrub_rewinds_to_where_the_forget_set_is_as_wrong_as_what_was_held_out(
    plan: Plan, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, torch.Tensor]] = []
    errors = iter([0.9, 0.4, 0.6, 0.1, 0.45])  # of the forget set after four epochs, and of what was held out

    def error(self: scrub.SCRUB, model: FlatModel, data: Data) -> float:
        seen.append((next(errors), model.parameters.clone()))
        return seen[-1][0]

    monkeypatch.setattr(scrub.SCRUB, "_error", error)
    options = {"epochs": 4, "max_epochs": 4, "lr": 0.05, "rewind": 0.3, "decay_epochs": ()}
    life = Learned(plan, tools, scrub.SCRUB, scrub.Config.model_validate(options))
    life.serve("sample", 0, 1, 2)
    assert [torch.equal(life.model.parameters, at) for _, at in seen[:4]] == [False, True, False, False]


@pytest.mark.parametrize(
    ("bound", "limits", "levels", "label"),
    [
        (0.07, None, None, 0),  # 0.6 moves to 0.53
        (0.07, None, 2, 1),  # which is nearest to 0.5
        (0.15, None, None, 1),  # 0.6 moves to 0.45
        (0.15, (0.55, 1.0), None, 0),  # which is outside
    ],
)
def test_boundary_shrink_keeps_inputs_what_pixels_are(bound: float, limits: Any, levels: Any, label: int) -> None:
    """One input, of class 0 above 0.51."""
    model = linear([[1.0], [-1.0]], [-0.51, 0.51])
    data = Data(np.array([0]), torch.tensor([[0.6]]), torch.tensor([0]), None)
    config = boundary_shrink.Config(bound=bound, limits=limits, levels=levels)
    assert boundary_shrink.nearest_labels(model, Classification(2), data, config).tolist() == [label]


def test_bad_teacher_takes_a_share_of_the_retained(plan: Plan, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = Fits(bad_teacher, monkeypatch)
    life = Learned(plan, tools, bad_teacher.BadTeacher, bad_teacher.Config(subset=0.4))
    life.serve("class", 0)
    retained = np.setdiff1d(fits.ids[0], np.flatnonzero(plan.source.class_ids == 0))
    assert len(retained) == round(0.4 * len(life.ledger.live_ids))
    assert np.isin(retained, life.ledger.live_ids).all()
    assert len(fits.ids[0]) - len(retained) == 10


def test_unsir_repairs_at_its_own_rate_and_starts_every_class_from_other_noise(
    plan: Plan, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits, starts = Fits(unsir, monkeypatch), []

    def spying(model: FlatModel, objective: Any, start: torch.Tensor, *rest: Any) -> torch.Tensor:
        starts.append(start.clone())
        return learn_noise(model, objective, start, *rest)

    learn_noise = unsir.learn_noise
    monkeypatch.setattr(unsir, "learn_noise", spying)
    options = {"lr": 0.03, "repair_lr": 0.002, "batch_size": 8, "copies": 2, "noise_steps": 2, "per_class": 5}
    Learned(plan, tools, unsir.UNSIR, unsir.Config.model_validate(options)).serve("class", 0, 1)
    assert [c.lr for c in fits.configs] == [0.03, 0.002]
    assert [len(ids) for ids in fits.ids] == [2 * 5 + 2 * 2 * 8, 2 * 5]
    assert len(starts) == 2
    assert not torch.equal(starts[0], starts[1])


@pytest.mark.parametrize("corner", [(0, 0), (0, 4), (4, 2)])
def test_the_window_is_where_the_concept_is(corner: tuple[int, int]) -> None:
    """The features are the pixels, and the concept is brightness."""
    top, left = corner
    x = torch.zeros(1, 1, 8, 8)
    x[:, :, top : top + 4, left : left + 4] = 1.0
    model = linear([[0.0] * 64] * 2, [0.0, 0.0])
    config, concept = concept_poisoning.Config(size=0.5), torch.full((64,), 1 / 8)
    window = concept_poisoning.window_of(model, x, concept, config, Key(0), np.array([0]))
    assert window.tolist() == [list(corner)]


def test_every_poisoned_image_has_a_donor_of_its_own() -> None:
    x = torch.zeros(3, 1, 4, 4)
    donors = torch.arange(1.0, 4.0).view(3, 1, 1, 1).expand(3, 1, 4, 4)
    for corners in (torch.tensor([[0, 0], [1, 1], [2, 2]]), None):
        assert concept_poisoning.pasted(x, donors, corners, 0.5).amax((1, 2, 3)).tolist() == [1, 2, 3]


def test_blindspot_weighs_the_distance_of_attention_maps(tools: Any) -> None:
    body = [nn.Sequential(nn.Linear(3, 5), nn.ReLU()) for _ in range(2)]
    models = [FlatModel(Network(b, nn.Linear(5, 1))) for b in body]
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    batch = Batch(torch.arange(4), x, torch.zeros(4), None)
    is_forget = torch.tensor([True, True, False, False])
    follow = blindspot.FollowProxy(*models, Regression(), is_forget, weight=50.0)
    outputs = models[0](x)
    losses = follow.losses(torch.zeros(4), outputs, batch).detach()
    follow.close()
    maps = [nn.functional.normalize(m.network.body[0](x).square(), dim=1) for m in models]
    followed = (outputs - models[1](x)).abs().squeeze(1) + 50 * (maps[0] - maps[1]).square().mean(1)
    expected = torch.where(is_forget, followed, outputs.abs().squeeze(1))
    assert torch.allclose(losses, expected.detach(), atol=1e-6)


def test_the_limit_of_an_update_log_is_that_of_a_life(plan: Plan, tools: Any) -> None:
    """Every experience takes ten steps; what is left of the limit after the first is too little for the second."""
    setting = tools.setting(plan.source, plan)
    step = setting.make_model().parameters.numel() * 4 / 2**20
    for room, fits in ((21, True), (15, False)):
        config = update_log.Config(max_megabytes=room * step)
        learner = SGDLearner(setting, lambda config=config: [("update-log", update_log.UpdateLogger(config, setting))])
        teach(learner, plan, [0])
        if fits:
            teach(learner, plan, [1])
        else:
            with pytest.raises(TrainingError, match="20 steps of this model"):
                teach(learner, plan, [1])


def test_laf_s_first_auto_encoder_learns_the_features_of_all_data(
    plan: Plan, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[tuple[str, int]] = []
    train = laf.train_vae

    def noted(vae: Any, e: torch.Tensor, *rest: Any) -> Any:
        learned.append((str(rest[-1].path[-1]), len(e)))
        return train(vae, e, *rest)

    monkeypatch.setattr(laf, "train_vae", noted)
    life = Learned(plan, tools, laf.LAF, laf.Config(epochs=1, vae_epochs=1, max_ratio=None))
    life.serve("class", 0)
    assert learned == [("whole", 40), ("forget", 10)]


def test_laf_r_repairs_the_head_alone(plan: Plan, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[torch.Tensor] = []
    life = Learned(plan, tools, laf.LAF, laf.Config(epochs=1, vae_epochs=1, max_ratio=None, repair=FitConfig(lr=0.1)))

    def noted(model: FlatModel, *rest: Any) -> Outcome:
        before = model.parameters.clone()
        outcome = fit(model, *rest)
        moved.append(model.parameters != before)
        return outcome

    monkeypatch.setattr(laf, "fit", noted)
    life.serve("class", 0)
    (where,) = moved
    head = life.model.mask("head").bool()
    assert bool(where[head].any())
    assert not bool(where[~head].any())
