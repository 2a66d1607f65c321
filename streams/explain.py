"""From pydantic's errors to sentences that name the key, the value, what is allowed and the closest match."""

from __future__ import annotations

import reprlib
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pydantic
from pydantic import BaseModel

from streams.errors import closest

_EXPECTED = {
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "invalid_key": "text",
}


@dataclass(frozen=True, slots=True)
class _Problem:
    """One error.

    Attributes:
        path: keys and indices as a person wrote them.
        unions: how much of the path lies before each union that pydantic passed.
        annotation: what the value at the path should have been; for an unknown key, the model that has no such key.
        error: as pydantic tells it.
    """

    path: tuple[str, ...]
    unions: tuple[int, ...]
    annotation: object
    error: dict[str, Any]


def explain(model: type[BaseModel], error: pydantic.ValidationError, where: str = "") -> str:
    """Return one line for each thing that is wrong.

    Args:
        model: what was validated.
        error: what pydantic found.
        where: key under which the values stand.
    """
    problems = [_locate(model, dict(e)) for e in error.errors()]
    return "\n".join(dict.fromkeys(_sentence(group, where) for group in _alternatives(problems)))


def _locate(model: type[BaseModel], error: dict[str, Any]) -> _Problem:
    annotation: object = model
    path: list[str] = []
    unions: list[int] = []
    parts = error["loc"][:-1] if error["type"] == "extra_forbidden" else error["loc"]
    for part in parts:
        members = _members(annotation)
        if len(members) > 1:
            unions.append(len(path))
            annotation = next((m for m in members if _tag(m, str(part))), None)
        else:
            path.append(str(part))
            annotation = _annotation_of(members[0], part)
    path += [str(p) for p in error["loc"][len(parts) :]]
    return _Problem(tuple(path), tuple(unions), annotation, error)


def _members(annotation: object) -> list[object]:
    """Return what a value may be: several for a union, whatever else null would be."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in {Union, types.UnionType}:
        return [m for m in get_args(annotation) if m is not type(None)]
    return [annotation]


def _tag(member: object, tag: str) -> bool:
    """Whether pydantic means this member of a union by `tag`."""
    if isinstance(member, type):
        return tag == member.__name__
    origin = get_origin(member)
    name = "literal" if origin is Literal else getattr(origin, "__name__", "")
    return bool(name) and tag.startswith(name)


def _annotation_of(annotation: object, part: int | str) -> object:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(str(part))
        return None if field is None else field.annotation
    arguments = get_args(annotation)
    if get_origin(annotation) is dict:
        return arguments[1]
    if get_origin(annotation) in {tuple, list} and arguments:
        fixed = isinstance(part, int) and part < len(arguments) and Ellipsis not in arguments
        return arguments[part] if fixed and isinstance(part, int) else arguments[0]
    return None


def _alternatives(problems: Sequence[_Problem]) -> list[list[_Problem]]:
    """Group the errors of one union's members; of those, only what got furthest is worth telling."""
    groups: dict[tuple[str, ...], list[_Problem]] = {}
    for number, p in enumerate(problems):
        at = p.path[: p.unions[0]] if p.unions else (*p.path, str(number))
        groups.setdefault(at, []).append(p)
    result = []
    for group in groups.values():
        furthest = max(len(p.path) for p in group)
        result.append([p for p in group if len(p.path) == furthest])
    return result


def _sentence(group: Sequence[_Problem], where: str) -> str:
    first = group[0]
    key = ".".join([*([where] if where else []), *first.path])
    kind, value = first.error["type"], first.error["input"]
    of_key = 2 if first.path[-1:] == ("[key]",) else 1 if kind == "invalid_key" else 0
    if of_key and not isinstance(value, str):  # as YAML reads `no:`, `1:` and `~:`
        at = ".".join([*([where] if where else []), *first.path[:-of_key]])
        return f"{at}{': ' if at else ''}the key {_shown(value)} is not text. Write it in quotes."
    if kind == "extra_forbidden":
        return f"{key}: there is no such key. {closest(first.path[-1], _keys(first.annotation))}"
    if kind == "missing":
        return f"{key}: this key is required."
    if kind == "value_error":
        message = str(first.error["ctx"]["error"])
        shown = "" if isinstance(value, dict | BaseModel) else f"{_shown(value)} is not valid: "
        return f"{key}: {shown}{message}." if key else f"{message}."
    allowed = [a for p in group if p.error["type"] == "literal_error" for a in _literals(p.annotation)]
    others = dict.fromkeys(_expected(p) for p in group if p.error["type"] != "literal_error")
    if allowed and isinstance(value, str):
        tail = "".join(f", or {o}" for o in others)
        return f"{key}: {_shown(value)} is not valid. {closest(value, allowed)[:-1]}{tail}."
    expected = " or ".join([*([f"one of {', '.join(allowed)}"] if allowed else []), *others])
    return f"{key}: {_shown(value)} is not valid: it must be {expected}." if key else f"It must be {expected}."


def _expected(problem: _Problem) -> str:
    kind, context = problem.error["type"], problem.error.get("ctx", {})
    match kind:
        case "greater_than":
            return f"greater than {_bound(context['gt'])}"
        case "greater_than_equal":
            return f"{_bound(context['ge'])} or more"
        case "less_than":
            return f"less than {_bound(context['lt'])}"
        case "less_than_equal":
            return f"{_bound(context['le'])} or less"
        case "multiple_of":
            return f"a multiple of {context['multiple_of']:g}"
        case "too_short":
            return f"a collection of at least {context['min_length']}"
        case "string_pattern_mismatch":
            return f"text that matches {context['pattern']}"
    if kind in {"model_type", "dict_type"} and _keys(problem.annotation):
        return f"{_EXPECTED[kind]}, of {', '.join(_keys(problem.annotation))}"
    message = str(problem.error["msg"])
    return _EXPECTED.get(kind, message[0].lower() + message[1:])


def _bound(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _keys(annotation: object) -> list[str]:
    models = [m for m in _members(annotation) if isinstance(m, type) and issubclass(m, BaseModel)]
    return sorted({key for m in models for key in m.model_fields})


def _literals(annotation: object) -> list[str]:
    return [
        str(a) for m in _members(annotation) if get_origin(m) is Literal for a in get_args(m) if not isinstance(a, bool)
    ]


def _shown(value: object) -> str:
    """Return a value as YAML would have it, cut short."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return reprlib.repr(value)
