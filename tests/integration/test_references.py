"""References are what their names say, and sharing their prefixes changes not a bit of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lifelong
from lifelong.evaluation.outputs import Outputs
from lifelong.evaluation.planning import plan_evaluation
from lifelong.references import comparison
from lifelong.references.points import Point, chain, points_of
from lifelong.references.tree import References, shares
from lifelong.references.under_way import UnderWay
from lifelong.setup.build import make_setting, make_source, make_strategy, make_stream
from lifelong.setup.instruments import make_instruments
from strategies.parts.passes import Passes
from strategies.step import step
from streams.events import DeletionRequest, Event, Experience, Unit
from streams.ledger import Ledger
from streams.plan import Learn, Plan, RequestSpec, Service, assemble
from streams.randomness import Key
from streams.stream import Stream

KINDS = ("retrained", "original", "withheld", "no-op", "fresh")
REQUESTS = [
    {"after": 2, "scope": "sample", "count": 20},
    {"after": 3, "scope": "class", "keys": [1], "again_after": 4},
    {"after": 4, "scope": "user", "keys": [11]},
    {"after": 5, "scope": "task", "keys": [2]},
]


def config_of(*names: str, **changes: Any) -> Any:
    """A run of the named strategies; of all if none is named."""
    data: dict[str, Any] = {
        "scenario": {"name": "class-incremental", "experiences": 5},
        "schedule": {"name": "explicit", "requests": REQUESTS},
        "model": {"name": "mlp", "hidden": [16]},
        "training": {"epochs": 2, "batch_size": 64, "lr": 0.05},
        "strategies": {
            "replay-retrain": {"learner": {"name": "replay", "memory": 60}, "unlearner": "retrain"},
            "ewc-retrain": {"learner": "ewc", "unlearner": "retrain"},
            "independent": {"isolated": "independent"},
            "replay-none": {"learner": {"name": "replay", "memory": 60}, "unlearner": "none"},
        },
        "references": {"kinds": ["retrained"]},
    }
    data["strategies"] = {name: data["strategies"][name] for name in names or data["strategies"]}
    return lifelong.RunConfig.model_validate(data | changes)


@pytest.fixture(scope="module")
def stream() -> Stream:
    config = config_of()
    return make_stream(config, make_source(config))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))


def words(events: tuple[Any, ...]) -> list[str]:
    return [e.name for e in events]


def taught(events: tuple[Any, ...]) -> dict[str, int]:
    return {e.name: len(e.sample_ids) for e in events if isinstance(e, Experience)}


# --- what the chains are --------------------------------------------------------------------------------------------


def test_the_stream_is_as_the_tests_below_read_it(stream: Stream) -> None:
    assert words(stream.events) == [
        *("task-0", "task-1", "request-0", "task-2", "request-1", "task-3", "request-2"),
        *("wish-1-again", "task-4", "request-3"),
    ]


def test_retrained_lives_without_the_forgotten(stream: Stream) -> None:
    events, source = stream.events, stream.source
    samples, user = events[2].sample_ids, events[6]
    alone = chain(stream, Point("retrained", 2))
    assert words(alone) == ["task-0", "task-1"]
    assert all(not np.isin(e.sample_ids, samples).any() for e in alone)
    assert sum(taught(alone).values()) == len(events[0].sample_ids) + len(events[1].sample_ids) - len(samples)
    # Class 1 gone: only class 0 is left of the first task.
    assert set(source.class_ids[chain(stream, Point("retrained", 4))[0].sample_ids]) == {0}
    # After it is learned again it is there again, at its new place in time.
    later = chain(stream, Point("retrained", 8))
    assert words(later) == ["task-0", "task-1", "task-2", "task-3", "wish-1-again", "task-4"]
    assert set(source.class_ids[later[0].sample_ids]) == {0}
    assert set(source.class_ids[later[4].sample_ids]) == {1}
    assert later[4].incarnation == 1
    # The user's samples are nowhere, those of the last task (barred before they came) included.
    assert all(not (source.user_ids[e.sample_ids] == 11).any() for e in later)
    assert len(user.barred_ids)
    # A whole task gone is an experience less.
    assert words(chain(stream, Point("retrained", 9))) == ["task-0", "task-1", "task-3", "wish-1-again", "task-4"]


def test_original_never_heard_of_deletion(stream: Stream) -> None:
    events = chain(stream, Point("original", 9))
    assert words(events) == ["task-0", "task-1", "task-2", "task-3", "task-4"]
    plain = {e.name: len(e.sample_ids) for e in stream.experiences if not e.incarnation}
    assert taught(events) == plain


def test_withheld_learned_it_and_then_it_stopped_coming(stream: Stream) -> None:
    events = chain(stream, Point("withheld", 9))
    assert words(events) == ["task-0", "task-1", "task-2", "task-3", "wish-1-again", "task-4"]
    first, last = events[0], events[-1]
    assert len(first.sample_ids) == len(stream.events[0].sample_ids)  # what came before its deletion came in full
    assert (stream.source.user_ids[first.sample_ids] == 11).any()
    assert not (stream.source.user_ids[last.sample_ids] == 11).any()
    assert not any(isinstance(e, DeletionRequest) for e in events)


def test_no_op_skips_one_request_and_only_that(stream: Stream) -> None:
    everything = words(stream.events)
    for number, request in enumerate(stream.requests):
        assert words(chain(stream, Point("no-op", 9, number))) == [n for n in everything if n != request.name]
    assert words(chain(stream, Point("no-op", 2, 0))) == ["task-0", "task-1"]


def test_without_a_request_later_ones_cover_what_it_would_have_deleted(stream: Stream) -> None:
    source, (first, second, third, _) = stream.source, stream.requests
    of_class = first.sample_ids[source.class_ids[first.sample_ids] == 1]
    assert len(of_class)
    assert not np.isin(of_class, second.sample_ids).any()
    events = chain(stream, Point("no-op", 6, 0))
    ledger = Ledger(source)
    for event in events:
        ledger.delete(event) if isinstance(event, DeletionRequest) else ledger.admit(event)
    live = np.flatnonzero(ledger.life == 1)
    assert not (source.class_ids[live] == 1).any()
    assert not (source.user_ids[live] == 11).any()
    # What no later request names is still there, and only that.
    theirs = np.isin(source.class_ids[first.sample_ids], [1]) | (source.user_ids[first.sample_ids] == 11)
    assert np.isin(first.sample_ids, live).tolist() == (~theirs).tolist()
    # Without the class, its samples are left to the user who gave them; the skipped life learns "again" what it has.
    assert set(np.flatnonzero(source.class_ids == 1)) & set(chain(stream, Point("no-op", 6, 1))[-1].sample_ids)
    assert len(third.sample_ids) < len(chain(stream, Point("no-op", 6, 1))[-1].sample_ids)


def test_without_a_request_a_sample_goes_with_the_first_that_names_it(tools: Any) -> None:
    """What is named by its class first and by its user afterwards is deleted once, as in any life."""
    source = tools.source(num_classes=2, per_class=6, num_users=2)
    unit = Unit("all", (0, 1), source.test_ids)
    sample = int(
        source.train_ids[(source.class_ids[source.train_ids] == 0) & (source.user_ids[source.train_ids] == 1)][0]
    )
    plan = Plan(source, (unit,), (Experience("all", (0,), source.train_ids),))
    requests = [RequestSpec("sample", (sample,)), RequestSpec("class", (0,)), RequestSpec("user", (1,))]
    stream = assemble(plan, [Learn(0), *requests], Service(), Key(0))
    _, of_class, of_user = chain(stream, Point("no-op", 4, 0))
    assert sample in of_class.sample_ids
    assert np.intersect1d(of_class.sample_ids, of_user.sample_ids).size == 0
    gone = (source.class_ids == 0) | (source.user_ids == 1)
    assert np.array_equal(np.union1d(of_class.sample_ids, of_user.sample_ids), np.flatnonzero(gone & ~source.is_test))


def test_without_a_request_copies_of_what_later_ones_name_go_as_well(tools: Any) -> None:
    source = tools.source(num_classes=2, per_class=4, test_per_class=1)
    train = [np.flatnonzero((source.class_ids == c) & ~source.is_test) for c in range(2)]
    source.x[train[0][1]], source.y[train[0][1]] = source.x[train[0][0]], source.y[train[0][0]]
    first, copy, other, _ = train[0]
    source.user_ids[:] = 0
    source.user_ids[[first, other]] = 1
    units = tuple(Unit(f"u{c}", (c,), np.flatnonzero((source.class_ids == c) & source.is_test)) for c in range(2))
    plan = Plan(source, units, tuple(Experience(f"e{c}", (c,), train[c]) for c in range(2)))
    requests = [RequestSpec("sample", (int(copy),)), RequestSpec("user", (1,))]
    stream = assemble(plan, [Learn(0), Learn(1), *requests], Service(copies=True), Key(0))
    assert [r.sample_ids.tolist() for r in stream.requests] == [[first, copy], [other]]
    for copies, covered in ((True, [first, copy, other]), (False, [first, other])):
        assert chain(stream, Point("no-op", 3, 0), copies)[-1].sample_ids.tolist() == covered


@pytest.mark.parametrize(("second", "passes"), [(1, 1), (4, 1), (6, 2), (10, 2)])
def test_joint_passes_are_the_visits_of_the_stream_to_the_nearest_pass(second: int, passes: int, tools: Any) -> None:
    """Ten samples, of which some come a second time."""
    source = tools.source(num_classes=2, per_class=5)
    ids = source.train_ids
    unit = Unit("all", (0, 1), source.test_ids)
    stream = Stream(source, (unit,), (Experience("one", (0,), ids), Experience("two", (0,), ids[:second])))
    events = chain(stream, Point("joint", 1))
    assert [e.sample_ids.tolist() for e in events] == [ids.tolist()] * passes


def test_fresh_has_lived_through_nothing(stream: Stream) -> None:
    assert chain(stream, Point("fresh", 9)) == ()


def test_points_are_every_request_and_the_end(stream: Stream) -> None:
    assert [p.event for p in points_of(stream, ("retrained",))] == [2, 4, 6, 9]
    no_op = [(p.request, p.event) for p in points_of(stream, ("no-op",))]
    assert no_op == [(0, 2), (0, 9), (1, 4), (1, 9), (2, 6), (2, 9), (3, 9)]


# --- the walk over the tree of chains -------------------------------------------------------------------------------


def same(a: Outputs, b: Outputs) -> bool:
    pairs = [(a.scores, b.scores), (a.losses, b.losses)]
    pairs += [(a.details.probabilities, b.details.probabilities), (a.details.features, b.details.features)]
    return all((x is None and y is None) or np.array_equal(x, y) for x, y in pairs)


@pytest.mark.parametrize(
    "name",
    [
        "replay-retrain",
        *(pytest.param(n, marks=pytest.mark.nightly) for n in ("ewc-retrain", "independent", "replay-none")),
    ],
)
def test_walking_the_tree_is_retraining_each_from_scratch(name: str, stream: Stream, tmp_path: Path) -> None:
    config = config_of()
    setting, plan = make_setting(config, stream), plan_evaluation(stream, config.evaluation)
    evaluator = make_instruments(config.evaluation, stream, plan, setting, "cpu").evaluator
    plays = 0

    def build() -> Any:
        return make_strategy(config.strategies[name], setting, name)

    def make_ledger() -> Ledger:
        return Ledger(stream.source)

    wanted = {p: chain(stream, p) for p in points_of(stream, KINDS)}
    references = References(build, make_ledger, evaluator, name, b"secret", tmp_path)
    found = dict(references.compute(wanted))
    assert references.cost.computed == len(wanted) == len(found)
    steps = 0
    for point, events in wanted.items():
        strategy, ledger, visits = build(), make_ledger(), 0
        for event in events:
            outcome = step(strategy, event, ledger).outcome
            steps += outcome.steps
            visits += outcome.forward + outcome.backward
            plays += 1
        assert same(found[point], evaluator.evaluate(strategy, point.event)), point
        assert found[point].details.visits == visits, "what the whole life takes, shared or not"
    assert references.cost.outcome.steps <= 0.6 * steps, "prefixes are shared"
    again = References(build, make_ledger, evaluator, name, b"secret", tmp_path)
    assert all(same(found[p], outputs) for p, outputs in again.compute(wanted))
    assert (again.cost.computed, again.cost.cached, again.cost.outcome.steps) == (0, len(wanted), 0)


@pytest.mark.parametrize("name", ["replay-none", pytest.param("ewc-retrain", marks=pytest.mark.nightly)])
def test_a_walk_that_is_stopped_goes_on_where_its_life_stood(
    name: str, stream: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of()
    setting, plan = make_setting(config, stream), plan_evaluation(stream, config.evaluation)
    evaluator = make_instruments(config.evaluation, stream, plan, setting, "cpu").evaluator
    wanted = {p: chain(stream, p) for p in points_of(stream, ("retrained", "original"))}
    states = tmp_path / "states"

    def walked(cache: str) -> References:
        def build() -> Any:
            return make_strategy(config.strategies[name], setting, name)

        under_way = UnderWay(states, name, "cpu", 0.0)  # after every step
        folder = tmp_path / cache
        return References(build, lambda: Ledger(stream.source), evaluator, name, b"secret", folder, None, under_way)

    alone = walked("alone")
    expected = dict(alone.compute(wanted))
    whole = alone.cost.outcome.steps
    taken, stops = 0, list(range(37, whole, 37))  # within lessons
    done = Passes.done

    def counted(self: Passes, loss: torch.Tensor) -> None:
        nonlocal taken
        taken += 1
        if stops and taken > stops[0]:
            raise KeyboardInterrupt
        done(self, loss)

    monkeypatch.setattr(Passes, "done", counted)
    while stops:
        with pytest.raises(KeyboardInterrupt):
            list(walked("stopped").compute(wanted))
        assert any(states.iterdir()), "the life at hand is kept"
        stops.pop(0)
    found = dict(walked("stopped").compute(wanted))
    assert all(same(found[point], outputs) for point, outputs in expected.items())
    assert all(found[point].details.visits == outputs.details.visits for point, outputs in expected.items())
    assert taken < 2 * whole, "only common beginnings are lived once more"
    assert not list(states.iterdir())


# --- in a run -------------------------------------------------------------------------------------------------------


def test_parts_for_processes_hold_every_life_once_and_about_equal_work(stream: Stream, tmp_path: Path) -> None:
    def missing(*chains: tuple[Event, ...]) -> dict[Any, tuple[tuple[Event, ...], Path]]:
        return {number: (events, tmp_path / str(number)) for number, events in enumerate(chains)}

    def learn(name: str, count: int) -> Experience:
        return Experience(name, (0,), np.arange(count))

    start = learn("start", 100)
    apart = missing(*((learn(f"own-{n}", 100),) for n in (3, 1, 2, 0)))
    assert sorted(len(part) for part in shares(apart, 2)) == [2, 2]
    assert len(shares(apart, 8)) == 4
    assert shares(apart, 1) == [apart]
    together = missing(*((start, learn(f"end-{n}", 10)) for n in range(4)))
    assert shares(together, 2) == [together], "each part would live through the start again"
    late = missing(*((start, learn(f"end-{n % 2}", 400), learn(f"last-{n}", 20)) for n in range(4)))
    assert sorted(sorted(part) for part in shares(late, 2)) == [[0, 2], [1, 3]]
    nested = missing((start,), (start, learn("more", 10)), (learn("other", 110),))
    assert sorted(sorted(part) for part in shares(nested, 2)) == [[0, 1], [2]]
    assert shares(missing(()), 2) == [missing(())]


@pytest.mark.nightly
def test_references_in_parts_are_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of("replay-none", references={"kinds": ["retrained", "original", "no-op"]})
    parts: list[int] = []

    def here(p: Any, name: str, kind: Any, workers: int, under_way: Path, missing: Any) -> list[Any]:
        parts.append(len(missing))
        return [comparison._live_here(config, p.stream, name, kind, under_way, part) for part in missing]

    def lived(folder: str, workers: int) -> tuple[dict[str, bytes], bytes]:
        monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / folder / "cache"))
        run = lifelong.run(config, tmp_path / folder, workers=workers)
        files = {f.name: f.read_bytes() for f in (tmp_path / folder / "cache" / "references").glob("*.sealed")}
        return files, (run.folder / "strategies" / "replay-none" / "results.jsonl").read_bytes()

    alone = lived("alone", 1)
    monkeypatch.setattr(comparison, "_live_elsewhere", here)
    assert lived("parts", 3) == alone
    assert len(alone[0]) > 8
    assert parts
    assert min(parts) > 1


@pytest.mark.nightly
def test_references_in_processes_are_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of("replay-none")
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "alone"))
    lifelong.run(config, tmp_path / "one")
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "beside"))
    lifelong.run(config, tmp_path / "two", workers=2)
    files = [sorted((tmp_path / cache / "references").glob("*.sealed")) for cache in ("alone", "beside")]
    assert [f.name for f in files[0]] == [f.name for f in files[1]]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*files, strict=True))


def test_a_retrained_run_is_at_no_distance_from_the_retrained_reference(tmp_path: Path) -> None:
    run = lifelong.run(config_of(), tmp_path)
    for name, table in run.tables.items():
        rows = [r for r in table.rows if r.model == "retrained"]
        gaps = [r for r in rows if r.metric.startswith("gap_")]
        js = [r for r in rows if r.metric == "js"]
        assert len([r for r in gaps if r.value is not None]) >= 25
        assert len([r for r in js if r.value is not None]) == 7  # four when served, three more at the end
        features = [r for r in rows if r.metric.startswith("dd_")]
        if name == "replay-none":
            assert any(r.value for r in gaps)
            assert any(r.value for r in js)
            continue
        assert {r.value for r in gaps} <= {0.0, None}
        assert {r.value for r in js} == {0.0}
        for r in features:
            assert r.value == pytest.approx(0, abs=1e-12) if r.value is not None else r.reason
        assert all((r.value is None) == (name == "independent") for r in features)
        assert table.last("immediate_abs_gap_forget_accuracy", "requests", "retrained").value == 0.0


def test_learning_again_takes_samples_out_of_a_request_and_no_others(tmp_path: Path, stream: Stream) -> None:
    # Of class 1 all is learned again but what user 11 has asked to be forgotten as well.
    plan = plan_evaluation(stream, config_of().evaluation)
    assert [(a.name, a.event, a.until) for a in plan.requests] == [
        ("request-0", 2, 10),
        ("request-1", 4, 10),
        ("request-2", 6, 10),
        ("request-3", 9, 10),
    ]
    table = lifelong.run(config_of("replay-none", references={"kinds": ["retrained", "original"]}), tmp_path).tables[
        "replay-none"
    ]
    for request, events in (("request-0", range(2, 10)), ("request-1", range(4, 10)), ("request-2", range(6, 10))):
        assert [r.event for r in table.select("forget_accuracy", request)] == list(events)
    deleted, again = stream.events[4].sample_ids, stream.events[7].sample_ids
    left = np.setdiff1d(deleted, again)
    assert set(stream.source.user_ids[left]) == {11}
    assert [r.n for r in table.select("forget_accuracy", "request-1")] == [*[len(deleted)] * 3, *[len(left)] * 3]
    assert [r.n for r in table.select("raw_relapse", "request-1")] == [*[len(deleted)] * 2, *[len(left)] * 3]
    assert [r.value is None for r in table.select("forget_test_accuracy", "request-1")] == [False] * 3 + [True] * 3
    assert {r.event for r in table.select("gap_forget_accuracy", "request-1", "retrained")} == {4, 6, 9}, "a curve"
    assert {r.event for r in table.select("gap_forget_accuracy", "request-0", "retrained")} == {2, 4, 6, 9}
    # The unit whose class was deleted counts again, from its new beginning.
    assert table.select("accuracy", "task-0")[-1].n > table.select("accuracy", "task-0")[4].n


@pytest.mark.nightly
def test_lazy_service_keeps_its_promises(tmp_path: Path) -> None:
    requests = [{k: v for k, v in r.items() if k != "again_after"} for r in REQUESTS]
    changes = {"schedule": {"name": "explicit", "requests": requests}}
    exact = ("replay-retrain", "independent")
    lazy = lifelong.run(config_of(*exact, "replay-none", **changes, service={"wait_for": 3}), tmp_path)
    eager = lifelong.run(config_of(*exact, **changes), tmp_path)
    for name in exact:
        table = lazy.tables[name]
        served = [r for r in table.rows if r.metric == "latency"]
        assert [(r.subject, r.value, r.n) for r in served] == [("request-0", 1.0, 3), ("request-1", 0.0, 1)]
        assert [r.value for r in table.rows if r.metric == "exposure"] == [1.0, 0.0]
        gaps = [r.value for r in table.rows if r.model == "retrained" and r.metric.startswith("gap_")]
        assert set(gaps) <= {0.0, None}
        # Late or at once: the same data is gone, so the same model is left.
        for metric in ("average_accuracy", "retain_accuracy"):
            ours, theirs = table.last(metric, "stream"), eager.tables[name].last(metric, "stream")
            assert ours.value == theirs.value
    inexact = lazy.tables["replay-none"]
    assert [r.value for r in inexact.rows if r.metric == "exposure"] == [None, None]
    assert [r.value for r in inexact.rows if r.metric == "latency"] == [1.0, 0.0]


def test_every_reference_appears_with_what_it_scores_itself(tmp_path: Path) -> None:
    kinds = [*KINDS, "retrained-2"]
    strategies = {"naive-none": {"learner": "naive", "unlearner": "none"}}
    run = lifelong.run(config_of(strategies=strategies, references={"kinds": kinds}), tmp_path)
    table = run.tables["naive-none"]
    assert {r.model for r in table.rows} == {"run", *kinds}
    # Nothing was unlearned and nothing is kept: the run is the withheld model.
    withheld = [r.value for r in table.rows if r.model == "withheld" and r.metric.startswith("gap_")]
    assert set(withheld) == {0.0, None}
    # Skipping a request that changed nothing changes nothing; data that it kept from arriving stays away all the same.
    skipped = [(r.subject, r.event, r.value) for r in table.select("gap_forget_loss", model="no-op")]
    served_and_end = [(f"request-{n}", event) for n, served in enumerate((2, 4, 6)) for event in (served, 9)]
    assert skipped == [(*key, 0.0) for key in [*served_and_end, ("request-3", 9)]]
    # Another seed is another model; the initial weights know nothing.
    losses = {k: table.last("forget_loss", "request-0", k).value for k in ("retrained", "retrained-2", "fresh")}
    assert len(set(losses.values())) == 3
    assert table.last("average_accuracy", "stream", "fresh").value < 0.3
