"""Deterministic samplers: from noise to an image, given what predicts the clean image at every step.

Both hold every predicted image to the range of real ones. Without that DPM-Solver++ diverges on a cosine schedule, and
samples of an intact model look as if it had forgotten what they should show.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Literal

import torch

from strategies.parts.diffusion.schedules import STEPS

Sampler = Literal["dpm", "ddim"]
Clean = Callable[[torch.Tensor, int], torch.Tensor]
"""From noisy images ``[B, P]`` and their step t to the clean images ``[B, P]`` that a model predicts."""


def sampled(
    sampler: Sampler, clean: Clean, noise: torch.Tensor, shares: torch.Tensor, steps: int, limit: float | None = 1.0
) -> torch.Tensor:
    """Return the images ``[B, P]`` that a sampler makes of noise.

    Args:
        sampler: dpm or ddim.
        clean: the model.
        noise: where to start, float ``[B, P]``, of a standard normal law.
        shares: a_t^2 of every step, see `schedules.alpha_bars`.
        steps: evaluations of the model, 1 to `STEPS`.
        limit: largest size of a number in a clean image (static thresholding); None sets none, as for latents.
    """
    return (dpm_solver if sampler == "dpm" else ddim)(clean, noise, shares, steps, limit)


def dpm_solver(
    clean: Clean, noise: torch.Tensor, shares: torch.Tensor, steps: int, limit: float | None = 1.0
) -> torch.Tensor:
    """DPM-Solver++(2M), Lu et al. 2022 (arXiv 2211.01095), algorithm 2: second order, first at both ends.

    Steps are spread evenly from T - 1 to 0, and the last one goes to the clean image.
    """
    even = torch.linspace(0, STEPS - 1, steps + 1, dtype=torch.float64).round().flip(0)[:-1]
    times = list(dict.fromkeys(even.long().tolist()))  # of T steps two are the same
    signal, sigma = shares.sqrt().tolist(), (1 - shares).sqrt().tolist()
    half_log = (0.5 * (shares / (1 - shares)).log()).tolist()  # lambda, half the log of signal to noise
    x, width_before = noise, 0.0
    now = before = _within(clean(x, times[0]), limit)
    for number, (time, following) in enumerate(itertools.pairwise(times)):
        width = half_log[following] - half_log[time]
        mean = now if number == 0 else now + 0.5 * (width / width_before) * (now - before)
        decay = sigma[following] / sigma[time]
        x = decay * x + signal[following] * (1 - decay * signal[time] / signal[following]) * mean
        before, width_before = now, width
        now = _within(clean(x, following), limit)
    return now  # from the last step on there is no noise, and the image is the one predicted there


def ddim(
    clean: Clean,
    noise: torch.Tensor,
    shares: torch.Tensor,
    steps: int,
    limit: float | None = 1.0,
    stop: int = -1,
) -> torch.Tensor:
    """DDIM without noise (eta 0), Song et al. 2021 (arXiv 2010.02502), eq. 12; steps are multiples of T // `steps`.

    With `stop`, one of them, it ends there, and what it returns is an image with that step's noise.
    """
    x = noise
    for time in ddim_times(steps):
        if time == stop:
            return x
        share = float(shares[time])
        predicted = clean(x, time)
        e = (x - share**0.5 * predicted) / (1 - share) ** 0.5
        earlier = time - STEPS // steps
        left = float(shares[earlier]) if earlier >= 0 else 1.0
        x = left**0.5 * _within(predicted, limit) + (1 - left) ** 0.5 * e
    return x


def ddim_times(steps: int) -> list[int]:
    """Return the steps at which DDIM asks the model, the noisiest first.

    >>> ddim_times(4)
    [750, 500, 250, 0]
    """
    stride = STEPS // steps
    return list(range((steps - 1) * stride, -1, -stride))


def _within(clean: torch.Tensor, limit: float | None) -> torch.Tensor:
    return clean if limit is None else clean.clamp(-limit, limit)
