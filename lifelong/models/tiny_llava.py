"""A small LLaVA with random weights: a CLIP vision tower, a projector and a Llama, for text with images.

Large patches and a shallow tower learn most from few pictures: with patches of 14 pixels and one block it names
held-out characters and digits of `instructions` after a minute, with patches of 7 and two blocks it does not.
"""

from __future__ import annotations

from pydantic import Field

from lifelong.models._language import LoRA, TinyConfig, language_network
from lifelong.models._sight import Sight, check_pictured
from strategies.parts.model import Network
from streams.errors import ConfigError


class Config(TinyConfig):
    """Options of `tiny-llava`: those of its Llama, and of its vision tower."""

    patch: int = Field(14, ge=1)
    """Side of a patch of an image, in pixels; it must divide the image's side. An image takes (side / patch)^2
    positions of a row (`source.image_tokens`)."""
    vision_width: int = Field(64, ge=8)
    """Size of a hidden state of the tower; `vision_heads` must divide it."""
    vision_depth: int = Field(1, ge=1)
    """Number of the tower's blocks, all of which are used."""
    vision_heads: int = Field(4, ge=1)
    """Attention heads of the tower."""
    vision_inner: int = Field(128, ge=8)
    """Width inside a feed-forward layer of the tower."""
    width: int = Field(64, ge=8)
    """Size of a hidden state; `heads` must divide it."""
    inner: int = Field(192, ge=8)
    """Width inside a feed-forward layer."""
    lora: LoRA | None = None
    """Train low-rank adapters in the Llama's blocks in place of all weights; null trains the weights, the tower's
    among them."""


def build(config: Config, input_shape: tuple[int, ...], num_outputs: int) -> Network:
    """Return the network for rows of tokens with images ``[2, L, M, C, H, W]``.

    Raises:
        ConfigError: the inputs are something else, or the sizes do not fit.
    """
    channels, side, _ = check_pictured("tiny-llava", input_shape)
    config.check("tiny-llava", input_shape[:2])
    if side % config.patch:
        raise ConfigError(f"model.patch: {config.patch} does not divide the side of the source's images, {side}.")
    if config.vision_width % config.vision_heads:
        raise ConfigError(
            f"model.vision_heads: {config.vision_heads} heads do not divide vision_width {config.vision_width}."
        )
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    llava = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=config.vision_width,
                intermediate_size=config.vision_inner,
                num_hidden_layers=config.vision_depth,
                num_attention_heads=config.vision_heads,
                image_size=side,
                patch_size=config.patch,
                num_channels=channels,
            ),
            text_config=LlamaConfig(
                vocab_size=num_outputs,
                hidden_size=config.width,
                intermediate_size=config.inner,
                num_hidden_layers=config.depth,
                num_attention_heads=config.heads,
                max_position_embeddings=config.context,
                initializer_range=config.width**-0.5,
                attention_dropout=config.dropout,
                pad_token_id=None,
            ),
            vision_feature_layer=-1,
        )
    ).model
    sight = Sight(llava, (0.5,) * channels, (0.5,) * channels)
    network = language_network(llava.language_model, config.width, num_outputs, config.tied, sight)
    return network if config.lora is None else config.lora.adapt(network)
