"""What greedy text costs: 400 answers of a tiny Llama, each token passed once, and by whole rows."""

from __future__ import annotations

import contextlib
import sys

import numpy as np
import torch
from _common import Result, arguments, cpu_seconds, report, value

from lifelong.models import tiny_llama
from strategies.objectives.causal_lm import CausalLM
from strategies.parts.model import FlatModel
from strategies.parts.text import generation
from streams.ledger import Ledger
from streams.randomness import Key, seeded_globals
from streams.sources import people

ANSWERS, GATE = 400, 4.0


def main() -> int:
    """Let a model of random weights, which rambles to the end of every row, answer 400 questions."""
    args = arguments(__doc__, rounds=3).parse_args()
    torch.set_num_threads(1)
    source = people.load(people.Config())
    text = source.text
    assert text is not None
    objective = CausalLM(text.tokenizer.vocab_size, text)
    with seeded_globals(Key(0)):
        model = FlatModel(tiny_llama.build(tiny_llama.Config(), (2, source.x.shape[2]), objective.num_outputs))
    model.train(False)
    ids = source.test_ids[np.linspace(0, len(source.test_ids) - 1, ANSWERS).astype(int)]
    batches = Ledger(source).lend(np.unique(ids)).batches(256)

    def answer() -> None:
        for batch in batches:
            generation.greedy(lambda b: objective.outputs(model, b), batch, text.tokenizer)

    growing = generation.growing
    seconds: dict[str, list[float]] = {"each token once": [], "whole rows": []}
    for _ in range(args.rounds):
        for name, how in (("each token once", growing), ("whole rows", contextlib.nullcontext)):
            generation.growing = how
            with torch.inference_mode():
                seconds[name].append(cpu_seconds(answer))
    results: list[Result] = [
        value("each token once", seconds["each token once"], GATE, "CPU s"),
        value("whole rows", seconds["whole rows"], 1000.0, "CPU s"),
    ]
    return report(results, args.json)


if __name__ == "__main__":
    sys.exit(main())
