"""A small GPT-2 with random weights."""

from __future__ import annotations

from pydantic import Field

from lifelong.models._language import LoRA, check_text, language_network
from strategies.parts.model import Network
from streams.config import Config as BaseConfig
from streams.errors import ConfigError


class Config(BaseConfig):
    """Options of `tiny-gpt2`."""

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
    """Dropout of embeddings, attention weights and residuals while training."""
    tied: bool = True
    """Whether the head is the embedding."""
    lora: LoRA | None = None
    """Train low-rank adapters in place of the weights; null trains the weights."""


def build(config: Config, input_shape: tuple[int, ...], num_outputs: int) -> Network:
    """Return the network for rows of tokens ``[2, L]``.

    Raises:
        ConfigError: the inputs are no text, or the sizes do not fit.
    """
    check_text("tiny-gpt2", input_shape, config.context)
    if config.width % config.heads:
        raise ConfigError(f"model.heads: {config.heads} heads do not divide width {config.width}.")
    from transformers import GPT2Config, GPT2Model

    inner = GPT2Model(
        GPT2Config(
            vocab_size=num_outputs,
            n_embd=config.width,
            n_inner=config.inner,
            n_layer=config.depth,
            n_head=config.heads,
            n_positions=config.context,
            bos_token_id=None,
            eos_token_id=None,
            resid_pdrop=config.dropout,
            embd_pdrop=config.dropout,
            attn_pdrop=config.dropout,
        )
    )
    network = language_network(inner, config.width, num_outputs, config.tied)
    return network if config.lora is None else config.lora.adapt(network)
