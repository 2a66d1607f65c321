"""What a study asks for, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lifelong.config.run import RunConfig
from lifelong.metrics import selection, traits
from lifelong.metrics.catalogue import BUILT_IN, MEASURES, catalogue_of
from lifelong.setup.preparation import Prepared
from lifelong.study.config import Cell, Criterion, StudyConfig, Variance
from lifelong.study.quantities import Quantity, read_for
from lifelong.study.seeds import all_seeds
from streams.errors import ConfigError, closest
from streams.stream import Stream


def check(study: StudyConfig, cells: Sequence[Cell]) -> None:
    """Refuse criteria and comparisons that no run can answer.

    Raises:
        ConfigError: names the key, and what there is.
    """
    named = [c.name for c in study.criteria]
    for i, gate in enumerate(study.validity):
        for name in gate.criteria:
            if name not in named:
                raise ConfigError(f"validity.{i}.criteria: there is no criterion {name!r}. {closest(name, named)}")
    for where, quantity, strategies in asked(study):
        for key, value in quantity.where.items():
            if key not in study.grid:
                raise ConfigError(f"{where}.where: {key!r} is not a key of the grid. {closest(key, study.grid)}")
            if value not in study.grid[key]:
                values = ", ".join(map(str, study.grid[key]))
                raise ConfigError(f"{where}.where.{key}: {value!r} is not in the grid, which has: {values}.")
        admitted = [c for c in cells if all(c.values[k] == v for k, v in quantity.where.items())]
        if not admitted:
            raise ConfigError(f"{where}.where: no point of the grid has all of these values.")
        names = {name for c in admitted for name in c.config.strategies}
        for name in strategies:
            if name not in names:
                raise ConfigError(f"{where}: there is no strategy {name!r}. {closest(name, names)}")
        if not any(catalogue_of(c.config).knows(quantity.metric) for c in admitted):
            raise ConfigError(
                f"{where}.metric: no run produces {quantity.metric!r}; see docs/metrics.md. A metric of your own must "
                f"stand in METRICS of the file that makes it."
            )
        if isinstance(quantity, Variance):
            _check_levels(where, quantity, study)
        kinds = {kind for c in admitted for kind in c.config.references.kinds} | {"run"}
        if quantity.model not in kinds:
            raise ConfigError(f"{where}.model: no run produces {quantity.model!r}. {closest(quantity.model, kinds)}")


def _check_levels(where: str, variance: Variance, study: StudyConfig) -> None:
    for key in variance.levels:
        if key not in study.grid:
            raise ConfigError(f"{where}.levels: {key!r} is not a key of the grid. {closest(key, study.grid)}")
        if len(study.grid[key]) < 2 or key in variance.where:
            raise ConfigError(f"{where}.levels: {key!r} needs two values or more, and none in `where`.")
    seeds = all_seeds(study.seeds)
    if len(seeds) < 2:
        raise ConfigError(f"{where}: the variance between seeds needs two seeds or more, and seeds is {seeds}.")
    for key, values in study.grid.items():
        if len(values) > 1 and key not in (*variance.levels, *variance.where):
            raise ConfigError(f"{where}: {key!r} of the grid is neither one of the levels nor fixed by `where`.")


def asked(study: StudyConfig) -> list[tuple[str, Quantity, list[str]]]:
    """Return every quantity that the study asks for: its key, itself, and the strategies it is about."""
    judged: list[tuple[str, Criterion]] = [
        *((f"validity.{i}", g) for i, g in enumerate(study.validity)),
        *((f"criteria.{i}", c) for i, c in enumerate(study.criteria)),
    ]
    return [
        *((f"{key}.within", c.second, [c.of]) for key, c in judged if c.within == "retrained-2"),
        *((f"variances.{i}", v, [*v.of]) for i, v in enumerate(study.variances)),
        *((f"{key}.against", c.other, [s for s in (c.minus, c.over) if s]) for key, c in judged if c.against),
        *((f"comparisons.{i}", c, [*c.of, c.minus]) for i, c in enumerate(study.comparisons)),
        *((key, c, [s for s in (c.of, c.minus, c.over) if s]) for key, c in judged),
    ]


def metrics_needed(study: StudyConfig) -> set[str]:
    """Return the metrics of everything that the study asks for, and of what tells at which event a request came."""
    return {"exact"}.union(*(read_for(quantity) for _, quantity, _ in asked(study)))


def check_streams(study: StudyConfig, cells: Sequence[Cell], prepare: Callable[[RunConfig], Prepared]) -> None:
    """Refuse what no run can answer given its stream: a unit, request or event that there is not, another score.

    Args:
        study: the study.
        cells: one for each point of the grid.
        prepare: makes the stream of a run.

    Raises:
        ConfigError: names the key, and what there is.
    """
    streams: dict[int, tuple[Stream, str]] = {}  # of each cell the stream and its score, without a network
    for where, quantity, _ in asked(study):
        problem = None
        for number, cell in enumerate(cells):
            if any(cell.values[k] != v for k, v in quantity.where.items()):
                continue
            if number not in streams:
                prepared = prepare(cell.config)
                streams[number] = prepared.stream, prepared.setting.objective.measure
            problem = _unanswerable(quantity, *streams[number])
            if problem is None:
                break
        if problem is not None:
            raise ConfigError(f"{where}{problem}")


def _names_its_subjects(metric: str) -> bool:
    """Return whether rows of a metric may be about what only a run can name: a layer, a pair of units, a cluster."""
    return metric in traits.METRICS or metric in selection.METRICS or not BUILT_IN.knows(metric)


def _unanswerable(quantity: Quantity, stream: Stream, measure: str) -> str | None:
    requests = [r.name for r in stream.requests]
    subjects = ["stream", "requests", "event", *(u.name for u in stream.units), *requests]
    if quantity.subject not in subjects and not _names_its_subjects(quantity.metric):
        return f".subject: no run has {quantity.subject!r}. {closest(quantity.subject, subjects)}"
    other_measures = [m for m in MEASURES if m != measure and quantity.metric.endswith(m)]
    has_own_name = any(quantity.metric.endswith(name) for name in BUILT_IN.metrics)  # such as picture_accuracy
    if other_measures and not quantity.metric.endswith(measure) and not has_own_name:
        return f".metric: no run produces {quantity.metric!r}; these runs are scored by {measure}."
    if isinstance(quantity.event, int) and not -1 <= quantity.event < len(stream.events):
        return f".event: there is no event {quantity.event}; the stream has events 0 to {len(stream.events) - 1}."
    if isinstance(quantity.event, str) and quantity.event != "last" and quantity.event not in requests:
        return f".event: there is no {quantity.event!r}. {closest(quantity.event, ['last', *requests])}"
    return None
