"""Passes over data: what all training shares, whatever a method does in a step."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Literal, final

import torch
from pydantic import Field

from strategies.outcome import Outcome
from strategies.parts.model import FlatModel, is_finite
from strategies.parts.training.optimizers import OptimizerConfig
from strategies.parts.training.out_of_memory import memory_errors
from strategies.parts.training.progress import interruptible
from streams.data import Batch, Data
from streams.errors import TrainingError
from streams.randomness import Key, seeded_torch


class StepConfig(OptimizerConfig):
    """How a model is trained step by step."""

    batch_size: int = Field(64, ge=1)
    """Samples per step; a short last batch is kept."""
    clip_norm: float | None = Field(None, gt=0)
    """Scale a gradient down to that norm if it is longer; null leaves it."""
    bn_mode: Literal["train", "eval"] = "train"
    """Batch norm while training: `train` normalises by the batch and moves the running statistics; `eval` normalises
    by the running statistics and leaves them alone (from scratch: mean 0 and variance 1), as Smith et al. 2023 do."""


class FitConfig(StepConfig):
    """How a model is trained on one set of data."""

    epochs: int = Field(1, ge=1)
    """Passes over the data."""

    def num_steps(self, samples: int) -> int:
        """Return the optimizer steps that `samples` samples take."""
        return self.epochs * math.ceil(samples / self.batch_size)


class Training(FitConfig):
    """How every experience of a stream is trained."""

    carry_optimizer: bool = False
    """Whether momentum and moments live on from one experience to the next, or start at zero in each. They are reset
    when a request names data they derive from. The `avalanche` learner always carries them, as Avalanche does; isolated
    strategies, `lora` and `o-lora` never do."""


_observer: ContextVar[Callable[[int], None] | None] = ContextVar("observer", default=None)


@contextlib.contextmanager
def observed(observer: Callable[[int], None]) -> Iterator[None]:
    """Have `observer` called, with the number of steps done, after every step of every training inside.

    For measuring within an experience: who trains cannot tell that it is watched. An observer may put the model into
    evaluation mode and must leave everything else as it is.
    """
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


def is_observed() -> bool:
    """Return whether somebody looks on."""
    return _observer.get() is not None


@final
class Passes:
    """The steps of one training. A method goes over batches, and in each step clips, moves what it trains, and is done.

    Attributes:
        number: steps that are done.
        samples: passed forward and backward so far; added to by those who pass them.
        loss: the scalar of the last step that is done, 0 before the first.
        ended: whether it was ended before its time; then it stays so when it is put back.
    """

    def __init__(self, model: FlatModel, training: StepConfig) -> None:
        """Begin with no step. Training on data begins by `passes`; this is for steps that pass none."""
        self._model, self._training, self._observer = model, training, _observer.get()
        self.loss = self._total = torch.zeros((), device=model.parameters.device)
        self._size, self._seen = 1, 0
        self.number = self.samples = 0
        self.ended = False
        self.stepped: Callable[[], None] | None = None

    def over(self, data: Data, key: Key) -> Iterator[Batch]:
        """Yield the batches of the steps that are left; epoch e is shuffled by ``key / "epoch" / e``."""
        assert isinstance(self._training, FitConfig)
        per_epoch = math.ceil(len(data) / self._training.batch_size)
        for epoch in range(self._training.epochs) if not self.ended else ():
            done = self.number - epoch * per_epoch
            if done >= per_epoch:
                continue
            if done == 0:
                self._total, self._seen = torch.zeros_like(self._total), 0
            for positions in data.positions(key / "epoch" / epoch).split(self._training.batch_size)[done:]:
                self._size = len(positions)
                yield data.batch(positions)

    def up_to(self, steps: int) -> Iterator[int]:
        """Yield the numbers of the steps that are left of so many, for who takes them on other batches."""
        yield from range(self.number, steps) if not self.ended else ()

    def clip(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the gradient, scaled down in place if it is longer than `clip_norm`."""
        if self._training.clip_norm is not None:
            gradient.mul_((self._training.clip_norm / (gradient.norm() + 1e-6)).clamp(max=1.0))
        return gradient

    def done(self, loss: torch.Tensor) -> None:
        """Count a step that was taken, and let the observer look; `loss` is the scalar that was differentiated."""
        self.loss = loss.detach()
        self._total += self.loss * self._size
        self._seen += self._size
        self.number += 1
        if self._observer is not None:
            self._observer(self.number)
            self._model.train(bn_mode=self._training.bn_mode)
        if self.stepped is not None:
            self.stepped()

    def state_dict(self) -> dict[str, Any]:
        """Return the counts and the losses so far."""
        counts = {"number": self.number, "samples": self.samples, "size": self._size, "seen": self._seen}
        return counts | {"ended": self.ended, "loss": self.loss.clone(), "total": self._total.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put them back."""
        self.number, self.samples = state["number"], state["samples"]
        self._size, self._seen, self.ended = state["size"], state["seen"], state["ended"]
        self.loss, self._total = state["loss"].clone(), state["total"].clone()

    def outcome(self, *moved: torch.Tensor, losses: dict[str, float] | None = None) -> Outcome:
        """Return what the steps cost.

        Args:
            moved: all that was trained.
            losses: what to report; the mean loss of the last epoch, as `loss`, if it is None.

        Raises:
            TrainingError: the loss or something that was trained is no longer finite.
        """
        mean = float(self._total) / self._seen if self._seen else 0.0
        if not math.isfinite(mean) or not all(map(is_finite, moved)):
            raise diverged(self._training, mean)
        if losses is None:
            losses = {"loss": mean} if self._seen else {}
        return Outcome(steps=self.number, forward=self.samples, backward=self.samples, losses=losses)


@final
class _Weights:
    """A model's state, which is written at once: without the copy that a large one may have no room for."""

    def __init__(self, model: FlatModel) -> None:
        self._model = model

    def state_dict(self) -> dict[str, object]:
        return {"parameters": self._model.parameters, "buffers": dict(self._model.network.named_buffers())}

    def load_state_dict(self, state: dict[str, object]) -> None:
        self._model.load_state_dict(state)


@final
class _Noise:
    """Where the generators stand that layers draw their noise from."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def state_dict(self) -> dict[str, torch.Tensor]:
        states = {"cpu": torch.default_generator.get_state()}
        return states | ({"cuda": torch.cuda.get_rng_state(self._device)} if self._device.type == "cuda" else {})

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        torch.default_generator.set_state(state["cpu"].cpu())
        if "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"].cpu(), self._device)


# Why: docs/decisions.md#steps-are-shared-what-happens-in-them-is-not
@contextlib.contextmanager
def passes(
    model: FlatModel,
    training: StepConfig,
    noise: Key,
    loss_of: Callable[[int], torch.Tensor],
    moving: Sequence[object] | None = None,
) -> Iterator[Passes]:
    """Train: the model is in training mode, dropout draws from `noise`, and running out of memory says what would fit.

    Args:
        model: whose modules are passed; left in training mode, and without a gradient.
        training: batch size, clipping and what batch norms do; the optimizers are the caller's.
        noise: names all that is drawn inside.
        loss_of: returns the loss of so many samples, to find a batch size that fits.
        moving: all that steps change beside the model: optimizers, tensors, hooks (see `progress.state_of`). With it,
            training that was interrupted goes on from a step in its middle; None cannot tell, and it begins again.

    Raises:
        ResourceError: memory ran out; says which batch size fits.
    """
    model.train(bn_mode=training.bn_mode)
    size_key = "training.batch_size (or the unlearner's own)"
    with (
        seeded_torch(noise),
        memory_errors(size_key, training.batch_size, lambda size: loss_of(size).backward()),
    ):
        steps = Passes(model, training)
        noise_now = _Noise(model.parameters.device)
        parts = None if moving is None else (steps, _Weights(model), noise_now, *moving)
        with interruptible(noise, parts) as steps.stepped:
            yield steps
    model.drop_gradient()


def diverged(training: StepConfig, loss: float) -> TrainingError:
    """Return the error for training that ended with that loss."""
    # an unlearner that trains does so by options of its own
    key = "training.lr" if isinstance(training, Training) else "its lr"
    return TrainingError(
        f"Training diverged: the loss of the last epoch is {loss}. Lower {key} (now {training.lr:g}), "
        f"or the strength of a penalty: explicit steps are stable only while lr x strength x importance stays "
        f"below 2."
    )
