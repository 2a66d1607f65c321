"""Models that are trained at once: the numbers of training them one by one, whoever they are trained with."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from strategies.objectives.classification import Classification
from strategies.outcome import Outcome
from strategies.parts import together as module
from strategies.parts.fit import FitConfig, Hooks, Job, Slopes, fit
from strategies.parts.memory.draws import Draws
from strategies.parts.stacked import fit_stacked, groups_of, why_alone
from strategies.parts.together import give_way, together
from strategies.parts.training.timing import now
from streams.data import Batch
from streams.errors import TrainingError
from streams.randomness import Key

SIZES = (8, 6, 4)
OPTIONS: list[dict[str, Any]] = [
    {"lr": 0.1},
    {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01, "clip_norm": 0.5},
    {"lr": 0.01, "optimizer": "adam"},
]


class Extra(Hooks):
    """Adds drawn samples that it knows beforehand."""

    def __init__(self, draws: Draws) -> None:
        self._draws = draws

    def adds(self) -> list[Draws] | None:
        return [self._draws]

    def extend(self, batch: Batch, step: int) -> Batch:
        return batch.concat(self._draws[step])


class Unforeseen(Extra):
    """Adds the same, and does not say so before: more to some models than to others."""

    def adds(self) -> list[Draws] | None:
        return None


class Everything(Hooks):
    """Changes losses and gradient, passes the model once more, stops at a step, and notes steps."""

    def __init__(self, stop: int) -> None:
        self.stop, self.step, self.notes = stop, 0, []  # type: ignore[var-annotated]

    def losses(self, losses: torch.Tensor, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return losses * (1 + batch.y)

    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: Any) -> torch.Tensor:
        return loss + 0.1 * outputs.square().mean() + 0.01 * model(batch.x).square().mean()

    def gradient(self, gradient: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        return gradient + 0.01 * parameters

    def proceed(self, loss: torch.Tensor) -> bool:
        self.step += 1
        return self.step <= self.stop

    def stepped(self, gradient: torch.Tensor, change: torch.Tensor) -> None:
        self.notes.append((gradient.norm(), change.norm()))


class Pulled(Hooks):
    """Changes the gradient alone."""

    def gradient(self, gradient: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        return gradient.addcmul_(parameters, parameters.square())


def job(tools: Any, number: int, hooked: str = "", objective: str = "", **options: Any) -> Job:
    """A model, and 60 to 75 samples: other numbers of steps, other last batches."""
    options = {"epochs": 3, "batch_size": 16} | options
    source = tools.source(num_classes=4, per_class=25, width=8)
    ids = source.train_ids[number : 61 + 6 * (number % 4) + number % 3]
    plain = tools.setting(source).objective
    data, training = tools.lend(source, ids), FitConfig(**options)
    hooks: list[Hooks] = []
    if hooked in {"extra", "unforeseen"}:
        kind = Extra if hooked == "extra" else Unforeseen
        size = 5 if hooked == "extra" else 5 + 9 * (number % 3)
        positions = Key(number).torch()
        drawn = torch.randint(20, (training.num_steps(len(data)), size), generator=positions)
        hooks = [kind(Draws(tools.lend(source, source.train_ids[75:95]), drawn))]
        if hooked == "unforeseen":  # what is known comes after what is not, and stays there
            hooks.append(Extra(Draws(tools.lend(source, source.train_ids[70:90]), drawn[:, :3])))
    if hooked == "everything":
        hooks = [Everything(stop=5 + number)]
    if hooked == "pulled":
        hooks = [Pulled()]
    if objective:
        plain = Classification(4, **({"loss": "bce"} if objective == "bce" else {"mask": "batch"}))  # type: ignore[arg-type]
    return Job(tools.mlp(SIZES, seed=number), plain.training_on(data), data, training, Key(number) / "fit", hooks)


def alone(one: Job, hooks: Any = None) -> Outcome:
    return fit(one.model, one.objective, one.data, one.training, one.key, one.hooks if hooks is None else hooks)


CASES: list[dict[str, Any]] = [
    *OPTIONS,
    {"lr": 0.1, "batch_size": 12},
    {"lr": 0.05, "batch_size": 1, "epochs": 1},
    {"lr": 0.1, "batch_size": 500},
    {"lr": 0.1, "hooked": "extra", "batch_size": 10},
    {"lr": 0.1, "hooked": "unforeseen", "batch_size": 10},
    {"lr": 0.01, "hooked": "everything", "momentum": 0.9, "clip_norm": 1.0},
    {"lr": 0.05, "hooked": "pulled", "optimizer": "adam", "batch_size": 7},
    {"lr": 0.1, "objective": "bce", "batch_size": 9},
    {"lr": 0.1, "objective": "mask", "hooked": "pulled"},
]


@pytest.mark.parametrize("options", CASES, ids=lambda o: "-".join(f"{k}={v}" for k, v in o.items()))
def test_bytes_do_not_depend_on_the_company(options: dict[str, Any], tools: Any) -> None:
    """By itself, among 4 and among 16: weights, losses and costs are the same to the bit."""
    single = [job(tools, n, **options) for n in range(4)]
    assert len({one.training.num_steps(len(one.data)) for one in single}) > 1 or options.get("batch_size") == 500
    known = [alone(one) for one in single]
    for count in (16, 4):
        order = [*range(1, count), 0]
        jobs = {n: job(tools, n, **options) for n in order}
        assert not any(map(why_alone, jobs.values()))
        outcomes = dict(zip(order, fit_stacked(list(jobs.values())), strict=True))
        for n, one in enumerate(single):
            start = job(tools, n, **options).model.parameters
            assert outcomes[n] == known[n], (n, count)
            assert torch.equal(jobs[n].model.parameters, one.model.parameters), (n, count)
            assert (
                not jobs[n].hooks
                or not isinstance(jobs[n].hooks[0], Everything)
                or (
                    jobs[n].hooks[0].notes == one.hooks[0].notes  # type: ignore[attr-defined]
                )
            )
            assert (one.model.parameters - start).norm() > 0.02


def test_a_perceptron_by_hand_is_that_of_a_graph(tools: Any) -> None:
    """The same steps, one by hand and one by a network that nobody knows, agree but for the rounding of sums."""

    class Linear(torch.nn.Linear):
        pass

    for options in (*OPTIONS, {"lr": 0.01, "hooked": "everything"}, {"lr": 0.1, "objective": "bce"}):
        ours, theirs = job(tools, 2, **options), job(tools, 2, **options)
        theirs.model.network.head.__class__ = Linear
        assert why_alone(theirs)
        known, found = alone(theirs), alone(ours)
        assert found.losses["loss"] == pytest.approx(known.losses["loss"], rel=1e-5)
        assert torch.allclose(ours.model.parameters, theirs.model.parameters, rtol=1e-4, atol=1e-6)


def test_one_that_fails_ends_alone(tools: Any) -> None:
    class Fails(Hooks):
        def gradient(self, gradient: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
            raise ValueError("mine")

    known = job(tools, 0, lr=0.1)
    expected = alone(known)
    one, broken = job(tools, 0, lr=0.1), replace(job(tools, 1, lr=0.1), hooks=[Fails()])
    outcome, error = fit_stacked([one, broken])
    assert outcome == expected
    assert torch.equal(one.model.parameters, known.model.parameters)
    assert isinstance(error, ValueError)
    poisoned = job(tools, 1, lr=0.1)
    poisoned.model.parameters.fill_(float("nan"))
    one = job(tools, 0, lr=0.1)
    outcome, error = fit_stacked([poisoned, one])[::-1]
    assert outcome == expected
    assert isinstance(error, TrainingError)


def test_lives_take_turns_and_meet_in_fit(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fits twice and does other things in between; one of them needs a third fit, and one has hooks."""
    order: list[str] = []
    groups: list[int] = []
    trained = module.fit_stacked

    def counted(jobs: Any) -> Any:
        groups.append(len(jobs))
        return trained(jobs)

    class Shifts(Hooks):
        def displace(self, parameters: torch.Tensor, slopes: Slopes) -> torch.Tensor:
            return 0.999 * parameters

    def life(number: int) -> torch.Tensor:
        one = job(tools, number, lr=0.1)
        for turn in range(3 if number == 2 else 2):
            order.append(f"{number}.{turn}")
            alone(one, [Shifts()] if number == 1 else [Hooks()])
        return one.model.parameters.clone()

    apart = [life(n) for n in range(3)]
    order.clear()
    monkeypatch.setattr(module, "fit_stacked", counted)
    found = together([lambda n=n: life(n) for n in range(3)])  # type: ignore[misc]
    for a, b in zip(found, apart, strict=True):
        assert torch.equal(a, b)
    assert order == ["0.0", "1.0", "1.1", "2.0", "0.1", "2.1", "2.2"]
    assert groups == [2, 2, 1]


def test_the_first_error_ends_all(tools: Any) -> None:
    ended = []

    def life(number: int) -> None:
        one = job(tools, number, lr=0.1)
        try:
            alone(one)
            if number == 1:
                raise KeyError("mine")
            alone(one)
        finally:
            ended.append(number)

    with pytest.raises(KeyError, match="mine"):
        together([lambda n=n: life(n) for n in range(3)])  # type: ignore[misc]
    assert sorted(ended) == [0, 1, 2], "no life is left waiting"
    with pytest.raises(TrainingError, match=r"Training diverged.*now 1e\+20"):
        together([lambda: alone(job(tools, 0, lr=1e20)), lambda: alone(job(tools, 1, lr=0.1))])


def test_who_trains_alone_is_told_why(tools: Any) -> None:
    assert why_alone(job(tools, 0)) is None
    noisy = job(tools, 0)
    noisy.model.network.body.append(torch.nn.Dropout(0.5))
    assert "no multi-layer perceptron" in str(why_alone(noisy))
    heard = job(tools, 0)
    heard.model.network.head.register_forward_hook(lambda *_: None)
    assert "no multi-layer perceptron" in str(why_alone(heard))
    plain = job(tools, 0)
    large = Job(tools.mlp((8, 20_000, 4)), plain.objective, plain.data, plain.training, plain.key)
    assert "cache" in str(why_alone(large))
    assert together([]) == []


def test_groups_are_alike_and_fit_into_the_cache(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from strategies.parts import stacked

    jobs = [job(tools, n, lr=0.1) for n in range(4)] + [job(tools, 4, lr=0.2)]
    assert groups_of(jobs) == [[0, 1, 2, 3], [4]]
    monkeypatch.setattr(stacked, "MOST_WEIGHTS", 2 * len(jobs[0].model.parameters))
    assert groups_of(jobs) == [[0, 2], [1, 3], [4]]


def test_who_gives_way_goes_on_after_the_others(tools: Any) -> None:
    """One waits for what another holds while that one is in `fit`, as with the lock of references."""
    order: list[str] = []
    held = []

    def holder() -> None:
        held.append(1)
        alone(job(tools, 0, lr=0.1))
        held.clear()
        order.append("holder")

    def waiter() -> None:
        while held:
            assert give_way()
        order.append("waiter")

    together([holder, waiter])
    assert order == ["holder", "waiter"]
    assert not give_way()


def test_draws_of_global_generators_do_not_depend_on_the_company(tools: Any) -> None:
    from streams.randomness import seeded_globals

    def life(number: int) -> float:
        with seeded_globals(Key(number)):
            torch.rand(1)
            alone(job(tools, number, lr=0.1))
            return float(torch.rand(1)) + float(np.random.rand())

    apart = [life(n) for n in range(3)]
    assert together([lambda n=n: life(n) for n in range(3)]) == apart  # type: ignore[misc]


def test_seconds_of_a_life_are_its_own_and_a_share_of_what_is_done_together(tools: Any) -> None:
    spent = {}

    def life(number: int) -> None:
        began = now()
        if number == 0:
            time.sleep(0.2)
        alone(job(tools, number, lr=0.1))
        spent[number] = now() - began

    began = time.perf_counter()
    together([lambda n=n: life(n) for n in range(3)])  # type: ignore[misc]
    everything = time.perf_counter() - began
    assert spent[0] >= 0.2
    assert max(spent[1], spent[2]) < everything - 0.2 + 0.01
    assert sum(spent.values()) <= everything
