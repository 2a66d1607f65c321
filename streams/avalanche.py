"""To and from Avalanche: our streams for its strategies, its benchmarks for ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch.utils.data import TensorDataset

from streams.errors import StreamError
from streams.events import Experience, Unit
from streams.sources.avalanche import Gathered, Labels, gather, to_source
from streams.stream import Stream
from streams.timeline import surviving

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario
    from avalanche.benchmarks.utils import AvalancheDataset


def to_benchmark(stream: Stream, *, drop_deleted: bool = False) -> CLScenario:
    """Return a stream as an Avalanche benchmark that its strategies train on.

    The train stream has one experience per learn event, the test stream one per unit. Datasets carry the attributes
    ``targets``, ``targets_task_labels`` and ``sample_ids``; the ids stay out of the mini-batches, where Avalanche
    takes the last element for the task label. Experiences have ``task_labels`` only if the stream has task labels.

    Args:
        stream: of classification.
        drop_deleted: Avalanche has no deletion requests. True leaves them out and with them all that they delete, as
            if it had never been learned; False refuses a stream that has any.

    Raises:
        StreamError: deletion requests, a regression target, a unit without test samples, or nothing left to learn.
    """
    from avalanche.benchmarks import benchmark_from_datasets, with_classes_timeline, with_task_labels

    if stream.requests and not drop_deleted:
        raise StreamError(
            f"Avalanche cannot represent the {len(stream.requests)} deletion requests of this stream. "
            "Set drop_deleted=True to leave out the requests and what they delete."
        )
    if stream.source.y.is_floating_point():
        raise StreamError(f"Source {stream.source.name!r} has a regression target; Avalanche streams need classes.")
    for unit in stream.units:
        if not len(unit.test_ids):
            raise StreamError(f"Unit {unit.name!r} has no test samples, and Avalanche would score it 0.")
    experiences = surviving(stream.events)
    if not experiences:
        raise StreamError("Every sample of the stream is deleted: nothing is left for Avalanche to learn.")
    data = _dataset(stream)
    benchmark = benchmark_from_datasets(
        train=[data.subset(e.sample_ids.tolist()) for e in experiences],
        test=[data.subset(u.test_ids.tolist()) for u in stream.units],
    )
    benchmark = with_classes_timeline(benchmark)
    return benchmark if stream.task_of is None else with_task_labels(benchmark)


def from_benchmark(
    benchmark: CLScenario,
    seed: int = 0,
    *,
    labels: Labels = "global",
    users: int = 20,
    alpha: float = 0.5,
    name: str = "avalanche",
) -> Stream:
    """Return a benchmark as a stream: one experience and one unit per train experience, in order.

    A unit's test samples are the test experience of the same index; if the benchmark has another number of those, all
    test samples of the experience's classes. The model is task-aware where the benchmark has a task label for each
    experience (they are renumbered 0, 1, ... in order), and none where all are the same.

    Args:
        benchmark: an Avalanche benchmark with ``train_stream`` and ``test_stream``.
        seed: names the assignment of users and the draws of random transforms.
        labels: ``per-task`` if labels start from zero in each task.
        users: number of users the samples are assigned to.
        alpha: Dirichlet concentration of that assignment.
        name: shown in manifests and messages.

    Raises:
        DataError: the benchmark cannot be read; see `streams.sources.avalanche.from_benchmark`.
        StreamError: several train experiences share a task label, or a unit has no test samples.
    """
    rows = gather(benchmark, name, labels, seed)
    num_experiences = int(rows.experience[~rows.is_test].max()) + 1
    task_of = _tasks(rows, num_experiences)
    aligned = num_experiences == int(rows.experience[rows.is_test].max()) + 1
    units, experiences = [], []
    for index in range(num_experiences):
        ids = np.flatnonzero(~rows.is_test & (rows.experience == index))
        if not len(ids):
            raise StreamError(f"{name}: train experience {index} is empty. Leave it out of the benchmark.")
        own = rows.experience == index if aligned else np.isin(rows.class_ids, rows.class_ids[ids])
        test_ids = np.flatnonzero(rows.is_test & own)
        if not len(test_ids):
            raise StreamError(f"{name}: there is no test sample for train experience {index}.")
        classes = np.unique(rows.class_ids[np.concatenate([ids, test_ids])])
        units.append(Unit(f"experience-{index}", tuple(classes.tolist()), test_ids))
        experiences.append(Experience(f"experience-{index}", (index,), ids, None if task_of is None else index))
    return Stream(to_source(rows, name, users, alpha, seed), tuple(units), tuple(experiences), task_of)


def _dataset(stream: Stream) -> AvalancheDataset:
    """Return every row of the source as one dataset, to take subsets of: tensors of floats are not copied."""
    from avalanche.benchmarks.utils import AvalancheDataset, DataAttribute

    source = stream.source
    task = np.zeros(len(source), dtype=np.int64) if stream.task_of is None else stream.task_of
    return AvalancheDataset(
        [TensorDataset(source.inputs(), source.y)],
        data_attributes=[
            DataAttribute(source.y.tolist(), "targets"),
            DataAttribute(list(range(len(source))), "sample_ids", use_in_getitem=False),
            DataAttribute(task.tolist(), "targets_task_labels", use_in_getitem=True),
        ],
    )


def _tasks(rows: Gathered, num_experiences: int) -> np.ndarray | None:
    """Return the task label of each row, renumbered by train experience, or None if there is only one."""
    train = ~rows.is_test
    if len(np.unique(rows.task[train])) == 1:
        return None
    order = np.full(int(rows.task.max()) + 1, -1, dtype=np.int64)
    for index in range(num_experiences):
        labels = np.unique(rows.task[train & (rows.experience == index)])
        if len(labels) != 1 or order[labels[0]] >= 0:
            raise StreamError(
                f"Train experience {index} has the task labels {labels.tolist()}; each experience needs one of its "
                "own. Build the benchmark without task labels, or with one task per experience."
            )
        order[labels[0]] = index
    renumbered = order[rows.task]
    if (renumbered < 0).any():
        raise StreamError(f"The test stream has the task {rows.task[renumbered < 0][0]}, which is never trained.")
    return renumbered
