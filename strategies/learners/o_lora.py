"""O-LoRA: low-rank changes, each in a subspace of the inputs that is orthogonal to those of earlier experiences."""

from __future__ import annotations

from typing import Literal, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from strategies.base import Setting, State
from strategies.learners._lowrank import LowRankConfig, LowRankPlugin
from strategies.parts.lowrank.changes import Factors
from strategies.ranges import log
from streams.events import DeletionRequest


class Config(LowRankConfig):
    """Options of `o-lora` (Wang et al. 2023, arXiv 2310.14152)."""

    strength: float = Field(0.5, ge=0)
    """lambda in lambda sum_i ||A_i A^T||^2 over earlier experiences i, summed over all matrices."""
    norm: Literal["squared", "absolute"] = "squared"
    """squared: the sum of squares of A_i A^T, as the paper writes it. absolute: of absolute values, as the authors'
    code has it."""


@final
class OLoRA(LowRankPlugin):
    """Keeps the A of every experience and pushes new ones away from the subspaces that they span.

    A request drops the subspaces of experiences of which nothing is left; then they need no protection.
    """

    state_grows = True
    config: Config
    name = "o-lora"
    ranges = {"rank": (4, 8, 16, 32), "alpha": log(4.0, 64.0), "strength": log(0.05, 5.0)}

    def __init__(self, config: Config, setting: Setting) -> None:
        """Start with no subspace."""
        super().__init__(config, setting)
        self.strength, self.absolute = config.strength, config.norm == "absolute"
        self._kept: list[tuple[list[torch.Tensor], np.ndarray, np.ndarray]] = []  # A, all ids, which are live

    @override
    def earlier(self) -> list[list[torch.Tensor]]:
        return [down for down, _, _ in self._kept]

    @override
    def keep(self, factors: list[Factors], ids: np.ndarray) -> None:
        self._kept.append(([a for a, _ in factors], ids.copy(), np.ones(len(ids), dtype=bool)))

    @override
    def purge(self, request: DeletionRequest) -> None:
        """Drop the subspaces of which no sample is left."""
        for _, ids, alive in self._kept:
            alive &= ~np.isin(ids, request.sample_ids)
        self._kept = [entry for entry in self._kept if entry[2].any()]

    @override
    def holds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        derived = np.concatenate([np.array([], dtype=np.int64), *(own for _, own, _ in self._kept)])
        return {"subspaces": ids[np.isin(ids, derived)]}

    @override
    def state_dict(self) -> State:
        return super().state_dict() | {
            "kept": [
                {
                    "down": [a.clone() for a in down],
                    "derived": torch.from_numpy(ids.copy()),
                    "alive": torch.from_numpy(alive.copy()),
                }
                for down, ids, alive in self._kept
            ]
        }

    @override
    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self._kept = [
            ([a.clone() for a in e["down"]], e["derived"].numpy().copy(), e["alive"].numpy().copy())
            for e in state["kept"]
        ]
