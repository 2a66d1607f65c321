"""The one pass that measures a strategy. Strategies never know about any of this."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import torch

from lifelong.evaluation.distributions import Distributions, gathered
from lifelong.evaluation.outputs import Certainty, Details, Findings, Outputs
from lifelong.evaluation.plan import EvaluationPlan
from lifelong.evaluation.samples import Samples
from lifelong.formulas.membership import entropies, modified_entropies
from strategies.base import Strategy
from strategies.objectives._base import Objective
from strategies.parts.training.out_of_memory import memory_errors
from strategies.parts.training.torch_settings import unchanged_torch
from streams.data import Batch
from streams.source import Source


class Auditor(Protocol):
    """Takes a copy of a model apart; see `lifelong.audits`."""

    name: str

    def look(self, strategy: Strategy, event: int) -> Findings:
        """Return what it finds where requests are due."""

    def before_requests(self, strategy: Strategy, event: int) -> Findings:
        """Return what it finds just before the first request."""


class Evaluator:
    """Runs strategies over the evaluation plan."""

    def __init__(
        self,
        source: Source,
        plan: EvaluationPlan,
        objective: Objective,
        samples: Samples,
        audits: Sequence[Auditor] = (),
        top_classes: int | None = None,
    ) -> None:
        """Take what is measured (`samples` are those of `plan`), by which objective, and which audits are made.

        Of predicted distributions `top_classes` are kept, or all.
        """
        self._top_classes = top_classes
        self._plan, self._objective, self._samples, self._audits = plan, objective, samples, audits
        self._batches = samples.all() if plan.extra is None else samples.batches(plan.always)
        self._unseen = source.is_test[plan.ids].astype(np.float32)

    def evaluate(self, strategy: Strategy, event: int | None = None) -> Outputs:
        """Return scores and losses of what is looked at, and details where `event` is one that is measured in detail.

        Args:
            strategy: to be measured.
            event: after which it stands; None looks at what is looked at in every evaluation.
        """
        detailed = event is not None and (bool(self._plan.due(event)) or self._plan.starts_requests(event))
        size, first = self._samples.size, self._batches[0]
        alone = memory_errors("evaluation.batch_size", size, lambda n: self._predict(strategy, first.part(0, n)))
        with unchanged_torch(), alone:
            return self._evaluate(strategy, event, detailed)

    def _evaluate(self, strategy: Strategy, event: int | None, detailed: bool) -> Outputs:
        objective = self._objective
        scores, losses = [], []
        certainties: list[tuple[torch.Tensor, ...]] = []
        for batch in self._batches_at(event):
            outputs = self._predict(strategy, batch)
            with torch.inference_mode():
                scores.append(objective.scores(outputs, batch))
                losses.append(objective.losses(outputs, batch))
                if detailed and (certainty := self._certainty(outputs, batch)) is not None:
                    certainties.append(certainty)
        at = self._plan.looked_at(event)
        score_and_loss = self._spread(_array(scores), at), self._spread(_array(losses), at)
        if event is None or not detailed:
            return Outputs(*score_and_loss, at=at)
        positions = self._plan.detailed(event)
        certainty_parts = [self._spread(_array(list(parts)), at) for parts in zip(*certainties, strict=True)]
        return Outputs(
            *score_and_loss,
            self._details(strategy, positions, Certainty(*certainty_parts) if certainties else None),
            self._records(strategy, positions),
            self._findings(strategy, event),
            at,
        )

    def _batches_at(self, event: int | None) -> Iterable[Batch]:
        """Return what is looked at after `event`, in the order of `EvaluationPlan.looked_at`."""
        extra = None if self._plan.extra is None or event is None else self._plan.extra[event]
        if extra is None or not len(extra):
            return self._batches
        return itertools.chain(self._batches, self._samples.batches(extra))

    def _spread(self, values: np.ndarray, at: np.ndarray | None) -> np.ndarray:
        """Return values ``[N]`` of all samples, NaN where nothing was looked at."""
        if at is None:
            return values
        whole = np.full(len(self._plan.ids), np.nan, dtype=np.float32)
        whole[at] = values
        return whole

    def _predict(self, strategy: Strategy, batch: Batch) -> torch.Tensor:
        """Return a strategy's outputs; it is told neither whose the inputs are nor what they should give."""
        return strategy.predict(self._objective.asked(batch))

    def _records(self, strategy: Strategy, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the objective's measurements say of the samples at `positions`."""
        measurements = self._objective.measurements()
        if not measurements or not len(positions):
            return {}
        batches, predict = self._samples.batches(positions), partial(self._predict, strategy)
        records: dict[str, np.ndarray] = {}
        for measurement in measurements:
            parts = [measurement.records(predict, batch) for batch in batches]
            records |= {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            held_out = measurement.held_out(predict, batches[0], self._samples.size)
            records |= {f"holdout_{name}": values for name, values in held_out.items()}
        if self._plan.tests_are_non_members:
            records["unseen"] = self._unseen[positions]
        return records

    def distributions(self, strategy: Strategy, positions: np.ndarray) -> Distributions | None:
        """Return the distributions that a strategy predicts of the samples at `positions`, or None if it does none."""
        batches = self._samples.batches(positions)
        with torch.inference_mode():
            predicted = (self._objective.probabilities(self._predict(strategy, b), b) for b in batches)
            return gathered(predicted, self._top_classes, len(positions))

    def margins(self, strategy: Strategy, positions: np.ndarray) -> np.ndarray | None:
        """Return the log odds of the labels ``[len(positions)]``, or None where no class is predicted."""
        batches = self._samples.batches(positions)
        with torch.inference_mode():
            return _optional([self._objective.margins(self._predict(strategy, b), b) for b in batches])

    def looks_at(self, event: int) -> bytes:
        """Return what decides, beside the strategy, the details of `event`: for the keys of caches."""
        parts = [self._plan.detailed(event)]
        if (at := self._plan.looked_at(event)) is not None:
            parts.append(at)
        if self._audits and self._plan.audited[event]:
            parts.append(self._plan.live(event))
            parts += [part for r in self._plan.due(event) for part in (r.forget, r.forget_test)]
            parts.append(self._plan.kept_questions(event))
        return b"|".join(np.ascontiguousarray(part, dtype=np.int64).tobytes() for part in parts)

    def _certainty(self, outputs: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, ...] | None:
        """Return the fields of `Certainty` for one batch, or None where no class is predicted."""
        p, margins = self._objective.probabilities(outputs, batch), self._objective.margins(outputs, batch)
        if p is None or margins is None:
            return None
        return margins, p.amax(1), entropies(p), modified_entropies(p, batch.y)

    def _details(self, strategy: Strategy, positions: np.ndarray, certainty: Certainty | None) -> Details:
        if not len(positions):  # before the first request, where nothing is probed
            return Details(certainty=certainty)
        with torch.inference_mode():
            asked = [self._objective.asked(b) for b in self._samples.batches(positions)]
            features = _optional([strategy.features(b) for b in asked])
        predicted = self.distributions(strategy, positions)
        if predicted is None or predicted.top_classes is None:
            return Details(None if predicted is None else predicted.probabilities, features, certainty)
        return Details(
            predicted.probabilities,
            features,
            certainty,
            top_classes=predicted.top_classes,
            num_classes=np.array([predicted.num_classes]),
        )

    def _findings(self, strategy: Strategy, event: int) -> dict[str, Findings]:
        """Let every audit take a copy of the model apart where that is due."""
        if self._plan.starts_requests(event):
            findings = {a.name: a.before_requests(strategy, event) for a in self._audits}
        elif self._plan.due(event) and self._plan.audited[event]:
            findings = {a.name: a.look(strategy, event) for a in self._audits}
        else:
            findings = {}
        return {name: f for name, f in findings.items() if f.requests or f.stream}


def _array(parts: list[torch.Tensor]) -> np.ndarray:
    return torch.cat(parts).float().cpu().numpy()


def _optional(parts: list[torch.Tensor | None]) -> np.ndarray | None:
    known = [p for p in parts if p is not None]
    return _array(known) if known else None
