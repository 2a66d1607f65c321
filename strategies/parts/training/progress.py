"""How far the trainings of an event have come, so that a life that is stopped in the middle of one loses minutes.

Nothing is drawn from a generator that runs on from step to step, but for noise of layers; so a training is where it was
when the weights, the optimizer, that noise, the counts and what its hooks have noted are. The event is entered again
from its start. Trainings in it that had come to their end are put there without a step, the one that was interrupted
goes on, and what lies between them is computed again.
"""

from __future__ import annotations

import contextlib
import operator
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Protocol, final

import numpy as np
import torch

from streams.randomness import Key

# A training that ends is kept if it took so many times as long as keeping it does, and so much of the time between two
# states; a shorter one is trained again. So files stay few, and the time they take small.
_WORTH, _SHARE = 20.0, 0.01


class Store(Protocol):
    """Where the states of an event's trainings are kept, by their number in the event."""

    def read(self, number: int) -> dict[str, Any] | None:
        """Return what was kept last under a number, or None."""

    def write(self, number: int, state: dict[str, Any]) -> None:
        """Keep a state in place of the one before it."""


@final
class Progress:
    """The trainings of one event of one strategy: those kept by an earlier attempt, and when to keep more.

    Attributes:
        keeps: whether something is kept of this event, now or by an earlier attempt.
    """

    def __init__(self, store: Store, every: float | None, *beside: object) -> None:
        """Begin the event.

        Args:
            store: where states are kept.
            every: seconds between two states; 0 keeps every step. None keeps one only when asked to stop.
            beside: what trainings change that they do not know of (see `state_of`).
        """
        self._store, self._every, self._beside = store, every, list(beside)
        self._began = self._kept_at = time.monotonic()
        self._count, self._cost = 0, 0.0
        self._inside = self._stops = self._moved = False
        self.keeps = False

    def add(self, part: object) -> None:
        """Keep something more beside every training."""
        self._beside.append(part)

    def stop(self) -> bool:
        """Have the training stop after its step, with its state kept; return whether one goes on that will."""
        self._stops = True
        return self._inside

    @contextlib.contextmanager
    def training(self, name: Key, parts: Sequence[object]) -> Iterator[Callable[[], None]]:
        """Put a training where it was kept, if it was; yield what to call after every step.

        One that begins within a step of another is part of that step.

        Args:
            name: of its randomness.
            parts: all that its steps change (see `state_of`).

        Raises:
            KeyboardInterrupt: it was to `stop`.
        """
        if self._inside:
            yield _nothing
            return
        number, self._count = self._count, self._count + 1
        kept = self._store.read(number)
        if kept is not None and kept["name"] == _text(name):
            self._began = min(self._began, time.monotonic() - kept["seconds"])
            for part, state in zip([*parts, *self._beside], kept["parts"], strict=True):
                put_back(part, state)
            self.keeps = True
        self._inside, self._moved, began = True, False, time.monotonic()

        def stepped() -> None:
            self._moved = True
            if self._stops or self._is_due():
                self._keep(number, name, parts)

        try:
            yield stepped
            seconds = time.monotonic() - began
            if self._stops or (self._moved and self._is_worth(seconds)):
                self._keep(number, name, parts)
        finally:
            self._inside = False

    def _is_due(self) -> bool:
        return self._every is not None and time.monotonic() - self._kept_at >= self._every

    def _is_worth(self, seconds: float) -> bool:
        """Return whether to keep a training that took so long, now that it is over."""
        if self._every is None or time.monotonic() - self._began < self._every:
            return False  # all of the event is soon done again
        return seconds >= min(self._every, max(_SHARE * self._every, _WORTH * self._cost))

    def _keep(self, number: int, name: Key, parts: Sequence[object]) -> None:
        started = time.monotonic()
        states = [state_of(part) for part in (*parts, *self._beside)]
        self._store.write(number, {"name": _text(name), "seconds": started - self._began, "parts": states})
        self._kept_at = time.monotonic()
        self._cost, self._moved, self.keeps = self._kept_at - started, False, True
        if self._stops:
            raise KeyboardInterrupt


_progress: ContextVar[Progress | None] = ContextVar("progress", default=None)


@contextlib.contextmanager
def keeping(progress: Progress) -> Iterator[None]:
    """Have every training inside kept by `progress`."""
    token = _progress.set(progress)
    try:
        yield
    finally:
        _progress.reset(token)


def keep_beside(part: object) -> None:
    """Have something kept beside every training of the event at hand, if any is."""
    progress = _progress.get()
    if progress is not None:
        progress.add(part)


def stop_after_step() -> bool:
    """Have the training at hand stop after its step, with its state kept; return whether there is one that will.

    There is none before, between and after trainings, and none that does not tell what its steps change.
    """
    progress = _progress.get()
    return progress is not None and progress.stop()


@contextlib.contextmanager
def interruptible(name: Key, parts: Sequence[object] | None) -> Iterator[Callable[[], None]]:
    """Have a training kept if this life keeps any; yield what to call after every step.

    Args:
        name: of its randomness.
        parts: all that its steps change; None if that cannot be told, and it is never interrupted.
    """
    progress = _progress.get()
    if progress is None or parts is None:
        yield _nothing
        return
    with progress.training(name, parts) as stepped:
        yield stepped


def _nothing() -> None:
    """Do nothing after a step."""


def _text(name: Key) -> str:
    return repr((name.seed, name.path))


def state_of(part: Any) -> Any:
    """Return what changes in something, as checkpoints can hold it, to be written before it changes again.

    That is: tensors, arrays, generators, plain values, and lists, dicts and tuples of these; what has a `state_dict`;
    and hooks, of which it is the attributes that they name in `carries`.
    """
    if isinstance(part, torch.Tensor):
        return _alone(part.detach())
    if isinstance(part, np.ndarray):
        return {"array": torch.from_numpy(part.copy())}
    if isinstance(part, torch.Generator):
        return part.get_state()
    if isinstance(part, dict):
        return {"dict": {key: state_of(value) for key, value in part.items()}}
    if isinstance(part, list | tuple):
        return type(part)(state_of(value) for value in part)
    if hasattr(part, "carries"):
        return {name: state_of(operator.attrgetter(name)(part)) for name in part.carries}
    return part.state_dict() if hasattr(part, "state_dict") else part


def put_back(part: Any, state: Any) -> Any:
    """Bring something to a state that `state_of` returned; return it, or what takes its place.

    A tensor of the same shape is changed in place, so that whoever shares it sees it.
    """
    if hasattr(part, "carries"):
        for name in part.carries:
            _set(part, name, state[name])
    elif hasattr(part, "load_state_dict"):
        part.load_state_dict(state)
    elif isinstance(part, torch.Generator):
        part.set_state(state.cpu())
    elif isinstance(part, torch.Tensor) and isinstance(state, torch.Tensor) and _alike(part, state):
        part.detach().copy_(state)
    elif isinstance(part, dict):
        values = {key: put_back(None, value) for key, value in state["dict"].items()}
        part.clear()
        part.update(values)
    elif isinstance(state, dict):
        return state["array"].cpu().numpy().copy() if "array" in state else put_back({}, state)
    elif isinstance(state, list | tuple):
        return type(state)(put_back(None, value) for value in state)
    else:
        return state
    return part


def _alone(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor that brings no more along to a file than itself; a copy only if it is part of another."""
    is_part = tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size()
    return tensor.clone() if is_part else tensor


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype


def _set(hook: object, name: str, state: Any) -> None:
    owner_name, _, last = name.rpartition(".")
    owner = operator.attrgetter(owner_name)(hook) if owner_name else hook
    setattr(owner, last, put_back(getattr(owner, last), state))
