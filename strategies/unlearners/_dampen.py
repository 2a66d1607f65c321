"""What SSD and LFSSD share: where the importance of all data comes from, and the dampening."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field

from strategies.base import Access, Door, Learner, Outcome
from strategies.parts.weights.dampening import ImportanceKind, ImportanceLog, adaptive_alpha, dampened
from strategies.unlearners._retained import retained_data
from streams.config import Config
from streams.data import Data
from streams.errors import ConfigError

Importance = Callable[[Data], tuple[torch.Tensor, Outcome]]


class DampenConfig(Config):
    """Options of selective dampening."""

    alpha: float | Literal["adaptive"] = 10.0
    """A weight is selected if it is more than alpha times as important to the forget set as to all data. The ratio
    cannot exceed n / n_f, so that an alpha of that size selects nothing (alpha 10 and one class of ten). adaptive: the
    p-th percentile of the ratio, p = 100 - ln(1 + 100 n_f / n) (ASSD, arXiv 2402.10098)."""
    strength: float = Field(1.0, gt=0)
    """lambda: selected weights are multiplied by min(lambda x importance of all / importance of the forget set, 1)."""
    whole: Literal["full", "memory", "stored"] = "full"
    """Where the importance of all data comes from: all live data; what the learner's plugins keep; or what the plugin
    `importance-log` noted while learning, so that no retained data is read."""


def dampen_access(config: DampenConfig) -> Access:
    """Return the access to declare."""
    return Access(forget_set=True, retained="full" if config.whole == "full" else 0)


def dampen(
    config: DampenConfig,
    kind: ImportanceKind,
    importance: Importance,
    learner: Learner,
    door: Door,
    batchwise: bool = False,
) -> Outcome:
    """Dampen the learner's weights; report the selected share as ``selected``.

    Args:
        config: alpha and lambda.
        kind: which importance a log must hold.
        importance: from data to the mean importance ``[P]`` and its cost.
        learner: whose model is changed.
        door: lends the data.
        batchwise: whether the importance of a union is not the weighted mean of its parts'.

    Raises:
        ConfigError: the log holds another kind of importance.
    """
    forget_set = door.forget_set()
    forget_importance, cost = importance(forget_set)
    if config.whole == "stored":
        log = learner.part(ImportanceLog)
        if log.kind != kind:
            raise ConfigError(f"importance-log.kind: {log.kind!r} is noted, and {kind!r} is needed.")
        whole_importance, count = log.mean, max(log.count, len(forget_set))
        log.remove(forget_importance, len(forget_set))
    else:
        retained = retained_data("full" if config.whole == "full" else "memory", learner, door)
        count = len(forget_set) + len(retained)
        if batchwise:
            whole_importance, more = importance(retained.joined(forget_set))
        elif len(retained):
            retained_importance, more = importance(retained)
            whole_importance = (forget_importance * len(forget_set) + retained_importance * len(retained)) / count
        else:
            whole_importance, more = forget_importance, Outcome()
        cost += more
    share = len(forget_set) / count
    alpha = adaptive_alpha(whole_importance, forget_importance, share) if config.alpha == "adaptive" else config.alpha
    selected = 0.0
    # The bound is exact for means over samples; without asking, rounding could select at the bound itself.
    if config.whole == "stored" or batchwise or alpha * share < 1:
        theta, selected = dampened(
            learner.model.parameters, whole_importance, forget_importance, alpha, config.strength
        )
        learner.model.parameters.copy_(theta)
    return (cost + Outcome(losses={"selected": selected, "alpha": alpha})).graded("none")
