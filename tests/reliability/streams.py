"""Streams: on random streams, who claims exactness has the state and the answers of a life without the deleted data.

    python tests/reliability/streams.py --streams 200 --json tests/reliability/results/streams.json

Scenario, data, users, duplicates, requests, learning again, service, model and training of a stream are drawn by name.
Every strategy that may claim exactness lives on each, and one of its requests, another for each strategy, is tested as
`lifelong verify` tests it: with other data in the place of all that is deleted by then, and without it. States and
answers are compared bit for bit. Faulty strategies, of which `lifelong verify` must refute each, live on the same
streams: how many streams catch one says what the test can see.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from _common import Counts, arguments
from _drawn import world_build, world_number
from contract.candidates import Candidate, candidates, class_named, text_candidates
from contract.worlds import World

from lifelong.verification.controls import CONTROLS
from lifelong.verification.replay import Finding, LiveOn, altered, find, live, questions
from strategies.base import Strategy
from strategies.isolated import sisa
from streams.errors import ConfigError, LifelongError, StreamError, TrainingError
from streams.events import DeletionRequest
from streams.randomness import Key


def may_claim(candidate: Candidate) -> bool:
    """Whether it may call a service exact: it retrains, or it is isolated."""
    kind, name = candidate.parts[-1]
    return candidate.config.guard is None and (kind == "isolated" or class_named(kind, name).exact is not None)


def claimants(world: World) -> Iterable[tuple[str, Callable[[], Strategy]]]:
    """Names of strategies, and what builds them."""
    of_text = world.name == "text"
    for candidate in text_candidates() if of_text else candidates():
        kind = "tokens" if of_text else world.setting.objective.predicts
        if may_claim(candidate) and kind in candidate.supports:
            yield candidate.name, partial(world_build, world, candidate)


def test(world: World, build: Callable[[], Strategy], request: int, key: Key) -> Finding:
    """What three lives say of one request; none goes on after it."""
    asked = questions(world.stream, world.setting.objective, 256)
    stream = replace(world.stream, events=world.stream.events[: request + 1])

    def live_on(events: Any, ids: np.ndarray, key: Key) -> Any:
        return live(build, altered(stream, ids, key) if len(ids) else stream, events, "cpu", asked)

    on: LiveOn = live_on
    _, findings = find(on, stream, (request,), key)
    return next(findings)


def count(counts: Counts, name: str, where: str, found: Finding) -> None:
    """Add a finding to the counts, and a counterexample to the failures."""
    counts.add(1, "strategies", name, "lives")
    if found.claim == "none":
        counts.add(1, "strategies", name, "claims nothing")
        return
    counts.add(1, "strategies", name, f"claims {found.claim}")
    if found.claim == "certified":  # up to noise, which bits do not show
        if not found.upheld:
            counts.fail(f"{name}, {where}, {found.request}: {found}")
        return
    counts.add(found.independent, "strategies", name, "as with other data")
    if found.stranded or found.traces:
        counts.add(1, "strategies", name, "gave up others")
    else:
        counts.add(found.as_without, "strategies", name, "as without")
    if not found.upheld:
        counts.fail(f"{name}, {where}, {found.request}: {found}")


def main() -> int:
    parser = arguments(__doc__, minutes=60)
    parser.add_argument("--streams", type=int, default=3, help="of all calls together")
    parser.add_argument(
        "--only", metavar="NAME", nargs="+", help="some strategies, by their names (for looking at one)"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    counts = Counts(options.json, options.minutes)
    while counts.get("streams") < options.streams and counts.time_left:
        number = counts.get("streams")
        world = world_number(options.seed, number)
        requests = [i for i, e in enumerate(world.stream.events) if isinstance(e, DeletionRequest)]
        where = f"stream {number} ({world.name})"
        print(f"{where}: {len(world.stream.events)} events, {len(requests)} requests", flush=True)
        for name, build in claimants(world):
            if options.only and name not in options.only:
                continue
            dice = random.Random(f"{options.seed}/stream-{number}/{name}")
            key = Key(options.seed) / "stream" / number / name
            try:
                found = test(world, build, dice.choice(requests), key)
            except (ConfigError, StreamError, TrainingError) as error:  # it says that this stream or rate is not for it
                counts.add(1, "strategies", name, "diverged" if isinstance(error, TrainingError) else "refused")
                continue
            except LifelongError as error:
                counts.fail(f"{name}, {where}: {type(error).__name__}: {error}")
                continue
            count(counts, name, where, found)
        if world.setting.objective.predicts == "classes" and not options.only:
            for name, make in CONTROLS.items():
                config = sisa.Config(shards=2, slices=2)
                try:
                    found = test(world, partial(make, config, world.setting), requests[-1], Key(options.seed) / name)
                except ConfigError:
                    continue
                counts.add(1, "faulty", name, "streams")
                counts.add(not found.upheld, "faulty", name, "refuted")
        counts.add(1, "streams")
        counts.add(1, "scenarios", world.name)
        counts.add(len(requests), "requests")
        counts.save()
    return counts.close()


if __name__ == "__main__":
    sys.exit(main())
