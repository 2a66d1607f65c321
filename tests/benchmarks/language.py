"""Tokens per second of `fit` on rows of text, against a bare loop over the same tokens.

    python tests/benchmarks/language.py

Both train the same tiny Llama with Adam in batches of 32 rows of 64 tokens; rounds alternate, and CPU time counts.
"""

from __future__ import annotations

import time

import numpy as np
import torch
import torch.nn.functional as F

from lifelong.models import tiny_llama
from strategies.objectives.causal_lm import CausalLM, Config
from strategies.parts.fit import FitConfig, fit
from strategies.parts.model import FlatModel
from streams.data import Data
from streams.randomness import Key, seeded_globals
from streams.source import Source
from streams.sources import corpora

BATCH, ROUNDS = 32, 3


def model_for(source: Source) -> FlatModel:
    assert source.text is not None
    with seeded_globals(Key(0)):
        network = tiny_llama.build(tiny_llama.Config(), (2, 64), source.text.tokenizer.vocab_size)
    return FlatModel(network)


def bare(source: Source, ids: np.ndarray) -> float:
    """A loop as one would write it by hand."""
    assert source.text is not None
    network = model_for(source).network
    tokens = source.x[torch.from_numpy(ids), 0].long()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, foreach=True)
    network.train()
    started = time.process_time()
    for part in torch.randperm(len(tokens)).split(BATCH):
        x = tokens[part]
        hidden = network.body.inner(input_ids=x, use_cache=False).last_hidden_state  # type: ignore[union-attr]
        logits = network.head(hidden)
        loss = F.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[2]), x[:, 1:].reshape(-1))
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        optimizer.step()
    return time.process_time() - started


def ours(source: Source, ids: np.ndarray) -> float:
    """The same through `fit`."""
    assert source.text is not None
    model = model_for(source)
    objective = CausalLM(source.text.tokenizer.vocab_size, source.text, Config())
    config = FitConfig(epochs=1, batch_size=BATCH, optimizer="adam", lr=1e-3)
    started = time.process_time()
    fit(model, objective, Data(ids, source.x, source.y, None), config, Key(0))
    return time.process_time() - started


def main() -> None:
    """Print one line per round, and the median ratio."""
    torch.set_num_threads(1)
    source = corpora.load(corpora.Config(rows=800))
    ids = source.train_ids
    tokens = len(ids) * 64
    ratios = []
    for _ in range(ROUNDS):
        a, b = bare(source, ids), ours(source, ids)
        ratios.append(a / b)
        print(f"bare {tokens / a:8.0f} tokens/s   fit {tokens / b:8.0f} tokens/s   ratio {a / b:.3f}", flush=True)
    print(f"median ratio {np.median(ratios):.3f}")


if __name__ == "__main__":
    main()
