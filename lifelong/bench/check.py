"""Check a submission: digests, completeness, the arithmetic of its headline, and one seed, run again to the same bytes.

What is not checked: that the options are those that the budget of tuning finds (the search takes as long as the lives),
the certificate, and the seeds that are not drawn.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from lifelong.bench.evidence import Life
from lifelong.bench.headline import headline
from lifelong.bench.participants import admit, named
from lifelong.bench.running import digests_of_files, read_life
from lifelong.bench.submission import Submission, plain
from lifelong.bench.track import Track, check_stream, read_track
from lifelong.config.run import StrategyConfig, find_strategy
from lifelong.config.trust import require_trust
from lifelong.execution.manifest import arithmetic
from lifelong.execution.runner import run
from lifelong.files import code_of
from lifelong.study.spaces import declared, with_options
from lifelong.study.tune import Tune
from streams.config import parse
from streams.errors import ConfigError, RefutedError, TrainingError


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found of a submission that nothing speaks against.

    Attributes:
        seed: that was run again; None if none was.
        same: whether it came to the same bytes; None where that cannot be told here.
        why: what is different here, where it cannot.
    """

    seed: int | None
    same: bool | None
    why: str = ""


def check(
    submission: Submission,
    root: Path,
    seed: int | None = None,
    again: bool = True,
    trust: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Checked:
    """Check a submission that was read (`lifelong.bench.submission.read` has checked its digest).

    Args:
        submission: what is checked.
        root: an empty folder in which a seed is run again.
        seed: which one; None draws it.
        again: whether one is run again at all.
        trust: whether files that it names may run although they have not been run on this machine before.
        tell: is told what is done next.

    Raises:
        ConfigError: there is no such track, it is another version of it, or seeds are missing.
        RefutedError: the submission is not what such a run comes to.
        TrustError: it names files that may not run.
    """
    track = read_track(submission.track)
    _check_track(submission, track)
    _check_lives(submission, track)
    require_trust(submission.config, submission.place, trust)
    config = parse(StrategyConfig, submission.config, "config")
    _check_files(submission, track)
    access = admit(track, submission.strategy, config).label()
    if access != submission.access:
        raise RefutedError(f"access: the strategy reads {access!r}, and the submission says {submission.access!r}.")
    _check_name(submission, track, config)
    if not again:
        return Checked(None, None, "no seed was run again")
    drawn = random.SystemRandom().choice([life.seed for life in submission.lives]) if seed is None else seed
    if drawn not in {life.seed for life in submission.lives}:
        raise ConfigError(f"--seed {drawn}: the submission has seeds 0 to {len(submission.lives) - 1}.")
    tell(f"running seed {drawn} again")
    return _compare(submission, track, config, drawn, root)


def _check_track(submission: Submission, track: Track) -> None:
    if submission.version != track.version:
        raise ConfigError(
            f"version: it is for version {submission.version} of track {track.name}, and here is version "
            f"{track.version}. Numbers of two versions are not compared; run it again."
        )
    for what, said, wanted in (
        ("frozen", submission.frozen, track.digest),
        ("source", submission.source, track.digests.source),
        ("streams", submission.streams, track.digests.streams[: len(submission.streams)]),
    ):
        if said != wanted:
            raise RefutedError(f"{what}: the submission says {said}, and track {track.title} has {wanted}.")


def _check_lives(submission: Submission, track: Track) -> None:
    seeds = [life.seed for life in submission.lives]
    if missing := sorted(set(range(track.seeds)) - set(seeds)):
        raise ConfigError(
            f"lives: seeds {missing} are missing; track {track.title} has {track.seeds}. Run all: lifelong bench "
            f"{track.name} --strategy {submission.strategy}"
        )
    if seeds != list(range(track.seeds)) or len(submission.streams) != track.seeds:
        raise RefutedError(f"lives: seeds are {seeds}, and must be 0 to {track.seeds - 1}, each once.")
    now = plain(headline(submission.lives))
    for key, value in submission.headline.items():
        if key not in now or now[key] != value:
            raise RefutedError(f"headline.{key}: the submission says {value}, and its lives come to {now.get(key)}.")
    if missing_keys := sorted(now.keys() - submission.headline.keys()):
        raise RefutedError(f"headline.{missing_keys[0]} is missing.")


def _check_files(submission: Submission, track: Track) -> None:
    one = track.config(0, {submission.strategy: submission.config})
    here = digests_of_files(one.resolved())
    for name in sorted(here.keys() | submission.files.keys()):
        if here.get(name) != submission.files.get(name):
            raise ConfigError(
                f"files: {name} has the digest {here.get(name)} here, and {submission.files.get(name)} in the "
                f"submission. Put the file there with which it was made."
            )


def _check_name(submission: Submission, track: Track, config: StrategyConfig) -> None:
    """Refuse what is called as a participant of the track, and is not what its tuning has made of that one."""
    name = submission.strategy
    if (known := named(track).get(name)) is None:
        return
    found = (submission.tuning or {}).get("options", {})
    tunable = {} if track.tune is None else declared(find_strategy(known, name), parse(Tune, track.tune, "tune"))
    if not isinstance(found, dict) or found.keys() - tunable.keys() or with_options(known, found) != config:
        raise ConfigError(
            f"strategy: {name!r} is the name of a participant of track {track.title}, and config is not what the "
            f"options in tuning make of it here. Give the strategy a name of its own, or run the participant again."
        )


def _compare(submission: Submission, track: Track, config: StrategyConfig, seed: int, root: Path) -> Checked:
    said = submission.lives[seed]
    name = submission.strategy
    one = track.config(seed, {name: submission.config})
    stream = track.stream(seed)
    check_stream(track, seed, stream)
    try:
        folder = run(one, root).folder
        now = read_life(track, seed, stream, folder / "strategies" / name / "results.jsonl")
    except TrainingError as error:  # in which words does not matter, but nothing else may stand beside it
        words = str(error) if said.diverged is None else said.diverged
        now = Life(seed=seed, diverged=words, served=len(stream.requests))
    if said == now:
        return Checked(seed, True)
    resolved = one.resolved()
    here = {
        "code": code_of(resolved),
        "processor": torch.backends.cpu.get_cpu_capability(),
        **arithmetic(),
    }
    made = {"code": submission.code, "processor": submission.processor, **submission.versions}
    others = [f"{key} {made.get(key)}, here {value}" for key, value in here.items() if made.get(key) != value]
    if others:
        return Checked(seed, None, "; ".join(others))
    raise RefutedError(
        f"lives: seed {seed}, run again with the same code and libraries, comes to other rows "
        f"(results {now.results}, the submission says {said.results}{_first_difference(said, now)})."
    )


def _first_difference(said: Life, now: Life) -> str:
    for key in ("diverged", "moments", "numbers", "exact", "served"):
        if getattr(said, key) != getattr(now, key):
            return f"; {key} differ"
    return ""
