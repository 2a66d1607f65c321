"""A small Mixtral (mixture of experts, two of which see each token) with random weights."""

from __future__ import annotations

from pydantic import Field

from lifelong.models._language import LoRA, check_text, language_network
from strategies.parts.model import Network
from streams.config import Config as BaseConfig
from streams.errors import ConfigError


class Config(BaseConfig):
    """Options of `tiny-mixtral`."""

    width: int = Field(128, ge=8)
    """Size of a hidden state; `heads` must divide it."""
    depth: int = Field(2, ge=1)
    """Number of blocks."""
    heads: int = Field(4, ge=1)
    """Attention heads."""
    inner: int = Field(256, ge=8)
    """Width inside an expert."""
    experts: int = Field(4, ge=2)
    """Experts in every block; trained without a loss that balances them."""
    context: int = Field(512, ge=8)
    """Most tokens of a row."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout of attention weights while training."""
    tied: bool = True
    """Whether the head is the embedding."""
    lora: LoRA | None = None
    """Train low-rank adapters in place of the weights; null trains the weights."""


def build(config: Config, input_shape: tuple[int, ...], num_outputs: int) -> Network:
    """Return the network for rows of tokens ``[2, L]``.

    Raises:
        ConfigError: the inputs are no text, or the sizes do not fit.
    """
    check_text("tiny-mixtral", input_shape, config.context)
    if config.width % config.heads:
        raise ConfigError(f"model.heads: {config.heads} heads do not divide width {config.width}.")
    from transformers import MixtralConfig, MixtralModel

    inner = MixtralModel(
        MixtralConfig(
            vocab_size=num_outputs,
            hidden_size=config.width,
            intermediate_size=config.inner,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            num_local_experts=config.experts,
            num_experts_per_tok=2,
            max_position_embeddings=config.context,
            attention_dropout=config.dropout,
            pad_token_id=None,
        )
    )
    network = language_network(inner, config.width, num_outputs, config.tied)
    return network if config.lora is None else config.lora.adapt(network)
