"""What several models say together."""

from __future__ import annotations

import torch


def vote(outputs: torch.Tensor) -> torch.Tensor:
    """Return log shares ``[B, C]`` of the votes of M models, given their outputs ``[M, B, C]``.

    Each votes for its most likely class; of equally many votes the lowest class wins. To keep losses finite, every
    class that is permitted at all (its outputs are finite) gets one vote on top, shared out evenly.

    >>> outputs = torch.tensor([[[2.0, 1.0, 0.0]], [[0.0, 1.0, 0.0]], [[0.0, 1.0, 0.0]]])
    >>> [round(p, 3) for p in vote(outputs).exp()[0].tolist()]
    [0.333, 0.583, 0.083]
    """
    permitted = outputs[0].isfinite()
    votes = torch.zeros_like(outputs[0])
    for each in outputs:
        votes += torch.nn.functional.one_hot(each.argmax(1), each.shape[1]).to(votes)
    votes += permitted / permitted.sum(1, keepdim=True)
    return (votes / (len(outputs) + 1)).log()


def mean_probability(outputs: torch.Tensor) -> torch.Tensor:
    """Return the log ``[B, C]`` of the mean softmax of M models, given their outputs ``[M, B, C]``."""
    return torch.logsumexp(outputs.log_softmax(2), 0) - torch.log(torch.tensor(float(len(outputs))))
