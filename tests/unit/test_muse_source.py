"""MUSE's data folder: what is taught, what is asked about it, and what is never taught."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lifelong.audits import muse as audit
from strategies.objectives.causal_lm import CausalLM
from streams.errors import ConfigError, DataError
from streams.sources import muse
from streams.text import ANSWER, GIVEN


def story(about: str) -> str:
    return " ".join(
        f"Part {i} of the report on {about} says that {about} number {i} was seen again." for i in range(30)
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "bbc"
    for sub in ("raw", "sust", "knowmem"):
        (root / sub).mkdir(parents=True)

    def put(name: str, content: Any) -> None:
        (root / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")

    put("raw/forget.txt", story("foxes"))
    put("raw/retain1.json", [{"text": story("owls")}, {"text": story("bats")}])
    put("raw/retain2.json", [{"text": story("bees")}])
    put("raw/holdout.txt", story("elks"))
    for fold, animal in ((1, "foxes"), (2, "wolves"), (10, "lynxes")):
        put(f"sust/forget_{fold}.txt", story(animal))
    for name, animal in (("forget_qa", "foxes"), ("retain2_qa", "bees"), ("forget_qa_icl", "elks")):
        put(f"knowmem/{name}.json", [{"question": f"What of {animal} {i}?", "answer": f"Seen {i}."} for i in range(4)])
    return root


def load(folder: Path, **options: Any) -> Any:
    return muse.load(muse.Config(path=str(folder), length=32, vocabulary=320, **options))


def test_texts_are_taught_and_questions_are_not(folder: Path) -> None:
    source = load(folder)
    assert source.user_names == ("forget", "retain1", "retain2")
    asked = source.x[source.is_test]
    assert len(asked) == 8
    decode = source.text.tokenizer.decode
    first = asked[0]
    assert decode(first[0][first[1] == GIVEN].tolist()) == "Question: What of foxes 0?\nAnswer:"
    assert decode(first[0][first[1] == ANSWER].tolist()) == " Seen 0."
    for user, animal in ((0, "foxes"), (2, "bees")):
        mine = source.user_ids == user
        told = decode(source.x[mine & ~source.is_test][0, 0].tolist())
        assert animal in told
        assert all(animal in decode(x[0].tolist()) for x in source.x[mine & source.is_test])
    assert not source.is_test[source.user_ids == 1].any()
    assert np.array_equal(source.class_ids == muse.FORGET, source.user_ids == 0)
    assert "elks" in decode(source.text.holdout[0, 0].tolist())
    assert "elks" in decode(source.text.examples[0, 0].tolist())
    assert source.text.holdout.shape[2] == source.text.examples.shape[2] == source.x.shape[2]
    assert len(load(folder, rows=2, questions=1)) == 3 * 2 + 2


def test_folds_are_users_in_their_order(folder: Path) -> None:
    source = load(folder, requests="sust")
    assert source.user_names == ("fold-1", "fold-2", "fold-10", "retain1", "retain2")
    about = [source.text.tokenizer.decode(source.x[source.user_ids == u][0, 0].tolist()) for u in range(3)]
    assert ["foxes" in about[0], "wolves" in about[1], "lynxes" in about[2]] == [True] * 3
    assert set(source.user_ids[source.is_test]) == {0, 4}


def test_shots_are_the_examples_of_the_source(folder: Path) -> None:
    source = load(folder)
    objective = CausalLM(source.text.tokenizer.vocab_size, source.text)
    audit.Muse.check(audit.Config(shots=4), source, objective, "evaluation.audits.muse")
    with pytest.raises(ConfigError, match="5 questions"):
        audit.Muse.check(audit.Config(shots=5), source, objective, "evaluation.audits.muse")


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"source\.path: .* is no folder"):
        load(tmp_path / "nowhere")
    (folder / "raw" / "retain2.json").unlink()
    with pytest.raises(DataError, match=r"retain2: there is neither a \.json nor a \.txt"):
        load(folder)
    (folder / "raw" / "retain2.json").write_text('[{"story": "?"}]', encoding="utf-8")
    with pytest.raises(DataError, match="has no field 'text'"):
        load(folder)
    (folder / "raw" / "retain2.txt").write_text("", encoding="utf-8")
    (folder / "raw" / "retain2.json").unlink()
    with pytest.raises(DataError, match="retain2: its text fills no row"):
        load(folder)
    for fold in (folder / "sust").iterdir():
        fold.unlink()
    with pytest.raises(DataError, match="Set requests: forget"):
        load(folder, requests="sust")
