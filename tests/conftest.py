"""What the tests share: one thread, small sources, and a hand-driven life."""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is imported; processes that tests start inherit it

import hypothesis
import numpy as np
import pytest
import torch
from torch import nn

from strategies.base import Access, Setting, Strategy
from strategies.objectives.classification import Classification
from strategies.parts.fit import Training
from strategies.parts.model import FlatModel, Network
from streams.data import Data
from streams.events import Event, Experience
from streams.ledger import Ledger
from streams.plan import Plan
from streams.randomness import Key, seeded_globals
from streams.source import Source

torch.set_num_threads(1)
# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")
# Processes that tests start and interrupt inherit this; a shell that runs in the background would have it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
pytest.register_assert_rewrite("contract.promises")  # functions that assert, outside of a test module


def group_of(nodeid: str) -> str:
    """Return what a test shares something costly with: the import of a large library, a life of the contract suite, or
    all tests of a file."""
    file, _, test = nodeid.partition("::")
    if "avalanche" in nodeid:
        return "avalanche"
    life = re.search(r"\[(.+)\]$", test) if file.endswith("contract/test_strategies.py") else None
    return file if life is None else life[1]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what shares something costly one after the other.

    Files come first, which take long; the many small groups fill the processes evenly at the end.
    """
    order: dict[str, tuple[bool, int]] = {}
    for item in items:
        group = group_of(item.nodeid)
        order.setdefault(group, (not group.endswith(".py"), len(order)))
    items.sort(key=lambda item: order[group_of(item.nodeid)])


def pytest_collection_finish() -> None:
    """Leave tests and libraries, half a million objects that stay, out of every collection of garbage."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return one process more than cores for `-n auto`: some tests wait for clocks and for other processes."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each group to one process.

    `--dist loadgroup` would, but pytest 9.2 does not see the groups that pytest-xdist 3.8 writes into names of tests.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return ByGroup(config, log)


def make_source(
    num_classes: int = 4, per_class: int = 6, test_per_class: int = 2, num_users: int = 3, width: int = 5, seed: int = 0
) -> Source:
    """Class after class, each with its test rows last; x is noise around a mean of its class."""
    generator = np.random.default_rng(seed)
    count = per_class + test_per_class
    class_ids = np.repeat(np.arange(num_classes), count)
    means = generator.normal(size=(num_classes, width))
    x = means[class_ids] + 0.3 * generator.normal(size=(len(class_ids), width))
    return Source(
        name="toy",
        licence="none",
        x=torch.from_numpy(x.astype(np.float32)),
        y=torch.from_numpy(class_ids),
        class_ids=class_ids,
        user_ids=np.arange(len(class_ids)) % num_users,
        is_test=np.tile(np.arange(count) >= per_class, num_classes),
        class_names=tuple(f"c{c}" for c in range(num_classes)),
        user_names=tuple(f"u{u}" for u in range(num_users)),
    )


def make_mlp(sizes: tuple[int, ...], seed: int = 0) -> FlatModel:
    """A ReLU network with layers of the given widths."""
    with seeded_globals(Key(seed) / "init"):
        layers: list[nn.Module] = []
        for before, after in zip(sizes[:-2], sizes[1:-1], strict=True):
            layers += [nn.Linear(before, after), nn.ReLU()]
        return FlatModel(Network(nn.Sequential(*layers), nn.Linear(sizes[-2], sizes[-1])))


def make_setting(source: Source, plan: Plan | None = None, hidden: int = 8, **training: object) -> Setting:
    """A setting for classification of `source` with a small network."""
    options = {"epochs": 2, "lr": 0.1, "batch_size": 4} | training
    task_of = None if plan is None else plan.task_of
    units = () if plan is None else plan.units
    objective = Classification(source.num_classes, tuple(u.classes for u in units) if task_of is not None else None)
    width = source.x.shape[1]
    return Setting(
        Key(0),
        lambda: make_mlp((width, hidden, source.num_classes)),
        objective,
        Training.model_validate(options),
        units,
        len(source),
    )


def lend(source: Source, ids: Iterable[int] | None = None) -> Data:
    """A view of training rows, without a ledger."""
    rows = source.train_ids if ids is None else np.array(sorted(ids), dtype=np.int64)
    return Data(rows, source.x, source.y, None)


def live(strategy: Strategy, ledger: Ledger, events: Iterable[Event]) -> None:
    """Play events on a strategy."""
    for event in events:
        if isinstance(event, Experience):
            admitted = ledger.admit(event)
            if len(admitted.sample_ids):
                door = ledger.door(strategy.access, admitted.sample_ids)
                strategy.learn(admitted, door)
                door.close()
        else:
            ledger.delete(event)
            door = ledger.door(strategy.access, event.sample_ids[:0], event.sample_ids)
            strategy.forget(event, door)
            door.close()


@dataclass(frozen=True)
class Tools:
    """The functions above, for test modules (they cannot import from here)."""

    source: Callable[..., Source] = make_source
    mlp: Callable[..., FlatModel] = make_mlp
    setting: Callable[..., Setting] = make_setting
    lend: Callable[..., Data] = lend
    live: Callable[..., None] = live
    full: Access = Access(forget_set=True, retained="full")


@pytest.fixture(scope="session")
def tools() -> Tools:
    return Tools()


@pytest.fixture(scope="session")
def digits() -> Source:
    from streams.sources import digits as module

    return module.load(module.Config())


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A corpus of three people, for tests that make no source of their own."""
    from text_lives import three_people

    return three_people(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process; return exit code, standard output and standard error."""
    from cli.main import main

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lifelong", *arguments])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as error:
            code = int(error.code or 0)
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run
