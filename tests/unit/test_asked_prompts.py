"""Which prompts were learned, are live, and went with a request, on a small stream of objects in styles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lifelong.audits._prompts import Asked, some
from strategies.parts.diffusion.prompts import prompts_of
from streams.events import DeletionRequest, Event, Experience, Request
from streams.randomness import Key
from streams.source import Source
from streams.stream import Stream


def stream_of(source: Source, *events: Event) -> tuple[Asked, Stream]:
    stream = Stream(source, (), events)
    return Asked(prompts_of(source, "{object} in {style} style", with_styles=True), stream), stream


@pytest.fixture(scope="module")
def source(digits: Source) -> Source:
    """Three objects in two styles, two samples of each pair, all of which can be learned."""
    first = np.concatenate([np.flatnonzero((digits.class_ids == c) & ~digits.is_test)[:4] for c in range(3)])
    columns = {name: getattr(digits, name)[first] for name in ("x", "y", "class_ids", "user_ids", "is_test")}
    few = replace(digits, **columns, class_names=digits.class_names[:3], domain_names=("old", "new"))
    return replace(few, domain_ids=np.tile([0, 0, 1, 1], 3))


def request(name: str, *ids: int) -> DeletionRequest:
    chosen = np.array(ids, dtype=np.int64)
    return DeletionRequest(name, (Request("sample", ids, chosen, chosen[:0], 1),))


def learned(name: str, *ids: int) -> Experience:
    return Experience(name, (), np.array(ids, dtype=np.int64))


def test_what_is_known_after_every_event(source: Source) -> None:
    asked, _ = stream_of(source, learned("a", 0, 1, 2), request("r", 0, 1), learned("b", 8))
    assert [[p.tolist() for p in asked.known(event)] for event in range(3)] == [
        [[[0, 0], [0, 1]], [[0, 0], [0, 1]]],
        [[[0, 0], [0, 1]], [[0, 1]]],
        [[[0, 0], [0, 1], [2, 0]], [[0, 1], [2, 0]]],
    ]


def test_what_is_barred_is_never_learned(source: Source) -> None:
    """Somebody asks for all that is theirs, of which an experience brings some only later."""
    now, later = np.array([0, 1]), np.array([4, 5])
    asks = DeletionRequest("r", (Request("user", (0,), now, later, 1),))
    asked, _ = stream_of(source, learned("a", 0, 1, 2), asks, learned("b", 4, 5, 8))
    assert [p.tolist() for p in asked.known(2)] == [[[0, 0], [0, 1], [2, 0]], [[0, 1], [2, 0]]]


EVERYTHING = learned("all", *range(12))


@pytest.mark.parametrize(
    ("ids", "gone", "what"),
    [
        ((0, 1, 2, 3), [[0, 0], [0, 1]], 0),  # an object in all its styles
        ((0, 1, 4, 5, 8, 9), [[0, 0], [1, 0], [2, 0]], 1),  # a style of all objects
        ((0, 1), [[0, 0]], 2),  # a pair, both of which go on
        ((0, 1, 2, 3, 4, 5), [[0, 0], [0, 1], [1, 0]], 2),  # an object, and of another one a style
        ((0,), [], 0),  # the prompt has another sample
    ],
)
def test_what_a_request_took(source: Source, ids: tuple[int, ...], gone: list[list[int]], what: int) -> None:
    asked, stream = stream_of(source, EVERYTHING, request("r", *ids))
    found, kind = asked.gone(stream.requests[0], 1)
    assert (found.tolist(), kind) == (gone, what)


def test_what_comes_back_is_not_gone(source: Source) -> None:
    again = replace(learned("again", 0, 1), incarnation=1)
    asked, stream = stream_of(source, EVERYTHING, request("r", 0, 1), again)
    assert len(asked.gone(stream.requests[0], 1)[0]) == 1
    assert len(asked.gone(stream.requests[0], 2)[0]) == 0


def test_some_prompts_are_drawn_by_name_and_in_order(source: Source) -> None:
    prompts = prompts_of(source, "{object}", with_styles=True)
    wanted = np.array([[c, s] for c in range(3) for s in range(2)])
    key = Key(0) / "pictures" / "prompts"
    for most in range(8):
        few = some(prompts, wanted, most)
        drawn = set(key.order(prompts.numbers(wanted))[:most].tolist())
        assert few.tolist() == [p for n, p in enumerate(wanted.tolist()) if n in drawn]
