"""Several perceptrons trained at once: every step is taken by all of them, as one batched operation.

Each ends with the bits that it has when `fit` trains it by itself, whoever it is trained with; see
`strategies.parts.perceptron` for why. What the models share is the arithmetic of the networks and of the optimizer.
Where nobody changes the losses these are worked out for all at once, too; hooks see one model after the other, as
they would alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch

from strategies.objectives._base import RowLosses
from strategies.outcome import Outcome
from strategies.parts.by_hand import through_outputs
from strategies.parts.fit import Criterion, Job, drawn_before, overridden, rows_of
from strategies.parts.model import is_finite
from strategies.parts.passes import diverged
from strategies.parts.perceptron import Perceptrons, layers_of, padded, to_rows
from strategies.parts.training.optimizers import make_optimizer
from streams.data import Batch, Data, Pool

MOST_WEIGHTS = 350_000
"""Weights of all models of a stack; with more of them they do not fit into the cache, and less is gained."""
_BYTES_OF_INPUTS = 2**26
_ALIGNED = 16
_STEPS, _NUMBERS = 256, 2**21
"""How many steps are laid out at once, and how many numbers that may take."""


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
    with torch.enable_grad():  # for hooks; what the models share requires none
        return _Stack(jobs).train()


def _unknown(job: Job) -> list[Any]:
    """Return the `extend` hooks, if one of them does not say beforehand what it adds."""
    return [] if drawn_before(job.hooks) is not None else overridden(job.hooks, "extend")


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
        self.draws = drawn_before(job.hooks) or []
        self.first_view = first_view
        self.criterion = Criterion(job.model, job.objective, job.hooks)
        self.extend = _unknown(job)
        self.gradient, self.proceed = overridden(job.hooks, "gradient"), overridden(job.hooks, "proceed")
        self.stepped = overridden(job.hooks, "stepped")
        self.is_looked_at = bool(job.hooks) or not job.model.is_free
        self.rows = padded(rows_of(job.data, job.training, job.hooks))
        self.number = 0  # of the step that is taken
        self.result: Outcome | Exception | None = None
        self.total = torch.zeros(())
        """Of the losses of an epoch, weighed by how many samples of it are the experience's."""
        self._seen = self._samples = self._epochs = 0
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
        self.total, self._seen = torch.zeros(()), 0
        self._epochs += 1

    @property
    def is_in_last_epoch(self) -> bool:
        """Whether its losses are asked for: those of the last epoch are."""
        return self._epochs == self.job.training.epochs

    def passed(self, samples: int) -> None:
        """Count samples that were passed forward and backward."""
        self._samples += samples

    def done(self, own: int, steps: int = 1) -> None:
        """Count steps that were taken, of `own` samples each; the caller adds to `total`."""
        self._seen += own * steps
        self.number += steps

    def altered(self, gradient: torch.Tensor) -> None:
        """Let hooks change the gradient ``[P]`` in place."""
        self._kept = gradient.clone() if self.stepped else None
        changed = gradient
        for alter in self.gradient:
            changed = alter(changed, self.job.model.parameters)
        if changed is not gradient:
            gradient.copy_(changed)

    def moved(self, before: torch.Tensor, parameters: torch.Tensor) -> None:
        """Put weights back that must not move, and tell hooks of the step; `parameters` ``[P]`` may be changed."""
        model = self.job.model
        model.parameters.copy_(parameters)
        if not model.is_free:
            model.hold()
            parameters.copy_(model.parameters)
        change = torch.sub(parameters, before, out=before)
        for note in self.stepped:
            note(self._kept, change)

    def end(self, parameters: torch.Tensor) -> None:
        """Put the weights back into the model, and say what `fit` would."""
        job = self.job
        job.model.parameters.copy_(parameters)
        job.model.drop_gradient()
        mean = float(self.total) / self._seen if self._seen else 0.0
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
        self._optimizer = make_optimizer(self._training, rows)
        rows_alone = all(j.objective.row_losses is not None for j in jobs)
        plain = rows_alone and all(m.criterion.is_plain and not m.extend and not m.proceed for m in self._all)
        self._row_losses = jobs[0].objective.row_losses if plain else None
        self._place(rows)

    def train(self) -> list[Outcome | Exception]:
        """Take all steps."""
        for member in self._all:
            member.job.model.train(bn_mode=self._training.bn_mode)
        plans = [m.plan(self._pool.starts) for m in self._all]
        ahead: dict[_Member, _Steps] = {}
        while True:
            for member, plan in zip(self._all, plans, strict=True):
                if member.result is None and member not in ahead:
                    for following in plan:
                        if following is not None:
                            ahead[member] = following
                            break
                        member.begin_epoch()
                    else:
                        member.end(self._weights[self._members.index(member)])
            self._drop_ended()
            if not self._members:
                return [m.result for m in self._all if m.result is not None]
            steps = [ahead.pop(m) for m in self._members]
            width = self._members[0].rows * self._members[0].job.objective.num_outputs
            most = min(_STEPS, max(1, _NUMBERS // (width * len(steps))))
            done = self._take(steps, min(most, *(len(s.positions) for s in steps)))
            for member, s in zip(self._members, steps, strict=True):
                if done < len(s.positions) and member.result is None:
                    ahead[member] = _Steps(s.positions[done:], s.own)

    def _place(self, parameters: torch.Tensor) -> None:
        """Take the weights of the members, and note the places of those whom somebody looks at."""
        self._kernel = Perceptrons(self._layers, parameters)
        self._weights = [row[: self._num] for row in self._kernel.parameters]
        self._slopes_of = [row[: self._num] for row in self._kernel.gradient]
        self._looked_at = [(j, m) for j, m in enumerate(self._members) if m.is_looked_at]
        self._watched = [(j, m) for j, m in self._looked_at if m.stepped or not m.job.model.is_free]

    def _drop_ended(self) -> None:
        """Go on with those that have not ended."""
        kept = [i for i, m in enumerate(self._members) if m.result is None]
        if len(kept) == len(self._members):
            return
        self._members = [self._members[i] for i in kept]
        state, parameters = self._optimizer.state_dict(), self._kernel.parameters[kept]
        self._place(parameters)
        self._optimizer = make_optimizer(self._training, parameters)
        self._optimizer.load_state_dict({k: v[kept] if isinstance(v, torch.Tensor) else v for k, v in state.items()})

    def _take(self, steps: list[_Steps], count: int) -> int:
        """Take steps of one batch size each until `count` are done or somebody has ended; return how many."""
        members, rows = self._members, self._members[0].rows
        sizes = [s.positions.shape[1] for s in steps]
        where = torch.zeros(count, len(members), rows, dtype=torch.int64)
        weights, is_empty = torch.zeros(len(members), rows), torch.ones(len(members), rows, dtype=torch.bool)
        for j, (s, size) in enumerate(zip(steps, sizes, strict=True)):
            where[:, j, :size], weights[j, :size], is_empty[j, :size] = s.positions[:count], 1 / size, False
        own = [s.own for s in steps]
        if self._row_losses is not None:
            return self._take_at_once(self._row_losses, where, weights, is_empty, sizes, own)
        done = 0
        for batch in self._pool.batches(where.flatten(1)):
            done += 1
            parts = [batch.part(j * rows, j * rows + size) for j, size in enumerate(sizes)]
            values = self._descend_one_by_one(parts)
            for member, part in zip(members, parts, strict=True):
                member.passed(len(part))  # hooks may have added some
            stopped = self._move(values)
            for j, member in enumerate(members):
                if j not in stopped:
                    member.total = member.total + values[j] * own[j]
                    member.done(own[j])
                elif member.result is None:
                    member.end(self._weights[j])
            if any(m.result is not None for m in members):
                break
        return done

    def _take_at_once(
        self,
        row_losses: RowLosses,
        where: torch.Tensor,
        weights: torch.Tensor,
        is_empty: torch.Tensor,
        sizes: list[int],
        own: list[int],
    ) -> int:
        """Take steps whose losses are all worked out at once; see `_take`."""
        members, kernel, shape = self._members, self._kernel, (*weights.shape, -1)
        targets = self._pool.targets(where.flatten(1))
        weighed = row_losses.weighed(targets, weights.view(-1).expand_as(targets))
        common = sizes[0] if len(set(sizes)) == 1 else None
        asked, noted, done = any(m.is_in_last_epoch for m in members), [], 0
        for batch in self._pool.batches(where.flatten(1)):
            self._sync()
            x = batch.x.flatten(1).view(shape)
            if common is None:
                x.masked_fill_(is_empty.unsqueeze(2), 0.0)
            elif common < shape[1]:
                x[:, common:].zero_()
            outputs = kernel.forward(x)
            note, slopes = row_losses.slopes(outputs.flatten(0, 1), weighed[done])
            kernel.backward(slopes.view(outputs.shape))
            self._move(None)
            done += 1
            if asked:
                noted.append(row_losses.losses(note, batch.y))
            if any(m.result is not None for _, m in self._looked_at):
                break
        totals = torch.stack([m.total for m in members])
        if noted:
            means = _means(torch.stack(noted).view(done, *weights.shape), sizes)
            for of_step in means.mul_(torch.tensor(own, dtype=torch.float32)):
                totals += of_step
        for member, total, count, size in zip(members, totals, own, sizes, strict=True):
            member.total = total
            member.passed(size * done)
            member.done(count, done)
        return done

    def _sync(self) -> None:
        """Let the models of those whom somebody looks at have their weights."""
        for j, member in self._looked_at:
            member.job.model.parameters.copy_(self._weights[j])

    def _descend_one_by_one(self, batches: list[Batch]) -> list[torch.Tensor]:
        """Work out all gradients, the losses of one model after the other, and return these.

        Batches are replaced by what hooks make of them.
        """
        self._sync()
        members = self._members
        for j, member in enumerate(members):
            try:
                for add in member.extend:
                    batches[j] = add(batches[j], member.number)
                member.rows = max(member.rows, padded(len(batches[j])))
            except Exception as error:
                member.result = error
        if any(m.rows != members[0].rows for m in members):  # hooks have added more to some than to others
            return [self._descend_alone(j, b) for j, b in enumerate(batches)]
        outputs = self._kernel.forward(torch.cat([to_rows(b.x.flatten(1), members[0].rows) for b in batches]))
        each = [self._slopes(m, b, o) for m, b, o in zip(members, batches, outputs, strict=True)]
        self._kernel.backward(torch.cat([to_rows(slopes, members[0].rows) for _, slopes, _ in each]))
        for gradient, (_, _, others) in zip(self._slopes_of, each, strict=True):
            if others is not None:
                gradient.add_(others)
        return [loss for loss, _, _ in each]

    def _descend_alone(self, j: int, batch: Batch) -> torch.Tensor:
        kernel = Perceptrons(self._layers, self._kernel.parameters[j : j + 1], self._kernel.gradient[j : j + 1])
        (outputs,) = kernel.forward(to_rows(batch.x.flatten(1), self._members[j].rows))
        loss, slopes, others = self._slopes(self._members[j], batch, outputs)
        kernel.backward(to_rows(slopes, self._members[j].rows))
        if others is not None:
            self._slopes_of[j].add_(others)
        return loss

    def _slopes(
        self, member: _Member, batch: Batch, outputs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return the loss, its gradient by the outputs, and by the weights what does not come through these."""
        own = outputs[: len(batch)]
        try:
            loss, slopes, others = through_outputs(member.job.model, member.criterion, batch, lambda _: own)
        except Exception as error:
            member.result = error
            return torch.zeros(()), torch.zeros_like(own), None
        return loss, torch.zeros_like(own) if slopes is None else slopes, others

    def _move(self, values: list[torch.Tensor] | None) -> set[int]:
        """Take the step along the gradients, but for those that stop; return their places."""
        kernel, stopped = self._kernel, set()
        for j, member in self._looked_at:
            try:
                member.altered(self._slopes_of[j])
                if values is not None and not all(go_on(values[j]) for go_on in member.proceed):
                    stopped.add(j)
            except Exception as error:  # what goes wrong with a model ends that one alone
                member.result = error
        clip = self._training.clip_norm
        if clip is not None:
            norms = torch.stack([slopes.norm() for slopes in self._slopes_of])
            kernel.gradient.mul_((clip / (norms + 1e-6)).clamp(max=1.0).unsqueeze(1))
        watched = [(j, m) for j, m in self._watched if j not in stopped]
        before = {j: self._weights[j].clone() for j in [*stopped, *(j for j, _ in watched)]}
        self._optimizer.step(kernel.parameters, kernel.gradient)
        for j in stopped:
            self._weights[j].copy_(before[j])
        for j, member in watched:
            try:
                member.moved(before[j], self._weights[j])
            except Exception as error:
                member.result = error
        return stopped


def _means(losses: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """Return each model's mean loss ``[steps, S]`` of every step, given the losses ``[steps, S, rows]``."""
    means = torch.zeros(losses.shape[:2])
    for size in set(sizes):
        same = [j for j, s in enumerate(sizes) if s == size]
        means[:, same] = losses[:, same, :size].reshape(-1, size).mean(1).view(len(losses), -1)
    return means
