"""What a language model takes: bytes per weight of the models that a run holds, and what a step of training adds.

A Llama of 22 million random weights, of which a run holds a learner's, a teacher and a copy for an audit, beside the
one that they are copies of. Counted is resident memory (Linux), beside what the process holds before.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import tempfile
from pathlib import Path

from _common import Result, arguments, begin_anew, report, resident, value

from lifelong.config.run import RunConfig
from lifelong.setup.build import make_setting, make_source, make_stream
from strategies.parts.fit import Training, fit
from streams.config import parse
from streams.ledger import Ledger
from streams.stream import Stream

LORA = {"lora": {"rank": 8}}
HALF = {**LORA, "dtype": "bfloat16"}
VARIANTS: dict[str, tuple[dict[str, object], float]] = {
    "all weights, float32": ({}, 17.0),
    "lora, float32": (LORA, 5.0),
    "lora, bfloat16": (HALF, 3.0),
    "lora, bfloat16, gradient checkpointing": ({**HALF, "gradient_checkpointing": True}, 3.0),
}
"""Options of the model, and how many bytes per weight four models may take."""
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 2048,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 7,
    "num_attention_heads": 8,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
ROWS = 16


def main() -> int:
    """Measure every variant, after one that does not count."""
    args = arguments(__doc__, rounds=1).parse_args()
    source = make_source(_config("", {}))
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
        stream = make_stream(_config(folder, {}), source)
        _measured(folder, stream, LORA)
        for name, (options, gate) in VARIANTS.items():
            rounds = [_measured(folder, stream, options) for _ in range(args.rounds)]
            results.append(value(f"{name}: four models", [r[0] for r in rounds], gate, "B"))
            results.append(value(f"{name}: a step", [r[1] for r in rounds], 1000, "MB"))
    return report(results, args.json)


def _measured(folder: str, stream: Stream, options: dict[str, object]) -> tuple[float, float]:
    """Return bytes per weight of four models, and the megabytes that a step on 16 rows adds at its peak."""
    before = _settled()
    setting = make_setting(_config(folder, options), stream)
    models = [setting.make_model() for _ in range(3)]
    size = sum(p.numel() for p in models[0].network.parameters())
    held = _settled()
    data = Ledger(stream.source, stream.task_of).lend(stream.source.train_ids[:ROWS])
    begin_anew()
    fit(models[0], setting.objective, data, Training(optimizer="adam", batch_size=ROWS, lr=0.001), setting.key)
    return (held - before) / size, (resident("VmHWM") - held) / 2**20


def _settled() -> int:
    """Return what the process holds when everything that is free has gone back to the system."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return resident("VmRSS")


def _config(folder: str, options: dict[str, object]) -> RunConfig:
    config = {
        "source": {"name": "people", "people": 3, "groups": 1, "holdout": 0, "world": False},
        "scenario": {"name": "domain-incremental", "kind": "natural"},
        "objective": {"name": "causal-lm", "loss_on": "all"},
        "model": {"name": "causal-checkpoint", "checkpoint": folder, "weights": "none", **options},
    }
    return parse(RunConfig, config)


if __name__ == "__main__":
    sys.exit(main())
