"""Network: a body and a head. FlatModel: a module whose parameters and gradients live in one vector each."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from streams.data import Batch
from streams.errors import ConfigError

Part = Literal["all", "body", "head", "attention"]
"""Which parameters: all, those of the body or of the head, or those of the body's self-attention blocks."""
Trained = Literal["all", "head", "attention"]
"""Which parameters are trained: all, the head, or the self-attention blocks and the head."""

ATTENTION = frozenset({"attention", "attn", "self_attention", "self_attn", "SelfAttention"})
"""Names that path components of self-attention blocks have in torchvision and transformers."""


Precision = Literal["single", "bf16"]
"""Of the arithmetic inside networks; weights, outputs and losses are in single precision."""


@dataclass(frozen=True, slots=True)
class Passing:
    """How a network is passed.

    Attributes:
        precision: bf16 lets torch's autocast do matrix products and convolutions in half precision.
        channels_last: whether images, and the weights of convolutions, pass with their channels as the last dimension
            in memory.
    """

    precision: Precision = "single"
    channels_last: bool = False

    def through(self, module: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
        """Return what a module makes of its inputs, in single precision."""
        if self.precision == "single":
            return module(*inputs)
        with torch.autocast(inputs[0].device.type, torch.bfloat16):
            outputs = module(*inputs)
        return outputs.float()


@final
class Network(nn.Module):
    """A body that makes features and a head that reads them."""

    def __init__(self, body: nn.Module, head: nn.Module, passing: Passing = Passing()) -> None:  # noqa: B008 (frozen)
        """Take ``body: inputs -> [B, F]`` and ``head: [B, F] -> [B, outputs]``, and how they are passed."""
        super().__init__()
        self.body = body
        self.head = head
        self.passing = passing

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return the outputs ``[B, outputs]`` of `Batch.inputs`."""
        return self.passing.through(lambda *x: self.head(self._features(*x)), *inputs)

    def features(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return the features ``[B, F]`` of `Batch.inputs`."""
        return self.passing.through(self._features, *inputs)

    def _features(self, *inputs: torch.Tensor) -> torch.Tensor:
        if not self.passing.channels_last:
            return self.body(*inputs)
        weights = {name: _channels_last(p) for name, p in self.body.named_parameters() if p.ndim == 4}
        return torch.func.functional_call(self.body, weights, tuple(_channels_last(x) for x in inputs))


def _channels_last(values: torch.Tensor) -> torch.Tensor:
    return values.contiguous(memory_format=torch.channels_last) if values.ndim == 4 else values


@final
class FlatModel:
    """A network seen as one parameter vector.

    `parameters` and `gradient` are plain float vectors ``[P]``; the network's tensors are views of them, in the order
    of ``named_parameters``. Weight-space methods are arithmetic on these vectors, a snapshot is one copy, and a
    digest is one hash. Frozen parameters (``requires_grad`` false) are part of neither, and may be shared with other
    models (`own_frozen`); a parameter that several modules share (tied weights) is there once.
    """

    def __init__(self, network: Network, trained: Trained = "all", parameters: torch.Tensor | None = None) -> None:
        """Freeze what is not `trained` and move all other parameters into one vector.

        Args:
            network: what it is made of, and changes from now on.
            trained: which parts are trained, if they are not frozen.
            parameters: the vector ``[P]`` to use, whose values replace the network's; one is made if it is None.

        Raises:
            ConfigError: nothing is left to train.
        """
        self.network = network
        self.passing: Batch | None = None
        """The batch that the training loop passes at this moment, for who listens in (`Tap`)."""
        self.by_hand: Callable[..., torch.Tensor | None] | None = None
        """What passes the training loop's batch in place of the network; returns None for all else."""
        freeze(network, trained)
        self._norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
        self._still = [m for m in self._norms if m.affine and not any(p.requires_grad for p in m.parameters())]
        named = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
        self._fixed: torch.Tensor | None = None  # which weights must not move at present, and their values
        self._values = torch.empty(0)
        self._rule: Callable[[], None] | None = None
        self.slices: dict[str, slice] = {}
        start = 0
        for name, parameter in named:
            self.slices[name] = slice(start, start + parameter.numel())
            start += parameter.numel()
        like = named[0][1]
        self.parameters = torch.empty(start, dtype=like.dtype, device=like.device) if parameters is None else parameters
        self._gradient: torch.Tensor | None = None
        self._trained = [(parameter, self.slices[name]) for name, parameter in named]
        for parameter, part in self._trained:
            if parameters is None:
                self.parameters[part] = parameter.detach().reshape(-1)
            parameter.data = self.parameters[part].view_as(parameter)
            parameter.grad = None

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return the network's outputs for `Batch.inputs`."""
        outputs = None if self.by_hand is None else self.by_hand(*inputs)
        return self.network(*inputs) if outputs is None else outputs

    @property
    def gradient(self) -> torch.Tensor:
        """The gradient ``[P]``, to which backward passes add; zero at first. It is there from when it is asked for."""
        if self._gradient is None:
            with torch.inference_mode(False):
                gradient = torch.zeros_like(self.parameters)
                for parameter, part in self._trained:
                    if parameter.grad is not None:  # a backward pass came first
                        gradient[part] = parameter.grad.reshape(-1)
                    parameter.grad = gradient[part].view_as(parameter)
            self._gradient = gradient
        return self._gradient

    def drop_gradient(self) -> None:
        """Give the gradient's memory back until it is asked for again, as zero."""
        self._gradient = None
        for parameter, _ in self._trained:
            parameter.grad = None

    def features(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return the penultimate features ``[B, F]``."""
        return self.network.features(*inputs)

    @property
    def has_batch_norm(self) -> bool:
        """Whether a sample's outputs in training may depend on the samples that are passed with it."""
        return bool(self._norms)

    def mask(self, part: Part, device: str | None = None) -> torch.Tensor:
        """Return a float vector ``[P]``: 1 where a parameter belongs to the part, else 0.

        Args:
            part: which.
            device: where the mask is needed; None takes the model's.

        Raises:
            ConfigError: the part is ``attention`` and the network has none.
        """
        mask = torch.zeros_like(self.parameters, device=device)
        for name, where in self.slices.items():
            if is_in(name, part):
                mask[where] = 1.0
        if part == "attention" and not self.has(part):
            raise ConfigError(NO_ATTENTION)
        return mask

    def has(self, part: Part) -> bool:
        """Return whether any parameter belongs to a part."""
        return any(is_in(name, part) for name in self.slices)

    # Why: docs/decisions.md#frozen-weights-are-put-back-after-every-step
    @contextlib.contextmanager
    def moving_only(self, movable: torch.Tensor) -> Iterator[None]:
        """Let training move some weights alone while this is open: after every step of `fit` the others are put back.

        Masking gradients would not do: momentum and weight decay move a weight without any gradient. Batch norms of
        which no parameter moves normalise by their running statistics and leave them alone. Nested calls add up.

        Args:
            movable: bool ``[P]``.
        """
        before = self._fixed, self._values, self._still
        fixed = ~movable
        if self._fixed is not None:
            fixed |= self._fixed
        self._fixed, self._values = fixed, self.parameters.clone()
        names = {m: n for n, m in self.network.named_modules()}
        parts = {m: [self.slices.get(f"{names[m]}.{p}") for p, _ in m.named_parameters()] for m in self._norms}
        self._still = [
            m for m, own in parts.items() if m in self._still or (own and all(s and fixed[s].all() for s in own))
        ]
        try:
            yield
        finally:
            self._fixed, self._values, self._still = before

    @contextlib.contextmanager
    def corrected(self, rule: Callable[[], None]) -> Iterator[None]:
        """Have a rule change the weights after every step of training while this is open.

        It is called before weights are put back that must not move, and knows itself what they were before the step.
        """
        before, self._rule = self._rule, rule
        try:
            yield
        finally:
            self._rule = before

    @property
    def is_free(self) -> bool:
        """Whether all weights may move at present, in any way."""
        return self._fixed is None and self._rule is None

    def hold(self) -> None:
        """Correct a step, and put the weights back that must not move at present."""
        if self._rule is not None:
            self._rule()
        if self._fixed is not None:
            torch.where(self._fixed, self._values, self.parameters, out=self.parameters)

    def train(self, on: bool = True, bn_mode: Literal["train", "eval"] = "train") -> None:
        """Set the mode; batch norms stay in evaluation mode where they are frozen, or if `bn_mode` is eval."""
        self.network.train(on)
        if on:
            for norm in self._norms if bn_mode == "eval" else self._still:
                norm.eval()

    def state_dict(self) -> dict[str, object]:
        """Return parameters and buffers, copied."""
        buffers = {name: b.clone() for name, b in self.network.named_buffers()}
        return {"parameters": self.parameters.clone(), "buffers": buffers}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Put a state back in place; views stay valid."""
        parameters, buffers = state["parameters"], state["buffers"]
        assert isinstance(parameters, torch.Tensor)
        assert isinstance(buffers, dict)
        self.parameters.copy_(parameters)
        for name, buffer in self.network.named_buffers():
            buffer.copy_(buffers[name])

    def copied(self, device: torch.device | str) -> FlatModel:
        """Return a model of its own on a device; frozen parameters, if they are there already, are shared.

        A shared one is another object over the same memory: who replaces or thaws it does so for that model.
        """
        parameters = self.parameters.to(device, copy=True)
        moved = [(p, parameters[part].view(p.shape)) for p, part in self._trained]
        moved += [(p, p.detach()) for p in frozen(self.network)]
        ours = {id(p): nn.Parameter(v, p.requires_grad) for p, v in moved if type(p) is nn.Parameter}
        return FlatModel(copy.deepcopy(self.network, dict(ours)).to(device), parameters=parameters)

    def take_over(self, other: FlatModel) -> None:
        """Copy parameters and buffers of another model of the same network; views stay valid."""
        self.parameters.copy_(other.parameters)
        for mine, theirs in zip(self.network.buffers(), other.network.buffers(), strict=True):
            mine.copy_(theirs)

    def own_frozen(self) -> None:
        """Give the model frozen parameters of its own: for who changes them, as training never does."""
        for parameter in frozen(self.network):
            parameter.data = parameter.data.clone()

    def is_in_state(self, state: dict[str, object]) -> bool:
        """Return whether parameters and buffers are, bit for bit, those of a state."""
        parameters, buffers = state["parameters"], state["buffers"]
        assert isinstance(parameters, torch.Tensor)
        assert isinstance(buffers, dict)
        return torch.equal(parameters, self.parameters) and all(
            torch.equal(buffers[name], buffer) for name, buffer in self.network.named_buffers()
        )

    def num_bytes(self) -> int:
        """Return the size of parameters and buffers in bytes."""
        tensors = [self.parameters, *self.network.buffers()]
        return sum(t.numel() * t.element_size() for t in tensors)


@contextlib.contextmanager
def without_values() -> Iterator[None]:
    """Let modules that are made while this is open have shapes, and no values: nothing is read or drawn for them."""
    with torch.device("meta"):
        yield


def needs_values() -> bool:
    """Return whether what is made at this moment is to have values (see `without_values`)."""
    return torch.get_default_device().type != "meta"


def freeze(network: Network, trained: Trained) -> None:
    """Freeze what is not `trained`.

    Raises:
        ConfigError: nothing is left to train.
    """
    for name, parameter in network.named_parameters():
        if not (is_in(name, trained) or is_in(name, "head")):
            parameter.requires_grad_(False)
    if not any(p.requires_grad for p in network.parameters()):
        raise ConfigError(f"trained: {trained!r} leaves no parameter to train; choose all.")
    if trained == "attention" and not any(is_in(n, "attention") for n, _ in network.named_parameters()):
        raise ConfigError(NO_ATTENTION)


def frozen(network: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are not trained."""
    return [p for p in network.parameters() if not p.requires_grad]


NO_ATTENTION = (
    "'attention' names self-attention blocks, and this model has none that is trained; choose another part, or a "
    "model such as vit-tiny."
)


def is_in(name: str, part: Part) -> bool:
    """Return whether a parameter belongs to a part, by whole components of its path.

    >>> is_in("body.layers.0.attention.query.weight", "attention"), is_in("body.attention_pool.weight", "attention")
    (True, False)
    """
    first, *rest = name.split(".")
    if part == "attention":
        return first == "body" and not ATTENTION.isdisjoint(rest)
    return part in ("all", first)


def is_finite(values: torch.Tensor) -> bool:
    """Return whether a tensor of any shape, with at least one element, has neither infinities nor NaN.

    Unlike ``isfinite().all()`` it takes no memory.
    """
    low, high = values.detach().aminmax()  # both are NaN if any is
    return math.isfinite(low) and math.isfinite(high)


def digest(state: object) -> str:
    """Return a hash of nested dicts, lists and tuples of tensors and plain values (hex, 32 characters)."""
    h = hashlib.blake2b(digest_size=16)
    _update(h, state)
    return h.hexdigest()


def num_bytes(state: object) -> int:
    """Return the bytes of all tensors in a nested state.

    The mask of sample ids under the key ``derived`` is the simulator's own bookkeeping and does not count.
    """
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(num_bytes(v) for k, v in state.items() if k != "derived")
    if isinstance(state, list | tuple):
        return sum(num_bytes(v) for v in state)
    return 0


def _update(h: hashlib.blake2b, state: object) -> None:
    if isinstance(state, torch.Tensor):
        h.update(f"tensor|{state.dtype}|{tuple(state.shape)}".encode())
        h.update(state.detach().cpu().contiguous().numpy().tobytes())
    elif isinstance(state, dict):
        h.update(f"dict|{len(state)}".encode())
        for key in sorted(state, key=str):
            _update(h, key)
            _update(h, state[key])
    elif isinstance(state, list | tuple):
        h.update(f"list|{len(state)}".encode())
        for value in state:
            _update(h, value)
    else:
        text = str(state)
        h.update(f"{type(state).__name__}|{len(text)}|{text}".encode())
