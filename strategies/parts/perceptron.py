"""Multi-layer perceptrons by hand: forward and backward passes of one or several at once, without a graph.

The bits of a network do not depend on how many others are passed with it. Rows are padded to a multiple of 16, and the
weights of every network begin at a multiple of 64 bytes, so that a matrix product meets the same shapes and the same
alignment whether it is one of many or the only one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from strategies.parts.model import FlatModel

_BLOCK = 16


@dataclass(frozen=True, slots=True)
class Layer:
    """One linear layer: where its weight ``[out, in]`` and bias ``[out]`` lie among the parameters.

    Attributes:
        rectified: whether a ReLU follows.
    """

    weight: slice
    bias: slice
    shape: tuple[int, int]
    rectified: bool


def padded(size: int) -> int:
    """Return the smallest multiple of 16 that is at least `size`.

    >>> padded(1), padded(16), padded(17)
    (16, 16, 32)
    """
    return -(-size // _BLOCK) * _BLOCK


def layers_of(model: FlatModel) -> tuple[Layer, ...] | None:
    """Return the layers of a perceptron on the CPU that is trained as a whole; None if the model is something else.

    It is something else, too, if anybody listens to one of its modules: passes by hand call none of them.
    """
    network, parameters = model.network, model.parameters
    if parameters.device.type != "cpu" or parameters.dtype != torch.float32 or network.passing.precision != "single":
        return None
    if any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in network.modules()):
        return None
    layers: list[Layer] = []
    for name, module in (*_in_order("body", network.body), *_in_order("head", network.head)):
        if type(module) is nn.Linear:
            weight, bias = model.slices.get(f"{name}.weight"), model.slices.get(f"{name}.bias")
            if weight is None or bias is None:
                return None
            layers.append(Layer(weight, bias, (module.out_features, module.in_features), rectified=False))
        elif type(module) is nn.ReLU and layers:
            last = layers[-1]
            layers[-1] = Layer(last.weight, last.bias, last.shape, rectified=True)
        elif not (type(module) is nn.Flatten and not layers and (module.start_dim, module.end_dim) == (1, -1)):
            return None
    whole = len(model.slices) == len(list(network.parameters())) == 2 * len(layers)
    return tuple(layers) if whole and not layers[-1].rectified else None


def _in_order(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    if type(module) is not nn.Sequential:
        yield name, module
        return
    for number, child in module.named_children():
        yield from _in_order(f"{name}.{number}", child)


@final
class Perceptrons:
    """S perceptrons of one shape. None of their tensors requires a gradient, so that no graph is made.

    Attributes:
        parameters: ``[S, P]``; what changes them changes the networks.
        gradient: ``[S, P]``, which `backward` fills.
    """

    def __init__(
        self, layers: tuple[Layer, ...], parameters: torch.Tensor, gradient: torch.Tensor | None = None
    ) -> None:
        """Take the weights of S networks, one in a row; a row may be longer than a network has weights."""
        self.parameters = parameters
        self.gradient = torch.zeros_like(parameters) if gradient is None else gradient
        self._rectified = [layer.rectified for layer in layers]
        self._weights, biases = _views(layers, self.parameters)
        self._turned = [weight.transpose(1, 2) for weight in self._weights]
        self._biases = [bias.unsqueeze(1) for bias in biases]
        self._weight_slopes, self._bias_slopes = _views(layers, self.gradient)
        # Products are written where they belong if they can be, or else beside and copied: matrix products into
        # memory with gaps are done one after the other.
        self._products = [s if s.is_contiguous() else torch.empty(s.shape) for s in self._weight_slopes]
        self._inputs: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs ``[S, B, outputs]`` for inputs ``[S, B, in]``; B is a multiple of 16."""
        self._inputs = []
        for weight, bias, rectified in zip(self._turned, self._biases, self._rectified, strict=True):
            self._inputs.append(x)
            x = torch.baddbmm(bias, x, weight)
            if rectified:
                x.relu_()
        return x

    def backward(self, slopes: torch.Tensor) -> torch.Tensor:
        """Return `gradient`, given the slopes ``[S, B, outputs]`` of the loss at the outputs of the last `forward`."""
        for i in range(len(self._weights) - 1, -1, -1):
            x = self._inputs[i]
            product = torch.bmm(slopes.transpose(1, 2), x, out=self._products[i])
            if product is not self._weight_slopes[i]:
                self._weight_slopes[i].copy_(product)
            torch.sum(slopes, 1, out=self._bias_slopes[i])
            if i:
                slopes = torch.bmm(slopes, self._weights[i])
                if self._rectified[i - 1]:
                    slopes = torch.ops.aten.threshold_backward(slopes, x, 0)
        self._inputs = []
        return self.gradient


def _views(layers: tuple[Layer, ...], rows: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    weights = [rows[:, layer.weight].unflatten(1, layer.shape) for layer in layers]
    return weights, [rows[:, layer.bias] for layer in layers]


def can_pass(*inputs: torch.Tensor) -> bool:
    """Return whether a perceptron can be passed by hand with these inputs."""
    x = inputs[0]
    return len(inputs) == 1 and x.dtype == torch.float32 and not x.requires_grad and x.ndim > 1 and x.shape[0] > 0


@final
class Padded:
    """Memory for the rows of one step, which the next step takes over."""

    def __init__(self) -> None:
        """Take none before it is needed."""
        self._memory, self._filled = torch.zeros(0, 0), 0

    def filled(self, values: torch.Tensor, rows: int) -> torch.Tensor:
        """Return ``values [B, F]`` followed by zeros, ``[1, rows, F]``."""
        size = values.shape[0]
        if size == rows:
            return values.unsqueeze(0)
        if self._memory.shape != (rows, values.shape[1]):
            self._memory, self._filled = torch.zeros(rows, values.shape[1]), 0
        if size < self._filled:
            self._memory[size : self._filled].zero_()
        self._memory[:size].copy_(values)
        self._filled = size
        return self._memory.unsqueeze(0)


def to_rows(values: torch.Tensor, rows: int) -> torch.Tensor:
    """Return ``values [B, F]`` followed by zeros, ``[1, rows, F]``."""
    size = values.shape[0]
    if size == rows:
        return values.unsqueeze(0)
    padded_values = values.new_zeros(1, rows, values.shape[1])
    padded_values[0, :size] = values
    return padded_values
