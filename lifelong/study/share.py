"""What came out, in W&B: strategies are a group there, and the report and a study's verdicts one more run of it."""

from __future__ import annotations

import logging
from importlib import import_module
from pathlib import Path
from typing import Any

from lifelong.execution.runner import Run
from lifelong.study.study import Study
from lifelong.trackers._server import Server, sweep
from lifelong.trackers.wandb import flatten, logged

logger = logging.getLogger(__name__)


def share(study: Study, report: Path | None = None) -> None:
    """Send what came out of a study to W&B, with the report; a failure is logged and nothing else."""
    try:
        _share(study, report)
    except Exception:  # a tracker must never fail a study, whatever it raises
        logger.exception("The outcome of the study could not be sent to W&B; nothing else is affected.")


def share_run(run: Run, report: Path) -> None:
    """Send the report of a run to W&B, and what every strategy came to; a failure is logged and nothing else.

    Under the agent of a sweep this is the run that the agent waits for. It has the last value of everything about the
    whole, as ``STRATEGY/stream/average_accuracy``, so that a sweep says of which strategy its metric is.
    """
    try:
        name, kind = (f"{run.config.name} trial", "trial") if sweep() else (f"{run.config.name} report", "report")
        config = {k: v for k, v in run.config.resolved().items() if k != "strategies"}
        config |= {"strategies": list(run.config.strategies)}
        sent = Server().start(
            run.folder,
            id=f"report-{run.folder.name}",
            group=run.folder.name,
            name=f"{name} (seed={run.config.seed})",
            job_type=kind,
            config=flatten(config),
            is_trial=True,
        )
        sent.log(_last_values(run))
        _send_report(sent, run.folder.name, report)
        sent.finish()
    except Exception:  # a tracker must never fail a run, whatever it raises
        logger.exception("The report could not be sent to W&B; nothing else is affected.")


def _last_values(run: Run) -> dict[str, float | None]:
    """Return the last value of everything about the whole, by strategy."""
    last: dict[str, float | None] = {}
    for name, table in run.tables.items():
        in_order = sorted(table.rows, key=lambda r: r.event)
        last |= {f"{name}/{key}": value for key, value in logged(in_order).items()}
    return last


def _share(study: Study, report: Path | None) -> None:
    outcome = study.outcome()
    about = {k: outcome[k] for k in ("name", "claim", "source", "size", "identity", "seeds", "code", "date")}
    run = Server().start(
        study.folder,
        id=f"study-{study.identity}",
        group=study.folder.name,
        name=f"study {study.config.name}",
        job_type="study",
        config=about,
    )
    table = import_module("wandb").Table
    numbers = ("mean", "low", "high", "p", "n")
    for key, heads in (
        ("verdicts", ("name", "bar", "outcome", "reason", "p_corrected")),
        ("comparisons", ("what", "of", "minus", "p_corrected")),
    ):
        rows = [[*(r[h] for h in heads), *((r["estimate"] or {}).get(n) for n in numbers)] for r in outcome[key]]
        run.log({f"tables/{key}": table([*heads, *numbers], rows)})
    if contradicted := [v["name"] for v in outcome["verdicts"] if v["outcome"] == "contradicted"]:
        run.alert(title="contradicted", text=f"study {study.config.name}: {', '.join(contradicted)}", level="WARN")
    if report is not None and report.exists():
        _send_report(run, study.folder.name, report)
    run.finish()


def _send_report(run: Any, name: str, report: Path) -> None:
    """Send the page twice: to be read in W&B, and as a file to be kept."""
    wandb = import_module("wandb")
    run.log({"report": wandb.Html(str(report), inject=False)})
    artifact = wandb.Artifact(f"report-{name}", type="report")
    artifact.add_file(str(report))
    run.log_artifact(artifact)
