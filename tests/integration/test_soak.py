"""Three hundred tiny events: neither memory nor state may grow with the number of events that have passed."""

from __future__ import annotations

import gc
import os
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

import lifelong

CONFIG = {
    "name": "soak",
    "scenario": {"name": "online", "experiences": 5, "chunk": 5},
    "schedule": {"name": "periodic", "scope": ["sample", "sample", "user"], "samples": 2, "every": 8, "start": 8},
    "model": {"name": "mlp", "hidden": [16]},
    "training": {"epochs": 1, "batch_size": 8, "lr": 0.05},
    "strategies": {
        "all-ascent": {
            "learner": ["ewc", "l2", {"name": "replay", "memory": 40}],
            "unlearner": {"name": "gradient-ascent", "epochs": 1},
        },
        "naive-retrain": {"learner": "naive", "unlearner": "retrain"},
        "independent": {"isolated": "independent"},
    },
    "references": {"kinds": []},
}
MIB = 2**20


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Meter:
    """Notes memory after events 99, 199 and 289."""

    def __init__(self) -> None:
        self.blocks: list[int] = []
        self.resident: list[int] = []

    def begin(self, info: object, first_event: int) -> None: ...

    def event(self, index: int, rows: object, seconds: float) -> None:
        if index in (99, 199, 289):
            gc.collect()
            self.blocks.append(sys.getallocatedblocks())
            self.resident.append(resident())

    def references(self, rows: object, seconds: float) -> None: ...

    def end(self) -> None: ...


@pytest.mark.nightly
@pytest.mark.parametrize(
    "strategy",
    [
        "all-ascent",
        pytest.param("naive-retrain", marks=pytest.mark.nightly),
        pytest.param("independent", marks=pytest.mark.nightly),
    ],
)
def test_three_hundred_events(strategy: str, tmp_path: Path) -> None:
    config = lifelong.RunConfig.model_validate(CONFIG | {"strategies": {strategy: CONFIG["strategies"][strategy]}})
    meter = Meter()
    table = lifelong.run(config, tmp_path, [meter]).tables[strategy]
    forgets = {r.event for r in table.select("exact")}
    last = table.rows[-1].event
    assert last >= 289
    assert len(forgets) >= 30

    # The scores of each event are kept, in one array, and the event itself.
    assert meter.blocks[-1] - meter.blocks[0] < 25 * 190
    assert meter.resident[-1] - meter.resident[0] < 16 * MIB

    states = [r.value for r in table.select("state_bytes", "event")]
    if strategy == "independent":
        assert len(set(states)) <= 6  # one model per group of classes
    else:
        assert max(states[50:]) <= max(states[:50])
    read = [r.value for r in table.select("samples_read", "event") if r.event not in forgets]
    assert max(read[20:]) <= max(read[:20]) <= 45


def test_building_models_leaves_nothing_behind() -> None:
    """Seeding every device, used or not, would queue a stack trace for each model that is ever made."""
    from lifelong.setup.build import make_setting, make_source, make_stream

    config: Any = lifelong.RunConfig.model_validate(CONFIG)
    setting = make_setting(config, make_stream(config, make_source(config)))
    for _ in range(20):
        setting.make_model()
    gc.collect()
    tracemalloc.start(1)
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(200):
            setting.make_model()
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 20_000
    finally:
        tracemalloc.stop()
