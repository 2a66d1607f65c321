"""What the numbers in a request are called: names of classes, users and tasks, as people read them."""

from __future__ import annotations

import re
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


def number_in(name: str) -> int | None:
    """Return the number that a name is, or that stands behind its one word, else None.

    >>> [number_in(name) for name in ("3", "-1", "user-10", "u7", "Ann Lee", "covid-19b")]
    [3, -1, 10, 7, None, None]
    """
    match = re.fullmatch(r"(?:[^\W\d_]+[-_ ]?)?(\d+)|(-\d+)", name)
    return None if match is None else int(match[1] or match[2])


def naturally(name: str) -> tuple[list[int | str], str]:
    """Return by what names are sorted so that numbers in them count as numbers.

    >>> sorted(["user-10", "user-2", "Ann"], key=naturally)
    ['Ann', 'user-2', 'user-10']
    """
    parts = re.split(r"(\d+)", name)  # text and digits in turn, text first
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def shown(scope: Scope, key: int, name: str) -> str:
    """Return what a key is called; of a name that only repeats scope and number, the number.

    >>> shown("user", 9, "user-9"), shown("user", 8, "user-10")
    ('9', 'user-10')
    """
    return str(key) if name == f"{scope}-{key}" else name


def in_words(request: Mapping[str, Any], most: int = 8) -> str:
    """Say what a request of `Stream.describe` names; a name that only repeats scope and number is left at the number.

    >>> in_words({"scope": "user", "keys": [3, 9, 11], "names": ["Ann Lee", "user-9", "user-12"]})
    'user Ann Lee, 9, user-12'
    >>> in_words({"scope": "class", "keys": [0, 1, 2]}, most=2), in_words({"scope": "sample", "keys": [7]})
    ('class 0, 1 and 1 more', '1 sample')
    """
    scope, keys = request["scope"], request["keys"]
    if scope == "sample":
        return f"{len(keys)} sample{'s' * (len(keys) != 1)}"
    names = request.get("names", keys)  # runs of earlier versions have none
    called = ", ".join(shown(scope, key, str(name)) for key, name in zip(keys[:most], names, strict=False))
    return f"{scope} {called}" + (f" and {len(keys) - most} more" if len(keys) > most else "")
