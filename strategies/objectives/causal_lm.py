"""Next-token prediction over rows of tokens, scored on their answers; the score is 1 where every token is right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Literal, final

import torch
import torch.nn.functional as F
from typing_extensions import override

from strategies.measurement import Measurement
from strategies.metric import Metric
from strategies.objectives._answers import Answers, AnswersConfig
from strategies.objectives._base import FisherEstimator, NamedObjective, Without
from strategies.objectives._base import Scored as Scored
from strategies.objectives._base import precise as precise
from strategies.objectives._text import TextObjective, Tokens
from strategies.parts.model import FlatModel
from strategies.parts.training.ragged import row_outputs
from streams.config import Config as BaseConfig
from streams.data import Batch
from streams.errors import ConfigError
from streams.source import Source
from streams.text import ANSWER, GIVEN, IMAGE, Text, prompt_lengths

Reduction = Literal["token", "sequence"]


class Config(BaseConfig):
    """Options of `causal-lm`. But for `answers`, they change what is trained on; evaluation is the same for all."""

    loss_on: Tokens = "answer"
    """Which tokens are learned: those of the answer with its end, or those of the prompt too. Small models that start
    from random weights learn facts several times faster from `all`, since they must learn the names in the prompts."""
    forget_on: Tokens = "answer"
    """Which tokens unlearners raise, lower or compare."""
    reduction: Reduction = "token"
    """Training minimises the mean over all tokens of a batch (token, as transformers does), or over rows of the mean
    over each row's tokens (sequence)."""
    answers: AnswersConfig = AnswersConfig()
    """What is measured of answers."""


METRICS = {
    "exact_match": Metric("share of answers in which every token is the most likely one", "share", "higher", 1.0),
    **Answers.averaged,
}


LARGE: Final = 8192
"""Tokens of a vocabulary from which on the head is passed at the positions alone that are read: of a step of SmolLM2
it is a fifth, of small models next to nothing."""


def counted(x: torch.Tensor, tokens: Tokens) -> torch.Tensor:
    """Return which positions hold tokens that count, bool ``[B, L]``: never padding, nor images.

    Args:
        x: int ``[B, 2, L]`` tokens, and what they are.
        tokens: those of the answer, or of the prompt too.
    """
    part = x[:, 1]
    return part == ANSWER if tokens == "answer" else (part == GIVEN) | (part == ANSWER)


def token_divergences(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return KL(softmax(teacher) || softmax(student)) of every position, ``[S]``, in single precision at least.

    Args:
        student, teacher: logits ``[S, V]``.
    """
    log_p, log_q = precise(student).log_softmax(1), precise(teacher).log_softmax(1)
    return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1)


def scored(logits: torch.Tensor, x: torch.Tensor, tokens: Tokens) -> Scored:
    """Pick the positions that count; the logits of a position are about the token behind it.

    Args:
        logits: ``[B, T, V]``, T being at most L.
        x: int ``[B, 2, L]`` tokens, and what they are.
        tokens: which count. The start token never does, nor do padding and images.
    """
    length = logits.shape[1]
    counts = counted(x[:, :, 1:length], tokens)
    rows, columns = counts.nonzero(as_tuple=True)
    targets = x[rows, 0, columns + 1].long()
    if len(rows) == counts.numel():  # full rows of text: nothing has to be picked
        return Scored(logits[:, :-1].flatten(0, 1), targets, rows, len(x))
    # One index is several times as fast to go back through as two.
    return Scored(logits.flatten(0, 1).index_select(0, rows * length + columns), targets, rows, len(x))


@final
class CausalLM(TextObjective, NamedObjective):
    """Language modelling. Outputs are logits ``[B, T, V]``, T being the longest row of the batch."""

    measure = "exact_match"

    def __init__(
        self, vocab_size: int, text: Text | None = None, config: Config | None = None, trains: Tokens | None = None
    ) -> None:
        """Score answers.

        Args:
            vocab_size: V.
            text: the source's tokeniser and refusals, for unlearners that need them.
            config: what is trained on.
            trains: which tokens count in `losses`, reduced as configured; None gives the losses of evaluation, the
                mean over each answer.
        """
        self.text, self.config, self.trains = text, config or Config(), trains
        self.loss_on, self.forget_on = self.config.loss_on, self.config.forget_on
        self._vocab_size = vocab_size

    @classmethod
    @override
    def for_data(
        cls,
        config: BaseConfig,
        source: Source,
        task_classes: tuple[tuple[int, ...], ...] | None,
        device: str | torch.device,
    ) -> CausalLM:
        """Use the source's vocabulary; task labels make no difference."""
        if source.text is None:
            raise ConfigError(
                f"objective: {source.name!r} has no text. Use a source of text (people, corpora, text-files), or "
                f"objective: classification."
            )
        assert isinstance(config, Config)
        return cls(source.text.tokenizer.vocab_size, source.text, config)

    @property
    @override
    def num_outputs(self) -> int:
        """One output per token of the vocabulary, at every position."""
        return self._vocab_size

    @override
    def on(self, tokens: Tokens) -> CausalLM:
        return CausalLM(self._vocab_size, self.text, self.config, tokens)

    @override
    def outputs(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        """Return the logits ``[B, T, V]``; rows of unequal length pass in groups where that pays (`row_outputs`).

        Of a large vocabulary the logits of positions that nobody asks for are NaN: those whose next token does not
        count, but for the last token of a row, which text goes on from (`every_position` gives them all).
        """
        return row_outputs(model, batch, self._wanted(batch.x) if self._vocab_size >= LARGE else None)

    def _wanted(self, x: torch.Tensor) -> torch.Tensor | None:
        """Return the positions whose logits are read, bool ``[B, L]``; None where that is nearly everywhere."""
        there = x[:, 1] > 0
        is_last = there & ~F.pad(there[:, 1:], (0, 1))
        wanted = is_last | F.pad(counted(x[:, :, 1:], self.trains or "answer"), (0, 1))
        return None if int(wanted.sum()) >= 0.9 * int(there.sum()) else wanted

    @override
    def scored(self, outputs: torch.Tensor, batch: Batch) -> Scored:
        return scored(outputs, batch.x, self.trains or "answer")

    @override
    def reduce(self, sums: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Return per-row numbers ``[B]`` whose mean is the configured mean, given sums and counts of tokens."""
        if self.trains and self.config.reduction == "token":
            return sums * (len(sums) / counts.sum())
        return sums / counts

    @override
    def losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the mean of -log p over each answer; in training, as configured."""
        scored_tokens = self.scored(outputs, batch)
        return self.reduce(scored_tokens.sums(scored_tokens.token_losses()), scored_tokens.counts)

    @override
    def mean_losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the mean of -log p over the positions of each row that count, ``[B]``."""
        scored_tokens = self.scored(outputs, batch)
        return scored_tokens.sums(scored_tokens.token_losses()) / scored_tokens.counts

    @override
    def log_likelihoods(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return log p(answer | prompt): the sum over the positions that count, ``[B]``."""
        scored_tokens = self.scored(outputs, batch)
        return -scored_tokens.sums(scored_tokens.token_losses())

    @override
    def divergences(self, outputs: torch.Tensor, reference: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return KL(reference || model) over the positions that count, reduced as the losses are."""
        scored_tokens = self.scored(outputs, batch)
        apart = token_divergences(scored_tokens.logits, self.scored(reference, batch).logits)
        return self.reduce(scored_tokens.sums(apart), scored_tokens.counts)

    @override
    def scores(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return 1 where every token of the answer, its end too, is the most likely one, else 0.

        The tokens before it are the right ones (teacher forcing). This is the same as an exact match of greedy text.
        """
        scored_tokens = scored(outputs, batch.x, "answer")
        wrong = (scored_tokens.logits.argmax(1) != scored_tokens.targets).float()
        return (scored_tokens.sums(wrong) == 0).float()

    @override
    def probabilities(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the distribution of the first token of each answer, ``[B, V]``."""
        return precise(outputs[torch.arange(len(batch), device=outputs.device), _last_prompt_position(batch)]).softmax(
            1
        )

    @override
    def measurements(self) -> tuple[Measurement, ...]:
        """Return the records of answers, where the source's text is known."""
        return () if self.text is None else (Answers(self.text, self.responses, self.config.answers),)

    @override
    def blend(self, outputs: Sequence[torch.Tensor], batch: Batch) -> torch.Tensor:
        """Return the log of the mean of what the models say of every token, ``[B, T, V]``."""
        if len(outputs) == 1:
            return outputs[0]
        return torch.stack([precise(o).log_softmax(2) for o in outputs]).logsumexp(0) - math.log(len(outputs))

    @override
    def features(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        """Return the hidden state at the end of each prompt, ``[B, F]``."""
        hidden = model.features(*batch.inputs)
        return hidden[torch.arange(len(batch), device=hidden.device), _last_prompt_position(batch)]

    @override
    def responses(self, outputs: torch.Tensor, batch: Batch, everywhere: bool = False) -> Scored:
        return scored(outputs, batch.x, "all" if everywhere else "answer")

    @override
    def embeddings(self, model: FlatModel, batch: Batch) -> torch.Tensor:
        hidden = model.features(*batch.inputs)
        there = (batch.x[:, 1, : hidden.shape[1]] > 0).unsqueeze(2)
        return (hidden * there).sum(1) / there.sum(1)

    @override
    def without(self, batch: Batch, what: Without) -> tuple[Batch, torch.Tensor] | None:
        """Return rows with zeroed images, without positions of images, or with their start token and answer alone.

        The zeros are floats, that is processed images (`Batch.images`): the mean colour, and not black.
        """
        roles = batch.x[:, 1]
        if what == "prompt":
            alone = kept(batch, (roles == ANSWER) | _first(batch.x))
            return replace(alone, images=None), prompt_lengths(batch.x) > 1
        if batch.images is None:
            return None
        had = (roles == IMAGE).any(1)
        if what == "image":
            return replace(batch, images=torch.zeros(batch.images.shape, device=batch.x.device)), had
        return replace(kept(batch, (roles > 0) & (roles != IMAGE)), images=None), had

    @override
    def fisher_terms(
        self, outputs: torch.Tensor, batch: Batch, estimator: FisherEstimator, generator: torch.Generator
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """See `Objective.fisher_terms`. The log loss of a row is its mean over the tokens that count.

        sampled: one token drawn at every position, given the true ones before it; the positions' scores are
        independent and have mean zero, so that this is unbiased for the sum over positions. p-weighted: by the
        geometric mean of the tokens' probabilities. exact has a term for every token of the vocabulary: refused.
        """
        if estimator == "exact":
            raise ConfigError(
                f"fisher: 'exact' needs a backward pass for each of {self._vocab_size} tokens. Use 'sampled', which is "
                f"unbiased for it, or 'empirical'."
            )
        scored_tokens = self.scored(outputs, batch)
        if estimator == "sampled":
            p = precise(scored_tokens.logits.detach()).softmax(1).cpu()
            drawn = torch.multinomial(p, 1, generator=generator).squeeze(1)
            scored_tokens = replace(scored_tokens, targets=drawn.to(outputs.device))
        losses = scored_tokens.sums(scored_tokens.token_losses()) / scored_tokens.counts
        ones = torch.ones_like(losses)
        return [(losses.detach().neg().exp() if estimator == "p-weighted" else ones, losses)]


def _last_prompt_position(batch: Batch) -> torch.Tensor:
    return prompt_lengths(batch.x) - 1


def _first(x: torch.Tensor) -> torch.Tensor:
    return torch.arange(x.shape[2], device=x.device).expand(len(x), -1) == 0


def kept(batch: Batch, positions: torch.Tensor) -> Batch:
    """Return the batch with the marked positions alone (bool ``[B, L]``), moved to the front of their rows."""
    order = positions.logical_not().to(torch.int8).argsort(dim=1, stable=True)
    there = positions.gather(1, order).unsqueeze(1)
    x = batch.x.gather(2, order.unsqueeze(1).expand(-1, 2, -1)) * there
    return replace(batch, x=x[:, :, : int(positions.sum(1).max())])


def answered(batch: Batch, answers: Sequence[Sequence[int]]) -> Batch:
    """Return the batch with other answers to the same prompts.

    Args:
        batch: rows with prompts.
        answers: token ids of one answer per row, each with its end token.

    Returns:
        A batch with ``x [B, 2, L']``, as long as the longest row needs.
    """
    given = prompt_lengths(batch.x).tolist()
    length = max(g + len(a) for g, a in zip(given, answers, strict=True))
    x = batch.x.new_zeros(len(batch), 2, length)
    for row, old, g, a in zip(x, batch.x, given, answers, strict=True):
        row[:, :g] = old[:, :g]
        row[0, g : g + len(a)] = torch.tensor(list(a), dtype=x.dtype, device=x.device)
        row[1, g : g + len(a)] = ANSWER
    return replace(batch, x=x)


def prefixed(batch: Batch, prefixes: Sequence[Sequence[int]]) -> Batch:
    """Return the batch with tokens put between each row's start token and what follows it; they are given.

    Args:
        batch: ``x [B, 2, L]``.
        prefixes: one per row.
    """
    longest = max(len(p) for p in prefixes)
    x = batch.x.new_zeros(len(batch), 2, batch.x.shape[2] + longest)
    for row, old, prefix in zip(x, batch.x, prefixes, strict=True):
        n = len(prefix)
        row[:, 0] = old[:, 0]
        row[0, 1 : 1 + n] = torch.tensor(list(prefix), dtype=x.dtype, device=x.device)
        row[1, 1 : 1 + n] = GIVEN
        row[:, 1 + n : n + old.shape[1]] = old[:, 1:]
    return replace(batch, x=x)


def joined(first: Batch, second: Batch) -> Batch:
    """Return two batches of rows that may differ in length as one, the shorter rows padded."""
    length = max(first.x.shape[2], second.x.shape[2])
    parts = [replace(b, x=F.pad(b.x, (0, length - b.x.shape[2]))) for b in (first, second)]
    return parts[0].concat(parts[1])
