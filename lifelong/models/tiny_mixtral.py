"""A small Mixtral (mixture of experts, two of which see each token) with random weights."""

from __future__ import annotations

from pydantic import Field

from lifelong.models._language import TinyConfig
from strategies.parts.model import Network


class Config(TinyConfig):
    """Options of `tiny-mixtral`."""

    inner: int = Field(256, ge=8)
    """Width inside an expert."""
    experts: int = Field(4, ge=2)
    """Experts in every block; trained without a loss that balances them."""


def build(config: Config, input_shape: tuple[int, ...], num_outputs: int) -> Network:
    """Return the network for rows of tokens ``[2, L]``.

    Raises:
        ConfigError: the inputs are no text, or the sizes do not fit.
    """
    config.check("tiny-mixtral", input_shape)
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
    return config.network(inner, num_outputs)
