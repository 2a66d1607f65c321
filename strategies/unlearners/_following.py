"""What unlearners share that run another one after something of their own."""

from __future__ import annotations

from typing_extensions import override

from strategies.base import Access, Setting, Unlearner
from streams.config import Config, NameOrOptions, resolve
from streams.registry import class_of


class Following(Unlearner):
    """Builds the unlearner that follows, and serves what that one serves. Derived classes say what comes before."""

    def __init__(self, config: Config, setting: Setting, method: NameOrOptions, where: str) -> None:
        """Build the method.

        Args:
            config, setting: of this unlearner.
            method: the one that follows.
            where: the configuration key that names it.

        Raises:
            ConfigError: it is unknown.
        """
        super().__init__(config, setting)
        module, options = resolve("unlearners", method, where)
        self.method: Unlearner = class_of(module, Unlearner)(options, setting)
        self.scopes = self.method.scopes
        self.whole_classes = self.method.whole_classes
        self.exact = self.method.exact

    @classmethod
    @override
    def follows(cls, options: Config) -> NameOrOptions | None:
        method: NameOrOptions = options.method  # type: ignore[attr-defined]  # their options have it
        return method

    @property
    @override
    def access(self) -> Access:
        return self.method.access

    @property
    @override
    def needs_plugins(self) -> tuple[str, ...]:
        return self.method.needs_plugins

    @property
    @override
    def needs_retained(self) -> bool:
        return self.method.needs_retained
