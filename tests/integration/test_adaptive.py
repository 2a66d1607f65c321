"""Adaptive requesters: fixed randomness gives the partition away; only everything fresh helps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lifelong
from lifelong.setup.adaptive_requests import Requester
from lifelong.setup.build import make_source, make_stream
from strategies.base import Setting
from strategies.isolated.sisa import Config, Sisa
from strategies.parts.sharding.stages import partition
from strategies.step import ledger_after
from streams.config import parse
from streams.errors import ConfigError, StreamError
from streams.ledger import Ledger
from streams.plan import Aim, Learn, RequestSpec, Service, assemble
from streams.randomness import Key
from streams.scenarios import class_incremental
from streams.schedules import adaptive
from streams.source import Source

SHARDS, REQUESTS, SAMPLES = 4, 2, 30
CONFIG: dict[str, Any] = {
    "scenario": {"name": "class-incremental", "experiences": 1},
    "schedule": {"name": "adaptive", "samples": 5},
    "model": {"name": "mlp", "hidden": [64]},
    "evaluation": {"probe": 10},
    "references": {"kinds": []},
    "strategies": {"sisa": {"isolated": {"name": "sisa", "shards": SHARDS, "slices": 1}}},
}


@pytest.fixture(scope="module")
def noise(digits: Source) -> Source:
    """400 digits under random labels: whoever gets one right has seen it."""
    rows = np.concatenate([digits.train_ids[:400], digits.test_ids[:50]])
    columns = {name: getattr(digits, name)[rows] for name in ("x", "class_ids", "user_ids", "is_test")}
    y = torch.from_numpy(np.random.default_rng(0).permutation(digits.class_ids[rows]))
    return replace(digits, y=y, **columns)


def make(tools: Any, source: Source, seed: int = 0, **options: Any) -> tuple[Sisa, Setting]:
    setting = tools.setting(source, hidden=64, epochs=30, batch_size=16, lr=0.01, optimizer="adam")
    setting = replace(setting, key=Key(seed))
    return Sisa(Config(shards=SHARDS, slices=1, **options), setting), setting


def skew(tools: Any, source: Source, adaptive_: bool, **options: Any) -> float:
    """How many standard deviations the first shard's live samples lie below an even share, after all requests."""
    plan = class_incremental.build(source, class_incremental.Config(experiences=1), 0)
    aim = Aim(None, 0) if adaptive_ else None
    requests = [RequestSpec("sample", None, SAMPLES, choice=aim) for _ in range(REQUESTS)]
    requester = Requester(lambda _: make(tools, source, **options), source, None, "cpu")
    stream = assemble(plan, [Learn(0), *requests], Service(), Key(0), requester)
    ledger = ledger_after(Ledger(source), stream.events)
    names = Key(0) / "sisa"
    if options.get("fresh") == "everything":  # see test_sisa: the last request names the partition
        names /= stream.requests[-1].name
    return deviations(np.bincount(partition(ledger.live_ids, SHARDS, names / "shard"), minlength=SHARDS))


def deviations(sizes: np.ndarray) -> float:
    n, p = int(sizes.sum()), 1 / SHARDS
    assert n == 400 - REQUESTS * SAMPLES
    return float((n * p - sizes[0]) / np.sqrt(n * p * (1 - p)))


def test_the_requester_finds_the_partition(tools: Any, noise: Source) -> None:
    """Deletions empty the shard that was aimed at; a model retrained with fresh randomness has shards of one size."""
    assert skew(tools, noise, adaptive_=True) > 3.5
    assert abs(skew(tools, noise, adaptive_=False)) < 3


def test_only_everything_fresh_helps(tools: Any, noise: Source) -> None:
    """Training the touched stages with new noise leaves the partition as it was."""
    assert skew(tools, noise, adaptive_=True, fresh="stages") > 3.5
    assert abs(skew(tools, noise, adaptive_=True, fresh="everything")) < 3


def config(schedule: dict[str, Any] | None = None) -> lifelong.RunConfig:
    return parse(lifelong.RunConfig, CONFIG | {"schedule": schedule or CONFIG["schedule"]})


def test_streams_repeat_and_rebuild(tmp_path: Path) -> None:
    first, second = (make_stream(config(), make_source(config())) for _ in range(2))
    assert first.digest() == second.digest()
    run = lifelong.run(config(), tmp_path)
    assert run.done
    assert lifelong.stream_from_manifest(run.folder / "stream.json").digest() == first.digest()


@pytest.mark.parametrize(
    ("schedule", "error", "message"),
    [
        ({"publisher": "sisaa"}, ConfigError, "no strategy 'sisaa'. Did you mean 'sisa'"),
        ({"constituent": 9}, StreamError, "constituent: 9 is past the last of 4"),
        ({"samples": 5000}, StreamError, "wants 5000 sample"),
        ({"start": 2}, ConfigError, "past the last of 1 experiences"),
    ],
)
def test_errors(schedule: dict[str, Any], error: type[Exception], message: str) -> None:
    wrong = config({"name": "adaptive"} | schedule)
    source = make_source(wrong)
    with pytest.raises(error, match=message):
        make_stream(wrong, source)


def test_without_a_publisher_it_cannot_be_assembled(tools: Any) -> None:
    plan = class_incremental.build(tools.source(), class_incremental.Config(experiences=2), 0)
    scheduled = adaptive.place(plan, adaptive.Config(), Key(0))
    with pytest.raises(StreamError, match="wants its samples chosen by a model"):
        assemble(plan, scheduled, Service(), Key(0))
