"""One run under many seeds: a study without criteria, for whoever wants a table with intervals."""

from __future__ import annotations

from pathlib import Path

from lifelong.config.run import RunConfig
from lifelong.files import code_version
from lifelong.study.jobs import Job, cohort_of, folder_name


def jobs_of_seeds(config: RunConfig, count: int, root: Path, group: str | None = None) -> list[Job]:
    """Return one job for each of `count` seeds, from the configuration's own on.

    Their run folders are those of ``lifelong run`` with that seed, so that what is there already is not run again.

    Args:
        config: of the run.
        count: how many seeds.
        root: where run folders are kept.
        group: in W&B, or None if nothing is sent there.
    """
    jobs, place = [], str(root.absolute())
    for seed in range(config.seed, config.seed + count):
        one = config.model_copy(update={"seed": seed})
        resolved = one.resolved()
        data, folder = one.model_dump(mode="json", exclude_unset=True), folder_name(config.name, resolved)
        point = f"seed={seed}"
        jobs.append(Job(0, point, data, place, folder, code_version(), group, point, cohort_of(resolved)))
    return jobs
