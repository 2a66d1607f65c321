"""Several perceptrons trained at once: every step is taken by all of them, as one batched operation.

Each ends with the bits that it has when `fit` trains it by itself, whoever it is trained with; see
`strategies.parts.perceptron` for why. What the models share is the arithmetic of the networks and of the optimizer.
Where nobody changes the losses these are worked out for all at once, too; hooks see one model after the other, as
they would alone.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch

from strategies.outcome import Outcome
from strategies.parts.by_hand import through_outputs
from strategies.parts.fit import Criterion, Job, drawn_before, overridden, rows_of
from strategies.parts.model import is_finite
from strategies.parts.passes import diverged
from strategies.parts.perceptron import Perceptrons, layers_of, padded, to_rows
from strategies.parts.training.optimizers import make_optimizer
from streams.data import Batch, Data, Pool

MOST_WEIGHTS = 300_000
"""Weights of all models of a stack; with more of them they do not fit into the cache, and less is gained."""
_BYTES_OF_INPUTS = 2**26
_ALIGNED = 16
_BLOCK = 256


def why_alone(job: Job) -> str | None:
    """Return what keeps a fit from being trained with others, in words; None if nothing does."""
    model = job.model
    if layers_of(model) is None:
        return "the model is no multi-layer perceptron of linear layers and ReLU that is trained whole on the CPU"
    if 2 * len(model.parameters) > MOST_WEIGHTS:
        return f"two models of {len(model.parameters)} weights do not fit into the cache"
    if torch.get_num_threads() != 1:
        return "torch has several threads"
    if job.is_observed:
        return "it is looked at while it trains"
    if job.optimizer is not None:
        return "its optimizer is not a fresh one"
    if overridden(job.hooks, "displace"):
        return "a hook displaces the weights"
    if job.objective.draws or job.data.has_images or not job.objective.passes_once:
        return "its objective draws, or passes the model in a way of its own"
    return None


def groups_of(jobs: Sequence[Job]) -> list[list[int]]:
    """Return the places of the jobs that can take their steps as one, in groups that fit into the cache."""
    alike: dict[object, list[int]] = {}
    for place, job in enumerate(jobs):
        shapes = tuple((n, tuple(p.shape)) for n, p in job.model.network.named_parameters())
        rows = padded(rows_of(job.data, job.training, job.hooks))
        plain = Criterion(job.model, job.objective, job.hooks).is_plain
        hooked = not plain or bool(_unknown(job)) or bool(overridden(job.hooks, "proceed"))
        batch = job.data.batch(torch.zeros(1, dtype=torch.int64))
        large = batch.x.nbytes * len(job.data) * len(jobs) > _BYTES_OF_INPUTS
        reads = next((p for p in range(place) if jobs[p].data.reads_like(job.data)), place) if large else -1
        kind = (shapes, job.training, rows, type(job.objective), hooked, batch.task is None, batch.x.shape, reads)
        alike.setdefault(kind, []).append(place)
    groups = []
    for places in alike.values():
        most = max(1, MOST_WEIGHTS // len(jobs[places[0]].model.parameters))
        count = math.ceil(len(places) / most)
        groups += [places[i::count] for i in range(count)]
    return groups


def fit_stacked(jobs: Sequence[Job]) -> list[Outcome | Exception]:
    """Train every model on its own data as `fit` would, all of them in the same steps.

    Args:
        jobs: of one group; see `groups_of`.

    Returns:
        For each its outcome, or what went wrong with it; the others go on.
    """
    return _Stack(jobs).train()


def _unknown(job: Job) -> list[Any]:
    """Return the `extend` hooks that do not say beforehand what they add."""
    return [h.extend for h in job.hooks if h.adds() is None and overridden([h], "extend")]


@dataclass(frozen=True, slots=True, eq=False)
class _Steps:
    """Some steps of one model in a row, whose batches are of one size.

    Attributes:
        positions: int64 ``[steps, B]`` into the pool.
        own: samples of each batch that are the experience's.
    """

    positions: torch.Tensor
    own: int


@final
class _Member:
    """One model of a stack, and what is counted of its steps."""

    def __init__(self, job: Job, first_view: int) -> None:
        self.job = job
        self.draws = drawn_before(job.hooks)
        self.first_view = first_view
        self.criterion = Criterion(job.model, job.objective, job.hooks)
        self.extend = _unknown(job)
        self.gradient, self.proceed = overridden(job.hooks, "gradient"), overridden(job.hooks, "proceed")
        self.stepped = overridden(job.hooks, "stepped")
        self.is_looked_at = bool(job.hooks) or not job.model.is_free
        self.rows = padded(rows_of(job.data, job.training, job.hooks))
        self.number = 0  # of the step that is taken
        self.result: Outcome | Exception | None = None
        self._total, self._seen, self._samples = torch.zeros(()), 0, 0
        self._kept: torch.Tensor | None = None

    def plan(self, starts: list[int]) -> Iterator[_Steps | None]:
        """Yield all steps; None where an epoch begins."""
        job, step = self.job, 0
        size = job.training.batch_size
        for epoch in range(job.training.epochs):
            yield None
            order = job.data.positions(job.key / "epoch" / epoch) + starts[self.first_view]
            full = len(order) // size
            for own in (order[: full * size].view(full, size), order[full * size :].unsqueeze(0)):
                if own.numel():
                    added = [
                        d.positions[step : step + len(own)] + starts[self.first_view + 1 + i]
                        for i, d in enumerate(self.draws)
                    ]
                    yield _Steps(torch.cat([own, *added], 1), own.shape[1])
                    step += len(own)

    def begin_epoch(self) -> None:
        """Count losses anew."""
        self._total, self._seen = torch.zeros(()), 0

    def passed(self, samples: int) -> None:
        """Count samples that were passed forward and backward."""
        self._samples += samples

    def done(self, loss: torch.Tensor, own: int) -> None:
        """Count a step that was taken."""
        self._total += loss * own
        self._seen += own
        self.number += 1

    def altered(self, gradient: torch.Tensor) -> None:
        """Let hooks change the gradient ``[P]`` in place."""
        self._kept = gradient.clone() if self.stepped else None
        changed = gradient
        for alter in self.gradient:
            changed = alter(changed, self.job.model.parameters)
        if changed is not gradient:
            gradient.copy_(changed)

    def moved(self, before: torch.Tensor | None, parameters: torch.Tensor) -> None:
        """Put weights back that must not move, and tell hooks of the step; `parameters` ``[P]`` may be changed."""
        model = self.job.model
        model.parameters.copy_(parameters)
        if not model.is_free:
            model.hold()
            parameters.copy_(model.parameters)
        if before is not None:
            change = torch.sub(parameters, before, out=before)
            for note in self.stepped:
                note(self._kept, change)

    def end(self, parameters: torch.Tensor) -> None:
        """Put the weights back into the model, and say what `fit` would."""
        job = self.job
        job.model.parameters.copy_(parameters)
        job.model.drop_gradient()
        mean = float(self._total) / self._seen if self._seen else 0.0
        if not math.isfinite(mean) or not is_finite(parameters):
            self.result = diverged(job.training, mean)
        else:
            losses = {"loss": mean} if self._seen else {}
            self.result = Outcome(self.number, self._samples, self._samples, losses=losses)


@final
class _Stack:
    """The models that have not ended, and their steps."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._all: list[_Member] = []
        views: list[Data] = []
        for job in jobs:
            self._all.append(_Member(job, len(views)))
            views += [job.data, *(d.data for d in self._all[-1].draws)]
        self._members, self._pool, self._training = list(self._all), Pool(views), jobs[0].training
        layers = layers_of(jobs[0].model)
        assert layers is not None
        self._layers, self._num = layers, len(jobs[0].model.parameters)
        rows = torch.zeros(len(jobs), -(-self._num // _ALIGNED) * _ALIGNED)
        for row, job in zip(rows, jobs, strict=True):
            row[: self._num] = job.model.parameters
        self._kernel, self._optimizer = Perceptrons(layers, rows), make_optimizer(self._training, rows)
        self._is_plain = all(m.criterion.is_plain and not m.extend and not m.proceed for m in self._all)
        self._is_plain = self._is_plain and all(map(self._has_slopes, self._all))

    def _has_slopes(self, member: _Member) -> bool:
        objective = member.job.objective
        outputs = torch.zeros(1, objective.num_outputs)
        return objective.slopes(outputs, member.job.data.batch(torch.zeros(1, dtype=torch.int64)), None) is not None

    def train(self) -> list[Outcome | Exception]:
        """Take all steps."""
        for member in self._all:
            member.job.model.train(bn_mode=self._training.bn_mode)
        plans = [m.plan(self._pool.starts) for m in self._all]
        ahead: dict[_Member, _Steps] = {}
        while True:
            for member, plan in zip(self._all, plans, strict=True):
                if member.result is None and member not in ahead:
                    for steps in plan:
                        if steps is not None:
                            ahead[member] = steps
                            break
                        member.begin_epoch()
                    else:
                        member.end(self._row(member))
            self._drop_ended()
            if not self._members:
                return [m.result for m in self._all if m.result is not None]
            steps = [ahead.pop(m) for m in self._members]
            done = self._take(steps, min(_BLOCK, *(len(s.positions) for s in steps)))
            for member, s in zip(self._members, steps, strict=True):
                if done < len(s.positions) and member.result is None:
                    ahead[member] = _Steps(s.positions[done:], s.own)

    def _row(self, member: _Member) -> torch.Tensor:
        return self._kernel.parameters[self._members.index(member), : self._num]

    def _drop_ended(self) -> None:
        """Go on with those that have not ended."""
        kept = [i for i, m in enumerate(self._members) if m.result is None]
        if len(kept) == len(self._members):
            return
        self._members = [self._members[i] for i in kept]
        state, parameters = self._optimizer.state_dict(), self._kernel.parameters[kept]
        self._kernel, self._optimizer = (
            Perceptrons(self._layers, parameters),
            make_optimizer(self._training, parameters),
        )
        self._optimizer.load_state_dict({k: v[kept] if isinstance(v, torch.Tensor) else v for k, v in state.items()})

    @torch.no_grad()
    def _take(self, steps: list[_Steps], count: int) -> int:
        """Take steps of one batch size each until `count` are done or somebody has ended; return how many."""
        members, rows = self._members, self._members[0].rows
        sizes = [s.positions.shape[1] for s in steps]
        where = torch.zeros(count, len(members), rows, dtype=torch.int64)
        weights, is_empty = torch.zeros(len(members), rows), torch.ones(len(members), rows, dtype=torch.bool)
        for j, (s, size) in enumerate(zip(steps, sizes, strict=True)):
            where[:, j, :size], weights[j, :size], is_empty[j, :size] = s.positions[:count], 1 / size, False
        padding = is_empty.view(-1, 1) if bool(is_empty.any()) else None
        history: list[torch.Tensor] = []
        for step in range(count):
            batch = self._pool.batch(where[step].view(-1))
            values, passed = None, sizes
            if self._is_plain:
                self._sync()
                history.append(self._descend(batch, padding, weights))
            else:
                parts = [batch.part(j * rows, j * rows + size) for j, size in enumerate(sizes)]
                values = self._descend_one_by_one(parts)
                passed = [len(b) for b in parts]  # hooks may have added some
            self._move(values, [s.own for s in steps], passed)
            if any(m.result is not None for m in members):
                break
        if history:
            self._count(torch.stack(history).view(len(history), len(members), rows), sizes, [s.own for s in steps])
            return len(history)
        return step + 1

    def _sync(self) -> None:
        """Let the models of those whom somebody looks at have their weights."""
        for member, row in zip(self._members, self._kernel.parameters, strict=True):
            if member.is_looked_at:
                member.job.model.parameters.copy_(row[: self._num])

    def _descend(self, batch: Batch, padding: torch.Tensor | None, weights: torch.Tensor) -> torch.Tensor:
        """Work out all gradients; return the losses of all rows."""
        x = batch.x.flatten(1)
        if padding is not None:
            x.masked_fill_(padding, 0.0)
        outputs = self._kernel.forward(x.view(*weights.shape, -1))
        known = self._members[0].job.objective.slopes(outputs.flatten(0, 1), batch, weights.view(-1))
        assert known is not None
        losses, slopes = known
        self._kernel.backward(slopes.view(outputs.shape))
        return losses

    def _descend_one_by_one(self, batches: list[Batch]) -> list[torch.Tensor]:
        """Work out all gradients, the losses of one model after the other, and return these.

        Batches are replaced by what hooks make of them.
        """
        self._sync()
        members = self._members
        for j, member in enumerate(members):
            with self._alone(member):
                for add in member.extend:
                    batches[j] = add(batches[j], member.number)
                member.rows = max(member.rows, padded(len(batches[j])))
        if any(m.rows != members[0].rows for m in members):  # hooks have added more to some than to others
            return [self._descend_alone(j, b) for j, b in enumerate(batches)]
        outputs = self._kernel.forward(torch.cat([to_rows(b.x.flatten(1), members[0].rows) for b in batches]))
        each = [self._slopes(m, b, o) for m, b, o in zip(members, batches, outputs, strict=True)]
        self._kernel.backward(torch.cat([to_rows(slopes, members[0].rows) for _, slopes, _ in each]))
        for gradient, (_, _, others) in zip(self._kernel.gradient, each, strict=True):
            if others is not None:
                gradient[: self._num].add_(others)
        return [loss for loss, _, _ in each]

    def _descend_alone(self, j: int, batch: Batch) -> torch.Tensor:
        kernel = Perceptrons(self._layers, self._kernel.parameters[j : j + 1], self._kernel.gradient[j : j + 1])
        (outputs,) = kernel.forward(to_rows(batch.x.flatten(1), self._members[j].rows))
        loss, slopes, others = self._slopes(self._members[j], batch, outputs)
        kernel.backward(to_rows(slopes, self._members[j].rows))
        if others is not None:
            self._kernel.gradient[j, : self._num].add_(others)
        return loss

    def _slopes(
        self, member: _Member, batch: Batch, outputs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return the loss, its gradient by the outputs, and by the weights what does not come through these."""
        own = outputs[: len(batch)]
        with self._alone(member):
            loss, slopes, others = through_outputs(member.job.model, member.criterion, batch, lambda _: own)
            return loss, torch.zeros_like(own) if slopes is None else slopes, others
        return torch.zeros(()), torch.zeros_like(own), None

    @contextlib.contextmanager
    def _alone(self, member: _Member) -> Iterator[None]:
        """Let what goes wrong with a model end that one alone."""
        try:
            with torch.enable_grad():
                yield
        except Exception as error:  # handed to who asked for the training
            member.result = error

    def _move(self, values: list[torch.Tensor] | None, own: list[int], passed: list[int]) -> None:
        """Take the step along the gradients, but for those that stop."""
        members, kernel = self._members, self._kernel
        stops = []
        for j, member in enumerate(members):
            member.passed(passed[j])
            if member.is_looked_at:
                with self._alone(member):
                    member.altered(kernel.gradient[j, : self._num])
                    if values is not None and not all(go_on(values[j]) for go_on in member.proceed):
                        stops.append(j)
        clip = self._training.clip_norm
        if clip is not None:
            norms = torch.stack([g[: self._num].norm() for g in kernel.gradient])
            kernel.gradient.mul_((clip / (norms + 1e-6)).clamp(max=1.0).unsqueeze(1))
        before = {j: kernel.parameters[j].clone() for j, m in enumerate(members) if m.stepped or j in stops}
        self._optimizer.step(kernel.parameters, kernel.gradient)
        for j, member in enumerate(members):
            if j in stops:
                kernel.parameters[j] = before[j]
                if member.result is None:
                    member.end(kernel.parameters[j, : self._num])
                continue
            if member.stepped or not member.job.model.is_free:
                with self._alone(member):
                    member.moved(before[j][: self._num] if j in before else None, kernel.parameters[j, : self._num])
            if values is not None:
                member.done(values[j], own[j])

    def _count(self, losses: torch.Tensor, sizes: list[int], own: list[int]) -> None:
        """Count steps whose losses ``[steps, S, rows]`` are known."""
        for size in sorted(set(sizes)):
            same = [j for j, s in enumerate(sizes) if s == size]
            means = losses[:, same, :size].reshape(-1, size).mean(1).view(len(losses), -1)
            for j, of_member in zip(same, means.unbind(1), strict=True):
                for loss in of_member:
                    self._members[j].done(loss, own[j])
