"""Negative preference optimisation (NPO): what pushes a likelihood down, ever less as it falls."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def npo_losses(losses: torch.Tensor, reference: torch.Tensor, beta: float) -> torch.Tensor:
    """Return (2 / beta) log(1 + (p / p_ref)^beta) of every sample, ``[B]`` (Zhang et al. 2024, eq. 3).

    Its gradient is -W d loss with W = 2 r^beta / (1 + r^beta), r = p / p_ref: 1 at the start, at most 2, and 0 for
    what is forgotten.

    Args:
        losses: -log p of every sample ``[B]``: of a text the sum over its tokens.
        reference: those of the model before the request.
        beta: inverse temperature.
    """
    return (2 / beta) * F.softplus(beta * (reference - losses))
