"""DoCo: play against a critic until it cannot tell images of the prompt that goes from those of its anchor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, final

import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Outcome
from strategies.parts.diffusion.parts import GeneratorPart, part_mask
from strategies.parts.model import FlatModel
from strategies.parts.training.optimizers import Optimizer, OptimizerConfig, make_optimizer
from strategies.parts.weights.fisher import gradient_of
from strategies.ranges import linear, log
from strategies.unlearners._anchors import Anchored, AnchoredConfig
from strategies.unlearners._critic import critic_of, verdict_loss
from strategies.unlearners._erase import Erasure, Noised, Shown


class Config(AnchoredConfig):
    """Options of `doco` (concept domain correction; Wu et al. 2025, arXiv 2405.15304).

    Published for Stable Diffusion: 2,000 steps of 8 images after 500 to 1,000 of the critic alone, AdamW at 4.8e-5 with
    weight decay 0.01, critic lr 1e-4 for objects and 5e-4 for styles.
    """

    part: GeneratorPart = "key-value"
    """Which weights move; see `esd`. Published: keys and values of cross-attention."""
    warm_up: int = Field(100, ge=0)
    """Steps of the critic alone, before the first of the model."""
    critic_lr: float = Field(1e-3, gt=0)
    """Learning rate of the critic (Adam)."""
    critic_channels: int = Field(32, ge=1)
    """Channels of the critic's first layer, which double with every further one. Published: 64."""
    preserve: float = Field(1.0, ge=0)
    """lambda of the concept-preserving gradient: how much is taken out of a gradient that points against that of plain
    training on the anchor. 0 leaves it as it is."""
    surgery: Literal["projection", "published"] = "projection"
    """projection: g - lambda <g, r> r / |r|^2 where <g, r> < 0. published: the authors' code, whose second term is
    divided by |g| once more, so that a short gradient is outweighed by a step of length lambda."""
    scope: Literal["tensor", "all"] = "tensor"
    """Whether that is done to each weight matrix by itself, or to all as one vector."""
    prior: float = Field(0.0, ge=0)
    """Weight of plain training on images of the anchor under its own prompt. The authors set 0.1 in code that does
    without the preserving gradient."""


def preserved(
    gradient: torch.Tensor, kept: torch.Tensor, strength: float, surgery: Literal["projection", "published"]
) -> torch.Tensor:
    """Return a gradient ``[P]`` without what points against that of the data to keep, ``[P]``.

    >>> preserved(torch.tensor([1.0, -1.0]), torch.tensor([0.0, 1.0]), 1.0, "projection")
    tensor([1., 0.])
    """
    product = gradient @ kept
    if product >= 0:
        return gradient
    square = kept @ kept
    if surgery == "published":
        return gradient - strength * product / (gradient.norm() * square) * kept
    return gradient - strength * product / square * kept


@final
class DoCo(Anchored):
    """Trains model and critic in turn. The critic and its moments are dropped when the request is served."""

    test_options = {"steps": 3, "images": 4, "batch_size": 4, "warm_up": 2, "critic_channels": 4}
    ranges = {
        "lr": log(1e-5, 1e-2),
        "steps": linear(20, 500),
        "critic_lr": log(1e-5, 1e-2),
        "preserve": linear(0.0, 2.0),
    }
    supports = frozenset({"images"})
    config: Config

    @override
    def erase(self, erasure: Erasure) -> Outcome:
        config, model = self.config, erasure.model
        erased, anchors = self.led(erasure)
        renamed, shown = self.shown(erasure, erased, anchors)
        shape = erasure.objective.image_shape
        critic = critic_of(shape, config.critic_channels, erasure.key / "critic", model.parameters.device)
        judging = OptimizerConfig(optimizer="adam", lr=config.critic_lr, betas=(0.5, 0.999))
        optimizer = make_optimizer(judging, critic.parameters)

        def pair(name: str, step: int, size: int) -> tuple[Noised, Noised]:
            asked, own = (erasure.noised(s, size, name, step) for s in (renamed, shown))
            return asked, own

        def train_critic(asked: Noised, own: Noised) -> None:
            real = erasure.image(erasure.answers(erasure.teacher, own), own)
            fake = erasure.image(erasure.answers(model, asked), asked)
            _teach(critic, optimizer, real, fake, shape)

        for step in range(config.warm_up):
            train_critic(*pair("warm-up", step, config.batch_size))

        def loss_of(step: int, size: int) -> torch.Tensor:
            asked, own = pair("forget", step, size)
            if step >= 0:
                train_critic(asked, own)
            drawn = erasure.image(erasure.says(model, asked), asked)
            loss = verdict_loss(critic(drawn.view(-1, *shape)), second=False)
            if config.prior:
                loss = loss + config.prior * erasure.error(model, own)
            return loss

        outcome = erasure.descend(
            config,
            loss_of,
            passed=1 + (config.preserve > 0) + (config.prior > 0),
            turned=self._turned(erasure, shown) if config.preserve else None,
            moving=[critic, optimizer],
        )
        warm = Outcome(forward=2 * config.warm_up * config.batch_size)
        return (warm + outcome).noted(remapped=float(len(erased) - len(erasure.prompts)))

    def _turned(self, erasure: Erasure, shown: Shown) -> Callable[[torch.Tensor, int], torch.Tensor]:
        """Return what takes out of a step's gradient what would change the anchor's images."""
        config, model = self.config, erasure.model
        movable = part_mask(model, config.part)
        parts = [slice(None)] if config.scope == "all" else list(model.slices.values())

        def turned(gradient: torch.Tensor, step: int) -> torch.Tensor:
            own = erasure.noised(shown, config.batch_size, "forget", step)
            kept = gradient_of(model, erasure.error(model, own))
            gradient, kept = gradient * movable, kept * movable
            for part in parts:
                gradient[part] = preserved(gradient[part], kept[part], config.preserve, config.surgery)
            return gradient

        return turned


def _teach(
    critic: FlatModel, optimizer: Optimizer, real: torch.Tensor, fake: torch.Tensor, shape: tuple[int, ...]
) -> None:
    """Let the critic take a step: what the anchor gives is of the first kind, what the erased prompt gives the second.

    Its gradient is that of this loss alone; what the model's own loss left there is dropped.
    """
    told = [critic(images.view(-1, *shape)) for images in (real, fake)]
    loss = verdict_loss(told[0], second=False) + verdict_loss(told[1], second=True)
    critic.gradient.zero_()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step(critic.parameters, critic.gradient)
