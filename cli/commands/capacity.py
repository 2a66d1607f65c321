"""`capacity`: how long a sharded system lasts and what requests cost it, before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.arguments import Trust
from cli.output import Json, emit, emit_json, emit_table
from streams.errors import ConfigError

if TYPE_CHECKING:
    from lifelong.capacity.sizing import Measured, Sized


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(capacity)


def capacity(
    method: Annotated[str, typer.Option(help="sisa, s3t, or both separated by a comma.")] = "sisa,s3t",
    shards: Annotated[str, typer.Option(help="Shards m; several values separated by commas.")] = "5",
    slices: Annotated[str, typer.Option(help="Slices per shard L; several by commas.")] = "4",
    sequences: Annotated[str, typer.Option(help="Orders trained per shard B (s3t); several by commas.")] = "1,4",
    together: Annotated[str, typer.Option(help="Requests served together K; several by commas.")] = "1",
    samples: Annotated[int, typer.Option(min=1, help="Training samples N.")] = 1_000_000,
    epochs: Annotated[float, typer.Option(help="Passes over its data in a stage e.")] = 1.0,
    requests: Annotated[int, typer.Option(min=1, help="Requests to simulate.")] = 1_000_000,
    distribution: Annotated[str, typer.Option(help="uniform, zipf or recent.")] = "uniform",
    exponent: Annotated[float, typer.Option(help="Of zipf or recent.")] = 1.0,
    retrain_when: Annotated[str, typer.Option(help="all-dead, shard-dead or below (s3t).")] = "all-dead",
    keep: Annotated[int, typer.Option(min=1, help="Slices that `below` demands.")] = 1,
    order: Annotated[str, typer.Option(help="rotations, even or matched (s3t).")] = "rotations",
    rate: Annotated[float, typer.Option(help="Requests per day.")] = 1000.0,
    throughput: Annotated[float, typer.Option(help="Sample visits per second that training manages.")] = 10_000.0,
    checkpoint: Annotated[float, typer.Option(help="Bytes of one stored stage (an adapter, or a difference).")] = 1e6,
    seed: Annotated[int, typer.Option(min=0, help="Root of the draws.")] = 0,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run", help="Also hold a finished run against the closed form, in the figure too.", show_default=False
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write a figure (.html).", show_default=False)] = None,
    as_json: Json = False,
    trust: Trust = False,
) -> None:
    """Size a sharded system: requests until an outage, cost per request, storage; closed forms beside a simulation."""
    from lifelong.capacity.figure import write_figure
    from lifelong.capacity.simulate import System
    from lifelong.capacity.sizing import Load, measured, size, systems
    from streams.config import parse

    for name, value in (("rate", rate), ("throughput", throughput), ("checkpoint", checkpoint)):
        if not 0 < value < math.inf:
            raise ConfigError(f"--{name}: {value:g} must be {'above 0' if value <= 0 else 'a finite number'}.")
    base = {
        "samples": samples,
        "epochs": epochs,
        "requests": requests,
        "distribution": distribution,
        "exponent": exponent,
        "retrain_when": retrain_when,
        "keep": keep,
        "order": order,
        "seed": seed,
    }
    grid: dict[str, Sequence[object]] = {
        "method": [m.strip() for m in method.split(",")],
        "shards": _numbers("shards", shards),
        "slices": _numbers("slices", slices),
        "sequences": _numbers("sequences", sequences),
        "together": _numbers("together", together),
    }
    start = parse(System, base | {key: values[0] for key, values in grid.items()})
    sized = [size(system, Load(rate, throughput, checkpoint)) for system in systems(start, grid)]
    of_run = measured(run, trust) if run is not None else []
    if as_json:
        emit_json({"systems": [s.to_json() for s in sized], "run": [asdict(m) for m in of_run]})
    else:
        _show(sized, of_run)
    if plot is not None:
        write_figure(sized, plot, of_run)
        if not as_json:
            emit(f"figure: {plot}")


def _show(sized: Sequence[Sized], of_run: Sequence[Measured]) -> None:
    """Print the systems, and below them what the strategies of a run have cost."""
    from lifelong.capacity.figure import label

    emit_table(["system", *_HEADS], [[label(s), *_cells(s)] for s in sized], "closed form / simulated", numbers=True)
    if of_run:
        emit("")
        heads = ["strategy of the run", "requests", "sample visits", "closed form", "ratio"]
        emit_table(heads, [_cells_of_run(m) for m in of_run], numbers=True)


_HEADS = ("requests/outage", "visits/request", "cheaper than retraining", "trainer busy", "outage", "live", "storage")


def _cells(s: Sized) -> list[str]:
    return [
        f"{_number(s.lifetime)} / {_number(s.lifetime_simulated)}",
        f"{_number(s.visits)} / {_number(s.visits_simulated)}",
        "-" if s.against_retraining is None else f"{s.against_retraining:,.1f} x",
        f"{s.busy:.1%}",
        f"{s.outage:,.0f} s",
        f"{1 - s.simulated.idle:.1%}",
        f"{s.storage / 1e9:,.2f} GB",
    ]


def _cells_of_run(m: Measured) -> list[str]:
    return [m.strategy, str(m.requests), f"{m.visits:,.0f}", f"{m.expected:,.0f}", f"{m.visits / m.expected:.3f}"]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _numbers(name: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--{name}: {text!r} must be whole numbers separated by commas.") from None
