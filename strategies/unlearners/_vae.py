"""A small variational auto-encoder of feature vectors (Kingma and Welling 2014)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from strategies.outcome import Outcome
from strategies.parts.model import FlatModel, Network
from strategies.parts.training.optimizers import Adam, OptimizerConfig
from streams.randomness import Key, seeded_torch

Decoder = Literal["linear", "sigmoid"]


def make_vae(width: int, hidden: int, latent: int, decoder: Decoder, key: Key, like: torch.Tensor) -> FlatModel:
    """Return an untrained auto-encoder: the body makes mean and log variance ``[B, 2 latent]``, the head decodes."""
    with seeded_torch(key):
        encoder = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent))
        layers: list[nn.Module] = [nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, width)]
        decode = nn.Sequential(*layers, *([nn.Sigmoid()] if decoder == "sigmoid" else []))
    return FlatModel(Network(encoder, decode).to(like))


def train_vae(
    vae: FlatModel, e: torch.Tensor, epochs: int, batch_size: int, lr: float, kl_weight: float, key: Key
) -> Outcome:
    """Minimise sum ||e - e_hat||^2 / B + kl_weight x KL over embeddings ``e [n, F]`` by Adam; return what it cost."""
    optimizer = Adam(OptimizerConfig(lr=lr), vae.parameters)
    steps = 0
    for epoch in range(epochs):
        generator = (key / epoch).torch()
        for rows in torch.randperm(len(e), generator=generator).split(batch_size):
            batch = e[rows.to(e.device)]
            mean, log_variance = vae.network.body(batch).chunk(2, 1)
            noise = torch.randn(mean.shape, generator=generator).to(mean)
            rebuilt = vae.network.head(mean + (0.5 * log_variance).exp() * noise)
            kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()
            loss = ((batch - rebuilt).square().sum() + kl_weight * kl) / len(batch)
            vae.gradient.zero_()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step(vae.parameters, vae.gradient)
            steps += 1
    return Outcome(steps=steps, forward=epochs * len(e), backward=epochs * len(e))


def rebuilding_errors(vae: FlatModel, e: torch.Tensor) -> torch.Tensor:
    """Return ||e - e_hat||^2 of every embedding, ``[B]``, decoded from the latent mean; it can be differentiated."""
    mean = vae.network.body(e).chunk(2, 1)[0]
    return (e - vae.network.head(mean)).square().sum(1)
