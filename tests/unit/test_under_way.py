"""When the state of a reference's life is kept, and what of it stays on disk."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lifelong.references.under_way import UnderWay


def test_states_are_kept_at_intervals_each_in_place_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 0.0
    monkeypatch.setattr("lifelong.references.under_way.now", lambda: clock)
    life, still, kept = UnderWay(tmp_path, "it", "cpu", every=10.0), _progress(False), _progress(True)
    due = []
    for clock in (0.0, 9.0, 10.0, 11.0, 19.0, 20.0, 21.0):  # noqa: B007  read by the clock
        due.append(life.is_due(still))
        if due[-1]:
            life.keep(f"chain-{clock:g}", {"visits": int(clock)})
    assert due == [False, False, True, False, False, True, False]
    assert life.is_due(kept), "some of the event is kept, which is over"
    assert not UnderWay(tmp_path, "it", "cpu", None).is_due(still), "only when asked to stop"
    assert [f.name for f in tmp_path.iterdir()] == ["after-chain-20"]

    chains = {"chain-10", "chain-20"}
    assert UnderWay(tmp_path, "other", "cpu", 10.0).find(chains) == {}
    resumed = UnderWay(tmp_path, "it", "cpu", 10.0)
    assert resumed.find({"chain-30"}) == {}
    assert resumed.find(chains) == {"chain-20": {"visits": 20}}
    resumed.keep("chain-30", {"visits": 30})
    assert [f.name for f in tmp_path.iterdir()] == ["after-chain-30"]
    resumed.drop()
    assert not list(tmp_path.iterdir())


def _progress(keeps: bool) -> Any:
    return SimpleNamespace(keeps=keeps)
