"""Study: lay out, run, tabulate, judge."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from lifelong.config import content_hash
from lifelong.files import code_version, write_atomically
from lifelong.runner import Run, load_run
from lifelong.study.config import Cell, read_study
from lifelong.study.jobs import Job, JobResult, is_done, make_jobs
from lifelong.study.local import run_local
from lifelong.study.verdicts import Results, Verdict
from streams.errors import ConfigError


class Study:
    """A study file and its folder on disk."""

    def __init__(self, file: Path | str, size: str | None = None, root: Path | str = "runs") -> None:
        """Read and lay out a study; nothing is computed yet.

        Raises:
            ConfigError: the file is not a valid study.
        """
        self.file, self.size = Path(file), size
        self.config, self.cells = read_study(self.file, size)
        resolved = [c.config.resolved() for c in self.cells]
        self.identity = content_hash([resolved, code_version()])
        self.folder = Path(root) / f"study-{self.config.name}-{self.identity}"
        self.jobs = make_jobs(self.cells, self.folder / "runs")

    @property
    def pending(self) -> list[Job]:
        """Jobs that are not finished on disk."""
        return [job for job in self.jobs if not is_done(job)]

    def run(
        self,
        on: Literal["local", "ray"] = "local",
        workers: int | None = None,
        address: str | None = None,
        cpus: float = 1.0,
        gpus: float = 0.0,
        watch: Callable[[JobResult], None] | None = None,
    ) -> list[JobResult]:
        """Run what is not finished, and write verdicts.

        Args:
            on: a pool of processes here, or Ray.
            workers: processes for local; None takes one per core.
            address: of a Ray cluster; None starts a local one.
            cpus, gpus: resources of one job on Ray.
            watch: is told of every result as it comes in.

        Returns:
            The results of the jobs that ran; those with an error can be run again.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        description = {"file": str(self.file), "size": self.size, "config": self.config.model_dump(mode="json")}
        write_atomically(self.folder / "study.json", json.dumps(description, indent=1).encode())
        jobs, results = self.pending, []
        if jobs:
            if on == "ray":
                from lifelong.study.ray import run_ray

                coming = run_ray(jobs, address, cpus, gpus)
            else:
                coming = run_local(jobs, workers)
            for result in coming:
                results.append(result)
                if watch is not None:
                    watch(result)
        found = self.results()
        verdicts = {
            "verdicts": [asdict(v) for v in found.verdicts()],
            "comparisons": [asdict(d) for d in found.differences()],
            "failed": [{"job": r.job.label, "error": r.error} for r in results if r.error],
        }
        write_atomically(self.folder / "verdicts.json", json.dumps(verdicts, indent=1).encode())
        return results

    def runs(self) -> list[tuple[Cell, Run]]:
        """Return every run folder that exists, with the cell it belongs to."""
        return [(self.cells[j.cell], load_run(j.folder)) for j in self.jobs if (j.folder / "config.yaml").exists()]

    def results(self) -> Results:
        """Return what is on disk so far, finished or not."""
        return Results(self.config, tuple((cell, run.tables) for cell, run in self.runs()))

    def frame(self) -> dict[str, list[object]]:
        """Return a tidy table as columns; see `Results.frame`."""
        return self.results().frame()

    def verdicts(self) -> list[Verdict]:
        """Judge every criterion on what is on disk."""
        return self.results().verdicts()


def resume_study(folder: Path | str) -> Study:
    """Return the study that a study folder belongs to.

    Raises:
        ConfigError: it is not a study folder, or its file has changed since.
    """
    folder = Path(folder)
    try:
        description: dict[str, Any] = json.loads((folder / "study.json").read_text(encoding="utf-8"))
        file, size = description["file"], description["size"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{folder} is not a study folder: {error!r}.") from error
    study = Study(file, size, folder.parent)
    if study.folder != folder:
        raise ConfigError(
            f"{file} or the code has changed since {folder} was made; run the study again: {study.folder}."
        )
    return study
