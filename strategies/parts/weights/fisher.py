"""Diagonal Fisher information and mean absolute gradients, exact per sample, at about the cost of a backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from strategies.objectives._base import FisherEstimator, Objective
from strategies.outcome import Outcome
from strategies.parts.model import FlatModel
from strategies.parts.weights.recording import has_patches, patches, recorded
from streams.data import Batch, Data
from streams.randomness import Key

Terms = Callable[[torch.Tensor, Batch], list[tuple[torch.Tensor, torch.Tensor]]]
Size = Callable[[torch.Tensor], torch.Tensor]


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
    objective = objective.training_on(data)
    generator = key.torch()
    total = torch.zeros_like(model.parameters)
    outcome = Outcome()
    batches = objective.batches(data, batch_size)
    with evaluating(model):
        for batch in batches:
            if estimator == "batch":
                square, passes = _batch_square(model, objective, batch), 1
                total += square.div_(len(batches))
            else:
                square, passes = _sample_sums(
                    model,
                    objective,
                    batch,
                    lambda o, b: objective.fisher_terms(o, b, estimator, generator),
                    torch.square,
                )
                total += square.div_(len(data))
            outcome += Outcome(forward=len(batch), backward=passes * len(batch))
    return total, outcome


def output_sensitivity(
    model: FlatModel, objective: Objective, data: Data, batch_size: int = 256
) -> tuple[torch.Tensor, Outcome]:
    """Return mean_x |d ||z(x)||^2 / d theta|, ``[P]`` (Aljundi et al. 2018), in evaluation mode, and what it cost.

    The absolute value is taken per sample, so that `batch_size` does not matter; labels are not read. Outputs that
    the task forbids (minus infinity) do not count.
    """

    def squared_norm(outputs: torch.Tensor, batch: Batch) -> list[tuple[torch.Tensor, torch.Tensor]]:
        finite = outputs.masked_fill(torch.isinf(outputs), 0.0)
        return [(torch.ones(len(outputs), device=outputs.device), finite.flatten(1).square().sum(1))]

    total = torch.zeros_like(model.parameters)
    with evaluating(model):
        for batch in objective.batches(data, batch_size):
            total += _sample_sums(model, objective, batch, squared_norm, torch.abs)[0] / len(data)
    return total, Outcome(forward=len(data), backward=len(data))


def loss_gradient(model: FlatModel, objective: Objective, data: Data, batch_size: int = 256) -> torch.Tensor:
    """Return sum_x d l(x, y), ``[P]``, with the training loss, in evaluation mode; it costs one pass each way."""
    objective = objective.training_on(data)
    total = torch.zeros_like(model.parameters)
    with evaluating(model):
        for batch in objective.batches(data, batch_size):
            total += gradient_of(model, objective.losses(objective.outputs(model, batch), batch).sum())
    return total


@contextmanager
def evaluating(model: FlatModel) -> Iterator[None]:
    """Lend the model in evaluation mode, and put every module's mode back."""
    modes = [(module, module.training) for module in model.network.modules()]
    model.train(False)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _batch_square(model: FlatModel, objective: Objective, batch: Batch) -> torch.Tensor:
    loss = objective.losses(objective.outputs(model, batch), batch).mean()
    return gradient_of(model, loss).square()


def gradient_of(model: FlatModel, loss: torch.Tensor, retain: bool = False) -> torch.Tensor:
    """Return the gradient of a scalar, ``[P]``; the model's own gradient vector is left alone."""
    parameters = [p for p in model.network.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, retain_graph=retain, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in zip(gradients, parameters, strict=True)]
    )


def _sample_sums(
    model: FlatModel, objective: Objective, batch: Batch, terms_of: Terms, size: Size
) -> tuple[torch.Tensor, int]:
    """Return the sum over samples of weight x size(gradient), ``[P]``, and the number of backward passes.

    Args:
        model, objective, batch: what is differentiated.
        terms_of: from outputs and batch to pairs of weights ``[B]`` and scalars ``[B]`` to differentiate.
        size: square or absolute value: the size of a product must be the product of the sizes.
    """
    with recorded(_layers(model.network)) as calls:
        outputs = objective.outputs(model, batch)
    modules = [m for m, _, _ in calls]
    layers_known = len(set(modules)) == len(modules) and _covers(model, modules)
    if not layers_known and len(batch) > 1 and outputs.ndim > 2:
        # A row of text is a graph of its own: a backward pass through the whole batch for every row would cost B^2.
        total, passes = torch.zeros_like(model.parameters), 0
        for i in range(len(batch)):
            own, passes = _sample_sums(model, objective, batch.part(i, i + 1), terms_of, size)
            total += own
        return total, passes
    terms = terms_of(outputs, batch)
    total = torch.zeros_like(model.parameters)
    if not layers_known:
        for weights, losses in terms:
            for i in range(len(batch)):
                total += weights[i] * size(gradient_of(model, losses[i], retain=True))
        return total, len(terms)
    sums: dict[nn.Module, torch.Tensor] = {}  # of the weighted sizes of output deltas, over the terms
    for weights, losses in terms:
        deltas = torch.autograd.grad(losses.sum(), [z for _, _, z in calls], retain_graph=True)
        for (module, a, _), delta in zip(calls, deltas, strict=True):
            if isinstance(module, nn.Linear) and a.ndim == 2:
                weighted = weights.unsqueeze(1) * size(delta)
                sums[module] = weighted if module not in sums else sums[module].add_(weighted)
            else:
                _add_layer(total, model, module, a.detach(), delta, weights, size)
    for module, a, _ in calls:
        if module in sums:
            _add(total, model, module, sums[module].t() @ size(a.detach()), sums[module].sum(0))
    return total, len(terms)


def _layers(network: nn.Module) -> list[nn.Module]:
    """Return every Linear and plain Conv2d with something to train."""
    known = [m for m in network.modules() if isinstance(m, nn.Linear) or has_patches(m)]
    return [m for m in known if any(p.requires_grad for p in m.parameters())]


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
    size: Size,
) -> None:
    """Add the weighted sizes of the per-sample gradients of a layer that a sample passes at several positions.

    A sample's gradient is the sum over positions of the outer product of output delta and input; it comes before the
    size.
    """
    if isinstance(module, nn.Conv2d):
        a, delta = patches(module, a, delta)
    per_sample = torch.bmm(delta.flatten(1, -2).transpose(1, 2), a.flatten(1, -2))
    weight = torch.einsum("b,boi->oi", weights, size(per_sample))
    _add(total, model, module, weight, (weights.unsqueeze(1) * size(delta.flatten(1, -2).sum(1))).sum(0))


def _add(total: torch.Tensor, model: FlatModel, module: nn.Module, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Add what belongs to a layer's weight and bias."""
    name = next(n for n, m in model.network.named_modules() if m is module)
    if f"{name}.weight" in model.slices:
        total[model.slices[f"{name}.weight"]] += weight.reshape(-1)
    if f"{name}.bias" in model.slices:
        total[model.slices[f"{name}.bias"]] += bias
