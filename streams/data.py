"""Batch and Data: tensors on their way from a source to a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar, final, overload

import numpy as np
import torch
from typing_extensions import override

from streams.errors import LedgerError
from streams.events import read_only
from streams.inputs import Scale, inputs_of
from streams.pictures import Pictures
from streams.randomness import Key

Where = TypeVar("Where")
"""Positions of samples."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """A few samples as tensors.

    Attributes:
        ids: int64 ``[B]``.
        x: inputs ``[B, ...]``.
        y: targets ``[B]``.
        task: int64 ``[B]`` task labels, or None where the model is not task-aware.
        images: uint8 ``[B, M, C, H, W]`` images of each sample, or None where samples have none beside `x`. Floats are
            images that are processed already, as a vision tower reads them (selection's image of zeros).
        extra: what an objective has drawn for each sample (noise, time steps, masks), ``[B, ...]`` by name.
    """

    ids: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    task: torch.Tensor | None = None
    images: torch.Tensor | None = None
    extra: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.ids.shape[0]  # `len` of a tensor takes ten times as long

    @property
    def inputs(self) -> tuple[torch.Tensor, ...]:
        """What a model is called with: `x`, and `images` where there are any."""
        return (self.x,) if self.images is None else (self.x, self.images)

    def part(self, start: int, stop: int | None = None) -> Batch:
        """Return the samples from position `start` up to `stop`, or to the end."""
        return self._each(lambda column: column[start:stop])

    def rows(self, where: torch.Tensor) -> Batch:
        """Return the samples at positions `where` (int64), or those that it marks (bool ``[B]``)."""
        return self._each(lambda column: column[where])

    def concat(self, other: Batch) -> Batch:
        """Return this batch followed by `other`, with what both have."""
        return Batch(
            torch.cat([self.ids, other.ids]),
            torch.cat([self.x, other.x]),
            torch.cat([self.y, other.y]),
            None if self.task is None or other.task is None else torch.cat([self.task, other.task]),
            None if self.images is None or other.images is None else torch.cat([self.images, other.images]),
            {n: torch.cat([v, other.extra[n]]) for n, v in self.extra.items() if n in other.extra},
        )

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        task = None if self.task is None else change(self.task)
        images = None if self.images is None else change(self.images)
        extra = {name: change(column) for name, column in self.extra.items()}
        return Batch(change(self.ids), change(self.x), change(self.y), task, images, extra)


class Data:
    """Some rows of a source, open for as long as the event lasts that was given them.

    Rows are index selections; nothing is copied until a batch is taken.
    """

    def __init__(
        self,
        ids: np.ndarray,
        x: torch.Tensor,
        y: torch.Tensor,
        task: torch.Tensor | None,
        lent: tuple[Data, ...] = (),
        images: torch.Tensor | Pictures | None = None,
        scale: Scale | None = None,
    ) -> None:
        """Keep references to whole columns `x`, `y`, `task`, `images` (``[N]``) and the `ids` (rows) that may be read.

        `scale` makes floats of `x` where that is bytes. Views that are made of other views close with any of them
        (`lent`).
        """
        self.ids = read_only(ids)
        self._lent = lent
        self._rows = torch.tensor(ids, device=x.device)  # a copy, as nobody may write to ids
        self._x, self._y, self._task, self._images, self._scale = x, y, task, images, scale
        self._open = True

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, positions: torch.Tensor) -> Batch:
        """Return the samples at `positions` (int64, into `ids`).

        Raises:
            LedgerError: the event that this view was given for is over.
        """
        return self._select(self._rows.index_select(0, positions))

    def all(self) -> Batch:
        """Return every sample of this view, in ascending order of id."""
        return self._select(self._rows)

    def targets(self) -> torch.Tensor:
        """Return the targets of every sample of this view, ``[n]``, without touching the inputs."""
        self._check()
        return self._y.index_select(0, self._rows)

    def batches(self, size: int, key: Key | None = None) -> Sequence[Batch]:
        """Return all samples in batches of `size`, shuffled by `key` if it is given; a short last batch stays.

        Where images lie in files, a batch is made whenever it is asked for.
        """
        parts = self.positions(key).split(size) if len(self) else ()
        return Batches(self.batch, parts) if isinstance(self._images, Pictures) else [self.batch(p) for p in parts]

    def positions(self, key: Key | None = None) -> torch.Tensor:
        """Return all positions, shuffled by `key` if it is given (keyed sort by id)."""
        order = np.arange(len(self)) if key is None else key.order(self.ids)
        return torch.from_numpy(order).to(self._rows.device)

    def relabelled(self, targets: torch.Tensor) -> Data:
        """Return the same rows with other targets ``[n]``."""
        self._check()
        y = self._y.clone()
        y[self._rows] = targets.to(y)
        return Data(self.ids, self._x, y, self._task, (self,), self._images, self._scale)

    def joined(self, other: Data) -> Data:
        """Return the rows of both; `other` must be a view of the same source, and share no row with this one."""
        self._check()
        y = self._y
        if other._y is not y:
            y = y.clone()
            y[other._rows] = other.targets()
        ids = np.sort(np.concatenate([self.ids, other.ids]))
        return Data(ids, self._x, y, self._task, (self, other), self._images, self._scale)

    def part(self, positions: np.ndarray) -> Data:
        """Return the rows at some positions (ascending)."""
        self._check()
        return Data(self.ids[positions], self._x, self._y, self._task, (self,), self._images, self._scale)

    @property
    def has_images(self) -> bool:
        """Whether samples have images beside their inputs."""
        return self._images is not None

    def reads_like(self, other: Data) -> bool:
        """Whether it reads its inputs from the same column as another, in the same way."""
        return self._x is other._x and self._scale is other._scale

    def close(self) -> None:
        """Refuse every read from now on."""
        self._open = False

    def _select(self, rows: torch.Tensor) -> Batch:
        self._check()
        task = None if self._task is None else self._task.index_select(0, rows)
        images = None if self._images is None else self._images.index_select(0, rows)
        x = inputs_of(self._x.index_select(0, rows), self._scale)
        return Batch(rows, x, self._y.index_select(0, rows), task, images)

    def _check(self) -> None:
        for data in self._lent:
            data._check()
        if not self._open:
            raise LedgerError("This data was lent for one event, and the event is over. Ask the door again.")


@final
class Batches(Sequence[Batch], Generic[Where]):
    """Batches that are made whenever they are asked for, so that one of them is in memory at a time."""

    def __init__(self, make: Callable[[Where], Batch], parts: Sequence[Where]) -> None:
        """Take what makes a batch of each of the parts."""
        self._make, self._parts = make, parts

    @override
    def __len__(self) -> int:
        return len(self._parts)

    @overload
    def __getitem__(self, index: int) -> Batch: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Batch]: ...

    @override
    def __getitem__(self, index: int | slice) -> Batch | Sequence[Batch]:
        if isinstance(index, slice):
            return Batches(self._make, self._parts[index])
        return self._make(self._parts[index])


class Pool:
    """Several views, read as one: their samples stand one after the other. It is open for as long as all of them are.

    Attributes:
        starts: where the samples of each view begin.
    """

    def __init__(self, views: Sequence[Data]) -> None:
        """Copy targets and task labels; inputs are copied only where the views are of different sources."""
        first = views[0]
        self._views = views
        self._ids = torch.cat([v._rows for v in views])
        self._y = torch.cat([v.targets() for v in views])
        tasks = [None if v._task is None else v._task.index_select(0, v._rows) for v in views]
        self._task = None if any(t is None for t in tasks) else torch.cat([t for t in tasks if t is not None])
        self._shares = all(v.reads_like(first) for v in views)
        self._x, self._scale = (
            (first._x, first._scale) if self._shares else (torch.cat([v.all().x for v in views]), None)
        )
        self.starts = np.cumsum([0, *(len(v) for v in views[:-1])]).tolist()

    def targets(self, positions: torch.Tensor) -> torch.Tensor:
        """Return the targets at some positions, int64 of any shape."""
        return self._y[positions]

    def batches(self, positions: torch.Tensor) -> Iterator[Batch]:
        """Yield batches of samples at ``positions [steps, B]``, int64.

        Raises:
            LedgerError: an event that one of the views was given for is over.
        """
        for view in self._views:
            view._check()
        ids, y = self._ids[positions], self._y[positions]
        task = None if self._task is None else self._task[positions]
        rows = ids if self._shares else positions
        for step in range(len(positions)):
            x = inputs_of(self._x.index_select(0, rows[step]), self._scale)
            yield Batch(ids[step], x, y[step], None if task is None else task[step])
