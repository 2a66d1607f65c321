"""Changing one strategy of a run lives that one alone; the others are taken over, to the byte."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest

from lifelong.config.run import RunConfig
from lifelong.execution import life, manifest, taken
from lifelong.execution.runner import Run, load_run, run
from lifelong.execution.traces import clean_run
from lifelong.results.table import Row
from lifelong.trackers._base import RunInfo
from streams.config import parse

BASE: dict[str, Any] = {
    "name": "first",
    "scenario": {"name": "class-incremental", "experiences": 3},
    "schedule": {"name": "explicit", "requests": [{"after": 2, "scope": "sample", "count": 5}]},
    "model": {"name": "mlp", "hidden": [8]},
    "training": {"epochs": 1, "batch_size": 64},
    "strategies": {
        "kept": {"learner": "naive", "unlearner": "retrain"},
        "changed": {"learner": {"name": "replay", "memory": 20}, "unlearner": "none"},
    },
}
TIMED = {"timings.jsonl", "done.json", "checkpoints"}
"""What says how long something took, or has digests of that."""


class Told:
    """A tracker that writes down what it is told."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, Path | None]] = []
        self.rows: dict[str, list[Row]] = {}

    def begin(self, info: RunInfo, first_event: int) -> None:
        self.begun.append((info.strategy, info.taken_from))
        self.rows[info.strategy] = []

    def event(self, index: int, rows: Sequence[Row], seconds: float) -> None:
        self.rows[self.begun[-1][0]] += rows

    def references(self, rows: Sequence[Row], seconds: float) -> None:
        self.rows[self.begun[-1][0]] += rows

    def end(self) -> None:
        pass


def config(**changes: Any) -> RunConfig:
    return parse(RunConfig, BASE | changes)


def other_memory(memory: int) -> dict[str, Any]:
    changed = {"learner": {"name": "replay", "memory": memory}, "unlearner": "none"}
    return {"strategies": BASE["strategies"] | {"changed": changed}}


@pytest.fixture
def lived(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of strategies, each as often as it steps through an event of a run."""
    names: list[str] = []
    step = life.Life._step

    def counted(self: life.Life, *arguments: Any) -> Any:
        names.append(self._name)
        return step(self, *arguments)

    monkeypatch.setattr(life.Life, "_step", counted)
    return names


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("taken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(root / "cache"))
        return run(config(), root / "runs")


@pytest.fixture
def runs(first: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place where the first run has come to its end."""
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    copied = Path(shutil.copytree(first.folder.parent, tmp_path / "runs"))
    run(config(), copied)  # it is finished; from now on it is known here
    return copied


def files(folder: Path, without: Collection[str] = ()) -> dict[str, bytes]:
    found = {f.relative_to(folder): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}
    return {str(name): content for name, content in found.items() if name.parts[0] not in without}


def test_only_what_changed_is_lived(runs: Path, first: Run, tmp_path: Path, lived: list[str]) -> None:
    of_first = runs / first.folder.name / "strategies" / "kept" / "wandb"
    (of_first / "offline-run-1").mkdir(parents=True)
    (of_first / "name.txt").write_text("first kept (seed=0)", encoding="utf-8")
    told = Told()
    changed = config(name="second", **other_memory(30))
    second = run(changed, runs, [told])
    assert set(lived) == {"changed"}
    assert second.done
    assert not (second.folder / "strategies" / "kept" / "wandb").exists(), "it was another run that W&B was told of"
    assert told.begun == [("kept", runs / first.folder.name), ("changed", None)]
    alone = run(changed, tmp_path / "alone")
    assert lived.count("kept") == 4
    kept, anew = (files(r.folder / "strategies" / "kept") for r in (first, second))
    assert kept == anew
    assert any("checkpoints" in name for name in kept)
    for name in config().strategies:
        both = (r.folder / "strategies" / name for r in (second, alone))
        one, other = (files(folder, without=TIMED) for folder in both)
        assert one == other
        assert {"results.jsonl", "scores.bin", "losses.bin"} <= set(one)
    assert second.tables["changed"].rows != first.tables["changed"].rows
    assert load_run(second.folder).tables["kept"].rows == first.tables["kept"].rows


def test_trackers_are_told_as_if_it_was_lived(runs: Path, tmp_path: Path) -> None:
    again, anew = Told(), Told()
    run(config(name="again"), runs, [again])
    run(config(name="again"), tmp_path / "elsewhere", [anew])
    for name, rows in anew.rows.items():
        key = repr
        assert sorted(again.rows[name], key=key) == sorted(rows, key=key)


@pytest.mark.nightly
def test_a_strategy_may_be_called_otherwise(runs: Path, lived: list[str]) -> None:
    renamed = {f"{name}-2": strategy for name, strategy in BASE["strategies"].items()}
    assert run(config(strategies=renamed), runs).done
    assert lived == []


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        *(
            pytest.param(change, marks=pytest.mark.nightly)
            for change in (
                {"evaluation": {"every": 2}},
                {"references": {"kinds": []}},
                {"training": {"epochs": 1, "batch_size": 32}},
                {"schedule": {"name": "explicit", "requests": [{"after": 2, "scope": "sample", "count": 6}]}},
                {"recording": {"keep": "all"}},
            )
        ),
    ],
    ids=str,
)
def test_what_decides_anything_of_it_is_another_life(change: dict[str, Any], runs: Path, lived: list[str]) -> None:
    run(config(name="other", **change), runs)
    assert set(lived) == {"kept", "changed"}


def test_what_is_gone_cleaned_or_damaged_is_lived(runs: Path, first: Run, lived: list[str]) -> None:
    folder = runs / first.folder.name
    clean_run(folder, deleted=True)
    with (folder / "strategies" / "changed" / "results.jsonl").open("a") as file:
        file.write("\n")
    second = run(config(name="second"), runs)
    assert set(lived) == {"kept", "changed"}
    lived.clear()
    shutil.rmtree(second.folder)
    shutil.rmtree(folder)
    assert run(config(name="third"), runs).done
    assert set(lived) == {"kept", "changed"}
    lived.clear()
    assert run(config(name="fourth"), runs).done  # the index follows
    assert lived == []


def test_the_index_follows_what_is_lived_anew_or_cleaned(runs: Path, first: Run, lived: list[str]) -> None:
    run(config(), runs, fresh=True)
    lived.clear()
    second = run(config(name="second"), runs)
    assert lived == []
    clean_run(runs / first.folder.name, deleted=True)
    assert run(config(), runs).done  # what is blanked is finished, and of no use to others
    assert lived == []
    shutil.rmtree(second.folder)
    assert run(config(name="third"), runs).done
    assert set(lived) == {"kept", "changed"}
    lived.clear()
    assert run(config(name="fourth"), runs).done
    assert lived == []


@pytest.mark.nightly
def test_fresh_takes_nothing_and_other_libraries_neither(
    runs: Path, lived: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(config(name="second"), runs, fresh=True)
    assert set(lived) == {"kept", "changed"}
    lived.clear()
    monkeypatch.setattr(taken, "arithmetic", lambda device: manifest.arithmetic(device) | {"torch": "1.0"})
    run(config(name="third"), runs)
    assert set(lived) == {"kept", "changed"}


@pytest.mark.nightly
def test_half_of_a_life_gives_way_to_a_whole_one(runs: Path, lived: list[str]) -> None:
    class Stop(Told):
        def event(self, index: int, rows: Sequence[Row], seconds: float) -> None:
            raise KeyboardInterrupt

    changed = config(name="second", **other_memory(30))
    elsewhere = runs.parent / "elsewhere"
    with pytest.raises(KeyboardInterrupt):
        run(changed, elsewhere, [Stop()])
    (half,) = elsewhere.iterdir()
    shutil.copytree(half, runs / half.name)
    lived.clear()
    assert run(changed, runs).done
    assert set(lived) == {"changed"}
