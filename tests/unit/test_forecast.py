"""How long a study takes, extrapolated by hand from the first events of a run."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lifelong.study import forecast as module
from lifelong.study.forecast import Forecast, _Enough, _rate, _seconds, _Trial, forecast
from lifelong.study.jobs import Job
from streams.events import DeletionRequest, Experience, Request


def learn(count: int) -> Experience:
    return Experience(f"learn {count}", (0,), np.arange(count), None, 0)


def forget(number: int) -> DeletionRequest:
    ids = np.arange(2)
    return DeletionRequest(f"request-{number}", (Request("sample", (0, 1), ids, ids[:0], 1),))


EVENTS = (learn(10), learn(30), forget(0), learn(20), forget(1))


def trial(*acted: float) -> _Trial:
    return _Trial(1.0, lambda rate, measuring_s: 0.0, EVENTS, list(acted))


def begun(allowed_s: float) -> _Trial:
    one = _Trial(allowed_s, lambda rate, measuring_s: 0.0)
    info: Any = SimpleNamespace(stream=SimpleNamespace(events=EVENTS))
    one.begin(info, 0)
    return one


def test_a_trial_ends_when_its_time_is_over_but_not_before_a_request_that_comes_next() -> None:
    hurried = begun(-1.0)
    with pytest.raises(_Enough):
        hurried.event(0, [], 0.0)
    hurried.event(1, [], 0.0)
    with pytest.raises(_Enough):
        hurried.event(2, [], 0.0)
    leisurely = begun(3600.0)
    for index in range(len(EVENTS)):
        leisurely.event(index, [], 0.0)
    assert leisurely.acted == [0.0] * 5


def test_what_another_strategy_has_lived_through_tells_what_learning_takes_and_not_what_measuring_does() -> None:
    second = begun(3600.0)
    second.event(0, [], 4.0)
    second.event(1, [], 4.0)
    assert (second.acted, second.told, second.other_s) == ([4.0, 4.0], 2, 0.0)
    assert _rate(second) == pytest.approx(8 / 40)
    time.sleep(0.02)
    second.event(2, [], 0.01)
    assert second.told == 2
    assert 0.009 <= second.measuring() < 1.0
    second.begin(SimpleNamespace(stream=SimpleNamespace(events=EVENTS)), 0)  # type: ignore[arg-type]
    assert (second.acted, second.told, second.other_s) == ([], 0, 0.0)


def test_a_sample_takes_what_the_samples_of_the_first_experiences_took() -> None:
    assert _rate(trial(1.0, 5.0, 100.0)) == pytest.approx(6 / 40)
    assert _rate(trial()) == 0.0


def test_requests_take_what_was_seen_for_as_many_samples() -> None:
    # 8 seconds for a request after 40 samples are 12 after 60.
    assert _seconds(trial(1.0, 5.0, 8.0), 0.5, retrains=True) == pytest.approx([5.0, 15.0, 8.0, 10.0, 12.0])


def test_requests_that_were_not_seen_take_what_learning_takes() -> None:
    assert _seconds(trial(1.0, 5.0), 0.5, retrains=True) == pytest.approx([5.0, 15.0, 20.0, 10.0, 30.0])
    assert _seconds(trial(1.0), 0.5, retrains=False) == pytest.approx([5.0, 15.0, 10.0, 10.0, 10.0])


def job(cell: int, *strategies: str) -> Job:
    return Job(cell, f"job {cell}", {"strategies": dict.fromkeys(strategies, {})}, "runs", f"folder-{cell}", "code")


def test_jobs_take_what_others_of_their_kind_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten points, of which every second is tried; the others take the mean of those with the same strategies."""
    cells: Any = [type("Cell", (), {"values": {"point": i // 2}}) for i in range(20)]
    jobs = [job(c, "a") for c in range(20)] + [job(0, "b", "c")]
    tried: list[tuple[int, tuple[str, ...], float]] = []

    def of_job(one: Job, allowed: float) -> Forecast:
        tried.append((one.cell, tuple(one.config["strategies"]), allowed))
        return Forecast(100.0, 7.0) if "b" in one.config["strategies"] else Forecast(1.0 + one.cell, 10.0)

    monkeypatch.setattr(module, "_of_job", of_job)
    found = forecast(jobs, cells)
    assert [(cell, names) for cell, names, _ in tried] == [
        (0, ("a",)),
        (4, ("a",)),
        (8, ("a",)),
        (12, ("a",)),
        (16, ("a",)),
        (0, ("b", "c")),
    ]
    assert {allowed for *_, allowed in tried} == {module._MOST_S / 6}
    own = [1.0, 5.0, 9.0, 13.0, 17.0]
    assert found.seconds == pytest.approx(2 * sum(own) + 5 * 2 * sum(own) / 5 + 100)
    assert found.size == pytest.approx(20 * 10 + 7)
    assert forecast([], cells) == Forecast()


def test_forecasts_add_up() -> None:
    assert Forecast(1.0, 2.0) + Forecast(3.0, 5.0).times(2) == Forecast(7.0, 12.0)
