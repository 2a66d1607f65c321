"""Certified: on random streams, what heads promise up to noise is upheld by the tests of `lifelong verify`.

    python tests/reliability/certified.py --streams 100 --json tests/reliability/results/certified.json

Streams are drawn as those of `streams.py`, and options of the heads by name: budgets, noise, scope of an account,
strength of the penalty. Every head that may give the grade certified lives through each whole stream, and up to two of
its requests are tested: how far the secret weights are from those of a life without the deleted data and of one with
other data in its place, whether noise depends on the data, and whether the account holds every publication until the
end of the life. The noise of all publications is tested as noise. Faulty heads, which these tests must refute, live
there too.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from _common import Counts, arguments
from _drawn import world_build, world_number
from contract.candidates import Candidate
from contract.worlds import World

from lifelong.config.run import StrategyConfig
from lifelong.verification.certified import NoiseFinding, noise
from lifelong.verification.certified_controls import CERTIFIED_CONTROLS
from lifelong.verification.replay import Finding, altered, find, live
from strategies.base import Strategy
from strategies.isolated import certified_head
from streams.config import parse
from streams.errors import ConfigError, LifelongError, StreamError
from streams.events import DeletionRequest, Event
from streams.randomness import Key

REQUESTS = 2
"""At most so many requests of a stream are tested for each head: the last, and a drawn one, which may be the same."""

HEADS: dict[str, Callable[[random.Random], dict[str, Any]]] = {
    "certified-head": lambda d: {
        "sigma": d.choice([0.01, 0.1, 1.0]),
        "scope": d.choice(["transcript", "transcript", "last"]),
        "steps": d.choice(["auto", "auto", 1, 2]),
        "publications": d.choice([3, 20, 100]),
        "l2": d.choice([0.01, 0.1]),
    },
    "anchored-head": lambda d: {
        "sigma": d.choice([1.0, 10.0, 100.0]),
        "scope": d.choice(["transcript", "last"]),
        "moves": d.choice(["bound", "measured"]),
        "anchor": d.choice([0.1, 1.0]),
    },
    "newton-removal": lambda d: {
        "l2": d.choice([0.1, 1.0]),
        "noise": d.choice([3.0, 10.0, 30.0]),
        "bound": d.choice(["fourth", "worst-case"]),
    },
    "descent-to-delete": lambda d: {
        "l2": d.choice([0.01, 0.1]),
        "rows": d.choice([4, 40]),
        "steps": d.choice([10, 60]),
    },
    "dp-head": lambda d: {
        "steps": d.choice([3, 10]),
        "noise_multiplier": d.choice([30.0, 300.0]),
        "clip_norm": d.choice([0.5, 2.0]),
    },
}
"""Options of heads; also how much a request is promised is drawn (`budget`)."""


def budget(dice: random.Random) -> dict[str, float]:
    """What a request is promised."""
    return {"epsilon": dice.choice([0.3, 1.0, 4.0]), "delta": dice.choice([1e-6, 1e-4])}


def test(
    world: World, make: Callable[[], Strategy], requests: tuple[int, ...], key: Key
) -> tuple[list[Finding], NoiseFinding | None]:
    """What is found of some requests, and of the noise of the whole life."""

    def live_on(events: tuple[Event, ...], ids: np.ndarray, key: Key) -> Any:
        return live(make, altered(world.stream, ids, key) if len(ids) else world.stream, events)

    lived, findings = find(live_on, world.stream, requests, key)
    return list(findings), noise(lived.shown)


def count(counts: Counts, name: str, where: str, found: list[Finding], heard: NoiseFinding | None) -> None:
    """Add what was found of a head to the counts, and what refutes it to the failures."""
    counts.add(1, "heads", name, "lives")
    for finding in found:
        counts.add(1, "heads", name, f"claims {finding.claim}")
        if finding.claim != "certified":
            continue
        if finding.certified is not None:
            counts.add(1, "heads", name, "tested")
            counts.add(finding.certified.distance is not None, "heads", name, "beside a life without")
            counts.add(finding.certified.stated is not None, "heads", name, "accounts open at the end")
        if not finding.upheld:
            counts.fail(f"{name}, {where}, {finding.request}: {finding}")
    if heard is not None:
        counts.add(1, "heads", name, "lives with noise")
        counts.add(heard.publications, "heads", name, "publications")
        if not heard.upheld:
            counts.fail(f"{name}, {where}: {heard}")


def refuted(found: list[Finding], heard: NoiseFinding | None) -> bool:
    """Whether a test speaks against a head."""
    return not all(f.upheld for f in found) or (heard is not None and not heard.upheld)


def on_stream(counts: Counts, world: World, seed: int, number: int) -> None:
    """Let all heads, and the faulty ones, live through a stream."""
    requests = [i for i, e in enumerate(world.stream.events) if isinstance(e, DeletionRequest)]
    where = f"stream {number} ({world.name})"
    print(f"{where}: {len(world.stream.events)} events, {len(requests)} requests", flush=True)
    for name, draw in HEADS.items():
        dice = random.Random(f"{seed}/certified-{number}/{name}")
        options = {"name": name, **draw(dice), **budget(dice)}
        head = Candidate(name, parse(StrategyConfig, {"isolated": options}))
        tested = tuple(sorted({requests[-1], *dice.sample(requests, min(len(requests), REQUESTS - 1))}))
        try:
            found = test(world, partial(world_build, world, head), tested, Key(seed) / "certified" / number / name)
        except (ConfigError, StreamError):
            counts.add(1, "heads", name, "refused")
            continue
        except LifelongError as error:
            counts.fail(f"{name}, {where}: {type(error).__name__}: {error}")
            continue
        count(counts, name, f"{where}, {options}", *found)
    for name, make in CERTIFIED_CONTROLS.items():
        try:
            found = test(
                world, partial(make, certified_head.Config(), world.setting), (requests[-1],), Key(seed) / name
            )
        except ConfigError:
            continue
        counts.add(1, "faulty", name, "streams")
        counts.add(refuted(*found), "faulty", name, "refuted")
    counts.add(1, "scenarios", world.name)
    counts.add(len(requests), "requests")


def main() -> int:
    parser = arguments(__doc__, minutes=30)
    parser.add_argument("--streams", type=int, default=3, help="of all calls together")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    counts = Counts(options.json, options.minutes)
    while counts.get("streams") < options.streams and counts.time_left:
        world = world_number(options.seed, counts.get("drawn"))
        if world.setting.objective.predicts == "classes":  # the others are not for heads
            on_stream(counts, world, options.seed, counts.get("drawn"))
            counts.add(1, "streams")
        counts.add(1, "drawn")
        counts.save()
    return counts.close()


if __name__ == "__main__":
    sys.exit(main())
