"""Requests that cover copies of what they name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lifelong.config.run import RunConfig
from lifelong.setup.build import make_source, make_stream
from streams.config import parse
from streams.events import DeletionRequest
from streams.ledger import Ledger
from streams.plan import Service, assemble
from streams.randomness import Key
from streams.scenarios import domain_incremental
from streams.schedules import explicit
from streams.source import Source, copy_groups
from streams.stream import Stream


def source() -> Source:
    """Ten rows of three domains (0-3, 4-6, 7-9), the last of each held out; 1, 5 and 8 are copies, and 9, held out."""
    x = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    x[[5, 8, 9]] = x[1].clone()
    classes = np.array([0, 1, 0, 1, 0, 1, 0, 1, 1, 1])
    domains = np.array([0] * 4 + [1] * 3 + [2] * 3)
    users = np.array([0, 1, 2, 0, 1, 2, 0, 1, 3, 1])
    names = tuple(map(str, range(4)))
    return Source(
        name="rows",
        licence="none",
        x=x,
        y=torch.from_numpy(classes),
        class_ids=classes,
        user_ids=users,
        is_test=np.isin(np.arange(10), [3, 6, 9]),
        class_names=names[:2],
        user_names=names,
        domain_ids=domains,
    )


def stream_of(data: Source, requests: list[dict[str, Any]], service: Service) -> Stream:
    plan = domain_incremental.build(data, parse(domain_incremental.Config, {"kind": "natural"}), 0)
    return assemble(plan, explicit.place(plan, parse(explicit.Config, {"requests": requests}), Key(0)), service, Key(0))


def test_copies_agree_in_input_images_and_target() -> None:
    data = source()
    assert copy_groups(data).tolist() == [0, 1, 2, 3, 4, 1, 6, 7, 1, 9]
    images = torch.zeros(10, 1, 1, 4, 4, dtype=torch.uint8)
    images[5] = 1
    assert copy_groups(replace(data, images=images)).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 1, 9]
    y = data.y.clone()
    y[8] = 0
    assert copy_groups(replace(data, y=y)).tolist() == [0, 1, 2, 3, 4, 1, 6, 7, 8, 9]


@pytest.mark.parametrize(("scope", "keys"), [("sample", [1]), ("user", [2])])
def test_a_request_reaches_copies_of_others_now_and_later(scope: str, keys: list[int]) -> None:
    data, requests = source(), [{"after": 2, "scope": scope, "keys": keys}]
    own = {"sample": {1}, "user": {2, 5}}[scope]
    plain = stream_of(data, requests, Service()).requests[0]
    assert set(plain.sample_ids.tolist()) == own
    stream = stream_of(data, requests, Service(copies=True))
    request = stream.requests[0]
    assert set(request.sample_ids.tolist()) == own | {1, 5}
    assert request.barred_ids.tolist() == [8]
    assert request.keys_of(scope) == tuple(keys)  # type: ignore[arg-type]
    ledger = Ledger(data)
    for event in stream.events:
        if isinstance(event, DeletionRequest):
            ledger.delete(event)
        else:
            ledger.admit(event)
    live = ledger.live_ids
    assert not (data.x[live] == data.x[1]).all(1).any()
    assert set(live.tolist()) == {0, 2, 4, 7} - own


def test_what_comes_while_a_request_waits_is_covered_and_not_drawn_for_another() -> None:
    requests = [{"after": 1, "scope": "sample", "keys": [1]}, {"after": 3, "scope": "sample", "keys": [4]}]
    request = stream_of(source(), requests, Service(wait_for=2, copies=True)).requests[0]
    assert request.sample_ids.tolist() == [1, 4, 5, 8]
    assert not len(request.barred_ids)


def test_what_another_request_covers_as_a_copy_is_not_taught_again() -> None:
    """User 1 has 1, 4 and 7, and user 2 has 5, a copy of 1: what both asked for stays away when user 1 comes back."""
    requests = [
        {"after": 3, "scope": "user", "keys": [1], "again_after": 3},
        {"after": 3, "scope": "user", "keys": [2]},
    ]
    stream = stream_of(source(), requests, Service(copies=True))
    assert stream.requests[0].sample_ids.tolist() == [1, 4, 5, 7, 8]
    again = stream.experiences[-1]
    assert again.incarnation == 1
    assert again.sample_ids.tolist() == [4, 7]


def test_a_run_covers_repeated_instructions() -> None:
    """A tenth of the instructions repeat an earlier one to the letter: a deleted one is gone with its repeats."""
    config: dict[str, Any] = {
        "source": {"name": "instructions", "distributors": ["numbers"], "samples": 120, "test": 2, "redundancy": 0.5},
        "scenario": {"name": "domain-incremental", "kind": "natural"},
        "schedule": {"name": "explicit", "requests": [{"after": 1, "scope": "user", "keys": [0]}]},
        "objective": "causal-lm",
        "model": "tiny-llava",
    }
    plain, covering = (
        make_stream(c, make_source(c))
        for c in (parse(RunConfig, config), parse(RunConfig, config | {"service": {"copies": True}}))
    )
    groups = copy_groups(covering.source)
    named, covered = plain.requests[0].sample_ids, covering.requests[0].sample_ids
    left = np.setdiff1d(covering.source.train_ids, covered)
    assert set(named) < set(covered)
    assert np.isin(groups[np.setdiff1d(covering.source.train_ids, named)], groups[named]).any()
    assert not np.isin(groups[left], groups[named]).any()
