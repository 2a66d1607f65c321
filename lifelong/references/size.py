"""How much the references of a stream live through, counted before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass, field

from lifelong.config.run import ReferencesConfig
from lifelong.references.points import Point, chain, wanted_points
from streams.events import Event
from streams.stream import Stream, event_digest

_MOST_EVENTS = 300_000
"""Events of all lives together up to which they are counted one by one."""


@dataclass(frozen=True, slots=True)
class Size:
    """What computing references takes, where no cache has any of them.

    Attributes:
        references: how many there are.
        events: that are lived through; what several lives have in common counts once.
        samples: that these events bring; times the epochs, those that training visits.
        retrained: the samples of the lives that serve no request and have the run's own seed.
        is_exact: whether all lives were counted; else some were, evenly spaced, and the others taken to be alike.
    """

    references: int
    events: int
    samples: int
    retrained: int
    is_exact: bool

    def counts(self, epochs: int) -> dict[str, int]:
        """Return what a preview shows: references, and the samples that training visits for them."""
        about = "" if self.is_exact else "_about"
        return {"references": self.references, f"sample_visits_of_references{about}": self.samples * epochs}


def size_of(stream: Stream, config: ReferencesConfig, copies: bool = False) -> Size:
    """Count what the references live through that a configuration asks for.

    Args:
        stream: of the run.
        config: which references.
        copies: whether requests cover copies of what they name.
    """
    points = wanted_points(stream, config)
    most = max(1, _MOST_EVENTS // len(stream.events))
    counted = points if len(points) <= most else points[:: -(-len(points) // most)]
    families: dict[str, _Tree] = {}
    for point in counted:
        families.setdefault(_family(point), _Tree()).add(chain(stream, point, copies))
    share = len(points) / max(len(counted), 1)
    trees = families.values()
    return Size(
        references=len(points),
        events=round(share * sum(t.events for t in trees)),
        samples=round(share * sum(t.samples for t in trees)),
        retrained=round(share * families["shared"].samples) if "shared" in families else 0,
        is_exact=len(counted) == len(points),
    )


def _family(point: Point) -> str:
    """Return a name for the lives that can share events with that of `point`."""
    return point.kind if point.kind in {"retrained-2", "no-op", "joint"} else "shared"


@dataclass(slots=True)
class _Tree:
    """Lives laid over each other; only what is new in each counts."""

    events: int = 0
    samples: int = 0
    _root: dict[str, dict[str, object]] = field(default_factory=dict)

    def add(self, events: tuple[Event, ...]) -> None:
        """Add a life."""
        node: dict[str, dict[str, object]] = self._root
        for event in events:
            key = event_digest(event)
            if key not in node:
                node[key] = {}
                self.events += 1
                self.samples += len(event.sample_ids)
            node = node[key]  # type: ignore[assignment]
