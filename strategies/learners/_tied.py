"""What `online-ewc`, `si` and `mas` share: one running importance per weight, and a pull towards one anchor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
from typing_extensions import override

from strategies.base import Lesson, Plugin, Setting, State
from strategies.parts.model import FlatModel
from strategies.parts.weights.importance import Pull, Tie, TieConfig, check_stiff, make_pull


class Tied(Plugin, ABC):
    """Adds the gradient of (curvature / 2) (theta - anchor)^2, in closed form, from the second experience on."""

    carries: ClassVar[tuple[str, ...]] = ()
    config: TieConfig
    name: ClassVar[str]
    """Of the plugin, for messages and losses."""
    component: ClassVar[str] = "importance"
    """What `holds` calls the sum."""

    def __init__(self, config: TieConfig, setting: Setting) -> None:
        """Start without any tie."""
        super().__init__(config, setting)
        check_stiff(config.stiff, setting.training, self.name)
        self._mask = setting.outline().mask(config.parameters, setting.device)
        self._tie = Tie(setting.zeros())
        self._active = False
        self._pull: Pull | None = None
        self._derived = np.zeros(setting.num_samples, dtype=bool)

    @property
    @abstractmethod
    def curvature(self) -> float:
        """Second derivative of the penalty, per unit of importance."""

    @override
    def begin(self, lesson: Lesson) -> None:
        if self._active:
            curvature = self.curvature * self._tie.weight
            self._pull = make_pull(curvature, self._tie.center, self.config.stiff, self.setting.training, self.name)

    @override
    def gradient(self, gradient: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        return gradient if self._pull is None else self._pull.add_to(gradient, parameters)

    def fold(self, importance: torch.Tensor, lesson: Lesson) -> dict[str, float]:
        """Replace the importance after an experience, and move the anchor to where it ended.

        Returns:
            The penalty at the end of the experience, and the share of weights whose pull was clamped in it.
        """
        theta = lesson.model.parameters
        penalty = self.curvature / 2 * self._tie.penalty(theta)
        clamped = 0.0 if self._pull is None else self._pull.clamped
        self._tie.weight = importance
        self._tie.anchor_at(theta)
        self._active = True
        self._derived[lesson.data.ids] = True
        name = self.name.replace("-", "_")
        return {f"{name}_penalty": penalty, f"{name}_clamped": clamped}

    @override
    def settle(self, model: FlatModel) -> None:
        """Move the anchor to the unlearned weights; otherwise the penalty would pull the forgotten back."""
        self._tie.anchor_at(model.parameters)

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return whose gradients are in the importance, from which they cannot be taken out, and in the anchor."""
        held = ids[self._derived[ids]]
        return {self.component: held, "anchor": held}

    @override
    def state_dict(self) -> State:
        derived = torch.from_numpy(self._derived.copy())
        return {"tie": self._tie.state_dict(), "active": self._active, "derived": derived}

    @override
    def load_state_dict(self, state: State) -> None:
        self._tie.load_state_dict(state["tie"])
        self._active = state["active"]
        self._derived = state["derived"].numpy().copy()
