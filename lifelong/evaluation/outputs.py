"""What one pass over the evaluation samples gives: numbers of every sample, and more where something is due."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """What one audit found out about one model.

    Attributes:
        requests: by name, ``[R, ...]`` of the R requests that are due, in their order. Nothing where none is.
        stream: by name, arrays about the model as a whole.
    """

    requests: Arrays = field(default_factory=dict)
    stream: Arrays = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """Per-sample results of one pass.

    Attributes:
        scores: float32 ``[N]``, the objective's score (1 or 0 for classification).
        losses: float32 ``[N]``.
        details: what is there only where something is measured in detail, by name; D are the detailed positions.
            probabilities ``[D, K]``: predicted distributions. features ``[D, F]``: penultimate. margins ``[N]``: log
            odds of the label. confidences ``[N]``: highest probability. entropies, modified_entropies ``[N]``, in
            nats. All float32.
        records: of the objective's measurements (`strategies.measurement`): ``[D]`` by name, and ``holdout_*`` ``[S]``
            of samples that are in no stream. ``unseen`` ``[D]`` marks test samples where those stand in for them.
        audits: what each audit that was made found, by its name.
    """

    scores: np.ndarray
    losses: np.ndarray
    details: Arrays = field(default_factory=dict)
    records: Arrays = field(default_factory=dict)
    audits: Mapping[str, Findings] = field(default_factory=dict)

    @property
    def probabilities(self) -> np.ndarray | None:
        """Predicted distributions ``[D, K]`` at the detailed positions, if there are any."""
        return self.details.get("probabilities")

    @property
    def features(self) -> np.ndarray | None:
        """Penultimate features ``[D, F]`` at the detailed positions, if there are any."""
        return self.details.get("features")

    def stored(self) -> Arrays:
        """Return all but scores and losses by names that can stand in one file; `with_stored` reads them."""
        arrays = {f"details/{name}": values for name, values in self.details.items()}
        arrays |= {f"records/{name}": values for name, values in self.records.items()}
        for audit, findings in self.audits.items():
            arrays |= {f"audits/{audit}/requests/{name}": values for name, values in findings.requests.items()}
            arrays |= {f"audits/{audit}/stream/{name}": values for name, values in findings.stream.items()}
        return arrays


def with_stored(scores: np.ndarray, losses: np.ndarray, arrays: Mapping[str, np.ndarray]) -> Outputs:
    """Return outputs with what `Outputs.stored` returned."""
    audits: dict[str, Findings] = {}
    outputs = Outputs(scores, losses, audits=audits)
    for key, values in arrays.items():
        kind, _, name = key.partition("/")
        if kind == "audits":  # the name of an audit may be a path
            audit, of, name = name.rsplit("/", 2)
            findings = audits.setdefault(audit, Findings())
            (findings.requests if of == "requests" else findings.stream)[name] = values
        else:
            (outputs.details if kind == "details" else outputs.records)[name] = values
    return outputs
