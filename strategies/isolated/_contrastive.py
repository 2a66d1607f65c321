"""Contrastive losses on unit vectors, and rotated views of images."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def contrastive_distillation(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return the mean over the teacher's vectors of -log of the share that the student's of the same class have.

    For anchor i: -(1 / n_i) sum over j with y_j = y_i of log softmax_j(t_i . s_j / temperature), i itself among them
    (Li et al. 2022, OCD-Net).

    Args:
        student, teacher: ``[B, D]`` of length 1; the same samples in the same order.
        labels: ``[B]``.
        temperature: above 0.

    >>> one = torch.eye(2)
    >>> round(float(contrastive_distillation(one, one, torch.tensor([0, 1]), 1.0)), 4)
    0.3133
    """
    same = (labels.unsqueeze(0) == labels.unsqueeze(1)).to(student)
    log_share = (teacher @ student.T / temperature).log_softmax(1)
    return -((same * log_share).sum(1) / same.sum(1)).mean()


def supervised_contrastive(views: list[torch.Tensor], labels: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the supervised contrastive loss (Khosla et al. 2020, arXiv 2004.11362) of one or more views.

    Anchors are all vectors of all views; those of the same class, in any view, are positive, the anchor itself counts
    nowhere. Anchors without a positive (possible with one view only) are left out; without any the loss is 0.

    Args:
        views: each ``[B, D]`` of length 1; the same samples in the same order.
        labels: ``[B]``.
        temperature: above 0.

    >>> one = torch.eye(2)
    >>> float(supervised_contrastive([one], torch.tensor([0, 1]), 1.0))
    0.0
    >>> round(float(supervised_contrastive([one, one], torch.tensor([0, 1]), 1.0)), 4)
    0.5514
    """
    z, y = torch.cat(views), labels.repeat(len(views))
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    same = ((y.unsqueeze(0) == y.unsqueeze(1)) & ~itself).to(z)
    log_share = (z @ z.T / temperature).masked_fill(itself, float("-inf")).log_softmax(1).masked_fill(itself, 0.0)
    count = same.sum(1)
    terms = -(same * log_share).sum(1) / count.clamp(min=1)
    return terms.sum() / (count > 0).sum().clamp(min=1)


def rotated_views(
    x: torch.Tensor, turns: torch.Tensor, generator: torch.Generator, area: tuple[float, float] = (0.66, 0.67)
) -> torch.Tensor:
    """Return square images, cropped at random and turned by quarter turns, ``[B, C, H, H]``.

    Args:
        x: ``[B, C, H, H]``.
        turns: int64 ``[B]``, 0 to 3: quarter turns of each, counter-clockwise.
        generator: draws places and sizes of the crops.
        area: share of the image's area that a crop keeps, from and to; it is brought back to full size.
    """
    low, high = area
    size = (low + (high - low) * torch.rand(len(x), generator=generator)).sqrt()
    place = (torch.rand(len(x), 2, generator=generator) * 2 - 1) * (1 - size).unsqueeze(1)
    where = torch.zeros(len(x), 2, 3)
    where[:, 0, 0] = where[:, 1, 1] = size
    where[:, :, 2] = place
    grid = F.affine_grid(where.to(x), list(x.shape), align_corners=False)
    cropped = F.grid_sample(x, grid, align_corners=False)
    for k in (1, 2, 3):
        chosen = turns == k
        cropped[chosen] = torch.rot90(cropped[chosen], k, (-2, -1))
    return cropped
