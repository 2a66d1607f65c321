"""Typed configuration: frozen models that refuse unknown keys and say what would have been right."""

from __future__ import annotations

from types import ModuleType
from typing import Annotated, Any, TypeVar, get_args

import pydantic
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo, field_validator

from streams.errors import ConfigError
from streams.explain import explain
from streams.registry import load


class Config(BaseModel):
    """Base of every configuration: frozen, no extra keys, defaults checked too."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _number_is_no_truth(cls, value: object, info: ValidationInfo) -> object:
        """Refuse true and false where a number is meant; pydantic would take them for 1 and 0."""
        if isinstance(value, bool) and info.field_name is not None:
            annotation = cls.model_fields[info.field_name].annotation
            if {int, float} & {annotation, *get_args(annotation)} and bool not in {annotation, *get_args(annotation)}:
                raise ValueError("it must be a number, not true or false")
        return value


ConfigT = TypeVar("ConfigT", bound=Config)


class Named(BaseModel):
    """A thing from the registry: its name and its own options, as in ``{name: replay, memory: 200}`` or ``replay``."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})


def _name_or_mapping(value: object) -> object:
    if not isinstance(value, str | dict | Named):
        raise ValueError("it must be a name, or {name: ..., option: ...}")
    return {"name": value} if isinstance(value, str) else value


NameOrOptions = Annotated[Named, BeforeValidator(_name_or_mapping)]


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
        raise ConfigError(explain(model, error, where)) from None


def resolve(kind: str, named: Named, where: str) -> tuple[ModuleType, Config]:
    """Import what `named` stands for and validate its options against the module's ``Config``.

    Raises:
        ConfigError: the name or an option is not valid.
    """
    module = load(kind, named.name, where)
    return module, parse(module.Config, named.options, where)
