"""A folder that came from somebody else must not run its code, whatever it says of itself."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import lifelong
from lifelong.config.run import content_hash
from lifelong.config.trust import remember, require_trust
from lifelong.execution.manifest import stream_from_manifest
from lifelong.files import code_of
from lifelong.study.jobs import execute
from lifelong.study.study import Study, resume_study
from lifelong.verification.certificate import verify
from strategies.unlearners import none
from streams.errors import CheckpointError, TrustError

HARMLESS = Path(none.__file__).read_text(encoding="utf-8")
PAYLOAD = "from pathlib import Path\nPath('PWNED').write_text('run')\n"
Call = Callable[..., tuple[int, str, str]]


def config(unlearner: str) -> dict[str, Any]:
    return {
        "name": "shared",
        "scenario": {"name": "class-incremental", "experiences": 2},
        "schedule": {"name": "explicit", "requests": [{"after": 1, "scope": "sample", "count": 5}]},
        "model": {"name": "mlp", "hidden": [8]},
        "training": {"epochs": 1},
        "strategies": {"theirs": {"learner": "naive", "unlearner": {"name": unlearner}}},
        "references": {"kinds": []},
    }


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def received(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run that says all the right things of itself, made on another machine, with code in its folder.

    The attacker knows how identities are made, so name, manifest and digests fit the code.
    """
    code = here / "gift" / "mine.py"
    code.parent.mkdir()
    code.write_text(HARMLESS)
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("LIFELONG_CACHE", str(here / "their cache"))
        run = lifelong.run(lifelong.RunConfig.model_validate(config("gift/mine.py")), here / "gift")
    code.write_text(HARMLESS + PAYLOAD)
    written = yaml.safe_load((run.folder / "config.yaml").read_text())
    identity = content_hash([written, code_of(written)])
    folder = run.folder.rename(run.folder.with_name(f"shared-{identity}"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["digests"]["identity"] = identity
    del manifest["digest"], manifest["files"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize("command", ["resume", "verify", "run", "preview"])
def test_code_that_came_with_a_run_is_not_run(command: str, received: Path, here: Path, call: Call) -> None:
    what = received / "config.yaml" if command in ("run", "preview") else received
    code, _, errors = call(command, str(what))
    assert code == 2
    assert str(here / "gift" / "mine.py") in errors
    assert "--trust" in errors
    assert not Path("PWNED").exists()


@pytest.mark.parametrize("command", ["report", "compare"])
def test_who_only_looks_runs_nothing(command: str, received: Path, call: Call) -> None:
    code, _, errors = call(command, str(received))
    assert code == 0, errors
    assert not Path("PWNED").exists()


def test_from_python_too(received: Path) -> None:
    lifelong.load_run(received)
    for start in (lifelong.resume, verify):
        with pytest.raises(TrustError, match=r"mine\.py.*trust=True"):
            start(received)
    assert not Path("PWNED").exists()


@pytest.mark.nightly
def test_with_trust_it_runs_and_is_asked_for_once(received: Path, call: Call) -> None:
    code, _, errors = call("verify", str(received), "--trust", "--quiet", "--no-controls")
    assert Path("PWNED").exists(), errors
    assert call("resume", str(received), "--quiet")[::2] == (0, "")
    assert code in (0, 3)


def test_the_identity_comes_before_trust(received: Path, call: Call) -> None:
    with Path("gift/mine.py").open("a") as file:
        file.write("# edited\n")
    for command in ("resume", "verify"):
        code, _, errors = call(command, str(received), "--trust")
        assert code == 2
        assert "another version of the code" in errors
    renamed = received.rename(received.with_name("shared-0123456789abcdef"))
    with pytest.raises(CheckpointError, match="another version"):
        lifelong.resume(renamed, trust=True)
    assert not Path("PWNED").exists()


def test_code_outside_of_the_folder_is_asked_about_as_well(received: Path, here: Path) -> None:
    """A folder may as well name a file that lies elsewhere on this machine and was never meant to be run."""
    written = (received / "config.yaml").read_text().replace("gift/mine.py", "elsewhere.py")
    Path("elsewhere.py").write_text(PAYLOAD)
    data = yaml.safe_load(written)
    identity = content_hash([data, code_of(data)])
    folder = received.rename(received.with_name(f"shared-{identity}"))
    (folder / "config.yaml").write_text(written)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["digests"]["identity"] = identity
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(TrustError, match=r"elsewhere\.py"):
        lifelong.resume(folder)
    assert not Path("PWNED").exists()


def test_code_that_is_gone_is_named(received: Path) -> None:
    Path("gift/mine.py").unlink()
    with pytest.raises(CheckpointError, match=r"gift/mine\.py.*does not exist"):
        lifelong.resume(received)


def test_a_stream_of_a_received_folder_runs_no_code(received: Path) -> None:
    file = received / "stream.json"
    data = json.loads(file.read_text())
    Path("source.py").write_text(PAYLOAD)
    file.write_text(json.dumps(data | {"source": {"name": "source.py"}}))
    with pytest.raises(TrustError, match=r"source\.py"):
        stream_from_manifest(file)
    assert not Path("PWNED").exists()


def calling(command: str) -> dict[str, Any]:
    return {"source": {"name": "avalanche", "benchmark": "subprocess.getoutput", "options": {"cmd": command}}}


@pytest.mark.parametrize("command", ["run", "preview"])
def test_a_received_folder_calls_nothing_that_is_installed(command: str, here: Path, call: Call) -> None:
    Path("manifest.json").write_text("{}")
    Path("config.yaml").write_text(yaml.safe_dump(config("none") | calling("touch PWNED")))
    code, _, errors = call(command, "config.yaml")
    assert code == 2
    assert "subprocess.getoutput" in errors
    assert "--trust" in errors
    assert not Path("PWNED").exists()


def test_a_call_is_remembered_with_its_arguments(here: Path) -> None:
    remember({}, calling("true"))
    require_trust(calling("true"), here, trust=False)
    for other in (
        calling("touch PWNED"),
        {"grid": {"source.benchmark": ["subprocess.getoutput"]}},
        {"learner": [{"name": "avalanche", "plugins": [{"plugin": "subprocess.Popen", "options": {"args": "true"}}]}]},
        {"source": {"name": "avalanche", "benchmark": "lifelong.files.write_atomically"}},
    ):
        with pytest.raises(TrustError, match=r"subprocess|lifelong\.files"):
            require_trust(other, here, trust=False)
    require_trust({"levels": ["strategies.salun.unlearning_seed"], "file": "digits.csv"}, here, trust=False)


@pytest.mark.nightly
def test_ones_own_runs_ask_for_nothing(here: Path, call: Call) -> None:
    Path("mine.py").write_text(HARMLESS)
    Path("mine.yaml").write_text(yaml.safe_dump(config("./mine.py")))
    assert call("run", "mine.yaml", "--quiet")[::2] == (0, "")
    (folder,) = Path("runs").iterdir()
    assert call("resume", str(folder), "--quiet")[0] == 0
    assert call("verify", str(folder), "--quiet", "--no-controls")[0] == 0
    assert call("run", str(folder / "config.yaml"), "--quiet")[0] == 0
    shutil.copytree(folder, here / "moved" / folder.name)  # the code is where it was
    assert call("resume", str(here / "moved" / folder.name), "--quiet")[0] == 0


def test_a_received_study_is_reported_after_trust_only(here: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    Path("mine.py").write_text(HARMLESS + PAYLOAD)
    run = config("mine.py")
    base = {k: run[k] for k in run if k not in ("name", "strategies")}
    # written short, as a file of a study may have it
    strategies = {"theirs": {"learner": "naive", "unlearner": "mine.py"}}
    study = Study(
        {"name": "gift", "claim": "c", "base": base, "strategies": strategies, "seeds": 1}, root=here / "runs"
    )
    assert [execute(job).error for job in study.jobs] == [None]
    study.run()
    monkeypatch.setenv("LIFELONG_CACHE", str(here / "another machine"))
    Path("PWNED").unlink()
    for name in [name for name in sys.modules if name.startswith("mine_")]:
        monkeypatch.delitem(sys.modules, name)
    for command in ("report", "study"):
        code, _, errors = call(command, str(study.folder))
        assert code == 2
        assert "mine.py" in errors
        assert "--trust" in errors
    with pytest.raises(TrustError):
        resume_study(study.folder)
    assert not Path("PWNED").exists()
    code, _, errors = call("report", str(study.folder), "--trust")
    assert code == 0, errors
