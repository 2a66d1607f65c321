"""What unlearners of whole classes share: which classes a request deletes."""

from __future__ import annotations

import torch

from strategies.base import Setting
from streams.data import Data
from streams.errors import StreamError
from streams.events import DeletionRequest, Unit


def named_classes(request: DeletionRequest, units: tuple[Unit, ...]) -> list[int]:
    """Return the classes that a request names, itself or through tasks, ascending; the forget set is not read."""
    of_tasks = {c for u in request.keys_of("task") for c in units[u].classes}
    return sorted({*request.keys_of("class"), *of_tasks})


def deleted_classes(request: DeletionRequest, setting: Setting, retained: Data) -> list[int]:
    """Return the classes that the request deletes as a whole.

    Raises:
        StreamError: it names something else, or samples of the classes stay.
    """
    classes = named_classes(request, setting.units)
    if any(a.scope not in ("class", "task") for a in request.asks):
        raise StreamError(f"{request.name} names samples or users; only whole classes can be deleted here.")
    left = retained.targets().unique().tolist()
    stay = sorted(set(classes) & set(left))
    if stay:
        raise StreamError(f"{request.name}: samples of class {stay[0]} stay; only whole classes can be deleted here.")
    return classes


def task_of(classes: list[int], setting: Setting, like: torch.Tensor) -> torch.Tensor:
    """Return the task label of each class: the unit that it belongs to."""
    found = [next(i for i, u in enumerate(setting.units) if c in u.classes) for c in classes]
    return torch.tensor(found, dtype=like.dtype, device=like.device)
