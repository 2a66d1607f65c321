"""Models that are trained at once: the numbers of training them one by one, whoever they are trained with."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from strategies.outcome import Outcome
from strategies.parts import together as module
from strategies.parts.fit import FitConfig, Hooks, Job, fit
from strategies.parts.together import can_be_stacked, fit_together, together
from streams.errors import TrainingError
from streams.randomness import Key

SIZES = (8, 6, 4)
OPTIONS: list[dict[str, Any]] = [
    {"lr": 0.1},
    {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01, "clip_norm": 0.5},
    {"lr": 0.01, "optimizer": "adam"},
]


def job(tools: Any, number: int, **options: Any) -> Job:
    """A model, and 60 to 75 samples: other numbers of steps, other last batches."""
    source = tools.source(num_classes=4, per_class=25, width=8)
    ids = source.train_ids[number : 60 + 6 * number]
    objective = tools.setting(source).objective
    return Job(
        tools.mlp(SIZES, seed=number),
        objective,
        tools.lend(source, ids),
        FitConfig(epochs=3, batch_size=16, **options),
        Key(number) / "fit",
    )


def alone(one: Job, hooks: Any = ()) -> Outcome:
    return fit(one.model, one.objective, one.data, one.training, one.key, hooks)


@pytest.mark.parametrize("options", OPTIONS, ids=["sgd", "momentum", "adam"])
def test_at_once_is_one_by_one(options: dict[str, Any], tools: Any) -> None:
    ours, theirs = ([job(tools, n, **options) for n in range(4)] for _ in range(2))
    assert len({one.training.num_steps(len(one.data)) for one in ours}) > 1, "they do not end together"
    for one, found, other in zip(ours, fit_together(ours), theirs, strict=True):
        start = job(tools, one.key.seed).model.parameters
        known = alone(other)
        assert isinstance(found, Outcome)
        assert (found.steps, found.forward, found.backward) == (known.steps, known.forward, known.backward)
        assert found.losses["loss"] == pytest.approx(known.losses["loss"], rel=1e-5)
        assert torch.allclose(one.model.parameters, other.model.parameters, rtol=1e-4, atol=1e-6)
        assert (one.model.parameters - start).norm() > 0.05


def test_numbers_do_not_depend_on_the_company(tools: Any) -> None:
    many, few, single = ([job(tools, n, lr=0.1, momentum=0.9) for n in range(count)] for count in (5, 2, 1))
    for jobs in (many, few, single):
        fit_together(jobs)
    assert torch.equal(many[0].model.parameters, few[0].model.parameters)
    assert torch.equal(many[0].model.parameters, single[0].model.parameters)
    assert torch.equal(many[1].model.parameters, few[1].model.parameters)


def test_lives_take_turns_and_meet_in_fit(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fits twice and does other things in between; one of them needs a third fit, and one has hooks."""
    order: list[str] = []
    groups: list[int] = []
    trained = module.fit_together

    def counted(jobs: Any) -> Any:
        groups.append(len(jobs))
        return trained(jobs)

    class Halves(Hooks):
        def gradient(self, gradient: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
            return gradient.mul_(0.5)

    def life(number: int) -> torch.Tensor:
        one = job(tools, number, lr=0.1)
        for time in range(3 if number == 2 else 2):
            order.append(f"{number}.{time}")
            alone(one, [Halves()] if number == 1 else [Hooks()])
        return one.model.parameters.clone()

    apart = [life(n) for n in range(3)]
    order.clear()
    monkeypatch.setattr(module, "fit_together", counted)
    found = together([lambda n=n: life(n) for n in range(3)])  # type: ignore[misc]
    for a, b in zip(found, apart, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)
    assert torch.equal(found[1], apart[1]), "whose steps are changed trains by itself"
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


def test_only_plain_small_models_are_stacked(tools: Any) -> None:
    plain = job(tools, 0)
    assert can_be_stacked(plain)
    noisy = job(tools, 0)
    noisy.model.network.body.append(torch.nn.Dropout(0.5))
    assert not can_be_stacked(noisy)
    large = Job(tools.mlp((8, 3000, 4)), plain.objective, plain.data, plain.training, plain.key)
    assert not can_be_stacked(large)
    assert together([]) == []
