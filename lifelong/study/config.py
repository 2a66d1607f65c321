"""The study file: which runs, with which seeds, and what must come out for its claim to stand."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from lifelong.config import (
    RunConfig,
    StrategyConfig,
    content_hash,
    load_config,
    override,
    read_config,
    resolve_strategy,
)
from lifelong.metrics.catalogue import describe
from streams.config import Config, parse
from streams.errors import ConfigError, closest


def _seeds(value: object) -> object:
    return list(range(value)) if isinstance(value, int) else value


Seeds = Annotated[tuple[int, ...], BeforeValidator(_seeds), Field(min_length=1)]


class Quantity(Config):
    """A number of every run: one row of its table."""

    metric: str
    """Name of the metric, such as average_accuracy."""
    subject: str = "stream"
    """stream, requests, event, a unit or a request."""
    model: str = "run"
    """run, or the reference the row belongs to."""
    event: int | Literal["last"] = "last"
    """The event after which it holds; `last` is the latest that has a value."""
    reduce: Literal["one", "mean", "sum", "max", "min"] = "one"
    """Take the one row, or reduce over all events up to `event`."""
    where: dict[str, Any] = {}
    """Only runs with these values of grid keys."""


class Comparison(Quantity):
    """A paired difference between strategies, reported with interval and corrected p-value."""

    of: tuple[str, ...] = Field(min_length=1)
    """Strategies."""
    minus: str
    """The strategy each of them is compared with, seed by seed."""


class Criterion(Quantity):
    """What must come out. Exactly one of above and below; at most one of minus and over."""

    name: str
    """The claim in a few words."""
    of: str
    """The strategy whose number it is."""
    minus: str | None = None
    """Take the paired difference to this strategy."""
    over: str | None = None
    """Take the paired ratio to this strategy."""
    above: float | None = None
    """The number must be above this."""
    below: float | None = None
    """The number must be below this."""

    @model_validator(mode="after")
    def _one_bar(self) -> Criterion:
        if (self.above is None) == (self.below is None):
            raise ValueError("needs exactly one of above and below")
        if self.minus is not None and self.over is not None:
            raise ValueError("can have minus or over, not both")
        return self


class Size(Config):
    """What one size of the study changes."""

    seeds: Seeds | None = None
    """Seeds; null takes the study's."""
    set: dict[str, Any] = {}
    """Values of configuration keys, on top of the study's."""
    grid: dict[str, tuple[Any, ...]] | None = None
    """Another grid; null takes the study's."""


class StudyConfig(Config):
    """A study: a base configuration, what varies, the seeds, and the criteria."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the study folder, followed by a hash."""
    claim: str
    """What the study is to show, in one or two sentences."""
    source: str = "ours"
    """Where the claim comes from."""
    base: str | dict[str, Any] = "quickstart"
    """A ready scenario, a file (relative to the study file), or a configuration written out."""
    set: dict[str, Any] = {}
    """Values of configuration keys that all runs have in common, as in {training.epochs: 5}."""
    grid: dict[str, tuple[Any, ...]] = {}
    """Values to try for configuration keys, every one with every other."""
    strategies: dict[str, StrategyConfig] | None = None
    """Strategies; null takes those of the base."""
    seeds: Seeds = (0, 1, 2)
    """Seeds, or their number. All strategies live the same stream under the same seed, so differences are paired."""
    sizes: dict[str, Size] = {}
    """Named sizes of the same study, usually small and full."""
    comparisons: tuple[Comparison, ...] = ()
    """Differences to report."""
    criteria: tuple[Criterion, ...] = ()
    """What must come out."""


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One point of the grid with one seed: a run of all strategies.

    Attributes:
        values: grid keys and their values.
        seed: the run's seed.
        config: the run's configuration.
    """

    values: dict[str, Any]
    seed: int
    config: RunConfig


def read_study(file: Path, size: str | None = None) -> tuple[StudyConfig, list[Cell]]:
    """Read a study file and lay out its runs.

    Args:
        file: YAML.
        size: one of its sizes, or None for the study as written.

    Raises:
        ConfigError: an unknown key, strategy, size or grid key; two runs with the same identity; a bad criterion.
    """
    study = parse(StudyConfig, read_config(file), file.name)
    if size is not None:
        if size not in study.sizes:
            raise ConfigError(f"{file.name}: there is no size {size!r}. {closest(size, study.sizes)}")
        chosen = study.sizes[size]
        study = study.model_copy(
            update={
                "seeds": chosen.seeds or study.seeds,
                "set": study.set | chosen.set,
                "grid": study.grid if chosen.grid is None else chosen.grid,
            }
        )
    cells = lay_out(study, file.parent)
    _check(study, cells)
    return study, cells


def lay_out(study: StudyConfig, folder: Path) -> list[Cell]:
    """Return one cell for every combination of grid values and seeds.

    Raises:
        ConfigError: a key does not exist, or two cells are the same run.
    """
    base = _base(study, folder)
    if study.strategies is not None:
        base["strategies"] = {
            name: s.model_dump(mode="json", exclude_unset=True) for name, s in study.strategies.items()
        }
    cells: list[Cell] = []
    seen: dict[str, dict[str, Any]] = {}
    for point in itertools.product(*study.grid.values()):
        values = dict(zip(study.grid, point, strict=True))
        changes = [f"{k}={json.dumps(v)}" for k, v in (study.set | values).items()]
        for seed in study.seeds:
            data = override(base, [*changes, f"seed={seed}"]) | {"name": study.name}
            config = parse(RunConfig, data)
            identity = content_hash(config.resolved())
            if identity in seen:
                raise ConfigError(
                    f"study {study.name!r}: the runs {seen[identity]} and {values | {'seed': seed}} are the same. "
                    f"Take the repeated value out of grid or seeds."
                )
            seen[identity] = values | {"seed": seed}
            cells.append(Cell(values, seed, config))
    return cells


def _base(study: StudyConfig, folder: Path) -> dict[str, Any]:
    if isinstance(study.base, dict):
        return dict(study.base)
    file = folder / study.base
    return load_config(str(file) if file.exists() else study.base).model_dump(mode="json", exclude_unset=True)


def learner_groups(strategies: dict[str, StrategyConfig]) -> list[list[str]]:
    """Group strategies that share references (those with the same learner), so that one job computes them once."""
    groups: dict[str, list[str]] = {}
    for name, strategy in strategies.items():
        resolved = resolve_strategy(strategy, f"strategies.{name}")
        groups.setdefault(content_hash(resolved.get("learner", resolved)), []).append(name)
    return list(groups.values())


def _check(study: StudyConfig, cells: list[Cell]) -> None:
    """Refuse criteria that no run can answer."""
    names = set(cells[0].config.strategies)
    kinds = {"run", *cells[0].config.references.kinds}
    wanted: list[tuple[str, Quantity, Sequence[str | None]]] = [
        *((f"comparisons.{i}", c, [*c.of, c.minus]) for i, c in enumerate(study.comparisons)),
        *((f"criteria.{i}", c, [c.of, c.minus, c.over]) for i, c in enumerate(study.criteria)),
    ]
    for where, quantity, strategies in wanted:
        for name in strategies:
            if name is not None and name not in names:
                raise ConfigError(f"{where}: there is no strategy {name!r}. {closest(name, names)}")
        try:
            describe(quantity.metric)
        except KeyError:
            raise ConfigError(f"{where}.metric: no run produces {quantity.metric!r}; see docs/metrics.md.") from None
        if quantity.model not in kinds:
            raise ConfigError(f"{where}.model: no run produces {quantity.model!r}. {closest(quantity.model, kinds)}")
        for key in quantity.where:
            if key not in study.grid:
                raise ConfigError(f"{where}.where: {key!r} is not a key of the grid. {closest(key, study.grid)}")
