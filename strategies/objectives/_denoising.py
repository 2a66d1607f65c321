"""What every objective that denoises images gives: draws of noise, losses, and images sampled from noise."""

from __future__ import annotations

import math
import string
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from typing_extensions import override

from strategies.objectives._base import EVALUATION, FisherEstimator, Objective, Predicts
from strategies.parts.diffusion.checkpoint import autoencoder, decoded
from strategies.parts.diffusion.prompts import NOTHING, Prompts
from strategies.parts.diffusion.sampling import Clean, Sampler, sampled
from strategies.parts.diffusion.schedules import STEPS, Prediction, ScheduleKind, alpha_bars, make_schedule
from strategies.parts.model import FlatModel
from streams.config import Config as BaseConfig
from streams.data import Batch
from streams.randomness import Key

PICTURES = Key(0) / "pictures"
"""Names the noise that images are sampled from: of no run, event or strategy, so that all can be compared."""


class DenoisingConfig(BaseConfig):
    """Options of denoising."""

    prediction: Prediction = "sample"
    """What the network predicts: the clean image, the noise (epsilon) or the velocity. Noise has full rank, and a
    network that is narrower than an image cannot say it: narrow or patched ones learn little unless they predict the
    sample. Checkpoints of Stable Diffusion 1 predict epsilon."""
    schedule: ScheduleKind = "cosine"
    """Noise schedule; that of Stable Diffusion is scaled-linear."""
    drop: float = Field(0.1, ge=0, lt=1)
    """Probability that a sample is trained under the empty prompt, which guidance needs."""
    styles: Literal["domains", "none"] = "domains"
    """domains: where the source has domains, a prompt names the sample's own as its style. none: classes alone."""
    template: str | None = None
    """How a prompt is read out, with {object} and, where styles are named, {style}; null takes `{object}` or
    `{object} in {style} style`. For networks without a tokenizer it makes no difference but in reports."""
    guidance: float = Field(2.0, ge=0)
    """w in f(empty) + w (f(prompt) - f(empty)) where images are sampled (Ho and Salimans 2022, arXiv 2207.12598); 1 is
    no guidance, and saves half of the passes."""
    sampler: Sampler = "dpm"
    """dpm is DPM-Solver++ of second order, ddim is DDIM without noise; both hold what is predicted to the range of
    images."""
    steps: int = Field(15, ge=1, le=STEPS)
    """Steps of the sampler."""
    checkpoint: str | None = None
    """Folder (in diffusers' layout) or hub name of a Stable Diffusion 1 checkpoint. Its tokenizer reads prompts, and
    its autoencoder makes images of what is denoised. For `model: stable-diffusion` on `features:
    stable-diffusion-latents`; what is predicted is not held to a range then."""

    @field_validator("template")
    @classmethod
    def _names_something(cls, template: str | None) -> str | None:
        if template is not None:
            names = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
            if "object" not in names:
                raise ValueError(f"{template!r} names nothing; put {{object}} where the class goes")
            if wrong := sorted(names - {"object", "style"}):
                raise ValueError(f"{template!r} has {{{wrong[0]}}}; it may have {{object}} and {{style}}")
        return template


Predict = Callable[[Batch], torch.Tensor]
"""From a batch to outputs: of one model, or of whatever a strategy predicts with."""


class DenoisingObjective(Objective):
    """Mean squared error of the predicted image, noise or velocity; the score is minus that.

    A model is called with noisy images, float ``[B, C, H, W]``; their step, int64 ``[B]``; and the words of their
    prompts, int64 ``[B, W]``. It returns ``[B, C H W]``. Images are in [-1, 1] there, and in [0, 1] in a source.
    """

    predicts: ClassVar[Predicts] = "images"
    measure: ClassVar[str] = "negative_denoising_error"
    by_class: ClassVar[bool] = False

    def __init__(
        self,
        config: DenoisingConfig,
        image_shape: tuple[int, ...],
        prompts: Prompts,
        device: str | torch.device = "cpu",
    ) -> None:
        """Denoise images ``[C, H, W]`` under some prompts."""
        self.config, self.image_shape, self.prompts = config, image_shape, prompts
        self._pixels = math.prod(image_shape)
        self.schedule = make_schedule(config.schedule, config.prediction, device)
        self.shares = alpha_bars(config.schedule)
        self._tokens = prompts.tokens.to(device)

    @property
    @override
    def num_outputs(self) -> int:
        return self._pixels

    @override
    def sizes(self, input_shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        """Return the shape of an image ``[C, H, W]``, and the number of words of prompts."""
        return self.image_shape, self.prompts.num_words

    @override
    def drawn(self, batch: Batch, key: Key) -> Batch:
        """Draw a step and noise for every sample, and whether it is told its prompt; looks from outside always tell.

        `Batch.extra` gets `time` int64, `noise` float ``[B, P]``, `style` int64 (unless it is there) and `told` bool.
        Samples that are `named` there (bool) are told their prompts always.
        """
        ids, device = batch.ids.cpu().numpy(), batch.x.device
        extra = dict(self.with_styles(batch).extra)
        time = (key / "time").below(ids, STEPS)
        drop = 0.0 if key == EVALUATION else self.config.drop
        told = torch.from_numpy((key / "told").uniform(ids) >= drop).to(device)
        extra["told"] = told | extra["named"] if "named" in extra else told
        extra["time"] = torch.from_numpy(time).to(device)
        extra["noise"] = torch.from_numpy((key / "noise").normals(ids, self._pixels)).to(batch.x)
        return replace(batch, extra=extra)

    def with_styles(self, batch: Batch) -> Batch:
        """Return the batch with the styles of its samples in `extra`, where they are not there."""
        if "style" in batch.extra:
            return batch
        style = torch.from_numpy(self.prompts.style_of[batch.ids.cpu().numpy()]).to(batch.x.device)
        return replace(batch, extra={**batch.extra, "style": style})

    @override
    def asked(self, batch: Batch) -> Batch:
        """Leave the label: it is part of the prompt."""
        return replace(super().asked(batch), y=batch.y)

    @override
    def outputs(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        """Return what the network predicts, ``[B, P]``: of the noised images, or of `noisy` ``[B, P]`` in `extra`."""
        return model(*self._inputs(batch))

    @override
    def features(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        return model.features(*self._inputs(batch))

    @override
    def losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the mean over pixels of (f - target)^2."""
        target = self.schedule.target(self.clean(batch.x), batch.extra["noise"], batch.extra["time"])
        return (outputs - target).square().mean(1)

    @override
    def divergences(self, outputs: torch.Tensor, reference: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the divergence of the Gaussians that losses stand for: the mean over pixels of (f - f_reference)^2."""
        return (outputs - reference).square().mean(1)

    @override
    def scores(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return -self.losses(outputs, batch)

    @override
    def probabilities(self, outputs: torch.Tensor, batch: Batch) -> None:
        """Return None: images have no list of outcomes."""
        return

    @override
    def fisher_terms(
        self, outputs: torch.Tensor, batch: Batch, estimator: FisherEstimator, generator: torch.Generator
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """See `Objective.fisher_terms`. Losses are -log p of pixels that are Gaussians of variance pixels / 2.

        `exact` has a term for each pixel.
        """
        one = torch.ones(len(outputs), device=outputs.device)
        if estimator == "exact":
            return [(one, (2 / self._pixels) ** 0.5 * column) for column in outputs.unbind(1)]
        losses = self.losses(outputs, batch)
        if estimator == "sampled":
            spread = (self._pixels / 2) ** 0.5
            drawn = outputs.detach() + spread * torch.randn(outputs.shape, generator=generator).to(outputs)
            losses = (outputs - drawn).square().mean(1)
        return [(losses.detach().neg().exp() if estimator == "p-weighted" else one, losses)]

    def asking(self, noisy: torch.Tensor, time: torch.Tensor, prompts: torch.Tensor, prefix: int = 0) -> Batch:
        """Return the batch that asks for what was under the noise.

        Args:
            noisy: float ``[B, P]``, images in [-1, 1] with noise.
            time: int64 ``[B]``, their steps.
            prompts: int64 ``[B, 2]``, see `Prompts`.
            prefix: how many places for words to put before each prompt, see `prefixed`.
        """
        extra = {"noisy": noisy, "time": time, "style": prompts[:, 1], "told": torch.ones_like(time, dtype=torch.bool)}
        if prefix:
            extra["words"] = self.prefixed(self.tokens(prompts), prefix)
        return Batch(torch.full_like(time, -1), noisy.view(-1, *self.image_shape), prompts[:, 0], extra=extra)

    def noise(self, prompts: np.ndarray, numbers: np.ndarray) -> torch.Tensor:
        """Return the noise ``[B, P]`` of the images ``numbers [B]`` of ``prompts [B, 2]``: a function of both alone."""
        names = self.prompts.numbers(prompts) * (1 << 24) + numbers
        return torch.from_numpy(PICTURES.normals(names, self._pixels)).float()

    @torch.no_grad()
    def sample(self, predict: Predict, prompts: np.ndarray, noise: torch.Tensor) -> torch.Tensor:
        """Return images ``[B, C, H, W]`` in [0, 1] for ``prompts [B, 2]``, made of ``noise [B, P]``.

        Args:
            predict: the model, or what a strategy predicts with. It is called once a step; with guidance on the batch
                under its prompts, followed by the same under the empty prompt.
            prompts: what is asked for.
            noise: see `noise`.
        """
        return self.pictures(self.generated(predict, prompts, noise))

    @torch.no_grad()
    def generated(self, predict: Predict, prompts: np.ndarray, noise: torch.Tensor) -> torch.Tensor:
        """Return the same as what models denoise, ``[B, P]``: images in [-1, 1], or latents."""
        config = self.config
        clean = self.clean_by(predict, prompts, config.guidance)
        return sampled(config.sampler, clean, noise.to(self._tokens.device), self.shares, config.steps, self.limit)

    @property
    def limit(self) -> float | None:
        """Largest size of a number of an image as models denoise it; latents have none."""
        return 1.0 if self.config.checkpoint is None else None

    def clean(self, x: torch.Tensor) -> torch.Tensor:
        """Return samples of the source ``[B, ...]`` as models denoise them, ``[B, P]``: in [-1, 1], or latents."""
        return 2 * x.flatten(1) - 1 if self.config.checkpoint is None else x.flatten(1)

    def unclean(self, clean: torch.Tensor) -> torch.Tensor:
        """Return what models denoise, ``[B, P]``, as samples of the source: in [0, 1], or latents."""
        return (clean + 1) / 2 if self.config.checkpoint is None else clean

    def pictures(self, clean: torch.Tensor) -> torch.Tensor:
        """Return images ``[B, C, H, W]`` in [0, 1] of what models denoise, ``[B, P]``."""
        shaped = clean.view(-1, *self.image_shape)
        if self.config.checkpoint is not None:
            return decoded(autoencoder(self.config.checkpoint), shaped)
        return ((shaped + 1) / 2).clamp(0, 1)

    def clean_by(self, predict: Predict, prompts: np.ndarray, guidance: float) -> Clean:
        """Return what predicts clean images under ``prompts [B, 2]`` with guidance, for samplers."""
        device = self._tokens.device
        wanted = torch.from_numpy(prompts).to(device)
        guided = guidance != 1
        asked_for = torch.cat([wanted, torch.full_like(wanted, NOTHING)]) if guided else wanted

        def clean(noisy: torch.Tensor, time: int) -> torch.Tensor:
            both = torch.cat([noisy, noisy]) if guided else noisy
            times = torch.full((len(both),), time, device=device)
            predicted = predict(self.asking(both, times, asked_for))
            if guided:
                prompted, free = predicted.chunk(2)
                predicted = free + guidance * (prompted - free)
            return self.schedule.clean(predicted, noisy, times[: len(noisy)])

        return clean

    def tokens(self, prompts: torch.Tensor) -> torch.Tensor:
        """Return the words ``[B, W]`` of ``prompts [B, 2]``."""
        return self._tokens[prompts[:, 0] + 1, prompts[:, 1] + 1]

    @property
    def first_word(self) -> int:
        """Where a prompt's first word stands: behind the mark that a tokenizer begins with, if there is one."""
        return 0 if self.config.checkpoint is None else 1

    def prefixed(self, words: torch.Tensor, count: int) -> torch.Tensor:
        """Return ``words [B, W]`` with `count` places (of word 0) before the first, for who replaces their vectors.

        A tokenizer's prompts, which are filled up, lose as many at the end.
        """
        first = self.first_word
        places = torch.zeros_like(words[:, :1]).expand(-1, count)
        kept = words[:, first:] if not first else words[:, first:-count]
        return torch.cat([words[:, :first], places, kept], 1)

    def _inputs(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        extra = batch.extra
        prompts = torch.stack([batch.y, extra["style"]], 1).masked_fill(~extra["told"].unsqueeze(1), NOTHING)
        noisy = extra.get("noisy")
        if noisy is None:
            noisy = self.schedule.noised(self.clean(batch.x), extra["noise"], extra["time"])
        words = extra.get("words")
        return noisy.view(-1, *self.image_shape), extra["time"], self.tokens(prompts) if words is None else words
