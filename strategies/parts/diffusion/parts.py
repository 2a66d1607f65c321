"""Parts of an image generator that erasers train, by the names of modules in UNets of `diffusers` and in ours."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

from strategies.parts.model import FlatModel
from streams.errors import ConfigError

GeneratorPart = Literal["conditioning", "key-value", "rest", "text-encoder", "text-layers", "text-mlp", "all"]
"""conditioning: where the prompt enters the image network: its cross-attention; in `mlp-denoiser`, which has none, the
layer that reads the encoded prompt, and FiLM. key-value: of that only what reads the prompt: keys and values. rest: the
image network without conditioning. text-encoder: what encodes the prompt. text-layers: the same without the embeddings
of words and positions. text-mlp: of that the perceptrons, and the last self-attention. all: everything."""

_ENTERS = frozenset({"attn2", "film", "read"})
_READS = frozenset({"to_k", "to_v"})
_EMBEDS = frozenset({"words", "embeddings"})


def is_in_part(name: str, part: GeneratorPart, last: int = -1) -> bool:
    """Return whether a parameter belongs to a part, by the components of its path.

    `last` is the number of the text encoder's last block, if it has blocks.

    >>> is_in_part("body.unet.mid_block.attn2.to_k.weight", "key-value"), is_in_part("body.read.bias", "rest")
    (True, False)
    """
    path = set(name.split("."))
    if part == "all":
        return True
    if part == "text-encoder":
        return "text" in path
    if part in ("text-layers", "text-mlp"):
        inner = "text" in path and path.isdisjoint(_EMBEDS)
        return inner and (part == "text-layers" or "mlp" in path or f".{last}.self_attn." in name)
    enters = not path.isdisjoint(_ENTERS) and "text" not in path
    if part == "conditioning":
        return enters
    if part == "key-value":
        return enters and ("read" in path or not path.isdisjoint(_READS))
    return not enters and "text" not in path


def part_mask(model: FlatModel, part: GeneratorPart) -> torch.Tensor:
    """Return which weights belong to a part, bool ``[P]``.

    Raises:
        ConfigError: none does.
    """
    last = last_text_block(model.slices)
    slices = [where for name, where in model.slices.items() if is_in_part(name, part, last)]
    if not slices:
        raise ConfigError(
            f"unlearner.part: {part!r} names no trained weight of this model. Choose all, or a model whose "
            f"modules have the names of diffusers (attn2, to_k, to_v) or mlp-denoiser (read, film), and of an encoder "
            f"text."
        )
    mask = torch.zeros(len(model.parameters), dtype=torch.bool, device=model.parameters.device)
    for where in slices:
        mask[where] = True
    return mask


def last_text_block(names: Iterable[str]) -> int:
    """Return the number of the last block with self-attention in the text encoder, -1 if there is none.

    >>> last_text_block(["body.text.encoder.layers.3.self_attn.k_proj.weight", "body.text.mlp.0.bias"])
    3
    """
    found = [re.search(r"text\..*\.(\d+)\.self_attn\.", name) for name in names]
    return max((int(match[1]) for match in found if match), default=-1)


def word_embedding(network: nn.Module) -> nn.Module:
    """Return what turns words ``[B, W]`` (or one-hot rows of them) into vectors ``[B, W, size]``, for who hooks in.

    Raises:
        ConfigError: the network has no text encoder of a known make.
    """
    for name, module in network.named_modules():
        if name.endswith(("text.words", "embeddings.token_embedding")):
            return module
    raise ConfigError(
        "model: it has no word embedding at a known place (text.words of mlp-denoiser, token_embedding of CLIP). "
        "Choose mlp-denoiser or unet-small."
    )
