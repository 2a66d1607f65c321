"""Ledger: what happened to every sample, and the only door to the data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np
import torch

from streams.data import Data
from streams.errors import AccessError, LedgerError
from streams.events import DeletionRequest, Event, Experience
from streams.source import Source
from streams.timeline import surviving, with_ids


class Life(IntEnum):
    """Where a sample is in its life."""

    UNSEEN = 0
    LEARNED = 1
    DELETED = 2


@dataclass(frozen=True, slots=True)
class Access:
    """What a strategy may read beside the experience it is learning.

    Attributes:
        forget_set: whether it reads the samples it is to forget.
        retained: earlier samples it may read during one event: ``"full"``, or at most that many.
    """

    forget_set: bool = False
    retained: int | Literal["full"] = 0

    def __or__(self, other: Access) -> Access:
        """Return what both together may read."""
        retained: int | Literal["full"] = "full"
        if self.retained != "full" and other.retained != "full":
            retained = max(self.retained, other.retained)
        return Access(self.forget_set or other.forget_set, retained)

    def label(self) -> str:
        """Return how tables group results: ``retain: full``, ``retain: buffer(200), forget set`` ..."""
        retained = {"full": "full", 0: "nothing"}.get(self.retained, f"buffer({self.retained})")
        return f"retain: {retained}" + (", forget set" if self.forget_set else "")


class Ledger:
    """The record of every training sample's life. Deletion is for good unless the stream teaches it again."""

    def __init__(self, source: Source, task_of: np.ndarray | None = None, device: str | torch.device = "cpu") -> None:
        """Start with every sample unseen.

        Args:
            source: the data.
            task_of: int64 ``[N]`` task label of every row, or None when the model is not task-aware.
            device: where batches are needed; the columns move there once for all ledgers of the source.
        """
        self._source = source
        self._columns = source.on(device)
        self._task = None if task_of is None else torch.from_numpy(task_of).to(device)
        self.life = np.zeros(len(source), dtype=np.int8)
        self.incarnation = np.zeros(len(source), dtype=np.int16)
        self._events: list[Event] = []
        self._access: Access | None = None

    @property
    def live_ids(self) -> np.ndarray:
        """Ids that are learned and not deleted, ascending."""
        return np.flatnonzero(self.life == Life.LEARNED)

    @property
    def deleted_ids(self) -> np.ndarray:
        """Ids that are deleted at this moment, ascending."""
        return np.flatnonzero(self.life == Life.DELETED)

    def admit(self, experience: Experience) -> Experience:
        """Record that `experience` is learned and return it without the ids that stay deleted.

        An incarnation above 0 brings its deleted ids back to life.
        """
        ids = experience.sample_ids
        deleted = self.life[ids] == Life.DELETED
        if experience.incarnation == 0:
            experience = with_ids(experience, ids[~deleted])
        else:
            self.incarnation[ids[deleted]] += 1
        self.life[experience.sample_ids] = Life.LEARNED
        if len(experience.sample_ids):
            self._events.append(experience)
        return experience

    def delete(self, request: DeletionRequest) -> None:
        """Record a deletion, and bar what the request names but no experience has brought yet.

        Raises:
            LedgerError: a sample was never learned, or is deleted already.
        """
        ids = request.sample_ids
        wrong = ids[self.life[ids] != Life.LEARNED]
        if len(wrong):
            state = Life(self.life[wrong[0]]).name.lower()
            raise LedgerError(f"{request.name}: sample {wrong[0]} cannot be deleted, it is {state}.")
        self.life[ids] = Life.DELETED
        self.life[request.barred_ids] = Life.DELETED
        self._events.append(request)

    def history(self) -> tuple[Experience, ...]:
        """Return what was learned so far, in order, without what has been deleted since.

        What became permanent was learned before: to learn that again would teach it twice.
        """
        return tuple(e for e in surviving(self._events) if not e.consolidates)

    def held_to(self, declared: Access) -> Access:
        """Return the access that this life is held to: what its strategy declared first.

        Raises:
            AccessError: it declares something else now.
        """
        if self._access is None:
            self._access = declared
        if declared != self._access:
            raise AccessError(
                f"The strategy declared '{self._access.label()}' when its life began and declares "
                f"'{declared.label()}' now. What may be read is fixed for a life: let `access` depend on options alone."
            )
        return self._access

    def door(
        self, access: Access, own: np.ndarray, to_forget: np.ndarray | None = None, kept: np.ndarray | None = None
    ) -> Door:
        """Open the door for one event.

        Args:
            access: what the strategy declares.
            own: ids of the experience being learned (free to read); empty for a forget event.
            to_forget: ids of the request being served.
            kept: ids in the strategy's buffer as the event begins: with access to a buffer no other earlier ones can
                be read. None does not look.
        """
        return Door(self, access, own, to_forget, kept)

    def lend(self, ids: np.ndarray) -> Data:
        """Return a view of rows without asking any question: for the door, and for evaluation outside of it."""
        columns = self._columns
        return Data(ids, columns.x, columns.y, self._task, images=columns.images, scale=columns.scale)


class Door:
    """What a strategy can read during one event. Everything it lends closes with the event."""

    def __init__(
        self,
        ledger: Ledger,
        access: Access,
        own: np.ndarray,
        to_forget: np.ndarray | None,
        kept: np.ndarray | None = None,
    ) -> None:
        """See `Ledger.door`."""
        self._ledger, self._access, self._to_forget = ledger, access, to_forget
        self._lent: list[Data] = []
        self._own = np.zeros(len(ledger.life), dtype=bool)
        self._own[own] = True
        self._buffer: np.ndarray | None = None
        if kept is not None and access.retained != "full":
            self._buffer = np.zeros(len(ledger.life), dtype=bool)
            self._buffer[kept] = True
        self._read = np.zeros(len(ledger.life), dtype=bool)
        self._read_before = np.zeros(0, dtype=bool)
        self._open = True

    @property
    def num_read(self) -> int:
        """Distinct samples lent so far in this event, also by an earlier attempt at it."""
        return int(self._all_read().sum())

    @property
    def live_ids(self) -> np.ndarray:
        """Ids that are learned and not deleted, ascending: who they are, not what is in them, which takes no access.

        Raises:
            LedgerError: the event is over.
        """
        self._check()
        return self._ledger.live_ids

    def fetch(self, ids: np.ndarray) -> Data:
        """Lend learned samples.

        Raises:
            LedgerError: one of them is deleted or was never learned, or the event is over.
            AccessError: more earlier samples than the strategy declares to read, or some that are not in its buffer.
        """
        self._check()
        dead = ids[self._ledger.life[ids] != Life.LEARNED]
        if len(dead):
            state = Life(self._ledger.life[dead[0]]).name.lower()
            raise LedgerError(f"Sample {dead[0]} is {state}; {len(dead)} of the {len(ids)} asked for cannot be read.")
        self._read[ids] = True
        if self._access.retained != "full":
            earlier = self._read & ~self._own
            count = int(earlier.sum())
            if count > self._access.retained:
                raise AccessError(
                    f"The strategy declares '{self._access.label()}' but reads {count} earlier samples. "
                    f"Declare the access it needs, or read less."
                )
            if self._buffer is not None and bool((earlier & ~self._buffer).any()):
                strange = np.flatnonzero(earlier & ~self._buffer)
                raise AccessError(
                    f"The strategy declares '{self._access.label()}' but reads {len(strange)} earlier samples that "
                    f"were not in its buffer as the event began, such as sample {strange[0]}. Read what `stored_ids` "
                    f"names, or declare full access."
                )
        return self._lend(ids)

    def retained(self) -> Data:
        """Lend all live samples: needs full access.

        Raises:
            AccessError: the strategy does not declare it.
        """
        return self.fetch(self._ledger.live_ids)

    def forget_set(self) -> Data:
        """Lend the samples of the request being served.

        Raises:
            AccessError: the strategy does not declare it, or no request is being served.
            LedgerError: the event is over.
        """
        self._check()
        if self._to_forget is None or not self._access.forget_set:
            raise AccessError(
                f"The forget set is not open: the strategy declares '{self._access.label()}'"
                + ("." if self._to_forget is not None else " and no request is being served.")
            )
        self._read[self._to_forget] = True
        self._own[self._to_forget] = True  # not retained data: it does not count against a buffer
        return self._lend(self._to_forget)

    def history(self) -> tuple[Experience, ...]:
        """Return the experiences to learn again, in order, without what has been deleted since.

        Raises:
            AccessError: the strategy does not declare full access.
            LedgerError: the event is over.
        """
        self._check()
        if self._access.retained != "full":
            raise AccessError(f"The strategy declares '{self._access.label()}'; learning again needs 'retain: full'.")
        return self._ledger.history()

    def close(self) -> None:
        """End the event: the door, and every view that was lent, stops working."""
        self._open = False
        for data in self._lent:
            data.close()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return what was lent so far, for an event that is interrupted."""
        return {"read": torch.from_numpy(np.packbits(self._all_read()))}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Count what an earlier attempt at this event was lent."""
        self._read_before = np.unpackbits(state["read"].cpu().numpy(), count=len(self._read)).astype(bool)

    def _all_read(self) -> np.ndarray:
        return self._read | self._read_before if len(self._read_before) else self._read

    def _check(self) -> None:
        if not self._open:
            raise LedgerError("This door was opened for one event, and the event is over. Read through the new door.")

    def _lend(self, ids: np.ndarray) -> Data:
        data = self._ledger.lend(ids)
        self._lent.append(data)
        return data
