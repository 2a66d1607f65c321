"""What a state shares with the one before it is written once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lifelong.evaluation.plan import EvaluationPlan
from lifelong.results.pieces import Pieces, joined, places
from lifelong.results.record import Checkpoint, Record
from streams.errors import CheckpointError


def large(fill: float) -> torch.Tensor:
    return torch.full((2000,), fill)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor] | None) -> bool:
    return other is not None and one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "pieces"


def test_the_same_tensor_is_written_once_and_comes_back(folder: Path) -> None:
    pieces = Pieces(folder, fsync=False)
    state = {"kept": large(1.0), "small": torch.ones(2), "copied": large(2.0)}
    rest, names = pieces.split(state)
    assert names == {}
    assert same(state, joined(rest, names, folder))
    state |= {"copied": large(2.0)}
    rest, names = pieces.split(state)
    assert list(names) == [0]
    assert rest["kept"].numel() == 0
    assert rest["copied"] is state["copied"]
    written = {f: f.stat().st_mtime_ns for f in folder.iterdir()}
    rest, names = pieces.split(state)
    assert list(names) == [0, 2]
    assert written.items() < {f: f.stat().st_mtime_ns for f in folder.iterdir()}.items()
    assert same(state, joined(rest, names, folder))


def test_what_was_changed_in_place_is_written_again(folder: Path) -> None:
    pieces, state = Pieces(folder, fsync=False), {"weights": large(1.0)}
    pieces.split(state)
    pieces.split(state)
    state["weights"].add_(1.0)
    rest, names = pieces.split(state)
    assert names == {}
    assert torch.equal(rest["weights"], large(2.0))


def test_a_view_brings_only_itself(folder: Path) -> None:
    pieces, state = Pieces(folder, fsync=False), {"part": torch.zeros(10**6)[:2000]}
    pieces.split(state)
    pieces.split(state)
    assert sum(f.stat().st_size for f in folder.iterdir()) < 20_000


def test_a_missing_or_damaged_piece_is_noticed(folder: Path) -> None:
    pieces, state = Pieces(folder, fsync=False), {"weights": large(1.0)}
    pieces.split(state)
    rest, names = pieces.split(state)
    (file,) = folder.iterdir()
    content = file.read_bytes()
    file.write_bytes(content[:-100] + bytes(100))
    assert joined(rest, names, folder) is None
    file.unlink()
    assert joined(rest, names, folder) is None


@pytest.fixture
def open_record(tmp_path: Path) -> Iterator[Callable[[], Record]]:
    with contextlib.ExitStack() as stack:
        plan = EvaluationPlan.__new__(EvaluationPlan)  # no outputs are read
        yield lambda: stack.enter_context(contextlib.closing(Record(tmp_path, "identity", plan)))


def test_pieces_go_with_the_checkpoints_that_speak_of_them(open_record: Any, tmp_path: Path) -> None:
    record = open_record()
    one, two = large(1.0), large(2.0)
    for event, state in enumerate(({"a": one, "b": two}, {"a": one, "b": two}, {"a": one, "b": large(3.0)})):
        record.save(Checkpoint(event, state), must=True)
        assert [f.name for f in tmp_path.glob("checkpoints/event-*")] == [f"event-{event + 1:06d}.pt"]
        assert len(list(tmp_path.glob("checkpoints/pieces/*"))) == (0, 2, 1)[event]
    again = open_record()
    latest = again.latest("cpu")
    assert latest is not None
    assert same(latest.state, {"a": one, "b": large(3.0)})
    again.save(Checkpoint(3, latest.state), must=True)
    assert list(tmp_path.glob("checkpoints/pieces/*")) == []
    again.save(Checkpoint(4, latest.state), must=True)
    assert len(list(tmp_path.glob("checkpoints/pieces/*"))) == 2
    again.save(Checkpoint(5, latest.state, whole=True), must=True)
    assert list(tmp_path.glob("checkpoints/pieces/*")) == []


def test_a_checkpoint_without_its_piece_is_corrupt(open_record: Any, tmp_path: Path) -> None:
    record, state = open_record(), {"a": large(1.0)}
    record.save(Checkpoint(0, state), must=True)
    record.save(Checkpoint(1, state), must=True)
    next(tmp_path.glob("checkpoints/pieces/*")).unlink()
    with pytest.raises(CheckpointError, match="corrupt"):
        open_record().latest("cpu")


def test_tensors_of_the_processor_stay_there() -> None:
    """A state has both: weights where they are trained, and what is noted of samples, which numpy reads."""
    storage, place = torch.ones(2).untyped_storage(), places("meta")
    assert place(storage, "cpu").device.type == "cpu"
    assert place(storage, "cuda:0").device.type == "meta"
    assert places("cpu")(storage, "cuda:0").device.type == "cpu"
