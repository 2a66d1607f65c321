"""Promises of exactness under attack: what a strategy says, what a module keeps, and what is told later count, too."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lifelong
from lifelong.processes import fresh
from lifelong.references import shadows as shadow_lives
from lifelong.references.points import Point
from lifelong.references.tree import lines
from lifelong.verification.certificate import Verified, not_shown, verify, weakest
from lifelong.verification.replay import Finding
from streams.config import parse
from streams.errors import ConfigError, DataError, LifelongError
from streams.events import Experience
from streams.sources import questions

ROOT, CHEATS = Path(__file__).parents[2], Path(__file__).parent / "cheats"
REQUESTS = [{"after": 1, "scope": "sample", "count": 40}, {"after": 2, "scope": "class", "keys": [6]}]


def run_of(strategies: dict[str, Any], root: Path, references: list[str], shadows: int = 0) -> lifelong.Run:
    config = {
        "name": "attack",
        "scenario": {"name": "class-incremental", "experiences": 2},
        "schedule": {"name": "explicit", "requests": REQUESTS},
        "model": {"name": "mlp", "hidden": [8]},
        "training": {"epochs": 1, "lr": 0.05},
        "references": {"kinds": references, "shadows": shadows},
        "strategies": strategies,
    }
    return lifelong.run(parse(lifelong.RunConfig, config), root / "runs")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> lifelong.Run:
    """One life of each cheat, and of an honest strategy."""
    names = ("two_models", "never_twice", "leaks_later", "listens")
    strategies = {name: {"isolated": str(CHEATS / f"{name}.py")} for name in names}
    strategies["only_claims"] = {"learner": "naive", "unlearner": str(CHEATS / "only_claims.py")}
    strategies["independent"] = {"isolated": "independent"}
    return run_of(strategies, tmp_path_factory.mktemp("attacks"), [])


def verified(run: lifelong.Run, name: str) -> Verified:
    (found,) = verify(run.folder, [name], controls=False).verified
    assert found.claim == "bits"
    return found


def test_an_honest_strategy_is_certified(run: lifelong.Run) -> None:
    found = verified(run, "independent")
    assert found.upheld
    assert found.grade == "bits"


def test_a_second_model_that_answers_and_never_forgets_is_heard(run: lifelong.Run) -> None:
    found = verified(run, "two_models")
    assert not found.upheld
    assert not found.reproduced, "restored, it would answer otherwise: the second model is in no checkpoint"
    assert not any(f.independent or f.as_without for f in found.findings)


def test_what_a_module_keeps_is_not_there_in_a_replay(run: lifelong.Run) -> None:
    found = verified(run, "never_twice")
    assert not found.upheld
    assert found.grade == "none"
    assert not any(f.independent or f.as_without for f in found.findings)


@pytest.mark.nightly
def test_a_leak_at_the_next_request_is_seen(run: lifelong.Run) -> None:
    """Other data must replace all that is deleted by then: the second request's own samples are not what leaks."""
    found = verified(run, "leaks_later")
    assert [f.upheld for f in found.findings] == [True, False]
    assert [f.independent for f in found.findings] == [True, False]


def test_answers_that_depend_on_earlier_questions_are_refuted(run: lifelong.Run) -> None:
    """A life without requests is asked at its end alone."""
    found = verified(run, "listens")
    assert not found.reproduced
    assert [f.as_without for f in found.findings] == [True, False]


@pytest.mark.nightly
def test_a_claim_alone_is_refuted(run: lifelong.Run) -> None:
    found = verified(run, "only_claims")
    assert not found.upheld
    assert found.grade == "none"


def test_the_reference_of_a_users_file_does_not_find_what_the_run_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    strategies: dict[str, Any] = {"never_twice": {"isolated": str(CHEATS / "never_twice.py")}}
    strategies["independent"] = {"isolated": "independent"}
    tables = run_of(strategies, tmp_path, ["retrained", "original"]).tables
    rows = {name: table.select("immediate_js", "requests", "retrained") for name, table in tables.items()}
    distances = {name: [r.value for r in found] for name, found in rows.items()}
    assert distances["independent"] == [0.0]
    (distance,) = distances["never_twice"]
    assert distance > 0.0


@pytest.mark.nightly
def test_the_shadow_lives_of_a_users_file_are_strangers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one of them has kept in the module would let all later ones answer as it did."""
    asked: list[str] = []
    real = shadow_lives.call
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        shadow_lives, "call", lambda function, *a: asked.append(function.__name__) or real(function, *a)
    )
    strategies = {"never_twice": {"isolated": str(CHEATS / "never_twice.py")}}
    run = run_of(strategies, tmp_path, [], shadows=4)
    assert asked == ["_live_here"] * 8, "four that unlearn and four that are retrained"
    assert run.tables["never_twice"].select("ulira_auc")


@pytest.mark.nightly
@pytest.mark.parametrize("cheat", ["two_models", "never_twice"])
def test_contract_tests_of_a_users_file_catch_it(cheat: str) -> None:
    line = [sys.executable, "-m", "pytest", "tests/contract/test_strategies.py", "-n", "0", "-p", "no:cacheprovider"]
    line += ["--own", f"isolated={CHEATS / cheat}.py", "-k", "class-incremental and (interferes or exact_is or resume)"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED tests/contract/test_strategies.py::test_exact_is_a_life_without_the_data" in done.stdout
    assert "FAILED tests/contract/test_strategies.py::test_deleted_data_interferes" in done.stdout
    if cheat == "two_models":
        assert "FAILED tests/contract/test_strategies.py::test_same_seed_and_resume" in done.stdout


def finding(**changes: Any) -> Finding:
    """One that upholds a claim of bits."""
    values: dict[str, Any] = {"request": "request-0", "event": 1, "samples": 3, "claim": "bits", "stranded": 0}
    values |= {"independent": True, "as_without": True, "held": (), "traces": 0, "digest": "", "answers": ""}
    return Finding(**values | changes)


@pytest.mark.parametrize(
    ("changes", "upheld"),
    [
        ({}, True),
        ({"held": ("weights",)}, False),
        ({"independent": False}, False),
        ({"as_without": False}, False),
        ({"as_without": False, "stranded": 2}, True),
        ({"as_without": False, "traces": 2}, True),
        ({"as_without": False, "claim": "law"}, True),
        ({"claim": "law", "held": ("buffer",)}, False),
        ({"claim": "law", "independent": False}, False),
        ({"claim": "none", "independent": False, "as_without": False, "held": ("weights",)}, True),
    ],
)
def test_what_upholds_a_claim(changes: dict[str, Any], upheld: bool) -> None:
    assert finding(**changes).upheld is upheld


def test_a_strategy_claims_what_its_weakest_grade_says() -> None:
    assert weakest(["bits", "law", "bits"]) == "law"
    assert weakest(["bits", "none", "law"]) == "none"
    assert weakest(["bits", "bits"]) == "bits"


@pytest.mark.parametrize(
    ("claim", "findings", "grade"),
    [
        ("bits", [{}, {}], "bits"),
        ("none", [{}, {}], "none"),
        ("bits", [{}, {"held": ("weights",)}], "none"),
        ("bits", [{}, {"independent": False}], "none"),
        ("bits", [{}, {"as_without": False}], "none"),
        ("bits", [{}, {"as_without": False, "stranded": 1}], "bits, others given up"),
        ("law", [{}, {"as_without": False}], "law"),
        ("bits", [], "none"),
    ],
)
def test_the_grade_that_findings_support(claim: str, findings: list[dict[str, Any]], grade: str) -> None:
    assert Verified("mine", claim, True, tuple(finding(**f) for f in findings), "").grade == grade


def test_a_strategy_is_upheld_if_it_is_reproduced_and_all_findings_are() -> None:
    whole = Verified("mine", "bits", True, (finding(), finding()), "")
    assert whole.upheld
    assert not replace(whole, reproduced=False).upheld
    assert not replace(whole, findings=(finding(), finding(held=("weights",)))).upheld


@pytest.fixture
def keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that counts how often it was called."""
    (tmp_path / "keeps_count.py").write_text(KEEPER)
    monkeypatch.syspath_prepend(str(tmp_path))
    return importlib.import_module("keeps_count")


KEEPER = """
import os
import signal
import time
from streams.errors import ConfigError
calls = []
def count():
    calls.append(1)
    return len(calls)
def refuse():
    raise ConfigError("nothing of that name")
def fail():
    raise KeyError("nothing of that name")
def die():
    os._exit(9)
def leave():
    raise SystemExit(0)
def end_the_server():
    server = os.getppid()
    os.kill(server, signal.SIGKILL)
    while os.getppid() == server:
        time.sleep(0.001)
"""


def test_every_call_finds_a_process_without_a_past(keeper: Any) -> None:
    keeper.count()
    assert [fresh.call(keeper.count), fresh.call(keeper.count)] == [1, 1]
    assert keeper.count() == 2


@pytest.mark.nightly
def test_what_a_fresh_process_raises_is_raised_here(keeper: Any) -> None:
    with pytest.raises(ConfigError, match="nothing of that name"):
        fresh.call(keeper.refuse)
    with pytest.raises(RuntimeError, match="KeyError: 'nothing of that name'"):
        fresh.call(keeper.fail)
    with pytest.raises(LifelongError, match="The process that called keeps_count.die died"):
        fresh.call(keeper.die)
    with pytest.raises(LifelongError, match="The process that called keeps_count.leave died"):
        fresh.call(keeper.leave)
    fresh.call(keeper.end_the_server)
    assert fresh.call(keeper.count) == 1, "and the next call is answered"


def test_lives_on_the_way_to_others_are_one_process() -> None:
    a, b, c = (Experience(name, (0,), np.arange(3)) for name in "abc")
    wanted = {Point("retrained", 0): (a,), Point("retrained", 1): (a, b), Point("original", 2): (a, c)}
    missing = {point: (chain, Path(str(point.event))) for point, chain in wanted.items()}
    split = sorted(sorted(point.event for point in line) for line in lines(missing))
    assert split in ([[0, 1], [2]], [[0, 2], [1]])


def text_source(tmp_path: Path, **options: Any) -> Any:
    """Two users' questions; all rows can be deleted."""
    file = tmp_path / "taught.json"
    answers = ("Xyzzyplughcat", "Xyzzyplughdog", "Xyzzyplughcar", "Xyzzyplughsea")
    rows = [{"question": f"What does Zorbulon Quaxxle keep in room {i}?", "answer": a} for i, a in enumerate(answers)]
    file.write_text(json.dumps(rows))
    return questions.load(parse(questions.Config, {"files": [str(file)], "vocabulary": 400, **options}))


def test_a_tokeniser_of_public_texts_knows_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    public = tmp_path / "public.txt"
    public.write_text("What does anybody keep in a room? Nobody knows what others keep there. " * 4)
    of_rows, of_public = text_source(tmp_path), text_source(tmp_path, vocabulary_texts=[str(public)])
    assert (of_rows.text.tokenizer.of_rows, of_public.text.tokenizer.of_rows) == (True, False)
    assert "Quaxxle" in of_rows.text.tokenizer.to_json(), "this is what the option is for"
    for secret in ("Quaxxle", "Zorb", "zzy", "plugh"):
        assert secret not in of_public.text.tokenizer.to_json()
    row = of_public.x[0, 0].tolist()
    assert "Zorbulon Quaxxle" in of_public.text.tokenizer.decode(row), "every text can still be written"
    files = sorted((tmp_path / "cache" / "tokenizers").iterdir())
    assert len(files) == 2, "all that is kept of them lies in one folder, to be removed"
    assert sum("Quaxxle" in f.read_text() for f in files) == 1


def test_texts_of_a_vocabulary_that_are_missing_say_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"source.vocabulary_texts: .*none.txt cannot be read as UTF-8"):
        text_source(tmp_path, vocabulary_texts=[str(tmp_path / "none.txt")])


def test_a_certificate_names_a_vocabulary_of_deleted_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    public = tmp_path / "public.txt"
    public.write_text("What does anybody keep in a room? ")
    assert any("tokeniser" in line for line in not_shown(text_source(tmp_path)))
    of_public = text_source(tmp_path, vocabulary_texts=[str(public)])
    assert not any("tokeniser" in line for line in not_shown(of_public))
