"""Streams that are built by hand in Python: a source and a list of events become a part of a configuration.

A run has to find its stream again: when it goes on, in processes of their own, and for its references. So source and
events become files, whose names have a hash of what they hold, and the configuration names these.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lifelong.config.cells import FOLDER
from streams.errors import ConfigError
from streams.events import Reason, Scope
from streams.files import write_atomically
from streams.names import names_of
from streams.plan import Plan
from streams.schedules._common import Keys
from streams.source import Source


@dataclass(frozen=True, slots=True)
class Learn:
    """An experience.

    Attributes:
        name: what it is called; all its randomness hangs on that.
        samples: numbers of its training samples.
    """

    name: str
    samples: Sequence[int] | np.ndarray


@dataclass(frozen=True, slots=True)
class Forget:
    """A deletion request.

    Attributes:
        scope: what the keys name: sample, class, task or user.
        keys: numbers of samples, or names of classes, tasks or users, as the data calls them. A number is one that
            stands in a name, as in a configuration; where names of the source have none, it is a place among them.
        reason: erase (privacy), correct (bad data) or suppress (a concept must go).
        exact: whether the requester demands exactness.
    """

    scope: Scope
    keys: Sequence[int | str] | np.ndarray
    reason: Reason = "erase"
    exact: bool = False


def stream(source: Source | str | Mapping[str, Any], events: Sequence[Learn | Forget]) -> dict[str, Any]:
    """Return the part of a configuration that is a stream: source, scenario and schedule.

    Put it into a configuration: ``lifelong.run({**lifelong.stream(source, events), "strategies": ...})``. Accuracy is
    reported for units: one for each experience that teaches new classes, with the test samples of these classes.

    Args:
        source: data of your own, or the name of a source (with options: a dict, as in a configuration). Data of your
            own is written to ``.lifelong/`` in the working folder, as are the events.
        events: in their order; the first is an experience.

    Raises:
        ConfigError: there is no experience before the first request, a class or user of data of your own is not there
            or has the name of another one, or the source is of a kind (text, images beside text, manipulated data) that
            cannot be written to a file; name it instead.
    """
    named = _named(source) if isinstance(source, Source) else source
    experiences = [{"name": e.name, "samples": np.asarray(e.samples).tolist()} for e in events if isinstance(e, Learn)]
    requests, after = [], 0
    for number, event in enumerate(events):
        if isinstance(event, Learn):
            after += 1
        elif not after:
            raise ConfigError(f"Event {number} is a request, and nothing has been learned before it.")
        else:
            given = [event.keys] if isinstance(event.keys, str) else event.keys
            keys = [key if isinstance(key, str) else int(key) for key in given]
            if isinstance(source, Source) and event.scope in ("class", "user"):
                # In the file names are sorted: a number that is a place among them would be another's.
                places = Keys(Plan(source, (), ())).places(event.scope, keys, f"Event {number}")
                keys = [names_of(event.scope, source, ())[place] for place in places]
            asked = {"after": after, "scope": event.scope, "keys": keys, "reason": event.reason, "exact": event.exact}
            requests.append(asked)
    listed = _written("stream", ".json", json.dumps({"experiences": experiences}).encode())
    return {
        "source": named,
        "scenario": {"name": "listed", "path": str(listed)},
        "schedule": {"name": "explicit", "requests": requests},
    }


def _named(source: Source) -> dict[str, Any]:
    """Write a source to a file, and return how a configuration names it."""
    if source.text is not None or source.images is not None or source.corruption is not None:
        raise ConfigError(
            f"lifelong.stream: the source {source.name!r} holds more than arrays (text, images or notes on damage). "
            f"Give its name and options instead, as in {{'name': {source.name!r}, ...}}."
        )
    for names in (source.class_names, source.user_names):
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ConfigError(f"lifelong.stream: two classes or users of {source.name!r} are called {twice!r}.")
    is_regression = source.y.is_floating_point()
    named = np.array(source.class_names)[source.class_ids]
    buffer = io.BytesIO()
    np.savez(
        buffer,
        x=source.inputs(np.arange(len(source))).numpy(),
        user=np.array(source.user_names)[source.user_ids],
        test=source.is_test,
        **({"y": source.y.numpy(), "stratum": named} if is_regression else {"y": named}),
    )
    file = _written("source", ".npz", buffer.getvalue())
    return {"name": "arrays", "path": str(file), "target": "regression" if is_regression else "classification"}


def _written(kind: str, suffix: str, content: bytes) -> Path:
    file = FOLDER / f"{kind}_{hashlib.blake2b(content, digest_size=6).hexdigest()}{suffix}"
    if not file.exists():
        write_atomically(file, content)
    return file
