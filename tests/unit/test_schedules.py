from __future__ import annotations

import datetime
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streams.config import parse
from streams.errors import ConfigError, DataError
from streams.events import Event, Experience
from streams.plan import Again, Consolidate, Learn, Plan, RequestSpec, Scheduled, Service, assemble
from streams.randomness import Key
from streams.registry import entries
from streams.scenarios import recurring, task_incremental
from streams.schedules import burst, bursts, delayed, explicit, none, periodic, poisson, published, recorded, worst_case

KEY = Key(0) / "schedule"
MODULES: dict[str, Any] = {
    "burst": burst,
    "bursts": bursts,
    "delayed": delayed,
    "explicit": explicit,
    "none": none,
    "periodic": periodic,
    "poisson": poisson,
    "published": published,
}


def make_plan(tools: Any, tasks: int) -> Plan:
    source = tools.source(num_classes=tasks, per_class=20, test_per_class=1)
    return task_incremental.build(source, task_incremental.Config(experiences=tasks), 0)


def shape(scheduled: list[Scheduled]) -> str:
    """L0 R L1 A0 ..."""
    letters = {RequestSpec: "R", Learn: "L", Consolidate: "C", Again: "A"}
    return " ".join(
        letters[type(m)]
        + ("" if isinstance(m, RequestSpec) else str(m.request if isinstance(m, Again) else m.experience))
        for m in scheduled
    )


def test_every_schedule_is_tested_here() -> None:
    # `adaptive` looks at models; it is tested with some in integration/test_adaptive.py.
    assert set(entries("schedules")) - {"adaptive", "corrective", "recorded", "worst-case"} == set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_every_default_fits_five_tasks_and_repeats(name: str, tools: Any) -> None:
    plan, module = make_plan(tools, 5), MODULES[name]
    scheduled = module.place(plan, module.Config(), KEY)
    assert scheduled == module.place(plan, module.Config(), KEY)
    stream = assemble(plan, scheduled, Service(), KEY)
    assert [e.name for e in stream.experiences] == [f"task-{i}" for i in range(5)]


def test_none(tools: Any) -> None:
    assert shape(none.place(make_plan(tools, 3), none.Config(), KEY)) == "L0 L1 L2"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "L0 R L1 R L2 R L3 R L4 R"),
        ({"every": 2}, "L0 R L1 L2 R L3 L4 R"),
        ({"every": 2, "start": 2}, "L0 L1 R L2 L3 R L4"),
        ({"limit": 2}, "L0 R L1 R L2 L3 L4"),
        ({"limit": 0}, "L0 L1 L2 L3 L4"),
        ({"start": 9}, "L0 L1 L2 L3 L4"),
    ],
)
def test_periodic(options: dict[str, int], expected: str, tools: Any) -> None:
    assert shape(periodic.place(make_plan(tools, 5), periodic.Config(**options), KEY)) == expected


def test_scopes_take_turns_and_counts_differ_by_scope(tools: Any) -> None:
    config = periodic.Config(scope=("sample", "class"), samples=7, count=2, reason="correct", exact=True)
    specs = [m for m in periodic.place(make_plan(tools, 3), config, KEY) if isinstance(m, RequestSpec)]
    assert specs == [
        RequestSpec("sample", None, 7, 0, "correct", True),
        RequestSpec("class", None, 2, 0, "correct", True),
        RequestSpec("sample", None, 7, 0, "correct", True),
    ]
    with pytest.raises(ConfigError, match="needs at least one of"):
        parse(periodic.Config, {"scope": []}, "schedule")


@pytest.mark.parametrize("name", ["burst", "bursts", "delayed", "periodic", "poisson"])
def test_what_a_requester_demands_is_heard(name: str, tools: Any) -> None:
    """Reason and exactness arrive with the events of every schedule that draws its requests."""
    plan, config = make_plan(tools, 6), MODULES[name].Config(reason="suppress", exact=True)
    events = assemble(plan, MODULES[name].place(plan, config, KEY), Service(), KEY).events
    demands = {(e.reason, e.exact) for e in events if not isinstance(e, Experience)}
    assert demands == {("suppress", True)}


OTHER: dict[str, Any] = {
    **{"after": 2, "age": 1, "count": 2, "every": 2, "exact": True, "gamma": 0.5, "kind": "easy", "limit": 1},
    **{"lr": 0.1, "passes": 3, "rate": 2.0, "reason": "suppress", "requests": 2, "rounds": 3, "samples": 7},
    **{"scope": "class", "start": 2, "step": 3.0, "window": 1},
    **{"burst": 3, "burst_every": 2, "again_every": 3, "again_after": 2},
}
DRAWN = [burst, bursts, delayed, periodic, poisson, worst_case]


@pytest.mark.parametrize("module", DRAWN, ids=lambda m: m.__name__[18:])
def test_every_option_tells(module: Any, tools: Any) -> None:
    """Another value of any option places other requests, or requests for other things."""
    plan = make_plan(tools, 20)
    takes_turns = "scope" in module.Config.model_fields and module is not worst_case
    base: dict[str, Any] = {"scope": ("sample", "class")} if takes_turns else {}
    base |= {"again_every": 2} if module is bursts else {}
    plain = module.place(plan, module.Config(**base), KEY)
    for option in module.Config.model_fields.keys() - {"chosen"}:
        assert module.place(plan, module.Config(**base | {option: OTHER[option]}), KEY) != plain, option


def test_worst_cases_that_were_chosen_before_are_asked_for(tools: Any, tmp_path: Path) -> None:
    plan, file = make_plan(tools, 4), tmp_path / "choices.json"
    config = worst_case.Config(samples=2, every=2, start=2, chosen=str(file))
    file.write_text(json.dumps({str(KEY.seed): [[3, 1], [2]]}), encoding="utf-8")
    specs = [s for s in worst_case.place(plan, config, KEY) if isinstance(s, RequestSpec)]
    assert [(s.keys, s.choice) for s in specs] == [((3, 1), None), ((2,), None)]
    other = Key(KEY.seed + 1)
    free = config.model_copy(update={"chosen": None})
    assert worst_case.place(plan, config, other) == worst_case.place(plan, free, other), "it is chosen anew"
    with pytest.raises(DataError, match="has 2 requests for seed"):
        worst_case.place(plan, config.model_copy(update={"every": 1, "start": 1}), KEY)
    file.write_text(json.dumps({str(KEY.seed): [[3], []]}), encoding="utf-8")
    with pytest.raises(DataError, match=r"choices.json request 1 of seed 0 names nothing"):
        worst_case.place(plan, config, KEY)
    for text in ("[]", "{", f'{{"{KEY.seed}": 3}}'):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=r"schedule.chosen: .*choices.json cannot be read"):
            worst_case.place(plan, config, KEY)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"burst_every": 2, "burst": 3}, "L0 R L1 R R R L2 R L3 R R R L4 R"),
        ({"burst_every": 1, "burst": 2, "every": 3}, "L0 R R L1 L2 L3 R R L4"),
        ({"burst_every": 2, "burst": 3, "start": 2, "limit": 3}, "L0 L1 R L2 R R L3 L4"),
        ({"burst_every": 9, "again_every": 2, "again_after": 2}, "L0 R L1 R L2 R L3 A1 R L4 R"),
        (
            {"burst_every": 1, "burst": 2, "every": 4, "again_every": 1, "again_after": 2},
            "L0 R R L1 L2 A0 A1 L3 L4 R R",
        ),
    ],
)
def test_bursts(options: dict[str, int], expected: str, tools: Any) -> None:
    assert shape(bursts.place(make_plan(tools, 5), bursts.Config(**options), KEY)) == expected


def test_burst(tools: Any) -> None:
    plan = make_plan(tools, 4)
    assert shape(burst.place(plan, burst.Config(after=2, requests=3), KEY)) == "L0 L1 R R R L2 L3"
    assert shape(burst.place(plan, burst.Config(after=4, requests=1), KEY)) == "L0 L1 L2 L3 R"
    with pytest.raises(ConfigError, match="5 is past the last of 4"):
        burst.place(plan, burst.Config(after=5), KEY)


def test_delayed_asks_for_data_of_the_age(tools: Any) -> None:
    plan = make_plan(tools, 6)
    scheduled = delayed.place(plan, delayed.Config(age=2, every=2), KEY)
    assert shape(scheduled) == "L0 L1 L2 R L3 L4 R L5"
    stream = assemble(plan, scheduled, Service(), KEY)
    learned: dict[int, int] = {}
    count = 0
    for event in stream.events:
        if isinstance(event, Experience):
            learned |= dict.fromkeys(event.sample_ids.tolist(), count)
            count += 1
        else:
            assert max(learned[i] for i in event.sample_ids.tolist()) < count - 2


def test_poisson_counts(tools: Any) -> None:
    plan = make_plan(tools, 400)
    scheduled = poisson.place(plan, poisson.Config(rate=0.5, start=101), KEY)
    text = shape(scheduled)
    assert "R" not in text[: text.index("L100")]
    counts = np.diff([i for i, m in enumerate(scheduled) if isinstance(m, Learn)])[100:] - 1
    assert abs(counts.mean() - 0.5) < 3 * np.sqrt(0.5 / 300)
    assert abs(counts.var() - 0.5) < 0.2
    assert shape(poisson.place(plan, poisson.Config(rate=0.5), Key(1) / "schedule")) != text


def test_explicit_order_of_arrival_and_relearning(tools: Any) -> None:
    config = explicit.Config.model_validate(
        {
            "requests": [
                {"after": 3, "scope": "class", "keys": [2]},
                {"after": 1, "scope": "task", "keys": [0], "again_after": 2, "exact": True},
                {"after": 3, "scope": "sample", "count": 4, "reason": "correct"},
            ]
        }
    )
    scheduled = explicit.place(make_plan(tools, 4), config, KEY)
    assert shape(scheduled) == "L0 R L1 A0 L2 R R L3"
    assert [m for m in scheduled if isinstance(m, RequestSpec)] == [
        RequestSpec("task", (0,), exact=True),
        RequestSpec("class", (2,)),
        RequestSpec("sample", None, 4, 0, "correct"),
    ]
    stream = assemble(make_plan(tools, 4), scheduled, Service(), KEY)
    assert [e.name for e in stream.events] == [
        "task-0",
        "request-0",
        "task-1",
        "wish-0-again",
        "task-2",
        "request-1",
        "request-2",
        "task-3",
    ]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"after": 9, "scope": "class", "keys": [0]}, "9 is past the last"),
        ({"after": 2, "scope": "class", "keys": [0], "again_after": 9}, "9 is past the last"),
        ({"after": 2, "scope": "class", "keys": [0], "again_after": 1}, "must not come before"),
        ({"after": 0, "scope": "class"}, "schedule.requests.0.after: 0 is not valid"),
        ({"after": 1, "scope": "klass"}, "schedule.requests.0.scope: 'klass' is not valid"),
        ({"after": 1, "scope": "class", "keys": []}, "at least one thing"),
        ({"after": 1, "scope": "class", "key": [0]}, "there is no such key"),
    ],
)
def test_explicit_errors(request_: dict[str, object], message: str, tools: Any) -> None:
    with pytest.raises(ConfigError, match=message):
        explicit.place(make_plan(tools, 4), parse(explicit.Config, {"requests": [request_]}, "schedule"), KEY)


TASKS = {"clpu": 5, "uncle-five": 5, "uncle-ten": 10, "uncle-twenty": 20}


def token(event: Event) -> str:
    """P0 T1 C1 U1 ... as the sequences are written."""
    if not isinstance(event, Experience):
        return f"U{event.keys_of('task')[0]}"
    letter = {None: "L", "permanent": "P", "temporary": "T"}[event.retention]
    return ("C" if event.consolidates else letter) + event.name.split("-")[1]


@pytest.mark.parametrize("sequence", published.SEQUENCES)
def test_published_sequences_are_valid_lives(sequence: str, tools: Any) -> None:
    tasks = next(n for prefix, n in TASKS.items() if sequence.startswith(prefix))
    plan = make_plan(tools, tasks)
    stream = assemble(plan, published.place(plan, published.Config(sequence=sequence), KEY), Service(), KEY)  # type: ignore[arg-type]
    tokens = published.SEQUENCES[sequence].split()
    assert [token(e) for e in stream.events] == tokens
    for request in stream.requests:
        (task,) = request.keys_of("task")
        assert request.sample_ids.tolist() == plan.experiences[task].sample_ids.tolist()
    with pytest.raises(ConfigError, match=f"is for {tasks} tasks, the scenario has 7"):
        published.place(make_plan(tools, 7), published.Config(sequence=sequence), KEY)  # type: ignore[arg-type]


def test_published_sequences_need_experiences_that_are_tasks(tools: Any) -> None:
    """Unit 1 of recurring classes is a class, and not what the second experience teaches."""
    source = tools.source(num_classes=5, per_class=4, test_per_class=1)
    for sequence in ("uncle-five-1", "pall"):
        plan = recurring.build(source, recurring.Config(tasks=5), 0)
        with pytest.raises(ConfigError, match="recurring-0 of the scenario is no task of its own"):
            published.place(plan, published.Config(sequence=sequence), KEY)  # type: ignore[arg-type]


def test_clpu_forgets_two_tasks(tools: Any) -> None:
    plan = make_plan(tools, 5)
    assert shape(published.place(plan, published.Config(sequence="clpu"), KEY)) == "L0 L1 L2 L3 C1 R L4 R"


def test_pall_positions_are_uniform_after_learning() -> None:
    # With one task to forget out of 3: the task is uniform, and so is its place among the later positions.
    generator = np.random.default_rng(0)
    draws = 6000
    counts: dict[tuple[int, int], int] = {}
    for _ in range(draws):
        scheduled = published.pall(3, 1, generator)
        place = next(i for i, m in enumerate(scheduled) if isinstance(m, RequestSpec))
        spec = scheduled[place]
        assert isinstance(spec, RequestSpec)
        assert spec.keys is not None
        counts[spec.keys[0], place] = counts.get((spec.keys[0], place), 0) + 1
    expected = {(t, p): 1 / 3 / (3 - t) for t in range(3) for p in range(t + 1, 4)}
    assert counts.keys() == expected.keys()
    for where, p in expected.items():
        assert abs(counts[where] - draws * p) < 4 * np.sqrt(draws * p)


@pytest.mark.parametrize("tasks", [5, 10, 20])
def test_pall_streams_are_valid(tasks: int, tools: Any) -> None:
    plan = make_plan(tools, tasks)
    shapes = set()
    for seed in range(10):
        scheduled = published.place(plan, published.Config(sequence="pall", forgets=3), Key(seed))
        stream = assemble(plan, scheduled, Service(), KEY)
        assert len(stream.requests) == 3
        assert len({r.keys_of("task") for r in stream.requests}) == 3
        shapes.add(tuple(e.name if isinstance(e, Experience) else e.keys_of("task") for e in stream.events))
    assert len(shapes) == 10
    with pytest.raises(ConfigError, match=r"forgets: 3 is more than the 2 tasks"):
        published.place(make_plan(tools, 2), published.Config(sequence="pall"), KEY)


def specs(plan: Plan, module: Any, config: dict[str, Any]) -> list[tuple[int, RequestSpec]]:
    """The specs, each with the number of experiences before it."""
    scheduled = module.place(plan, parse(module.Config, config), KEY)
    return [
        (sum(isinstance(m, Learn) for m in scheduled[:i]), m)
        for i, m in enumerate(scheduled)
        if isinstance(m, RequestSpec)
    ]


def test_explicit_takes_names(tools: Any) -> None:
    plan = make_plan(tools, 3)
    requests = [
        {"after": 1, "scope": "user", "keys": ["u2", 0]},
        {"after": 2, "scope": "class", "keys": ["c1"]},
        {"after": 3, "scope": "task", "keys": [plan.units[2].name]},
    ]
    assert [s.keys for _, s in specs(plan, explicit, {"requests": requests})] == [(2, 0), (1,), (2,)]


@pytest.mark.parametrize(
    ("scope", "key", "message"),
    [
        ("user", "u9", r"requests\.0\.keys: there is no user called 'u9'\. There are 3, 'u0' to 'u2'"),
        ("sample", "u1", "samples have no names"),
    ],
)
def test_explicit_refuses_names_of_nothing(scope: str, key: str, message: str, tools: Any) -> None:
    config = {"requests": [{"after": 1, "scope": scope, "keys": [key]}]}
    with pytest.raises(ConfigError, match=message):
        specs(make_plan(tools, 3), explicit, config)


def test_a_number_is_the_one_in_a_name(tools: Any) -> None:
    plan = make_plan(tools, 3)
    plan = replace(plan, source=replace(plan.source, user_names=("1003", "1004", "1017")))
    config = {"requests": [{"after": 1, "scope": "user", "keys": [1017, "1003"]}]}
    assert [s.keys for _, s in specs(plan, explicit, config)] == [(2, 0)]


LEARNED = [datetime.date(2026, 1, 31), datetime.date(2026, 2, 28), datetime.date(2026, 3, 31)]


def test_a_recorded_request_comes_after_what_was_learned_by_its_date(tools: Any, tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text("date,user,note\n2026-03-05,u1,late\n2026-01-31,u0,\n2026-03-01T10:00,u2,\n", encoding="utf-8")
    found = specs(make_plan(tools, 3), recorded, {"path": str(file), "learned": LEARNED, "reason": "correct"})
    assert found == [
        (1, RequestSpec("user", (0,), reason="correct")),
        (2, RequestSpec("user", (2,), reason="correct")),
        (2, RequestSpec("user", (1,), reason="correct")),
    ]


def test_a_record_may_count_experiences_in_place_of_days(tools: Any, tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text("sample,after\n5,3\n2,1\n", encoding="utf-8")
    found = specs(make_plan(tools, 3), recorded, {"path": str(file)})
    assert found == [(1, RequestSpec("sample", (2,))), (3, RequestSpec("sample", (5,)))]


@pytest.mark.parametrize(
    ("text", "learned", "message"),
    [
        ("user,date\nu1,2026-02-30\n", LEARNED, "line 2: '2026-02-30' in the column 'date' is not a date"),
        ("user,date\nu1,2025-12-01\n", LEARNED, "line 2: date 2025-12-01 is after 0 experiences.*2026-01-31"),
        ("user,date\nu1,2026-02-01\n", [], "learned: 0 dates are given.*every one of the 3 experiences"),
        ("user,date\nu1,2026-02-01\n", LEARNED[::-1], "in order"),
        ("user,after\nu1,4\n", [], "line 2: after 4 is after 4 experiences"),
        ("user,after\nu7,1\n", [], "line 2: there is no user called 'u7'"),
        ("user,after\nu1\n", [], "line 2: has 1 values; the header has 2"),
        ("user,when\nu1,1\n", [], r"has the columns \['user', 'when'\]"),
        ("", [], r"has the columns \[\]"),
    ],
)
def test_a_record_that_cannot_be_is_refused(
    text: str, learned: list[datetime.date], message: str, tools: Any, tmp_path: Path
) -> None:
    file = tmp_path / "log.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises((ConfigError, DataError), match=message):
        specs(make_plan(tools, 3), recorded, {"path": str(file), "learned": learned})


def test_a_record_that_is_missing_is_named(tools: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"schedule\.path: .*nowhere\.csv cannot be read"):
        specs(make_plan(tools, 3), recorded, {"path": str(tmp_path / "nowhere.csv")})
