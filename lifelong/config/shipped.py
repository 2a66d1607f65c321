"""The scenarios that ship with the package, found without importing anything heavy."""

from __future__ import annotations

from pathlib import Path


def ready_scenarios() -> dict[str, Path]:
    """Return the configurations that ship with the package, by name."""
    folder = Path(__file__).parents[1] / "scenarios"
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def opening(file: Path) -> str:
    """Return the comment that a configuration opens with, as one line, without the commands in it."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# "):
            break
        lines.append(line[2:].strip())
    return " ".join(line for line in lines if not line.startswith("lifelong "))
