"""The one training loop. Everything that trains goes through `fit`; methods differ in what they hook into it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, final

import torch
from pydantic import Field

from strategies.objectives._base import Objective
from strategies.outcome import Outcome
from strategies.parts.model import FlatModel
from strategies.parts.training.optimizers import Optimizer, OptimizerConfig, make_optimizer
from strategies.parts.training.out_of_memory import memory_errors
from streams.data import Batch, Data
from streams.errors import TrainingError
from streams.randomness import Key, seeded_torch


class FitConfig(OptimizerConfig):
    """How a model is trained on one set of data."""

    epochs: int = Field(1, ge=1)
    """Passes over the data."""
    batch_size: int = Field(64, ge=1)
    """Samples per step; a short last batch is kept."""
    clip_norm: float | None = Field(None, gt=0)
    """Scale a gradient down to that norm if it is longer; null leaves it."""
    bn_mode: Literal["train", "eval"] = "train"
    """Batch norm while training: `train` normalises by the batch and moves the running statistics; `eval` normalises
    by the running statistics and leaves them alone (from scratch: mean 0 and variance 1), as Smith et al. 2023 do."""

    def num_steps(self, samples: int) -> int:
        """Return the optimizer steps that `samples` samples take."""
        return self.epochs * math.ceil(samples / self.batch_size)


class Training(FitConfig):
    """How every experience of a stream is trained."""

    carry_optimizer: bool = False
    """Whether momentum and moments live on from one experience to the next, or start at zero in each. They are reset
    when a request names data they derive from. The `avalanche` learner always carries them, as Avalanche does."""


class Hooks:
    """What can be changed inside a step, by value. A hook that is not overridden is never called."""

    def extend(self, batch: Batch, step: int) -> Batch:
        """Return the batch to train on, for example with replayed samples added."""
        return batch

    def displace(self, parameters: torch.Tensor, slopes: Slopes) -> torch.Tensor:
        """Return the weights ``[P]`` to take the step from; they stay displaced."""
        return parameters

    def losses(self, losses: torch.Tensor, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the per-sample losses ``[B]`` whose mean is minimised."""
        return losses

    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Return the scalar loss to differentiate, given the mean loss of the batch."""
        return loss

    def gradient(self, gradient: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Return the gradient ``[P]`` to step along; it may be changed in place."""
        return gradient

    def proceed(self, loss: torch.Tensor) -> bool:
        """Return whether to take the step; if not, training ends at the weights as they are.

        Args:
            loss: the scalar that was differentiated, without gradient; the `gradient` hooks have run.
        """
        return True

    def stepped(self, gradient: torch.Tensor, change: torch.Tensor) -> None:
        """Take note of a step that was made.

        Args:
            gradient: ``[P]``, the loss's gradient as backward left it, before any `gradient` hook.
            change: ``[P]``, parameters after the step minus parameters before it.
        """


@final
class Slopes:
    """The gradients of one step at any weights, before the step is taken.

    They call the `losses`, `loss` and `gradient` hooks too, so that those may be called several times in a step; the
    last call is the step's own. Buffers and the noise of dropout layers are left as they were.
    """

    def __init__(self, model: FlatModel, own: _Descent, full: _Descent) -> None:
        """Take gradients of `model` for one `fit`; `aim` says for which batch."""
        self._model, self._own, self._full = model, own, full
        self._buffers = list(model.network.buffers())
        self._batch: Batch | None = None
        self._num_own = 0
        self.samples = 0

    def aim(self, batch: Batch, num_own: int) -> None:
        """Look at one batch: the first `num_own` samples are the experience's, the rest was added by hooks."""
        self._batch, self._num_own = batch, num_own

    def full(self, parameters: torch.Tensor) -> torch.Tensor:
        """Return the gradient ``[P]`` of all that is minimised: added samples, loss terms and penalties too."""
        assert self._batch is not None
        return self._at(parameters, self._batch, self._full)

    def own(self, parameters: torch.Tensor) -> torch.Tensor:
        """Return the gradient ``[P]`` of the mean loss on the experience's own samples, and of nothing else."""
        assert self._batch is not None
        return self._at(parameters, self._batch.part(0, self._num_own), self._own)

    def _at(self, parameters: torch.Tensor, batch: Batch, descent: _Descent) -> torch.Tensor:
        if parameters is not self._model.parameters:
            self._model.parameters.copy_(parameters)
        before = [b.clone() for b in self._buffers]
        self.samples += len(batch)
        with _same_noise(self._model.parameters.device):
            _, gradient = descent(batch)
        for buffer, value in zip(self._buffers, before, strict=True):
            buffer.copy_(value)
        return gradient


@contextlib.contextmanager
def _same_noise(device: torch.device) -> Iterator[None]:
    """Put torch's generators back, so that the step draws what it would have drawn."""
    cpu = torch.default_generator.get_state()
    other = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    yield
    torch.default_generator.set_state(cpu)
    if other is not None:
        torch.cuda.set_rng_state(other, device)


@final
class _Descent:
    """From a batch to the gradient of what is minimised at the model's weights."""

    def __init__(self, model: FlatModel, objective: Objective, hooks: Sequence[Hooks]) -> None:
        self._model, self._objective = model, objective
        self._keeps = any(type(h).stepped is not Hooks.stepped for h in hooks)
        self.kept = model.gradient
        self._losses = [h.losses for h in hooks if type(h).losses is not Hooks.losses]
        self._loss = [h.loss for h in hooks if type(h).loss is not Hooks.loss]
        self._gradient = [h.gradient for h in hooks if type(h).gradient is not Hooks.gradient]

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss and its gradient ``[P]``, which the next call overwrites."""
        model = self._model
        model.passing = batch
        outputs = self._objective.outputs(model, batch)
        model.passing = None
        losses = self._objective.losses(outputs, batch)
        for weigh in self._losses:
            losses = weigh(losses, outputs, batch)
        loss = losses.mean()
        for change in self._loss:
            loss = change(loss, outputs, batch, model)
        model.gradient.zero_()
        loss.backward()  # type: ignore[no-untyped-call]
        gradient = model.gradient
        if self._keeps:
            self.kept = gradient.clone()
        for alter in self._gradient:
            gradient = alter(gradient, model.parameters)
        return loss.detach(), gradient


_observer: ContextVar[Callable[[int], None] | None] = ContextVar("observer", default=None)


@contextlib.contextmanager
def observed(observer: Callable[[int], None]) -> Iterator[None]:
    """Have `observer` called, with the number of steps done, after every step of every `fit` inside.

    For measuring within an experience: who trains cannot tell that it is watched. An observer may put the model into
    evaluation mode and must leave everything else as it is.
    """
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A `fit` without hooks that has not begun."""

    model: FlatModel
    objective: Objective
    data: Data
    training: FitConfig
    key: Key

    def diverged(self, loss: float) -> TrainingError:
        """Return the error for training that ended with that loss."""
        # an unlearner that trains does so by options of its own
        key = "training.lr" if isinstance(self.training, Training) else "its lr"
        return TrainingError(
            f"Training diverged: the loss of the last epoch is {loss}. Lower {key} (now {self.training.lr:g}), "
            f"or the strength of a penalty: explicit steps are stable only while lr x strength x importance stays "
            f"below 2."
        )


_company: ContextVar[Callable[[Job], Outcome | None] | None] = ContextVar("company", default=None)


@contextlib.contextmanager
def in_company(join: Callable[[Job], Outcome | None]) -> Iterator[None]:
    """Have every `fit` inside that has no hooks offered to `join`, which trains it or returns None."""
    token = _company.set(join)
    try:
        yield
    finally:
        _company.reset(token)


_IN_A_STEP = ("extend", "displace", "losses", "loss", "gradient", "proceed", "stepped")


def _changes_steps(hook: Hooks) -> bool:
    return any(getattr(type(hook), name) is not getattr(Hooks, name) for name in _IN_A_STEP)


def fit(
    model: FlatModel,
    objective: Objective,
    data: Data,
    training: FitConfig,
    key: Key,
    hooks: Sequence[Hooks] = (),
    optimizer: Optimizer | None = None,
) -> Outcome:
    """Train `model` on `data`.

    Args:
        model: changed in place; left in training mode.
        objective: turns outputs into losses; its form for training on `data` is used.
        data: what to train on; nothing to do if it is empty.
        training: epochs, batch size and optimizer.
        key: names the order of samples; epoch e is shuffled by ``key / "epoch" / e``, dropout draws from
            ``key / "noise"``, and step s draws what the objective draws from ``key / "drawn" / s``.
        hooks: applied in order at each point.
        optimizer: goes on from its state; a fresh one is made if it is None.

    Returns:
        Steps, samples passed forward and backward, and the mean loss of the last epoch.

    Raises:
        TrainingError: the loss is no longer finite.
        ResourceError: memory ran out; says which batch size fits.
    """
    if not len(data):
        return Outcome()
    job, company = Job(model, objective, data, training, key), _company.get()
    plain = optimizer is None and model.is_free and _observer.get() is None and not any(map(_changes_steps, hooks))
    if company is not None and plain and (done := company(job)) is not None:
        return done
    extend = [h.extend for h in hooks if type(h).extend is not Hooks.extend]
    displace = [h.displace for h in hooks if type(h).displace is not Hooks.displace]
    may_stop = [h.proceed for h in hooks if type(h).proceed is not Hooks.proceed]
    note_step = [h.stepped for h in hooks if type(h).stepped is not Hooks.stepped]
    objective = objective.training_on(data)
    descent = _Descent(model, objective, hooks)
    slopes = Slopes(model, _Descent(model, objective, ()), descent)
    observer = _observer.get()
    optimizer = optimizer or make_optimizer(training, model.parameters)
    model.train(bn_mode=training.bn_mode)
    step = samples = seen = 0
    drawing = key / "drawn"
    stopped = False

    def attempt(size: int) -> None:
        few = objective.drawn(data.batch(data.positions()[:size]), drawing)
        objective.losses(objective.outputs(model, few), few).mean().backward()  # type: ignore[no-untyped-call]

    size_key = "training.batch_size (or the unlearner's own)"
    with seeded_torch(key / "noise"), memory_errors(size_key, training.batch_size, attempt):
        for epoch in range(training.epochs):
            if stopped:
                break
            total, seen = torch.zeros((), device=model.parameters.device), 0
            for positions in data.positions(key / "epoch" / epoch).split(training.batch_size):
                batch = data.batch(positions)
                for add in extend:
                    batch = add(batch, step)
                batch = objective.drawn(batch, drawing / step)
                for move in displace:
                    slopes.aim(batch, len(positions))
                    displaced = move(model.parameters, slopes)
                    if displaced is not model.parameters:
                        model.parameters.copy_(displaced)
                loss, gradient = descent(batch)
                samples += len(batch)
                if may_stop and not all(go_on(loss) for go_on in may_stop):
                    stopped = True
                    break
                if training.clip_norm is not None:
                    gradient.mul_((training.clip_norm / (gradient.norm() + 1e-6)).clamp(max=1.0))
                before = model.parameters.clone() if note_step else None
                optimizer.step(model.parameters, gradient)
                model.hold()
                if before is not None:
                    change = model.parameters - before
                    for note in note_step:
                        note(descent.kept, change)
                total += loss * len(positions)
                seen += len(positions)
                step += 1
                if observer is not None:
                    observer(step)
                    model.train(bn_mode=training.bn_mode)
    mean = float(total) / seen if seen else 0.0
    if not math.isfinite(mean) or not math.isfinite(float(model.parameters.abs().max())):
        raise job.diverged(mean)
    samples += slopes.samples
    return Outcome(steps=step, forward=samples, backward=samples, losses={"loss": mean} if seen else {})
