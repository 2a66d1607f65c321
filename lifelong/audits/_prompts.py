"""What can be asked for after an event: prompts that were learned, that are live, and that a request took."""

from __future__ import annotations

import numpy as np

from strategies.parts.diffusion.prompts import Prompts
from streams.events import DeletionRequest
from streams.ledger import Ledger
from streams.randomness import Key
from streams.stream import Stream


class Asked:
    """Answers from the stream alone, once for every event."""

    def __init__(self, prompts: Prompts, stream: Stream) -> None:
        """Ask about the prompts of a stream's source."""
        self._prompts, self._stream = prompts, stream
        self._after: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def known(self, event: int) -> tuple[np.ndarray, np.ndarray]:
        """Return all prompts that were learned by the end of `event`, and those that are live then, ``[.., 2]``."""
        if event not in self._after:
            ledger = Ledger(self._stream.source)
            ever = np.zeros(len(self._stream.source), dtype=bool)
            for passed in self._stream.events[: event + 1]:
                if isinstance(passed, DeletionRequest):
                    ledger.delete(passed)
                else:
                    ever[ledger.admit(passed).sample_ids] = True
            self._after[event] = self._prompts.of(np.flatnonzero(ever)), self._prompts.of(ledger.live_ids)
        return self._after[event]

    def gone(self, request: DeletionRequest, event: int) -> tuple[np.ndarray, int]:
        """Return the prompts that a request deleted and that are not live after `event`, ``[Q, 2]``, and what that is.

        What: an object (0), a style (1), or pairs of both (2), of which each goes on in other prompts.
        """
        live, wanted = self.known(event)[1], self._prompts.of(request.sample_ids)
        gone = wanted[~self._prompts.among(wanted, live)]
        if not len(gone) or not np.isin(gone[:, 0], live[:, 0]).any():
            return gone, 0
        return gone, 2 if np.isin(gone[:, 1], live[:, 1]).any() else 1


def some(prompts: Prompts, wanted: np.ndarray, most: int) -> np.ndarray:
    """Return at most so many of some prompts ``[Q, 2]``, drawn by name, in order."""
    order = (Key(0) / "pictures" / "prompts").order(prompts.numbers(wanted))
    return wanted[np.sort(order[:most])]
