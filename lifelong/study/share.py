"""A study in W&B: its runs are a group; verdicts, comparisons and the report go to one more run of that group."""

from __future__ import annotations

import logging
import os
from importlib import import_module
from pathlib import Path
from typing import Any

from lifelong.study.study import Study
from lifelong.trackers.wandb import Server

logger = logging.getLogger(__name__)


def share(study: Study, report: Path | None = None, project: str = "lifelong") -> None:
    """Send what came out to W&B, with the report as an artifact; a failure is logged and nothing else."""
    try:
        _share(study, report, project)
    except Exception:  # a tracker must never fail a study, whatever it raises
        logger.exception("The outcome of the study could not be sent to W&B; nothing else is affected.")


def _share(study: Study, report: Path | None, project: str) -> None:
    outcome = study.outcome()
    run = Server().start(
        study.folder,
        id=f"study-{study.identity}",
        project=os.environ.get("WANDB_PROJECT") or project,
        group=study.folder.name,
        name=f"study {study.config.name}",
        job_type="study",
        config={k: outcome[k] for k in ("name", "claim", "source", "size", "identity", "seeds", "code", "date")},
    )
    wandb: Any = import_module("wandb")
    numbers = ("mean", "low", "high", "p", "n")
    for key, heads in (("verdicts", ("name", "bar", "outcome", "reason")), ("comparisons", ("what", "of", "minus"))):
        rows = [[*(r[h] for h in heads), *((r["estimate"] or {}).get(n) for n in numbers)] for r in outcome[key]]
        run.log({f"tables/{key}": wandb.Table([*heads, *numbers], rows)})
    if report is not None and report.exists():
        artifact = wandb.Artifact(f"report-{study.folder.name}", type="report")
        artifact.add_file(str(report))
        run.log_artifact(artifact)
    run.finish()
