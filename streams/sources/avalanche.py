"""Any Avalanche benchmark, named by its factory: avalanche.benchmarks.classic.SplitFMNIST.

All experiences of its train and test streams become one source. Rows are the train stream and then the test stream,
in order; a domain is the experience that a row came from (for a test row, the test experience). A sample that a
benchmark shows in two experiences is two rows. Inputs are what the benchmark's evaluation transform makes of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from pydantic import Field, JsonValue

from streams.config import Config as BaseConfig
from streams.errors import ConfigError, DataError
from streams.randomness import Key, seeded_globals
from streams.registry import import_by_path
from streams.source import Source, dirichlet_users

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario
    from avalanche.benchmarks.utils import AvalancheDataset

Labels = Literal["global", "per-task"]


class Config(BaseConfig):
    """Options of `avalanche`."""

    benchmark: str = Field(pattern=r"^\w+(\.\w+)+$")
    """Where to import the factory from, such as ``avalanche.benchmarks.classic.SplitFMNIST``."""
    options: dict[str, JsonValue] = {}
    """Arguments of the factory, by name, such as ``{n_experiences: 5, dataset_root: data}``."""
    labels: Labels = "global"
    """What a label means: the same class in every experience (global), or a class of its own in every task
    (per-task, for benchmarks whose labels start from zero in each task)."""
    users: int = Field(20, ge=1)
    """Number of users the samples are assigned to (benchmarks have none of their own)."""
    alpha: float = Field(0.5, gt=0)
    """Dirichlet concentration of the assignment; small means specialised users."""


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """All rows of a benchmark.

    Attributes:
        x: float32 ``[N, ...]``.
        class_ids: int64 ``[N]``.
        class_names: names of the classes.
        experience: int64 ``[N]``: index in the row's own stream.
        task: int64 ``[N]``: the benchmark's task label, 0 where it has none.
        is_test: bool ``[N]``.
    """

    x: torch.Tensor
    class_ids: np.ndarray
    class_names: tuple[str, ...]
    experience: np.ndarray
    task: np.ndarray
    is_test: np.ndarray


def load(config: Config) -> Source:
    """Build the benchmark and gather it. Global generators are lent to it and put back.

    Raises:
        ConfigError: the factory cannot be imported, or refuses its options.
        DataError: what it returns is not a benchmark of labelled tensors.
    """
    with seeded_globals(Key(0) / "avalanche"):
        benchmark = _build(config)
    return from_benchmark(
        benchmark, name=config.benchmark, labels=config.labels, users=config.users, alpha=config.alpha
    )


def from_benchmark(
    benchmark: CLScenario,
    *,
    name: str = "avalanche",
    labels: Labels = "global",
    users: int = 20,
    alpha: float = 0.5,
    seed: int = 0,
) -> Source:
    """Return a benchmark's train and test streams as one source.

    Args:
        benchmark: has ``train_stream`` and ``test_stream``.
        name: shown in manifests and messages.
        labels: see `Config`.
        users: number of users the samples are assigned to.
        alpha: Dirichlet concentration of that assignment.
        seed: names the assignment of users, and the draws of random transforms.

    Raises:
        DataError: the benchmark has no test stream, or its samples are not labelled tensors of one shape.
    """
    return to_source(gather(benchmark, name, labels, seed), name, users, alpha, seed)


def to_source(rows: Gathered, name: str, users: int, alpha: float, seed: int) -> Source:
    """Return gathered rows as a source; arguments as for `from_benchmark`."""
    key = Key(seed) / "avalanche" / "users"
    return Source(
        name="avalanche",
        licence=f"that of the data behind the Avalanche benchmark {name}",
        x=rows.x,
        y=torch.from_numpy(rows.class_ids),
        class_ids=rows.class_ids,
        user_ids=dirichlet_users(rows.class_ids, users, alpha, key),
        is_test=rows.is_test,
        class_names=rows.class_names,
        user_names=tuple(f"user-{u}" for u in range(users)),
        domain_ids=rows.experience,
        notes=(
            f"benchmark: {name}",
            "domains: experiences",
            f"users: assigned by a seeded Dirichlet({alpha:g}) over {users} users, per class",
        ),
    )


def gather(benchmark: CLScenario, name: str, labels: Labels, seed: int) -> Gathered:
    """Read every sample of the train and test streams once, with the evaluation transform.

    Raises:
        DataError: as for `from_benchmark`.
    """
    parts = []
    with seeded_globals(Key(seed) / "avalanche" / "read"):
        for part in ("train", "test"):
            if part not in benchmark.streams:
                raise DataError(f"{name}: has no {part} stream. It has: {', '.join(benchmark.streams) or 'none'}.")
            datasets = [experience.dataset.eval() for experience in benchmark.streams[part]]
            if not sum(map(len, datasets)):
                raise DataError(f"{name}: its {part} stream is empty.")
            parts += [(part, index, dataset) for index, dataset in enumerate(datasets)]
        sizes = [len(dataset) for _, _, dataset in parts]
        x, y = _read([dataset for _, _, dataset in parts], sizes, name)
        task = np.concatenate([_task_labels(dataset) for _, _, dataset in parts])
    _check_labels(benchmark, name, labels)
    class_ids, class_names = y, tuple(str(c) for c in range(int(y.max()) + 1))
    if labels == "per-task":
        pairs, class_ids = np.unique(np.stack([task, y], axis=1), axis=0, return_inverse=True)
        class_ids = class_ids.reshape(-1).astype(np.int64)
        class_names = tuple(f"task-{t} class-{c}" for t, c in pairs.tolist())
    return Gathered(
        x,
        class_ids,
        class_names,
        experience=np.repeat(np.array([index for _, index, _ in parts], dtype=np.int64), sizes),
        task=task,
        is_test=np.repeat([part == "test" for part, _, _ in parts], sizes),
    )


def _build(config: Config) -> CLScenario:
    factory = import_by_path(config.benchmark, "benchmark")
    try:
        return factory(**config.options)
    except Exception as error:  # third-party code: whatever it raises, the options are what a person can change
        raise ConfigError(
            f"options: {config.benchmark} failed on {config.options} ({type(error).__name__}: {error}). "
            "Set `options` to what it takes; `dataset_root` is where the built-in ones look for their data."
        ) from error


def _read(datasets: list[AvalancheDataset], sizes: list[int], name: str) -> tuple[torch.Tensor, np.ndarray]:
    """Return all inputs (float32) and labels (int64), written straight into one tensor."""
    x: torch.Tensor | None = None
    y = np.empty(sum(sizes), dtype=np.int64)
    row = 0
    for dataset in datasets:
        for position in range(len(dataset)):
            value, label = dataset[position][:2]
            if not isinstance(value, torch.Tensor):
                raise DataError(
                    f"{name}: inputs are {type(value).__name__}, not tensors. Give the benchmark an eval_transform "
                    "that ends in ToTensor."
                )
            if x is None:
                x = torch.empty((len(y), *value.shape), dtype=torch.float32)
            if value.shape != x.shape[1:]:
                raise DataError(
                    f"{name}: inputs have the shapes {tuple(x.shape[1:])} and {tuple(value.shape)}. Give the benchmark "
                    "an eval_transform that resizes them."
                )
            x[row], y[row] = value, int(label)
            row += 1
    assert x is not None
    if y.min() < 0:
        raise DataError(f"{name}: the label {y.min()} is negative. Number the classes from 0.")
    return x, y


def _task_labels(dataset: AvalancheDataset) -> np.ndarray:
    from avalanche.benchmarks.utils.data_attribute import has_task_labels

    if not has_task_labels(dataset):
        return np.zeros(len(dataset), dtype=np.int64)
    return np.fromiter(dataset.targets_task_labels, dtype=np.int64, count=len(dataset))


def _check_labels(benchmark: CLScenario, name: str, labels: Labels) -> None:
    """Refuse to read labels that start anew in each experience as one label space."""
    from avalanche.benchmarks.scenarios.deprecated.new_classes import NCScenario

    if labels == "global" and isinstance(benchmark, NCScenario) and benchmark.class_ids_from_zero_in_each_exp:
        raise DataError(
            f"{name}: its labels start from zero in each experience, so a label means several classes. "
            "Set `labels: per-task`, or build it with class_ids_from_zero_in_each_exp=False."
        )
