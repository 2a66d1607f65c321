"""Noise schedules, and what a network may predict of a noisy image x_t = a_t x + b_t e, with a_t^2 + b_t^2 = 1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

import torch

STEPS = 1000
"""T: an image is noised at one of the steps 0 (hardly) to T - 1 (noise alone)."""

ScheduleKind = Literal["cosine", "linear", "scaled-linear"]
Prediction = Literal["sample", "epsilon", "velocity"]


def alpha_bars(kind: ScheduleKind) -> torch.Tensor:
    """Return a_t^2 of every step, float64 ``[T]``, falling.

    cosine: Nichol and Dhariwal 2021 (arXiv 2102.09672), eq. 17, betas at most 0.999. linear: Ho et al. 2020
    (arXiv 2006.11239), from 1e-4 to 0.02. scaled-linear: that of Stable Diffusion, whose roots run from 0.00085 to
    0.012.
    """
    if kind == "cosine":
        at = (torch.arange(STEPS + 1, dtype=torch.float64) / STEPS + 0.008) / 1.008
        share = (0.5 * math.pi * at).cos().square()
        betas = (1 - share[1:] / share[:-1]).clamp(max=0.999)
    elif kind == "linear":
        betas = torch.linspace(1e-4, 0.02, STEPS, dtype=torch.float64)
    else:
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, STEPS, dtype=torch.float64).square()
    return (1 - betas).cumprod(0)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """A noise schedule on one device, and what the network predicts.

    Attributes:
        signal, noise: a_t and b_t, float32 ``[T]``.
        prediction: sample (the clean image x), epsilon (the noise e) or velocity (a e - b x, Salimans and Ho 2022,
            arXiv 2202.00512).
    """

    signal: torch.Tensor
    noise: torch.Tensor
    prediction: Prediction

    def noised(self, clean: torch.Tensor, noise: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """Return x_t of images ``[B, P]`` under noise ``[B, P]`` at steps int64 ``[B]``."""
        a, b = self.signal[time].unsqueeze(1), self.noise[time].unsqueeze(1)
        return a * clean + b * noise

    def target(self, clean: torch.Tensor, noise: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """Return what the network is to predict of that x_t, ``[B, P]``."""
        if self.prediction == "sample":
            return clean
        if self.prediction == "epsilon":
            return noise
        a, b = self.signal[time].unsqueeze(1), self.noise[time].unsqueeze(1)
        return a * noise - b * clean

    def clean(self, predicted: torch.Tensor, noisy: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """Return the clean image that a prediction stands for, ``[B, P]``, given x_t ``[B, P]`` and steps ``[B]``."""
        if self.prediction == "sample":
            return predicted
        a, b = self.signal[time].unsqueeze(1), self.noise[time].unsqueeze(1)
        return (noisy - b * predicted) / a if self.prediction == "epsilon" else a * noisy - b * predicted


def make_schedule(kind: ScheduleKind, prediction: Prediction, device: str | torch.device = "cpu") -> Schedule:
    """Return a schedule on a device."""
    shares = alpha_bars(kind)
    return Schedule(shares.sqrt().float().to(device), (1 - shares).sqrt().float().to(device), prediction)
