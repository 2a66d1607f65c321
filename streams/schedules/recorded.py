"""Requests from a .csv file: who asked, and when, as a real log has it."""

from __future__ import annotations

import csv
import datetime
from bisect import bisect_right
from pathlib import Path
from typing import get_args

from streams.config import Config as BaseConfig
from streams.errors import ConfigError, DataError
from streams.events import Reason, Scope
from streams.plan import Learn, Plan, RequestSpec, Scheduled
from streams.randomness import Key
from streams.schedules._common import Keys


class Config(BaseConfig):
    """Options of `recorded`."""

    path: str
    """A file with a header and a line per request. One of its columns is `user`, `class` or `task` (by name, as the
    data has it) or `sample` (by number); another is `date` (as in 2026-01-31), or `after` (how many experiences have
    been learned by then). Others are ignored."""
    learned: tuple[datetime.date, ...] = ()
    """Where the file has dates: when each experience is learned, in order. A request comes after all that are learned
    on its date or before."""
    reason: Reason = "erase"
    """erase (privacy), correct (bad data) or suppress (a concept must go)."""


def place(plan: Plan, config: Config, key: Key) -> list[Scheduled]:
    """Return the experiences with the requests between them, by time, and in the file's order where that is the same.

    Raises:
        ConfigError: `learned` does not fit the experiences, or a line names what is not in the data.
        DataError: the file is missing or damaged, or has not the columns it needs.
    """
    path = Path(config.path).expanduser()
    lines, scope, clock = _read(path)
    count = len(plan.experiences)
    if clock == "date" and (len(config.learned) != count or list(config.learned) != sorted(config.learned)):
        raise ConfigError(
            f"schedule.learned: {len(config.learned)} dates are given; {path} has dates, so every one of the {count} "
            f"experiences needs one, in order: when it is learned."
        )
    specs: list[tuple[datetime.date | int, int, RequestSpec]] = []
    names = Keys(plan)
    for number, owner, when in lines:
        where = f"{path}, line {number}"
        moment = _moment(where, clock, when)
        after = moment if isinstance(moment, int) else bisect_right(config.learned, moment)
        if not 1 <= after <= count:
            first = f"; the first is learned on {config.learned[0]}" if clock == "date" else ""
            raise ConfigError(
                f"{where}: {clock} {when} is after {after} experiences; a request must come after 1 to {count} of them"
                f"{first}. Remove the line, or correct it."
            )
        keys = names.places(scope, [int(owner) if scope == "sample" and owner.isdigit() else owner], where)
        specs.append((moment, after, RequestSpec(scope, keys, reason=config.reason)))
    specs.sort(key=lambda s: (s[1], s[0]))
    asked: dict[int, list[RequestSpec]] = {}
    for _, after, spec in specs:
        asked.setdefault(after, []).append(spec)
    scheduled: list[Scheduled] = []
    for index in range(count):
        scheduled += [Learn(index), *asked.get(index + 1, ())]
    return scheduled


def _read(path: Path) -> tuple[list[tuple[int, str, str]], Scope, str]:
    """Return number, key and time of every line; what keys name; and which column tells the time."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"schedule.path: {path} cannot be read as UTF-8 comma-separated values ({error}).") from error
    header = rows[0][1] if rows else []
    scopes = [s for s in get_args(Scope) if s in header]
    clocks = [c for c in ("date", "after") if c in header]
    if len(scopes) != 1 or len(clocks) != 1:
        raise DataError(
            f"schedule.path: {path} has the columns {header}. It needs exactly one of {', '.join(get_args(Scope))}, "
            f"and exactly one of date and after."
        )
    lines = []
    for number, row in rows[1:]:
        if len(row) != len(header):
            raise DataError(f"{path}, line {number}: has {len(row)} values; the header has {len(header)} columns.")
        lines.append((number, row[header.index(scopes[0])], row[header.index(clocks[0])]))
    return lines, scopes[0], clocks[0]


def _moment(where: str, clock: str, text: str) -> datetime.date | int:
    try:
        return int(text) if clock == "after" else datetime.datetime.fromisoformat(text).date()
    except ValueError:
        example = "a whole number" if clock == "after" else "a date, as in 2026-01-31"
        raise DataError(f"{where}: {text!r} in the column {clock!r} is not {example}.") from None
