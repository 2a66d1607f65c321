"""What one pass over the evaluation samples gives: numbers of every sample, and details where something is due."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """Per-sample results of one pass.

    Attributes:
        scores: float32 ``[N]``, the objective's score (1 or 0 for classification).
        losses: float32 ``[N]``.
        details: what is there only where something is measured in detail, by name; D are the detailed positions, A the
            audits that are due, M all samples and R the steps of relearning.

            probabilities ``[D, K]``: predicted distributions. features ``[D, F]``: penultimate. margins ``[M]``: log
            odds of the label. confidences ``[M]``: highest probability. entropies, modified_entropies ``[M]``, in
            nats. weights ``[P]``. relearning ``[A, R + 1]``: loss on held-out data of the request before every step and
            after the last. readout ``[A]``: accuracy of a new last layer on what is forgotten. All float32, NaN where
            undefined.
            ``audit_*`` ``[A]`` and ``stream_*`` ``[1]``: of text, see `Prober`. ``record_*`` ``[D]``
            and ``record_holdout_*`` ``[S]``: of text, see `lifelong.evaluation.generation`.
    """

    scores: np.ndarray
    losses: np.ndarray
    details: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def probabilities(self) -> np.ndarray | None:
        """Predicted distributions ``[D, K]`` at the detailed positions, if there are any."""
        return self.details.get("probabilities")

    @property
    def features(self) -> np.ndarray | None:
        """Penultimate features ``[D, F]`` at the detailed positions, if there are any."""
        return self.details.get("features")

    @property
    def records(self) -> dict[str, np.ndarray] | None:
        """Of text: numbers of every answer at the detailed positions, ``[D]`` by name, and of the holdout; or None."""
        return records_in(self.details)


def records_in(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """Return the records among stored arrays, whose names begin with ``record_`` there; None if there are none."""
    found = {n.removeprefix("record_"): arrays[n] for n in arrays if n.startswith("record_")}
    return found or None
