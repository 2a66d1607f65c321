"""The network that tells images of one prompt from those of another, for erasers that play against it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from strategies.parts.model import FlatModel, Network
from streams.randomness import Key, seeded_globals


def critic_of(image_shape: tuple[int, ...], channels: int, key: Key, device: torch.device) -> FlatModel:
    """Return a PatchGAN discriminator (Isola et al. 2017, arXiv 1611.07004) for images ``[C, H, W]``.

    Convolutions of 4 x 4 halve the image, from `channels` channels to at most 8 times as many, while 2 pixels a side
    are left and four times at most; the last layer says of every place how much it looks like the second kind of image.
    """
    with seeded_globals(key):
        layers: list[nn.Module] = []
        width, side = image_shape[0], min(image_shape[1:])
        for number in range(4):
            if side < 4:
                break
            wider = channels * 2**number
            layers.append(nn.Conv2d(width, wider, 4, stride=2, padding=1, bias=number == 0))
            layers += [] if number == 0 else [nn.BatchNorm2d(wider)]
            layers.append(nn.LeakyReLU(0.2))
            width, side = wider, side // 2
        return FlatModel(Network(nn.Sequential(*layers), nn.Conv2d(width, 1, 3, padding=1)).to(device))


def verdict_loss(logits: torch.Tensor, second: bool) -> torch.Tensor:
    """Return the mean binary cross-entropy of saying that images are of the second kind, or of the first."""
    return F.softplus(-logits if second else logits).mean()
