"""What relabelling unlearners share: which labels are drawn, when, and in which order the data is passed through."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Learner, Outcome, Setting
from strategies.objectives._base import ClassObjective, Objective
from strategies.objectives._text import TextObjective
from strategies.objectives.causal_lm import joined
from strategies.parts.fit import Hooks, fit
from strategies.parts.model import FlatModel
from strategies.parts.text.other_answers import WrongAnswers
from strategies.parts.training.optimizers import make_optimizer
from strategies.unlearners._retained import DefaultRetainConfig, finish, live_classes, members
from streams.data import Batch, Data
from streams.randomness import Key

Redraw = Literal["once", "epoch", "batch"]


class RelabelConfig(DefaultRetainConfig):
    """Options of everything that gives the forget set other labels."""

    epochs: int = Field(10, ge=1)
    """Passes over forget set and retained data."""
    lr: float = Field(0.013, gt=0)
    """Learning rate."""
    exclude_true: bool = True
    """Never draw the true label. If false, every live class is as likely, as in SalUn's code."""
    redraw: Redraw = "once"
    """When labels are drawn: once, anew in every epoch, or at every step."""
    order: Literal["mixed", "forget-first"] = "mixed"
    """Within an epoch: both kinds of samples shuffled together, or the whole forget set before the retained data."""


def draw_labels(ids: np.ndarray, candidates: torch.Tensor, key: Key) -> torch.Tensor:
    """Draw one label per sample, uniformly over its candidates, as a function of `key` and the sample's id alone.

    Args:
        ids: ``[n]``.
        candidates: bool ``[n, K]``, at least one in every row.
        key: names the draw.

    Returns:
        int64 ``[n]``.
    """
    u = torch.from_numpy(key.uniform(ids)).to(candidates.device)
    rank = (u * candidates.sum(1)).long()  # which of the candidates, from 0
    return (candidates.cumsum(1) > rank.unsqueeze(1)).int().argmax(1)


def candidate_labels(forget_set: Data, live: torch.Tensor, setting: Setting, exclude_true: bool) -> torch.Tensor:
    """Return the labels that each sample may get, bool ``[n, K]``: live classes that its task permits.

    A class that is deleted as a whole, now or earlier, has no live sample and is never drawn.
    """
    batch = forget_set.all()
    candidates = live.expand(len(batch), -1).clone()
    if setting.objective.predicts == "classes":
        objective = ClassObjective.of(setting.objective)
        candidates &= objective.mask(torch.zeros(candidates.shape, device=batch.x.device), batch).isfinite()
    if exclude_true:
        candidates.scatter_(1, batch.y.unsqueeze(1), False)
    return candidates


@final
class Answer(Hooks):
    """Gives the forget set's rows of text in every batch one of the source's answers to the same prompt."""

    carries = ("_step",)

    def __init__(
        self, forget_set: Data, options: WrongAnswers, num_samples: int, redraw: Redraw, steps_per_epoch: int
    ) -> None:
        """Draw from `options`."""
        self._options, self._redraw, self._per_epoch = options, redraw, steps_per_epoch
        self._is_forget = members(forget_set.ids, num_samples, forget_set.targets().device)
        self._step = 0

    @override
    def extend(self, batch: Batch, step: int) -> Batch:
        """Return the batch with other answers; the forget set's rows come first."""
        number = {"once": 0, "epoch": self._step // self._per_epoch, "batch": self._step}[self._redraw]
        self._step += 1
        chosen = self._is_forget[batch.ids]
        forget, retained = batch.rows(chosen), batch.rows(~chosen)
        if not len(forget):
            return retained
        relabelled = self._options.put(forget, self._options.drawn(forget, number))
        return joined(relabelled, retained) if len(retained) else relabelled


@final
class Relabel(Hooks):
    """Gives the forget set's samples in every batch their drawn labels."""

    carries = ("_labels", "_round", "_step")

    def __init__(self, forget_set: Data, candidates: torch.Tensor, num_samples: int, config: RelabelConfig, key: Key):
        """Draw from `candidates`, by names below `key`."""
        self._ids, self._candidates, self._config, self._key = forget_set.ids, candidates, config, key
        device = candidates.device
        self._is_forget = members(forget_set.ids, num_samples, device)
        self._labels = torch.zeros(num_samples, dtype=torch.int64, device=device)
        self._rows = torch.tensor(forget_set.ids).to(device)
        self._round = -1
        self.steps_per_epoch = 1
        self._step = 0

    @override
    def extend(self, batch: Batch, step: int) -> Batch:
        rounds = {"once": 0, "epoch": self._step // self.steps_per_epoch, "batch": self._step}
        if rounds[self._config.redraw] != self._round:
            self._round = rounds[self._config.redraw]
            self._labels[self._rows] = draw_labels(self._ids, self._candidates, self._key / "labels" / self._round)
        self._step += 1
        y = torch.where(self.concerns(batch), self._labels[batch.ids], batch.y)
        return replace(batch, y=y)

    def concerns(self, batch: Batch) -> torch.Tensor:
        """Return which samples of a batch are to be forgotten, bool ``[B]``."""
        return self._is_forget[batch.ids]


@final
class Redirect(Hooks):
    """Holds the forget set's images to what the model makes of them under other labels, not to what they are.

    Of a sample x with label c and drawn label c': the mean over outputs of (f(x, c) - f(x, c'))^2, the second without
    gradient and under the same noise (SalUn, arXiv 2310.12508, eq. 6). Retained samples keep their losses. No prompt is
    left out of these (the authors' code leaves out a tenth of each by itself, so that some targets are unconditional).
    """

    carries = ("_labels",)

    def __init__(self, objective: Objective, labels: Relabel) -> None:
        """Take labels from `labels`."""
        self._objective, self._labels = objective, labels
        self._other = torch.zeros(0, dtype=torch.int64)

    @override
    def extend(self, batch: Batch, step: int) -> Batch:
        """Draw the labels, and leave the batch its own."""
        self._other = self._labels.extend(batch, step).y
        return replace(batch, extra={**batch.extra, "named": self._labels.concerns(batch)})

    @override
    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        forget = self._labels.concerns(batch)
        if not bool(forget.any()):
            return loss
        with torch.no_grad():
            aim = self._objective.outputs(model, replace(batch, y=self._other).rows(forget))
        losses = self._objective.losses(outputs, batch)
        return losses.masked_scatter(forget, (outputs[forget] - aim).square().flatten(1).mean(1)).mean()


def relabel(
    learner: Learner, forget_set: Data, retained: Data, config: RelabelConfig, key: Key, hooks: Sequence[Hooks] = ()
) -> Outcome:
    """Train on retained data and on the forget set with drawn labels; models of images are held to their own outputs.

    Samples for which no label is left (their task has no other live class) are left out; their share is reported as
    ``left_out``.

    Args:
        learner: its model is changed.
        forget_set, retained: what is relabelled, and what keeps its labels.
        config: epochs, optimizer, and how labels are drawn.
        key: names orders and labels.
        hooks: applied after the relabelling.
    """
    setting = learner.setting
    objective = setting.objective.for_unlearning()
    if objective.predicts == "tokens":
        return _relabel_text(learner, TextObjective.of(objective), forget_set, retained, config, key, hooks)
    makes_images = objective.predicts == "images"
    highest = max(int(data.targets().max()) for data in (forget_set, retained))
    live = live_classes(retained, highest + 1 if makes_images else objective.num_outputs)
    candidates = candidate_labels(forget_set, live, setting, config.exclude_true)
    possible = candidates.any(1)
    left_out = 1 - float(possible.float().mean())
    forget_set = forget_set.part(np.flatnonzero(possible.cpu().numpy()))
    labels = Relabel(forget_set, candidates[possible], setting.num_samples, config, key)
    labels.steps_per_epoch = steps_per_epoch(forget_set, retained, config)
    change = Redirect(objective.training_on(forget_set), labels) if makes_images else labels
    outcome = _pass_through(learner, objective, forget_set, retained, config, key, [change, *hooks])
    return outcome + Outcome(losses={"left_out": left_out}) + finish(config, learner, retained)


def _relabel_text(
    learner: Learner,
    objective: TextObjective,
    forget_set: Data,
    retained: Data,
    config: RelabelConfig,
    key: Key,
    hooks: Sequence[Hooks],
) -> Outcome:
    """Do the same with answers in place of labels: those that the source has, wrong ones and perhaps the true one."""
    options = WrongAnswers(objective, key / "labels", true_too=not config.exclude_true)
    per_epoch = steps_per_epoch(forget_set, retained, config)
    answers = Answer(forget_set, options, learner.setting.num_samples, config.redraw, per_epoch)
    outcome = _pass_through(learner, objective, forget_set, retained, config, key, [answers, *hooks])
    return outcome + finish(config, learner, retained)


def steps_per_epoch(forget_set: Data, retained: Data, config: RelabelConfig) -> int:
    """Return how many steps an epoch takes: over both together, or over one after the other."""
    if config.order == "mixed":
        return math.ceil((len(forget_set) + len(retained)) / config.batch_size)
    return sum(math.ceil(len(data) / config.batch_size) for data in (forget_set, retained))


def _pass_through(
    learner: Learner,
    objective: Objective,
    forget_set: Data,
    retained: Data,
    config: RelabelConfig,
    key: Key,
    hooks: Sequence[Hooks],
) -> Outcome:
    model = learner.model
    if config.order == "mixed":
        return fit(model, objective, retained.joined(forget_set), config, key, hooks)
    outcome = Outcome()
    one_epoch = config.model_copy(update={"epochs": 1})
    optimizer = make_optimizer(config, model.parameters)
    for epoch in range(config.epochs):
        for name, part in (("forget", forget_set), ("retained", retained)):
            outcome += fit(model, objective, part, one_epoch, key / name / epoch, hooks, optimizer)
    return outcome
