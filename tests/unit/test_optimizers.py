from __future__ import annotations

from typing import Any

import pytest
import torch

from strategies.parts.training.optimizers import SGD, Adam, OptimizerConfig, make_optimizer


def run_both(config: OptimizerConfig, steps: int = 100) -> tuple[torch.Tensor, torch.Tensor]:
    """The same noisy quadratic walked by ours and by torch.optim."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(50, generator=generator)
    noise = torch.randn(steps, 50, generator=generator)
    ours, theirs = start.clone(), start.clone().requires_grad_()
    if config.optimizer == "sgd":
        reference: torch.optim.Optimizer = torch.optim.SGD(
            [theirs], lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
    else:
        reference = torch.optim.Adam(
            [theirs], lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay
        )
    optimizer = make_optimizer(config, ours)
    for i in range(steps):
        optimizer.step(ours, 2 * ours + noise[i])
        theirs.grad = 2 * theirs.detach() + noise[i]
        reference.step()
    return ours, theirs.detach()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_sgd_is_torch_to_the_bit(momentum: float, weight_decay: float) -> None:
    ours, theirs = run_both(OptimizerConfig(lr=0.05, momentum=momentum, weight_decay=weight_decay))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9)])
def test_adam_is_torch_within_rounding(weight_decay: float, betas: tuple[float, float]) -> None:
    config = OptimizerConfig(optimizer="adam", lr=0.05, betas=betas, weight_decay=weight_decay, eps=1e-3)
    ours, theirs = run_both(config)
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_two_steps_by_hand() -> None:
    p = torch.tensor([1.0])
    sgd = SGD(OptimizerConfig(lr=0.1, momentum=0.5, weight_decay=1.0), p)
    sgd.step(p, torch.tensor([2.0]))  # v = 2 + 1 = 3; p = 1 - 0.3
    assert p.item() == pytest.approx(0.7)
    sgd.step(p, torch.tensor([0.0]))  # v = 1.5 + 0.7 = 2.2; p = 0.7 - 0.22
    assert p.item() == pytest.approx(0.48)


def test_the_first_step_of_adam_is_the_learning_rate() -> None:
    p = torch.tensor([0.0, 0.0])
    Adam(OptimizerConfig(optimizer="adam", lr=0.1), p).step(p, torch.tensor([1e-3, -5.0]))
    assert p.tolist() == pytest.approx([-0.1, 0.1], rel=1e-4)


def test_make_optimizer_takes_the_named_one() -> None:
    p = torch.zeros(1)
    assert isinstance(make_optimizer(OptimizerConfig(), p), SGD)
    assert isinstance(make_optimizer(OptimizerConfig(optimizer="adam"), p), Adam)


@pytest.mark.parametrize("options", [{"momentum": 0.9}, {"optimizer": "adam"}], ids=["sgd", "adam"])
def test_a_walk_that_is_interrupted_goes_on_to_the_same_bits(options: dict[str, Any]) -> None:
    config, noise = OptimizerConfig(lr=0.05, **options), torch.randn(20, 50, generator=torch.Generator().manual_seed(0))
    ends = []
    for cut in (None, 3):
        p = torch.ones(50)
        optimizer = make_optimizer(config, p)
        for i, drawn in enumerate(noise):
            if i == cut:
                state, optimizer = optimizer.state_dict(), make_optimizer(config, p)
                optimizer.load_state_dict(state)
            optimizer.step(p, 2 * p + drawn)
        ends.append(p)
    assert torch.equal(*ends)
