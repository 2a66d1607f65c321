"""The benchmark as a person meets it: a strategy placed, its submission checked, and one that was made up caught."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lifelong.bench import check as checking
from lifelong.bench.check import check
from lifelong.bench.evidence import Life
from lifelong.bench.headline import headline
from lifelong.bench.participants import admit, chosen, participants
from lifelong.bench.running import Watching, submit
from lifelong.bench.standing import standings
from lifelong.bench.submission import Submission, digest_of, plain, read, write
from lifelong.bench.track import Track, read_track
from lifelong.study.place import Place
from streams.errors import RefutedError, TrainingError

pytestmark = pytest.mark.nightly

NAMES = ("replay+none", "replay+finetune")


@pytest.fixture(scope="module")
def smoke() -> Track:
    return read_track("smoke")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def placed(track: Track, name: str, root: Path, seeds: int, watching: Watching | None = None) -> Submission:
    name, config = chosen(track, name)
    return submit(track, name, config, admit(track, name, config).label(), seeds, root, Place(workers=1), watching)


@pytest.fixture(scope="module")
def submissions(smoke: Track, root: Path) -> dict[str, Submission]:
    return {name: placed(smoke, name, root, smoke.seeds) for name in NAMES}


def test_a_strategy_is_placed(submissions: dict[str, Submission], smoke: Track, tmp_path: Path) -> None:
    none, finetune = (submissions[name] for name in NAMES)
    assert (none.tuning, none.certificate) == (None, None), "nothing to tune, and it claims nothing"
    assert finetune.tuning is not None
    assert sum(finetune.tuning["trials"].values()) == 3
    assert finetune.config["unlearner"]["retained"] == "memory"
    assert check(finetune, tmp_path, again=False).seed is None, "with tuned options it still is what it is called"
    assert [life.seed for life in none.lives] == list(range(smoke.seeds))
    assert len({life.results for life in none.lives}) == smoke.seeds
    groups = standings(list(submissions.values()))
    assert sorted(groups) == ["retain: buffer(100)"]
    assert {s.submission.strategy for s in groups["retain: buffer(100)"]} == set(NAMES)
    assert none.headline["mean"]["value"] < 8, "what is never unlearned is seen"


def test_the_same_command_computes_nothing_and_writes_the_same_bytes(
    submissions: dict[str, Submission], smoke: Track, root: Path, tmp_path: Path
) -> None:
    begun: list[int] = []
    again = placed(smoke, NAMES[1], root, smoke.seeds, Watching(begin=lambda jobs: begun.append(len(jobs))))
    assert (again, begun) == (submissions[NAMES[1]], [])
    for file in ("one.json", "two.json"):
        write(again, tmp_path / file)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_a_seed_comes_to_the_same_bytes(submissions: dict[str, Submission], tmp_path: Path) -> None:
    found = check(submissions[NAMES[0]], tmp_path, trust=False)
    assert found.same is True
    assert found.seed in range(4)


def test_lives_that_were_made_up_are_caught_by_the_seed_that_is_run_again(
    submissions: dict[str, Submission], tmp_path: Path
) -> None:
    data: dict[str, Any] = submissions[NAMES[0]].model_dump(mode="json")
    data["lives"][2]["results"] = "0" * 32
    data["digest"] = digest_of(data)
    file = tmp_path / "one.json"
    file.write_text(json.dumps(data), encoding="utf-8")
    made_up = read(file)
    with pytest.raises(RefutedError, match="seed 2, run again .* comes to other rows"):
        check(made_up, tmp_path / "a", seed=2)
    elsewhere = made_up.model_copy(update={"processor": "Z80"})
    found = check(elsewhere, tmp_path / "b", seed=2)
    assert (found.same, found.why) == (None, f"processor Z80, here {made_up.processor}")


def test_a_life_that_diverged_must_diverge_again(
    submissions: dict[str, Submission], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*_: object) -> None:
        raise TrainingError("not a number")

    monkeypatch.setattr(checking, "run", diverge)
    with pytest.raises(RefutedError, match="seed 0"):
        check(submissions[NAMES[0]], tmp_path, seed=0)
    one = submissions[NAMES[0]]
    gone = Life(seed=0, diverged="training is nan", served=one.lives[0].served)
    assert check(with_first(one, gone), tmp_path, seed=0).same
    kept = gone.model_copy(update={"moments": one.lives[0].moments})
    with pytest.raises(RefutedError, match="moments differ"):  # they would widen the floor of all other lives
        check(with_first(one, kept), tmp_path, seed=0)


def with_first(one: Submission, life: Life) -> Submission:
    lives = (life, *one.lives[1:])
    return one.model_copy(update={"lives": lives, "headline": plain(headline(lives))})


def test_participants_are_listed_with_what_they_read_or_why_they_cannot(smoke: Track) -> None:
    found = {p.name: p for p in participants(smoke)}
    assert found["replay+salun"].access == "retain: buffer(100), forget set"
    assert "allows 'retain: buffer(100), forget set' at most" in found["replay+retrain"].refused
    assert "is for models that predict" in found["replay+npo"].refused or found["replay+npo"].access
    assert sum(bool(p.access) for p in found.values()) > 30
