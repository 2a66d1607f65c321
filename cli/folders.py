"""Which folders the arguments of a command name: paths, unique beginnings of names, or `last`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cli.output import note
from streams.errors import ConfigError, closest

LAST = "last"
RUN, STUDY = "config.yaml", "study.json"
"""What tells the folder of a run, and that of a study."""
_MOST_NAMES = 6


def find_folder(text: str, root: Path, told_by: Sequence[str] = (RUN, STUDY)) -> Path:
    """Return the folder of a run or a study that `text` names.

    Args:
        text: a path that exists; or ``last``, the folder of `root` in which something was written last; or the name of
            a folder of `root`, or its beginning if no other begins so; or the same of a path, ``runs/quick``.
        root: where run folders are kept.
        told_by: files of which a folder has one, if it is what is looked for.

    Raises:
        ConfigError: nothing is called so, or several are.
    """
    path = Path(text)
    if path.exists():
        return path
    parent = root if path.parent == Path() else path.parent
    there = {f.name: f for f in parent.glob("*/") if any((f / name).exists() for name in told_by)}
    if text == LAST and there:
        return max(there.values(), key=_written_at)
    if path.name in there:
        return there[path.name]
    begun = sorted(name for name in there if name.startswith(path.name))
    if len(begun) == 1:
        return there[begun[0]]
    what = _what(told_by)
    if begun:
        names = ", ".join(begun[:_MOST_NAMES]) + (", ..." if len(begun) > _MOST_NAMES else "")
        raise ConfigError(
            f"{text!r} is how the names of {len(begun)} {what} folders in {parent} begin: {names}. Write more of the "
            f"name, or `last` for what was written to last."
        )
    known = closest(text, there) if there else f"{parent} has none; is it --runs that you mean?"
    raise ConfigError(f"{text} is not a {what} folder, and no name of one in {parent} begins so. {known}")


def _written_at(folder: Path) -> int:
    """Return when something was written; what is appended to a file does not touch its folder."""
    return max(f.stat().st_mtime_ns for f in (folder, *folder.glob("strategies/*/timings.jsonl")))


def find_runs(texts: Sequence[str], root: Path, told_by: Sequence[str] = (RUN,)) -> list[Path]:
    """Return the folders of runs (with `told_by` also of studies) that arguments name, each once.

    Of several, those that are none (a study, or submissions of the bench, that ``runs/*`` covers) are left out, and
    that is said.

    Raises:
        ConfigError: as for `find_folder`; or none of several is a run.
    """
    folders = list(dict.fromkeys(find_folder(text, root, told_by) for text in texts))
    if len(folders) == 1:
        return folders
    runs = [folder for folder in folders if any((folder / name).exists() for name in told_by)]
    others = [str(folder) for folder in folders if folder not in runs]
    what = _what(told_by)
    if not runs:
        raise ConfigError(f"None of these is a {what} folder: {', '.join(others)}.")
    if others:
        note(f"Left out, since they are no {what} folders: {', '.join(others)}.")
    return runs


def _what(told_by: Sequence[str]) -> str:
    return " or ".join({RUN: "run", STUDY: "study"}[name] for name in told_by)
