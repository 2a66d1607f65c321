"""Language models as folders of Hugging Face: what plain transformers loads to the same logits."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lifelong.files import write_atomically
from lifelong.models._language import Decoder
from lifelong.models._sight import Sight
from strategies.parts.model import Network
from streams.checkpoints import checkpoint_folder
from streams.errors import ConfigError
from streams.text import Tokenizer

_WRAPPED = ".base_layer."
"""In the names of weights that peft puts an adapter beside."""
_OF_ADAPTERS = ("adapter_config.json", "adapter_model.safetensors")
"""Files by which transformers finds adapters in a folder."""


def save(network: Network, tokenizer: Tokenizer, folder: Path, merged: bool, about: Mapping[str, Any]) -> None:
    """Write a language model, its tokeniser and ``lifelong.json`` (where it is from).

    Args:
        network: a decoder of transformers and a linear head. It is not changed.
        tokenizer: of the rows that it reads.
        folder: is made; a model that lies there is replaced.
        merged: whether adapters are added to the weights; if not, they are written as peft writes them, and the weights
            beside which they were trained in ``base``.
        about: goes into ``lifelong.json``.

    Raises:
        ConfigError: it is no decoder of transformers, has no adapters to write, or has adapters and sees images.
    """
    body = network.body
    if not isinstance(body, Decoder):
        raise ConfigError(
            f"model: transformers could not load this network, whose body ({type(body).__name__}) is none of its "
            f"decoders. Language models of the project can be exported (tiny-llama, tiny-llava, causal-checkpoint)."
        )
    adapted = sorted(
        name.partition(_WRAPPED)[0] for name in body.inner.state_dict() if name.endswith(f"{_WRAPPED}weight")
    )
    if not merged and not adapted:
        raise ConfigError("--adapters: this model was trained without (model.lora). Leave it out.")
    if body.sight is not None and adapted:
        raise ConfigError(
            "model.lora: a model that sees images can be exported only if it has no adapters. Train its weights."
        )
    base = folder if merged else folder / "base"
    base.mkdir(parents=True, exist_ok=True)
    for name in _OF_ADAPTERS:  # of a model that lay there: transformers would put them beside these weights
        (folder / name).unlink(missing_ok=True)
    whole = _assembled(network, adapted if merged else []) if body.sight is None else _seeing(network, body.sight, base)
    for name, number in (("bos_token_id", tokenizer.bos), ("eos_token_id", tokenizer.eos)):
        setattr(whole.config, name, number)
        setattr(whole.generation_config, name, number)
    whole.save_pretrained(base)
    if not merged:
        _with_adapters(whole, body, adapted, base).save_pretrained(folder)
    _save_tokenizer(tokenizer, body.checkpoint, folder)
    write_atomically(folder / "lifelong.json", (json.dumps(about, indent=1) + "\n").encode())


def _assembled(network: Network, adapted: Sequence[str]) -> Any:
    """Return a causal language model of transformers with the network's weights as float32, in evaluation mode.

    Args:
        network: whose weights they are.
        adapted: paths of linear layers whose adapters are added to their weights.
    """
    from transformers import AutoModelForCausalLM

    body = network.body
    assert isinstance(body, Decoder)
    inner, config = body.inner, copy.deepcopy(body.inner.config)
    config.num_hidden_layers = len(body.layers)
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = config.layer_types[: len(body.layers)]
    [read] = network.head.parameters()
    config.tie_word_embeddings = read is inner.get_input_embeddings().weight
    config.dtype = torch.float32
    with torch.random.fork_rng(devices=[]):
        whole = AutoModelForCausalLM.from_config(config)
    weights = {
        name.replace(_WRAPPED, "."): value.float() for name, value in inner.state_dict().items() if ".lora_" not in name
    }
    for path in adapted:
        layer = inner.get_submodule(path)
        weights[f"{path}.weight"] = weights[f"{path}.weight"] + layer.get_delta_weight("default").float()
    whole.get_decoder().load_state_dict(weights)
    whole.get_output_embeddings().weight.data.copy_(read)
    return whole.float().eval()


def _seeing(network: Network, sight: Sight, folder: Path) -> Any:
    """Return a LLaVA of transformers with the network's weights as float32; write beside it how images are prepared."""
    from transformers import LlavaForConditionalGeneration

    body = network.body
    assert isinstance(body, Decoder)
    config, side = copy.deepcopy(sight.config), int(sight.config.vision_config.image_size)
    [read] = network.head.parameters()
    config.tie_word_embeddings = read is body.inner.get_input_embeddings().weight
    config.text_config.tie_word_embeddings = config.tie_word_embeddings
    config.text_config.num_hidden_layers = len(body.layers)
    config.dtype = torch.float32
    with torch.random.fork_rng(devices=[]):
        whole = LlavaForConditionalGeneration(config)
    whole.model.language_model.load_state_dict(body.inner.state_dict())
    whole.model.vision_tower.load_state_dict(sight.tower.state_dict())
    whole.model.multi_modal_projector.load_state_dict(sight.projector.state_dict())
    whole.lm_head.weight.data.copy_(read)
    prepared = {
        "image_processor_type": "CLIPImageProcessor",
        "image_mean": sight.mean.flatten().tolist(),
        "image_std": sight.std.flatten().tolist(),
        "size": {"height": side, "width": side},
        "do_center_crop": False,
    }
    write_atomically(folder / "preprocessor_config.json", (json.dumps(prepared, indent=1) + "\n").encode())
    return whole.float().eval()


def _with_adapters(whole: Any, body: Decoder, adapted: Sequence[str], base: Path) -> Any:
    """Return a model of peft: `whole` with the body's adapters beside its weights."""
    from peft import LoraConfig, get_peft_model

    layers = {path: body.inner.get_submodule(path) for path in adapted}
    first = layers[adapted[0]]
    config = LoraConfig(
        r=first.r["default"],
        lora_alpha=first.lora_alpha["default"],
        target_modules=list(adapted),
        fan_in_fan_out=first.fan_in_fan_out,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        model = get_peft_model(whole, config)
    for path, layer in layers.items():
        theirs = whole.get_decoder().get_submodule(path)
        for part in ("lora_A", "lora_B"):
            getattr(theirs, part)["default"].weight.data.copy_(getattr(layer, part)["default"].weight)
    model.peft_config["default"].base_model_name_or_path = str(base.resolve())
    return model


def _save_tokenizer(tokenizer: Tokenizer, checkpoint: str | None, folder: Path) -> None:
    """Write a checkpoint's own tokeniser, with its chat template, or that of the source."""
    if checkpoint is not None:
        from transformers import AutoTokenizer

        AutoTokenizer.from_pretrained(checkpoint_folder(checkpoint, "model.checkpoint")).save_pretrained(folder)
    else:
        tokenizer.outer().save_pretrained(folder)
