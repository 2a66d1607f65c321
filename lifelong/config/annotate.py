"""A configuration written out with what every key means, and the tables of options that `lifelong show` prints."""

from __future__ import annotations

import textwrap
import types
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from lifelong.config.run import RunConfig
from streams.config import Named, resolve
from streams.registry import entries

_WIDTH = 100
_KINDS = {
    "source": "sources",
    "of": "sources",
    "scenario": "scenarios",
    "schedule": "schedules",
    "objective": "objectives",
    "features": "models",
    "model": "models",
    "learner": "learners",
    "unlearner": "unlearners",
    "method": "unlearners",
    "guard": "guards",
    "isolated": "isolated",
    "audits": "audits",
    "metrics": "metrics",
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
        for inner, mark in _inner_models(field.annotation):
            result += options(inner, f"{key}{mark}.")
    return result


def allowed(field: FieldInfo) -> str:
    """Return what a field may be, as in ``integer, 1 or more`` or ``sgd | adam``."""
    return ", ".join([_kind(field.annotation), *filter(None, map(_limit, field.metadata))])


def _limit(metadata: object) -> str | None:
    match metadata:
        case annotated_types.Gt(gt=limit):
            return f"above {limit}"
        case annotated_types.Ge(ge=limit):
            return f"{limit} or more"
        case annotated_types.Lt(lt=limit):
            return f"below {limit}"
        case annotated_types.Le(le=limit):
            return f"at most {limit}"
    return None


def annotated(config: RunConfig) -> str:
    """Return `config` as YAML in which a comment says what each key means; read back, it is the same run."""
    lines = [
        "# Keys that are left out have the defaults shown by `lifelong show`; unknown keys are errors.",
        "# Names of sources, scenarios, schedules, learners ...: `lifelong list`. Options of each: `lifelong show`.",
        "",
    ]
    return "\n".join([*lines, *_Writer().mapping(config, "")]) + "\n"


class _Writer:
    """Writes models as commented YAML lines; a comment that was written once is not repeated."""

    def __init__(self) -> None:
        self._written: set[str] = set()

    def mapping(self, config: BaseModel, indent: str) -> list[str]:
        """Return the lines of one model's keys."""
        lines: list[str] = []
        alone = getattr(config, "isolated", None) is not None
        for name, field in type(config).model_fields.items():
            value = getattr(config, name)
            left_out = value is None if name in {"guard", "isolated"} else alone
            if name in {"learner", "unlearner", "guard", "unlearning_seed", "isolated"} and left_out:
                continue
            lines += self._comment(field, indent)
            lines += self._entry(name, value, indent)
        return lines

    def _entry(self, name: str, value: object, indent: str) -> list[str]:
        deeper = indent + "  "
        match value:
            case Named():
                return [f"{indent}{name}:", *self._named_entry(name, value, deeper)]
            case BaseModel():
                return [f"{indent}{_inline(name)}:", *self.mapping(value, deeper)]
            case (Named(), *_):
                lines = [f"{indent}{name}:"]
                for item in (v for v in value if isinstance(v, Named)):
                    first, *rest = self._named_entry(name, item, deeper + "  ")
                    lines += [f"{deeper}- {first.strip()}", *rest]
                return lines
            case (BaseModel(), *_):
                return [f"{indent}{name}:", *(f"{deeper}- {_inline(v)}" for v in value)]
            case dict() if value:
                return [f"{indent}{name}:", *(line for k, v in value.items() for line in self._entry(k, v, deeper))]
        return [f"{indent}{name}: {_inline(value)}"]

    def _named_entry(self, key: str, named: Named, indent: str) -> list[str]:
        kind = _KINDS[key]
        _, config = resolve(kind, named, key)
        return [f"{indent}name: {_inline(named.name)}", *self._others(kind, indent), *self.mapping(config, indent)]

    def _others(self, kind: str, indent: str) -> list[str]:
        """Return, once for every kind, what else there is of it."""
        text = f"Names: {', '.join(entries(kind))}, or a file of yours. Options: lifelong show {kind} NAME"
        return self._said(text, indent)

    def _comment(self, field: FieldInfo, indent: str) -> list[str]:
        limits, text = allowed(field), _text(field)
        if not {"name", "text", "keys"} & set(limits.split()):
            text += f" [{limits}]"
        return self._said(text, indent)

    def _said(self, text: str, indent: str) -> list[str]:
        if text in self._written:
            return []
        self._written.add(text)
        return [f"{indent}# {line}" for line in textwrap.wrap(text, _WIDTH - len(indent), break_on_hyphens=False)]


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
    words: dict[object, str] = {
        date: "date",
        int: "integer",
        float: "number",
        bool: "true | false",
        str: "text",
        Any: "anything",
    }
    return words.get(annotation, str(annotation))


def _inner_models(annotation: object) -> list[tuple[type[BaseModel], str]]:
    """Return the models inside an annotation, with ``[]`` for those in a list and ``.NAME`` for those in a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [] if issubclass(annotation, Named) else [(annotation, "")]
    origin = get_origin(annotation)
    mark = "[]" if origin in {tuple, list} else ".NAME" if origin is dict else ""
    return [(model, mark + inner) for a in get_args(annotation) for model, inner in _inner_models(a)]
