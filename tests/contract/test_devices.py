"""On a GPU every strategy computes on the GPU: on one that is not there it ends in the bits of the processor."""

from __future__ import annotations

from typing import Any

import pytest
from contract.worlds import make_world
from fixtures.fake_cuda import fake_cuda

from strategies.parts import fit
from strategies.step import step


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set")  # by Avalanche, which asks torch for a GPU
def test_a_gpu_ends_in_the_bits_of_the_processor(
    kit: Any, candidate: Any, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "layers_of", lambda model: None)  # what perceptrons are trained by is for processors alone
    name = candidate.place(home)
    expected = kit.end_of(kit.world(name), candidate, kit.world(name).stream.events)
    with fake_cuda(monkeypatch):
        world = make_world(name, "cuda")
        strategy, ledger = world.build(candidate), world.ledger()
        for event in world.stream.events:
            step(strategy, event, ledger)
        assert kit.whole_of(world, strategy) == expected
