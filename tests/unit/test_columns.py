"""The columns beside a table hold what its lines hold, or are not used."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifelong.results import table
from lifelong.results.columns import read_columns, read_some, write_columns
from lifelong.results.table import Row, read_rows
from streams.errors import CheckpointError

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
ROWS = st.builds(
    Row,
    event=st.integers(-1, 2**31 - 1),
    model=NAMES,
    subject=NAMES,
    metric=st.sampled_from(["js", "accuracy", 'odd "name"', "ä\n"]),
    value=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    n=st.integers(0, 2**40),
    reason=st.none() | NAMES,
)


def write(place: Path, rows: list[Row]) -> Path:
    file = place / "results.jsonl"
    file.write_text("".join(r.to_json() + "\n" for r in rows), encoding="utf-8")
    return file


@settings(max_examples=60)
@given(rows=st.lists(ROWS, max_size=6))
def test_every_bit_comes_back(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> None:
    file = write(tmp_path_factory.mktemp("table"), rows)
    assert read_rows(file) == rows
    assert read_rows(file, ["js", "ä\n"]) == [r for r in rows if r.metric in {"js", "ä\n"}]
    write_columns(file)
    assert read_some(file, None) == rows
    assert read_some(file, ["js", "ä\n"]) == [r for r in rows if r.metric in {"js", "ä\n"}]
    assert read_columns(file) == {name: [getattr(r, name) for r in rows] for name in Row.__slots__}


def test_columns_that_do_not_fit_are_not_used(tmp_path: Path) -> None:
    rows = [Row(0, "run", "stream", "js", 0.5, 3), Row(1, "run", "stream", "js", None, 0, "none")]
    file = write(tmp_path, rows)
    write_columns(file)
    (tmp_path / "columns.bin").write_bytes((tmp_path / "columns.bin").read_bytes()[:-3])
    assert read_some(file, ["js"]) == rows
    write_columns(file)
    more = [*rows, Row(2, "run", "stream", "js", 0.25, 3)]
    write(tmp_path, more)
    assert read_some(file, None) == more
    assert read_columns(file)["event"] == [0, 1, 2]


def test_a_line_without_an_end_is_left_out_and_one_that_is_no_row_is_named(tmp_path: Path) -> None:
    rows = [Row(0, "run", "stream", "js", 0.5, 3)]
    file = write(tmp_path, rows)
    file.write_text(file.read_text() + '{"event": 1, "model": "ru')
    assert read_rows(file) == rows
    file.write_text(file.read_text() + "\n")
    with pytest.raises(CheckpointError, match="line 2"):
        read_rows(file)


@pytest.mark.parametrize("piece", [1, 60, 150])
def test_a_table_is_read_in_parts_of_whole_lines(piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_PIECE", piece)
    plain = [Row(e, "run", "stream", "js", e / 7, e) for e in range(9)]
    assert read_rows(write(tmp_path, plain)) == plain
    odd = [*plain[:5], Row(5, "run", "stream", 'odd "name"', 0.5, 1), *plain[5:]]
    assert read_rows(write(tmp_path, odd)) == odd


def test_no_metric_is_no_row(tmp_path: Path) -> None:
    rows = [Row(0, "run", "stream", "js", 0.5, 3), Row(1, "run", "stream", "kl", None, 0, "none")]
    file = write(tmp_path, rows)
    for _ in range(2):  # from the lines, and from the columns
        assert read_some(file, []) == []
        assert read_some(file, ["other"]) == []
        assert read_some(file, ["kl"]) == rows[1:]
        write_columns(file)
