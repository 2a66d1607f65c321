"""A pretrained LLaVA by folder or name on the hub (llava-hf/llava-1.5-7b-hf), for text with images."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from lifelong.models._language import Decoder, LoRA, check_text
from lifelong.models._sight import Sight, check_pictured
from strategies.parts.model import Network, needs_values
from streams.checkpoints import checkpoint_folder
from streams.config import Config as BaseConfig
from streams.errors import ConfigError


class Config(BaseConfig):
    """Options of `llava-checkpoint`. Set `source.tokenizer` to the same checkpoint."""

    checkpoint: str = "llava-hf/llava-1.5-7b-hf"
    """A folder with config.json, preprocessor_config.json and weights, or a name on the Hugging Face hub."""
    weights: Literal["pretrained", "none"] = "pretrained"
    """Weights of that checkpoint, or random ones for its configuration."""
    depth: int | None = Field(None, ge=1)
    """Keep that many blocks of the language model, the lowest ones; null keeps all."""
    tower: Literal["frozen", "trained"] = "frozen"
    """Whether the vision tower is trained, too; as published it is not."""
    lora: LoRA | None = None
    """Train low-rank adapters in the language model's blocks in place of all weights; null trains the weights."""


def build(config: Config, input_shape: tuple[int, ...], num_outputs: int) -> Network:
    """Return the network for rows of tokens with images ``[2, L, M, C, H, W]``.

    Raises:
        ConfigError: the checkpoint cannot be had, is no LLaVA, or has another vocabulary than the source.
    """
    from transformers import AutoConfig, LlavaConfig, LlavaForConditionalGeneration
    from transformers.image_processing_base import ImageProcessingMixin

    name = config.checkpoint
    check_pictured("llava-checkpoint", input_shape)
    folder = checkpoint_folder(name, "model.checkpoint")
    try:
        described = AutoConfig.from_pretrained(folder)
        if not isinstance(described, LlavaConfig):
            raise ConfigError(f"model.checkpoint: {name!r} is a {described.model_type}, not a LLaVA.")
        pictures, _ = ImageProcessingMixin.get_image_processor_dict(folder)
        if config.weights == "pretrained" and needs_values():
            checkpoint = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        else:
            checkpoint = LlavaForConditionalGeneration(described)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model.checkpoint: {name!r} cannot be loaded: {error}. Check the name, the network, or give a folder."
        ) from error
    text = checkpoint.config.get_text_config()
    check_text("llava-checkpoint", input_shape[:2], text.max_position_embeddings)
    if text.vocab_size < num_outputs:
        raise ConfigError(
            f"model.checkpoint: {name!r} has {text.vocab_size} tokens, the source's tokeniser has {num_outputs}. Set "
            f"source.tokenizer: {name}."
        )
    llava = checkpoint.model
    if config.tower == "frozen":
        llava.vision_tower.requires_grad_(False)
    sight = Sight(llava, tuple(pictures["image_mean"]), tuple(pictures["image_std"]))
    pretrained = name if config.weights == "pretrained" else None
    body = Decoder(llava.language_model.train(), sight.train(), pretrained)
    if config.depth is not None:
        del body.layers[config.depth :]
    network = Network(body, checkpoint.lm_head)
    return network if config.lora is None else config.lora.adapt(network)
