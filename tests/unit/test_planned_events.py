"""At which events everything is measured in detail again and audited: counted event by event."""

from __future__ import annotations

from typing import Any

import pytest

from lifelong.config.run import EvaluationConfig
from lifelong.evaluation.planning import plan_evaluation
from streams.events import DeletionRequest
from streams.plan import Learn, RequestSpec, Service, assemble
from streams.randomness import Key
from streams.scenarios import class_incremental


@pytest.mark.parametrize("follows", [True, False])
@pytest.mark.parametrize("detailed", [None, 1, 2, 3])
@pytest.mark.parametrize("audits", [1, 2, 3])
@pytest.mark.parametrize("every", [1, 4])
def test_which_events_are_looked_at_again(
    follows: bool, detailed: int | None, audits: int, every: int, tools: Any
) -> None:
    source = tools.source(num_classes=6, per_class=8)
    plan = class_incremental.build(source, class_incremental.Config(experiences=6), 0)
    asked = [RequestSpec("sample", (int(plan.experiences[n].sample_ids[0]),)) for n in range(3)]
    placed = [Learn(0), Learn(1), asked[0], asked[1], Learn(2), Learn(3), asked[2], Learn(4), Learn(5)]
    stream = assemble(plan, placed, Service(), Key(0))
    config = EvaluationConfig(detailed_every=detailed, audits_every=audits, every=every, dense_every=1)
    planned = plan_evaluation(stream, config, follows_requests=follows)
    requests = [isinstance(e, DeletionRequest) for e in stream.events]
    looked, count = 0, len(requests)
    for event, is_request in enumerate(requests):
        begun, last = any(requests[: event + 1]), event == count - 1
        counted = detailed is not None and (event + 1) % detailed == 0
        again = (follows and begun and (is_request or counted)) or last
        assert planned.again[event] == again, event
        looked += is_request or again
        assert planned.audited[event] == (((is_request or again) and (looked - 1) % audits == 0) or last), event
        before = not last and requests[event + 1]
        measured = is_request or before or (event + 1) % every == 0 or again
        assert planned.measured[event] == measured, event
        known = event == 0 or bool(planned.measured[event - 1])
        if not again:  # these are measured beside, and not looked at within
            assert planned.watched[event] == (measured and known and not is_request), event
