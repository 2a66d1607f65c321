"""LAF: unlearn without labels, by features that a model of the forget set's features no longer recognises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, final

import torch
import torch.nn.functional as F
from pydantic import Field
from typing_extensions import override

from strategies.base import Door, Learner, Outcome, Setting
from strategies.objectives._base import Objective
from strategies.parts.fit import FitConfig, fit
from strategies.parts.model import FlatModel
from strategies.parts.teachers.teacher import frozen_copy
from strategies.parts.training.endless import Endless
from strategies.parts.training.optimizers import Adam, OptimizerConfig
from strategies.parts.weights.fisher import evaluating, gradient_of
from strategies.ranges import linear, log
from strategies.unlearners._retained import RetainedData, RetainUnlearner
from strategies.unlearners._vae import Decoder, make_vae, rebuilding_errors, train_vae
from streams.config import Config as BaseConfig
from streams.data import Batch, Data
from streams.errors import ConfigError, TrainingError
from streams.events import DeletionRequest
from streams.randomness import Key


class Config(BaseConfig):
    """Options of `laf` (Shen et al. 2024, ICLR); defaults of its MNIST runs."""

    epochs: int = Field(20, ge=1)
    """Passes of paired batches."""
    batch_size: int = Field(32, ge=1)
    """Samples of each kind per step, and of the auto-encoders."""
    lr_unlearn: float = Field(5e-5, gt=0)
    """Learning rate of the step that makes the forget set's features unrecognisable."""
    lr_align: float = Field(1e-4, gt=0)
    """Learning rate of the step that keeps retained features and turns the others."""
    tau: float = Field(20.0, gt=0)
    """Temperature of the second step (published: 5 for random, 20 for class requests)."""
    loop: Literal["shorter", "retained"] = "shorter"
    """Length of an epoch: until the shorter set is used up (the authors' code), or a pass over the retained data with
    the forget set as often as that takes."""
    latent: int = Field(8, ge=1)
    """Latent width of the auto-encoders (8 for CNNs, 16 for ResNet-18)."""
    hidden: int = Field(64, ge=1)
    """Hidden width of the auto-encoders."""
    vae_epochs: int = Field(10, ge=1)
    """Passes that the auto-encoders are trained."""
    decoder: Decoder = "linear"
    """linear: features are standardised by those of all data (deviations below a tenth of their mean are raised to
    that), and the decoder's output is not bounded. sigmoid: raw
    features and a bounded output, as in the authors' code; the unlearning step is then nearly flat."""
    max_ratio: float | None = Field(0.5, gt=0)
    """Refuse a request for classes or tasks if the forget set's auto-encoder rebuilds its own features with more than
    that share of the error it makes on others: then it has learned nothing that tells them apart. Samples and users are
    not held to it, since they look like the rest. null never refuses; the ratio is reported as ``rebuilding_ratio``."""
    repair: FitConfig | None = None
    """LAF+R: afterwards train the head alone on retained data with labels, with these options; null leaves it out."""
    retained: RetainedData = "full"
    """Use all live data, or what the learner's plugins keep."""


def psi(a: torch.Tensor) -> torch.Tensor:
    """Return exp(a / (a + 1)), elementwise for a >= 0: 1 at 0, increasing, and below e."""
    return torch.exp(a / (a + 1))


def alignment(
    e_retained: torch.Tensor, t_retained: torch.Tensor, e_forget: torch.Tensor, t_forget: torch.Tensor, tau: float
) -> torch.Tensor:
    """Return sum (1 - cos(e_r, t_r)) - B log sum exp((1 - cos(e_f, t_f)) / tau), t being the original features.

    Features of retained samples are ``[B, F]``, those of forgotten ones ``[B', F]``; tau is above 0.
    """
    near = (1 - F.cosine_similarity(e_retained, t_retained)).sum()
    away = (1 - F.cosine_similarity(e_forget, t_forget)) / tau
    return near - len(e_retained) * away.logsumexp(0)


@final
class LAF(RetainUnlearner):
    """Label-agnostic forgetting: trains the body by two auto-encoders and the original features; the head stays.

    It needs retained data: every step takes a retained batch. It reads the inputs of forget set and retained data;
    labels only for `repair`, and of the latter.
    """

    test_options = {"epochs": 1, "vae_epochs": 1, "max_ratio": None}
    config: Config
    ranges = {
        "lr_unlearn": log(1e-6, 1e-2),
        "lr_align": log(1e-6, 1e-2),
        "epochs": linear(1, 40),
        "tau": log(1.0, 100.0),
    }

    def __init__(self, config: Config, setting: Setting) -> None:
        """Make sure that there is a body to train.

        Raises:
            ConfigError: the model is all head.
        """
        super().__init__(config, setting)
        if not setting.outline().has("body"):
            raise ConfigError("laf trains the body of the model, and this one has none that is trained.")

    @override
    def serve(self, request: DeletionRequest, learner: Learner, retained: Data, door: Door, key: Key) -> Outcome:
        """Train the auto-encoders, then the body; auto-encoders and teacher are dropped at the end."""
        config, model, objective = self.config, learner.model, self.setting.objective
        forget_set = door.forget_set()
        teacher = frozen_copy(self.setting, model)
        e_f, e_r = (_embed(teacher, objective, data, config) for data in (forget_set, retained))
        center, scale = self._scales(torch.cat([e_f, e_r]))
        e_f, e_r = (e_f - center) / scale, (e_r - center) / scale
        vae_r, vae_f = (self._vae(e_f, key / name) for name in ("whole", "forget"))
        options = (config.vae_epochs, config.batch_size, 1e-3, 0.025)
        train_vae(vae_r, torch.cat([e_f, e_r]), *options, key / "whole")
        train_vae(vae_f, e_f, *options, key / "forget")
        with torch.no_grad():
            own, others = (float(rebuilding_errors(vae_f, e).mean()) for e in (e_f, e_r))
        ratio = own / max(others, 1e-12)
        whole = all(r.scope in ("class", "task") for r in request.requests)
        if config.max_ratio is not None and whole and ratio > config.max_ratio:
            raise TrainingError(
                f"{request.name}: the auto-encoder of the forget set's features makes {ratio:.2f} of the error on "
                f"them that it makes on others; laf.max_ratio is {config.max_ratio:g}. Raise laf.vae_epochs or "
                f"laf.latent, or set laf.max_ratio: null."
            )

        def coded(e: torch.Tensor) -> torch.Tensor:
            return (e - center) / scale

        outcome = Outcome(forward=len(forget_set) + len(retained), losses={"rebuilding_ratio": ratio})
        unlearn = Adam(OptimizerConfig(lr=config.lr_unlearn), model.parameters)
        align = Adam(OptimizerConfig(lr=config.lr_align), model.parameters)
        steps = num_samples = 0
        with evaluating(model):
            for x_f, x_r in self._pairs(forget_set, retained, key):
                errors_r = rebuilding_errors(vae_r, coded(objective.features(model, x_r)))
                errors_f = rebuilding_errors(vae_f, coded(objective.features(model, x_f)))
                unlearn.step(model.parameters, gradient_of(model, psi(errors_r).sum() - psi(errors_f).sum()))
                with torch.no_grad():
                    t_r, t_f = objective.features(teacher, x_r), objective.features(teacher, x_f)
                f_r, f_f = objective.features(model, x_r), objective.features(model, x_f)
                loss = alignment(f_r, t_r, f_f, t_f, config.tau)
                align.step(model.parameters, gradient_of(model, loss))
                steps += 2
                num_samples += len(x_f) + len(x_r)
            with torch.no_grad():
                e_f, e_r = (_embed(model, objective, data, config) for data in (forget_set, retained))
                a_f, a_r = (float(rebuilding_errors(v, coded(e)).mean()) for v, e in ((vae_f, e_f), (vae_r, e_r)))
        losses = {"rebuilding_forget": a_f, "rebuilding_retained": a_r}
        outcome += Outcome(steps, 3 * num_samples + len(forget_set) + len(retained), 2 * num_samples, losses)
        if config.repair is not None:
            with model.moving_only(model.mask("head").bool()):
                outcome += fit(model, objective, retained, config.repair, key / "repair")
        return outcome

    def _scales(self, e: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.config.decoder == "sigmoid":
            return torch.zeros_like(e[0]), torch.ones_like(e[0])
        scale = e.std(0, correction=0)
        # A feature that hardly ever fires would be blown up without bound once it does.
        return e.mean(0), scale.clamp(min=max(0.1 * float(scale.mean()), 1e-12))

    def _vae(self, e: torch.Tensor, key: Key) -> FlatModel:
        config = self.config
        return make_vae(e.shape[1], config.hidden, config.latent, config.decoder, key / "init", e)

    def _pairs(self, forget_set: Data, retained: Data, key: Key) -> Iterator[tuple[Batch, Batch]]:
        size, objective = self.config.batch_size, self.setting.objective
        supply = Endless(objective, forget_set, size, key)
        for epoch in range(self.config.epochs):
            retained_batches = objective.batches(retained, size, key / "retained" / epoch)
            if self.config.loop == "retained":
                yield from ((next(supply), batch) for batch in retained_batches)
            else:
                forget_batches = objective.batches(forget_set, size, key / "forget" / epoch)
                yield from zip(forget_batches, retained_batches, strict=False)


def _embed(model: FlatModel, objective: Objective, data: Data, config: Config) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([objective.features(model, b) for b in objective.batches(data, max(config.batch_size, 256))])
