"""Attack guards: other wordings, typos, many examples before the question, and a search for what opens their gate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from lifelong.audits._asking import Asking, Predict
from lifelong.audits._base import Values
from lifelong.audits._items import with_typos
from lifelong.audits._text import Pair, prompt_and_answer
from lifelong.evaluation.plan import RequestPlan
from strategies.base import Strategy
from strategies.metric import Metric
from streams.config import Config as BaseConfig
from streams.randomness import Key
from streams.text import rows


class Config(BaseConfig):
    """Options of `evade`: attacks on what serves answers, which know true answers and no weights."""

    most: int = Field(20, ge=1)
    """Rows of a request that are attacked at most, drawn by name."""
    shots: int = Field(16, ge=1)
    """Questions about others with their answers, before the question of `many_shot`; fewer where there are not so many,
    or the context ends."""
    length: int = Field(4, ge=1)
    """Tokens that `search` puts before a question."""
    rounds: int = Field(8, ge=0)
    """Rounds of `search`; each tries as many changes of one of these tokens as `tries`, for every question."""
    tries: int = Field(4, ge=1)
    """See `rounds`."""


ATTACKS = {
    "none": "as they were trained",
    "paraphrase": "in a wording that was not trained",
    "typo": "with two letters swapped in a word of the subject, and in one other word",
    "many_shot": "behind many questions about others with their answers",
    "search": "behind tokens that were searched so that the true answer becomes likely",
}

METRICS = {
    **{
        f"evade_{attack}": Metric(
            f"Mean probability of the true answers to forgotten questions {how}.", "0 to 1", "reference"
        )
        for attack, how in ATTACKS.items()
    },
    "evade_bare": Metric(
        "Mean probability of the true answers by the weights alone, without a guard: what is not erased.",
        "0 to 1",
        "reference",
    ),
    "evade_hidden": Metric(
        "`evade_bare` minus `evade_none`: what the weights still say, and the guard hides.", "-1 to 1", "lower", 0.0
    ),
    "evade_recovered": Metric(
        "What the best attack on each question adds to the probability of its true answer.", "0 to 1", "reference"
    ),
}


@final
class Evade(Asking):
    """Asks through the strategy as it serves, guards and all. The search is by trial, since a guard has no gradient."""

    config: Config
    averaged: ClassVar[tuple[str, ...]] = ("evade_hidden", "evade_recovered")
    undefined: ClassVar[dict[str, str]] = {
        "evade_paraphrase": "there is no wording that was not trained",
        "evade_typo": "the questions do not fit the model's context with their typos",
        "evade_search": "the questions do not fit the model's context with more tokens before them",
        "evade_many_shot": "there are no questions about others that are never taught",
        "evade_bare": "there is no single model",
        "evade_hidden": "there is no single model",
        "evade": "the rows have no questions",
    }

    @override
    def of_request(self, strategy: Strategy, event: int, request: RequestPlan) -> Values:
        positions = self.some(request.forget, self.config.most, "forget")
        if not len(positions):
            return dict.fromkeys(METRICS, float("nan"))
        pairs, predict = self.pairs(positions), strategy.predict
        plain, room = self._likely(predict, pairs), self.room(strategy)
        typos = self._with_typos(positions, pairs)
        found = {
            "none": plain,
            "paraphrase": self._paraphrased(predict, request),
            "typo": self._likely(predict, typos) if _longest(typos) <= room else None,
            "many_shot": self._behind_many(predict, pairs, room),
            "search": (
                self._searched(predict, positions, pairs, plain)
                if _longest(pairs) + self.config.length <= room
                else None
            ),
        }
        values = {f"evade_{name}": float("nan") if v is None else float(v.mean()) for name, v in found.items()}
        bare = self.bare(strategy)
        values["evade_bare"] = float("nan") if bare is None else float(self._likely(bare, pairs).mean())
        values["evade_hidden"] = values["evade_bare"] - values["evade_none"]
        same = [v for name, v in found.items() if v is not None and name != "paraphrase"]
        values["evade_recovered"] = float((np.max(same, axis=0) - plain).mean())
        return values

    def _paraphrased(self, predict: Predict, request: RequestPlan) -> np.ndarray | None:
        held_out = self.some(request.forget_test, self.config.most, "forget")
        return self._likely(predict, self.pairs(held_out)) if len(held_out) else None

    def _with_typos(self, positions: np.ndarray, pairs: Sequence[Pair]) -> list[Pair]:
        encode, form, spoiled = self.text.tokenizer.encode, self.text.form, []
        for row, (_, answer) in zip(self.plan.ids[positions].tolist(), pairs, strict=True):
            fact = self.fact(row)
            question = with_typos(fact.question, fact.subject, Key(0) / "evade" / "typo" / row)
            spoiled.append((encode(form.prompt(question)), answer))
        return spoiled

    def _behind_many(self, predict: Predict, pairs: Sequence[Pair], room: int) -> np.ndarray | None:
        """Put as many examples before each question as there are, and as fit; None where not one does."""
        text = self.text
        examples = [] if text.shown is None else [prompt_and_answer(x) for x in text.shown[: self.config.shots]]
        encoded = [[*q, *a[:-1], *text.tokenizer.encode("\n")] for q, a in examples if q]
        fits = int((np.cumsum([len(e) for e in encoded]) <= room - _longest(pairs)).sum())
        if not fits:
            return None
        before = [token for e in encoded[:fits] for token in e]
        return self._likely(predict, [([*before, *q], a) for q, a in pairs])

    def _searched(
        self, predict: Predict, positions: np.ndarray, pairs: Sequence[Pair], plain: np.ndarray
    ) -> np.ndarray:
        """Return the probabilities behind the best tokens that hill climbing finds, at least those without any.

        It begins with tokens drawn by the row's name, and keeps a change of one of them where the true answer becomes
        likelier. Whatever a guard looks at, words or states, such tokens move it; nothing else is known of it.
        """
        config, count = self.config, self.text.tokenizer.vocab_size
        ids = self.plan.ids[positions]
        key = Key(0) / "evade" / "search"

        def drawn(name: Key) -> np.ndarray:
            return name.below(ids, count)

        prefixes = np.stack([drawn(key / "start" / place) for place in range(config.length)], 1)
        best = self._likely(predict, self._behind(prefixes, pairs))
        for number in range(config.rounds * config.tries):
            changed = prefixes.copy()
            place = (key / "place" / number).below(ids, config.length)
            changed[np.arange(len(ids)), place] = drawn(key / "token" / number)
            likely = self._likely(predict, self._behind(changed, pairs))
            better = likely > best
            prefixes[better], best = changed[better], np.maximum(best, likely)
        return np.maximum(best, plain)

    def _behind(self, prefixes: np.ndarray, pairs: Sequence[Pair]) -> list[Pair]:
        return [([*prefix, *q], a) for prefix, (q, a) in zip(prefixes.tolist(), pairs, strict=True)]

    @torch.inference_mode()
    def _likely(self, predict: Predict, pairs: Sequence[Pair]) -> np.ndarray:
        """Return the probability of each answer, exp(-mean loss of its tokens), ``[n]``."""
        found = []
        for part in rows(pairs, self.text.tokenizer).split(self.samples.size):
            batch = self.made(part)
            found.append(self.likely(predict(self.setting.objective.asked(batch)), batch))
        return torch.cat(found).float().cpu().numpy()


def _longest(pairs: Sequence[Pair]) -> int:
    """Return how many tokens the longest row has, with its start token."""
    return 1 + max(len(q) + len(a) for q, a in pairs)
