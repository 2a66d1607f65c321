"""Language models: tokens per second against a bare loop and transformers' Trainer, all probes, ten requests.

    python tests/benchmarks/language.py [--rounds 3] [--only training|probes|requests]

All train the same tiny Llama with Adam in one thread: on full rows of 64 tokens in batches of 32, on facts about
people, 3 passes in batches of 16, and on the rows of 64 cut to 4 to 64 tokens (their logarithms uniform) in batches of
32. Rounds are interleaved and CPU time counts. Bare loop and Trainer pad each batch to its longest row, and so does a
second fit, to show what its groups are worth. Trainer needs accelerate (pip install accelerate) and is left out without
it; it does not evaluate, save or log. 400 questions are all forget set, looked at as after a request, under every audit
of text. Ten requests are served by NPO, one after the other, with the default evaluation.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from _common import Result, arguments, cpu_seconds, interleave, ratio, report, value

import lifelong
from lifelong.config.run import RunConfig
from lifelong.evaluation.planning import plan_evaluation
from lifelong.models import tiny_llama
from lifelong.setup.build import make_setting, make_source, make_strategy, make_stream
from lifelong.setup.instruments import make_instruments
from strategies.objectives.causal_lm import CausalLM, Config
from strategies.parts.fit import FitConfig, fit
from strategies.parts.model import FlatModel
from strategies.parts.training.ragged import rows_together
from strategies.step import step
from streams.config import parse
from streams.data import Data
from streams.ledger import Ledger
from streams.randomness import Key, seeded_globals
from streams.source import Source
from streams.sources import corpora, people

BATCH, LR = 32, 1e-3
PEOPLE: dict[str, Any] = {
    "name": "requests",
    "source": {"name": "people", "people": 20, "groups": 1, "world": False},
    "scenario": "joint",
    "objective": {"name": "causal-lm", "loss_on": "all"},
    "model": "tiny-llama",
    "training": {
        "epochs": 30, "batch_size": 16, "optimizer": "adam", "lr": 0.002, "betas": [0.9, 0.98], "clip_norm": 1.0
    },
    "strategies": {"npo": {"unlearner": {"name": "npo", "epochs": 15}}},
    "references": {"kinds": []},
}  # fmt: skip


def model_for(source: Source) -> FlatModel:
    """Return the model that all three train."""
    assert source.text is not None
    with seeded_globals(Key(0)):
        network = tiny_llama.build(tiny_llama.Config(), (2, 64), source.text.tokenizer.vocab_size)
    return FlatModel(network)


def bare(source: Source, ids: np.ndarray, epochs: int = 1, batch: int = BATCH) -> float:
    """Train in a loop as one would write it by hand."""
    network = model_for(source).network
    rows = source.x[torch.from_numpy(ids)]
    lengths, tokens = (rows[:, 1] > 0).sum(1), rows[:, 0].long()
    labels = tokens.masked_fill(rows[:, 1] == 0, -100)
    optimizer = torch.optim.Adam(network.parameters(), lr=LR, foreach=True)
    network.train()

    def work() -> None:
        for _ in range(epochs):
            for part in torch.randperm(len(tokens)).split(batch):
                longest = int(lengths[part].max())
                x, y = tokens[part, :longest], labels[part, 1:longest]
                hidden = network.body.inner(input_ids=x, use_cache=False).last_hidden_state  # type: ignore[union-attr]
                logits = network.head(hidden)
                loss = F.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[2]), y.reshape(-1))
                optimizer.zero_grad(set_to_none=False)
                loss.backward()
                optimizer.step()

    return cpu_seconds(work)


def ours(source: Source, ids: np.ndarray, epochs: int = 1, batch: int = BATCH) -> float:
    """Train through `fit`, on all tokens."""
    assert source.text is not None
    model = model_for(source)
    objective = CausalLM(source.text.tokenizer.vocab_size, source.text, Config(loss_on="all"))
    config = FitConfig(epochs=epochs, batch_size=batch, optimizer="adam", lr=LR)
    data = Data(ids, source.x, source.y, None)
    return cpu_seconds(lambda: fit(model, objective, data, config, Key(0)))


def padded(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return a batch as long as its longest row; what is padding has no loss."""
    kept = [row["input_ids"] for row in rows]
    return {
        "input_ids": torch.nn.utils.rnn.pad_sequence(kept, batch_first=True),
        "labels": torch.nn.utils.rnn.pad_sequence(kept, batch_first=True, padding_value=-100),
    }


def trainer(source: Source, ids: np.ndarray, epochs: int = 1, batch: int = BATCH) -> float:
    """Train with transformers' Trainer."""
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    assert source.text is not None
    own = tiny_llama.Config()
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=source.text.tokenizer.vocab_size,
            hidden_size=own.width,
            intermediate_size=own.inner,
            num_hidden_layers=own.depth,
            num_attention_heads=own.heads,
            max_position_embeddings=own.context,
            tie_word_embeddings=True,
            pad_token_id=None,
        )
    )
    model.config.use_cache = False
    rows = [{"input_ids": x[0][x[1] > 0].long()} for x in source.x[torch.from_numpy(ids)]]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=batch,
            num_train_epochs=epochs,
            learning_rate=LR,
            weight_decay=0.0,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
        )
        # Making it is no part of the work.
        made = Trainer(model=model, args=options, train_dataset=rows, data_collator=padded)  # type: ignore[arg-type]
        return cpu_seconds(made.train)


def cut(source: Source) -> Source:
    """Return the source with rows of 4 to 64 tokens; the logarithm of their lengths is uniform."""
    share = (Key(0) / "length").uniform(np.arange(len(source.x)))
    lengths = torch.from_numpy(4 * 16**share).long()
    there = torch.arange(source.x.shape[2]) < lengths[:, None]
    return replace(source, x=source.x * there[:, None])


def in_one_pass(source: Source, ids: np.ndarray, epochs: int = 1, batch: int = BATCH) -> float:
    """Train through `fit`, every batch padded to its longest row."""
    with rows_together():
        return ours(source, ids, epochs, batch)


def training(rounds: int) -> list[Result]:
    """Return tokens per second of `fit` against the bare loop, Trainer, and itself in padded passes."""
    source, facts = corpora.load(corpora.Config(rows=800)), people.load(people.Config(people=24, world=False))
    works = {
        "full rows": (source, source.train_ids, 1, BATCH),
        "facts about people": (facts, facts.train_ids, 3, 16),
        "rows of 4 to 64 tokens": (cut(source), source.train_ids, 1, BATCH),
    }
    sides: dict[str, Callable[..., float]] = {"ours": ours, "bare loop": bare, "one padded pass": in_one_pass}
    if importlib.util.find_spec("accelerate") is None:
        print("transformers' Trainer is left out; pip install accelerate", file=sys.stderr)
    else:
        sides["Trainer"] = trainer
    bars = {"bare loop": 0.9, "Trainer": 1.5, "one padded pass": 1.0}
    results = []
    for work, given in works.items():
        costs = interleave({name: functools.partial(side, *given) for name, side in sides.items()}, rounds)
        mine = costs.pop("ours")
        results += [ratio(f"{work}: tokens/s of fit against {n}", mine, c, bars[n]) for n, c in costs.items()]
    return results


def probes(rounds: int) -> list[Result]:
    """Return the seconds that 400 deleted answers take under all probes, of one model."""
    data = PEOPLE | {
        "schedule": {"name": "explicit", "requests": [{"after": 1, "scope": "user", "keys": list(range(20))}]},
        "source": {"name": "people", "people": 24, "groups": 1, "world": False},
        "training": PEOPLE["training"] | {"epochs": 5},
        "evaluation": {"audits": ["muse", "relearn-rest", "quantise", "reintroduce", "probe"]},
    }
    config = parse(RunConfig, data)
    source = make_source(config)
    stream = make_stream(config, source)
    setting = make_setting(config, stream)
    plan = plan_evaluation(stream, config.evaluation, setting.objective.measurements())
    strategy = make_strategy(config.strategies["npo"], setting, "strategies.npo")
    step(strategy, stream.events[0], Ledger(source))
    evaluator = make_instruments(config.evaluation, stream, plan, setting, "cpu").evaluator
    assert len(plan.requests[0].forget) == 400
    seconds = [cpu_seconds(lambda: evaluator.evaluate(strategy, 1)) for _ in range(rounds)]
    return [value("400 answers under all probes", seconds, 20.0, "s")]


def requests(rounds: int) -> list[Result]:
    """Return the seconds of a life with ten requests."""
    schedule = {"name": "explicit", "requests": [{"after": 1, "scope": "user", "keys": [i]} for i in range(10)]}
    config = parse(RunConfig, PEOPLE | {"schedule": schedule})
    walls = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            lifelong.run(config, folder)
            walls.append(time.perf_counter() - started)
    return [value("learning, and ten requests with NPO (wall)", walls, 300.0, "s")]


def main() -> int:
    """Measure, print the table and return the exit code."""
    parser = arguments(__doc__, 3)
    parser.add_argument("--only", choices=["training", "probes", "requests"], help="one of the three parts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = {"training": training, "probes": probes, "requests": requests}
    results = []
    for name, part in parts.items():
        if options.only in (None, name):
            results += part(options.rounds)
    return report(results, options.json)


if __name__ == "__main__":
    sys.exit(main())
