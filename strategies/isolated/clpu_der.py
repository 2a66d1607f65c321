"""CLPU-DER++: a model for permanent tasks, and for every temporary task one of its own, dropped on request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Outcome, Setting, State, Strategy
from strategies.isolated._whole_tasks import Finer, named_tasks
from strategies.parts.fit import Hooks, fit
from strategies.parts.memory.buffers import draw_positions, keep_uniform, shares
from strategies.parts.memory.draws import Draws
from strategies.parts.memory.exemplars import Remember
from strategies.parts.model import FlatModel
from strategies.parts.passes import passes
from strategies.parts.sharding.ensembles import pool
from strategies.parts.training.optimizers import make_optimizer
from strategies.ranges import log
from streams.config import Config as BaseConfig
from streams.data import Batch
from streams.errors import RequestError
from streams.events import DeletionRequest, Experience
from streams.positions import positions_in
from streams.randomness import Key

_NOTHING = np.array([], dtype=np.int64)


class Config(BaseConfig):
    """Options of `clpu-der` (Liu et al. 2022, arXiv 2203.12817)."""

    memory: int = Field(200, ge=1)
    """Samples kept of every task, with their outputs. Each task has its own, or one task would shape another's."""
    alpha: float = Field(0.5, ge=0)
    """Weight of the squared difference to stored outputs."""
    beta: float = Field(1.0, ge=0)
    """Weight of the loss on stored samples (0.5 in the paper's Split CIFAR-10)."""
    pretrain: bool = True
    """Whether the model of a temporary task starts as a copy of the permanent one, or afresh."""
    undeclared: Literal["temporary", "permanent"] = "temporary"
    """What an experience is of which the stream does not say."""
    finer: Finer = "refuse"
    """What becomes of requests for a part of a task: refuse them, or give the whole task up with it."""


@dataclass(slots=True)
class _Task:
    """What was learned from one experience, and a memory of it.

    Attributes:
        experience, incarnation, units: which.
        ids: all samples it was learned from.
        memory: those that are kept, ascending.
        outputs: what the model said of them while it was trained, ``[len(memory), C]``.
        model: its own, if it is temporary.
    """

    experience: str
    incarnation: int
    units: tuple[int, ...]
    ids: np.ndarray
    memory: np.ndarray
    outputs: torch.Tensor
    model: FlatModel | None = None


@final
class _Replay(Hooks):
    """Adds the mean, over permanent tasks, of what dark experience replay minimises on a draw of each memory.

    Attributes:
        samples: drawn at each step.
    """

    carries = ("_step",)

    def __init__(self, strategy: ClpuDer, batch_size: int, steps: int, key: Key, door: Door) -> None:
        self._strategy, self._step = strategy, 0
        memories = strategy.readable(key)
        self._tasks = [task for task, _ in memories]
        size = max(1, batch_size // max(1, len(memories)))
        self._draws = [
            strategy.draws(t, memory, size, steps, key / t.experience / t.incarnation, door) for t, memory in memories
        ]
        self.samples = sum(min(size, len(memory)) for _, memory in memories)

    @override
    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Add (1 / n) sum over tasks of alpha MSE + beta CE, both on the same draw."""
        for task, draws in zip(self._tasks, self._draws, strict=True):
            loss = loss + self._strategy.dark(model, task, draws[self._step]) / len(self._tasks)
        self._step += 1
        return loss


@final
class ClpuDer(Strategy):
    """Exact by isolation: nothing temporary ever enters a loss on the permanent model.

    A permanent task is learned by dark experience replay of the earlier permanent ones. Of a temporary task nothing is
    left when its model and memory are dropped. One that becomes permanent is learned from its memory alone. The memory
    keeps a uniform subset, chosen by name; outputs are those of a training step, as a reservoir has them.
    """

    supports = frozenset({"classes"})
    exact = "always"
    state_grows = True
    reads_permanent_only = True
    test_options = {"memory": 20, "finer": "coarsen"}
    ranges = {"alpha": log(0.05, 5.0), "beta": log(0.1, 10.0)}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with nothing learned."""
        self._config, self._setting = config, setting
        self._names = setting.key / "clpu-der"
        self._main = setting.make_model()
        self._permanent: list[_Task] = []
        self._temporary: list[_Task] = []
        self._given_up = _NOTHING
        self._last_steps = 1

    @property
    @override
    def access(self) -> Access:
        """The memories of as many permanent tasks as there are units; where these are more, a part of each memory."""
        return Access(retained=self._config.memory * max(1, len(self._setting.units)))

    @override
    def learn(self, experience: Experience, door: Door) -> Outcome:
        """Learn a permanent task into the main model, a temporary one into a model of its own."""
        training, key = self._setting.training, self._key(experience)
        memory = keep_uniform(experience.sample_ids, self._config.memory, key / "memory")
        width = self._setting.objective.num_outputs
        outputs = torch.zeros(
            len(memory), width, dtype=self._main.parameters.dtype, device=self._main.parameters.device
        )
        task = _Task(experience.name, experience.incarnation, experience.units, experience.sample_ids, memory, outputs)
        data = door.fetch(experience.sample_ids)
        steps = training.num_steps(len(data))
        hooks: list[Hooks] = [Remember(memory, outputs, steps // training.epochs, training.epochs, key)]
        if (experience.retention or self._config.undeclared) == "temporary":
            task.model = self._copy() if self._config.pretrain else self._setting.make_model()
            self._temporary.append(task)
            return self._with_stranded(fit(task.model, self._setting.objective, data, training, key, hooks))
        replayed = 0
        if self._permanent:
            replay = _Replay(self, training.batch_size, steps, key / "replay", door)
            hooks.append(replay)
            replayed = replay.samples * steps
        outcome = fit(self._main, self._setting.objective, data, training, key, hooks)
        self._permanent.append(task)
        self._last_steps = steps
        return self._with_stranded(outcome + Outcome(forward=replayed, backward=replayed, losses=outcome.losses))

    @override
    def consolidate(self, experience: Experience, door: Door) -> Outcome:
        """Drop the task's own model and learn its memory into the main one.

        As many steps as the last permanent task took, on beta CE + alpha MSE of the memory plus replay of the others.
        """
        chosen = [t for t in self._temporary if np.isin(experience.sample_ids, t.ids).any()]
        outcome = Outcome()
        for task in chosen:
            data = door.fetch(task.memory).all()
            assert task.model is not None
            before = self._score(task.model, data)
            outcome += self._absorb(task, experience, door)
            drop = before - self._score(self._main, data)
            outcome += Outcome(forward=2 * len(data)).noted(consolidation_drop=drop)
            task.model = None
            self._temporary.remove(task)
            self._permanent.append(task)
        return outcome

    @override
    def forget(self, request: DeletionRequest, door: Door) -> Outcome:
        """Drop the models and memories of the tasks that are named.

        Raises:
            RequestError: a task is permanent, or only a part of it is named and `finer` is refuse.
        """
        forgotten_ids = request.sample_ids
        for task in self._permanent:
            if np.isin(task.ids, forgotten_ids).any():
                raise RequestError(
                    f"{request.name} names samples of {task.experience}, which was learned as permanent, and clpu-der "
                    f"cannot forget that. Declare it temporary, or use another strategy."
                )
        named, unasked = named_tasks(request, self._temporary, self._config.finer, "clpu-der")
        self._temporary = [t for t in self._temporary if not any(t is n for n in named)]
        self._given_up = np.union1d(self._given_up, unasked)
        self._given_up = self._given_up[~np.isin(self._given_up, forgotten_ids)]
        return self._with_stranded(Outcome()).graded("bits")

    @torch.inference_mode()
    @override
    def predict(self, batch: Batch) -> torch.Tensor:
        """Return pooled log probabilities ``[B, C]``: temporary models speak for their classes, the main one else."""
        objective = self._setting.objective
        temporary = [(t, self._classes(t.units)) for t in self._temporary]
        spoken_for = {c for _, classes in temporary for c in classes}
        self._main.train(False)
        main = objective.outputs(self._main, batch)
        if not temporary:
            return main
        parts = [(main.log_softmax(1), tuple(c for c in range(objective.num_outputs) if c not in spoken_for))]
        for task, classes in temporary:
            assert task.model is not None
            task.model.train(False)
            parts.append((objective.outputs(task.model, batch).log_softmax(1), classes))
        return pool(parts)

    @override
    def features(self, batch: Batch) -> None:
        """Return None: the models share no feature space."""
        return

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        by_component: dict[str, np.ndarray] = {}
        for task in self._permanent:
            by_component["main"] = np.union1d(by_component.get("main", _NOTHING), ids[np.isin(ids, task.ids)])
        for task in self._temporary:
            by_component[f"{task.experience}.{task.incarnation}"] = ids[np.isin(ids, task.ids)]
        return {component: held for component, held in by_component.items() if len(held)}

    @override
    def stored_ids(self) -> np.ndarray:
        return np.unique(np.concatenate([_NOTHING, *(t.memory for t in self._permanent + self._temporary)]))

    @override
    def state_dict(self) -> State:
        return {
            "main": self._main.state_dict(),
            "permanent": [_saved(t) for t in self._permanent],
            "temporary": [_saved(t) for t in self._temporary],
            "given_up": {"derived": torch.from_numpy(self._given_up.copy())},
            "last_steps": self._last_steps,
        }

    @override
    def load_state_dict(self, state: State) -> None:
        self._main.load_state_dict(state["main"])
        self._permanent = [self._loaded(t) for t in state["permanent"]]
        self._temporary = [self._loaded(t) for t in state["temporary"]]
        self._given_up = state["given_up"]["derived"].numpy().copy()
        self._last_steps = state["last_steps"]

    def readable(self, key: Key) -> list[tuple[_Task, np.ndarray]]:
        """Return permanent tasks with the part of their memories that one event may read."""
        sizes = shares(len(self._permanent), int(self.access.retained), key / "tasks")
        return [
            (t, keep_uniform(t.memory, size, key / t.experience / t.incarnation / "share"))
            for t, size in zip(self._permanent, sizes, strict=True)
            if size
        ]

    def draws(self, task: _Task, memory: np.ndarray, size: int, steps: int, key: Key, door: Door) -> Draws:
        """Return what to take from a task's memory, or a part of it, at each of `steps` steps."""
        size = min(size, len(memory))
        positions = torch.from_numpy(draw_positions(memory, size * steps, key))
        return Draws(door.fetch(memory), positions.to(task.outputs.device).view(steps, size))

    def dark(self, model: FlatModel, task: _Task, batch: Batch) -> torch.Tensor:
        """Return alpha mean (z - stored)^2, over the outputs of the task's classes, + beta loss."""
        outputs = self._setting.objective.outputs(model, batch)
        rows = torch.from_numpy(positions_in(task.memory, batch.ids.cpu().numpy())).to(outputs.device)
        columns = list(self._classes(task.units))
        squared = (outputs[:, columns] - task.outputs[rows][:, columns]).square().mean()
        loss = self._setting.objective.losses(outputs, batch).mean()
        return self._config.alpha * squared + self._config.beta * loss

    def _absorb(self, task: _Task, experience: Experience, door: Door) -> Outcome:
        training, key, model, steps = self._setting.training, self._key(experience), self._main, self._last_steps
        task_batches = self.draws(task, task.memory, training.batch_size, steps, key / "own", door)
        replay = _Replay(self, training.batch_size, steps, key / "replay", door)
        optimizer = make_optimizer(training, model.parameters)

        def loss_of(size: int) -> torch.Tensor:
            return self.dark(model, task, task_batches[0].part(0, size))

        with passes(model, training, key / "noise", loss_of, [optimizer, replay]) as passed:
            for step in passed.up_to(steps):
                batch = task_batches[step]
                loss = replay.loss(self.dark(model, task, batch), batch.x, batch, model)
                model.gradient.zero_()
                loss.backward()
                optimizer.step(model.parameters, passed.clip(model.gradient))
                passed.samples += len(batch) + replay.samples
                passed.done(loss)
        return passed.outcome(model.parameters, losses={"loss": float(passed.loss)})

    @torch.no_grad()
    def _score(self, model: FlatModel, batch: Batch) -> float:
        model.train(False)
        outputs = self._setting.objective.outputs(model, batch)
        return float(self._setting.objective.scores(outputs, batch).mean())

    def _copy(self) -> FlatModel:
        model = self._setting.make_model()
        model.take_over(self._main)
        return model

    def _classes(self, units: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted({c for u in units for c in self._setting.units[u].classes}))

    def _key(self, experience: Experience) -> Key:
        return self._names / experience.name / experience.incarnation

    def _with_stranded(self, outcome: Outcome) -> Outcome:
        return outcome.noted(**outcome.notes, stranded_samples=float(len(self._given_up)))

    def _loaded(self, saved: dict[str, Any]) -> _Task:
        model = None
        if "model" in saved:
            model = self._setting.make_model()
            model.load_state_dict(saved["model"])
        return _Task(
            saved["experience"],
            saved["incarnation"],
            tuple(saved["units"]),
            saved["derived"].numpy().copy(),
            saved["memory"].numpy().copy(),
            saved["outputs"].clone(),
            model,
        )


def _saved(task: _Task) -> dict[str, Any]:
    saved: dict[str, Any] = {
        "experience": task.experience,
        "incarnation": task.incarnation,
        "units": list(task.units),
        "derived": torch.from_numpy(task.ids.copy()),
        "memory": torch.from_numpy(task.memory.copy()),
        "outputs": task.outputs.clone(),
    }
    if task.model is not None:
        saved["model"] = task.model.state_dict()
    return saved
