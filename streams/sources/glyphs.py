"""673 characters in 16 font faces, or 2,179 in 12, rendered at 28x28 from the fonts that matplotlib ships.

A class is a character, a domain is a font face, and so is a user; a superclass is a script. The characters are listed
in ``glyphs_673.txt`` and ``glyphs_2179.txt`` (chosen by `streams.sources._glyph_list`), ordered by code point.
"""

from __future__ import annotations

import functools
import hashlib
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from streams.config import Config as BaseConfig
from streams.errors import ConfigError, DataError
from streams.files import cache_folder
from streams.inputs import scale
from streams.randomness import Key
from streams.source import Source, split_by_hash
from streams.sources._drawn import Arrays, kept

Pool = Literal[673, 2179]

FACES = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-BoldOblique",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono-BoldOblique",
    "DejaVuSansMono-Oblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-BoldItalic",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralBolIta",
    "STIXGeneralItalic",
)
POOLS: dict[Pool, int] = {673: 16, 2179: 12}
"""Number of faces of each pool: the first so many of `FACES`."""
LISTS: dict[Pool, Path] = {pool: Path(__file__).with_name(f"glyphs_{pool}.txt") for pool in POOLS}
HELD_OUT = ("DejaVuSans-Bold", "DejaVuSansMono-Oblique", "DejaVuSerif-Italic", "STIXGeneralBol")
"""Test faces of the split by faces: one of each family, of different weight and slant."""

SCRIPTS = ("LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "GEORGIAN")
_CATEGORIES = {"L": "LETTER", "M": "MARK", "N": "NUMBER", "P": "PUNCTUATION", "S": "SYMBOL"}

# Drawn on a canvas of 56 at 26 points, cropped to 42 and reduced to 28: room for accents and descenders.
_CANVAS, _POINTS, _ORIGIN, _CROP, _SIZE = 56, 26, (14, 7), (7, 7, 49, 49), 28


class Config(BaseConfig):
    """Options of `glyphs`."""

    pool: Pool = 673
    """673 characters in 16 faces (DejaVu and STIX), or 2179 characters in the 12 DejaVu faces."""
    classes: int | None = Field(None, ge=2)
    """Keep only the first so many characters, by code point; null keeps all."""
    split: Literal["faces", "pairs"] = "faces"
    """What is held out: whole faces, one per font family; or for each character a hashed share of its faces, so that
    every face has test samples (for domain-incremental streams)."""
    test_fraction: float = Field(0.25, gt=0, lt=1)
    """Share of each character's faces held out when `split` is pairs."""


def load(config: Config) -> Source:
    """Return the glyphs as bytes ``[classes * faces, 1, 28, 28]``, scaled to [0, 1]; row = class * faces + face.

    Raises:
        ConfigError: more classes are asked for than the pool has.
        DataError: matplotlib lacks a font, or the list of characters is damaged.
    """
    points = characters(config.pool)
    if config.classes is not None and config.classes > len(points):
        raise ConfigError(f"classes: {config.classes} is too many: pool {config.pool} has {len(points)} characters.")
    faces = FACES[: POOLS[config.pool]]
    code_points = points[: config.classes]
    images = _cached(config.pool, points, faces)[: len(code_points)]
    class_ids = np.repeat(np.arange(len(code_points), dtype=np.int64), len(faces))
    face_ids = np.tile(np.arange(len(faces), dtype=np.int64), len(code_points))
    if config.split == "faces":
        is_test = np.isin(face_ids, [i for i, face in enumerate(faces) if face in HELD_OUT])
    else:
        is_test = split_by_hash(class_ids, config.test_fraction, Key(0) / "glyphs" / "split")
    groups = [superclass(c) for c in code_points]
    names = sorted(set(groups))
    return Source(
        name="glyphs",
        licence="DejaVu (Bitstream Vera licence) and STIX (STIX Font License) fonts, as shipped by matplotlib",
        x=torch.from_numpy(images.reshape(-1, 1, _SIZE, _SIZE)),
        scale=scale(),
        y=torch.from_numpy(class_ids),
        class_ids=class_ids,
        user_ids=face_ids,
        is_test=is_test,
        class_names=tuple(f"U+{c:04X} {unicodedata.name(chr(c))}" for c in code_points),
        user_names=faces,
        domain_ids=face_ids,
        superclass_ids=np.array([names.index(g) for g in groups], dtype=np.int64),
        notes=(
            "users and domains: font faces",
            f"superclasses: {', '.join(names)}",
            "split: held-out faces" if config.split == "faces" else f"split: pairs, {config.test_fraction:g} held out",
        ),
    )


def superclass(point: int) -> str:
    """Return the script of a character, or its kind where it belongs to none.

    >>> superclass(ord("A")), superclass(ord("Ж")), superclass(ord("7"))
    ('LATIN', 'CYRILLIC', 'NUMBER')
    """
    script = unicodedata.name(chr(point)).split()[0]
    return script if script in SCRIPTS else _CATEGORIES[unicodedata.category(chr(point))[0]]


def characters(pool: Pool) -> tuple[int, ...]:
    """Return the committed code points of a pool, ascending.

    Raises:
        DataError: the list is missing or damaged.
    """
    path = LISTS[pool]
    try:
        points = tuple(int(line.split()[0].removeprefix("U+"), 16) for line in path.read_text("ascii").splitlines())
    except (OSError, ValueError, IndexError) as error:
        raise DataError(
            f"{path}: the list of characters cannot be read ({error}). Install this package again."
        ) from error
    if len(points) != pool or list(points) != sorted(set(points)):
        raise DataError(f"{path}: {len(points)} characters, not {pool} ascending ones. Install this package again.")
    return points


@functools.cache
def face_file(face: str) -> Path:
    """Return the TrueType file of a face.

    Raises:
        DataError: matplotlib does not have it.
    """
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"
    if not path.is_file():
        raise DataError(f"{path}: the font is missing. Install matplotlib 3.8 or later from its wheel.")
    return path


def render(points: Sequence[int], faces: Sequence[str]) -> np.ndarray:
    """Draw every character in every face.

    Returns:
        uint8 ``[len(points), len(faces), 28, 28]``, white on black.

    Raises:
        DataError: matplotlib lacks a face.
    """
    from PIL import Image, ImageDraw, ImageFont

    images = np.empty((len(points), len(faces), _SIZE, _SIZE), dtype=np.uint8)
    for j, face in enumerate(faces):
        # The basic layout: the other one depends on a system library and draws dotted circles under marks.
        font = ImageFont.truetype(str(face_file(face)), _POINTS, layout_engine=ImageFont.Layout.BASIC)
        for i, point in enumerate(points):
            image = Image.new("L", (_CANVAS, _CANVAS))
            ImageDraw.Draw(image).text(_ORIGIN, chr(point), font=font, fill=255)
            images[i, j] = np.asarray(image.crop(_CROP).resize((_SIZE, _SIZE)))
    return images


def cache_file(pool: Pool, points: Sequence[int]) -> Path:
    """Return where the images of a pool are kept: ``$LIFELONG_CACHE`` or ``~/.cache/lifelong``."""
    import matplotlib
    import PIL

    recipe = (matplotlib.__version__, PIL.__version__, _CANVAS, _POINTS, _ORIGIN, _CROP, _SIZE, tuple(points))
    return cache_folder() / f"glyphs-{pool}-{hashlib.blake2b(repr(recipe).encode(), digest_size=8).hexdigest()}.npz"


def _cached(pool: Pool, points: Sequence[int], faces: Sequence[str]) -> np.ndarray:
    """Return the images of a whole pool, drawn only if no sound copy is on disk."""
    shape = (len(points), len(faces), _SIZE, _SIZE)

    def fits(arrays: Arrays) -> bool:
        return arrays.keys() == {"images"} and arrays["images"].shape == shape and arrays["images"].dtype == np.uint8

    return kept(cache_file(pool, points), fits, lambda: {"images": render(points, faces)})["images"]
