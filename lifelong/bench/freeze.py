"""Write the digests into the file of a new version of a track: ``python -m lifelong.bench.freeze TRACK [SEEDS]``."""

from __future__ import annotations

import re
import sys

import yaml

from lifelong.bench.track import Track, frozen, tracks
from streams.config import parse


def freeze(name: str, seeds: int) -> None:
    """Build the streams of a track, and write their digests and that of all that is frozen into its file."""
    file = tracks()[name]
    text = file.read_text(encoding="utf-8")
    data = yaml.safe_load(text) | {"digests": {"source": "", "streams": ["?"] * seeds}, "digest": ""}
    track = parse(Track, data, file.name)
    streams = [track.stream(seed) for seed in range(seeds)]
    data["digests"] = {"source": streams[0].source.digest(), "streams": [stream.digest() for stream in streams]}
    data["digest"] = frozen(data)
    kept = re.split(r"^# Frozen", text, maxsplit=1, flags=re.MULTILINE)[0].rstrip()
    written = yaml.safe_dump({key: data[key] for key in ("digests", "digest")}, sort_keys=False)
    file.write_text(f"{kept}\n# Frozen: written by python -m lifelong.bench.freeze {name} {seeds}\n{written}")


if __name__ == "__main__":
    freeze(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 16)
