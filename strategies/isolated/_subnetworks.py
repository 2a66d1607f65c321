"""Subnetworks of one network: what `supsup`, `ssnet` and `exssnet` have in common, learning, deletion and repair."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Exactness, Outcome, Setting, State, Strategy
from strategies.isolated._answers import Answers, Inference, Signal
from strategies.isolated._canvas import Canvas
from strategies.isolated._kkt import Transfer, probe, sample_size, worthy
from strategies.isolated._subnetwork import Subnetwork, Units, rebuilt
from strategies.isolated._supermasks import (
    Schedule,
    ScoreStep,
    WeightStep,
    deal,
    initial_scores,
    pack,
    union,
    unpack,
)
from strategies.parts.fit import FitConfig, fit
from streams.config import Config as BaseConfig
from streams.data import Batch, Data
from streams.errors import CheckpointError, ConfigError, IntegrityError
from streams.events import DeletionRequest, Experience
from streams.randomness import Key

Writes = Literal["nothing", "mask", "free", "private"]
"""Which weights a task trains: none, all in its mask, those in its mask that no other mask contains, or copies of all
in its mask that it keeps to itself."""


class SubnetworkConfig(BaseConfig):
    """Options of all of them. The optimizer is Adam, fresh in each stage, without weight decay."""

    density: float = Field(0.1, gt=0, le=1)
    """Share of each layer's weights that a mask keeps (the published code calls it sparsity)."""
    mask_epochs: int | None = Field(None, ge=1)
    """Passes over an experience while its mask is learned; null takes `training.epochs`."""
    mask_lr: float | None = Field(None, gt=0)
    """Learning rate of the scores; null takes `training.lr`. Set it where that is chosen for SGD: it is too high for
    Adam."""
    schedule: Schedule = "cosine"
    """Learning rate over the epochs of a stage: falling by a cosine, or constant."""
    outputs: int | None = Field(None, ge=1)
    """Outputs of every subnetwork, the superfluous ones included; null: one for each of its classes."""
    kkt: Transfer = "none"
    """Whose scores a task starts from, by a nearest-neighbour probe of the earlier subnetworks' features on new data:
    `best`, if it is above chance; `always` the best; `all`: the mean over those above chance. Keeps all scores."""
    kkt_neighbours: int = Field(10, ge=1)
    """Neighbours that vote, at most half of those that there are."""
    kkt_share: float = Field(0.2, gt=0, le=1)
    """Share of the experience that the probe looks at."""
    repair: Literal["cascade", "none"] = "cascade"
    """What becomes of tasks that were learned on top of deleted data. cascade: they are learned again, in order, which
    is exact to the bit. none: only the deleted is dropped, and the grade says whether others still derive from it."""


class TrainedConfig(SubnetworkConfig):
    """Options of those that train weights."""

    weight_epochs: int | None = Field(None, ge=1)
    """Passes over an experience while its weights are trained; null takes `training.epochs`."""
    weight_lr: float | None = Field(None, gt=0)
    """Learning rate of the weights; null takes `training.lr`."""
    erase: bool = True
    """Whether weights that only deleted tasks have trained go back to their initial values. false leaves them as they
    are, so that what others compute does not change at all; they still derive from deleted data, and `holds` says so.
    For `repair: none` only."""


class Subnetworks(Strategy, ABC):
    """One network, and a mask, running statistics and outputs of its own for every set of units that arrives together.

    A task that comes again goes on from its mask. With task labels a query goes to its task's subnetwork; without, or
    if several know the task, the one whose output is surest (lowest entropy) answers, sample by sample.
    """

    unheeded = {
        **Strategy.unheeded,
        "momentum": "its scores and weights are trained by Adam",
        "weight_decay": "its scores and weights are trained without",
    }
    always = {"optimizer": "adam"}
    state_grows = True
    within_units = True
    test_options = {"density": 0.2}

    def __init__(
        self,
        config: SubnetworkConfig,
        setting: Setting,
        writes: Writes,
        inference: Inference = "enumerate",
        signal: Signal = "entropy",
    ) -> None:
        """Start with no subnetwork.

        Args:
            config: options.
            setting: what it is built in.
            writes: which weights a task trains.
            inference: how the subnetwork is found where there are no task labels.
            signal: what that lowers, if it follows a slope.

        Raises:
            ConfigError: options contradict each other, or do not fit the model or the objective.
        """
        trained = config if isinstance(config, TrainedConfig) else None
        self._erases = writes == "private" or trained is None or trained.erase
        if not self._erases and config.repair == "cascade":
            raise ConfigError(
                "erase: false leaves deleted data in the weights, so nothing can repair it; set repair: none."
            )
        self.exact = "always" if config.repair == "cascade" else "sometimes"
        self._config, self._setting, self._writes = config, setting, writes
        self._canvas = Canvas(setting, config.outputs, config.density, spare=int(signal == "superfluous"))
        self._answers = Answers(self._canvas, inference, signal)
        self._mask_stage = self._stage(config.mask_epochs, config.mask_lr)
        self._weight_stage = None if trained is None else self._stage(trained.weight_epochs, trained.weight_lr)
        self._nets: dict[Units, Subnetwork] = {}
        self._owner = self._no_owner(0)
        self._left = np.zeros(setting.num_samples, dtype=bool)
        """Deleted samples that weights without an owner still derive from."""
        self._learning = False
        self._sealed: tuple[int, ...] | None = self._canvas.version

    @property
    @override
    def access(self) -> Access:
        """The remaining data of what a request touches."""
        return Access(retained="full")

    @override
    def learn(self, experience: Experience, door: Door) -> Outcome:
        """Learn a mask, then the weights in it that may be trained."""
        self._check()
        outcome = self._teach(experience, door)
        return outcome.traced(self._capacity())

    @override
    def forget(self, request: DeletionRequest, door: Door) -> Outcome:
        """Drop every subnetwork that saw the samples, and learn again what is left of it and what depended on it."""
        self._check()
        touched, later = self._affected(request.sample_ids)
        dropped = touched | later if self._config.repair == "cascade" else touched
        stale, weights_stay = later - dropped, not self._erases and any(self._has_written(u) for u in touched)
        derived = np.logical_or.reduce([self._nets[u].derived for u in touched], initial=False)
        for units in stale:
            self._nets[units].stale = True
            self._nets[units].derived |= derived
        if not self._erases:
            self._left |= np.logical_or.reduce(
                [self._nets[u].derived for u in dropped if self._has_written(u)], initial=False
            )
        self._drop(dropped)
        outcome = Outcome()
        for experience in door.history():
            if experience.units in dropped:
                outcome += self._teach(experience, door)
        return replace(outcome.graded(self._grade()), weights_erased=not weights_stay).traced(self._capacity())

    def foresee(self, request: DeletionRequest) -> Exactness:
        """Return the grade that serving a request would have now, without serving it."""
        touched, later = self._affected(request.sample_ids)
        dropped = touched | later if self._config.repair == "cascade" else touched
        stale = {u for u, net in self._nets.items() if net.stale}
        traces_left = bool(self._left.any()) or (not self._erases and any(self._has_written(u) for u in touched))
        return "bits" if later <= dropped and stale <= dropped and not traces_left else "none"

    def dependents(self, units: Units) -> list[Units]:
        """Return the subnetworks that depend on one, directly or through others, in order."""
        dependents = {units}
        while True:
            more = {u for u, net in self._nets.items() if u not in dependents and not dependents.isdisjoint(net.reads)}
            if not more:
                return [u for u in self._nets if u in dependents and u != units]
            dependents |= more

    @override
    def predict(self, batch: Batch) -> torch.Tensor:
        """Return outputs ``[B, num_outputs]``; all alike where no subnetwork knows the task."""
        self._check()
        restore = self._interrupt()
        with torch.inference_mode():
            # In the order of a checkpoint: on it rests the last bit of a sum over subnetworks.
            outputs = self._answers.to(batch, {u: self._nets[u] for u in self._order()})
        restore()
        return outputs

    @override
    def features(self, batch: Batch) -> None:
        """Return None: the subnetworks share no feature space."""
        return

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        writers = {u for u, net in self._nets.items() if self._has_written(u)}
        by_component = {}
        for component, nets, extra in (("masks", set(self._nets), ()), ("weights", writers, (self._left,))):
            derived = np.logical_or.reduce([*(self._nets[u].derived for u in nets), *extra], initial=False)
            if np.any(derived):
                by_component[component] = ids[derived[ids]]
        return {component: held for component, held in by_component.items() if len(held)}

    @override
    def stored_ids(self) -> np.ndarray:
        return np.array([], dtype=np.int64)

    @override
    def state_dict(self) -> State:
        """Return weights (if any is ever trained), owners, and every subnetwork; their order only where it matters."""
        state: State = {"subnetworks": [self._nets[u].state_dict(u) for u in self._order()]}
        if self._shares:
            state["weights"] = self._canvas.weights.clone()
        if self._writes == "free":
            state["owner"] = self._owner.clone()
        if not self._erases:
            state["derived"] = {"left": torch.from_numpy(np.packbits(self._left))}
        return state

    @override
    def load_state_dict(self, state: State) -> None:
        """Put everything back.

        Raises:
            CheckpointError: the weights are not those that the subnetworks were sealed with.
        """
        weights = state["weights"] if self._shares else self._canvas.initial()
        self._canvas.weights.copy_(weights)
        if self._writes == "free":
            self._owner = state["owner"].clone().to(self._canvas.device)
        if not self._erases:
            self._left = np.unpackbits(state["derived"]["left"].numpy(), count=len(self._left)).astype(np.bool_)
        self._nets = dict(rebuilt(entry, self._canvas.device) for entry in state["subnetworks"])
        try:
            self._verify()
        except IntegrityError as error:
            raise CheckpointError(f"The checkpoint is damaged: {error}") from error

    def _order(self) -> list[Units]:
        return list(self._nets) if self._coupled else sorted(self._nets)

    # --- learning ---------------------------------------------------------------------------------------------------

    def _teach(self, experience: Experience, door: Door) -> Outcome:
        units, canvas = experience.units, self._canvas
        key = self._setting.key / "fit" / experience.name / experience.incarnation
        data = door.fetch(experience.sample_ids)
        other_nets = {u: net for u, net in self._nets.items() if u != units}
        scores, sources, cost = self._start(data, units, key)
        canvas.put(self._nets[units].buffers if units in self._nets else None)
        self._learning = True
        self._restore_weights(units)
        mask, trained = self._train_mask(data, units, scores, key)
        outcome = cost + trained
        free = self._trainable(units, mask, other_nets)
        reads = self._reads(other_nets) | set(sources)
        outcome += self._train_weights(data, units, free, key)
        self._learning = False
        canvas.take_off()
        self._enter(experience, mask, scores, reads)
        if self._writes == "free":
            self._mark_owner(units, free)
        if self._writes == "mask":
            self._overwrite(units, mask, other_nets)
        self._seal(units)
        return outcome.traced(self._lesson_traits(units, mask, free, other_nets))

    def _start(self, data: Data, units: Units, key: Key) -> tuple[torch.Tensor, list[Units], Outcome]:
        """Return the scores to start from, whose they are, and what finding them cost."""
        canvas = self._canvas
        scores = initial_scores(canvas.layers, key / "scores", canvas.device)
        earlier = self._nets.get(units)
        if earlier is not None:
            mask = canvas.mask_of(earlier)
            start_scores = (
                deal(scores, mask, canvas.spans_of(units)) if earlier.scores is None else earlier.scores.clone()
            )
            return start_scores, [], Outcome()
        sources, cost = self._sources(data, units, key / "kkt")
        if sources:
            scores = torch.stack([self._scores(u) for u in sources]).mean(0)
        return scores, sources, cost

    def _train_mask(self, data: Data, units: Units, scores: torch.Tensor, key: Key) -> tuple[torch.Tensor, Outcome]:
        """Train the scores in place; return the mask that they choose, which the model then wears."""
        canvas, stage = self._canvas, self._mask_stage
        steps = stage.num_steps(len(data))
        step = ScoreStep(stage, scores, canvas.spans_of(units), stage.epochs, steps, self._config.schedule)
        canvas.lens.show(step.mask)
        outcome = fit(canvas.model, canvas.objective_of(units), data, stage, key / "mask", optimizer=step)
        return step.mask, outcome

    def _train_weights(self, data: Data, units: Units, free: torch.Tensor, key: Key) -> Outcome:
        """Train the weights that are free, if there are any; the model wears the mask already."""
        canvas, stage = self._canvas, self._weight_stage
        if stage is None or not bool(free.any()):
            return Outcome()
        positions, steps = torch.nonzero(free).squeeze(1), stage.num_steps(len(data))
        step = WeightStep(stage, canvas.weights, positions, stage.epochs, steps, self._config.schedule)
        return fit(canvas.model, canvas.objective_of(units), data, stage, key / "weights", optimizer=step)

    def _enter(self, experience: Experience, mask: torch.Tensor, scores: torch.Tensor, reads: set[Units]) -> None:
        """Write down what has been learned, and what it derives from."""
        units, size = experience.units, self._setting.num_samples
        net = self._nets.setdefault(units, Subnetwork(pack(mask), (), np.zeros(size, bool), np.zeros(size, bool)))
        if self._writes == "private":
            self._store_weights(net, mask)
        net.bits, net.buffers = pack(mask), self._canvas.buffers()
        net.scores = scores if self._config.kkt != "none" else None
        net.own[experience.sample_ids] = True
        net.reads = [u for u in self._nets if u in reads | set(net.reads)]
        net.derived |= net.own
        for u in net.reads:
            net.derived |= self._nets[u].derived
            net.stale |= self._nets[u].stale
        if self._shares:
            net.derived |= self._left
            net.stale |= bool(self._left.any())
        net.seen = len(self._nets) if self._coupled else 0

    def _restore_weights(self, units: Units) -> None:
        """Put weights of its own, that a task comes again with, among the initial ones."""
        net = self._nets.get(units)
        if net is not None and net.values is not None:
            self._canvas.weights[self._canvas.mask_of(net)] = net.values

    def _store_weights(self, net: Subnetwork, mask: torch.Tensor) -> None:
        """Give a task the weights that it has trained, and put the initial ones back."""
        weights = self._canvas.weights
        written = mask if net.values is None else mask | self._canvas.mask_of(net)
        net.values = weights[mask]
        self._reset(written)

    def _stage(self, epochs: int | None, lr: float | None) -> FitConfig:
        training = self._setting.training
        return FitConfig(
            optimizer="adam",
            lr=lr or training.lr,
            epochs=epochs or training.epochs,
            batch_size=training.batch_size,
            betas=training.betas,
            eps=training.eps,
            clip_norm=training.clip_norm,
            bn_mode=training.bn_mode,
        )

    def _sources(self, data: Data, units: Units, key: Key) -> tuple[list[Units], Outcome]:
        """Return whose scores to start from, by KKT, and what the probe cost."""
        if self._config.kkt == "none" or not self._nets:
            return [], Outcome()
        canvas = self._canvas
        count = sample_size(len(data), self._config.kkt_share)
        sample = data.batch(data.positions(key)[:count])
        qualities = []
        for u in self._nets:
            canvas.wear(self._nets[u])
            with torch.inference_mode():
                parts = [sample.part(start, start + 256) for start in range(0, len(sample), 256)]
                features = torch.cat([self._setting.objective.features(canvas.model, part) for part in parts])
                qualities.append(probe(features, sample.y, self._config.kkt_neighbours))
        canvas.take_off()
        chance = 1 / len(canvas.classes_of(units)) if canvas.classifies else 0.0
        order = list(self._nets)
        chosen = [order[i] for i in worthy(qualities, chance, self._config.kkt)]
        return chosen, Outcome(forward=count * len(order))

    def _scores(self, units: Units) -> torch.Tensor:
        scores = self._nets[units].scores
        assert scores is not None
        return scores

    def _trainable(self, units: Units, mask: torch.Tensor, other_nets: dict[Units, Subnetwork]) -> torch.Tensor:
        """Return which weights of a mask its task may train, bool ``[P]``."""
        if self._writes != "free":
            return mask if self._weight_stage is not None else torch.zeros_like(mask)
        # A weight may lie in a live mask without being owned (its owner was deleted), and be owned without lying in
        # its owner's mask any more (the task came again): either way it is not free.
        covered = unpack(union((net.bits for net in other_nets.values()), len(mask)), len(mask), mask.device)
        owned = self._owner == (list(self._nets).index(units) + 1 if units in self._nets else 0)
        return mask & ~covered & ((self._owner == 0) | owned)

    def _reads(self, other_nets: dict[Units, Subnetwork]) -> set[Units]:
        """Return the others without which this task's lesson would have gone otherwise, KKT aside.

        Every score's gradient is multiplied by its weight, so that one trained weight anywhere is enough; and a mask
        that covers what no other covers keeps weights from being trained.
        """
        if not self._shares or not other_nets:
            return set()
        if self._writes == "mask":
            return set(other_nets)
        needed = {u for u in other_nets if self._has_written(u)}
        for u in set(other_nets) - needed:
            covered = union((net.bits for v, net in other_nets.items() if v != u), len(self._canvas))
            if (other_nets[u].bits & ~covered).any():
                needed.add(u)
        return needed

    def _overwrite(self, units: Units, mask: torch.Tensor, other_nets: dict[Units, Subnetwork]) -> None:
        """Note that earlier subnetworks compute with weights that this task has trained."""
        bits, trained = pack(mask), self._nets[units]
        for u, net in other_nets.items():
            if (net.bits & bits).any():
                net.reads = [v for v in self._nets if v in {*net.reads, units} and v != u]
                net.derived |= trained.derived
                net.stale |= trained.stale
                net.seal = self._canvas.seal(net)

    # --- ownership --------------------------------------------------------------------------------------------------

    def _no_owner(self, count: int) -> torch.Tensor:
        size = len(self._canvas) if self._writes == "free" else 0
        return torch.zeros(size, dtype=_number_type(count), device=self._canvas.device)

    def _mark_owner(self, units: Units, free: torch.Tensor) -> None:
        """Write down who has trained which weights: positions in the order of subnetworks, from 1; 0 is nobody."""
        number = list(self._nets).index(units) + 1
        self._owner = self._owner.to(_number_type(len(self._nets)))
        self._owner[free] = number

    def _has_written(self, units: Units) -> bool:
        if self._writes != "free":
            return self._writes != "nothing"
        return bool((self._owner == list(self._nets).index(units) + 1).any())

    # --- deletion ---------------------------------------------------------------------------------------------------

    @property
    def _coupled(self) -> bool:
        """Whether a task can depend on others at all."""
        return self._shares or self._config.kkt != "none"

    @property
    def _shares(self) -> bool:
        """Whether tasks train weights that others compute with."""
        return self._writes in ("mask", "free")

    def _affected(self, ids: np.ndarray) -> tuple[set[Units], set[Units]]:
        """Return the subnetworks that saw any of `ids`, and the others that would be different without them.

        A subnetwork that is dropped as a whole changes those that depend on it. One that is learned again on less may
        train other weights, or be chosen by KKT, and changes all that came after it. What was learned after any of
        those is learned again too, since it must be in the old order.
        """
        touched = {u for u, net in self._nets.items() if net.own[ids].any()}
        if not self._coupled or not touched:
            return touched, set()
        order = list(self._nets)
        if self._writes == "mask":  # what was overwritten cannot be had back but from the start
            return touched, set(order) - touched
        starts = []
        for u in touched:
            rest = self._nets[u].own.copy()
            rest[ids] = False
            starts += [order.index(v) for v in ([u] if rest.any() else self.dependents(u))]
        if not starts:
            return touched, set()
        start = min(starts)
        while True:
            positions = [i for i, u in enumerate(order) if self._nets[u].seen > start]
            if min(positions) == start:
                return touched, set(order[start:]) - touched
            start = min(positions)

    def _drop(self, dropped: set[Units]) -> None:
        """Take subnetworks out, and put the weights that only they have trained back to what they were at first."""
        canvas, order = self._canvas, list(self._nets)
        canvas.take_off()
        remaining = [u for u in order if u not in dropped]
        if self._writes == "free":
            numbers = torch.zeros(len(order) + 1, dtype=torch.int64, device=canvas.device)
            for number, u in enumerate(remaining, 1):
                numbers[order.index(u) + 1] = number
            owner = numbers[self._owner.long()]
            if self._erases:
                self._reset((owner == 0) & (self._owner > 0))
            self._owner = owner.to(_number_type(len(remaining)))
        elif self._writes == "mask" and self._erases:
            written = union((self._nets[u].bits for u in dropped), len(canvas))
            shared = union((self._nets[u].bits for u in remaining), len(canvas))
            only = unpack(written & ~shared, len(canvas), canvas.device)
            self._reset(only if remaining else torch.ones_like(only))
        for u in remaining:
            net = self._nets[u]
            net.seen -= sum(i < net.seen for i, v in enumerate(order) if v in dropped)
            net.reads = [v for v in net.reads if v not in dropped]
        self._nets = {u: self._nets[u] for u in remaining}
        for u in remaining:
            self._seal(u)

    def _reset(self, where: torch.Tensor) -> None:
        """Put weights back to their initial values."""
        if bool(where.any()):
            self._canvas.weights[where] = self._canvas.initial()[where]

    def _grade(self) -> Exactness:
        return "none" if self._left.any() or any(net.stale for net in self._nets.values()) else "bits"

    # --- the seal ---------------------------------------------------------------------------------------------------

    def _seal(self, units: Units) -> None:
        """Hash what a subnetwork computes with; all others are looked at again before anything else happens."""
        net = self._nets[units]
        net.seal = self._canvas.seal(net)
        self._sealed = None

    def _check(self) -> None:
        """Make sure that no weight has changed since the last look; costs nothing if none was written."""
        if not self._learning and self._canvas.version != self._sealed:
            self._verify()

    def _verify(self) -> None:
        """Compare every subnetwork's weights with its seal.

        Raises:
            IntegrityError: they differ.
        """
        for units, net in self._nets.items():
            if self._canvas.seal(net) != net.seal:
                raise IntegrityError(
                    f"Weights of the subnetwork of {self._name(units)} have changed, and nothing may change them. "
                    f"Something else has written into the shared network; go back to the last checkpoint."
                )
        self._sealed = self._canvas.version

    # --- answering --------------------------------------------------------------------------------------------------

    def _interrupt(self) -> Callable[[], None]:
        """Return what puts the model back; it may be asked for answers in the middle of a lesson."""
        canvas = self._canvas
        if not self._learning:
            return canvas.take_off
        worn, buffers = canvas.lens.shown, canvas.buffers()

        def restore() -> None:
            canvas.put(buffers)
            canvas.lens.show(*worn)

        return restore

    # --- what it says of itself -------------------------------------------------------------------------------------

    def _name(self, units: Units) -> str:
        return "+".join(self._setting.units[u].name for u in units)

    def _lesson_traits(
        self, units: Units, mask: torch.Tensor, free: torch.Tensor, other_nets: dict[Units, Subnetwork]
    ) -> dict[str, dict[str, float]]:
        """Return, for the report, how much of its mask a task could train, and how much it shares with whom."""
        size, name, bits = int(mask.sum()), self._name(units), pack(mask)
        covered = union((net.bits for net in other_nets.values()), len(mask))
        traits = {
            name: {
                "mask_density": size / sum(s.stop - s.start for s in self._canvas.spans_of(units)),
                "mask_overlap": _count(bits & covered) / size,
                "free_share": int(free.sum()) / size,
            }
        }
        order = list(self._nets)
        for u in self._nets[units].reads:
            owned = self._nets[u].bits if self._writes != "free" else pack(self._owner == order.index(u) + 1)
            traits[f"{self._name(u)} > {name}"] = {"inherited": _count(bits & owned) / size}
        for u, net in other_nets.items():
            if self._writes == "mask" and units in net.reads:  # overwritten
                traits[f"{name} > {self._name(u)}"] = {"inherited": _count(bits & net.bits) / _count(net.bits)}
        return traits

    def _capacity(self) -> dict[str, dict[str, float]]:
        """Return the share of each layer's weights that lie in any mask, and storage against one network per task."""
        canvas = self._canvas
        used = unpack(union((net.bits for net in self._nets.values()), len(canvas)), len(canvas), canvas.device)
        traits = {
            f"layer {layer.name}": {"capacity_used": int(used[layer.start : layer.stop].sum()) / layer.size}
            for layer in canvas.layers
        }
        if self._nets:
            network_bytes = canvas.model.num_bytes()
            trained = (canvas.weights, self._owner) if self._shares else ()
            total = sum(t.numel() * t.element_size() for t in trained)
            total += sum(net.num_bytes() for net in self._nets.values())
            traits["stream"] = {"storage_share": total / (network_bytes * len(self._nets))}
        return traits


def _count(bits: torch.Tensor) -> int:
    return int(np.unpackbits(bits.numpy()).sum())


def _number_type(count: int) -> torch.dtype:
    return torch.uint8 if count < 256 else torch.int32
