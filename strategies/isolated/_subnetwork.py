"""What belongs to one subnetwork, and how it is written down."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from strategies.base import State

Units = tuple[int, ...]
"""The units that arrived together: what a subnetwork is known by."""


@dataclass(slots=True)
class Subnetwork:
    """What belongs to one task.

    Attributes:
        bits: its mask, packed.
        buffers: its running statistics.
        own: bool ``[N]``, samples that it was trained on.
        derived: bool ``[N]``, samples that it derives from, through other subnetworks too.
        reads: the others that it depends on directly.
        seen: how many subnetworks there were, in order, when it was learned (last).
        stale: whether it derives from what has been deleted since.
        scores: kept for KKT.
        values: its own weights, in the order of its mask's positions; None if it computes with the shared ones.
        seal: hash of the weights that it computes with.
    """

    bits: torch.Tensor
    buffers: tuple[torch.Tensor, ...]
    own: np.ndarray
    derived: np.ndarray
    reads: list[Units] = field(default_factory=list)
    seen: int = 0
    stale: bool = False
    scores: torch.Tensor | None = None
    values: torch.Tensor | None = None
    seal: str = ""

    def num_bytes(self) -> int:
        """Return the size of mask, statistics, scores and weights of its own."""
        tensors = (self.bits, *self.buffers, self.scores, self.values)
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)

    def state_dict(self, units: Units) -> State:
        """Return everything, copied, with what it is known by."""
        state: State = {
            "units": list(units),
            "bits": self.bits.clone(),
            "buffers": [b.clone() for b in self.buffers],
            "reads": [list(u) for u in self.reads],
            "seen": self.seen,
            "stale": self.stale,
            "seal": self.seal,
            "derived": {
                "own": torch.from_numpy(np.packbits(self.own)),
                "all": torch.from_numpy(np.packbits(self.derived)),
                "samples": len(self.own),
            },
        }
        for name, tensor in (("scores", self.scores), ("values", self.values)):
            if tensor is not None:
                state[name] = tensor.clone()
        return state


def rebuilt(state: State, device: torch.device) -> tuple[Units, Subnetwork]:
    """Return what `Subnetwork.state_dict` wrote down."""
    record = state["derived"]
    own, derived = (
        np.unpackbits(record[name].numpy(), count=record["samples"]).astype(np.bool_) for name in ("own", "all")
    )
    return tuple(state["units"]), Subnetwork(
        bits=state["bits"].clone(),
        buffers=tuple(b.clone().to(device) for b in state["buffers"]),
        own=own,
        derived=derived,
        reads=[tuple(u) for u in state["reads"]],
        seen=state["seen"],
        stale=state["stale"],
        scores=state["scores"].clone().to(device) if "scores" in state else None,
        values=state["values"].clone().to(device) if "values" in state else None,
        seal=state["seal"],
    )
