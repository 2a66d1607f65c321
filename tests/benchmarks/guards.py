"""What a guard adds to an answer of its model: scores of rows and greedy text, after one request.

    python tests/benchmarks/guards.py
    python tests/benchmarks/guards.py --sizes tiny

CPU time on one thread, of the default tiny Llama (256 rows, 64 texts) and of one with the shape of SmolLM2-135M (8
rows, no text). Weights are random and assistants train for one epoch on one row, which changes no shape. Guards that
answer with a second model are held against a pass of that model alone; the bar is that they add no more.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _common import Result, arguments, cpu_seconds, interleave, report, value

from lifelong.config.run import StrategyConfig
from lifelong.models import tiny_llama
from lifelong.setup.build import make_strategy
from strategies.base import Setting
from strategies.composed import Composed
from strategies.guards._assistants import Assisted
from strategies.objectives.causal_lm import CausalLM
from strategies.parts.fit import Training
from strategies.parts.model import FlatModel
from strategies.parts.text import generation
from streams.config import parse
from streams.data import Batch
from streams.events import DeletionRequest, Experience, Request
from streams.ledger import Ledger
from streams.randomness import Key, seeded_globals
from streams.source import Source
from streams.sources import people

ASSISTED: dict[str, dict[str, Any]] = {
    "uld": {"epochs": 1},
    "offset": {"epochs": 1},
    "whp-logit": {"epochs": 1},
}
"""Guards with a second model (whp-logit's is as large as the first)."""
OTHERS: dict[str, dict[str, Any]] = {
    "eco": {"classifier": "names"},
    "key-space-detection": {},
    "neuron-adjust": {},
    "curate": {},
}
ROWS, ANSWERS = {"tiny": 256, "smollm2": 8}, 64
SMOLLM2 = {"width": 576, "inner": 1536, "depth": 30, "heads": 9}
VOCABULARY = 49152
MOST = 1.1
"""Added time over that of the second model: a tenth for putting both together."""


def asked(source: Source, size: str, guard: str, options: dict[str, Any]) -> tuple[CausalLM, Composed]:
    """Return a strategy whose guard has served a request for one row."""
    assert source.text is not None
    objective = CausalLM(VOCABULARY if size == "smollm2" else source.text.tokenizer.vocab_size, source.text)
    shape = tiny_llama.Config(**SMOLLM2) if size == "smollm2" else tiny_llama.Config()

    def make_model() -> FlatModel:
        with seeded_globals(Key(0) / "init"):
            return FlatModel(tiny_llama.build(shape, (2, source.x.shape[2]), objective.num_outputs))

    setting = Setting(Key(0), make_model, objective, Training(epochs=1), (), len(source))
    strategy = make_strategy(parse(StrategyConfig, {"guard": {"name": guard, **options}}), setting, guard)
    assert isinstance(strategy, Composed)
    ledger, nothing = Ledger(source), np.array([], dtype=np.int64)
    ledger.admit(Experience("all", (), source.train_ids))
    ids = source.train_ids[source.user_ids[source.train_ids] == 0][:1]
    request = DeletionRequest("request-0", (Request("sample", tuple(ids.tolist()), ids, nothing, 0),))
    ledger.delete(request)
    strategy.forget(request, ledger.door(strategy.access, nothing, ids))
    return objective, strategy


def passes(objective: CausalLM, strategy: Composed, batch: Batch) -> dict[str, Callable[[], object]]:
    """Return what is timed: the model, the guarded model, and the second models, if there are any."""
    guard, model = strategy.guard, strategy.learner.model
    model.train(False)
    sides: dict[str, Callable[[], object]] = {
        "model": lambda: objective.outputs(model, batch),
        "guarded": lambda: strategy.predict(batch),
    }
    if isinstance(guard, Assisted):
        sides["second"] = lambda: [objective.outputs(m, batch) for models in guard._models for m in models]
    return sides


def texts(objective: CausalLM, strategy: Composed, batch: Batch, source: Source) -> dict[str, Callable[[], object]]:
    """Return the same for greedy text."""
    assert source.text is not None
    guard, model, tokenizer = strategy.guard, strategy.learner.model, source.text.tokenizer

    def by(say: Callable[[Batch], torch.Tensor]) -> Callable[[], object]:
        return lambda: generation.greedy(say, batch, tokenizer)

    sides = {"model": by(lambda b: objective.outputs(model, b)), "guarded": by(strategy.predict)}
    if isinstance(guard, Assisted):
        second = [m for models in guard._models for m in models]
        each = [by(lambda b, m=m: objective.outputs(m, b)) for m in second]  # type: ignore[misc]
        sides["second"] = lambda: [say() for say in each]
    return sides


def measured(name: str, sides: dict[str, Callable[[], object]], rounds: int) -> Result:
    """Return added / second, or added / model where there is no second model (which has no bar)."""
    with torch.inference_mode():
        costs = interleave({k: lambda w=w: cpu_seconds(w) for k, w in sides.items()}, rounds)  # type: ignore[misc]
    added = statistics.median(costs["guarded"]) - statistics.median(costs["model"])
    other = costs.get("second", costs["model"])
    share = [added / o for o in other]
    print(f"{name}: model {1e3 * statistics.median(costs['model']):.1f} ms, adds {1e3 * added:.1f} ms")
    if "second" in costs:
        return value(f"{name}: added, in passes of its second model", share, MOST, "x")
    return value(f"{name}: added, in passes of the model", share, float("inf"), "x")


def main() -> int:
    parser = arguments(__doc__, rounds=7)
    parser.add_argument("--sizes", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--guards", nargs="+", default=[*ASSISTED, *OTHERS])
    args = parser.parse_args()
    torch.set_num_threads(1)
    source = people.load(people.Config())
    questions = Ledger(source).lend(np.sort(source.test_ids[:ANSWERS])).batches(ANSWERS)[0]
    results = []
    for size in args.sizes:
        rows = Ledger(source).lend(source.train_ids[: ROWS[size]]).batches(ROWS[size])[0]
        for name in args.guards:
            if size != "tiny" and name not in ASSISTED:
                continue
            objective, strategy = asked(source, size, name, {**ASSISTED, **OTHERS}[name])
            results.append(measured(f"{size}, {name}, scores", passes(objective, strategy, rows), args.rounds))
            if size == "tiny":
                saying = texts(objective, strategy, questions, source)
                results.append(measured(f"{size}, {name}, text", saying, max(1, args.rounds // 3)))
    return report(results, args.json)


if __name__ == "__main__":
    sys.exit(main())
