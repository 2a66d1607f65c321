"""Many small models trained at once: lives that wait in `fit` are stacked and take their steps as one.

A step of a small network is mostly overhead; stacked, sixteen of them cost about as much as five. `together` lets lives
run as if one after the other, each until it calls `fit`; when all wait there, they are trained as one, and go on. No
life can tell. A model's numbers do not depend on which others are stacked with it. They agree with those of `fit` but
for the rounding of sums (about 1e-7 per step), so that lives that are compared to the bit are all trained in one way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from typing import Generic, TypeVar, cast, final

import torch
from torch import nn

from strategies.outcome import Outcome
from strategies.parts.fit import Job, in_company
from strategies.parts.model import FlatModel, Network, is_finite
from strategies.parts.passes import diverged
from strategies.parts.training.optimizers import make_optimizer
from streams.data import Batch
from streams.errors import TrainingError

LARGEST = 20_000
"""Weights of the largest model that is stacked; beyond, the arithmetic is what takes the time and nothing is gained."""
_LAYERS = (Network, nn.Sequential, nn.Linear, nn.ReLU, nn.Flatten)

T = TypeVar("T")


def can_be_stacked(job: Job) -> bool:
    """Return whether a fit can join others: a small multi-layer perceptron on the CPU, all trained, plain losses."""
    model = job.model
    return (
        len(model.parameters) <= LARGEST
        and model.parameters.device.type == "cpu"
        and all(type(m) in _LAYERS for m in model.network.modules())
        and all(p.requires_grad for p in model.network.parameters())
        and job.objective.training_on(job.data) is job.objective
        and not job.objective.draws
    )


def fit_together(jobs: Sequence[Job]) -> list[Outcome | TrainingError]:
    """Train every model on its own data as `fit` would without hooks, all of them in the same steps.

    Args:
        jobs: of the same network, training options and kind of objective; see `can_be_stacked`.

    Returns:
        For each its outcome, or the error if its training diverged.
    """
    first = jobs[0]
    training, samples = first.training, [job.data.all() for job in jobs]
    offsets = torch.tensor([0, *(len(s) for s in samples[:-1])]).cumsum(0)
    everything = samples[0]
    for more in samples[1:]:
        everything = everything.concat(more)
    plans = [
        [
            p
            for e in range(training.epochs)
            for p in job.data.positions(job.key / "epoch" / e).split(training.batch_size)
        ]
        for job in jobs
    ]
    stack = _Stack(first.model, torch.stack([job.model.parameters for job in jobs]))
    optimizer = make_optimizer(training, stack.parameters)
    losses = []
    for step in range(max(len(plan) for plan in plans)):
        parts = [plan[step] if step < len(plan) else plan[0][:0] for plan in plans]
        sizes = torch.tensor([len(p) for p in parts])
        rows = torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True) + offsets[:, None]
        counts = torch.arange(rows.shape[1]) < sizes[:, None]
        batch = _rows(everything, rows.reshape(-1))
        outputs = first.objective.outputs(cast("FlatModel", stack), batch)
        each = first.objective.losses(outputs, batch).view(rows.shape).masked_fill(~counts, 0.0)
        mean = each.sum(1) / sizes.clamp(min=1)
        (gradient,) = torch.autograd.grad(mean.sum(), stack.parameters)
        losses.append(mean.detach())
        if training.clip_norm is not None:
            gradient.mul_((training.clip_norm / (gradient.norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1.0))
        done = sizes == 0
        before = stack.parameters[done].detach().clone()
        with torch.no_grad():
            optimizer.step(stack.parameters, gradient)
            stack.parameters[done] = before
    history = torch.stack(losses)
    return [
        _finished(job, plan, history[:, j], stack.parameters[j])
        for j, (job, plan) in enumerate(zip(jobs, plans, strict=True))
    ]


@final
class _Stack:
    """Networks of one shape, called with all their inputs one after the other, as many for each."""

    def __init__(self, like: FlatModel, parameters: torch.Tensor) -> None:
        self._network = like.network
        self._slices = {
            n: (where, p.shape) for (n, where), p in zip(like.slices.items(), like.network.parameters(), strict=True)
        }
        self.parameters = parameters.requires_grad_(True)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs ``[J B, C]`` for inputs ``[J B, ...]``."""

        def one(parameters: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            named = {n: parameters[where].view(shape) for n, (where, shape) in self._slices.items()}
            return cast("torch.Tensor", torch.func.functional_call(self._network, named, (x,)))

        return torch.vmap(one)(self.parameters, x.view(len(self.parameters), -1, *x.shape[1:])).flatten(0, 1)


def _rows(batch: Batch, rows: torch.Tensor) -> Batch:
    task = None if batch.task is None else batch.task.index_select(0, rows)
    return Batch(rows, batch.x.index_select(0, rows), batch.y.index_select(0, rows), task)


def _finished(
    job: Job, plan: list[torch.Tensor], losses: torch.Tensor, parameters: torch.Tensor
) -> Outcome | TrainingError:
    """Put the weights back into the model and say what `fit` would."""
    with torch.no_grad():
        job.model.parameters.copy_(parameters)
    job.model.train(bn_mode=job.training.bn_mode)
    steps = len(plan)
    last = range(steps - steps // job.training.epochs, steps)
    mean = sum(float(losses[t]) * len(plan[t]) for t in last) / len(job.data)
    if not is_finite(parameters) or mean != mean or mean in (float("inf"), float("-inf")):
        return diverged(job.training, mean)
    visits = job.training.epochs * len(job.data)
    return Outcome(steps=steps, forward=visits, backward=visits, losses={"loss": mean})


@dataclass(eq=False)
class _Member(Generic[T]):
    """One life: a thread that runs only while it has the turn."""

    work: Callable[[], T]
    turn: threading.Semaphore
    job: Job | None = None
    fitted: Outcome | TrainingError | None = None
    result: T | None = None
    error: BaseException | None = None
    ended: bool = False


class _Dismissed(BaseException):
    """Another life has failed, and this one is not wanted any more."""


def together(works: Sequence[Callable[[], T]]) -> list[T]:
    """Do all works, one at a time, but what they `fit` at the same time; return their results.

    Only one of them runs at any moment, so that they need not be safe against each other. The first error ends all.
    """
    members = [_Member(work, threading.Semaphore(0)) for work in works]
    turn_ended = threading.Semaphore(0)
    dismissed = threading.Event()

    def live(member: _Member[T]) -> None:
        def wait(job: Job) -> Outcome | None:
            if not can_be_stacked(job):
                return None
            member.job = job
            turn_ended.release()
            member.turn.acquire()
            if dismissed.is_set():
                raise _Dismissed
            fitted, member.fitted = member.fitted, None
            if isinstance(fitted, TrainingError):
                raise fitted
            return fitted

        member.turn.acquire()
        try:
            if not dismissed.is_set():
                with in_company(wait):
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
            for group in _groups_alike(going):
                for member, fitted in zip(group, fit_together([cast("Job", m.job) for m in group]), strict=True):
                    member.fitted = fitted
    finally:
        dismissed.set()
        for member in members:
            member.turn.release()
        for thread in threads:
            thread.join()
    return [cast("T", m.result) for m in members]


def _groups_alike(members: list[_Member[T]]) -> list[list[_Member[T]]]:
    """Return the members in groups that can take their steps as one."""
    groups: dict[object, list[_Member[T]]] = {}
    for member in members:
        job = cast("Job", member.job)
        shapes = tuple((n, tuple(p.shape)) for n, p in job.model.network.named_parameters())
        groups.setdefault((shapes, job.training, type(job.objective)), []).append(member)
    return list(groups.values())
