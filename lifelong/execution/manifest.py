"""What a run folder says about itself: configuration, stream, digests and versions."""

from __future__ import annotations

import json
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml

from lifelong.config.run import RunConfig, content_hash, read_config
from lifelong.config.trust import require_trust
from lifelong.files import code_of, code_version, names_in, write_atomically
from lifelong.metrics.catalogue import own_metrics
from lifelong.results.integrity import mark_of, read_json, with_digest
from lifelong.setup.build import make_source, make_stream
from lifelong.setup.preparation import Prepared
from streams.config import parse
from streams.errors import CheckpointError
from streams.registry import others_code
from streams.stream import Stream

_STREAM_KEYS = ("source", "scenario", "schedule", "service")
_WRITTEN_FIRST = ("config.yaml", "stream.json")
_RESTORE = "Restore it from a copy, or run again with --fresh."
_ARITHMETIC = ("torch", "numpy", "scipy", "scikit-learn", "gpu", "cuda", "cudnn", "tf32")
_MODEL_KEYS = ("objective", "features", "model", "trained", "training", "strategies", "device")
"""What decides a stream, and what decides one whose requests depend on a strategy's models as well."""


def _adaptive(keys: dict[str, Any]) -> bool:
    return keys["schedule"]["name"] == "adaptive"


def write_manifest(p: Prepared, folder: Path) -> None:
    """Write config, stream and manifest, or check that what is there is the same.

    Raises:
        CheckpointError: the folder holds another stream or other data.
    """
    file = folder / "manifest.json"
    digests = {"identity": p.identity, "stream": p.stream_digest, "data": p.data_digest}
    if file.exists():
        manifest_digests = read_manifest(folder)["digests"]
        for name, digest in digests.items():
            if manifest_digests.get(name) != digest:
                raise CheckpointError(
                    f"{file}: the {name} digest is {manifest_digests.get(name)}, now it is {digest}. The {name} has "
                    f"changed since the run began (another data file, font or library version?). Run again with "
                    f"--fresh."
                )
        _check_versions(p, folder)
        return
    write_atomically(folder / "config.yaml", yaml.safe_dump(p.resolved, sort_keys=False).encode())
    write_atomically(folder / "stream.json", json.dumps(_stream_manifest(p), indent=1).encode())
    manifest = {
        "digests": digests,
        "code": code_version(),
        "versions": versions(p.config.device),
        "platform": platform.platform(),
        "metrics": own_metrics(p.catalogue).to_json(),
        "device": p.config.device,
        "threads": p.config.threads,
        "source": {"name": p.stream.source.name, "licence": p.stream.source.licence, "notes": p.stream.source.notes},
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "files": {name: mark_of(folder / name) for name in _WRITTEN_FIRST},
    }
    write_atomically(file, with_digest(manifest))


def _check_versions(p: Prepared, folder: Path) -> None:
    """Refuse to go on where arithmetic comes from other libraries: a half of the results would be of each."""
    if all((folder / "strategies" / name / "done.json").exists() for name in p.config.strategies):
        return
    began, now = read_manifest(folder).get("versions", {}), arithmetic(p.config.device)
    changed = [
        f"{name} {began[name]}, now {now.get(name, 'none')}"
        for name in _ARITHMETIC
        if name in began and began[name] != now.get(name)
    ]
    if changed:
        raise CheckpointError(
            f"{folder / 'manifest.json'}: the run began with {'; '.join(changed)}. It cannot go on to the same bits. "
            f"Install what it began with, or run again with --fresh."
        )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return a run's manifest.

    Raises:
        CheckpointError: it is missing, corrupt or edited.
    """
    file = folder / "manifest.json"
    if not file.exists():
        raise CheckpointError(f"{folder} is not a whole run folder: it has no manifest.json. Run again with --fresh.")
    data = read_json(file, _RESTORE)
    if not isinstance(data.get("digests"), dict):
        raise CheckpointError(f"{file} is corrupt (it has no digests). Run again with --fresh to start over.")
    return data


def check_begun(folder: Path) -> None:
    """Check what a run wrote of itself when it began: its configuration, its stream and its manifest.

    Raises:
        CheckpointError: one of them was edited or removed.
    """
    for name, mark in read_manifest(folder).get("files", {}).items():
        file = folder / name
        if not file.exists():
            raise CheckpointError(f"{file} is gone. {_RESTORE}")
        if mark_of(file) != mark:
            raise CheckpointError(f"{file} was damaged or edited after the run had begun. {_RESTORE}")


def _stream_manifest(p: Prepared) -> dict[str, Any]:
    return {
        "digest": p.stream_digest,
        "seed": p.config.seed,
        **{k: p.resolved[k] for k in (*_STREAM_KEYS, *(_MODEL_KEYS if _adaptive(p.resolved) else ()))},
        "units": [{"name": u.name, "classes": list(u.classes), "tests": len(u.test_ids)} for u in p.stream.units],
        "events": p.stream.describe(),
    }


def stream_from_manifest(file: Path, trust: bool = False) -> Stream:
    """Rebuild a stream from ``stream.json``.

    Raises:
        TrustError: it names code that was not run here before, and `trust` does not say that it may.
        CheckpointError: the file is corrupt, or what is built has another digest (the first event that differs is
            named).
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        keys = {k: data[k] for k in ("seed", *_STREAM_KEYS, *(_MODEL_KEYS if _adaptive(data) else ()))}
        expected, digest = data["events"], data["digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is not a stream manifest: {error!r}.") from error
    require_trust(keys, file.parent, trust)
    config = parse(RunConfig, keys)
    stream = make_stream(config, make_source(config))
    if stream.digest() != digest:
        built = stream.describe()
        differ = [i for i, (a, b) in enumerate(zip(expected, built, strict=False)) if a["digest"] != b["digest"]]
        where = f"event {differ[0]} differs" if differ else f"it has {len(built)} events instead of {len(expected)}"
        raise CheckpointError(f"{file}: the stream that is built has digest {stream.digest()}, not {digest}: {where}.")
    return stream


def versions(device: str = "cpu") -> dict[str, str]:
    """Return the versions of what results may depend on; on a GPU the card and how it multiplies are among it."""
    by_package = {"python": platform.python_version()}
    for package in ("lifelong-simulator", "torch", "numpy", "scikit-learn", "scipy"):
        try:
            by_package[package] = version(package)
        except PackageNotFoundError:
            by_package[package] = "not installed"
    return by_package | (_gpu(device) if device.startswith("cuda") else {})


def arithmetic(device: str = "cpu") -> dict[str, str]:
    """Return the versions of what adds and multiplies: with others, the last bits of results are others."""
    return {name: version for name, version in versions(device).items() if name in _ARITHMETIC}


def _gpu(device: str) -> dict[str, str]:
    """Return the card, and what decides the last bits of its products."""
    short = [
        name
        for name, allowed in (
            ("matrix products", torch.backends.cuda.matmul.allow_tf32),
            ("convolutions", torch.backends.cudnn.allow_tf32),
        )
        if allowed
    ]
    return {
        "gpu": torch.cuda.get_device_name(device),
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        "tf32": ", ".join(short) or "none",
    }


def open_folder(folder: Path, trust: bool) -> RunConfig:
    """Return the configuration of a run folder whose code is about to run; until here none of it has.

    Args:
        folder: of the run, resolved.
        trust: whether files that it names may run although they have not been run on this machine before.

    Raises:
        CheckpointError: it is no run folder, or what it names is not what made it.
        TrustError: it names files that may not run.
    """
    config = read_run_config(folder)
    written = read_config(folder / "config.yaml")  # as the run resolved it
    if missing := [file for file in others_code(names_in(written)) if not file.is_file()]:
        raise CheckpointError(
            f"{folder} names {', '.join(map(str, missing))}, which does not exist. Paths start at the working folder, "
            f"{Path.cwd()}."
        )
    identity = content_hash([written, code_of(written)])
    if not folder.name.endswith(f"-{identity}"):
        raise CheckpointError(
            f"{folder} was made by another version of the code (its name does not end in {identity}), and only "
            f"that one can go on with it or verify it. Start again: lifelong run {folder / 'config.yaml'}"
        )
    if (told := read_manifest(folder)["digests"].get("identity")) != identity:
        raise CheckpointError(
            f"{folder / 'manifest.json'}: the identity digest is {told}, now it is {identity}. Run again with --fresh."
        )
    require_trust(written, folder, trust)
    return config


def read_run_config(folder: Path) -> RunConfig:
    """Return the configuration of a run folder.

    Raises:
        CheckpointError: it is not one.
    """
    file = folder / "config.yaml"
    if not file.exists():
        raise CheckpointError(f"{folder} is not a run folder: it has no config.yaml.")
    return parse(RunConfig, read_config(file), str(file))
