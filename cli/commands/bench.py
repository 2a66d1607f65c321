"""`bench`: place a strategy in a frozen track, or check a submission."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.arguments import Address, Cpus, Memory, On, Runs, Trust, Where
from cli.output import Json, emit, emit_json, emit_table, note
from streams.errors import ConfigError

if TYPE_CHECKING:
    from lifelong.bench.check import Checked
    from lifelong.bench.participants import Participant
    from lifelong.bench.standing import Standing
    from lifelong.bench.submission import Submission
    from lifelong.bench.track import Track
    from lifelong.study.place import Place

CHECK = "check"
_LEGEND = (
    "place: behind all that survive more requests than noise explains, and before all that survive fewer",
    "requests survived: geometric mean over seeds, 95 % interval; of {requests} in all",
    "accumulation: average score over the stream, as a share of joint training's; forgetting: lost by accident",
    "relapse: what came back of deleted data, or faded; cost: of a request, as a share of retraining; state: most kept",
    "*: on the Pareto front of all these numbers",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(bench)


def bench(
    track: Annotated[
        str | None,
        typer.Argument(metavar="[TRACK|check]", help="A track; none lists them.", show_default=False),
    ] = None,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="After check: a submission.", show_default=False)
    ] = None,
    strategy: Annotated[
        list[str],
        typer.Option(
            metavar="NAME|FILE",
            help="A participant, a method of yours (.py) or a strategy (.yaml); may be repeated.",
            show_default=False,
        ),
    ] = [],  # noqa: B006 (Typer copies it)
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Seeds to run; by default all of the track.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Where the submission goes; by default bench/ below --runs.", show_default=False),
    ] = None,
    against: Annotated[
        list[Path],
        typer.Option(metavar="FILE|DIR", help="Also compare with these submissions; repeatable.", show_default=False),
    ] = [],  # noqa: B006 (Typer copies it)
    seed: Annotated[
        int | None, typer.Option(min=0, help="check: run this seed again; by default one is drawn.", show_default=False)
    ] = None,
    again: Annotated[bool, typer.Option("--again/--no-again", help="check: whether to run a seed again.")] = True,
    on: On = Where.LOCAL,
    address: Address = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes on this machine; by default one per core.", show_default=False)
    ] = None,
    cpus: Cpus = 1.0,
    memory: Memory = 0.0,
    runs: Runs = Path("runs"),
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    as_json: Json = False,
    trust: Trust = False,
) -> None:
    """Place strategies in a frozen track, or check a submission: lifelong bench check FILE.

    Example: lifelong bench smoke --strategy replay+finetune

    Without a track, lists them; without a strategy, shows who takes part and where all stand.

    Exit codes: 0 good, 1 a run failed, 2 bad input, 3 a submission is refuted.
    """
    if seed is not None and track != CHECK:
        raise ConfigError(f"--seed {seed}: only check takes it. How many seeds are run is --seeds.")
    if track is None:
        _list(as_json)
    elif track == CHECK:
        _check(file, runs, seed, again, trust, quiet, as_json)
    elif file is not None:
        raise ConfigError(f"{file}: only check takes a file. A strategy is named by --strategy {file}.")
    elif not strategy:
        _show(track, against, as_json)
    else:
        from lifelong.study.place import Place

        place = Place(on.value, workers, address, cpus=cpus, memory=memory)
        _place(track, strategy, seeds, out, against, place, runs, quiet, as_json)


def _list(as_json: bool) -> None:
    from lifelong.bench.submission import shipped
    from lifelong.bench.track import read_track, tracks

    found = [(read_track(name), len(shipped(name))) for name in tracks()]
    if as_json:
        emit_json(
            [
                {
                    **t.model_dump(mode="json", include={"name", "version", "about", "cost"}),
                    "seeds": t.seeds,
                    "placed": n,
                }
                for t, n in found
            ]
        )
        return
    rows = [[t.name, str(t.version), str(t.seeds), str(n), t.about, t.cost] for t, n in found]
    emit_table(["track", "version", "seeds", "placed", "", "cost of one strategy"], rows)


def _show(name: str, against: Sequence[Path], as_json: bool) -> None:
    from lifelong.bench.participants import participants
    from lifelong.bench.standing import standings
    from lifelong.bench.track import read_track

    track = read_track(name)
    ranked = standings(_others(track, against))
    found = participants(track)
    if as_json:
        emit_json({"track": _facts(track), "standings": _plain(ranked), "participants": [_described(p) for p in found]})
        return
    emit(f"{track.title}: {track.about}")
    emit(f"allowed: {track.access.in_words()}; {track.seeds} seeds; one strategy takes {track.cost}")
    _emit_standings(ranked, set())
    placed = {s.submission.strategy for group in ranked.values() for s in group}
    emit("")
    rows = [[p.name, p.access or "-", p.refused or ("placed" if p.name in placed else "not run")] for p in found]
    emit_table(["participant", "access", ""], rows)


def _place(
    name: str,
    strategies: Sequence[str],
    seeds: int | None,
    out: Path | None,
    against: Sequence[Path],
    place: Place,
    runs: Path,
    quiet: bool,
    as_json: bool,
) -> None:
    from lifelong.bench.participants import admit, chosen
    from lifelong.bench.running import Watching, submit
    from lifelong.bench.standing import standings
    from lifelong.bench.submission import write
    from lifelong.bench.track import read_track
    from lifelong.processes.stopping import stopping
    from lifelong.study.progress import Progress

    track = read_track(name)
    if seeds is not None and seeds > track.seeds:
        raise ConfigError(f"--seeds {seeds}: track {track.title} has {track.seeds} seeds.")
    if out is not None and len(strategies) > 1:
        raise ConfigError("--out is for one strategy; leave it out, and each gets a file of its own.")
    configs = [chosen(track, text) for text in strategies]
    admitted = [(one, config, admit(track, one, config)) for one, config in configs]  # all, before any compute
    others = _others(track, against)
    own: list[Submission] = []
    for one, config, access in admitted:
        try:
            with stopping(), Progress([], silent=quiet) as progress:
                tell = (lambda _: None) if quiet else note
                watching = Watching(progress.expect, progress.result, tell, progress.told)
                made = submit(track, one, config, access.label(), seeds or track.seeds, runs, place, watching)
        except KeyboardInterrupt:
            note("\nStopped; what ran is kept. The same command goes on.")
            raise typer.Exit(130) from None
        own.append(made)
        target = out or runs / "bench" / made.place
        write(made, target)
        note(f"submission: {target}")
    names = {s.strategy for s in own}
    ranked = standings([*own, *(s for s in others if s.strategy not in names)])
    if as_json:
        emit_json({"track": _facts(track), "standings": _plain(ranked)})
        return
    shown = {access: group for access, group in ranked.items() if any(s.submission.strategy in names for s in group)}
    _emit_standings(shown, names)
    if seeds is not None and seeds < track.seeds:
        emit(f"{seeds} of {track.seeds} seeds: good for trying out; such a submission is not complete.")


def _check(
    file: Path | None, runs: Path, seed: int | None, again: bool, trust: bool, quiet: bool, as_json: bool
) -> None:
    import tempfile

    from lifelong.bench.check import check
    from lifelong.bench.submission import read

    if file is None:
        raise ConfigError("check: name a submission, as in lifelong bench check FILE.")
    submission = read(file)
    runs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=runs, prefix="bench-check-") as root:
        tell = (lambda _: None) if quiet else note
        checked = check(submission, Path(root).absolute(), seed, again, trust, tell)
    is_open = checked.seed is not None and not checked.same
    if as_json:
        upheld = None if is_open else True
        emit_json({"file": str(file), "upheld": upheld, "seed": checked.seed, "same": checked.same, "why": checked.why})
    else:
        _emit_checked(file, checked)
    if is_open:
        raise typer.Exit(1)


def _emit_checked(file: Path, checked: Checked) -> None:
    emit(f"{file}: digests, completeness and the arithmetic of the headline are right.")
    if checked.same:
        emit(f"Seed {checked.seed}, run again, came to the same bytes.")
    elif checked.seed is None:
        emit("No seed was run again.")
    else:
        emit(
            f"Seed {checked.seed}, run again, came to other numbers. That refutes nothing, as here is not where it was "
            f"made: {checked.why}."
        )


def _others(track: Track, against: Sequence[Path]) -> list[Submission]:
    """Return the submissions that ship, and those that are named, of this version of the track."""
    from lifelong.bench.submission import read, shipped

    files = [f for path in against for f in (sorted(path.rglob("*.json")) if path.is_dir() else [path])]
    found = [*shipped(track.name), *map(read, files)]
    latest = {s.strategy: s for s in found if s.track == track.name and s.frozen == track.digest}
    left = [s.strategy for s in found if s.track != track.name or s.frozen != track.digest]
    if left:
        note(f"Left out, as they are for another track or version: {', '.join(left)}.")
    return list(latest.values())


def _facts(track: Track) -> dict[str, Any]:
    return track.model_dump(mode="json", include={"name", "version", "protocol", "about", "cost", "digest"})


def _described(p: Participant) -> dict[str, str]:
    return {"name": p.name, "access": p.access, "refused": p.refused}


def _plain(ranked: dict[str, list[Standing]]) -> dict[str, list[dict[str, Any]]]:
    from lifelong.bench.submission import plain

    return {
        access: [
            {
                "strategy": s.submission.strategy,
                "place": [s.first, s.last],
                "tied": list(s.tied),
                "on_front": s.on_front,
                "headline": plain(s.headline),
            }
            for s in group
        ]
        for access, group in ranked.items()
    }


def _emit_standings(ranked: dict[str, list[Standing]], own: set[str]) -> None:
    from lifelong.bench.table import HEADS, cells

    for access, group in ranked.items():
        emit("")
        emit_table(list(HEADS), [cells(s, s.submission.strategy in own) for s in group], access)
    if ranked:
        requests = max(s.submission.lives[0].served for group in ranked.values() for s in group)
        for line in _LEGEND:
            emit(f"  {line.format(requests=requests)}")
