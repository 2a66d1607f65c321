"""The planted bugs of tests/mutations fit today's code; whether tests notice them is for its run.py, every night."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from mutations.run import ROOT, Bug, load, summary

BUGS = load()


def test_names_are_unique() -> None:
    names = [bug.name for bug in BUGS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("area", sorted({bug.area for bug in BUGS}))
def test_every_bug_can_be_planted(area: str) -> None:
    """Its old text is there once, the new text differs, the file still parses, and its tests exist."""
    for bug in (b for b in BUGS if b.area == area):
        planted = bug.planted((ROOT / bug.file).read_text(encoding="utf-8"))
        assert bug.new != bug.old, bug.name
        ast.parse(planted)
        assert bug.wrong.endswith("."), bug.name
        assert bug.tests, bug.name
        for test in bug.tests:
            file, *names = test.split("::")
            defined = (ROOT / file).read_text(encoding="utf-8")
            for name in names:
                assert name.partition("[")[0] in defined, f"{bug.name}: {test}"


def test_an_old_text_that_is_not_there_once_is_refused() -> None:
    bug = Bug("parts", "a", "a.py", "x", "y", "It is y.")
    assert bug.planted("x = 1") == "y = 1"
    for text in ("z = 1", "x = x"):
        with pytest.raises(ValueError, match=r"parts/a: its `old` occurs \d times in a.py"):
            bug.planted(text)
    with pytest.raises(ValueError, match="no such area or name: nowhere; areas are"):
        load(["nowhere"])


def test_what_is_complained_of() -> None:
    bugs = [
        Bug("parts", name, str(Path("a.py")), "x", "y", "It is y.", survives=reason)
        for name, reason in [("a", None), ("b", None), ("c", "Equal."), ("d", "Equal."), ("e", None)]
    ]
    outcomes = {"a": "noticed", "b": "survived", "c": "survived", "d": "noticed", "e": "broken (pytest ended with 2)"}
    table, complaints = summary(bugs, outcomes)
    assert table.splitlines()[1].split() == ["parts", "5", "2", "2", "2"]
    assert [line.split(":")[0] for line in complaints] == [
        "No test notices parts/b in a.py",
        "parts/d in a.py is marked `survives`, but a test notices it.",
        "parts/e in a.py says nothing",
    ]
