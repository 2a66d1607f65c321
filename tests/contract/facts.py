"""What strategies declare of themselves, asked of a strategy as it was built: some facts follow from options."""

from __future__ import annotations

from strategies.base import ExactAt, Guard, Learner, Plugin, Strategy, Unlearner
from strategies.composed import Composed
from strategies.learner import SGDLearner


def parts(strategy: Strategy) -> list[Strategy | Learner | Plugin | Guard | Unlearner]:
    """A strategy, or all that a composed one is made of."""
    if not isinstance(strategy, Composed):
        return [strategy]
    plugins = strategy.learner.plugins.values() if isinstance(strategy.learner, SGDLearner) else ()
    guard = [] if strategy.guard is None else [strategy.guard]
    return [strategy.learner, *plugins, *guard, strategy.unlearner]


def exact(strategy: Strategy) -> ExactAt | None:
    """At which requests it is declared exact: what serves them says so; under a guard none."""
    if isinstance(strategy, Composed):
        return None if strategy.guard is not None else strategy.unlearner.exact
    return strategy.exact


def grows(strategy: Strategy) -> bool:
    """Whether some of its state is declared to grow."""
    return any(part.state_grows for part in parts(strategy) if not isinstance(part, Unlearner))


def trains_on(strategy: Strategy) -> set[str]:
    """What its plugins let through of an experience, beside all."""
    return {part.trains_on for part in parts(strategy) if isinstance(part, Plugin)} - {"all"}


def relives(strategy: Strategy) -> bool:
    """Whether restoring it is learning all once more."""
    return any(part.restores_by_reliving for part in parts(strategy) if isinstance(part, Learner))
