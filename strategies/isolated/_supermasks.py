"""Supermasks: binary masks over weights, learned by scores (edge-popup), packed to bits, and told apart by entropy.

Sources: edge-popup (Ramanujan et al. 2020, arXiv 1911.13299), SupSup (Wortsman et al. 2020, arXiv 2006.14769), ExSSNeT
(Yadav and Bansal 2023, arXiv 2210.10209). The weights W of a network are the one vector of its `FlatModel`; under a
mask m each layer makes its effective weights W * m in its own forward pass (`Lens`), and nothing keeps them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import register_parametrization
from typing_extensions import override

from strategies.parts.model import FlatModel
from strategies.parts.training.optimizers import Adam, Optimizer, OptimizerConfig
from strategies.parts.training.rates import Scheduled, by_epoch, cosine
from strategies.parts.weights.ranks import kth_smallest
from streams.errors import ConfigError
from streams.randomness import Key, seeded_torch

logger = logging.getLogger(__name__)

Schedule = Literal["cosine", "constant"]
_WINDOW = 0.02


@dataclass(frozen=True, slots=True)
class Layer:
    """One weight tensor that masks choose from: its place in the vector ``[P]``.

    Attributes:
        name: of the parameter, without ``weight``.
        start, stop: positions in the vector.
        fan_in: inputs of one output unit.
    """

    name: str
    start: int
    stop: int
    fan_in: int

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Span:
    """What one task chooses in one layer: all but the `drop` smallest scores of the positions from start to stop."""

    start: int
    stop: int
    drop: int


def maskable(model: FlatModel, outputs: int | None, key: Key) -> FlatModel:
    """Return a model whose parameters are the trained weights of linear, convolution and embedding layers, only.

    Their biases are taken away, and so are gain and bias of batch norms. Everything else that is trained (layer norms,
    position embeddings) is frozen as it was built; what `trained` has left frozen stays as it is.

    Args:
        model: taken apart; do not use it afterwards.
        outputs: rows of a head to put in place of the model's own, or None to keep that.
        key: names the draw of that head.

    Raises:
        ConfigError: the head is not linear, or no weight is left.
    """
    network = model.network
    if outputs is not None:
        if not isinstance(network.head, nn.Linear):
            raise ConfigError(f"outputs: the head is a {type(network.head).__name__}, not linear; leave outputs null.")
        with seeded_torch(key):
            network.head = nn.Linear(network.head.in_features, outputs, bias=False).to(model.parameters.device)
    weights = {name for weight, name in _weights(network) if weight.requires_grad}
    for module in network.modules():
        trained = any(p.requires_grad for p in module.parameters(recurse=False))
        if isinstance(module, nn.Linear | _ConvNd) and trained:
            module.register_parameter("bias", None)
        elif isinstance(module, nn.MultiheadAttention) and trained:
            module.register_parameter("in_proj_bias", None)
        elif isinstance(module, _BatchNorm) and trained:
            module.affine = False
            module.register_parameter("weight", None)
            module.register_parameter("bias", None)
    if not weights:
        raise ConfigError("Supermasks choose weights of linear, convolution or embedding layers; the model has none.")
    for name, parameter in network.named_parameters():
        parameter.data, parameter.grad = parameter.data.clone(), None
        parameter.requires_grad_(name in weights)
    return FlatModel(network)


def _weights(network: nn.Module) -> list[tuple[torch.Tensor, str]]:
    """Return every weight tensor of a linear map, with its name."""
    named_weights = []
    for path, module in network.named_modules():
        if isinstance(module, nn.Linear | _ConvNd | nn.Embedding):
            named_weights.append((module.weight, f"{path}.weight"))
        elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            named_weights.append((module.in_proj_weight, f"{path}.in_proj_weight"))
    return named_weights


def layers_of(model: FlatModel) -> tuple[Layer, ...]:
    """Return the layers of a `maskable` model, in order."""
    shapes = {name: p.shape for name, p in model.network.named_parameters()}
    return tuple(
        Layer(name.removesuffix(".weight"), s.start, s.stop, math.prod(shapes[name][1:]))
        for name, s in model.slices.items()
    )


def signed_constants(parameters: torch.Tensor, layers: Sequence[Layer]) -> torch.Tensor:
    """Return sign(w) sqrt(2 / fan_in) of every weight, ``[P]``: all of a layer have one size (edge-popup)."""
    weights = parameters.sign()
    for layer in layers:
        weights[layer.start : layer.stop] *= math.sqrt(2.0 / layer.fan_in)
    return weights


def initial_scores(layers: Sequence[Layer], key: Key, device: torch.device) -> torch.Tensor:
    """Return scores ``[P]`` drawn from U(-1 / sqrt(fan_in), 1 / sqrt(fan_in)), each layer by its own name."""
    parts = [
        (torch.rand(layer.size, generator=(key / layer.name).torch()) * 2 - 1) / math.sqrt(layer.fan_in)
        for layer in layers
    ]
    return torch.cat(parts).to(device)


def spans_of(layers: Sequence[Layer], density: float, head: str, outputs: int) -> tuple[Span, ...]:
    """Return what one task chooses in each layer: numel - int((1 - density) numel) weights.

    Args:
        layers: of the network.
        density: share of the weights kept.
        head: name of the head, of which the first `outputs` rows belong to the task. It keeps at least one weight per
            output, which a low density would not leave it.
        outputs: of the task.
    """
    spans = []
    for layer in layers:
        size = layer.size if layer.name != head else min(layer.size, outputs * layer.fan_in)
        drop = int((1 - density) * size)
        if layer.name == head and size - drop < outputs:
            logger.info("density %g would leave the head %d weights for %d outputs", density, size - drop, outputs)
            drop = size - min(size, outputs)
        spans.append(Span(layer.start, layer.start + size, drop))
    return tuple(spans)


def smallest(size: torch.Tensor, k: int, guess: float | None = None) -> float:
    """Return the k-th smallest value (k from 1) of non-negative `size`.

    Args:
        size: ``[n]``.
        k: at most n.
        guess: about where it lies; a good guess makes it several times as fast, a bad one changes nothing.

    >>> smallest(torch.tensor([3.0, 1.0, 2.0]), 2, guess=1.99), smallest(torch.tensor([3.0, 1.0, 2.0]), 2, guess=9.0)
    (2.0, 2.0)
    """
    if size.is_cuda:
        return float(kth_smallest(size, k))
    values = size.numpy()
    if guess is not None:
        above = values > guess * (1 + _WINDOW)
        near = values[np.flatnonzero((values > guess * (1 - _WINDOW)) ^ above)]
        place = k - (len(values) - int(np.count_nonzero(above)) - len(near))
        if 0 < place <= len(near):
            return float(np.partition(near, place - 1)[place - 1])
    return float(np.partition(values, k - 1)[k - 1])


def _mark_above(size: torch.Tensor, bar: float, out: torch.Tensor) -> int:
    """Write down which values lie above a bar, and count them."""
    if size.is_cuda:
        return int(torch.gt(size, bar, out=out).count_nonzero())
    return int(np.count_nonzero(np.greater(size.numpy(), bar, out=out.numpy())))  # several times as fast as torch's


def keep_largest(size: torch.Tensor, drop: int) -> torch.Tensor:
    """Return bool ``[n]``: all but the `drop` smallest; among equals the first are dropped.

    >>> keep_largest(torch.tensor([3.0, 1.0, 1.0, 2.0]), 2).tolist()
    [True, False, False, True]
    """
    if drop <= 0:
        return torch.ones_like(size, dtype=torch.bool)
    bar = smallest(size, drop)
    mask = size > bar
    missing = len(size) - drop - int(mask.sum())
    if missing:
        mask[torch.nonzero(size == bar).squeeze(1)[-missing:]] = True
    return mask


def choose(scores: torch.Tensor, spans: Sequence[Span]) -> torch.Tensor:
    """Return the mask ``[P]`` (bool): in every layer the positions whose scores have the largest absolute values."""
    mask = torch.zeros_like(scores, dtype=torch.bool)
    for span in spans:
        part = slice(span.start, span.stop)
        mask[part] = keep_largest(scores[part].abs(), span.drop)
    return mask


def deal(scores: torch.Tensor, mask: torch.Tensor, spans: Sequence[Span]) -> torch.Tensor:
    """Return the absolute values of `scores` dealt out anew within each layer, so that `choose` finds `mask`.

    A task that comes again starts from its mask in this way, without its scores having been kept. Positions keep the
    signs that they have, and within the mask and outside of it their order.

    Args:
        scores: of all positions ``[P]``.
        mask: bool ``[P]``.
        spans: where the layers lie.
    """
    result = scores.clone()
    for span in spans:
        part = slice(span.start, span.stop)
        size, chosen = scores[part].abs(), mask[part]
        outside, inside = torch.nonzero(~chosen).squeeze(1), torch.nonzero(chosen).squeeze(1)
        order = torch.cat([outside[size[outside].argsort()], inside[size[inside].argsort()]])
        dealt = torch.empty_like(size)
        dealt[order] = size.sort().values
        result[part] = torch.where(scores[part] < 0, -dealt, dealt)
    return result


def pack(mask: torch.Tensor) -> torch.Tensor:
    """Return a mask as bits: uint8 ``[ceil(P / 8)]`` on the CPU."""
    return torch.from_numpy(np.packbits(mask.cpu().numpy()))


def unpack(bits: torch.Tensor, length: int, device: torch.device | None = None) -> torch.Tensor:
    """Return the mask, bool ``[length]``, that `pack` made bits of."""
    mask = torch.from_numpy(np.unpackbits(bits.numpy(), count=length).view(np.bool_))
    return mask if device is None else mask.to(device)


def positions_of(bits: torch.Tensor, length: int, device: torch.device | None = None) -> torch.Tensor:
    """Return the positions, int64 ``[n]``, ascending, that a packed mask of `length` contains."""
    positions = torch.from_numpy(np.flatnonzero(np.unpackbits(bits.numpy(), count=length)))
    return positions if device is None else positions.to(device)


def union(packed: Iterable[torch.Tensor], length: int) -> torch.Tensor:
    """Return, as bits ``[ceil(length / 8)]``, the positions that at least one of the packed masks contains."""
    total = np.zeros(-(-length // 8), dtype=np.uint8)
    for bits in packed:
        np.bitwise_or(total, bits.numpy(), out=total)
    return torch.from_numpy(total)


@final
class Lens:
    """What the layers of a model compute with in place of its weights W: at first W itself, or whatever is shown.

    A layer makes its part of W * m in its own forward pass, and it is gone afterwards (in training, after backward):
    showing another mask copies nothing. Gradients pass as if there were no mask, so that the model's `gradient` is
    dL/d(W * m) at all positions, those outside of the mask too (straight-through).
    """

    def __init__(self, model: FlatModel) -> None:
        """Put it before every module that holds one of the model's trained parameters; call `layers_of` before."""
        self._mask: torch.Tensor | None = None
        self._values: torch.Tensor | None = None
        parts = {id(p): model.slices[n] for n, p in model.network.named_parameters() if n in model.slices}
        for module in list(model.network.modules()):
            for name, parameter in list(module.named_parameters(recurse=False)):
                if id(parameter) in parts:
                    register_parametrization(module, name, _Seen(self, parts[id(parameter)]))

    @property
    def shown(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """What `show` was told last."""
        return self._mask, self._values

    def show(self, mask: torch.Tensor | None, values: torch.Tensor | None = None) -> None:
        """Compute with W * mask from now on.

        Args:
            mask: packed to bits (uint8), or ``[P]``: bool, or real factors; None stands for W as it is. It is looked at
                in every forward pass, so that it may be changed in place.
            values: ``[P]``, computed with as they are, instead of W and the mask.
        """
        self._mask, self._values = mask, values

    def effective(self, weight: torch.Tensor, part: slice) -> torch.Tensor:
        """Return what stands for one layer's `weight`, which is a part of W; like it, new unless W itself is shown."""
        if self._values is not None:
            return self._values[part].view_as(weight)
        mask = self._mask
        if mask is None:
            return weight
        if mask.dtype == torch.uint8:
            first = part.start // 8
            bits = np.unpackbits(mask[first : -(-part.stop // 8)].numpy(), count=part.stop - 8 * first)
            mask = torch.from_numpy(bits[part.start - 8 * first :]).to(weight.device)
        else:
            mask = mask[part]
        mask = mask.view_as(weight)
        if weight.is_cuda or mask.is_floating_point():
            return weight * mask
        out = torch.empty_like(weight)  # numpy multiplies by bytes without making floats of them first
        np.multiply(weight.detach().numpy(), mask.numpy(), out=out.numpy())
        return out


@final
class _Seen(nn.Module):
    """One weight tensor as a lens shows it."""

    def __init__(self, lens: Lens, part: slice) -> None:
        super().__init__()
        self._lens, self._part = lens, part

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled() or self._lens.shown == (None, None):
            return self._lens.effective(weight, self._part)
        seen: torch.Tensor = _StraightThrough.apply(weight, self._lens, self._part)
        return seen


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, lens: Lens, part: slice) -> torch.Tensor:
        return lens.effective(weight, part)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradients[0], None, None


def _adam(config: OptimizerConfig, parameters: torch.Tensor, epochs: int, steps: int, schedule: Schedule) -> Optimizer:
    """Return Adam, whose learning rate falls by a cosine over the epochs of a stage if that is the schedule."""
    inner = Adam(config, parameters)
    if schedule != "cosine":
        return inner
    return Scheduled(inner, by_epoch(cosine(epochs), max(1, steps // epochs)))


@final
class ScoreStep(Optimizer):
    """Trains scores where the loop believes to train weights; the model sees its weights through `mask`.

    The straight-through gradient of the scores is sign(s) * dL/d(W * m) * W at all positions, those outside the mask
    included: that is how a weight can enter.
    """

    def __init__(
        self,
        config: OptimizerConfig,
        scores: torch.Tensor,
        spans: Sequence[Span],
        epochs: int,
        steps: int,
        schedule: Schedule,
    ) -> None:
        """Choose for the first time.

        Args:
            config: learning rate and decay rates of Adam.
            scores: ``[P]``, changed in place.
            spans: what is chosen.
            epochs, steps: of the stage.
            schedule: of the learning rate.
        """
        self.scores, self._spans = scores, spans
        self.mask = torch.zeros_like(scores, dtype=torch.bool)
        """What is chosen now, bool ``[P]``, changed in place by every step."""
        self._adam = _adam(config, scores, epochs, steps, schedule)
        self._guesses: list[float | None] = [None] * len(spans)
        self._choose()

    @torch.no_grad()
    @override
    def step(self, parameters: torch.Tensor, gradient: torch.Tensor) -> None:
        """Move the scores, choose again; the parameters W stay as they are."""
        self._adam.step(self.scores, gradient.mul_(parameters).mul_(self.scores.sign()))
        self._choose()

    def _choose(self) -> None:
        """Do what `choose` does; from step to step the bar moves little, which makes it cheap to find."""
        for index, span in enumerate(self._spans):
            part = slice(span.start, span.stop)
            size, chosen = self.scores[part].abs(), self.mask[part]
            bar = smallest(size, span.drop, self._guesses[index]) if span.drop else -1.0
            if _mark_above(size, bar, chosen) != len(size) - span.drop:  # ties at the bar
                chosen.copy_(keep_largest(size, span.drop))
            self._guesses[index] = bar

    @override
    def state_dict(self) -> dict[str, object]:
        return {"adam": self._adam.state_dict(), "scores": self.scores.clone()}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._adam.load_state_dict(state["adam"])
        self.scores.copy_(state["scores"])
        self._choose()


@final
class WeightStep(Optimizer):
    """Trains the weights at some positions; no other weight is ever written."""

    def __init__(
        self,
        config: OptimizerConfig,
        weights: torch.Tensor,
        positions: torch.Tensor,
        epochs: int,
        steps: int,
        schedule: Schedule,
    ) -> None:
        """Start with zero moments.

        Args:
            config: learning rate and decay rates of Adam; weight decay 0.
            weights: W ``[P]`` to start from.
            positions: int64 ``[n]`` that are trained; all of them lie in the mask.
            epochs, steps: of the stage.
            schedule: of the learning rate.
        """
        self._positions = positions
        self._own = weights.index_select(0, positions)
        self._adam = _adam(config, self._own, epochs, steps, schedule)

    @torch.no_grad()
    @override
    def step(self, parameters: torch.Tensor, gradient: torch.Tensor) -> None:
        self._adam.step(self._own, gradient.index_select(0, self._positions))
        parameters.index_copy_(0, self._positions, self._own)

    @override
    def state_dict(self) -> dict[str, object]:
        return {"adam": self._adam.state_dict(), "own": self._own.clone()}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._adam.load_state_dict(state["adam"])
        self._own.copy_(state["own"])


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """Return the entropy of every sample's softmax in nats, ``[B]``."""
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


def superfluous(logits: torch.Tensor, real: int) -> torch.Tensor:
    """Return log sum exp of every sample's logits, ``[B]``, whose gradient goes through superfluous ones alone.

    SupSup's second signal, G: a task's own mask has learned to keep down the outputs that stand for no class.

    Args:
        logits: ``[B, outputs]``.
        real: how many of them, from the first, stand for classes.
    """
    return torch.cat([logits[:, :real].detach(), logits[:, real:]], 1).logsumexp(1)


def slopes_of(
    model: FlatModel,
    lens: Lens,
    chosen: Sequence[torch.Tensor],
    coefficients: torch.Tensor,
    x: torch.Tensor,
    signal: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Return d H / d alpha of the mean signal H of a mixture of masks, ``[K]``, by one forward and one backward pass.

    The mixture computes with W * sum_i alpha_i m_i, so that d H / d alpha_i = sum over m_i of W * dH / d(effective).

    Args:
        model: in evaluation mode; its gradient is overwritten.
        lens: of the model; what it shows afterwards is the mixture.
        chosen: the positions in each of the K masks, int64.
        coefficients: alpha ``[K]``.
        x: inputs ``[B, ...]``.
        signal: from logits to H of every sample, ``[B]``.
    """
    with torch.no_grad():
        mixture = torch.zeros_like(model.parameters)
        for alpha, positions in zip(coefficients.tolist(), chosen, strict=True):
            if alpha:
                mixture[positions] += alpha
    lens.show(mixture)
    model.gradient.zero_()
    with torch.enable_grad():
        signal(model(x)).mean().backward()
    slopes = model.gradient * model.parameters
    return torch.stack([slopes[positions].sum() for positions in chosen])


def one_shot(slopes: Callable[[torch.Tensor], torch.Tensor], count: int) -> int:
    """Return the mask whose coefficient lowers the signal fastest from the even mixture (SupSup).

    Args:
        slopes: from coefficients ``[K]`` to d H / d alpha ``[K]``.
        count: K.
    """
    return int(slopes(torch.full((count,), 1 / count)).argmin())


def binary(slopes: Callable[[torch.Tensor], torch.Tensor], count: int) -> int:
    """Return the mask that is left when the half with the higher slopes is dropped again and again (SupSup)."""
    candidates = torch.arange(count)
    while len(candidates) > 1:
        coefficients = torch.zeros(count)
        coefficients[candidates] = 1 / len(candidates)
        order = slopes(coefficients).cpu()[candidates].argsort(stable=True)
        candidates = candidates[order[: -(-len(candidates) // 2)]].sort().values
    return int(candidates[0])
