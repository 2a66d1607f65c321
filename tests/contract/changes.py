"""Other values of the options of anything that has a `Config`."""

from __future__ import annotations

import functools
import itertools
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from streams.config import Config, Named

Options = Mapping[str, Any]
Path = tuple[str, ...]
Change = tuple[Path, Any]


def kinds(annotation: Any) -> tuple[Any, ...]:
    """The types that a value may have."""
    each = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return tuple(get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in each)


def is_switch(annotation: Any) -> bool:
    """Whether an option says how rather than how much."""
    return any(k in (bool, types.NoneType) or get_origin(k) is Literal for k in kinds(annotation))


def others(annotation: Any, value: Any, default: Any) -> list[Any]:
    """Return other values of an option; some may be out of its range."""
    found = [default, *itertools.chain.from_iterable(_of_kind(kind, value) for kind in kinds(annotation))]
    return [v for i, v in enumerate(found) if v != value and v not in found[:i]]


def _of_kind(kind: Any, value: Any) -> Iterator[Any]:
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else 1
    if kind is types.NoneType:
        yield None
    elif kind is bool:
        yield from (True, False)
    elif get_origin(kind) is Literal:
        yield from get_args(kind)
    elif kind is int:
        yield from (2, int(number) // 2, 2 * int(number), int(number) + 1, 4, 12)
    elif kind is float:
        yield from (number / 3, 3 * number, number + 0.3, 0.01, 0.9, 0.0, 100.0)
    elif isinstance(kind, type) and issubclass(kind, Config):
        yield {}  # with its defaults
    elif get_origin(kind) is tuple:
        inner = get_args(kind)
        if inner[-1] is Ellipsis:
            yield from ((v,) for v in _of_kind(inner[0], None))
        elif value:
            yield from (tuple(v * factor if isinstance(v, float) else v for v in value) for factor in (0.5, 0.9))


def options_of(config: type[BaseModel], before: Path = ()) -> Iterator[tuple[Path, Any, Any]]:
    """Yield path, type and default of every option, those of nested options too."""
    for name, field in config.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Config):
            yield from options_of(kind, (*before, name))
        elif not (isinstance(kind, type) and issubclass(kind, Named)):
            yield (*before, name), kind, field.default


def value_of(config: Any, path: Path) -> Any:
    """Return what an option is set to."""
    return functools.reduce(getattr, path, config)


def with_option(options: Options, path: Path, value: Any) -> dict[str, Any]:
    """Return options with one of them set to another value."""
    first, *rest = path
    inner = options.get(first, {})
    return {**options, first: value if not rest else with_option(inner, tuple(rest), value)}
