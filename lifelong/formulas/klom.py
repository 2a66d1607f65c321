"""KLoM: per sample, how far the log odds in unlearned models lie from those in retrained ones.

Georgiev et al. 2024 ("Attribute-to-Delete"; EasyDUB, arXiv 2602.16400) take the Kullback-Leibler divergence of two
histograms. Unlike an attack that knows how to tell *in* from *out*, it also sees models that say the same of every
sample. With few models two sets of retrained ones are not at 0: compare with their divergence from each other.
"""

from __future__ import annotations

import numpy as np

BINS = 20
_FLOOR, _LARGEST = 1e-5, 100.0


def klom(unlearned: np.ndarray, retrained: np.ndarray) -> float:
    """Return KL(unlearned || retrained) in nats, of histograms with 20 bins over the range of both.

    A bin without a retrained model counts 1e-5, so that the largest value is 11.5. One released helper bins each side
    over its own range, which takes shifts out.

    Args:
        unlearned: ``[N]`` log odds of one sample in models that unlearned it; beyond 100 they count as 100.
        retrained: ``[M]`` in models that never saw it.

    >>> klom(np.arange(10.0), np.arange(10.0))
    0.0
    >>> round(klom(np.zeros(10), np.ones(10)), 1)
    11.5
    """
    a, b = (np.clip(side, -_LARGEST, _LARGEST) for side in (unlearned, retrained))
    low, high = float(min(a.min(), b.min())), float(max(a.max(), b.max()))
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    p, q = (np.histogram(side, edges)[0] / len(side) for side in (a, b))
    where = p > 0
    return float((p[where] * np.log(p[where] / np.maximum(q[where], _FLOOR))).sum())
