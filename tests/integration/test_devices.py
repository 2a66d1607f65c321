"""What is computed on a GPU stays on the GPU: runs on one that is not there have the rows of the processor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures.fake_cuda import DeviceError, fake_cuda

import lifelong
from lifelong.config.run import RecordingConfig, RunConfig
from lifelong.setup.preparation import check_device
from streams.config import parse
from streams.errors import ConfigError
from streams.inputs import scale
from streams.ledger import Ledger
from streams.source import Source

FEW: dict[str, dict[str, Any]] = {
    "replay-retrain": {"learner": "replay", "unlearner": "retrain"},
    "ewc-salun": {"learner": "ewc", "unlearner": "salun"},
    "sisa": {"isolated": "sisa"},
    "pall": {"isolated": "pall"},
}


def config(strategies: dict[str, Any], device: str) -> RunConfig:
    return parse(
        RunConfig,
        {
            "name": "device",
            "source": "digits",
            "scenario": {"name": "task-incremental", "experiences": 2},
            "schedule": {"name": "explicit", "requests": [{"after": 2, "scope": "task", "keys": [0]}]},
            "model": {"name": "mlp", "hidden": [8]},
            "training": {"epochs": 1, "batch_size": 64},
            "references": {"kinds": ["retrained"]},
            "strategies": strategies,
            "device": device,
        },
        "test",
    )


def rows_of(folder: Path, strategies: dict[str, Any], device: str) -> dict[str, list[str]]:
    run = lifelong.run(config(strategies, device), folder)
    files = {name: run.folder / "strategies" / name / "results.jsonl" for name in strategies}
    return {name: sorted(file.read_text().splitlines()) for name, file in files.items()}


def test_a_gpu_gives_the_rows_of_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    expected = rows_of(tmp_path / "cpu", FEW, "cpu")
    with fake_cuda(monkeypatch):
        assert rows_of(tmp_path / "gpu", FEW, "cuda") == expected


@pytest.mark.parametrize("name", ["ewc-salun", *(pytest.param(n, marks=pytest.mark.nightly) for n in ("sisa", "pall"))])
def test_a_run_that_was_killed_goes_on_on_a_gpu(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After every state that is written, within events and after them."""
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    strategies = {name: FEW[name]}
    expected = rows_of(tmp_path / "cpu", strategies, "cpu")
    with fake_cuda(monkeypatch):
        for every in (9, 14):
            with monkeypatch.context() as patch:
                killed_after(every, patch)
                with pytest.raises(Killed):
                    lifelong.run(often(config(strategies, "cuda")), tmp_path / "gpu")
        run = lifelong.run(often(config(strategies, "cuda")), tmp_path / "gpu")
    rows = (run.folder / "strategies" / name / "results.jsonl").read_text()
    assert sorted(rows.splitlines()) == expected[name]


class Killed(BaseException):
    """The process ends here."""


def often(config: RunConfig) -> RunConfig:
    """The same with a state after every step."""
    return config.model_copy(update={"recording": RecordingConfig(checkpoint_minutes=0)})


def killed_after(count: int, patch: pytest.MonkeyPatch) -> None:
    left, save = count, torch.save

    def counted(*what: Any) -> None:
        nonlocal left
        save(*what)
        left -= 1
        if left == 0:
            raise Killed

    patch.setattr(torch, "save", counted)


def test_inputs_that_are_kept_as_bytes_become_floats_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.arange(5 * 3 * 4 * 4).to(torch.uint8).view(5, 3, 4, 4)
    ids = np.arange(5)
    parts = (torch.zeros(5, dtype=torch.long), ids * 0, ids * 0, ids > 3, ("a",), ("b",))
    source = Source("s", "own", images, *parts, scale=scale(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)))
    with fake_cuda(monkeypatch):
        batch = Ledger(source, device="cuda").lend(ids).all()
        assert batch.x.device.type == "cuda"
        assert torch.equal(batch.x.cpu(), source.inputs())


def test_the_gpu_that_is_not_there_refuses_what_cuda_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    here, generator = torch.ones(3), torch.Generator()
    with fake_cuda(monkeypatch):
        there = torch.arange(3).float().to("cuda")
        assert (there.device.type, here.device.type, (there * 2 + 1).sum().device.type) == ("cuda", "cpu", "cuda")
        assert there[torch.tensor([0, 2])].cpu().tolist() == [0.0, 2.0]
        with pytest.raises(DeviceError, match="both devices"):
            here + there
        with pytest.raises(DeviceError, match="numpy of a tensor on the GPU"):
            there.numpy()
        with pytest.raises(DeviceError, match="indexed or filled"):
            here[there.long()]
        with pytest.raises(DeviceError, match="a generator of the processor"):
            torch.randn(2, generator=generator, device="cuda")
        torch.set_deterministic_debug_mode("error")
        try:
            with pytest.raises(DeviceError, match="kthvalue has no deterministic kernel"):
                there.kthvalue(1)
        finally:
            torch.set_deterministic_debug_mode("default")


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("tpu", "device: 'tpu' is not a device. Use cpu, cuda"),
        ("mps", "device: 'mps' is not supported.*Use cpu or cuda"),
        ("cuda:1", r"device: 'cuda:1' is not available here \(GPUs that torch sees: 1\)"),
    ],
)
def test_a_device_that_cannot_be_used_is_refused(device: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_cuda(monkeypatch), pytest.raises(ConfigError, match=message):
        check_device(device)


def test_products_on_a_gpu_may_be_deterministic() -> None:
    """CuBLAS reads this when it multiplies for the first time; a deterministic product without it raises."""
    bare = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    code = "import lifelong, os; print(os.environ['CUBLAS_WORKSPACE_CONFIG'])"
    done = subprocess.run([sys.executable, "-c", code], env=bare, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ":4096:8"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_real_gpu_gives_the_same_rows_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    first = rows_of(tmp_path / "one", FEW, "cuda")
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "another cache"))
    assert rows_of(tmp_path / "other", FEW, "cuda") == first
