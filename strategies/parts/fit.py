"""The training loop over a model's weights. Methods differ in what they hook into it.

What learns something beside the weights, or in their place (scores, codes, gates), takes its own steps over the same
`passes`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import ClassVar, final

import torch

from strategies.objectives._base import Objective
from strategies.outcome import Outcome
from strategies.parts.model import FlatModel
from strategies.parts.passes import FitConfig, Training, is_observed, observed, passes
from strategies.parts.training.optimizers import Optimizer, make_optimizer
from streams.data import Batch, Data
from streams.randomness import Key

__all__ = ["FitConfig", "Hooks", "Job", "Slopes", "Training", "fit", "in_company", "observed", "says_what_it_carries"]


class Hooks:
    """What can be changed inside a step, by value. A hook that is not overridden is never called."""

    carries: ClassVar[tuple[str, ...]]
    """Attributes that its steps change and that later steps, or who comes after them, read: tensors, arrays, numbers,
    lists and dicts of these, and what has a `state_dict`. Training that is interrupted in its middle goes on with
    them; ``()`` where there are none. A class that overrides a hook says it itself. Where none does, training with it
    begins again at the event's start."""

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
        self._samples = 0

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

    def counted(self) -> int:
        """Return how many samples were passed since this was asked last."""
        samples, self._samples = self._samples, 0
        return samples

    def _at(self, parameters: torch.Tensor, batch: Batch, descent: _Descent) -> torch.Tensor:
        if parameters is not self._model.parameters:
            self._model.parameters.copy_(parameters)
        before = [b.clone() for b in self._buffers]
        self._samples += len(batch)
        with _same_noise(self._model.parameters.device):
            _, gradient = descent(batch)
        for buffer, value in zip(self._buffers, before, strict=True):
            buffer.copy_(value)
        return gradient


@contextlib.contextmanager
def _same_noise(device: torch.device) -> Iterator[None]:
    """Put torch's generators back, so that the step draws what it would have drawn."""
    cpu = torch.default_generator.get_state()
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    yield
    torch.default_generator.set_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state(cuda, device)


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


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A `fit` without hooks that has not begun."""

    model: FlatModel
    objective: Objective
    data: Data
    training: FitConfig
    key: Key


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


def says_what_it_carries(kind: type[Hooks]) -> bool:
    """Return whether `carries` is said by the class that overrides a hook, or by one derived from it."""
    for one in kind.__mro__:
        if "carries" in vars(one):
            return True
        if any(name in vars(one) for name in _IN_A_STEP):
            return False
    return False


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
    company = _company.get()
    plain = optimizer is None and model.is_free and not is_observed() and not any(map(_changes_steps, hooks))
    if company is not None and plain:
        done = company(Job(model, objective, data, training, key))
        if done is not None:
            return done
    extend = [h.extend for h in hooks if type(h).extend is not Hooks.extend]
    displace = [h.displace for h in hooks if type(h).displace is not Hooks.displace]
    may_stop = [h.proceed for h in hooks if type(h).proceed is not Hooks.proceed]
    note_step = [h.stepped for h in hooks if type(h).stepped is not Hooks.stepped]
    objective = objective.training_on(data)
    descent = _Descent(model, objective, hooks)
    slopes = Slopes(model, _Descent(model, objective, ()), descent)
    optimizer = optimizer or make_optimizer(training, model.parameters)
    drawing = key / "drawn"
    changing = [h for h in hooks if _changes_steps(h)]
    can_go_on = all(says_what_it_carries(type(h)) for h in changing)

    def loss_of(size: int) -> torch.Tensor:
        few = objective.drawn(data.batch(data.positions()[:size]), drawing)
        return objective.losses(objective.outputs(model, few), few).mean()

    with passes(model, training, key / "noise", loss_of, [optimizer, *changing] if can_go_on else None) as steps:
        for batch in steps.over(data, key):
            num_own = len(batch)
            for add in extend:
                batch = add(batch, steps.number)
            batch = objective.drawn(batch, drawing / steps.number)
            for move in displace:
                slopes.aim(batch, num_own)
                displaced = move(model.parameters, slopes)
                if displaced is not model.parameters:
                    model.parameters.copy_(displaced)
            loss, gradient = descent(batch)
            steps.samples += len(batch) + slopes.counted()
            if may_stop and not all(go_on(loss) for go_on in may_stop):
                steps.ended = True
                break
            before = model.parameters.clone() if note_step else None
            optimizer.step(model.parameters, steps.clip(gradient))
            model.hold()
            if before is not None:
                change = torch.sub(model.parameters, before, out=before)
                for note in note_step:
                    note(descent.kept, change)
            steps.done(loss)
    return steps.outcome(model.parameters)
