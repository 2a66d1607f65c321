"""What strategies with the same learner have in common: their life up to the first request is lived once.

Unlearners are idle until something must be forgotten. So the strategies of a run that share a learner take over rows,
outputs and state from the first of them, in memory: on disk the state would outlive the data that is deleted later.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lifelong.config.run import content_hash
from lifelong.evaluation.outputs import Outputs
from lifelong.results.table import Row
from strategies.base import State, Strategy
from strategies.outcome import Draw
from streams.events import DeletionRequest
from streams.stream import Stream

Timing = dict[str, float | int | str]


@dataclass(frozen=True, slots=True, eq=False)
class Lived:
    """One event, as it was lived.

    Attributes:
        rows: of results.
        outputs: if it was evaluated.
        timing: the seconds it took.
        draw: which samples a selection drew, if one did.
    """

    rows: list[Row]
    outputs: Outputs | None
    timing: Timing
    draw: Draw | None


@dataclass(slots=True)
class Prefix:
    """The events before the first request, as one strategy has lived them.

    Attributes:
        length: how many they are.
        lived: each of them.
        state: the strategy's after the last of them; None until then.
    """

    length: int
    lived: list[Lived] = field(default_factory=list)
    state: State | None = None

    def add(self, index: int, lived: Lived, strategy: Strategy) -> None:
        """Keep an event if it is the next one of the prefix, and the strategy's state if it is the last one."""
        if index == len(self.lived) < self.length:
            self.lived.append(lived)
            if len(self.lived) == self.length:
                self.state = strategy.state_dict()


def prefixes(stream: Stream, strategies: dict[str, dict[str, Any]]) -> dict[str, Prefix]:
    """Return the prefix of every strategy that shares its learner with another; `strategies` are resolved."""
    requests = [i for i, e in enumerate(stream.events) if isinstance(e, DeletionRequest)]
    length = requests[0] if requests else len(stream.events)
    sharing: dict[str, list[str]] = {}
    for name, strategy in strategies.items():
        if "learner" in strategy:
            sharing.setdefault(content_hash(strategy["learner"]), []).append(name)
    by_strategy: dict[str, Prefix] = {}
    for names in sharing.values():
        if len(names) > 1 and length:
            by_strategy |= dict.fromkeys(names, Prefix(length))
    return by_strategy
