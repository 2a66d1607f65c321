"""A strategy that another run in the same place has lived to its end is taken over from there, and not lived again.

Each strategy of a run is alone: what becomes of it follows from the stream, its own options, and all that its run sets
for everybody. An index in the cache names for every such life, by place, the folder that holds it; what is in that
folder is copied, since each run folder can be removed, cleaned and given away by itself.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from lifelong.config.run import content_hash
from lifelong.execution.manifest import arithmetic
from lifelong.files import cache_folder, write_cached
from lifelong.results.integrity import check_finished, read_json
from lifelong.setup.preparation import Prepared
from streams.errors import CheckpointError

INDEX = "lives"
"""Folder of the cache with a file for every life that has ended."""


def take_over(p: Prepared, name: str, run_folder: Path) -> Path | None:
    """Copy the life of a strategy from a run that has lived it; return its run folder, or None if there is none.

    A folder that was removed, cleaned, damaged, edited or lived anew since is not copied.

    Args:
        p: the run.
        name: of the strategy.
        run_folder: of the run, in which the strategy has not come to its end.
    """
    entry = _entry(p, name, run_folder.parent)
    try:
        digest, _, place = entry.read_text(encoding="utf-8").partition(" ")
    except OSError:
        return None
    source, target = run_folder.parent / place, run_folder / "strategies" / name
    if not _is_as_offered(source, digest):
        return None
    half = run_folder / ".taken"
    shutil.rmtree(half, ignore_errors=True)  # of a process that was killed
    try:
        # what a tracker keeps is of that run: W&B would have its offline runs twice
        shutil.copytree(source, half, ignore=shutil.ignore_patterns("wandb"))
        check_finished(half, read_json(half / "done.json", ""))
        whole = _is_as_offered(half, digest)
    except (OSError, shutil.Error, CheckpointError):  # then it is lived
        whole = False
    if not whole:
        shutil.rmtree(half, ignore_errors=True)
        return None
    shutil.rmtree(target, ignore_errors=True)  # what was lived of it so far
    target.parent.mkdir(parents=True, exist_ok=True)
    half.rename(target)
    return source.parent.parent


def offer(p: Prepared, name: str, run_folder: Path) -> None:
    """Let later runs in the same place find a life that has come to its end, unless they find one already.

    One whose deleted samples were blanked is not offered.
    """
    entry, root = _entry(p, name, run_folder.parent), run_folder.parent
    if entry.exists():
        digest, _, place = entry.read_text(encoding="utf-8").partition(" ")
        if _is_as_offered(root / place, digest):
            return
    life = run_folder / "strategies" / name
    if not read_json(life / "done.json", "Run again with --fresh.").get("blanked"):
        write_cached(entry, f"{_digest(life)} {life.relative_to(root)}".encode())


def _entry(p: Prepared, name: str, root: Path) -> Path:
    """Return the file that names the folder of a life; other libraries may add in another order, and have their own."""
    return cache_folder() / INDEX / content_hash([str(root.resolve()), p.life_of(name), arithmetic(p.config.device)])


def _is_as_offered(life: Path, digest: str) -> bool:
    """Return whether a life has all its files, and is the one that was offered: not blanked or lived anew since."""
    try:
        if _digest(life) != digest:
            return False
        return all((life / file).exists() for file in read_json(life / "done.json", "")["files"])
    except (OSError, CheckpointError):
        return False


def _digest(life: Path) -> str:
    """Return a digest of all files of a life: of ``done.json``, which holds those of the others."""
    return hashlib.blake2b((life / "done.json").read_bytes(), digest_size=8).hexdigest()
