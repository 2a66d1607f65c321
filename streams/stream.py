"""Stream: the ordered events of one life, with a digest and a manifest that rebuilds it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

import numpy as np

from streams.errors import LedgerError, StreamError
from streams.events import DeletionRequest, Event, Experience, Request, Scope, Unit
from streams.ledger import Ledger
from streams.names import names_of
from streams.source import Source

_MOST_SHOWN = 60


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """Events over one source.

    Attributes:
        source: the data the ids point into.
        units: what accuracy is reported for.
        events: in the order in which they happen.
        task_of: int64 ``[N]`` task label of each row when the model is task-aware, else None.
    """

    source: Source
    units: tuple[Unit, ...]
    events: tuple[Event, ...]
    task_of: np.ndarray | None = None

    def __post_init__(self) -> None:
        check(self)

    @property
    def requests(self) -> tuple[DeletionRequest, ...]:
        """The forget events, in order."""
        return tuple(e for e in self.events if isinstance(e, DeletionRequest))

    @property
    def experiences(self) -> tuple[Experience, ...]:
        """The learn events, in order."""
        return tuple(e for e in self.events if isinstance(e, Experience))

    @property
    def task_classes(self) -> tuple[tuple[int, ...], ...] | None:
        """Classes of each task label, or None when the model is not task-aware."""
        return None if self.task_of is None else tuple(u.classes for u in self.units)

    def digest(self) -> str:
        """Return a hash of all events, units and task labels (hex, 32 characters)."""
        h = hashlib.blake2b(digest_size=16)
        for unit in self.units:
            h.update(f"unit|{unit.name}|{unit.classes}|{_hash(unit.test_ids)}".encode())
        for event in self.events:
            h.update(event_digest(event).encode())
        if self.task_of is not None:
            h.update(_hash(self.task_of).encode())
        return h.hexdigest()

    def describe(self) -> list[dict[str, object]]:
        """Return one JSON-ready record per event, for manifests and previews."""
        names = functools.cache(lambda scope: names_of(scope, self.source, self.units))
        return [_describe(i, e, names) for i, e in enumerate(self.events)]

    def _repr_html_(self) -> str:
        """Return its events as a table, as a notebook shows them."""
        shown = self.describe()[:_MOST_SHOWN]
        rows = "".join(
            f"<tr><td>{e['event']}</td><td>{e['kind']}</td><td>{escape(str(e['name']))}</td><td>{e['samples']}</td></tr>"
            for e in shown
        )
        more = f"<p>and {len(self.events) - len(shown)} more</p>" if len(shown) < len(self.events) else ""
        about = f"{len(self.experiences)} to learn, {len(self.requests)} to forget, on {self.source.name}"
        heads = "".join(f"<th>{head}</th>" for head in ("event", "what", "name", "samples"))
        return f"<p>{escape(about)}; {self.digest()}</p><table><tr>{heads}</tr>{rows}</table>{more}"


def event_digest(event: Event) -> str:
    """Return a hash of everything that decides what one event does (hex, 32 characters)."""
    if isinstance(event, Experience):
        text = f"learn|{event.name}|{event.incarnation}|{event.units}|{event.task}|{_hash(event.sample_ids)}"
        if event.retention is not None:
            text += f"|{event.retention}|{event.consolidates}"
    else:
        requests = ";".join(
            f"{r.scope},{r.keys},{r.received},{_hash(r.sample_ids)},{_hash(r.barred_ids)}" for r in event.requests
        )
        text = f"forget|{event.name}|{event.reason}|{event.exact}|{requests}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def check(stream: Stream) -> None:
    """Play the events on a ledger and refuse a stream that cannot happen.

    Raises:
        StreamError: no event, ids outside the training rows, names used twice, or a deletion of what is not live.
    """
    if not stream.experiences:
        raise StreamError("The stream is empty: it has no experience to learn.")
    ledger = Ledger(stream.source)
    names_seen: set[tuple[str, int]] = set()
    for index, event in enumerate(stream.events):
        name = (event.name, event.incarnation if isinstance(event, Experience) else -1)
        if name in names_seen:
            raise StreamError(f"Event {index}: {event.name!r} occurs twice with the same incarnation.")
        names_seen.add(name)
        ids = event.sample_ids
        if not len(ids) or ids.min() < 0 or ids.max() >= len(stream.source) or stream.source.is_test[ids].any():
            raise StreamError(
                f"Event {index} ({event.name}): needs one or more training ids of {stream.source.name!r}."
            )
        if isinstance(event, Experience):
            if (np.diff(ids) <= 0).any():
                raise StreamError(f"Event {index} ({event.name}): sample ids must be ascending and unique.")
            ledger.admit(event)
        else:
            try:
                ledger.delete(event)
            except LedgerError as error:
                raise StreamError(f"Event {index}: {error}") from error


def _hash(values: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(values, dtype=np.int64).data, digest_size=16).hexdigest()


def _describe(index: int, event: Event, names: Callable[[Scope], tuple[str, ...]]) -> dict[str, object]:
    record: dict[str, object] = {"event": index, "name": event.name, "digest": event_digest(event)}
    if isinstance(event, Experience):
        record |= {
            "kind": "learn",
            "units": list(event.units),
            "task": event.task,
            "incarnation": event.incarnation,
            "samples": len(event.sample_ids),
        }
        if event.retention is not None:
            record |= {"retention": event.retention, "consolidates": event.consolidates}
    else:
        record |= {
            "kind": "forget",
            "reason": event.reason,
            "exact": event.exact,
            "samples": len(event.sample_ids),
            "requests": [_describe_request(r, names(r.scope)) for r in event.requests],
        }
    return record


def _describe_request(request: Request, names: tuple[str, ...]) -> dict[str, object]:
    record = {
        "scope": request.scope,
        "keys": list(request.keys),
        "samples": len(request.sample_ids),
        "received": request.received,
    }
    return record | ({"names": [names[k] for k in request.keys]} if names else {})
