"""CURaTE: refuse prompts that are near to a forgotten one; nothing is trained on, and nothing is erased."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, final

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, Setting, State
from strategies.guards._derived import in_weights
from strategies.guards._per_request import PerRequest
from strategies.guards._prompts import hashed_words, name_of_prompt
from strategies.guards._refusal import with_refusals
from strategies.parts.model import FlatModel
from strategies.ranges import linear, log
from streams.config import Config as BaseConfig
from streams.data import Batch, Data
from streams.events import DeletionRequest
from streams.text import GIVEN, NOTHING


class Config(BaseConfig):
    """Options of `curate` (arXiv 2604.14644). It suppresses; it does not erase.

    The published encoder is a sentence encoder that was trained once on public pairs of questions; here prompts are
    compared by their words, or by what the model makes of them.
    """

    encoder: Literal["words", "states"] = "words"
    """words: the tokens of a prompt, hashed to `dims` numbers. states: the mean hidden state of the learner's model;
    what is learned later moves prompts, and not what is stored."""
    dims: int = Field(512, ge=8)
    """Numbers that tokens are hashed to (words)."""
    tau: float | None = Field(0.8, gt=0, le=1)
    """Cosine to the nearest forgotten prompt from which on a prompt is refused (published: 0.8 or 0.9 by data set).
    null sets it for each request so that a share of the retained prompts is refused."""
    false_refusals: float = Field(0.01, gt=0, lt=1)
    """That share. False refusals add up over requests."""


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    """What one request leaves behind; never changed.

    Attributes:
        request: its name.
        ids: int64 ``[n]``, the samples it names.
        vectors: float32 ``[n, F]`` of length 1, of their prompts.
        tau: from which cosine on it refuses.
        derived: ids that had a say in it beside those: retained ones by which `tau` was set, and those in the weights
            that made vectors of prompts.
    """

    request: str
    ids: np.ndarray
    vectors: torch.Tensor
    tau: float
    derived: np.ndarray


@final
class CURaTE(PerRequest[_Request]):
    """A store of forgotten prompts. What is near to none of them is answered by the model as it is, to the bit."""

    config: Config
    supports = frozenset({"tokens"})
    component = "others"
    ranges = {"tau": linear(0.6, 0.95), "false_refusals": log(0.001, 0.1)}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with an empty store.

        Raises:
            ConfigError: the source has no tokeniser.
        """
        super().__init__(config, setting)
        self._refusals = self._objective.needed_text("guard: 'curate'").refusals
        self._key = setting.key / "curate"

    @property
    @override
    def access(self) -> Access:
        return Access(forget_set=True, retained=0 if self.config.tau is not None else "full")

    @override
    def of_some(self, kept: _Request, stays: np.ndarray) -> _Request:
        """Drop the prompts of what is back."""
        return replace(kept, ids=kept.ids[stays], vectors=kept.vectors[torch.from_numpy(stays)])

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        """Store the prompts; nothing is trained."""
        forget_set, config = door.forget_set(), self.config
        learner.model.train(False)
        vectors = self._encoded(learner.model, forget_set)
        tau, derived, passed = config.tau, forget_set.ids[:0].copy(), len(forget_set)
        if tau is None:
            retained = door.retained()
            derived, passed = retained.ids.copy(), passed + len(retained)
            nearest = (
                (self._encoded(learner.model, retained) @ vectors.T).amax(1) if len(retained) else vectors.new_zeros(1)
            )
            # Just above what is allowed to be refused, and never above the prompts themselves.
            tau = min(1 - 1e-4, float(torch.quantile(nearest, 1 - config.false_refusals)) + 1e-4)
        if config.encoder == "states":
            derived = np.union1d(derived, in_weights(learner, self.setting.num_samples))
        self.keep(_Request(request.name, forget_set.ids.copy(), vectors, tau, derived))
        stored = sum(len(r.ids) for r in self._requests)
        forward = passed if config.encoder == "states" else 0
        return Outcome(forward=forward).noted(refusal_tau=tau, stored_prompts=float(stored)).graded("none")

    @override
    def predict(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        """Return the model's outputs, and refusals to prompts that are near."""
        outputs = self._objective.outputs(model, batch)
        near = self._near(model, batch)
        if not any(near):
            return outputs
        refusals = [self._refusal(x) if refused else None for x, refused in zip(batch.x, near, strict=True)]
        return with_refusals(outputs, batch, refusals, self._objective.num_outputs)

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return whose prompts are stored, as vectors, and who else had a say in that."""
        stored = {f"{r.request}.features": ids[np.isin(ids, r.ids)] for r in self._requests}
        return stored | super().holds(ids)

    @override
    def told(self, kept: _Request) -> State:
        return {"vectors": kept.vectors, "tau": kept.tau}

    @override
    def made(self, request: str, ids: np.ndarray, derived: np.ndarray, state: State) -> _Request:
        return _Request(request, ids, state["vectors"], float(state["tau"]), derived)

    def _near(self, model: FlatModel, batch: Batch) -> list[bool]:
        """Return which prompts are refused."""
        if not self._requests:
            return [False] * len(batch)
        vectors = self._vectors(model, batch)
        found = torch.zeros(len(batch), dtype=torch.bool, device=vectors.device)
        for r in self._requests:
            found |= (vectors @ r.vectors.T).amax(1) >= r.tau
        return found.tolist()

    def _encoded(self, model: FlatModel, data: Data) -> torch.Tensor:
        return torch.cat([self._vectors(model, batch) for batch in self._objective.batches(data, 64)])

    @torch.no_grad()
    def _vectors(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        """Return the prompts of a batch as vectors of length 1."""
        if self.config.encoder == "words":
            return hashed_words(batch.x, self.config.dims)
        x = batch.x.clone()
        x[:, 1][x[:, 1] != GIVEN] = NOTHING  # a prompt says the same whatever follows it
        return F.normalize(self._objective.embeddings(model, replace(batch, x=x)), dim=1)

    def _refusal(self, row: torch.Tensor) -> tuple[int, ...]:
        """Return the refusal that a prompt gets, always the same."""
        which = (self._key / "refusal" / name_of_prompt(row)).below(np.zeros(1, dtype=np.int64), len(self._refusals))
        return self._refusals[int(which[0])]
