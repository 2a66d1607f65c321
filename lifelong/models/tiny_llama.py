"""A small Llama with random weights: two blocks learn hundreds of facts in half a minute."""

from __future__ import annotations

from lifelong.models._language import TinyConfig
from strategies.parts.model import Network


class Config(TinyConfig):
    """Options of `tiny-llama`."""


def build(config: Config, input_shape: tuple[int, ...], num_outputs: int) -> Network:
    """Return the network for rows of tokens ``[2, L]``.

    Raises:
        ConfigError: the inputs are no text, or the sizes do not fit.
    """
    config.check("tiny-llama", input_shape)
    from transformers import LlamaConfig, LlamaModel

    inner = LlamaModel(
        LlamaConfig(
            vocab_size=num_outputs,
            hidden_size=config.width,
            intermediate_size=config.inner,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            max_position_embeddings=config.context,
            attention_dropout=config.dropout,
            pad_token_id=None,
        )
    )
    return config.network(inner, num_outputs)
