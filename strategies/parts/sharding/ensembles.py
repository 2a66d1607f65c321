"""What several models say together."""

from __future__ import annotations

import torch


def vote(outputs: torch.Tensor) -> torch.Tensor:
    """Return log shares ``[B, ..., C]`` of the votes of M models, given their outputs ``[M, B, ..., C]``.

    Each votes for its most likely class, of text for a token at every position; of equally many votes the lowest class
    wins. To keep losses finite, every class that is permitted at all (its outputs are finite) gets one vote on top,
    shared out evenly.

    >>> outputs = torch.tensor([[[2.0, 1.0, 0.0]], [[0.0, 1.0, 0.0]], [[0.0, 1.0, 0.0]]])
    >>> [round(p, 3) for p in vote(outputs).exp()[0].tolist()]
    [0.333, 0.583, 0.083]
    """
    permitted = outputs[0].isfinite()
    votes = torch.zeros_like(outputs[0])
    for each in outputs:
        votes += torch.nn.functional.one_hot(each.argmax(-1), each.shape[-1]).to(votes)
    votes += permitted / permitted.sum(-1, keepdim=True)
    return (votes / (len(outputs) + 1)).log()


def mean_probability(outputs: torch.Tensor) -> torch.Tensor:
    """Return the log ``[B, ..., C]`` of the mean softmax of M models, given their outputs ``[M, B, ..., C]``."""
    return torch.logsumexp(outputs.log_softmax(-1), 0) - torch.log(torch.tensor(float(len(outputs))))


def pool(parts: list[tuple[torch.Tensor, tuple[int, ...]]]) -> torch.Tensor:
    """Return what several models say that each know some of the classes only, as log probabilities ``[B, C]``.

    Each speaks for its own classes; a class that several know gets their mean, one that none knows almost nothing.

    Args:
        parts: log probabilities ``[B, C]`` of each model, minus infinity where a class is not permitted, and the
            classes it knows.
    """
    permitted = torch.stack([log_p.isfinite() for log_p, _ in parts]).any(0)
    total = torch.zeros_like(parts[0][0])
    num_models = torch.zeros(total.shape[1], device=total.device)
    for log_p, classes in parts:
        own = list(classes)
        total[:, own] += log_p[:, own].exp()
        num_models[own] += 1
    mean = (total / num_models.clamp(min=1)).clamp(min=1e-12)
    return mean.log().masked_fill(~permitted, float("-inf"))
