"""The contracts: Strategy, Learner, Plugin, Unlearner, Guard, and the Setting they are built in."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch

from strategies.objectives._base import Objective
from strategies.outcome import Exactness, Outcome
from strategies.parts.fit import Hooks, Training
from strategies.parts.model import FlatModel, num_bytes
from strategies.parts.training.optimizers import Optimizer
from strategies.predicts import EVERYTHING, Predicts
from strategies.ranges import Space
from streams.config import Config, NameOrOptions
from streams.data import Batch, Data
from streams.errors import ConfigError
from streams.events import DeletionRequest, Experience, Scope, Unit
from streams.ledger import Access, Door
from streams.randomness import Key

__all__ = [
    "EVERYTHING",
    "Access",
    "Door",
    "ExactAt",
    "Exactness",
    "Guard",
    "Learner",
    "Lesson",
    "Outcome",
    "Plugin",
    "Predicts",
    "Release",
    "Scope",
    "Setting",
    "State",
    "Strategy",
    "Unlearner",
]

T = TypeVar("T")

ExactAt = Literal["always", "sometimes"]
"""At which requests a strategy is exact: at every one; or at some, as others build on what is deleted."""

State = dict[str, Any]
"""A nested dict of tensors and plain values: what a checkpoint can hold without pickling objects."""


Becomes = Mapping[str, Mapping[str, Any]]
"""Methods, each with the options under which another one is it."""


def _became(becomes: Becomes, config: Config) -> str | None:
    for other, options in becomes.items():
        if all(getattr(config, key) == value for key, value in options.items()):
            return other
    return None


@dataclass(frozen=True, slots=True)
class Setting:
    """Everything a strategy is built from that is not its own choice.

    Attributes:
        key: root of all the run's randomness; extend it by name, never by position.
        make_model: returns a freshly initialised model; every call returns the same weights. Frozen ones are shared by
            all models: who changes them in place gives the model its own (`FlatModel.own_frozen`).
        objective: the kind of task.
        training: how one experience is trained.
        units: what accuracy is reported for, with the classes of each.
        num_samples: rows of the source, to size per-sample masks.
        make_outline: returns what `outline` does; None takes it from a model.
        device: where models are.
    """

    key: Key
    make_model: Callable[[], FlatModel]
    objective: Objective
    training: Training
    units: tuple[Unit, ...]
    num_samples: int
    make_outline: Callable[[], FlatModel] | None = None
    device: str = "cpu"

    def outline(self) -> FlatModel:
        """Return a model without values (on torch's meta device), for who asks for names, sizes and parts alone.

        No weights are read or copied for it. It is shared, and not to be changed.
        """
        return self.make_model().copied("meta") if self.make_outline is None else self.make_outline()

    def zeros(self) -> torch.Tensor:
        """Return a zero for each trained weight ``[P]``, on the models' device."""
        return torch.zeros_like(self.outline().parameters, device=self.device)


@dataclass(frozen=True, slots=True, eq=False)
class Release:
    """What stands behind a publication, for `lifelong verify` alone: who publishes with noise shows both.

    Attributes:
        secret: the noise-free weights, float64 of any shape.
        published: what predictions are made with.
        coupling: by what the noise inside of `secret` is named, if there is any (objective perturbation): distances
            of two lives mean something where it is the same.
        scale: a distance times this is what the guarantee's residuals bound.
    """

    secret: torch.Tensor
    published: torch.Tensor
    coupling: str = ""
    scale: float = 1.0


class Strategy(ABC):
    """How one model lives through a stream. Strategies never know that they are measured.

    What it declares are facts about it, at its options; tests hold it to them. None of them has to be declared.
    """

    exact: ExactAt | None = None
    """At which requests it is exact. None: its outcomes say, and they say the same of all requests."""
    state_grows: bool = False
    """Whether its state grows with the experiences and requests that it has seen; it is bounded otherwise."""
    within_units: bool = False
    """Whether it knows no classes of an experience but those of its units; a stream that brings others is refused."""
    reads_permanent_only: bool = False
    """Whether the earlier samples that it may read are those of permanent experiences alone."""
    test_options: ClassVar[Mapping[str, Any]] = {}
    """Options with which it is small enough for tests; what is not named keeps its default."""
    inert: ClassVar[Mapping[str, str]] = {}
    """Own options that change neither what it becomes nor what it answers, with the reason."""
    idle_state: ClassVar[Mapping[str, str]] = {}
    """Parts of the state that no life of the tests changes, with the reason; ``model/buffers`` is a part in a part, and
    ``*`` stands for any number."""
    ranges: ClassVar[Mapping[str, Space]] = {}
    """Own options that decide how strongly it acts, and in which range they are tuned; at most six."""

    supports: ClassVar[frozenset[Predicts]] = EVERYTHING
    """What a model may predict that it can serve; checked before it is built, and read without importing it."""
    unheeded: ClassVar[Mapping[str, str]] = {"carry_optimizer": "its optimizers start afresh in every lesson"}
    """Options of `training` that an isolated strategy cannot heed, with the reason: a run that sets one is refused."""
    always: ClassVar[Mapping[str, object]] = {}
    """Options of `training` that have one value for it, other than the default: it does so whether a run asks for that
    or says nothing."""

    @property
    @abstractmethod
    def access(self) -> Access:
        """What it may read; the runner enforces and reports it."""

    @abstractmethod
    def learn(self, experience: Experience, door: Door) -> Outcome:
        """Learn an experience; its samples are free to read through the door."""

    @abstractmethod
    def forget(self, request: DeletionRequest, door: Door) -> Outcome:
        """Serve a request; return an outcome with an exactness grade."""

    def consolidate(self, experience: Experience, door: Door) -> Outcome:
        """Make permanent what was learned as temporary; most know no such difference and do nothing."""
        return Outcome()

    @abstractmethod
    def predict(self, batch: Batch) -> torch.Tensor:
        """Return outputs ``[B, num_outputs]`` in evaluation mode, for the objective to score."""

    def constituents(self, batch: Batch) -> list[torch.Tensor]:
        """Return the outputs ``[B, num_outputs]`` of each model that is published; most have but one."""
        return [self.predict(batch)]

    @abstractmethod
    def features(self, batch: Batch) -> torch.Tensor | None:
        """Return penultimate features ``[B, F]`` in evaluation mode, or None where there is no single space."""

    @abstractmethod
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return, per component of the state, those of `ids` it contains or was derived from; empty ones left out."""

    @abstractmethod
    def stored_ids(self) -> np.ndarray:
        """Return the ids whose raw samples it keeps (they count as state)."""

    @abstractmethod
    def state_dict(self) -> State:
        """Return everything that later behaviour depends on, copied."""

    def state_bytes(self) -> int:
        """Return the size of the state (`num_bytes`); overridden by who can tell without copying it."""
        return num_bytes(self.state_dict())

    @abstractmethod
    def load_state_dict(self, state: State) -> None:
        """Put a state back."""

    def network(self) -> FlatModel | None:
        """Return a copy of the model that predicts, for audits to take apart, or None where there is no single one."""
        return None

    def release(self) -> Release | None:
        """Return what stands behind the last publication, of a strategy with the grade ``certified``; else None."""
        return None

    def restore(self, door: Door) -> None:  # noqa: B027 (most have nothing to finish)
        """Finish loading with access to the data; called once after `load_state_dict`, with full access."""


class Learner(ABC):
    """The learning half of a composed strategy: one model that takes experiences."""

    supports: ClassVar[frozenset[Predicts]] = EVERYTHING
    """See `Strategy.supports`."""

    setting: Setting
    model: FlatModel

    state_grows: bool = False
    """See `Strategy.state_grows`."""
    always: ClassVar[Mapping[str, object]] = {}
    """See `Strategy.always`."""
    restores_by_reliving: bool = False
    """Whether a checkpoint is restored by learning all that was learned once more, for it holds no inner state. After a
    request that changed the weights in another way it cannot be restored."""
    test_options: ClassVar[Mapping[str, Any]] = {}
    """See `Strategy.test_options`."""
    inert: ClassVar[Mapping[str, str]] = {}
    """See `Strategy.inert`."""
    idle_state: ClassVar[Mapping[str, str]] = {}
    """See `Strategy.idle_state`."""
    ranges: ClassVar[Mapping[str, Space]] = {}
    """See `Strategy.ranges`."""

    @property
    @abstractmethod
    def access(self) -> Access:
        """What it may read beside the experience."""

    @abstractmethod
    def learn(self, experience: Experience, door: Door) -> Outcome:
        """Learn an experience."""

    @abstractmethod
    def reset(self) -> None:
        """Return to the state before the first experience."""

    @abstractmethod
    def purge(self, request: DeletionRequest) -> None:
        """Remove what it keeps of the request's samples, before the unlearner acts."""

    @abstractmethod
    def settle(self) -> None:
        """Accept the weights an unlearner left: move anchors and teachers to them."""

    @abstractmethod
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """See `Strategy.holds`; the model's own component is ``weights``."""

    @abstractmethod
    def stored_ids(self) -> np.ndarray:
        """See `Strategy.stored_ids`."""

    @abstractmethod
    def state_dict(self) -> State:
        """See `Strategy.state_dict`."""

    def state_bytes(self) -> int:
        """See `Strategy.state_bytes`."""
        return num_bytes(self.state_dict())

    @abstractmethod
    def load_state_dict(self, state: State) -> None:
        """See `Strategy.load_state_dict`."""

    def restore(self, door: Door) -> None:  # noqa: B027
        """See `Strategy.restore`."""

    def part(self, kind: type[T]) -> T:
        """Return the one thing of a kind that a plugin offers to unlearners.

        Raises:
            ConfigError: no plugin does.
        """
        raise ConfigError(f"The learner has no plugin that offers {kind.__name__}.")


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a plugin is told when training on an experience begins and ends.

    Attributes:
        experience: what is learned.
        data: what is trained on.
        door: for reading what the plugin has declared to keep.
        model: the model as it is.
        key: names this lesson's randomness (experience and incarnation).
        steps: optimizer steps the lesson takes.
    """

    experience: Experience
    data: Data
    door: Door
    model: FlatModel
    key: Key
    steps: int


class Plugin(Hooks):
    """One learning method as changes to the plain loop. Override what you need; the rest is never called."""

    supports: ClassVar[frozenset[Predicts]] = EVERYTHING
    """See `Strategy.supports`."""
    trains_on: Literal["all", "choice", "draw"] = "all"
    """What samples of an experience it trains on: all; a choice, in which those that are not chosen have a say; or a
    draw by chance, in which they have none."""
    state_grows: bool = False
    """See `Strategy.state_grows`."""
    test_options: ClassVar[Mapping[str, Any]] = {}
    """See `Strategy.test_options`."""
    inert: ClassVar[Mapping[str, str]] = {}
    """See `Strategy.inert`."""
    idle_state: ClassVar[Mapping[str, str]] = {}
    """See `Strategy.idle_state`."""
    ranges: ClassVar[Mapping[str, Space]] = {}
    """See `Strategy.ranges`."""
    becomes: ClassVar[Becomes] = {}
    """Other plugins that it is under some of its options, but for what is drawn: ``{"naive": {"strength": 0.0}}``."""

    def __init_subclass__(cls) -> None:
        """Refuse what is nearly called as a hook is: it would never be called, and the method would do nothing.

        Raises:
            ConfigError: there is such a method.
        """
        super().__init_subclass__()
        hooks = [name for name in dir(Plugin) if name[0] != "_"]
        for name, value in vars(cls).items():
            near = difflib.get_close_matches(name, hooks, n=1, cutoff=0.8)
            if callable(value) and name[0] != "_" and near and near[0] != name:
                raise ConfigError(
                    f"{cls.__name__}.{name} is no hook and would never be called. Did you mean {near[0]!r}? What is no "
                    f"hook starts with an underscore."
                )

    def __init__(self, config: Config, setting: Setting) -> None:
        """Keep the options; build state in `begin` or here, from the setting alone."""
        self.config = config
        self.setting = setting

    def became(self) -> str | None:
        """Return which of `becomes` it is with the options that it has, in its setting."""
        return _became(self.becomes, self.config)

    @property
    def access(self) -> Access:
        """What it reads beside the experience."""
        return Access()

    def select(self, ids: np.ndarray, experience: Experience, door: Door, model: FlatModel) -> np.ndarray:
        """Return the ids to train on, given those so far and the model as it is; the door shows their samples."""
        return ids

    def begin(self, lesson: Lesson) -> None:
        """Prepare for training on an experience."""

    def trained_beside(self) -> np.ndarray:
        """Return ids that its hooks put into batches and that nothing has trained on before; asked after `begin`."""
        return np.array([], dtype=np.int64)

    def steps(self, lesson: Lesson) -> Optimizer | None:
        """Return what takes the steps in place of the configured optimizer, or None; asked after `begin`."""
        return None

    def end(self, lesson: Lesson) -> Outcome:
        """Update the state after training; return what that cost."""
        return Outcome()

    def purge(self, request: DeletionRequest) -> None:
        """Remove what is kept of the request's samples."""

    def settle(self, model: FlatModel) -> None:
        """Accept weights that an unlearner has changed."""

    def offers(self) -> tuple[object, ...]:
        """Return what unlearners may read and change: notes that were taken while learning."""
        return ()

    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return, per component, those of `ids` the state contains or was derived from."""
        return {}

    def stored_ids(self) -> np.ndarray:
        """Return the ids whose raw samples it keeps."""
        return np.array([], dtype=np.int64)

    def state_dict(self) -> State:
        """Return the state, copied."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Put a state back."""


class Unlearner(ABC):
    """The forgetting half of a composed strategy: changes a learner's model on request.

    What it declares here is checked before a run starts. It keeps nothing between requests: what must outlive one
    (stored updates, importances) belongs to a learner plugin, which is purged, saved and audited like all others.
    """

    scopes: tuple[Scope, ...] = ("sample", "class", "task", "user")
    """What a request may name."""
    whole_classes: bool = False
    """Whether it deletes classes as a whole only: no sample of a request's classes may stay."""
    needs_convolutions: ClassVar[bool] = False
    """Whether it changes convolutions alone at its default options, and refuses a network without one."""
    needs_experts: ClassVar[bool] = False
    """Whether it works in mixtures of experts alone, and refuses other networks."""
    supports: ClassVar[frozenset[Predicts]] = EVERYTHING
    """See `Strategy.supports`."""
    exact: ExactAt | None = None
    """See `Strategy.exact`."""
    test_options: ClassVar[Mapping[str, Any]] = {}
    """See `Strategy.test_options`."""
    inert: ClassVar[Mapping[str, str]] = {}
    """See `Strategy.inert`."""
    ranges: ClassVar[Mapping[str, Space]] = {}
    """See `Strategy.ranges`."""
    becomes: ClassVar[Becomes] = {}
    """Other unlearners that it is under some of its options, but for what is drawn: ``{"finetune": {"gamma": 0.0}}``.
    """

    def __init__(self, config: Config, setting: Setting) -> None:
        """Keep the options."""
        self.config = config
        self.setting = setting

    def became(self) -> str | None:
        """Return which of `becomes` it is with the options that it has, in its setting."""
        return _became(self.becomes, self.config)

    @classmethod
    def follows(cls, options: Config) -> NameOrOptions | None:
        """Return the other unlearner that it would run, or None."""
        return None

    @property
    def name(self) -> str:
        """What a configuration calls it; its draws are named so."""
        return type(self).__module__.rsplit(".", 1)[-1].replace("_", "-")

    @property
    @abstractmethod
    def access(self) -> Access:
        """What it may read while serving a request."""

    @property
    def needs_plugins(self) -> tuple[str, ...]:
        """Names of the learner plugins whose notes it reads."""
        return ()

    @property
    def needs_retained(self) -> bool:
        """Whether it cannot serve a request that leaves nothing to retain."""
        return False

    @abstractmethod
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        """Serve a request on `learner`; return an outcome with an exactness grade."""


class Guard(ABC):
    """Unlearning beside the weights: changes what a learner's model answers, and leaves its weights as they are.

    It takes part in every prediction, is saved, audited and restored with the learner, and counts as state. The model
    is lent to it for one call at a time, since a learner may replace it: a guard keeps no reference to it, and takes
    the hooks that it puts into it out again before a call ends. Until its first request it keeps nothing, so that
    strategies with the same learner can share the part of their lives before it.
    """

    supports: ClassVar[frozenset[Predicts]] = EVERYTHING
    """See `Strategy.supports`."""

    state_grows: bool = False
    """See `Strategy.state_grows`."""
    test_options: ClassVar[Mapping[str, Any]] = {}
    """See `Strategy.test_options`."""
    inert: ClassVar[Mapping[str, str]] = {}
    """See `Strategy.inert`."""
    idle_state: ClassVar[Mapping[str, str]] = {}
    """See `Strategy.idle_state`."""
    ranges: ClassVar[Mapping[str, Space]] = {}
    """See `Strategy.ranges`."""

    def __init__(self, config: Config, setting: Setting) -> None:
        """Keep the options.

        Raises:
            ConfigError: the options, the objective or the model are not such that it can work.
        """
        self.config = config
        self.setting = setting

    @property
    @abstractmethod
    def access(self) -> Access:
        """What it may read while serving a request."""

    @abstractmethod
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        """Serve a request, after the unlearner has; return an outcome with an exactness grade for what it keeps.

        The learner's weights must stay as they are, and no raw sample that the request names may be kept.
        """

    @abstractmethod
    def relearned(self, ids: np.ndarray) -> None:
        """Take note that an experience begins to teach these samples: those that were deleted are guarded no more."""

    @abstractmethod
    def predict(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        """Return outputs for the objective to score, of the learner's model under guard.

        The model is in evaluation mode, and no gradient is wanted. A sample's outputs must not depend on what else is
        in the batch. In text the rows may hold an answer that is still being made: its tokens are marked ``SAID``.
        """

    def features(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        """Return penultimate features ``[B, F]``, as `predict` does outputs; the model's own, if not overridden."""
        return self.setting.objective.features(model, batch)

    @abstractmethod
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """See `Strategy.holds`; of what it keeps beside the learner's model."""

    def stored_ids(self) -> np.ndarray:
        """Return the ids whose raw samples it keeps."""
        return np.array([], dtype=np.int64)

    @abstractmethod
    def state_dict(self) -> State:
        """Return everything that its later behaviour depends on, copied; no tensor before its first request."""

    @abstractmethod
    def load_state_dict(self, state: State) -> None:
        """Put a state back."""
