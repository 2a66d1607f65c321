"""The summary table, against rows written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lifelong.config.run import RunConfig
from lifelong.execution.runner import Run
from lifelong.report.summary import UNFINISHED, Cell, columns, measure_of, shown, side_by_side, summarize, to_json
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
    Row(2, "run", "request-0", "relapse", 0.4, 10),
    Row(2, "run", "request-1", "forget_accuracy", 0.3, 10),
    Row(2, "run", "request-1", "collateral_mean", 0.02, 1),
    Row(2, "run", "request-1", "exact", 1.0, 1),
    Row(2, "run", "request-1", "weights_erased", 1.0, 1),
    Row(2, "run", "requests", "relapse", 0.4, 1),
    Row(2, "run", "event", "steps", 3.0, 1),
    Row(2, "run", "event", "state_bytes", 2_500_000.0, 1),
    Row(2, "run", "stream", "average_accuracy", 0.8, 2),
    Row(2, "run", "stream", "forgetting_from_first", -0.1, 2),
    Row(1, "retrained", "request-0", "gap_forget_accuracy", 0.2, 10),
    Row(2, "retrained", "requests", "immediate_gap_forget_accuracy", 0.125, 2),
    Row(2, "retrained", "requests", "immediate_js", 0.25, 2),
    Row(2, "retrained", "requests", "immediate_gap_membership_auc", None, 0, "no request has a value"),
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
        "forget_accuracy": Cell(0.4, 2),  # 0.5 and 0.3, each right after its own request
        "gap_forget_accuracy": Cell(0.125, 2),
        "js": Cell(0.25, 2),
        "gap_membership_auc": Cell(None, 0, "no request has a value"),
        "relapse": Cell(0.4, 1),
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
    assert {plain[k].reason for k in ("forget_accuracy", "js", "relapse", "exact", "request_steps")} == {
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
    assert line["gap_membership_auc"] == {"value": None, "n": 0, "reason": "no request has a value"}


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
