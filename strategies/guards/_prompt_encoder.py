"""What a detector of inputs looks through: mean hidden states of prompts, under adapters of its own (after O3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Outcome, Setting
from strategies.guards._detector import contrastive_entropy, mean_states
from strategies.objectives._text import TextObjective
from strategies.objectives.causal_lm import scored
from strategies.parts.fit import FitConfig, Hooks, fit
from strategies.parts.lowrank.gated import Adapters, Lesson
from strategies.parts.model import FlatModel
from strategies.parts.weights.blocks import Listener, blocks_of, check_block
from strategies.parts.weights.fisher import evaluating
from streams.data import Batch, Data
from streams.randomness import Key
from streams.text import GIVEN

QKV = frozenset({"query", "key", "value", "q_proj", "k_proj", "v_proj", "c_attn"})
BATCH = 64
"""Rows of a request that pass through the encoder at once."""


class EncoderConfig(FitConfig):
    """How the detector's encoder is trained on a request's inputs: contrastive entropy plus masked tokens."""

    epochs: int = Field(1, ge=0)
    """Passes over the used part; 0 leaves the encoder as it is, and then all requests share one pass through it."""
    batch_size: int = Field(16, ge=1)
    """Samples per step."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """Update rule."""
    lr: float = Field(1e-4, gt=0)
    """Learning rate."""
    rank: int = Field(8, ge=1)
    """Rank of its adapters on queries, keys and values."""
    alpha: float = Field(32.0, gt=0)
    """They are scaled by alpha / rank."""
    masked: float = Field(0.15, gt=0, lt=1)
    """Share of tokens that are masked."""


def looked_at(x: torch.Tensor) -> torch.Tensor:
    """Return which positions a detector looks at, bool ``[B, L]``: the prompt without the start token.

    It is the prompt alone, so that a gate does not change while an answer is generated. Rows without a prompt are
    looked at as a whole.
    """
    is_prompt = x[:, 1] == GIVEN
    is_prompt[:, 0] = False
    rows = x[:, 1] > 0
    rows[:, 0] = False
    return torch.where(is_prompt.any(1, keepdim=True), is_prompt, rows)


@final
class PromptEncoder:
    """A frozen language model whose blocks are listened to. What is trained is an adapter, one for every request."""

    def __init__(
        self, setting: Setting, objective: TextObjective, config: EncoderConfig, layers: tuple[int, ...] | None
    ):
        """Start from the initial weights.

        Args:
            setting: makes the model.
            objective: of the model.
            config: how adapters are trained.
            layers: blocks whose outputs are looked at, from 0; None is all of them.

        Raises:
            ConfigError: there is no such block, or the rank is too high.
        """
        self._objective, self._config = objective, config
        self.model = setting.make_model()
        self._adapters = Adapters(self.model, config.rank, config.alpha, 0.0, QKV, "guard.encoder.rank")
        blocks = blocks_of(self.model)
        for layer in layers or ():
            check_block(blocks, layer, "guard.layers")
        self._blocks = [blocks[i] for i in (range(len(blocks)) if layers is None else layers)]

    def adapt(self, data: Data, key: Key) -> tuple[torch.Tensor, Outcome]:
        """Return an adapter that is trained on the inputs of `data`, and what it cost; without epochs a fresh one."""
        start = self._adapters.fresh(key / "encoder", self.model.parameters)
        if not self._config.epochs:
            return start, Outcome()
        assert self._objective.text is not None
        token = self._objective.text.tokenizer.bos
        listeners = [Listener(block) for block in self._blocks]
        try:
            with self._adapters.training(self.model, start) as lesson:
                hook = _Contrast(lesson, listeners, self._config.masked, token, (key / "mask").torch())
                outcome = fit(lesson.model, self._objective, data, self._config, key / "encoder", [hook])
                trained = lesson.adapter()
        finally:
            for listener in listeners:
                listener.close()
        return trained, Outcome(outcome.steps, 2 * outcome.forward, outcome.backward)

    @torch.no_grad()
    def features(self, batch: Batch, adapter: torch.Tensor) -> torch.Tensor:
        """Return the mean state of every prompt after each block, ``[L, B, d]``, under an adapter."""
        self.model.train(False)
        listeners = [Listener(block) for block in self._blocks]
        try:
            with self._adapters.gated(self.model, [adapter], torch.ones(len(batch), 1, device=batch.x.device)):
                self.model.features(*batch.inputs)
            return _means(listeners, batch.x)
        finally:
            for listener in listeners:
                listener.close()

    def features_of(self, data: Data, adapter: torch.Tensor) -> torch.Tensor:
        """Return the same of all of `data`, ``[L, N, d]``, in batches."""
        return torch.cat([self.features(batch, adapter) for batch in data.batches(BATCH)], 1)


@final
class _Contrast(Hooks):
    """Replaces the loss by that of the encoder: contrastive entropy of both views, and the masked tokens."""

    carries = ("_generator",)

    def __init__(
        self, lesson: Lesson, listeners: Sequence[Listener], share: float, mask_token: int, generator: torch.Generator
    ) -> None:
        self._lesson, self._listeners, self._share, self._token = lesson, listeners, share, mask_token
        self._generator = generator
        self._whole: Batch | None = None

    @override
    def extend(self, batch: Batch, step: int) -> Batch:
        self._whole = batch
        x = batch.x.clone()
        hidden = torch.rand(x[:, 0].shape, generator=self._generator).to(x.device) < self._share
        hidden &= looked_at(batch.x)
        x[:, 0][hidden] = self._token
        return replace(batch, x=x)

    @override
    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Return L_CEL + L_MLM. The encoder looks left, so that a masked token is predicted from what is before it."""
        assert self._whole is not None
        unmasked = self._whole
        masked = _means(self._listeners, unmasked.x)
        with torch.no_grad(), self._lesson.resting(), evaluating(model):
            model.network.body(*unmasked.inputs)
        key = _means(self._listeners, unmasked.x)
        total = torch.stack([contrastive_entropy(z, k) for z, k in zip(masked, key, strict=True)]).sum()
        scored_tokens = scored(outputs, unmasked.x, "all")
        changed = (batch.x[:, 0] != unmasked.x[:, 0])[:, 1 : outputs.shape[1]][
            unmasked.x[:, 1, 1 : outputs.shape[1]] > 0
        ]
        return total + (scored_tokens.token_losses()[changed].mean() if bool(changed.any()) else 0.0)


def _means(listeners: Sequence[Listener], x: torch.Tensor) -> torch.Tensor:
    """Return ``[L, B, d]``, the mean state of every row after each block that is listened to."""
    length = listeners[0].state.shape[1]
    counts = looked_at(x)[:, :length]
    return torch.stack([mean_states(listener.state, counts) for listener in listeners])
