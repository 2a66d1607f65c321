"""Diabetes: how far the disease of 442 patients went in a year, from ten measurements; for regression."""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field

from streams.config import Config as BaseConfig
from streams.randomness import Key
from streams.source import Source, dirichlet_users, split_by_hash


class Config(BaseConfig):
    """Options of `diabetes`."""

    strata: int = Field(5, ge=2, le=40)
    """Groups that the targets are cut into at their quantiles: what a request by class names."""
    test_fraction: float = Field(0.25, gt=0, lt=1)
    """Share of each group held out for testing."""
    users: int = Field(20, ge=1)
    """Number of users the samples are assigned to (the data names none)."""
    alpha: float = Field(0.5, gt=0)
    """Dirichlet concentration of the assignment; small means specialised users."""


def load(config: Config) -> Source:
    """Return inputs ``[442, 10]`` of variance 1, and targets ``[442]`` of about mean 0 and variance 1."""
    from sklearn.datasets import load_diabetes

    data = load_diabetes()
    # The columns come with mean 0 and a sum of squares of 1; the targets are scaled by round constants.
    x, target = data.data * np.sqrt(len(data.data)), (data.target - 152.0) / 77.0
    edges = np.quantile(target, np.arange(1, config.strata) / config.strata)
    strata = np.searchsorted(edges, target, side="right").astype(np.int64)
    key = Key(0) / "diabetes"
    return Source(
        name="diabetes",
        licence="Efron et al. 2004, as shipped by scikit-learn (BSD-3-Clause)",
        x=torch.from_numpy(x.astype(np.float32)),
        y=torch.from_numpy(target.astype(np.float32)),
        class_ids=strata,
        user_ids=dirichlet_users(strata, config.users, config.alpha, key / "users"),
        is_test=split_by_hash(strata, config.test_fraction, key / "split"),
        class_names=tuple(f"stratum-{s}" for s in range(config.strata)),
        user_names=tuple(f"user-{u}" for u in range(config.users)),
        notes=(f"users: assigned by a seeded Dirichlet({config.alpha:g}) over {config.users} users, per stratum",),
    )
