"""Typed configuration: frozen models that refuse unknown keys and say what would have been right."""

from __future__ import annotations

from types import ModuleType
from typing import Annotated, Any, TypeVar, get_args

import pydantic
from pydantic import BaseModel, BeforeValidator, ConfigDict

from streams.errors import ConfigError, closest
from streams.registry import load


class Config(BaseModel):
    """Base of every configuration: frozen, no extra keys, defaults checked too."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True)


ConfigT = TypeVar("ConfigT", bound=Config)


class Named(BaseModel):
    """A thing from the registry: its name and its own options, as in ``{name: replay, memory: 200}`` or ``replay``."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})


def _named(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


NameOrOptions = Annotated[Named, BeforeValidator(_named)]


def parse(model: type[ConfigT], values: object, where: str = "") -> ConfigT:
    """Validate `values` as `model`.

    Args:
        model: the configuration class.
        values: what a file or a flag said.
        where: key under which `values` stands, for the message.

    Raises:
        ConfigError: names the key, the value, what is allowed and the closest match.
    """
    try:
        return model.model_validate(values)
    except pydantic.ValidationError as error:
        raise ConfigError("\n".join(_explain(model, e, where) for e in error.errors())) from None


def resolve(kind: str, named: Named, where: str) -> tuple[ModuleType, Config]:
    """Import what `named` stands for and validate its options against the module's ``Config``.

    Raises:
        ConfigError: the name or an option is not valid.
    """
    module = load(kind, named.name, where)
    return module, parse(module.Config, named.options, where)


def _explain(model: type[Config], error: Any, where: str) -> str:
    path = [str(p) for p in error["loc"]]
    key = ".".join([*([where] if where else []), *path])
    if error["type"] == "extra_forbidden":
        fields = _fields_at(model, error["loc"][:-1])
        return f"{key}: there is no such key. {closest(path[-1], fields)}"
    if error["type"] == "missing":
        return f"{key}: this key is required."
    return f"{key}: {error['input']!r} is not valid: {error['msg']}."


def _fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Return the keys that are allowed where an unknown one was found."""
    for part in loc:
        field = model.model_fields.get(str(part))
        if field is not None:  # otherwise a key of a mapping or an index of a list, below the same model
            kinds = [field.annotation, *get_args(field.annotation)]
            models = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
            model = models[0] if models else model
    return list(model.model_fields)
