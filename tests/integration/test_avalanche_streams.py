from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from streams.avalanche import from_benchmark, to_benchmark
from streams.config import parse
from streams.errors import ConfigError, DataError, StreamError
from streams.events import DeletionRequest, Experience, Request, Unit
from streams.randomness import Key, seeded_globals
from streams.source import Source, dirichlet_users
from streams.sources import avalanche as source_module
from streams.stream import Stream


@pytest.fixture(scope="module", autouse=True)
def _import_avalanche():
    """Avalanche warns while it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import avalanche.benchmarks
        import avalanche.training  # noqa: F401


def split_digits(source: Source, num_tasks: int = 3, task_aware: bool = False, request: bool = False) -> Stream:
    """Two classes per experience; with a request, the first ten samples are deleted after the second."""
    units, events = [], []
    task_of = np.where(source.class_ids < 2 * num_tasks, source.class_ids // 2, 0) if task_aware else None
    for t in range(num_tasks):
        own = source.class_ids // 2 == t
        units.append(Unit(f"task-{t}", (2 * t, 2 * t + 1), np.flatnonzero(own & source.is_test)))
        ids = np.flatnonzero(own & ~source.is_test)
        events.append(Experience(f"task-{t}", (t,), ids, t if task_aware else None))
    if request:
        ids = events[0].sample_ids[:10]
        single = Request("sample", tuple(ids.tolist()), ids, ids[:0], received=2)
        events.insert(2, DeletionRequest("request-0", (single,)))
    return Stream(source, tuple(units), tuple(events), task_of)


def train(benchmark: object, epochs: int = 2) -> list[float]:
    """Plain Avalanche: Naive on an MLP. Returns the accuracy on each test experience."""
    from avalanche.evaluation.metrics import accuracy_metrics
    from avalanche.training import Naive
    from avalanche.training.plugins import EvaluationPlugin

    with seeded_globals(Key(0)), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        plugin = EvaluationPlugin(accuracy_metrics(experience=True), loggers=[], strict_checks=False)
        strategy = Naive(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
            criterion=nn.CrossEntropyLoss(),
            train_mb_size=32,
            train_epochs=epochs,
            evaluator=plugin,
        )
        for experience in benchmark.train_stream:
            strategy.train(experience)
        results = strategy.eval(benchmark.test_stream)
    return [value for name, value in sorted(results.items()) if "Acc_Exp" in name]


def test_avalanche_trains_on_our_stream(digits):
    stream = split_digits(digits)
    benchmark = to_benchmark(stream)
    accuracies = train(benchmark)
    assert len(accuracies) == 3
    assert accuracies[2] > 0.9, "the last experience is learned"
    assert accuracies[0] < 0.5, "and the first forgotten"
    for experience, event in zip(benchmark.train_stream, stream.experiences, strict=True):
        assert list(experience.dataset.sample_ids) == event.sample_ids.tolist()
        x, y, task = experience.dataset[3]
        row = int(event.sample_ids[3])
        assert torch.equal(x, digits.x[row])
        assert (int(y), task) == (int(digits.y[row]), 0)
    assert sorted(benchmark.train_stream[1].classes_in_this_experience) == [2, 3]


def test_task_labels_are_there_only_where_the_stream_is_task_aware(digits):
    from avalanche.benchmarks.utils.data_attribute import has_task_labels

    task_aware = to_benchmark(split_digits(digits, task_aware=True))
    assert [e.task_labels for e in task_aware.train_stream] == [[0], [1], [2]]
    assert [e.dataset[0][2] for e in task_aware.test_stream] == [0, 1, 2]
    assert len(train(task_aware, epochs=1)) == 3
    unlabelled = to_benchmark(split_digits(digits))
    assert has_task_labels(unlabelled.train_stream[1].dataset)
    assert not any("task_labels" in vars(type(e)) | vars(e) for e in unlabelled.train_stream)


def test_deletion_requests_are_refused_or_dropped_with_what_they_delete(digits):
    stream = split_digits(digits, request=True)
    with pytest.raises(StreamError, match="1 deletion requests .* drop_deleted=True"):
        to_benchmark(stream)
    benchmark = to_benchmark(stream, drop_deleted=True)
    kept = [list(e.dataset.sample_ids) for e in benchmark.train_stream]
    assert kept[0] == stream.experiences[0].sample_ids[10:].tolist()
    assert kept[1:] == [e.sample_ids.tolist() for e in stream.experiences[1:]]


@pytest.mark.parametrize("task_aware", [False, True])
def test_round_trip(digits, task_aware):
    stream = split_digits(digits, task_aware=task_aware)
    back = from_benchmark(to_benchmark(stream), seed=3)
    assert len(back.experiences) == len(back.units) == 3
    for mine, theirs in zip(stream.experiences, back.experiences, strict=True):
        assert torch.equal(digits.x[mine.sample_ids], back.source.x[theirs.sample_ids])
        assert torch.equal(digits.y[mine.sample_ids], back.source.y[theirs.sample_ids])
        assert mine.task == theirs.task
        assert (back.source.domain_ids[theirs.sample_ids] == theirs.units[0]).all()
    for mine, theirs in zip(stream.units, back.units, strict=True):
        assert mine.classes == theirs.classes
        assert torch.equal(digits.x[mine.test_ids], back.source.x[theirs.test_ids])
    assert (back.task_of is not None) == task_aware
    assert back.task_classes == (stream.task_classes if task_aware else None)
    assert train(to_benchmark(back), epochs=1) == train(to_benchmark(stream), epochs=1)
    assert from_benchmark(to_benchmark(stream), seed=3).digest() == back.digest()


def test_reading_and_writing_leave_the_global_generators_alone(digits):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    source_module.from_benchmark(to_benchmark(split_digits(digits)))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


def test_what_avalanche_cannot_represent_is_refused(digits):
    stream = split_digits(digits)
    empty = Unit("task-0", (0, 1), np.array([], dtype=np.int64))
    with pytest.raises(StreamError, match="'task-0' has no test samples"):
        to_benchmark(Stream(digits, (empty, *stream.units[1:]), stream.events))
    ids = stream.experiences[0].sample_ids
    request = DeletionRequest("all", (Request("sample", tuple(ids.tolist()), ids, ids[:0], 1),))
    everything = Stream(digits, stream.units, (stream.events[0], request))
    with pytest.raises(StreamError, match="nothing is left"):
        to_benchmark(everything, drop_deleted=True)
    regression = Source(
        "toy", "none", digits.x, digits.x[:, 0], digits.class_ids, digits.user_ids, digits.is_test,
        digits.class_names, digits.user_names,
    )  # fmt: skip
    with pytest.raises(StreamError, match="regression target"):
        to_benchmark(Stream(regression, stream.units, stream.events))


def tensor_benchmark(train_sets: list[tuple], test_sets: list[tuple], **transforms: Callable) -> object:
    """A benchmark of (x, y) or (x, y, task) parts; `transforms` by group, train and eval."""
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.utils import AvalancheDataset, DataAttribute, TransformGroups

    def dataset(x: torch.Tensor, y: torch.Tensor, task: int | None = None) -> AvalancheDataset:
        attributes = [DataAttribute(y.tolist(), "targets")]
        if task is not None:
            attributes.append(DataAttribute([task] * len(x), "targets_task_labels", use_in_getitem=True))
        groups = TransformGroups(transforms) if transforms else None
        return AvalancheDataset([TensorDataset(x, y)], data_attributes=attributes, transform_groups=groups)

    return benchmark_from_datasets(train=[dataset(*p) for p in train_sets], test=[dataset(*p) for p in test_sets])


def part(*classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(classes).float()[:, None].expand(-1, 2).contiguous(), torch.tensor(classes)


def test_one_test_experience_is_shared_out_by_classes():
    stream = from_benchmark(tensor_benchmark([part(0, 1, 0), part(2, 1)], [part(0, 1, 2, 2)]))
    assert [u.test_ids.tolist() for u in stream.units] == [[5, 6], [6, 7, 8]]
    assert [u.classes for u in stream.units] == [(0, 1), (1, 2)]
    assert stream.source.domain_ids.tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 0]


def test_labels_per_task_are_classes_of_their_own():
    tasks = [(*part(0, 1), 4), (*part(0, 1), 9)]
    stream = from_benchmark(tensor_benchmark(tasks, tasks), labels="per-task")
    assert stream.source.class_names == ("task-4 class-0", "task-4 class-1", "task-9 class-0", "task-9 class-1")
    assert stream.source.y.tolist() == [0, 1, 2, 3] * 2
    assert stream.task_of.tolist() == [0, 0, 1, 1] * 2
    assert stream.task_classes == ((0, 1), (2, 3))


def test_inputs_are_those_of_evaluation_in_both_streams():
    parts = [part(0, 1)]
    benchmark = tensor_benchmark(parts, parts, train=lambda x: x + 100, eval=lambda x: x + 5)
    assert from_benchmark(benchmark).source.x[:, 0].tolist() == [5, 6, 5, 6]


def test_benchmarks_that_do_not_fit_are_refused():
    tasks = [(*part(0), 0), (*part(1), 0), (*part(2), 1)]
    with pytest.raises(StreamError, match=r"Train experience 1 has the task labels \[0\]"):
        from_benchmark(tensor_benchmark(tasks, tasks))
    with pytest.raises(StreamError, match="no test sample for train experience 1"):
        from_benchmark(tensor_benchmark([part(0), part(1)], [part(0)]))
    with pytest.raises(StreamError, match="test stream has the task 7"):
        from_benchmark(tensor_benchmark([(*part(0), 0), (*part(1), 1)], [(*part(0), 0), (*part(1), 7)]))
    with pytest.raises(DataError, match=r"the label -1 is negative"):
        from_benchmark(tensor_benchmark([part(0, -1)], [part(0)]))
    with pytest.raises(DataError, match=r"shapes \(2,\) and \(3,\)"):
        from_benchmark(tensor_benchmark([part(0), (torch.zeros(1, 3), torch.tensor([0]))], [part(0)]))


def write_fashion(root: Path) -> None:
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, count in (("train", 60), ("t10k", 20)):
        images = np.zeros((count, 28, 28), dtype=np.uint8)
        images[:, 0, 0] = np.arange(count)
        for name, values in (
            (f"{prefix}-images-idx3-ubyte", images),
            (f"{prefix}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8)),
        ):
            header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
            (raw / name).write_bytes(header + values.tobytes())


def fashion_config(root: Path, **options: object) -> source_module.Config:
    values = {"n_experiences": 5, "seed": 1, "dataset_root": str(root)} | options
    return parse(source_module.Config, {"benchmark": "avalanche.benchmarks.classic.SplitFMNIST", "options": values})


@pytest.mark.filterwarnings("ignore")
def test_a_classic_benchmark_by_name(tmp_path):
    write_fashion(tmp_path)
    before = torch.get_rng_state()
    source = source_module.load(fashion_config(tmp_path))
    assert torch.equal(torch.get_rng_state(), before)
    assert source.x.shape == (80, 1, 28, 28)
    assert source.test_ids.tolist() == list(range(60, 80))
    for index in range(5):
        of = [
            np.unique(source.class_ids[(source.domain_ids == index) & part])
            for part in (source.is_test, ~source.is_test)
        ]
        assert len(of[0]) == 2
        assert of[0].tolist() == of[1].tolist()
    assert sorted(((source.x[:60, 0, 0, 0] * 0.3530 + 0.2860) * 255).round().int().tolist()) == list(range(60))
    assert source_module.load(fashion_config(tmp_path)).digest() == source.digest()


@pytest.mark.filterwarnings("ignore")
def test_labels_that_start_anew_must_be_declared(tmp_path):
    write_fashion(tmp_path)
    config = fashion_config(tmp_path, return_task_id=True, class_ids_from_zero_in_each_exp=True)
    with pytest.raises(DataError, match="Set `labels: per-task`"):
        source_module.load(config)
    assert source_module.load(config.model_copy(update={"labels": "per-task"})).num_classes == 10


def test_factory_errors(tmp_path):
    with pytest.raises(ConfigError, match="options: .*SplitFMNIST failed on .*n_experience"):
        source_module.load(fashion_config(tmp_path, n_experience=5))
    for benchmark, says in [
        ("SplitMNIST", "benchmark: .* is not valid"),
        ("avalanche.nowhere.SplitMNIST", "cannot be imported"),
        ("avalanche.benchmarks.classic.SplitMNISTS", "Did you mean 'SplitMNIST'"),
    ]:
        with pytest.raises(ConfigError, match=says):
            source_module.load(parse(source_module.Config, {"benchmark": benchmark}))


def test_options_of_the_source_reach_it(monkeypatch):
    tasks = [(*part(*[0, 1] * 30), 4), (*part(*[0, 1] * 30), 9)]
    monkeypatch.setattr(source_module, "_build", lambda config: tensor_benchmark(tasks, tasks))
    options = {"benchmark": "some.factory", "labels": "per-task", "users": 3, "alpha": 40.0}
    source = source_module.load(parse(source_module.Config, options))
    users = dirichlet_users(source.class_ids, 3, 40.0, Key(0) / "avalanche" / "users")
    assert source.user_ids.tolist() == users.tolist()
    assert source.user_names == ("user-0", "user-1", "user-2")
    assert source.class_names[2:] == ("task-9 class-0", "task-9 class-1")
    assert source.notes == (
        "benchmark: some.factory",
        "domains: experiences",
        "users: assigned by a seeded Dirichlet(40) over 3 users, per class",
    )
