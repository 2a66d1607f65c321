"""What a study says of tuning: how many settings are tried, on which seeds, and which numbers of their runs decide."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from lifelong.config.run import RunConfig
from lifelong.metrics import shadows
from lifelong.metrics.catalogue import catalogue_of, measure_of
from lifelong.results.table import Table
from lifelong.study.quantities import Quantity, as_asked, is_measured, read_for, reduced, value_of
from lifelong.study.seeds import FixedSeeds
from strategies.ranges import Range
from streams.config import Config
from streams.errors import ConfigError, closest

Information = Literal["oracle", "practical"]
Slot = Literal["learner", "unlearner", "guard", "isolated"]
EACH = "each-request"
"""Subject of a term: every request, right after it was served."""


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _not_mixed(value: object) -> object:
    """Refuse what is neither a range nor choices, with a word on both."""
    if value is None or isinstance(value, dict | list | tuple | Range):
        return value
    raise ValueError("it must be {low: ..., high: ..., scale: ...}, a list of values, or null")


class Term(Quantity):
    """One part of a goal: a number of a run, and which of its values are wanted."""

    subject: str = "stream"
    """As in a criterion; or each-request: every request right after it was served, of which `reduce` takes the mean
    (also where it says `one`), max, min or sum."""
    better: Literal["lower", "higher"] | None = None
    """Which way; null takes what the metric means, or the distance to its ideal."""
    target: float | None = None
    """The number should be this: its distance counts."""
    weight: float = Field(1.0, gt=0)
    """What it is multiplied by before all parts are added."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.better is not None and self.target is not None:
            raise ValueError("can have better or target, not both")
        if self.where:
            raise ValueError("a goal is the mean over the whole grid, drop where")
        if self.subject == EACH and self.event != "last":
            raise ValueError(f"subject: {EACH} has its own events, drop event")
        return self


class TuneSeeds(Config):
    """Seeds of tuning. No two of these lists may share one, and none may be a seed that the study is judged on."""

    search: FixedSeeds = (1000, 1001)
    """Settings are compared on these. A setting that is worse than the median on the first ones is not run on the
    others."""
    confirm: tuple[int, ...] = (1002, 1003, 1004)
    """The best settings of the search are run again on these, which decide. Without any, the search decides, by the
    luckiest of many numbers."""


class Tune(Config):
    """How options are searched before a study is judged. Every strategy gets the same number of trials."""

    trials: int = Field(30, ge=2, le=10_000)
    """Settings tried for every strategy, in each mode of information. The first is the strategy as it is written."""
    seconds: float | None = Field(None, gt=0)
    """Stop after the round in which the trials of a strategy have acted that long on their search seeds, however many
    there were. Times differ between machines, and so do the trials then."""
    of: tuple[str, ...] = ()
    """Strategies to tune; none takes all that declare something to tune."""
    parts: tuple[Slot, ...] = Field(("unlearner", "guard", "isolated"), min_length=1)
    """Which parts of a strategy are tuned. References belong to a learner, so tune learners by what is kept."""
    ranges: dict[str, dict[str, Annotated[Range | tuple[Any, ...] | None, BeforeValidator(_not_mixed)]]] = {}
    """Ranges on top of those that methods declare, by strategy and option: {ssd: {unlearner.alpha: {low: 1.0, high:
    50.0, scale: log}, unlearner.strength: null}}. A list has the values to choose among; null leaves an option as it is
    written. Options of a learner's plugins are called learner.NAME.OPTION."""
    information: Annotated[tuple[Information, ...], BeforeValidator(_as_tuple), Field(min_length=1)] = ("practical",)
    """What the goal may read. oracle: references such as the retrained model, which nobody has who unlearns instead.
    practical: only the run itself on the data to forget and on held-out data. With both, every strategy is tuned
    twice."""
    goal: dict[Information, tuple[Term, ...]] = {}
    """What decides, added up over its parts, lower is better; by mode of information. By default, oracle: the mean over
    requests of average_gap to the retrained model (of texts and numbers: of the distance in the score on the forget
    set, and in the average score). practical: twice the distance of the mean membership_auc from 0.5 (where all
    requests name classes or tasks: the score on the forget set), minus the mean average score over the stream."""
    choice: Literal["sum", "pareto"] = "sum"
    """sum: one number. pareto: parts are not added; settings that no other beats in every part are kept, and the
    one nearest to the best of every part (each scaled to its range) is chosen."""
    seeds: TuneSeeds = TuneSeeds()
    """Seeds of the search and of its confirmation."""
    confirm: int = Field(5, ge=1)
    """How many of the best settings are confirmed, beside the strategy as it is written."""
    at_once: int = Field(5, ge=1)
    """Trials that are proposed together and do not know of each other, so that they can run side by side. The search
    depends on this number, and on no number of processes."""
    sampler_seed: int = Field(0, ge=0)
    """Of the proposals; the same for every strategy."""

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        twice = sorted(set(self.seeds.search) & set(self.seeds.confirm))
        if twice:
            raise ValueError(f"seeds: {twice} are in search and in confirm. What is confirmed must be new")
        if len(set(self.seeds.search)) < len(self.seeds.search):
            raise ValueError(f"seeds.search: a seed is there twice in {list(self.seeds.search)}")
        if len(set(self.information)) < len(self.information):
            raise ValueError(f"information: a mode is there twice in {list(self.information)}")
        return self


def goal_of(tune: Tune, information: Information, config: RunConfig) -> tuple[Term, ...]:
    """Return the parts of a goal, each with the direction in which it is better.

    Args:
        tune: what the study says.
        information: which mode.
        config: of a run; its objective and schedule decide the default.

    Raises:
        ConfigError: no run produces a number, it has no better direction, or it may not be read.
    """
    terms = tune.goal.get(information) or default_goal(information, config)
    return tuple(_directed(term, f"tune.goal.{information}.{i}", information, config) for i, term in enumerate(terms))


def default_goal(information: Information, config: RunConfig) -> tuple[Term, ...]:
    """Return what decides where a study does not say it; see `Tune.goal`."""
    measure = measure_of(config.objective.name)
    kept = f"average_{measure}"
    if information == "oracle":
        if measure == "accuracy":
            return (Term(metric="average_gap", subject=EACH, model="retrained"),)
        return (
            Term(metric=f"immediate_abs_gap_forget_{measure}", subject="requests", model="retrained"),
            Term(metric=f"gap_{kept}", model="retrained", reduce="mean", target=0.0),
        )
    scopes = scopes_of(config.resolved()["schedule"])
    if scopes and scopes <= {"class", "task"}:  # of single samples a low score is no aim: what generalises stays right
        forget = Term(metric=f"forget_{measure}", subject=EACH, better="lower")
    else:
        forget = Term(metric="membership_auc", subject=EACH, target=0.5, weight=2.0)
    return forget, Term(metric=kept, reduce="mean", better="higher")


def scopes_of(schedule: object) -> set[str]:
    """Return what the requests of a schedule name.

    >>> sorted(scopes_of({"name": "explicit", "requests": [{"scope": "class"}, {"scope": ["sample", "user"]}]}))
    ['class', 'sample', 'user']
    """
    if isinstance(schedule, dict):
        scope = schedule.get("scope", [])
        own = {scope} if isinstance(scope, str) else set(scope)
        return own.union(*map(scopes_of, schedule.values()))
    return set[str]().union(*map(scopes_of, schedule)) if isinstance(schedule, list | tuple) else set()


def reads_shadows(term: Term) -> bool:
    """Return whether a number comes of shadow lives, by itself or as a mean over requests."""
    return term.metric.removeprefix("immediate_").removeprefix("final_") in shadows.METRICS


def _directed(term: Term, where: str, information: Information, config: RunConfig) -> Term:
    catalogue = catalogue_of(config)
    if not catalogue.knows(term.metric):
        raise ConfigError(f"{where}.metric: no run produces {term.metric!r}; see docs/metrics.md.")
    if information == "practical" and (term.model != "run" or reads_shadows(term)):
        raise ConfigError(
            f"{where}: {term.metric} ({term.model}) reads other models, which practical tuning must not. Take a number "
            f"of the run itself, or information: oracle."
        )
    if reads_shadows(term) and not config.references.shadows:
        raise ConfigError(
            f"{where}: {term.metric} needs shadow lives, and references.shadows is 0. Set it in the study."
        )
    kinds = {*config.references.kinds, "run"}
    if term.model not in kinds:
        raise ConfigError(f"{where}.model: no run produces {term.model!r}. {closest(term.model, kinds)}")
    if term.better is not None or term.target is not None:
        return term
    metric = catalogue.describe(term.metric)
    if metric.better in {"lower", "higher"}:
        return term.model_copy(update={"better": metric.better})
    ideal = 0.0 if metric.better == "zero" else metric.ideal
    if ideal is None:
        raise ConfigError(
            f"{where}: neither high nor low values of {term.metric} are better in themselves. Say better: lower, "
            f"better: higher, or target: NUMBER."
        )
    return term.model_copy(update={"target": ideal})


def losses(terms: tuple[Term, ...], tables: list[Table]) -> tuple[float, ...] | None:
    """Return the parts of a goal over the tables of one setting, lower is better; None where one is undefined."""
    parts = []
    for term in terms:
        values = [_number(table, term) for table in tables]
        if not values or None in values:
            return None
        mean = sum(v for v in values if v is not None) / len(values)
        distance = abs(mean - term.target) if term.target is not None else mean if term.better == "lower" else -mean
        parts.append(term.weight * distance)
    return tuple(parts)


def metrics_read(terms: tuple[Term, ...]) -> set[str]:
    """Return the metrics that `losses` reads."""
    return {"exact"}.union(*map(read_for, terms))


def _number(table: Table, term: Term) -> float | None:
    if term.subject != EACH:
        return value_of(table, term)
    served: dict[str, int] = {}
    for row in table.select("exact"):
        served.setdefault(row.subject, row.event)
    rows = [r for r in table.select(term.metric, model=term.model) if served.get(r.subject) == r.event]
    return as_asked(reduced([r for r in rows if is_measured(r)], term.reduce), term)
