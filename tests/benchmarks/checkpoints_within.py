"""What it costs that training can be interrupted: steps when nothing is kept, and a state when it is.

python tests/benchmarks/checkpoints_within.py --weights 20
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from _common import arguments, cpu_seconds, interleave, ratio, report, value

FREE, FILE, WRITE = 1.05, 3.05, 2.0
"""Gates: a step with nothing to keep, a file in units of the weights (Adam has two moments), CPU seconds for 100 MB."""


def main() -> int:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--weights", type=float, default=20, help="millions of weights of the model that is written")
    options = parser.parse_args()
    import numpy as np
    import torch
    from torch import nn

    from lifelong.results.record import Within
    from strategies.objectives.classification import Classification
    from strategies.parts.fit import Training, fit
    from strategies.parts.model import FlatModel, Network
    from strategies.parts.training.progress import Progress, keeping
    from streams.ledger import Ledger
    from streams.randomness import Key
    from streams.sources import digits

    torch.set_num_threads(1)
    source = digits.load(digits.Config())
    data = Ledger(source).lend(source.train_ids)
    objective = Classification(10)

    def model(width: int) -> FlatModel:
        return FlatModel(Network(nn.Sequential(nn.Linear(64, width), nn.ReLU()), nn.Linear(width, 10)))

    def train(net: FlatModel, within: Within | None, every: float | None, epochs: int) -> None:
        training = Training(epochs=epochs, batch_size=64, lr=1e-3, optimizer="adam")
        if within is None:
            fit(net, objective, data, training, Key(0))
            return
        with keeping(Progress(within, every)):
            fit(net, objective, data, training, Key(0))

    results = []
    with tempfile.TemporaryDirectory() as place:

        def within() -> Within:
            return Within(Path(place) / "event-000001", "benchmark", "cpu", False)

        small = model(64)
        sides = {
            "plain": lambda: cpu_seconds(lambda: train(small, None, None, 40)),
            "kept": lambda: cpu_seconds(lambda: train(small, within(), 600.0, 40)),
        }
        costs = interleave(sides, options.rounds)
        results.append(
            ratio("steps of an MLP 64-64-10, nothing to keep yet", costs["kept"], costs["plain"], FREE, True)
        )
        large, writes = model(int(options.weights * 1e6) // 75), list[float]()
        size, written = large.num_bytes(), 0
        write, taken = Within.write, list[float]()

        def timed(self: Within, number: int, state: object) -> None:
            if not taken:  # as the step ends; it would be written again as the training does
                taken.append(cpu_seconds(lambda: write(self, number, state)))  # type: ignore[arg-type]

        for _ in range(options.rounds):
            Within.write = timed  # type: ignore[method-assign]
            taken.clear()
            part = data.part(np.arange(64))
            with keeping(Progress(within(), 0.0)):
                fit(large, objective, part, Training(lr=1e-3, optimizer="adam"), Key(0))
            (file,) = Path(place).rglob("*.pt")
            written = file.stat().st_size
            file.unlink()  # or the next round would go on from it
            writes.append(taken[0] / written * 1e8)
        results.append(value("a state with Adam, in units of the weights", [written / size], FILE, "x"))
        results.append(value("writing a state, CPU seconds for 100 MB", writes, WRITE, "s"))
    return report(results, options.json)


if __name__ == "__main__":
    sys.exit(main())
