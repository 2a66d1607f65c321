"""About 1,560 emoji in colour as several vendors draw them: icon sets of npm (``@iconify-json``), by ``resvg-py``.

A class is an icon's name, if every chosen vendor has one of that name; a superclass is its Unicode group, a domain is a
vendor, and so is a user. Icons of single skin tones and hidden ones are left out. Get the sets by

    npm install --prefix FOLDER @iconify-json/twemoji@1.2.5 @iconify-json/noto@1.2.9
    npm install --prefix FOLDER @iconify-json/fluent-emoji-flat@1.2.6 @iconify-json/fluent-emoji-high-contrast@1.2.6
    npm install --prefix FOLDER @iconify-json/fluent-emoji@1.2.7

and the drawing by ``pip install 'lifelong-simulator[emoji]'``. Pictures are drawn once and kept in ``$LIFELONG_CACHE``.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator

from streams.config import Config as BaseConfig
from streams.errors import ConfigError, DataError
from streams.files import cache_folder
from streams.inputs import scale
from streams.randomness import Key
from streams.source import Source
from streams.sources._drawn import Arrays, kept

logger = logging.getLogger(__name__)

VERSIONS = {
    "twemoji": "1.2.5",
    "noto": "1.2.9",
    "fluent-emoji-flat": "1.2.6",
    "fluent-emoji-high-contrast": "1.2.6",
    "fluent-emoji": "1.2.7",
}
"""Versions of the sets that this was tried with."""
GROUPS = (
    "Smileys & Emotion", "People & Body", "Animals & Nature", "Food & Drink", "Travel & Places", "Activities",
    "Objects", "Symbols", "Flags",
)  # fmt: skip
"""Unicode's groups of emoji, in its order: a superclass is an index of these."""
_DRAWING = "Install resvg-py, which draws the pictures: pip install 'lifelong-simulator[emoji]'"


class Config(BaseConfig):
    """Options of `emoji`."""

    root: str = "."
    """Folder that `npm install --prefix` was given, or one with a folder for each set, as its
    node_modules/@iconify-json."""
    vendors: tuple[str, ...] = Field(tuple(VERSIONS), min_length=2)
    """Sets, by the name of their package in @iconify-json. All three of fluent-emoji are finishes of the same
    drawings; fluent-emoji itself is large (104 MB unpacked)."""
    split: Literal["vendors", "pairs"] = "vendors"
    """What is held out: whole vendors; or of every class the pictures of one artist, chosen by a hash, so that every
    vendor has test samples (for domain-incremental streams)."""
    held_out: tuple[str, ...] = Field(("noto",), min_length=1)
    """Vendors to hold out where `split` is vendors. Finishes of the same drawings go together."""
    classes: int | None = Field(None, ge=2)
    """Keep only so many emoji, chosen by a hash; null keeps all."""
    size: int = Field(32, ge=8, le=256)
    """Side of the pictures, in pixels."""

    @field_validator("vendors", "held_out")
    @classmethod
    def _check_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("names a set twice")
        if not all(n.replace("-", "").isalnum() for n in names):
            raise ValueError("must be names of packages in @iconify-json, such as twemoji")
        return names

    @model_validator(mode="after")
    def _holds_out_artists(self) -> Self:
        artists = {artist(v) for v in self.vendors}
        if self.split == "pairs":
            if len(artists) < 2:
                raise ValueError("vendors are finishes of one artist's drawings; split: pairs needs two artists")
            return self
        if strange := set(self.held_out) - set(self.vendors):
            raise ValueError(f"held_out has {', '.join(sorted(strange))}, which is not among vendors")
        trained = set(self.vendors) - set(self.held_out)
        if not trained:
            raise ValueError("held_out has all vendors; leave one to train on")
        if leaks := sorted(v for v in trained if artist(v) in {artist(h) for h in self.held_out}):
            raise ValueError(
                f"held_out and {', '.join(leaks)} are finishes of the same drawings, so that accuracy would say "
                f"little. Hold out all of an artist's sets, or leave them out of vendors"
            )
        return self


def load(config: Config) -> Source:
    """Return the pictures as bytes ``[classes * vendors, 3, size, size]``, scaled to [0, 1], on white.

    A row is class * vendors + vendor; classes are in alphabetical order.

    Raises:
        ConfigError: more classes are asked for than the vendors share.
        DataError: a set or resvg-py is missing or damaged.
    """
    key = Key(0) / "emoji"
    drawn = pictures(config.root, config.vendors, config.size)
    rows = np.arange(len(drawn.names))
    if config.classes is not None:
        if config.classes > len(rows):
            raise ConfigError(f"classes: {config.classes} is too many: these vendors share {len(rows)} emoji.")
        rows = np.sort(np.argsort((key / "classes").priorities(rows), kind="stable")[: config.classes])
    count = len(config.vendors)
    vendor_ids = np.tile(np.arange(count, dtype=np.int64), len(rows))
    if config.split == "vendors":
        is_test = np.isin(vendor_ids, [config.vendors.index(v) for v in config.held_out])
    else:
        artists = sorted({artist(v) for v in config.vendors})
        own = np.array([artists.index(artist(v)) for v in config.vendors])
        held = (key / "split").priorities(rows) % np.uint64(len(artists))
        is_test = own[vendor_ids] == np.repeat(held.astype(np.int64), count)
    class_ids = np.repeat(np.arange(len(rows), dtype=np.int64), count)
    images = drawn.images[rows].reshape(-1, config.size, config.size, 3)
    return Source(
        name="emoji",
        licence="; ".join(drawn.licences),
        x=torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        scale=scale(),
        y=torch.from_numpy(class_ids),
        class_ids=class_ids,
        user_ids=vendor_ids,
        is_test=is_test,
        class_names=tuple(drawn.names[i] for i in rows),
        user_names=config.vendors,
        domain_ids=vendor_ids,
        superclass_ids=drawn.group_ids[rows],
        notes=(
            "users and domains: vendors",
            f"superclasses: {', '.join(GROUPS)}",
            f"split: held-out {', '.join(config.held_out)}"
            if config.split == "vendors"
            else "split: one artist a class",
        ),
        domain_names=config.vendors,
    )


def artist(vendor: str) -> str:
    """Return whose drawings a set shows: finishes of the same drawings have the same.

    >>> artist("fluent-emoji-high-contrast"), artist("noto")
    ('fluent', 'noto')
    """
    return vendor.split("-")[0]


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """All emoji that some vendors share.

    Attributes:
        names: of the icons, ``C`` in alphabetical order.
        group_ids: int64 ``[C]``, index of `GROUPS`.
        images: uint8 ``[C, vendors, S, S, 3]``, on white.
        licences: of each set, with its version.
    """

    names: tuple[str, ...]
    group_ids: np.ndarray
    images: np.ndarray
    licences: tuple[str, ...]


def pictures(root: str, vendors: Sequence[str], size: int) -> Pictures:
    """Return what the vendors share, drawn only if no sound copy is on disk.

    Raises:
        DataError: a set or resvg-py is missing or damaged, or the sets share nothing.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise DataError(f"emoji: resvg-py is not there. {_DRAWING}") from error
    folders = [_folder(Path(root), v) for v in vendors]
    abouts = [_json(f / "info.json") for f in folders]
    packages = [_json(f / "package.json") for f in folders]
    sizes = [(f / "icons.json").stat().st_size for f in folders]
    try:
        versions = [str(p["version"]) for p in packages]
        licences = tuple(
            f"{about['name']} {version} ({about['author']['name']}, {about['license']['title']})"
            for about, version in zip(abouts, versions, strict=True)
        )
    except (KeyError, TypeError) as error:
        raise DataError(f"{root}: info.json or package.json of a set lacks {error}. Install the set again.") from error
    recipe = (resvg_py.__version__, size, *zip(vendors, versions, sizes, strict=True))
    path = cache_folder() / f"emoji-{hashlib.blake2b(repr(recipe).encode(), digest_size=8).hexdigest()}.npz"

    def fits(arrays: Arrays) -> bool:
        shape = (len(arrays.get("names", ())), len(vendors), size, size, 3)
        return (
            arrays.keys() == {"names", "group_ids", "images"}
            and len(arrays["group_ids"]) == shape[0]
            and arrays["images"].shape == shape
            and arrays["images"].dtype == np.uint8
        )

    arrays = kept(path, fits, lambda: _drawn(folders, size))
    return Pictures(tuple(arrays["names"].tolist()), arrays["group_ids"], arrays["images"], licences)


def _drawn(folders: Sequence[Path], size: int) -> Arrays:
    icons = [_icons(folder) for folder in folders]
    group_of: dict[str, int] = {}
    for folder in folders:  # some sets have no groups; of those that have some, the first counts
        for group, names in _json(folder / "metadata.json").get("categories", {}).items():
            if group in GROUPS:
                group_of = dict.fromkeys(names, GROUPS.index(group)) | group_of
    shared = sorted(n for n in set.intersection(*map(set, icons)) if n in group_of and "skin-tone" not in n)
    if not shared:
        raise DataError(f"{', '.join(map(str, folders))}: these sets have no icon of the same name and a known group.")
    logger.info("Drawing %d emoji of %d vendors at %d pixels, once.", len(shared), len(folders), size)
    images = np.stack(
        [[_picture(own[name], size, f"{f}: {name}") for f, own in zip(folders, icons, strict=True)] for name in shared]
    )
    return {"names": np.array(shared), "group_ids": np.array([group_of[n] for n in shared]), "images": images}


def _icons(folder: Path) -> dict[str, tuple[str, tuple[float, ...]]]:
    """Return the body of each icon that is not hidden, and its view box (left, top, width, height)."""
    icon_set = _json(folder / "icons.json")

    def box(icon: Mapping[str, Any]) -> tuple[float, ...]:
        defaults = {"left": 0, "top": 0, "width": 16, "height": 16}
        return tuple(float(icon.get(side, icon_set.get(side, default))) for side, default in defaults.items())

    try:
        return {name: (icon["body"], box(icon)) for name, icon in icon_set["icons"].items() if not icon.get("hidden")}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{folder / 'icons.json'}: is not a set of icons ({error!r}). Install the set again."
        ) from error


def _picture(icon: tuple[str, tuple[float, ...]], size: int, where: str) -> np.ndarray:
    """Return uint8 ``[size, size, 3]``: the icon in the middle of a white square."""
    import resvg_py
    from PIL import Image

    body, box = icon
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{size}" '
        f'height="{size}" viewBox="{" ".join(f"{b:g}" for b in box)}">{body}</svg>'
    )
    try:
        png = resvg_py.svg_to_bytes(svg_string=svg, background="#ffffff", skip_system_fonts=True)
    except ValueError as error:
        raise DataError(f"{where} cannot be drawn ({error}). Install the set again.") from error
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGB"))


def _folder(root: Path, vendor: str) -> Path:
    for folder in (root / vendor, root / "node_modules" / "@iconify-json" / vendor):
        if (folder / "icons.json").is_file():
            return folder
    package = f"@iconify-json/{vendor}" + (f"@{VERSIONS[vendor]}" if vendor in VERSIONS else "")
    raise DataError(
        f"{root.resolve()} has no icon set {vendor}. Get it with `npm install --prefix {root} {package}`, or set the "
        f"source's root to the folder that --prefix was given."
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Install the set again.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: is not a JSON object. Install the set again.")
    return content
