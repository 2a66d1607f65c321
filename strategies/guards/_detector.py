"""Whether an input is like those of a request: distances in hidden states, a boundary, and a soft gate (after O3).

Scores grow with familiarity. All numbers of the boundary are signed so that the inside is positive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
from scipy.stats import norm

Form = Literal["consistent", "released"]
SHRINKAGE = 1e-3
"""Share of the mean variance that is added to every variance."""


def mean_states(states: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return the mean over the positions that count, ``[B, d]``, of ``states [B, T, d]``.

    Args:
        states: hidden states.
        counts: bool ``[B, T]``, at least one true in every row.
    """
    weight = counts.to(states.dtype).unsqueeze(2)
    return (states * weight).sum(1) / weight.sum(1)


def contrastive_entropy(masked: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """Return the mean entropy of the rows of softmax(masked whole^T), in nats (eq. 7).

    Plain dot products, without temperature or normalisation; 1e-5 inside the logarithm. Which column is the positive
    one is never used: the loss makes rows peaked, no more.

    Args:
        masked, whole: ``[n, d]`` features of both views of the same inputs.
    """
    p = (masked @ whole.T).softmax(1)
    return -(p * (p + 1e-5).log()).sum(1).mean()


def gate_values(
    decisions: np.ndarray, used: tuple[float, float], rest: tuple[float, float], one_sided: bool
) -> np.ndarray:
    """Return v in [0, 1] of each decision value: how near it is to the middle of used and rest.

    v = 1 - max(F(d), F(2 x0 - d)) + min(the same), F being the distribution function of an even mixture of two normals
    and x0 the middle of their means (eq. 13). With equal spreads that is 2 min(F, 1 - F): a tent, 1 in the middle and 0
    far away on either side.

    Args:
        decisions: ``[n]``.
        used, rest: mean and spread of either kind.
        one_sided: leave v at 1 above the middle; then what is more typical than the rest is not let through.
    """
    middle = (used[0] + rest[0]) / 2

    def mixture(d: np.ndarray) -> np.ndarray:
        return (norm.cdf(d, *used) + norm.cdf(d, *rest)) / 2

    here, mirrored = mixture(decisions), mixture(2 * middle - decisions)
    v = 1 - np.maximum(here, mirrored) + np.minimum(here, mirrored)
    return np.where(one_sided & (decisions > middle), 1.0, v)


def soft_gate(v: np.ndarray, sharpness: float) -> np.ndarray:
    """Return w = sigmoid(sharpness v - 2): never 0, but .1192 at v = 0."""
    return 1 / (1 + np.exp(2 - sharpness * v))


def released_gate(w: np.ndarray, task: Literal["qa", "tofu"]) -> np.ndarray:
    """Return the factors of adapters that the released evaluation makes of w.

    qa: 1.2 above .9, w itself in (.3, .4], and 0 elsewhere, also between .4 and .9. tofu: 1 from .32 on, 10 w^2 from .2
    on, else 0.
    """
    if task == "qa":
        return np.where(w > 0.9, 1.2, np.where((w > 0.3) & (w <= 0.4), w, 0.0))
    return np.where(w >= 0.32, 1.0, np.where(w >= 0.2, 10 * w * w, 0.0))


@final
@dataclass(frozen=True, slots=True)
class Detector:
    """What is kept of the inputs of one request. Layers are L hidden states of width d.

    Attributes:
        mean: ``[L, d]``, precision: ``[L, d, d]`` of the used features.
        bank: ``[L, n, d]`` the used features, each of length 1; n is 0 where the nearest one does not count.
        normal: ``[L]``, offset: the boundary, normal . scores + offset = 0.
        used, rest: mean and spread of the decision values of either part.
        limit: decision value above which the wanted share of the rest lies.
        gamma: weight of the cosine.
        form: sign of the cosine.
    """

    mean: torch.Tensor
    precision: torch.Tensor
    bank: torch.Tensor
    normal: torch.Tensor
    offset: float
    used: tuple[float, float]
    rest: tuple[float, float]
    limit: float
    gamma: float
    form: Form

    def decisions(self, features: torch.Tensor) -> np.ndarray:
        """Return the signed decision value of each input, ``[B]``, given its features ``[L, B, d]``."""
        scores = layer_scores(features, self.mean, self.precision, self.bank, self.gamma, self.form)
        return (scores @ self.normal.to(scores) + self.offset).cpu().numpy()

    def state_dict(self) -> dict[str, object]:
        """Return it as tensors and plain values."""
        return {
            "mean": self.mean,
            "precision": self.precision,
            "bank": self.bank,
            "normal": self.normal,
            "offset": self.offset,
            "used": list(self.used),
            "rest": list(self.rest),
            "limit": self.limit,
            "gamma": self.gamma,
            "form": self.form,
        }


def layer_scores(
    features: torch.Tensor,
    mean: torch.Tensor,
    precision: torch.Tensor,
    bank: torch.Tensor,
    gamma: float,
    form: Form = "consistent",
    itself: bool = False,
) -> torch.Tensor:
    """Return -1/2 d_Mahalanobis^2 + gamma max_n cos of every input and layer, float64 ``[B, L]`` (eqs. 9 to 11).

    Args:
        features: ``[L, B, d]``.
        mean, precision, bank: of the used features; see `Detector`.
        gamma: weight of the cosine to the nearest used feature.
        form: ``released`` subtracts the cosine, so that its two parts oppose each other.
        itself: the features are the bank's own, and none is its own neighbour.
    """
    centred = (features - mean.unsqueeze(1)).double()
    distance = (centred @ precision.double() * centred).sum(2)
    if bank.shape[1] == 0 or gamma == 0:
        return (-distance / 2).T
    cosines = torch.nn.functional.normalize(features, dim=2) @ bank.transpose(1, 2)
    if itself and bank.shape[1] > 1:
        cosines = cosines.masked_fill(torch.eye(bank.shape[1], dtype=torch.bool, device=bank.device), -1.0)
    nearest = cosines.max(2).values.double()
    return (-distance / 2 + (gamma if form == "consistent" else -gamma) * nearest).T


def precision_of(features: torch.Tensor, shrink: bool) -> tuple[torch.Tensor, float]:
    """Return the inverse covariance ``[d, d]`` of ``features [n, d]``, and the condition number of the covariance.

    Args:
        features: of one layer.
        shrink: by Ledoit and Wolf, for few samples; a share of the mean variance is added in any case.
    """
    from sklearn.covariance import ledoit_wolf

    centred = (features - features.mean(0)).double().cpu().numpy()
    if shrink and len(centred) > 1:
        covariance, _ = ledoit_wolf(centred, assume_centered=True)
    else:
        covariance = centred.T @ centred / len(centred)
    width = len(covariance)
    covariance = covariance + (SHRINKAGE * float(np.trace(covariance)) / width + 1e-8) * np.eye(width)
    values, vectors = np.linalg.eigh(covariance)
    inverse = (vectors / values) @ vectors.T
    return torch.from_numpy(inverse).to(features), float(values[-1] / values[0])


def fit_detector(
    used: torch.Tensor,
    rest: torch.Tensor,
    gamma: float,
    form: Form,
    nu: float,
    spread: Literal["rest", "own"],
    passes: float,
    shrink: bool,
    leave_out: bool = True,
) -> tuple[Detector, float]:
    """Fit a detector; return it with the largest condition number of a layer's covariance.

    Args:
        used: ``[L, n, d]`` features that it is made of.
        rest: ``[L, k, d]`` features of the same request that calibrate the gate; with none, the used ones do.
        gamma, form: of the scores; with gamma 0 no feature is kept, and the boundary is a quantile of the distance
            summed over layers.
        nu: share of used samples outside the boundary, at most.
        spread: of both normals that of the rest (as released), or each its own.
        passes: share of the rest that lies above `limit`.
        shrink: covariances by Ledoit and Wolf.
        leave_out: whether a used sample is not its own nearest neighbour. Otherwise its cosine is 1, and used and rest
            differ by that alone.
    """
    from sklearn.svm import OneClassSVM

    mean = used.mean(1)
    precisions = [precision_of(layer, shrink) for layer in used]
    precision = torch.stack([p for p, _ in precisions])
    bank = torch.nn.functional.normalize(used, dim=2) if gamma else used[:, :0]
    of_used = layer_scores(used, mean, precision, bank, gamma, form, itself=leave_out).cpu().numpy()
    of_rest = layer_scores(rest, mean, precision, bank, gamma, form).cpu().numpy() if rest.shape[1] else of_used
    if gamma:
        # The boundary is the same at any scale of the scores, but its solver is not made for numbers in the thousands.
        scale = float(np.linalg.norm(of_used, axis=1).mean()) or 1.0
        machine = OneClassSVM(kernel="linear", nu=nu).fit(of_used / scale)
        normal, offset = machine.coef_[0] / scale, float(machine.intercept_[0])
    else:
        # A linear one-class machine puts the inside away from the origin, which for distances is where the strange is.
        normal = np.ones(of_used.shape[1])
        offset = -float(np.quantile(of_used @ normal, nu))
    inner, outer = of_used @ normal + offset, of_rest @ normal + offset
    spreads = [max(float(d.std(ddof=1)) if len(d) > 1 else 0.0, 1e-9) for d in (inner, outer)]
    if len(outer) < 2:
        spreads[1] = spreads[0]
    detector = Detector(
        mean=mean,
        precision=precision,
        bank=bank,
        normal=torch.from_numpy(normal),
        offset=offset,
        used=(float(inner.mean()), spreads[1] if spread == "rest" else spreads[0]),
        rest=(float(outer.mean()), spreads[1]),
        limit=float(np.quantile(outer, 1 - passes)),
        gamma=gamma,
        form=form,
    )
    return detector, max(c for _, c in precisions)


def detector_from(state: dict[str, object]) -> Detector:
    """Return the detector of a state."""
    values = dict(state)
    for name in ("used", "rest"):
        pair = values[name]
        assert isinstance(pair, list)
        values[name] = (float(pair[0]), float(pair[1]))
    return Detector(**values)  # type: ignore[arg-type]
