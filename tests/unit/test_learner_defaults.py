"""What the contracts do where a strategy says nothing of its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from strategies.base import Learner, Strategy
from strategies.parts.model import num_bytes
from strategies.unlearners import amnesiac, lfssd, ssd


@pytest.mark.parametrize("kind", [Learner, Strategy])
def test_a_state_is_as_large_as_all_of_it(kind: Any) -> None:
    state = {"model": {"parameters": torch.zeros(7)}, "plugins": {"memory": torch.zeros(3, dtype=torch.int64)}}
    model = SimpleNamespace(state_dict=lambda: state["model"], num_bytes=lambda: 28)
    assert kind.state_bytes(SimpleNamespace(state_dict=lambda: state, model=model)) == num_bytes(state) == 52


@pytest.mark.parametrize("module", [ssd, lfssd])
def test_a_log_is_needed_where_it_is_read(module: Any) -> None:
    (make,) = [
        v
        for v in vars(module).values()
        if isinstance(v, type) and v.__module__ == module.__name__ and v is not module.Config
    ]
    asked = {w: make(module.Config(whole=w), None).needs_plugins for w in ("full", "memory", "stored")}
    assert asked == {"full": (), "memory": (), "stored": ("importance-log",)}
    assert amnesiac.Amnesiac(amnesiac.Config(), None).needs_plugins == ("update-log",)  # type: ignore[arg-type]
