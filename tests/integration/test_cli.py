"""The command line as a person meets it: real processes where the process matters, `main` itself where it does not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import lifelong
from lifelong.processes.stopping import stop
from lifelong.results.record import Checkpoint, Record
from lifelong.study import local
from lifelong.study.jobs import JobResult

ROOT = Path(__file__).parents[2]
TINY = """
name: tiny
source: digits
scenario: {name: class-incremental, experiences: 3}
schedule: {name: explicit, requests: [{after: 2, scope: class, keys: [1]}, {after: 3, scope: sample, count: 5}]}
model: {name: mlp, hidden: [16]}
strategies:
  kept: {learner: naive, unlearner: none}
  tuned: {learner: naive, unlearner: finetune}
  again: {learner: naive, unlearner: retrain}
"""

Result = tuple[int, str, str]
Call = Callable[..., Result]


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place where the tiny run has come to its end; nobody may write there."""
    place = tmp_path_factory.mktemp("finished")
    (place / "tiny.yaml").write_text(TINY, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("LIFELONG_CACHE", str(place / "cache"))
        lifelong.run(lifelong.load_config("tiny.yaml"))
    return place


@pytest.fixture
def _finished(finished: Path, tmp_path: Path) -> None:
    """The tiny run has come to its end here, too."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)


def process(*arguments: str, program: str = "from cli.main import main; main()") -> subprocess.Popen[str]:
    """Start the command line as a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def finish(started: subprocess.Popen[str]) -> Result:
    out, err = started.communicate(timeout=60)
    return started.returncode, out, err


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["list", "learners", "--json"], ["run", "--help"]])
def test_help_and_list_are_fast_and_do_not_import_torch(arguments: list[str]) -> None:
    program = (
        "import sys, time; began = time.process_time()\n"
        "from cli.main import main\n"
        "try: main()\n"
        "finally:\n"
        "    heavy = {'torch', 'avalanche', 'numpy', 'wandb', 'plotly', 'yaml'} & set(sys.modules)\n"
        "    print(time.process_time() - began, sorted(heavy), file=sys.stderr)\n"
    )
    code, out, err = finish(process(*arguments, program=program))
    assert code == 0
    assert out
    seconds, heavy = err.strip().splitlines()[-1].split(" ", 1)
    assert heavy == "[]"
    assert float(seconds) < 0.5


def test_the_installed_command_is_this_one() -> None:
    scripts = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'lifelong = "cli.main:main"' in scripts


def test_run_prints_results_on_stdout_and_progress_on_stderr(call: Call, tmp_path: Path) -> None:
    code, out, err = call("run", "tiny.yaml", "--set", "seed=0", "--training.lr=0.05", "training.batch_size=32")
    assert code == 0
    tables = [line for line in out.splitlines() if line.startswith("access: ")]
    assert tables == ["access: retain: nothing", "access: retain: full"]
    heads = next(line for line in out.splitlines() if line.startswith("strategy"))
    assert heads.split()[:4] == ["strategy", "remark", "average", "accuracy"]
    assert "add retrained-2 to references.kinds" in out
    lines = [
        line.split()[0] for line in out.splitlines() if line.startswith(("kept ", "tuned ", "again ")) and "%" in line
    ]
    assert lines == ["kept", "tuned", "again"]
    assert "  forget gap: its distance to the retrained reference's, mean over requests (0 is ideal)" in out
    report = Path(out.splitlines()[-1].removeprefix("report: "))
    assert report.name == "report.html"
    assert report.stat().st_size > 0
    assert "5 events on digits (3 to learn, 2 to forget)" in err
    assert "strategy 2/3 tuned: done in" in err
    assert "strategy" not in out.split("strategy", 1)[0]

    config = yaml.safe_load((report.parent / "config.yaml").read_text(encoding="utf-8"))
    assert (config["seed"], config["training"]["lr"], config["training"]["batch_size"]) == (0, 0.05, 32)
    assert report.parent.parent == Path("runs")

    # the same command finds the same folder; nothing is computed, the same is printed
    code, again, err = call("run", "tiny.yaml", "--training.lr=0.05", "--training.batch_size=32")
    assert (code, again) == (0, out)
    assert "Nothing to compute" in err
    code, resumed, _ = call("resume", str(report.parent))
    assert code == 0
    assert resumed.splitlines()[:-1] == out.splitlines()[:-1]


def test_json_and_quiet(call: Call) -> None:
    code, out, err = call("run", "tiny.yaml", "--quiet", "--json", "--runs", "elsewhere")
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert data["done"]
    assert data["run"] == "tiny"
    assert Path(data["report"]).exists()
    assert Path(data["folder"]).parent == Path("elsewhere")
    lines = {line["strategy"]: line for group in data["groups"] for line in group["strategies"]}
    assert set(lines) == {"kept", "tuned", "again"}
    assert lines["again"]["abs_gap_forget_accuracy"] == {"value": 0.0, "n": 2}
    assert lines["again"]["exact"]["value"] == 1.0
    assert all("reason" in cell for line in lines.values() for cell in line.values() if cell == {"value": None})


@pytest.mark.usefixtures("_finished")
def test_report_and_compare(call: Call, tmp_path: Path) -> None:
    def folder_of(*arguments: str) -> str:
        return str(json.loads(call("run", "tiny.yaml", "--quiet", "--json", *arguments)[1])["folder"])

    again = ("--set", "strategies={again: {learner: naive, unlearner: retrain}}")
    one, two = folder_of(), folder_of("--training.lr=0.1", *again)
    code, out, err = call("compare", one, two)
    assert (code, err) == (0, "")
    assert out.count("stream ") == 1
    assert f"{Path(one).name}/kept" in out
    assert f"{Path(two).name}/again" in out

    other = folder_of("--scenario.experiences=4", *again)
    code, out, err = call("compare", one, other, "--strategy", "again", "--json")
    data = json.loads(out)
    assert code == 0
    assert len({c["stream"] for c in data}) == 2
    assert [len(g["strategies"]) for c in data for g in c["groups"]] == [1, 1]
    code, out, err = call("compare", one, other)
    assert out.count("stream ") == 2
    assert "2 different streams" in err

    code, out, err = call("report", one, "--file", str(tmp_path / "elsewhere.html"))
    assert (code, out.strip(), err) == (0, str(tmp_path / "elsewhere.html"), "")
    assert (tmp_path / "elsewhere.html").exists()

    (tmp_path / "runs" / "bench").mkdir()  # where submissions are; runs/* covers it
    code, out, err = call("report", str(tmp_path / "runs" / "bench"), one, "--format", "md")
    assert (code, out.strip()) == (0, f"{one}/report.md")
    assert "Left out, since they are no run or study folders" in err


@pytest.mark.nightly
def test_many_seeds_print_one_table_and_go_on(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    handled = []
    run_local = local.run_local

    def watched(*arguments: Any) -> Iterator[JobResult]:
        handled.append(signal.getsignal(signal.SIGTERM))
        return run_local(*arguments)

    monkeypatch.setattr(local, "run_local", watched)
    code, out, err = call("run", "tiny.yaml", "--seeds", "2", "--quiet", "--json")
    assert code == 0, err
    assert handled == [stop], "SIGTERM keeps what was done, as for one run"
    data = json.loads(out)
    assert len(data["folders"]) == 2
    assert all(s["seeds"] == 2 for s in data["strategies"])
    code, out, err = call("run", "tiny.yaml", "--seeds", "2")
    assert (code, "seeds 0 to 1, 2 of them finished before" in err) == (0, True)
    assert "2 seeds. Mean over seeds" in out
    code, _, err = call("run", "tiny.yaml", "--seeds", "2", "--fresh")
    assert (code, "--fresh deletes one run" in err) == (2, True)


@pytest.mark.usefixtures("_finished")
def test_names_of_run_folders_may_be_short(call: Call) -> None:
    one = next(Path("runs").iterdir())
    code, out, err = call("report", "last", "--format", "csv")
    assert (code, out.strip(), err) == (0, str(one / "results.csv"), "")
    assert call("report", "tiny", "--format", "csv")[1] == out
    assert call("report", f"runs/{one.name[:-3]}", "--format", "csv")[1] == out
    assert call("resume", "tiny-", "--quiet")[0] == 0

    copy = Path("runs", "tiny-0")
    shutil.copytree(one, copy)
    code, _, err = call("report", "tiny")
    assert code == 2
    assert (
        f"is how the names of 2 run or study folders in runs begin: {', '.join(sorted([copy.name, one.name]))}" in err
    )
    code, out, err = call("report", str(one), "last", "tiny-0", "--format", "csv")
    assert (code, out.splitlines()) == (0, [str(one / "results.csv"), str(copy / "results.csv")])
    code, _, err = call("report", str(one), "tiny-0", "--out", "both.html")
    assert (code, err.startswith("Error: --out both.html: 2 reports cannot be one file.")) == (2, True)

    other = Path("runs", "study-x")
    other.mkdir()
    (other / "study.json").touch()
    code, out, err = call("compare", *map(str, sorted(Path("runs").iterdir())))
    assert code == 0
    assert err.strip() == f"Left out, since they are no run folders: {other}."
    assert out.count(f"{copy.name}/") >= 3
    code, _, err = call("compare", str(other), str(Path("runs")))
    assert (code, err.strip()) == (2, f"Error: None of these is a run folder: {other}, runs.")
    code, _, err = call("study", "study-")
    assert code == 2  # it is found, and is no study
    assert "no run folder" not in err
    code, out, _ = call("resume", str(one), str(one), "--quiet", "--json")
    assert json.loads(out)["run"] == "tiny"


def test_preview_draws_every_event(call: Call) -> None:
    code, out, err = call("preview", "tiny.yaml", "--set", "service.wait_for=2")
    assert (code, err) == (0, "")
    assert "task-0  " in out
    assert "forget class 1; 5 samples" in out
    assert "2, 1; 3, 0" in out  # asked after 2 and 3 experiences, served after 3
    assert not Path("runs").exists()

    code, out, _ = call("preview", "tiny.yaml", "--json", "--set", "service.wait_for=2")
    data = json.loads(out)
    assert [e["kind"] for e in data["events"]] == ["learn", "learn", "learn", "forget"]
    assert data["events"][-1]["latency"] == [1, 0]
    assert data["counts"]["requests"] == 1
    assert data["counts"]["requests_received"] == 2
    assert data["counts"]["samples_deleted"] == sum(e["samples"] for e in data["events"] if e["kind"] == "forget")


def test_preview_counts_what_was_barred_as_neither_learned_nor_deleted(call: Call) -> None:
    """User 11 is deleted before the last experience, which brings more of hers."""
    data = json.loads(call("preview", "quickstart", "--json")[1])
    counts, of_kind = data["counts"], {k: [e for e in data["events"] if e["kind"] == k] for k in ("learn", "forget")}
    assert counts["samples_skipped"] == sum(e["skipped_samples"] for e in of_kind["learn"]) > 0
    assert counts["samples_learned"] == sum(e["samples"] - e["skipped_samples"] for e in of_kind["learn"])
    assert counts["samples_deleted"] == sum(e["samples"] for e in of_kind["forget"])


def test_preview_says_the_names_of_users_and_classes(call: Call) -> None:
    requests = "[{after: 1, scope: user, keys: [ann]}, {after: 2, scope: class, keys: [owl]}]"
    data = "source={name: arrays, path: named.csv}"
    lines = [
        f"{x},{y},{kind},{who}" for x in range(6) for y in range(6) for kind, who in (("cat", "ann"), ("owl", "bo"))
    ]
    Path("named.csv").write_text("\n".join(["x,y,label,user", *lines]))
    by_name = ("--set", data, "--set", f"schedule={{name: explicit, requests: {requests}}}")
    code, out, err = call(
        "preview", "tiny.yaml", *by_name, "--set", "scenario={name: class-incremental, experiences: 2}"
    )
    assert (code, err) == (0, "")
    assert "forget user ann" in out
    assert "forget class owl" in out


def test_preview_squeezes_long_streams(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("preview", "tiny.yaml", "--set", "scenario={name: recurring, tasks: 300, samples_per_class: 2}")
    code, out, _ = call(*arguments, "--set", "schedule={name: periodic, every: 50, samples: 1}")
    assert code == 0
    assert "a column is" in out
    assert max(map(len, out.splitlines())) <= 120


@pytest.mark.parametrize("most", [2, pytest.param(None, marks=pytest.mark.nightly)])
def test_what_is_listed_can_be_shown(call: Call, most: int | None) -> None:
    listed = json.loads(call("list", "--json")[1])
    assert {"ready", "sources", "learners", "unlearners", "isolated", "trackers"} <= set(listed)
    for kind, names in listed.items():
        for name, described in list(names.items())[:most]:
            assert described["summary"], (kind, name)
            assert ("supports" in described) == (kind in ("learners", "unlearners", "guards", "isolated"))
            code, out, err = call("show", kind, name, "--json")
            assert (code, err) == (0, ""), (kind, name)
            assert json.loads(out).get("supports") == described.get("supports")
            assert all(o["meaning"] for o in json.loads(out).get("options", []))
    assert listed["unlearners"]["salun"]["supports"] == ["classes", "images", "tokens"]


def test_list_and_show(call: Call) -> None:
    code, out, _ = call("list")
    assert code == 0
    assert "quickstart" in out
    assert set(json.loads(call("list", "learner", "--json")[1])) == {"learners"}
    assert "boundary-expand    classes     " in call("list", "unlearners")[1]
    code, out, _ = call("show", "ewc")
    assert "For models of: everything." in out
    assert "strength" in out
    assert "100.0" in out
    code, out, _ = call("show", "quickstart")
    assert yaml.safe_load(out)["name"] == "quickstart"
    assert call("show", "unlearners")[1] == call("list", "unlearners")[1]
    assert "With k: all layers it is finetune." in call("show", "cf-k")[1]
    code, _, err = call("show", "none")
    assert code == 2
    assert "lifelong show schedules none or lifelong show unlearners none" in err
    code, _, err = call("show", "learners", "ewcc")
    assert code == 2
    assert "Did you mean 'ewc'?" in err


def test_init_writes_what_run_reads_and_never_overwrites(call: Call) -> None:
    code, out, _ = call("init", "mine")
    assert (code, out.strip()) == (0, "mine.yaml")
    text = Path("mine.yaml").read_text(encoding="utf-8")
    assert "# Learning rate." in text
    assert "lifelong show sources NAME" in text
    code, out, _ = call("preview", "mine.yaml")
    assert code == 0
    assert all(f"forget {what}" in out for what in ("40 samples", "class 1", "user 11"))
    code, _, err = call("init", "mine")
    assert code == 2
    assert "mine.yaml is there already and is not overwritten" in err
    assert Path("mine.yaml").read_text(encoding="utf-8") == text
    code, _, err = call("init", "other", "--file", "nowhere/x.yaml")
    assert code == 2
    assert "Cannot write nowhere/x.yaml" in err
    assert call("init", "quickstart", "--file", "q.yaml")[0] == 0
    assert call("init", "named.yaml")[1] == "named.yaml\n"
    assert call("init", "quickstart.yml")[1] == "quickstart.yml\n"
    assert lifelong.load_config("quickstart.yml").name == "quickstart", "the ready scenario, not the small example"


def test_doctor(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = call("doctor", "--json")
    checks = {c["name"]: c for c in json.loads(out)}
    assert code == 0
    assert {"python", "torch", "cache folder", "runs folder", "fashion-mnist", "wandb", "gpu"} <= set(checks)
    (tmp_path / "file").touch()
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "file" / "cache"))
    code, out, _ = call("doctor")
    assert code == 1
    assert "MISSING" in out
    assert "LIFELONG_CACHE" in out


@pytest.mark.usefixtures("_finished")
def test_a_terminal_gets_tables_that_fit(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    code, out, _ = call("run", "tiny.yaml", "--quiet")
    assert code == 0
    assert "…" not in out
    assert "request steps: optimizer steps spent on requests (lower is better)" in out


def test_a_reader_that_goes_away_is_no_error() -> None:
    started = process("list")
    assert started.stdout is not None
    started.stdout.close()
    assert started.stderr is not None
    assert started.stderr.read() == ""
    assert started.wait(timeout=60) == 0
    started.stderr.close()


def test_debug_shows_where_an_error_comes_from(call: Call) -> None:
    assert "Traceback" not in call("run", "quickstrt")[2]
    for arguments in (("--debug", "run", "quickstrt"), ("run", "quickstrt", "--debug")):
        code, _, err = call(*arguments)
        assert code == 2
        assert "Traceback" in err
        assert "Did you mean 'quickstart'?" in err


def test_version(call: Call) -> None:
    code, out, _ = call("--version")
    assert code == 0
    assert out.strip()
    module = subprocess.run([sys.executable, "-m", "cli.main", "--version"], capture_output=True, text=True, check=True)
    assert module.stdout == out


@pytest.mark.nightly
def test_ctrl_c_in_the_middle_leaves_a_run_that_goes_on_exactly(call: Call, tmp_path: Path) -> None:
    slow = ["tiny.yaml", "--set", "scenario={name: online, chunk: 10}", "--set", "training.epochs=30"]
    started = process("run", *slow)
    wait_for_events(started, tmp_path / "runs")
    started.send_signal(signal.SIGINT)
    code, out, err = finish(started)
    assert (code, out) == (130, "")
    assert "Traceback" not in err
    message, command = err.strip().splitlines()[-2:]
    assert message.startswith("Stopped after event ")
    assert message.endswith(" of strategy kept; saved. Go on with:")
    assert command.split()[:2] == ["lifelong", "resume"]

    folder = Path(command.split()[2])
    unfinished = json.loads(call("compare", str(folder), "--json")[1])
    assert unfinished[0]["groups"][-1]["access"] == "not finished"
    assert call("report", str(folder))[0] == 0
    # the rest is short: what was interrupted need not be lived to the end to see that it goes on where it was
    resumed = process("resume", str(folder))
    assert resumed.stderr is not None
    line = resumed.stderr.readline()
    resumed.send_signal(signal.SIGINT)
    assert ", going on after event" in line
    assert finish(resumed)[0] == 130


@pytest.mark.parametrize(
    "becomes",
    [None, pytest.param(RuntimeError("unexpected pos 1088 vs 982"), marks=pytest.mark.nightly)],
)
def test_ctrl_c_stops_even_where_a_library_swallows_it(
    becomes: Exception | None, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, seen = Record.save, []

    def saves(self: Record, checkpoint: Checkpoint, must: bool) -> None:
        if checkpoint.event == 1 and not seen:
            seen.append(checkpoint.event)
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                if becomes is not None:
                    raise becomes from None
        save(self, checkpoint, must)

    monkeypatch.setattr(Record, "save", saves)
    monkeypatch.setattr(Record, "is_due", lambda record, must: True)
    code, out, err = call("run", "tiny.yaml")
    assert (code, out) == (130, "")
    assert "saved. Go on with:" in err
    assert seen
    assert call("run", "tiny.yaml")[0] == 0


def wait_for_events(started: subprocess.Popen[str], runs: Path, count: int = 3) -> None:
    """Wait until the first strategy has lived through some events."""
    until = time.monotonic() + 60
    while time.monotonic() < until and started.poll() is None:
        files = list(runs.glob("*/strategies/*/timings.jsonl"))
        checkpoints = list(runs.glob("*/strategies/*/checkpoints/event-*.pt"))
        if files and any(int(c.stem.removeprefix("event-")) >= count for c in checkpoints):
            return
        time.sleep(0.02)
    raise AssertionError(f"No event was seen: {started.poll()}")
