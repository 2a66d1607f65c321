"""What findings say of a claim, and which data is replaced to find them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lifelong.verification.certificate import Verified, weakest
from lifelong.verification.replay import Finding, Lived, Served, find
from streams.events import Event
from streams.plan import Learn, RequestSpec, Service, assemble
from streams.randomness import Key
from streams.scenarios import class_incremental
from streams.stream import Stream

GOOD = Finding("request-0", 1, 3, "bits", True, True, 0, (), 0, "state", "answers")


@pytest.mark.parametrize(
    ("changes", "upheld"),
    [
        ({}, True),
        ({"independent": False}, False),
        ({"as_without": False}, False),
        ({"held": ("memory",)}, False),
        ({"as_without": False, "stranded": 2}, True),
        ({"as_without": False, "traces": 2}, True),
        ({"as_without": False, "claim": "law"}, True),
        ({"independent": False, "claim": "law"}, False),
        ({"held": ("memory",), "claim": "law"}, False),
        ({"independent": False, "as_without": False, "held": ("memory",), "claim": "none"}, True),
    ],
)
def test_when_a_claim_is_upheld(changes: dict[str, Any], upheld: bool) -> None:
    assert replace(GOOD, **changes).upheld is upheld


@pytest.mark.parametrize(
    ("claim", "changes", "grade"),
    [
        ("bits", {}, "bits"),
        ("none", {}, "none"),
        ("bits", {"independent": False}, "none"),
        ("bits", {"held": ("memory",)}, "none"),
        ("bits", {"as_without": False, "stranded": 2}, "bits, others given up"),
        ("bits", {"as_without": False}, "none"),
        ("law", {"as_without": False}, "law"),
    ],
)
def test_a_strategy_gets_the_grade_of_its_worst_request(claim: str, changes: dict[str, Any], grade: str) -> None:
    findings = (GOOD, replace(GOOD, **changes), GOOD)
    assert Verified("mine", claim, True, findings, "state").grade == grade
    assert Verified("mine", claim, True, (), "state").grade == "none"


def test_a_strategy_is_upheld_if_all_of_it_is() -> None:
    assert Verified("mine", "bits", True, (GOOD, GOOD), "state").upheld
    assert not Verified("mine", "bits", False, (GOOD,), "state").upheld
    assert not Verified("mine", "bits", True, (GOOD, replace(GOOD, independent=False)), "state").upheld


def test_a_strategy_claims_the_weakest_of_its_grades() -> None:
    assert weakest(["bits", "law", "bits"]) == "law"
    assert weakest(["bits", "none", "law"]) == "none"
    assert weakest(["bits"]) == "bits"


@pytest.fixture
def stream(tools: Any) -> Stream:
    plan = class_incremental.build(tools.source(), class_incremental.Config(experiences=2), 0)
    requests = [RequestSpec("sample", (0, 1)), RequestSpec("sample", (8, 9))]
    return assemble(plan, [Learn(0), requests[0], Learn(1), requests[1]], Service(), Key(0) / "requests")


class Leaky:
    """Lives whose state is what was taught, with the contents of what `leaks` names."""

    def __init__(self, leaks: tuple[int, ...] = (), holds: dict[int, list[int]] | None = None) -> None:
        self._leaks, self._holds = leaks, holds or {}
        self.replaced: list[list[int]] = []

    def __call__(self, events: tuple[Event, ...], ids: np.ndarray, key: Key) -> Lived:
        self.replaced.append(ids.tolist())
        served: dict[int, Served] = {}
        for index, _ in enumerate(events):
            known = sorted(set(ids.tolist()) & set(self._leaks))
            held = {"memory": np.array(self._holds.get(index, []), dtype=np.int64)}
            served[index] = Served(f"state {known}", "answers", "bits", 0, held)
        return Lived(served[len(events) - 1].digest, "answers", served)


def findings_of(life: Leaky, stream: Stream) -> list[Finding]:
    _, findings = find(life, stream, (1, 3), Key(0))
    return list(findings)


def test_all_that_is_deleted_by_then_is_replaced_by_other_data(stream: Stream) -> None:
    life = Leaky()
    findings_of(life, stream)
    assert life.replaced == [[], [0, 1], [], [0, 1, 8, 9], []]


def test_a_request_that_leaks_an_earlier_one_is_found_out(stream: Stream) -> None:
    first, second = findings_of(Leaky(leaks=(8,)), stream)
    assert (first.independent, second.independent) == (True, False)
    first, second = findings_of(Leaky(leaks=(0,)), stream)
    assert (first.independent, second.independent) == (False, False)


def test_what_a_strategy_says_that_it_holds_is_told_and_not_replaced(stream: Stream) -> None:
    """Traces of earlier requests are no breach of this one's promise; its own samples are."""
    life = Leaky(leaks=(0,), holds={3: [0]})
    _, second = findings_of(life, stream)
    assert life.replaced[3] == [1, 8, 9]
    assert (second.independent, second.traces, second.held) == (True, 1, ())
    life = Leaky(holds={3: [9]})
    _, second = findings_of(life, stream)
    assert (second.held, second.upheld) == (("memory",), False)


def test_a_guarantee_that_nobody_can_look_behind_is_neither_upheld_nor_refuted() -> None:
    claimed = replace(GOOD, claim="certified", independent=False, as_without=False, held=("weights",))
    assert claimed.upheld
    assert Verified("mine", "certified", True, (claimed,), "state").grade == "cannot be tested"
    assert Verified("mine", "certified", False, (claimed,), "state").grade == "none"


def test_certified_stands_between_law_and_none() -> None:
    assert weakest(["law", "certified"]) == "certified"
    assert weakest(["none", "certified"]) == "none"
