"""What came out, in W&B: strategies are a group there, and the report and a study's verdicts one more run of it."""

from __future__ import annotations

import logging
import os
from importlib import import_module
from pathlib import Path
from typing import Any

from lifelong.execution.runner import Run
from lifelong.study.study import Study
from lifelong.trackers.wandb import PROJECT, Server

logger = logging.getLogger(__name__)


def share(study: Study, report: Path | None = None) -> None:
    """Send what came out of a study to W&B, with the report as an artifact; a failure is logged and nothing else."""
    try:
        _share(study, report)
    except Exception:  # a tracker must never fail a study, whatever it raises
        logger.exception("The outcome of the study could not be sent to W&B; nothing else is affected.")


def share_run(run: Run, report: Path) -> None:
    """Send the report of a run to W&B as an artifact; a failure is logged and nothing else."""
    try:
        sent = _start(run.folder, run.folder.name, f"report-{run.folder.name}", "report", {"name": run.config.name})
        _send_report(sent, run.folder.name, report)
        sent.finish()
    except Exception:  # a tracker must never fail a run, whatever it raises
        logger.exception("The report could not be sent to W&B; nothing else is affected.")


def _share(study: Study, report: Path | None) -> None:
    outcome = study.outcome()
    about = {k: outcome[k] for k in ("name", "claim", "source", "size", "identity", "seeds", "code", "date")}
    run = _start(study.folder, study.folder.name, f"study-{study.identity}", f"study {study.config.name}", about)
    table = import_module("wandb").Table
    numbers = ("mean", "low", "high", "p", "n")
    for key, heads in (
        ("verdicts", ("name", "bar", "outcome", "reason", "p_corrected")),
        ("comparisons", ("what", "of", "minus", "p_corrected")),
    ):
        rows = [[*(r[h] for h in heads), *((r["estimate"] or {}).get(n) for n in numbers)] for r in outcome[key]]
        run.log({f"tables/{key}": table([*heads, *numbers], rows)})
    if report is not None and report.exists():
        _send_report(run, study.folder.name, report)
    run.finish()


def _start(folder: Path, group: str, id: str, name: str, config: dict[str, Any]) -> Any:
    project = os.environ.get("WANDB_PROJECT") or PROJECT
    kind = name.split()[0]
    return Server().start(folder, id=id, project=project, group=group, name=name, job_type=kind, config=config)


def _send_report(run: Any, name: str, report: Path) -> None:
    artifact = import_module("wandb").Artifact(f"report-{name}", type="report")
    artifact.add_file(str(report))
    run.log_artifact(artifact)
