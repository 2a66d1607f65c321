"""Runs that take turns: what they `fit` at the same moment is trained at once.

A step of a small network is mostly overhead; stacked, sixteen of them cost about as much as two. `together` lets works
run as if one after the other, each until it calls `fit`; when all wait there, those that are alike are trained as one,
and go on. No work can tell, and its numbers do not depend on the company (`strategies.parts.stacked`).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

import numpy as np
import torch

from strategies.outcome import Outcome
from strategies.parts.fit import Job, in_company
from strategies.parts.stacked import fit_stacked, groups_of, why_alone
from strategies.parts.training.timing import counting_away, say

T = TypeVar("T")
_LOOK_AGAIN_S = 0.02

_pause: ContextVar[Callable[[], None] | None] = ContextVar("pause", default=None)


@dataclass(eq=False)
class _Member(Generic[T]):
    """One work: a thread that runs only while it has the turn.

    Attributes:
        share: seconds of a training in company that are its own.
    """

    work: Callable[[], T]
    turn: threading.Semaphore
    job: Job | None = None
    fitted: Outcome | Exception | None = None
    share: float = 0.0
    result: T | None = None
    error: BaseException | None = None
    ended: bool = False


class _Dismissed(BaseException):
    """Another work has failed, and this one is not wanted any more."""


def give_way() -> bool:
    """Let the others go on for a while, where something must be waited for that may be theirs.

    Returns:
        False if there are no others: then there is nobody to wait for but other processes.
    """
    pause = _pause.get()
    if pause is None:
        return False
    pause()
    return True


def together(works: Sequence[Callable[[], T]]) -> list[T]:
    """Do all works, one at a time, but what they `fit` at the same time; return their results.

    Only one of them runs at any moment, so that they need not be safe against each other. The first error that a work
    does not catch ends all.
    """
    members = [_Member(work, threading.Semaphore(0)) for work in works]
    turn_ended = threading.Semaphore(0)
    dismissed = threading.Event()

    def live(member: _Member[T]) -> None:
        def others_go_on() -> None:
            began, drawn = time.perf_counter(), _generators()
            turn_ended.release()
            member.turn.acquire()
            if dismissed.is_set():
                raise _Dismissed
            _put_generators(drawn)
            away.seconds += time.perf_counter() - began - member.share
            member.share = 0.0

        def wait(job: Job) -> Outcome | None:
            if dismissed.is_set():
                raise _Dismissed
            if (reason := why_alone(job)) is not None:
                say("alone", reason)
                return None
            member.job = job
            others_go_on()
            fitted, member.fitted = member.fitted, None
            if isinstance(fitted, Exception):
                raise fitted
            return fitted

        member.turn.acquire()
        try:
            if not dismissed.is_set():
                _pause.set(others_go_on)
                with counting_away() as away, in_company(wait):
                    member.result = member.work()
        except BaseException as error:  # handed to who asked for the work, below
            member.error = error
        member.ended = True
        turn_ended.release()

    threads = [threading.Thread(target=copy_context().run, args=(live, m), daemon=True) for m in members]
    for thread in threads:
        thread.start()
    try:
        going = members
        while going:
            for member in going:
                member.turn.release()
                turn_ended.acquire()
                if member.error is not None:
                    raise member.error
            going = [m for m in going if not m.ended]
            waiting = [m for m in going if m.job is not None]
            if not waiting and going and not give_way():  # all wait for other processes
                time.sleep(_LOOK_AGAIN_S)
            _train(waiting)
    finally:
        dismissed.set()
        for member in members:
            member.turn.release()
        for thread in threads:
            thread.join()
    return [cast("T", m.result) for m in members]


def _train(waiting: Sequence[_Member[T]]) -> None:
    """Train what is waited for, in groups of those that are alike."""
    jobs = [cast("Job", m.job) for m in waiting]
    for group in groups_of(jobs):
        began = time.perf_counter()
        outcomes = fit_stacked([jobs[i] for i in group])
        share = (time.perf_counter() - began) / len(group)
        for i, fitted in zip(group, outcomes, strict=True):
            waiting[i].fitted, waiting[i].job, waiting[i].share = fitted, None, share


_Generators = tuple[torch.Tensor, object, object]


def _generators() -> _Generators:
    """Return the state of the global generators, from which a work may be drawing while it waits."""
    return torch.default_generator.get_state(), np.random.get_state(), random.getstate()


def _put_generators(state: _Generators) -> None:
    torch.default_generator.set_state(state[0])
    np.random.set_state(cast("tuple[str, np.ndarray, int, int, float]", state[1]))
    random.setstate(cast("tuple[int, tuple[int, ...], float | None]", state[2]))
