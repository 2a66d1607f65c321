"""CF-k: freeze all but the last k layers and fine-tune those on the retained data."""

from __future__ import annotations

from typing import final

from typing_extensions import override

from strategies.parts.weights.layers import are_all
from strategies.ranges import EPOCHS, LR
from strategies.unlearners._last_layers import LastLayers, LastLayersConfig


class Config(LastLayersConfig):
    """Options of `cf-k` (catastrophic forgetting of the last k layers)."""


@final
class CFk(LastLayers):
    """Fine-tunes the last k layers."""

    test_options = {"epochs": 1}
    config: Config
    ranges = {"lr": LR, "epochs": EPOCHS}  # k goes up to the depth of the network, which a study knows
    becomes = {"finetune": {"k": "all layers"}}

    @override
    def became(self) -> str | None:
        return "finetune" if are_all(self.setting.outline(), self.config.k, f"{self.name}.k") else None
