"""The benchmark as a person meets it: a strategy placed, its submission checked, and one that was made up caught."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lifelong.audits import _judge
from lifelong.bench import check as checking
from lifelong.bench.check import check
from lifelong.bench.evidence import Life
from lifelong.bench.headline import headline
from lifelong.bench.participants import admit, chosen, named, participants
from lifelong.bench.running import Watching, read_life, submit
from lifelong.bench.standing import standings
from lifelong.bench.submission import Submission, digest_of, plain, read, write
from lifelong.bench.track import Digests, Track, read_track
from lifelong.execution.runner import run
from lifelong.study.place import Place
from streams.errors import RefutedError, TrainingError
from streams.text import train_tokenizer

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


IMAGES: dict[str, dict[str, Any]] = {
    "source": {"name": "digits"},
    "scenario": {"kind": "rotated", "domains": 2, "overlap": False, "visits": 3},
    "schedule": {"scope": ["class", "sample", "task"], "samples": 6, "start": 2, "burst": 2, "limit": 4},
    "objective": {"name": "denoising", "steps": 3},
    "model": {"width": 24, "blocks": 1},
    "training": {"epochs": 2},
    "evaluation": {"audits": [{"name": "images", "per_prompt": 5, "least_accuracy": 0.0}]},
}
"""What makes images-40 small: other pictures, fewer and smaller."""


def smaller(track: Track, changes: dict[str, dict[str, Any]], seeds: int) -> Track:
    """Return a track with other options of what its run names, where its streams are what they are."""
    base = dict(track.base)
    for key, options in changes.items():
        before = base[key] if isinstance(base[key], dict) and key != "source" else {}
        base[key] = before | options
    unfrozen = track.model_copy(update={"base": base})
    streams = [unfrozen.stream(seed) for seed in range(seeds)]
    digests = Digests(source=streams[0].source.digest(), streams=tuple(stream.digest() for stream in streams))
    return unfrozen.model_copy(update={"digests": digests})


def lived(track: Track, name: str, root: Path) -> list[Life]:
    """Live all seeds of a track in this process, and keep of them what a submission keeps."""
    config = named(track)[name].model_dump(mode="json", exclude_unset=True)
    lives = []
    for seed in range(track.seeds):
        folder = run(track.config(seed, {name: config}), root).folder
        results = folder / "strategies" / name / "results.jsonl"
        lives.append(read_life(track, seed, track.stream(seed), results))
    return lives


def test_an_image_generator_is_told_from_a_retrained_one_by_what_it_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_judge, "STEPS", 30)
    track = smaller(read_track("images-40"), IMAGES, 2)
    lives = lived(track, "replay+none", tmp_path / "runs")
    found = headline(lives)
    assert {"class", "task"} <= set(found.limits.floors)
    for life in lives:
        assert all(-1 <= m.retained <= 1 for m in life.moments if m.retained is not None), "shares, no squared errors"
        assert all(0 <= scope.gap <= 1 for m in life.moments for scope in m.scopes.values())
        assert life.numbers.accumulation is not None
        assert (life.numbers.forgetting, life.numbers.relapse) == (None, None)
        assert life.numbers.cost == 0.0, "it does nothing"


def test_a_language_model_lives_through_smollm2_30_at_a_small_size(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = train_tokenizer(["ba be bi bo bu da de di do du fa fe fi"], 280)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=tokenizer.vocab_size, **sizes)).save_pretrained(tmp_path / "tiny")
    tokenizer.outer().save_pretrained(tmp_path / "tiny")
    whole, tiny = read_track("smollm2-30"), str(tmp_path / "tiny")
    changes = {
        "source": whole.base["source"] | {"tokenizer": tiny},
        "model": {"checkpoint": tiny},
        "training": {"epochs": 1},
    }
    track = smaller(whole, changes, 1)
    (life,) = lived(track, "replay+gradient-ascent", tmp_path / "runs")
    assert (life.served, [m.request for m in life.moments]) == (10, [1, 2, 3, 4, 6, 8, 10])
    assert set(life.moments[-1].scopes) == {"sample", "user"}
    assert life.numbers.cost is not None
    assert 0 < life.numbers.cost < 1


def test_participants_are_listed_with_what_they_read_or_why_they_cannot(smoke: Track) -> None:
    found = {p.name: p for p in participants(smoke)}
    assert found["replay+salun"].access == "retain: buffer(100), forget set"
    assert "allows 'retain: buffer(100), forget set' at most" in found["replay+retrain"].refused
    assert "is for models that predict" in found["replay+npo"].refused or found["replay+npo"].access
    assert sum(bool(p.access) for p in found.values()) > 30
