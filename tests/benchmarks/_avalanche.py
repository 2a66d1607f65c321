"""Avalanche at its best: in-memory tensors, accuracy metrics only, no logger, large evaluation batches."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import EWC, Naive, Replay
from torch import nn
from torch.utils.data import TensorDataset


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep what Avalanche prints and warns about off the screen; it still pays for it."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def in_memory_benchmark(
    x: torch.Tensor, y: torch.Tensor, train: Sequence[np.ndarray], test: Sequence[np.ndarray]
) -> Any:
    """Return a benchmark with one training and one test experience per array of rows."""

    def datasets(parts: Sequence[np.ndarray]) -> list[Any]:
        return [as_classification_dataset(_Tensors(x, y, torch.from_numpy(ids))) for ids in parts]

    return benchmark_from_datasets(train=datasets(train), test=datasets(test))


class _Tensors(TensorDataset):
    """Some rows, with the attribute that Avalanche reads labels from."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, rows: torch.Tensor) -> None:
        super().__init__(x[rows], y[rows])
        self.targets = y[rows].tolist()


def make_strategy(name: str, network: nn.Module, batch_size: int, memory: int, evaluator: Any = None) -> Any:
    """Return Avalanche's naive, ewc or replay with SGD (lr 0.01, momentum 0.9) and one epoch."""
    common = {
        "model": network,
        "optimizer": torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9),
        "criterion": nn.CrossEntropyLoss(),
        "train_mb_size": batch_size,
        "train_epochs": 1,
        "eval_mb_size": 256,
        "evaluator": evaluator or EvaluationPlugin(accuracy_metrics(experience=True, stream=True), loggers=[]),
    }
    match name:
        case "naive":
            return Naive(**common)
        case "ewc":
            return EWC(ewc_lambda=10.0, mode="separate", **common)
        case "replay":
            return Replay(mem_size=memory, **common)
    raise ValueError(name)
