"""MNIST, FashionMNIST, KMNIST, EMNIST, CIFAR10, CIFAR100 and SVHN, read by torchvision from a folder.

Rows are the training set and then the test set, in torchvision's order. With a limit, a sample's id is its row among
what the limit keeps; the choice is a keyed hash, so it is the same on every machine.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from streams.config import Config as BaseConfig
from streams.errors import DataError
from streams.inputs import scale
from streams.randomness import Key
from streams.source import Source, dirichlet_users
from streams.sources._images import joined, limit_per_class

Name = Literal["MNIST", "FashionMNIST", "KMNIST", "EMNIST", "CIFAR10", "CIFAR100", "SVHN"]


@dataclass(frozen=True, slots=True)
class _Facts:
    mean: tuple[float, ...]
    std: tuple[float, ...]
    licence: str
    folder: str


FACTS: dict[Name, _Facts] = {
    "MNIST": _Facts((0.1307,), (0.3081,), "MNIST (LeCun, Cortes, Burges; CC BY-SA 3.0)", "MNIST/raw"),
    "FashionMNIST": _Facts((0.2860,), (0.3530,), "Fashion-MNIST (Zalando SE, MIT licence)", "FashionMNIST/raw"),
    "KMNIST": _Facts((0.1918,), (0.3483,), "Kuzushiji-MNIST (CODH, CC BY-SA 4.0)", "KMNIST/raw"),
    "EMNIST": _Facts((0.1751,), (0.3332,), "EMNIST (Cohen et al. 2017, from NIST SD 19)", "EMNIST/raw"),
    "CIFAR10": _Facts(
        (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), "CIFAR-10 (Krizhevsky 2009)", "cifar-10-batches-py"
    ),
    "CIFAR100": _Facts(
        (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), "CIFAR-100 (Krizhevsky 2009)", "cifar-100-python"
    ),
    "SVHN": _Facts(
        (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), "SVHN (Netzer et al. 2011, non-commercial)", "*_32x32.mat"
    ),
}

CIFAR100_SUPERCLASSES: dict[str, str] = {
    "aquatic mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food containers": "bottle bowl can cup plate",
    "fruit and vegetables": "apple mushroom orange pear sweet_pepper",
    "household electrical devices": "clock keyboard lamp telephone television",
    "household furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large carnivores": "bear leopard lion tiger wolf",
    "large man-made outdoor things": "bridge castle house road skyscraper",
    "large natural outdoor scenes": "cloud forest mountain plain sea",
    "large omnivores and herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium-sized mammals": "fox porcupine possum raccoon skunk",
    "non-insect invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles 1": "bicycle bus motorcycle pickup_truck train",
    "vehicles 2": "lawn_mower rocket streetcar tank tractor",
}

# All that torchvision raises on files that are missing, truncated or something else.
_BROKEN = (
    RuntimeError,
    OSError,
    ValueError,
    AssertionError,
    EOFError,
    LookupError,
    TypeError,
    pickle.UnpicklingError,
)


class Config(BaseConfig):
    """Options of `torchvision`."""

    dataset: Name
    """The data set, by torchvision's name."""
    root: str
    """Folder that torchvision keeps its data sets in."""
    download: bool = False
    """Let torchvision download what is missing."""
    emnist_split: Literal["byclass", "bymerge", "balanced", "letters", "digits", "mnist"] = "balanced"
    """Which of EMNIST's six sets."""
    train_limit: int | None = Field(None, ge=1)
    """Keep at most so many training samples of each class; null keeps all."""
    test_limit: int | None = Field(None, ge=1)
    """Keep at most so many test samples of each class; null keeps all."""
    users: int = Field(100, ge=1)
    """Number of users the samples are assigned to (the data has none of its own)."""
    alpha: float = Field(0.5, gt=0)
    """Dirichlet concentration of the assignment; small means specialised users."""


def load(config: Config) -> Source:
    """Return the images ``[N, C, H, W]``, bytes with the scale that normalises them by public constants.

    Raises:
        DataError: the files are missing or damaged.
    """
    facts = FACTS[config.dataset]
    key = Key(0) / "torchvision" / config.dataset
    parts = []
    for train, limit in ((True, config.train_limit), (False, config.test_limit)):
        images, labels, names = _read(config, train)
        if len(images) != len(labels):
            raise DataError(
                f"{_dataset_in_root(config)}: {len(images)} images but {len(labels)} labels. {_remedy(config)}"
            )
        rows = limit_per_class(labels, limit, key / ("train" if train else "test"))
        parts.append((images[rows], labels[rows]))
    class_ids = np.concatenate([labels for _, labels in parts])
    if not len(class_ids) or class_ids.min() < 0 or class_ids.max() >= len(names):
        raise DataError(f"{_dataset_in_root(config)}: the labels are not all in 0..{len(names) - 1}. {_remedy(config)}")
    upright = ("images: turned upright (EMNIST stores them transposed)",) if config.dataset == "EMNIST" else ()
    return Source(
        name="torchvision",
        licence=facts.licence,
        x=joined([images for images, _ in parts]),
        scale=scale(mean=facts.mean, std=facts.std),
        y=torch.from_numpy(class_ids),
        class_ids=class_ids,
        user_ids=dirichlet_users(class_ids, config.users, config.alpha, key / "users"),
        is_test=np.repeat([False, True], [len(labels) for _, labels in parts]),
        class_names=names,
        user_names=tuple(f"user-{u}" for u in range(config.users)),
        superclass_ids=superclasses(names) if config.dataset == "CIFAR100" else None,
        notes=(
            f"data set: {config.dataset}" + (f", {config.emnist_split}" if config.dataset == "EMNIST" else ""),
            f"users: assigned by a seeded Dirichlet({config.alpha:g}) over {config.users} users, per class",
            f"kept per class: {config.train_limit or 'all'} training, {config.test_limit or 'all'} test samples",
            *upright,
        ),
    )


def superclasses(names: Sequence[str]) -> np.ndarray:
    """Return the superclass (int64, in the order of `CIFAR100_SUPERCLASSES`) of each CIFAR-100 class.

    Raises:
        DataError: a name is not one of CIFAR-100's.
    """
    index = {name: i for i, members in enumerate(CIFAR100_SUPERCLASSES.values()) for name in members.split()}
    unknown = sorted(set(names) - set(index))
    if unknown:
        raise DataError(f"CIFAR100: {unknown[0]!r} is not a class of it. Download the data set again.")
    return np.array([index[name] for name in names], dtype=np.int64)


def _read(config: Config, train: bool) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return images (uint8, channels first), class ids and class names of one part."""
    from torchvision import datasets

    root = str(Path(config.root).expanduser())
    split = "train" if train else "test"
    try:
        match config.dataset:
            case "SVHN":
                svhn = datasets.SVHN(root, split=split, download=config.download)
                return svhn.data, np.asarray(svhn.labels, dtype=np.int64), tuple(str(d) for d in range(10))
            case "CIFAR10" | "CIFAR100":
                cifar = getattr(datasets, config.dataset)(root, train=train, download=config.download)
                labels = np.array(cifar.targets, dtype=np.int64)
                return np.ascontiguousarray(cifar.data.transpose(0, 3, 1, 2)), labels, tuple(cifar.classes)
            case "EMNIST":
                emnist = datasets.EMNIST(root, split=config.emnist_split, train=train, download=config.download)
                # The letters count from 1 and have an empty class 0, "N/A".
                first = 1 if config.emnist_split == "letters" else 0
                labels = emnist.targets.numpy().astype(np.int64) - first
                return emnist.data.transpose(1, 2).numpy(), labels, tuple(emnist.classes[first:])
            case _:
                mnist = getattr(datasets, config.dataset)(root, train=train, download=config.download)
                return mnist.data.numpy(), mnist.targets.numpy().astype(np.int64), tuple(mnist.classes)
    except _BROKEN as error:
        raise DataError(
            f"{_dataset_in_root(config)}: {split} set: {error or type(error).__name__}. {_remedy(config)}"
        ) from error


def _dataset_in_root(config: Config) -> str:
    return f"{config.dataset} in {config.root!r}"


def _remedy(config: Config) -> str:
    return (
        f"Set `root` to the folder that holds {FACTS[config.dataset].folder} (unpacked), or set `download: true` "
        "to fetch it; remove files that are damaged first."
    )
