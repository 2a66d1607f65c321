"""What unlearners of whole classes share: which classes a request deletes."""

from __future__ import annotations

import torch

from strategies.base import Setting
from streams.errors import StreamError
from streams.events import DeletionRequest, Unit


def named_classes(request: DeletionRequest, units: tuple[Unit, ...]) -> list[int]:
    """Return the classes that a request names, itself or through tasks, ascending; the forget set is not read."""
    of_tasks = {c for u in request.keys_of("task") for c in units[u].classes}
    return sorted({*request.keys_of("class"), *of_tasks})


def whole_classes(request: DeletionRequest, setting: Setting) -> list[int]:
    """Return the classes of a request that names nothing else. Whether all of a class goes is checked before a run.

    Raises:
        StreamError: it names samples or users.
    """
    if any(r.scope not in ("class", "task") for r in request.requests):
        raise StreamError(f"{request.name} names samples or users; only whole classes can be deleted here.")
    return named_classes(request, setting.units)


def task_of(classes: list[int], setting: Setting, like: torch.Tensor) -> torch.Tensor:
    """Return the task label of each class: the unit that it belongs to."""
    tasks = [next(i for i, u in enumerate(setting.units) if c in u.classes) for c in classes]
    return torch.tensor(tasks, dtype=like.dtype, device=like.device)
