"""What several models say together, by hand."""

from __future__ import annotations

import torch

from strategies.parts.sharding.ensembles import pool


def test_each_model_speaks_for_the_classes_that_it_knows_and_is_permitted() -> None:
    """The first knows classes 0 and 1, the second 1 and 2 and permits no class 0; nobody permits class 4."""
    first, second = torch.tensor([[0.5, 0.3, 0.1, 0.1, 0.0]]), torch.tensor([[0.0, 0.5, 0.4, 0.1, 0.0]])
    found = pool([(first.log(), (0, 1)), (second.log(), (1, 2))])
    assert torch.allclose(found.exp(), torch.tensor([[0.5, 0.4, 0.4, 0.0, 0.0]]), atol=1e-6)
    assert found[0].isfinite().tolist() == [True, True, True, True, False], "almost nothing is not forbidden"
