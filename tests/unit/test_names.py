"""What people read where a request names something."""

from __future__ import annotations

from typing import Any

import pytest

from streams.names import in_words, naturally, number_in, shown


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"scope": "class", "keys": [0, 1]}, "class 0, 1"),
        ({"scope": "class", "keys": [0, 1, 2]}, "class 0, 1 and 1 more"),
        ({"scope": "class", "keys": [4, 5, 6, 7, 8]}, "class 4, 5 and 3 more"),
        ({"scope": "class", "keys": [4], "names": ["zebra"]}, "class zebra"),
        ({"scope": "user", "keys": [9], "names": ["user-9"]}, "user 9"),
        ({"scope": "user", "keys": [9], "names": ["team-9"]}, "user team-9"),
        ({"scope": "task", "keys": [9], "names": ["user-9"]}, "task user-9"),
        ({"scope": "user", "keys": [1], "names": ["user-11"]}, "user user-11"),
        ({"scope": "sample", "keys": []}, "0 samples"),
        ({"scope": "sample", "keys": [3]}, "1 sample"),
        ({"scope": "sample", "keys": [3, 4, 5]}, "3 samples"),
    ],
)
def test_a_request_in_words(request_: dict[str, Any], words: str) -> None:
    assert in_words(request_, most=2) == words


def test_a_name_is_left_at_its_number_only_where_it_says_no_more() -> None:
    assert [shown("class", 3, name) for name in ("class-3", "class-30", "3", "x-class-3")] == [
        "3",
        "class-30",
        "3",
        "x-class-3",
    ]


def test_numbers_have_signs_and_a_word_before_them() -> None:
    names = {"-12": -12, "12": 12, "user_7": 7, "user 7": 7, "u-7": 7, "user-7-8": None, "7a": None, "": None}
    assert {name: number_in(name) for name in names} == names


def test_names_are_sorted_by_their_numbers() -> None:
    assert sorted(["b2", "a10", "a9", "a9b", "10", "9"], key=naturally) == ["9", "10", "a9", "a9b", "a10", "b2"]
