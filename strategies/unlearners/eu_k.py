"""EU-k: draw the last k layers anew, once, and train those on the retained data."""

from __future__ import annotations

from typing import final

import torch
from typing_extensions import override

from strategies.parts.model import FlatModel
from strategies.parts.weights.layers import redraw_some
from strategies.ranges import EPOCHS, LR
from strategies.unlearners._last_layers import LastLayers, LastLayersConfig
from streams.randomness import Key


class Config(LastLayersConfig):
    """Options of `eu-k` (exact unlearning of the last k layers)."""


@final
class EUk(LastLayers):
    """Trains the last k layers from scratch."""

    test_options = {"epochs": 1, "k": 1}
    config: Config
    ranges = {"lr": LR, "epochs": EPOCHS}  # k goes up to the depth of the network, which a study knows

    @override
    def prepare(self, model: FlatModel, mask: torch.Tensor, key: Key) -> None:
        redraw_some(model, mask, self.setting.make_model(), key / "draw")
