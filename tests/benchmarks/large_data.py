"""Memory for data that is large beside the machine: a folder of images, and a table of many rows.

    python tests/benchmarks/large_data.py
    python tests/benchmarks/large_data.py --share 1

- images: 100,000 JPEG files of 128 pixels, read at 96: 2.8 GB of bytes (11 GB as floats).
- rows: 5 million rows of 64 features in an .npz file: 1.3 GB of floats.

Each is prepared and lived (five experiences, a request for ten samples, every test sample at every evaluation) at two
sizes, `--share` of the whole and half of that. Memory of the whole follows by the line through both. Every life has a
process of its own; a thread of it looks every few milliseconds at how much memory is its own (RssAnon), and how much is
pages of files (RssFile: the system takes them back when it needs them, and processes share them).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from _common import Result, arguments, report, value

GIB = 2**30
WHOLE = {"images": 100_000, "rows": 5_000_000}
SAMPLE_BYTES = {"images": 3 * 96 * 96, "rows": 64 * 4}
MACHINE = 24
"""GiB that the whole must fit into."""


class Memory:
    """The highest memory of this process, in bytes."""

    def __init__(self) -> None:
        self.own = self.files = 0
        self._done = threading.Event()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Look for as long as the block runs."""
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        yield
        self._done.set()
        thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            lines = Path("/proc/self/status").read_text().splitlines()
            sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss")}
            self.own, self.files = max(self.own, sizes["RssAnon"]), max(self.files, sizes["RssFile"])


def write_images(folder: Path, count: int) -> Path:
    """Write so many pictures of coarse noise in ten classes."""
    from PIL import Image

    draw = np.random.default_rng(0)
    for c in range(10):
        (folder / f"class-{c}").mkdir(parents=True)
    for i in range(count):
        coarse = Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((128, 128)).save(folder / f"class-{i % 10}" / f"{i}.jpg")
    return folder


def write_rows(folder: Path, count: int) -> Path:
    """Write so many rows of 64 features in ten classes."""
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True)
    np.savez(folder / "d.npz", x=draw.standard_normal((count, 64), dtype=np.float32), y=np.arange(count) % 10)
    return folder / "d.npz"


def live(kind: str, path: str, folder: str, turn: str) -> dict[str, float]:
    """Prepare, and live, in this process; return the memory and the seconds of both."""
    from lifelong.config.run import RunConfig
    from lifelong.execution.runner import run_prepared
    from lifelong.setup.preparation import prepare
    from streams.config import parse

    torch.set_num_threads(1)
    os.environ["LIFELONG_CACHE"] = f"{folder}/cache"
    config = {
        "source": {"name": "arrays", "path": path} | ({"image_size": 96} if kind == "images" else {}),
        "scenario": {"name": "class-incremental", "experiences": 5},
        "schedule": {"name": "burst", "after": 5, "requests": 1, "samples": 10},
        "model": {"name": "mlp", "hidden": [16]},
        "training": {"epochs": 1, "batch_size": 256, "lr": 0.01},
        "evaluation": {"batch_size": 1024},
        "strategies": {"naive": {"learner": "naive", "unlearner": "none"}},
        "references": {"kinds": []},
    }
    memory, costs = Memory(), dict[str, float]()
    with memory.watched():
        started = time.process_time()
        prepared = prepare(parse(RunConfig, config))
        costs |= {"prepared": time.process_time() - started, "own, prepared": memory.own, "files": memory.files}
        run_prepared(prepared, f"{folder}/{turn}", [])
    return costs | {"own": memory.own, "files": memory.files, "seconds": time.process_time() - started}


def empty(folder: str) -> float:
    """Return the memory of a process that has prepared something small."""
    from lifelong.config.run import RunConfig
    from lifelong.setup.preparation import prepare

    os.environ["LIFELONG_CACHE"] = folder
    memory = Memory()
    with memory.watched():
        prepare(RunConfig())
        time.sleep(0.05)
    return memory.own


def lived(kind: str, count: int) -> list[dict[str, float]]:
    """Write so much data and live on it; return what it cost, with images also where they are decoded already."""
    context, costs = multiprocessing.get_context("spawn"), []
    with tempfile.TemporaryDirectory() as folder:
        path = (write_images if kind == "images" else write_rows)(Path(folder) / "data", count)
        time.sleep(3)  # what was just written is not trusted to stay as it is
        for turn in ("first", "again") if kind == "images" else ("first",):
            with context.Pool(1) as pool:
                costs.append(pool.apply(live, (kind, str(path), folder, turn)))
    print({f"{kind}, {count:,}": costs}, file=sys.stderr)
    return costs


def measured(kind: str, share: float) -> list[Result]:
    """Live at two sizes, and return what follows."""
    count, whole = round(WHOLE[kind] * share), WHOLE[kind]
    with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(1) as pool:
        bare = pool.apply(empty, (folder,))
    few, (first, *again) = lived(kind, count // 2)[0], lived(kind, count)
    slope = max(0.0, first["own"] - few["own"]) / (count - count // 2)
    mapped = 1.0 if kind == "images" else 0.0  # of the array, in pages of a file
    own = (first["own"] + slope * (whole - count)) / GIB
    pages = mapped * whole * SAMPLE_BYTES[kind] / GIB
    array = [mapped + (first["own, prepared"] - bare) / (count * SAMPLE_BYTES[kind])]
    results = [
        value(f"{count:,} {kind}: highest memory of preparing, by the array", array, 1.3, "x"),
        value(f"{whole:,} {kind}: highest own memory, by the line", [own], MACHINE, "GiB"),
        value(f"{whole:,} {kind}: with every page of the file", [own + pages], MACHINE, "GiB"),
    ]
    for later in again:
        name = f"{count:,} {kind}: prepared once more, to the first time"
        faster = later["prepared"] / first["prepared"]
        results.append(Result(name, later["prepared"], first["prepared"], "s", faster, faster, faster, 0.5, True, 1))
    return results


def main() -> int:
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--share", type=float, default=0.1, help="of 100,000 images and 5 million rows")
    parser.add_argument("--only", choices=WHOLE, nargs="+", default=list(WHOLE), help="one of them")
    options = parser.parse_args()
    results = [result for kind in options.only for result in measured(kind, options.share)]
    return report(results, options.json)


if __name__ == "__main__":
    sys.exit(main())
