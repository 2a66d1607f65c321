"""What several models say together, by hand."""

from __future__ import annotations

import torch

from strategies.parts.sharding.ensembles import mean_probability, pool, vote


def test_each_model_speaks_for_the_classes_that_it_knows_and_is_permitted() -> None:
    """The first knows classes 0 and 1, the second 1 and 2 and permits no class 0; nobody permits class 4."""
    first, second = torch.tensor([[0.5, 0.3, 0.1, 0.1, 0.0]]), torch.tensor([[0.0, 0.5, 0.4, 0.1, 0.0]])
    found = pool([(first.log(), (0, 1)), (second.log(), (1, 2))])
    assert torch.allclose(found.exp(), torch.tensor([[0.5, 0.4, 0.4, 0.0, 0.0]]), atol=1e-6)
    assert found[0].isfinite().tolist() == [True, True, True, True, False], "almost nothing is not forbidden"


def test_models_are_asked_for_probabilities_and_not_for_logits() -> None:
    """A model whose logits are all higher, or that is surer, counts no more than the others."""
    p = torch.tensor([[[0.7, 0.3]], [[0.1, 0.9]], [[0.6, 0.4]]])
    logits = p.log() + torch.tensor([5.0, -3.0, 0.0]).view(3, 1, 1)
    assert torch.allclose(mean_probability(logits).exp(), p.mean(0), atol=1e-6)
    assert torch.allclose(vote(logits), vote(p.log()), atol=1e-6)
