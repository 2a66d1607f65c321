"""Write docs/leaderboard.md from the submissions that ship with the package."""

from __future__ import annotations

from lifelong.bench.standing import Standing, standings
from lifelong.bench.submission import shipped
from lifelong.bench.table import HEADS, cells
from lifelong.bench.track import Track, read_track, tracks


def leaderboard() -> str:
    """Return the page: for every track what it is, where all stand by access, and who is too expensive."""
    lines = [
        "# Leaderboard",
        "",
        "Generated from `lifelong/bench/results` by `python docs/generate.py`. What the numbers mean, and how to place "
        "your own method: [bench.md](bench.md). Strategies of different access are not ranked together; a place is as "
        "wide as the noise; a star is the Pareto front of all numbers.",
        "",
    ]
    for name in tracks():
        if name != "smoke":
            lines += _of_track(read_track(name))
    return "\n".join(lines).rstrip() + "\n"


def _of_track(track: Track) -> list[str]:
    lines = [f"## {track.name}", "", f"{track.about} Version {track.version}, {track.seeds} seeds; {track.cost}.", ""]
    submissions = [s for s in shipped(track.name) if s.frozen == track.digest]
    if not submissions:
        lines += ["Nothing has been placed yet.", ""]
    for access, group in standings(submissions).items():
        lines += [f"### {track.name}: {access}", "", *_table(group), ""]
    if track.expensive:
        lines += ["Too expensive for two cores:", ""]
        lines += [f"- `{pattern}`: {why}" for pattern, why in track.expensive.items()]
        lines.append("")
    return lines


def _table(group: list[Standing]) -> list[str]:
    rows = [[cell.replace("|", "\\|").replace("*", "\\*") for cell in cells(s)] for s in group]
    return [f"| {' | '.join(row)} |" for row in ([*HEADS], ["---"] * len(HEADS), *rows)]
