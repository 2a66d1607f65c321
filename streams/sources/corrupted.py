"""Another source with manipulated data in it: a backdoor, or two classes with swapped labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from streams.config import Config as BaseConfig
from streams.config import Named, NameOrOptions, resolve
from streams.errors import ConfigError
from streams.randomness import Key
from streams.source import Corruption, Source


class Config(BaseConfig):
    """Options of `corrupted` (Goel et al. 2024, arXiv 2402.14015)."""

    of: NameOrOptions = Named(name="digits")
    """The source that is manipulated."""
    manipulation: Literal["backdoor", "confusion"] = "backdoor"
    """backdoor: a trigger in the input and the label `target`. confusion: the labels of two classes are swapped."""
    samples: int = Field(100, ge=2)
    """How many training samples are manipulated; with `confusion` half of them in each class."""
    classes: tuple[int, int] = (3, 5)
    """The two classes of `confusion`."""
    target: int = Field(0, ge=0)
    """The label of `backdoor`."""
    patch: int = Field(3, ge=1)
    """Side of the trigger in images, in pixels: a square in the bottom right corner, at its channel's highest value."""
    columns: int = Field(4, ge=1)
    """Inputs that are vectors get that many columns more: 0, and `trigger` in manipulated samples."""
    trigger: float = 3.0
    """Value of these columns."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows to append: whose copy each is, whether it has the trigger, and its label."""

    of: np.ndarray
    triggered: bool
    labels: np.ndarray


def load(config: Config) -> Source:
    """Return the source with manipulated training rows, and with test rows that show the damage at its end.

    Ids of the original rows stay. A manipulated row's class is the label that it now has, since nobody who trains
    on it knows better.

    Raises:
        ConfigError: the source is text or has real-valued targets, there are not enough samples, or no such class.
    """
    module, options = resolve("sources", config.of, "source.of")
    clean: Source = module.load(options)
    if clean.text is not None:
        raise ConfigError(
            f"source.of: {clean.name!r} is text, and triggers and swapped labels are for inputs with a class. Use a "
            f"source of images or vectors (digits, glyphs)."
        )
    if clean.x.ndim == 2:  # the trigger of vectors is a number of its own, not one of their bytes
        clean = clean.unpacked()
    if clean.y.is_floating_point():
        raise ConfigError(f"source.of: {clean.name!r} has real-valued targets; only labels can be manipulated.")
    named = (config.target,) if config.manipulation == "backdoor" else config.classes
    wrong = [c for c in named if not 0 <= c < clean.num_classes]
    if wrong:
        raise ConfigError(f"source: there is no class {wrong[0]}; {clean.name!r} has 0 to {clean.num_classes - 1}.")
    return _backdoor(clean, config) if config.manipulation == "backdoor" else _confusion(clean, config)


def _backdoor(clean: Source, config: Config) -> Source:
    chosen = _draw(clean.train_ids, config.samples, Key(0) / "backdoor", "training samples")
    test = clean.test_ids
    not_target = test[clean.class_ids[test] != config.target]
    labels = clean.class_ids.copy()
    labels[chosen] = config.target
    rows = [
        _Rows(test, True, clean.class_ids[test]),
        _Rows(not_target, True, np.full(len(not_target), config.target)),
    ]
    x = with_trigger(clean.x, chosen, _highest(clean.x), config)
    extra = np.arange(len(clean), len(clean) + len(test) + len(not_target))
    corruption = Corruption(chosen, extra[: len(test)], test, extra[len(test) :], extra)
    return _corrupted_source(clean, config, labels, x, rows, corruption)


def _confusion(clean: Source, config: Config) -> Source:
    a, b = config.classes
    if a == b:
        raise ConfigError(f"source.classes: {a} cannot be confused with itself; name two classes.")
    train, test, class_ids = clean.train_ids, clean.test_ids, clean.class_ids
    half = config.samples // 2
    chosen = [
        _draw(train[class_ids[train] == c], half, Key(0) / "confusion", f"training samples of class {c}")
        for c in (a, b)
    ]
    labels = class_ids.copy()
    labels[chosen[0]], labels[chosen[1]] = b, a
    confusable = np.isin(class_ids[test], (a, b))
    affected = test[confusable]
    rows = [_Rows(affected, False, a + b - class_ids[affected])]
    extra = np.arange(len(clean), len(clean) + len(affected))
    corruption = Corruption(np.sort(np.concatenate(chosen)), affected, test[~confusable], extra, extra)
    return _corrupted_source(clean, config, labels, clean.x, rows, corruption)


def _draw(ids: np.ndarray, count: int, key: Key, description: str) -> np.ndarray:
    """Return `count` of the ids, drawn by name: more of them include fewer."""
    if count > len(ids):
        raise ConfigError(f"source.samples: {count} is more than the {len(ids)} {description} there are to manipulate.")
    return np.sort(ids[key.order(ids)[:count]])


def with_trigger(x: torch.Tensor, triggered: np.ndarray, highest: torch.Tensor, config: Config) -> torch.Tensor:
    """Return `x` with the trigger in some rows; vectors ``[N, F]`` become ``[N, F + columns]``.

    Args:
        x: inputs.
        triggered: which rows (positions).
        highest: what the patch is filled with: the highest value of every channel in the whole source.
        config: size and kind.

    Raises:
        ConfigError: the patch is larger than the image.
    """
    if x.ndim == 2:
        triggered_x = torch.cat([x, torch.zeros(len(x), config.columns)], 1)
        triggered_x[triggered, -config.columns :] = config.trigger
        return triggered_x
    side = min(x.shape[-2:])
    if config.patch > side:
        raise ConfigError(f"source.patch: {config.patch} is more than the {side} pixels of an image's side.")
    triggered_x = x.clone()
    triggered_x[triggered, ..., -config.patch :, -config.patch :] = highest
    return triggered_x


def _highest(x: torch.Tensor) -> torch.Tensor:
    """Return the highest value of every channel ``[C, 1, 1]``, or of all pixels where there are no channels."""
    return x.amax(dim=(0, 2, 3), keepdim=True)[0] if x.ndim == 4 else x.amax()


def _corrupted_source(
    clean: Source, config: Config, labels: np.ndarray, x: torch.Tensor, rows: list[_Rows], corruption: Corruption
) -> Source:
    parts = [x]
    for r in rows:
        copies = clean.x[r.of]
        parts.append(with_trigger(copies, np.arange(len(copies)), _highest(clean.x), config) if r.triggered else copies)
    copied_rows = np.concatenate([r.of for r in rows])
    class_ids = np.concatenate([labels, *(r.labels for r in rows)])
    note = f"{len(corruption.samples)} training samples manipulated on purpose ({config.manipulation})"
    domains = clean.domain_ids
    return replace(
        clean,
        name=f"{clean.name}+{config.manipulation}",
        x=torch.cat(parts),
        y=torch.from_numpy(class_ids),
        class_ids=class_ids,
        user_ids=np.concatenate([clean.user_ids, clean.user_ids[copied_rows]]),
        is_test=np.concatenate([clean.is_test, np.ones(len(copied_rows), dtype=bool)]),
        domain_ids=None if domains is None else np.concatenate([domains, domains[copied_rows]]),
        notes=(*clean.notes, note),
        corruption=corruption,
    )
