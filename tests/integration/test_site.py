"""The documentation as somebody uses it: commands of the tutorial, notebooks, the built site, the pictures."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
pytestmark = pytest.mark.nightly  # minutes in all


def environment(cache: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "LIFELONG_CACHE": str(cache), "NO_MKDOCS_2_WARNING": "1"}


def commands(page: Path) -> list[list[str]]:
    """The lines of all bash blocks of a page, but of those that say they are not run."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for b in blocks if not b.startswith("# not run") for line in b.splitlines()]
    return [shlex.split(line, comments=True) for line in lines]


def test_the_tutorial_works_as_printed(tmp_path: Path) -> None:
    page = DOCS / "tutorial.md"
    assert len(re.findall(r"(?m)^## \d\.", page.read_text(encoding="utf-8"))) == 8
    typed = commands(page)
    assert len(typed) > 8
    for program, *arguments in typed:
        assert program == "lifelong"
        command = [sys.executable, "-c", "from cli.main import main; main()", *arguments]
        done = subprocess.run(
            command, check=False, cwd=tmp_path, env=environment(tmp_path / "cache"), capture_output=True, text=True
        )
        assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stderr}"
        if arguments == ["run", "quickstart"]:
            for name in ("doing nothing", "second retraining", "forget gap", "retained accuracy"):
                assert name in done.stdout, "the page speaks of it"
        if "--strategies.replay-ascent.unlearner.lr=0.01" in arguments:
            assert done.stderr.count("taken over from") == 6, "only the strategy that changed is trained"


@pytest.mark.parametrize("name", ["first-run", "own-unlearner", "event-by-event"])
def test_notebooks_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    for key, value in environment(tmp_path / "cache").items():
        monkeypatch.setenv(key, value)
    notebook = nbformat.read(DOCS / "notebooks" / f"{name}.ipynb", 4)
    client.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    assert outputs
    assert all(o.output_type != "error" for o in outputs)


def test_every_notebook_is_run_and_is_committed_with_what_it_showed() -> None:
    nbformat = pytest.importorskip("nbformat")
    files = sorted((DOCS / "notebooks").glob("*.ipynb"))
    assert [f.stem for f in files] == ["event-by-event", "first-run", "own-unlearner"]
    for file in files:
        notebook = nbformat.read(file, 4)
        nbformat.validate(notebook)
        assert sum(bool(c.outputs) for c in notebook.cells if c.cell_type == "code") >= 2


def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    if importlib.util.find_spec("material") is None or importlib.util.find_spec("mkdocs_jupyter") is None:
        pytest.skip('needs pip install -e ".[docs]"')
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, check=False, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 35
    assert "lifelong.run" in (tmp_path / "site" / "python" / "index.html").read_text(encoding="utf-8")
    loads = re.compile(
        r"<(?:script|img|iframe)[^>]*\bsrc=[\"']?(?:https?:)?//|<link[^>]*stylesheet[^>]*href=[\"']?(?:https?:)?//"
    )
    assert [p for p in pages if loads.search(p.read_text(encoding="utf-8"))] == []
    sheets = [s.read_text(encoding="utf-8") for s in (tmp_path / "site").rglob("*.css")]
    assert not any(re.search(r"url\([\"']?(?:https?:)?//|@import [\"']?https?:", sheet) for sheet in sheets)


def test_the_pictures_are_of_the_quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    spec = importlib.util.spec_from_file_location("draw", DOCS / "draw.py")
    assert spec is not None
    assert spec.loader is not None
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    monkeypatch.setattr(draw, "ROOT", tmp_path)
    monkeypatch.setattr(draw, "IMAGES", tmp_path)
    draw.main()
    for name in ("stream.svg", "result.svg", "concepts.svg"):
        made, kept = ((folder / name).read_text(encoding="utf-8") for folder in (tmp_path, DOCS / "img"))
        assert re.findall(r">([^<>]+)</text>", made) == re.findall(r">([^<>]+)</text>", kept), name
