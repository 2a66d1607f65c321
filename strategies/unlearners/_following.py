"""What unlearners share that run another one after something of their own."""

from __future__ import annotations

from typing_extensions import override

from strategies.base import Access, Setting, Unlearner
from streams.config import Config, NameOrOptions, resolve
from streams.errors import ConfigError
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

    def needs_given_weights(self, where: str) -> None:
        """Refuse a method that builds the model anew, as exact ones do: what is done to the given one has no effect.

        Args:
            where: the configuration key that names it.

        Raises:
            ConfigError: it does.
        """
        if self.method.exact is not None:
            raise ConfigError(
                f"{where}: {self.method.name} builds the model anew, and does not work on the weights that it is "
                f"given. Choose an unlearner that changes them, such as finetune, or {self.method.name} by itself."
            )

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
