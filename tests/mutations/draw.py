"""Draw the files in which unseen bugs are invented: `python tests/mutations/draw.py --seed 20261129 --files 20`.

Files of a few lines, in which nothing is computed, are left out. Which are drawn depends on which there are.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES, LINES = ("cli", "lifelong", "strategies", "streams"), 30


def draw(seed: int, count: int) -> list[str]:
    """Return so many files, from the root of the repository, in order of name."""
    files = sorted(f.relative_to(ROOT).as_posix() for package in PACKAGES for f in (ROOT / package).rglob("*.py"))
    long = [f for f in files if len((ROOT / f).read_text(encoding="utf-8").splitlines()) >= LINES]
    return sorted(random.Random(seed).sample(long, count))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True, help="of the draw")
    parser.add_argument("--files", type=int, default=20, help="how many (20)")
    args = parser.parse_args()
    for drawn in draw(args.seed, args.files):
        print(drawn)
