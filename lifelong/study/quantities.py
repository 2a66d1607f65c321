"""One number of a run: which it is, in words, and what it is in a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from lifelong.metrics.requests import mean_rows
from lifelong.results.table import INFINITE, Row, Table
from streams.config import Config


class Quantity(Config):
    """A number of every run: one row of its table."""

    metric: str
    """Name of the metric, such as average_accuracy."""
    subject: str = "stream"
    """stream, requests, event, a unit or a request."""
    model: str = "run"
    """run, or the reference the row belongs to."""
    event: int | Annotated[str, Field(pattern=r"^(last|request-\d+)$")] = "last"
    """The event after which it holds: its index, the request that it serves (`request-4`), or `last`."""
    reduce: Literal["one", "mean", "sum", "max", "min"] = "one"
    """Take the one row, or reduce over all events up to `event`."""
    where: dict[str, Any] = {}
    """Only runs with these values of grid keys."""
    chance: Annotated[float, Field(lt=1)] | None = None
    """What guessing scores, for scores of which 1 is perfect. A criterion that compares two strategies is not testable
    if neither is above it (its interval over seeds is not), or if joint training is not, where the runs have it as a
    reference."""
    above_chance: bool = False
    """Take (score - chance) / (1 - chance) in place of the score."""

    @model_validator(mode="after")
    def _chance_is_known(self) -> Self:
        if self.above_chance and self.chance is None:
            raise ValueError("above_chance needs chance, what guessing scores")
        return self


def in_words(quantity: Quantity) -> str:
    """Return which number of a run a quantity is.

    >>> in_words(Quantity(metric="js", subject="requests", model="retrained", reduce="max"))
    'max of js (retrained) of requests'
    """
    words = quantity.metric if quantity.model == "run" else f"{quantity.metric} ({quantity.model})"
    if quantity.subject != "stream":
        words += f" of {quantity.subject}"
    if quantity.reduce != "one":
        words = f"{quantity.reduce} of {words}"
    if quantity.above_chance:
        words += f" above chance ({quantity.chance:g})"
    if quantity.event != "last":
        until = "at" if quantity.reduce == "one" else "until"
        words += f" {until} {quantity.event if isinstance(quantity.event, str) else f'event {quantity.event}'}"
    if quantity.where:
        words += f" where {', '.join(f'{k}={v}' for k, v in quantity.where.items())}"
    return words


def read_for(quantity: Quantity) -> set[str]:
    """Return the metrics of the rows that `value_of` reads: its own, and what tells when requests and events were.

    >>> sorted(read_for(Quantity(metric="immediate_ua", subject="requests")))
    ['exact', 'forward', 'immediate_ua', 'ua']
    """
    metrics = {quantity.metric, "exact"}
    when, metric = _over_requests(quantity)
    return metrics | {metric, "forward"} if when else metrics


def rows_of(table: Table, quantity: Quantity) -> list[Row]:
    """Return the rows of a quantity over all events.

    Means over requests (immediate_*, final_*) are rows of references only; of a run itself they are made here.
    """
    rows = table.select(quantity.metric, quantity.subject, quantity.model)
    when, metric = _over_requests(quantity)
    if rows or not when:
        return rows
    last = max((r.event for r in table.select("forward", "event")), default=-1)
    served = {r.subject: r.event for r in table.select("exact") if r.subject.startswith("request-")}
    each = [r for r in table.select(metric, model=quantity.model) if r.subject in served]
    chosen = [r for r in each if r.event == (served[r.subject] if when == "immediate" else last)]
    return mean_rows(last, quantity.model, chosen, (metric,)) if chosen else []


def _over_requests(quantity: Quantity) -> tuple[str, str]:
    """Return when requests are measured (immediate, final) and by which metric, or two empty texts.

    >>> _over_requests(Quantity(metric="final_ua", subject="requests")), _over_requests(Quantity(metric="js"))
    (('final', 'ua'), ('', ''))
    """
    when, _, metric = quantity.metric.partition("_")
    return (when, metric) if quantity.subject == "requests" and when in ("immediate", "final") else ("", "")


def value_of(table: Table, quantity: Quantity) -> float | None:
    """Return a quantity of one table, or None where it is undefined."""
    return as_asked(_raw_value(table, quantity), quantity)


def as_asked(value: float | None, quantity: Quantity) -> float | None:
    """Return a score, or what of it is above chance if a quantity asks for that."""
    if value is None or not quantity.above_chance or quantity.chance is None:
        return value
    return (value - quantity.chance) / (1 - quantity.chance)


def _raw_value(table: Table, quantity: Quantity) -> float | None:
    """Return the same before chance is taken off."""
    rows = [r for r in rows_of(table, quantity) if is_measured(r)]
    if quantity.event != "last":
        event = _event(table, quantity.event)
        rows = [r for r in rows if event is not None and (r.event == event or _reduced_until(quantity, r, event))]
    if rows and quantity.reduce == "one":
        rows = [max(rows, key=lambda r: r.event)]
    return reduced(rows, quantity.reduce)


def is_measured(r: Row) -> bool:
    """Return whether a row has a value, finite or not: where it is infinite, no earlier number stands for it."""
    return r.value is not None or r.reason in INFINITE


def reduced(rows: Sequence[Row], how: str) -> float | None:
    """Return the sum, the largest, the least or else the mean of values; None without rows, or if one is infinite."""
    numbers = [r.value for r in rows if r.value is not None]
    if not rows or len(numbers) < len(rows):
        return None
    match how:
        case "sum":
            return sum(numbers)
        case "max":
            return max(numbers)
        case "min":
            return min(numbers)
        case _:
            return sum(numbers) / len(numbers)


def _reduced_until(quantity: Quantity, r: Row, event: int) -> bool:
    return quantity.reduce != "one" and r.event <= event


def _event(table: Table, event: int | str) -> int | None:
    """Return an event's index; a request's is where it was served."""
    if isinstance(event, int):
        return event
    return next((r.event for r in table.select("exact", event)), None)


def over_points(values: dict[tuple[str, int], float]) -> dict[int, float]:
    """Return the mean over grid points for every seed that has all points that any seed has, in the seeds' order."""
    points = {point for point, _ in values}
    seeds = sorted({seed for _, seed in values})
    return {s: sum(values[p, s] for p in points) / len(points) for s in seeds if all((p, s) in values for p in points)}
