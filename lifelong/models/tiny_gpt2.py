"""A small GPT-2 with random weights."""

from __future__ import annotations

from pydantic import Field

from lifelong.models._language import TinyConfig
from strategies.parts.model import Network


class Config(TinyConfig):
    """Options of `tiny-gpt2`."""

    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout of embeddings, attention weights and residuals while training."""


def build(config: Config, input_shape: tuple[int, ...], num_outputs: int) -> Network:
    """Return the network for rows of tokens ``[2, L]``.

    Raises:
        ConfigError: the inputs are no text, or the sizes do not fit.
    """
    config.check("tiny-gpt2", input_shape)
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
    return config.network(inner, num_outputs)
