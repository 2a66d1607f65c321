"""From a source to a stream: a scenario makes a plan, a schedule places requests, `assemble` makes events of both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from streams.errors import StreamError
from streams.events import DeletionRequest, Event, Experience, Reason, Request, Retention, Scope, Unit
from streams.ledger import Life
from streams.members import Members
from streams.names import names_of, shown
from streams.randomness import Key
from streams.returns import Returns
from streams.source import Source, copy_groups
from streams.stream import Stream


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What a scenario makes of a source: everything there is to learn, in order.

    Attributes:
        source: the data; a scenario that makes new samples (permuted, rotated) returns a new one.
        units: what accuracy is reported for.
        experiences: what is learned, in order.
        task_of: int64 ``[N]`` task label of each row if the model is task-aware, else None.
    """

    source: Source
    units: tuple[Unit, ...]
    experiences: tuple[Experience, ...]
    task_of: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Learn:
    """Learn the experience of that index in the plan."""

    experience: int
    retention: Retention | None = None


@dataclass(frozen=True, slots=True)
class Consolidate:
    """Make permanent what the experience of that index taught as temporary."""

    experience: int


@dataclass(frozen=True, slots=True)
class Aim:
    """Samples are chosen by what a strategy (None: the first) has published: those one constituent is surest of."""

    publisher: str | None
    constituent: int


@dataclass(frozen=True, slots=True)
class Choice:
    """Samples are chosen by how they fare once they are unlearned, as `lifelong.setup.worst_case_requests` does it.

    Attributes:
        kind: worst (their loss stays low) or easy (it becomes high).
        rounds, passes: updates of the selection, and passes over the data before each.
        lr: step of the signs of the gradient in these.
        step: of the selection's weights, in units of one over the median loss.
        gamma: strength of the penalty on the squared weights.
    """

    kind: Literal["worst", "easy"]
    rounds: int
    passes: int
    lr: float
    step: float
    gamma: float


@dataclass(frozen=True, slots=True)
class RequestSpec:
    """A request to forget as a schedule wants it. Without `keys` they are drawn by name from what is live.

    Attributes:
        scope: what the keys name.
        keys: sample ids, class ids, unit indices or user ids.
        count: how many keys to draw when `keys` is None.
        age: draw only from data learned at least that many learn events ago.
        reason, exact: see `DeletionRequest`.
        choice: choose samples by a model instead of drawing them; None draws.
        window: choose only from data learned in that many latest learn events; None from all.
    """

    scope: Scope
    keys: tuple[int, ...] | None = None
    count: int = 1
    age: int = 0
    reason: Reason = "erase"
    exact: bool = False
    choice: Choice | Aim | None = None
    window: int | None = None


STRICTEST: tuple[Reason, ...] = ("erase", "suppress", "correct")
"""Requests that are served together have the first of these that one of them has."""

Choose = Callable[[Plan, tuple[Event, ...], np.ndarray, RequestSpec, Key], np.ndarray]
"""Chooses samples: given the plan, the events so far, ids to choose from, the spec and a key, returns ids."""


@dataclass(frozen=True, slots=True)
class Again:
    """Learn again what the request of that number (from 0) deleted."""

    request: int


Scheduled = Learn | Consolidate | RequestSpec | Again


@dataclass(frozen=True, slots=True)
class Service:
    """When pending requests are served, and what they cover.

    Attributes:
        wait_for: serve when that many requests are pending; 1 serves each at once.
        deadline: serve at the latest when that many learn events have passed since the oldest arrived.
        copies: whether a request also covers bit-for-bit copies of what it names, learned or still to come.
    """

    wait_for: int = 1
    deadline: int | None = None
    copies: bool = False


@dataclass(slots=True)
class _Timeline:
    """The events so far and what they did to each sample."""

    plan: Plan
    members: Members
    life: np.ndarray
    learned_at: np.ndarray
    awaits: np.ndarray  # bool [N]: named by a request that is pending
    choose: Choose | None = None
    groups: np.ndarray | None = None  # which rows are copies of each other, where requests cover those
    returns: Returns | None = None  # where anything is learned again
    events: list[Event] = field(default_factory=list)
    pending: list[tuple[int, RequestSpec, Request]] = field(default_factory=list)
    served: dict[int, tuple[int, Request]] = field(default_factory=dict)
    num_learned: int = 0
    num_requests: int = 0


def assemble(
    plan: Plan, scheduled: Iterable[Scheduled], service: Service, key: Key, choose: Choose | None = None
) -> Stream:
    """Turn a schedule into events: draw keys, resolve them to samples, gather requests that wait, bring data back.

    Args:
        plan: from a scenario.
        scheduled: what a schedule places, in order.
        service: when pending requests are served.
        key: names the draws of keys.
        choose: chooses samples where a spec wants them chosen; a stream has no model of its own to do it.

    Raises:
        StreamError: a request names what was never learned or is already deleted, or nothing is left to draw from.
    """
    n, scheduled = len(plan.source), list(scheduled)
    line = _Timeline(
        plan,
        Members(plan.source, len(plan.units), plan.experiences),
        np.zeros(n, dtype=np.int8),
        np.full(n, -1),
        np.zeros(n, dtype=bool),
        choose,
        copy_groups(plan.source) if service.copies else None,
        Returns(n) if any(isinstance(entry, Again) for entry in scheduled) else None,
    )
    for position, entry in enumerate(_numbered(scheduled)):
        match entry:
            case Learn(index, retention):
                _learn(line, replace(plan.experiences[index], retention=retention))
            case Consolidate(index):
                _consolidate(line, plan.experiences[index])
            case (number, RequestSpec() as spec):
                # "wish" is part of the names of draws, and of those of events: another word would change every stream.
                line.pending.append((number, spec, _request(line, spec, key / "wish" / number)))
                line.awaits[line.pending[-1][2].sample_ids] = True
                line.awaits[line.pending[-1][2].barred_ids] = True  # covered too if they arrive meanwhile
            case Again(number):
                _learn(line, _learned_again(line, number, position))
        _serve(line, service)
    _serve(line, service, flush=True)
    return Stream(plan.source, _units(plan), tuple(line.events), plan.task_of)


def _units(plan: Plan) -> tuple[Unit, ...]:
    """Return the plan's units without test rows that only show what was done to the data."""
    if plan.source.corruption is None:
        return plan.units
    extra = plan.source.corruption.extra
    return tuple(Unit(u.name, u.classes, np.setdiff1d(u.test_ids, extra)) for u in plan.units)


def _numbered(scheduled: Iterable[Scheduled]) -> Iterable[Learn | Consolidate | Again | tuple[int, RequestSpec]]:
    count = 0
    for entry in scheduled:
        if isinstance(entry, RequestSpec):
            yield count, entry
            count += 1
        else:
            yield entry


def _learn(line: _Timeline, experience: Experience) -> None:
    ids = experience.sample_ids
    if not experience.incarnation:
        ids = ids[line.life[ids] != Life.DELETED]
    line.life[ids] = Life.LEARNED
    line.learned_at[ids] = line.num_learned
    _append(line, experience)


def _consolidate(line: _Timeline, experience: Experience) -> None:
    ids = experience.sample_ids[line.life[experience.sample_ids] == Life.LEARNED]
    if not len(ids):
        raise StreamError(f"{experience.name} cannot become permanent: none of its samples is live at that moment.")
    name = f"{experience.name}-consolidated"
    _append(line, replace(experience, name=name, sample_ids=ids, retention="permanent", consolidates=True))


def _append(line: _Timeline, experience: Experience) -> None:
    line.num_learned += 1
    line.events.append(experience)
    if line.returns is not None:
        line.returns.learned(experience)


def _members(line: _Timeline, scope: Scope, keys: Sequence[int]) -> np.ndarray:
    """All training ids, learned or not, that `keys` stand for."""
    source = line.plan.source
    if scope == "sample":
        ids = np.unique(np.array(keys, dtype=np.int64))
        wrong = ids[(ids < 0) | (ids >= len(source))]
        if len(wrong):
            raise StreamError(f"A request names sample {wrong[0]}; {source.name!r} has samples 0 to {len(source) - 1}.")
        return ids
    if scope == "task":
        wrong_units = [k for k in keys if not 0 <= k < len(line.plan.units)]
        if wrong_units:
            raise StreamError(f"A request names task {wrong_units[0]}; there are 0 to {len(line.plan.units) - 1}.")
    return line.members.of(scope, keys)


def _draw(line: _Timeline, spec: RequestSpec, key: Key) -> tuple[int, ...]:
    """Draw `spec.count` keys from what is live and old enough."""
    live = (line.life == Life.LEARNED) & (line.num_learned - line.learned_at > spec.age)
    live &= ~line.awaits
    if spec.window is not None:
        live &= line.num_learned - line.learned_at <= spec.window
    choices = np.flatnonzero(live) if spec.scope == "sample" else line.members.keys_with(spec.scope, live)
    if len(choices) < spec.count:
        raise StreamError(
            f"A request wants {spec.count} {spec.scope}(s) to delete after {line.num_learned} experiences, but only "
            f"{len(choices)} are live and of the age it asks for. Ask for fewer, or later."
        )
    if spec.choice is not None:
        return _chosen_by_model(line, spec, choices, key)
    return tuple(sorted(choices[key.first(choices, spec.count)].tolist()))


def _chosen_by_model(line: _Timeline, spec: RequestSpec, candidates: np.ndarray, key: Key) -> tuple[int, ...]:
    if line.choose is None:
        raise StreamError("A request wants its samples chosen by a model, and there is none; use `lifelong run`.")
    ids = line.choose(line.plan, tuple(line.events), candidates, spec, key)
    return tuple(sorted(ids.tolist()))


def _request(line: _Timeline, spec: RequestSpec, key: Key) -> Request:
    keys = _draw(line, spec, key) if spec.keys is None else tuple(sorted(spec.keys))
    members = _members(line, spec.scope, keys)
    live = members[line.life[members] == Life.LEARNED]
    if spec.scope == "sample" and len(live) < len(members):
        wrong = members[line.life[members] != Life.LEARNED][0]
        raise StreamError(f"A request names sample {wrong}, which is {_state(line, int(wrong))} at that moment.")
    if not len(live):
        state = "already deleted" if (line.life[members] == Life.DELETED).any() else "never learned"
        names = names_of(spec.scope, line.plan.source, line.plan.units)
        called = [shown(spec.scope, k, names[k]) if 0 <= k < len(names) else str(k) for k in keys]
        raise StreamError(
            f"A request names {spec.scope} {', '.join(called)} after {line.num_learned} experiences: "
            f"its data is {state} at that moment. Place the request later, or name another {spec.scope} "
            f"(there are {names[0]} to {names[-1]})."
        )
    return _covering(line, spec.scope, keys, line.num_learned)


def _covered(line: _Timeline, scope: Scope, keys: tuple[int, ...]) -> np.ndarray:
    """All training ids, learned or not, that `keys` stand for, with their copies where requests cover those."""
    members = _members(line, scope, keys)
    if line.groups is None:
        return members
    is_named = np.zeros(len(line.groups), dtype=bool)
    is_named[line.groups[members]] = True
    return np.flatnonzero(is_named[line.groups])


def _covering(line: _Timeline, scope: Scope, keys: tuple[int, ...], received: int) -> Request:
    """Return the request for all that the keys stand for at this moment."""
    members = _covered(line, scope, keys)
    life = line.life[members]
    return Request(scope, keys, members[life == Life.LEARNED], members[life == Life.UNSEEN], received)


def _state(line: _Timeline, sample_id: int) -> str:
    if line.plan.source.is_test[sample_id]:
        return "a test sample"
    return "already deleted" if line.life[sample_id] == Life.DELETED else "never learned"


def _serve(line: _Timeline, service: Service, flush: bool = False) -> None:
    """Serve all pending requests once there are enough, or the oldest has waited long enough."""
    if not line.pending:
        return
    oldest = line.num_learned - line.pending[0][2].received
    due = len(line.pending) >= service.wait_for or (service.deadline is not None and oldest >= service.deadline)
    if not (due or flush):
        return
    requests = []
    for number, _, request in line.pending:
        # Data that arrived while the request was waiting is covered too.
        requests.append(_covering(line, request.scope, request.keys, request.received))
        line.served[number] = (line.num_requests, requests[-1])
        if line.returns is not None:
            line.returns.named(_covered(line, request.scope, request.keys), number, line.num_requests)
    specs = [spec for _, spec, _ in line.pending]
    reason = next(r for r in STRICTEST if any(s.reason == r for s in specs))
    served = DeletionRequest(f"request-{line.num_requests}", tuple(requests), reason, any(s.exact for s in specs))
    line.life[served.sample_ids] = Life.DELETED
    line.life[served.barred_ids] = Life.DELETED
    line.events.append(served)
    line.num_requests += 1
    line.pending.clear()
    line.awaits[:] = False


def _learned_again(line: _Timeline, number: int, position: int) -> Experience:
    if number not in line.served:
        raise StreamError(
            f"Nothing to learn again at position {position} of the schedule: request {number} has not been served."
        )
    assert line.returns is not None
    place, request = line.served[number]
    # Someone else may have asked for some of these to be forgotten, too.
    ids = request.sample_ids[~line.returns.named_by_others(request.sample_ids, number, place)]
    if not len(ids):
        raise StreamError(
            f"Nothing to learn again at position {position} of the schedule: other requests name all that "
            f"request {number} deleted."
        )
    return line.returns.taught_again(f"wish-{number}-again", ids)
