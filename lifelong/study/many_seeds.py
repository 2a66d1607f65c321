"""One run under many seeds: a study without criteria, for whoever wants a table with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lifelong.config.run import RunConfig
from lifelong.files import code_version
from lifelong.study.jobs import Job, cohort_of, folder_name


def jobs_of_seeds(
    config: RunConfig,
    count: int,
    root: Path,
    point: str = "",
    group: str | None = None,
    trackers: Sequence[str] = (),
) -> list[Job]:
    """Return one job for each of `count` seeds, from the configuration's own on.

    Their run folders are those of ``lifelong run`` with that seed, so that what is there already is not run again.

    Args:
        config: of the run.
        count: how many seeds.
        root: where run folders are kept.
        point: options that were changed, as people read them, in W&B.
        group: in W&B, or None if nothing is sent there.
        trackers: names or files of others that are told of the runs.
    """
    jobs, place = [], str(root.absolute())
    for seed in range(config.seed, config.seed + count):
        one = config.model_copy(update={"seed": seed})
        resolved = one.resolved()
        data, folder = one.model_dump(mode="json", exclude_unset=True), folder_name(config.name, resolved)
        label = f"seed={seed}"
        at = f"{point}, {label}" if point else label
        jobs.append(Job(0, label, data, place, folder, code_version(), group, at, cohort_of(resolved), tuple(trackers)))
    return jobs
