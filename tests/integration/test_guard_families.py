"""Guards on other families of models than the tiny Llama: set to do nothing, stored, and when something fails."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from text_lives import Life, base

from lifelong.config.run import StrategyConfig
from lifelong.models import tiny_gpt2, tiny_mixtral
from lifelong.setup.build import make_strategy
from strategies.base import Setting
from strategies.composed import Composed
from strategies.objectives.causal_lm import CausalLM, Config
from strategies.parts.fit import Training
from strategies.parts.model import FlatModel, digest
from streams.config import parse
from streams.events import Experience
from streams.ledger import Ledger
from streams.randomness import Key, seeded_globals
from streams.source import Source

NOTHING: dict[str, dict[str, Any]] = {
    "eco": {"sigma": 0.0},
    "uld": {"strength": 0.0, "filter": 0.0},
    "key-space-detection": {"reach": 0.0},
    "neuron-adjust": {"share": 0.0},
}
"""Options with which a guard is the model."""
ACTING: dict[str, dict[str, Any]] = {
    "eco": {"classifier": "names"},
    "uld": {"epochs": 1},
    "key-space-detection": {},
    "neuron-adjust": {"share": 0.3},
    "curate": {},
    "icul": {"shown": 2, "right": 0},
}
FAMILIES: dict[str, tuple[Any, dict[str, int]]] = {"gpt2": (tiny_gpt2, {}), "mixtral": (tiny_mixtral, {"experts": 3})}
OF_DENSE_LAYERS = ("key-space-detection", "neuron-adjust")
"""Guards that read feed-forward layers, of which a mixture has several."""

pytestmark = pytest.mark.nightly


def guarded(source: Source, family: str, guard: str, **options: Any) -> Life:
    """A life of two blocks with random weights, in which everything counts as learned."""
    module, sizes = FAMILIES[family]
    objective = CausalLM.for_data(Config(), source, None, "cpu")

    def make_model() -> FlatModel:
        with seeded_globals(Key(0) / "init"):
            config = module.Config(width=16, inner=24, depth=2, heads=2, **sizes)
            return FlatModel(module.build(config, (2, 64), objective.num_outputs))

    setting = Setting(Key(0), make_model, objective, Training(epochs=1), (), len(source))
    strategy = make_strategy(parse(StrategyConfig, {"guard": {"name": guard, **options}}), setting, "it")
    assert isinstance(strategy, Composed)
    life = Life(source, setting, strategy, Ledger(source))
    life.ledger.admit(Experience("all", (), source.train_ids))
    return life


def cases(guards: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    return [(f, g) for f in FAMILIES for g in guards if f != "mixtral" or g not in OF_DENSE_LAYERS]


def hooks(model: FlatModel) -> int:
    modules = list(model.network.modules())
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


@pytest.mark.parametrize(("family", "guard"), cases(NOTHING))
def test_set_to_do_nothing_it_is_the_model(family: str, guard: str, source: Source) -> None:
    life = guarded(source, family, guard, **ACTING[guard] | NOTHING[guard])
    life.forget(0)
    batch = life.data(0).all()
    said, model = life.strategy.predict(batch), base(life, batch)
    if guard == "uld":  # scores are normalised, which says the same
        said, model = said.log_softmax(-1), model.log_softmax(-1)
        torch.testing.assert_close(said, model, rtol=0, atol=1e-5)
    else:
        assert torch.equal(said, model)


@pytest.mark.parametrize(("family", "guard"), cases(ACTING))
def test_what_is_stored_says_the_same_and_no_hook_is_left(family: str, guard: str, source: Source) -> None:
    life = guarded(source, family, guard, **ACTING[guard])
    weights, before = life.model.parameters.clone(), hooks(life.model)
    life.forget(0)
    assert torch.equal(life.model.parameters, weights)
    batch = life.data(0).all()
    said = life.strategy.predict(batch)
    assert not torch.equal(said, base(life, batch))
    other = guarded(source, family, guard, **ACTING[guard])
    other.strategy.load_state_dict(life.strategy.state_dict())
    assert torch.equal(other.strategy.predict(batch), said)
    assert digest(other.strategy.state_dict()) == digest(life.strategy.state_dict())
    with pytest.MonkeyPatch.context() as patch:

        def fail(*args: Any, **options: Any) -> None:
            raise RuntimeError("no memory")

        patch.setattr(life.model.network.head, "forward", fail)
        with pytest.raises(RuntimeError, match="no memory"):
            life.strategy.predict(batch)
    assert hooks(life.model) == before
    assert torch.equal(life.strategy.predict(batch), said)
