"""Attacks on the promise that what a request names is what is deleted, and that data is read as it is.

Numbers that mean one class in one schedule and another in the next; names that sort by text; files whose values are
lost or made up while they are read; studies that run something else than was asked, or nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lifelong.config.run import RunConfig
from lifelong.study.config import StudyConfig
from lifelong.study.study import Study
from streams.config import parse
from streams.errors import ConfigError, DataError, LifelongError
from streams.names import in_words
from streams.plan import Plan, RequestSpec
from streams.randomness import Key
from streams.scenarios import class_incremental
from streams.schedules import explicit, recorded
from streams.source import Source
from streams.sources import arrays, datasets


def data(folder: Path, labels: Sequence[Any], users: Sequence[Any]) -> Source:
    """Ten rows of each label; users take turns."""
    y = np.repeat(np.array(labels), 10)
    user = np.array([users[i % len(users)] for i in range(len(y))])
    x = np.random.default_rng(0).normal(size=(len(y), 3)).astype(np.float32)
    np.savez(folder / "own.npz", x=x, y=y, user=user)
    return arrays.load(arrays.Config(path=str(folder / "own.npz")))


def plan_of(source: Source) -> Plan:
    return class_incremental.build(source, class_incremental.Config(experiences=2), 0)


def listed(plan: Plan, scope: str, *keys: int | str) -> tuple[int, ...]:
    """The places that the schedule `explicit` makes of keys."""
    config = parse(explicit.Config, {"requests": [{"after": 2, "scope": scope, "keys": list(keys)}]})
    [spec] = [s for s in explicit.place(plan, config, Key(0)) if isinstance(s, RequestSpec)]
    assert spec.keys is not None
    return spec.keys


def logged(plan: Plan, folder: Path, scope: str, name: str) -> tuple[int, ...]:
    """The places that the schedule `recorded` makes of a line in a log."""
    (folder / "log.csv").write_text(f"{scope},after\n{name},2\n", encoding="utf-8")
    scheduled = recorded.place(plan, recorded.Config(path=str(folder / "log.csv")), Key(0))
    [spec] = [s for s in scheduled if isinstance(s, RequestSpec)]
    assert spec.keys is not None
    return spec.keys


@pytest.mark.parametrize("label", [1, 4, 6])
def test_a_number_is_the_label_in_both_schedules(label: int, tmp_path: Path) -> None:
    plan = plan_of(data(tmp_path, [1, 2, 3, 4, 5, 6], ["a", "b"]))
    place = plan.source.class_names.index(str(label))
    assert listed(plan, "class", label) == listed(plan, "class", str(label)) == (place,)
    assert logged(plan, tmp_path, "class", str(label)) == (place,)


def test_a_number_that_is_no_label_is_refused_where_labels_are_numbers(tmp_path: Path) -> None:
    plan = plan_of(data(tmp_path, [1, 2, 3, 4, 5, 6], ["a", "b"]))
    with pytest.raises(
        ConfigError, match=r"requests\.0\.keys: there is no class called 0\..*There are 6, '1' to '6'\."
    ):
        listed(plan, "class", 0)


def test_users_are_sorted_as_people_count(tmp_path: Path) -> None:
    names = [f"user-{u}" for u in range(12)]
    plan = plan_of(data(tmp_path, ["cat", "dog"], names))
    assert plan.source.user_names == tuple(names)
    assert listed(plan, "user", 10) == (10,)


def test_what_preview_shows_is_what_a_key_names(tmp_path: Path) -> None:
    names = ["user-2", "user-10", "user-7", "user-8"]
    plan = plan_of(data(tmp_path, ["cat", "dog"], names))
    for name in names:
        [place] = listed(plan, "user", int(name.removeprefix("user-")))
        assert plan.source.user_names[place] == name
        shown = in_words({"scope": "user", "keys": [place], "names": [name]}).removeprefix("user ")
        assert listed(plan, "user", int(shown) if shown.isdigit() else shown) == (place,)


def test_places_count_only_where_names_have_no_numbers(tmp_path: Path) -> None:
    plan = plan_of(data(tmp_path, ["cat", "dog", "owl"], ["a", "b"]))
    assert listed(plan, "class", 2, "cat") == (2, 0)
    with pytest.raises(ConfigError, match=r"no class called 3\..*by number 0 to 2\."):
        listed(plan, "class", 3)


@pytest.mark.parametrize(
    ("labels", "key", "message"),
    [
        (["cat", "dog", "type-0"], 0, "0 could mean the class 'type-0' or 'cat'. Write the name in full, as text."),
        (["a-1", "b-1", "c-2"], 1, "1 could mean the class 'a-1' or 'b-1'. Write the name"),
    ],
)
def test_what_could_mean_two_things_is_refused(labels: list[str], key: int, message: str, tmp_path: Path) -> None:
    plan = plan_of(data(tmp_path, labels, ["a", "b"]))
    with pytest.raises(ConfigError, match=message):
        listed(plan, "class", key)
    assert listed(plan, "class", labels[-1]) == (2,)


def images(folder: Path, mode: str, suffix: str, values: Sequence[float]) -> Path:
    """Two classes of grey images; every image has one value all over."""
    kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
    for number, value in enumerate(values):
        place = folder / ("dark", "bright")[number % 2]
        place.mkdir(exist_ok=True, parents=True)
        Image.fromarray(np.full((8, 8), value, dtype=kind)).save(place / f"{number:02}{suffix}")
    return folder


@pytest.mark.parametrize(("grayscale", "suffix"), [(True, ".png"), (False, ".png"), (True, ".tif")])
def test_images_of_16_bits_keep_their_values(
    grayscale: bool, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    values = [1_000 + 4_000 * i for i in range(16)]
    folder = images(tmp_path / "deep", "I;16", suffix, values)
    source = arrays.load(arrays.Config(path=str(folder), image_size=4, grayscale=grayscale))
    in_order = values[1::2] + values[0::2]  # bright, dark
    expected = np.array(in_order) / 65_535
    assert source.x.shape == (16, 1 if grayscale else 3, 4, 4)
    np.testing.assert_allclose(source.x.mean((1, 2, 3)).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_images_without_a_white_are_refused(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    folder = images(tmp_path / "deep", mode, ".tif", [1_000.0, 70_000.0, 2_000.0, 60_000.0])
    with pytest.raises(DataError, match=r"\.tif: its pixels are .* numbers of 32 bits.*Save it with 8 or 16 bits"):
        arrays.load(arrays.Config(path=str(folder), image_size=4))


@pytest.mark.parametrize("column", ["label", "user", "split"])
def test_an_empty_cell_is_no_class_and_no_user(column: str, tmp_path: Path) -> None:
    rows = [{"a": str(i), "label": "uv"[i % 2], "user": "xyz"[i % 3], "split": "train"} for i in range(8)]
    rows[5][column] = " "
    text = "\n".join(["a,label,user,split", *(",".join(row.values()) for row in rows)])
    (tmp_path / "own.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=rf"own\.csv, line 7, column '{column}': .*is empty"):
        arrays.load(arrays.Config(path=str(tmp_path / "own.csv")))


@pytest.mark.parametrize("name", ["y", "user"])
def test_an_empty_text_in_an_array_is_no_class_and_no_user(name: str, tmp_path: Path) -> None:
    columns = {"y": np.array(["u", "v"] * 4), "user": np.array(["x", "y"] * 4)}
    columns[name][5] = " "
    np.savez(tmp_path / "own.npz", x=np.ones((8, 2)), **columns)
    with pytest.raises(DataError, match=rf"own\.npz, row 5: {name} is empty"):
        arrays.load(arrays.Config(path=str(tmp_path / "own.npz")))


@pytest.mark.parametrize("domain", ["", " ", None])
def test_an_empty_domain_is_no_class(domain: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": "some words", "domain": "a"}, {"text": "some words", "domain": domain}]
    monkeypatch.setattr(datasets, "_splits", lambda config: {"train": rows})
    with pytest.raises(DataError, match="'domain' of row-1 is empty"):
        datasets.load(datasets.Config(path="mine", domain="domain"))


STUDY = {"name": "mine", "claim": "It works.", "base": "quickstart", "seeds": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": {"training.lr": []}}, r"grid\.training\.lr: \[\] is not valid"),
        ({"sizes": {"small": {"grid": {"training.lr": []}}}}, r"sizes\.small\.grid\.training\.lr: \[\] is not valid"),
        ({"base": None}, r"base: "),
        (
            {"grid": {"training.lr": [i / 1000 for i in range(1000)], "training.epochs": list(range(1000))}},
            r"1,000,000 runs are more than the 10,000.*training\.lr: 1,000",
        ),
    ],
)
def test_a_study_of_nothing_or_of_everything_is_refused_at_once(change: dict[str, Any], message: str) -> None:
    study = {key: value for key, value in (STUDY | change).items() if value is not None}
    with pytest.raises(LifelongError, match=message) as caught:
        Study(study)
    assert caught.value.exit_code == 2


def test_a_study_says_what_it_is_based_on() -> None:
    assert parse(StudyConfig, STUDY).base == "quickstart"
    with pytest.raises(ConfigError, match="base: this key is required"):
        parse(StudyConfig, {key: value for key, value in STUDY.items() if key != "base"})


def test_threads_that_no_machine_starts_are_refused() -> None:
    with pytest.raises(ConfigError, match="threads: 100000 is not valid: it must be 256 or less"):
        parse(RunConfig, {"threads": 100_000})
