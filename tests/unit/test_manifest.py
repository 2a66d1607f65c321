"""What a run folder says of itself is what was prepared, and it goes on under the same arithmetic alone."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

import lifelong
from lifelong.execution.manifest import _check_versions, check_begun, read_manifest, versions, write_manifest
from lifelong.results.integrity import with_digest
from streams.errors import CheckpointError


def test_a_folder_says_what_was_prepared(tmp_path: Path) -> None:
    """Numbers and names of stream and manifest, one by one, against the stream itself."""
    prepared = lifelong.prepare(
        lifelong.load_config(
            {"source": "digits", "scenario": {"name": "class-incremental", "experiences": 3}, "seed": 4}
        )
    )
    write_manifest(prepared, tmp_path)
    check_begun(tmp_path)
    stream = prepared.stream
    said = json.loads((tmp_path / "stream.json").read_text(encoding="utf-8"))
    resolved = yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))
    assert said == {
        "digest": stream.digest(),
        "seed": 4,
        **{key: resolved[key] for key in ("source", "scenario", "schedule", "service")},
        "units": [
            {
                "name": u.name,
                "classes": list(u.classes),
                "tests": int(stream.source.is_test[u.test_ids].sum()),
            }
            for u in stream.units
        ],
        "events": stream.describe(),
    }
    assert [u["tests"] for u in said["units"]] != [len(u["classes"]) for u in said["units"]]
    manifest = read_manifest(tmp_path)
    assert manifest["digests"] == {
        "identity": prepared.identity,
        "stream": stream.digest(),
        "data": prepared.data_digest,
    }
    source = stream.source
    assert manifest["source"] == {"name": source.name, "licence": source.licence, "notes": list(source.notes)}
    assert (manifest["device"], manifest["threads"]) == (prepared.config.device, prepared.config.threads)
    assert manifest["versions"] == versions()
    assert manifest["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize("done", [(), ("a",), ("a", "b")])
def test_a_run_goes_on_under_other_libraries_only_where_nothing_is_left(done: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(with_digest({"digests": {}, "versions": versions() | {"numpy": "1.0"}}))
    for name in done:
        file = tmp_path / "strategies" / name / "done.json"
        file.parent.mkdir(parents=True)
        file.write_text("{}", encoding="utf-8")
    prepared: Any = SimpleNamespace(config=SimpleNamespace(strategies={"a": None, "b": None}, device="cpu"))
    if len(done) == 2:
        _check_versions(prepared, tmp_path)
        return
    with pytest.raises(CheckpointError, match=r"the run began with numpy 1\.0, now "):
        _check_versions(prepared, tmp_path)
