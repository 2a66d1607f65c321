"""Plain sequential training: no protection at all, the lower bound of every comparison."""

from __future__ import annotations

from typing import final

from strategies.base import Plugin
from streams.config import Config as BaseConfig


class Config(BaseConfig):
    """`naive` has no options."""


@final
class Naive(Plugin):
    """Changes nothing."""
