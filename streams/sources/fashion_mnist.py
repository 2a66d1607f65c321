"""Fashion-MNIST: 70,000 pictures of clothes, 28x28 in 10 classes, from Debian's package or a torchvision folder.

Rows are the training set and then the test set, in the order of the files. With a limit, a sample's id is its row
among what the limit keeps; the choice is a keyed hash, so it is the same on every machine.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from streams.config import Config as BaseConfig
from streams.errors import DataError
from streams.inputs import scale
from streams.randomness import Key
from streams.source import Source, dirichlet_users
from streams.sources._images import joined, limit_per_class, read_idx

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
MEAN, STD = (0.2860,), (0.3530,)

_REMEDY = (
    "Install it with `apt-get install dataset-fashion-mnist` (Debian, Ubuntu), or set `root` to the folder that "
    "torchvision.datasets.FashionMNIST downloaded to."
)


class Config(BaseConfig):
    """Options of `fashion-mnist`."""

    root: str | None = None
    """Folder with the four IDX files, packed (.gz) or not, or torchvision's root above FashionMNIST/raw; null looks
    where Debian's package dataset-fashion-mnist puts them."""
    train_limit: int | None = Field(None, ge=1)
    """Keep at most so many training samples of each class; null keeps all 6,000."""
    test_limit: int | None = Field(None, ge=1)
    """Keep at most so many test samples of each class; null keeps all 1,000."""
    users: int = Field(100, ge=1)
    """Number of users the samples are assigned to (the data has none of its own)."""
    alpha: float = Field(0.5, gt=0)
    """Dirichlet concentration of the assignment; small means specialised users."""


def load(config: Config) -> Source:
    """Return the pictures ``[N, 1, 28, 28]``, bytes with the scale that normalises them.

    Raises:
        DataError: a file is missing or damaged.
    """
    folder = _folder(config.root)
    key = Key(0) / "fashion-mnist"
    parts = [
        _read_part(folder, "train", config.train_limit, key / "train"),
        _read_part(folder, "t10k", config.test_limit, key / "test"),
    ]
    class_ids = np.concatenate([labels for _, labels in parts])
    is_test = np.repeat([False, True], [len(labels) for _, labels in parts])
    return Source(
        name="fashion-mnist",
        licence="Fashion-MNIST (Zalando SE, MIT licence)",
        x=joined([images for images, _ in parts]),
        scale=scale(mean=MEAN, std=STD),
        y=torch.from_numpy(class_ids),
        class_ids=class_ids,
        user_ids=dirichlet_users(class_ids, config.users, config.alpha, key / "users"),
        is_test=is_test,
        class_names=CLASSES,
        user_names=tuple(f"user-{u}" for u in range(config.users)),
        notes=(
            f"users: assigned by a seeded Dirichlet({config.alpha:g}) over {config.users} users, per class",
            f"kept per class: {config.train_limit or 'all'} training, {config.test_limit or 'all'} test samples",
        ),
    )


def _folder(root: str | None) -> Path:
    if root is None:
        if not DEBIAN.is_dir():
            raise DataError(f"{DEBIAN}: there is no such folder. {_REMEDY}")
        return DEBIAN
    base = Path(root).expanduser()
    if not base.is_dir():
        raise DataError(f"root: {root!r} is not a folder. {_REMEDY}")
    raw = base / "FashionMNIST" / "raw"
    return raw if raw.is_dir() else base


def _read_part(folder: Path, part: str, limit: int | None, key: Key) -> tuple[np.ndarray, np.ndarray]:
    """Return images (uint8 ``[N, 28, 28]``) and class ids (int64 ``[N]``) of the training or test files."""
    images = read_idx(_existing_file(folder / f"{part}-images-idx3-ubyte"), 3, _REMEDY)
    labels_file = _existing_file(folder / f"{part}-labels-idx1-ubyte")
    labels = read_idx(labels_file, 1, _REMEDY).astype(np.int64)
    if images.shape[1:] != (28, 28) or not len(images):
        raise DataError(f"{folder}: the {part} images have the shape {images.shape}, not (N, 28, 28). {_REMEDY}")
    if len(images) != len(labels):
        raise DataError(f"{folder}: {len(images)} {part} images but {len(labels)} labels. {_REMEDY}")
    if labels.max() >= len(CLASSES):
        raise DataError(f"{labels_file}: label {labels.max()} is not one of 0..{len(CLASSES) - 1}. {_REMEDY}")
    rows = limit_per_class(labels, limit, key)
    return images[rows], labels[rows]


def _existing_file(path: Path) -> Path:
    """Return the unpacked file if it is there, else the packed one."""
    return path if path.exists() else path.with_name(path.name + ".gz")
