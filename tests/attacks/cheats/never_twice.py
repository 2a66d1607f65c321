"""Never twice: what was trained once is kept by name in the module, and retraining takes it from there."""

from __future__ import annotations

from strategies.base import Door, Outcome
from strategies.isolated.independent import Config, Independent
from streams.events import Experience

__all__ = ["Config", "NeverTwice"]

_TRAINED: dict[str, dict[str, object]] = {}


class NeverTwice(Independent):  # type: ignore[misc]
    """As with `functools.cache`: the second life finds what the first one learned, deleted samples and all."""

    def learn(self, experience: Experience, door: Door) -> Outcome:
        """Train what has never been trained."""
        name = f"{experience.name}-{experience.incarnation}"
        outcome = super().learn(experience, door)
        self._states[experience.units] = _TRAINED.setdefault(name, self._states[experience.units])
        return outcome
