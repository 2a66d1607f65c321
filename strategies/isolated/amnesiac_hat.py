"""AmnesiacHAT: a mask of units per task, and every task's change of the weights, which a request takes back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, final

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.func import functional_call
from typing_extensions import override

from strategies.base import Access, Door, Outcome, Setting, State, Strategy
from strategies.isolated._hard_attention import MaskedChain, annealed, compensation
from strategies.isolated._whole_tasks import Finer, named_tasks
from strategies.objectives._base import ClassObjective
from strategies.parts.memory.buffers import draw_positions, keep_uniform, shares
from strategies.parts.memory.draws import Draws
from strategies.parts.memory.exemplars import Remember
from strategies.parts.passes import Passes, passes
from strategies.parts.sharding.ensembles import pool
from strategies.parts.training.optimizers import Optimizer, make_optimizer
from strategies.ranges import linear, log
from streams.config import Config as BaseConfig
from streams.data import Batch
from streams.errors import ConfigError
from streams.events import DeletionRequest, Experience
from streams.positions import positions_in
from streams.randomness import Key

_NOTHING = np.array([], dtype=np.int64)


class Config(BaseConfig):
    """Options of `amnesiac-hat` (CLArena's repository; HAT of Serra et al. 2018, AdaHAT of Wang et al. 2024)."""

    architecture: Literal["adahat", "hat"] = "adahat"
    """What happens to gradients of weights that earlier tasks use. hat: they are zero; adahat: they are scaled down to
    r / (n + r) for n tasks, r = intensity / (epsilon + share of free units that the task opens)."""
    intensity: float = Field(1e-6, gt=0)
    """alpha of AdaHAT."""
    epsilon: float = Field(0.1, gt=0)
    """Of AdaHAT."""
    s_max: float = Field(400.0, gt=1)
    """Steepest slope of the gates; in each epoch it grows from 1 / s_max."""
    clamp: float = Field(50.0, gt=0)
    """Where the hyperbolic cosine of the gradient's compensation is cut off."""
    sparsity: float = Field(0.75, ge=0)
    """c: weight of the share of free units that the task opens."""
    memory: int = Field(200, ge=1)
    """Samples kept of every task, with their outputs. Each task has its own, or one task would shape another's."""
    alpha: float = Field(0.5, ge=0)
    """Weight of the squared difference to stored outputs, while learning and repairing."""
    beta: float = Field(1.0, ge=0)
    """Weight of the loss on stored samples."""
    window: int | None = Field(None, ge=0)
    """How many of the last tasks have a backup trained beside each new one; null: all. Storage grows with it."""
    start: Literal["before", "delete"] = "before"
    """Where the backup for a task begins. before: at the weights that task began from; delete: at the present ones
    without its change."""
    compensate: Literal["forward", "reverse", "none"] = "forward"
    """In which order later tasks get the weights they share with the forgotten one from their backups."""
    repair: Literal["none", "joint", "sequential", "sequential-adahat"] = "none"
    """Train shared weights of later tasks on their memories afterwards: on all together, or one task after the other,
    optionally under AdaHAT's rule."""
    steps: int = Field(50, ge=1)
    """Steps of a repair (for each task, if sequential)."""
    finer: Finer = "refuse"
    """What becomes of requests for a part of a task: refuse them, or give the whole task up with it."""


@dataclass(slots=True, eq=False)
class _Task:
    """A task that is held.

    Attributes:
        experience, incarnation, units, ids: which.
        mask: ``[U]``, 1 for the units it uses.
        update: ``[P]``, its change of the body's weights.
        head: its own head, all of its parameters.
        buffers: of the network as the task left them; every task starts from the initial ones.
        memory: samples kept, ascending, with `outputs` ``[len(memory), C]`` of a training step.
        backups: by earlier task, the weights that both use as they are without that one.
    """

    experience: str
    incarnation: int
    units: tuple[int, ...]
    ids: np.ndarray
    mask: torch.Tensor
    update: torch.Tensor
    head: torch.Tensor
    buffers: dict[str, torch.Tensor]
    memory: np.ndarray
    outputs: torch.Tensor
    backups: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """A name that no other task has."""
        return f"{self.experience}.{self.incarnation}"


@final
class AmnesiacHAT(Strategy):
    """The body's weights are a start plus one change per task; a request leaves the task's change out.

    Later tasks were trained on top of it. Beside each of them a backup was trained in which the units of one earlier
    task compute with weights that never had its change; on request, weights that both tasks use are taken from there,
    and may be repaired on memories. Each task has a head of its own. Without task labels, each speaks for the
    classes of its units; classes that no task holds are answered by all units.

    A request is exact, to the bit, only if no task was learned after the one that goes (and no earlier request drew on
    it): gates are soft while they are trained, so that every later task has passed through all units. `holds` says so.
    """

    supports = frozenset({"classes"})
    unheeded = {**Strategy.unheeded, "bn_mode": "it takes no model with batch norms"}
    exact = "sometimes"
    state_grows = True
    within_units = True
    test_options = {"memory": 8, "finer": "coarsen", "window": 2, "repair": "joint", "steps": 2}
    ranges = {
        "intensity": log(1e-8, 1e-2),
        "s_max": log(50.0, 1000.0),
        "sparsity": linear(0.1, 2.0),
        "alpha": log(0.05, 5.0),
        "beta": log(0.1, 10.0),
    }

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with nothing learned.

        Raises:
            ConfigError: the head is not linear, the body is no chain of layers, or
                the optimizer undoes what protects earlier tasks.
        """
        scaled = "architecture" if config.architecture == "adahat" else "repair"
        if "adahat" in getattr(config, scaled) and setting.training.optimizer == "adam":
            raise ConfigError(
                f"isolated.{scaled}: {getattr(config, scaled)} protects weights by smaller gradients, which adam "
                f"scales up again. Set training.optimizer: sgd, or choose another {scaled}."
            )
        self._config, self._setting = config, setting
        self._objective = ClassObjective.of(setting.objective)
        self._names = setting.key / "amnesiac-hat"
        self._model = setting.make_model()
        head = self._model.network.head
        if not isinstance(head, nn.Linear):
            raise ConfigError(f"isolated: amnesiac-hat needs a linear head; the model has a {type(head).__name__}.")
        self._chain = MaskedChain(self._model, "isolated: amnesiac-hat")
        size = self._chain.size  # the body's parameters come before the head's
        self._initial = self._model.parameters[:size].clone()
        self._first_head = self._model.parameters[size:].clone()
        self._buffers = {name: b.clone() for name, b in self._model.network.named_buffers()}
        self._base = self._initial.clone()
        self._base_ids = _NOTHING
        self._tasks: list[_Task] = []
        self._shadows: dict[str, np.ndarray] = {}
        self._given_up = _NOTHING
        self._learning = False

    @property
    @override
    def access(self) -> Access:
        """The memories of as many tasks as there are units; where tasks are more, a part of each, or of some."""
        return Access(retained=self._config.memory * max(1, len(self._setting.units)))

    @override
    def learn(self, experience: Experience, door: Door) -> Outcome:
        """Train gates, weights and a head, with a backup for each of the last tasks; note the change of the weights."""
        lesson = _Lesson(self, experience, door)
        self._learning = True
        outcome = lesson.train()
        self._learning = False
        self._tasks.append(lesson.finished())
        return self._with_stranded(outcome)

    @override
    def forget(self, request: DeletionRequest, door: Door) -> Outcome:
        """Leave the changes of the tasks that are named out; give later ones their backups, and repair them.

        Raises:
            RequestError: only a part of a task is named, and `finer` is refuse.
        """
        forgotten_ids = request.sample_ids
        named, unasked = named_tasks(request, self._tasks, self._config.finer, "amnesiac-hat")
        self._given_up = np.union1d(self._given_up, unasked)
        affected, outcome = self._drop(named), Outcome()
        if affected:
            outcome = self._mend(named, affected, self._names / request.name, door)
        for task in self._tasks:
            for forgotten in named:
                task.backups.pop(forgotten.name, None)
        if not self._tasks:
            self._base, self._base_ids = self._initial.clone(), _NOTHING
        self._given_up = self._given_up[~np.isin(self._given_up, forgotten_ids)]
        shaping_ids = [self._base_ids, *self._shadows.values()]
        exact = not any(np.isin(ids, forgotten_ids).any() for ids in shaping_ids)
        return self._with_stranded(outcome).graded("bits" if exact else "none")

    @torch.no_grad()
    @override
    def predict(self, batch: Batch) -> torch.Tensor:
        """Return pooled log probabilities ``[B, C]``: of each task for its classes, of all units for the others."""
        self._model.train(False)
        with self._answering():
            everything = torch.ones(self._chain.num_units, device=batch.x.device)
            features, _ = self._chain.run(batch.x, everything)
            dense = self._objective.mask(self._model.network.head(features), batch)
            if not self._tasks:
                return dense
            spoken_for = {c for t in self._tasks for c in self.classes(t.units)}
            parts = [(dense.log_softmax(1), tuple(c for c in range(dense.shape[1]) if c not in spoken_for))]
            for task in self._tasks:
                self._set_buffers(task.buffers)
                outputs = self._objective.mask(self.answer(task, batch.x), batch)
                parts.append((outputs.log_softmax(1), self.classes(task.units)))
        return pool(parts)

    @override
    def features(self, batch: Batch) -> None:
        """Return None: each task has features of its own."""
        return

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return what tasks were learned from, and the forgotten ones that later tasks were trained on top of."""
        seen = np.concatenate([self._base_ids, *(t.ids for t in self._tasks), *self._shadows.values()])
        held = ids[np.isin(ids, seen)]
        return {"weights": held} if len(held) else {}

    @override
    def stored_ids(self) -> np.ndarray:
        return np.unique(np.concatenate([_NOTHING, *(t.memory for t in self._tasks)]))

    @override
    def state_dict(self) -> State:
        return {
            "base": self._base.clone(),
            "base_ids": {"derived": torch.from_numpy(self._base_ids.copy())},
            "shadows": {name: {"derived": torch.from_numpy(ids.copy())} for name, ids in self._shadows.items()},
            "given_up": {"derived": torch.from_numpy(self._given_up.copy())},
            "tasks": [
                {
                    "experience": t.experience,
                    "incarnation": t.incarnation,
                    "units": list(t.units),
                    "derived": torch.from_numpy(t.ids.copy()),
                    "mask": torch.from_numpy(np.packbits(t.mask.cpu().numpy().astype(bool))),
                    "update": t.update.clone(),
                    "head": t.head.clone(),
                    "buffers": {n: b.clone() for n, b in t.buffers.items()},
                    "memory": torch.from_numpy(t.memory.copy()),
                    "outputs": t.outputs.clone(),
                    "backups": {n: b.clone() for n, b in t.backups.items()},
                }
                for t in self._tasks
            ],
        }

    @override
    def load_state_dict(self, state: State) -> None:
        self._base = state["base"].clone()
        self._base_ids = state["base_ids"]["derived"].numpy().copy()
        self._shadows = {name: entry["derived"].numpy().copy() for name, entry in state["shadows"].items()}
        self._given_up = state["given_up"]["derived"].numpy().copy()
        self._tasks = [self._loaded(t) for t in state["tasks"]]

    def answer(self, task: _Task, x: torch.Tensor) -> torch.Tensor:
        """Return what a task's units and head make of inputs at the model's present weights, ``[B, C]``."""
        features, _ = self._chain.run(x, task.mask)
        head, size = self._model.network.head, self._chain.size
        head_parameters = {}
        for name, parameter in head.named_parameters():
            where = self._model.slices[f"head.{name}"]
            head_parameters[name] = task.head[where.start - size : where.stop - size].view_as(parameter)
        return functional_call(head, head_parameters, (features,))

    def only(self, outputs: torch.Tensor, units: tuple[int, ...]) -> torch.Tensor:
        """Set the outputs of all classes but those of some units to minus infinity."""
        excluded = torch.ones(outputs.shape[1], dtype=torch.bool, device=outputs.device)
        excluded[list(self.classes(units))] = False
        return outputs.masked_fill(excluded, float("-inf"))

    def classes(self, units: tuple[int, ...]) -> tuple[int, ...]:
        """Return the classes of some units."""
        return tuple(sorted({c for u in units for c in self._setting.units[u].classes}))

    def dark(self, batch: Batch, owners: list[_Task]) -> torch.Tensor:
        """Return alpha MSE to stored outputs + beta loss of stored samples, each through the task that keeps it."""
        ids, terms = batch.ids.cpu().numpy(), []
        owner = np.full(len(ids), -1)
        for number, task in enumerate(owners):
            owner[np.isin(ids, task.memory)] = number
        for number in np.unique(owner):
            task, rows = owners[number], torch.from_numpy(np.flatnonzero(owner == number)).to(batch.x.device)
            part = batch.rows(rows)
            outputs, classes = self.answer(task, part.x), list(self.classes(task.units))
            stored = task.outputs[torch.from_numpy(positions_in(task.memory, ids[owner == number]))]
            squared = (outputs[:, classes] - stored[:, classes]).square().mean(1)
            cross = self._objective.losses(self.only(outputs, task.units), part)
            terms.append(self._config.alpha * squared + self._config.beta * cross)
        return torch.cat(terms).mean()

    def shares(self, key: Key) -> dict[str, int]:
        """Return of how many samples of each task's memory one event may read, by the task's name."""
        sizes = shares(len(self._tasks), int(self.access.retained), key / "tasks")
        return {task.name: size for task, size in zip(self._tasks, sizes, strict=True)}

    def draws(self, tasks: list[_Task], sizes: dict[str, int], steps: int, key: Key, door: Door) -> Draws:
        """Return what to take at each of `steps` steps from what may be read of the memories of some tasks."""
        ids = np.unique(np.concatenate([keep_uniform(t.memory, sizes[t.name], key / t.name / "share") for t in tasks]))
        size = min(self._setting.training.batch_size, len(ids))
        positions = torch.from_numpy(draw_positions(ids, size * steps, key)).view(steps, size)
        return Draws(door.fetch(ids), positions.to(self._model.parameters.device))

    def weights(self, tasks: list[_Task]) -> torch.Tensor:
        """Return the body's weights with the changes of some tasks, added in the order in which they were learned."""
        weights = self._base.clone()
        for task in tasks:
            weights += task.update
        return weights

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        """Mount the present weights; in the middle of a lesson they are there, and its buffers come back."""
        if not self._learning:
            self._mount()
            yield
            return
        buffers = {name: b.clone() for name, b in self._model.network.named_buffers()}
        self._set_buffers(self._buffers)
        try:
            yield
        finally:
            self._set_buffers(buffers)

    def _mount(self) -> None:
        """Put the present weights, the first head and the initial buffers into the model."""
        size = self._chain.size
        self._model.parameters[:size] = self.weights(self._tasks)
        self._model.parameters[size:] = self._first_head
        self._set_buffers(self._buffers)

    def _set_buffers(self, buffers: dict[str, torch.Tensor]) -> None:
        for name, buffer in self._model.network.named_buffers():
            buffer.copy_(buffers[name])

    def _drop(self, named: list[_Task]) -> list[_Task]:
        """Take tasks out; return those that were learned after one of them, in order."""
        affected = []
        for task in named:
            later = [t for t in self._tasks[self._tasks.index(task) + 1 :] if t not in named]
            affected += [t for t in later if t not in affected]
            for t in later:
                self._shadows[t.name] = np.union1d(self._shadows.get(t.name, _NOTHING), task.ids)
        self._tasks = [t for t in self._tasks if t not in named]
        self._shadows = {t.name: self._shadows[t.name] for t in self._tasks if t.name in self._shadows}
        return [t for t in self._tasks if t in affected]

    @torch.no_grad()
    def _mend(self, named: list[_Task], affected: list[_Task], key: Key, door: Door) -> Outcome:
        """Copy from backups and repair; what that changes goes into the base and stays, whatever is forgotten later."""
        before = self.weights(self._tasks)
        self._mount()
        weights = self._model.parameters[: self._chain.size]
        if self._config.compensate != "none":
            for task in affected if self._config.compensate == "forward" else affected[::-1]:
                for each in named:
                    if each.name in task.backups:
                        weights[self._shared(task, each)] = task.backups[each.name]
        outcome = Outcome() if self._config.repair == "none" else self._repair(named, affected, key, door)
        change = weights - before
        if bool(change.any()):
            self._base = self._base + change
            ids = [t.ids for t in self._tasks + named]
            self._base_ids = np.unique(np.concatenate([self._base_ids, *ids, *self._shadows.values()]))
        return outcome

    def _repair(self, named: list[_Task], affected: list[_Task], key: Key, door: Door) -> Outcome:
        """Train the weights that forgotten tasks share with later ones on the memories of those."""
        config, training = self._config, self._setting.training
        forgotten_units = torch.stack([t.mask for t in named]).amax(0)
        rounds = [affected] if config.repair == "joint" else [[t] for t in affected]
        done = torch.zeros_like(forgotten_units)  # how many tasks use each unit, of those that are repaired already
        rate = config.intensity / config.epsilon
        outcome, sizes = Outcome(), self.shares(key)
        for number, of_round in enumerate(rounds):
            tasks = [t for t in of_round if sizes[t.name]]
            if not tasks:  # nothing of their memories may be read this time
                continue
            # Moments of a round would go on moving weights that the next one leaves alone.
            optimizer = make_optimizer(training.model_copy(update={"weight_decay": 0.0}), self._model.parameters)
            draws = self.draws(tasks, sizes, config.steps, key / "repair" / number, door)
            movable = self._chain.on_weights(
                torch.minimum(forgotten_units, torch.stack([t.mask for t in tasks]).amax(0))
            )
            if config.repair == "sequential-adahat":
                movable = movable * rate / (self._chain.on_weights(done) + rate)
            outcome += self._rehearse(tasks, draws, movable, optimizer, key / "noise" / number)
            done = done + torch.stack([t.mask for t in tasks]).amax(0)
        return outcome

    def _rehearse(
        self, tasks: list[_Task], draws: Draws, movable: torch.Tensor, optimizer: Optimizer, noise: Key
    ) -> Outcome:
        """Take the steps of one repair; the body's weights move by their share in `movable` ``[P]``, heads stay."""

        def loss_of(size: int) -> torch.Tensor:
            return self.dark(draws[0].part(0, size), tasks)

        model, size = self._model, self._chain.size
        self._learning = True
        with torch.enable_grad(), passes(model, self._setting.training, noise, loss_of, [optimizer]) as steps:
            for step in steps.up_to(self._config.steps):
                batch = draws[step]
                loss = self.dark(batch, tasks)
                model.gradient.zero_()
                loss.backward()
                model.gradient[:size] *= movable
                model.gradient[size:] = 0
                optimizer.step(model.parameters, steps.clip(model.gradient))
                steps.samples += len(batch)
                steps.done(loss)
        self._learning = False
        return steps.outcome(model.parameters, losses={"repair": float(steps.loss)})

    def _shared(self, task: _Task, other: _Task) -> torch.Tensor:
        """Return bool ``[P]``: weights both of whose ends both tasks use."""
        return self._chain.on_weights(torch.minimum(task.mask, other.mask)) > 0

    def _loaded(self, saved: dict[str, Any]) -> _Task:
        bits = np.unpackbits(saved["mask"].numpy(), count=self._chain.num_units)
        return _Task(
            saved["experience"],
            saved["incarnation"],
            tuple(saved["units"]),
            saved["derived"].numpy().copy(),
            torch.from_numpy(bits).to(self._base),
            saved["update"].clone(),
            saved["head"].clone(),
            {n: b.clone() for n, b in saved["buffers"].items()},
            saved["memory"].numpy().copy(),
            saved["outputs"].clone(),
            {n: b.clone() for n, b in saved["backups"].items()},
        )

    def _with_stranded(self, outcome: Outcome) -> Outcome:
        return outcome.noted(stranded_samples=float(len(self._given_up)))


@final
class _Lesson:
    """The training of one task."""

    def __init__(self, strategy: AmnesiacHAT, experience: Experience, door: Door) -> None:
        """Mount the present weights with a fresh head, and start gates and backups."""
        self._s, self._experience = strategy, experience
        s, training = strategy, strategy._setting.training
        self._key = s._names / experience.name / experience.incarnation
        self._data = door.fetch(experience.sample_ids)
        s._mount()
        self._start = s._model.parameters[: s._chain.size].clone()
        drawn = torch.randn(s._chain.num_units, generator=(self._key / "embedding").torch())
        self._embedding = drawn.to(self._start).requires_grad_(True)
        masks = [t.mask for t in s._tasks] or [torch.zeros_like(drawn).to(self._start)]
        self._taken, self._count = torch.stack(masks).amax(0), torch.stack(masks).sum(0)
        window = len(s._tasks) if s._config.window is None else s._config.window
        self._backed = s._tasks[max(0, len(s._tasks) - window) :]
        self._backups = [self._first(t).requires_grad_(True) for t in self._backed]
        plain = training.model_copy(update={"weight_decay": 0.0})
        own = [self._embedding.detach(), *(b.detach() for b in self._backups)]
        self._optimizers = [make_optimizer(plain, tensor) for tensor in (s._model.parameters, *own)]
        self._memory = keep_uniform(experience.sample_ids, s._config.memory, self._key / "memory")
        width = s._objective.num_outputs
        self._outputs = torch.zeros(len(self._memory), width, dtype=drawn.dtype, device=self._start.device)
        self._steps = training.num_steps(len(self._data))
        replays = bool(s._tasks) and (s._config.alpha > 0 or s._config.beta > 0)
        key = self._key / "replay"
        self._draws = s.draws(s._tasks, s.shares(key), self._steps, key, door) if replays else None
        self._free = torch.zeros_like(s._model.parameters)
        for name, where in s._model.slices.items():
            if name.startswith("head."):
                self._free[where].view(width, -1)[list(s.classes(experience.units))] = 1.0

    def train(self) -> Outcome:
        """Minimise loss + c sparsity + replay + mean loss of the backups."""
        s, training, data = self._s, self._s._setting.training, self._data
        per_epoch = self._steps // training.epochs
        remember = Remember(self._memory, self._outputs, per_epoch, training.epochs, self._key)

        def loss_of(size: int) -> torch.Tensor:
            return self._loss_on(data.batch(data.positions()[:size]), 1 / s._config.s_max)[0]

        moved = (s._model.parameters, self._embedding, *self._backups)
        moving = (*moved[1:], *self._optimizers, remember)
        with passes(s._model, training, self._key / "noise", loss_of, moving) as steps:
            for batch in steps.over(data, self._key):
                slope = annealed(steps.number % per_epoch, per_epoch, s._config.s_max)
                loss, losses, outputs, shares = self._loss_on(batch, slope)
                remember.losses(losses, outputs, batch)
                steps.samples += len(batch) * (1 + len(self._backed))
                if self._draws is not None:
                    replayed = self._draws[steps.number]
                    loss = loss + s.dark(replayed, s._tasks)
                    steps.samples += len(replayed)
                s._model.gradient.zero_()
                for tensor in (self._embedding, *self._backups):
                    tensor.grad = None
                loss.backward()
                self._move(steps, slope, shares)
                steps.done(loss)
        return steps.outcome(*moved, losses={"loss": float(steps.loss)})

    def _loss_on(
        self, batch: Batch, slope: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Return all that is minimised but replay; the samples' losses ``[B]`` and outputs; what the gates open."""
        s = self._s
        gates = torch.sigmoid(slope * self._embedding)
        routes = [(w, t.mask) for w, t in zip(self._backups, self._backed, strict=True)]
        features, route_features = s._chain.run(batch.x, gates, routes)
        outputs, losses = self._losses(features, batch)
        share, by_layer = s._chain.occupied(gates, self._taken)
        loss = losses.mean() + s._config.sparsity * share
        if route_features:
            loss = loss + torch.stack([self._losses(f, batch)[1].mean() for f in route_features]).mean()
        return loss, losses, outputs, [x.detach() for x in by_layer]

    @torch.no_grad()
    def finished(self) -> _Task:
        """Return the task with its hard mask and its change of the weights."""
        s, e = self._s, self._experience
        size = s._chain.size
        task = _Task(
            e.name,
            e.incarnation,
            e.units,
            e.sample_ids,
            (self._embedding > 0).to(self._start),
            s._model.parameters[:size] - self._start,
            s._model.parameters[size:].clone(),
            {name: b.clone() for name, b in s._model.network.named_buffers()},
            self._memory,
            self._outputs,
        )
        for other, weights in zip(self._backed, self._backups, strict=True):
            task.backups[other.name] = weights.detach()[s._shared(task, other)].clone()
        return task

    def _first(self, task: _Task) -> torch.Tensor:
        """Return the weights at which the backup for a task begins."""
        place = self._s._tasks.index(task)
        if self._s._config.start == "before":
            return self._s.weights(self._s._tasks[:place])
        return self._s.weights([t for t in self._s._tasks if t is not task])

    def _losses(self, features: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = self._s.only(self._s._model.network.head(features), self._experience.units)
        return outputs, self._s._objective.losses(outputs, batch)

    @torch.no_grad()
    def _move(self, steps: Passes, slope: float, shares: list[torch.Tensor]) -> None:
        """Take a step with weights, gates and backups; weights that tasks use move as the architecture says."""
        s, config, training = self._s, self._s._config, self._s._setting.training
        size = s._chain.size
        if config.architecture == "hat":
            self._free[:size] = 1 - s._chain.on_weights(self._taken)
        else:
            rate = s._chain.by_layer([config.intensity / (config.epsilon + share) for share in shares])
            self._free[:size] = rate / (s._chain.on_weights(self._count) + rate)
        slopes = s._model.gradient.add_(s._model.parameters, alpha=training.weight_decay).mul_(self._free)
        moves = [(s._model.parameters, slopes)]
        assert self._embedding.grad is not None
        steep = compensation(self._embedding.detach(), slope, config.s_max, config.clamp)
        moves.append((self._embedding.detach(), self._embedding.grad * steep))
        for backup in self._backups:
            assert backup.grad is not None
            moves.append((backup.detach(), backup.grad.add(backup.detach(), alpha=training.weight_decay)))
        for optimizer, (tensor, gradient) in zip(self._optimizers, moves, strict=True):
            optimizer.step(tensor, steps.clip(gradient))
