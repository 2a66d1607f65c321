"""What is said on the command line reaches the function that does it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.commands import models
from lifelong.config import run as run_module
from lifelong.execution import exporting
from lifelong.setup import auditing

Call = Callable[..., tuple[int, str, str]]


class Called(Exception):
    """Ends a command where its work would begin."""


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), ("npo", None, None, True, False)),
        (("--event", "3", "--trust"), ("npo", 3, None, True, True)),
        (("--out", "there", "--adapters"), ("npo", None, Path("there"), False, False)),
    ],
)
@pytest.mark.parametrize("without_guard", [False, True])
def test_a_model_is_exported_as_asked(
    flags: tuple[str, ...],
    expected: tuple[Any, ...],
    without_guard: bool,
    call: Call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []

    def export_model(*arguments: Any) -> Path:
        seen.append(arguments)
        (tmp_path / "lifelong.json").write_text(json.dumps({"without_guard": without_guard}), encoding="utf-8")
        return tmp_path

    monkeypatch.setattr(exporting, "export_model", export_model)
    code, out, err = call("export-model", str(tmp_path), "npo", *flags)
    assert (code, out.strip()) == (0, str(tmp_path))
    assert seen == [(tmp_path, *expected)]
    assert ("has a guard" in err) == without_guard


def test_a_model_from_elsewhere_is_audited_as_asked(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(run_module, "load_config", lambda *a: seen.setdefault("load", a))
    monkeypatch.setattr(auditing, "audit_config", lambda *a: seen.setdefault("audit", a[1:]))
    monkeypatch.setattr(models, "play_config", lambda configured, *a: (configured(), seen.setdefault("play", a)))
    line = "audit theirs --scenario s.yaml --strategy npo --request request-2 --set a=1 --set b.c=2 --runs r --trust"
    code, _, err = call(*line.split(), "--fresh", "--quiet", "--json")
    assert code == 0, err
    assert seen == {
        "load": ("s.yaml", ["a=1", "b.c=2"], True),
        "audit": (Path("theirs"), "npo", "request-2"),
        "play": (Path("r"), True, True, True),
    }
