"""Streams that are built by hand in Python, and the scenario whose experiences a file lists."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lifelong
from streams.errors import ConfigError, DataError
from streams.scenarios import listed
from streams.source import Source
from streams.stream import Stream

REST: dict[str, Any] = {
    "name": "hand",
    "model": {"name": "mlp", "hidden": [8]},
    "strategies": {"again": {"learner": "naive", "unlearner": "retrain"}},
    "references": {"kinds": []},
}


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))


def made(config: dict[str, Any]) -> Stream:
    return lifelong.prepare(lifelong.load_config({**config, **REST}), runs=False).stream


def by_classes(source: Source, *groups: tuple[int, ...]) -> list[np.ndarray]:
    return [np.flatnonzero(np.isin(source.class_ids, group) & ~source.is_test) for group in groups]


def test_the_same_events_by_hand_are_the_same_stream(digits: Source) -> None:
    """Experience by experience, request by request, to the digest."""
    first, second = by_classes(digits, (0, 1, 2, 3, 4), (5, 6, 7, 8, 9))
    some = first[:3].tolist()
    events = [
        lifelong.Learn("task-0", first),
        lifelong.Forget("sample", some),
        lifelong.Learn("task-1", second.tolist()),
        lifelong.Forget("class", ["7"], reason="suppress", exact=True),
        lifelong.Forget("user", ["user-3"]),
    ]
    asked = [
        {"after": 1, "scope": "sample", "keys": some},
        {"after": 2, "scope": "class", "keys": ["7"], "reason": "suppress", "exact": True},
        {"after": 2, "scope": "user", "keys": ["user-3"]},
    ]
    declared = made(
        {
            "source": "digits",
            "scenario": {"name": "class-incremental", "experiences": 2},
            "schedule": {"name": "explicit", "requests": asked},
        }
    )
    assert made(lifelong.stream("digits", events)).digest() == declared.digest()


def test_data_of_ones_own_becomes_a_file_and_keeps_its_rows(digits: Source) -> None:
    people = tuple(f"person {u:02}" for u in range(len(digits.user_names)))
    own = replace(digits, class_names=tuple("abcdefghij"), user_names=people, name="mine")
    (of_two,) = by_classes(own, (4, 5))
    events = [lifelong.Learn("spring", own.train_ids[:9].tolist()), lifelong.Learn("summer", of_two)]
    config = lifelong.stream(own, [*events, lifelong.Forget("class", ["e"])])
    stream = made(config)
    assert torch.equal(stream.source.inputs(own.train_ids), own.inputs(own.train_ids))
    assert (stream.source.class_names, stream.source.user_names) == (own.class_names, own.user_names)
    for mine, theirs in (("class_ids", own.class_ids), ("user_ids", own.user_ids), ("is_test", own.is_test)):
        assert np.array_equal(getattr(stream.source, mine), theirs), mine
    assert [e.sample_ids.tolist() for e in stream.experiences] == [sorted(map(int, e.samples)) for e in events]
    assert set(stream.requests[0].sample_ids) == set(by_classes(own, (4,))[0])
    assert lifelong.stream(own, [*events, lifelong.Forget("class", ["e"])]) == config
    assert lifelong.stream(own, events)["scenario"] == config["scenario"], "the same events are the same file"


def test_a_stream_by_hand_is_run_and_found_again(digits: Source) -> None:
    events = [
        lifelong.Learn("first", by_classes(digits, (0, 1))[0]),
        lifelong.Forget("sample", by_classes(digits, (0,))[0][:5]),
        lifelong.Learn("second", by_classes(digits, (2,))[0]),
    ]
    run = lifelong.run({**lifelong.stream(digits, events), **REST})
    assert run.done
    assert {r.subject for r in run.tables["again"].select("accuracy")} == {"first", "second"}
    again = lifelong.stream_from_manifest(run.folder / "stream.json")
    assert [e.name for e in again.events] == ["first", "request-0", "second"]
    (run.folder / "strategies" / "again" / "done.json").unlink()
    assert lifelong.resume(run.folder).done


def test_targets_that_are_numbers_stay_numbers(digits: Source) -> None:
    numbers = replace(digits, y=torch.linspace(0, 1, len(digits)))
    config = lifelong.stream(numbers, [lifelong.Learn("all", digits.train_ids)])
    stream = made({**config, "objective": "regression"})
    assert torch.equal(stream.source.y, numbers.y)


def test_numbers_of_what_has_no_numbers_are_places_in_the_source(digits: Source) -> None:
    """The file's own order is by name, in which another class and another user stand first."""
    source = replace(
        digits,
        class_names=("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
        user_names=tuple("zyxwvutsrqponmlkjihg"),
    )
    learn = lifelong.Learn("all", source.train_ids)
    for scope, ids in (("class", source.class_ids), ("user", source.user_ids)):
        stream = made(lifelong.stream(source, [learn, lifelong.Forget(scope, [0])]))  # type: ignore[arg-type]
        assert set(ids[stream.requests[0].sample_ids].tolist()) == {0}
    stream = made(lifelong.stream(source, [learn, lifelong.Forget("class", "one")]))
    assert set(source.class_ids[stream.requests[0].sample_ids].tolist()) == {1}
    with pytest.raises(ConfigError, match="are called 'z'"):
        lifelong.stream(replace(source, user_names=("z", "z", *source.user_names[2:])), [learn])


def test_strata_of_numbers_stay_the_same(digits: Source) -> None:
    names = tuple(f"level-{c}" for c in range(10))
    numbers = replace(digits, y=torch.linspace(0, 1, len(digits)), class_names=names)
    events = [lifelong.Learn("all", digits.train_ids), lifelong.Forget("class", ["level-3"])]
    stream = made({**lifelong.stream(numbers, events), "objective": "regression"})
    assert stream.source.class_names == names
    assert set(digits.class_ids[stream.requests[0].sample_ids].tolist()) == {3}


def test_a_unit_is_what_an_experience_is_the_first_to_teach(digits: Source, tmp_path: Path) -> None:
    ids = {c: by_classes(digits, (c,))[0].tolist() for c in range(4)}
    listing = [("a", ids[0][:5] + ids[1][:5]), ("b", ids[0][5:9]), ("c", ids[1][5:9] + ids[2])]
    file = tmp_path / "listed.json"
    file.write_text(json.dumps({"experiences": [{"name": n, "samples": s} for n, s in listing]}))
    plan = listed.build(digits, listed.Config(path=str(file)), 0)
    assert [(u.name, u.classes) for u in plan.units] == [("a", (0, 1)), ("c", (2,))]
    assert [e.units for e in plan.experiences] == [(0,), (0,), (0, 1)]
    assert set(plan.units[1].test_ids) == set(np.flatnonzero((digits.class_ids == 2) & digits.is_test))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "listed.json: Expecting"),
        ('{"experiences": []}', "listed.json, experiences: Tuple should have at least 1 item"),
        ('{"experiences": [{"name": "a", "samples": []}]}', "experiences.0.samples: Tuple should have at least 1"),
        ('{"experiences": [{"name": "a", "sample": [1]}]}', "experiences.0.samples: Field required"),
        ('{"experiences": [{"name": "a", "samples": [0, 0]}]}', "'a' lists a sample twice"),
        ('{"experiences": [{"name": "a", "samples": [0, 1797]}]}', "sample 1797; 'digits' has samples 0 to 1796"),
        ('{"experiences": [{"name": "a", "samples": [-1]}]}', "sample -1; 'digits' has samples"),
        (
            '{"experiences": [{"name": "a", "samples": [1]}, {"name": "a", "samples": [2]}]}',
            "two experiences called 'a'",
        ),
    ],
)
def test_a_list_that_is_none(content: str, message: str, digits: Source, tmp_path: Path) -> None:
    file = tmp_path / "listed.json"
    file.write_text(content)
    with pytest.raises(DataError) as refused:
        listed.build(digits, listed.Config(path=str(file)), 0)
    assert message in str(refused.value)


def test_what_cannot_be_listed_is_refused(digits: Source) -> None:
    test_row = int(np.flatnonzero(digits.is_test)[0])
    with pytest.raises(DataError, match=f"sample {test_row}, which is a test sample"):
        made(lifelong.stream("digits", [lifelong.Learn("a", [test_row])]))
    with pytest.raises(ConfigError, match="Event 0 is a request, and nothing has been learned before it"):
        lifelong.stream("digits", [lifelong.Forget("class", ["1"])])
    with pytest.raises(ConfigError, match="holds more than arrays"):
        lifelong.stream(replace(digits, images=torch.zeros(len(digits), 1, 1, 2, 2)), [lifelong.Learn("a", [0])])
    with pytest.raises(DataError, match=r"nowhere\.json: .*No such file"):
        listed.build(digits, listed.Config(path="nowhere.json"), 0)
