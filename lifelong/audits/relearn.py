"""Train on the forgotten data again, and count the steps until it is known as well as before the request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

import numpy as np
from pydantic import Field
from typing_extensions import override

from lifelong.audits._base import Audit
from lifelong.audits._relearning import Relearning
from lifelong.evaluation.outputs import Findings
from lifelong.evaluation.plan import RequestPlan
from lifelong.results.table import Row, row
from strategies.base import Strategy
from strategies.metric import Metric
from streams.config import Config as BaseConfig

SLACK = 0.05
"""Relearned: the loss is within that many nats of what it was before the request."""


class Config(BaseConfig):
    """Options of `relearn`."""

    steps: int = Field(200, ge=1)
    """Limit, in steps of 32 forgotten and 32 retained samples."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate (Adam). A pretrained model takes less, such as 3e-5."""


METRICS = {
    "relearn_steps": Metric(
        "Steps on half forgotten and half retained data until the loss on held-out data of the request (on the forget "
        "set if it has none) is within 0.05 nats of what it was before the request.",
        "steps",
        "reference",
    ),
    "anamnesis": Metric(
        "Relearn steps of the run over those of the reference: below 1 information was left, above 1 the model was "
        "damaged; a time beyond the limit counts as the limit.",
        "ratio",
        "neither",
        1.0,
    ),
}


@final
class Relearn(Audit):
    """Keeps the curve of losses on held-out data of each request, before every step and after the last."""

    config: Config
    averaged: ClassVar[tuple[str, ...]] = ("anamnesis",)

    @override
    def look(self, strategy: Strategy, event: int) -> Findings:
        model = strategy.network()
        if model is None:
            return Findings()
        start, curves = model.state_dict(), []
        live = self.samples.batch(self.plan.live(event))
        for request in self.plan.due(event):
            key = self.setting.key / "relearn" / request.name
            lesson = Relearning(self.setting, key, self.config.steps, lr=self.config.lr)
            forgotten, held_out = (self.samples.batch(part) for part in (request.forget, _held_out(request)))
            curves.append(lesson.curve(model, forgotten, live, held_out))
            model.load_state_dict(start)
        return Findings({"curve": np.stack(curves)})

    @override
    def rows(self, model: str, event: int, findings: Findings, losses_before: Mapping[str, np.ndarray]) -> list[Row]:
        late = f"it takes more than {self.config.steps} steps"
        times = self._times(event, findings, losses_before)
        return [
            row(event, model, request.name, "relearn_steps", time, len(request.forget), late) for request, time in times
        ]

    @override
    def rows_beside(
        self, kind: str, event: int, run: Findings, reference: Findings, losses_before: Mapping[str, np.ndarray]
    ) -> list[Row]:
        result, limit = [], self.config.steps
        pairs = zip(*(self._times(event, f, losses_before) for f in (run, reference)), strict=True)
        for (request, own_time), (_, reference_time) in pairs:
            index = anamnesis(own_time, reference_time, limit)
            why = f"neither relearns within {limit} steps" if reference_time != 0 else "the reference needs no step"
            result.append(row(event, kind, request.name, "anamnesis", index, len(request.forget), why))
        return result

    def _times(
        self, event: int, findings: Findings, losses_before: Mapping[str, np.ndarray]
    ) -> list[tuple[RequestPlan, int | None]]:
        pairs = zip(self.plan.due(event), findings.requests["curve"], strict=True)
        return [(r, relearn_time(curve, threshold(r, losses_before[r.name]))) for r, curve in pairs]


def _held_out(request: RequestPlan) -> np.ndarray:
    return request.forget_test if len(request.forget_test) else request.forget


def threshold(request: RequestPlan, losses: np.ndarray) -> float:
    """Return the loss at which a request's data counts as learned again, given all losses ``[N]`` before it."""
    return float(losses[_held_out(request)].mean()) + SLACK


def relearn_time(curve: np.ndarray, threshold: float) -> int | None:
    """Return the first step at which the loss is at most `threshold`, or None if it never is.

    >>> relearn_time(np.array([2.0, 1.0, 0.4, 0.5]), 0.5)
    2
    """
    reached = np.flatnonzero(curve <= threshold)
    return int(reached[0]) if len(reached) else None


def anamnesis(run: int | None, reference: int | None, limit: int) -> float | None:
    """Return the anamnesis index: relearn time of the run over that of the reference (Tarun et al. 2023).

    1 is ideal; below 1 information was left, above 1 the model was damaged more than retraining would. A time beyond
    the limit counts as the limit, which pulls the index towards 1; it is None if both are beyond, or if the reference
    needs no step at all.

    >>> anamnesis(0, 40, 200), anamnesis(40, 40, 200), anamnesis(10, None, 200), anamnesis(None, None, 200)
    (0.0, 1.0, 0.05, None)
    """
    if reference == 0 or (run is None and reference is None):
        return None
    return (limit if run is None else run) / (limit if reference is None else reference)
