"""Everything that can be wrong from outside: a clear message, the right exit code, nothing lost; and the odd cases
that are not wrong at all have a defined result."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lifelong
from lifelong.config.run import load_config
from lifelong.execution.manifest import stream_from_manifest
from lifelong.files import write_atomically
from lifelong.results import record
from streams.errors import CheckpointError, StreamError
from streams.randomness import Key
from streams.sources.digits import Config as Digits
from streams.sources.digits import load as load_digits
from streams.stream import Stream

ROOT = Path(__file__).parents[2]
TINY = """
name: tiny
source: digits
scenario: {name: class-incremental, experiences: 3}
schedule: {name: explicit, requests: [{after: 2, scope: class, keys: [1]}]}
model: {name: mlp, hidden: [16]}
strategies: {tuned: {learner: replay, unlearner: finetune}}
"""
EVERY_KIND = (
    "strategies={retrain: {learner: replay, unlearner: retrain}, tuned: {learner: replay, unlearner: finetune}, "
    "ascent: {learner: [l2, replay], unlearner: gradient-ascent}, both: {learner: ewc, unlearner: neggrad-plus}, "
    "ignored: {learner: cumulative, unlearner: none}, alone: {isolated: independent}}"
)
# Those that can serve a request that leaves nothing to retain.
WITHOUT_REST = (
    EVERY_KIND.replace("finetune", "ssd")
    .replace("neggrad-plus", "amnesiac")
    .replace("learner: ewc", "learner: [ewc, update-log]")
)
EVERY_REFERENCE = "references.kinds=[retrained, retrained-2, original, withheld, no-op, fresh]"

Result = tuple[int, str, str]
Call = Callable[..., Result]


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place where a run has come to its end; nobody may write there."""
    place = tmp_path_factory.mktemp("finished")
    (place / "tiny.yaml").write_text(TINY, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("LIFELONG_CACHE", str(place / "cache"))
        lifelong.run(load_config("tiny.yaml"))
    return place


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A finished run of this test's own: what the command line says of it is that there is nothing to compute."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (folder,) = Path("runs").iterdir()
    return folder


def requests(*wanted: str) -> str:
    return f"schedule.requests=[{', '.join('{' + w + '}' for w in wanted)}]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trainin.lr=1"], "trainin: there is no such key. Did you mean 'training'?"),
        (["strategies.tuned.learner=replai"], "'replai' is not known. Did you mean 'replay'?"),
        (["strategies.tuned={isolated: {name: exssnet, density: 0}}"], "isolated.density: 0 is not valid: it must be"),
        (["strategies.tuned={isolated: {name: supsup, inference: oneshot}}"], "Did you mean 'one-shot'?"),
        (["strategies.tuned={isolated: {name: ssnet, keep: private}}"], "isolated.keep: there is no such key"),
        (["strategies.tuned={isolated: {name: exssnet, erase: false}}"], "erase: false leaves deleted data in the"),
        (["strategies.tuned={isolated: {name: supsup, outputs: 2}}"], "outputs: 2 are too few for the 4 classes"),
        (["strategies.tuned.unlearner=retrian"], "strategies.tuned.unlearner: 'retrian' is not known. Did you mean"),
        (["source=digit"], "source: 'digit' is not known. Did you mean 'digits'? Allowed: arrays, "),
        (["scenario=class-incremntal"], "Did you mean 'class-incremental'?"),
        (["scenario.experiences=0"], "scenario.experiences: 0 is not valid: it must be 1 or more."),
        (["scenario.experiences=11"], "scenario.experiences: 11 is more than the 10 classes of 'digits'."),
        (["device=tpu"], "device: 'tpu' is not a device. Use cpu"),
        (["source={name: arrays, path: nowhere.npz}"], "'nowhere.npz' does not exist"),
        (["source={name: fashion-mnist, root: /nowhere}"], "'/nowhere' is not a folder. Install it with"),
        (
            [requests("after: 2, scope: class, keys: [9]")],
            "names class 9 after 2 experiences: its data is never learned",
        ),
        ([requests("after: 2, scope: class, keys: [99]")], "there is no class called 99. There are 10, '0' to '9'."),
        ([requests("after: 1, scope: task, keys: [2]")], "names task 2 after 1 experiences: its data is never learned"),
        (
            [requests("after: 1, scope: task, keys: [7]")],
            "there is no task called 7. There are 3, 'task-0' to 'task-2'.",
        ),
        (
            [requests("after: 2, scope: class, keys: [1]", "after: 3, scope: class, keys: [1]")],
            "names class 1 after 3 experiences: its data is already deleted",
        ),
        ([requests("after: 3, scope: sample, keys: [5000]")], "names sample 5000; 'digits' has samples 0 to 1796."),
        ([requests("after: 1, scope: sample, keys: [9]")], "sample 9, which is a test sample at that moment"),
        ([requests("after: 1, scope: sample, keys: [19]")], "sample 19, which is never learned at that moment"),
        ([requests("after: 1, scope: sample, count: 5000")], "A request wants 5000 sample(s) to delete"),
        ([requests("after: 9, scope: class, keys: [1]")], "9 is past the last of 3 experiences."),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(call: Call, arguments: list[str], message: str) -> None:
    code, out, err = call("run", "tiny.yaml", *(a for x in arguments for a in ("--set", x)))
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert message in err
    assert "Traceback" not in err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("command", "cache"),
    [
        ("run tiny.yaml --runs s3://bucket/runs", None),
        ("study tiny.yaml --list-jobs --runs gs://bucket", None),
        ("run tiny.yaml", "s3://bucket/cache"),
    ],
)
def test_object_storage_is_refused_with_the_remedy(
    command: str, cache: str | None, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cache is not None:
        monkeypatch.setenv("LIFELONG_CACHE", cache)
    code, out, err = call(*command.split())
    assert (code, out) == (2, "")
    assert "is an address, and runs need a folder of the file system" in err
    assert "sync" in err
    assert not list(Path().glob("*:*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "quickstrt"], "Did you mean 'quickstart'?"),
        (["preview", "tiny.yaml", "--device=cuda:99x"], "device: 'cuda:99x' is not a device. Use cpu"),
        (["run", "tiny.yaml", "--seed=[0, 1]"], "a run has one seed, an integer. Several are a study"),
        (["run", "tiny.yaml", "--seed=99999999999"], "it must be less than 2147483648."),
        (["run", "tiny.yaml", "--references.shadows=3"], "shadows: 3 is not valid: it must be a multiple of 4."),
        (["run", "tiny.yaml", "--model.hidden=[-3]"], "model.hidden.0: -3 is not valid: it must be 1 or more."),
        (["study", "tiny.yaml"], "tiny.yaml is a run, not a study. Run it with: lifelong run tiny.yaml"),
        (["study", "quickstart"], "quickstart is not a study folder, and no name of one in runs begins so."),
        (["run", "missing.yaml"], "Cannot read the configuration missing.yaml: No such file or directory."),
        (["run", "tiny.yaml", "--jsn"], "There is no option '--jsn'. Did you mean '--json'?"),
        (["run", "tiny.yaml", "--seed", "3"], "Keys of the configuration are written --key=value."),
        (["run", "tiny.yaml", "other.yaml"], "found 'tiny.yaml', 'other.yaml'"),
        (["run", "--seed=3"], "Name exactly one ready scenario or .yaml file; found none."),
        (["run"], "Missing argument"),
        (["rnu"], "No such command 'rnu'"),
        (["list", "learnrs"], "There is no kind 'learnrs'. Did you mean 'learners'?"),
        (["resume", "nowhere"], "nowhere is not a run folder, and no name of one in runs begins so. runs has none"),
        (["report", "tiny.yaml"], "tiny.yaml is not a run folder"),
        (["compare", "nowhere"], "nowhere is not a run folder"),
    ],
)
def test_usage(call: Call, arguments: list[str], message: str) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: caf\xe9", "other.yaml is not UTF-8 text"),
        (b"", "it is empty"),
        (b"seed: 1\ntraining: {lr: 1, epochs: 2, lr: 3}", "the key 'lr' is there twice, in lines 2 and 2"),
        (b"seed: 1\nname: x\nseed: 2", "the key 'seed' is there twice, in lines 1 and 3"),
        (b"name: s\nclaim: c\nbase: tiny.yaml", "is a study, not a run. Run it with: lifelong study other.yaml"),
    ],
)
def test_a_file_that_is_no_configuration(call: Call, content: bytes, message: str) -> None:
    Path("other.yaml").write_bytes(content)
    code, out, err = call("run", "other.yaml")
    assert (code, out) == (2, "")
    assert message in err


def test_merge_keys_of_yaml_work(call: Call) -> None:
    common = "strategies: {a: &a {learner: naive, unlearner: retrain}, b: {<<: *a, unlearner: none}}"
    Path("other.yaml").write_text(TINY[: TINY.index("strategies")] + common, encoding="utf-8")
    assert load_config("other.yaml").strategies["b"].unlearner.name == "none"


OWN_MODEL = """
from torch import nn
from strategies.parts.model import Network
from streams.config import Config as BaseConfig
class Config(BaseConfig):
    pass
def build(config, input_shape, num_outputs):
    return {made}
"""


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ("nn.Linear(64, num_outputs)", "returns a Linear; it must return strategies.parts.model.Network(body, head)"),
        (
            "Network(nn.Linear(32, 8), nn.Linear(8, num_outputs))",
            "does not take the data, float32 [2, 64]: RuntimeError",
        ),
        ("Network(nn.Linear(64, 8), nn.Linear(8, 3))", "makes [2, 3] of float32 [2, 64]; it must be [2, 10]."),
    ],
)
def test_a_model_of_ones_own_that_does_not_fit(call: Call, made: str, message: str) -> None:
    Path("net.py").write_text(OWN_MODEL.format(made=made), encoding="utf-8")
    code, out, err = call("run", "tiny.yaml", "--model=./net.py")
    assert (code, out) == (2, "")
    assert message in err
    assert not Path("runs").exists()


def test_a_run_does_not_go_on_with_other_libraries(call: Call, folder: Path) -> None:
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text(encoding="utf-8"))
    manifest["versions"]["torch"] = "1.0"
    del manifest["digest"]  # as in runs of earlier versions
    file.write_text(json.dumps(manifest), encoding="utf-8")
    assert call("run", "tiny.yaml", "--quiet")[0] == 0  # finished: nothing is computed
    (folder / "strategies" / "tuned" / "done.json").unlink()
    code, out, err = call("resume", str(folder))
    assert (code, out) == (2, "")
    assert "manifest.json: the run began with torch 1.0, now " in err
    assert "--fresh" in err


def test_errors_of_a_real_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from cli.main import main; main()", "run", "tiny.yaml", "--trainin.lr=1"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: trainin: there is no such key. Did you mean 'training'?")


def test_an_empty_stream() -> None:
    with pytest.raises(StreamError, match="The stream is empty"):
        Stream(load_digits(Digits()), (), ())


def test_diverging_training_says_which_strategy_and_event(call: Call) -> None:
    code, _, err = call("run", "tiny.yaml", "--quiet", "--training.lr=1e30", "--training.epochs=5")
    assert code == 1
    assert "Strategy 'tuned', event 0 (task-0): Training diverged" in err


@pytest.mark.parametrize("name", ["stream", "data", "identity"])
def test_a_manifest_that_does_not_match(call: Call, folder: Path, name: str) -> None:
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text(encoding="utf-8"))
    manifest["digests"][name] = "0123"
    del manifest["digest"]
    file.write_text(json.dumps(manifest), encoding="utf-8")
    before = (folder / "strategies" / "tuned" / "results.jsonl").read_bytes()
    code, _, err = call("resume", str(folder))
    assert code == 2
    assert f"the {name} digest is 0123, now it is" in err
    assert (folder / "strategies" / "tuned" / "results.jsonl").read_bytes() == before
    assert call("run", "tiny.yaml", "--quiet", "--fresh")[0] == 0
    assert call("resume", str(folder), "--quiet")[0] == 0


@pytest.mark.parametrize("content", ["", "{", "[]", '{"digests": 3}'])
def test_a_corrupt_manifest(call: Call, folder: Path, content: str) -> None:
    (folder / "manifest.json").write_text(content, encoding="utf-8")
    for command in ("resume", "compare"):
        code, _, err = call(command, str(folder))
        assert code == 2, err
        assert "manifest.json is corrupt" in err
        assert "--fresh" in err


def test_a_stream_manifest_that_builds_another_stream(folder: Path) -> None:
    file = folder / "stream.json"
    assert stream_from_manifest(file).digest() == json.loads(file.read_text(encoding="utf-8"))["digest"]
    changed = json.loads(file.read_text(encoding="utf-8"))
    changed["schedule"]["requests"][0]["keys"] = [2]
    file.write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(CheckpointError, match="event 2 differs"):
        stream_from_manifest(file)


def unfinish(folder: Path) -> Path:
    """Make a finished run one that was killed while its references were computed; return the strategy's folder."""
    strategy = folder / "strategies" / "tuned"
    (strategy / "done.json").unlink()
    return strategy


def test_a_corrupt_checkpoint(call: Call, folder: Path) -> None:
    strategy = unfinish(folder)
    expected = (strategy / "results.jsonl").read_bytes()
    for file in (strategy / "checkpoints").iterdir():
        file.write_bytes(file.read_bytes()[:300])
    code, _, err = call("resume", str(folder))
    assert code == 2
    assert ".pt is corrupt" in err
    assert "--fresh" in err
    assert call("run", "tiny.yaml", "--quiet", "--fresh")[0] == 0
    assert (strategy / "results.jsonl").read_bytes() == expected


@pytest.mark.nightly
def test_a_checkpoint_of_another_configuration(call: Call, folder: Path) -> None:
    other = Path(json.loads(call("run", "tiny.yaml", "--quiet", "--json", "--seed=1")[1])["folder"])
    strategy = unfinish(folder)
    for file in (strategy / "checkpoints").iterdir():
        write_atomically(file, (other / "strategies" / "tuned" / "checkpoints" / file.name).read_bytes())
    code, _, err = call("resume", str(folder))
    assert code == 2
    assert "was written by another configuration or another version of the code" in err


def test_a_run_of_another_version_of_the_code(call: Call, folder: Path) -> None:
    renamed = folder.rename(folder.with_name("tiny-0123456789abcdef"))
    code, _, err = call("resume", str(renamed))
    assert code == 2
    assert "was made by another version of the code" in err
    assert f"lifelong run {renamed.resolve() / 'config.yaml'}" in err
    assert call("compare", str(renamed))[0] == 0


def test_corrupt_results(call: Call, folder: Path) -> None:
    results = folder / "strategies" / "tuned" / "results.jsonl"
    done, whole = results.with_name("done.json"), results.read_text(encoding="utf-8")
    results.write_text(whole + '{"event": 1, "mod', encoding="utf-8")
    code, _, err = call("compare", str(folder))
    assert code == 2
    assert "results.jsonl was cut or edited" in err
    done.unlink()  # killed while it was written
    assert call("compare", str(folder))[0] == 0
    results.write_text("what\n" + whole, encoding="utf-8")
    code, _, err = call("compare", str(folder))
    assert code == 2
    assert "results.jsonl, line 1 is not a row of results" in err
    results.write_bytes(b"\xff\xfe\n")
    assert call("compare", str(folder))[0] == 2
    results.write_text(whole, encoding="utf-8")
    done.write_text("{", encoding="utf-8")
    code, _, err = call("report", str(folder))
    assert code == 2
    assert "done.json is corrupt" in err


def test_a_report_that_cannot_be_written(call: Call, folder: Path) -> None:
    code, out, err = call("report", str(folder), "--file", "tiny.yaml/report.html")
    assert (code, out) == (2, "")
    assert "Cannot write the report to tiny.yaml" in err


def test_a_runs_folder_that_is_a_file(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    code, _, err = call("run", "tiny.yaml", "--quiet", "--runs", "file")
    assert code == 2
    assert "Cannot write to file/tiny-" in err
    assert "Choose another place with --runs" in err
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "file"))
    code, _, err = call("run", "tiny.yaml", "--quiet")
    assert code == 2
    assert "Point LIFELONG_CACHE at another folder" in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_runs_folder_that_is_read_only(call: Call, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    code, _, err = call("run", "tiny.yaml", "--quiet", "--runs", "locked")
    assert code == 2
    assert "Permission denied. Choose another place with --runs" in err


def test_a_full_disk_loses_nothing(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def full(file: Path, content: bytes, fsync: bool = False) -> None:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_atomically(file, content)

    monkeypatch.setattr(record, "write_atomically", full)
    code, out, err = call("run", "tiny.yaml", "--quiet")
    assert (code, out) == (1, "")
    assert "No space left on device. Free some space and run the same command again; nothing is lost." in err
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    code, out, err = call("run", "tiny.yaml")
    assert code == 0
    assert "going on after event" in err
    interrupted = results_below(tmp_path / "runs")
    assert call("run", "tiny.yaml", "--quiet", "--runs", "again")[0] == 0
    assert results_below(tmp_path / "again") == interrupted


def results_below(folder: Path) -> bytes:
    (file,) = folder.glob("*/strategies/tuned/results.jsonl")
    return file.read_bytes()


def lines_of(result: Result) -> dict[str, Any]:
    code, out, err = result
    assert code == 0, err
    return {line["strategy"]: line for group in json.loads(out)["groups"] for line in group["strategies"]}


def test_seed_zero(call: Call) -> None:
    results = [lines_of(call("run", "tiny.yaml", "--quiet", "--json", f"--seed={s}"))["tuned"] for s in (0, 0, 1)]
    assert results[0] == results[1] != results[2]
    assert Key(0).number() != Key(1).number()


@pytest.mark.nightly
def test_one_class_only(call: Call) -> None:
    one = "scenario={name: recurring, classes: 1, classes_per_task: 1, tasks: 3}"
    schedule = requests("after: 1, scope: sample, count: 5")
    lines = lines_of(
        call("run", "tiny.yaml", "--quiet", "--json", "--set", one, "--set", schedule, "--set", EVERY_KIND)
    )
    assert lines["retrain"]["average_accuracy"]["n"] == 1
    assert lines["retrain"]["abs_gap_forget_accuracy"]["value"] == 0
    np.savez("one.npz", x=np.ones((4, 3), np.float32), y=np.zeros(4, np.int64))
    code, _, err = call("run", "tiny.yaml", "--set", "source={name: arrays, path: one.npz}")
    assert code == 2
    assert "every sample is of class 0" in err


@pytest.mark.parametrize("schedule", ["schedule=none", requests("after: 1, scope: sample, count: 1")])
def test_one_sample_only(call: Call, schedule: str) -> None:
    one = "scenario={name: recurring, classes: 1, classes_per_task: 1, tasks: 1, samples_per_class: 1}"
    kinds = EVERY_KIND if schedule == "schedule=none" else WITHOUT_REST
    lines = lines_of(call("run", "tiny.yaml", "--quiet", "--json", "--set", one, "--set", schedule, "--set", kinds))
    assert lines["tuned"]["average_accuracy"]["n"] == 1
    assert lines["tuned"]["forgetting_from_first"]["value"] == (None if schedule == "schedule=none" else 0)


@pytest.mark.nightly
def test_a_class_deleted_entirely(call: Call) -> None:
    lines = lines_of(call("run", "tiny.yaml", "--quiet", "--json", "--set", EVERY_KIND))
    for name, line in lines.items():
        assert line["average_accuracy"]["n"] == 3, name  # its unit has other classes
        assert line["forget_accuracy"]["value"] is not None
    assert lines["retrain"]["abs_gap_forget_accuracy"]["value"] == 0
    assert lines["alone"]["exact"]["value"] == 1


@pytest.mark.nightly
@pytest.mark.parametrize("after", [pytest.param(1, marks=pytest.mark.nightly), 3])
def test_everything_deleted(call: Call, after: int) -> None:
    """At the end nothing is held: scores are undefined with a reason, and exact strategies are as good as new.

    What must retain something is refused before it starts.
    """
    request = f"after: {after}, scope: class, keys: {list(range(10 if after == 3 else 4))}"
    code, _, err = call("run", "tiny.yaml", "--set", requests(request), "--set", EVERY_KIND)
    assert code == 2
    assert "nothing is left to retain. Those that can: " in err
    references = EVERY_REFERENCE if after == 3 else "references.kinds=[retrained, fresh]"
    arguments = ["--set", requests(request), "--set", WITHOUT_REST, "--set", references]
    lines = lines_of(call("run", "tiny.yaml", "--quiet", "--json", *arguments))
    for line in lines.values():
        if after == 3:
            assert line["average_accuracy"] == {"value": None, "n": 0, "reason": "no unit with test samples is held"}
        assert line["collateral_mean"]["reason"] == "no other unit has been learned"
    assert lines["retrain"]["js"]["value"] == 0
    assert lines["alone"]["js"]["value"] == 0
