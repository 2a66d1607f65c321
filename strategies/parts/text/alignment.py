"""Format alignment: questions put in a chat template, which samples teach it, and preferences among answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

import numpy as np
import torch
import torch.nn.functional as F
from typing_extensions import override

from strategies.objectives._text import TextObjective, Tokens
from strategies.objectives.causal_lm import answered, joined, scored
from strategies.parts.fit import Hooks
from strategies.parts.model import FlatModel
from strategies.parts.text.other_answers import counted_wrong
from streams.data import Batch, Data
from streams.randomness import Key
from streams.text import ANSWER, GIVEN, Template, Text, put_in

Selection = Literal["ppl-easy", "fas-response", "fas-sequence", "random"]


def with_prompt(data: Data, batch_size: int = 1024) -> np.ndarray:
    """Return which rows ask something: those that are given more than the start token, bool ``[n]``."""
    parts = [((b.x[:, 1] == GIVEN).sum(1) > 1).cpu().numpy() for b in data.batches(batch_size)]
    return np.concatenate([np.zeros(0, dtype=bool), *parts])


def num_tokens(data: Data, batch_size: int = 1024) -> np.ndarray:
    """Return how many tokens of each row are learned where all are, int64 ``[n]``; the start token never is."""
    parts = [((b.x[:, 1] > 0).sum(1) - 1).cpu().numpy() for b in data.batches(batch_size)]
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])


def templated(batch: Batch, template: Template) -> Batch:
    """Return the batch with its prompts put in the template; answers stay as they are."""
    return replace(batch, x=put_in(template, batch.x))


@torch.no_grad()
def row_losses(model: FlatModel, objective: TextObjective, batch: Batch, tokens: Tokens) -> torch.Tensor:
    """Return the mean of -log p over the tokens of each row that count, ``[B]``, in the mode the model is in."""
    scored_tokens = scored(objective.outputs(model, batch), batch.x, tokens)
    return scored_tokens.sums(scored_tokens.token_losses()) / scored_tokens.counts


def difficulties(
    model: FlatModel, objective: TextObjective, data: Data, how: Selection, template: Template, key: Key
) -> np.ndarray:
    """Return a number for each sample, ``[n]``; those with the lowest are chosen to teach the format.

    ppl-easy: the mean of -log p of the plain text. fas-response: minus the loss of the answer in the template over that
    in plain text (content known, format not yet). fas-sequence: the same of whole rows. random: drawn by name.

    The model is left in evaluation mode.
    """
    if how == "random":
        return key.uniform(data.ids)
    model.train(False)
    tokens: Tokens = "answer" if how == "fas-response" else "all"
    values = [np.zeros(0)]
    for batch in objective.batches(data, 64):
        plain = row_losses(model, objective, batch, tokens)
        if how == "ppl-easy":
            values.append(plain.cpu().numpy())
        else:
            values.append(-(row_losses(model, objective, templated(batch, template), tokens) / plain).cpu().numpy())
    return np.concatenate(values)


def easiest(values: np.ndarray, count: int) -> np.ndarray:
    """Return the positions of the `count` lowest values, ascending; of equal ones the earlier.

    >>> easiest(np.array([0.3, 0.1, 0.2, 0.1]), 2).tolist()
    [1, 3]
    """
    return np.sort(np.argsort(values, kind="stable")[:count])


def preference_losses(preferred: torch.Tensor, rejected: torch.Tensor, beta: float) -> torch.Tensor:
    """Return -log sigmoid(beta (preferred - rejected)) of every triple, ``[B]`` (DPO, arXiv 2305.18290, eq. 7).

    Args:
        preferred, rejected: log-likelihood of an answer minus that under the reference, ``[B]``, sums over tokens.
        beta: inverse temperature.

    >>> float(preference_losses(torch.zeros(1), torch.zeros(1), 0.1)) == float(torch.tensor(2.0).log())
    True
    """
    return -F.logsigmoid(beta * (preferred - rejected))


@dataclass(frozen=True, slots=True)
class Rejected:
    """Which answer each sample's own is preferred to: one of its wrong answers, or one that says nothing.

    Attributes:
        text: of the source.
        wrong: whether it is a wrong answer.
        key: names the draw.
    """

    text: Text
    wrong: bool
    key: Key

    def of(self, batch: Batch) -> list[Sequence[int]]:
        """Return the token ids of one answer per sample, each with its end token.

        Raises:
            DataError: a wrong answer is wanted, and a sample has none.
        """
        ids = batch.ids.cpu().numpy()
        if not self.wrong:
            return [self.text.refusals[i] for i in self.key.below(ids, len(self.text.refusals))]
        assert self.text.perturbed is not None
        which = self.key.below(ids, counted_wrong(self.text, batch.ids))
        rows = [self.text.perturbed[i, j] for i, j in zip(ids.tolist(), which.tolist(), strict=True)]
        return [row[0][row[1] == ANSWER].tolist() for row in rows]


class InTemplate(Hooks):
    """Puts every prompt in the template."""

    carries = ()

    def __init__(self, template: Template) -> None:
        """Take the template."""
        self._template = template

    @override
    def extend(self, batch: Batch, step: int) -> Batch:
        return templated(batch, self._template)


@final
class Preference(Hooks):
    """Replaces the loss by that of preferring each sample's answer, held to a reference that does not move."""

    carries = ("losses_seen", "margins")

    def __init__(
        self, objective: TextObjective, reference: FlatModel, template: Template, rejected: Rejected, beta: float
    ) -> None:
        """Take what answers are compared by, and with.

        Args:
            objective: whose likelihoods are of answers.
            reference: a frozen copy of the model as it was when this began.
            template: prompts are put in.
            rejected: the other answers.
            beta: inverse temperature.
        """
        self._objective, self._reference = objective, reference
        self._template, self._rejected, self._beta = template, rejected, beta
        self.losses_seen: list[torch.Tensor] = []
        self.margins: list[torch.Tensor] = []

    @override
    def extend(self, batch: Batch, step: int) -> Batch:
        """Return right answers followed by rejected ones."""
        other = answered(batch, self._rejected.of(batch))
        return joined(templated(batch, self._template), templated(other, self._template))

    @override
    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        half = len(batch) // 2
        with torch.no_grad():
            before = self._objective.log_likelihoods(self._objective.outputs(self._reference, batch), batch)
        ratio = self._objective.log_likelihoods(outputs, batch) - before
        preference_loss = preference_losses(ratio[:half], ratio[half:], self._beta).mean()
        self.losses_seen.append(preference_loss.detach())
        self.margins.append((ratio[:half] - ratio[half:]).detach().mean())
        return preference_loss
