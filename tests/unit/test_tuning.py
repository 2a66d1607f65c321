"""Tuning: which settings are tried, which are stopped, and which is chosen; what runs come to is made up here."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lifelong.config.run import StrategyConfig
from lifelong.results.table import Row, Table
from lifelong.study import tuning as module
from lifelong.study.config import StudyConfig, lay_out
from lifelong.study.proposals import NUM_SPREAD, Tried, propose
from lifelong.study.racing import Trial, prune, ranked
from lifelong.study.spaces import spaces_of, value_at, with_options
from lifelong.study.study import Study
from lifelong.study.tune import Term, Tune, default_goal, goal_of, losses
from lifelong.study.tuning import Tuning, diverged
from strategies.ranges import Range, linear, log, to_one
from streams.config import Named, parse
from streams.errors import ConfigError

BASE: dict[str, Any] = {
    "name": "tiny",
    "claim": "tuning helps",
    "base": {
        "source": "digits",
        "scenario": {"name": "class-incremental", "experiences": 5},
        "schedule": {"name": "periodic", "scope": "sample", "limit": 2},
        "model": {"name": "mlp", "hidden": [4]},
    },
    "strategies": {
        "none": {"learner": "replay", "unlearner": "none"},
        "ascent": {"learner": "replay", "unlearner": {"name": "gradient-ascent", "lr": 0.001}},
        "ssd": {"learner": "replay", "unlearner": "ssd"},
    },
    "seeds": 3,
    "tune": {"trials": 20, "information": "oracle", "of": ["ascent"]},
}
Measure = Callable[[dict[str, Any], int], Any]
SHADOWED: list[dict[str, Any]] = [
    {"metric": "ulira_auc", "subject": "each-request"},
    {"metric": "immediate_ulira_auc", "subject": "requests"},
]


def study_of(**tune: Any) -> StudyConfig:
    return parse(StudyConfig, BASE | {"tune": BASE["tune"] | tune})


class Searched(Tuning):
    """Searches whose runs are made up."""

    def __init__(self, study: StudyConfig, measure: Measure, file: Path | None = None) -> None:
        super().__init__(study, lay_out(study), Path())
        self.made_up, self.asked = measure, list[tuple[dict[str, Any], int]]()
        if file is not None:
            self.open(file, "this")
        else:
            self.notes.save = lambda: None  # type: ignore[method-assign]

    def _jobs(self, wanted: Any) -> list[Any]:
        return []

    def _measure(self, wanted: Any, jobs: Any) -> Any:
        self.asked.append((wanted.options, wanted.seed))
        value = self.made_up(wanted.options, wanted.seed)
        return module._Measured(None if value is None else tuple(value), 1.0, 10.0)


def searched(measure: Measure, **tune: Any) -> Any:
    tuning = Searched(study_of(**tune), measure)
    assert tuning.run(lambda jobs: []) == []
    found = tuning.tuned()
    assert found is not None
    return tuning, found


def valley(options: dict[str, Any], seed: int) -> tuple[float, ...]:
    """Lowest at a learning rate of 0.01; epochs and batch do nothing."""
    return (math.log10(options["unlearner.lr"] / 0.01) ** 2 + 0.001 * (seed % 7),)


def test_the_search_finds_what_is_better_than_what_is_written() -> None:
    tuning, (found,) = searched(valley)
    assert found.name == "ascent+oracle"
    assert len(found.trials) == 20
    assert found.trials[0].options["unlearner.lr"] == 0.001
    assert 0.004 < found.options["unlearner.lr"] < 0.025
    assert found.confirmed < found.default
    assert found.seconds == len(tuning.asked)
    assert found.passes == 10 * found.seconds
    (judged,) = [c for c in lay_out(tuning.with_variants([found])) if c.seed == 0]
    assert set(judged.config.strategies) == {"none", "ascent", "ssd", "ascent+oracle"}
    assert judged.config.strategies["ascent+oracle"].unlearner.options["lr"] == found.options["unlearner.lr"]
    assert judged.config.strategies["ascent"].unlearner.options["lr"] == 0.001


def test_bad_trials_are_stopped_after_the_first_seed_and_what_is_written_never_is() -> None:
    tuning, (found,) = searched(lambda o, s: (abs(math.log10(o["unlearner.lr"]) + 4.5),))
    pruned = [t for t in found.trials if t.state == "pruned"]
    assert 4 <= len(pruned) <= 14
    assert all(len(t.losses) == 1 for t in pruned)
    assert found.trials[0].state == "finished"
    assert found.count("finished") + len(pruned) == 20
    seeds = [s for _, s in tuning.asked]
    assert seeds.count(1000) == 20
    assert seeds.count(1001) == found.count("finished")
    assert seeds.count(1002) == seeds.count(1004) == 6  # the best five and what is written


def test_every_strategy_gets_the_same_number_of_trials() -> None:
    _, found = searched(lambda o, s: (float(len(o)),), of=[], information=["oracle", "practical"])
    assert [f.name for f in found] == ["ascent+oracle", "ssd+oracle", "ascent+practical", "ssd+practical"]
    assert {len(f.trials) for f in found} == {20}
    assert {f.near for f in found} == {1.0}  # nothing matters
    assert all(f.chosen == 0 and "no trial was better" in f.note for f in found)


def test_a_search_that_is_stopped_anywhere_goes_on_with_the_same_trials(tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def once(options: dict[str, Any], seed: int) -> tuple[float, ...]:
        tuning.left -= 1
        if not tuning.left:
            raise Stopped
        return valley(options, seed)

    whole, (expected,) = searched(valley)
    num_stops = 0
    while True:
        tuning: Any = Searched(study_of(), once, tmp_path)
        tuning.left = 9
        try:
            tuning.run(lambda jobs: [])
        except Stopped:
            num_stops += 1
            tuning.notes.save()  # what was read before
            continue
        break
    assert num_stops >= 3
    assert tuning.tuned() == [expected]
    again = Searched(study_of(), lambda o, s: pytest.fail("nothing is left to run"), tmp_path)
    assert again.tuned() == [expected]
    with pytest.raises(ConfigError, match=r"tuning\.json holds the tuning of another study \(this"):
        whole.open(tmp_path, "other")


def test_trials_do_not_depend_on_anything_but_the_study() -> None:
    _, (first,) = searched(valley)
    assert searched(valley)[1] == [first]
    other = searched(valley, sampler_seed=1)[1][0]
    assert [t.options for t in other.trials] != [t.options for t in first.trials]


def test_who_is_good_on_the_tuning_seeds_alone_is_not_chosen() -> None:
    """Small rates memorise the seeds of the search; elsewhere they are the worst."""

    def memorised(options: dict[str, Any], seed: int) -> tuple[float, ...]:
        small = options["unlearner.lr"] < 3e-4
        return (0.0 if small and seed in (1000, 1001) else 1.0 if small else 0.5 + options["unlearner.lr"],)

    _, (found,) = searched(memorised)
    assert found.best_searched == 0.0
    assert found.options["unlearner.lr"] >= 3e-4
    assert found.searched > found.best_searched
    _, (lucky,) = searched(memorised, seeds={"confirm": []})
    assert lucky.options["unlearner.lr"] < 3e-4
    assert lucky.confirmed is None


def test_what_diverges_counts_and_is_never_chosen() -> None:
    def half(options: dict[str, Any], seed: int) -> tuple[float, ...] | None:
        return None if options["unlearner.lr"] > 0.002 else valley(options, seed)

    _, (found,) = searched(half)
    assert found.count("diverged") > 2
    assert len(found.trials) == 20
    assert found.options["unlearner.lr"] <= 0.002
    _, (lost,) = searched(lambda o, s: None)
    assert lost.count("diverged") == 20
    assert (lost.chosen, lost.options, lost.near) == (0, {}, 0.0)
    assert lost.note == "all trials diverged; the options stay as they are written"
    _, (rescued,) = searched(lambda o, s: None if o["unlearner.lr"] == 0.001 else (1.0,))
    assert rescued.note == "as it is written, it diverged"
    assert rescued.default is None
    assert rescued.chosen > 0
    _, (unsteady,) = searched(lambda o, s: None if s == 1003 and o["unlearner.lr"] > 0.002 else valley(o, s))
    assert unsteady.options["unlearner.lr"] <= 0.002  # what diverges in the confirmation


def test_a_limit_of_time_ends_a_search_after_a_round() -> None:
    _, (found,) = searched(valley, seconds=8, at_once=4)
    assert len(found.trials) == 8  # four trials take seven or eight seconds
    assert found.count("running") == 0


def test_pareto_takes_the_middle_of_the_front_and_the_sum_an_end() -> None:
    def traded(options: dict[str, Any], seed: int) -> tuple[float, ...]:
        x = (math.log10(options["unlearner.lr"]) + 5) / 4  # 0 to 1
        return x, (1 - x) ** 2 + 1.2 * (1 - x)

    goal = {"oracle": [{"metric": "tow", "subject": "each-request", "model": "retrained"}] * 2}
    _, (found,) = searched(traded, choice="pareto", goal=goal, trials=24)
    assert 1e-4 < found.options["unlearner.lr"] < 0.02
    _, (added,) = searched(traded, choice="sum", goal=goal, trials=24)
    sums = [sum(traded(t.options, 0)) for t in added.trials]
    assert added.chosen == sums.index(min(sums))
    assert added.options["unlearner.lr"] > 0.05
    assert {len(pair) for t in added.trials for pair in t.losses} == {1}
    assert searched(traded, goal=goal, trials=24)[1][0].options == added.options, "unless the study says otherwise"
    trials = [Trial(n, {}, losses=[pair]) for n, pair in enumerate([(0.0, 1.0), (1.0, 0.0), (0.4, 0.4), (0.5, 0.4)])]
    assert [t.number for t in ranked(trials, lambda t: t.losses)][0] == 2
    assert [t.number for t in ranked(trials, lambda t: t.losses)][-1] == 3  # 2 beats it


def test_a_median_needs_enough_trials() -> None:
    def trials(count: int) -> list[Trial]:
        return [Trial(n, {}, losses=[(float(n),)]) for n in range(count)]

    few, enough = trials(3), trials(5)
    prune(few, 1)
    prune(enough, 1)
    assert [t.state for t in few] == ["running"] * 3
    assert [t.state for t in enough] == ["running"] * 3 + ["pruned"] * 2


def test_the_first_settings_are_what_is_written_and_an_even_spread() -> None:
    space = {"a": log(1e-4, 1.0), "b": linear(1, 9), "c": ("x", "y")}
    first = propose(space, {"a": 7.0, "b": 5, "c": "x"}, [], 10, 0)
    assert first[0] == {"a": 7.0, "b": 5, "c": "x"}  # even out of its range
    assert len(first) == 10 == NUM_SPREAD
    assert sorted(o["a"] < 0.01 for o in first[1:])[4:6] == [False, True] or sum(o["a"] < 0.01 for o in first[1:]) == 5
    assert {o["c"] for o in first} == {"x", "y"}
    assert all(type(o["b"]) is int and 1 <= o["b"] <= 9 for o in first)
    tried = [Tried(o, (abs(o["b"] - 3.0),)) for o in first] + [Tried({"a": 0.1, "b": 9, "c": "y"}, None)]
    later = propose(space, first[0], tried, 4, 0)
    assert later == propose(space, first[0], tried, 4, 0)
    assert len({o["a"] for o in later}) == 4  # those that are proposed together differ
    assert all(s.has(o[k]) for o in later for k, s in space.items() if isinstance(s, Range))


def test_proposals_gather_where_it_is_good() -> None:
    space = {"a": to_one(0.5, 0.9999)}
    tried = [Tried({"a": a}, (abs(math.log10(1 - a) + 2),)) for a in (0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 0.995, 0.9995)]
    asked = [o["a"] for o in propose(space, {"a": 0.5}, tried * 2, 10, 3)]
    assert sum(0.96 < a < 0.998 for a in asked) >= 5
    tried = [Tried({"a": t.options["a"]}, None if t.options["a"] < 0.98 else t.losses) for t in tried]
    asked = [o["a"] for o in propose(space, {"a": 0.5}, tried * 2, 10, 3)]
    assert sum(a < 0.96 for a in asked) <= 3  # where it diverged


def test_options_are_found_by_their_keys() -> None:
    written = {"learner": ["naive", {"name": "ewc", "strength": 3.0}], "unlearner": {"name": "prune-first"}}
    strategy = parse(StrategyConfig, written)
    spaces = spaces_of(Tune(parts=("learner", "unlearner")), {"mine": strategy})["mine"]
    assert "learner.ewc.strength" in spaces
    assert "unlearner.sparsity" in spaces
    assert "unlearner.method.lr" in spaces  # of the unlearner that follows
    changed = with_options(strategy, {"learner.ewc.strength": 5.0, "unlearner.method.lr": 0.5})
    assert changed.learner[1].options == {"strength": 5.0}
    assert value_at(changed, "unlearner.method.lr") == 0.5
    assert value_at(changed, "unlearner.method.epochs") == value_at(strategy, "unlearner.method.epochs")
    assert value_at(strategy, "learner.ewc.strength") == 3.0
    assert with_options(strategy, {}) == strategy


def test_a_study_overrides_ranges() -> None:
    ranges = {
        "ascent": {"unlearner.lr": {"low": 0.1, "high": 1.0}, "unlearner.epochs": None, "unlearner.stop_loss": [1, 2]}
    }
    tuning = Searched(study_of(ranges=ranges), valley)
    space = tuning.spaces["ascent"]
    assert space["unlearner.lr"] == linear(0.1, 1.0)
    assert "unlearner.epochs" not in space
    assert space["unlearner.stop_loss"] == (1, 2)


def test_a_goal_is_added_up_over_requests_points_and_parts() -> None:
    rows = [
        *(Row(e, "run", f"request-{k}", "exact", 0.0) for k, e in enumerate((3, 5))),
        *(Row(e, "run", "request-0", "membership_auc", v) for e, v in ((3, 0.9), (5, 0.1))),  # only when it was served
        Row(5, "run", "request-1", "membership_auc", 0.7),
        *(Row(e, "run", "stream", "average_accuracy", v) for e, v in ((0, 0.2), (5, 0.6))),
    ]
    auc = Term(metric="membership_auc", subject="each-request", target=0.5, weight=2.0)
    kept = Term(metric="average_accuracy", reduce="mean", better="higher")
    assert losses((auc, kept), [Table(rows)]) == pytest.approx((0.6, -0.4))
    worst = auc.model_copy(update={"reduce": "max"})
    assert losses((worst,), [Table(rows), Table(rows)]) == pytest.approx((0.8,))
    assert losses((auc, Term(metric="tow", better="higher")), [Table(rows)]) is None
    above = Term(metric="membership_auc", subject="each-request", chance=0.5, above_chance=True, better="lower")
    assert losses((above,), [Table(rows)]) == pytest.approx((0.6,)), "0.8 of what may be above 0.5"


def test_default_goals_read_what_they_may() -> None:
    (samples,) = {c.seed: c.config for c in lay_out(study_of(trials=2)) if c.seed == 0}.values()
    assert [t.metric for t in default_goal("oracle", samples)] == ["average_gap"]
    assert [t.metric for t in default_goal("practical", samples)] == ["membership_auc", "average_accuracy"]
    assert {t.model for t in default_goal("practical", samples)} == {"run"}
    numbers = samples.model_copy(update={"objective": Named(name="regression")})
    assert [t.metric for t in goal_of(Tune(), "oracle", numbers)] == [
        "immediate_abs_gap_forget_negative_absolute_error",
        "gap_average_negative_absolute_error",
    ]

    study = parse(StudyConfig, BASE | {"set": {"schedule.scope": "class"}})
    classes = lay_out(study)[0].config
    assert [t.metric for t in default_goal("practical", classes)] == ["forget_accuracy", "average_accuracy"]
    bursts = {"name": "bursts", "scope": ["class", "sample"], "samples": 3}
    mixed = lay_out(parse(StudyConfig, BASE | {"base": BASE["base"] | {"schedule": bursts}}))[0].config
    assert [t.metric for t in default_goal("practical", mixed)] == ["membership_auc", "average_accuracy"]


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ({"seeds": {"search": [2, 1000]}}, r"tune\.seeds\.search: \[2\] are seeds that the study is judged on"),
        ({"seeds": {"confirm": [0]}}, r"tune\.seeds\.confirm: \[0\] are seeds that the study is judged on"),
        ({"seeds": {"search": [5], "confirm": [5]}}, r"\[5\] are in search and in confirm"),
        ({"ranges": {"ascent": {"unlearner.lr": {"low": -1, "high": 1}}}}, r"unlearner\.lr: the option refuses -1"),
        ({"ranges": {"ascent": {"unlearner.lrr": [1]}}}, r"tune\.ranges\.ascent\.unlearner\.lrr: there is no .*'lr'"),
        ({"ranges": {"ascent": {"lr": [1]}}}, r"'lr' is no option of the strategy\. Keys begin with"),
        ({"ranges": {"ascent": {"unlearner.lr": {"low": 1, "high": 1}}}}, r"low \(1\) must be below high"),
        ({"ranges": {"ascent": {"unlearner.lr": 0.1}}}, r"it must be \{low"),
        ({"ranges": {"ascend": {}}}, r"tune\.ranges: there is no strategy 'ascend'.*'ascent'"),
        ({"of": ["none"]}, r"tune\.of: 'none' declares nothing to tune"),
        ({"goal": {"oracle": [{"metric": "acuracy"}]}}, r"goal\.oracle\.0\.metric: no run produces 'acuracy'"),
        ({"goal": {"oracle": [{"metric": "tow", "model": "joint"}]}}, r"no run produces 'joint'"),
        ({"goal": {"oracle": [{"metric": "forget_accuracy"}]}}, r"neither high nor low values of forget_accuracy"),
        (
            {"information": "practical", "goal": {"practical": [{"metric": "tow", "model": "retrained"}]}},
            r"goal\.practical\.0: tow \(retrained\) reads other models",
        ),
        *(
            (
                {"information": "practical", "goal": {"practical": [goal | {"target": 0.5}]}},
                rf"goal\.practical\.0: {goal['metric']} \(run\) reads other models",
            )
            for goal in SHADOWED
        ),
        ({"goal": {"oracle": [SHADOWED[0] | {"target": 0.5}]}}, r"needs shadow lives, and references\.shadows is 0"),
        ({"goal": {"oracle": [{"metric": "tow", "where": {"a": 1}}]}}, r"mean over the whole grid, drop where"),
        ({"goal": {"oracle": [{"metric": "tow", "better": "lower", "target": 1}]}}, r"better or target, not both"),
        ({"information": "guess"}, r"'guess'"),
        ({"trials": 1}, r"trials"),
    ],
)
def test_bad_tuning_is_refused_before_anything_runs(tune: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        Study(BASE | {"tune": BASE["tune"] | tune}, root=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("goal", SHADOWED)
def test_what_shadow_lives_tell_is_there_for_a_goal_that_reads_it(goal: dict[str, Any]) -> None:
    shadowed = BASE | {"set": {"references.shadows": 8}}
    for terms, shadows in ([goal | {"target": 0.5}], 8), ([{"metric": "average_accuracy"}], 0):
        study = parse(StudyConfig, shadowed | {"tune": BASE["tune"] | {"goal": {"oracle": terms}}})
        _, cells = Tuning(study, lay_out(study), Path()).samples()
        assert {cell.config.references.shadows for cell in cells} == {shadows}


def test_what_a_model_cannot_take_is_refused_before_anything_runs(tmp_path: Path) -> None:
    ranges = {"last": {"unlearner.k": {"low": 1, "high": 9}}}
    strategies = {"last": {"learner": "replay", "unlearner": "cf-k"}}
    study = Study(BASE | {"strategies": strategies, "tune": {"ranges": ranges}}, root=tmp_path)
    with pytest.raises(ConfigError, match=r"tune\.ranges\.last: what is at the end of its ranges is refused.*k"):
        study.check()


def test_names_and_grids_that_clash_are_refused(tmp_path: Path) -> None:
    grid = {"strategies.ascent.unlearner.lr": [0.1, 0.2]}
    with pytest.raises(ConfigError, match=r"strategies\.ascent\.unlearner\.lr is in the grid, too"):
        Study(BASE | {"grid": grid}, root=tmp_path)
    whole = {"strategies.ascent.unlearner": [{"name": "gradient-ascent", "lr": lr} for lr in (0.1, 0.2)]}
    with pytest.raises(ConfigError, match=r"lr is in the grid, too \(strategies\.ascent\.unlearner\)"):
        Study(BASE | {"grid": whole}, root=tmp_path)
    strategies = BASE["strategies"] | {"ascent+oracle": {"unlearner": "ssd"}}
    with pytest.raises(ConfigError, match="is what tuning calls its own"):
        Study(BASE | {"strategies": strategies}, root=tmp_path)
    with pytest.raises(ConfigError, match=r"sizes\.small\.tune: the study has no `tune`"):
        Study({k: v for k, v in BASE.items() if k != "tune"} | {"sizes": {"small": {"tune": {"trials": 2}}}}, "small")


def test_a_tuned_strategy_is_judged_at_the_grid_points_of_the_written_one(tmp_path: Path) -> None:
    learners = [[{"name": "replay", "memory": memory}] for memory in (10, 100)]
    grid = {"strategies.ascent.unlearning_seed": [0, 1], "strategies.ascent.learner": learners}
    study = Study(BASE | {"grid": grid, "seeds": 1}, root=tmp_path)
    seen = []
    for cell in study.cells:
        written, tuned, other = (cell.resolved["strategies"][name] for name in ("ascent", "ascent+oracle", "ssd"))
        assert tuned == written, "nothing is tuned yet"
        assert other["learner"][0]["memory"] not in (10, 100)
        assert cell.values.keys() == grid.keys()
        seen.append((tuned["unlearning_seed"], tuned["learner"][0]["memory"]))
    assert sorted(seen) == [(0, 10), (0, 100), (1, 10), (1, 100)]


def test_a_size_changes_keys_of_tune(tmp_path: Path) -> None:
    study = Study(BASE | {"sizes": {"small": {"tune": {"trials": 4}}}}, "small", tmp_path)
    assert study.config.tune is not None
    assert (study.config.tune.trials, study.config.tune.of) == (4, ("ascent",))
    assert study.folder != Study(BASE, root=tmp_path).folder


def test_only_training_that_diverged_is_a_result() -> None:
    assert diverged("Traceback ...\nstreams.errors.TrainingError: Strategy 'a', event 3: ascent diverged")
    assert not diverged("Traceback ...\nstreams.errors.DataError: no TrainingError")
    assert not diverged("Its worker process died 2 times, the last time by signal SIGKILL (out of memory?).")


def test_ranges_spread_as_they_say() -> None:
    assert [linear(1, 3).at(u) for u in (0.0, 0.3, 0.5, 0.7, 1.0)] == [1, 1, 2, 3, 3]
    assert log(1e-4, 1.0).at(0.5) == 0.01
    assert to_one(0.5, 0.995).at(0.5) == 0.95
    assert linear(0.0, 1.0).has(1)
    assert not linear(0.0, 1.0).has(True)
    assert not linear(1, 5).has(2.5)
    for bad in ({"low": 0, "high": 1, "scale": "log"}, {"low": 0.5, "high": 1.0, "scale": "log-to-one"}):
        with pytest.raises(ConfigError):
            parse(Range, bad)
