"""PALL: a sparse sub-network per task in one network, with forward reuse; a request resets a task's own weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import override

from strategies.base import Access, Door, Outcome, Setting, State, Strategy
from strategies.isolated._whole_tasks import Finer, named_tasks
from strategies.objectives._base import ClassObjective
from strategies.parts.memory.buffers import draw_positions, keep_balanced
from strategies.parts.memory.draws import Draws
from strategies.parts.passes import passes
from strategies.parts.sharding.ensembles import pool
from strategies.parts.training.optimizers import make_optimizer
from strategies.parts.weights.ranks import kth_smallest
from strategies.ranges import linear, log
from streams.config import Config as BaseConfig
from streams.data import Batch, Data
from streams.errors import ConfigError
from streams.events import DeletionRequest, Experience
from streams.positions import positions_in
from streams.randomness import Key

_NOTHING = np.array([], dtype=np.int64)


class Config(BaseConfig):
    """Options of `pall` (ICLR 2025, arXiv 2505.10941)."""

    sparsity: float = Field(0.8, ge=0, lt=1)
    """Share of each layer's weights that a task does not use."""
    memory: int = Field(500, ge=1)
    """Samples kept in all; every task of the stream has an equal, fixed share."""
    alpha: float = Field(0.5, ge=0)
    """Weight of the squared difference to stored outputs when a request is served."""
    beta: float = Field(1.0, ge=0)
    """Weight of the loss on stored samples."""
    steps: int = Field(50, ge=0)
    """Steps that repair the tasks that lose shared weights (k)."""
    finer: Finer = "refuse"
    """What becomes of requests for a part of a task: refuse them, or give the whole task up with it."""


@dataclass(slots=True, eq=False)
class _Task:
    """A task that is held.

    Attributes:
        experience, incarnation, units: which.
        ids: samples it was learned from.
        mask: bool ``[P]``, the weights that it uses (of the body; its rows of the head belong to it).
        memory: samples kept, ascending, with the `outputs` of its finished sub-network ``[len(memory), C]``.
    """

    experience: str
    incarnation: int
    units: tuple[int, ...]
    ids: np.ndarray
    mask: torch.Tensor
    memory: np.ndarray
    outputs: torch.Tensor

    @property
    def name(self) -> str:
        """A name that no other task has."""
        return f"{self.experience}.{self.incarnation}"


@final
class _Threshold(torch.autograd.Function):
    """1 where the absolute score is among the highest of its layer; the gradient passes as if it were the score."""

    @staticmethod
    def forward(scores: torch.Tensor, sparsity: float) -> torch.Tensor:  # type: ignore[override]
        return kept(scores, sparsity).to(scores)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing: the gradient is passed on as it is."""

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return gradient, None


def kept(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Return which entries have an absolute score at or above the k-th smallest, k = 1 + round(sparsity (n - 1)).

    >>> kept(torch.tensor([0.1, -0.9, 0.3, 0.2, 0.5]), 0.5).tolist()
    [False, True, True, False, True]
    """
    k = 1 + round(sparsity * (scores.numel() - 1))
    return scores.abs() >= kth_smallest(scores.abs().flatten(), k)


@final
class Pall(Strategy):
    """A mask per task over one network's weights; what a task has masked is frozen for those that come later.

    Without task labels, each sub-network speaks for the classes of its units; classes that no task holds are
    answered by all weights together. Body biases are zero and norms have no trained scale, as in the original networks.
    Free weights are always those of one draw that is named by the tasks held, so a request leaves no pattern there.

    A request is exact only if no other task was learned after the one that goes, and none was repaired with its help.
    Tasks that were learned later were trained through its weights, and keep what came of it; `holds` says so.
    """

    supports = frozenset({"classes"})
    unheeded = {**Strategy.unheeded, "bn_mode": "batch norms keep no statistics in it: all tasks would share them"}
    exact = "sometimes"
    state_grows = True
    within_units = True
    idle_state = {"model/buffers": "what tasks share is put back to the start after each"}
    test_options = {"memory": 50, "finer": "coarsen", "steps": 3}
    ranges = {"sparsity": linear(0.5, 0.95), "alpha": log(0.05, 5.0), "beta": log(0.1, 10.0), "steps": linear(10, 200)}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with nothing learned.

        Raises:
            ConfigError: the body has no weights that are trained.
        """
        self._config, self._setting = config, setting
        self._objective = ClassObjective.of(setting.objective)
        self._names = setting.key / "pall"
        self._model = setting.make_model()
        for module in self._model.network.modules():
            if isinstance(module, _BatchNorm):  # statistics of the batch, always
                module.track_running_stats = False
                module.running_mean = module.running_var = module.num_batches_tracked = None
        self._buffers = {name: b.clone() for name, b in self._model.network.named_buffers()}
        self._shapes = {name: p.shape for name, p in self._model.network.named_parameters() if p.requires_grad}
        self._layers = [n for n, s in self._shapes.items() if n.startswith("body.") and len(s) > 1]
        if not self._layers:
            raise ConfigError(
                "isolated: pall gives every task a mask over the weights of the body; this model trains none there. "
                "Use a model with a hidden layer (mlp), or set trained: all."
            )
        self._body = torch.zeros_like(self._model.parameters, dtype=torch.bool)
        for name in self._layers:
            self._body[self._model.slices[name]] = True
        self._tasks: list[_Task] = []
        self._tuned: list[tuple[torch.Tensor, frozenset[str]]] = []
        self._shadows: dict[str, np.ndarray] = {}
        self._given_up = _NOTHING
        self._renew()

    @property
    @override
    def access(self) -> Access:
        return Access(retained=self._config.memory)

    @override
    def learn(self, experience: Experience, door: Door) -> Outcome:
        """Train scores, free weights and the task's rows of the head; then freeze what the mask has chosen."""
        training, key = self._setting.training, self._names / experience.name / experience.incarnation
        data, model = door.fetch(experience.sample_ids), self._model
        scores = self._draw(key / "scores").requires_grad_(True)
        free = self._free_weights() | self._rows(experience.units)
        frozen = training.model_copy(update={"weight_decay": 0.0})
        weights_step, scores_step = make_optimizer(frozen, model.parameters), make_optimizer(frozen, scores)

        def loss_on(batch: Batch) -> torch.Tensor:
            masks = {n: _Threshold.apply(self._view(scores, n), self._config.sparsity) for n in self._layers}
            return self._objective.losses(self._forward(batch, masks, experience.units), batch).mean()

        def loss_of(size: int) -> torch.Tensor:
            return loss_on(data.batch(data.positions()[:size]))

        moving = (scores, weights_step, scores_step)
        with passes(model, training, key / "noise", loss_of, moving) as steps:
            for batch in steps.over(data, key):
                loss = loss_on(batch)
                model.gradient.zero_()
                scores.grad = None
                loss.backward()
                assert scores.grad is not None
                slopes = model.gradient.add_(model.parameters, alpha=training.weight_decay).mul_(free)
                weights_step.step(model.parameters, steps.clip(slopes))
                scores_step.step(scores.detach(), steps.clip(scores.grad * self._body))
                steps.samples += len(batch)
                steps.done(loss)
        outcome = steps.outcome(model.parameters, scores, losses={"loss": float(steps.loss)})
        self._tasks.append(self._finished(experience, scores.detach(), data, key))
        self._share(door)
        self._renew()
        return self._with_stranded(outcome)

    @override
    def forget(self, request: DeletionRequest, door: Door) -> Outcome:
        """Reset what the tasks that go have used alone, and repair those that used it later from their memories.

        Raises:
            RequestError: only a part of a task is named, and `finer` is refuse.
        """
        forgotten_ids = request.sample_ids
        named, unasked = named_tasks(request, self._tasks, self._config.finer, "pall")
        self._given_up = np.union1d(self._given_up, unasked)
        outcome, clean = self._drop(named, self._names / request.name, door) if named else (Outcome(), True)
        self._given_up = self._given_up[~np.isin(self._given_up, forgotten_ids)]
        # What an earlier request gave up already may have shaped tasks that are still there.
        clean &= not any(np.isin(shadow, forgotten_ids).any() for shadow in self._shadows.values())
        return self._with_stranded(outcome).graded("bits" if clean else "none")

    @torch.no_grad()
    @override
    def predict(self, batch: Batch) -> torch.Tensor:
        """Return pooled log probabilities ``[B, C]``: of each task for its classes, of all weights for the others."""
        self._model.train(False)
        dense = self._objective.outputs(self._model, batch)
        if not self._tasks:
            return dense
        spoken_for = {c for t in self._tasks for c in self._classes(t.units)}
        parts = [(dense.log_softmax(1), tuple(c for c in range(dense.shape[1]) if c not in spoken_for))]
        for task in self._tasks:
            masks = {n: self._view(task.mask, n) for n in self._layers}
            outputs = self._logits(masks, batch)
            parts.append((self._objective.mask(outputs, batch).log_softmax(1), self._classes(task.units)))
        return pool(parts)

    @override
    def features(self, batch: Batch) -> None:
        """Return None: each task has features of its own."""
        return

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return what tasks were learned from, and the forgotten ones that later tasks were trained through."""
        seen = [t.ids for t in self._tasks] + list(self._shadows.values())
        held = ids[np.isin(ids, np.concatenate(seen))] if seen else ids[:0]
        return {"weights": held} if len(held) else {}

    @override
    def stored_ids(self) -> np.ndarray:
        return np.unique(np.concatenate([_NOTHING, *(t.memory for t in self._tasks)]))

    @override
    def state_dict(self) -> State:
        return {
            "model": self._model.state_dict(),
            "tasks": [
                {
                    "experience": t.experience,
                    "incarnation": t.incarnation,
                    "units": list(t.units),
                    "derived": torch.from_numpy(t.ids.copy()),
                    "mask": torch.from_numpy(np.packbits(t.mask.cpu().numpy())),
                    "memory": torch.from_numpy(t.memory.copy()),
                    "outputs": t.outputs.clone(),
                }
                for t in self._tasks
            ],
            "tuned": [
                {"mask": torch.from_numpy(np.packbits(mask.cpu().numpy())), "active": sorted(active)}
                for mask, active in self._tuned
            ],
            "shadows": {name: {"derived": torch.from_numpy(ids.copy())} for name, ids in self._shadows.items()},
            "given_up": {"derived": torch.from_numpy(self._given_up.copy())},
        }

    @override
    def load_state_dict(self, state: State) -> None:
        self._model.load_state_dict(state["model"])
        self._tasks = [
            _Task(
                t["experience"],
                t["incarnation"],
                tuple(t["units"]),
                t["derived"].numpy().copy(),
                self._unpacked(t["mask"]),
                t["memory"].numpy().copy(),
                t["outputs"].clone(),
            )
            for t in state["tasks"]
        ]
        self._tuned = [(self._unpacked(t["mask"]), frozenset(t["active"])) for t in state["tuned"]]
        self._shadows = {name: entry["derived"].numpy().copy() for name, entry in state["shadows"].items()}
        self._given_up = state["given_up"]["derived"].numpy().copy()

    def _drop(self, named: list[_Task], key: Key, door: Door) -> tuple[Outcome, bool]:
        """Take tasks out; return the cost, and whether the rest is as if they had never been."""
        remaining = [t for t in self._tasks if t not in named]
        tune, reset = torch.zeros_like(self._body), torch.zeros_like(self._body)
        clean = True
        for task in named:
            place = self._tasks.index(task)
            after = [t for t in remaining if self._tasks.index(t) > place]
            earlier = self._union([t for t in remaining if self._tasks.index(t) < place])
            helped = [mask for mask, active in self._tuned if task.name in active]
            leak = torch.zeros_like(self._body)
            for mask in helped:
                leak |= task.mask & earlier & mask
            tune |= (task.mask & ~earlier & self._union(after)) | leak
            reset |= (task.mask & ~earlier) | leak
            for t in remaining if helped else after:
                self._shadows[t.name] = np.union1d(self._shadows.get(t.name, _NOTHING), task.ids)
            self._shadows.pop(task.name, None)
            clean &= not after and not helped
        self._tasks = remaining
        self._tuned = [(m, a) for m, a in self._tuned if a & {t.name for t in remaining}]
        fresh = self._draw(self._free_key())
        self._model.parameters[reset] = fresh[reset]
        outcome = self._repair(tune, key, door) if remaining and bool(tune.any()) else Outcome()
        self._renew()
        return outcome, clean

    def _repair(self, tune: torch.Tensor, key: Key, door: Door) -> Outcome:
        """Train the positions `tune` on the memories of all tasks that remain."""
        training, model = self._setting.training, self._model
        frozen = training.model_copy(update={"weight_decay": 0.0})
        optimizer = make_optimizer(frozen, model.parameters)
        draws = []
        for t in self._tasks:
            size = min(training.batch_size, len(t.memory))
            positions = draw_positions(t.memory, size * self._config.steps, key / t.experience / t.incarnation)
            at = torch.from_numpy(positions).to(tune.device).view(self._config.steps, size)
            draws.append(Draws(door.fetch(t.memory), at))

        def loss_of(size: int) -> torch.Tensor:
            return self._rehearsed([d[0].part(0, size) for d in draws])

        with passes(model, training, key / "noise", loss_of, [optimizer]) as steps:
            for step in steps.up_to(self._config.steps):
                batches = [draw[step] for draw in draws]
                loss = self._rehearsed(batches)
                model.gradient.zero_()
                loss.backward()
                optimizer.step(model.parameters, steps.clip(model.gradient.mul_(tune)))
                steps.samples += sum(len(batch) for batch in batches)
                steps.done(loss)
        self._tuned.append((tune, frozenset(t.name for t in self._tasks)))
        return steps.outcome(model.parameters, losses={"repair": float(steps.loss)})

    def _rehearsed(self, batches: list[Batch]) -> torch.Tensor:
        """Return the mean over tasks of alpha MSE + beta CE, each on a batch of its memory."""
        terms = []
        for t, batch in zip(self._tasks, batches, strict=True):
            outputs = self._forward(batch, {n: self._view(t.mask, n) for n in self._layers}, t.units)
            rows = torch.from_numpy(positions_in(t.memory, batch.ids.cpu().numpy())).to(outputs.device)
            own = list(self._classes(t.units))
            squared = (outputs[:, own] - t.outputs[rows][:, own]).square().mean()
            cross = self._objective.losses(outputs, batch).mean()
            terms.append(self._config.alpha * squared + self._config.beta * cross)
        return torch.stack(terms).mean()

    def _finished(self, experience: Experience, scores: torch.Tensor, data: Data, key: Key) -> _Task:
        mask = torch.zeros_like(self._body)
        for name in self._layers:
            mask[self._model.slices[name]] = kept(self._view(scores, name), self._config.sparsity).flatten()
        share = max(1, self._config.memory // max(1, len(self._setting.units), len(self._tasks) + 1))
        classes = data.targets().cpu().numpy()
        memory = keep_balanced(experience.sample_ids, classes, share, key / "memory")
        positions = torch.from_numpy(positions_in(data.ids, memory))
        self._model.train(False)
        with torch.no_grad():
            masks = {n: self._view(mask, n) for n in self._layers}
            outputs = self._forward(data.batch(positions.to(mask.device)), masks, experience.units)
        return _Task(
            experience.name, experience.incarnation, experience.units, experience.sample_ids, mask, memory, outputs
        )

    def _share(self, door: Door) -> None:
        """Make room where there are more tasks than units: every memory keeps an equal share."""
        share = max(1, self._config.memory // max(1, len(self._setting.units), len(self._tasks)))
        for task in self._tasks:
            if len(task.memory) > share:
                classes = door.fetch(task.memory).targets().cpu().numpy()
                key = self._names / task.experience / task.incarnation / "memory"
                left = keep_balanced(task.memory, classes, share, key)
                task.outputs = task.outputs[torch.from_numpy(positions_in(task.memory, left))]
                task.memory = left
                for other in self._tasks:  # each of them has shaped what stayed
                    if other is not task:
                        self._shadows[task.name] = np.union1d(self._shadows.get(task.name, _NOTHING), other.ids)

    def _forward(self, batch: Batch, masks: dict[str, torch.Tensor], units: tuple[int, ...]) -> torch.Tensor:
        """Return the outputs of a sub-network, minus infinity outside of the classes of its units."""
        outputs = self._logits(masks, batch)
        others = torch.ones(outputs.shape[1], dtype=torch.bool, device=outputs.device)
        others[list(self._classes(units))] = False
        return outputs.masked_fill(others, float("-inf"))

    def _logits(self, masks: dict[str, torch.Tensor], batch: Batch) -> torch.Tensor:
        network, weights = self._model.network, self._weights(masks)
        return self._objective.logits(lambda *inputs: functional_call(network, weights, inputs), batch)

    def _weights(self, masks: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        parameters = dict(self._model.network.named_parameters())
        return {name: parameters[name] * mask for name, mask in masks.items()}

    def _view(self, flat: torch.Tensor, name: str) -> torch.Tensor:
        return flat[self._model.slices[name]].view(self._shapes[name])

    def _union(self, tasks: list[_Task]) -> torch.Tensor:
        union = torch.zeros_like(self._body)
        for task in tasks:
            union |= task.mask
        return union

    def _free_weights(self) -> torch.Tensor:
        return self._body & ~self._union(self._tasks)

    def _rows(self, units: tuple[int, ...]) -> torch.Tensor:
        """Return bool ``[P]``: the head's rows for the classes of some units."""
        rows = torch.zeros_like(self._body)
        classes = list(self._classes(units))
        for name, shape in self._shapes.items():
            if name.startswith("head.") and classes:
                self._view(rows, name)[classes] = True
                assert shape[0] == self._objective.num_outputs
        return rows

    def _free_key(self) -> Key:
        return self._names / "free" / "+".join(t.name for t in self._tasks)

    @torch.no_grad()
    def _renew(self) -> None:
        """Draw everything anew that no task holds: free weights, rows of the head, and body biases (zero)."""
        occupied = self._union(self._tasks) | self._rows(tuple(u for t in self._tasks for u in t.units))
        fresh = self._draw(self._free_key())
        still = torch.zeros_like(occupied)  # norms keep their scale of one and shift of zero
        for name, module in self._model.network.named_modules():
            if name.startswith("body") and not isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
                for parameter_name, _ in module.named_parameters(name, recurse=False):
                    if parameter_name in self._shapes:
                        still[self._model.slices[parameter_name]] = True
        self._model.parameters.copy_(torch.where(occupied | still, self._model.parameters, fresh))
        for name, buffer in self._model.network.named_buffers():  # what tasks share must not remember any of them
            buffer.copy_(self._buffers[name])

    def _draw(self, key: Key) -> torch.Tensor:
        """Return weights ``[P]`` uniform in 1 / sqrt(fan-in) of the dense layer; zero for body biases."""
        generator = key.torch()
        drawn = torch.zeros_like(self._model.parameters)
        for name, shape in self._shapes.items():
            if name in self._layers or name.startswith("head."):
                weight = self._shapes.get(name.replace("bias", "weight"), shape)
                bound = weight[1:].numel() ** -0.5
                values = (torch.rand(shape, generator=generator) * 2 - 1) * bound
                drawn[self._model.slices[name]] = values.flatten().to(drawn)
        return drawn

    def _unpacked(self, packed: torch.Tensor) -> torch.Tensor:
        bits = np.unpackbits(packed.numpy(), count=len(self._body))
        return torch.from_numpy(bits.astype(bool)).to(self._body.device)

    def _classes(self, units: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted({c for u in units for c in self._setting.units[u].classes}))

    def _with_stranded(self, outcome: Outcome) -> Outcome:
        return outcome.noted(stranded_samples=float(len(self._given_up)))
