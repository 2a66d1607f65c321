"""The summary table, against rows written by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lifelong.config.run import RunConfig
from lifelong.execution.runner import Run
from lifelong.report.columns import Cell, columns, shown
from lifelong.report.summary import UNFINISHED, measure_of, side_by_side, summarize, to_json, unheld
from lifelong.report.yardstick import Yardstick, tells_nothing
from lifelong.results.series import Series
from lifelong.results.table import Row, Table
from streams.errors import ConfigError

FINETUNE = [
    Row(0, "run", "stream", "average_accuracy", 1.0, 1),
    Row(0, "run", "stream", "forgetting_from_first", None, 0, "no unit was learned before this event"),
    Row(0, "run", "event", "steps", 90.0, 1),
    Row(0, "run", "event", "state_bytes", 1000.0, 1),
    # request-0 is served by event 1, request-1 by event 2
    Row(1, "run", "request-0", "forget_accuracy", 0.5, 10),
    Row(1, "run", "request-0", "collateral_mean", None, 0, "no other unit has been learned"),
    Row(1, "run", "request-0", "exact", 0.0, 1),
    Row(1, "run", "request-0", "weights_erased", 0.0, 1),
    Row(1, "run", "event", "steps", 7.0, 1),
    Row(2, "run", "request-0", "forget_accuracy", 0.9, 10),
    Row(1, "run", "stream", "retain_accuracy", 0.7, 40),
    Row(2, "run", "stream", "retain_accuracy", 0.9, 40),
    Row(2, "run", "request-0", "raw_relapse", 0.4, 10),
    Row(2, "run", "request-1", "forget_accuracy", 0.3, 10),
    Row(2, "run", "request-1", "collateral_mean", 0.02, 1),
    Row(2, "run", "request-1", "exact", 1.0, 1),
    Row(2, "run", "request-1", "weights_erased", 1.0, 1),
    Row(2, "run", "event", "steps", 3.0, 1),
    Row(2, "run", "event", "state_bytes", 2_500_000.0, 1),
    Row(2, "run", "stream", "average_accuracy", 0.8, 2),
    Row(2, "run", "stream", "forgetting_from_first", -0.1, 2),
    Row(1, "retrained", "request-0", "gap_forget_accuracy", 0.2, 10),
    Row(2, "retrained", "requests", "immediate_gap_forget_accuracy", -0.025, 2),
    Row(2, "retrained", "requests", "immediate_abs_gap_forget_accuracy", 0.125, 2),
    Row(2, "retrained", "requests", "relapse", -0.4, 1),
    Row(2, "retrained", "requests", "abs_relapse", 0.4, 1),
    Row(2, "retrained", "requests", "immediate_js", 0.25, 2),
    Row(2, "retrained", "requests", "immediate_abs_gap_membership_auc", None, 0, "no request has a value"),
    Row(2, "withheld", "requests", "immediate_js", 0.75, 2),
]


def make_run(folder: Path, tables: dict[str, list[Row]], access: dict[str, str]) -> Run:
    config = RunConfig.model_validate({"strategies": {name: {} for name in tables}})
    summaries = {name: {"access": label} for name, label in access.items()}
    return Run(folder, config, {name: Table(rows) for name, rows in tables.items()}, summaries)


def cells_of(run: Run, strategy: str) -> dict[str, Cell]:
    heads = columns(measure_of(run))
    line = next(line for g in summarize(run) for line in g.lines if line.strategy == strategy)
    return dict(zip((h.key for h in heads), line.cells, strict=True))


def test_cells_equal_hand_computed_values(tmp_path: Path) -> None:
    cells = cells_of(make_run(tmp_path, {"a": FINETUNE}, {"a": "retain: full"}), "a")
    assert cells == {
        "average_accuracy": Cell(0.8, 2),
        "forgetting_from_first": Cell(-0.1, 2),
        "retain_accuracy": Cell(0.8, 2),
        "forget_accuracy": Cell(0.4, 2),  # 0.5 and 0.3, each right after its own request
        "abs_gap_forget_accuracy": Cell(0.125, 2),
        "js": Cell(0.25, 2),
        "abs_gap_membership_auc": Cell(None, 0, "no request has a value"),
        "abs_relapse": Cell(0.4, 1),
        "collateral_mean": Cell(0.02, 1),
        "exact": Cell(0.5, 2),
        "weights_erased": Cell(0.5, 2),
        "request_steps": Cell(10.0, 2),
        "state_bytes": Cell(2_500_000.0, 1),
    }


def test_undefined_cells_say_why(tmp_path: Path) -> None:
    learned_only = [r for r in FINETUNE if r.event == 0]
    no_reference = [r for r in FINETUNE if r.model == "run"]
    run = make_run(tmp_path, {"plain": learned_only, "alone": no_reference, "new": []}, {"plain": "x", "alone": "x"})
    plain, alone, new = (cells_of(run, name) for name in ("plain", "alone", "new"))
    assert plain["forgetting_from_first"].reason == "no unit was learned before this event"
    assert {plain[k].reason for k in ("forget_accuracy", "js", "abs_relapse", "exact", "request_steps")} == {
        "no request has been served"
    }
    assert alone["js"] == Cell(None, 0, "the retrained reference was not computed")
    assert new["average_accuracy"] == Cell(None, 0, "no event is over")
    assert all(c.value is None and c.reason for c in new.values())


def test_zero_is_a_value(tmp_path: Path) -> None:
    rows = [
        Row(0, "run", "stream", "average_accuracy", 0.0, 1),
        Row(0, "run", "event", "steps", 0.0, 1),
        Row(0, "run", "r", "exact", 0.0, 1),
    ]
    cells = cells_of(make_run(tmp_path, {"a": rows}, {"a": "x"}), "a")
    assert cells["average_accuracy"] == Cell(0.0, 1)
    assert cells["request_steps"] == Cell(0.0, 1)


def test_groups_by_access_and_unfinished_last(tmp_path: Path) -> None:
    tables = {"late": FINETUNE, "a": FINETUNE, "b": FINETUNE, "c": FINETUNE}
    groups = summarize(make_run(tmp_path, tables, {"a": "retain: full", "b": "retain: nothing", "c": "retain: full"}))
    assert [(g.access, [line.strategy for line in g.lines]) for g in groups] == [
        ("retain: full", ["a", "c"]),
        ("retain: nothing", ["b"]),
        (UNFINISHED, ["late"]),
    ]


def test_other_scores_keep_their_name(tmp_path: Path) -> None:
    rows = [Row(0, "run", "stream", "average_negative_absolute_error", -0.5, 1)]
    run = make_run(tmp_path, {"a": rows}, {"a": "x"})
    assert measure_of(run) == "negative_absolute_error"
    assert cells_of(run, "a")["average_negative_absolute_error"] == Cell(-0.5, 1)


def test_json_holds_values_and_reasons(tmp_path: Path) -> None:
    groups = summarize(make_run(tmp_path, {"a": FINETUNE}, {"a": "retain: full"}))
    data = json.loads(json.dumps(to_json(groups, columns("accuracy"))))
    (line,) = data[0]["strategies"]
    assert (data[0]["access"], line["strategy"]) == ("retain: full", "a")
    assert line["js"] == {"value": 0.25, "n": 2}
    assert line["abs_gap_membership_auc"] == {"value": None, "n": 0, "reason": "no request has a value"}


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (None, "score", "-"),
        (0.5, "score", "0.500"),
        (-0.0004, "gap", "-0.000"),
        (0.25, "gap", "+0.250"),
        (1.0, "share", "100%"),
        (1480.0, "count", "1,480"),
        (999.0, "bytes", "999 B"),
        (2_500_000.0, "bytes", "2.5 MB"),
        (7.25e12, "bytes", "7250.0 GB"),
    ],
)
def test_shown(value: float | None, kind: str, text: str) -> None:
    assert shown(Cell(value), kind) == text  # type: ignore[arg-type]


def saved(run: Run, stream: str, data: str = "d") -> Run:
    run.folder.mkdir()
    manifest = {"digests": {"stream": stream, "data": data}}
    (run.folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return run


def test_side_by_side_never_mixes_streams(tmp_path: Path) -> None:
    runs = [
        saved(make_run(tmp_path / "one", {"a": FINETUNE, "b": FINETUNE}, {"a": "x", "b": "y"}), "s1"),
        saved(make_run(tmp_path / "two", {"a": FINETUNE}, {"a": "x"}), "s1"),
        saved(make_run(tmp_path / "three", {"a": FINETUNE}, {"a": "x"}), "s2"),
        saved(make_run(tmp_path / "four", {"a": FINETUNE}, {"a": "x"}), "s1", "other data"),
    ]
    found = side_by_side(runs)
    assert [(c.stream, c.data) for c in found] == [("s1", "d"), ("s2", "d"), ("s1", "other data")]
    assert [(g.access, [line.strategy for line in g.lines]) for g in found[0].groups] == [
        ("x", ["one/a", "two/a"]),
        ("y", ["one/b"]),
    ]
    (only,) = side_by_side(runs[:1], ["b"])
    assert [[line.strategy for line in g.lines] for g in only.groups] == [["b"]]
    with pytest.raises(ConfigError, match="No run has a strategy 'bb'. Did you mean 'b'"):
        side_by_side(runs, ["bb"])


REPLAY = {"learner": "replay", "unlearner": {"name": "finetune", "retained": "memory"}}


def life(
    forget: tuple[float, float],
    js: float,
    retrained: tuple[float, float] = (0.7, 0.3),
    second: tuple[float, float] = (0.72, 0.3),
    withheld: tuple[float, float] = (1.0, 1.0),
    informedness: float = 0.9,
) -> list[Row]:
    """Two requests, served by events 1 and 2: accuracies on their forget sets, of the run and of three references."""
    rows = [Row(2, "run", "stream", "average_accuracy", 0.8, 2)]
    gaps = []
    for event, request in ((1, "request-0"), (2, "request-1")):
        place = event - 1
        rows.append(Row(event, "run", request, "exact", 0.0, 1))
        scores = {"run": forget, "retrained": retrained, "retrained-2": second, "withheld": withheld}
        for model, accuracies in scores.items():
            rows.append(Row(event, model, request, "forget_accuracy", accuracies[place], 10))
        gaps.append(forget[place] - retrained[place])
        rows.append(Row(event, "retrained", request, "js", js, 10))
        rows.append(Row(event, "retrained-2", request, "js_to_retrained", 0.05, 10))
        rows.append(Row(event, "withheld", request, "js_to_retrained", 0.3, 10))
        rows.append(Row(event, "run", "stream", "informedness", informedness, 40))
        rows.append(Row(event, "retrained", "stream", "informedness", 0.9, 40))
    for metric, value in (("gap", sum(gaps) / 2), ("abs_gap", sum(map(abs, gaps)) / 2)):
        rows.append(Row(2, "retrained", "requests", f"immediate_{metric}_forget_accuracy", value, 2))
    rows.append(Row(2, "retrained", "requests", "immediate_js", js, 2))
    return rows


def run_of(folder: Path, **tables: list[Row]) -> Run:
    """A run of strategies that learn by replay; the one called none serves requests by nothing."""
    config = RunConfig.model_validate(
        {"strategies": {n: {"learner": "replay", "unlearner": "none"} if n == "none" else REPLAY for n in tables}}
    )
    summaries = {name: {"access": "x"} for name in tables}
    return Run(folder, config, {name: Table(rows) for name, rows in tables.items()}, summaries)


def test_gaps_that_cancel_do_not_win(tmp_path: Path) -> None:
    """One forgets too little and too much by as much; its signed mean is 0, better than that of an honest one."""
    run = run_of(tmp_path, gaming=life((0.95, 0.05), 0.2), honest=life((0.73, 0.33), 0.04))
    gaming, honest = (cells_of(run, name)["abs_gap_forget_accuracy"].value or 0.0 for name in ("gaming", "honest"))
    assert gaming == pytest.approx(0.25)
    assert honest == pytest.approx(0.03)
    signed = run.tables["gaming"].last("immediate_gap_forget_accuracy", "requests", "retrained")
    assert signed is not None
    assert signed.value == pytest.approx(0.0)


def test_what_doing_nothing_and_a_second_retraining_get_stands_below(tmp_path: Path) -> None:
    (group,) = summarize(run_of(tmp_path, honest=life((0.73, 0.33), 0.04)))
    heads = [h.key for h in columns("accuracy")]
    beside = {what: dict(zip(heads, cells, strict=True)) for what, cells in group.beside}
    assert list(beside) == ["doing nothing: replay", "second retraining: replay"]
    nothing, second = beside.values()
    assert nothing["forget_accuracy"].value == 1.0
    assert nothing["abs_gap_forget_accuracy"].value == pytest.approx(0.5)  # 0.3 and 0.7
    assert (nothing["js"].value, second["js"].value) == (0.3, 0.05)
    assert second["abs_gap_forget_accuracy"].value == pytest.approx(0.01)
    assert nothing["request_steps"].reason == "it is not told of references"


def test_a_strategy_that_does_nothing_stands_for_itself(tmp_path: Path) -> None:
    run = run_of(tmp_path, none=life((1.0, 0.98), 0.28), honest=life((0.73, 0.33), 0.04))
    (group,) = summarize(run)
    assert [what for what, _ in group.beside] == ["second retraining: replay"]
    assert {line.strategy: line.remark for line in group.lines} == {"none": "no effect", "honest": ""}
    apart = replace(run, summaries={"none": {"access": "x"}, "honest": {"access": "y"}})
    nothing = dict(summarize(apart)[1].beside)["doing nothing: replay"]
    assert nothing == summarize(apart)[0].lines[0].cells


def test_what_is_told_from_doing_nothing_in_one_number_had_an_effect(tmp_path: Path) -> None:
    lives = {"accuracy": life((0.9, 1.0), 0.3), "js": life((1.0, 1.0), 0.2), "same": life((0.99, 1.0), 0.33)}
    (group,) = summarize(run_of(tmp_path, **lives))
    assert {line.strategy: line.remark for line in group.lines} == {"accuracy": "", "js": "", "same": "no effect"}


def test_an_exact_service_is_never_said_to_have_no_effect(tmp_path: Path) -> None:
    rows = [replace(r, value=1.0) if r.metric == "exact" else r for r in life((1.0, 1.0), 0.3)]
    (group,) = summarize(run_of(tmp_path, exact=rows))
    assert group.lines[0].remark == ""


def test_constant_outputs_are_called_collapsed(tmp_path: Path) -> None:
    """Chance on retained data, where the reference is not: however near to retraining the forget set comes out."""
    broken = life((0.7, 0.3), 0.05, informedness=0.0)
    late = [replace(r, value=0.9) if (r.event, r.metric, r.model) == (1, "informedness", "run") else r for r in broken]
    # where the learner forgets by itself so does the reference, and nobody broke anything
    forgetful = [replace(r, value=0.02) if r.metric == "informedness" else r for r in broken]
    (group,) = summarize(run_of(tmp_path, broken=broken, late=late, forgetful=forgetful))
    remarks = {line.strategy: line.remark for line in group.lines}
    assert remarks == {"broken": "collapsed", "late": "collapsed (request-1)", "forgetful": ""}


def test_a_number_in_which_doing_nothing_is_retraining_is_grey(tmp_path: Path) -> None:
    """The learner forgets by itself: doing nothing is 0.005 from retraining, and a second retraining 0.01."""
    run = run_of(tmp_path, a=life((0.8, 0.3), 0.2, withheld=(0.71, 0.3)))
    cells = cells_of(run, "a")
    assert "doing nothing is 0.005 from retraining, a second retraining 0.010" in (
        cells["abs_gap_forget_accuracy"].grey or ""
    )
    assert cells["forget_accuracy"].grey
    assert cells["js"].grey is None
    assert cells["average_accuracy"].grey is None
    (line,) = to_json(summarize(run), columns("accuracy"))[0]["strategies"]
    assert "says_nothing" in line["abs_gap_forget_accuracy"]
    assert "says_nothing" not in line["js"]


def test_of_one_request_the_floor_is_at_least_that_of_all() -> None:
    """Two retrainings may agree on one request by chance."""
    config = RunConfig.model_validate({"strategies": {"a": REPLAY}})
    rows = life((0.9, 0.5), 0.2, withheld=(0.9, 0.305))
    yardstick = Yardstick(config, "a", {"a": Series(Table(rows))}, "accuracy")
    assert yardstick.gap(yardstick.second, "forget_accuracy", "request-1") == 0.0
    assert yardstick.why_grey("forget_accuracy", "request-1")
    assert yardstick.why_grey("forget_accuracy", "request-0") is None


def test_a_control_that_should_stand_out_and_does_not_greys_its_number() -> None:
    assert tells_nothing(abs(0.52 - 0.5), 0.03)
    assert not tells_nothing(abs(0.7 - 0.5), 0.03)
    assert tells_nothing(0.0, None)
    assert not tells_nothing(None, 0.03)


def test_it_is_said_which_references_are_missing(tmp_path: Path) -> None:
    rows = [r for r in life((0.8, 0.3), 0.2) if r.model in ("run", "retrained")]
    missing = unheld(summarize(run_of(tmp_path, a=rows)))
    assert "add retrained-2" in missing
    assert "add withheld" in missing
    assert unheld(summarize(run_of(tmp_path, a=life((0.8, 0.3), 0.2)))) == ""
    assert unheld(summarize(run_of(tmp_path, a=[r for r in rows if r.event < 1]))) == ""
    alone = unheld(summarize(run_of(tmp_path, a=[r for r in rows if r.model == "run"])))
    assert alone == "", "without a retrained reference there is no distance to it"


def test_learners_of_one_name_are_told_apart(tmp_path: Path) -> None:
    small = {"learner": {"name": "replay", "memory": 10}, "unlearner": "retrain"}
    config = RunConfig.model_validate({"strategies": {"a": REPLAY, "b": small, "c": small}})
    tables = {name: Table(life((0.8, 0.3), 0.2)) for name in config.strategies}
    run = Run(tmp_path, config, tables, {name: {"access": "x"} for name in tables})
    (group,) = summarize(run)
    assert [what for what, _ in group.beside if what.startswith("second")] == [
        "second retraining: replay of a",
        "second retraining: replay of b",
    ]
