"""A configuration written out with what every key means, and the tables of options that `lifelong show` prints."""

from __future__ import annotations

import textwrap
import types
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from lifelong.config import RunConfig
from streams.config import Config, Named, resolve

_WIDTH = 100
_KINDS = {
    "source": "sources",
    "scenario": "scenarios",
    "schedule": "schedules",
    "objective": "objectives",
    "model": "models",
    "learner": "learners",
    "unlearner": "unlearners",
    "isolated": "isolated",
}


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its key, what it may be, its default (None if it must be given), and what it means."""

    key: str
    allowed: str
    default: str | None
    meaning: str


def options(model: type[BaseModel], prefix: str = "") -> list[Option]:
    """Return a row for every option of `model`, and after it those of what it holds, as ``requests[].after``."""
    result = []
    for name, field in model.model_fields.items():
        key = prefix + name
        default = None if field.is_required() else _inline(field.get_default(call_default_factory=True))
        result.append(Option(key, allowed(field), default, _text(field)))
        for inner, mark in _held(field.annotation):
            result += options(inner, f"{key}{mark}.")
    return result


def allowed(field: FieldInfo) -> str:
    """Return what a field may be, as in ``integer, 1 or more`` or ``sgd | adam``."""
    limits = [
        text
        for m in field.metadata
        for text in (
            [f"above {m.gt:g}"]
            if isinstance(m, annotated_types.Gt)
            else [f"{m.ge:g} or more"]
            if isinstance(m, annotated_types.Ge)
            else [f"below {m.lt:g}"]
            if isinstance(m, annotated_types.Lt)
            else [f"at most {m.le:g}"]
            if isinstance(m, annotated_types.Le)
            else []
        )
    ]
    return ", ".join([_kind(field.annotation), *limits])


def annotated(config: RunConfig) -> str:
    """Return `config` as YAML in which a comment says what each key means; read back, it is the same run."""
    lines = [
        "# Keys that are left out have the defaults shown by `lifelong show`; unknown keys are errors.",
        "# Names of sources, scenarios, schedules, learners ...: `lifelong list`. Options of each: `lifelong show`.",
        "",
    ]
    return "\n".join([*lines, *_mapping(config, "")]) + "\n"


def _mapping(config: BaseModel, indent: str) -> list[str]:
    lines: list[str] = []
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if name == "isolated" and value is None:
            continue
        if name in {"learner", "unlearner"} and getattr(config, "isolated", None) is not None:
            continue
        lines += _comment(field, indent)
        lines += _entry(name, value, indent)
    return lines


def _entry(name: str, value: object, indent: str) -> list[str]:
    if isinstance(value, Named):
        return [f"{indent}{name}:", *_named(name, value, indent + "  ")]
    if isinstance(value, Config):
        return [f"{indent}{name}:", *_mapping(value, indent + "  ")]
    if isinstance(value, tuple) and value and isinstance(value[0], Named):
        lines = [f"{indent}{name}:"]
        for item in value:
            first, *rest = _named(name, item, indent + "    ")
            lines += [f"{indent}  - {first.strip()}", *rest]
        return lines
    if isinstance(value, tuple) and value and isinstance(value[0], Config):
        return [f"{indent}{name}:", *(f"{indent}  - {_inline(v)}" for v in value)]
    if isinstance(value, dict) and value:
        lines = [f"{indent}{name}:"]
        for key, item in value.items():
            lines += _entry(key, item, indent + "  ")
        return lines
    return [f"{indent}{name}: {_inline(value)}"]


def _named(key: str, named: Named, indent: str) -> list[str]:
    _, config = resolve(_KINDS[key], named, key)
    return [f"{indent}name: {_inline(named.name)}", *_mapping(config, indent)]


def _comment(field: FieldInfo, indent: str) -> list[str]:
    limits = allowed(field)
    plain = limits in {"name", "text", "list", "mapping", "keys"} or "name" in limits.split()
    text = _text(field) if plain else f"{_text(field)} [{limits}]"
    wrapped = textwrap.wrap(text, _WIDTH - len(indent), break_on_hyphens=False)
    return [f"{indent}# {line}" for line in wrapped]


def _text(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())


def _inline(value: object) -> str:
    """Return a value as YAML on one line."""
    text = yaml.safe_dump(_plain(value), default_flow_style=True, sort_keys=False, width=10_000).strip()
    return text.removesuffix("...").strip()


def _plain(value: object) -> Any:
    if isinstance(value, Named) and not value.options:
        return value.name
    if isinstance(value, BaseModel):
        return {k: _plain(v) for k, v in value.model_dump().items() if k in value.model_fields_set}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return None if value is PydanticUndefined else value


def _kind(annotation: object) -> str:
    """Return an annotation in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(arguments[0])
    if origin is Literal:
        return " | ".join(str(a) for a in arguments)
    if origin in {Union, types.UnionType}:
        return " | ".join("null" if a is type(None) else _kind(a) for a in arguments)
    if origin in {tuple, list}:
        return f"list of {_kind(arguments[0])}" if arguments else "list"
    if origin is dict:
        return f"mapping of names to {_kind(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Named):
        return "name"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "keys"
    words: dict[object, str] = {int: "integer", float: "number", bool: "true | false", str: "text"}
    return words.get(annotation, str(annotation))


def _held(annotation: object) -> list[tuple[type[BaseModel], str]]:
    """Return the models inside an annotation, with ``[]`` for those in a list and ``.NAME`` for those in a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [] if issubclass(annotation, Named) else [(annotation, "")]
    mark = {tuple: "[]", list: "[]", dict: ".NAME"}.get(get_origin(annotation) or object, "")
    return [(model, mark + inner) for a in get_args(annotation) for model, inner in _held(a)]
