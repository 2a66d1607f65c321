"""What is known of deleted data by its age: the events since its request was served."""

from __future__ import annotations

from collections.abc import Sequence

from lifelong.report.facts import Requested
from lifelong.results.series import Series

MAX_AGES = 50
"""Ages of requests that are told apart."""


def by_age(
    series: Series, metric: str, model: str, requested: Sequence[Requested], num_events: int
) -> dict[int, float]:
    """Return the mean over requests of a number by its age: events since the request was served.

    Of a long life ages that lie close together are one, called by the lowest: of many, each has few requests. Which
    ages are one depends on the length of the life alone, so that models and seeds can be held against each other.
    """
    width = -(-num_events // MAX_AGES)
    values: dict[int, list[float]] = {}
    for request in requested:
        for event, r in series.rows(metric, request.name, model).items():
            if r.value is not None and event >= request.event:
                values.setdefault((event - request.event) // width * width, []).append(r.value)
    return {age: sum(of) / len(of) for age, of in sorted(values.items())}
