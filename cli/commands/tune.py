"""`tune`: search good options for the strategies of a run, and write them down."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.arguments import OVERRIDABLE, Runs, Set, Trust, What, split
from cli.commands.study import show_tuning
from cli.output import Json, emit, emit_json, note
from streams.errors import ConfigError

if TYPE_CHECKING:
    from lifelong.study.study import Study


class Information(StrEnum):
    """What the goal may read."""

    PRACTICAL = "practical"
    ORACLE = "oracle"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(context_settings=OVERRIDABLE)(tune)


def tune(
    context: typer.Context,
    what: What,
    sets: Set = [],  # noqa: B006 (Typer copies it)
    trials: Annotated[int, typer.Option(min=2, help="Settings tried for every strategy.")] = 30,
    information: Annotated[
        Information, typer.Option(help="practical: the run and held-out data; oracle: the retrained model, too.")
    ] = Information.PRACTICAL,
    strategy: Annotated[
        list[str],
        typer.Option(metavar="NAME", help="Tune only that one; may be repeated.", show_default=False),
    ] = [],  # noqa: B006 (Typer copies it)
    file: Annotated[
        Path | None, typer.Option("--file", help="Where to write it; by default NAME-tuned.yaml.", show_default=False)
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes on this machine; by default one per core.")
    ] = None,
    runs: Runs = Path("runs"),
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    as_json: Json = False,
    trust: Trust = False,
) -> None:
    """Tune the options of a run's strategies on seeds of their own, and write the run with what was found.

    Example: lifelong tune quickstart --trials 20

    Ranges are those that the methods declare. Goals, ranges and seeds of your own: `tune` in a study (docs/studies.md).
    """
    import yaml

    from lifelong.config.run import load_config
    from lifelong.processes.stopping import stopping
    from lifelong.study.place import Place
    from lifelong.study.progress import Progress
    from lifelong.study.spaces import with_options
    from lifelong.study.study import Study

    name, overrides = split(what, context)
    config = load_config(name, [*sets, *overrides], trust)
    target = file or Path(f"{config.name}-tuned.yaml")
    if target.exists():
        raise ConfigError(f"{target} is there already and is not overwritten. Choose another with --file.")
    base = config.model_dump(mode="json", exclude_unset=True)
    tuning = {"trials": trials, "information": information.value, "of": strategy}
    study = Study(
        {
            "name": f"{config.name}-tuning",
            "claim": "A search of options; nothing is judged.",
            "base": base,
            "seeds": [config.seed],
            "tune": tuning,
        },
        root=runs,
    )
    assert study.tuning is not None
    if not quiet:
        note(f"{', '.join(study.tuning.spaces)}: at most {study.tuning.num_runs()} runs; folder {study.folder}")
    try:
        with stopping(), Progress([], silent=quiet) as progress:
            failed = study.tune(Place(workers=workers), progress.result, progress.expect)
    except KeyboardInterrupt:
        note("\nStopped; what ran is kept. Go on with the same command.")
        raise typer.Exit(130) from None
    if failed:
        note("\n".join(f"FAILED: {r.job.label}\n{str(r.error).rstrip()}" for r in failed))
        raise typer.Exit(1)
    searches = study.tuning_outcome()
    for search in searches:
        tuned = with_options(config.strategies[search["strategy"]], search["options"])
        base.setdefault("strategies", {})[search["strategy"]] = tuned.model_dump(mode="json", exclude_unset=True)
    text = _told(study, searches) + yaml.safe_dump(base, sort_keys=False)
    try:
        with target.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except OSError as error:
        raise ConfigError(f"Cannot write {target}: {error.strerror}. Choose another place with --file.") from error
    if as_json:
        emit_json({"file": str(target), "folder": str(study.folder), "tuning": searches})
        return
    show_tuning(searches)
    emit(f"{target}: lifelong run {target}")


def _told(study: Study, searches: list[dict[str, Any]]) -> str:
    """Return comments on what was tuned, and how."""
    assert study.tuning is not None
    tune = study.tuning.tune
    lines = [
        f"# Tuned: {tune.trials} trials of every strategy, {' and '.join(tune.information)} information, seeds "
        f"{list(tune.seeds.search)}, confirmed on {list(tune.seeds.confirm)}.",
    ]
    for s in searches:
        lines.append(f"#   {s['strategy']}: {json.dumps(s['options'])}" + (f" ({s['note']})" if s["note"] else ""))
    return "\n".join(lines) + "\n"
