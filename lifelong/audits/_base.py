"""What every audit is: a look into a copy of one model, of the run or of a reference, and the rows that come of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lifelong.config.run import ReferenceKind
from lifelong.evaluation.outputs import Arrays, Findings
from lifelong.evaluation.plan import EvaluationPlan, RequestPlan
from lifelong.evaluation.samples import Samples
from lifelong.results.table import Row, row
from strategies.base import Setting, Strategy
from strategies.objectives._base import Objective
from streams.config import Config
from streams.source import Source
from streams.stream import Stream

DETAILED: tuple[ReferenceKind, ...] = ("retrained", "retrained-2", "original", "no-op")
"""References that have something to say about one request."""
Values = dict[str, float]
"""Numbers by the names of metrics; NaN where undefined."""


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """What an audit may work with, the same for every model.

    Attributes:
        setting: objective, training and randomness of the run.
        source: the data.
        plan: on what is measured after which event.
        samples: batches of the plan's samples.
        stream: what is lived through.
    """

    setting: Setting
    source: Source
    plan: EvaluationPlan
    samples: Samples
    stream: Stream


class Audit:
    """Measures what one model still has of the data of requests.

    One that returns numbers overrides `of_request` or `of_stream`, and is done: there is a row for each, for the run
    and the references, and the difference of both (``gap_NAME``). One that keeps arrays overrides `look` and `rows`.
    Its module says in `METRICS` what the numbers mean. What it draws it draws by names (`self.setting.key / "mine"`),
    and what it changes is a copy of the model (`strategy.network()`).
    """

    needs_text: ClassVar[bool] = False
    """Whether it reads text, without images."""
    needs_images: ClassVar[bool] = False
    """Whether it looks at images that the model makes."""
    follows_requests: ClassVar[bool] = False
    """Whether it looks at all earlier requests again after every request, and at the model before the first."""
    shows: ClassVar[bool] = False
    """Whether reports show something of it beside numbers (`shown`)."""
    needs_token_body: ClassVar[bool] = False
    """Whether it looks into the blocks of a language model (`TokenBody`)."""
    undefined: ClassVar[str | Mapping[str, str]] = ""
    """Why a number may be NaN; or that by the first letters of the names of metrics."""
    beside: ClassVar[tuple[ReferenceKind, ...]] = DETAILED
    """References whose numbers it gives, and that it holds the run against."""
    averaged: ClassVar[tuple[str, ...]] = ()
    """Metrics, ``gap_`` ones too, of which there are means over requests (``immediate_NAME``, ``final_NAME``)."""

    def __init__(self, name: str, config: Config, context: Context) -> None:
        """Take the name that a configuration calls it by, its options and what it works with."""
        self.name, self.config = name, config
        self.setting, self.source, self.plan = context.setting, context.source, context.plan
        self.samples, self.stream = context.samples, context.stream

    @classmethod
    def check(cls, config: Config, source: Source, objective: Objective, where: str) -> None:
        """Refuse options that do not fit the data, before anything is computed.

        Raises:
            ConfigError: names the key (`where` and the option), the value and the remedy.
        """

    def of_request(self, strategy: Strategy, event: int, request: RequestPlan) -> Values:
        """Return numbers about one request under one model; the same names for every request.

        Args:
            strategy: what is measured; leave it as it is.
            event: of the stream, after which it stands.
            request: with positions for `self.samples`.
        """
        return {}

    def of_requests(self, strategy: Strategy, event: int, requests: Sequence[RequestPlan]) -> list[Values]:
        """Return the numbers of all requests that are due; override it where they have work in common."""
        return [self.of_request(strategy, event, request) for request in requests]

    def of_stream(self, strategy: Strategy, event: int) -> Values:
        """Return numbers about the model as a whole."""
        return {}

    def look(self, strategy: Strategy, event: int) -> Findings:
        """Return all that is found after an event at which requests are due."""
        tables = self.of_requests(strategy, event, self.plan.due(event))
        names = dict.fromkeys(name for table in tables for name in table)
        of_requests = {n: np.array([t.get(n, np.nan) for t in tables], dtype=np.float32) for n in names}
        return Findings(of_requests, _arrays(self.of_stream(strategy, event)))

    def before_requests(self, strategy: Strategy, event: int) -> Findings:
        """Return what is found just before the first request, where an audit or a measurement follows requests."""
        return Findings(stream=_arrays(self.of_stream(strategy, event)))

    def rows(self, model: str, event: int, findings: Findings, losses_before: Mapping[str, np.ndarray]) -> list[Row]:
        """Return what was found about one model as rows.

        Args:
            model: name for its rows.
            event: after which it stands.
            findings: what `look` returned.
            losses_before: by request, ``[N]`` losses of the run just before it.
        """
        result = []
        for metric, values in findings.requests.items():
            for request, value in zip(self.plan.due(event), values.tolist(), strict=True):
                n = len(self.rests_on(request))
                result.append(row(event, model, request.name, metric, value, n, self.reason(metric)))
        for metric, values in findings.stream.items():
            result.append(row(event, model, "stream", metric, float(values[0]), 1, self.reason(metric)))
        return result

    def rows_beside(
        self, kind: str, event: int, run: Findings, reference: Findings, losses_before: Mapping[str, np.ndarray]
    ) -> list[Row]:
        """Return what only run and reference together tell, beside the differences of their rows.

        Args:
            kind: of the reference.
            event: beside which both stand.
            run, reference: what `look` returned of each.
            losses_before: by request, ``[N]`` losses of the run just before it.
        """
        return []

    def shown(self, findings: Findings) -> Arrays:
        """Return what reports show, which a run keeps where `recording` says so."""
        return {}

    def rests_on(self, request: RequestPlan) -> np.ndarray:
        """Return the positions that a number about a request rests on."""
        return request.forget

    def reason(self, metric: str) -> str:
        """Return why a metric may be undefined."""
        if isinstance(self.undefined, str):
            return self.undefined
        return next((why for start, why in self.undefined.items() if metric.startswith(start)), "")


def _arrays(values: Values) -> Arrays:
    return {name: np.array([value], dtype=np.float32) for name, value in values.items()}
