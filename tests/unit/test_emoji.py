"""Emoji of several vendors: what they share, how it is drawn and split, and what is asked about them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from strategies.objectives.denoising import Config as DenoisingConfig
from strategies.objectives.denoising import Denoising
from streams.config import parse
from streams.errors import ConfigError, DataError
from streams.scenarios import class_incremental, domain_incremental
from streams.sources import emoji, instructions
from streams.sources._albums import load_album
from streams.text import ANSWER, GIVEN

pytest.importorskip("resvg_py", reason="pip install resvg-py")

COLOURS = {"twemoji": "#ff0000", "noto": "#00ff00", "fluent-emoji-flat": "#0000ff"}
NAMES = ("apple", "bear", "cat", "door", "egg", "fox", "gem", "hat")
GROUP_OF = {n: ("Food & Drink" if n in ("apple", "egg") else "Animals & Nature") for n in NAMES}
REAL = os.environ.get("LIFELONG_EMOJI")


def write_set(root: Path, vendor: str, icons: dict[str, Any], groups: dict[str, str], side: int = 32) -> Path:
    """Write a package as @iconify-json has them."""
    folder = root / "node_modules" / "@iconify-json" / vendor
    folder.mkdir(parents=True)
    categories: dict[str, list[str]] = {}
    for name, group in groups.items():
        categories.setdefault(group, []).append(name)
    files: dict[str, Any] = {
        "icons.json": {"prefix": vendor, "icons": icons, "aliases": {}, "width": side, "height": side},
        "metadata.json": {"categories": categories} if groups else {},
        "info.json": {"name": vendor.title(), "author": {"name": "Somebody"}, "license": {"title": "MIT"}},
        "package.json": {"name": f"@iconify-json/{vendor}", "version": "1.0.0"},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def filled(colour: str, part: int = 32) -> dict[str, Any]:
    return {"body": f'<path fill="{colour}" d="M0 0h32v{part}H0z"/>'}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three vendors whose pictures have a colour each; how far down it goes tells the emoji."""
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    for vendor, colour in COLOURS.items():
        icons = {name: filled(colour, 4 * (i + 1)) for i, name in enumerate(NAMES)}
        write_set(tmp_path, vendor, icons, GROUP_OF if vendor != "twemoji" else {})
    return tmp_path


def config(root: Path, **options: Any) -> emoji.Config:
    return parse(emoji.Config, {"root": str(root), "vendors": list(COLOURS), "size": 16} | options)


def test_classes_are_what_all_vendors_show(root: Path) -> None:
    """Hidden icons, skin tones, and what one vendor lacks or no one groups are left out; icons stand in the middle."""
    for vendor, more in (("twemoji", "only-here"), ("noto", "elsewhere"), ("fluent-emoji-flat", "third")):
        folder = root / "node_modules" / "@iconify-json" / vendor
        found = json.loads((folder / "icons.json").read_text())
        found["icons"] |= {more: filled("#000"), "bear-dark-skin-tone": filled("#000"), "stray": filled("#000")}
        found["icons"]["old"] = filled("#000") | {"hidden": True}
        found["icons"]["wide"] = {"body": '<path d="M0 0h64v32H0z" fill="currentColor"/>', "width": 64}
        (folder / "icons.json").write_text(json.dumps(found))
    named = dict.fromkeys(["only-here", "elsewhere", "third", "bear-dark-skin-tone", "old", "wide"], "Objects")
    metadata = root / "node_modules" / "@iconify-json" / "noto" / "metadata.json"
    categories = json.loads(metadata.read_text())["categories"] | {"Objects": list(named), "Nonsense": ["stray"]}
    metadata.write_text(json.dumps({"categories": categories}))
    source = emoji.load(config(root))
    assert source.class_names == (*NAMES, "wide")
    assert source.x.shape == (27, 3, 16, 16)
    assert source.x.dtype == torch.uint8
    assert (source.class_ids == np.arange(27) // 3).all()
    assert source.domain_names == source.user_names == tuple(COLOURS)
    assert (source.domain_ids == np.arange(27) % 3).all()
    groups = [emoji.GROUPS[g] for g in source.superclass_ids]  # type: ignore[union-attr]
    assert groups == [*GROUP_OF.values(), "Objects"]
    assert source.licence.startswith("Twemoji 1.0.0 (Somebody, MIT); Noto 1.0.0")
    hat = source.x[3 * NAMES.index("hat") + 1]
    assert hat.amax((1, 2)).tolist() == hat.amin((1, 2)).tolist() == [0, 255, 0], "green all over"
    cat = source.x[3 * NAMES.index("cat")]
    assert cat[:, 2].tolist() == [[255] * 16, [0] * 16, [0] * 16]
    assert (cat[:, 6:] == 255).all(), "white below"
    wide = source.x[-1]
    assert (wide[:, :4] == 255).all()
    assert (wide[:, 4:12] == 0).all()
    assert (wide[:, 12:] == 255).all()


def test_splits_leave_no_finish_of_a_drawing_on_both_sides(root: Path) -> None:
    contrast = {name: filled("currentColor", 4 * (i + 1)) for i, name in enumerate(NAMES)}
    write_set(root, "fluent-emoji-high-contrast", contrast, {})
    vendors = [*COLOURS, "fluent-emoji-high-contrast"]
    source = emoji.load(config(root, vendors=vendors, held_out=["twemoji"]))
    assert set(source.domain_ids[source.is_test]) == {0}  # type: ignore[index]
    assert not source.is_test[source.domain_ids != 0].any()
    pairs = emoji.load(config(root, vendors=vendors, split="pairs"))
    held = pairs.is_test.reshape(8, 4)
    assert (held[:, 2] == held[:, 3]).all(), "finishes go together"
    assert (held[:, :3].sum(1) == 1).all(), "one artist of every class"
    assert held.any(0).all(), "every vendor has test samples"
    few = emoji.load(config(root, vendors=vendors, split="pairs", classes=5))
    rows = [NAMES.index(n) for n in few.class_names]
    assert rows == sorted(rows)
    assert np.array_equal(few.is_test.reshape(5, 4), held[rows])
    assert torch.equal(few.x, pairs.x.view(8, 4, 3, 16, 16)[rows].flatten(0, 1))
    assert set(emoji.load(config(root, classes=3)).class_names) < set(few.class_names)


def test_streams_of_emoji(root: Path) -> None:
    source = emoji.load(config(root))
    plan = class_incremental.build(source, parse(class_incremental.Config, {"experiences": 4}), 0)
    assert [len(e.sample_ids) for e in plan.experiences] == [4] * 4
    pairs = emoji.load(config(root, split="pairs"))
    plan = domain_incremental.build(pairs, parse(domain_incremental.Config, {"kind": "natural"}), 0)
    assert len(plan.experiences) == 3
    assert all(len(u.test_ids) for u in plan.units)


def test_pictures_are_drawn_once_for_each_version_and_size(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    picture = emoji._picture
    monkeypatch.setattr(emoji, "_picture", lambda icon, size, where: drawn.append(where) or picture(icon, size, where))
    digest = emoji.load(config(root)).digest()
    assert emoji.load(config(root)).digest() == digest
    emoji.load(config(root, split="pairs", classes=4))
    assert len(drawn) == 24
    emoji.load(config(root, size=24))
    assert len(drawn) == 48
    (root / "node_modules" / "@iconify-json" / "noto" / "package.json").write_text('{"version": "1.0.1"}')
    assert emoji.load(config(root)).digest() == digest
    assert len(drawn) == 72


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"held_out": ["fluent-emoji"]}, "fluent-emoji-flat, fluent-emoji-high-contrast are finishes of the same"),
        ({"held_out": ["openmoji"]}, "held_out has openmoji, which is not among vendors"),
        ({"vendors": ["twemoji", "noto"], "held_out": ["noto", "twemoji"]}, "held_out has all vendors"),
        ({"vendors": ["fluent-emoji", "fluent-emoji-flat"], "split": "pairs"}, "needs two artists"),
        ({"vendors": ["twemoji", "twemoji"]}, "twice"),
        ({"vendors": ["twemoji", "../noto"]}, "names of packages"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(emoji.Config, options)


def test_what_is_missing_is_named_with_the_way_to_get_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="classes: 9 is too many: these vendors share 8"):
        emoji.load(config(root, classes=9))
    with pytest.raises(DataError, match=r"no icon set fluent-emoji\. .*npm install --prefix .*fluent-emoji@1\.2\.7"):
        emoji.load(config(root, vendors=["fluent-emoji", "noto"]))
    folder = root / "node_modules" / "@iconify-json" / "noto"
    icons = (folder / "icons.json").read_text()
    for damaged, message in (
        (icons[:50], "cannot be read"),
        ('{"icons": {"apple": {}}}', "not a set of icons"),
        (icons.replace("<path", "<path <"), "cannot be drawn"),
        ('{"icons": {}}', "no icon of the same name"),
    ):
        (folder / "icons.json").write_text(damaged)
        with pytest.raises(DataError, match=message):
            emoji.load(config(root))
    (folder / "info.json").write_text("{}")
    with pytest.raises(DataError, match="lacks 'name'"):
        emoji.load(config(root))
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(DataError, match=r"pip install 'lifelong-simulator\[emoji\]'"):
        emoji.load(config(root))


SMALL: dict[str, Any] = {"samples": 80, "test": 12, "characters": 6, "users": 4, "vocabulary": 400, "emoji": 6}


def test_instructions_about_emoji_are_in_colour_and_right(root: Path) -> None:
    options = SMALL | {"distributors": ["emoji", "numbers"], "emoji_root": str(root)}
    options |= {"hard": 0.0, "redundancy": 0.0}
    source = instructions.load(parse(instructions.Config, options))
    assert source.text is not None
    assert source.images is not None
    assert source.images.shape[1:] == (2, 3, 28, 28)
    assert {"naming", "yes-no", "group", "vendor"} <= set(source.class_names)
    digits = source.images[source.domain_ids == 1]
    assert (digits == digits[:, :, :1]).all(), "grey pictures stay grey"
    album = load_album("emoji", 28, emoji_count=6, emoji_root=str(root))
    decode, vendors = source.text.tokenizer.decode, {0: "twitter", 1: "google", 2: "microsoft"}
    seen: set[tuple[str, int, bool]] = set()
    for row in np.flatnonzero(source.domain_ids == 0):
        picture, x = source.images[row, 0], source.x[row]
        vendor = int(picture[:, 8].float().mean(1).argmax())
        filled_to = int(((picture != 255).any(0).sum(0)).max())
        name = min(album.names, key=lambda n: abs(28 * (NAMES.index(n) + 1) / 8 - filled_to))
        question, answer = decode(x[0][x[1] == GIVEN].tolist()), decode(x[0][x[1] == ANSWER].tolist()).strip()
        skill = source.class_names[source.class_ids[row]]
        assert (picture[:, -1] == 255).all() or filled_to >= 27, "what moves in is white"
        if skill == "vendor" and filled_to > 9:
            assert answer == vendors[vendor]
        elif skill == "naming":
            assert answer == name
        elif skill == "group":
            assert answer == GROUP_OF[name].split()[0].lower()
            assert "garment" not in question
        elif skill == "yes-no":
            assert answer == ("yes" if name in question else "no")
        if filled_to > 9:
            seen.add((name, vendor, bool(source.is_test[row])))
    assert not {(n, v) for n, v, test in seen if test} & {(n, v) for n, v, test in seen if not test}


@pytest.mark.skipif(REAL is None, reason="set LIFELONG_EMOJI to the folder with the packages")
def test_the_real_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 16 pixels a linear model knows Noto's drawings of 100 emoji from those of the others, far above chance."""
    from sklearn.linear_model import RidgeClassifier

    if "LIFELONG_CACHE" not in os.environ:
        monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path))
    options = {"root": REAL, "vendors": list(COLOURS), "size": 16}
    source = emoji.load(parse(emoji.Config, options))
    assert source.num_classes > 1500
    assert len(np.unique(source.superclass_ids)) == 9  # type: ignore[arg-type]
    assert "skin-tone" not in " ".join(source.class_names)
    assert (source.inputs().flatten(1).min(1).values < 0.95).all(), "no picture is blank"
    few = emoji.load(parse(emoji.Config, options | {"classes": 100}))
    x, y = few.inputs().flatten(1).numpy(), few.class_ids
    score = RidgeClassifier(100).fit(x[few.train_ids], y[few.train_ids]).score(x[few.test_ids], y[few.test_ids])
    assert score > 0.4
    asked = instructions.load(
        parse(instructions.Config, SMALL | {"distributors": ["emoji"], "emoji_root": REAL, "size": 16})
    )
    assert asked.class_names == ("naming", "yes-no", "group", "vendor")


def test_an_image_generator_is_asked_for_objects_in_styles_of_vendors(root: Path) -> None:
    """All cells are prompts of their own: requests by emoji, vendor and single picture name prompts."""
    config = emoji.Config(root=str(root), vendors=tuple(COLOURS), split="pairs", size=16)
    source = emoji.load(config)
    objective = Denoising.for_data(DenoisingConfig(), source, None, "cpu")
    prompts = objective.prompts
    assert objective.image_shape == (3, 16, 16)
    assert prompts.num_words == 1 + len(NAMES) + len(COLOURS)
    assert prompts.of_users
    assert prompts.of_samples
    row = source.class_names.index("cat") * 3 + 1
    assert prompts.text(prompts.of(np.array([row]))[0]) == "cat in noto style"
    assert len(prompts.of(np.arange(len(source)))) == 24
    assert prompts.groups is not None
