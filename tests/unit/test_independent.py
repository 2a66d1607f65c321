"""independent: who answers for a class, and what several models that know it say together."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from strategies.isolated.independent import Config, Independent
from strategies.step import step
from streams.events import Experience
from streams.ledger import Ledger
from streams.scenarios import class_incremental, task_incremental


@pytest.mark.parametrize("scenario", [class_incremental, task_incremental])
def test_models_that_know_the_same_say_the_mean_of_their_probabilities(scenario: ModuleType, tools: Any) -> None:
    """Half of a task is learned alone, the other half together with the next task."""
    source = tools.source(num_classes=4, per_class=20)
    plan = scenario.build(source, scenario.Config(experiences=2), 0)
    setting = tools.setting(source, plan, lr=0.3)
    strategy, ledger = Independent(Config(), setting), Ledger(source, plan.task_of)
    first, second = (e.sample_ids for e in plan.experiences)
    step(strategy, Experience("one", (0,), first[::2]), ledger)
    step(strategy, Experience("both", (0, 1), np.union1d(first[1::2], second)), ledger)
    batch = ledger.lend(source.test_ids).all()
    alone, both = (
        setting.objective.outputs(strategy._model_of(units), batch).detach().softmax(1) for units in ((0,), (0, 1))
    )
    assert float((alone - both)[:, :2].abs().max()) > 0.05
    expected = both.clone()
    if plan.task_of is None:  # by class: those of the first task are known to both
        expected[:, :2] = (alone + both)[:, :2] / 2
    else:
        of_first = torch.from_numpy(plan.task_of[source.test_ids] == 0)
        expected[of_first] = (alone + both)[of_first] / 2
    found = strategy.predict(batch)
    if plan.task_of is not None:
        found = found.log_softmax(1)
    assert torch.allclose(found.exp(), expected, atol=1e-5)
