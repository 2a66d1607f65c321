"""Scripts and notebooks: runs by name or dict, frames and figures, classes of a cell, stepping through a life."""

from __future__ import annotations

import linecache
import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import lifelong
from lifelong.config.cells import source_of, written
from lifelong.interface import Run
from streams.errors import ConfigError

TINY: dict[str, Any] = {
    "name": "tiny",
    "scenario": {"name": "class-incremental", "experiences": 3},
    "schedule": {"name": "explicit", "requests": [{"after": 2, "scope": "class", "keys": [1]}]},
    "model": {"name": "mlp", "hidden": [8]},
    "training": {"epochs": 1, "batch_size": 64},
    "strategies": {
        "kept": {"learner": "naive", "unlearner": "none"},
        "again": {"learner": "naive", "unlearner": "retrain"},
    },
}
IMPORTS = """
import torch
from typing import final
from pydantic import Field
from strategies.base import Access, Outcome, Unlearner
from streams.config import Config as BaseConfig
SCALE = 0.5
"""
CELL = '''
class Config(BaseConfig):
    """Options."""
    scale: float = Field(SCALE, ge=0)

def shrunk(weights, scale):
    return weights.mul_(scale)

@final
class Fade(Unlearner):
    """Fade: all weights are made smaller."""

    config: Config

    @property
    def access(self):
        return Access()

    def forget(self, request, learner, door):
        shrunk(learner.model.parameters, self.config.scale)
        assert torch.isfinite(learner.model.parameters).all()
        return Outcome(exactness="none")

raise_if_run_again = runs.append(1)
'''


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(root / "cache"))
        return lifelong.run(TINY, root / "runs")


def notebook(monkeypatch: pytest.MonkeyPatch, *cells: str) -> dict[str, Any]:
    """Run cells as Jupyter does: in one `__main__`, each with a source that is kept under a name of its own."""
    main = ModuleType("__main__")
    scope = vars(main)
    scope["runs"] = []
    monkeypatch.setitem(sys.modules, "__main__", main)
    for number, cell in enumerate(cells):
        name = f"<cell {number} of {id(main)}>"
        linecache.cache[name] = (len(cell), None, cell.splitlines(keepends=True), name)
        exec(compile(cell, name, "exec"), scope)
    return scope


def test_what_is_public_can_be_completed() -> None:
    assert {"run", "live", "load_config", "load_run", "Study"} <= set(dir(lifelong))
    assert all(getattr(lifelong, name).__doc__ for name in dir(lifelong))


def test_a_run_as_frame_table_and_figure(tiny: Run, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pytest.importorskip("pandas") and tiny.frame()
    assert list(frame.columns) == ["strategy", "event", "model", "subject", "metric", "value", "n", "reason"]
    assert len(frame) == sum(len(table.rows) for table in tiny.tables.values())
    exact = frame.query("strategy == 'again' and metric == 'exact'")["value"]
    assert exact.tolist() == [1.0]
    with pytest.raises(ConfigError, match="pip install polaris"):
        tiny.frame("polaris")  # type: ignore[arg-type]

    text = str(tiny.summary())
    assert "access: retain: full" in text
    assert "  forget gap: its distance" in text
    assert [line.split()[0] for line in text.splitlines() if line.startswith(("kept", "again"))] == ["kept", "again"]
    page = tiny._repr_html_()
    assert "<table>" in page
    assert "again" in page

    names = {trace.name for trace in tiny.figure("average").data}
    assert {"kept", "again"} <= names
    with pytest.raises(ConfigError, match="There is no figure 'averages'. Did you mean 'average'?"):
        tiny.figure("averages")
    assert tiny.report().name == "report.html"
    assert repr(lifelong.load_run(tiny.folder)).startswith("<run tiny: kept, again; finished;")


@pytest.mark.nightly
def test_progress_and_overrides_of_a_dict(capsys: pytest.CaptureFixture[str]) -> None:
    config = lifelong.load_config(TINY, ["references.kinds=[]"])
    assert lifelong.run(config, progress=True).done
    assert "strategy 2/2 again: done in" in capsys.readouterr().err
    lifelong.run(config)
    assert capsys.readouterr().err == ""


def test_a_study_shows_itself(tiny: Run) -> None:
    study = lifelong.Study({"name": "s", "claim": "It works.", "base": TINY, "seeds": 1})
    assert repr(study).startswith("<study s: 0 of 1 runs are finished;")
    assert "It works." in study._repr_html_()


def test_a_stream_shows_itself() -> None:
    page = lifelong.prepare(lifelong.load_config(TINY)).stream._repr_html_()
    assert page.count("<tr>") == 5
    assert "<td>forget</td><td>request-0</td>" in page


def test_a_class_of_a_cell_is_a_strategy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scope = notebook(monkeypatch, IMPORTS, CELL)
    fade = scope["Fade"]
    bare = {"learner": "naive", "unlearner": fade}
    strategies = {"half": bare, "tenth": {"learner": "naive", "unlearner": {"name": fade, "scale": 0.1}}}
    config = lifelong.load_config(TINY | {"strategies": strategies, "references": {"kinds": []}})
    file = Path(config.strategies["half"].unlearner.name)
    assert file.parent == Path(".lifelong")
    assert config.strategies["tenth"].unlearner.options == {"scale": 0.1}
    run = lifelong.run(config)
    assert run.done
    assert scope["runs"] == [1], "the rest of the cell is not run again"
    losses = [run.tables[name].last("forget_loss", "request-0") for name in strategies]
    assert losses[0] != losses[1]
    assert lifelong.resume(run.folder).done  # by the file alone

    other = notebook(monkeypatch, IMPORTS.replace("0.5", "0.25"), CELL)["Fade"]
    assert written(other) != file
    assert lifelong.load_config(TINY | {"strategies": {"a": bare}}).strategies["a"].unlearner.name == str(file)


@pytest.mark.nightly
def test_options_may_be_left_out_and_magic_commands_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = CELL.partition("def shrunk")[2].replace("shrunk(learner.model.parameters, self.config.scale)", "pass")
    scope = notebook(monkeypatch, IMPORTS, "def shrunk" + cell.replace("    config: Config\n", ""))
    source = source_of(scope["Fade"])
    assert "class Config(_BaseConfig)" in source
    assert "SCALE" not in source
    name = scope["Fade"].forget.__code__.co_filename
    lines = ["%matplotlib inline\n", *linecache.cache[name][2]]  # type: ignore[misc]
    linecache.cache[name] = (0, None, lines, name)
    assert source_of(scope["Fade"]) == source


def test_what_is_set_piece_by_piece_is_written_down_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    table = 'TABLE = {}\nTABLE["a"] = 1\nfor letter in "bc":\n    TABLE[letter] = 2\ncount = 1\ncount += 2\n'
    cell = CELL.replace("return Access()", 'return Access() if TABLE["a"] < count else 0')
    scope: dict[str, Any] = {"__name__": "written"}
    exec(source_of(notebook(monkeypatch, IMPORTS, table + cell)["Fade"]), scope)
    assert scope["TABLE"] == {"a": 1, "b": 2, "c": 2}
    assert scope["count"] == 3


def test_what_cannot_be_written_down_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = CELL.replace("return Access()", "return Access() if TABLE else 0")
    with pytest.raises(ConfigError, match="Fade uses 'TABLE' of another cell"):
        written(notebook(monkeypatch, IMPORTS + "TABLE = [1, 2]", cell)["Fade"])
    with pytest.raises(ConfigError, match="Fade uses 'TABLE', which is not defined"):
        written(notebook(monkeypatch, IMPORTS, cell)["Fade"])
    with pytest.raises(ConfigError, match="The source of OrderedDict is not known"):
        written(OrderedDict)


def test_stepping_through_a_life_is_the_life_of_a_run(tiny: Run) -> None:
    events = []
    for moment in lifelong.live(TINY, "again"):
        events.append(moment.event.name)
        scores = moment.scores()
        network = moment.strategy.network()
        assert network is not None
        network.parameters.zero_()  # a copy: the life goes on as it was
        assert moment.outcome.steps > 0
    assert events == ["task-0", "task-1", "request-0", "task-2"]
    row = tiny.tables["again"].last("accuracy", "task-2")
    assert row is not None
    assert row.value == pytest.approx(scores["task-2"])
    assert moment.ledger.deleted_ids.size > 0
    with pytest.raises(ConfigError, match="There is no strategy 'agian'. Did you mean 'again'?"):
        lifelong.live(TINY, "agian")
