"""Running statistics of batch norms, estimated anew on given data."""

from __future__ import annotations

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from strategies.objectives._base import Objective
from strategies.outcome import Outcome
from strategies.parts.model import FlatModel
from streams.data import Data


@torch.no_grad()
def recalibrate(model: FlatModel, objective: Objective, data: Data, batch_size: int = 256) -> Outcome:
    """Reset the running statistics of all batch norms and replace them by the mean over one pass of `data`.

    Everything else stays in evaluation mode, so that dropout draws nothing. Without batch norms, or with
    fewer than two samples, nothing happens. A last batch of a single sample is left out: it has no variance; for the
    same reason batches have two samples at least.

    Returns:
        What it cost.
    """
    norms = [m for m in model.network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms or len(data) < 2:
        return Outcome()
    momenta = [m.momentum for m in norms]
    model.train(False)
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
        norm.train()
    num_samples = 0
    for batch in objective.batches(data, max(batch_size, 2)):
        if len(batch) > 1:
            objective.outputs(model, batch)
            num_samples += len(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
    return Outcome(forward=num_samples)
