"""What erasers of image generators share: the prompts of a request, images of the model's own, and steps of a part.

An eraser derives from `Eraser` and says in `erase` what it lowers; everything it needs of the request is in `Erasure`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Self, final

import numpy as np
import torch
from pydantic import Field, model_validator
from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, Predicts, Scope, Setting, Unlearner
from strategies.objectives._denoising import DenoisingObjective
from strategies.parts.diffusion.parts import GeneratorPart, part_mask
from strategies.parts.diffusion.prompts import NOTHING
from strategies.parts.diffusion.sampling import ddim, ddim_times
from strategies.parts.diffusion.schedules import STEPS
from strategies.parts.diffusion.words import spoken
from strategies.parts.model import FlatModel
from strategies.parts.passes import StepConfig, passes
from strategies.parts.teachers.teacher import frozen_copy
from strategies.parts.training.optimizers import make_optimizer
from strategies.parts.weights.fisher import evaluating, gradient_of
from strategies.unlearners._gentle import Shield, most_moved, pull, read_by, readers
from streams.errors import StreamError
from streams.events import DeletionRequest
from streams.randomness import Key

SELECTION = 20
"""Batches whose gradients say which weights a request needs most."""


class EraserConfig(StepConfig):
    """Options of steps on images that the model makes itself."""

    part: GeneratorPart = "conditioning"
    """Which weights move: where the prompt enters the image network (its cross-attention; in `mlp-denoiser` what reads
    the prompt, and FiLM); keys and values alone; the rest of the image network; the text encoder; all."""
    steps: int = Field(150, ge=1)
    """Steps."""
    batch_size: int = Field(32, ge=1)
    """Images per step."""
    images: int = Field(64, ge=1)
    """How many images the model makes for each set of prompts before the first step; steps draw from them. Of prompts
    that go there is at least one each; of prompts that stay, where they are more, as many as this are drawn by name."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """Update rule."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate. For models of a million weights; published for Stable Diffusion: 1e-5."""
    protect: Literal["none", "prompts"] = "none"
    """prompts: what keys and values make of the empty prompt and of prompts that stay is left as it is, by projecting
    every step (Lee et al. 2026, arXiv 2511.07970, gradient projection). Needs `part: key-value`, and words with more
    numbers than such prompts span."""
    l1_sp: float = Field(0.0, ge=0)
    """Weight of the mean distance of weights from where the request began (L1-SP; published: 50)."""
    l2_sp: float = Field(0.0, ge=0)
    """Weight of their mean squared distance (L2-SP; published: 25,000)."""
    selected: float = Field(1.0, gt=0, le=1)
    """Share of the part's weights that move: those whose gradients, added up over 20 batches before the first step, are
    largest (SelFT; published: 0.1). 1 moves them all."""

    @model_validator(mode="after")
    def _protects_what_moves(self) -> Self:
        if self.protect == "prompts" and self.part != "key-value":
            raise ValueError(
                f"protect: prompts protects what keys and values answer; set part: key-value, not {self.part}"
            )
        return self


@final
@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """Images with the prompts that they were made for.

    Attributes:
        images: float ``[n, P]`` as models denoise them: in [-1, 1], or latents.
        prompts: int64 ``[n, 2]``.
    """

    images: torch.Tensor
    prompts: torch.Tensor


@final
@dataclass(frozen=True, slots=True, eq=False)
class Noised:
    """Some of them at drawn steps: what a network is asked about, under any prompts.

    Attributes:
        noisy: float ``[B, P]``.
        time: int64 ``[B]``.
        prompts: int64 ``[B, 2]``, those that the images were made for.
        noise: float ``[B, P]`` that was added.
        clean: float ``[B, P]``, without.
    """

    noisy: torch.Tensor
    time: torch.Tensor
    prompts: torch.Tensor
    noise: torch.Tensor
    clean: torch.Tensor


@final
@dataclass(frozen=True, slots=True, eq=False)
class Erasure:
    """One request, as erasers see it.

    Attributes:
        prompts: int64 ``[Q, 2]``, what must no longer be drawn.
        live: int64 ``[L, 2]``, what must still be.
        gone: int64 ``[G, 2]``, what earlier requests erased.
        model: trained; as it is served at the moment of the request when it begins.
        teacher: a frozen copy of it.
        objective: asks both.
        key: names all draws.
    """

    prompts: np.ndarray
    live: np.ndarray
    gone: np.ndarray
    model: FlatModel
    teacher: FlatModel
    objective: DenoisingObjective
    key: Key

    @property
    def axis(self) -> int:
        """What goes: 1 a style, where no prompt with the request's styles is left; else 0, an object."""
        return int(bool(self.objective.prompts.styles) and not np.isin(self.prompts[:, 1], self.live[:, 1]).any())

    def says(self, model: FlatModel, noised: Noised, prompts: torch.Tensor | None = None) -> torch.Tensor:
        """Return what a model predicts, ``[B, P]``, under the images' own prompts or under others ``[B, 2]``."""
        asked_for = noised.prompts if prompts is None else prompts
        return self.objective.outputs(model, self.objective.asking(noised.noisy, noised.time, asked_for))

    def says_after(self, model: FlatModel, noised: Noised, words: torch.Tensor) -> torch.Tensor:
        """Return the same with words that are vectors, ``[k, size]``, put before the images' own prompts."""
        batch = self.objective.asking(noised.noisy, noised.time, noised.prompts, prefix=len(words))
        with spoken(model.network, words, self.objective.first_word):
            return self.objective.outputs(model, batch)

    def answers(self, model: FlatModel, noised: Noised, prompts: torch.Tensor | None = None) -> torch.Tensor:
        """Return the same without gradient and in evaluation mode."""
        with torch.no_grad(), evaluating(model):
            return self.says(model, noised, prompts)

    def image(self, predicted: torch.Tensor, noised: Noised) -> torch.Tensor:
        """Return the clean images ``[B, P]`` that predictions stand for."""
        return self.objective.schedule.clean(predicted, noised.noisy, noised.time)

    def truth(self, noised: Noised) -> torch.Tensor:
        """Return what would be right to predict, ``[B, P]``."""
        return self.objective.schedule.target(noised.clean, noised.noise, noised.time)

    def error(self, model: FlatModel, noised: Noised) -> torch.Tensor:
        """Return what plain training under the images' own prompts lowers: the mean squared error."""
        return (self.says(model, noised) - self.truth(noised)).square().mean()

    def drift(self, noised: Noised) -> torch.Tensor:
        """Return the mean squared difference between what the model predicts and what the served one does."""
        held = self.answers(self.teacher, noised)
        return (self.says(self.model, noised) - held).square().mean()

    def drawn(self, prompts: np.ndarray, count: int, name: str) -> Shown:
        """Return images of the teacher's, `count` and at least one of each prompt; `name` names their noise."""
        count = max(count, len(prompts))
        chosen = in_turn(prompts, count)
        noise = (self.key / "images" / name).normals(np.arange(count), self.objective.num_outputs)
        start = torch.from_numpy(noise).to(self.model.parameters)
        predict = partial(self.objective.outputs, self.teacher)
        return Shown(self.objective.generated(predict, chosen, start), self.tensor(chosen))

    def kept(self, weight: float, count: int) -> Shown | None:
        """Return `count` images of the teacher's, for prompts that stay; None if they weigh nothing, or none do."""
        if not weight > 0 or not len(self.live):
            return None
        return self.drawn(some_of(self.live, count, self.key / "live"), count, "live")

    def evenly_drawn(self, low: float, high: float, count: int, name: str) -> Shown:
        """Return images of nothing, each number drawn evenly between two: `count`, and one at least of what goes."""
        count = max(count, len(self.prompts))
        numbers = (self.key / "images" / name).uniforms(np.arange(count), self.objective.num_outputs)
        images = torch.from_numpy(low + (high - low) * numbers).to(self.model.parameters)
        return Shown(images, self.tensor(in_turn(self.prompts, count)))

    def ways(
        self, model: FlatModel, prompts: np.ndarray, size: int, sampler: tuple[int, float], name: str, step: int
    ) -> Noised:
        """Return `size` images on their way from noise to prompts, all at one drawn step of DDIM.

        Args:
            model: that draws them.
            prompts: what it draws, in turn; where they are more than `size`, some of them.
            size: how many.
            sampler: its steps and its guidance.
            name, step: name the draws.
        """
        key, objective = self.key / name / step, self.objective
        chosen = in_turn(some_of(prompts, size, key / "prompts"), size)
        times = ddim_times(sampler[0])
        stop = times[int(len(times) * (key / "time").uniform(np.array([0]))[0])]
        noise = torch.from_numpy((key / "noise").normals(np.arange(size), objective.num_outputs))
        noise = noise.to(self.model.parameters)
        with torch.no_grad(), evaluating(model):
            clean = objective.clean_by(partial(objective.outputs, model), chosen, sampler[1])
            noisy = ddim(clean, noise, objective.shares, sampler[0], objective.limit, stop)
        time = torch.full((size,), stop, device=noisy.device)
        return Noised(noisy, time, self.tensor(chosen), noise, noisy)

    def noised(self, shown: Shown, size: int, name: str, step: int, spread: bool = False) -> Noised:
        """Return `size` of some images, drawn with replacement, at drawn steps and under drawn noise.

        With `spread` there is one step in each of `size` equal parts of all.
        """
        key, places = self.key / name / step, np.arange(size)
        device = shown.images.device
        rows = torch.from_numpy((key / "rows").below(places, len(shown.images))).to(device)
        shares = (key / "time").uniform(places)
        shares = (places + shares) / size if spread else shares
        time = torch.from_numpy((STEPS * shares).astype(np.int64)).to(device)
        noise = torch.from_numpy((key / "noise").normals(places, shown.images.shape[1])).to(shown.images)
        clean = shown.images[rows]
        noisy = self.objective.schedule.noised(clean, noise, time)
        return Noised(noisy, time, shown.prompts[rows], noise, clean)

    def tensor(self, prompts: np.ndarray) -> torch.Tensor:
        """Return prompts on the model's device."""
        return torch.from_numpy(prompts).to(self.model.parameters.device)

    def descend(
        self,
        config: EraserConfig,
        loss_of: Callable[[int, int], torch.Tensor],
        passed: int = 1,
        *,
        turned: Callable[[torch.Tensor, int], torch.Tensor] | None = None,
        until: Callable[[torch.Tensor], bool] | None = None,
        moving: Sequence[object] = (),
    ) -> Outcome:
        """Take steps along the gradient of a loss with respect to the part that `config` names.

        Args:
            config: part, steps, optimizer, and what holds the weights back.
            loss_of: from the number of a step and a batch size to the scalar to lower.
            passed: how often an image passes the trained network in a step, for the cost.
            turned: from the gradient ``[P]`` and the number of a step to that which is followed.
            until: whether to end before a step is taken, given its loss.
            moving: what else the steps change (see `passes`).
        """
        model, start = self.model, self.model.parameters.clone()
        mask = part_mask(model, config.part)
        cost = Outcome()
        if config.selected < 1:
            gradient = self._wanted(config, loss_of)
            mask = most_moved(gradient, mask, config.selected)
            count = passed * SELECTION * config.batch_size
            cost = Outcome(forward=count, backward=count)
        shield = self._shield() if config.protect == "prompts" else None
        optimizer = make_optimizer(config, model.parameters)
        with (
            model.moving_only(mask),
            passes(model, config, self.key / "dropout", partial(loss_of, 0), moving=[optimizer, *moving]) as steps,
        ):
            for step in steps.up_to(config.steps):
                loss = loss_of(step, config.batch_size)
                model.gradient.zero_()
                loss.backward()
                gradient = model.gradient if turned is None else turned(model.gradient, step)
                steps.samples += passed * config.batch_size
                if until is not None and until(loss.detach()):
                    steps.ended = True
                    break
                if config.l1_sp or config.l2_sp:
                    gradient += pull(model.parameters, start, config.l1_sp, config.l2_sp, int(mask.sum()))
                optimizer.step(model.parameters, steps.clip(gradient))
                model.hold()
                if shield is not None:
                    shield.hold()
                steps.done(loss)
        return cost + steps.outcome(model.parameters)

    def _wanted(self, config: EraserConfig, loss_of: Callable[[int, int], torch.Tensor]) -> torch.Tensor:
        """Return the sum of the gradients ``[P]`` of batches of their own, at the weights as they are."""
        with evaluating(self.model):
            losses = (loss_of(-1 - number, config.batch_size) for number in range(SELECTION))
            return torch.stack([gradient_of(self.model, loss) for loss in losses]).sum(0)

    def _shield(self) -> Shield:
        """Shield what reads prompts, on the empty one and on those that stay.

        Raises:
            StreamError: these span all that there is, so that nothing could be erased.
        """
        others = self.tensor(np.concatenate([np.full((1, 2), NOTHING), self.live]))
        noisy = torch.zeros(len(others), self.objective.num_outputs).to(self.model.parameters)
        with torch.no_grad(), evaluating(self.model), read_by(self.model, readers(self.model)) as read:
            self.objective.outputs(self.model, self.objective.asking(noisy, torch.zeros_like(others[:, 0]), others))
        shield = Shield(self.model, read)
        if shield.free == 0:
            raise StreamError(
                f"unlearner.protect: the {len(self.live)} prompts that stay span all numbers of the encoded prompt, so "
                f"that nothing can be erased beside them. Give the model longer words (model.words), or leave protect "
                f"out."
            )
        return shield


def in_turn(prompts: np.ndarray, count: int) -> np.ndarray:
    """Return `count` of some prompts ``[Q, 2]``, one after the other and from the first on again."""
    return prompts[np.arange(count) % len(prompts)]


def some_of(prompts: np.ndarray, count: int, key: Key) -> np.ndarray:
    """Return prompts ``[Q, 2]`` as they are, or where they are more than `count`, so many that `key` draws."""
    return prompts if len(prompts) <= count else prompts[np.sort(key.first(np.arange(len(prompts)), count))]


def esd_target(prompted: torch.Tensor, free: torch.Tensor, eta: float) -> torch.Tensor:
    """Return free - eta (prompted - free): what is to be answered to an erased prompt, ``[B, P]``.

    >>> esd_target(torch.tensor([3.0]), torch.tensor([1.0]), 1.0)
    tensor([-1.])
    """
    return free - eta * (prompted - free)


class Eraser(Unlearner, ABC):
    """An unlearner of image generators that works on prompts: it reads no sample, and none of them is exact."""

    supports: ClassVar[frozenset[Predicts]] = frozenset({"images"})
    config: Any
    """An `EraserConfig`."""

    def __init__(self, config: EraserConfig, setting: Setting) -> None:
        """Refuse a part that the model has not.

        Raises:
            ConfigError: the objective is another one, or the part has no weights.
        """
        super().__init__(config, setting)
        self._objective = DenoisingObjective.of(setting.objective)
        part_mask(setting.outline(), config.part)
        prompts = self._objective.prompts
        more: tuple[tuple[Scope, bool], ...] = (("user", prompts.of_users), ("sample", prompts.of_samples))
        self.scopes = ("class", "task", *(scope for scope, names in more if names))

    @property
    @override
    def access(self) -> Access:
        """No samples; prompts are known without."""
        return Access()

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        """Erase the prompts of a request from the weights.

        Raises:
            StreamError: it names images, and others of the same prompts stay.
        """
        wanted = named_prompts(self._objective, request)
        return self.erase(self.erasure(request, learner, door, wanted)).graded("none")

    def erasure(self, request: DeletionRequest, learner: Learner, door: Door, wanted: np.ndarray) -> Erasure:
        """Return what is to be done: the prompts ``[Q, 2]`` that go, and what else is known at that moment."""
        prompts, model = self._objective.prompts, learner.model
        alive = prompts.of(door.live_ids)
        live = alive[~prompts.among(alive, wanted)]
        learned = learner.holds(np.arange(self.setting.num_samples)).get("weights", np.array([], dtype=np.int64))
        known = prompts.of(learned)
        gone = known[~prompts.among(known, np.concatenate([wanted, live]))]
        teacher = frozen_copy(self.setting, model)
        key = self.setting.key / self.name / request.name
        return Erasure(wanted, live, gone, model, teacher, self._objective, key)

    @abstractmethod
    def erase(self, erasure: Erasure) -> Outcome:
        """Change the model; return what that cost."""


def named_prompts(objective: DenoisingObjective, request: DeletionRequest) -> np.ndarray:
    """Return the prompts that a request deletes, ``[Q, 2]``: none of whose training samples it leaves.

    Raises:
        StreamError: it deletes some samples of a prompt and leaves others.
    """
    prompts = objective.prompts
    wanted = prompts.of(request.sample_ids)
    covered = np.union1d(request.sample_ids, request.barred_ids)
    if any(r.scope not in ("class", "user") for r in request.requests):
        same = np.flatnonzero(prompts.among(prompts.of_all, wanted) & prompts.is_training)
        left = np.setdiff1d(same, covered)
        if len(left):
            text = prompts.text(prompts.of_all[left[0]])
            raise StreamError(
                f"{request.name} names images, and not all of {text!r}: erasers work on prompts, and what is left "
                f"would go with them. Use an unlearner that works on images, such as retrain, salun or graddiff."
            )
    return wanted
