"""Image generators in whole runs: what is drawn, judged, compared with references and shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lifelong
from lifelong.audits import _judge
from lifelong.audits.images import Drawn, beside_pairs
from lifelong.config.run import RunConfig, load_config
from lifelong.evaluation.outputs import Findings
from lifelong.report.contact_sheet import strips_by_event
from lifelong.report.export import write_sheets
from lifelong.report.facts import gather
from lifelong.report.html import write_report
from lifelong.results.record import shown_files
from lifelong.results.table import Row
from lifelong.setup.instruments import make_instruments
from lifelong.setup.preparation import prepare
from streams.config import parse
from streams.errors import ConfigError

REPLAY = {"name": "replay", "memory": 60, "batch": 16}
SMALL: dict[str, Any] = {
    "scenario": {"name": "domain-incremental", "kind": "rotated", "domains": 2, "overlap": False},
    "schedule": {
        "name": "explicit",
        "requests": [
            {"after": 1, "scope": "class", "keys": ["3"]},
            {"after": 2, "scope": "task", "keys": ["rotated-0"]},
        ],
    },
    "objective": {"name": "denoising", "steps": 3},
    "model": {"name": "mlp-denoiser", "width": 24, "blocks": 1},
    "training": {"epochs": 1, "optimizer": "adam", "lr": 2e-3},
    "strategies": {
        "esd": {"learner": REPLAY, "unlearner": {"name": "esd", "steps": 3, "images": 8}},
        "retrain": {"learner": REPLAY, "unlearner": "retrain"},
    },
    "evaluation": {"audits": [{"name": "images", "per_prompt": 2, "least_accuracy": 0.0}], "probe": 100},
    "recording": {"keep": "images"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> lifelong.Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(_judge, "STEPS", 30)
        return lifelong.run(parse(RunConfig, SMALL), tmp_path_factory.mktemp("runs"))


def rows(run: lifelong.Run, strategy: str, metric: str, subject: str, model: str = "run") -> dict[int, Row]:
    return {r.event: r for r in run.tables[strategy].rows if (r.metric, r.subject, r.model) == (metric, subject, model)}


def test_every_request_is_followed_from_before_the_first(run: lifelong.Run) -> None:
    """Events: a style, a digit goes, another style, the first style goes."""
    for name in SMALL["strategies"]:
        assert list(rows(run, name, "picture_accuracy", "stream")) == [0, 1, 3]
        assert list(rows(run, name, "ua", "request-0")) == [1, 3]
        assert list(rows(run, name, "ua", "request-1")) == [3]
        for metric in ("ua", "ira", "erased_in_range", "extracted"):
            (row,) = rows(run, name, metric, "request-1").values()
            assert row.value is not None
            assert 0 <= row.value <= 1
    style, digit = (rows(run, "esd", "cra_erased", f"request-{n}") for n in (1, 0))
    assert style[3].value is not None
    assert digit[1].value is not None
    assert style[3].n == 2 * 9, "nine digits are left of the style that goes"
    assert digit[1].n == 2, "one digit goes, in the one style there is"


def test_the_rows_of_a_request(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By hand: two objects in two styles; the second style goes. A judge sees something wrong in some images."""
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path))
    monkeypatch.setattr(_judge, "STEPS", 2)
    prepared = prepare(parse(RunConfig, SMALL))
    instruments = make_instruments(prepared.config.evaluation, prepared.stream, prepared.plan, prepared.setting, "cpu")
    (audit,) = instruments.audits
    prompts = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    objects, styles = [[0, 0], [1, 0], [0, 1], [1, 1]], [[0, 1], [0, 0], [1, 1], [1, 0]]
    findings = Findings(
        {},
        {
            "prompts": prompts,
            "live": np.array([False, False, True, True]),
            "seen": np.array([objects, styles]),
            "features": np.zeros((4, 2, 128), dtype=np.float32),
            "in_range": np.array([[True, False], [True, True], [True, True], [True, True]]),
        },
    )
    found = {r.metric: r.value for r in audit.rows("run", 3, findings, {}) if r.subject == "request-1"}
    assert found["ua"] == pytest.approx(1 - 3 / 4), "the style that goes is seen in three of four images for it"
    assert found["cra_erased"] == pytest.approx(3 / 4), "and the object that was asked for in three"
    assert found["ira"] == pytest.approx(3 / 4)
    assert found["cra"] == pytest.approx(3 / 4)
    assert found["cra_published"] == pytest.approx(6 / 8), "both together"
    assert found["erased_in_range"] == pytest.approx(3 / 4)
    assert "sc" not in found
    stream = {r.metric: r.value for r in audit.rows("run", 3, findings, {}) if r.subject == "stream"}
    assert stream["picture_accuracy"] == pytest.approx(3 / 4)
    assert stream["picture_style_accuracy"] == pytest.approx(3 / 4)
    assert stream["in_range"] == 1.0


def test_the_rows_of_a_pair() -> None:
    """By hand: three objects in two styles; one pair goes; what shares a style, an object or nothing with it stays."""
    prompts = np.array([[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]])
    objects = [[0, 0], [1, 0], [2, 2], [0, 0], [1, 1], [0, 2]]
    styles = [[0, 1], [0, 0], [0, 0], [1, 0], [1, 1], [1, 1]]
    live = np.array([False, True, True, True, True, True])
    seen, features, in_range = np.array([objects, styles]), np.zeros((6, 2, 4)), np.ones((6, 2), dtype=bool)
    drawn = Drawn(prompts, live, seen, features, in_range)
    found = {name: (value, n) for name, value, n in beside_pairs(drawn, np.array([[0, 0]]))}
    assert found == {"sc": (3 / 4, 4), "oc": (1 / 2, 2), "up": (3 / 4, 4)}


def test_who_retrains_draws_what_the_reference_draws(run: lifelong.Run) -> None:
    """From the same noise, bit for bit; and who does not draws something else."""
    for request in ("request-0", "request-1"):
        for metric in ("same_noise", "instead_js"):
            same = rows(run, "retrain", metric, request, "retrained")
            other = rows(run, "esd", metric, request, "retrained")
            assert {r.value for r in same.values()} == {0.0}
            assert metric == "instead_js" or all(r.value is not None and r.value > 0.01 for r in other.values())
    gaps = rows(run, "retrain", "gap_ua", "request-1", "retrained")
    assert {r.value for r in gaps.values()} == {0.0}
    assert rows(run, "esd", "immediate_ua", "requests", "retrained")


def test_a_run_keeps_images_for_its_report(run: lifelong.Run) -> None:
    files = shown_files(run.folder / "strategies" / "esd")
    assert {event: list(models) for event, models in files.items()} == {
        0: ["run"],
        1: ["retrained", "run"],
        3: ["retrained", "run"],
    }
    strips = strips_by_event(gather(run))[1]
    assert [s.label for s in strips] == ["retrained", "esd", "retrain"]
    assert strips[0].asked[-1] == "3 in rotated-0 style"
    assert strips[0].live.tolist() == [True] * 9 + [False]
    assert np.array_equal(strips[0].pictures, strips[2].pictures)
    written = write_sheets(gather(run), run.folder / "figures")
    assert [f.name for f in written][:3] == [f"images-00000{n}.png" for n in ("0-esd", "0-retrain", "1-retrained")]
    assert all(f.read_bytes().startswith(b"\x89PNG") for f in written)
    page = write_report(run).read_text(encoding="utf-8")
    assert page.count('<img src="data:image/png;base64,') == 2 + 3 + 3
    assert "3 in rotated-0 style <em>(deleted)</em>" in page
    assert re.search(r'alt="esd\. Asked for, and what a judge sees: 3 in rotated-0 style: \d in rotated-', page)


@pytest.mark.nightly
def test_numbers_alone_are_kept_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_judge, "STEPS", 2)
    config = {**SMALL, "recording": {}, "references": {"kinds": []}, "strategies": {"none": {"unlearner": "none"}}}
    run = lifelong.run(parse(RunConfig, config), tmp_path / "runs")
    assert not (run.folder / "strategies" / "none" / "shown").exists()
    assert not (run.folder / "strategies" / "none" / "details").exists()
    assert '<img src="data:image/png' not in write_report(run).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": "classification", "model": "mlp"}, "'images' looks at images that a model makes"),
        ({"model": "mlp"}, "model: mlp does not take the data"),
        ({"strategies": {"a": {"unlearner": {"name": "esd", "part": "none"}}}}, "part"),
        (
            {"strategies": {"a": {"unlearner": {"name": "concept-ablation", "anchor": "cat"}}}},
            "names no class or style of the data",
        ),
        ({"objective": {"name": "denoising", "template": "a picture"}}, "names nothing"),
        ({"objective": {"name": "denoising", "steps": 0}}, "steps"),
        (
            {"schedule": {"name": "explicit", "requests": [{"after": 1, "scope": "sample", "count": 3}]}},
            r"esd cannot serve request-0, which names a sample.*Those that can: .*salun",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(
    change: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path))
    monkeypatch.setattr(_judge, "STEPS", 2)
    with pytest.raises(ConfigError, match=message):
        prepare(parse(RunConfig, {**SMALL, **change}))


def test_a_judge_that_sees_badly_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path))
    monkeypatch.setattr(_judge, "STEPS", 2)
    config = {**SMALL, "evaluation": {"audits": "images"}}
    with pytest.raises(ConfigError, match=r"evaluation\.audits\.images: the judge of objects is right about 0\.\d+"):
        prepare(parse(RunConfig, config))


@pytest.mark.slow
def test_what_erasers_reach_and_what_they_break(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scenario that ships. Directions with room on both sides, not values."""
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    run = lifelong.run(load_config("images-quickstart"), tmp_path / "runs")

    def value(strategy: str, metric: str, subject: str, event: int, model: str = "run") -> float:
        found = rows(run, strategy, metric, subject, model)[event].value
        assert found is not None
        return found

    for name in run.tables:
        assert value(name, "picture_accuracy", "stream", 0) > 0.9
    for number, event in enumerate((1, 3, 4)):
        request = f"request-{number}"
        assert value("replay-none", "ua", request, event) < 0.3
        assert value("replay-none", "ua", request, event, "retrained") > 0.7
        assert value("replay-esd", "ua", request, event) > 0.7
        assert value("replay-ablation", "ua", request, event) > 0.6
    retrained = value("replay-esd", "cra_erased", "request-2", 4, "retrained")
    assert retrained > 0.7, "asked for a digit in the style that is gone, who never saw it draws the digit"
    assert value("replay-esd", "cra_erased", "request-2", 4) < retrained - 0.3, "equal in ua and ira, and not in this"
