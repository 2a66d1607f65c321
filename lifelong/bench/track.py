"""Tracks: streams, models and budgets that are frozen, so that numbers of different days and people can be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, field_validator, model_validator

from lifelong.config.run import RunConfig, content_hash
from lifelong.setup.build import make_source, make_stream
from lifelong.study.tune import Tune
from streams.config import Config, parse
from streams.errors import ConfigError, IntegrityError, closest
from streams.ledger import Access
from streams.stream import Stream

PROTOCOL = 1
"""How lives are judged (`lifelong.bench.evidence`, `lifelong.bench.headline`): another one makes other numbers."""
FOLDER = Path(__file__).with_name("tracks")


class MostAccess(Config):
    """The most that a strategy may read beside the experience that it learns."""

    forget_set: bool = True
    """Whether it may read the samples that it is to forget."""
    retained: int | Literal["full"] = "full"
    """Earlier samples that it may read during one event: all, or at most so many."""

    def allows(self, access: Access) -> bool:
        """Return whether nothing more is read."""
        within = self.retained == "full" or (access.retained != "full" and access.retained <= self.retained)
        return within and (self.forget_set or not access.forget_set)

    def in_words(self) -> str:
        """Return it as tables call access.

        >>> MostAccess(retained=200).in_words()
        'retain: buffer(200), forget set'
        """
        return Access(self.forget_set, self.retained).label()


class Digests(Config):
    """What data and streams must come to."""

    source: str
    """Of the data."""
    streams: tuple[str, ...] = Field(min_length=1)
    """Of the stream under every seed, from 0 on: as many as a submission has seeds."""


class Track(Config):
    """One track. All but `about`, `cost`, `carriers`, `more` and `expensive` is frozen; a change is a new version."""

    name: str
    """What it is called."""
    version: int = Field(ge=1)
    """Goes up with every change of what is frozen."""
    protocol: int = Field(ge=1)
    """How lives are judged."""
    about: str
    """What is lived through, in a sentence or two."""
    cost: str
    """What one strategy takes, and how that was measured."""
    base: dict[str, Any]
    """The run, without seed and strategies."""
    access: MostAccess = MostAccess()
    """What strategies may read."""
    tune: dict[str, Any] | None = None
    """The budget of tuning, the same for all: keys of `tune` of a study. null tunes nothing."""
    digests: Digests
    """What data and streams must come to."""
    digest: str
    """Of all that is frozen."""
    carriers: dict[str, dict[str, Any]] = {}
    """Learners beside which every unlearner takes part, by a short name. The first carries an unlearner in a file."""
    more: dict[str, dict[str, Any]] = {}
    """Participants beside those that the registry gives."""
    expensive: dict[str, str] = {}
    """Participants that two cores cannot carry (names, or patterns as of files), with what they would take."""

    @field_validator("base")
    @classmethod
    def _beside_the_track(cls, base: dict[str, Any]) -> dict[str, Any]:
        """Find the file with choices of a `worst-case` schedule beside the track's own."""
        schedule = base.get("schedule")
        if not isinstance(schedule, dict) or schedule.get("chosen") is None:
            return base
        return base | {"schedule": schedule | {"chosen": str(FOLDER / schedule["chosen"])}}

    @model_validator(mode="after")
    def _bare(self) -> Self:
        taken = {"seed", "name", "strategies"} & set(self.base)
        if taken:
            raise ValueError(f"base: {sorted(taken)[0]} is the bench's own key; take it out")
        return self

    @property
    def seeds(self) -> int:
        """How many seeds a submission has: 0, 1, 2 ..."""
        return len(self.digests.streams)

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.name} (version {self.version})"

    def config(self, seed: int, strategies: dict[str, Any] | None = None) -> RunConfig:
        """Return the run of one seed."""
        own = {} if strategies is None else {"strategies": strategies}
        return parse(RunConfig, self.base | {"name": f"bench-{self.name}", "seed": seed} | own)

    def stream(self, seed: int) -> Stream:
        """Build the stream of one seed."""
        config = self.config(seed)
        return make_stream(config, make_source(config))


def frozen(data: dict[str, Any]) -> str:
    """Return the digest of what is frozen in a track's file."""
    keys = ("name", "version", "protocol", "base", "access", "tune", "digests")
    return content_hash({key: data.get(key) for key in keys})


def tracks() -> dict[str, Path]:
    """Return the files of all tracks by name; nothing is read."""
    return {file.stem: file for file in sorted(FOLDER.glob("*.yaml"))}


def read_track(name: str) -> Track:
    """Return a track.

    Raises:
        ConfigError: there is no such track, or it is for another protocol.
        IntegrityError: what is frozen in its file was changed without a new version.
    """
    files = tracks()
    if name not in files:
        raise ConfigError(f"There is no track {name!r}. {closest(name, files)}")
    data = yaml.safe_load(files[name].read_text(encoding="utf-8"))
    track = parse(Track, data, files[name].name)
    if track.protocol != PROTOCOL:
        raise ConfigError(
            f"Track {track.title} is judged by protocol {track.protocol}, and this version of the program has protocol "
            f"{PROTOCOL}. Install a version that has it, or take a newer version of the track."
        )
    if track.digest != (now := frozen(data)):
        raise IntegrityError(
            f"{files[name]}: what is frozen has the digest {now}, and the file says {track.digest}. A track is never "
            f"changed: put the file back, or raise its version and write the new digests (python -m "
            f"lifelong.bench.freeze {name})."
        )
    if track.tune is not None:
        parse(Tune, track.tune, f"{files[name].name}: tune")
    return track


def check_stream(track: Track, seed: int, stream: Stream) -> None:
    """Refuse data, or a stream, that is not the track's.

    Raises:
        IntegrityError: names which it is, and both digests.
    """
    for what, wanted, now in (
        ("data", track.digests.source, stream.source.digest()),
        ("stream", track.digests.streams[seed], stream.digest()),
    ):
        if wanted != now:
            raise IntegrityError(
                f"Track {track.title}, seed {seed}: the {what} has the digest {now} here, and the track's is {wanted}. "
                f"Another version of a font, a data file or a library makes other {what}; nothing can be compared."
            )
