"""Mix-CPT: domain text mixed with general instructions, logit-swap self-distillation, then format alignment."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import ClassVar, Literal, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Lesson, Outcome, Setting, State
from strategies.learners._mixture import Renewal, Turns, turns
from strategies.learners._original import HeldToOriginal, OriginalConfig, general_data
from strategies.objectives._text import TextObjective
from strategies.parts.fit import FitConfig, Hooks, fit
from strategies.parts.memory.exemplars import Exemplars
from strategies.parts.model import FlatModel
from strategies.parts.teachers.teacher import frozen_copy
from strategies.parts.text.alignment import (
    InTemplate,
    Preference,
    Rejected,
    Selection,
    difficulties,
    easiest,
    num_tokens,
    with_prompt,
)
from strategies.ranges import linear, log
from streams.data import Batch, Data
from streams.errors import ConfigError
from streams.events import DeletionRequest, Experience
from streams.text import TEMPLATE, Text, template

logger = logging.getLogger(__name__)

Kind = Literal["instructions", "preferences"]


class Config(OriginalConfig):
    """Options of `mix-cpt` (Jiang et al. 2024, arXiv 2407.10804). The paper publishes none of the numbers."""

    swap: bool = True
    """Whether the teacher's logit of the right token changes places with its largest; without, it is plain
    self-distillation."""
    memory: int = Field(500, ge=1)
    """Questions kept of the general experiences: the general instruction and preference data."""
    instructions: float = Field(0.2, ge=0, lt=1)
    """Share of stage 1's tokens that are general instructions, as far as the memory has them."""
    preferences: float = Field(0.05, ge=0, lt=1)
    """Share of stage 1's tokens that are preferred answers of preference data. Rejected ones are never among them."""
    mixture: Literal["epoch", "fixed"] = "epoch"
    """epoch: every pass over a domain is mixed with other general samples, until all have had their turn. fixed: one
    draw for each domain, repeated in every pass, which rehearses a few samples only."""
    mixed: int | None = Field(None, ge=1)
    """How many of the general experiences, from the first on, are kept for the mixture; null keeps all. What the others
    teach is rehearsed by no mixture, and shows how much is kept of what is not."""
    preference_part: float = Field(0.2, ge=0, le=1)
    """Part of the kept questions that serve as preference data, drawn by name; the others are instructions."""
    rejected: Literal["wrong", "refusal"] = "wrong"
    """What an answer is preferred to: a wrong one of the source's, in other words, or one that says nothing."""
    template: tuple[str, str] = TEMPLATE
    """The chat template of stage 2: text before a question, and between question and answer."""
    align_every: int | None = Field(1, ge=1)
    """Format alignment follows every so many domains (their number: only the last); null never."""
    selection: Selection = "ppl-easy"
    """Who teaches the format, of what stage 1 was trained on. ppl-easy: what the model of stage 1 finds likeliest.
    fas-response: where the loss of the answer in the template is largest over that in plain text. fas-sequence: the
    same of whole rows. random: the control. The paper's own score is not known exactly."""
    align_share: float = Field(0.05, gt=0, le=1)
    """Share of the instructions, and of the preference data, that teaches the format."""
    align_least: int = Field(32, ge=1)
    """At least so many of each, if there are."""
    sft_epochs: int = Field(2, ge=1)
    """Passes of instruction tuning."""
    sft_lr: float = Field(0.3, gt=0)
    """Its learning rate, in units of `training.lr`."""
    dpo_epochs: int = Field(1, ge=1)
    """Passes of preference optimisation."""
    dpo_lr: float = Field(0.03, gt=0)
    """Its learning rate, in units of `training.lr`."""
    beta: float = Field(0.1, gt=0)
    """Inverse temperature of preference optimisation."""
    distil_tuning: bool = False
    """Whether instruction tuning is distilled as well, on its answers, with the same strength and teacher."""


@final
class MixCPT(HeldToOriginal):
    """Stage 1 is the loop's own training with more in it; stage 2 follows at its end.

    Stage 1, knowledge mixture: L = next-token loss + lambda KL(swapped teacher || model), both means over all tokens of
    plain text, domain documents and general questions in one shuffled stream.

    Stage 2, format alignment: a few of the general questions that stage 1 has used, in a chat template. First their
    answers are learned, then they are preferred to others (DPO, held to the model that tuning has left).
    """

    test_options = {
        "memory": 10,
        "instructions": 0.3,
        "preferences": 0.2,
        "preference_part": 0.5,
        "align_least": 2,
        "sft_epochs": 1,
    }
    carries = HeldToOriginal.carries  # whose turn it is follows from the step
    config: Config
    supports = frozenset({"tokens"})
    name: ClassVar[str] = "mix_cpt"
    ranges = {
        "strength": log(0.1, 10.0),
        "instructions": linear(0.0, 0.5),
        "sft_lr": log(0.01, 1.0),
        "dpo_lr": log(1e-3, 0.3),
        "beta": log(0.01, 1.0),
    }

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with an empty memory.

        Raises:
            ConfigError: the objective does not fit, shares leave nothing to the domain, or the source has no wrong
                answers.
        """
        super().__init__(config, setting)
        objective = self._text_objective
        if config.instructions + config.preferences >= 1:
            raise ConfigError(
                f"mix-cpt.instructions: {config.instructions} and preferences {config.preferences} leave no share to "
                f"the domain; their sum must stay below 1."
            )
        self._text: Text = objective.needed_text("learner: 'mix-cpt'")
        if config.rejected == "wrong" and config.align_every is not None and self._text.perturbed is None:
            raise ConfigError(
                "mix-cpt.rejected: the source has no wrong answers; set rejected: refusal, or align_every: null."
            )
        self._template = template(config.template, self._text.tokenizer)
        self._answers = objective.on("answer")
        self._memory = Exemplars(config.memory, "reservoir", setting.key / "mix-cpt" / "priority")
        self._mixed: dict[Kind, Turns] = {}
        self._renewal: Renewal | None = None
        self._shares: dict[str, float] = {}

    @property
    @override
    def access(self) -> Access:
        return Access(retained=self.config.memory)

    @property
    @override
    def swaps(self) -> bool:
        return self.config.swap

    # -- stage 1

    @override
    def select(self, ids: np.ndarray, experience: Experience, door: Door, model: FlatModel) -> np.ndarray:
        """Return the domain's samples with general ones among them, by shares of tokens."""
        self._mixed, self._shares = {}, {}
        if self.is_general or not len(ids):
            return super().select(ids, experience, door, model)
        key = self.setting.key / "mix-cpt" / "mixture" / experience.name / experience.incarnation
        domain_tokens = int(num_tokens(door.fetch(ids)).sum())
        shares: dict[Kind, float] = {
            "instructions": self.config.instructions,
            "preferences": self.config.preferences,
        }
        total_tokens = domain_tokens / (1 - sum(shares.values()))
        used: dict[str, int] = {"domain": domain_tokens}
        for kind, kept_ids in self._general(ids).items():
            tokens = num_tokens(door.fetch(kept_ids))
            epochs = self.setting.training.epochs if self.config.mixture == "epoch" else 1
            self._mixed[kind] = turns(kept_ids, tokens, shares[kind] * total_tokens, epochs, key / kind)
            used[kind] = int(tokens[np.isin(kept_ids, self._mixed[kind].first)].sum())
            if used[kind] < 0.9 * shares[kind] * total_tokens:
                logger.info("%s: only %d tokens of %s are kept", experience.name, used[kind], kind)
        self._shares = {f"mixture_{name}": count / sum(used.values()) for name, count in used.items()}
        return np.unique(np.concatenate([ids, *(t.first for t in self._mixed.values())]))

    @override
    def begin(self, lesson: Lesson) -> None:
        """Choose the teacher, and whose turn it is in which epoch."""
        super().begin(lesson)
        self._renewal = None
        if self.config.mixture == "epoch" and len(used := self.trained_beside()):
            batch_size = self.setting.training.batch_size
            renewal = Renewal(list(self._mixed.values()), lesson.door.fetch(used), batch_size, len(lesson.data))
            self._renewal = renewal

    @override
    def extend(self, batch: Batch, step: int) -> Batch:
        return batch if self._renewal is None else self._renewal.renewed(batch, step)

    @override
    def trained_beside(self) -> np.ndarray:
        return np.unique(np.concatenate([np.array([], dtype=np.int64), *(t.used for t in self._mixed.values())]))

    @override
    def end(self, lesson: Lesson) -> Outcome:
        """Keep general questions (general text, where nothing is asked), or align the format."""
        domains = self._lessons + 1 - self.config.general
        if self.is_general and (self.config.mixed is None or self._lessons < self.config.mixed):
            data = general_data(self.config, lesson)
            asks = with_prompt(data)
            self._memory.compete(data.part(np.flatnonzero(asks)) if asks.any() else data)
        every, cost = self.config.align_every, Outcome().noted(**self._shares)
        if not self.is_general and every is not None and domains % every == 0:
            cost += self._align(lesson)
        self._mixed, self._shares, self._renewal = {}, {}, None
        return cost + super().end(lesson)

    def _general(self, new_ids: np.ndarray) -> dict[Kind, np.ndarray]:
        """Return the kept questions by what they serve as; those of the experience itself are left out."""
        kept_ids = np.setdiff1d(self._memory.ids, new_ids)
        prefers = (self.setting.key / "mix-cpt" / "preferences").uniform(kept_ids) < self.config.preference_part
        return {"instructions": kept_ids[~prefers], "preferences": kept_ids[prefers]}

    # -- stage 2

    def _align(self, lesson: Lesson) -> Outcome:
        """Teach the format; return what it cost."""
        chosen, cost = {}, Outcome()
        pools = {kind: turns_of_kind.used for kind, turns_of_kind in self._mixed.items()}
        if not any(len(pool) for pool in pools.values()):
            pools = self._general(lesson.experience.sample_ids)  # nothing was mixed in: CPT, then alignment
        for kind, pool in pools.items():
            chosen[kind] = self._easiest(kind, lesson.door.fetch(pool), lesson)
            cost += Outcome(forward=0 if self.config.selection == "random" else len(pool))
        cost += self._tune(lesson, lesson.door.fetch(chosen["instructions"]))
        return cost + self._prefer(lesson, lesson.door.fetch(chosen["preferences"]))

    def _easiest(self, kind: Kind, pool: Data, lesson: Lesson) -> np.ndarray:
        """Return the ids that teach the format, as the model of stage 1 finds them."""
        key = lesson.key / "align" / kind
        values = difficulties(lesson.model, self._answers, pool, self.config.selection, self._template, key)
        count = max(self.config.align_least, round(self.config.align_share * len(pool)))
        return pool.ids[easiest(values, count)]

    def _tune(self, lesson: Lesson, data: Data) -> Outcome:
        hooks: list[Hooks] = [InTemplate(self._template)]
        before = self._passed
        if self.config.distil_tuning and self._teacher is not None:
            hooks.append(_Distilled(self, self._answers, self._teacher))
        outcome = fit(lesson.model, self._answers, data, self._rates("sft"), lesson.key / "sft", hooks)
        self._passed, extra = before, self._passed - before
        return _renamed(outcome, "sft") + Outcome(forward=extra)

    def _prefer(self, lesson: Lesson, data: Data) -> Outcome:
        rejected = Rejected(self._text, self.config.rejected == "wrong", lesson.key / "rejected")
        reference = frozen_copy(self.setting, lesson.model)
        preference = Preference(self._answers, reference, self._template, rejected, self.config.beta)
        outcome = fit(lesson.model, self._answers, data, self._rates("dpo"), lesson.key / "dpo", [preference])
        if not outcome.steps:
            return outcome
        last = outcome.steps // self.config.dpo_epochs
        margin = float(torch.stack(preference.margins[-last:]).mean())
        passed_by_reference = Outcome(forward=outcome.forward).noted(preference_margin=margin)
        return _renamed(outcome, "dpo") + passed_by_reference

    def _rates(self, stage: Literal["sft", "dpo"]) -> FitConfig:
        rate, epochs = {
            "sft": (self.config.sft_lr, self.config.sft_epochs),
            "dpo": (self.config.dpo_lr, self.config.dpo_epochs),
        }[stage]
        training = self.setting.training
        return training.model_copy(update={"lr": rate * training.lr, "epochs": epochs})

    # -- requests and state

    @override
    def purge(self, request: DeletionRequest) -> None:
        """Drop the request's samples; neither stage will see them again."""
        super().purge(request)
        self._memory.purge(request.sample_ids)

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        return super().holds(ids) | {"memory": self._memory.holds(ids)}

    @override
    def stored_ids(self) -> np.ndarray:
        return self._memory.ids

    @override
    def state_dict(self) -> State:
        return super().state_dict() | {"memory": self._memory.state_dict()}

    @override
    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self._memory.load_state_dict(state["memory"])


@final
class _Distilled(Hooks):
    """Adds the learner's distillation to another training."""

    carries = ("_learner._passed",)

    def __init__(self, learner: MixCPT, objective: TextObjective, teacher: FlatModel) -> None:
        self._learner, self._objective, self._teacher = learner, objective, teacher

    @override
    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        term = self._learner.divergence(self._objective, self._teacher, outputs, batch)
        return loss + self._learner.config.strength * term


def _renamed(outcome: Outcome, name: str) -> Outcome:
    return replace(outcome, losses={name: outcome.losses["loss"]} if outcome.losses else {})
