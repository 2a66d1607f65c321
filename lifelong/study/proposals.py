"""Settings to try next: the strategy as it is written, then points spread evenly, then those that Optuna proposes.

A function of what was tried and what came of it: nothing is kept between calls, so that a study that was killed goes on
with the same settings. Optuna's sampler (TPE, Bergstra et al. 2011; for several goals Ozaki et al. 2022) is built anew
in every round, with a seed of the round's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from strategies.ranges import Range, Space
from streams.errors import ConfigError

NUM_SPREAD = 10
"""Settings, with the first, before the sampler has enough to go by."""


@dataclass(frozen=True, slots=True)
class Tried:
    """A setting that was tried.

    Attributes:
        options: its values by key.
        losses: the parts of the goal, lower is better; None where its runs diverged.
    """

    options: Mapping[str, Any]
    losses: tuple[float, ...] | None


def propose(
    space: Mapping[str, Space], written: Mapping[str, Any], tried: Sequence[Tried], count: int, seed: int
) -> list[dict[str, Any]]:
    """Return the next settings.

    Args:
        space: what is tuned.
        written: the values in the strategy as it is written: the first setting, whether in range or not.
        tried: all settings so far, in their order.
        count: how many are wanted.
        seed: of all proposals.
    """
    first, spread = len(tried), _spread(space, seed)
    planned = [dict(written), *spread][first : first + count]
    if len(planned) < count:
        planned += _sampled(space, tried, count - len(planned), seed + first)
    return planned


def _spread(space: Mapping[str, Space], seed: int) -> list[dict[str, Any]]:
    """Return settings that cover the space evenly: a scrambled Halton sequence."""
    from scipy.stats.qmc import Halton

    points = Halton(len(space), scramble=True, rng=seed).random(NUM_SPREAD - 1)
    return [{key: _at(s, float(u)) for (key, s), u in zip(space.items(), point, strict=True)} for point in points]


def _at(space: Space, share: float) -> Any:
    if isinstance(space, Range):
        return space.at(share)
    return space[min(int(share * len(space)), len(space) - 1)]


def _sampled(space: Mapping[str, Space], tried: Sequence[Tried], count: int, seed: int) -> list[dict[str, Any]]:
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("tune needs Optuna: pip install 'lifelong-simulator[tune]'.") from error
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        finished = [t.losses for t in tried if t.losses is not None]
        width = len(finished[0]) if finished else 1
        study = optuna.create_study(
            sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=0, constant_liar=True),
            directions=["minimize"] * width,
        )
        distributions = {key: _distribution(optuna.distributions, s) for key, s in space.items()}
        worst = _worse_than_all(finished, width)
        for t in tried:
            if all(_has(s, t.options[key]) for key, s in space.items()):
                coded = {key: _coded(s, t.options[key]) for key, s in space.items()}
                values = list(worst if t.losses is None else t.losses)
                study.add_trial(optuna.trial.create_trial(params=coded, distributions=distributions, values=values))
        asked = [study.ask(distributions).params for _ in range(count)]
    finally:
        optuna.logging.set_verbosity(verbosity)
    return [{key: _decoded(s, params[key]) for key, s in space.items()} for params in asked]


def _worse_than_all(finished: Sequence[tuple[float, ...]], width: int) -> tuple[float, ...]:
    """Return what a diverged trial is told to be: as far beyond the worst as that is from the best."""
    if not finished:
        return (1.0,) * width
    columns = list(zip(*finished, strict=True))
    return tuple(2 * max(column) - min(column) for column in columns)


def _distribution(kinds: Any, space: Space) -> Any:
    if not isinstance(space, Range):
        return kinds.CategoricalDistribution(range(len(space)))
    if space.is_whole:
        return kinds.IntDistribution(space.low, space.high, log=space.scale == "log")
    if space.scale == "log-to-one":
        return kinds.FloatDistribution(1 - space.high, 1 - space.low, log=True)
    return kinds.FloatDistribution(space.low, space.high, log=space.scale == "log")


def _has(space: Space, value: Any) -> bool:
    return space.has(value) if isinstance(space, Range) else value in space


def _coded(space: Space, value: Any) -> Any:
    if not isinstance(space, Range):
        return space.index(value)
    if space.scale == "log-to-one":
        return min(max(1 - value, 1 - space.high), 1 - space.low)
    return int(value) if space.is_whole else float(value)


def _decoded(space: Space, coded: Any) -> Any:
    if not isinstance(space, Range):
        return space[coded]
    return coded if space.is_whole else space.rounded(1 - coded if space.scale == "log-to-one" else coded)
