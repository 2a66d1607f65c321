"""LUMoE: an expert (an adapter) per request beside the weights, and a hard router that lets at most one act."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, Setting, State
from strategies.guards._derived import in_weights
from strategies.guards._names import Names
from strategies.guards._per_request import PerRequest
from strategies.guards._prompts import hashed_words
from strategies.guards._relabelled import Relabelled
from strategies.objectives._base import Objective
from strategies.parts.fit import FitConfig, Hooks, fit
from strategies.parts.lowrank.gated import Adapters
from strategies.parts.model import FlatModel
from strategies.parts.preference import npo_losses
from strategies.parts.text.other_answers import Refusals, Values, log_likelihoods
from strategies.ranges import linear, log
from streams.data import Batch
from streams.events import DeletionRequest

DIMS = 512
"""Numbers that the tokens of prompts are hashed to."""


class Config(FitConfig):
    """Options of `lumoe` (Li et al. 2026, arXiv 2606.12809). It suppresses; it does not erase.

    The options of training are those of an expert. The published router asks a vision-language service what a prompt is
    about; here it looks for names, or for prompts that are alike.
    """

    epochs: int = Field(10, ge=1)
    """Passes over the forget set (published: 5)."""
    batch_size: int = Field(16, ge=1)
    """Samples per step (published: 4)."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """Update rule."""
    lr: float = Field(3e-3, gt=0)
    """Learning rate. For models of a million weights; published for 7 billion: 5e-5."""
    rank: int = Field(8, ge=1)
    """Rank of an expert (published: 32)."""
    alpha: float = Field(8.0, gt=0)
    """Experts are scaled by alpha / rank (published: 1)."""
    dropout: float = Field(0.3, ge=0, lt=1)
    """Dropout of their input while training."""
    expert: Literal["refusal", "npo"] = "refusal"
    """refusal: it learns refusals, drawn once per sample. npo: the true answers are pushed down against the model."""
    beta: float = Field(5.0, gt=0)
    """Inverse temperature of npo."""
    router: Literal["names", "words"] = "names"
    """names: a prompt goes to the latest request whose prompts name a subject that it names. words: to the request with
    the prompt most like it in words, if their cosine reaches `tau`."""
    subjects: tuple[str, ...] | None = None
    """Names that a prompt can ask about. null takes those of the source."""
    tau: float = Field(0.8, gt=0, le=1)
    """Cosine from which on words are alike."""


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    """What one request leaves behind; never changed.

    Attributes:
        request: its name.
        ids: the samples it names.
        names: subjects that its prompts name (router: names).
        vectors: float32 ``[n, DIMS]``, the words of its prompts (router: words); of no rows otherwise.
        adapter: its expert.
        derived: ids that the expert derives from.
    """

    request: str
    ids: np.ndarray
    names: tuple[str, ...]
    vectors: torch.Tensor
    adapter: torch.Tensor
    derived: np.ndarray


@final
class _PushedDown(Hooks):
    """The mean NPO loss of a batch, against the model without its expert."""

    carries = ()

    def __init__(self, objective: Objective, before: Values, beta: float) -> None:
        self._objective, self._before, self._beta = objective, before, beta

    @override
    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        losses = -self._objective.log_likelihoods(outputs, batch)
        return npo_losses(losses, -self._before.of(batch), self._beta).mean()


@final
class LUMoE(PerRequest[_Request]):
    """Experts beside frozen weights. What is routed to none is answered by the model as it is, to the bit."""

    config: Config
    supports = frozenset({"tokens"})
    component = "expert"
    test_options = {"epochs": 1, "rank": 4}
    idle_state = {"requests/*/vectors": "only `router: words` has them: tests/unit/test_lumoe.py"}
    ranges = {"lr": log(1e-4, 1e-2), "epochs": linear(1, 20), "beta": log(0.1, 10.0), "tau": linear(0.5, 0.95)}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with no request.

        Raises:
            ConfigError: names are wanted and there are none, or options do not fit the model.
        """
        super().__init__(config, setting)
        text = self._objective.needed_text("guard: 'lumoe'")
        self._names = Names(text, config.subjects) if config.router == "names" else None
        self._answering = self._objective.for_unlearning()
        self._adapters = Adapters(setting.outline(), config.rank, config.alpha, config.dropout)
        self._key = setting.key / "lumoe"

    @property
    @override
    def access(self) -> Access:
        return Access(forget_set=True)

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        """Train an expert, and note what leads to it."""
        forget_set, key = door.forget_set(), self._key / request.name
        batch = forget_set.all()
        names: tuple[str, ...] = ()
        vectors = torch.zeros(0, DIMS)
        if self._names is not None:
            names = self._names.all_named(batch)
        else:
            vectors = hashed_words(batch.x, DIMS)
        start, cost = self._adapters.fresh(key / "adapter", learner.model.parameters), Outcome()
        with self._adapters.training(learner.model, start) as lesson:
            if self.config.expert == "npo":
                before = log_likelihoods(lesson.model, self._answering, forget_set)
                hook: Hooks = _PushedDown(self._answering, before, self.config.beta)
                cost = Outcome(forward=len(forget_set))
            else:
                hook = Relabelled(Refusals(self._objective, key))
            outcome = fit(lesson.model, self._answering, forget_set, self.config, key / "adapter", [hook])
            adapter = lesson.adapter()
        derived = np.union1d(forget_set.ids, in_weights(learner, self.setting.num_samples))
        self.keep(_Request(request.name, forget_set.ids.copy(), names, vectors, adapter, derived))
        routed = float(np.mean([r == len(self._requests) - 1 for r in self._routes(batch)]))
        size = adapter.numel() * adapter.element_size()
        return (outcome + cost).noted(routed=routed, expert_bytes=float(size)).graded("none")

    @override
    def predict(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        """Return the model's outputs, with an expert's part in them where a prompt is routed to one."""
        outputs = self._objective.outputs(model, batch)
        routes = self._routes(batch)
        rows = self._routed(batch, routes)
        if not len(rows):
            return outputs
        changed = self._under(model, batch.rows(rows), routes, self._objective.outputs)
        outputs = outputs.clone()  # text that grows gives views
        outputs[rows, : changed.shape[1]] = changed
        return outputs

    @override
    def features(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        features = self._objective.features(model, batch)
        routes = self._routes(batch)
        rows = self._routed(batch, routes)
        if not len(rows):
            return features
        features = features.clone()
        features[rows] = self._under(model, batch.rows(rows), routes, self._objective.features)
        return features

    @override
    def told(self, kept: _Request) -> State:
        return {"names": list(kept.names), "vectors": kept.vectors, "adapter": kept.adapter}

    @override
    def made(self, request: str, ids: np.ndarray, derived: np.ndarray, state: State) -> _Request:
        return _Request(request, ids, tuple(state["names"]), state["vectors"], state["adapter"], derived)

    def _routes(self, batch: Batch) -> list[int | None]:
        """Return the number of the request whose expert answers each prompt, or None."""
        if not self._requests:
            return [None] * len(batch)
        if self._names is not None:
            latest = {name: number for number, r in enumerate(self._requests) for name in r.names}
            return [max((latest[n] for n in names if n in latest), default=None) for names in self._names.named(batch)]
        asked = hashed_words(batch.x, DIMS)
        nearest = torch.stack([(asked @ r.vectors.T).amax(1) for r in self._requests], 1)
        best = nearest.max(1)
        pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return [number if cosine >= self.config.tau else None for cosine, number in pairs]

    def _routed(self, batch: Batch, routes: list[int | None]) -> torch.Tensor:
        """Return the rows that an expert answers, int64 ``[n]``."""
        rows = [row for row, number in enumerate(routes) if number is not None]
        return torch.tensor(rows, dtype=torch.long, device=batch.x.device)

    def _under(self, model: FlatModel, batch: Batch, routes: list[int | None], ask: Any) -> torch.Tensor:
        """Return what ``ask(model, batch)`` says under the experts of rows that all have one."""
        numbers = [number for number in routes if number is not None]
        used = sorted(set(numbers))
        gates = torch.zeros(len(batch), len(used), device=batch.x.device)
        for row, number in enumerate(numbers):
            gates[row, used.index(number)] = 1.0
        with self._adapters.gated(model, [self._requests[n].adapter for n in used], gates):
            said: torch.Tensor = ask(model, batch)
        return said
