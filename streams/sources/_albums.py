"""Pictures to ask about: glyphs, digits, clothes and emoji, all scaled to one size, with what is known of each."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from streams.config import parse
from streams.errors import ConfigError
from streams.sources import digits, emoji, fashion_mnist, glyphs

SCRIPTS = ("LATIN", "GREEK", "CYRILLIC")
FAMILIES = {"DejaVuSansMono": "mono", "DejaVuSerif": "serif", "DejaVuSans": "sans", "STIXGeneral": "times"}
"""What questions call the families of faces; the first prefix that fits counts."""
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CLOTHES = ("shirt", "trousers", "pullover", "dress", "coat", "sandal", "blouse", "sneaker", "bag", "boot")
GROUPS = ("top", "bottom", "top", "dress", "top", "shoe", "top", "shoe", "bag", "shoe")
VENDORS = {"twemoji": "twitter", "noto": "google", "fluent-emoji-flat": "microsoft"}
"""The sets of emoji that are used, one of each artist, and whose they are."""
_PER_CLASS = 60
"""Pictures kept of each class of clothes, in training and in testing."""


@dataclass(frozen=True, slots=True, eq=False)
class Album:
    """Pictures of one kind.

    Attributes:
        name: which.
        noun: what one picture is called.
        licence: of the pictures.
        images: uint8 ``[N, S, S]``, or in colour ``[N, S, S, 3]``.
        class_ids: int64 ``[N]``.
        is_test: bool ``[N]``: held out.
        names: what each class is called, as an answer.
        facts: what else is known of each picture, by skill: ``N`` answers.
        background: brightness of what is around a picture.
    """

    name: str
    noun: str
    licence: str
    images: np.ndarray
    class_ids: np.ndarray
    is_test: np.ndarray
    names: tuple[str, ...]
    facts: dict[str, tuple[str, ...]]
    background: int = 0

    def pick(self, draw: np.random.Generator, test: bool, class_id: int | None = None) -> int:
        """Return a picture of a class, or of one that is drawn, from the held-out ones or the others."""
        chosen = int(draw.integers(len(self.names))) if class_id is None else class_id
        rows = np.flatnonzero((self.class_ids == chosen) & (self.is_test == test))
        return int(rows[draw.integers(len(rows))])

    def name_of(self, picture: int) -> str:
        """Return what a picture's class is called."""
        return self.names[self.class_ids[picture]]


def load_album(name: str, size: int, characters: int = 12, emoji_count: int = 12, emoji_root: str = ".") -> Album:
    """Return one of glyphs, digits, clothes and emoji with pictures of `size` x `size`.

    Args:
        name: which.
        size: side of the pictures.
        characters: how many glyphs.
        emoji_count: how many emoji.
        emoji_root: where their packages are; see `emoji`.

    Raises:
        DataError: the package that ships its pictures is not there.
        ConfigError: there are not so many characters or emoji.
    """
    make: dict[str, Callable[[], Album]] = {
        "glyphs": lambda: _glyphs(size, characters),
        "digits": lambda: _digits(size),
        "clothes": lambda: _clothes(size),
        "emoji": lambda: _emoji(size, emoji_count, emoji_root),
    }
    return make[name]()


def scaled(images: np.ndarray, size: int) -> np.ndarray:
    """Return uint8 ``[N, size, size]`` of uint8 ``[N, H, W]``, and ``[N, size, size, 3]`` of ``[N, H, W, 3]``."""
    from PIL import Image

    if images.shape[1:3] == (size, size):
        return images
    return np.stack([np.asarray(Image.fromarray(i).resize((size, size), Image.Resampling.BILINEAR)) for i in images])


def framed(image: np.ndarray) -> np.ndarray:
    """Return a picture enlarged until its content fills it but for a margin of a twelfth; its proportions stay."""
    from PIL import Image

    side = len(image)
    rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
    inside = Image.fromarray(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    most = side - 2 * round(side / 12)
    scale = most / max(inside.size)
    width, height = (max(1, round(scale * s)) for s in inside.size)
    made = Image.new("L", (side, side))
    made.paste(inside.resize((width, height), Image.Resampling.BILINEAR), ((side - width) // 2, (side - height) // 2))
    return np.asarray(made)


def _glyphs(size: int, characters: int) -> Album:
    source = glyphs.load(glyphs.Config())
    points = glyphs.characters(673)
    by_script = [
        [i for i, p in enumerate(points) if _is_plain_capital(p) and glyphs.superclass(p) == s] for s in SCRIPTS
    ]
    each, more = divmod(characters, len(SCRIPTS))
    chosen = sorted(c for k, own in enumerate(by_script) for c in own[: each + (k < more)])
    if len(chosen) < characters:
        most = len(SCRIPTS) * min(map(len, by_script))
        raise ConfigError(f"source.characters: {characters} is too many; there are {most} in equal parts.")
    rows = np.flatnonzero(np.isin(source.class_ids, chosen))
    faces = [source.user_names[u] for u in source.user_ids[rows]]
    scripts = [glyphs.superclass(points[c]).capitalize() for c in source.class_ids[rows]]
    return Album(
        "glyphs",
        "character",
        source.licence,
        scaled(np.stack([framed(i) for i in source.x[rows, 0].numpy()]), size),
        np.searchsorted(chosen, source.class_ids[rows]),
        source.is_test[rows],
        tuple(chr(points[c]) for c in chosen),
        {
            "script": tuple(scripts),
            "face": tuple(next(word for prefix, word in FAMILIES.items() if f.startswith(prefix)) for f in faces),
        },
    )


def _is_plain_capital(point: int) -> bool:
    return chr(point).isupper() and not unicodedata.decomposition(chr(point))


def _digits(size: int) -> Album:
    source = digits.load(digits.Config())
    images = (source.x.view(-1, 8, 8).numpy() * 255).round().astype(np.uint8)
    parity = tuple(("even", "odd")[c % 2] for c in source.class_ids)
    return Album(
        "digits",
        "digit",
        source.licence,
        scaled(images, size),
        source.class_ids,
        source.is_test,
        NUMBERS,
        {"parity": parity},
    )


def _clothes(size: int) -> Album:
    source = fashion_mnist.load(fashion_mnist.Config(train_limit=_PER_CLASS, test_limit=_PER_CLASS))
    return Album(
        "clothes",
        "garment",
        source.licence,
        scaled(source.x[:, 0].numpy(), size),
        source.class_ids,
        source.is_test,
        CLOTHES,
        {"group": tuple(GROUPS[c] for c in source.class_ids)},
    )


def _emoji(size: int, count: int, root: str) -> Album:
    options = {"root": root, "vendors": tuple(VENDORS), "split": "pairs", "classes": count, "size": size}
    source = emoji.load(parse(emoji.Config, options, "source.emoji"))
    assert source.superclass_ids is not None
    groups = [emoji.GROUPS[g].split()[0].lower() for g in source.superclass_ids]
    return Album(
        "emoji",
        "emoji",
        source.licence,
        source.x.permute(0, 2, 3, 1).numpy(),
        source.class_ids,
        source.is_test,
        tuple(name.replace("-", " ") for name in source.class_names),
        {
            "vendor": tuple(VENDORS[source.user_names[u]] for u in source.user_ids),
            "group": tuple(groups[c] for c in source.class_ids),
        },
        background=255,
    )
