"""What a study declared before it ran, beside what was known by then: kept in ``study.json`` of its folder.

What came out is in ``verdicts.json`` beside it. Both carry a digest, and who reads one notices that it was changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lifelong.config.run import content_hash
from lifelong.results.integrity import read_json
from lifelong.study.config import Cell, StudyConfig
from lifelong.study.seeds import all_seeds, rule_of


def declaration(folder: Path, config: StudyConfig, cells: Sequence[Cell], runs_done: int) -> dict[str, Any]:
    """Return what a study declares.

    Args:
        folder: of the study; its other versions are beside it.
        config: the study.
        cells: all of its runs.
        runs_done: how many of them are finished now.

    Raises:
        CheckpointError: what it, or another version of it, declared earlier was damaged or edited.
    """
    criteria = content_hash([c.model_dump(mode="json") for c in config.criteria])
    for file in _versions(folder, config):
        earlier = read_declared(file)
        if earlier.get("criteria") == criteria:
            runs_done = min(runs_done, int(earlier.get("runs_done_when_declared", runs_done)))
    return {
        "criteria": criteria,
        "runs_done_when_declared": runs_done,
        "question": _question(config, cells),
        "plan": _plan(config),
    }


def earlier_looks(folder: Path, config: StudyConfig, cells: Sequence[Cell]) -> tuple[int, ...]:
    """Return at how many of the present seeds the same criteria were judged before, under another plan for the seeds.

    A number that is set beforehand is no longer one if it was raised after a look, nor are looks planned that were.

    Raises:
        CheckpointError: what one of them declared, or its verdicts, were damaged or edited.
    """
    if rule_of(config.seeds).anytime or not config.criteria:
        return ()
    question, seeds, looks = _question(config, cells), set(all_seeds(config.seeds)), set[int]()
    for file in _versions(folder, config):
        seen, verdicts = read_declared(file), file.with_name("verdicts.json")
        if seen.get("question") != question:
            continue
        if seen.get("plan") == _plan(config):
            looks |= set(seen.get("looked_before", ()))
        elif verdicts.exists():
            judged = read_verdicts(verdicts)
            if judged.get("runs_done") and set(judged["seeds"]) < seeds:
                looks.add(len(judged["seeds"]))
    return tuple(sorted(looks))


def added(looked_before: Sequence[int]) -> str:
    """Say that seeds were added after a look without a plan for it; nothing if they were not.

    >>> added([])
    ''
    """
    if not looked_before:
        return ""
    return (
        f"Seeds were added after verdicts were seen at {' and '.join(map(str, looked_before))}, without a plan for "
        f"that: judged by a t test that is valid at any time."
    )


def read_declared(file: Path) -> dict[str, Any]:
    """Return what a ``study.json`` holds.

    Raises:
        CheckpointError: it was damaged or edited.
    """
    return read_json(file, f"Restore it from a copy, or delete {file.parent} and declare it anew; its runs are kept.")


def read_verdicts(file: Path) -> dict[str, Any]:
    """Return what a ``verdicts.json`` holds.

    Raises:
        CheckpointError: it was damaged or edited.
    """
    return read_json(file, "Restore it from a copy, or delete it: the verdicts are judged anew when the study is run.")


def _versions(folder: Path, config: StudyConfig) -> list[Path]:
    return sorted(folder.parent.glob(f"study-{config.name}-*/study.json"))


def _plan(config: StudyConfig) -> Any:
    return config.model_dump(mode="json")["seeds"]


def _question(config: StudyConfig, cells: Sequence[Cell]) -> str:
    """Return what identifies a study but for its seeds and the version of the code."""
    points = [c.resolved | {"seed": None} for c in cells if c.seed == cells[0].seed]
    return content_hash([points, [c.model_dump(mode="json") for c in (*config.validity, *config.criteria)]])
