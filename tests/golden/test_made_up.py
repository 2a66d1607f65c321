"""Runs of unusual shapes with answers that are made up (`made_up.py`): every row, and every word of their reports.

No request, one event, everything deleted, events that are not evaluated, ties, a number to be predicted, bad data that
is corrected. Numbers are the same on every processor, so that these records are held against by default. If a change is
meant, write them anew and look at the difference before committing it::

    python tests/golden/test_made_up.py [NAME ...]
"""

from __future__ import annotations

import contextlib
import html as entities
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from golden.made_up import RUNS, differences, lived, made_anew, write, write_files
from golden.test_runs import leaves, sums

from lifelong.bench.evidence import life_of, scores_of
from lifelong.execution.runner import Run
from lifelong.report import html, latex, markdown
from lifelong.report.facts import gather
from lifelong.results.table import Table
from lifelong.setup.preparation import prepare

FILE = Path(__file__).with_name("made_up.json")
SECTIONS = {"every reference": ["repeat"], "no request": ["metrics"]}
"""Sections of a page that are left out, where not all of `("repeat", "metrics")` are."""
AT_NIGHT = ("suppressed domains", "many lives")
LONG = 12
"""Numbers of a figure beyond which their count and sums are kept in their place."""


def rows_of(table: Table) -> dict[str, list[Any]]:
    """Return, by model and metric, the rows: subject and event, value, what it rests on, and why it is undefined."""
    found: dict[str, list[Any]] = {}
    for r in table.rows:
        why = [] if r.reason is None else [r.reason]
        value = r.value if r.value is None else float(f"{r.value:.8g}")
        found.setdefault(f"{r.model} {r.metric}", []).append([f"{r.subject}@{r.event}", value, r.n, *why])
    return found


def figures_of(page: str) -> dict[str, list[Any]]:
    """Return, by name of a figure, its words and numbers in order."""
    scripts = re.findall(r'<script type="application/json" id="figure-(.+?)-data">(.*?)</script>', page)
    return {f"figure {name}": list(_short(leaves(json.loads(text)))) for name, text in scripts}


def _short(values: Iterator[float | str | None]) -> Iterator[Any]:
    numbers: list[float | None] = []
    for value in [*values, ""]:
        if not isinstance(value, str):
            numbers.append(value)
            continue
        yield from [sums(numbers)] if len(numbers) > LONG else numbers
        numbers = []
        if value:
            yield value


def words_of(page: str, without: Sequence[str] = ()) -> list[str]:
    """Return what one reads on a page, a line for every heading, paragraph and row of a table.

    Sections whose names `without` holds are left out.
    """
    body = re.sub(r"<(script|style|head)\b.*?</\1>", "", page, flags=re.DOTALL)
    for name in without:
        body = re.sub(rf'<section[^>]*id="{name}".*?</section>', "", body, flags=re.DOTALL)
    body = re.sub(r'<t[hd]\b[^>]*\bclass="([^"]+)"[^>]*>', r"(\1) ", body)
    broken = re.sub(r"</?(?:h\d|p|tr|li|div|section|summary|dt|dd|figcaption|option|br)\b", r"\n\g<0>", body)
    cells = re.sub(r"</t[hd]>\s*", " | ", broken)
    lines = (" ".join(entities.unescape(re.sub("<[^>]*>", " ", line)).split()) for line in cells.split("\n"))
    return [steady(line) for line in lines if line]


def steady(text: str) -> str:
    """Return a text without what another machine, or version of the code, says otherwise."""
    text = re.sub(r"\b[0-9a-f]{8,64}\b", "DIGEST", text)
    text = re.sub(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?[\w.+:]*", "DATE", text)
    text = re.sub(r"\b\d+\.\d+\.\d+[-+\w.]*", "VERSION", re.sub(r"\b(Linux|macOS|Windows)-[\w.-]+", "PLATFORM", text))
    return re.sub(r"[^\s'\"]*/runs/", "RUNS/", text)


def folder_of(run: Run) -> dict[str, Any]:
    """Return the files of a run, and what they say of the stream, of cost and time, and of where they come from."""
    strategy = run.folder / "strategies" / list(run.tables)[-1]
    manifest, stream, done = (
        json.loads(steady(file.read_text(encoding="utf-8")))
        for file in (run.folder / "manifest.json", run.folder / "stream.json", strategy / "done.json")
    )
    timings = [json.loads(line) for line in (strategy / "timings.jsonl").read_text(encoding="utf-8").splitlines()]
    sizes = {file: size["bytes"] for file, size in manifest.pop("files").items()}
    return {
        "files": sorted(f.relative_to(run.folder).as_posix() for f in run.folder.rglob("*") if f.is_file()),
        "manifest": manifest | {"bytes": sizes["stream.json"]},
        "units": stream.pop("units"),
        "events": stream.pop("events"),
        "stream": stream,
        "done": done | {"files": sorted(done["files"])},
        "timings": [[t[key] for key in t if key != "select_s"] for t in timings],  # what it is in is made up, it is not
    }


def record_of(name: str, folder: Path) -> dict[str, Any]:
    """Return what the last strategy of a run comes to, and what reports say of all."""
    run = lived(name, folder)
    record: dict[str, Any] = folder_of(run) | rows_of(list(run.tables.values())[-1])
    if "retrained-2" in run.config.references.kinds:  # as a submission to a track has it
        with contextlib.chdir(folder):
            prepared = prepare(run.config)
        table, scores = list(run.tables.values())[-1], scores_of(run.config.objective.name)
        life = life_of(0, table, prepared.stream, scores, run.config.references, "")
        record["life"] = life.model_dump(mode="json")
    page = html.render(gather(run))
    record |= figures_of(page)
    record["page"] = words_of(page, SECTIONS.get(name, ["repeat", "metrics"]))
    record["markdown"] = [steady(line) for line in markdown.run_markdown(run).splitlines() if line]
    record["latex"] = [steady(line) for line in latex.run_latex(run).splitlines() if line]
    return record


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made-up")
    write_files(folder)
    return folder


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.nightly] if n in AT_NIGHT else []) for n in RUNS])
def test_rows_and_reports_of_made_up_answers_are_as_committed(name: str, place: Path) -> None:
    expected = json.loads(FILE.read_text(encoding="utf-8"))[name]
    found = json.loads(json.dumps(record_of(name, place)))
    assert list(differences(found, expected))[:12] == []


def main(names: list[str]) -> None:
    """Write records: what is new, and what has one of `names` in its own."""
    torch.set_num_threads(1)
    old, todo = made_anew(FILE, RUNS, names)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_files(folder)
        made = {name: record_of(name, folder) for name in todo}
    write(FILE, {name: made.get(name, old.get(name)) for name in RUNS})


if __name__ == "__main__":
    main(sys.argv[1:])
