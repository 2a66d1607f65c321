"""What the numbers in a request are called: names of classes, users and tasks, as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from streams.events import Scope, Unit
from streams.source import Source


def names_of(scope: Scope, source: Source, units: Sequence[Unit]) -> tuple[str, ...]:
    """Return what the keys of a scope mean, by number; nothing for samples, which have no names."""
    match scope:
        case "class":
            return source.class_names
        case "user":
            return source.user_names
        case "task":
            return tuple(u.name for u in units)
        case _:
            return ()


def in_words(request: Mapping[str, Any], most: int = 8) -> str:
    """Say what a request of `Stream.describe` names; a name that only repeats scope and number is left at the number.

    >>> in_words({"scope": "user", "keys": [3, 9], "names": ["Ann Lee", "user-9"]})
    'user Ann Lee, 9'
    >>> in_words({"scope": "class", "keys": [0, 1, 2]}, most=2), in_words({"scope": "sample", "keys": [7]})
    ('class 0, 1 and 1 more', '1 sample')
    """
    scope, keys = request["scope"], request["keys"]
    if scope == "sample":
        return f"{len(keys)} sample{'s' * (len(keys) != 1)}"
    names = request.get("names", keys)  # runs of earlier versions have none
    shown = ", ".join(str(name).removeprefix(f"{scope}-") for name in names[:most])
    return f"{scope} {shown}" + (f" and {len(keys) - most} more" if len(keys) > most else "")
