"""Reports and exports of a real study: their numbers are those of the tables, finished or not."""

from __future__ import annotations

import base64
import csv
import json
import math
import re
import shutil
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

import lifelong
from cli.main import main
from lifelong.execution.runner import Run
from lifelong.report import latex
from lifelong.report import study as study_page
from lifelong.report.columns import Cell
from lifelong.report.export import export, form_of
from lifelong.report.gathering import gather_lives
from lifelong.report.latex import study_latex
from lifelong.report.lives import Life
from lifelong.report.spread import spread
from lifelong.report.study import failures, render, write_study_report
from lifelong.report.study_tables import Grid, comparisons, results, verdicts
from lifelong.report.tradeoff import pareto
from lifelong.results.integrity import with_digest
from lifelong.study.inference import Rule
from lifelong.study.judging import Evidence, judge
from lifelong.study.study import Study
from streams.errors import ConfigError

Tables = dict[tuple[str, int], lifelong.Table]


@pytest.fixture(scope="module")
def page(tiny_study: Study, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = write_study_report(tiny_study, tmp_path_factory.mktemp("page") / "report.html")
    return file.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tables(tiny_study: Study) -> Tables:
    return {(name, cell.seed): table for cell, found in tiny_study.results().tables for name, table in found.items()}


def figures_of(page: str) -> dict[str, dict[str, Any]]:
    found = re.findall(r'<script type="application/json" id="figure-(.+?)-data">(.*?)</script>', page)
    return {name: json.loads(text) for name, text in found}


def check_latex(text: str) -> None:
    """Check what a compiler would stumble over: braces, environments, columns, and unknown commands."""
    bare = re.sub(r"(?m)^%.*$", "", text)
    depth = 0
    for mark in re.findall(r"(?<!\\)[{}]", bare):
        depth += 1 if mark == "{" else -1
        assert depth >= 0
    assert depth == 0
    opened: list[str] = []
    for way, name in re.findall(r"\\(begin|end)\{(\w+)\}", bare):
        if way == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    known = {"providecommand", "withinterval", "begin", "end", "tiny", "centering", "footnotesize", "caption", "label"}
    known |= {"toprule", "midrule", "bottomrule", "multicolumn", "emph", "shortstack", "raggedright", "par", "medskip"}
    known |= {"times", "allowbreak", "linewidth", "textless", "textgreater", "textbar", "textbackslash"}
    assert set(re.findall(r"\\([A-Za-z]+)", bare.replace(r"\\", " "))) <= known | {"textasciitilde", "textasciicircum"}
    for spec, body in re.findall(r"\\begin\{tabular\}\{@\{\}(.+?)@\{\}\}\n(.*?)\\end\{tabular\}", bare, re.DOTALL):
        columns = len(re.findall(r"[lrp]", re.sub(r"\{.*?\}", "", spec)))
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        for row in rows:
            merged = re.match(r"\\multicolumn\{(\d+)\}", row)
            assert (int(merged[1]) if merged else len(re.findall(r"(?<!\\)&", row)) + 1) == columns


def plain(text: str) -> str:
    """Return what LaTeX would print, with intervals as the report has them."""
    text = re.sub(r"\$\\times 10\^\{(-?)(\d+)\}\$", lambda m: f"e{m[1] or '+'}{int(m[2]):02d}", text)
    text = re.sub(r"\$([+-])\$", r"\1", text)
    text = re.sub(r"\\withinterval\{(.+?)\}\{(.+?)\}\{(.+?)\}", r"\1 [\2, \3]", text)
    text = text.replace(r"\allowbreak{}", "").replace("--", "-")
    named = {"textless": "<", "textgreater": ">", "textbar": "|", "textbackslash": "\0", "textasciitilde": "~"}
    for name, sign in (named | {"textasciicircum": "^"}).items():
        text = text.replace(rf"\{name}{{}}", sign)
    text = re.sub(r"\{([\[\]*])\}", r"\1", text)
    return re.sub(r"\\([&%$#_{}])", r"\1", text).replace("\0", "\\")


def trace(page: str, figure: str, name: str) -> dict[str, Any]:
    (found,) = [t for t in figures_of(page)[figure]["data"] if t.get("name") == name and t.get("showlegend")]
    return found


def numbers(array: Any) -> np.ndarray:
    """An array as plotly writes it: a list, or bytes."""
    if isinstance(array, list):
        return np.array(array, dtype=float)
    values = np.frombuffer(base64.b64decode(array["bdata"]), dtype=array["dtype"])
    return values.reshape([int(n) for n in array["shape"].split(",")]) if "shape" in array else values


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)))


def test_the_accumulation_curve_is_the_mean_of_the_tables(page: str, tables: Tables) -> None:
    for name in ("naive", "replay"):
        each = np.array([[r.value for r in tables[name, seed].select("average_accuracy", "stream")] for seed in (0, 1)])
        drawn = trace(page, "average-0", name)
        assert np.allclose(numbers(drawn["y"]), each.mean(axis=0))
        band = numbers(drawn["customdata"])
        assert np.allclose(band[:, 0], each.min(axis=0))
        assert np.allclose(band[:, 1], each.max(axis=0))


def test_a_reference_counts_once_for_every_seed(tiny_study: Study) -> None:
    """Also where one strategy has not finished a seed that another has."""
    (point, *_) = gather_lives(tiny_study).points
    life = next(iter(point.lives["replay"].values()))

    def lived(score: float, done: bool) -> Life:
        second = (Cell(score),) * len(life.line.cells)
        return replace(life, done=done, line=replace(life.line, learner="replay", idle=None, second=second))

    lives = {"a": {0: lived(0.0, False), 1: lived(1.0, True)}, "b": {0: lived(0.0, True), 1: lived(1.0, True)}}
    point = replace(point, order=("a", "b"), access={"a": "all", "b": "all"}, lives=lives)
    ((_, rows),) = results(point).groups
    assert rows[-1][:4] == ("second retraining: replay", "2", "", "0.500 [0.000, 1.000]")


def test_requests_stand_beside_their_references(page: str, tables: Tables) -> None:
    data = figures_of(page)["requests-0"]["data"]
    for name in ("naive", "replay"):
        for model, label in (("run", name), ("retrained", f"{name}: retrained"), ("withheld", f"{name}: withheld")):
            (drawn,) = [t for t in data if t.get("name") == label]
            for k, event in ((0, 1), (1, 3)):
                each = [
                    next(
                        r.value
                        for r in tables[name, s].select("forget_accuracy", f"request-{k}", model)
                        if r.event == event
                    )
                    for s in (0, 1)
                ]
                assert numbers(drawn["y"])[k] == pytest.approx(np.mean(each))


def test_the_heat_map_is_the_mean_matrix_with_deletions(page: str, tables: Tables) -> None:
    figure = figures_of(page)["matrix-replay-0"]
    held, deleted = figure["data"][:2]
    row = held["y"].index("task-1")
    each = np.array([[r.value for r in tables["replay", s].select("accuracy", "task-1")] for s in (0, 1)])
    shown = numbers(held["z"])[row]
    assert np.isfinite(shown).tolist() == [False, False, True, True, True]  # it is learned at event 2
    assert np.allclose(shown[2:], each.mean(axis=0)[2:], atol=1e-6)
    gone = deleted["y"].index("task-0, deleted")
    assert np.isfinite(numbers(deleted["z"])[gone]).tolist() == [False, False, False, True, True]
    assert [s["x0"] for s in figure["layout"]["shapes"]] == [1, 3]


def test_strategies_of_different_access_are_not_ranked_together(page: str, tables: Tables) -> None:
    figure = figures_of(page)["tradeoff-0"]
    titles = [a["text"] for a in figure["layout"]["annotations"]]
    assert titles == ["retain: nothing", "retain: nothing", "retain: full", "retain: full"]
    drawn = [t for t in figure["data"] if t.get("name") == "naive"]
    for t, metric in zip(drawn, ("immediate_abs_gap_forget_accuracy", "immediate_js"), strict=True):
        far = [tables["naive", s].last(metric, "requests", "retrained") for s in (0, 1)]
        kept = [tables["naive", s].last("retain_accuracy", "stream") for s in (0, 1)]
        assert t["x"][0] == pytest.approx(np.mean([r.value for r in far if r is not None]))
        assert t["y"][0] == pytest.approx(np.mean([r.value for r in kept if r is not None]))
        assert not t["marker"]["symbol"].endswith("-open")


def test_costs_relapse_and_timeline_are_drawn(page: str, tables: Tables) -> None:
    figures = figures_of(page)
    assert {"relapse-0", "request-costs-0", "costs-0", "timeline-0"} < figures.keys()
    steps = np.array([[r.value for r in tables["replay", s].select("steps", "event")] for s in (0, 1)])
    assert np.allclose(numbers(trace(page, "costs-0", "replay")["y"]), steps.cumsum(axis=1).mean(axis=0))
    assert np.allclose(numbers(trace(page, "request-costs-0", "replay")["y"]), steps[:, [1, 3]].mean(axis=0))
    for figure in figures.values():
        go.Figure(figure)  # raises on a property that does not exist


def test_requests_are_told_apart_by_what_they_name_and_by_age(page: str, tables: Tables) -> None:
    """The study has a request for samples at event 1 and one for a class at event 3; the stream ends at event 4."""

    def score(seed: int, request: str, event: int) -> float:
        rows = tables["naive", seed].select("forget_accuracy", request)
        return next(float(r.value) for r in rows if r.event == event and r.value is not None)

    text = text_of(page)
    told_apart = text[text.index("Requests apart by what they name") :]
    served = {"sample": ("request-0", 1), "class": ("request-1", 3)}
    for scope, which in served.items():
        mean = np.mean([score(s, *which) for s in (0, 1)])
        assert f"naive {scope} {mean:.3f}" in told_apart
    drawn = trace(page, "age-0", "naive")
    assert numbers(drawn["x"]).tolist() == [0, 1, 2, 3]
    for age, shown in enumerate(numbers(drawn["y"])):
        old = [(request, event + age) for request, event in served.values() if event + age <= 4]
        assert shown == pytest.approx(np.mean([np.mean([score(s, *which) for which in old]) for s in (0, 1)]))


def test_comparisons_and_how_to_repeat_it(page: str, tiny_study: Study) -> None:
    text = text_of(page)
    assert [v.outcome for v in tiny_study.verdicts()] == ["undecided", "undecided"]
    assert "two seeds decide nothing" in text
    assert "With 2 seeds none can be decided: it takes 3 or more" in text
    (difference,) = tiny_study.differences()
    assert difference.p_corrected is None
    assert difference.sides is not None
    assert f"{difference.sides[0]:.4g}, {difference.sides[1]:.4g}" in text
    for what in ("Retraining answers a request exactly.", "torch", tiny_study.identity, "lifelong study", "lowest"):
        assert what in text
    assert "not finished" not in text
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_verdicts_are_shown_with_what_they_rest_on(tiny_study: Study) -> None:
    judged = judge(
        [
            Evidence("it rises", "a - b on x", "above", 0.0, (0.1, 0.11, 0.12), sides=(0.5, 0.39)),
            Evidence("it is exact", "a on y", "below", 1e-9, (0.2, 0.21, 0.22)),
            Evidence(
                "it is better", "a - b on z", "above", 0.0, (0.1, 0.1, 0.1), not_testable="neither is above chance"
            ),
        ],
        Rule(),
    )
    lives = replace(gather_lives(tiny_study), verdicts=tuple(judged))
    text = text_of(render(lives))
    assert "1 reproduced, 1 contradicted, 1 not testable" in text
    for mark in ("✓ reproduced", "✗ contradicted", "– not testable"):
        assert mark in text
    first = judged[0]
    assert first.estimate is not None
    assert f"{first.estimate.mean:.4g} [{first.estimate.low:.4g}, {first.estimate.high:.4g}]" in text
    for what in (
        first.bar,
        "0.5, 0.39",
        "neither is above chance",
        f"{first.estimate.p:.2g}",
        f"{first.p_corrected:.2g}",
    ):
        assert what in text.replace("&gt;", ">")
    said = plain(study_latex(lives))
    assert "neither is above chance" in said
    assert "0.5, 0.39" in said


def test_a_report_judges_what_is_asked_of_an_event(tiny_study: Study) -> None:
    asked = {"metric": "retain_accuracy", "of": "replay", "event": "request-1"}
    declared = tiny_study.declared.model_dump(exclude_unset=True)
    more = {"criteria": [asked | {"name": "it retains something", "above": 0.0}]}
    study = Study(declared | more, root=tiny_study.folder.parent)
    (verdict,) = gather_lives(study).verdicts
    assert verdict.estimate is not None
    assert (verdict,) == tuple(study.verdicts())


def test_an_unfinished_study_is_reported_as_far_as_it_went(tiny_study: Study, tmp_path: Path) -> None:
    """One run gone, one strategy killed in the middle of a line."""
    shutil.copytree(tiny_study.folder.parent, tmp_path / "runs")
    study = Study(tiny_study.declared, root=tmp_path / "runs")
    gone, killed = (
        next(j for j in study.jobs if j.label.startswith(f"{n} (seed={s}")) for n, s in (("naive", 1), ("replay", 1))
    )
    shutil.rmtree(gone.folder)
    strategy = killed.folder / "strategies" / "replay"
    (strategy / "done.json").unlink()
    table = (strategy / "results.jsonl").read_text(encoding="utf-8")
    (strategy / "results.jsonl").write_text(table[: table.index('"event": 2') + 5], encoding="utf-8")
    outcome = json.loads((study.folder / "verdicts.json").read_text(encoding="utf-8"))
    del outcome["digest"]
    outcome["failed"] = [{"job": killed.label, "error": "Traceback: disk <full>", "command": "lifelong run x.yaml"}]
    (study.folder / "verdicts.json").write_bytes(with_digest(outcome))

    page = write_study_report(study).read_text(encoding="utf-8")
    text = text_of(page)
    assert "This study is not finished:" in text
    assert "2 of 4 runs" in text
    assert f"{gone.label}: has not begun" in text
    assert f"{killed.label}: replay: 2 of 5 events" in text
    assert "disk &lt;full&gt;" in page
    assert "lifelong run x.yaml" in text
    assert "one seed decides nothing" in text
    assert "1 of 2 finished" in text
    whole = {s: [r.value for r in t["replay"].select("average_accuracy", "stream")] for s, t in _by_seed(tiny_study)}
    drawn = numbers(trace(page, "average-0", "replay")["y"])
    assert drawn[:2] == pytest.approx(np.mean([whole[0][:2], whole[1][:2]], axis=0))
    assert drawn[2:] == pytest.approx(whole[0][2:])
    assert "This study is not finished" in export(study, "md", tmp_path / "x.md")[0].read_text(encoding="utf-8")


def _by_seed(study: Study) -> list[tuple[int, dict[str, lifelong.Table]]]:
    return [(cell.seed, tables) for cell, tables in study.results().tables if "replay" in tables]


def test_a_study_that_has_not_begun_has_a_report(tiny_study: Study, tmp_path: Path) -> None:
    page = write_study_report(Study(tiny_study.declared, root=tmp_path)).read_text(encoding="utf-8")
    assert "4 of 4 runs" in text_of(page)
    assert figures_of(page) == {}


@pytest.mark.nightly
def test_every_point_of_a_grid_has_its_figures(tiny_study: Study, tmp_path: Path) -> None:
    from lifelong.study.jobs import execute

    declared = tiny_study.declared.model_dump(mode="json", exclude_unset=True)
    study = Study(declared | {"seeds": 1, "grid": {"training.epochs": [1, 2]}, "criteria": []}, root=tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
        for job in study.jobs[:3]:
            assert execute(job).error is None
    page = write_study_report(study).read_text(encoding="utf-8")
    assert {"average-0", "average-1", "matrix-replay-0"} < figures_of(page).keys()
    assert "<h3>training.epochs = 2</h3>" in page
    assert "one seed, so there is no band" in page


def test_csv_and_parquet_are_the_frame(tiny_study: Study, tmp_path: Path) -> None:
    frame = tiny_study.frame()
    (file,) = export(tiny_study, "csv", tmp_path / "table.csv")
    with file.open(encoding="utf-8", newline="") as text:
        rows = list(csv.DictReader(text))
    assert list(rows[0]) == list(frame)
    assert len(rows) == len(frame["value"])
    assert [float(r["value"]) if r["value"] else None for r in rows] == frame["value"]
    assert [int(r["seed"]) for r in rows] == frame["seed"]
    parquet = pytest.importorskip("pyarrow.parquet")
    (file,) = export(tiny_study, "parquet", tmp_path / "table.parquet")
    assert parquet.read_table(file).to_pydict() == frame
    assert [f.name for f in tmp_path.iterdir() if f.name.startswith(".")] == []


def test_markdown_has_the_verdicts(tiny_study: Study, tmp_path: Path) -> None:
    text = export(tiny_study, "md", tmp_path / "report.md")[0].read_text(encoding="utf-8")
    assert "| retraining is exact | undecided | replay on immediate_js" in text
    assert "*retain: full*" in text
    for line in text.splitlines():
        assert not line.startswith("|") or line.endswith("|")


def test_latex_holds_the_tables_of_the_report(tiny_study: Study, tmp_path: Path) -> None:
    text = export(tiny_study, form_of(None, tmp_path / "paper.tex"), tmp_path / "paper.tex")[0].read_text("utf-8")
    lives = gather_lives(tiny_study)
    assert re.findall(r"\\label\{(.+?)\}", text) == ["tab:tiny-verdicts", "tab:tiny-comparisons", "tab:tiny-results"]
    check_latex(text)
    said = plain(text)
    for grid in (verdicts(lives), comparisons(lives), results(lives.points[0])):
        assert grid.caption in said
        for access, rows in grid.groups:
            assert access in said
            for row in rows:
                for cell in row:
                    assert cell in said, f"{cell} of {row[0]}"


def test_latex_survives_any_text() -> None:
    odd = r"50 % of $a_1 & {b} #2 ~ ^ \input [x] * <y> | é"
    text = latex.table(Grid(odd, (("of", ""), (odd, odd)), ((odd, (("[a]", odd), ("*", "-"))),)), "A b_c", "")
    check_latex(text)
    assert plain(text).count(odd) == 6  # caption, group, cell, head, and twice what the head means
    assert r"\label{tab:a-b-c}" in text
    assert not re.search(r"\\\\\n[\[*]", text), "a row that begins so is read as an option of the one before"


def test_numbers_in_latex() -> None:
    rows = (("x-1", "-5.9e-05", "-", "1,234 [-1, 2.5e+10]", "3 [words]"), ("y", "+12%", "4.8 kB", "0", ""))
    grid = Grid("c", tuple((h, "") for h in ("of", "a b", "c", "d", "e")), (("", rows),))
    body = latex.table(grid, "l", "")
    assert r"of & \shortstack[r]{a\\b} & c & d & e \\" in body
    band = r"\withinterval{1,234}{$-$1}{2.5$\times 10^{10}$}"
    assert rf"x-1 & $-$5.9$\times 10^{{-5}}$ & -- & {band} & 3 {{[}}words{{]}} \\" in body
    assert r"y & $+$12\% & 4.8 kB & 0 &  \\" in body
    assert r"\begin{tabular}{@{}lrrrl@{}}" in body


def test_a_run_has_the_same_forms(tiny_study: Study, tmp_path: Path) -> None:
    run = lifelong.load_run(tiny_study.jobs[0].folder)
    assert isinstance(run, Run)
    (name,) = run.tables
    text = export(run, "md", tmp_path / "x.md")[0].read_text(encoding="utf-8")
    assert f"| {name} | " in text
    text = export(run, "tex", tmp_path / "x.tex")[0].read_text(encoding="utf-8")
    assert f"\n{name} & " in text
    check_latex(text)
    assert len(export(run, "csv", tmp_path / "x.csv")[0].read_text().splitlines()) == len(run.tables[name].rows) + 1
    assert export(run, "html", tmp_path / "x.html") == [tmp_path / "x.html"]


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium")
@pytest.mark.nightly  # each picture starts a browser
def test_pictures_for_print(tiny_study: Study, tmp_path: Path) -> None:
    pytest.importorskip("kaleido", reason="needs kaleido")
    written = export(tiny_study, "png", tmp_path / "png")
    assert "average.png" in {f.name for f in written}
    for file in written:
        content = file.read_bytes()
        assert content.startswith(b"\x89PNG")
        assert struct.unpack(">I", content[16:20]) == (2700,)
    run = lifelong.load_run(tiny_study.jobs[0].folder)
    for file in export(run, "svg", tmp_path / "svg"):
        assert file.read_text(encoding="utf-8").startswith("<svg")


def test_what_is_missing_is_named(tiny_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "kaleido" in sys.modules or shutil.which("chromium"):
        pytest.importorskip("kaleido", reason="needs kaleido")
        monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "nowhere"))
        with pytest.raises(ConfigError, match="Install Chromium or Chrome"):
            export(tiny_study, "png", tmp_path / "png")
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(ConfigError, match="pip install kaleido"):
        export(tiny_study, "svg", tmp_path / "svg")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match="pip install pyarrow"):
        export(tiny_study, "parquet", tmp_path / "x.parquet")


def test_the_form_follows_from_the_file() -> None:
    assert form_of(None, None) == "html"
    assert form_of(None, Path("a/b.parquet")) == "parquet"
    assert form_of("csv", Path("b.txt")) == "csv"
    with pytest.raises(ConfigError, match="Did you mean 'csv'"):
        form_of("cvs", None)


def test_the_command_reports_studies_and_runs(
    tiny_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, out in ((tiny_study.folder, "study.md"), (tiny_study.jobs[0].folder, "run.csv")):
        monkeypatch.setattr(sys, "argv", ["lifelong", "report", str(folder), "--out", str(tmp_path / out)])
        with pytest.raises(SystemExit, match="0"):
            main()
        assert capsys.readouterr().out.strip() == str(tmp_path / out)
        assert (tmp_path / out).exists()


def test_spread_over_many_seeds_is_an_interval_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(1.0, 0.5, size=(50, 3))
    values[:, 2] = np.nan
    values[:49, 1] = np.nan
    found = spread(values)
    half = 1.96 * values[:, 0].std() / math.sqrt(50)
    assert found.low[0] == pytest.approx(values[:, 0].mean() - half, abs=0.03)
    assert found.high[0] == pytest.approx(values[:, 0].mean() + half, abs=0.03)
    assert found.low[1] == found.mean[1] == found.high[1] == values[49, 1]
    assert np.isnan([found.mean[2], found.low[2], found.high[2]]).all()
    assert found.count.tolist() == [50, 1, 0]


def test_the_front_keeps_what_nothing_beats() -> None:
    generator = np.random.default_rng(1)
    distance, score = generator.integers(0, 5, (2, 40)).astype(float)
    for i, optimal in enumerate(pareto(distance, score)):
        beaten = any(
            distance[j] <= distance[i] and score[j] >= score[i] and (distance[j], score[j]) != (distance[i], score[i])
            for j in range(40)
        )
        assert optimal != beaten


def test_requests_are_aligned_by_their_order(tiny_study: Study) -> None:
    (point,) = gather_lives(tiny_study).points
    assert [a.name for a in point.requests] == ["request-0", "request-1"]
    assert [a.what for a in point.requests] == ["5 samples", "class 1"]
    assert [a.events for a in point.requests] == [(1,), (3,)]


def test_the_page_counts_what_is_finished_and_leaves_out_what_was_mended(tiny_study: Study, tmp_path: Path) -> None:
    """All four runs are there, then three; of two failures one has been mended since."""
    assert "4 of 4 finished" in text_of(render(gather_lives(tiny_study)))
    shutil.copytree(tiny_study.folder.parent, tmp_path / "runs")
    study = Study(tiny_study.declared, root=tmp_path / "runs")
    shutil.rmtree(study.jobs[0].folder)
    outcome = json.loads((study.folder / "verdicts.json").read_text(encoding="utf-8"))
    del outcome["digest"]
    failed = [{"job": j.label, "error": f"{j.label} broke", "command": "again"} for j in study.jobs[:2]]
    (study.folder / "verdicts.json").write_bytes(with_digest(outcome | {"failed": failed}))
    lives = gather_lives(study)
    text = text_of(render(lives))
    assert "3 of 4 finished" in text
    assert f"{study.jobs[0].label} broke" in text
    assert list(failures(lives)) == [study.jobs[0].label]


def test_in_short_only_lives_that_are_over_count(tiny_study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    (point, *_) = gather_lives(tiny_study).points
    seen: list[dict[str, dict[str, dict[int, Any]]]] = []
    monkeypatch.setattr(study_page, "in_short_over_seeds", lambda groups, heads: seen.append(groups) or "")
    lives = {n: {s: replace(life, done=s == 0) for s, life in of.items()} for n, of in point.lives.items()}
    study_page._results(replace(point, lives=lives))
    assert [{n: list(of) for n, of in group.items()} for group in seen[0].values()] == [{"naive": [0]}, {"replay": [0]}]
