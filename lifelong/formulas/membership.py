"""Population attacks: tell deleted training samples from unseen ones by what one model says of them.

Tables in the literature differ in the attack *and* in its orientation, so each function says what it is fitted on and
which way its number points. None means anything by itself: what counts is the distance to the number that the same
attack, fitted again, has on the retrained reference.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from threadpoolctl import ThreadpoolController

from lifelong.formulas.logistic import logistic_fits
from streams.randomness import Key

PERMUTATIONS = 199
"""Random ones behind a p-value, of which 1 / 200 is the lowest."""
MOST_PER_SIDE = 2000
"""Samples of each kind that an attack is fitted on at most; a kernel machine costs more than their square."""


@functools.cache
def _threads() -> ThreadpoolController:
    """Return what limits the threads of libraries that are loaded; scipy's have to be.

    A fit with two weights waits for threads of BLAS seven times as long as it takes.
    """
    import sklearn.linear_model  # noqa: F401

    return ThreadpoolController()


def entropies(p: torch.Tensor) -> torch.Tensor:
    """Return -sum_k p_k log p_k of every distribution ``[B, K]``, in nats, ``[B]``.

    >>> round(float(entropies(torch.tensor([[0.7, 0.2, 0.1]]))), 4)
    0.8018
    """
    return -torch.xlogy(p, p).sum(1)


def modified_entropies(p: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return -(1 - p_y) log p_y - sum_(k != y) p_k log(1 - p_k) of every distribution, ``[B]`` (Song and Mittal 2021).

    Unlike the entropy it is low only where the model is sure of the *label*.

    >>> round(float(modified_entropies(torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([0]))), 4)
    0.1622
    """
    labels = labels.unsqueeze(1)
    label_p = p.gather(1, labels).squeeze(1)
    other_terms = torch.xlogy(p, 1 - p).scatter(1, labels, 0.0)
    # Where the label has probability 0 (in floats) the value is infinite, as its loss is.
    return -torch.xlogy(1 - label_p, label_p) - other_terms.sum(1)


def mia_efficacy(members: np.ndarray, non_members: np.ndarray, forget: np.ndarray) -> float:
    """Return the share of the forget set that an attack takes for *non*-members: the MIA column of SalUn and RUM.

    A support vector machine (RBF, C = 3, gamma = 1 / features) on the confidence in the label, fitted on retained
    training data against test data. Orientation: high means forgotten; the ideal is the retrained reference's value.

    Args:
        members: ``[n]`` confidences of retained training samples.
        non_members: ``[n]`` confidences of test samples, as many.
        forget: ``[m]`` confidences of the forget set.

    >>> sure, unsure = np.linspace(0.86, 0.94, 50), np.linspace(0.56, 0.64, 50)
    >>> mia_efficacy(sure, unsure, unsure), mia_efficacy(sure, unsure, sure)
    (1.0, 0.0)
    """
    return efficacy_attack(members, non_members)(forget)


def efficacy_attack(members: np.ndarray, non_members: np.ndarray) -> Callable[[np.ndarray], float]:
    """Return the attack of `mia_efficacy`, fitted once: from the confidences of any forget set to its efficacy."""
    from sklearn.svm import SVC

    attack = SVC(C=3, kernel="rbf", gamma="auto")
    x = np.concatenate([members, non_members])[:, None]
    attack.fit(x, np.repeat([1, 0], [len(members), len(non_members)]))
    return lambda forget: float(np.mean(attack.predict(forget[:, None]) == 0))


def entropy_member_rate(members: np.ndarray, non_members: np.ndarray, forget: np.ndarray) -> float:
    """Return the share of the forget set that an attack by entropy takes for members (Bad Teacher, SSD).

    Logistic regression on the standardised entropy, classes balanced, fitted on retained training data against test
    data. Orientation: low means forgotten; the ideal is the retrained reference's value.

    >>> sharp, flat = np.linspace(0.0, 0.1, 50), np.linspace(0.9, 1.0, 50)
    >>> entropy_member_rate(sharp, flat, flat), entropy_member_rate(sharp, flat, sharp)
    (0.0, 1.0)
    """
    return entropy_attack(members, non_members)(forget)


def entropy_attack(members: np.ndarray, non_members: np.ndarray) -> Callable[[np.ndarray], float]:
    """Return the attack of `entropy_member_rate`, fitted once: from the entropies of any forget set to its rate."""
    from sklearn.linear_model import LogisticRegression

    values = np.concatenate([members, non_members])
    mean, scale = values.mean(), values.std() or 1.0
    attack = LogisticRegression(class_weight="balanced")
    with _threads().limit(limits=1, user_api="blas"):
        attack.fit(((values - mean) / scale)[:, None], np.repeat([1, 0], [len(members), len(non_members)]))
    (weight,), intercept = attack.coef_[0], attack.intercept_[0]
    return lambda forget: float(np.mean((forget - mean) / scale * weight + intercept > 0))


def cross_validated_accuracy(forget: np.ndarray, unseen: np.ndarray, seed: int) -> float | None:
    """Return how well the loss tells the forget set from as many unseen samples: the attack of SCRUB, 0.5 is chance.

    Logistic regression on losses clipped to 100 and standardised, ten stratified random splits, mean accuracy on a
    tenth held out. Orientation: none; below 0.5 is noise, or a leak that this attack does not turn round. As the
    attack's code by scikit-learn, but for fits that end at the optimum: where the losses tell nothing, the default
    tolerance there stops before it, in one of 16 cases with another sample on the other side.

    Args:
        forget: ``[n]`` losses.
        unseen: ``[n]`` losses of unseen samples of the same classes.
        seed: of the splits.

    Returns:
        None if there are fewer than ten samples of a kind.
    """
    if min(len(forget), len(unseen)) < 10:
        return None
    x = np.clip(np.concatenate([forget, unseen]), -100, 100)
    x = (x - x.mean()) / (x.std() or 1.0)
    y = np.repeat([1, 0], [len(forget), len(unseen)])
    fitted, held_out = _splits(len(forget), len(unseen), seed)
    weights, intercepts = logistic_fits(x[fitted], y[fitted])
    predicted = weights[:, None] * x[held_out] + intercepts[:, None] > 0
    return float((predicted == y[held_out]).mean(1).mean())


@functools.lru_cache(maxsize=256)
def _splits(num_forget: int, num_unseen: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ten stratified random splits of a forget set followed by unseen samples: what is fitted, and held out."""
    from sklearn.model_selection import StratifiedShuffleSplit

    y = np.repeat([1, 0], [num_forget, num_unseen])
    splits = StratifiedShuffleSplit(n_splits=10, random_state=seed).split(y[:, None], y)
    fitted, held_out = zip(*splits, strict=True)
    return np.stack(fitted), np.stack(held_out)


def membership_ks(
    member_values: np.ndarray, member_classes: np.ndarray, other_values: np.ndarray, other_classes: np.ndarray
) -> float | None:
    """Return the two-sided Kolmogorov-Smirnov distance between members and unseen samples, in [0, 1].

    Where members stand out at both ends (some still known, some pushed away) an AUC is 0.5 and this is not.
    Non-members are weighted to the members' class mix.

    Returns:
        None if a class of the members has no unseen sample.

    >>> zeros = np.zeros(4, dtype=int)
    >>> membership_ks(np.array([-9.0, -9.0, 9.0, 9.0]), zeros, np.arange(4.0), zeros)
    0.5
    """
    weights = _class_weights(member_classes, other_classes)
    if weights is None:
        return None
    grid = np.concatenate([member_values, other_values])
    order = np.argsort(other_values, kind="stable")
    cumulative = np.concatenate([[0.0], np.cumsum(weights[order])])
    others = cumulative[np.searchsorted(other_values[order], grid, side="right")] / cumulative[-1]
    members = np.searchsorted(np.sort(member_values), grid, side="right") / len(member_values)
    return float(np.abs(members - others).max())


def _class_weights(member_classes: np.ndarray, other_classes: np.ndarray) -> np.ndarray | None:
    """Return weights of others that give them the members' class mix, or None if a class has no other sample."""
    weights = np.zeros(len(other_classes))
    if len(member_classes) == 1:
        classes, counts = member_classes, np.ones(1, dtype=np.int64)
    else:
        classes, counts = np.unique(member_classes, return_counts=True)
    for c, count in zip(classes, counts, strict=True):
        same = other_classes == c
        if not same.any():
            return None
        weights[same] = count / same.sum()
    return weights if len(classes) else None


def membership_auc(
    member_losses: np.ndarray,
    member_classes: np.ndarray,
    other_losses: np.ndarray,
    other_classes: np.ndarray,
) -> float | None:
    """Return the AUC of "lower loss means member", with non-members weighted to the members' class mix.

    The class mix must agree, or the attack detects the class instead of membership. 0.5 is no leak; below 0.5 the
    members stand out by *high* loss, which leaks as well. The value means little by itself: compare it with that of
    the retrained reference.

    Args:
        member_losses: ``[n]`` losses of the forget set.
        member_classes: int ``[n]``.
        other_losses: ``[m]`` losses of unseen samples.
        other_classes: int ``[m]``.

    Returns:
        A float in [0, 1], or None if a class of the members has no unseen sample.

    >>> membership_auc(np.array([0.1, 0.2]), np.array([0, 0]), np.array([0.3, 0.15]), np.array([0, 0]))
    0.75
    """
    everything = np.concatenate([member_losses, other_losses])
    attack = MembershipAttack(everything, np.concatenate([member_classes, other_classes]))
    members = np.arange(len(member_losses))
    return attack.auc(members, np.arange(len(member_losses), len(everything)))


class MembershipAttack:
    """`membership_auc` of many forget sets under one model: what they share is sorted, and weighted, once."""

    def __init__(self, losses: np.ndarray, classes: np.ndarray) -> None:
        """Take the losses and classes ``[N]`` of all samples."""
        self._losses, self._classes = losses, classes
        self._sums: dict[tuple[int, bytes], np.ndarray | None] = {}
        self._sorted: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}  # with the array whose id is the key

    def auc(self, members: np.ndarray, others: np.ndarray) -> float | None:
        """Return the AUC of "lower loss means member", or None if a class of the members has no unseen sample.

        Args:
            members: positions of the forget set.
            others: positions of unseen samples.
        """
        order, sorted_losses = self._in_order(others)
        cumulative = self._cumulative(self._classes[members], others, order)
        if cumulative is None:
            return None
        below = cumulative[np.searchsorted(sorted_losses, self._losses[members], side="left")]
        below_or_equal = cumulative[np.searchsorted(sorted_losses, self._losses[members], side="right")]
        # P(other > member) + P(equal) / 2
        return float(1 - np.mean((below + below_or_equal) / 2) / cumulative[-1])

    def _cumulative(self, classes: np.ndarray, others: np.ndarray, order: np.ndarray) -> np.ndarray | None:
        """Return the weights of unseen samples, summed up in order, for members of such classes; None without any."""
        key = id(others), classes.tobytes()
        if key not in self._sums:
            weights = _class_weights(classes, self._classes[others])
            self._sums[key] = None if weights is None else np.concatenate([[0.0], np.cumsum(weights[order])])
        return self._sums[key]

    def _in_order(self, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return how unseen samples are sorted by their losses, and these."""
        if id(others) not in self._sorted:
            losses = self._losses[others]
            order = np.argsort(losses, kind="stable")
            self._sorted[id(others)] = others, order, losses[order]
        return self._sorted[id(others)][1:]


def membership_p(
    member_losses: np.ndarray,
    member_classes: np.ndarray,
    other_losses: np.ndarray,
    other_classes: np.ndarray,
) -> float | None:
    """Return the two-sided permutation p-value of `membership_auc`, which takes the same arrays.

    Which samples of a class are members is dealt out anew; the p-value is the share of such deals, the true one
    counted, whose AUC is as far from 0.5. The deals are named, so that equal arrays always have the same.

    Returns:
        A float from 1 / 200 to 1, or None if a class of the members has no unseen sample.
    """
    weights = _class_weights(member_classes, other_classes)
    if weights is None:
        return None
    used = weights > 0
    losses = np.concatenate([member_losses, other_losses[used]])
    ascending = np.argsort(losses, kind="stable")
    losses, is_member = losses[ascending], ascending < len(member_losses)
    classes = np.concatenate([member_classes, other_classes[used]])[ascending]
    ties = np.searchsorted(losses, losses, side="left"), np.searchsorted(losses, losses, side="right")
    luck = (Key(0) / "permutations").numpy().random((PERMUTATIONS, len(losses)))
    deals, weight_of = np.empty((1 + PERMUTATIONS, len(losses)), dtype=bool), np.empty(len(losses))
    deals[0] = is_member
    for c in np.unique(member_classes):
        here = np.flatnonzero(classes == c)
        count = int(is_member[here].sum())
        weight_of[here] = count / (len(here) - count)
        dealt = luck[:, here]
        deals[1:, here] = dealt <= np.partition(dealt, count - 1, axis=1)[:, count - 1, None]
    cumulative = np.zeros((len(deals), 1 + len(losses)))
    np.cumsum(np.where(deals, 0.0, weight_of), axis=1, out=cumulative[:, 1:])
    # P(other < member) + P(equal) / 2; others weigh as much as there are members.
    below = (cumulative[:, ties[0]] + cumulative[:, ties[1]]) / 2
    aucs = (below * deals).sum(1) / len(member_losses) ** 2
    far = np.abs(aucs - 0.5)
    return float(np.mean(far >= far[0] - 1e-9))
