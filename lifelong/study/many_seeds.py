"""One run under many seeds: a study without criteria, for whoever wants a table with intervals."""

from __future__ import annotations

from pathlib import Path

from lifelong.config.run import RunConfig, content_hash
from lifelong.files import code_of, code_version
from lifelong.study.jobs import Job, cohort_of


def jobs_of_seeds(config: RunConfig, count: int, root: Path, group: str | None = None) -> list[Job]:
    """Return one job for each of `count` seeds, from the configuration's own on.

    Their run folders are those of ``lifelong run`` with that seed, so that what is there already is not run again.

    Args:
        config: of the run.
        count: how many seeds.
        root: where run folders are kept.
        group: in W&B, or None if nothing is sent there.
    """
    jobs = []
    for seed in range(config.seed, config.seed + count):
        one = config.model_copy(update={"seed": seed})
        resolved = one.resolved()
        data = one.model_dump(mode="json", exclude_unset=True) | {"seed": seed}
        folder = f"{config.name}-{content_hash([resolved, code_of(resolved)])}"
        place = str(Path(root).absolute())
        jobs.append(
            Job(0, f"seed={seed}", data, place, folder, code_version(), group, f"seed={seed}", cohort_of(resolved))
        )
    return jobs
