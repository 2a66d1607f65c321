"""Whole lives of small language models: rows, resuming, and what the corpus and the methods must show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lifelong
from lifelong.config.run import RunConfig, StrategyConfig, load_config
from lifelong.formulas.membership import membership_auc
from lifelong.models import tiny_llama
from lifelong.results.table import Row, read_rows
from lifelong.setup.build import make_setting, make_source, make_strategy, make_stream
from strategies.composed import Composed
from strategies.objectives.causal_lm import CausalLM, Config
from strategies.parts.fit import Training, fit
from strategies.parts.model import FlatModel
from strategies.step import step
from streams.config import parse
from streams.data import Data
from streams.ledger import Ledger
from streams.randomness import Key, seeded_globals
from streams.source import Source
from streams.sources import people

TINY: dict[str, Any] = {
    "name": "tiny-people",
    "source": {"name": "people", "people": 4, "groups": 2, "holdout": 2, "world": False, "vocabulary": 400},
    "scenario": {"name": "domain-incremental", "kind": "natural"},
    "schedule": {
        "name": "explicit",
        "requests": [{"after": 1, "scope": "user", "keys": [1]}, {"after": 1, "scope": "user", "keys": [0]}],
    },
    "objective": {"name": "causal-lm", "loss_on": "all"},
    "model": {"name": "tiny-llama", "width": 16, "inner": 16, "depth": 1, "heads": 2},
    "training": {"epochs": 1, "optimizer": "adam", "lr": 0.01, "batch_size": 20},
    "strategies": {"npo": {"learner": "replay", "unlearner": {"name": "npo", "epochs": 1}}},
}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))


def rows_of(run: Any, name: str) -> list[Row]:
    return read_rows(Path(run.folder) / "strategies" / name / "results.jsonl")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """The rows of a life that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(folder / "cache"))
        return rows_of(lifelong.run(parse(RunConfig, TINY), folder), "npo")


def test_a_life_of_text_has_its_rows_and_repeats(whole: list[Row], tmp_path: Path) -> None:
    first = whole
    assert first == rows_of(lifelong.run(parse(RunConfig, TINY), tmp_path), "npo")

    def found(metric: str, subject: str, model: str = "run") -> dict[int, float | None]:
        return {r.event: r.value for r in first if (r.metric, r.subject, r.model) == (metric, subject, model)}

    # Events: learn, forget, forget, learn. Every earlier request is looked at again.
    assert found("extraction_strength", "request-0").keys() == {1, 2, 3}
    assert found("extraction_strength", "request-1").keys() == {2, 3}
    assert found("model_utility", "stream").keys() == {0, 1, 2, 3}  # from before the first request
    for metric in ("ks_distance", "forget_quality", "gap_min_k_auc", "gap_truth_ratio", "js"):
        assert found(metric, "request-0", "retrained").keys() == {1, 2, 3}, metric
    for metric in ("probability", "truth_ratio", "rouge_recall", "loss_auc", "min_k_plus_plus_auc"):
        values = found(metric, "request-0").values()
        assert all(v is not None and 0 <= v <= 1 for v in values), metric
    # Both learned users of the first group are gone: nothing of it is left to keep.
    assert found("exact_match", "domain-0").keys() >= {0, 1, 2, 3}


@pytest.mark.nightly
def test_a_stopped_life_of_text_goes_on_to_the_same_rows(
    whole: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lifelong.execution import life

    config = parse(RunConfig, TINY)
    real, calls = life.step, []

    def stop(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(life, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            lifelong.run(config, tmp_path / "cut")
    assert rows_of(lifelong.run(config, tmp_path / "cut"), "npo") == whole


# -- what a model of half a million weights learns


def taught(source: Source, ids: np.ndarray, epochs: int) -> tuple[FlatModel, CausalLM]:
    assert source.text is not None
    objective = CausalLM(source.text.tokenizer.vocab_size, source.text, Config(loss_on="all"))
    with seeded_globals(Key(0) / "init"):
        model = FlatModel(tiny_llama.build(tiny_llama.Config(), tuple(source.x.shape[1:]), objective.num_outputs))
    training = Training(epochs=epochs, batch_size=32, optimizer="adam", lr=0.002, betas=(0.9, 0.98), clip_norm=1.0)
    fit(model, objective, Data(ids, source.x, source.y, None), training, Key(0))
    model.train(False)
    return model, objective


@torch.inference_mode()
def matches(model: FlatModel, objective: CausalLM, data: Data) -> float:
    return float(torch.cat([objective.scores(objective.outputs(model, b), b) for b in data.batches(128)]).mean())


@torch.inference_mode()
def losses(model: FlatModel, objective: CausalLM, data: Data) -> np.ndarray:
    return torch.cat([objective.losses(objective.outputs(model, b), b) for b in data.batches(128)]).numpy()


@pytest.mark.slow
def test_people_are_learned_by_heart_and_held_out_ones_are_not() -> None:
    """The corpus is learnable, its held-out forms are understood, and what was not taught is not known."""
    source = people.load(people.Config(people=24, groups=1, holdout=8, world=False))
    gone = np.isin(source.user_ids, [3, 11]) & ~source.is_test
    train = source.train_ids
    tests = Data(source.test_ids, source.x, source.y, None)
    whole = Data(train, source.x, source.y, None)
    forget = Data(np.flatnonzero(gone), source.x, source.y, None)
    assert source.text is not None
    assert source.text.holdout is not None
    n = len(source.text.holdout)
    holdout = Data(np.arange(n), source.text.holdout, torch.zeros(n, dtype=torch.long), None)

    model, objective = taught(source, train, 25)
    assert matches(model, objective, whole) >= 0.8
    assert matches(model, objective, tests) >= 0.7
    assert matches(model, objective, holdout) <= 0.15
    own, other = losses(model, objective, forget), losses(model, objective, holdout)
    auc = membership_auc(own, np.zeros(len(own), dtype=int), other, np.zeros(n, dtype=int))
    assert auc is not None
    assert auc >= 0.85

    gold, _ = taught(source, np.setdiff1d(train, np.flatnonzero(gone)), 25)
    assert matches(gold, objective, forget) <= 0.3
    own, other = losses(gold, objective, forget), losses(gold, objective, holdout)
    auc = membership_auc(own, np.zeros(len(own), dtype=int), other, np.zeros(n, dtype=int))
    assert auc is not None
    assert 0.2 <= auc <= 0.8


@pytest.mark.slow
def test_the_quickstart_forgets_four_people_and_keeps_the_others(tmp_path: Path) -> None:
    config = load_config("people-quickstart", ["references.kinds=[]"])
    rows = rows_of(lifelong.run(config, tmp_path), "replay-npo")

    def value(metric: str, subject: str, event: int) -> float:
        (found,) = [r.value for r in rows if (r.metric, r.subject, r.event) == (metric, subject, event)]
        assert found is not None
        return found

    assert value("retain_exact_match", "stream", 2) >= 0.75  # three groups are known
    for request, event in enumerate(range(3, 7)):
        assert value("forget_exact_match", f"request-{request}", event) <= 0.2
        assert value("retain_exact_match", "stream", event) >= 0.6
    assert value("exact_match", "domain-3", 7) >= 0.5  # and it learns on
    assert max(value("forget_exact_match", f"request-{request}", 7) for request in range(4)) <= 0.25


@pytest.mark.slow
def test_forty_steps_forget_a_tenth_of_the_people() -> None:
    """Losses that end, beside retained data, forget and keep; gradient ascent keeps nothing."""
    data = {
        **TINY,
        "source": {"name": "people", "people": 20, "groups": 1, "world": False},
        "scenario": "joint",
        "schedule": {"name": "explicit", "requests": [{"after": 1, "scope": "user", "keys": [3, 11]}]},
        "model": "tiny-llama",
    }
    config = parse(RunConfig, data)
    source = make_source(config)
    stream = make_stream(config, source)
    setting = make_setting(config, stream)
    (request,) = stream.requests
    learned = stream.events[0].sample_ids
    model, objective = taught(source, learned, 25)
    forget, kept = (
        Data(ids, source.x, source.y, None) for ids in (request.sample_ids, np.setdiff1d(learned, request.sample_ids))
    )
    state = model.state_dict()
    found: dict[str, tuple[float, float]] = {}
    for name, options in {"graddiff": {"retain": "none"}, "simnpo": {}, "topr": {}}.items():
        unlearner = {"name": name, "lr": 3e-4, "epochs": 40 // -(-len(forget) // 16), **options}
        strategy = make_strategy(parse(StrategyConfig, {"learner": "naive", "unlearner": unlearner}), setting, "it")
        assert isinstance(strategy, Composed)
        strategy.learner.model.load_state_dict(state)
        ledger = Ledger(source)
        ledger.admit(stream.events[0])
        step(strategy, request, ledger)
        own = strategy.learner.model
        own.train(False)
        found[name] = (matches(own, objective, forget), matches(own, objective, kept))
    for name in ("simnpo", "topr"):
        assert found[name][0] < 0.1, found
        assert found[name][1] > 0.9, found
    assert found["graddiff"][1] < 0.1, found


@pytest.mark.nightly
def test_models_of_their_own_answer_together(tmp_path: Path) -> None:
    """Without a task to go by, all models say together what they make of every token; no output is a class."""
    changes = {
        "strategies": {"independent": {"isolated": "independent"}},
        "model": {**TINY["model"], "width": 48, "inner": 96},
        "training": {**TINY["training"], "epochs": 40},
        "schedule": "none",
    }
    rows = rows_of(lifelong.run(parse(RunConfig, TINY | changes), tmp_path), "independent")
    found = {(r.event, r.metric, r.subject): r.value for r in rows if r.model == "run"}
    alone, both = (found[event, "retain_exact_match", "stream"] for event in (0, 1))
    assert alone > 0.9, "one model"
    assert 0.3 < both < alone, "of two, each of which has heard of half of the people"


def test_nothing_need_be_probed(tmp_path: Path) -> None:
    """Before the first request nothing is looked at in detail then, and a language model takes no empty batch."""
    strategies = {"naive": {"learner": "naive", "unlearner": "none"}}
    run = lifelong.run(parse(RunConfig, TINY | {"evaluation": {"probe": 0}, "strategies": strategies}), tmp_path)
    assert run.tables["naive"].select("forget_exact_match")


def test_strategies_of_text_share_their_stream() -> None:
    config = load_config("people-quickstart")
    source = make_source(config)
    stream = make_stream(config, source)
    assert [len(r.sample_ids) for r in stream.requests] == [20] * 4
    assert make_setting(config, stream).objective.measure == "exact_match"
