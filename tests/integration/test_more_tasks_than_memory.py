"""Strategies that keep a memory of every task read no more than they declare, however many tasks there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lifelong.config.run import RunConfig
from lifelong.setup.build import make_setting, make_source, make_stream
from strategies.base import Setting, Strategy
from strategies.isolated import amnesiac_hat, clpu_der
from strategies.parts.memory.buffers import shares
from strategies.step import step
from streams.config import parse
from streams.events import DeletionRequest, Request
from streams.ledger import Ledger
from streams.randomness import Key

TASKS = 13
"""Of ten units, so that with one sample of each a strategy declares to read ten."""


def hat(setting: Setting, **options: Any) -> Strategy:
    config = {"memory": 1, "window": 0, "steps": 2, "finer": "coarsen"}
    return amnesiac_hat.AmnesiacHAT(amnesiac_hat.Config.model_validate(config | options), setting)


def clpu(setting: Setting) -> Strategy:
    config = clpu_der.Config.model_validate({"memory": 2, "undeclared": "permanent", "finer": "coarsen"})
    return clpu_der.ClpuDer(config, setting)


@pytest.mark.parametrize(
    ("make", "forgets"),
    [
        pytest.param(lambda s: hat(s, repair="joint"), True, id="amnesiac-hat, joint repair"),
        pytest.param(lambda s: hat(s, repair="sequential"), True, id="amnesiac-hat, one after the other"),
        pytest.param(clpu, False, id="clpu-der"),
    ],
)
def test_more_tasks_than_may_be_read(make: Callable[[Setting], Strategy], forgets: bool) -> None:
    data = {
        "scenario": {"name": "recurring", "tasks": TASKS, "classes_per_task": 2, "samples_per_class": 4},
        "schedule": {"name": "explicit", "requests": [{"after": TASKS, "scope": "sample", "count": 1}]},
        "model": {"name": "mlp", "hidden": [8]},
        "training": {"epochs": 1, "batch_size": 8, "lr": 0.05},
    }
    config = parse(RunConfig, data)
    stream = make_stream(config, make_source(config))
    strategy, ledger = make(make_setting(config, stream)), Ledger(stream.source, stream.task_of)
    most = strategy.access.retained
    assert isinstance(most, int)
    read = [step(strategy, e, ledger).samples_read - len(e.sample_ids) for e in stream.experiences]
    assert len(strategy.stored_ids()) > most
    assert most - 2 <= max(read) <= most, "all that is declared is used"  # a sample may be in several memories
    assert read[2] == 2 * max(read) // 10, "of a few tasks all is read"
    if forgets:
        ids = stream.experiences[0].sample_ids
        request = DeletionRequest("the first", (Request("sample", tuple(ids.tolist()), ids, ids[:0], TASKS),))
        assert most - 2 <= step(strategy, request, ledger).samples_read <= most


def test_shares_are_equal_or_drawn() -> None:
    assert shares(3, 10, Key(0)) == [3, 3, 3]
    assert shares(10, 10, Key(0)) == [1] * 10
    assert shares(0, 10, Key(0)) == []
    drawn = [shares(12, 10, Key(0) / event) for event in range(8)]
    assert all(sum(sizes) == 10 and max(sizes) == 1 for sizes in drawn)
    assert np.array(drawn).any(0).all(), "no task is left out for good"
