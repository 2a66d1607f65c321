"""What all language models share: a body that reads rows of tokens, and a head tied to its embedding or not."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, final

import torch
from pydantic import Field
from torch import nn
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from lifelong.models._sight import Sight
from strategies.parts.model import Network
from strategies.parts.text.token_body import Prefixes, TokenBody
from strategies.parts.weights.blocks import stacks
from streams.config import Config as BaseConfig
from streams.errors import ConfigError
from streams.text import IMAGE

FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm")
"""What decoders of transformers call the norm behind their last block."""


@final
class Decoder(TokenBody):
    """A decoder of transformers; attention looks to the left only, so that padding needs no mask."""

    def __init__(self, inner: Any, sight: Sight | None = None, checkpoint: str | None = None) -> None:
        """Take a transformers decoder without its head, what sees images, and the checkpoint its weights are from."""
        super().__init__()
        self.inner = inner
        self.sight = sight
        self._checkpoint = checkpoint

    @property
    @override
    def checkpoint(self) -> str | None:
        return self._checkpoint

    @property
    @override
    def layers(self) -> nn.ModuleList:
        return next(iter(stacks(self.inner).values()))

    @property
    @override
    def image_tokens(self) -> int:
        return 0 if self.sight is None else self.sight.positions

    @property
    @override
    def context(self) -> int:
        size: int = self.inner.config.max_position_embeddings
        return size

    @override
    def states(self, x: torch.Tensor, images: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        outputs = self.inner(inputs_embeds=self.embedded(x, images), use_cache=False, output_hidden_states=True)
        return tuple(state.float() for state in outputs.hidden_states)

    @override
    def normed(self, states: torch.Tensor) -> torch.Tensor:
        norm = next((m for n in FINAL_NORMS if (m := getattr(self.inner, n, None)) is not None), None)
        return states if norm is None else norm(states)

    @override
    def forward(self, x: torch.Tensor, images: torch.Tensor | None = None) -> torch.Tensor:
        hidden: torch.Tensor = self.inner(inputs_embeds=self.embedded(x, images), use_cache=False).last_hidden_state
        return hidden.float()

    @override
    def can_go_on(self, length: int) -> bool:
        # Padding stands between a row's tokens: it would take part in a recurrent state, or count in a window.
        window = getattr(self.inner.config, "sliding_window", None)
        return self.sight is None and not getattr(self.inner, "_is_stateful", False) and (window or length) >= length

    @override
    def begin(self, x: torch.Tensor) -> tuple[torch.Tensor, Prefixes]:
        from transformers import DynamicCache

        there = x[:, 1, : int((x[:, 1] > 0).sum(1).max())] > 0
        cached = _Cached(self.inner, DynamicCache(config=self.inner.config), there)
        hidden = cached.passed(self.embedded(x))
        return hidden[torch.arange(len(x), device=x.device), there.sum(1) - 1], cached

    @override
    def embedded(self, x: torch.Tensor, images: torch.Tensor | None = None) -> torch.Tensor:
        length = int((x[:, 1] > 0).sum(1).max())
        embedded: torch.Tensor = self.inner.get_input_embeddings()(x[:, 0, :length].long())
        if self.sight is None or images is None:
            return embedded
        return self.sight.place(embedded, x[:, 1, :length] == IMAGE, images)


@final
class _Cached(Prefixes):
    """The rows of a decoder of transformers. A token that is added stands behind the padding of all rows."""

    def __init__(self, inner: Any, cache: Any, there: torch.Tensor) -> None:
        """Take an empty cache, and where the rows have tokens, bool ``[B, T]``."""
        self._inner, self._cache, self._there = inner, cache, there
        self._name = "cache" if "cache" in inspect.signature(inner.forward).parameters else "past_key_values"

    def passed(self, embedded: torch.Tensor, **options: torch.Tensor) -> torch.Tensor:
        """Return the hidden states ``[B, T, width]`` of positions behind those that are kept, and keep them."""
        outputs = self._inner(inputs_embeds=embedded, use_cache=True, **{self._name: self._cache}, **options)
        hidden: torch.Tensor = outputs.last_hidden_state
        return hidden.float()

    @override
    def go_on(self, rows: torch.Tensor, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        if len(rows) != len(self._there) or not torch.equal(rows, torch.arange(len(rows), device=rows.device)):
            self._cache.batch_select_indices(rows)
            self._there = self._there[rows]
        self._there = torch.cat([self._there, self._there.new_ones(len(rows), 1)], 1)
        embedded = self._inner.get_input_embeddings()(tokens.long())
        places = positions.unsqueeze(1)
        return self.passed(embedded, attention_mask=self._there.long(), position_ids=places).squeeze(1)


def check_text(name: str, input_shape: tuple[int, ...], context: int | None = None) -> None:
    """Refuse inputs that are no rows of tokens, or longer than the context.

    Raises:
        ConfigError: says which, and what to do.
    """
    if len(input_shape) == 6 and input_shape[0] == 2:
        raise ConfigError(f"model: {name} reads text alone, and the source has images, too. Use tiny-llava.")
    if len(input_shape) != 2 or input_shape[0] != 2:
        raise ConfigError(
            f"model: {name} reads text, and the source gives inputs of shape {input_shape}. Use a source of text "
            f"(people, corpora, text-files) and objective: causal-lm."
        )
    if context is not None and input_shape[1] > context:
        raise ConfigError(
            f"model: {name} reads at most {context} tokens, and the source has rows of {input_shape[1]}. Shorten the "
            f"source's rows, or raise model.context where the model has it."
        )


@final
class _HalfHead(nn.Module):
    """A linear head with weights in bfloat16, from hidden states in float32 to logits in float32."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner

    @override
    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(hidden.to(self.inner.weight.dtype))
        return logits.float()


def in_bfloat16(network: Network) -> Network:
    """Return the network with its weights in bfloat16; hidden states and logits are float32, buffers stay as they are.

    It is to be frozen: training in bfloat16 would lose small steps.
    """
    for parameter in network.parameters():
        parameter.data = parameter.data.bfloat16()
    assert isinstance(network.head, nn.Linear)
    return Network(network.body, _HalfHead(network.head))


def recompute(blocks: nn.ModuleList) -> None:
    """Let blocks keep their inputs alone while training, and pass again in the backward pass (Chen et al. 2016).

    Dropout draws the same noise again, so that gradients are the same to the bit.
    """
    for block in blocks:
        block.forward = functools.partial(_passed, block, block.forward)


def _passed(block: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not (block.training and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


class LoRA(BaseConfig):
    """Low-rank adapters beside frozen weights (Hu et al. 2021, arXiv 2106.09685), made by peft."""

    rank: int = Field(8, ge=1)
    """r, the inner width of an adapter."""
    alpha: float = Field(16.0, gt=0)
    """An adapter's output is multiplied by alpha / r."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout of an adapter's input while training."""
    targets: tuple[str, ...] | None = None
    """Names of the linear layers that get one (``q_proj``); null means every one in the blocks."""

    def adapt(self, network: Network) -> Network:
        """Freeze the network and put adapters into its blocks; what it computes does not change by that.

        Raises:
            ConfigError: peft is not installed, or no layer has such a name.
        """
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise ConfigError("model.lora: peft is not installed. pip install peft") from error
        network.requires_grad_(False)
        body = network.body
        assert isinstance(body, TokenBody)
        linear, transposed = _linear_layers(body.layers)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # peft declares an int and takes any number
            lora_dropout=self.dropout,
            target_modules=list(self.targets or linear),
            fan_in_fan_out=transposed,
        )
        try:
            inject_adapter_in_model(config, body.layers)
        except ValueError as error:
            raise ConfigError(f"model.lora.targets: {error}") from error
        for parameter in network.parameters():
            if parameter.requires_grad:  # peft makes them as the weights beside them are
                parameter.data = parameter.data.float()
        return network


class TinyConfig(BaseConfig):
    """Options of all small language models."""

    width: int = Field(128, ge=8)
    """Size of a hidden state; `heads` must divide it."""
    depth: int = Field(2, ge=1)
    """Number of blocks."""
    heads: int = Field(4, ge=1)
    """Attention heads."""
    inner: int = Field(384, ge=8)
    """Width inside a feed-forward layer."""
    context: int = Field(512, ge=8)
    """Most tokens of a row."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout of attention weights while training."""
    tied: bool = True
    """Whether the head is the embedding."""
    lora: LoRA | None = None
    """Train low-rank adapters in place of the weights; null trains the weights."""

    def check(self, name: str, input_shape: tuple[int, ...]) -> None:
        """Refuse inputs that are no text, and sizes that do not fit.

        Raises:
            ConfigError: says which, and what to do.
        """
        check_text(name, input_shape, self.context)
        if self.width % self.heads:
            raise ConfigError(f"model.heads: {self.heads} heads do not divide width {self.width}.")

    def network(self, inner: Any, num_outputs: int) -> Network:
        """Return a transformers decoder with a new head, and adapters if they are wanted."""
        network = language_network(inner, self.width, num_outputs, self.tied)
        return network if self.lora is None else self.lora.adapt(network)


def _linear_layers(blocks: nn.Module) -> tuple[list[str], bool]:
    """Return the names of all linear layers, and whether they keep their weights transposed (as GPT-2's do)."""
    from transformers.pytorch_utils import Conv1D

    named = list(blocks.named_modules())
    transposed = any(isinstance(m, Conv1D) for _, m in named)
    return sorted({n.rpartition(".")[2] for n, m in named if isinstance(m, nn.Linear | Conv1D)}), transposed


def language_network(inner: Any, width: int, num_outputs: int, tied: bool, sight: Sight | None = None) -> Network:
    """Return decoder and a new head.

    Args:
        inner: a transformers decoder without its head.
        width: of its hidden states.
        num_outputs: tokens of the vocabulary.
        tied: whether the head is the embedding.
        sight: sees images, or None.
    """
    head = nn.Linear(width, num_outputs, bias=False)
    if tied:
        head.weight = inner.get_input_embeddings().weight
    else:
        nn.init.normal_(head.weight, std=0.02)
    return Network(Decoder(inner.train(), sight), head)
