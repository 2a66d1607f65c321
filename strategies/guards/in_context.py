"""In-context: a guardrail that names in the prompt what must not be answered; the weights never change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Guard, Learner, Outcome, Setting, State
from strategies.guards._names import Names
from strategies.guards._prompts import outputs_behind
from strategies.guards._refusal import refusal_logits
from strategies.objectives._text import TextObjective
from strategies.parts.model import FlatModel
from streams.config import Config as BaseConfig
from streams.data import Batch
from streams.errors import ConfigError
from streams.events import DeletionRequest


class Config(BaseConfig):
    """Options of `in-context` (instructions as in RWKU, arXiv 2406.10890, and in ECO's baseline, arXiv 2406.07933).

    A small model follows no instruction unless it has been taught to; `form: refusal` does not depend on it.
    """

    form: Literal["instruction", "refusal"] = "instruction"
    """instruction: put one before the prompt. refusal: say a refusal in the model's place, which is a filter in front
    of it and the control that the other must beat."""
    applies: Literal["named", "all"] = "named"
    """named: to prompts that name a forgotten subject, and then about that subject alone. all: every prompt gets
    all forgotten subjects (only with `form: instruction`)."""
    instruction: str = Field("You know nothing about {subjects}.\n", pattern=r"\{subjects\}")
    """What is put before a prompt; the names take the place of ``{subjects}``."""
    subjects: tuple[str, ...] | None = None
    """Names that a prompt can ask about. null takes those of the source."""
    context: int = Field(512, ge=8)
    """Most tokens of a row with its instruction; names are left out, the earliest first, where it would be longer."""


@final
class InContext(Guard):
    """A request adds the subjects that its prompts name to a list; a subject leaves it when it is learned again."""

    config: Config

    supports = frozenset({"tokens"})

    state_grows = True

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with an empty list.

        Raises:
            ConfigError: the source names no subjects, or options contradict.
        """
        super().__init__(config, setting)
        if config.form == "refusal" and config.applies == "all":
            raise ConfigError("guard.applies: 'all' with form: refusal would refuse everything; use named.")
        self._objective = TextObjective.of(setting.objective)
        self._text = self._objective.needed_text("guard: 'in-context'")
        self._names = Names(self._text, config.subjects)
        self._guarded: dict[str, np.ndarray] = {}  # subject: samples of the requests that named it, still deleted

    @property
    @override
    def access(self) -> Access:
        """The forget set: what its prompts ask about."""
        return Access(forget_set=True)

    @override
    def relearned(self, ids: np.ndarray) -> None:
        """Take subjects off the list; what is learned again is answered again."""
        remaining = {s: guarded[~np.isin(guarded, ids)] for s, guarded in self._guarded.items()}
        self._guarded = {s: guarded for s, guarded in remaining.items() if len(guarded)}

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        """Add the subjects; nothing is trained."""
        batch = door.forget_set().all()
        for row, names in zip(batch.ids.tolist(), self._names.named(batch), strict=True):
            for name in names:
                self._guarded[name] = np.union1d(self._guarded.get(name, np.array([], dtype=np.int64)), [row])
        return Outcome(exactness="none").noted(guarded=float(len(self._guarded)))

    @override
    def predict(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        """Return the model's outputs, to guarded prompts those behind the instruction, or a refusal."""
        subjects = self._guarded_subjects(batch)
        if not any(subjects):
            return self._objective.outputs(model, batch)
        if self.config.form == "refusal":
            outputs = self._objective.outputs(model, batch)
            refusal, count = self._text.refusals[0], self._objective.num_outputs
            refused = (refusal_logits(x, outputs.shape[1], refusal, count) for x in batch.x)
            return torch.stack([r if names else o for o, r, names in zip(outputs, refused, subjects, strict=True)])
        prefixes = [self._prefix(names, int((x[1] > 0).sum())) for names, x in zip(subjects, batch.x, strict=True)]
        return outputs_behind(self._objective, model, batch, prefixes)

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return those whose subjects are on the list; names are kept, and no raw sample."""
        listed = np.concatenate([np.array([], dtype=np.int64), *self._guarded.values()])
        return {"subjects": ids[np.isin(ids, listed)]}

    @override
    def state_dict(self) -> State:
        """Return the list, in the order in which subjects came."""
        return {"guarded": [{"subject": s, "ids": torch.from_numpy(i.copy())} for s, i in self._guarded.items()]}

    @override
    def load_state_dict(self, state: State) -> None:
        self._guarded = {e["subject"]: e["ids"].numpy().copy() for e in state["guarded"]}

    def _guarded_subjects(self, batch: Batch) -> list[list[str]]:
        """Return the forgotten subjects that each row gets an instruction about."""
        if not self._guarded:
            return [[] for _ in range(len(batch))]
        if self.config.applies == "all":
            return [list(self._guarded)] * len(batch)
        return [[n for n in names if n in self._guarded] for names in self._names.named(batch)]

    def _prefix(self, names: Sequence[str], length: int) -> list[int]:
        """Return the instruction about these names, as tokens, as far as there is room."""
        while names:
            tokens = self._text.tokenizer.encode(self.config.instruction.replace("{subjects}", ", ".join(names)))
            if length + len(tokens) <= self.config.context:
                return tokens
            names = names[1:]
        return []
