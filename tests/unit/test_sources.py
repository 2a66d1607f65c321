from __future__ import annotations

import gzip
import os
import pickle
import shutil
import struct
import unicodedata
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from streams.config import parse
from streams.errors import ConfigError, DataError
from streams.inputs import scale
from streams.ledger import Ledger
from streams.randomness import Key
from streams.source import Corruption, Source
from streams.sources import _folders, arrays, digits, fashion_mnist, glyphs, torchvision
from streams.sources._glyph_list import distinct
from streams.sources._images import joined, limit_per_class, read_idx
from streams.text import Form, Text, Tokenizer


@pytest.fixture(autouse=True)
def outside_home(tmp_path_factory, monkeypatch) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path_factory.mktemp("cache")))


def write_idx(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(folder: Path, prefixes: tuple[str, str] = ("train", "t10k"), ext: str = "", first: int = 0) -> None:
    """40 training and 20 test images; the first pixel of an image is its row, the second column is black."""
    for prefix, count in zip(prefixes, (40, 20), strict=True):
        images = np.zeros((count, 28, 28), dtype=np.uint8)
        images[:, 0, 0] = np.arange(count)
        images[:, 5, 0] = 255
        write_idx(folder / f"{prefix}-images-idx3-ubyte{ext}", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{ext}", (np.arange(count) % 10 + first).astype(np.uint8))


def rows_of(source: Source, mean: float, std: float) -> np.ndarray:
    """What `write_mnist` put into the first pixel."""
    return (source.inputs()[:, 0, 0, 0].numpy() * std + mean) * 255


def check_source(source: Source) -> None:
    assert source.inputs().dtype == torch.float32
    assert source.class_ids.dtype == source.user_ids.dtype == np.int64
    assert source.user_ids.min() >= 0
    assert source.user_ids.max() < len(source.user_names)
    assert not np.intersect1d(source.train_ids, source.test_ids).size


# --- shared pieces


def test_limit_per_class_is_nested_and_within_the_limit():
    class_ids = np.array([0, 1, 1, 1, 0, 2, 1, 0, 0])
    two, three = (limit_per_class(class_ids, n, Key(0)) for n in (2, 3))
    assert np.bincount(class_ids[two]).tolist() == [2, 2, 1]
    assert np.isin(two, three).all()
    assert (np.diff(three) > 0).all()
    assert limit_per_class(class_ids, None, Key(0)).tolist() == list(range(9))


def test_normalised_uses_each_channel_s_own_constants():
    images = np.array([[[[255]], [[0]]], [[[51]], [[255]]]], dtype=np.uint8)
    x = scale(mean=(0.5, 0.0), std=(0.5, 2.0))(joined([images[:1], images[1:]]))
    torch.testing.assert_close(x[:, :, 0, 0], torch.tensor([[1.0, 0.0], [-0.6, 0.5]]))
    assert joined([np.zeros((3, 4, 5), dtype=np.uint8)]).shape == (3, 1, 4, 5)


def test_a_digest_tells_apart_all_that_can_be_seen():
    """Rows, classes and users are the same each time: prompts are made of names, and of which domain a row is of."""
    y, none = np.arange(6) % 2, np.zeros(6, dtype=np.int64)
    half, groups = np.arange(6) % 2, np.array([0, 1])
    plain = Source("s", "own", torch.zeros(6, 2), torch.from_numpy(y), y, none, none > 0, ("a", "b"), ("one",))
    ids = [np.array([i]) for i in range(5)]
    text = Text(
        Tokenizer(SimpleNamespace(to_str=lambda: "{}"), 0, 1),
        ((1,),),
        terms={"one": ("One",)},
        subjects=frozenset({"One"}),
    )
    rows = torch.zeros(6, 2, 4, dtype=torch.int32)
    others = [
        {},
        {"class_names": ("a", "c")},
        {"user_names": ("two",)},
        {"domain_ids": half},
        {"domain_ids": 1 - half},
        {"domain_ids": half, "domain_names": ("d", "e")},
        {"superclass_ids": groups},
        {"superclass_ids": 1 - groups},
        {"corruption": Corruption(*ids)},
        {"corruption": Corruption(*ids[::-1])},
        {"text": text},
        {"text": replace(text, terms=None)},
        {"text": replace(text, subjects=None)},
        {"text": replace(text, form=Form("Q: ", "A:"))},
        {"text": replace(text, image_tokens=4)},
        *(
            {"text": replace(text, **{role: rows})}
            for role in ("paraphrased", "perturbed", "holdout", "values", "examples")
        ),
    ]
    digests = [replace(plain, **other).digest() for other in others]
    assert len(set(digests)) == len(others)
    assert replace(plain).digest() == digests[0]


def test_bytes_and_the_floats_that_they_stand_for_are_one_source():
    """The same digest, batches and sizes, bit for bit, as with float32 made at once: by another way of computing it."""
    images = np.random.default_rng(0).integers(0, 256, (30, 3, 5, 4), dtype=np.uint8)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    floats = images.astype(np.float32) / np.float32(255)
    floats = (floats - np.array(mean, np.float32).reshape(3, 1, 1)) / np.array(std, np.float32).reshape(3, 1, 1)
    y, none = np.arange(30) % 3, np.zeros(30, dtype=np.int64)
    parts = (torch.from_numpy(y), y, none, none > 0, ("a", "b", "c"), ("one",))
    packed = Source("s", "own", torch.from_numpy(images), *parts, scale=scale(mean=mean, std=std))
    whole = Source("s", "own", torch.from_numpy(floats), *parts)
    assert packed.digest() == whole.digest() == packed.unpacked().digest()
    assert packed.sample_bytes == whole.sample_bytes == 4 * 60
    data, same = (Ledger(s).lend(np.arange(30)) for s in (packed, whole))
    for views in ((data, same), (data.part(np.arange(5, 9)), same.part(np.arange(5, 9)))):
        for one, other in zip(*(v.batches(7, Key(1)) for v in views), strict=True):
            assert torch.equal(one.x, other.x)
    targets = data.targets() * 0
    both = (d.part(np.arange(4)).relabelled(targets[:4]).joined(d.part(np.arange(6, 9))).all() for d in (data, same))
    assert torch.equal(*(b.x for b in both))
    with pytest.raises(DataError, match="need a scale"):
        Source("s", "own", torch.from_numpy(images), *parts)


@pytest.mark.parametrize("name", ["labels", "labels.gz"])
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda c: c[:-1], "holds 4 bytes of data where its header .5,. needs 5"),
        (lambda c: c + b"x", "holds 6 bytes"),
        (lambda c: c[:6], "not an IDX file"),
        (lambda c: b"<html>" + c, "starts with 3c68746d"),
        (lambda c: b"", "starts with nothing"),
    ],
)
def test_read_idx_names_a_damaged_file_and_the_remedy(tmp_path, name, damage, says):
    path = tmp_path / name
    content = damage(bytes([0, 0, 8, 1]) + struct.pack(">I", 5) + bytes(5))
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(DataError, match=f"{name}: .*{says}.*do this"):
        read_idx(path, 1, "do this")


# --- glyphs


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def small_glyphs(tmp_path_factory) -> Source:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(tmp_path_factory.mktemp("glyphs")))
        return glyphs.load(glyphs.Config(classes=50))


@pytest.mark.parametrize(("pool", "faces"), [(673, 16), (2179, 12)])
def test_committed_characters_are_named_and_ascending(pool, faces):
    lines = glyphs.LISTS[pool].read_text("ascii").splitlines()
    points = glyphs.characters(pool)
    assert len(points) == len(lines) == pool
    assert lines == [f"U+{c:04X} {unicodedata.name(chr(c))}" for c in points]
    assert glyphs.POOLS[pool] == faces
    assert {chr(c) for c in points} >= set("AZaz09")
    assert 0x0391 not in points, "Greek Alpha looks like Latin A"


def test_distinct_drops_what_matches_an_earlier_class_in_half_the_faces():
    images = np.random.default_rng(0).integers(0, 256, (4, 2, 3, 3), dtype=np.uint8)
    images[2, 0] = images[0, 0]
    images[3, 1] = images[1, 1].clip(1) - 1
    assert distinct(images) == [0, 1]
    images[3, 1] = images[1, 1] // 2
    assert distinct(images) == [0, 1, 3]


def test_glyph_rows_are_class_times_face(small_glyphs):
    source = small_glyphs
    check_source(source)
    assert source.x.shape == (800, 1, 28, 28)
    assert source.x.dtype == torch.uint8
    assert source.inputs().min() == 0
    assert 0.9 < source.inputs().max() <= 1
    assert (source.class_ids == np.arange(800) // 16).all()
    assert (source.domain_ids == np.arange(800) % 16).all()
    assert (source.user_ids == source.domain_ids).all()
    assert source.user_names == glyphs.FACES
    assert source.class_names[0] == "U+0021 EXCLAMATION MARK"
    assert len(source.superclass_ids) == 50


def test_glyph_split_by_faces_holds_out_one_face_of_each_family(small_glyphs):
    held = {small_glyphs.user_names[f] for f in np.unique(small_glyphs.domain_ids[small_glyphs.is_test])}
    assert held == set(glyphs.HELD_OUT)
    assert {name.split("-")[0] for name in held} == {
        "DejaVuSans",
        "DejaVuSansMono",
        "DejaVuSerif",
        "STIXGeneralBol",
    }
    assert (np.bincount(small_glyphs.class_ids[small_glyphs.is_test]) == 4).all()


def test_glyph_split_by_pairs_tests_every_face_and_every_class(cache):
    source = glyphs.load(glyphs.Config(classes=60, split="pairs"))
    fewer = glyphs.load(glyphs.Config(classes=40, split="pairs"))
    assert (np.bincount(source.class_ids[source.is_test]) == 4).all()
    assert (np.bincount(source.domain_ids[source.is_test], minlength=16) > 0).all()
    assert (source.is_test[: len(fewer)] == fewer.is_test).all()
    assert torch.equal(source.x[: len(fewer)], fewer.x)


def test_glyphs_can_be_learned(small_glyphs):
    x, y = small_glyphs.inputs().flatten(1).numpy(), small_glyphs.class_ids
    train, test = small_glyphs.train_ids, small_glyphs.test_ids
    means = np.stack([x[train][y[train] == c].mean(0) for c in range(50)])
    nearest = ((x[test][:, None] - means) ** 2).sum(2).argmin(1)
    assert 0.4 < (nearest == y[test]).mean() < 1


def test_glyphs_are_drawn_once_and_again_if_the_cache_is_damaged(cache, monkeypatch, caplog):
    drawn = []
    monkeypatch.setattr(glyphs, "characters", lambda pool: tuple(range(0x41, 0x47)))
    render = glyphs.render
    monkeypatch.setattr(glyphs, "render", lambda p, f: drawn.append(1) or render(p, f))
    digest = glyphs.load(glyphs.Config()).digest()
    assert glyphs.load(glyphs.Config()).digest() == digest
    assert len(drawn) == 1
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (whole[:middle], b"", whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]):
        path.write_bytes(damaged)
        assert glyphs.load(glyphs.Config()).digest() == digest
        assert str(path) in caplog.text
    np.savez(path, images=np.zeros((6, 3), dtype=np.uint8))
    assert glyphs.load(glyphs.Config()).digest() == digest
    assert len(drawn) == 5
    assert glyphs.load(glyphs.Config()).digest() == digest
    assert len(drawn) == 5
    assert [p.name for p in cache.iterdir()] == [path.name]


def test_glyphs_load_without_a_cache_that_can_be_written(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(glyphs, "characters", lambda pool: tuple(range(0x41, 0x47)))
    assert len(glyphs.load(glyphs.Config())) == 96
    assert "LIFELONG_CACHE" in caplog.text


def test_glyph_errors_say_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="classes: 674 .* pool 673 has 673"):
        glyphs.load(glyphs.Config(classes=674))
    with pytest.raises(ConfigError, match="pool: 100 is not valid"):
        parse(glyphs.Config, {"pool": 100})
    with pytest.raises(DataError, match=r"Nothing\.ttf: the font is missing. Install matplotlib"):
        glyphs.face_file("Nothing")
    damaged = tmp_path / "list.txt"
    damaged.write_text("U+0041 LATIN\nhello\n")
    monkeypatch.setitem(glyphs.LISTS, 673, damaged)
    with pytest.raises(DataError, match=r"list\.txt: .* Install this package again"):
        glyphs.characters(673)
    damaged.write_text("U+0041 LATIN\n")
    with pytest.raises(DataError, match="1 characters, not 673"):
        glyphs.characters(673)


# --- Fashion-MNIST


@pytest.mark.parametrize(
    ("folder", "ext"), [("", ""), ("", ".gz"), ("FashionMNIST/raw", ""), ("FashionMNIST/raw", ".gz")]
)
def test_fashion_mnist_reads_packed_and_unpacked_files(tmp_path, folder, ext):
    write_mnist(tmp_path / folder, ext=ext)
    source = fashion_mnist.load(fashion_mnist.Config(root=str(tmp_path), users=5))
    check_source(source)
    assert source.x.shape == (60, 1, 28, 28)
    assert source.is_test.tolist() == [False] * 40 + [True] * 20
    np.testing.assert_allclose(rows_of(source, 0.2860, 0.3530), [*range(40), *range(20)], atol=1e-3)
    assert source.class_ids.tolist() == [i % 10 for i in range(40)] + [i % 10 for i in range(20)]


def test_fashion_mnist_limit_takes_a_stable_share_of_each_class(tmp_path):
    write_mnist(tmp_path)
    one, two = (
        fashion_mnist.load(fashion_mnist.Config(root=str(tmp_path), train_limit=n, test_limit=1)) for n in (1, 2)
    )
    assert len(one) == 20
    assert len(two) == 30
    assert (np.bincount(two.class_ids[two.train_ids]) == 2).all()
    kept = [set(rows_of(s, 0.2860, 0.3530)[s.train_ids].round().astype(int)) for s in (one, two)]
    assert kept[0] < kept[1]
    again = fashion_mnist.load(fashion_mnist.Config(root=str(tmp_path), train_limit=2, test_limit=1))
    assert again.digest() == two.digest()


def test_fashion_mnist_errors_name_the_file_and_the_package(tmp_path, monkeypatch):
    config = fashion_mnist.Config(root=str(tmp_path))
    with pytest.raises(
        DataError, match=r"train-images-idx3-ubyte.gz: there is no such file.*apt-get install dataset-f"
    ):
        fashion_mnist.load(config)
    write_mnist(tmp_path, ext=".gz")
    images = tmp_path / "train-images-idx3-ubyte.gz"
    whole = images.read_bytes()
    images.write_bytes(whole[:-20])
    with pytest.raises(DataError, match=r"train-images.*truncated.*apt-get install dataset-fashion-mnist"):
        fashion_mnist.load(config)
    images.write_bytes(whole)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.zeros(39, dtype=np.uint8))
    with pytest.raises(DataError, match="40 train images but 39 labels"):
        fashion_mnist.load(config)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.full(40, 10, dtype=np.uint8))
    with pytest.raises(DataError, match=r"train-labels.*label 10 is not one of 0..9"):
        fashion_mnist.load(config)
    write_idx(images, np.zeros((40, 14, 14), dtype=np.uint8))
    with pytest.raises(DataError, match=r"shape \(40, 14, 14\)"):
        fashion_mnist.load(config)
    with pytest.raises(DataError, match="root: .*nowhere.* is not a folder"):
        fashion_mnist.load(fashion_mnist.Config(root=str(tmp_path / "nowhere")))
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "nowhere")
    with pytest.raises(DataError, match="there is no such folder.*apt-get install"):
        fashion_mnist.load(fashion_mnist.Config())


@pytest.mark.skipif(not fashion_mnist.DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_fashion_mnist_of_debian_is_the_real_one():
    source = fashion_mnist.load(fashion_mnist.Config())
    assert (np.bincount(source.class_ids[source.train_ids]) == 6000).all()
    assert (np.bincount(source.class_ids[source.test_ids]) == 1000).all()
    assert abs(float(source.inputs()[:60000].mean())) < 2e-3
    assert abs(float(source.inputs()[:60000].std()) - 1) < 2e-3
    assert source.digest() == "9b0708bec34b8474a87d028cc25a4c9a"


# --- torchvision


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "KMNIST"])
def test_torchvision_reads_idx_sets(tmp_path, name):
    write_mnist(tmp_path / name / "raw")
    source = torchvision.load(torchvision.Config(dataset=name, root=str(tmp_path), users=4))
    check_source(source)
    facts = torchvision.FACTS[name]
    np.testing.assert_allclose(rows_of(source, facts.mean[0], facts.std[0]), [*range(40), *range(20)], atol=1e-3)
    assert source.class_ids[:12].tolist() == [*range(10), 0, 1]
    assert source.test_ids.tolist() == list(range(40, 60))
    assert source.num_classes == 10
    limited = torchvision.load(torchvision.Config(dataset=name, root=str(tmp_path), train_limit=3, test_limit=1))
    assert np.bincount(limited.class_ids).tolist() == [4] * 10


def test_torchvision_turns_emnist_upright_and_counts_letters_from_zero(tmp_path):
    write_mnist(tmp_path / "EMNIST" / "raw", ("emnist-letters-train", "emnist-letters-test"), first=1)
    source = torchvision.load(torchvision.Config(dataset="EMNIST", root=str(tmp_path), emnist_split="letters"))
    assert source.class_names[:3] == ("a", "b", "c")
    assert source.num_classes == 26
    assert source.class_ids[:3].tolist() == [0, 1, 2]
    assert (source.inputs()[:, 0, 0, 5] > 1).all()
    assert (source.inputs()[:, 0, 5, 0] < 0).all()


def write_cifar(root: Path, fine: list[str] | None = None) -> None:
    """20 images per batch, all of one grey level per channel."""
    folder = root / ("cifar-100-python" if fine else "cifar-10-batches-py")
    folder.mkdir(parents=True)
    key = "fine_labels" if fine else "labels"
    for name in ["train", "test"] if fine else [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        data = np.repeat(np.array([[255, 0, 51]], dtype=np.uint8), 1024, axis=1).repeat(20, axis=0)
        labels = [i % (100 if fine else 10) for i in range(20)]
        (folder / name).write_bytes(pickle.dumps({"data": data, key: labels}))
    names = fine or [f"class-{c}" for c in range(10)]
    meta = {"fine_label_names": names} if fine else {"label_names": names}
    (folder / ("meta" if fine else "batches.meta")).write_bytes(pickle.dumps(meta))


@pytest.fixture
def unchecked(monkeypatch):
    """torchvision compares MD5 sums; the files of the tests are made up."""
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *a, **k: True)


def test_torchvision_reads_cifar10(tmp_path, unchecked):
    write_cifar(tmp_path)
    source = torchvision.load(torchvision.Config(dataset="CIFAR10", root=str(tmp_path)))
    check_source(source)
    assert source.x.shape == (120, 3, 32, 32)
    assert source.is_test.sum() == 20
    expected = (torch.tensor([1.0, 0.0, 0.2]) - torch.tensor([0.4914, 0.4822, 0.4465])) / torch.tensor(
        [0.2470, 0.2435, 0.2616]
    )
    torch.testing.assert_close(source.inputs()[7, :, 3, 4], expected)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"\x80\x04garbage")
    with pytest.raises(DataError, match="CIFAR10 in .*train set.*download: true"):
        torchvision.load(torchvision.Config(dataset="CIFAR10", root=str(tmp_path)))


def test_torchvision_gives_cifar100_its_superclasses(tmp_path, unchecked):
    groups = torchvision.CIFAR100_SUPERCLASSES
    names = sorted(name for members in groups.values() for name in members.split())
    assert len(groups) == 20
    assert len(set(names)) == 100
    write_cifar(tmp_path, fine=names)
    source = torchvision.load(torchvision.Config(dataset="CIFAR100", root=str(tmp_path)))
    assert (np.bincount(source.superclass_ids) == 5).all()
    of_apple = list(groups)[source.superclass_ids[source.class_names.index("apple")]]
    assert of_apple == "fruit and vegetables"
    with pytest.raises(DataError, match="'unicorn' is not a class"):
        torchvision.superclasses(["apple", "unicorn"])


def test_torchvision_reads_svhn(tmp_path, monkeypatch):
    import scipy.io

    monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", lambda *a, **k: True)
    for split, count in (("train", 12), ("test", 5)):
        images = np.zeros((32, 32, 3, count), dtype=np.uint8)
        labels = np.arange(1, count + 1).reshape(-1, 1) % 10 + 1  # ten stands for zero
        scipy.io.savemat(tmp_path / f"{split}_32x32.mat", {"X": images, "y": labels})
    source = torchvision.load(torchvision.Config(dataset="SVHN", root=str(tmp_path)))
    assert source.x.shape == (17, 3, 32, 32)
    assert source.class_ids[:9].tolist() == [2, 3, 4, 5, 6, 7, 8, 9, 0]


@pytest.mark.parametrize("name", list(torchvision.FACTS))
def test_torchvision_says_what_is_missing(tmp_path, name):
    where = torchvision.FACTS[name].folder.split("/")[0].replace("*", r"\*")
    with pytest.raises(DataError, match=rf"{name} in .*not found.*Set `root` .*{where}.*download: true"):
        torchvision.load(torchvision.Config(dataset=name, root=str(tmp_path)))


@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_torchvision_truncated_file_is_a_data_error(tmp_path, file):
    write_mnist(tmp_path / "MNIST" / "raw")
    path = tmp_path / "MNIST" / "raw" / file
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DataError, match="MNIST in .*remove files that are damaged"):
        torchvision.load(torchvision.Config(dataset="MNIST", root=str(tmp_path)))


def test_torchvision_labels_that_do_not_fit_are_a_data_error(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    write_mnist(raw)
    write_idx(raw / "train-labels-idx1-ubyte", np.zeros(39, dtype=np.uint8))
    with pytest.raises(DataError, match="40 images but 39 labels"):
        torchvision.load(torchvision.Config(dataset="MNIST", root=str(tmp_path)))
    write_idx(raw / "train-labels-idx1-ubyte", np.full(40, 12, dtype=np.uint8))
    with pytest.raises(DataError, match=r"labels are not all in 0..9"):
        torchvision.load(torchvision.Config(dataset="MNIST", root=str(tmp_path)))


# --- arrays


def load_arrays(path: Path, **options: object) -> Source:
    return arrays.load(parse(arrays.Config, {"path": str(path), **options}))


def test_npz_with_its_own_users_and_split(tmp_path):
    x = np.arange(24, dtype=np.float64).reshape(8, 3)
    y = np.array([5, 5, 7, 7, 5, 7, 10, 10])
    users = np.array(["eve", "bob", "eve", "bob", "bob", "bob", "eve", "eve"])
    np.savez(tmp_path / "d.npz", x=x, y=y, user=users, test=np.arange(8) % 2 == 1)
    source = load_arrays(tmp_path / "d.npz")
    check_source(source)
    assert source.x.tolist() == x.tolist()
    assert source.class_names == ("5", "7", "10")
    assert source.class_ids.tolist() == [0, 0, 1, 1, 0, 1, 2, 2]
    assert source.user_names == ("bob", "eve")
    assert source.user_ids.tolist() == [1, 0, 1, 0, 0, 0, 1, 1]
    assert source.test_ids.tolist() == [1, 3, 5, 7]


def test_npz_without_them_gets_a_stable_split_per_class_and_users(tmp_path):
    images = np.full((40, 1, 4, 4), 255, dtype=np.uint8)
    np.savez(tmp_path / "d.npz", x=images, y=np.repeat([0.0, 1.0], 20))
    source = load_arrays(tmp_path / "d.npz", users=3)
    assert source.inputs().max() == 1
    assert np.bincount(source.class_ids[source.is_test]).tolist() == [5, 5]
    assert len(source.user_names) == 3
    assert load_arrays(tmp_path / "d.npz", users=3).digest() == source.digest()


def test_regression_strata_are_quantiles(tmp_path):
    y = np.random.default_rng(0).permutation(np.arange(100) ** 2.0)
    np.savez(tmp_path / "d.npz", x=np.zeros((100, 2)), y=y)
    source = load_arrays(tmp_path / "d.npz", target="regression", strata=4)
    assert source.y.dtype == torch.float32
    assert source.y.tolist() == y.tolist()
    assert np.bincount(source.class_ids).tolist() == [25] * 4
    assert source.class_ids.tolist() == np.searchsorted(np.quantile(y, [0.25, 0.5, 0.75]), y, side="right").tolist()
    assert source.class_names[0].startswith("[-inf, ")
    np.savez(tmp_path / "tied.npz", x=np.zeros((100, 2)), y=np.repeat([0, 1], [90, 10]))
    tied = load_arrays(tmp_path / "tied.npz", target="regression", strata=10)
    assert np.bincount(tied.class_ids).min() > 0
    for made in (source, tied):
        bounds = [tuple(map(float, name.strip("[)").split(", "))) for name in made.class_names]
        for value, stratum in zip(made.y.tolist(), made.class_ids, strict=True):
            low, high = bounds[stratum]
            assert low <= value * (1 + 1e-3) + 1e-9
            assert value < high or value == pytest.approx(high, rel=1e-3)
    np.savez(tmp_path / "edge.npz", x=np.zeros((4, 2)), y=np.array([0.0, 1.0, 1.0, 2.0]))
    edge = load_arrays(tmp_path / "edge.npz", target="regression", strata=2, test_fraction=0.5)
    assert edge.class_names == ("[-inf, 1)", "[1, inf)")
    np.savez(tmp_path / "own.npz", x=np.zeros((4, 2)), y=np.arange(4.0), stratum=np.array(["b", "a", "b", "a"]))
    own = load_arrays(tmp_path / "own.npz", target="regression", test_fraction=0.5)
    assert [own.class_names[c] for c in own.class_ids] == ["b", "a", "b", "a"]
    with pytest.raises(DataError, match="'stratum' is for regression"):
        load_arrays(tmp_path / "own.npz")
    assert edge.class_ids.tolist() == [0, 1, 1, 1], "a target on an edge is in the stratum above"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"x": np.zeros((4, 2))}, "array 'y' is missing"),
        ({"x": np.zeros((4, 2)), "y": np.zeros(3)}, r"y has the shape \(3,\); x has 4 rows"),
        ({"x": np.zeros(4), "y": np.zeros(4)}, r"x is float64 \(4,\)"),
        (
            {"x": np.zeros((4, 2)), "y": np.arange(4), "users": np.zeros(4)},
            "'users' means nothing. Did you mean 'user'",
        ),
        ({"x": np.array([[0, 1], [np.nan, 0]]), "y": np.arange(2)}, "row 1: x is not finite"),
        ({"x": np.zeros((4, 2)), "y": np.array([0, 1, 0.5, 1])}, "row 2: 0.5 is no class.*target: regression"),
        ({"x": np.zeros((4, 2)), "y": np.zeros(4)}, "every sample is of class 0"),
        ({"x": np.zeros((4, 2)), "y": np.arange(4), "test": np.ones(4, dtype=bool)}, "no training sample is left"),
        ({"x": np.zeros((4, 2)), "y": np.arange(4), "test": np.zeros(4, dtype=bool)}, "no test sample is left"),
        ({"x": np.zeros((4, 2)), "y": np.arange(4), "test": np.arange(4)}, "other values than true and false"),
        ({"x": np.zeros((4, 2)), "y": np.array([{}] * 4)}, "no arrays of objects"),
    ],
)
def test_npz_errors(tmp_path, content, says):
    np.savez(tmp_path / "d.npz", **content)
    with pytest.raises(DataError, match=rf"d\.npz.*{says}"):
        load_arrays(tmp_path / "d.npz")


def test_file_errors(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.zeros((4, 2)), y=np.array(list("abcd")))
    with pytest.raises(DataError, match="'a' is no number. Did you mean `target: classification`"):
        load_arrays(tmp_path / "d.npz", target="regression")
    np.savez(tmp_path / "n.npz", x=np.zeros((2, 2)), y=np.array([1, np.inf]))
    with pytest.raises(DataError, match="row 1: the target inf is not finite"):
        load_arrays(tmp_path / "n.npz", target="regression")
    (tmp_path / "t.npz").write_bytes((tmp_path / "d.npz").read_bytes()[:100])
    with pytest.raises(DataError, match=r"t\.npz: cannot be read"):
        load_arrays(tmp_path / "t.npz")
    with pytest.raises(DataError, match=r"path: .*gone\.csv' does not exist"):
        load_arrays(tmp_path / "gone.csv")
    (tmp_path / "d.parquet").write_text("")
    with pytest.raises(ConfigError, match=r"path: .*d\.parquet' is neither"):
        load_arrays(tmp_path / "d.parquet")
    with pytest.raises(ConfigError, match="target: 'regression' needs"):
        load_arrays(tmp_path, target="regression")
    with pytest.raises(ConfigError, match="test_fraction: 1.5 is not valid"):
        load_arrays(tmp_path, test_fraction=1.5)


CSV = """a,label,user,split,b
1,cat,u2,train,0.5

2,dog,u1,train,1.5
3,cat,u1,test,2.5
4,dog,u2,test,-1e3
"""


def test_csv(tmp_path):
    (tmp_path / "d.csv").write_text(CSV, encoding="utf-8-sig")
    source = load_arrays(tmp_path / "d.csv")
    check_source(source)
    assert source.x.tolist() == [[1, 0.5], [2, 1.5], [3, 2.5], [4, -1000]]
    assert source.class_names == ("cat", "dog")
    assert source.class_ids.tolist() == [0, 1, 0, 1]
    assert source.user_ids.tolist() == [1, 0, 0, 1]
    assert source.is_test.tolist() == [False, False, True, True]
    assert "features: a, b" in source.notes


def test_users_are_told_apart_as_they_are_written(tmp_path):
    rows = "\n".join(f"{i},{'ab'[i % 2]},{('007', '7', '10')[i % 3]}" for i in range(12))
    (tmp_path / "d.csv").write_text(f"f,label,user\n{rows}\n")
    source = load_arrays(tmp_path / "d.csv")
    assert sorted(source.user_names) == ["007", "10", "7"]
    np.savez(tmp_path / "d.npz", x=np.zeros((4, 2)), y=np.array([0, 1, 0, 1]), user=np.array([1, np.nan, 2, 2]))
    with pytest.raises(DataError, match="row 1: user is nan"):
        load_arrays(tmp_path / "d.npz")


def test_csv_orders_numbered_classes_as_numbers_and_regresses_targets(tmp_path):
    (tmp_path / "d.csv").write_text("f,target\n" + "".join(f"{i},{i % 12}\n" for i in range(48)))
    assert load_arrays(tmp_path / "d.csv").class_names == tuple(str(c) for c in range(12))
    source = load_arrays(tmp_path / "d.csv", target="regression", strata=3)
    assert source.y[:3].tolist() == [0, 1, 2]
    assert source.num_classes == 3


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("-1e3", "x", "line 6, column 'b': 'x' is not a finite number"),
        ("1.5", "nan", "line 4, column 'b': 'nan' is not a finite number"),
        ("3,cat", "3", "line 5: has 4 values; the header has 5"),
        ("test,2.5", "valid,2.5", "line 5, column 'split': 'valid' is not allowed"),
        ("label", "class", "exactly one of 'label' and 'target'"),
        ("user,split", "user,user", "a column occurs twice"),
        (CSV, "a,label\n", "has no rows"),
    ],
)
def test_csv_errors(tmp_path, old, new, says):
    (tmp_path / "d.csv").write_text(CSV.replace(old, new))
    with pytest.raises(DataError, match=rf"d\.csv.*{says}"):
        load_arrays(tmp_path / "d.csv")


def write_images(folder: Path, names: tuple[str, ...], count: int) -> None:
    for c, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in reversed(range(count)):
            Image.new("RGB", (9, 6), (100 * c, 20 * i, 0)).save(folder / name / f"{i}.png")


def test_image_folder_is_read_in_the_order_of_paths(tmp_path):
    write_images(tmp_path, ("ant", "bee"), 4)
    (tmp_path / "ant" / "notes.txt").write_text("not an image")
    source = load_arrays(tmp_path, image_size=8)
    check_source(source)
    assert source.x.shape == (8, 3, 8, 8)
    assert source.class_names == ("ant", "bee")
    assert source.x[:, 1, 0, 0].tolist() == [0, 20, 40, 60, 0, 20, 40, 60]
    assert source.x[:, 0, 0, 0].tolist() == [0] * 4 + [100] * 4
    assert np.bincount(source.class_ids[source.is_test]).tolist() == [1, 1]
    assert load_arrays(tmp_path, image_size=8, grayscale=True).x.shape == (8, 1, 8, 8)


def test_a_folder_is_decoded_once_and_again_when_an_image_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    write_images(tmp_path / "data", ("ant", "bee"), 3)
    first = load_arrays(tmp_path / "data", image_size=4)
    assert first.x.dtype == torch.uint8
    assert first.cached is not None
    with monkeypatch.context() as patch:
        patch.setattr(_folders, "_image", lambda *_: pytest.fail("decoded again"))
        again = load_arrays(tmp_path / "data", image_size=4)
    assert torch.equal(first.x, again.x)
    again.x[0] = 77  # whoever writes changes a copy of their own
    assert not (np.load(first.cached) == 77).any()
    changed = tmp_path / "data" / "bee" / "2.png"
    Image.new("RGB", (9, 6), (7, 7, 7)).save(changed)
    other = load_arrays(tmp_path / "data", image_size=4)
    assert other.x[5].unique().tolist() == [7]
    assert list((tmp_path / "cache" / "images").glob("*.npy")) == [other.cached], "no copy of the older image is left"
    pixels, cut = other.x.clone(), other.cached.read_bytes()[:-9]
    other.cached.write_bytes(cut)
    assert torch.equal(load_arrays(tmp_path / "data", image_size=4).x, pixels), "what is damaged is made again"


def test_images_are_read_again_only_where_one_may_have_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    write_images(tmp_path / "data", ("ant", "bee"), 3)
    reads, content_of = [], _folders._content_of
    monkeypatch.setattr(_folders, "_content_of", lambda files: reads.append(1) or content_of(files))
    monkeypatch.setattr(Source, "_computed_digest", computed := Counted(Source._computed_digest))
    image = tmp_path / "data" / "bee" / "2.png"

    def load() -> str:
        return load_arrays(tmp_path / "data", image_size=4).digest()

    first = load()
    assert load() == first
    assert (len(reads), computed.calls) == (2, 1), "what was just written may be written again at the same time"
    monkeypatch.setattr(_folders, "_SETTLED_S", -3600.0)
    assert [load() for _ in range(3)] == [first] * 3
    assert (len(reads), computed.calls) == (3, 1)

    status, pixels = image.stat(), image.read_bytes()
    image.write_bytes(pixels[:-1] + bytes([pixels[-1] ^ 1]))  # the same size, in what no decoder reads
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    load()
    assert len(reads) == 4, "times that were set back hide no change"
    Image.new("RGB", (9, 6), (7, 7, 7)).save(image)
    second = load()
    assert second != first
    assert len(reads) == 5
    assert second == load_arrays(tmp_path / "data", image_size=4)._computed_digest()

    kept = load_arrays(tmp_path / "data", image_size=4)
    assert kept.digest() == second
    assert replace(kept, x=kept.x + 1).digest() != second, "another array has a digest of its own"
    assert replace(kept, user_ids=kept.user_ids[::-1].copy()).digest() != second
    calls = computed.calls
    for file in (tmp_path / "cache" / "images").glob("*.digest"):
        file.write_text("0" * 90)
    assert load() == second
    assert computed.calls == calls + 1, "a damaged digest is made again"


class Counted:
    """A method that counts its calls."""

    def __init__(self, method):
        self.calls, self._method = 0, method

    def __get__(self, instance, owner=None):
        def counted():
            self.calls += 1
            return self._method(instance)

        return counted


def test_a_folder_is_read_without_a_cache(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file, where a folder should be")
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    write_images(tmp_path / "data", ("ant", "bee"), 3)
    source = load_arrays(tmp_path / "data", image_size=4)
    assert source.cached is None
    assert source.x[:, 1, 0, 0].tolist() == [0, 20, 40, 0, 20, 40]


def test_image_folder_with_its_own_split(tmp_path):
    write_images(tmp_path / "train", ("ant", "bee"), 3)
    write_images(tmp_path / "test", ("ant", "bee"), 1)
    source = load_arrays(tmp_path, image_size=4)
    assert source.is_test.tolist() == [False] * 6 + [True] * 2
    assert source.class_ids.tolist() == [0, 0, 0, 1, 1, 1, 0, 1]
    shutil.rmtree(tmp_path / "test")
    assert load_arrays(tmp_path, image_size=4).class_names == ("ant", "bee")
    write_images(tmp_path, ("plane",), 2)
    shutil.move(tmp_path / "train" / "ant" / "0.png", tmp_path / "train" / "0.png")
    assert load_arrays(tmp_path, image_size=4).class_names == ("plane", "train")


def test_image_folder_errors(tmp_path):
    with pytest.raises(DataError, match="has no sub-folders"):
        load_arrays(tmp_path)
    write_images(tmp_path, ("ant", "bee"), 2)
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="cat: holds no image"):
        load_arrays(tmp_path)
    (tmp_path / "cat" / "1.png").write_bytes((tmp_path / "ant" / "1.png").read_bytes()[:40])
    with pytest.raises(DataError, match=r"cat/1\.png: is not an image"):
        load_arrays(tmp_path)
    write_images(tmp_path / "other" / "test", ("ant",), 2)
    with pytest.raises(DataError, match="none called train"):
        load_arrays(tmp_path / "other")


def test_digits_are_those_of_scikit_learn() -> None:
    source, theirs = digits.load(digits.Config()), load_digits()
    assert np.array_equal(source.x.numpy(), theirs.data.astype(np.float32) / 16)
    assert np.array_equal(source.class_ids, theirs.target)
