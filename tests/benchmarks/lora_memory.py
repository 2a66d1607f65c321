"""Bytes per weight that a run of a language model holds at its peak: all weights trained, or low-rank adapters.

A Llama of 23 million random weights learns facts about three people and unlearns one of them by NPO, whose reference is
a second model. Every variant has a process of its own; counted is what it holds above what it held before the model
was built (Linux's high-water mark of resident memory), activations included.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from _common import arguments, begin_anew, report, resident, value

from lifelong.config.run import RunConfig
from lifelong.execution.runner import run_prepared
from lifelong.setup.preparation import Prepared, prepare
from streams.config import parse

LORA = {"lora": {"rank": 8}}
VARIANTS: dict[str, tuple[dict[str, object], float]] = {
    "all weights, float32": ({}, 32.0),
    "lora, float32": (LORA, 8.0),
    "lora, bfloat16": ({**LORA, "dtype": "bfloat16"}, 6.0),
    "lora, bfloat16, gradient checkpointing": ({**LORA, "dtype": "bfloat16", "gradient_checkpointing": True}, 5.0),
}
"""Options of the model, and how many bytes per weight it may take at the most."""
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 8192,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def main() -> int:
    """Measure every variant, each in processes of its own."""
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--only", choices=VARIANTS, nargs="*", default=list(VARIANTS), help="variants")
    parser.add_argument("--inside", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        print(json.dumps(bytes_per_weight(args.inside)))
        return 0
    results = []
    for name in args.only:
        peaks = [_measured(name) for _ in range(args.rounds)]
        results.append(value(name, peaks, VARIANTS[name][1], "B"))
    return report(results, args.json)


def _measured(name: str) -> float:
    printed = subprocess.run(
        [sys.executable, __file__, "--inside", name], check=True, capture_output=True, text=True
    ).stdout
    return float(json.loads(printed.splitlines()[-1]))


def bytes_per_weight(name: str) -> float:
    """Return the peak from the first look at the model to the end of the run, in bytes per weight of the network."""
    with tempfile.TemporaryDirectory() as folder:
        _live(_prepared(name, {**LLAMA, **SMALL}, Path(folder) / "small"), folder)
        gc.collect()
        before = resident("VmRSS")
        begin_anew()
        prepared = _prepared(name, LLAMA, Path(folder) / "large")
        _live(prepared, folder)
        peak = resident("VmHWM")
    return (peak - before) / sum(p.numel() for p in prepared.setting.make_model().network.parameters())


def _prepared(name: str, llama: dict[str, object], folder: Path) -> Prepared:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(llama), encoding="utf-8")
    config = {
        "source": {"name": "people", "people": 3, "groups": 1, "holdout": 0, "world": False},
        "scenario": {"name": "domain-incremental", "kind": "natural"},
        "schedule": {"name": "explicit", "requests": [{"after": 1, "scope": "user", "keys": [1]}]},
        "objective": {"name": "causal-lm", "loss_on": "all"},
        "model": {"name": "causal-checkpoint", "checkpoint": str(folder), "weights": "none", **VARIANTS[name][0]},
        "training": {"epochs": 1, "batch_size": 16, "optimizer": "adam", "lr": 0.001},
        "strategies": {"npo": {"learner": "naive", "unlearner": {"name": "npo", "epochs": 1}}},
        "references": {"kinds": []},
    }
    return prepare(parse(RunConfig, config))


def _live(prepared: Prepared, folder: str) -> None:
    run_prepared(prepared, folder)


if __name__ == "__main__":
    sys.exit(main())
