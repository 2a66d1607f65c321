"""The study file: which runs, with which seeds, and what must come out for its claim to stand."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from lifelong.config.run import (
    RunConfig,
    StrategyConfig,
    content_hash,
    load_config,
    override,
    read_config,
)
from lifelong.study.quantities import Quantity
from lifelong.study.seeds import Seeds, all_seeds
from lifelong.study.tune import Tune
from streams.config import Config, parse
from streams.errors import ConfigError, closest

Values = Annotated[tuple[Any, ...], Field(min_length=1)]
MOST_RUNS = 10_000
"""Grid points times seeds that a study may have: laying out more takes minutes before anything is said of them."""


class Comparison(Quantity):
    """A paired difference between strategies, reported with interval and corrected p-value."""

    of: tuple[str, ...] = Field(min_length=1)
    """Strategies."""
    minus: str
    """The strategy each of them is compared with, seed by seed."""


class Variance(Quantity):
    """How the variance of a number divides between the seeds and what is drawn anew under each of them."""

    of: tuple[str, ...] = Field(min_length=1)
    """Strategies."""
    levels: tuple[str, ...] = Field(min_length=1)
    """Keys of the grid, each nested in the one before and all in the seed, such as [strategies.salun.unlearning_seed,
    evaluation.seed]. Other keys of the grid must be fixed by `where`."""


class Criterion(Quantity):
    """What must come out. Exactly one of above, below and within; at most one of minus and over."""

    name: str
    """The claim in a few words."""
    of: str
    """The strategy whose number it is."""
    minus: str | None = None
    """Take the paired difference to this strategy."""
    over: str | None = None
    """Take the paired ratio to this strategy."""
    against: dict[str, Any] = {}
    """Grid values, on top of `where`, under which the other strategy is taken; it may be the same one by name."""
    above: float | None = None
    """The number must be above this."""
    below: float | None = None
    """The number must be below this."""
    within: Annotated[float, Field(gt=0)] | Literal["retrained-2"] | None = None
    """The number must be 0, give or take this, by two one-sided t tests at 5 %. `retrained-2` takes the 95 % quantile
    over seeds of the absolute difference between both retrained references; the number is then a gap to the first. It
    tests that the mean gap is no larger than what one retraining differs from another, and not that there is none."""

    @model_validator(mode="after")
    def _check_bar(self) -> Criterion:
        if sum(bar is not None for bar in (self.above, self.below, self.within)) != 1:
            raise ValueError("needs exactly one of above, below and within")
        if self.within is not None and self.over is not None:
            raise ValueError("within is about a difference; take minus instead of over")
        if self.within == "retrained-2" and not self._is_gap:
            raise ValueError(
                "within: retrained-2 is the spread of a gap to the retrained reference; it needs a metric such as "
                "gap_forget_accuracy, model: retrained and no minus, or name a number"
            )
        if self.minus is not None and self.over is not None:
            raise ValueError("can have minus or over, not both")
        if self.against and self.minus is None and self.over is None:
            raise ValueError("against needs minus or over, the strategy that it is about")
        return self

    @property
    def _is_gap(self) -> bool:
        signed = self.metric.removeprefix("immediate_").removeprefix("final_").startswith("gap_")
        return signed and self.model == "retrained" and self.minus is None

    @property
    def second(self) -> Criterion:
        """The same gap to the other retrained reference."""
        return self.model_copy(update={"model": "retrained-2"})

    @property
    def other(self) -> Criterion:
        """The same number under the grid values that it is compared with."""
        return self.model_copy(update={"where": self.where | self.against, "against": {}})


class Gate(Criterion):
    """What must hold for criteria to be testable; they are undecided until it is reproduced."""

    criteria: tuple[str, ...] = ()
    """Names of the criteria that depend on it; empty means all."""


class Size(Config):
    """What one size of the study changes."""

    seeds: Seeds | None = None
    """Seeds; null takes the study's."""
    set: dict[str, Any] = {}
    """Values of configuration keys, on top of the study's."""
    grid: dict[str, Values] | None = None
    """Another grid; null takes the study's."""
    tune: dict[str, Any] = {}
    """Values of keys of `tune`, on top of the study's."""


class StudyConfig(Config):
    """A study: a base configuration, what varies, the seeds, and the criteria."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the study folder, followed by a hash."""
    claim: str
    """What the study is to show, in one or two sentences."""
    source: str = "ours"
    """Where the claim comes from."""
    base: str | dict[str, Any]
    """A ready scenario, a file (relative to the study file), or a configuration written out."""
    set: dict[str, Any] = {}
    """Values of configuration keys that all runs have in common, as in {training.epochs: 5}."""
    grid: dict[str, Values] = {}
    """Values to try for configuration keys, every one with every other."""
    strategies: dict[str, StrategyConfig] | None = None
    """Strategies; null takes those of the base."""
    seeds: Seeds = (0, 1, 2)
    """Seeds, or their number, or when to look (`looks`, `open`). All strategies live the same stream under the same
    seed, so differences are paired."""
    tune: Tune | None = None
    """Search the best options of every strategy first, on seeds of their own; null runs all as they are written."""
    sizes: dict[str, Size] = {}
    """Named sizes of the same study, usually small and full."""
    comparisons: tuple[Comparison, ...] = ()
    """Differences to report."""
    variances: tuple[Variance, ...] = ()
    """Numbers of which to report where their variance comes from."""
    validity: tuple[Gate, ...] = ()
    """What must hold for the criteria to be testable, such as that a strategy has learned; judged first."""
    criteria: tuple[Criterion, ...] = ()
    """What must come out. They are one family: p-values are corrected for their number (Holm)."""


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One point of the grid with one seed: a run of all strategies.

    Attributes:
        values: grid keys and their values.
        seed: the run's seed.
        config: the run's configuration.
        resolved: the same with every option written out.
    """

    values: dict[str, Any]
    seed: int
    config: RunConfig
    resolved: dict[str, Any]


def read_study(file: Path) -> StudyConfig:
    """Read a study file; what it is based on is read in.

    Raises:
        ConfigError: it is not a valid study.
    """
    if file.suffix not in {".yaml", ".yml"}:
        raise ConfigError(
            f"{file} is neither a study file (.yaml) nor a study folder. A study of a ready scenario is a file that "
            f"says `base: {file}`; see docs/studies.md."
        )
    data = read_config(file)
    if "claim" not in data and not {"base", "seeds", "grid"} & set(data):
        raise ConfigError(
            f"{file} is a run, not a study. Run it with: lifelong run {file}; or name it as `base` in a study file "
            f"(docs/studies.md)."
        )
    return with_base(parse(StudyConfig, data, file.name), file.parent)


def with_base(study: StudyConfig, folder: Path) -> StudyConfig:
    """Return the study with its base written out; files are looked up in `folder`."""
    if isinstance(study.base, dict):
        return study
    file = folder / study.base
    config = load_config(str(file) if file.suffix in {".yaml", ".yml"} else study.base)
    return study.model_copy(update={"base": config.model_dump(mode="json", exclude_unset=True)})


def in_size(study: StudyConfig, size: str) -> StudyConfig:
    """Return the study as one of its sizes changes it.

    Raises:
        ConfigError: there is no such size.
    """
    if size not in study.sizes:
        raise ConfigError(f"study {study.name!r}: there is no size {size!r}. {closest(size, study.sizes)}")
    chosen = study.sizes[size]
    if chosen.tune and study.tune is None:
        raise ConfigError(f"sizes.{size}.tune: the study has no `tune` that this could change.")
    tuned = study.tune and study.tune.model_dump(mode="json", exclude_unset=True) | chosen.tune
    return study.model_copy(
        update={
            "seeds": chosen.seeds or study.seeds,
            "set": study.set | chosen.set,
            "grid": study.grid if chosen.grid is None else chosen.grid,
            "tune": study.tune if tuned is None else parse(Tune, tuned, f"sizes.{size}.tune"),
        }
    )


def lay_out(study: StudyConfig, variants: Mapping[str, str] | None = None) -> list[Cell]:
    """Return one cell for every combination of grid values and seeds.

    Args:
        study: what to lay out.
        variants: strategies that are another one with other options: they take the values of the grid that it takes.

    Raises:
        ConfigError: a key does not exist, two cells are the same run, or there are more than `MOST_RUNS`.
    """
    assert isinstance(study.base, dict)
    _check_number(study)
    base = study.base | {"name": study.name}
    if study.strategies is not None:
        base["strategies"] = {
            name: s.model_dump(mode="json", exclude_unset=True) for name, s in study.strategies.items()
        }
    base = _changed(base, study.set, "set")
    cells: list[Cell] = []
    run_by_identity: dict[str, str] = {}
    for point in itertools.product(*study.grid.values()):
        values = dict(zip(study.grid, point, strict=True))
        data = _changed(base, values | _of_variants(values, variants or {}), "grid")
        for seed in all_seeds(study.seeds):
            run_name = ", ".join(f"{k}={v}" for k, v in (study.set | values | {"seed": seed}).items())
            try:
                config = parse(RunConfig, data | {"seed": seed})
                resolved = config.resolved()
            except ConfigError as error:
                raise ConfigError(f"study {study.name!r}, the run with {run_name}: {error}") from error
            identity = content_hash(resolved)
            if identity in run_by_identity:
                raise ConfigError(
                    f"study {study.name!r}: the runs with {run_by_identity[identity]} and with {run_name} are the "
                    f"same. Take the repeated value out of grid or seeds."
                )
            run_by_identity[identity] = run_name
            cells.append(Cell(values, seed, config, resolved))
    return cells


def _of_variants(values: Mapping[str, Any], variants: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of a grid point that are about strategies, for their variants.

    >>> _of_variants({"strategies.ssd.unlearning_seed": 1, "training.lr": 0.1}, {"ssd+oracle": "ssd"})
    {'strategies.ssd+oracle.unlearning_seed': 1}
    """
    starts = [(f"strategies.{name}.", f"strategies.{of}.") for name, of in variants.items()]
    return {
        own + key.removeprefix(start): value
        for own, start in starts
        for key, value in values.items()
        if key.startswith(start)
    }


def _check_number(study: StudyConfig) -> None:
    """Count the cells before any is made."""
    factors = {key: len(values) for key, values in study.grid.items()} | {"seeds": len(all_seeds(study.seeds))}
    number = math.prod(factors.values())
    if number > MOST_RUNS:
        counted = ", ".join(f"{key}: {count:,}" for key, count in factors.items())
        raise ConfigError(
            f"study {study.name!r}: {number:,} runs are more than the {MOST_RUNS:,} that a study may have ({counted}). "
            f"Take values out of the grid, or seeds, or make several studies of it."
        )


def _changed(data: dict[str, Any], changes: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the configuration with some keys changed."""
    for key, value in changes.items():
        if key in {"seed", "name", "strategies"}:
            raise ConfigError(f"{where}.{key}: a study has its own key for that; take it out of {where}.")
        path = key.split(".")
        if path[0] == "strategies" and path[1] not in (known := data.get("strategies", {})):
            raise ConfigError(f"{where}.{key}: there is no strategy {path[1]!r}. {closest(path[1], known)}")
        try:
            data = override(data, [f"{key}={json.dumps(value)}"])
        except TypeError as error:
            raise ConfigError(f"{where}.{key}: {value!r} is not a plain value ({error}).") from error
        except ConfigError as error:
            raise ConfigError(f"{where}.{key}: {str(error).removeprefix('--set ')}") from error
    return data


def learner_groups(strategies: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Group resolved strategies with the same learner: one job lives their common prefix and references once."""
    groups: dict[str, list[str]] = {}
    for name, strategy in strategies.items():
        groups.setdefault(content_hash(strategy.get("learner", strategy)), []).append(name)
    return list(groups.values())
