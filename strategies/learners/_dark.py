"""What `der` and `der-plus-plus` share: a memory of samples with the outputs the model had for them in training."""

from __future__ import annotations

from abc import ABC
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Lesson, Outcome, Plugin, Setting, State
from strategies.objectives._base import EVALUATION
from strategies.parts.model import FlatModel
from streams.config import Config as BaseConfig
from streams.data import Batch, Data
from streams.errors import ConfigError
from streams.events import DeletionRequest
from streams.positions import positions_in
from streams.randomness import Key

_NOTHING = np.array([], dtype=np.int64)
_UNKNOWN = float("-inf")


class DarkConfig(BaseConfig):
    """Options of dark experience replay (Buzzega et al. 2020, arXiv 2004.07211)."""

    memory: int = Field(200, ge=1)
    """Samples kept, each with its outputs."""
    batch: int | None = Field(None, ge=1)
    """Samples per draw; null takes the training batch size."""
    stored: Literal["seen", "final"] = "seen"
    """Outputs that are stored. seen: those of a training step, in one of the epochs at random, as a reservoir that is
    filled while training has them. final: those of the finished model, as Avalanche does; for an objective that draws
    noise, whose outputs of a training step cannot be compared with others."""
    after_request: Literal["recompute", "keep"] = "recompute"
    """What becomes of stored outputs when an unlearner has changed the weights: compute them anew before the next
    experience, or keep distilling the earlier model."""


def distillation(outputs: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
    """Return the mean squared difference over the stored outputs that are finite.

    Those of other tasks' classes and of deleted classes are not.

    >>> stored = torch.tensor([[1.0, float("-inf")], [0.0, 2.0]])
    >>> round(float(distillation(torch.tensor([[2.0, 9.0], [0.0, 0.0]]), stored)), 4)
    1.6667
    """
    is_stored = stored.isfinite()
    difference = outputs.masked_fill(~is_stored, 0.0) - stored.masked_fill(~is_stored, 0.0)
    return difference.square().sum() / is_stored.sum().clamp(min=1)


class DarkMemory:
    """Ids with priorities and outputs; the ids with the lowest priorities stay. Filled while training goes on."""

    def __init__(self, capacity: int, width: int, like: torch.Tensor, num_samples: int, key: Key) -> None:
        """Start empty.

        Args:
            capacity: samples kept.
            width: outputs per sample.
            like: a tensor with the device and type of outputs.
            num_samples: rows of the source.
            key: names the priorities.
        """
        self._capacity, self._key = capacity, key
        self.ids = _NOTHING
        self._priorities = np.array([], dtype=np.uint64)
        self._outputs = torch.zeros(capacity, width, dtype=like.dtype, device=like.device)
        self._slot_of = np.full(num_samples, -1, dtype=np.int32)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def outputs(self) -> torch.Tensor:
        """Outputs of all ids ``[n, width]``, a view."""
        return self._outputs[: len(self.ids)]

    def offer(self, ids: np.ndarray, outputs: torch.Tensor) -> None:
        """Store outputs for ids that are kept, and let the others compete for places.

        Args:
            ids: distinct.
            outputs: ``[len(ids), width]``.
        """
        slots = self._slot_of[ids]
        is_kept = slots >= 0
        if is_kept.any():
            self._outputs[torch.from_numpy(slots[is_kept].astype(np.int64))] = outputs[torch.from_numpy(is_kept)]
        rows = np.flatnonzero(~is_kept)
        priorities = self._key.priorities(ids[rows])
        if len(self.ids) == self._capacity and len(rows):
            good = priorities < self._priorities.max()
            rows, priorities = rows[good], priorities[good]
        if len(rows):
            self._admit(ids[rows], priorities, outputs[torch.from_numpy(rows)])

    def draw(self, size: int, key: Key) -> np.ndarray:
        """Return `size` different slots, or all if there are fewer."""
        if size >= len(self.ids):
            return np.arange(len(self.ids))
        return np.argpartition(key.priorities(self.ids), size)[:size]

    def drop(self, ids: np.ndarray) -> None:
        """Take ids and their outputs out."""
        self._keep(np.flatnonzero(~np.isin(self.ids, ids)))

    def ignore(self, columns: list[int]) -> None:
        """Forget some outputs of all samples."""
        self._outputs[:, columns] = _UNKNOWN

    def load(self, ids: np.ndarray, outputs: torch.Tensor) -> None:
        """Replace everything."""
        self._slot_of.fill(-1)
        self.ids, self._priorities = ids, self._key.priorities(ids)
        self._outputs.zero_()
        self._outputs[: len(ids)] = outputs
        self._slot_of[ids] = np.arange(len(ids))

    def state_dict(self) -> State:
        """Return ids and outputs, copied."""
        return {"ids": torch.from_numpy(self.ids.copy()), "outputs": self.outputs.clone()}

    def load_state_dict(self, state: State) -> None:
        """Put them back."""
        self.load(state["ids"].cpu().numpy().copy(), state["outputs"])

    def _admit(self, ids: np.ndarray, priorities: np.ndarray, outputs: torch.Tensor) -> None:
        free = min(self._capacity - len(self.ids), len(ids))
        start = len(self.ids)
        self.ids = np.concatenate([self.ids, ids[:free]])
        self._priorities = np.concatenate([self._priorities, priorities[:free]])
        self._outputs[start : start + free] = outputs[:free]
        self._slot_of[ids[:free]] = np.arange(start, start + free)
        for row in range(free, len(ids)):
            slot = int(self._priorities.argmax())
            if priorities[row] < self._priorities[slot]:
                self._slot_of[self.ids[slot]] = -1
                self.ids[slot], self._priorities[slot] = ids[row], priorities[row]
                self._outputs[slot] = outputs[row]
                self._slot_of[ids[row]] = slot

    def _keep(self, slots: np.ndarray) -> None:
        self.load(self.ids[slots], self._outputs[torch.from_numpy(slots)])


class DarkExperience(Plugin, ABC):
    """Adds alpha x distillation of stored outputs on one draw, and beta x loss on another, to the batch's loss.

    Drawn samples are passed on their own, not in one batch with the new ones.
    """

    carries = ("_memory", "_shown", "_epoch", "_passed")
    test_options = {"memory": 30, "batch": 8}

    def __init__(self, config: DarkConfig, setting: Setting, alpha: float, beta: float, together: bool = False) -> None:
        """Start with an empty memory.

        Args:
            config: the memory and what is stored in it.
            setting: where it learns.
            alpha, beta: weights of the distillation and of the loss on labels.
            together: whether both draws pass batch norms as one batch.

        Raises:
            ConfigError: outputs of training steps are to be stored, each of which has noise of its own.
        """
        super().__init__(config, setting)
        if setting.objective.draws and config.stored == "seen":
            raise ConfigError(
                f"learner.stored: 'seen' keeps outputs of a training step, and {type(setting.objective).__name__} "
                f"draws noise anew in each; set stored: final."
            )
        self._options, self._alpha, self._beta, self._together = config, alpha, beta, together
        self._by_class = setting.objective.predicts == "classes"
        key = setting.key / "dark" / "priority"
        width = setting.objective.num_outputs
        like = torch.zeros(0, dtype=setting.outline().parameters.dtype, device=setting.device)
        self._memory = DarkMemory(config.memory, width, like, setting.num_samples, key)
        self._dead: set[int] = set()
        self._stale = False
        self._derived = np.zeros(setting.num_samples, dtype=bool)
        self._visit = np.full(setting.num_samples, -1, dtype=np.int32)
        self._data: Data | None = None
        self._drawn: Batch | None = None
        self._shown: tuple[torch.Tensor, torch.Tensor] | None = None
        self._stored = like
        self._num_distilled = self._epoch = self._passed = 0
        self._steps_per_epoch = 1
        self._key, self._objective = setting.key, setting.objective

    @property
    @override
    def access(self) -> Access:
        return Access(retained=self._options.memory)

    @override
    def begin(self, lesson: Lesson) -> None:
        """Borrow the memory's samples, and draw in which epoch each new one shows its outputs."""
        own, epochs = lesson.data.ids, self.setting.training.epochs
        self._data = lesson.door.fetch(np.union1d(self._memory.ids, own))
        if self._options.stored == "seen":
            self._visit[own] = (lesson.key / "visit").below(own, epochs).astype(np.int32)
        self._steps_per_epoch = lesson.steps // epochs
        self._key = lesson.key / "dark"
        self._objective = self.setting.objective.training_on(lesson.data)
        self._passed = 0
        if self._by_class:
            self._dead -= set(np.unique(lesson.data.targets().cpu().numpy()).tolist())
        if self._stale and len(self._memory):
            known = self._memory.outputs.isfinite()
            fresh = self._outputs_of(self._memory.ids, lesson.model)
            self._memory.load(self._memory.ids, fresh.masked_fill(~known, _UNKNOWN))
        self._stale = False

    @override
    def extend(self, batch: Batch, step: int) -> Batch:
        """Store what the last step has shown, and draw for this one."""
        self._store()
        self._epoch = step // self._steps_per_epoch
        self._drawn = None
        if len(self._memory):
            size = self._options.batch or self.setting.training.batch_size
            # With a weight of 0 a term is not computed at all.
            names = [n for n, weight in (("outputs", self._alpha), ("targets", self._beta)) if weight]
            slots = [self._memory.draw(size, self._key / name / step) for name in names]
            if slots:
                rows = self._lent(self._memory.ids[np.concatenate(slots)])
                self._num_distilled = len(slots[0]) if self._alpha else 0
                self._drawn = self._with_draws(rows, step) if self._objective.draws else rows
                self._stored = self._memory.outputs[torch.from_numpy(slots[0])]
        return batch

    @override
    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        self._shown = (batch.ids, outputs.detach())
        if self._drawn is None:
            return loss
        self._passed += len(self._drawn)
        to_distil, to_label = self._outputs_of_draws(self._drawn, model)
        if self._alpha:
            loss = loss + self._alpha * distillation(to_distil, self._stored)
        if self._beta:
            labelled = self._drawn.part(self._num_distilled)
            loss = loss + self._beta * self._objective.losses(to_label, labelled).mean()
        return loss

    @override
    def end(self, lesson: Lesson) -> Outcome:
        self._store()
        if self._options.stored == "final":
            ids = lesson.data.ids
            self._memory.offer(ids, self._without_dead_classes(self._outputs_of(ids, lesson.model)))
            self._passed += len(ids)
        self._visit[lesson.data.ids] = -1
        self._derived[lesson.data.ids] = True
        self._data = self._drawn = None
        return Outcome(forward=self._passed, backward=self._passed)

    @override
    def purge(self, request: DeletionRequest) -> None:
        """Drop the request's samples with their outputs, and the outputs of the classes it names."""
        self._memory.drop(request.sample_ids)
        named = set(request.keys_of("class"))
        for unit in request.keys_of("task"):
            named |= set(self.setting.units[unit].classes)
        if self._by_class:
            self._dead |= named
            self._memory.ignore(sorted(self._dead))

    @override
    def settle(self, model: FlatModel) -> None:
        """Take note that stored outputs are those of weights that are no more."""
        self._stale = self._options.after_request == "recompute"

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return the samples in memory, and whose training the stored outputs derive from."""
        in_memory = ids[np.isin(ids, self._memory.ids)]
        return {"memory": in_memory, "outputs": ids[self._derived[ids]] if len(self._memory) else _NOTHING}

    @override
    def stored_ids(self) -> np.ndarray:
        return np.sort(self._memory.ids)

    @override
    def state_dict(self) -> State:
        """Return ids and outputs, and which outputs no longer count."""
        return {
            **self._memory.state_dict(),
            "dead": sorted(self._dead),
            "stale": self._stale,
            "derived": torch.from_numpy(self._derived.copy()),
        }

    @override
    def load_state_dict(self, state: State) -> None:
        self._memory.load_state_dict(state)
        self._dead, self._stale = set(state["dead"]), state["stale"]
        self._derived = state["derived"].numpy().copy()

    def _store(self) -> None:
        """Offer the last step's outputs of the samples that were to show them in this epoch."""
        if self._shown is None:
            return
        ids = self._shown[0].cpu().numpy()
        rows = np.flatnonzero(self._visit[ids] == self._epoch)
        if len(rows):
            self._memory.offer(ids[rows], self._without_dead_classes(self._shown[1][torch.from_numpy(rows)]))
        self._shown = None

    def _outputs_of_draws(self, drawn: Batch, model: FlatModel) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the outputs of the samples to distil and of those whose labels are learned; one may have no rows."""
        count = self._num_distilled
        single = min(count, len(drawn) - count) <= 1
        if self._together or not model.has_batch_norm or single:
            outputs = self._objective.outputs(model, drawn)
            return outputs[:count], outputs[count:]
        first, second = drawn.part(0, count), drawn.part(count)
        return self._objective.outputs(model, first), self._objective.outputs(model, second)

    def _with_draws(self, rows: Batch, step: int) -> Batch:
        """Draw for outputs what was drawn when they were stored, and for targets anew."""
        stored, anew = self._objective.drawn(rows, EVALUATION), self._objective.drawn(rows, self._key / step)
        return stored.part(0, self._num_distilled).concat(anew.part(self._num_distilled))

    def _without_dead_classes(self, outputs: torch.Tensor) -> torch.Tensor:
        if self._dead:
            outputs = outputs.clone()
            outputs[:, sorted(self._dead)] = _UNKNOWN
        return outputs

    def _lent(self, ids: np.ndarray) -> Batch:
        assert self._data is not None
        return self._data.batch(torch.from_numpy(positions_in(self._data.ids, ids)).to(self._memory.outputs.device))

    @torch.no_grad()
    def _outputs_of(self, ids: np.ndarray, model: FlatModel) -> torch.Tensor:
        """Return the outputs in evaluation mode; `fit` sets its own mode."""
        model.train(False)
        parts = np.array_split(ids, max(1, -(-len(ids) // 256)))
        objective = self.setting.objective
        return torch.cat([objective.outputs(model, objective.drawn(self._lent(p), EVALUATION)) for p in parts])
