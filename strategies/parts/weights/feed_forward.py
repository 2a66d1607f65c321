"""The feed-forward layers of a transformer: the maps that lead in and out, and the value vectors of their neurons.

A neuron of such a layer reads a state (its key, a row of the map that leads in) and adds a vector to the residual
stream (its value, a column of the map that leads out), as strongly as it is active (Geva et al. 2021, arXiv
2012.14913).
"""

from __future__ import annotations

import re

import torch
from torch import nn

from strategies.parts.lowrank.changes import is_transposed
from strategies.parts.model import FlatModel
from strategies.parts.weights.blocks import blocks_of
from streams.errors import ConfigError

_OUT = re.compile(r"^(?:mlp|feed_forward|ffn)\.(?:down_proj|c_proj|w2|fc2|fc_out)$")
"""Where a block of transformers has the linear map that leads out of its feed-forward layer."""
_IN = re.compile(r"^(?:mlp|feed_forward|ffn)\.(?:gate_proj|c_fc|w1|fc1|fc_in)$")
"""Where it has the one that leads in, of gated layers the gate."""
_EXPERTS = re.compile(r"^(?:mlp|block_sparse_moe|feed_forward)\.experts\.down_proj$")
"""Where a mixture has the maps that lead out of all of its experts, one tensor ``[experts, width, inner]``."""


def way_out(block: nn.Module, method: str) -> nn.Module:
    """Return the linear map that leads out of a block's feed-forward layer.

    Args:
        block: of a transformer.
        method: who asks, for an error (``guard: 'eco'``).

    Raises:
        ConfigError: it has none of the known form, as mixtures of experts have not.
    """
    return _only(block, _OUT, method, "out of")


def way_in(block: nn.Module, method: str) -> nn.Module:
    """Return the linear map that leads into it, whose outputs are the neurons before they are activated.

    Args, Raises: as of `way_out`.
    """
    return _only(block, _IN, method, "into")


def _only(block: nn.Module, form: re.Pattern[str], method: str, where: str) -> nn.Module:
    found = [module for name, module in block.named_modules() if form.match(name)]
    if len(found) != 1:
        raise ConfigError(
            f"{method} looks at the map that leads {where} a block's feed-forward layer, and this model has none that "
            f"it knows (mixtures of experts have several). Use a Llama, a GPT-2 or the like."
        )
    return found[0]


def value_places(model: FlatModel, block: int, method: str) -> torch.Tensor:
    """Return where the value vectors of a block's neurons lie among a model's parameters, int64 ``[neurons, width]``.

    ``model.parameters[places]`` are the vectors, and what is written there is written into the model. The neurons of
    all experts of a mixture count, one expert after the other.

    Args:
        model: with the blocks of a transformer.
        block: its number, from 0.
        method: who asks, for an error.

    Raises:
        ConfigError: there is no such map, or it is frozen (as beside adapters).
    """
    blocks = blocks_of(model)
    prefix = next(name for name, module in model.network.named_modules() if module is blocks[block])
    for name, parameter in blocks[block].named_parameters():
        is_of_experts = _EXPERTS.match(name) is not None
        if not is_of_experts and not _OUT.match(name.removesuffix(".weight")):
            continue
        where = model.slices.get(f"{prefix}.{name}")
        if where is None:
            raise ConfigError(
                f"{method} changes value vectors of the weights, and they are frozen here. Take model.lora away, or "
                f"train all weights (model.trained: all)."
            )
        places = torch.arange(where.start, where.stop).view(parameter.shape)
        if is_of_experts:
            return places.transpose(1, 2).flatten(0, 1)
        return places if is_transposed(blocks[block].get_submodule(name.removesuffix(".weight"))) else places.T
    raise ConfigError(
        f"{method} looks at value vectors of feed-forward layers, and this model has none that it knows. Use a Llama, "
        f"a GPT-2, a Mixtral or the like."
    )


@torch.no_grad()
def projected(model: FlatModel, vectors: torch.Tensor) -> torch.Tensor:
    """Return what vectors ``[n, width]`` of the residual stream say through the head alone, logits ``[n, V]``.

    No norm comes before it, as in ConceptVectors' code.
    """
    logits: torch.Tensor = model.network.head(vectors)
    return logits


def top_tokens(logits: torch.Tensor, share: float) -> torch.Tensor:
    """Return the likeliest tokens of each row, int64 ``[n, k]``: k is a share of the vocabulary, at least one."""
    return logits.topk(max(1, round(share * logits.shape[1])), dim=1).indices
