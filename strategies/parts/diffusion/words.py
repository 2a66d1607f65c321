"""Words that no vocabulary has: vectors put in the place of words' embeddings, for attacks on what reads a prompt."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from strategies.parts.diffusion.parts import word_embedding


@contextlib.contextmanager
def spoken(network: nn.Module, vectors: torch.Tensor, start: int) -> Iterator[None]:
    """Have vectors in place of the embeddings of some words of every prompt, while this is open.

    Args:
        network: with a text encoder.
        vectors: ``[B, k, size]``, or ``[k, size]`` for all prompts.
        start: the place of the first word that is replaced.
    """

    def replace(module: nn.Module, inputs: tuple[torch.Tensor, ...], embedded: torch.Tensor) -> torch.Tensor:
        put = vectors.expand(len(embedded), *vectors.shape[-2:])
        return torch.cat([embedded[:, :start], put, embedded[:, start + put.shape[1] :]], 1)

    handle = word_embedding(network).register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def vocabulary(network: nn.Module) -> torch.Tensor:
    """Return the vector of every word, ``[V, size]``, without gradient."""
    module = word_embedding(network)
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    return weight.detach().t() if isinstance(module, nn.Linear) else weight.detach()
