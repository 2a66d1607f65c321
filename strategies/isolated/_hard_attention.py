"""Hard attention to the task (HAT; Serra et al. 2018): masks over the units of a chain of layers.

A unit is an output of a linear map or a channel of a convolution. What is said of units becomes a statement about
weights by the minimum rule: a weight is as protected as the less protected of the two units that it joins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import nn
from torch.func import functional_call

from strategies.parts.model import FlatModel
from streams.errors import ConfigError


def annealed(batch: int, batches: int, s_max: float) -> float:
    """Return the slope of the gates: from 1 / s_max in the first batch of an epoch to s_max in the last.

    >>> [annealed(b, 3, 4.0) for b in range(3)], annealed(0, 1, 4.0)
    ([0.25, 2.125, 4.0], 4.0)
    """
    return s_max if batches == 1 else 1 / s_max + (s_max - 1 / s_max) * batch / (batches - 1)


def compensation(embedding: torch.Tensor, slope: float, s_max: float, clamp: float) -> torch.Tensor:
    """Return what to multiply the gradient of embeddings ``[U]`` with, so that the slope does not matter to its size.

    (s_max / s) (cosh(s e) + 1) / (cosh(e) + 1), with s e between -clamp and clamp (HAT; Serra et al. 2018).
    """
    steep = (slope * embedding).clamp(-clamp, clamp).cosh() + 1
    return s_max / slope * steep / (embedding.cosh() + 1)


@dataclass(frozen=True, slots=True)
class _Layer:
    """A linear map or convolution: its module, its units among all ``[U]``, and its weights among all ``[P]``."""

    name: str
    module: nn.Module
    units: slice
    weight: slice
    bias: slice | None
    shape: torch.Size


@final
class MaskedChain:
    """The body of a model as a chain of layers whose units can be masked."""

    def __init__(self, model: FlatModel, where: str) -> None:
        """Find the layers.

        Args:
            model: whose body it is; weights are always its present ones.
            where: named in errors.

        Raises:
            ConfigError: the body is not a plain chain of trained linear maps and convolutions.
        """
        body = model.network.body
        if not isinstance(body, nn.Sequential):
            raise ConfigError(
                f"{where} masks the units of a chain of layers (mlp, lenet); {_CANNOT}{type(body).__name__}."
            )
        self._modules = list(body.named_children())
        self.layers: list[_Layer] = []
        units = 0
        for name, module in self._modules:
            if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
                weight = module.weight
                weight_name = f"body.{name}.weight"
                before = self.layers[-1].units if self.layers else None
                if weight_name not in model.slices:
                    raise ConfigError(f"{where} trains all layers; {weight_name} is frozen. Set trained: all.")
                if before is not None and weight.shape[1] % (before.stop - before.start):
                    raise ConfigError(
                        f"{where} masks the units of a chain of layers; {_CANNOT}{weight_name} of another width."
                    )
                bias = model.slices.get(f"body.{name}.bias")
                unit_slice = slice(units, units + weight.shape[0])
                self.layers.append(_Layer(name, module, unit_slice, model.slices[weight_name], bias, weight.shape))
                units = unit_slice.stop
            elif any(True for _ in module.parameters()):
                raise ConfigError(
                    f"{where} masks the units of linear maps and convolutions (mlp, lenet); {_CANNOT}"
                    f"{type(module).__name__} with weights of its own."
                )
        if not self.layers:
            raise ConfigError(f"{where} needs a hidden layer. Choose a model with one, such as mlp.")
        self.num_units = units
        self.size = max(s.stop for layer in self.layers for s in (layer.weight, layer.bias) if s)

    def on_weights(self, units: torch.Tensor) -> torch.Tensor:
        """Return, for every weight of the body ``[P]``, the minimum of what `units` ``[U]`` says of its two ends.

        Weights of the first layer, and biases, have one end.
        """
        per_weight = torch.zeros(self.size, dtype=units.dtype, device=units.device)
        before: torch.Tensor | None = None
        for layer in self.layers:
            layer_units = units[layer.units]
            if layer.bias is not None:
                per_weight[layer.bias] = layer_units
            ends = layer_units.view(-1, *[1] * (len(layer.shape) - 1)).expand(layer.shape)
            if before is not None:
                input_units = before.repeat_interleave(layer.shape[1] // len(before))
                ends = torch.minimum(ends, input_units.view(1, -1, *[1] * (len(layer.shape) - 2)).expand(layer.shape))
            per_weight[layer.weight] = ends.reshape(-1)
            before = layer_units
        return per_weight

    def by_layer(self, values: list[torch.Tensor]) -> torch.Tensor:
        """Return one number per layer, spread over its weights and biases, ``[P]``."""
        per_weight = torch.zeros(self.size, dtype=values[0].dtype, device=values[0].device)
        for layer, value in zip(self.layers, values, strict=True):
            for part in (layer.weight, layer.bias):
                if part is not None:
                    per_weight[part] = value
        return per_weight

    def occupied(self, gates: torch.Tensor, taken: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return which share of the units that are not `taken` the gates open: of all, and of each layer; 0 of none.

        Args:
            gates: ``[U]`` in [0, 1].
            taken: ``[U]``, 1 for units that tasks hold.
        """
        opened, free = gates * (1 - taken), 1 - taken
        shares = [opened[x.units].sum() / free[x.units].sum().clamp(min=1) for x in self.layers]
        return opened.sum() / free.sum().clamp(min=1), shares

    def run(
        self, x: torch.Tensor, gates: torch.Tensor, others: list[tuple[torch.Tensor, torch.Tensor]] | None = None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the features ``[B, F]`` under the gates, and those in which some units have other weights.

        Args:
            x: inputs.
            gates: ``[U]``, multiplied with what each unit says, before its activation.
            others: pairs of weights ``[P]`` of the body and units ``[U]`` (0 or 1) that compute with them.
        """
        routes, numbers = [x] * len(others or []), iter(self.layers)
        layer = next(numbers, None)
        for name, module in self._modules:
            if layer is None or layer.name != name:
                x, routes = module(x), [module(r) for r in routes]
                continue
            gate = _spread(gates[layer.units], layer)
            for i, (weights, units) in enumerate(others or []):
                parameters = {"weight": weights[layer.weight].view(layer.shape)}
                if layer.bias is not None:
                    parameters["bias"] = weights[layer.bias]
                uses_them = _spread(units[layer.units], layer)
                outputs = functional_call(module, parameters, (routes[i],))
                routes[i] = (uses_them * outputs + (1 - uses_them) * module(routes[i])) * gate
            x = module(x) * gate
            layer = next(numbers, None)
        return x, routes


_CANNOT = "the model has a "


def _spread(units: torch.Tensor, layer: _Layer) -> torch.Tensor:
    """Return ``[units]`` in the shape of the layer's output, ``[units]`` or ``[units, 1, 1]``."""
    return units.view(-1, *[1] * (len(layer.shape) - 2))
