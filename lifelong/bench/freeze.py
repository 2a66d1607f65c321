"""Write the digests into the file of a new version of a track: ``python -m lifelong.bench.freeze TRACK [SEEDS]``.

Where a schedule has its requests chosen by a model (`chosen` of `worst-case`), they are chosen here, once, and written
into a file beside the track's.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import yaml

from lifelong.bench.track import Track, frozen, tracks
from lifelong.setup.build import sources_kept
from streams.config import parse


def freeze(name: str, seeds: int) -> None:
    """Build the streams of a track, and write their digests and that of all that is frozen into its file."""
    file = tracks()[name]
    text = file.read_text(encoding="utf-8")
    data = yaml.safe_load(text) | {"digests": {"source": "", "streams": ["?"] * seeds}, "digest": ""}
    track = parse(Track, data, file.name)
    if (chosen := track.base["schedule"].get("chosen")) is not None:
        Path(chosen).write_text(json.dumps(_choices(track, seeds), separators=(",", ":")) + "\n", encoding="utf-8")
    streams = [track.stream(seed) for seed in range(seeds)]
    data["digests"] = {"source": streams[0].source.digest(), "streams": [stream.digest() for stream in streams]}
    data["digest"] = frozen(data)
    kept = re.split(r"^# Frozen", text, maxsplit=1, flags=re.MULTILINE)[0].rstrip()
    written = yaml.safe_dump({key: data[key] for key in ("digests", "digest")}, sort_keys=False)
    file.write_text(f"{kept}\n# Frozen: written by python -m lifelong.bench.freeze {name} {seeds}\n{written}")


def _choices(track: Track, seeds: int) -> dict[str, list[list[int]]]:
    """Return the keys of every request by seed, chosen anew."""
    schedule = track.base["schedule"] | {"chosen": None}
    free = track.model_copy(update={"base": track.base | {"schedule": schedule}})
    with sources_kept():
        return {
            str(seed): [[int(key) for key in r.keys] for event in free.stream(seed).requests for r in event.requests]
            for seed in range(seeds)
        }


if __name__ == "__main__":
    freeze(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 16)
