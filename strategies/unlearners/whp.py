"""WHP: teach what a model that never met the forgotten would say in its place (Who's Harry Potter)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Literal, final

import torch
import torch.nn.functional as F
from pydantic import Field
from typing_extensions import override

from strategies.base import Access, Door, Learner, Outcome, Setting, Unlearner
from strategies.objectives._text import TextObjective
from strategies.objectives.causal_lm import counted, precise
from strategies.parts.fit import FitConfig, Hooks, fit
from strategies.parts.model import FlatModel
from strategies.parts.teachers.teacher import frozen_copy
from strategies.parts.text.other_answers import Values
from strategies.ranges import TRAINED_ON_TEXT, linear
from streams.data import Batch, Data
from streams.errors import ConfigError
from streams.events import DeletionRequest
from streams.randomness import Key
from streams.text import ANSWER, rows

SKIP = -100
"""Label of a position that is not trained."""


class ReinforceConfig(FitConfig):
    """How the reinforced model is trained on the forget set."""

    epochs: int = Field(3, ge=1)
    """Passes over the forget set."""
    batch_size: int = Field(16, ge=1)
    """Samples per step."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """Update rule."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate. For models of a million weights."""


class Config(FitConfig):
    """Options of `whp` (Eldan and Russinovich 2023, arXiv 2310.02238)."""

    epochs: int = Field(5, ge=1)
    """Passes over the forget set with generic labels."""
    batch_size: int = Field(16, ge=1)
    """Samples per step."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """Update rule."""
    lr: float = Field(3e-4, gt=0)
    """Learning rate. For models of a million weights."""
    reinforce: ReinforceConfig = ReinforceConfig()
    """How the reinforced model is trained."""
    alpha: float = Field(5.0, ge=0)
    """What the reinforced model says louder is lowered by alpha times as much."""
    translate: bool = True
    """Whether the base model reads the text with its terms replaced by generic ones, as published. Otherwise it reads
    the text itself (the simplified form of MUSE)."""
    terms: dict[str, str] | None = None
    """Terms of the forgotten, each with a generic one. null takes those of the source (people has its names and
    values), and draws among their alternatives."""
    scores: Literal["log-probabilities", "logits"] = "log-probabilities"
    """What is compared between models. Logits, as published, may be shifted by any number."""


def generic_scores(
    translated: torch.Tensor, base: torch.Tensor, reinforced: torch.Tensor, alpha: float
) -> torch.Tensor:
    """Return v_translated - alpha relu(v_reinforced - v_base), of any shape ``[..., V]``."""
    return translated - alpha * (reinforced - base).clamp(min=0)


def translation(text: str, terms: Mapping[str, str]) -> str:
    """Return the text with every whole term replaced, the longest first.

    >>> translation("Ron met Ronald.", {"Ron": "Tom", "Ronald": "Tim"})
    'Tom met Tim.'
    """
    if not terms:
        return text
    pattern = "|".join(re.escape(t) for t in sorted(terms, key=len, reverse=True))
    return re.sub(rf"(?<!\w)(?:{pattern})(?!\w)", lambda m: terms[m[0]], text)


def contexts(own: Sequence[int], other: Sequence[int]) -> list[int]:
    """Return, for the token behind each position of a text, the position of its translation that stands before it.

    -1 where there is none: inside a term, and where a term comes for the second time (otherwise it would be renamed in
    the middle of a text). Positions are those of the logits, so that the last one has no token behind it.

    Args:
        own: token ids of the text.
        other: those of its translation.

    >>> contexts([1, 7, 8, 5, 7, 8, 5], [1, 9, 5, 9, 5])
    [0, -1, 1, -1, -1, 3, -1]
    """
    matched = [-1] * len(own)
    terms: list[tuple[int, int]] = []
    for kind, i, j, k, _ in SequenceMatcher(None, list(own), list(other), autojunk=False).get_opcodes():
        if kind == "equal":
            for step in range(j - i):
                matched[i + step] = k + step
        elif j > i:
            terms.append((i, j))
    context_of = [-1] * len(own)
    for t in range(len(own) - 1):
        if matched[t + 1] > 0:
            context_of[t] = matched[t + 1] - 1
        elif matched[t] >= 0 and matched[t + 1] < 0:
            context_of[t] = matched[t]
    terms_seen: set[tuple[int, ...]] = set()
    for i, j in terms:
        term = tuple(own[i:j])
        if term in terms_seen and i:
            context_of[i - 1] = -1
        terms_seen.add(term)
    return context_of


@final
class _Labels(Hooks):
    """Trains on labels of its own, position by position."""

    carries = ()

    def __init__(self, labels: Values) -> None:
        self._labels = labels

    @override
    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, batch: Batch, model: FlatModel) -> torch.Tensor:
        """Return the mean cross-entropy over the positions that have a label."""
        labels = self._labels.of(batch)[:, : outputs.shape[1]].flatten()
        if not bool((labels != SKIP).any()):
            return outputs.sum() * 0.0
        return F.cross_entropy(precise(outputs).flatten(0, 1), labels, ignore_index=SKIP)


@final
class WHP(Unlearner):
    """Fine-tunes on generic labels: what the model says of a translated text, less what more training makes louder."""

    test_options = {"epochs": 1, "reinforce": {"epochs": 1}}
    config: Config
    supports = frozenset({"tokens"})
    ranges = TRAINED_ON_TEXT | {"alpha": linear(1.0, 10.0)}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Need terms where text is translated.

        Raises:
            ConfigError: says what is missing.
        """
        super().__init__(config, setting)
        self._objective = TextObjective.of(setting.objective)
        text = self._objective.text
        if text is not None and text.image_tokens:
            raise ConfigError("unlearner: 'whp' writes rows anew and works on text alone; this source has images.")
        if config.translate and not config.terms and (text is None or not text.terms):
            raise ConfigError(
                "unlearner.terms: 'whp' translates terms of the forgotten into generic ones, and this source names "
                "none. Give them (terms: {Hogwarts: the academy}), or set translate: false."
            )

    @property
    @override
    def access(self) -> Access:
        return Access(forget_set=True)

    @override
    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        config, model = self.config, learner.model
        key = self.setting.key / "whp" / request.name
        forget_set = door.forget_set()
        reinforced = frozen_copy(self.setting, model)
        outcome = fit(reinforced, self._objective, forget_set, config.reinforce, key / "reinforce")
        labels, share = self._labels(model, reinforced, forget_set, key)
        passes = 3 if config.translate else 2
        outcome += Outcome(forward=passes * len(forget_set), losses={"relabelled": share})
        hook = _Labels(Values(forget_set.ids, labels))
        return (outcome + fit(model, self._objective, forget_set, config, key, [hook])).graded("none")

    @torch.no_grad()
    def _labels(
        self, model: FlatModel, reinforced: FlatModel, forget_set: Data, key: Key
    ) -> tuple[torch.Tensor, float]:
        """Return a label for the token behind every position, int64 ``[n, L]``, and how many differ from the text."""
        config = self.config
        for m in (model, reinforced):
            m.train(False)
        terms = self._terms(key) if config.translate else {}
        label_rows, changed, labelled = [], 0, 0
        for batch in forget_set.batches(64):
            counts = counted(batch.x[:, :, 1:], self._objective.forget_on)  # of the token behind
            labels = torch.full_like(batch.x[:, 0], SKIP, dtype=torch.long)
            base, more = (self._scores(m, batch.x) for m in (model, reinforced))
            translated, where = (base, None) if not config.translate else self._translated(model, batch, terms)
            for row in range(len(batch)):
                for t in counts[row].nonzero().flatten().tolist():
                    s = t if where is None else where[row][t]
                    if s >= 0:
                        v = generic_scores(translated[row, s], base[row, t], more[row, t], config.alpha)
                        labels[row, t] = v.argmax()
                        changed += int(labels[row, t] != batch.x[row, 0, t + 1])
                        labelled += 1
            label_rows.append(labels)
        return torch.cat(label_rows), changed / max(1, labelled)

    def _scores(self, model: FlatModel, x: torch.Tensor) -> torch.Tensor:
        logits = precise(model(x))
        return logits.log_softmax(2) if self.config.scores == "log-probabilities" else logits

    def _terms(self, key: Key) -> dict[str, str]:
        """Return a generic term for each term, the same throughout a request."""
        if self.config.terms:
            return self.config.terms
        assert self._objective.text is not None
        assert self._objective.text.terms is not None
        every = self._objective.text.terms
        return {t: options[int((key / "term" / t).numpy().integers(len(options)))] for t, options in every.items()}

    def _translated(
        self, model: FlatModel, batch: Batch, terms: Mapping[str, str]
    ) -> tuple[torch.Tensor, list[list[int]]]:
        """Return the base's scores of the translated rows, and where in them each position's context ends."""
        assert self._objective.text is not None
        tokenizer = self._objective.text.tokenizer
        pairs, texts = [], []
        for tokens, marks in batch.x.cpu():
            length = int((marks > 0).sum())
            border = int((marks[:length] != ANSWER).sum())
            ids = tokens[:length].tolist()
            end = [ids[-1]] if ids[-1] == tokenizer.eos else []
            prompt, answer = ids[1:border], ids[border : length - len(end)]
            translated = [tokenizer.encode(translation(tokenizer.decode(part), terms)) for part in (prompt, answer)]
            pairs.append((translated[0], [*translated[1], *end]))
            texts.append(ids)
        x = rows(pairs, tokenizer).to(batch.x.device)
        translations = [tokens[marks > 0].tolist() for tokens, marks in x.cpu()]
        where = [contexts(a, b) for a, b in zip(texts, translations, strict=True)]
        return self._scores(model, x), where
