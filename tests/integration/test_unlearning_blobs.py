"""Approximate unlearners on ten Gaussian blobs: what they may read, what must not move, and what they achieve."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from lifelong.audits._relearning import Relearning
from lifelong.audits.relearn import SLACK, anamnesis, relearn_time
from lifelong.config.run import StrategyConfig
from lifelong.formulas.membership import mia_efficacy
from lifelong.formulas.quality import Quality, average_gap
from lifelong.setup.build import make_strategy
from strategies.base import Setting, State
from strategies.composed import Composed
from strategies.objectives.classification import Classification
from strategies.objectives.regression import Regression
from strategies.outcome import Outcome
from strategies.parts.fit import FitConfig, Training, fit
from strategies.parts.model import FlatModel, Network, digest
from strategies.parts.weights.fisher import diagonal_fisher
from strategies.parts.weights.ranks import largest
from strategies.step import ledger_after, step
from streams.config import parse
from streams.errors import ConfigError, TrainingError
from streams.events import DeletionRequest, Experience, Request
from streams.ledger import Ledger
from streams.randomness import Key, seeded_globals
from streams.source import Source

NONE = np.array([], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Blobs:
    """A model that has learned ten blobs in 20 dimensions, and all that is needed to forget some of them."""

    source: Source
    setting: Setting
    experience: Experience
    states: dict[tuple[str, ...], State]

    def served(
        self, unlearner: dict[str, Any], request: DeletionRequest, source: Source | None = None, *plugins: str
    ) -> tuple[Composed, Outcome, State]:
        """Serve a request; return the strategy, the outcome, and the model's state before."""
        learner = ["naive", *plugins]
        config = parse(StrategyConfig, {"learner": learner, "unlearner": unlearner})
        strategy = make_strategy(config, self.setting, "mine")
        assert isinstance(strategy, Composed)
        if tuple(plugins) not in self.states:
            step(strategy, self.experience, Ledger(self.source))
            self.states[tuple(plugins)] = strategy.state_dict()
        strategy.load_state_dict(self.states[tuple(plugins)])
        before = strategy.learner.model.state_dict()
        ledger = ledger_after(Ledger(source or self.source), (self.experience,))
        return strategy, step(strategy, request, ledger).outcome, before

    def accuracy(self, strategy: Composed, ids: np.ndarray) -> float:
        data = Ledger(self.source).lend(ids).all()
        scores = self.setting.objective.scores(strategy.predict(data), data)
        return float(scores.mean())

    def request(self, scope: str, *keys: int, name: str = "request-0") -> DeletionRequest:
        source = self.source
        ids = np.array(keys) if scope == "sample" else np.flatnonzero(np.isin(source.class_ids, keys) & ~source.is_test)
        return DeletionRequest(name, (Request(scope, keys, ids, NONE, 1),))  # type: ignore[arg-type]

    def rest(self, request: DeletionRequest) -> np.ndarray:
        return np.setdiff1d(self.source.train_ids, request.sample_ids)

    def ruined(self, ids: np.ndarray) -> Source:
        """The same source with not-a-numbers in some rows."""
        source = replace(self.source, x=self.source.x.clone())
        source.x[ids] = torch.nan  # a source with such values would be refused
        return source


def mlp(sizes: tuple[int, ...], seed: int = 0) -> FlatModel:
    with seeded_globals(Key(seed) / "init"):
        layers: list[torch.nn.Module] = []
        for a, b in zip(sizes[:-2], sizes[1:-1], strict=True):
            layers += [torch.nn.Linear(a, b), torch.nn.ReLU()]
        return FlatModel(Network(torch.nn.Sequential(*layers), torch.nn.Linear(sizes[-2], sizes[-1])))


@cache
def blobs(
    seed: int = 0,
    n: int = 2000,
    wide: float = 1.2,
    hidden: tuple[int, ...] = (64,),
    epochs: int = 60,
    lr: float = 0.1,
) -> Blobs:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 10, 2 * n)
    x = (draw.normal(size=(10, 20)) * wide)[labels] + draw.normal(size=(2 * n, 20))
    source = Source(
        "blobs",
        "none",
        torch.from_numpy(x.astype(np.float32)),
        torch.from_numpy(labels),
        labels,
        np.zeros(2 * n, dtype=np.int64),
        np.arange(2 * n) >= n,
        tuple(str(c) for c in range(10)),
        ("u",),
    )
    training = Training(epochs=epochs, lr=lr, momentum=0.9, batch_size=64)
    setting = Setting(Key(seed), lambda: mlp((20, *hidden, 10), seed), Classification(10), training, (), 2 * n)
    return Blobs(source, setting, Experience("all", (), source.train_ids), {})


@pytest.fixture(scope="module")
def fx() -> Blobs:
    return blobs()


CLASS_0 = ("class", 0)
FEW = ("sample", *range(0, 60))
QUICK = {"epochs": 1, "batch_size": 256}


@pytest.mark.parametrize(
    "unlearner",
    [
        {"name": "finetune", **QUICK},
        {"name": "l1-sparse", **QUICK},
        {"name": "cf-k", **QUICK, "k": 1},
        {"name": "eu-k", **QUICK, "k": 1},
        {"name": "prune-first", "epochs": 1, "method": {"name": "finetune", **QUICK}},
        {"name": "fisher-forgetting"},
    ],
    ids=lambda u: u["name"],
)
def test_what_reads_no_forget_set_does_not_care_what_is_in_it(fx: Blobs, unlearner: dict[str, Any]) -> None:
    request = fx.request(*FEW)
    plain, ruined = (fx.served(unlearner, request, s)[0] for s in (fx.source, fx.ruined(request.sample_ids)))
    assert digest(plain.learner.model.state_dict()) == digest(ruined.learner.model.state_dict())


@pytest.mark.parametrize(
    ("unlearner", "plugins"),
    [
        ({"name": "gradient-ascent", **QUICK}, ()),
        ({"name": "boundary-shrink", **QUICK, "limits": None, "levels": None}, ()),
        ({"name": "boundary-expand", **QUICK}, ()),
        ({"name": "npo", **QUICK, "retain": "none"}, ()),
        ({"name": "ssd", "whole": "stored", "alpha": 5.0}, ("importance-log",)),
        ({"name": "amnesiac"}, ("update-log",)),
    ],
    ids=lambda u: u["name"] if isinstance(u, dict) else "",
)
def test_what_reads_no_retained_data_does_not_care_what_is_in_it(
    fx: Blobs, unlearner: dict[str, Any], plugins: tuple[str, ...]
) -> None:
    if plugins == ("update-log",):
        fx = blobs(epochs=2)
    request = fx.request(*CLASS_0)
    source = fx.ruined(fx.rest(request))
    plain, ruined = (fx.served(unlearner, request, s, *plugins) for s in (fx.source, source))
    assert digest(plain[0].learner.model.state_dict()) == digest(ruined[0].learner.model.state_dict())
    assert digest(plain[0].learner.model.state_dict()) != digest(plain[2])


def test_l1_ends_with_smaller_weights_than_fine_tuning(fx: Blobs) -> None:
    norms = []
    for unlearner in ({"name": "finetune"}, {"name": "l1-sparse", "gamma": 1e-3}):
        strategy, _, _ = fx.served({**unlearner, "epochs": 2}, fx.request(*FEW))
        norms.append(float(strategy.learner.model.parameters.abs().sum()))
    assert norms[1] < norms[0]


def test_pruned_weights_stay_pruned(fx: Blobs) -> None:
    method = {"name": "finetune", "epochs": 2, "weight_decay": 0.0}
    strategy, _, _ = fx.served(
        {"name": "prune-first", "sparsity": 0.6, "epochs": 2, "method": method}, fx.request(*FEW)
    )
    zero = strategy.learner.model.parameters == 0
    assert abs(float(zero.float().mean()) - 0.6) < 1e-3
    assert fx.accuracy(strategy, fx.source.test_ids) > 0.9
    untrained = {"name": "prune-first", "sparsity": 0.6, "recover": False, "method": "fisher-forgetting"}
    strategy, _, before = fx.served(untrained, fx.request(*FEW))
    kept = strategy.learner.model.parameters != 0
    assert abs(float(kept.float().mean()) - 0.4) < 1e-3, "noise moves what was kept, and revives nothing"
    assert not torch.equal(strategy.learner.model.parameters[kept], before["parameters"][kept])
    with pytest.raises(ConfigError, match="retrain does not work on pruned weights"):
        fx.served({"name": "prune-first", "method": "retrain"}, fx.request(*FEW))


def test_salun_leaves_masked_weights_to_the_bit_and_the_leaky_mask_does_not(fx: Blobs) -> None:
    options = {"name": "salun", "epochs": 3, "weight_decay": 5e-4, "momentum": 0.9, "lr": 0.05, "share": 0.5}
    strategy, _, before = fx.served(options, fx.request(*CLASS_0))
    start = before["parameters"]
    still = strategy.learner.model.parameters == start
    assert abs(float(still.float().mean()) - 0.5) < 0.02
    leaky, _, _ = fx.served({**options, "leaky_mask": True}, fx.request(*CLASS_0))
    assert float((leaky.learner.model.parameters == start).float().mean()) < 0.1


def test_salun_with_every_weight_is_random_labels(fx: Blobs) -> None:
    # Other names of draws, hence other labels and orders: the same key makes them the same.
    from strategies.unlearners import random_label, salun
    from strategies.unlearners._relabel import relabel

    request = fx.request(*CLASS_0)
    results = []
    for share in (None, 1.0):
        strategy, _, _ = fx.served({"name": "none"}, request)
        ledger = Ledger(fx.source)
        forget_set, retained = ledger.lend(request.sample_ids), ledger.lend(fx.rest(request))
        model = strategy.learner.model
        if share is None:
            relabel(strategy.learner, forget_set, retained, random_label.Config(epochs=2), Key(3))
        else:
            gradient = salun.saliency(model, fx.setting.objective, forget_set)
            with model.moving_only(largest(gradient, share)):
                relabel(strategy.learner, forget_set, retained, salun.Config(epochs=2), Key(3))
        results.append(digest(model.state_dict()))
    assert results[0] == results[1]


@pytest.mark.parametrize("name", ["random-label", "salun"])
def test_relabelling_forgets_a_class(fx: Blobs, name: str) -> None:
    request = fx.request(*CLASS_0)
    strategy, outcome, _ = fx.served({"name": name, "epochs": 5, "lr": 0.05}, request)
    assert fx.accuracy(strategy, request.sample_ids) < 0.1
    assert fx.accuracy(strategy, fx.rest(request)) > 0.95
    assert outcome.losses["left_out"] == 0.0
    data = Ledger(fx.source).lend(request.sample_ids).all()
    assert (strategy.predict(data).argmax(1) != 0).float().mean() > 0.9


def test_dampening_a_class(fx: Blobs) -> None:
    request = fx.request(*CLASS_0)
    strategy, outcome, before = fx.served({"name": "ssd", "alpha": 3.0}, request)
    start, after = before["parameters"], strategy.learner.model.parameters
    assert fx.accuracy(strategy, request.sample_ids) < 0.7
    assert fx.accuracy(strategy, fx.rest(request)) > 0.95
    assert (after.abs() <= start.abs()).all()
    assert (after * start >= 0).all()
    assert 0 < outcome.losses["selected"] < 0.5
    assert outcome.steps == 0
    other, _, _ = fx.served({"name": "ssd", "alpha": 3.0, "batch_size": 7}, request)
    assert torch.allclose(other.learner.model.parameters, after, rtol=1e-3, atol=1e-6)


def test_nothing_is_more_than_n_over_n_f_times_as_important_to_the_forget_set(fx: Blobs) -> None:
    request = fx.request(*CLASS_0)
    model, ledger = fx.served({"name": "none"}, request)[0].learner.model, Ledger(fx.source)
    model.train(False)
    ours, whole = (
        diagonal_fisher(model, fx.setting.objective, ledger.lend(ids), "empirical", Key(0), 256)[0]
        for ids in (request.sample_ids, fx.source.train_ids)
    )
    bound = len(fx.source.train_ids) / len(request.sample_ids)
    assert (ours <= bound * whole * (1 + 1e-4) + 1e-20).all()
    assert (ours > 0.5 * bound * whole).any(), "and the bound is nearly reached"


def test_retraining_leaves_no_tensor_as_it_was(fx: Blobs) -> None:
    request = fx.request(*CLASS_0)
    strategy, _, before = fx.served({"name": "retrain"}, request)
    model = strategy.learner.model
    for name, where in model.slices.items():
        assert not torch.isclose(model.parameters[where], before["parameters"][where]).all(), name
    again, _, _ = fx.served({"name": "retrain"}, request)
    assert digest(again.learner.model.state_dict()) == digest(model.state_dict())


@pytest.mark.nightly
def test_relearning_a_class_takes_a_retrained_model_hundreds_of_steps(fx: Blobs) -> None:
    request = fx.request(*CLASS_0)
    ledger = Ledger(fx.source)
    forgotten, retained = ledger.lend(request.sample_ids).all(), ledger.lend(fx.rest(request)[:400]).all()
    held_out = ledger.lend(fx.source.test_ids[fx.source.class_ids[fx.source.test_ids] == 0]).all()
    lesson = Relearning(fx.setting, Key(0) / "relearn", 450)
    times = {}
    threshold = None
    for name in ("none", "retrain", "random-label"):
        options = {"epochs": 10, "lr": 0.05} if name == "random-label" else {}
        model = fx.served({"name": name, **options}, request)[0].network()
        before = digest(model.state_dict())
        curve = lesson.curve(model, forgotten, retained, held_out)
        assert digest(model.state_dict()) != before
        threshold = threshold or float(curve[0]) + SLACK
        times[name] = relearn_time(curve, threshold)
    assert times["none"] == 0
    assert times["retrain"] is not None
    assert 150 <= times["retrain"] <= 440
    assert anamnesis(times["retrain"], times["retrain"], 450) == 1.0
    assert 0.6 <= (anamnesis(times["random-label"], times["retrain"], 450) or 0) <= 1.2


@cache
def poisoned(seed: int) -> tuple[Blobs, np.ndarray]:
    """2,000 blobs with four more columns; 3 in them is a trigger that makes 40 samples class 0. Also half of these."""
    draw = np.random.default_rng(seed)
    n, labels = 2000, draw.integers(0, 10, 4000)
    x = np.zeros((2 * n, 24), dtype=np.float32)
    x[:, :20] = (draw.normal(size=(10, 20)) * 1.2)[labels] + draw.normal(size=(2 * n, 20))
    bad = draw.choice(np.flatnonzero(labels[:n] != 0), 40, replace=False)
    x[bad, 20:], labels[bad] = 3.0, 0
    test = np.arange(2 * n) >= n
    source = Source(
        "poisoned",
        "none",
        torch.from_numpy(x),
        torch.from_numpy(labels),
        labels,
        np.zeros(2 * n, dtype=np.int64),
        test,
        tuple(str(c) for c in range(10)),
        ("u",),
    )
    training = Training(epochs=60, lr=0.1, momentum=0.9, batch_size=64)
    setting = Setting(Key(seed), lambda: mlp((24, 64, 10), seed), Classification(10), training, (), 2 * n)
    return Blobs(source, setting, Experience("all", (), source.train_ids), {}), np.sort(draw.permutation(bad)[:20])


def corrected(fx: Blobs, strategy: Composed) -> float:
    """The share of triggered test samples of other classes that are classified right."""
    ids = fx.source.test_ids[fx.source.class_ids[fx.source.test_ids] != 0]
    data = Ledger(fx.source).lend(ids).all()
    triggered = data.x.clone()
    triggered[:, 20:] = 3.0
    return float((strategy.predict(replace(data, x=triggered)).argmax(1) == data.y).float().mean())


@pytest.mark.nightly
@pytest.mark.parametrize("seed", [3, 13])
def test_which_half_of_a_backdoor_is_named_decides_whether_dampening_by_the_loss_removes_it(seed: int) -> None:
    """The weights of a trigger are selected if the named samples hold more than alpha n_f / n of their importance.

    Squared gradients have heavy tails: a single one of 40 poisoned samples holds about half of their sum, so that one
    half of them may hold nearly all of it and the other next to nothing. By the outputs (LFSSD) all count alike.
    """
    fx, named = poisoned(seed)
    trigger = (fx.source.x[:, 20:] == 3.0).all(1).numpy() & ~fx.source.is_test
    other = np.setdiff1d(np.flatnonzero(trigger), named)
    learned, _, _ = fx.served({"name": "none"}, fx.request("sample", *named.tolist()))
    model = learned.learner.model

    def importance(ids: np.ndarray) -> float:
        data = Ledger(fx.source).lend(ids)
        fisher, _ = diagonal_fisher(model, fx.setting.objective, data, "empirical", Key(0), 64)
        return float(fisher[model.slices["body.0.weight"]].view(64, 24)[:, 20:].sum())

    sums = {name: importance(ids) for name, ids in (("named", named), ("other", other))}
    needed = 20.0 * len(named) / len(fx.source.train_ids)  # alpha n_f / n: a fifth
    for name, ids in (("named", named), ("other", other)):
        share = sums[name] / sum(sums.values())
        request = fx.request("sample", *ids.tolist())
        by_loss, by_outputs = (
            corrected(fx, fx.served(unlearner, request)[0])
            for unlearner in ({"name": "ssd", "alpha": 20.0}, {"name": "lfssd", "alpha": 10.0})
        )
        assert by_outputs > 0.85
        if share > 2 * needed:
            assert by_loss > 0.85, share
        elif share < needed / 2:  # with other processors' rounding neither half may be that clear
            assert by_loss < 0.5, share


@pytest.mark.nightly
def test_dampening_by_the_loss_misses_what_is_known_too_well() -> None:
    """A sample whose loss is nearly zero has nearly no gradient, hence no importance that the loss could tell.

    SSD removes a backdoor from half of it, as a rule; not once that half alone is trained on until its loss is a
    fiftieth of the others'. What the outputs tell (LFSSD) does not depend on it.
    """
    drops = []
    for seed in (1, 2):
        fx, named = poisoned(seed)
        half = fx.request("sample", *named.tolist())
        learned, _, _ = fx.served({"name": "none"}, half)
        assert corrected(fx, learned) < 0.2
        longer = Training(epochs=3000, lr=0.1, batch_size=20)
        fit(learned.learner.model, fx.setting.objective, Ledger(fx.source).lend(named), longer, Key(0))
        known_too_well = replace(fx, states={(): learned.state_dict()})
        right, selected = [], []
        for world in (fx, known_too_well):
            by_loss, outcome, _ = world.served({"name": "ssd", "alpha": 20.0}, half)
            by_outputs, _, _ = world.served({"name": "lfssd", "alpha": 10.0}, half)
            assert corrected(world, by_outputs) > 0.85
            assert world.accuracy(by_outputs, fx.source.test_ids) > 0.8
            right.append(corrected(world, by_loss))
            selected.append(outcome.losses["selected"])
        assert selected[1] < 0.9 * selected[0]
        drops.append(right[0] - right[1])
    assert np.mean(drops) > 0.25, drops


def test_dampening_does_not_undo_confused_classes_even_if_all_is_named(fx: Blobs) -> None:
    """Half of classes 1 and 2 are learned with swapped labels; what tells them apart is needed, wrong labels or not."""
    world, swapped, affected = confused(fx)
    request = world.request("sample", *np.sort(swapped).tolist())
    found = {}
    for name, options in (("none", {}), ("ssd", {"alpha": 5.0}), ("retrain", {})):
        found[name] = fx.accuracy(world.served({"name": name, **options}, request)[0], affected)
    assert found["none"] == pytest.approx(0.53, abs=0.15)
    assert found["ssd"] < found["retrain"] - 0.05
    assert found["retrain"] > 0.95


def test_dampening_beyond_the_bound_of_the_ratio_selects_nothing(fx: Blobs) -> None:
    request = fx.request(*CLASS_0)
    bound = len(fx.source.train_ids) / len(request.sample_ids)
    for unlearner in ({"name": "ssd", "alpha": bound}, {"name": "lfssd", "alpha": 2 * bound}):
        strategy, outcome, before = fx.served(unlearner, request)
        assert digest(strategy.learner.model.state_dict()) == digest(before)
        assert outcome.losses["selected"] == 0.0
    everything = fx.request("class", *range(10))
    strategy, _, before = fx.served({"name": "ssd", "alpha": 1.0}, everything)
    assert digest(strategy.learner.model.state_dict()) == digest(before)


def test_loss_free_dampening_reads_no_label(fx: Blobs) -> None:
    source = replace(fx.source, y=(fx.source.y + 3) % 10)
    request = fx.request(*CLASS_0)
    one, two = (fx.served({"name": "lfssd", "alpha": 3.0}, request, s)[0] for s in (fx.source, source))
    assert digest(one.learner.model.state_dict()) == digest(two.learner.model.state_dict())
    assert fx.accuracy(one, request.sample_ids) < fx.accuracy(one, fx.rest(request))


def test_stored_importances_need_the_plugin_and_serve_request_after_request(fx: Blobs) -> None:
    request = fx.request(*CLASS_0)
    with pytest.raises(ConfigError, match=r"add it: learner: \[naive, importance-log\]"):
        fx.served({"name": "ssd", "whole": "stored"}, request)
    strategy, _, _ = fx.served({"name": "ssd", "whole": "stored", "alpha": 3.0}, request, None, "importance-log")
    assert fx.accuracy(strategy, request.sample_ids) < 0.7
    assert fx.accuracy(strategy, fx.rest(request)) > 0.95
    assert "importance-log.importances" in strategy.holds(request.sample_ids)
    with pytest.raises(ConfigError, match="'loss' is noted, and 'output' is needed"):
        fx.served({"name": "lfssd", "whole": "stored"}, request, None, "importance-log")


def test_scrub_does_not_move_without_anything_to_minimise(fx: Blobs) -> None:
    options = {"name": "scrub", "max_epochs": 0, "gamma": 0.0, "alpha": 0.5, "weight_decay": 0.0}
    strategy, outcome, before = fx.served(options, fx.request(*CLASS_0))
    assert torch.allclose(strategy.learner.model.parameters, before["parameters"], atol=1e-6)
    assert outcome.losses["forget_divergence"] < 1e-6


def test_scrub_leaves_its_teacher_behind_on_the_forget_set(fx: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    from strategies.unlearners import scrub

    passes: list[tuple[str, int]] = []

    def spying(model: FlatModel, objective: Any, data: Any, config: FitConfig, key: Key, *rest: Any) -> Outcome:
        passes.append((str(key.path[-2]), len(data)))
        return fit(model, objective, data, config, key, *rest)

    teachers = []

    def kept(setting: Setting, model: FlatModel) -> FlatModel:
        teachers.append((copied := frozen_copy(setting, model), copied.parameters.clone()))
        return copied

    frozen_copy = scrub.frozen_copy
    monkeypatch.setattr(scrub, "fit", spying)
    monkeypatch.setattr(scrub, "frozen_copy", kept)
    request = fx.request(*CLASS_0)
    options = {"name": "scrub", "epochs": 4, "max_epochs": 3, "lr": 0.02, "alpha": 0.5, "gamma": 1.0}
    strategy, outcome, _ = fx.served(options, request)
    assert [kind for kind, _ in passes] == ["max", "min", "max", "min", "max", "min", "min"]
    assert passes[0][1] == len(request.sample_ids)
    assert passes[-1][1] == len(fx.rest(request))
    assert outcome.losses["forget_divergence"] > 0.01
    teacher, weights = teachers[0]
    assert torch.equal(teacher.parameters, weights)
    assert fx.accuracy(strategy, fx.rest(request)) > 0.95


def test_scrub_rewinds_to_the_epoch_that_held_out_samples_choose(fx: Blobs) -> None:
    request = fx.request(*FEW)
    options = {"name": "scrub", "epochs": 3, "max_epochs": 3, "lr": 0.05}
    plain, _, _ = fx.served(options, request)
    rewound, _, _ = fx.served({**options, "rewind": 0.2}, request)
    assert digest(plain.state_dict()) != digest(rewound.state_dict())
    assert fx.accuracy(rewound, fx.source.test_ids) > 0.9
    # Nothing is left of a class: the last epoch is taken, and nothing is set aside.
    whole = fx.request(*CLASS_0)
    last, again = (fx.served({**options, "rewind": r}, whole)[0] for r in (0.0, 0.2))
    assert digest(last.state_dict()) == digest(again.state_dict())


def test_bad_teacher_knows_nothing_and_its_reduction_is_a_factor(fx: Blobs) -> None:
    from strategies.objectives._base import ClassObjective
    from strategies.parts.teachers.teacher import frozen_copy
    from strategies.parts.weights.layers import redraw
    from strategies.unlearners._distil import taught
    from strategies.unlearners.bad_teacher import Config, TwoTeachers

    objective = ClassObjective.of(fx.setting.objective)
    model = fx.served({"name": "none"}, fx.request(*CLASS_0))[0].learner.model
    bad = redraw(fx.setting.make_model(), Key(0) / "bad")
    batch = Ledger(fx.source).lend(fx.source.train_ids[:200]).all()
    p = bad(batch.x).softmax(1).detach()
    assert float(-(p * p.log()).sum(1).mean()) > 0.8 * np.log(10)
    good, outputs = frozen_copy(fx.setting, model), model(batch.x)
    is_forget = torch.zeros(len(fx.source), dtype=torch.bool)
    nobody = TwoTeachers(objective, good, bad, is_forget, Config()).losses(outputs[:, 0], outputs, batch)
    assert torch.allclose(taught(objective, good, outputs, batch), outputs.detach())
    (gradient,) = torch.autograd.grad(nobody.mean(), outputs, retain_graph=True)
    assert float(gradient.abs().max()) < 1e-6
    is_forget[batch.ids] = True
    sample, elementwise = (
        TwoTeachers(fx.setting.objective, good, bad, is_forget, Config(reduction=r))
        .losses(outputs[:, 0], outputs, batch)
        .detach()
        for r in ("sample", "elementwise")
    )
    assert torch.allclose(sample, 10 * elementwise)
    request = fx.request(*CLASS_0)
    strategy, _, _ = fx.served({"name": "bad-teacher", "lr": 1e-2, "epochs": 10}, request)
    assert fx.accuracy(strategy, request.sample_ids) < 0.5
    assert fx.accuracy(strategy, fx.rest(request)) > 0.9


def test_the_head_that_eu_k_draws_is_drawn_once(fx: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    from strategies.unlearners import eu_k

    drawn = []

    def spying(model: FlatModel, mask: torch.Tensor, other: FlatModel, key: Key) -> None:
        redraw_some(model, mask, other, key)
        drawn.append(model.parameters.clone())

    redraw_some = eu_k.redraw_some
    monkeypatch.setattr(eu_k, "redraw_some", spying)
    request = fx.request(*CLASS_0)
    strategy, _, before = fx.served({"name": "eu-k", "epochs": 5, "k": 1, "lr": 0.05}, request)
    model = strategy.learner.model
    head = model.mask("head").bool()
    assert len(drawn) == 1
    assert not torch.isclose(drawn[0][head], before["parameters"][head]).any()
    assert torch.equal(model.parameters[~head], before["parameters"][~head])
    assert fx.accuracy(strategy, request.sample_ids) == 0.0  # the class's output was never taught again
    assert fx.accuracy(strategy, fx.rest(request)) > 0.9
    with pytest.raises(ConfigError, match=r"cf-k\.k: 3, but the model has 2"):
        fx.served({"name": "cf-k", "k": 3}, request)


def test_boundaries(fx: Blobs) -> None:
    request = fx.request(*CLASS_0)
    options = {"epochs": 5, "lr": 0.05}
    shrunk, outcome, _ = fx.served(
        {"name": "boundary-shrink", **options, "bound": 1.5, "limits": None, "levels": None}, request
    )
    assert fx.accuracy(shrunk, request.sample_ids) < 0.5
    assert 0 <= outcome.losses["label_kept"] < 0.5
    wide, _, _ = fx.served({"name": "boundary-expand", **options}, request)
    data = Ledger(fx.source).lend(fx.source.test_ids).all()
    assert wide.predict(data).shape == (len(data), 10)
    assert fx.accuracy(wide, fx.rest(request)) > 0.5
    with pytest.raises(Exception, match=r"limits: inputs reach from -"):
        fx.served({"name": "boundary-shrink"}, request)


def test_boundary_labels_come_from_the_original_model(fx: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    from strategies.unlearners import boundary_shrink

    targets = []

    def spying(model: FlatModel, objective: Any, data: Any, config: FitConfig, key: Key) -> Outcome:
        targets.append(data.targets().clone())
        outcome = fit(model, objective, data, config, key)
        targets.append(data.targets().clone())
        return outcome

    monkeypatch.setattr(boundary_shrink, "fit", spying)
    options = {"name": "boundary-shrink", "epochs": 5, "lr": 0.05, "bound": 1.5, "limits": None, "levels": None}
    fx.served(options, fx.request(*CLASS_0))
    assert torch.equal(targets[0], targets[1])
    assert (targets[0] != 0).any()


def test_fisher_noise_has_the_variance_it_should(fx: Blobs) -> None:
    """Nothing depends on a unit that is never active: its weights get all the noise that the cap allows."""
    fx.served({"name": "none"}, fx.request(*FEW))
    state = copy.deepcopy(fx.states[()])
    dead = torch.arange(64) < 50
    slices = fx.setting.make_model().slices
    state["model"]["parameters"][slices["body.0.bias"]] -= 1e4 * dead
    still = replace(fx, states={(): state})
    changes = []
    for number in range(2):
        request = still.request(*FEW, name=f"request-{number}")
        strategy, _, before = still.served({"name": "fisher-forgetting", "alpha": 1e-6}, request)
        where = strategy.learner.model.slices["body.0.weight"]
        changes.append((strategy.learner.model.parameters - before["parameters"])[where].view(64, 20)[dead])
    change = torch.cat(changes)
    assert change.numel() == 2000
    assert float(change.std()) == pytest.approx(np.sqrt(1e-6 * 1e3), rel=0.05)
    assert abs(float(change.mean())) < 3 * float(change.std()) / np.sqrt(2000)


def test_fisher_forgetting_draws_a_deleted_class_s_row_anew(fx: Blobs) -> None:
    """The authors' variance is 1e-4 times the factor 10 of the last layer."""
    strategy, _, _ = fx.served({"name": "fisher-forgetting", "alpha": 1e-12}, fx.request(*CLASS_0))
    model = strategy.learner.model
    row = model.parameters[model.slices["head.weight"]].view(-1, 64)[0]
    assert float(row.square().mean()) == pytest.approx(1e-3, rel=0.6)


def test_unsir_forgets_a_class_without_reading_it(fx: Blobs) -> None:
    request = fx.request(*CLASS_0)
    source = fx.ruined(request.sample_ids)
    options = {"name": "unsir", "per_class": 200, "copies": 5, "batch_size": 64}
    strategy, _, _ = fx.served(options, request, source)
    assert fx.accuracy(strategy, request.sample_ids) < 0.1
    assert fx.accuracy(strategy, fx.rest(request)) > 0.97


def test_unsir_noise_is_hated() -> None:
    from strategies.unlearners.unsir import Config, learn_noise

    fx = blobs()
    model = fx.served({"name": "none"}, fx.request(*CLASS_0))[0].learner.model
    start = torch.randn(16, 20, generator=torch.Generator().manual_seed(0))
    after = learn_noise(model, fx.setting.objective, start, 3, None, Config(noise_penalty=0.0))
    loss = [float(-model(x).detach().log_softmax(1)[:, 3].mean()) for x in (start, after)]
    assert loss[1] > loss[0] + 1
    small = learn_noise(model, fx.setting.objective, start, 3, None, Config(noise_penalty=10.0))
    assert float(small.square().mean()) < float(start.square().mean())


def test_influence_on_a_convex_problem_is_nearly_retraining() -> None:
    """l2-regularised logistic regression: a Newton step ends within a tenth of the way's length of the target."""
    fx = blobs(n=600, hidden=())
    objective = fx.setting.objective
    training = FitConfig(epochs=1000, lr=0.2, momentum=0.9, weight_decay=1e-2, batch_size=600)

    def trained(ids: np.ndarray) -> torch.Tensor:
        model = fx.setting.make_model()
        fit(model, objective, Ledger(fx.source).lend(ids), training, Key(0))
        return model.parameters.clone()

    request = fx.request("sample", *range(30))
    whole, target = trained(fx.source.train_ids), trained(fx.rest(request))

    def distance(unlearner: dict[str, Any]) -> float:
        config = parse(StrategyConfig, {"learner": "naive", "unlearner": {"name": "influence", **unlearner}})
        strategy = make_strategy(config, fx.setting, "mine")
        assert isinstance(strategy, Composed)
        strategy.learner.model.parameters.copy_(whole)
        step(strategy, request, ledger_after(Ledger(fx.source), (fx.experience,)))
        return float((strategy.learner.model.parameters - target).norm() / (whole - target).norm())

    assert distance({"damping": 1e-2, "iterations": 200}) <= 0.1
    assert distance({"form": "released"}) > 0.5


def test_a_pass_over_both_kinds_of_data_keeps_npo_bounded(fx: Blobs) -> None:
    request = fx.request(*CLASS_0)
    strategy, outcome, _ = fx.served({"name": "npo", "lr": 0.05, "epochs": 10}, request)
    assert fx.accuracy(strategy, request.sample_ids) < 0.2
    assert fx.accuracy(strategy, fx.rest(request)) > 0.97
    assert "diverged" not in outcome.losses  # it would have failed


@pytest.mark.nightly
def test_laf_needs_no_label_and_leaves_the_head() -> None:
    fx = blobs(hidden=(64, 32))
    request = fx.request(*CLASS_0)
    options = {"name": "laf", "epochs": 10, "lr_unlearn": 5e-4, "lr_align": 1e-3}
    strategy, outcome, before = fx.served(options, request)
    other, _, _ = fx.served(options, request, replace(fx.source, y=(fx.source.y + 3) % 10))
    model = strategy.learner.model
    assert digest(model.state_dict()) == digest(other.learner.model.state_dict())
    head = model.mask("head").bool()
    assert torch.equal(model.parameters[head], before["parameters"][head])
    assert outcome.losses["rebuilding_ratio"] < 0.2
    assert outcome.losses["rebuilding_forget"] > 5 * outcome.losses["rebuilding_retained"]
    assert fx.accuracy(strategy, request.sample_ids) < 0.9
    assert fx.accuracy(strategy, fx.rest(request)) > 0.97
    with pytest.raises(TrainingError, match="max_ratio is 0.001"):
        fx.served({**options, "max_ratio": 0.001}, request)


def test_concepts_are_those_of_the_classes(fx: Blobs) -> None:
    from strategies.unlearners._concepts import class_weights, concept_vectors

    model = fx.served({"name": "none"}, fx.request(*CLASS_0))[0].learner.model
    train = Ledger(fx.source).lend(fx.source.train_ids).all()
    test = Ledger(fx.source).lend(fx.source.test_ids).all()
    with torch.no_grad():
        features, held_out = (model.features(b.x).double().numpy() for b in (train, test))
    labels = train.y.numpy()
    vectors = concept_vectors(features, labels, 100, Key(0))
    scores = features @ np.stack([vectors[c] for c in range(10)]).T
    for c in (0, 4):
        of_class, others = scores[labels == c, c], scores[labels != c, c]
        middle = (of_class.mean() + others.mean()) / 2
        right = (held_out @ vectors[c] > middle) == (test.y.numpy() == c)
        assert right.mean() > 0.9
        weights = class_weights((scores - scores.mean(0)) / scores.std(0), labels == c, 0.01)
        assert int(weights.argmax()) == c


def test_concept_poisoning_forgets_a_class_and_is_relabelling_without_a_patch(fx: Blobs) -> None:
    request = fx.request(*CLASS_0)
    strategy, _, _ = fx.served({"name": "concept-poisoning", "patch": "none", "lr": 0.05, "epochs": 5}, request)
    data = Ledger(fx.source).lend(request.sample_ids).all()
    donor = int(strategy.predict(data).argmax(1).mode().values)
    assert fx.accuracy(strategy, request.sample_ids) < 0.05
    assert fx.accuracy(strategy, fx.rest(request)) > 0.95
    other, _, _ = fx.served({"name": "none"}, request)
    ledger = Ledger(fx.source)
    relabelled = ledger.lend(request.sample_ids).relabelled(torch.full((len(data),), donor))
    from strategies.unlearners.concept_poisoning import Config

    key = fx.setting.key / "concept-poisoning" / "request-0"
    config = Config(lr=0.05, epochs=5)
    fit(other.learner.model, fx.setting.objective, ledger.lend(fx.rest(request)).joined(relabelled), config, key)
    assert torch.equal(strategy.learner.model.parameters, other.learner.model.parameters)
    with pytest.raises(Exception, match="needs images"):
        fx.served({"name": "concept-poisoning"}, request)


@pytest.mark.parametrize("patch", ["localized", "center", "random", "full"])
def test_concept_poisoning_pastes_live_images(patch: str, digits: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    from strategies.unlearners import concept_poisoning

    few = np.sort(np.concatenate([np.flatnonzero(digits.class_ids == c)[:40] for c in range(5)]))
    columns = {name: getattr(digits, name)[few] for name in ("y", "class_ids", "user_ids", "is_test")}
    source = replace(digits, x=digits.x[few].view(-1, 1, 8, 8), **columns)

    def make_model() -> FlatModel:
        with seeded_globals(Key(0) / "init"):
            body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU())
            return FlatModel(Network(body, torch.nn.Linear(32, 10)))

    setting = Setting(Key(0), make_model, Classification(10), Training(epochs=20, lr=0.1), (), len(source))
    world = Blobs(source, setting, Experience("all", (), source.train_ids), {})
    donors: list[torch.Tensor] = []

    def spying(x: torch.Tensor, theirs: torch.Tensor, *rest: Any) -> torch.Tensor:
        donors.append(theirs)
        return pasted(x, theirs, *rest)

    pasted = concept_poisoning.pasted
    monkeypatch.setattr(concept_poisoning, "pasted", spying)
    gone: list[int] = []
    ledger = Ledger(source)
    config = parse(StrategyConfig, {"unlearner": {"name": "concept-poisoning", "patch": patch, "lr": 0.05}})
    strategy = make_strategy(config, setting, "mine")
    step(strategy, world.experience, ledger)
    for label in range(3):
        request = replace(world.request("class", label), name=f"request-{label}")
        gone.append(label)
        step(strategy, request, ledger)
        rows = {source.x[i].numpy().tobytes(): int(source.class_ids[i]) for i in source.train_ids}
        classes = {rows[donor.numpy().tobytes()] for donor in donors[-1]}
        assert len(classes) == 1
        assert classes.isdisjoint(gone)
        assert isinstance(strategy, Composed)
        assert world.accuracy(strategy, request.sample_ids) < 0.2
    assert world.accuracy(strategy, ledger.live_ids) > 0.9


def test_recalibrated_batch_norms_know_the_retained_data_alone(digits: Source) -> None:
    """What the forget set left in running statistics goes, also with frozen ones."""

    def make_model() -> FlatModel:
        with seeded_globals(Key(0) / "init"):
            body = torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU())
            return FlatModel(Network(body, torch.nn.Linear(16, 10)))

    setting = Setting(Key(0), make_model, Classification(10), Training(epochs=2, lr=0.1), (), len(digits))
    world = Blobs(digits, setting, Experience("all", (), digits.train_ids), {})
    request = world.request(*CLASS_0)
    kept: dict[bool, torch.Tensor] = {}
    for recalibrate in (False, True):
        options = {"name": "cf-k", "epochs": 1, "k": 1, "recalibrate": recalibrate, "batch_size": 2000}
        strategy, _, before = world.served(options, request)
        kept[recalibrate] = strategy.learner.model.network.body[1].running_mean
        assert torch.equal(kept[recalibrate], before["buffers"]["body.1.running_mean"]) != recalibrate
    inner = strategy.learner.model.network.body[0](Ledger(digits).lend(world.rest(request)).all().x)
    assert torch.allclose(kept[True], inner.mean(0), atol=1e-4)


def test_labels_stay_within_the_task_and_samples_without_one_are_left_out() -> None:
    from strategies.unlearners._relabel import candidate_labels

    fx = blobs()
    objective = Classification(10, tuple((2 * t, 2 * t + 1) for t in range(5)))
    setting = replace(fx.setting, objective=objective)
    task_of = fx.source.class_ids // 2
    rows = np.array([int(np.flatnonzero(fx.source.class_ids == c)[0]) for c in (0, 1, 4)])
    data = Ledger(fx.source, task_of).lend(np.sort(rows))
    live = torch.ones(10, dtype=torch.bool)
    live[[0, 5]] = False
    found = candidate_labels(data, live, setting, exclude_true=True)
    for label, candidates in zip(data.targets().tolist(), found, strict=True):
        assert torch.nonzero(candidates).squeeze(1).tolist() == {0: [1], 1: [], 4: []}[label]
    assert candidate_labels(data, live, setting, exclude_true=False).sum() == 3


def test_amnesiac_undoes_the_steps_that_saw_the_samples() -> None:
    fx = blobs(epochs=2)
    strategy, outcome, before = fx.served({"name": "amnesiac"}, fx.request("sample", 5), None, "update-log")
    assert outcome.losses["undone"] == pytest.approx(2 / 64)
    assert not torch.equal(strategy.learner.model.parameters, before["parameters"])
    # All steps undone: the initial weights, but for rounding.
    everything, outcome, _ = fx.served({"name": "amnesiac"}, fx.request("class", *range(10)), None, "update-log")
    assert outcome.losses["undone"] == 1.0
    assert torch.allclose(everything.learner.model.parameters, fx.setting.make_model().parameters, atol=1e-5)
    assert "update-log.updates" in everything.holds(fx.source.train_ids)


def test_ascent_stops_where_it_is_told_and_fails_with_the_state_before(fx: Blobs) -> None:
    request = fx.request(*CLASS_0)
    wild = {"name": "gradient-ascent", "lr": 1e4, "epochs": 20, "batch_size": 32}
    tau = float(np.log(10))
    stopped, outcome, _ = fx.served({**wild, "lr": 0.1, "epochs": 200, "stop_loss": tau}, request)
    assert outcome.losses["stopped"] == 1.0
    data = Ledger(fx.source).lend(request.sample_ids).all()
    loss = float(fx.setting.objective.losses(stopped.predict(data), data).mean())
    assert 0.5 * tau < loss < 100
    assert outcome.steps < 200 * 7
    config = parse(StrategyConfig, {"learner": "naive", "unlearner": wild})
    strategy = make_strategy(config, fx.setting, "mine")
    assert isinstance(strategy, Composed)
    strategy.load_state_dict(copy.deepcopy(fx.states[()]))
    before = digest(strategy.state_dict())
    with pytest.raises(TrainingError, match=r"request-0: ascent diverged .* set stop_loss, or choose on_divergence"):
        step(strategy, request, ledger_after(Ledger(fx.source), (fx.experience,)))
    assert digest(strategy.state_dict()) == before
    put_back, outcome, state = fx.served({**wild, "on_divergence": "restore"}, request)
    assert digest(put_back.learner.model.state_dict()) == digest(state)
    assert outcome.losses["diverged"] == 1.0
    kept, outcome, state = fx.served({**wild, "on_divergence": "stop"}, request)
    assert torch.isfinite(kept.learner.model.parameters).all()
    assert digest(kept.learner.model.state_dict()) != digest(state)
    for name in ("neggrad-plus", "scrub"):
        failing = {"name": name, "lr": 1e6, "on_divergence": "restore"}
        put_back, outcome, state = fx.served(failing, request)
        assert outcome.losses["diverged"] == 1.0, name
        assert digest(put_back.learner.model.state_dict()) == digest(state)


def test_a_class_of_one_sample(fx: Blobs) -> None:
    """One sample of a class is all there is, and it goes."""
    rows = np.concatenate([np.flatnonzero((fx.source.class_ids != 0) & ~fx.source.is_test)[:300], [0]])
    one = int(np.flatnonzero((fx.source.class_ids == 0) & ~fx.source.is_test)[0])
    experience = Experience("few", (), np.unique(np.append(rows[:-1], one)))
    request = DeletionRequest("request-0", (Request("class", (0,), np.array([one]), NONE, 1),))
    small = replace(fx, experience=experience, states={})
    for unlearner in (
        {"name": "random-label", **QUICK},
        {"name": "salun", **QUICK},
        {"name": "ssd"},
        {"name": "scrub", "rewind": 0.2},
        {"name": "unsir", "batch_size": 16},
        {"name": "fisher-forgetting"},
        {"name": "influence", "iterations": 3},
        {"name": "laf", "epochs": 1, "max_ratio": None},
        {"name": "concept-poisoning", **QUICK, "patch": "none"},
        {"name": "boundary-shrink", **QUICK, "limits": None},
        {"name": "boundary-expand", **QUICK},
        {"name": "npo", **QUICK},
        {"name": "bad-teacher"},
    ):
        strategy, outcome, _ = small.served(unlearner, request)
        assert torch.isfinite(strategy.learner.model.parameters).all(), unlearner["name"]
        assert outcome.exactness == "none"


@cache
def waves() -> Blobs:
    """y = 3 tanh(W x / 2) + sin(2 W' x) + noise in ten dimensions; classes are fifths of the targets."""
    draw = np.random.default_rng(0)
    n = 2000
    x = draw.normal(size=(n, 10))
    a, b = draw.normal(size=10) / np.sqrt(10), draw.normal(size=10) / np.sqrt(10)
    y = 3 * np.tanh(x @ a / 0.5) + np.sin(2 * x @ b) + 0.3 * draw.normal(size=n)
    strata = np.searchsorted(np.quantile(y, [0.2, 0.4, 0.6, 0.8]), y)
    source = Source(
        "waves",
        "none",
        torch.from_numpy(x.astype(np.float32)),
        torch.from_numpy(y.astype(np.float32)),
        strata,
        np.zeros(n, dtype=np.int64),
        np.arange(n) >= 1000,
        tuple("abcde"),
        ("u",),
    )
    training = Training(epochs=40, lr=3e-3, optimizer="adam", batch_size=64)
    setting = Setting(Key(0), lambda: mlp((10, 64, 64, 1)), Regression(), training, (), n)
    return Blobs(source, setting, Experience("all", (), source.train_ids), {})


def test_regression_unlearners() -> None:
    fx = waves()
    request = fx.request("class", 0)
    lowest = np.flatnonzero((fx.source.class_ids == 0) & fx.source.is_test)
    others = np.flatnonzero((fx.source.class_ids != 0) & fx.source.is_test)

    def errors(unlearner: dict[str, Any]) -> tuple[float, float]:
        strategy, _, _ = fx.served(unlearner, request)
        return -fx.accuracy(strategy, lowest), -fx.accuracy(strategy, others)

    original, retrained = errors({"name": "none"}), errors({"name": "retrain"})
    blind, gauss = errors({"name": "blindspot"}), errors({"name": "gaussian-finetune"})
    assert retrained[0] > 1.5 * original[0]
    assert abs(blind[0] - retrained[0]) < abs(original[0] - retrained[0])
    assert gauss[0] > original[0] + 0.2
    assert max(blind[1], gauss[1]) < 3 * original[1]


def test_blindspot_leaves_its_proxy_alone_and_reads_no_forgotten_target(monkeypatch: pytest.MonkeyPatch) -> None:
    from strategies.unlearners import blindspot

    fx = waves()
    request = fx.request("class", 0)
    blank = replace(fx.source, y=fx.source.y.clone())
    blank.y[request.sample_ids] = torch.nan
    one, two = (fx.served({"name": "blindspot"}, request, s)[0] for s in (fx.source, blank))
    assert digest(one.learner.model.state_dict()) == digest(two.learner.model.state_dict())
    proxies = []
    follow = blindspot.FollowProxy.__init__

    def noted(self: Any, model: FlatModel, proxy: FlatModel, *rest: Any) -> None:
        proxies.append((proxy, proxy.parameters.clone()))
        follow(self, model, proxy, *rest)

    monkeypatch.setattr(blindspot.FollowProxy, "__init__", noted)
    fx.served({"name": "blindspot"}, request)
    proxy, weights = proxies[0]
    assert torch.equal(proxy.parameters, weights)
    assert len(proxy.network.body[0]._forward_hooks) == 0
    with pytest.raises(
        ConfigError,
        match=r"predict classes and images and tokens; this one predicts numbers.*Those that can: blindspot",
    ):
        fx.served({"name": "salun"}, request)
    with pytest.raises(ConfigError, match="blindspot is for models that predict numbers"):
        blobs().served({"name": "blindspot"}, blobs().request(*CLASS_0))


def quality(fx: Blobs, strategy: Composed, request: DeletionRequest) -> Quality:
    """UA, RA, TA and MIA; of a class without its test samples."""
    live, test = fx.rest(request), fx.source.test_ids
    if request.keys_of("class"):
        test = test[~np.isin(fx.source.class_ids[test], request.keys_of("class"))]
    scores, confidences = [], []
    for ids in (request.sample_ids, live, test):
        data = Ledger(fx.source).lend(ids).all()
        outputs = strategy.predict(data)
        scores.append(float(fx.setting.objective.scores(outputs, data).mean()))
        confidences.append(np.exp(-fx.setting.objective.losses(outputs, data).numpy().astype(np.float64)))
    forget, members, unseen = confidences
    n = min(len(members), len(unseen))
    return Quality(*scores, mia_efficacy(members[:n], unseen[:n], forget))


# What it takes, and UA, RA, TA and MIA in percent for a tenth of the samples and for class 0: means of five seeds,
# worked out with other code. Their standard deviations of UA are 6.6 points and less.
OF_RETRAINING: dict[str, tuple[dict[str, Any], tuple[float, ...], tuple[float, ...]]] = {
    "none": ({}, (0.0, 100, 75.3, 0.0), (0.0, 100, 75.5, 0.0)),
    "retrain": ({}, (21.2, 100, 75.5, 31.2), (100, 100, 78.1, 100)),
    "finetune": ({"epochs": 10, "lr": 0.01}, (0.0, 100, 75.3, 0.0), (0.0, 100, 75.5, 0.0)),
    "scrub": (
        {"epochs": 7, "max_epochs": 3, "temperature": 2.0, "alpha": 0.5, "lr": 0.01},
        (0.0, 100, 75.3, 0.0),
        (0.0, 100, 75.5, 0.0),
    ),
    "random-label": ({"epochs": 10, "lr": 0.01}, (25.4, 98.2, 64.6, 38.8), (99.6, 100, 74.1, 100)),
    "salun": ({"epochs": 10, "lr": 0.01, "share": 0.5}, (14.4, 98.2, 67.8, 25.6), (99.3, 99.9, 74.8, 99.8)),
    "bad-teacher": ({"epochs": 5, "lr": 1e-3, "subset": 1 / 3}, (3.6, 99.3, 71.9, 12.2), (80.7, 100, 77.1, 91.9)),
    "ssd": ({"alpha": 3.0}, (0.2, 99.9, 74.8, 3.6), (100, 99.5, 77.1, 100)),
}


@pytest.mark.slow
def test_what_is_learned_by_heart_is_forgotten_as_in_the_reference_table() -> None:
    """Overlapping blobs, of which a fifth is known by heart alone; three seeds."""
    found: dict[str, list[list[Quality]]] = {name: [[], []] for name in OF_RETRAINING}
    for seed in range(3):
        fx = blobs(seed, n=1000, wide=0.6, hidden=(256,), epochs=200, lr=0.05)
        some = np.random.default_rng(100 + seed).choice(1000, 100, replace=False)
        for number, request in enumerate((fx.request("sample", *np.sort(some).tolist()), fx.request(*CLASS_0))):
            for name, (options, *_) in OF_RETRAINING.items():
                size = {} if name in {"none", "retrain"} else {"batch_size": 64}
                strategy, _, _ = fx.served({"name": name, **options, **size}, request)
                found[name][number].append(quality(fx, strategy, request))
    original = [np.mean([q.test for q in of]) for of in found["none"]]
    for name, (_, *tables) in OF_RETRAINING.items():
        for number, (ua, ra, ta, mia) in enumerate(tables):
            of = found[name][number]
            forget, retain, test, attack = (
                100 * np.mean([getattr(q, part) for q in of]) for part in ("forget", "retain", "test", "mia")
            )
            where = f"{name}, {'a class' if number else 'samples'}"
            assert 100 - forget == pytest.approx(ua, abs=7), where
            assert retain == pytest.approx(ra, abs=1), where
            lost = OF_RETRAINING["none"][1 + number][2] - ta
            assert 100 * original[number] - test == pytest.approx(lost, abs=3), where
            assert attack == pytest.approx(mia, abs=8), where
    # Doing nothing is 13 points away from retraining on average, and random labels are not half as far.
    gaps = [
        np.mean([average_gap(a, b) for a, b in zip(found[name][0], found["retrain"][0], strict=True)])
        for name in ("none", "random-label", "salun")
    ]
    assert 0.1 < gaps[0] < 0.2
    assert max(gaps[1:]) < 0.6 * gaps[0]


def confused(fx: Blobs) -> tuple[Blobs, np.ndarray, np.ndarray]:
    """The same with the labels of half of classes 1 and 2 swapped; which samples, and the test samples of both."""
    classes, test = fx.source.class_ids, fx.source.test_ids
    halves = [np.flatnonzero((classes == c) & ~fx.source.is_test) for c in (1, 2)]
    one, two = (half[: len(half) // 2] for half in halves)
    y = fx.source.y.clone()
    y[one], y[two] = 2, 1
    source = replace(fx.source, y=y, class_ids=y.numpy())
    return replace(fx, source=source, states={}), np.concatenate([one, two]), test[np.isin(classes[test], (1, 2))]


# Accuracy in percent where the damage is, by bad data, method and share named: means of three seeds, worked out with
# other code.
CORRECTED: dict[tuple[str, str, float], float] = {
    ("poisoned", "none", 1.0): 2.1,
    ("poisoned", "retrain", 0.1): 1.5,
    ("poisoned", "retrain", 0.5): 6.6,
    ("poisoned", "retrain", 0.9): 65.5,
    ("poisoned", "retrain", 1.0): 99.1,
    ("poisoned", "ssd", 0.9): 99.3,
    ("poisoned", "ssd", 1.0): 99.3,
    ("confused", "none", 1.0): 53.4,
    ("confused", "retrain", 0.1): 52.2,
    ("confused", "retrain", 0.5): 67.7,
    ("confused", "retrain", 1.0): 99.4,
    ("confused", "ssd", 1.0): 55.1,
}


@pytest.mark.slow
def test_what_naming_a_part_of_bad_data_achieves() -> None:
    """A backdoor lives in the last tenth of it, for retraining too; SSD removes it, and cannot undo confused classes.

    From half of the backdoor SSD removes it where that half holds enough of the importance (see above): 96 in the table
    for three seeds, 65 for these three, 81 for 24, nearly all of them either above 94 or below 20. What it costs
    elsewhere on confused classes differs by ten points between seeds. Neither is held against the table.
    """
    found: dict[tuple[str, str, float], list[float]] = {key: [] for key in CORRECTED}
    for seed in range(3):
        backdoor, _ = poisoned(seed)
        bad = np.flatnonzero((backdoor.source.x[:, 20:] == 3.0).all(1).numpy() & ~backdoor.source.is_test)
        swapped, mixed, affected = confused(blobs(seed))
        worlds = {
            "poisoned": (backdoor, np.random.default_rng(seed).permutation(bad)),
            "confused": (swapped, np.random.default_rng(seed).permutation(mixed)),
        }
        for kind, name, share in CORRECTED:
            fx, samples = worlds[kind]
            request = fx.request("sample", *np.sort(samples[: round(share * len(samples))]).tolist())
            options = {"alpha": 10.0 if kind == "poisoned" else 2.0} if name == "ssd" else {}
            strategy, _, _ = fx.served({"name": name, **options}, request)
            right = corrected(fx, strategy) if kind == "poisoned" else fx.accuracy(strategy, affected)
            found[kind, name, share].append(100 * right)
    for key, expected in CORRECTED.items():
        assert np.mean(found[key]) == pytest.approx(expected, abs=10), key
