"""The one pass that measures a strategy. Strategies never know about any of this."""

from __future__ import annotations

import numpy as np
import torch

from lifelong.config.run import EvaluationConfig
from lifelong.evaluation.generation import records_of, records_of_holdout
from lifelong.evaluation.outputs import Outputs
from lifelong.evaluation.plan import Audit, EvaluationPlan
from lifelong.evaluation.probes import Prober
from lifelong.evaluation.relearning import Relearning, readout
from lifelong.formulas.membership import entropies, modified_entropies
from strategies.base import Setting, Strategy
from strategies.objectives._base import EVALUATION
from strategies.objectives._text import TextObjective
from strategies.parts.training.out_of_memory import memory_errors
from streams.data import Batch
from streams.ledger import Ledger
from streams.stream import Stream


class Evaluator:
    """Runs strategies over the evaluation plan. Holds its samples in batches, outside of any ledger."""

    def __init__(
        self,
        stream: Stream,
        plan: EvaluationPlan,
        setting: Setting,
        config: EvaluationConfig,
        device: str,
    ) -> None:
        """Gather the evaluation samples once."""
        self._setting, self._plan, self._config = setting, plan, config
        self._size = config.batch_size
        self._data = Ledger(stream.source, stream.task_of, device).lend(plan.ids)
        self._unseen = stream.source.is_test[plan.ids]
        self._prober = Prober(setting, stream, plan, config, self._data)
        self._batches = setting.objective.batches(self._data, self._size)

    def evaluate(self, strategy: Strategy, event: int | None = None) -> Outputs:
        """Return scores and losses of every sample, and details where `event` is one that is measured in detail."""
        detailed = event is not None and (bool(self._plan.due(event)) or self._plan.starts_requests(event))
        size = self._config.batch_size
        with memory_errors("evaluation.batch_size", size, lambda n: strategy.predict(self._batches[0].part(0, n))):
            return self._evaluate(strategy, event if detailed else None)

    def _evaluate(self, strategy: Strategy, event: int | None) -> Outputs:
        objective = self._setting.objective
        scores, losses = [], []
        more: dict[str, list[torch.Tensor]] = {}
        for batch in self._batches:
            outputs = strategy.predict(batch)
            with torch.inference_mode():
                scores.append(objective.scores(outputs, batch))
                losses.append(objective.losses(outputs, batch))
                for name, values in self._of_predictions(outputs, batch) if event is not None else ():
                    more.setdefault(name, []).append(values)
        details = {name: _array(parts) for name, parts in more.items()}
        if event is not None:
            details |= self._details(strategy, self._plan.detailed(event)) | self._audits(strategy, event)
            details |= self._records(strategy, self._plan.detailed(event))
        return Outputs(_array(scores), _array(losses), details)

    def _records(self, strategy: Strategy, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Return records of the answers at `positions` (see `records_of`); nothing if the data is no text."""
        objective = self._setting.objective
        text = objective.text if isinstance(objective, TextObjective) else None
        if text is None or not len(positions):
            return {}
        parts = self._parts(positions)
        found = [records_of(strategy.predict, batch, text) for batch in parts]
        records = {name: np.concatenate([f[name] for f in found]) for name in found[0]}
        records |= records_of_holdout(strategy.predict, text, parts[0], self._size)
        if self._plan.tests_are_non_members:
            records["unseen"] = self._unseen[positions].astype(np.float32)
        return {f"record_{name}": values for name, values in records.items()}

    def probabilities(self, strategy: Strategy, positions: np.ndarray) -> np.ndarray | None:
        """Return the distributions ``[len(positions), K]`` that a strategy predicts, or None where there are none."""
        with torch.inference_mode():
            return _optional(
                [self._setting.objective.probabilities(strategy.predict(b), b) for b in self._parts(positions)]
            )

    def margins(self, strategy: Strategy, positions: np.ndarray) -> np.ndarray | None:
        """Return the log odds of the labels ``[len(positions)]``, or None where no class is predicted."""
        with torch.inference_mode():
            return _optional([self._setting.objective.margins(strategy.predict(b), b) for b in self._parts(positions)])

    def looks_at(self, event: int) -> bytes:
        """Return what decides, beside the strategy, the details of `event`: for the keys of caches."""
        parts = [self._plan.detailed(event)]
        if self._config.audits and self._plan.audited[event]:
            parts.append(self._plan.probe[self._plan.probe_live[event]])
            parts += [part for a in self._plan.due(event) for part in (a.forget, a.forget_test)]
            parts.append(self._plan.kept_questions(event))
        return b"|".join(np.ascontiguousarray(part, dtype=np.int64).tobytes() for part in parts)

    def _of_predictions(self, outputs: torch.Tensor, batch: Batch) -> list[tuple[str, torch.Tensor]]:
        p, margins = (
            self._setting.objective.probabilities(outputs, batch),
            self._setting.objective.margins(outputs, batch),
        )
        if p is None or margins is None:
            return []
        return [
            ("margins", margins),
            ("confidences", p.amax(1)),
            ("entropies", entropies(p)),
            ("modified_entropies", modified_entropies(p, batch.y)),
        ]

    def _details(self, strategy: Strategy, positions: np.ndarray) -> dict[str, np.ndarray]:
        parts = self._parts(positions)
        with torch.inference_mode():
            f = [strategy.features(b) for b in parts]
        found = {"probabilities": self.probabilities(strategy, positions), "features": _optional(f)}
        return {name: values for name, values in found.items() if values is not None}

    def _audits(self, strategy: Strategy, event: int) -> dict[str, np.ndarray]:
        """Take copies of the model apart, as far as the configuration asks for it."""
        config, due = self._config, self._plan.due(event)
        live = self._plan.probe[self._plan.probe_live[event]]
        if self._plan.starts_requests(event) and "muse" in config.audits:
            return self._prober.utility(strategy, event)
        if not due or not self._plan.audited[event]:
            return {}
        found = self._prober.look(strategy, event)
        model = strategy.network() if config.audits else None
        if "weights" in config.audits and model is not None:
            found["weights"] = _array([model.parameters])
        if "relearn" in config.audits and model is not None:
            start = model.state_dict()
            curves = []
            for a in due:
                held_out = a.forget_test if len(a.forget_test) else a.forget
                key = self._setting.key / "relearn" / a.request.name
                lesson = Relearning(self._setting, key, config.relearn_steps, lr=config.relearn_lr)
                curves.append(lesson.curve(model, self._part(a.forget), self._part(live), self._part(held_out)))
                model.load_state_dict(start)
            found["relearning"] = np.stack(curves)
        if "readout" in config.audits:
            found["readout"] = np.array([self._readout(strategy, a, live) for a in due], dtype=np.float32)
        return found

    def _readout(self, strategy: Strategy, audit: Audit, live: np.ndarray) -> float:
        """Return the accuracy on the request's test data of a last layer fitted anew; NaN where there is none."""
        others = live[(self._setting.key / "readout" / audit.request.name).order(self._plan.ids[live])]
        parts = [self._part(p) for p in (audit.forget, np.sort(others[: len(audit.forget)]), audit.forget_test)]
        if not all(len(b) for b in parts):
            return float("nan")
        features = [strategy.features(b) for b in parts]
        if any(f is None for f in features):
            return float("nan")
        forgotten, retained, held_out = (f.float().cpu().numpy() for f in features if f is not None)
        labels = [b.y.cpu().numpy() for b in parts]
        return readout(forgotten, labels[0], retained, labels[1], held_out, labels[2])

    def _parts(self, positions: np.ndarray) -> list[Batch]:
        draw = self._setting.objective.drawn
        parts = self._data.positions()[torch.from_numpy(positions)].split(self._size)
        return [draw(self._data.batch(p), EVALUATION) for p in parts]

    def _part(self, positions: np.ndarray) -> Batch:
        batch = self._data.batch(self._data.positions()[torch.from_numpy(positions)])
        return self._setting.objective.drawn(batch, EVALUATION)


def _array(parts: list[torch.Tensor]) -> np.ndarray:
    return torch.cat(parts).float().cpu().numpy()


def _optional(parts: list[torch.Tensor | None]) -> np.ndarray | None:
    there = [p for p in parts if p is not None]
    return _array(there) if there else None
