"""The training loop over a model's weights. Methods differ in what they hook into it.

What learns something beside the weights, or in their place (scores, codes, gates), takes its own steps over the same
`passes`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch

from strategies.objectives._base import Objective
from strategies.outcome import Outcome
from strategies.parts.by_hand import ByHand
from strategies.parts.memory.draws import Draws
from strategies.parts.model import FlatModel
from strategies.parts.passes import FitConfig, Training, is_observed, observed, passes
from strategies.parts.perceptron import layers_of
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

    def adds(self) -> Sequence[Draws] | None:
        """Return what `extend` puts behind the batch of every step, if that is all it does and it is drawn already.

        Then the samples of all steps can be looked up at once, which is faster; what is trained on is the same. None
        does not tell.
        """
        return None

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
class Criterion:
    """From outputs to what is minimised: the objective's losses, and what `losses` and `loss` hooks make of them."""

    def __init__(self, model: FlatModel, objective: Objective, hooks: Sequence[Hooks]) -> None:
        """Take the objective in its form for training."""
        self._model, self._objective = model, objective
        self._losses, self._loss = overridden(hooks, "losses"), overridden(hooks, "loss")
        self.is_plain = not (self._losses or self._loss)
        """Whether it is the mean of the objective's losses."""
        self.passes_once = objective.passes_once and not self._loss
        """Whether the model is called once, with the batch; `loss` hooks may call it again."""

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Pass a batch, and return the scalar to differentiate."""
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
        return loss


def overridden(hooks: Sequence[Hooks], name: str) -> list[Any]:
    """Return the bound methods of that name, of hooks that override it."""
    return [getattr(h, name) for h in hooks if _overrides(h, name)]


def _overrides(hook: Hooks, name: str) -> bool:
    return getattr(type(hook), name) is not getattr(Hooks, name)


@final
class _Descent:
    """From a batch to the gradient of what is minimised at the model's weights."""

    def __init__(self, model: FlatModel, objective: Objective, hooks: Sequence[Hooks], rows: int) -> None:
        self._model = model
        criterion, layers = Criterion(model, objective, hooks), layers_of(model)
        self._differentiate: Callable[[Batch], torch.Tensor]
        if layers is None:
            self._differentiate = functools.partial(_by_graph, model, criterion)
        else:
            self._differentiate = ByHand(model, layers, objective, criterion, rows)
        self._keeps = bool(overridden(hooks, "stepped"))
        self.kept = model.gradient
        self._gradient = overridden(hooks, "gradient")

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss and its gradient ``[P]``, which the next call overwrites."""
        loss = self._differentiate(batch)
        gradient = self._model.gradient
        if self._keeps:
            self.kept = gradient.clone()
        for alter in self._gradient:
            gradient = alter(gradient, self._model.parameters)
        return loss, gradient


def _by_graph(model: FlatModel, criterion: Criterion, batch: Batch) -> torch.Tensor:
    """Return the loss of a batch; its gradient is that of the model then."""
    loss = criterion(batch)
    model.gradient.zero_()
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A `fit` that has not begun. The objective is in its form for training on `data`."""

    model: FlatModel
    objective: Objective
    data: Data
    training: FitConfig
    key: Key
    hooks: Sequence[Hooks] = ()
    optimizer: Optimizer | None = None
    is_observed: bool = False


_company: ContextVar[Callable[[Job], Outcome | None] | None] = ContextVar("company", default=None)


@contextlib.contextmanager
def in_company(join: Callable[[Job], Outcome | None]) -> Iterator[None]:
    """Have every `fit` inside offered to `join`, which trains it or returns None."""
    token = _company.set(join)
    try:
        yield
    finally:
        _company.reset(token)


def rows_of(data: Data, training: FitConfig, hooks: Sequence[Hooks]) -> int:
    """Return how many samples a batch has at most, as far as is known before the first step."""
    return min(training.batch_size, len(data)) + sum(draws.size for draws in drawn_before(hooks) or ())


def drawn_before(hooks: Sequence[Hooks]) -> list[Draws] | None:
    """Return all that hooks add to batches, in order; None if one of them does not tell before the first step."""
    told = [h.adds() for h in hooks if _overrides(h, "extend")]
    return None if None in told else [draws for several in told for draws in several or ()]


_IN_A_STEP = ("extend", "displace", "losses", "loss", "gradient", "proceed", "stepped")


def _changes_steps(hook: Hooks) -> bool:
    return any(_overrides(hook, name) for name in _IN_A_STEP)


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
    objective = objective.training_on(data)
    company = _company.get()
    if company is not None:
        done = company(Job(model, objective, data, training, key, hooks, optimizer, is_observed()))
        if done is not None:
            return done
    extend, displace = overridden(hooks, "extend"), overridden(hooks, "displace")
    may_stop, note_step = overridden(hooks, "proceed"), overridden(hooks, "stepped")
    rows = rows_of(data, training, hooks)
    descent = _Descent(model, objective, hooks, rows)
    slopes = Slopes(model, _Descent(model, objective, (), rows), descent)
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
