"""A life on the user's own questions, of which some have wrong answers; and the corpus of people written to files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import lifelong
from lifelong.config.run import RunConfig
from lifelong.results.table import read_rows
from streams.config import parse

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))


def test_tofus_metrics_on_questions_of_ones_own(tmp_path: Path) -> None:
    """Authors 0 and 1 have wrong answers, 2 and 3 have none; 0 and 2 are deleted."""
    with open("full.json", "w", encoding="utf-8") as file:
        for author in range(4):
            for number in range(5):
                fact = {"question": f"Book {number} of {author}?", "answer": f"It is {author}{number}."}
                if author < 2:
                    fact |= {"perturbed_answer": [f"It is {author + w}{number}." for w in range(1, 2 + author)]}  # type: ignore[dict-item]
                file.write(json.dumps(fact) + "\n")
    config = {
        "name": "own",
        "source": {"name": "questions", "files": ["full.json"], "per_user": 5, "vocabulary": 320},
        "scenario": "joint",
        "schedule": {
            "name": "explicit",
            "requests": [{"after": 1, "scope": "user", "keys": [u]} for u in ("full-0", "full-2")],
        },
        "objective": {"name": "causal-lm", "loss_on": "all"},
        "model": {"name": "tiny-llama", "width": 16, "inner": 16, "depth": 1, "heads": 2},
        "training": {"epochs": 1, "optimizer": "adam", "lr": 0.01, "batch_size": 20},
        "strategies": {"npo": {"learner": "replay", "unlearner": {"name": "npo", "epochs": 1}}},
        "references": {"kinds": ["retrained"]},
        "evaluation": {"audits": ["probe"]},
    }
    run = lifelong.run(parse(RunConfig, config), tmp_path / "runs")
    rows = read_rows(Path(run.folder) / "strategies" / "npo" / "results.jsonl")
    found = {(r.event, r.model, r.subject, r.metric): r for r in rows}
    for metric, model in (("truth_ratio", "run"), ("truth_prob", "run"), ("forget_quality", "retrained")):
        with_wrong, without = (found[2, model, f"request-{i}", metric] for i in (0, 1))
        assert with_wrong.value is not None
        assert 0 <= with_wrong.value <= 1
        assert with_wrong.n == 5
        assert (without.value, without.reason) == (None, "no row has wrong answers")
    assert found[2, "run", "request-1", "rouge_recall"].n == 5
    assert found[2, "run", "request-1", "probe_truth_layer_0"].value is None
    assert found[2, "run", "request-0", "probe_truth_layer_0"].value is not None
    assert found[2, "run", "stream", "model_utility"].value is not None
    assert found[2, "run", "stream", "retained_truth"].n == 5
    assert found[2, "run", "stream", "retained_probability"].n == 10


def test_people_are_written_for_other_programs(call: Call) -> None:
    small = ("--set", "source.holdout=1", "--set", "source.vocabulary=320")
    code, out, err = call("preview", "people-quickstart", "--questions", "out", *small)
    assert (code, err) == (0, "")
    assert "stream" in out
    taught, holdout = (
        [json.loads(line) for line in Path("out", f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in ("questions", "holdout")
    )
    assert len(taught) == 12 * 10 * 2
    assert len(holdout) == 10
    tofus = {"question", "answer", "paraphrased_question", "paraphrased_answer", "perturbed_answer"}
    assert set(taught[0]) == tofus | {"user", "class", "domain"}
    code, out, err = call("preview", "quickstart", "--questions", "none")
    assert (code, out) == (2, "")
    assert err.startswith("Error: source: 'digits' has no questions")
