"""What teaches an adapter other answers, beside its formula written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from strategies.guards._relabelled import Relabelled


class Answers:
    """Options that say which step they were drawn for."""

    def drawn(self, batch: Any, step: int) -> np.ndarray:
        return np.full(len(batch), step)

    def put(self, batch: Any, which: np.ndarray) -> Any:
        return [(row, int(option)) for row, option in zip(batch, which, strict=True)]


def test_a_sample_has_the_same_answer_in_every_step() -> None:
    hook = Relabelled(Answers())  # type: ignore[arg-type]
    batches: list[Any] = [hook.extend(["a", "b"], step) for step in (0, 1, 7)]  # type: ignore[arg-type]
    assert batches == [[("a", 0), ("b", 0)]] * 3


@pytest.mark.parametrize("adapters", [0, 1, 3])
def test_overlaps_with_all_earlier_adapters_and_layers_add_up(adapters: int) -> None:
    draw = torch.Generator().manual_seed(0)
    sizes = [(2, 5), (3, 4)]
    downs = [torch.randn(size, generator=draw, requires_grad=True) for size in sizes]
    earlier = [[torch.randn(size, generator=draw) for size in sizes] for _ in range(adapters)]
    hook = Relabelled(Answers(), downs, earlier, strength=0.7)  # type: ignore[arg-type]
    nothing: Any = None
    found = hook.loss(torch.tensor(1.5), nothing, nothing, nothing)
    expected = 1.5
    for adapter in earlier:
        for a, other in zip(downs, adapter, strict=True):
            expected += 0.7 * sum(float(row @ mine) ** 2 for row in other for mine in a.detach())
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)
