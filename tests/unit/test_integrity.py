"""What was cut, edited or damaged is told, with a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from lifelong.results.integrity import check_finished, mark_of, read_json, with_digest
from streams.errors import CheckpointError


@pytest.mark.parametrize("content", [b"{", b"[1]", b'{"a": "\xff"}', b"\x80\x81"])
def test_what_is_no_json_of_keys_is_corrupt(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "done.json"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"done\.json is corrupt .*\. Do this\."):
        read_json(file, "Do this.")


def test_a_flipped_bit_is_found_wherever_it_is(tmp_path: Path) -> None:
    file, content = tmp_path / "done.json", {"events": 3, "name": "a"}
    whole = with_digest(content)
    file.write_bytes(whole)
    assert {k: v for k, v in read_json(file, "").items() if k != "digest"} == content
    start = whole.index(b'"digest"')
    for bit in range(8 * start):  # behind it, a key that has another name is no digest: such files were written once
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"Do this\.$"):
            read_json(file, "Do this.")


@pytest.mark.parametrize("change", [b"", b"abc", b"abcdef"])
def test_lengths_are_compared_also_where_content_is_not(change: bytes, tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    file.write_bytes(b"abcd")
    summary = {"files": {file.name: mark_of(file)}}
    check_finished(tmp_path, summary)
    file.write_bytes(change)
    with pytest.raises(CheckpointError, match=rf"was cut or edited: it has {len(change)} bytes, and 4 when"):
        check_finished(tmp_path, summary, read=())
    file.write_bytes(b"abce")
    check_finished(tmp_path, summary, read=())
    with pytest.raises(CheckpointError, match="was damaged or edited"):
        check_finished(tmp_path, summary, read={file.name})
    file.unlink()
    with pytest.raises(CheckpointError, match="is gone"):
        check_finished(tmp_path, summary, read=())
