"""What an evaluation of text takes where the vocabulary is large: the logits of a pass, and whole distributions.

A small Llama with 49,152 tokens passes rows of facts, 256 at a time if it were asked to, and bounded as runs do it.
Counted is the highest resident memory (Linux) of a pass, beside what the process held before.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from _common import Result, arguments, begin_anew, report, resident, value

from lifelong.config.run import RunConfig
from lifelong.evaluation import samples
from lifelong.setup.instruments import make_instruments
from lifelong.setup.preparation import prepare
from strategies.base import Strategy
from streams.config import parse

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 49_152,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}


def main() -> int:
    """Measure a pass of 256 rows at once, and one that is bounded."""
    args = arguments(__doc__, rounds=1).parse_args()
    bound = samples._PREDICTED
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
        for name, most, gate in (("unbounded", 1 << 40, 8.0), ("bounded", bound, 1.5)):
            samples._PREDICTED = most
            rounds = [_measured(folder) for _ in range(args.rounds)]
            results.append(value(f"{name}: a pass", [r[0] for r in rounds], gate, "GiB"))
            results.append(value(f"{name}: distributions of 256 rows", [r[1] for r in rounds], gate, "GiB"))
    return report(results, args.json)


def _measured(folder: str) -> tuple[float, float]:
    """Return the GiB that a pass over all samples, and the distributions of 256 of them, add at their peak."""
    config = parse(
        RunConfig,
        {
            "source": {"name": "people", "people": 40, "groups": 4},
            "scenario": {"name": "domain-incremental", "kind": "natural"},
            "objective": {"name": "causal-lm"},
            "model": {"name": "causal-checkpoint", "checkpoint": folder, "weights": "none"},
            "strategies": {"naive": {"learner": "naive"}},
        },
    )
    prepared = prepare(config)
    # As if the source's tokeniser had as many tokens as the model.
    prepared.setting.objective._vocab_size = LLAMA["vocab_size"]
    evaluator = make_instruments(
        config.evaluation, prepared.stream, prepared.plan, prepared.setting, config.device
    ).evaluator
    strategy = prepared.strategies.build("naive")
    evaluator.distributions(strategy, np.arange(1))  # what is made once
    return _peak(lambda: evaluator.evaluate(strategy)), _peak(lambda: _distributions(evaluator, strategy))


def _distributions(evaluator: samples.Samples, strategy: Strategy) -> None:
    evaluator.distributions(strategy, np.arange(256))


def _peak(work) -> float:
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    held = resident("VmRSS")
    begin_anew()
    with torch.inference_mode():
        work()
    return (resident("VmHWM") - held) / 2**30


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
