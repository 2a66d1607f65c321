"""Audits of text: what one model still knows of a request's answers, and what an attacker would get back.

Every number is a mean over (at most `SAMPLES`) rows of one request, so that run and references are asked the same.
NaN stands for what is undefined.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
import torch

from lifelong.config.run import EvaluationConfig
from lifelong.evaluation.generation import continued
from lifelong.evaluation.plan import Audit, EvaluationPlan
from lifelong.evaluation.relearning import Relearning
from lifelong.formulas.attacks import area, halves, probed, round_weights, unmoved
from lifelong.formulas.language import BITS, LOOKS
from lifelong.formulas.muse import cut_answer, rouge_f
from strategies.base import Setting, Strategy
from strategies.objectives._text import TextObjective
from strategies.parts.model import FlatModel
from strategies.parts.text.token_body import TokenBody
from streams.data import Batch, Data
from streams.errors import ConfigError
from streams.randomness import Key
from streams.stream import Stream
from streams.text import ANSWER, GIVEN, Text, rows

OF_TEXT = ("muse", "relearn-rest", "quantise", "reintroduce", "probe")
"""Audits that need text."""
SAMPLES = 100
"""Rows of a request that are asked at most, drawn by name (MUSE)."""
CONTINUATION, ANSWER_TOKENS = 128, 32
"""Tokens that are made at most: of a text that was begun, and of an answer (MUSE)."""
STATEMENTS = 4
"""Statements that are put before a question: the one that answers it, and others about the same person."""
ALIAS = "Quorvex"
"""A name that nobody has: definitions say who it is, and what is true of it."""
CONDITIONS = ("none", "true", "other", "definition")
"""What is put before a question: nothing, facts of that person, those of another one, or definitions."""

Found = dict[str, float]
Pair = tuple[list[int], list[int]]


def check_audits(text: Text | None, config: EvaluationConfig) -> None:
    """Refuse audits of text where there is none or there are images, and more examples than there are held-out rows.

    Raises:
        ConfigError: says which.
    """
    asked = [a for a in config.audits if a in OF_TEXT]
    if asked and text is None:
        raise ConfigError(
            f"evaluation.audits: {asked[0]!r} looks at answers in text, and the source has none. Leave it out, or use "
            f"a source of text (people, corpora, text-files)."
        )
    if asked and text is not None and text.image_tokens:
        raise ConfigError(f"evaluation.audits: {asked[0]!r} looks at text alone; this source has images. Leave it out.")
    there = 0 if text is None or text.holdout is None else len(text.holdout)
    if config.shots > there:
        raise ConfigError(
            f"evaluation.shots: {config.shots} questions about those who are never taught are wanted, and the source "
            f"has {there}. Lower it, or raise source.holdout where the source has it."
        )


@final
class Prober:
    """Asks models what they know, by the audits that a configuration names."""

    def __init__(
        self, setting: Setting, stream: Stream, plan: EvaluationPlan, config: EvaluationConfig, data: Data
    ) -> None:
        """Take what is asked about; `data` has the evaluation samples of `plan`."""
        self._setting, self._source, self._plan, self._config, self._data = setting, stream.source, plan, config, data
        objective = setting.objective
        self._objective = objective if isinstance(objective, TextObjective) else None
        self._size = config.batch_size

    @property
    def _text(self) -> Text:
        assert self._objective is not None
        assert self._objective.text is not None
        return self._objective.text

    def look(self, strategy: Strategy, event: int) -> dict[str, np.ndarray]:
        """Return, by name, ``audit_*`` numbers of every request that is due after `event`, and ``stream_*`` ones."""
        due, audits = self._plan.due(event), self._config.audits
        tables: list[Found] = [{} for _ in due]
        for audit, found in zip(due, tables, strict=True):
            if "muse" in audits:
                found |= self._memory(strategy, audit)
            if "relearn-rest" in audits:
                found |= self._relearned(strategy, audit)
            if "quantise" in audits:
                found |= self._rounded(strategy, audit)
            if "reintroduce" in audits:
                found |= self._reintroduced(strategy, audit)
        if "probe" in audits:
            for found, more in zip(tables, self._probed(strategy, event, due), strict=True):
                found |= more
        names = list(dict.fromkeys(name for found in tables for name in found))
        result = {f"audit_{n}": np.array([f.get(n, np.nan) for f in tables], dtype=np.float32) for n in names}
        return result | (self.utility(strategy, event) if "muse" in audits else {})

    def utility(self, strategy: Strategy, event: int) -> dict[str, np.ndarray]:
        """Return MUSE's utility: knowledge of what is kept, asked in words that were not trained."""
        value = self._knowledge(strategy, self._some(self._plan.kept_questions(event)))
        return {"stream_retain_know_mem": np.array([value], dtype=np.float32)}

    # -- MUSE

    def _memory(self, strategy: Strategy, audit: Audit) -> Found:
        return {
            "verb_mem": self._verbatim(strategy, self._some(audit.forget)),
            "know_mem": self._knowledge(strategy, self._questions(audit)),
        }

    def _verbatim(self, strategy: Strategy, positions: np.ndarray) -> float:
        """Return how much of the second half of each text comes out when its first half is given."""
        tokens = [x[0][x[1] > 0].tolist() for x in self._batch(positions).x]
        cuts = [max(1, len(ids) // 2) for ids in tokens]
        true = [ids[cut : cut + CONTINUATION] for ids, cut in zip(tokens, cuts, strict=True)]
        begun = [ids[:cut] for ids, cut in zip(tokens, cuts, strict=True)]
        made = self._continued(strategy, begun, [len(ids) for ids in true])
        return _mean(rouge_f([(self._decoded(t), m) for t, m in zip(true, made, strict=True)]))

    def _knowledge(self, strategy: Strategy, positions: np.ndarray) -> float:
        """Return how close answers to questions come; NaN where rows have no questions."""
        pairs = [p for p in self._pairs(positions) if p[0]]
        if not pairs:
            return float("nan")
        start = [self._text.tokenizer.bos, *self._examples()]
        prompts, room = [[*start, *prompt] for prompt, _ in pairs], self._room(strategy)
        if max(map(len, prompts)) >= room:  # with so many examples no question fits
            return float("nan")
        made = self._continued(strategy, prompts, [min(ANSWER_TOKENS, room - len(p)) for p in prompts])
        answers = [cut_answer(m) for m in made]
        return _mean(rouge_f([(self._decoded(a), m) for (_, a), m in zip(pairs, answers, strict=True)]))

    def _room(self, strategy: Strategy) -> int:
        """Return how many tokens fit into a row; without a single model, as many as the longest row."""
        model = strategy.network()
        if model is None or not isinstance(model.network.body, TokenBody):
            return max(self._source.x.shape[2], CONTINUATION)
        return model.network.body.context

    def _examples(self) -> list[int]:
        text, between = self._text, self._text.tokenizer.encode("\n\n")
        ids: list[int] = []
        for x in [] if text.holdout is None else text.holdout[: self._config.shots]:
            prompt, answer = _parts(x)
            ids += [*prompt, *(t for t in answer if t != text.tokenizer.eos), *between]
        return ids

    def _continued(self, strategy: Strategy, prompts: list[list[int]], most: list[int]) -> list[str]:
        made: list[str] = []
        like = self._batch(np.zeros(1, dtype=np.int64))
        for i in range(0, len(prompts), self._size):
            part = slice(i, i + self._size)
            made += continued(strategy.predict, like, prompts[part], most[part], self._text.tokenizer)
        return made

    # -- attacks on the weights

    def _relearned(self, strategy: Strategy, audit: Audit) -> Found:
        """Fine-tune on half of the facts, and look at the others: never at what was trained on again."""
        names = [*(f"relearned_{s}" for s in LOOKS), "relearned"]
        model, groups = strategy.network(), self._facts(audit.forget)
        key = self._setting.key / "relearn-rest" / audit.request.name
        distinct = np.unique(groups)
        if model is None or len(distinct) < 2:
            return dict.fromkeys(names, float("nan"))
        taught, rest = halves(groups, distinct[key.order(distinct)])
        lesson = Relearning(self._setting, key, LOOKS[-1], LOOKS, self._likely, self._config.relearn_lr)
        again, others = self._batch(audit.forget[taught]), self._batch(self._some(audit.forget[rest]))
        curve = lesson.curve(model, again, again.part(0, 0), others).tolist()
        return dict(zip(names, [*curve, area(LOOKS, curve)], strict=True))

    def _facts(self, positions: np.ndarray) -> np.ndarray:
        """Return what each row tells, by number; of text without questions, the row."""
        ids = self._plan.ids[positions]
        return self._fact_ids(ids) if self._is_question(positions).all() else ids

    def _fact_ids(self, ids: np.ndarray) -> np.ndarray:
        """Return a number of the fact that each row tells: whom it is about, what of them, and the value."""
        values = self._text.values
        number = self._source.user_ids[ids] * self._source.num_classes + self._source.class_ids[ids]
        return number if values is None else number * (int(values.max()) + 1) + values.numpy()[ids]

    def _rounded(self, strategy: Strategy, audit: Audit) -> Found:
        """Round the weights, and look at the forgotten answers."""
        found: Found = {}
        batch = self._batch(self._some(audit.forget))
        model = strategy.network()
        before = float("nan") if model is None else self._probability(model, batch)
        for bits in BITS:
            model = strategy.network()
            after = float("nan")
            if model is not None and isinstance(model.network.body, TokenBody):
                round_weights(model.network.body.layers, bits)
                after = self._probability(model, batch)
            found[f"int{bits}_probability"], found[f"int{bits}_recovered"] = after, after - before
            found[f"int{bits}_robustness"] = unmoved(before, after)
        return found

    def _likely(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        assert self._objective is not None
        return self._objective.losses(outputs, batch).neg().exp()

    @torch.inference_mode()
    def _probability(self, model: FlatModel, batch: Batch) -> float:
        """Return the mean over rows of exp(-mean loss of the answer's tokens)."""
        model.train(False)
        return float(self._likely(self._setting.objective.outputs(model, batch), batch).mean())

    # -- back through the context

    def _reintroduced(self, strategy: Strategy, audit: Audit) -> Found:
        """Ask with statements put before the question; accuracy is that of whole answers."""
        found: Found = {}
        positions = self._questions(audit)
        asked = [(i, pair) for i, pair in zip(positions.tolist(), self._pairs(positions), strict=True) if pair[0]]
        named = self._source.user_ids[self._plan.ids[audit.forget]]
        for condition in CONDITIONS:
            pairs = []
            for position, (prompt, answer) in asked:
                before = self._context(condition, int(self._plan.ids[position]), named)
                if before is not None:
                    pairs.append(([*self._text.tokenizer.encode(before), *prompt], answer))
            accuracy, probability = self._answered(strategy, pairs)
            found |= {f"context_{condition}_accuracy": accuracy, f"context_{condition}_probability": probability}
        for what in ("accuracy", "probability"):
            found[f"reintroduction_gain_{what}"] = found[f"context_true_{what}"] - found[f"context_none_{what}"]
        return found

    def _context(self, condition: str, own: int, named: np.ndarray) -> str | None:
        """Return what is put before a question, or None where there is no such thing.

        Args:
            condition: one of `CONDITIONS`.
            own: id of the row that asks.
            named: users of the request.
        """
        source, key = self._source, Key(0) / "context" / own
        user, what = int(source.user_ids[own]), int(source.class_ids[own])
        if condition == "none":
            return ""
        if condition == "definition":
            name, said = source.user_names[user], self._statement(own)
            return f"{ALIAS} is {name}. {said.replace(name, ALIAS)}\n" if name in said else None
        if condition == "other":
            others = np.setdiff1d(source.user_ids[(source.class_ids == what) & ~source.is_test], named)
            if not len(others):
                return None
            user = int(others[key.order(others)[0]])
            own = int(np.flatnonzero((source.user_ids == user) & (source.class_ids == what))[0])
        more = np.flatnonzero((source.user_ids == user) & (source.class_ids != what) & ~source.is_test)
        _, first = np.unique(source.class_ids[more], return_index=True)
        more = more[first]
        statements = np.array([own, *more[key.order(more)[: STATEMENTS - 1]]])
        return " ".join(self._statement(i) for i in statements[(key / "order").order(statements)].tolist()) + "\n"

    def _statement(self, row: int) -> str:
        """Return what a row tells, in other words where there are any."""
        x = self._source.x if self._text.paraphrased is None else self._text.paraphrased
        return self._decoded(_parts(x[row])[1]).strip()

    @torch.inference_mode()
    def _answered(self, strategy: Strategy, pairs: list[Pair]) -> tuple[float, float]:
        """Return the share of answers that are right, and their mean probability; NaN if they do not fit the model."""
        if not pairs:
            return float("nan"), float("nan")
        x = rows(pairs, self._text.tokenizer)
        if x.shape[2] > self._room(strategy):
            return float("nan"), float("nan")
        hits, likely = [], []
        for part in x.split(self._size):
            batch = self._made(part)
            outputs = strategy.predict(batch)
            hits.append(self._setting.objective.scores(outputs, batch))
            likely.append(self._likely(outputs, batch))
        return float(torch.cat(hits).mean()), float(torch.cat(likely).mean())

    # -- hidden states

    def _probed(self, strategy: Strategy, event: int, due: Sequence[Audit]) -> list[Found]:
        """Read values and truth from the hidden states of every layer; nothing where there is no single decoder."""
        model = strategy.network()
        if model is None or not isinstance(model.network.body, TokenBody):
            return [{} for _ in due]
        model.train(False)
        return [
            a | b for a, b in zip(self._values(model.network.body, due), self._truth(model, event, due), strict=True)
        ]

    def _values(self, body: TokenBody, due: Sequence[Audit]) -> list[Found]:
        """Read what each fact's value is at the end of its question, everybody's in words that were trained.

        Fitted on one wording of every fact that there is, of the forgotten too, and tested on the wording held out of
        those that a request deletes. The control has the values of a class dealt out anew: what it reaches is the
        probe's own doing.
        """
        source, values = self._source, self._text.values
        tested = [np.flatnonzero(self._is_question(a.forget_test)) for a in due]
        if values is None or not any(len(t) for t in tested):
            return [{} for _ in due]
        value_ids = values.numpy()
        train = np.flatnonzero(~source.is_test)
        train = train[np.sort(np.unique(self._fact_ids(train), return_index=True)[1])]
        places = np.unique(np.concatenate([a.forget_test for a in due]))
        test = self._plan.ids[places]
        states = [self._states(body, self._rows_at(i), last=GIVEN) for i in (train, test)]
        found: list[Found] = [{} for _ in due]
        for layer in range(len(states[0])):
            hits, control = np.zeros(len(test), dtype=bool), np.zeros(len(test), dtype=bool)
            for what in np.unique(source.class_ids[test]):
                own, asked = source.class_ids[train] == what, source.class_ids[test] == what
                labels = value_ids[train[own]]
                dealt = labels[(Key(0) / "control" / int(what)).order(train[own])]
                of = dict(zip(self._fact_ids(train[own]).tolist(), dealt.tolist(), strict=True))
                truth = np.array([of.get(fact, -1) for fact in self._fact_ids(test[asked]).tolist()])
                sides = states[0][layer][own], states[1][layer][asked]
                hits[asked] = probed(sides[0], labels, sides[1]) == value_ids[test[asked]]
                control[asked] = probed(sides[0], dealt, sides[1]) == truth
            for audit, table in zip(due, found, strict=True):
                at = np.searchsorted(places, audit.forget_test)
                accuracy = _mean(hits[at])
                table[f"probe_value_layer_{layer}"] = accuracy
                table[f"probe_selectivity_layer_{layer}"] = accuracy - _mean(control[at])
        return found

    def _truth(self, model: FlatModel, event: int, due: Sequence[Audit]) -> list[Found]:
        """Read whether an answer is right at its last token; fitted on answers that are kept, tested on forgotten ones.

        After arXiv 2409.02228. There are as many wrong answers as right ones, put in the same words.
        """
        text, body = self._text, model.network.body
        live = self._plan.kept[self._plan.probe_live[event][np.searchsorted(self._plan.probe, self._plan.kept)]]
        if text.paraphrased is None or text.perturbed is None or not len(live):
            return [{} for _ in due]
        assert isinstance(body, TokenBody)
        sides = [self._with_wrong(self._plan.ids[p]) for p in (live, *(self._some(a.forget) for a in due))]
        if not len(sides[0]):
            return [{} for _ in due]
        states = [
            self._states(body, torch.cat([text.paraphrased[ids], text.perturbed[ids, 0]]), last=ANSWER)
            if len(ids)
            else []
            for ids in sides
        ]
        found: list[Found] = [{} for _ in due]
        for layer, train in enumerate(states[0]):
            for table, ids, own in zip(found, sides[1:], states[1:], strict=True):
                truth = np.repeat([1, 0], len(ids))
                said = probed(train, np.repeat([1, 0], len(sides[0])), own[layer]) if len(ids) else truth
                table[f"probe_truth_layer_{layer}"] = _mean(said == truth)
        return found

    def _with_wrong(self, ids: np.ndarray) -> np.ndarray:
        """Return those rows that have wrong answers."""
        return ids[self._text.wrong_counts(torch.from_numpy(ids)) > 0]

    @torch.inference_mode()
    def _states(self, body: TokenBody, x: torch.Tensor, last: int) -> list[np.ndarray]:
        """Return the hidden states of every layer ``[n, F]`` at the last token of the prompt, or of the answer."""
        layers: list[list[torch.Tensor]] = []
        for part in x.split(self._size):
            batch = self._made(part)
            at = (batch.x[:, 1] > 0).sum(1) - 2 if last == ANSWER else (batch.x[:, 1] == GIVEN).sum(1) - 1
            own = torch.arange(len(part), device=at.device)
            layers.append([s[own, at] for s in body.states(batch.x)])
        return [torch.cat(parts).float().cpu().numpy() for parts in zip(*layers, strict=True)]

    # -- rows

    def _questions(self, audit: Audit) -> np.ndarray:
        """Return positions of the questions about what a request deletes: in words that were not trained, if any."""
        return self._some(audit.forget_test if len(audit.forget_test) else audit.forget)

    def _some(self, positions: np.ndarray) -> np.ndarray:
        """Return at most `SAMPLES` positions, drawn by name: the same ones for every model."""
        if len(positions) <= SAMPLES:
            return positions
        return np.sort(positions[(Key(0) / "asked").order(self._plan.ids[positions])[:SAMPLES]])

    def _pairs(self, positions: np.ndarray) -> list[Pair]:
        return [_parts(x) for x in self._rows_at(self._plan.ids[positions])]

    def _is_question(self, positions: np.ndarray) -> np.ndarray:
        return (self._rows_at(self._plan.ids[positions])[:, 1] == GIVEN).sum(1).numpy() > 1

    def _rows_at(self, ids: np.ndarray) -> torch.Tensor:
        return self._source.x[torch.from_numpy(ids)]

    def _batch(self, positions: np.ndarray) -> Batch:
        return self._data.batch(self._data.positions()[torch.from_numpy(positions)])

    def _made(self, x: torch.Tensor) -> Batch:
        """Return rows that are in no source as a batch."""
        device = self._batch(np.zeros(1, dtype=np.int64)).x.device
        nothing = torch.zeros(len(x), dtype=torch.long, device=device)
        return Batch(nothing, x.to(device), nothing)

    def _decoded(self, ids: Sequence[int]) -> str:
        return self._text.tokenizer.decode(ids)


def _parts(x: torch.Tensor) -> Pair:
    """Return the token ids of a row's prompt, without the start token, and of its answer."""
    return x[0][x[1] == GIVEN].tolist()[1:], x[0][x[1] == ANSWER].tolist()


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
