"""Choose the characters of `glyphs` and write the committed lists: ``python -m streams.sources._glyph_list``.

Run once. The lists are committed because pixels shift a little between builds of FreeType, and a class must not
appear or vanish with them. Needs fontTools, which `glyphs` itself does not.
"""

from __future__ import annotations

import logging
import unicodedata

import numpy as np

from streams.sources.glyphs import FACES, LISTS, POOLS, Pool, face_file, render

logger = logging.getLogger(__name__)

# Least ink of a character in every face, in grey levels summed over the image. The large pool has combining marks
# that fall off the canvas or almost do; the small one has no mark, and its full stops must stay.
MIN_INK: dict[Pool, int] = {673: 1, 2179: 1001}


def choose(pool: Pool) -> list[int]:
    """Return the code points of `pool`, ascending.

    Taken are letters, digits, punctuation, symbols and marks that every face has and that leave enough ink; dropped
    is what looks like an earlier one in half the faces or more (Latin A, Greek Alpha, Cyrillic A).
    """
    from fontTools.ttLib import TTFont

    faces = FACES[: POOLS[pool]]
    maps = [set(TTFont(face_file(face)).getBestCmap()) for face in faces]
    points = [c for c in sorted(set.intersection(*maps)) if unicodedata.category(chr(c))[0] in "LMNPS"]
    images = render(points, faces)
    inked = (images.sum((2, 3), dtype=np.int64) >= MIN_INK[pool]).all(1)
    points = [c for c, ok in zip(points, inked, strict=True) if ok]
    return [points[i] for i in distinct(images[inked])]


def distinct(images: np.ndarray) -> list[int]:
    """Return the classes whose images do not match those of an earlier returned class in half the faces or more.

    Args:
        images: uint8 ``[C, F, H, W]``. Two images match if no pixel differs by more than one grey level.
    """
    num_classes, num_faces = images.shape[:2]
    matches = np.zeros((num_classes, num_classes), dtype=np.int16)
    for face in range(num_faces):
        flat = images[:, face].reshape(num_classes, -1).astype(np.float64)
        norm = (flat * flat).sum(1)
        near = norm[:, None] + norm - 2 * flat @ flat.T <= flat.shape[1]  # a match differs by at most 1 per pixel
        first, second = np.nonzero(np.tril(near, -1))
        matching = np.abs(flat[first] - flat[second]).max(1, initial=0) <= 1
        np.add.at(matches, (first[matching], second[matching]), 1)
    chosen: list[int] = []
    for c in range(num_classes):
        if not (2 * matches[c, chosen] >= num_faces).any():
            chosen.append(c)
    return chosen


def main() -> None:
    """Write both lists next to this module."""
    for pool, path in LISTS.items():
        points = choose(pool)
        text = "".join(f"U+{c:04X} {unicodedata.name(chr(c))}\n" for c in points)
        path.write_text(text, encoding="ascii")
        logger.info("%s: %d characters", path.name, len(points))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main()
