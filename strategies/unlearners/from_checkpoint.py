"""From checkpoint: take the weights of a language model that was unlearned elsewhere, to measure it here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import torch
from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, Setting, Unlearner
from strategies.objectives._text import TextObjective
from streams.checkpoints import checkpoint_folder, folder_digest
from streams.config import Config as BaseConfig
from streams.errors import ConfigError
from streams.events import DeletionRequest
from streams.text import load_tokenizer


class Config(BaseConfig):
    """Options of `from-checkpoint`. `lifelong audit MODEL --scenario FILE` sets them."""

    checkpoint: str | None = None
    """A folder with config.json, weights and tokeniser, or a name on the Hugging Face hub: of the architecture and size
    of the run's model. null leaves the weights as they are: a service that only says that it has forgotten."""
    request: str | None = None
    """The request (request-0, request-1 ...) after which the model in the checkpoint stands; requests before it, and
    after it, change nothing. null takes its weights at every request."""
    digest: str | None = None
    """Hash of the folder, so that another model in the same place makes another run; null does not look."""


@final
class FromCheckpoint(Unlearner):
    """Stands in for a method that ran in another tool. It learns nothing of what that read, and claims nothing."""

    config: Config
    supports = frozenset({"tokens"})

    def __init__(self, config: Config, setting: Setting) -> None:
        """Look whether the checkpoint fits the model, before any compute.

        Raises:
            ConfigError: it cannot be read, has changed, or is of another architecture, size or tokeniser.
        """
        super().__init__(config, setting)
        if config.checkpoint is None:
            return
        folder = Path(checkpoint_folder(config.checkpoint, "unlearner.checkpoint"))
        if config.digest is not None and folder.is_dir() and folder_digest(folder) != config.digest:
            raise ConfigError(
                f"unlearner.checkpoint: what is in {folder} has changed since the audit was begun. Begin another: "
                f"lifelong audit {folder} --scenario FILE"
            )
        text = TextObjective.of(setting.objective).needed_text("unlearner: 'from-checkpoint'")
        if load_tokenizer(config.checkpoint, "unlearner.checkpoint").vocabulary != text.tokenizer.vocabulary:
            raise ConfigError(
                f"unlearner.checkpoint: {config.checkpoint!r} has another tokeniser than the source's rows. Set "
                f"source.tokenizer: {config.checkpoint}."
            )
        with torch.device("meta"):
            offered = self._weights(weights=False)
        wanted = {n: p for n, p in setting.outline().network.named_parameters() if p.requires_grad}
        unlike = [n for n, p in wanted.items() if n not in offered or offered[n].shape != p.shape]
        if unlike:
            there = list(offered[unlike[0]].shape) if unlike[0] in offered else "nothing"
            raise ConfigError(
                f"unlearner.checkpoint: the run's model has {list(wanted[unlike[0]].shape)} in {unlike[0]}, and "
                f"{config.checkpoint!r} has {there} there. It takes a model of the same architecture and size, without "
                f"model.lora."
            )

    @property
    @override
    def access(self) -> Access:
        return Access()

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        config, model = self.config, learner.model
        if config.checkpoint is not None and config.request in {None, request.name}:
            with torch.random.fork_rng(devices=[]):
                offered = self._weights(weights=True)
            for name, part in model.slices.items():
                model.parameters[part] = offered[name].reshape(-1).to(model.parameters)
        return Outcome(exactness="none")

    def _weights(self, weights: bool) -> dict[str, torch.Tensor]:
        """Return the checkpoint's parameters by the names that the network has for them, or tensors of their shapes."""
        from transformers import AutoConfig, AutoModelForCausalLM

        assert self.config.checkpoint is not None
        folder = checkpoint_folder(self.config.checkpoint, "unlearner.checkpoint")
        try:
            if weights:
                whole: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
            else:
                whole = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
        except (OSError, ValueError) as error:
            raise ConfigError(f"unlearner.checkpoint: {folder!r} cannot be loaded: {error}.") from error
        named = {f"body.inner.{name}": value for name, value in whole.get_decoder().state_dict().items()}
        return named | {"head.weight": whole.get_output_embeddings().weight.detach()}
