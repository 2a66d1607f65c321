"""What is known of deleted data by its age: the events since its request was served."""

from __future__ import annotations

from collections.abc import Sequence

from lifelong.report.facts import Requested
from lifelong.results.series import Series

MAX_AGES = 50
"""Ages of requests that are told apart."""


def by_age(series: Series, metric: str, model: str, requested: Sequence[Requested]) -> dict[int, float]:
    """Return the mean over requests of a number by its age: events since the request was served.

    Of a long life ages that lie close together are one, called by the lowest: of many, each has few requests.
    """
    known = [
        (event - request.event, r.value)
        for request in requested
        for event, r in series.rows(metric, request.name, model).items()
        if r.value is not None and event >= request.event
    ]
    width = max(1, -(-max((age for age, _ in known), default=0) // MAX_AGES))
    values: dict[int, list[float]] = {}
    for age, value in known:
        values.setdefault(age // width * width, []).append(value)
    return {age: sum(of) / len(of) for age, of in sorted(values.items())}
