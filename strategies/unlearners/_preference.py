"""The loss of preference optimisation, which `dpo` and `altpo` share."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def dpo_losses(preferred: torch.Tensor, rejected: torch.Tensor, beta: float) -> torch.Tensor:
    """Return -(2 / beta) log sigmoid(beta (preferred - rejected)) of every sample, ``[B]``.

    The factor 2 / beta is TOFU's and NPO's; the paper has none.

    Args:
        preferred, rejected: log-likelihood of an answer minus that under the reference, ``[B]``, sums over tokens.
        beta: inverse temperature.
    """
    return -(2 / beta) * F.logsigmoid(beta * (preferred - rejected))
