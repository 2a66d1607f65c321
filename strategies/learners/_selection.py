"""What learners share that choose what to train on: a pool of all samples so far, and a budget per experience."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Lesson, Outcome, Plugin, Setting, State
from strategies.objectives._base import Objective
from strategies.outcome import Draw, LastDraw, Selector
from strategies.parts.model import FlatModel
from strategies.parts.selection.deduplication import first_copies
from strategies.parts.selection.gradient_features import Projector, find_block
from strategies.parts.selection.selectors import Formulas
from strategies.parts.selection.survey import Look, NoImage, Surveyed, available, survey
from streams.config import Config as BaseConfig
from streams.data import Data
from streams.errors import ConfigError
from streams.events import DeletionRequest, Experience
from streams.randomness import Key


class SelectionConfig(BaseConfig):
    """Options of everything that chooses what to train on."""

    share: float = Field(0.25, gt=0)
    """Budget of an experience: samples drawn from the pool (old and new), as a share of those that it brings."""
    samples: int | None = Field(None, ge=1)
    """The budget as a number of samples, in place of `share`."""
    copies: bool = False
    """Whether a sample may be drawn that is a copy, bit for bit, of one in the pool that has a lower id."""

    def budget(self, arriving: int) -> int:
        """Return how many samples to draw when `arriving` samples come."""
        return self.samples or max(math.ceil(self.share * arriving), 1)


class SurveyConfig(SelectionConfig):
    """Options of everything that looks at samples with the model before it chooses."""

    block: int | str | None = None
    """Where gradients are taken: an index of the network's transformer blocks, or of its body's layers if it has none
    (negative ones count from the end), or a module's path. Null takes the middle transformer block, or the last
    layer."""
    formulas: Formulas = "paper"
    """Perplexity as exp of the mean loss, entropy over response tokens (paper); or the mean of exp(loss) of single
    tokens, also below image grounding, which is no logarithm then, and entropy over prompt tokens too (released)."""
    no_image: NoImage = "zeros"
    """What image grounding compares with: zeros in place of the normalised image (the mean colour), as released, or no
    image at all."""
    batch: int = Field(64, ge=1)
    """Samples per pass of the survey."""
    memory_mb: int = Field(256, ge=1)
    """Upper limit, in MiB, of what gradients of single samples, kept projection matrices and blocks of similarities may
    take, each."""

    @property
    def memory(self) -> int:
        """The limit in bytes."""
        return self.memory_mb << 20


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a selection came to.

    Attributes:
        draw: the samples.
        cost: of looking at them.
        notes: numbers to tell about it.
    """

    draw: Draw
    cost: Outcome
    notes: dict[str, float]


class Selection(Plugin, ABC):
    """Keeps a pool of samples and trains each experience on a draw from it. It wraps any other plugins."""

    trains_on: Literal["all", "choice", "draw"] = "choice"
    state_grows = True
    test_options = {"share": 1.0}
    config: SelectionConfig
    name: ClassVar[str]
    """Of the plugin, for the names of its randomness."""

    def __init__(self, config: SelectionConfig, setting: Setting) -> None:
        """Start with an empty pool."""
        super().__init__(config, setting)
        self._key = setting.key / self.name
        self._arrival = np.full(setting.num_samples, -1, dtype=np.int32)
        self._experiences = 0
        self._derived = np.zeros(setting.num_samples, dtype=bool)
        self._drawn = np.zeros(setting.num_samples, dtype=bool)
        self._last: Chosen | None = None
        self.brought = np.array([], dtype=np.int64)
        """Ids of the experience at hand, whether they came before or not."""

    @abstractmethod
    def choose(self, data: Data, allowed: np.ndarray, budget: int, model: FlatModel, key: Key) -> Chosen:
        """Choose what to train on.

        Args:
            data: the pool, in ascending order of id.
            allowed: bool ``[n]`` what may be drawn.
            budget: how many to draw; all that is allowed if that is fewer.
            model: as the experiences before have left it.
            key: names the randomness.
        """

    @property
    @override
    def access(self) -> Access:
        return Access(retained="full")

    @override
    def select(self, ids: np.ndarray, experience: Experience, door: Door, model: FlatModel) -> np.ndarray:
        """Take new samples into the pool and draw from it."""
        self.brought = ids
        new = ids[self._arrival[ids] < 0]
        self._arrival[new] = self._experiences
        self._experiences += 1
        data = door.fetch(self.pool)
        allowed = np.ones(len(data), dtype=bool)
        if not self.config.copies:
            allowed[:] = False
            allowed[first_copies(data)] = True
        key = self._key / experience.name / experience.incarnation
        self._last = self.choose(data, allowed, self.config.budget(len(ids)), model, key)
        if self.trains_on == "choice" or not allowed.all():
            self._derived[data.ids] = True
        drawn = self._last.draw.pool[self._last.draw.drawn]
        self._drawn[:] = False
        self._drawn[drawn] = True
        return drawn

    @property
    def pool(self) -> np.ndarray:
        """Ids in the pool, ascending."""
        return np.flatnonzero(self._arrival >= 0)

    @override
    def end(self, lesson: Lesson) -> Outcome:
        assert self._last is not None
        chosen, self._last = self._last, None
        notes = {
            "pool_size": float(len(self.pool)),
            "drawn_samples": float(chosen.draw.drawn.sum()),
            "selection_forward": float(chosen.cost.forward),
            "selection_backward": float(chosen.cost.backward),
        }
        return chosen.cost + Outcome(traits={"event": notes | chosen.notes}, draw=chosen.draw)

    @override
    def purge(self, request: DeletionRequest) -> None:
        """Take the request's samples out of the pool and the last draw; nothing else outlives a draw."""
        self._arrival[request.sample_ids] = -1
        self._drawn[request.sample_ids] = False

    @override
    def offers(self) -> tuple[object, ...]:
        """Return what of the last draw is still in the pool."""
        return (LastDraw(np.flatnonzero(self._drawn & (self._arrival >= 0))),)

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return what is in the pool, and what had a say in earlier draws."""
        return {"pool": ids[self._arrival[ids] >= 0], "draws": ids[self._derived[ids]]}

    @override
    def stored_ids(self) -> np.ndarray:
        return self.pool

    @override
    def state_dict(self) -> State:
        """Return when each sample came into the pool, and what was drawn."""
        return {
            "arrival": torch.from_numpy(self._arrival.copy()),
            "experiences": self._experiences,
            "derived": torch.from_numpy(self._derived.copy()),
            "drawn": torch.from_numpy(self._drawn.copy()),
        }

    @override
    def load_state_dict(self, state: State) -> None:
        self._arrival, self._experiences = state["arrival"].numpy().copy(), state["experiences"]
        self._derived, self._drawn = state["derived"].numpy().copy(), state["drawn"].numpy().copy()


class SurveyingSelection(Selection):
    """A selection that looks at every sample of the pool with the model first."""

    inert = {"memory_mb": "what does not fit is computed in parts"}
    config: SurveyConfig
    scores: ClassVar[bool] = True
    """Whether it scores samples by what the model predicts."""

    def __init__(self, config: SurveyConfig, setting: Setting) -> None:
        """Start with an empty pool.

        Raises:
            ConfigError: the model predicts no distributions.
        """
        super().__init__(config, setting)
        if self.scores and type(setting.objective).responses is Objective.responses:
            raise ConfigError(
                f"learner: {self.name} scores samples by predicted distributions; it works on classifiers and language "
                f"models. For numbers choose random-selection or semdedup."
            )

    def look(
        self,
        data: Data,
        model: FlatModel,
        key: Key,
        wanted: tuple[Selector, ...] | None,
        projector: Projector | None = None,
        embeddings: bool = False,
        sign: bool = False,
    ) -> Surveyed:
        """Survey the pool for some scores (None takes all that make sense); interrupted, it goes on where it was."""
        config, objective = self.config, self.setting.objective
        few = data.batch(torch.arange(min(len(data), 2), device=data.targets().device))
        selectors = available(objective, few, wanted, f"learner.{self.name}")
        block = None
        if projector is not None or "grand" in selectors:
            block = find_block(model, config.block, f"learner.{self.name}.block")
        look = Look(
            selectors,
            block,
            projector,
            embeddings,
            "sign" if sign else "sgd",
            config.formulas,
            config.no_image,
            config.batch,
            config.memory,
        )
        return survey(model, objective, data, look, key / "survey")
