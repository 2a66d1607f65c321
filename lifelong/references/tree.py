"""References: other models the run is held against, each computed once.

A reference is a chain of events lived by a strategy. Chains of many references share prefixes (the retrained
references of all requests start alike), so they are laid out as a tree that is walked once: a snapshot is kept only
where the tree branches, and only until its last branch is done. Results are cached on disk by content: the chain, the
configuration and the code. Other strategies with the same learner, and other runs of a study, find them there.

A walk that was stopped goes on where its life stood; what else is missing is walked to from the beginning, so that an
interruption costs common beginnings once more and nothing of what was finished.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from lifelong.config.parts import StrategyParts
from lifelong.config.run import ReferenceKind, StrategyConfig, find_strategy
from lifelong.evaluation.outputs import Outputs, with_stored
from lifelong.evaluation.sealing import is_sealed, seal, unseal
from lifelong.files import write_cached
from lifelong.references.snapshot import Snapshot
from lifelong.references.under_way import UnderWay
from strategies.base import State, Strategy
from strategies.outcome import Outcome
from strategies.parts.together import give_way
from strategies.parts.training.timing import now
from strategies.step import ledger_after, restore, step
from streams.errors import CheckpointError
from streams.events import Event
from streams.ledger import Ledger
from streams.stream import event_digest


class Moment(Protocol):
    """What is wanted of a life: it stands beside one event of the main run."""

    @property
    def event(self) -> int:
        """Index of that event."""
        ...


class Looker(Protocol):
    """Measures a life where it is wanted."""

    def evaluate(self, strategy: Strategy, event: int) -> Outputs:
        """Return the outputs of a strategy that stands beside `event`."""

    def looks_at(self, event: int) -> bytes:
        """Return what decides, beside the strategy, what is measured there."""


MomentT = TypeVar("MomentT", bound=Moment)

Missing = Mapping[Any, tuple[tuple[Event, ...], Path]]
"""What is not in the cache yet: for each moment its chain of events, and the file that its outputs go to."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """How lives go on in processes of their own.

    Attributes:
        live: does what `References.live` does, for each part of what is missing; returns what each cost, in order.
        split: makes the parts.
        alone: whether a life must not be lived in this process; else one part is.
    """

    live: Callable[[Sequence[Missing]], list[Outcome]]
    split: Callable[[Missing], list[Missing]]
    alone: bool


@dataclass(slots=True)
class _Node:
    """A state that some references pass through; `visits` are the samples passed forward and backward until then."""

    events: tuple[Event, ...]  # of one of those references
    length: int  # how many of them lead here
    name: str  # a hash of these
    children: dict[str, _Node] = field(default_factory=dict)
    wanted: list[tuple[Moment, Path]] = field(default_factory=list)
    visits: int = 0

    def pending(self) -> list[_Node]:
        return [c for c in self.children.values() if c.wanted or c.children]


@dataclass(slots=True)
class Cost:
    """What computing references took; nothing for those found in the cache."""

    outcome: Outcome = field(default_factory=Outcome)
    seconds: float = 0.0
    computed: int = 0
    cached: int = 0

    def __add__(self, other: Cost) -> Cost:
        """Return both together."""
        return Cost(
            self.outcome + other.outcome,
            self.seconds + other.seconds,
            self.computed + other.computed,
            self.cached + other.cached,
        )


# Why: docs/decisions.md#references-are-a-tree
class References:
    """Computes references of one family: one way to build the strategy, hence one tree of chains."""

    def __init__(
        self,
        build: Callable[[], Strategy],
        make_ledger: Callable[[], Ledger],
        evaluator: Looker,
        identity: str,
        secret: bytes,
        folder: Path,
        elsewhere: Elsewhere | None = None,
        under_way: UnderWay | None = None,
    ) -> None:
        """Prepare.

        Args:
            build: returns the strategy in its initial state.
            make_ledger: returns an empty ledger.
            evaluator: measures it.
            identity: hash of everything beside the events that decides the outputs.
            secret: outputs are sealed with it (`lifelong.evaluation.sealing`).
            folder: cache directory.
            elsewhere: how lives go on in other processes; None to live here.
            under_way: keeps a life that is not over; None begins again what is interrupted.
        """
        self._under_way = under_way
        self._build, self._make_ledger, self._evaluator = build, make_ledger, evaluator
        self._identity, self._secret, self._folder, self._elsewhere = identity, secret, folder, elsewhere
        self.cost = Cost()

    def compute(self, wanted: Mapping[MomentT, tuple[Event, ...]]) -> Iterator[tuple[MomentT, Outputs]]:
        """Yield the outputs at every point, one at a time; all of them together may not fit in memory.

        Args:
            wanted: for each point its chain of events.

        Yields:
            The point and its outputs, with `visits` among their details.
        """
        started = now()
        files = {p: self.file_of(c, p.event) for p, c in wanted.items()}
        if not all(self._is_whole(file) for file in files.values()):
            with self._locked():  # another process may have computed them in the meantime
                missing = {p: (c, files[p]) for p, c in wanted.items() if not self._is_whole(files[p])}
                self.cost.computed += len(missing)
                for outcome in self._live_somewhere(missing) if missing else ():
                    self.cost.outcome += outcome
        self.cost.cached += len(wanted) - self.cost.computed
        self.cost.seconds += now() - started
        for point, file in files.items():
            yield point, self._must_read(file)

    def _live_somewhere(self, missing: Missing) -> list[Outcome]:
        if self._elsewhere is not None:
            parts = self._elsewhere.split(missing)
            if self._elsewhere.alone or len(parts) > 1:
                return self._elsewhere.live(parts)
        return [self.live(missing)]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process at a time compute references of this family; the system lets go of what a dead one held."""
        self._folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.blake2b(self._identity.encode(), digest_size=8).hexdigest()
        with (self._folder / f"{name}.lock").open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not give_way():  # nobody here holds it
                        fcntl.flock(file, fcntl.LOCK_EX)
                        break
            yield

    def file_of(self, events: tuple[Event, ...], at: int) -> Path:
        """Return where the outputs of a life of `events` beside the event `at` are kept."""
        return self._folder / f"{self.name_of(events, at)}.sealed"

    def name_of(self, events: tuple[Event, ...], at: int) -> str:
        """Return a hash of all that decides the outputs of a life of `events` beside the event `at`."""
        h = hashlib.blake2b(self._identity.encode(), digest_size=16)
        for event in events:
            h.update(event_digest(event).encode())
        h.update(self._evaluator.looks_at(at))
        return h.hexdigest()

    def live(self, missing: Missing) -> Outcome:
        """Live through all chains, write outputs to their files, and return what that cost."""
        outcome = Outcome()
        if (begun := self._begun(missing)) is not None:
            outcome += self._walk(*begun)
            missing = {point: (events, file) for point, (events, file) in missing.items() if not self._is_whole(file)}
        return outcome + self._walk(self._tree(missing)) if missing else outcome

    def _begun(self, missing: Missing) -> tuple[_Node, State] | None:
        """Return how far an earlier attempt has come on the way to something, with the state that it had there."""
        if self._under_way is None:
            return None
        nodes, waiting = dict[str, _Node](), [self._tree(missing)]
        while waiting:
            node = waiting.pop()
            nodes[node.name] = node
            waiting += node.children.values()
        found = self._under_way.find(nodes)
        furthest = max(found, key=lambda name: nodes[name].length, default=None)
        return None if furthest is None else (nodes[furthest], found[furthest])

    def _tree(self, missing: Missing) -> _Node:
        root = _Node((), 0, "")
        for point, (events, file) in missing.items():
            node = root
            for index, event in enumerate(events):
                key = event_digest(event)
                if key not in node.children:
                    name = hashlib.blake2b((node.name + key).encode(), digest_size=16).hexdigest()
                    node.children[key] = _Node(events, index + 1, name)
                node = node.children[key]
            node.wanted.append((point, file))
        return root

    def _walk(self, root: _Node, kept: State | None = None) -> Outcome:
        """Visit the tree depth first; keep a snapshot at each branching until its last branch is taken.

        Args:
            root: where to begin.
            kept: what was kept there (see `_step`), or None at the beginning of all lives.
        """
        strategy, ledger = self._build(), self._make_ledger()
        node, total = root, Outcome()
        if kept is not None:
            node.visits = kept["visits"]
            restore(strategy, kept["state"], ledger_after(ledger, node.events[: node.length]))
        branches: list[tuple[_Node, list[_Node], Snapshot]] = []
        while True:
            parent = node
            for point, file in node.wanted:
                self._write(file, self._evaluator.evaluate(strategy, point.event), node.visits)
            following = node.pending()
            if len(following) > 1:
                branches.append((node, following[1:], Snapshot(strategy.state_dict())))
            if following:
                node = following[0]
            elif branches:
                at, children, snapshot = branches.pop()
                parent = at
                ledger = ledger_after(self._make_ledger(), at.events[: at.length])
                restore(strategy, snapshot.state(), ledger)
                if len(children) > 1:
                    branches.append((at, children[1:], snapshot))
                node = children[0]
            else:
                if self._under_way is not None:
                    self._under_way.drop()
                return total
            total += self._step(strategy, node, ledger, parent.visits)

    def _step(self, strategy: Strategy, node: _Node, ledger: Ledger, visits: int) -> Outcome:
        """Live the event that leads to `node`, before which there were so many visits; keep where that led if due."""
        event, under_way = node.events[node.length - 1], self._under_way
        with contextlib.nullcontext() if under_way is None else under_way.event(node.name) as progress:
            outcome = step(strategy, event, ledger).outcome
        node.visits = visits + outcome.forward + outcome.backward
        if under_way is not None and progress is not None and under_way.is_due(progress):
            under_way.keep(node.name, {"state": strategy.state_dict(), "visits": node.visits})
        return outcome

    def _write(self, file: Path, outputs: Outputs, visits: int) -> None:
        arrays = {"scores": outputs.scores, "losses": outputs.losses, "details/visits": np.array(visits)}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays, **outputs.stored())  # type: ignore[arg-type]
        write_cached(file, seal(buffer.getvalue(), self._secret, file.stem))

    def _read(self, file: Path) -> Outputs | None:
        """Return cached outputs, or None if there are none or the file is damaged (it is computed again then)."""
        try:
            content = unseal(file.read_bytes(), self._secret, file.stem)
        except OSError:
            return None
        if content is None:
            return None
        with np.load(io.BytesIO(content)) as arrays:
            stored = {name: arrays[name] for name in arrays if name not in {"scores", "losses"}}
            return with_stored(arrays["scores"], arrays["losses"], stored)

    def _is_whole(self, file: Path) -> bool:
        try:
            return is_sealed(file.read_bytes(), self._secret, file.stem)
        except OSError:
            return False

    def _must_read(self, file: Path) -> Outputs:
        outputs = self._read(file)
        if outputs is None:
            raise CheckpointError(f"{file} was just written and cannot be read back; is the disk full or failing?")
        return outputs


def lines(missing: Missing) -> list[Missing]:
    """Split what is missing into single lives: what lies on the way to another point is one life with it."""
    split: list[tuple[list[str], dict[Any, tuple[tuple[Event, ...], Path]]]] = []
    for point, (events, file) in sorted(missing.items(), key=lambda item: -len(item[1][0])):
        keys = [event_digest(e) for e in events]
        for longer, line in split:
            if longer[: len(keys)] == keys:
                line[point] = (events, file)
                break
        else:
            split.append((keys, {point: (events, file)}))
    return [line for _, line in split]


# Why: docs/decisions.md#branches-of-references-may-go-on-beside-each-other
def shares(missing: Missing, count: int) -> list[Missing]:
    """Split what is missing into at most `count` parts of about equal work, for processes beside each other.

    Lives with a long common beginning come into one part, since every part lives through its beginnings alone. What is
    missing stays together where that would take less than a fifth off the time.
    """
    digests = {point: [event_digest(e) for e in events] for point, (events, _) in missing.items()}
    ordered = sorted(missing, key=lambda point: digests[point])  # common beginnings stand side by side
    alone, beyond = list[int](), list[int]()  # work of each life, and what of it is not in the one before
    before: list[str] = []
    for point in ordered:
        work = [0, *itertools.accumulate(1 + len(e.sample_ids) for e in missing[point][0])]
        both = zip(before, digests[point], strict=False)
        common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], both))
        alone.append(work[-1])
        beyond.append(work[-1] - work[common])
        before = digests[point]
    low, high = max(alone), sum(beyond)
    while low < high:  # the least work of the longest part
        middle = (low + high) // 2
        low, high = (low, middle) if len(_filled(alone, beyond, middle)) <= count else (middle + 1, high)
    parts = _filled(alone, beyond, low)
    if low > 0.8 * sum(beyond):
        return [missing]
    return [{ordered[n]: missing[ordered[n]] for n in part} for part in parts]


def _filled(alone: Sequence[int], beyond: Sequence[int], most: int) -> list[list[int]]:
    """Return numbers of lives, in order, in as few parts as do at most `most` work each."""
    parts: list[list[int]] = []
    done = most + 1
    for number, (whole, more) in enumerate(zip(alone, beyond, strict=True)):
        if done + more > most:
            parts.append([])
            done = whole
        else:
            done += more
        parts[-1].append(number)
    return parts


def reference_parts(kind: ReferenceKind, strategy: StrategyParts) -> StrategyParts:
    """Return what a reference's strategy is built from.

    Only no-op serves requests and needs the unlearner; all others only learn, so that strategies with the same
    learner share them. Joint is the same for all strategies: no method is needed where nothing comes later.
    """
    if kind == "joint":
        return find_strategy(StrategyConfig(), strategy.where)
    if kind == "no-op" or strategy.isolated is not None:
        return strategy
    return replace(find_strategy(StrategyConfig(), strategy.where), learner=strategy.learner)
