"""Reports of real runs: parsed as HTML, their figures compared with the tables, and drawn by a real browser."""

from __future__ import annotations

import base64
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

import lifelong
from lifelong.config.run import RunConfig, StrategyConfig
from lifelong.execution.runner import Run
from lifelong.metrics.catalogue import METRICS, describe
from lifelong.report import unlearning
from lifelong.report.facts import Series, gather
from lifelong.report.html import write_report
from lifelong.report.matrix import kept_events
from lifelong.results.table import Row, Table, read_rows
from streams.config import parse
from streams.errors import CheckpointError

TINY = {
    "name": "tiny",
    "scenario": {"name": "class-incremental", "experiences": 3},
    "schedule": {
        "name": "explicit",
        "requests": [
            {"after": 1, "scope": "sample", "count": 5},
            {"after": 2, "scope": "class", "keys": [1], "again_after": 3},
            {"after": 3, "scope": "task", "keys": [2]},
        ],
    },
    "model": {"name": "mlp", "hidden": [16]},
    "training": {"epochs": 2},
    "strategies": {"naive": {"unlearner": "none"}, "replay": {"learner": "replay", "unlearner": "retrain"}},
    "references": {"kinds": ["retrained", "withheld"]},
}


@dataclass
class Page(HTMLParser):
    """A report, taken apart."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    text: str = ""
    _script: str = ""
    _open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag == "script":
            self._script = (attributes.get("id") or "") if attributes.get("type") == "application/json" else ""
        if tag not in {"meta", "link", "br"}:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "script":
            self._script = ""

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            if self._script:
                self.figures[self._script.removesuffix("-data")] = json.loads(data)
        elif self._open and self._open[-1] != "style":
            self.text += data + " "

    def has(self, tag: str, **attributes: str) -> bool:
        return any(t == tag and attributes.items() <= a.items() for t, a in self.tags)


def taken_apart(file: Path) -> Page:
    page = Page()
    page.feed(file.read_text(encoding="utf-8"))
    assert page._open == []
    return page


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(root / "cache"))
        return lifelong.run(parse(RunConfig, TINY), root / "runs")


@pytest.fixture(scope="module")
def page(run: Run) -> Page:
    file = write_report(run)
    assert file == run.folder / "report.html"
    assert file.stat().st_size < 6_000_000
    return taken_apart(file)


def trace(page: Page, figure: str, name: str) -> dict[str, Any]:
    (found,) = [t for t in page.figures[figure]["data"] if t.get("name") == name and t.get("showlegend") is not False]
    return found


def test_the_average_trace_is_the_table(page: Page, run: Run) -> None:
    for name, table in run.tables.items():
        drawn = trace(page, "figure-score", name)
        rows = table.select("average_accuracy", "stream")
        assert drawn["x"] == [r.event for r in rows]
        assert drawn["y"] == [r.value for r in rows]
    marks = [s["x0"] for s in page.figures["figure-score"]["layout"]["shapes"]]
    assert marks == [r.event for r in gather(run).requested]


def test_the_heat_map_is_the_matrix(page: Page, run: Run) -> None:
    table = run.tables["replay"]
    held, deleted = page.figures["figure-matrix-1"]["data"][:2]
    expected_names = ["task-0", "task-0, deleted", "task-1", "task-2", "task-2, deleted"]
    assert held["y"] == deleted["y"] == expected_names
    learned = {unit: e.event for e in reversed(gather(run).learned) for unit in e.units}
    assert learned["task-0"] == 0 < learned["task-1"] < learned["task-2"]
    for drawn, metric, suffix in ((held, "accuracy", ""), (deleted, "deleted_accuracy", ", deleted")):
        values, events = decoded(drawn["z"]), [int(edge - 0.5) for edge in drawn["x"][1:]]
        seen = set()
        for r in table.rows:
            if r.model == "run" and r.metric == metric and r.event >= learned.get(r.subject, r.event + 1):
                place = (expected_names.index(r.subject + suffix), events.index(r.event))
                assert values[place] == np.float32(r.value)
                seen.add(place)
        for place in np.ndindex(values.shape):
            assert (place in seen) == np.isfinite(values[place])


def test_request_panels_hold_run_and_references(page: Page, run: Run) -> None:
    data = page.figures["figure-requests"]["data"]
    for name, table in run.tables.items():
        for model, label in (("run", name), ("retrained", f"{name}: retrained"), ("withheld", f"{name}: withheld")):
            drawn = [(x, y) for t in data if t.get("name") == label for x, y in zip(t["x"], t["y"], strict=True)]
            rows = [r for r in table.select("forget_accuracy", model=model) if r.subject != "requests"]
            assert sorted(drawn) == sorted((r.event, r.value) for r in rows)
            assert rows


def test_costs_and_timeline(page: Page, run: Run) -> None:
    steps = trace(page, "figure-cost", "replay")
    each = [r.value or 0.0 for r in run.tables["replay"].select("steps", "event")]
    assert steps["y"] == list(itertools.accumulate(each))
    again = trace(page, "figure-timeline", "learn again")
    assert again["y"] == ["task-0"]
    asked = trace(page, "figure-timeline", "deletion request")
    assert asked["y"] == ["request: sample", "request: class", "request: task"]


def test_each_learner_stands_below_its_own_retrained_reference(run: Run) -> None:
    facts = gather(run)
    rows = re.findall(r'<tr><th scope="row">([^<]+)</th><td>([^<]*)</td>', unlearning.beside_retraining(facts))
    assert [name for name, _ in rows] == ["retrained reference", "naive", "retrained reference", "replay"]
    served = {(r.name, r.event) for r in facts.requested}
    for (_, reference), (name, own) in (rows[:2], rows[2:]):
        for model, shown in (("retrained", reference), ("run", own)):
            found = [r for r in run.tables[name].rows if (r.metric, r.model) == ("forget_accuracy", model)]
            known = [r.value for r in found if (r.subject, r.event) in served]
            assert shown == f"{1 - np.mean(known):.3f}"
    assert rows[0][1] != rows[2][1]


def test_figures_are_valid_plotly(page: Page) -> None:
    assert {"figure-timeline", "figure-score", "figure-matrix-0", "figure-matrix-1"} < page.figures.keys()
    for figure in page.figures.values():
        go.Figure(figure)  # raises on a property that does not exist


def test_nothing_is_loaded(page: Page) -> None:
    for tag, attributes in page.tags:
        for key in ("src", "href", "data", "action", "srcset"):
            value = attributes.get(key)
            assert value is None or value.startswith(("#", "data:")), (tag, key, value)
    assert any("default-src 'none'" in (a.get("content") or "") for _, a in page.tags)


def test_the_page_says_what_was_run_and_can_be_used_by_keyboard(page: Page, run: Run) -> None:
    for text in (gather(run).manifest["digests"]["stream"], "lifelong run", "torch", "retain: full", "Seed"):
        assert text in page.text
    assert "not finished" not in page.text
    assert page.has("html", lang="en")
    assert page.has("a", href="#main")
    assert page.has("main", id="main")
    assert all(page.has("figcaption", id=f"{key}-caption") for key in page.figures)
    for tag, attributes in page.tags:
        if tag == "div" and attributes.get("class") == "scroll":
            assert attributes["tabindex"] == "0"
            assert attributes["aria-label"]
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_an_unfinished_run_is_reported_as_far_as_it_went(run: Run, tmp_path: Path) -> None:
    """As a kill leaves it: one strategy in the middle of a line, the other not begun."""
    folder = tmp_path / run.folder.name
    shutil.copytree(run.folder, folder)
    shutil.rmtree(folder / "strategies" / "replay")
    naive = folder / "strategies" / "naive"
    (naive / "done.json").unlink()
    for name in ("results.jsonl", "timings.jsonl"):
        text = (naive / name).read_text(encoding="utf-8")
        (naive / name).write_text(text[: text.index('"event": 3') + 5], encoding="utf-8")
    unfinished = lifelong.load_run(folder)
    file = write_report(unfinished, tmp_path / "elsewhere" / "report.html")
    page = taken_apart(file)
    assert "not finished" in page.text
    assert "naive has lived 3 of" in page.text
    assert "replay has not begun" in page.text
    drawn = trace(page, "figure-score", "naive")
    assert drawn["y"] == [r.value for r in run.tables["naive"].select("average_accuracy", "stream")[:3]]


def test_a_run_that_has_not_begun_has_a_report(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / run.folder.name
    shutil.copytree(run.folder, folder)
    shutil.rmtree(folder / "strategies")
    page = taken_apart(write_report(lifelong.load_run(folder)))
    assert "naive has not begun" in page.text
    assert list(page.figures) == ["figure-timeline"]


def test_a_folder_without_its_stream_is_refused(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / run.folder.name
    shutil.copytree(run.folder, folder)
    (folder / "stream.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"stream\.json"):
        write_report(lifelong.load_run(folder))


def test_names_are_escaped(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / run.folder.name
    shutil.copytree(run.folder, folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["source"]["notes"] = ["</dd><script>alert(1)</script>"]
    del manifest["digest"], manifest["files"]
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    stream = (folder / "stream.json").read_text(encoding="utf-8").replace('"task-1"', '"</script><b>1"')
    (folder / "stream.json").write_text(stream, encoding="utf-8")
    page = taken_apart(write_report(lifelong.load_run(folder)))
    assert "alert(1)" in page.text
    assert not page.has("b")


@pytest.mark.nightly
def test_a_long_run_stays_small(run: Run, tmp_path: Path) -> None:
    """1000 events, 100 units, 100 requests, four strategies."""
    num_events, num_units = 1000, 100
    names = [f"task-{i}" for i in range(num_units)]
    events: list[dict[str, Any]] = []
    for e in range(num_events):
        if e % 10 == 9:
            requests = [{"scope": "task", "keys": [e // 10], "samples": 10, "received": 0}]
            events.append({"event": e, "kind": "forget", "name": f"request-{e}", "samples": 10, "requests": requests})
        else:
            learn = {"event": e, "kind": "learn", "name": f"experience-{e}", "units": [e % num_units]}
            events.append(learn | {"samples": 20, "incarnation": 0})
    stream = json.loads((run.folder / "stream.json").read_text(encoding="utf-8"))
    stream |= {"events": events, "units": [{"name": n, "classes": [0], "tests": 5} for n in names]}
    (tmp_path / "stream.json").write_text(json.dumps(stream), encoding="utf-8")
    shutil.copy(run.folder / "manifest.json", tmp_path)
    shutil.copy(run.folder / "config.yaml", tmp_path)
    rows = []
    for e in range(num_events):
        for i, name in enumerate(names):
            metric = "deleted_accuracy" if i * 10 + 9 <= e else "accuracy"
            rows.append(Row(e, "run", name, metric, (e * 7 + i * 13) % 101 / 101, 5))
        rows.append(Row(e, "run", "stream", "average_accuracy", e / 1000, 5))
        rows += [Row(e, "run", f"request-{k}", "forget_accuracy", 0.5, 5) for k in range(9, e + 1, 10)]
    tables = {name: Table(rows) for name in ("a", "b", "c", "d")}
    config = run.config.model_copy(update={"strategies": {name: StrategyConfig() for name in tables}})
    file = write_report(Run(tmp_path, config, tables, {}))
    assert file.stat().st_size < 10_000_000
    page = taken_apart(file)
    shown = page.figures["figure-matrix-3"]["data"][0]["text"][0]
    assert len(shown) <= 400
    assert int(shown[-1]) == num_events - 1
    assert f"{len(shown)} of {num_events} measured events are shown" in page.text
    assert len(trace(page, "figure-score", "a")["x"]) == num_events


def test_every_metric_of_a_run_is_in_the_catalogue(run: Run) -> None:
    found = {r.metric for table in run.tables.values() for r in table.rows}
    for metric in found:
        assert describe(metric).meaning.endswith(".")
    optional = {"stability_gap"}  # evaluations within experiences
    optional |= {"relearn_steps", "anamnesis", "readout_accuracy", "layer_distance", "layer_distance_max"}  # audits
    optional |= {
        m for m in METRICS if "lira" in m or m.startswith(("rmia", "forgetting_score", "forgetting_eps"))
    }  # shadows
    optional |= {"attack_success", "unnamed_fit", "recovery"}  # corrupted sources
    optional |= {"mask_density", "mask_overlap", "free_share", "inherited", "capacity_used", "storage_share"}  # masks
    optional |= {
        "stages",
        "stranded_samples",
        "served_stages",
        "exhausted",
        "consolidation_drop",
    }  # stages
    optional |= {"probability", "truth_ratio", "rouge_recall", "exact_memorisation", "extraction_strength"}  # text
    optional |= {"loss_auc", "min_k_auc", "min_k_plus_plus_auc", "priv_leak", "ks_distance"}
    optional |= {"forget_quality", "model_utility", "truth_prob", "zlib_auc", "zlib_tpr", "loss_tpr"}
    optional |= {"min_k_tpr", "min_k_plus_plus_tpr", "perplexity", "average_perplexity", "perplexity_growth"}
    optional |= {m for m in METRICS if m.startswith(("retained_", "world_"))} - {"retained_drop"}
    optional |= {"verb_mem", "know_mem", "retain_know_mem", "joint_priv_leak"}  # audits of text
    optional |= {m for m in METRICS if m.startswith(("utility_", "relearned", "int4_", "int8_", "context_", "probe_"))}
    optional |= {m for m in METRICS if m.startswith("reintroduction_gain_")}
    optional |= {"klom_median", "klom_95", "klom_median_null"}  # these and the above: shadows
    optional |= {"mixture_domain", "mixture_instructions", "mixture_preferences", "preference_margin"}  # mix-cpt
    optional |= {"adapter_overlap", "detector_condition", "detector_small", "gate", "gate_rest", "gate_used"}  # o3
    optional |= {"attribution"}  # beside retraining and a life without the request
    optional |= {"guarded", "trained_share"}  # in-context, trained-only
    optional |= {"assistants", "assistant_bytes", "flagged", "noise_sigma", "cube_radius"}  # uld, eco, key-space
    optional |= {"refusal_tau", "stored_prompts", "alternatives_true", "multiplier", "retained_bound"}  # curate ... pdu
    optional |= {"shown_questions", "shown_left_out", "mask_free", "mask_again"}  # icul, alkn
    optional |= {"adjusted_neurons", "adjusted_shift", "routed", "expert_bytes", "attribution_miss"}
    optional |= {"vectors_changed", "vector_effect", "expert_block", "expert_share", "expert_share_after"}
    optional |= {m for m in METRICS if m.startswith(("rwku_", "evade_", "lens_", "trace_"))} | {"concept_hits"}
    optional |= {"text_entropy", "text_words", "reference_auc"} | {m for m in METRICS if m.endswith("_tpr_1")}
    optional |= {m for m in METRICS if m.startswith("authors_")}
    optional |= {"draw_share", "draw_balance", "drawn_samples", "pool_share", "pool_size", "outside_band"}  # selection
    optional |= {"selector", "cluster_share", "cluster_draw", "cluster_nmi", "cluster_nmi_answers", "small_gradients"}
    optional |= {"selection_forward", "selection_backward"}
    optional |= {
        "certified",
        "clipped_share",
        "epsilon_spent",
        "epsilon_spent_max",
        "exhausted_requests",
        "mu_spent_max",
    }
    optional |= {
        "newton_steps",
        "noise",
        "residual",
        "resolved",
        "trained_again",
    }  # these and the above: certified removal
    optional |= {"cra", "cra_erased", "ira", "ua", "erased_in_range", "in_range", "extracted", "fid", "kid"}  # images
    optional |= {"instead_js", "picture_accuracy", "picture_style_accuracy", "same_noise", "same_noise_live"}
    optional |= {"cra_published", "oc", "sc", "up", "remapped", "inverted", "asr", "pre_asr"}
    optional |= {"asr_other_noise", "asr_over_chance", "asr_random_words"}
    assert set(METRICS) - found == optional


def test_the_catalogue_knows_names_by_their_parts() -> None:
    assert describe("immediate_abs_gap_forget_accuracy").better == "lower"
    assert describe("immediate_abs_gap_forget_accuracy").ideal == 0
    assert describe("gap_retain_negative_absolute_error").better == "zero"
    assert describe("forget_test_accuracy").better == "reference"
    assert describe("accuracy").ideal == 1
    assert describe("loss_ewc_penalty").unit == "loss"
    for unknown in ("avarage_accuracy", "average_", "gap_", ""):
        with pytest.raises(KeyError):
            describe(unknown)


def test_kept_events() -> None:
    kept = kept_events(1000, list(range(0, 1000, 3)), 100)
    assert len(kept) <= 100
    assert kept == sorted(set(kept))
    assert kept[0] == 0
    assert kept[-1] == 999
    assert kept_events(0, [], 5) == []


def test_a_last_line_without_end_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    whole = Row(0, "run", "stream", "plasticity", 0.5, 1).to_json()
    file.write_text(f"{whole}\n{whole[:20]}", encoding="utf-8")
    assert len(read_rows(file)) == 1
    file.write_text(f"{whole[:20]}\n{whole}\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match="line 1"):
        read_rows(file)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium")
@pytest.mark.nightly
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_chromium_draws_it_without_complaint(page: Page, run: Run, tmp_path: Path, scheme: str) -> None:
    file = run.folder / "report.html"
    shown = tmp_path / "shown.html"
    count = "document.title = document.querySelectorAll('.plot .main-svg').length + ' drawn'"
    # figures are drawn when they come near the screen, and all of them before the page is printed
    probe = f"<script>dispatchEvent(new Event('beforeprint')); setInterval(() => {{ {count} }}, 100);</script></body>"
    shown.write_text(file.read_text(encoding="utf-8").replace("</body>", probe), encoding="utf-8")
    options = [
        "--dump-dom",
        "--virtual-time-budget=30000",
        "--enable-logging=stderr",
        f"--blink-settings=preferredColorScheme={int(scheme == 'light')}",
    ]
    done = chromium(tmp_path, [*options, shown.as_uri()])
    assert "CONSOLE" not in done.stderr, done.stderr
    drawn = re.search(r"<title>(\d+) drawn</title>", done.stdout)
    assert drawn is not None
    assert int(drawn[1]) >= len(page.figures)


def chromium(tmp_path: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += (
        f" --disable-component-update --disable-sync --virtual-time-budget=10000 --user-data-dir={tmp_path}/profile"
    )
    command = ["chromium", *flags.split(), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def decoded(array: dict[str, Any]) -> np.ndarray:
    """Plotly's typed array."""
    shape = [int(n) for n in array["shape"].split(",")]
    return np.frombuffer(base64.b64decode(array["bdata"]), dtype=array["dtype"]).reshape(shape)


def test_an_attack_that_found_nothing_before_the_request_is_grey(run: Run) -> None:
    facts = gather(run)
    served = {(r.name, r.event) for r in facts.requested}
    for p, grey in ((0.4, True), (0.005, False)):
        changed = []
        for table in run.tables.values():
            rows = [
                Row(event, "run", name, metric, value, 9)
                for name, event in served
                for metric, value in (("ulira_auc", 0.512), ("lira_auc", 0.7), ("lira_p", p))
            ]
            changed.append(Table([*table.rows, *rows]))
        page = unlearning.beside_retraining(
            replace(facts, series={n: Series(t) for n, t in zip(run.tables, changed, strict=True)})
        )
        assert (re.search('<td class="grey"[^>]*>0.512</td>', page) is not None) == grey
        assert ("<td>0.512</td>" in page) == (not grey)
        assert "<td>0.700</td>" in page, "the control itself"
        assert ("in grey italics" in page) == ('class="grey"' in page), "what has no number is not grey"
