"""The two tests of exact deletion on a stream: other data in place of the deleted, and a life without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from lifelong.verification.certified import CertifiedFinding, Shown, check
from strategies.base import Exactness, Strategy
from strategies.objectives._base import EVALUATION, Objective
from strategies.parts.model import digest
from strategies.step import ledger_after, step
from streams.data import Batch
from streams.events import DeletionRequest, Event, Unit
from streams.ledger import Ledger
from streams.pictures import Pictures
from streams.randomness import Key
from streams.source import Source
from streams.stream import Stream
from streams.timeline import surviving

Build = Callable[[], Strategy]

MOST = 512
"""How many test samples a strategy is asked about, and how many of those that are deleted."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What the tests say about one request.

    Attributes:
        request: its name.
        event: index of the event that serves it.
        samples: how many samples it deletes.
        claim: the grade that the strategy gave its service.
        independent: whether the state after it, and all that is answered, are the same, bit for bit, with other data in
            place of all that was deleted by then (but for what the strategy itself says that it still holds of earlier
            requests).
        as_without: whether they are the same, bit for bit, as those of a life without what was deleted by then.
        stranded: live samples that the strategy gave up with the deleted ones; with any, `as_without` may fail.
        held: components that still hold the request's samples, as the strategy says itself.
        traces: samples of earlier requests that it says it still holds; with any, `as_without` fails.
        digest: of the state.
        answers: digest of outputs and features for test samples and samples that the stream deletes.
        certified: what is tested in place of equality where the claim is a distance (see `verification.certified`).
    """

    request: str
    event: int
    samples: int
    claim: Exactness
    independent: bool
    as_without: bool
    stranded: int
    held: tuple[str, ...]
    traces: int
    digest: str
    answers: str
    certified: CertifiedFinding | None = None

    @property
    def upheld(self) -> bool:
        """Whether the tests agree with the claim; a claim of nothing cannot be refuted."""
        if self.claim == "none":
            return True
        if self.claim == "certified":
            return self.certified is None or self.certified.upheld
        same = self.as_without or self.stranded > 0 or self.traces > 0 or self.claim == "law"
        return self.independent and same and not self.held


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """What is known right after a request.

    Attributes:
        digest: of the state.
        answers: digest of outputs and features for the questions that were asked.
        claim: the grade that the strategy gave itself.
        stranded: how many live samples it gave up.
        held: what it says that it still holds of what is deleted, by component.
    """

    digest: str
    answers: str
    claim: Exactness
    stranded: int
    held: dict[str, np.ndarray]

    def traces(self) -> np.ndarray:
        """Return all deleted samples that the strategy says it still holds, ascending."""
        return np.unique(np.concatenate([np.array([], dtype=np.int64), *self.held.values()]))


@dataclass(frozen=True, slots=True, eq=False)
class Lived:
    """A life: digests of the state and of the answers after the last event, and what was known after each request.

    Attributes:
        shown: after every event, what a strategy with the grade certified shows to whoever verifies it.
    """

    digest: str
    answers: str
    served: dict[int, Served]
    shown: dict[int, Shown] = field(default_factory=dict)


LiveOn = Callable[[tuple[Event, ...], np.ndarray, Key], Lived]
"""Lives through events with other samples, drawn by the key, in place of some ids."""


def questions(stream: Stream, objective: Objective, batch_size: int, device: str = "cpu") -> list[Batch]:
    """Return what a strategy is asked in every life: test samples and samples that the stream deletes, as they are."""
    deleted = np.unique(np.concatenate([np.array([], dtype=np.int64), *(r.sample_ids for r in stream.requests)]))
    ids = np.union1d(_spread(stream.source.test_ids), _spread(deleted))
    data = Ledger(stream.source, stream.task_of, device).lend(ids)
    return [objective.asked(objective.drawn(batch, EVALUATION)) for batch in data.batches(batch_size)]


def answers(strategy: Strategy, asked: Sequence[Batch]) -> str:
    """Return a digest of the outputs and features of a strategy for some batches."""
    with torch.inference_mode():
        return digest([(strategy.predict(batch), strategy.features(batch)) for batch in asked])


def live(
    build: Build, stream: Stream, events: tuple[Event, ...], device: str = "cpu", asked: Sequence[Batch] = ()
) -> Lived:
    """Live through `events` on the data of `stream`; return digests and claims at each request."""
    strategy, ledger = build(), Ledger(stream.source, stream.task_of, device)
    served: dict[int, Served] = {}
    shown: dict[int, Shown] = {}
    for index, event in enumerate(events):
        outcome = step(strategy, event, ledger).outcome
        release = strategy.release()
        if outcome.guarantee is not None and release is not None:
            shown[index] = Shown(event.name, isinstance(event, DeletionRequest), outcome.guarantee, release)
        if isinstance(event, DeletionRequest):
            held = strategy.holds(ledger.deleted_ids)
            stranded = int(outcome.notes.get("stranded_samples", 0))
            state = digest(strategy.state_dict())
            served[index] = Served(state, answers(strategy, asked), outcome.exactness or "none", stranded, held)
    last = served.get(len(events) - 1)  # a strategy is asked once at a moment
    if last is not None:
        return Lived(last.digest, last.answers, served, shown)
    return Lived(digest(strategy.state_dict()), answers(strategy, asked), served, shown)


def altered(stream: Stream, ids: np.ndarray, key: Key) -> Stream:
    """Return the same life of the same ids, but the rows `ids` hold other samples of the source, under other labels.

    A label is drawn from the other classes of the sample's unit, so that a task-aware model permits it too.
    """
    source = stream.source
    generator = (key / "other data").numpy()
    x, y = source.x.clone(), source.y.clone()
    other_rows = torch.from_numpy(generator.integers(0, len(source), len(ids)))
    x[ids] = source.x[other_rows]
    images = source.images  # a row and the images that it speaks of belong together
    if isinstance(images, Pictures):
        images = images.exchanged(ids, other_rows.numpy())
    elif images is not None:
        images = images.clone()
        images[ids] = images[other_rows]
    if y.is_floating_point():
        y[ids] = source.y[torch.from_numpy(generator.integers(0, len(source), len(ids)))]
    else:
        y[ids] = torch.from_numpy(_other_labels(source, stream.units, ids, generator))
    return replace(stream, source=replace(source, x=x, y=y, images=images))


def find(live_on: LiveOn, stream: Stream, requests: tuple[int, ...], key: Key) -> tuple[Lived, Iterator[Finding]]:
    """Live through the whole stream once; return that, and the findings for the requests at the events `requests`.

    Each finding takes two more lives up to its request. No life may see anything of another one.
    """
    nothing = np.array([], dtype=np.int64)
    lived = live_on(stream.events, nothing, key)

    def findings() -> Iterator[Finding]:
        for index in requests:
            events = stream.events[: index + 1]
            deleted = ledger_after(Ledger(stream.source), events).deleted_ids
            served, event = lived.served[index], events[-1]
            traces = np.setdiff1d(served.traces(), event.sample_ids)
            on_other_data = live_on(events, np.setdiff1d(deleted, traces), key / index)
            without = live_on(surviving(events), nothing, key)
            holders = sorted(name for name, ids in served.held.items() if np.isin(ids, event.sample_ids).any())
            whole = (served.digest, served.answers)
            is_certified = served.claim == "certified" and index in lived.shown
            yield Finding(
                request=event.name,
                event=index,
                samples=len(event.sample_ids),
                claim=served.claim,
                independent=(on_other_data.digest, on_other_data.answers) == whole,
                as_without=(without.digest, without.answers) == whole,
                stranded=served.stranded,
                held=tuple(holders),
                traces=len(traces),
                digest=served.digest,
                answers=served.answers,
                certified=check(index, lived.shown, on_other_data.shown, without.shown) if is_certified else None,
            )

    return lived, findings()


def choose(stream: Stream, count: int) -> tuple[int, ...]:
    """Return the events of at most `count` requests, evenly spread, the first and the last among them."""
    events = [i for i, e in enumerate(stream.events) if isinstance(e, DeletionRequest)]
    if count >= len(events):
        return tuple(events)
    spread = np.linspace(0, len(events) - 1, count).round().astype(int) if count > 1 else np.array([len(events) - 1])
    return tuple(events[i] for i in np.unique(spread))


def _spread(ids: np.ndarray) -> np.ndarray:
    """Return at most `MOST` of some ids, evenly spread."""
    return ids[np.unique(np.linspace(0, len(ids) - 1, min(MOST, len(ids))).round().astype(int))]


def _other_labels(
    source: Source, units: tuple[Unit, ...], ids: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    labels = source.y[torch.from_numpy(ids)].numpy().copy()
    classes_of = {c: unit.classes for unit in units for c in unit.classes}
    for position, label in enumerate(labels.tolist()):
        others = [c for c in classes_of.get(label, ()) if c != label]
        if others:
            labels[position] = others[int(generator.integers(len(others)))]
    return labels
