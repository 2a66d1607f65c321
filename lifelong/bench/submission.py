"""A submission: one file with all that a strategy's place in a track rests on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lifelong.bench.evidence import Life
from lifelong.bench.headline import Headline, headline
from lifelong.bench.track import PROTOCOL
from lifelong.config.run import content_hash
from lifelong.files import write_atomically
from streams.config import Config, parse
from streams.errors import ConfigError, DataError, RefutedError

FORMAT = 1
RESULTS = Path(__file__).with_name("results")
"""Submissions that ship with the package: a folder for each track."""
_DIGITS = 6


class Submission(Config):
    """One strategy on one track."""

    format: Literal[1] = 1
    """Of this file."""
    protocol: int
    """How its lives were judged."""
    track: str
    """Name of the track."""
    version: int
    """Of the track."""
    frozen: str
    """Digest of all that is frozen in the track."""
    strategy: str
    """What it is called."""
    config: dict[str, Any]
    """What it is, with the options that tuning has found."""
    files: dict[str, str] = {}
    """Digests of files with code that it names."""
    access: str
    """What it was allowed to read."""
    code: str
    """Version of all code that decides results."""
    versions: dict[str, str]
    """Of what results may depend on."""
    processor: str
    """What the processor can add at once: others have other last bits."""
    source: str
    """Digest of the data."""
    streams: tuple[str, ...] = Field(min_length=1)
    """Digests of the streams, in the order of `lives`."""
    tuning: dict[str, Any] | None = None
    """What the search came to; null where there was nothing to tune."""
    lives: tuple[Life, ...] = Field(min_length=1)
    """What the seeds came to."""
    headline: dict[str, Any]
    """What follows from the lives."""
    certificate: dict[str, Any] | None = None
    """What replays of one seed say of its claims of exactness; null where it claims nothing."""
    digest: str
    """Of all of this but the digest."""

    @property
    def place(self) -> Path:
        """Where it is kept among others: track and strategy."""
        return Path(self.track) / f"{self.strategy}.json"


def make(fields: Mapping[str, Any], lives: Sequence[Life]) -> Submission:
    """Return a submission of its other fields and its lives, with the headline and the digest that follow."""
    data = {
        **fields,
        "format": FORMAT,
        "protocol": PROTOCOL,
        "lives": [life.model_dump(mode="json") for life in lives],
        "headline": plain(headline(lives)),
    }
    blank = parse(Submission, data | {"digest": ""}, "submission")
    return blank.model_copy(update={"digest": digest_of(blank.model_dump(mode="json"))})


def digest_of(data: Mapping[str, Any]) -> str:
    """Return the digest of a submission's data."""
    return content_hash({key: value for key, value in data.items() if key != "digest"})


def plain(one: Headline) -> dict[str, Any]:
    """Return a headline as plain data, with six digits of its numbers.

    They are computed from the lives again wherever they are read; libraries differ in the last bits.
    """
    data: dict[str, Any] = json.loads(json.dumps(asdict(one)))
    return {key: _short(value) for key, value in data.items()}


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, dict):
        return {key: _short(inner) for key, inner in value.items()}
    return [_short(inner) for inner in value] if isinstance(value, list) else value


def write(submission: Submission, file: Path) -> None:
    """Write a submission; the same one always makes the same bytes."""
    data = submission.model_dump(mode="json")
    lines = [f"  {json.dumps(life)}" for life in data.pop("lives")]
    head = json.dumps(data, indent=1)
    text = f'{head[:-2]},\n "lives": [\n' + ",\n".join(lines) + "\n ]\n}\n"
    write_atomically(file, text.encode())


def read(file: Path) -> Submission:
    """Return a submission.

    Raises:
        DataError: the file cannot be read, or is cut.
        ConfigError: it is no submission, or one that this version of the program cannot judge.
        RefutedError: something in it was changed after it was written.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{file} cannot be read as JSON ({error}). It is no submission, or was cut.") from error
    if not isinstance(data, dict) or not {"protocol", "track", "lives"} <= set(data):
        raise ConfigError(f"{file} is no submission: one is written by lifelong bench TRACK --strategy NAME.")
    if data["protocol"] != PROTOCOL:
        raise ConfigError(
            f"{file}: protocol: it was judged by protocol {data['protocol']}, and this version of the program has "
            f"protocol {PROTOCOL}. Numbers of two protocols are not compared; run it again."
        )
    submission = parse(Submission, data, file.name)
    if submission.digest != (now := digest_of(data)):
        raise RefutedError(f"{file}: digest: it says {submission.digest}, and its content has {now}. It was edited.")
    return submission


def shipped(track: str) -> list[Submission]:
    """Return the submissions to a track that ship with the package."""
    return [read(file) for file in sorted((RESULTS / track).glob("*.json"))]
