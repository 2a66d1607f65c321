"""Run a strategy on a track: tune it within the track's budget, live through every seed, and make a submission of it.

Both are studies, so that what is stopped goes on, seeds form cohorts, and references are shared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from lifelong.bench.evidence import Life, life_of, scores_of
from lifelong.bench.submission import Submission, make
from lifelong.bench.track import Track, check_stream
from lifelong.config.run import StrategyConfig, find_strategy
from lifelong.execution.manifest import versions
from lifelong.files import code_of, own_code
from lifelong.results.columns import read_some
from lifelong.results.integrity import mark_of
from lifelong.results.table import Table
from lifelong.setup.build import sources_kept
from lifelong.study.jobs import Job, JobResult
from lifelong.study.place import Place
from lifelong.study.progress import last_line
from lifelong.study.spaces import declared, with_options
from lifelong.study.study import Study, finished
from lifelong.study.tune import Tune
from lifelong.study.tuning import diverged
from lifelong.verification.certificate import verify
from streams.config import parse
from streams.errors import LifelongError
from streams.stream import Stream

METRICS = {"exact", "certified", "membership_auc", "immediate_cost_ratio", "state_bytes"}
"""What is read of a run, beside scores."""
_VERIFIED = 3


@dataclass(frozen=True, slots=True)
class Watching:
    """Who is told what happens.

    Attributes:
        begin: of jobs that begin.
        ended: of each that ended.
        tell: in words, of what comes next.
        told: how far a job on Ray is, as `lifelong.study.ray.run_ray` says it.
    """

    begin: Callable[[list[Job]], None] | None = None
    ended: Callable[[JobResult], None] | None = None
    tell: Callable[[str], None] = field(default=lambda _: None)
    told: Callable[[str, int, int], None] | None = None


def submit(
    track: Track,
    name: str,
    config: StrategyConfig,
    access: str,
    seeds: int,
    root: Path,
    place: Place | None = None,
    watching: Watching | None = None,
) -> Submission:
    """Run a strategy and return its submission; what was run before is not run again.

    Args:
        track: that it is for.
        name, config: of the strategy.
        access: what it reads.
        seeds: how many; a submission with fewer than the track's is not complete.
        root: where runs are kept.
        place: where they are computed; None is all cores of this machine.
        watching: is told what happens.

    Raises:
        IntegrityError: data or a stream is not the track's.
        LifelongError: a run failed for another reason than diverged training.
    """
    place, watching = place or Place(), watching or Watching()
    with sources_kept():
        streams = {seed: track.stream(seed) for seed in range(seeds)}
    for seed, stream in streams.items():
        check_stream(track, seed, stream)
    tuned, tuning = _tune(track, name, config, root, place, watching)
    study = Study(_study(track, name, tuned) | {"seeds": seeds}, root=root)
    watching.tell(f"{name}: {seeds} seeds, folder {study.folder}")
    results = study.run(**asdict(place), watch=watching.ended, begin=watching.begin, told=watching.told)
    failed = {r.job.cell: str(r.error) for r in results if r.error}
    lives = _lives(track, study, streams, failed)
    resolved = study.cells[0].resolved
    fields: dict[str, Any] = {
        "track": track.name,
        "version": track.version,
        "frozen": track.digest,
        "strategy": name,
        "config": tuned.model_dump(mode="json", exclude_unset=True),
        "files": digests_of_files(resolved),
        "access": access,
        "code": code_of(resolved),
        "versions": versions(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "source": track.digests.source,
        "streams": list(track.digests.streams[:seeds]),
        "tuning": tuning,
        "certificate": _certificate(study, lives, watching),
    }
    return make(fields, lives)


def read_life(track: Track, seed: int, stream: Stream, results: Path) -> Life:
    """Return what a finished run came to.

    Args:
        track: of the run.
        seed: of the run.
        stream: that was lived through.
        results: the file with its rows.
    """
    config = track.config(seed)
    scores = scores_of(config.objective.name)
    table = Table(read_some(results, METRICS | set(scores)))
    return life_of(seed, table, stream, scores, config.references, str(mark_of(results)["digest"]))


def digests_of_files(resolved: dict[str, Any]) -> dict[str, str]:
    """Return the digests of files with code that a run names, by the files' names."""
    return {path.name: digest.hex()[:32] for path, digest in own_code(resolved).items()}


def _study(track: Track, name: str, config: StrategyConfig) -> dict[str, Any]:
    return {
        "name": f"bench-{track.name}",
        "claim": f"{name} on track {track.title}.",
        "base": track.base,
        "strategies": {name: config.model_dump(mode="json", exclude_unset=True)},
    }


def _tune(
    track: Track, name: str, config: StrategyConfig, root: Path, place: Place, watching: Watching
) -> tuple[StrategyConfig, dict[str, Any] | None]:
    """Return the strategy with the best options that the budget finds, and what the search came to."""
    if track.tune is None or not declared(find_strategy(config, name), parse(Tune, track.tune, "tune")):
        return config, None
    study = Study(_study(track, name, config) | {"seeds": [0], "tune": track.tune}, root=root)
    assert study.tuning is not None
    watching.tell(f"{name}: tuning, at most {study.tuning.num_runs()} runs")
    failed = study.tune(place, watching.ended, watching.begin, watching.told)
    if failed:
        raise _failure(failed[0].job.label, str(failed[0].error))
    [found] = study.tuning_outcome()
    kept = ("information", "chosen", "options", "searched", "confirmed", "best_searched", "default", "near", "note")
    trials = {state: sum(t["state"] == state for t in found["trials"]) for state in ("finished", "pruned", "diverged")}
    return with_options(config, found["options"]), {key: found[key] for key in kept} | {"trials": trials}


def _lives(track: Track, study: Study, streams: dict[int, Stream], failed: dict[int, str]) -> list[Life]:
    files = {study.cells[job.cell].seed: file for job, _, file in finished(study.jobs)}
    errors = {study.cells[cell].seed: error for cell, error in failed.items()}
    lives = []
    for seed, stream in streams.items():
        if seed in files:
            lives.append(read_life(track, seed, stream, files[seed]))
        elif diverged(errors[seed]):
            lives.append(Life(seed=seed, diverged=last_line(errors[seed]), served=len(stream.requests)))
        else:
            raise _failure(f"seed {seed}", errors[seed])
    return lives


def _failure(label: str, error: str) -> LifelongError:
    return LifelongError(f"{label} failed. The others are kept; the same command goes on.\n{error.rstrip()}")


def _certificate(study: Study, lives: list[Life], watching: Watching) -> dict[str, Any] | None:
    """Return what replays of the first seed say, where the strategy claims exactness of any request."""
    if not any(life.exact for life in lives):
        return None
    watching.tell("verifying its claims of exactness")
    seed = next(life.seed for life in lives if life.diverged is None)
    job = next(job for job in study.jobs if study.cells[job.cell].seed == seed)
    certificate = verify(job.folder, requests=_VERIFIED, controls=False)
    [found] = certificate.verified
    return {
        "seed": seed,
        "claim": found.claim,
        "grade": found.grade,
        "upheld": found.upheld,
        "requests": [finding.request for finding in found.findings],
        "state": found.digest,
    }
