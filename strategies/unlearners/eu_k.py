"""EU-k: draw the last k layers anew, once, and train those on the retained data."""

from __future__ import annotations

from typing import final

from strategies.base import Access, Door, Learner, Outcome, Setting, Unlearner
from strategies.parts.layers import last_layers, redraw
from strategies.unlearners._last_layers import LastLayersConfig, train_last_layers
from strategies.unlearners._retained import retained_access, some_retained_data
from streams.events import DeletionRequest


class Config(LastLayersConfig):
    """Options of `eu-k` (exact unlearning of the last k layers)."""


@final
class EUk(Unlearner):
    """Trains the last k layers from scratch."""

    config: Config

    def __init__(self, config: Config, setting: Setting) -> None:
        """Make sure that there are k layers.

        Raises:
            ConfigError: there are fewer.
        """
        super().__init__(config, setting)
        last_layers(setting.make_model(), config.k, "eu-k.k")

    @property
    def access(self) -> Access:
        """Retained data only; the forget set is never read."""
        return retained_access(self.config.retained, forget_set=False)

    @property
    def needs_retained(self) -> bool:
        """There is nothing else to train on."""
        return True

    def forget(self, request: DeletionRequest, learner: Learner, door: Door) -> Outcome:
        """Draw the last k layers anew, and train them on what is left."""
        data = some_retained_data(self.config.retained, learner, door, request)
        key = self.setting.key / "eu-k" / request.name
        model = learner.model
        mask = last_layers(model, self.config.k, "eu-k.k")
        model.parameters[mask] = redraw(self.setting.make_model(), key / "draw").parameters[mask]
        return train_last_layers(learner, data, self.config, key, "eu-k.k").graded("none")
