"""SISA: shards, each with a model trained slice by slice; a request goes back to before the first slice it hits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Outcome, Setting, State, Strategy
from strategies.parts.fit import FitConfig, fit
from strategies.parts.model import FlatModel
from strategies.parts.sharding.deltas import pack, unpack
from strategies.parts.sharding.ensembles import mean_probability, vote
from strategies.parts.sharding.stages import Chain, Stage, partition, restart_before
from streams.config import Config as BaseConfig
from streams.data import Batch, Data
from streams.events import DeletionRequest, Experience
from streams.randomness import Key


class Config(BaseConfig):
    """Options of `sisa` (Bourtoule et al. 2021, arXiv 1912.03817)."""

    shards: int = Field(5, ge=1)
    """Disjoint parts of the data with a model each (m)."""
    slices: int = Field(4, ge=1)
    """Parts of a shard that are learned one after the other, with a checkpoint before each (L; R in the paper). Every
    experience brings that many to every shard."""
    aggregate: Literal["vote", "mean"] = "vote"
    """vote: each model votes for a class (of text: a token at every position), and of equal votes the lowest wins.
    mean: the mean of their probabilities; what only one shard has learned is then said, too."""
    epochs: Literal["sliced", "training"] = "sliced"
    """Epochs of a stage. sliced: 2 e / (L + 1) of the e epochs of training, at least 1, so that slicing costs what
    plain training does; training: e."""
    trains_on: Literal["cumulative", "slice"] = "cumulative"
    """What a stage trains on: all that the shard holds so far (the paper), or the new slice only."""
    fresh: Literal["never", "stages", "everything"] = "never"
    """New randomness at every request, which makes it exact in law instead of in bits. stages: for the stages that are
    trained again. everything: partition and all shards anew, at the price of training everything; nothing less helps
    against requests that depend on published models."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """The choices that exactness rests on. `lifelong verify` replaces them one by one, to show that it would notice.

    Attributes:
        partition: from ids, a number of parts and a key to the part of each id.
        restart: from the first stage that saw a deleted sample to the first that is trained again.
        fit: trains.
    """

    partition: Callable[[np.ndarray, int, Key], np.ndarray]
    restart: Callable[[int], int] = restart_before
    fit: Callable[[FlatModel, Setting, Data, FitConfig, Key], Outcome] = lambda model, setting, data, training, key: (
        fit(model, setting.objective, data, training, key)
    )


def stage_epochs(epochs: int, slices: int) -> int:
    """Return 2 e / (L + 1), rounded, at least 1: then all stages together visit as many samples as e plain epochs.

    >>> stage_epochs(10, 4), stage_epochs(1, 4)
    (4, 1)
    """
    return max(1, round(2 * epochs / (slices + 1)))


HONEST = Recipe(partition)


@final
class Sisa(Strategy):
    """One chain of stages per shard. Each experience appends its slices; randomness is named by shard and slice.

    A stage that brings no live sample is left out. The optimizer is fresh in every stage. Checkpoints are kept as
    lossless differences; the model that predicts is the last of them.
    """

    exact = "always"
    state_grows = True
    test_options = {"shards": 2, "slices": 2}

    def __init__(self, config: Config, setting: Setting, recipe: Recipe = HONEST) -> None:
        """Start with empty shards."""
        self._config, self._setting, self._recipe = config, setting, recipe
        self._model = setting.make_model()
        self._start = pack(self._model)
        training = setting.training
        if config.epochs == "sliced":
            training = training.model_copy(update={"epochs": stage_epochs(training.epochs, config.slices)})
        self._training = training
        self._begin("")

    @property
    @override
    def access(self) -> Access:
        """The remaining data of the shards that a request touches."""
        return Access(retained="full")

    @override
    def learn(self, experience: Experience, door: Door) -> Outcome:
        """Append the experience's slices to every shard."""
        ids = experience.sample_ids
        shard_of = self._recipe.partition(ids, self._config.shards, self._names / "shard")
        slice_of = self._recipe.partition(ids, self._config.slices, self._names / "slice")
        outcome, stages = Outcome(), 0.0
        for number, chain in enumerate(self._chains):
            for part in range(self._config.slices):
                own = ids[(shard_of == number) & (slice_of == part)]
                done = chain.learn(Stage(experience.name, experience.incarnation, part, own), door)
                stages += done.notes.get("stages", 0.0)
                outcome += done
        return outcome.noted(stages=stages)

    @override
    def forget(self, request: DeletionRequest, door: Door) -> Outcome:
        """Train every shard that holds a sample again from before the first slice with one; leave the others alone."""
        if self._config.fresh == "everything":
            return self._retrain(request.name, door).graded("law")
        outcome, stages = Outcome(), 0.0
        for number, chain in enumerate(self._chains):
            again = self._names / "shard" / number / request.name if self._config.fresh == "stages" else None
            done = chain.forget(request.sample_ids, door, again)
            stages += done.notes.get("stages", 0.0)
            outcome += done
        return outcome.noted(stages=stages).graded("law" if self._config.fresh == "stages" else "bits")

    @override
    def predict(self, batch: Batch) -> torch.Tensor:
        """Return the log shares of votes, or of mean probability, ``[B, ..., C]``; for a regressor the mean output."""
        outputs = torch.stack(self.constituents(batch))
        if self._setting.objective.probabilities(outputs[0], batch) is None:
            return outputs.mean(0)
        return vote(outputs) if self._config.aggregate == "vote" else mean_probability(outputs)

    @torch.inference_mode()
    @override
    def constituents(self, batch: Batch) -> list[torch.Tensor]:
        """Return the outputs of the model of every shard that has learned something, or of the initial model."""
        self._model.train(False)
        outputs = []
        for state in [c.state for c in self._chains if c.stages] or [self._start]:
            unpack(self._model, state)
            outputs.append(self._setting.objective.outputs(self._model, batch))
        return outputs

    @override
    def features(self, batch: Batch) -> None:
        """Return None: the shards share no feature space."""
        return

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        by_component = {f"shard-{number}": chain.derived_from(ids) for number, chain in enumerate(self._chains)}
        return {component: held for component, held in by_component.items() if len(held)}

    @override
    def stored_ids(self) -> np.ndarray:
        return np.array([], dtype=np.int64)

    @override
    def state_dict(self) -> State:
        return {"root": self._root, "shards": [chain.state_dict() for chain in self._chains]}

    @override
    def load_state_dict(self, state: State) -> None:
        self._begin(state["root"])
        for chain, stages in zip(self._chains, state["shards"], strict=True):
            chain.load_state_dict(stages)

    def _begin(self, root: str) -> None:
        """Empty all shards and name their randomness by `root`, the request that last made everything anew."""
        self._root = root
        self._names = self._setting.key / "sisa" / root if root else self._setting.key / "sisa"
        cumulative, restart = self._config.trains_on == "cumulative", self._recipe.restart
        self._chains = [
            Chain(self._start, self._train, self._names / "shard" / n, cumulative, restart)
            for n in range(self._config.shards)
        ]

    def _retrain(self, root: str, door: Door) -> Outcome:
        self._begin(root)
        outcome, stages = Outcome(), 0.0
        for experience in door.history():
            done = self.learn(experience, door)
            stages += done.notes["stages"]
            outcome += done
        return outcome.noted(stages=stages)

    def _train(self, state: np.ndarray, data: Data, key: Key) -> tuple[np.ndarray, Outcome]:
        unpack(self._model, state)
        outcome = self._recipe.fit(self._model, self._setting, data, self._training, key)
        return pack(self._model), outcome
