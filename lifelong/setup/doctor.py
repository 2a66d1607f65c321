"""Whether this machine is ready: versions, device, folders, optional data, and W&B."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lifelong.files import cache_folder

PACKAGES = (
    "lifelong-simulator", "torch", "torchvision", "avalanche-lib", "transformers", "numpy", "scipy", "scikit-learn",
    "pydantic", "typer", "rich", "plotly", "wandb",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: what was looked at, what was found, and whether runs can do with it."""

    name: str
    found: str
    good: bool = True


def examine(runs: Path, full: bool = False) -> Iterator[Check]:
    """Yield every check as it is done.

    Args:
        runs: where run folders are to be kept.
        full: also import Avalanche, which takes seconds.
    """
    yield Check("python", f"{platform.python_version()} ({sys.executable})", sys.version_info >= (3, 11))
    for package in PACKAGES:
        yield _package(package)
    yield from _device()
    yield _folder("cache folder", cache_folder(), "set LIFELONG_CACHE to a folder that can be written", measure=True)
    yield _folder("runs folder", runs, "choose another with --runs")
    yield _fashion()
    yield _wandb()
    if full:
        yield _avalanche()


def _package(name: str) -> Check:
    try:
        return Check(name, version(name))
    except PackageNotFoundError:
        return Check(name, f"not installed: pip install {name}", good=False)


def _device() -> Iterator[Check]:
    import torch

    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    yield Check("processor", f"{cores} cores; a run uses `threads` of them (1 unless set)")
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        yield _product(names)
    else:
        yield Check("gpu", "none that torch can use; runs are on the processor")


def _product(names: str) -> Check:
    """Multiply on the GPU as a run with `deterministic: true` does."""
    import torch

    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error")
    try:
        ones = torch.ones(8, 8, device="cuda")
        good = float((ones @ ones).sum()) == 512.0
    except RuntimeError as error:
        problem = str(error).partition("\n")[0]
        return Check("gpu", f"{names}, but a deterministic product fails: {problem}", good=False)
    finally:
        torch.set_deterministic_debug_mode(before)
    return Check("gpu", f"{names}: set device: cuda" if good else f"{names}, but it multiplies wrongly", good)


def _folder(name: str, folder: Path, remedy: str, measure: bool = False) -> Check:
    """Look whether files can be written to `folder`, or to where it would be made."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        return Check(name, f"{folder} cannot be written ({error.strerror}): {remedy}", good=False)
    if not folder.exists():
        return Check(name, f"{folder} (will be made)")
    if not measure:
        return Check(name, f"{folder}")
    files = [f.stat().st_size for f in folder.rglob("*") if f.is_file()]
    return Check(name, f"{folder}: {len(files)} files, {sum(files) / 1e6:.1f} MB (may be deleted at any time)")


def _fashion() -> Check:
    from streams.sources.fashion_mnist import DEBIAN

    state = f"{DEBIAN}" if DEBIAN.is_dir() else "not there (optional): apt-get install dataset-fashion-mnist"
    return Check("fashion-mnist", state)


def _wandb() -> Check:
    from lifelong.trackers._server import mode_wanted

    mode = mode_wanted()
    if mode == "online":
        return Check("wandb", "online: --wandb sends rows to the server")
    return Check("wandb", f"{mode}: --wandb keeps rows in the run folder; `wandb login` makes it send them")


def _avalanche() -> Check:
    started = time.perf_counter()
    import_module("avalanche.training")
    return Check("avalanche", f"imported in {time.perf_counter() - started:.1f} s")
