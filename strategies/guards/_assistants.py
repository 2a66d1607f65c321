"""What guards share that answer with a second model beside the learner's, and what they keep of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Guard, Learner, Outcome, Setting, State
from strategies.guards._derived import in_weights
from strategies.objectives._text import TextObjective
from strategies.parts.fit import FitConfig
from strategies.parts.model import FlatModel
from strategies.parts.text.token_body import TokenBody
from streams.config import Config
from streams.data import Batch, Data
from streams.errors import ConfigError
from streams.events import DeletionRequest
from streams.randomness import Key


class AssistantConfig(FitConfig):
    """Options of a second model; those of training are its own."""

    epochs: int = Field(10, ge=1)
    """Passes over the forget set."""
    batch_size: int = Field(16, ge=1)
    """Samples per step, of each kind."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """Update rule."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate."""
    requests: Literal["stack", "resume"] = "stack"
    """stack: a new assistant per request, all of which answer together. resume: one, which is trained on from request
    to request; what it did for earlier ones may drift."""


class LayersConfig(AssistantConfig):
    """Options of a second model that is a part of the first."""

    layers: int | None = Field(None, ge=1)
    """Blocks of the assistant: the lowest ones of the model, with its embedding and head. null takes a quarter of them,
    and at least one (published: 8 of 32)."""


@dataclass(frozen=True, slots=True, eq=False)
class Assistant:
    """What one request leaves behind; never changed.

    Attributes:
        request: its name.
        ids: the samples it names, those of earlier requests with them where one assistant is trained on.
        weights: of the models that answer, each ``[P']``.
        derived: bool ``[N]``: what they were derived from.
    """

    request: str
    ids: np.ndarray
    weights: tuple[torch.Tensor, ...]
    derived: np.ndarray


class Assisted(Guard, ABC):
    """Answers with the learner's model and assistants together, by one formula for scoring and for making text."""

    config: Any
    supports = frozenset({"tokens"})
    state_grows = True
    reads_retained: ClassVar[bool] = True
    """Whether assistants are trained on retained data, too."""

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start without an assistant.

        Raises:
            ConfigError: it is to be a part of the model, and the model's blocks are not known, or fewer.
        """
        super().__init__(config, setting)
        self._objective = TextObjective.of(setting.objective)
        self._answering = self._objective.for_unlearning()
        body = setting.outline().network.body
        self._layers: int | None = None
        if isinstance(config, LayersConfig):
            if not isinstance(body, TokenBody):
                raise ConfigError(
                    "guard.layers: an assistant is made of the blocks of a language model, and the body of this one is "
                    "no TokenBody. Choose a model that has one (tiny-llama, causal-checkpoint)."
                )
            count = len(body.layers)
            self._layers = max(1, count // 4) if config.layers is None else config.layers
            if self._layers > count:
                raise ConfigError(f"guard.layers: {self._layers} is more than the {count} blocks of the model.")
        self._kept: list[Assistant] = []
        self._models: list[tuple[FlatModel, ...]] = []
        self._deleted = np.array([], dtype=np.int64)

    @property
    @override
    def access(self) -> Access:
        return Access(forget_set=True, retained="full" if self.reads_retained else 0)

    @abstractmethod
    def train(
        self, model: FlatModel, start: tuple[FlatModel, ...], forget_set: Data, retained: Data | None, key: Key
    ) -> tuple[tuple[FlatModel, ...], Outcome]:
        """Return the models that answer for a request, and what it cost to train them.

        Args:
            model: the learner's, which must stay as it is.
            start: those of the request before, where they are trained on, or a new part of the model.
            forget_set: what is to go.
            retained: all live data, if it `reads_retained`.
            key: names the draws.
        """

    @abstractmethod
    def combined(self, base: torch.Tensor, said: Sequence[Sequence[torch.Tensor]]) -> torch.Tensor:
        """Return the logits ``[..., V]`` of the composition.

        Args:
            base: of the learner's model, ``[..., V]``.
            said: of every request's models.
        """

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        """Train an assistant."""
        config, forget_set = self.config, door.forget_set()
        retained = door.retained() if self.reads_retained else None
        resumed = config.requests == "resume" and bool(self._kept)
        start = self._models[-1] if resumed else (self._part_of(learner.model),)
        key = self.setting.key / self._name / request.name
        models, outcome = self.train(learner.model, start, forget_set, retained, key)
        derived = np.zeros(self.setting.num_samples, dtype=bool)
        derived[in_weights(learner, self.setting.num_samples)] = True
        for data in (forget_set, retained):
            if data is not None:
                derived[data.ids] = True
        ids = forget_set.ids.copy()
        if resumed:
            derived |= self._kept[-1].derived
            ids = np.union1d(ids, self._kept[-1].ids)
            self._kept, self._models = [], []
        for model in models:
            model.train(False)
            model.drop_gradient()
        self._kept.append(Assistant(request.name, ids, tuple(m.parameters.clone() for m in models), derived))
        self._models.append(models)
        self._deleted = np.union1d(self._deleted, forget_set.ids)
        size = sum(w.numel() * w.element_size() for w in self._kept[-1].weights)
        return outcome.noted(assistants=float(len(self._kept)), assistant_bytes=float(size)).graded("none")

    @override
    def relearned(self, ids: np.ndarray) -> None:
        """Drop the assistants of requests whose samples are all back."""
        self._deleted = np.setdiff1d(self._deleted, ids)
        there = [bool(np.isin(a.ids, self._deleted).any()) for a in self._kept]
        self._kept = [a for a, stays in zip(self._kept, there, strict=True) if stays]
        self._models = [m for m, stays in zip(self._models, there, strict=True) if stays]

    @override
    def predict(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        """Return what model and assistants say together."""
        base = self._objective.outputs(model, batch)
        if not self._models:
            return base
        said = [[self._objective.outputs(m, batch) for m in models] for models in self._models]
        if all(o.stride(1) == 0 for o in (base, *(o for of_request in said for o in of_request))):
            # Text grows, and every position says what the last one does: it is worked out once.
            last = self.combined(base[:, :1], [[o[:, :1] for o in of_request] for of_request in said])
            return last.expand(-1, base.shape[1], -1)
        read = (batch.x[:, 1, : base.shape[1]] > 0) & ~base[:, :, 0].isnan()
        if base.stride(1) == 0 or 2 * int(read.sum()) > read.numel():
            return self.combined(base, said)
        # Nobody reads the logits of padding, and of a large vocabulary most positions have none.
        base[read] = self.combined(base[read], [[o[read] for o in of_request] for of_request in said])
        return base

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        return {f"{a.request}.assistant": ids[a.derived[ids]] for a in self._kept}

    @override
    def state_dict(self) -> State:
        kept = [
            {
                "request": a.request,
                "ids": torch.from_numpy(a.ids.copy()),
                "weights": list(a.weights),
                "derived": torch.from_numpy(a.derived.copy()),
            }
            for a in self._kept
        ]
        return {"assistants": kept, "deleted": torch.from_numpy(self._deleted.copy())} if kept else {"assistants": []}

    @override
    def load_state_dict(self, state: State) -> None:
        self._deleted = state["deleted"].numpy().copy() if "deleted" in state else self._deleted[:0]
        self._kept = [
            Assistant(a["request"], a["ids"].numpy().copy(), tuple(a["weights"]), a["derived"].numpy().copy())
            for a in state["assistants"]
        ]
        self._models = [tuple(self._with(w) for w in a.weights) for a in self._kept]

    @property
    def _name(self) -> str:
        return type(self).__module__.rsplit(".", 1)[-1].replace("_", "-")

    def _new(self) -> FlatModel:
        """Return a model of the assistants' size, with initial weights."""
        with torch.inference_mode(False):
            model = self.setting.make_model()
            if self._layers is not None:
                assert isinstance(model.network.body, TokenBody)
                del model.network.body.layers[self._layers :]
                model = FlatModel(model.network)
            model.train(False)
            return model

    def _with(self, weights: torch.Tensor) -> FlatModel:
        model = self._new()
        model.parameters.copy_(weights)
        return model

    def _part_of(self, model: FlatModel) -> FlatModel:
        """Return a copy of the lowest blocks of a model, with its embedding and head; frozen weights are shared."""
        part = self._new()
        for name, where in part.slices.items():
            part.parameters[where] = model.parameters[model.slices[name]]
        return part

    def _copy(self, model: FlatModel) -> FlatModel:
        return self._with(model.parameters)
