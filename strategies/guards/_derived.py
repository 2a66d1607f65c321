"""What a guard derives from beside its request's data, where the model had a say in what it keeps."""

from __future__ import annotations

import numpy as np

from strategies.base import Learner


def in_weights(learner: Learner, num_samples: int) -> np.ndarray:
    """Return the ids of the samples that a learner's weights derive from, ascending."""
    return learner.holds(np.arange(num_samples)).get("weights", np.array([], dtype=np.int64))
