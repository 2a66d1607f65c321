"""What one pass over the evaluation samples gives: numbers of every sample, and more where something is due."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import numpy as np

from lifelong.evaluation.distributions import Distributions

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
class Certainty:
    """How sure a model that predicts classes is of every sample.

    Attributes:
        margins: float32 ``[N]``, log odds of the label.
        confidences: float32 ``[N]``, highest probability.
        entropies, modified_entropies: float32 ``[N]``, in nats.
    """

    margins: np.ndarray
    confidences: np.ndarray
    entropies: np.ndarray
    modified_entropies: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Details:
    """What is there only where something is measured in detail; D are the detailed positions.

    Attributes:
        probabilities: float32 ``[D, K]``, predicted distributions; with ``evaluation.top_classes`` ``[D, k]``.
        features: float32 ``[D, F]``, penultimate.
        certainty: of all samples, where classes are predicted.
        visits: of a reference: what a life from the start up to there takes, in samples passed forward and backward.
        shadow_margins: of a shadow life: float32 ``[T + Z]``, log odds of the forgotten and of unseen samples.
        shadow_kept: of a shadow life: float32 ``[2]``, mean scores on live and on test data.
        top_classes: int32 ``[D, k]``, of which classes the probabilities are, where those are not all.
        num_classes: int64 ``[1]``, how many there are then.
    """

    probabilities: np.ndarray | None = None
    features: np.ndarray | None = None
    certainty: Certainty | None = None
    visits: np.ndarray | None = None
    shadow_margins: np.ndarray | None = None
    shadow_kept: np.ndarray | None = None
    top_classes: np.ndarray | None = None
    num_classes: np.ndarray | None = None

    @property
    def distributions(self) -> Distributions | None:
        """The predicted distributions, or None where there are none."""
        if self.probabilities is None:
            return None
        count = self.probabilities.shape[1] if self.num_classes is None else int(self.num_classes[0])
        return Distributions(self.probabilities, self.top_classes, count)

    def arrays(self) -> Arrays:
        """Return what there is by name; `details_of` reads it."""
        certainty = {} if self.certainty is None else {f.name: getattr(self.certainty, f.name) for f in _CERTAINTY}
        others = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "certainty"}
        return certainty | {name: values for name, values in others.items() if values is not None}


_CERTAINTY = fields(Certainty)


def details_of(arrays: Mapping[str, np.ndarray]) -> Details:
    """Return the details with what `Details.arrays` returned."""
    names = {f.name for f in _CERTAINTY}
    certainty = {name: values for name, values in arrays.items() if name in names}
    others = {name: values for name, values in arrays.items() if name not in names}
    return Details(certainty=Certainty(**certainty) if certainty else None, **others)


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """Per-sample results of one pass.

    Attributes:
        scores: float32 ``[N]``, the objective's score (1 or 0 for classification).
        losses: float32 ``[N]``.
        details: what is there only where something is measured in detail.
        records: of the objective's measurements (`strategies.measurement`): ``[D]`` by name, and ``holdout_*`` ``[S]``
            of samples that are in no stream. ``unseen`` ``[D]`` marks test samples where those stand in for them.
        audits: what each audit that was made found, by its name.
        at: positions that were looked at, where those are not all; scores, losses and certainty are NaN elsewhere.
    """

    scores: np.ndarray
    losses: np.ndarray
    details: Details = field(default_factory=Details)
    records: Arrays = field(default_factory=dict)
    audits: Mapping[str, Findings] = field(default_factory=dict)
    at: np.ndarray | None = None

    def stored(self) -> Arrays:
        """Return all but scores and losses by names that can stand in one file; `with_stored` reads them."""
        arrays = {f"details/{name}": values for name, values in self.details.arrays().items()}
        arrays |= {f"records/{name}": values for name, values in self.records.items()}
        for audit, findings in self.audits.items():
            arrays |= {f"audits/{audit}/requests/{name}": values for name, values in findings.requests.items()}
            arrays |= {f"audits/{audit}/stream/{name}": values for name, values in findings.stream.items()}
        return arrays


def with_stored(scores: np.ndarray, losses: np.ndarray, arrays: Mapping[str, np.ndarray]) -> Outputs:
    """Return outputs with what `Outputs.stored` returned."""
    audits: dict[str, Findings] = {}
    details: Arrays = {}
    records: Arrays = {}
    for key, values in arrays.items():
        kind, _, name = key.partition("/")
        if kind == "audits":  # the name of an audit may be a path
            audit, of, name = name.rsplit("/", 2)
            findings = audits.setdefault(audit, Findings())
            (findings.requests if of == "requests" else findings.stream)[name] = values
        else:
            (details if kind == "details" else records)[name] = values
    return Outputs(scores, losses, details_of(details), records, audits)
