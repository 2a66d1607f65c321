"""Diagonal Fisher information, exact per sample, at about the cost of one backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from strategies.objectives._base import FisherEstimator, Objective
from strategies.outcome import Outcome
from strategies.parts.model import FlatModel
from streams.data import Batch, Data
from streams.randomness import Key


def diagonal_fisher(
    model: FlatModel, objective: Objective, data: Data, estimator: FisherEstimator, key: Key, batch_size: int = 256
) -> tuple[torch.Tensor, Outcome]:
    """Estimate the diagonal Fisher information of `model` on `data`, in evaluation mode.

    With l(x, y) = -log p(y | x) and squares elementwise, the estimators are

    - ``exact``: mean_x sum_c p(c|x) (d l(x, c))^2, the definition; one backward per class
    - ``sampled``: mean_x (d l(x, y'))^2 with one y' ~ p(.|x) per sample; unbiased for exact
    - ``empirical``: mean_x (d l(x, y))^2 with the true label
    - ``p-weighted``: mean_x p(y|x) (d l(x, y))^2
    - ``batch``: mean over batches of (d mean_batch l)^2; about 1 / batch_size of empirical. Only here does
      `batch_size` change the result.

    Gradients, mode and buffers of the model are left as found.

    Args:
        model: any network; layers other than Linear and Conv2d are handled by a loop over samples.
        objective: gives the log losses.
        data: at least one sample.
        estimator: see above.
        key: names the draw of labels for ``sampled``.
        batch_size: samples per pass.

    Returns:
        The estimate ``[P]``, and what it cost.
    """
    training = model.network.training
    model.train(False)
    generator = key.torch()
    total = torch.zeros_like(model.parameters)
    outcome = Outcome()
    batches = data.batches(batch_size)
    for batch in batches:
        if estimator == "batch":
            square, passes = _batch_square(model, objective, batch), 1
            total += square / len(batches)
        else:
            square, passes = _sample_squares(model, objective, batch, estimator, generator)
            total += square / len(data)
        outcome += Outcome(forward=len(batch), backward=passes * len(batch))
    model.train(training)
    return total, outcome


def _batch_square(model: FlatModel, objective: Objective, batch: Batch) -> torch.Tensor:
    loss = objective.losses(objective.outputs(model, batch), batch).mean()
    return _gradient(model, loss).square()


def _gradient(model: FlatModel, loss: torch.Tensor, retain: bool = False) -> torch.Tensor:
    parameters = [p for p in model.network.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, retain_graph=retain, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in zip(gradients, parameters, strict=True)]
    )


def _sample_squares(
    model: FlatModel, objective: Objective, batch: Batch, estimator: FisherEstimator, generator: torch.Generator
) -> tuple[torch.Tensor, int]:
    """Return the sum over samples of weight x squared gradient, ``[P]``, and the number of backward passes."""
    with _record(model.network) as calls:
        outputs = objective.outputs(model, batch)
    terms = objective.fisher_terms(outputs, batch, estimator, generator)
    total = torch.zeros_like(model.parameters)
    modules = [m for m, _, _ in calls]
    layers_known = len(set(modules)) == len(modules) and _covers(model, modules)
    for weights, losses in terms:
        if not layers_known:
            for i in range(len(batch)):
                total += weights[i] * _gradient(model, losses[i], retain=True).square()
            continue
        deltas = torch.autograd.grad(losses.sum(), [z for _, _, z in calls], retain_graph=True)
        for (module, a, _), delta in zip(calls, deltas, strict=True):
            _add_layer(total, model, module, a.detach(), delta, weights)
    return total, len(terms)


@contextmanager
def _record(network: nn.Module) -> Iterator[list[tuple[nn.Module, torch.Tensor, torch.Tensor]]]:
    """Collect (module, input, output) of every Linear and Conv2d with something to train that is called."""
    calls: list[tuple[nn.Module, torch.Tensor, torch.Tensor]] = []

    def keep(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        calls.append((module, args[0], output))

    handles = [
        m.register_forward_hook(keep)
        for m in network.modules()
        if (isinstance(m, nn.Linear) or (isinstance(m, nn.Conv2d) and _is_plain(m)))
        and any(p.requires_grad for p in m.parameters())
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _is_plain(module: nn.Conv2d) -> bool:
    """Whether `unfold` can show the patches that the convolution sees."""
    return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)


def _covers(model: FlatModel, modules: list[nn.Module]) -> bool:
    """Whether the recorded modules own every trainable parameter."""
    owned = sum(p.numel() for m in modules for p in m.parameters() if p.requires_grad)
    return owned == len(model.parameters)


def _add_layer(
    total: torch.Tensor,
    model: FlatModel,
    module: nn.Module,
    a: torch.Tensor,
    delta: torch.Tensor,
    weights: torch.Tensor,
) -> None:
    """Add one layer's weighted squared per-sample gradients: the outer product of output delta and input."""
    name = next(n for n, m in model.network.named_modules() if m is module)
    if isinstance(module, nn.Conv2d):
        assert not isinstance(module.padding, str)
        a = nn.functional.unfold(a, module.kernel_size, module.dilation, module.padding, module.stride).transpose(1, 2)
        delta = delta.flatten(2).transpose(1, 2)
    if a.ndim == 2:
        square = (weights.unsqueeze(1) * delta.square()).t() @ a.square()
        bias = (weights.unsqueeze(1) * delta.square()).sum(0)
    else:  # the sample's gradient is a sum over positions, which comes before the square
        per_sample = torch.bmm(delta.flatten(1, -2).transpose(1, 2), a.flatten(1, -2))
        square = torch.einsum("b,boi->oi", weights, per_sample.square())
        bias = (weights.unsqueeze(1) * delta.flatten(1, -2).sum(1).square()).sum(0)
    if f"{name}.weight" in model.slices:
        total[model.slices[f"{name}.weight"]] += square.reshape(-1)
    if f"{name}.bias" in model.slices:
        total[model.slices[f"{name}.bias"]] += bias
