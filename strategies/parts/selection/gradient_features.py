"""Gradient features: the gradient of every sample's loss in one block of the network, projected to a few numbers.

What Adapt-infinity clusters (Maharana et al. 2025, arXiv 2410.10636). Where layers allow, a sample's gradient is read
off as outer products of what went into a layer and the gradient of what came out, so that one backward pass serves a
whole batch; elsewhere every sample is passed back by itself. Both ways give the same numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from strategies.objectives._base import Objective
from strategies.parts.lowrank.changes import is_transposed
from strategies.parts.model import FlatModel
from strategies.parts.weights.blocks import stacks
from strategies.parts.weights.fisher import evaluating
from strategies.parts.weights.recording import Call, has_patches, patches, recorded
from streams.data import Batch
from streams.errors import ConfigError
from streams.randomness import Key

Kind = Literal["rademacher", "tensor-sketch"]
"""How gradients are projected."""
Form = Literal["sgd", "sign"]
"""The gradient, or its signs."""

_ROWS = 4096  # of a projection matrix that are drawn under one name
_TINY = 1e-12


@final
class Projector:
    """A random linear map from the gradients of named parameters to ``[width]``; cosines survive it approximately.

    ``rademacher`` multiplies by +-1 / sqrt(width), as TRAK's projector and the released code do: the cosine of two
    gradients is off by about 1 / sqrt(width). ``tensor-sketch`` (Pham and Pagh 2013) sums signed coordinates into
    `width` buckets, by hashes of row and column, so that an outer product is projected from its two factors alone, by a
    convolution, and no gradient is ever built.
    """

    def __init__(self, kind: Kind, width: int, key: Key, memory: int) -> None:
        """Draw nothing yet.

        Args:
            kind: see above.
            width: d.
            key: names the draws. A parameter's map depends on this and on its name alone.
            memory: bytes that kept matrices may take; what does not fit is drawn anew at every use.
        """
        self.kind, self.width, self._key, self._room = kind, width, key / "projection" / kind, memory
        self._kept: dict[tuple[str | int, ...], torch.Tensor] = {}

    def gradients(self, name: str, gradients: torch.Tensor) -> torch.Tensor:
        """Project gradients ``[B, *shape]`` of the parameter `name`; return ``[B, width]``."""
        if self.kind == "tensor-sketch":
            if gradients.ndim == 2:
                return gradients @ self._buckets(name, 0, gradients.shape[1], gradients.device)
            flat = gradients.flatten(2)
            rows = torch.fft.rfft(self._buckets(name, 0, flat.shape[1], flat.device))
            columns = torch.fft.rfft(self._buckets(name, 1, flat.shape[2], flat.device))
            return torch.fft.irfft(((flat.to(rows.dtype) @ columns) * rows).sum(1), n=self.width)
        flat = gradients.flatten(1)
        out = flat.new_zeros(len(flat), self.width)
        for start in range(0, flat.shape[1], _ROWS):
            part = flat[:, start : start + _ROWS]
            out.addmm_(part, self._signs(name, start // _ROWS, flat.device)[: part.shape[1]])
        return out

    def outer(self, name: str, delta: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """Project sum_t delta_t a_t^T ``[B, O, I]`` without building it.

        Args:
            name: of the weight.
            delta: ``[B, T, O]``.
            a: ``[B, T, I]``.
        """
        rows = torch.fft.rfft(delta @ self._buckets(name, 0, delta.shape[2], delta.device))
        columns = torch.fft.rfft(a @ self._buckets(name, 1, a.shape[2], a.device))
        return torch.fft.irfft((rows * columns).sum(1), n=self.width)

    def _signs(self, name: str, block: int, device: torch.device) -> torch.Tensor:
        """Rows of the +-1 / sqrt(d) matrix, ``[_ROWS, width]``."""
        signs = self._kept.get((name, block))
        if signs is not None:
            return signs
        generator = (self._key / name / block).torch()
        bits = torch.randint(0, 2, (_ROWS, self.width), generator=generator, dtype=torch.int8)
        drawn = bits.to(device, torch.float32).mul_(2).sub_(1).div_(math.sqrt(self.width))
        if drawn.numel() * 4 <= self._room:
            self._room -= drawn.numel() * 4
            self._kept[name, block] = drawn
        return drawn

    def _buckets(self, name: str, side: int, size: int, device: torch.device) -> torch.Tensor:
        """Which bucket each coordinate goes to, and with which sign, as a matrix ``[size, width]``."""
        matrix = self._kept.get((name, "side", side))
        if matrix is None:
            generator = (self._key / name / "side" / side).torch()
            bucket = torch.randint(0, self.width, (size,), generator=generator)
            sign = torch.randint(0, 2, (size,), generator=generator).float() * 2 - 1
            matrix = torch.zeros(size, self.width)
            matrix[torch.arange(size), bucket] = sign
            matrix = self._kept[name, "side", side] = matrix.to(device)
        return matrix


@dataclass(frozen=True, slots=True)
class Block:
    """The part of a network whose gradients are looked at.

    Attributes:
        name: its path in the network.
        parameters: its trained parameters by their path.
        layers: its modules with parameters of their own, by their path.
    """

    name: str
    parameters: dict[str, nn.Parameter]
    layers: dict[nn.Module, str]

    @property
    def readable(self) -> bool:
        """Whether every trained parameter belongs to a layer whose gradients can be read off."""
        own = [p for m in self.layers if _is_supported(m) for p in m.parameters(recurse=False) if p.requires_grad]
        return len(own) == len(self.parameters)


def find_block(model: FlatModel, which: int | str | None, where: str) -> Block:
    """Return a block of the network.

    Where the body has a list of transformer blocks (see `stacks`) that are trained, these count. Elsewhere every layer
    of the body is a block.

    Args:
        model: the network.
        which: an index (negative ones count from the end), or a path such as ``body.inner.layers.1``. None takes the
            middle one of transformer blocks, else the last layer of the body; the head, where nothing else is trained.
        where: the key to name in errors.

    Raises:
        ConfigError: there is no such block, or nothing in it is trained.
    """
    names = dict(model.network.named_modules())
    if isinstance(which, str):
        if which not in names:
            raise ConfigError(f"{where}: {which!r} is no module of this network. It has {', '.join(list(names)[1:])}.")
        return _block(which, names[which], where)
    stack = next(((path, m) for path, m in stacks(model.network.body).items() if _trained(m)), None)
    if stack is not None:
        blocks = [f"body.{stack[0]}.{i}" for i, m in enumerate(stack[1]) if _trained(m)]
        index = len(blocks) // 2 if which is None else which
    else:
        layers = [n for n, m in names.items() if any(p.requires_grad for p in m.parameters(recurse=False))]
        blocks = [n for n in layers if n.startswith("body")] or layers
        index = -1 if which is None else which
    if not -len(blocks) <= index < len(blocks):
        raise ConfigError(f"{where}: {index} is no index of {len(blocks)} blocks.")
    return _block(blocks[index], names[blocks[index]], where)


def sample_features(
    model: FlatModel,
    objective: Objective,
    batch: Batch,
    block: Block,
    projector: Projector | None,
    form: Form = "sgd",
    memory: int = 1 << 28,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what every sample's gradient in `block` is like, in evaluation mode.

    The loss is that of evaluation: the mean of -log p over a sample's response tokens, or -log p of its label.

    Args:
        model: its weights, mode, buffers and gradient are left as found.
        objective: gives outputs and losses.
        batch: the samples.
        block: where.
        projector: to `width` numbers; None if norms alone are wanted, then features are ``[B, 0]``.
        form: project the gradients or their signs; norms are of the gradients.
        memory: bytes that gradients of single samples may take at a time.

    Returns:
        Outputs (detached), features ``[B, width]``, not normalised, and gradient norms ``[B]`` before the projection.
    """
    with evaluating(model):
        calls: list[Call] = []
        if block.readable:
            with recorded(block.layers) as calls:
                outputs = objective.outputs(model, batch)
        if not block.readable or len(calls) != len({m for m, _, _ in calls}):  # a layer that is called twice
            return _one_by_one(model, objective, batch, block, projector, form)
        losses = objective.losses(outputs, batch)
        deltas = torch.autograd.grad(losses.sum(), [z for _, _, z in calls])
    features = torch.zeros(len(batch), 0 if projector is None else projector.width, device=losses.device)
    squares = torch.zeros(len(batch), device=losses.device)
    with torch.no_grad():
        for (module, a, _), delta in zip(calls, deltas, strict=True):
            more, square = _layer(module, block.layers[module], a, delta, projector, form, memory)
            features += more
            squares += square
    return outputs.detach(), features, squares.sqrt()


def normalised(features: torch.Tensor) -> torch.Tensor:
    """Return the rows of ``[N, F]`` scaled to length 1; rows of zeros stay zeros."""
    return features / features.norm(dim=1, keepdim=True).clamp(min=_TINY)


def _one_by_one(
    model: FlatModel, objective: Objective, batch: Batch, block: Block, projector: Projector | None, form: Form
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        outputs = objective.outputs(model, batch)
    features, norms = [], []
    for i in range(len(batch)):
        sample = batch.part(i, i + 1)
        loss = objective.losses(objective.outputs(model, sample), sample).sum()
        block_gradients = torch.autograd.grad(loss, list(block.parameters.values()), allow_unused=True)
        gradients = {n: g.float() for n, g in zip(block.parameters, block_gradients, strict=True) if g is not None}
        norms.append(sum((g.square().sum() for g in gradients.values()), torch.zeros((), device=loss.device)).sqrt())
        if projector is None:
            features.append(torch.zeros(0))
        else:
            parts = [projector.gradients(n, _formed(g, form).unsqueeze(0)) for n, g in gradients.items()]
            features.append(torch.cat(parts).sum(0))
    return outputs, torch.stack(features), torch.stack(norms)


def _layer(
    module: nn.Module,
    name: str,
    a: torch.Tensor,
    delta: torch.Tensor,
    projector: Projector | None,
    form: Form,
    memory: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one layer's features ``[B, width]`` and squared norms ``[B]``."""
    trained = {n for n, p in module.named_parameters(recurse=False) if p.requires_grad}
    if _is_norm(module):
        scaled, shifts = _scale_gradients(module, a, delta)
        vectors = {"weight": scaled, "bias": shifts}
    else:
        if isinstance(module, nn.Conv2d):
            a, delta = patches(module, a, delta)
        # Single samples at one position and rows of positions alike: [B, T, .].
        a, delta = a.float().reshape(len(a), -1, a.shape[-1]), delta.float().reshape(len(a), -1, delta.shape[-1])
        vectors = {"bias": delta.sum(1)}
    features = torch.zeros(len(delta), 0 if projector is None else projector.width, device=delta.device)
    squares = torch.zeros(len(delta), device=delta.device)
    for parameter, values in vectors.items():
        if parameter in trained:
            squares += values.square().sum(1)
            if projector is not None:
                features += projector.gradients(f"{name}.{parameter}", _formed(values, form))
    if _is_norm(module) or "weight" not in trained:
        return features, squares
    left, right = (a, delta) if is_transposed(module) else (delta, a)
    if projector is None:
        return features, squares + _outer_squares(left, right, memory)
    if projector.kind == "tensor-sketch" and form == "sgd":
        return features + projector.outer(f"{name}.weight", left, right), squares + _outer_squares(left, right, memory)
    for rows in _chunks(left, right, memory):
        gradients = torch.bmm(left[rows].transpose(1, 2), right[rows])
        squares[rows] += gradients.flatten(1).square().sum(1)
        features[rows] += projector.gradients(f"{name}.weight", _formed(gradients, form))
    return features, squares


def _outer_squares(left: torch.Tensor, right: torch.Tensor, memory: int) -> torch.Tensor:
    """Return ||sum_t l_t r_t^T||^2 ``[B]`` = sum_(s, t) (l_s . l_t)(r_s . r_t), by whichever way is shorter."""
    positions, sides = left.shape[1], left.shape[2] + right.shape[2]
    if positions * sides <= 2 * left.shape[2] * right.shape[2]:
        return (torch.bmm(left, left.transpose(1, 2)) * torch.bmm(right, right.transpose(1, 2))).sum((1, 2))
    squares = left.new_zeros(len(left))
    for rows in _chunks(left, right, memory):
        squares[rows] = torch.bmm(left[rows].transpose(1, 2), right[rows]).square().sum((1, 2))
    return squares


def _chunks(left: torch.Tensor, right: torch.Tensor, memory: int) -> list[slice]:
    """Return slices of samples whose gradients fit into `memory` bytes; at least one sample at a time."""
    size = max(memory // (4 * left.shape[2] * right.shape[2]), 1)
    return [slice(start, start + size) for start in range(0, len(left), size)]


def _scale_gradients(module: nn.Module, a: torch.Tensor, delta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of a norm's scale and shift, ``[B, H]`` each.

    Its output is linear in both, so that the derivative by the scale is the output with scale 1 minus that with 0.
    """
    zeros = {n: torch.zeros_like(p) for n, p in module.named_parameters(recurse=False)}
    base = torch.func.functional_call(module, zeros, (a,))
    unit = torch.func.functional_call(module, zeros | {"weight": torch.ones_like(zeros["weight"])}, (a,))
    channel = 1 if isinstance(module, _BatchNorm | nn.GroupNorm) else delta.ndim - 1
    summed_dims = [d for d in range(1, delta.ndim) if d != channel]
    scale, shift = (delta * (unit - base)).float(), delta.float()
    return (scale.sum(summed_dims), shift.sum(summed_dims)) if summed_dims else (scale, shift)


def _formed(gradients: torch.Tensor, form: Form) -> torch.Tensor:
    return gradients.sign() if form == "sign" else gradients


def _trained(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())


def _is_norm(module: nn.Module) -> bool:
    """Whether it scales (and shifts) each channel of something normalised, by one number per channel."""
    own = dict(module.named_parameters(recurse=False))
    named = isinstance(module, _BatchNorm | nn.GroupNorm | nn.LayerNorm) or type(module).__name__.endswith("Norm")
    return named and "weight" in own and own.keys() <= {"weight", "bias"} and all(p.ndim == 1 for p in own.values())


def _is_supported(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or has_patches(module) or is_transposed(module) or _is_norm(module)


def _block(name: str, module: nn.Module, where: str) -> Block:
    parameters = {f"{name}.{n}": p for n, p in module.named_parameters() if p.requires_grad}
    if not parameters:
        raise ConfigError(f"{where}: nothing in {name!r} is trained. Choose another block, or train it.")
    layers = {
        m: f"{name}.{n}" if n else name
        for n, m in module.named_modules()
        if any(p.requires_grad for p in m.parameters(recurse=False))
    }
    return Block(name, parameters, layers)
