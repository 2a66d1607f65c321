"""The generated pages are what the code says, and the examples in the documentation work."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest
import yaml

import lifelong
from lifelong.metrics.catalogue import METRICS, THEMES
from lifelong.report.html import write_report
from streams.config import parse
from streams.registry import KINDS, entries

ROOT = Path(__file__).parents[2]


@pytest.mark.nightly  # and in .ci/run
def test_generated_pages_are_up_to_date(tmp_path: Path) -> None:
    """The script reads the code beside it, from wherever it is called and whatever is installed."""
    result = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"],
        cwd=tmp_path,
        env={},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


def test_every_metric_has_one_theme() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert sum(map(len, THEMES.values())) == len(METRICS)
    assert re.findall(r"(?m)^## (.+)$", page) == ["Scores", *THEMES]
    of_requests = page.split("## Requests\n")[1].split("\n## ")[0]
    assert "| `latency` |" in of_requests
    assert "| `steps` |" not in of_requests


def test_options_that_many_share_are_explained_once() -> None:
    for page in (ROOT / "docs" / "options").glob("*.md"):
        rows = re.findall(r"(?m)^\| `(\S+)` \| (.*?)(?<!\\) \| .*(?<!\\) \| (.*) \|$", page.read_text(encoding="utf-8"))
        assert max(Counter(rows).values(), default=0) < 3, page.name


def test_what_the_map_of_the_field_names_is_there() -> None:
    page = (ROOT / "docs" / "field.md").read_text(encoding="utf-8")
    known = {name for kind in KINDS for name in entries(kind)} | set(METRICS)
    known |= {file.stem for file in (ROOT / "studies").glob("*.yaml")}
    words = {"code", "reason", "correct", "tune", "holds", "lifelong show", "lifelong verify", "lifelong traces"}
    keys = {"evaluation.dense_every", "service.wait_for"}
    assert set(re.findall(r"`([^`]+)`", page)) - known - words - keys == set()


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r"\S+\.(?:md|ipynb)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    docs = ROOT / "docs"
    there = {f.relative_to(docs).as_posix() for f in docs.rglob("*") if f.suffix in {".md", ".ipynb"}}
    assert set(listed) == there
    assert len(listed) == len(there)


def test_heads_of_tables_are_words() -> None:
    page = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
    heads = re.findall(r"<!-- table (?!unlearners)\S+ -->\n(\|.*\|)\n", page)
    assert any("distance to `retrained` in forget accuracy, right after each request" in head for head in heads)
    assert not any(metric in head for head in heads for metric in ("average_", "forget_", "corrected_", "immediate_"))


def test_the_version_is_one() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version
    changes = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert changes[0] == version


@pytest.mark.parametrize("file", [*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml"], ids=str)
def test_workflows_and_templates_are_yaml_and_run_what_is_there(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert isinstance(yaml.safe_load(text), dict)
    for script in re.findall(r"bash (\.ci/\S+)|python (docs/\S+)", text):
        assert (ROOT / "".join(script)).exists()


def examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "adding.md").read_text(encoding="utf-8"), re.DOTALL)


def test_there_are_examples() -> None:
    assert len(examples()) == 8


@pytest.mark.parametrize("number", [0, 1])
def test_the_examples_of_adding_work(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the example as a third party would, by an entry point, and run it."""
    kind, name = [("learners", "shrink"), ("unlearners", "noise")][number]
    (tmp_path / f"their_{name}.py").write_text(examples()[number], encoding="utf-8")
    metadata = tmp_path / f"their_{name}-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: their-{name}\nVersion: 1\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text(f"[lifelong.{kind}]\n{name} = their_{name}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    assert name in entries(kind)
    config = {
        "scenario": {"name": "class-incremental", "experiences": 2},
        "schedule": {"name": "periodic", "limit": 1},
        "model": {"name": "mlp", "hidden": [8]},
        "strategies": {"theirs": {"learner": "naive", "unlearner": "none"} | {kind[:-1]: name}},
        "references": {"kinds": []},
    }
    run = lifelong.run(parse(lifelong.RunConfig, config), tmp_path / "runs")
    assert run.done


@pytest.mark.nightly  # and in .ci/run
def test_the_examples_of_adding_work_as_files_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    names = ("shrink", "noise", "blank", "nearby", "two_layers", "weakest_units", "pruned")
    files = [tmp_path / f"{name}.py" for name in names]
    texts = [text for text in examples() if "NamedObjective" not in text]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text, encoding="utf-8")
    learner, unlearner, _, guard, model, metric, audit = map(str, files)
    config = {
        "scenario": {"name": "class-incremental", "experiences": 2},
        "schedule": {"name": "periodic", "limit": 1},
        "model": {"name": model, "width": 8},
        "strategies": {"theirs": {"learner": ["replay", learner], "unlearner": unlearner, "guard": guard}},
        "evaluation": {"metrics": [{"name": metric, "units": 2}], "audits": {"name": audit, "share": 0.2}},
        "references": {"kinds": ["retrained", "no-op"]},
    }
    run = lifelong.run(parse(lifelong.RunConfig, config), tmp_path / "runs")
    assert run.done
    table = run.tables["theirs"]
    for name, subject in (("weakest_units", "stream"), ("pruned_score", "request-0")):
        own, other, gap = (
            r.value
            for r in (
                table.last(name, subject),
                table.last(name, subject, "retrained"),
                table.last(f"gap_{name}", subject, "retrained"),
            )
            if r is not None and r.value is not None
        )
        assert gap == pytest.approx(own - other)
    assert table.last("pruned_score", "request-0", "no-op") is not None
    page = write_report(run).read_text(encoding="utf-8")
    assert "with the smallest weights set to zero" in page
    assert "of the units held that score lowest" in page
    files[1].write_text(examples()[1].replace("0.01", "0.5"), encoding="utf-8")
    again = lifelong.run(parse(lifelong.RunConfig, config), tmp_path / "runs")
    assert again.folder != run.folder


@pytest.mark.nightly
def test_the_unlearner_of_adding_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was told to forget it no longer answers, and what it kept it still knows."""
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "blank.py"
    file.write_text(examples()[2], encoding="utf-8")
    blank = {"name": str(file), "epochs": 10, "lr": 0.05, "batch_size": 32}
    config = {
        "scenario": "joint",
        "schedule": {"name": "explicit", "requests": [{"after": 1, "scope": "class", "keys": [3]}]},
        "model": {"name": "mlp", "hidden": [32]},
        "training": {"epochs": 20, "lr": 0.2},
        "strategies": {"bare": {"unlearner": "none"}, "theirs": {"unlearner": blank}},
        "references": {"kinds": []},
    }
    run = lifelong.run(config, tmp_path / "runs")
    last = {
        (name, metric, subject): run.tables[name].last(metric, subject)
        for name in run.tables
        for metric, subject in (("forget_test_accuracy", "request-0"), ("average_accuracy", "stream"))
    }
    value = {key: row.value for key, row in last.items() if row is not None and row.value is not None}
    assert value["bare", "forget_test_accuracy", "request-0"] > 0.8
    assert value["theirs", "forget_test_accuracy", "request-0"] < 0.2
    bare = value["bare", "average_accuracy", "stream"]
    assert value["theirs", "average_accuracy", "stream"] > bare - 0.05


def test_the_guard_of_adding_hides_what_the_weights_still_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "nearby.py"
    file.write_text(examples()[3], encoding="utf-8")
    config = {
        "scenario": "joint",
        "schedule": {"name": "explicit", "requests": [{"after": 1, "scope": "class", "keys": [3], "again_after": 1}]},
        "model": {"name": "mlp", "hidden": [32]},
        "training": {"epochs": 20, "lr": 0.2},
        "strategies": {"bare": {"unlearner": "none"}, "theirs": {"guard": str(file)}},
        "references": {"kinds": []},
    }
    run = lifelong.run(parse(lifelong.RunConfig, config), tmp_path / "runs")
    at = {
        (name, r.event, r.metric): r.value
        for name, table in run.tables.items()
        for r in table.rows
        if r.subject in ("stream", "request-0", "event")
    }
    assert at["bare", 1, "forget_test_accuracy"] > 0.8
    assert at["theirs", 1, "forget_test_accuracy"] < 0.1
    assert at["theirs", 1, "average_accuracy"] > at["bare", 1, "average_accuracy"] - 0.05
    assert at["theirs", 1, "weights_erased"] == 0
    assert at["theirs", 1, "state_bytes"] > at["bare", 1, "state_bytes"]
    for metric in ("average_accuracy", "state_bytes"):  # what is learned again is hidden no longer
        assert at["theirs", 2, metric] == at["bare", 2, metric]


def test_the_objective_of_adding_is_learned_and_forgotten(tmp_path: Path) -> None:
    model, objective = (tmp_path / f"{name}.py" for name in ("two_layers", "hidden_pixels"))
    for file, text in zip((model, objective), examples()[4:6], strict=True):
        file.write_text(text, encoding="utf-8")
    config = {
        "scenario": {"name": "class-incremental", "experiences": 2},
        "schedule": {"name": "periodic", "limit": 1},
        "objective": str(objective),
        "model": {"name": str(model), "width": 64},
        "training": {"optimizer": "adam", "lr": 0.005, "epochs": 10},
        "strategies": {"mine": {"learner": "replay", "unlearner": {"name": "graddiff", "epochs": 1}}},
        "references": {"kinds": []},
    }
    rows = lifelong.run(parse(lifelong.RunConfig, config), tmp_path / "runs").tables["mine"].rows
    scores = [r.value for r in rows if r.metric == "average_negative_squared_error"]
    assert scores
    assert all(score is not None and -0.05 < score < 0 for score in scores), "the mean image has -0.077"


def test_every_page_that_is_linked_exists() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for link in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name} links {link}"


def headings(page: Path) -> list[str]:
    return re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)


def anchor(heading: str) -> str:
    """What a heading is linked by."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def test_links_within_pages_and_from_the_code_lead_to_headings() -> None:
    docs = ROOT / "docs"
    anchors = {page: {anchor(h) for h in headings(page)} for page in docs.rglob("*.md")}
    links = 0
    for page in anchors:
        for target, name in re.findall(r"\]\(([\w./-]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
            linked = (page.parent / target).resolve() if target else page
            assert name in anchors[linked], f"{page.name} links {target}#{name}"
            links += 1
    for floor in ("streams", "strategies", "lifelong", "cli"):
        for file in (ROOT / floor).rglob("*.py"):
            for target, name in re.findall(r"docs/([\w.-]+)#([\w-]+)", file.read_text(encoding="utf-8")):
                assert name in anchors[docs / target], f"{file.name} links {target}#{name}"
                links += 1
    assert links > 50


def test_the_contents_of_methods_are_complete() -> None:
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (.+)$", text, re.MULTILINE)
    listed = re.findall(r"^- \[(.+)\]\(#", text.partition("## Contents")[2].partition("\n## ")[0], re.MULTILINE)
    assert listed == [s for s in sections if s != "Contents"]


def test_every_row_of_a_table_has_a_cell_for_each_head() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        width = 0
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            count = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
            assert not count or not width or count == width, f"{page.name}, line {number}: {line}"
            width = count


def test_numbers_in_choosing_are_those_of_studies() -> None:
    """What is measured stands between marks, which `docs/generate.py` fills in and the check above compares."""
    page = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
    by_hand = re.sub(r"<!-- (?!end).+? -->.*?<!-- end -->", "", page, flags=re.DOTALL)
    assert re.findall(r"\d+\.\d+|\d+ %", by_hand) == []
    assert len(re.findall(r"<!-- (?!end)", page)) == len(re.findall(r"<!-- end -->", page)) > 30
    headings = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8").lower().replace(",", "").splitlines()
    for anchor in re.findall(r"\(reproduction\.md#([^)]+)\)", page):
        assert f"### {anchor.replace('-', ' ')}" in [h.replace("-", " ") for h in headings], anchor


def test_choosing_names_everything_that_forgets() -> None:
    page = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
    for kind in ("unlearners", "guards", "isolated"):
        assert [name for name in entries(kind) if f"`{name}`" not in page] == []
