"""The parametrised layers of a network in order, and fresh draws of weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from strategies.parts.model import FlatModel
from streams.errors import ConfigError
from streams.randomness import Key, seeded_torch

_OWN = ("weight", "bias")
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm)


def last_layers(model: FlatModel, k: int, where: str) -> torch.Tensor:
    """Return which weights belong to the last `k` layers, bool ``[P]``.

    Linear and convolutional layers count, in the order in which the network registers them; what else has parameters
    (norms) goes with them if it comes after the first of the k.

    Raises:
        ConfigError: there are fewer layers.
    """
    mask = torch.zeros(len(model.parameters), dtype=torch.bool, device=model.parameters.device)
    for part in _slices_of_last(model, k, where):
        mask[part] = True
    return mask


def are_all(model: FlatModel, k: int, where: str) -> bool:
    """Return whether the last `k` layers are the whole model; see `last_layers`. Weights need not have values."""
    return sum(part.stop - part.start for part in _slices_of_last(model, k, where)) == len(model.parameters)


def _slices_of_last(model: FlatModel, k: int, where: str) -> list[slice]:
    trained = [
        (name, module)
        for name, module in model.network.named_modules()
        if any(f"{name}.{p}" in model.slices for p, _ in module.named_parameters(recurse=False))
    ]
    counted = [i for i, (_, m) in enumerate(trained) if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    if k > len(counted):
        raise ConfigError(f"{where}: {k}, but the model has {len(counted)} linear and convolutional layers.")
    return [
        model.slices[f"{name}.{parameter}"]
        for name, module in trained[counted[-k] :]
        for parameter, _ in module.named_parameters(recurse=False)
        if f"{name}.{parameter}" in model.slices
    ]


def weights_of(model: FlatModel, kinds: tuple[type[nn.Module], ...]) -> dict[str, tuple[slice, torch.Size]]:
    """Return place and shape of the trained weights of layers of some kinds, by name; biases do not count."""
    named = {name.removesuffix(".weight"): p.shape for name, p in model.network.named_parameters()}
    return {
        name: (model.slices[f"{name}.weight"], named[name])
        for name, module in model.network.named_modules()
        if isinstance(module, kinds) and f"{name}.weight" in model.slices
    }


def convolutions(model: FlatModel, who: str, otherwise: str) -> dict[str, tuple[slice, torch.Size]]:
    """Return place and shape ``[out, in, height, width]`` of the trained kernels of two-dimensional convolutions.

    Raises:
        ConfigError: there are none; says who needs them, and what to do otherwise.
    """
    found = weights_of(model, (nn.Conv2d,))
    if not found:
        raise ConfigError(f"{who} changes the kernels of convolutions, and this model trains none. {otherwise}")
    return found


def first_convolution(model: FlatModel) -> torch.Tensor:
    """Return which weights are those of the first trained convolution over images, its bias too, bool ``[P]``.

    In a network without one it is none of them.
    """
    return _of(model, list(weights_of(model, (nn.Conv2d,)))[:1])


def in_norms(model: FlatModel) -> torch.Tensor:
    """Return which weights belong to batch, instance, layer or group norms, bool ``[P]``."""
    return _of(model, [n for n, m in model.network.named_modules() if isinstance(m, _NORMS)])


def of_layers(model: FlatModel) -> dict[str, slice]:
    """Return the places of the trained weights and biases of linear and convolutional layers, by name."""
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    names = [f"{n}.{p}" for n, m in model.network.named_modules() if isinstance(m, kinds) for p in _OWN]
    return {name: model.slices[name] for name in names if name in model.slices}


def _of(model: FlatModel, modules: list[str]) -> torch.Tensor:
    mask = torch.zeros(len(model.parameters), dtype=torch.bool, device=model.parameters.device)
    for name in (f"{module}.{p}" for module in modules for p in _OWN):
        if name in model.slices:
            mask[model.slices[name]] = True
    return mask


def add_noise(model: FlatModel, place: slice, sigma: float, key: Key) -> None:
    """Add normal noise of standard deviation `sigma` to the weights at `place`, by a name of its own."""
    noise = torch.randn(place.stop - place.start, generator=key.torch())
    model.parameters[place] += sigma * noise.to(model.parameters)


def redraw(model: FlatModel, key: Key) -> FlatModel:
    """Draw all weights of `model` anew, by a name of their own, and return it.

    Every module, at any depth, is asked to reset itself as torch's layers do; parameters outside of such modules stay
    as they are. Frozen ones are drawn as well, and are the model's own from then on.
    """
    model.own_frozen()
    with seeded_torch(key), torch.no_grad():
        for module in model.network.modules():
            reset = getattr(module, "reset_parameters", None)  # torch's convention, not part of nn.Module
            if callable(reset):
                reset()
    return model


def redraw_some(model: FlatModel, mask: torch.Tensor, other: FlatModel, key: Key) -> None:
    """Draw the weights of `model` in a mask ``[P]`` anew; `other`, of the same shape, is drawn as a whole."""
    model.parameters[mask] = redraw(other, key).parameters[mask]
