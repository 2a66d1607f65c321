"""Your own instructions with images: what rows say, what is held out, and that images are read when they are needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lifelong
from lifelong.config.run import RunConfig
from lifelong.evaluation.sealing import secret_of
from lifelong.metrics.selection import answers_of, selection_rows
from lifelong.study.quantities import Quantity, value_of
from lifelong.verification.replay import altered
from strategies.objectives.causal_lm import scored
from strategies.outcome import Draw
from streams.config import parse
from streams.errors import ConfigError, DataError
from streams.ledger import Ledger
from streams.pictures import Pictures
from streams.randomness import Key
from streams.scenarios import domain_incremental
from streams.source import Source, copy_groups
from streams.sources import llava_json
from streams.stream import Stream
from streams.text import ANSWER, GIVEN, IMAGE, first_answer, prompt_lengths, rows

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 40), "blue": (30, 40, 220)}
OPTIONS: dict[str, Any] = {"size": 28, "image_tokens": 4, "vocabulary": 400, "skill": "skill", "user": "user"}


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def turns(*said: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(said)]


def conversations(folder: Path, start: int, count: int) -> list[dict[str, Any]]:
    found = []
    for n in range(start, start + count):
        name, colour = list(COLOURS.items())[n % 3]
        Image.new("RGB", (40 + n % 5, 30), colour).save(folder / f"{n}.png")
        said = turns("<image>\nWhich colour is it?", f"It is {name}.", "Is it a number?", "No, it is a colour.")
        found.append({"id": n, "image": f"{n}.png", "conversations": said, "skill": name, "user": f"u{n % 2}"})
    found.append({"id": "t", "conversations": turns("Who are you?", "A model."), "skill": "text", "user": "u0"})
    found.append({"id": "s", "conversations": turns("Who is it?", "Nobody."), "skill": "text", "user": "u1"})
    return found


def written(folder: Path, **options: Any) -> Source:
    files = []
    for number in range(2):
        file = folder / f"set-{number}.json"
        file.write_text(json.dumps(conversations(folder, 30 * number, 24)))
        files.append(str(file))
    return llava_json.load(parse(llava_json.Config, OPTIONS | {"files": files, "images": str(folder)} | options))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return written(tmp_path_factory.mktemp("own"), test_fraction=0.25)


def said(source: Source, row: int, part: int) -> str:
    assert source.text is not None
    x = source.x[row]
    return source.text.tokenizer.decode(x[0][x[1] == part].tolist())


def test_training_rows_are_conversations_and_held_out_rows_answers(source: Source) -> None:
    assert source.text is not None
    train, test = source.train_ids, source.test_ids
    assert np.array_equal(train, np.arange(len(train))), "a row's id is its place"
    row = int(train[0])
    assert said(source, row, ANSWER).startswith(" It is ")
    assert said(source, row, ANSWER).endswith(" No, it is a colour.")
    assert int((source.x[row, 1] == IMAGE).sum()) == 4
    assert int((source.x[row, 0] == source.text.tokenizer.eos).sum()) == 2
    decode = source.text.tokenizer.decode
    assert " No," not in decode(first_answer(source.x[row]))
    assert int(prompt_lengths(source.x[row][None])) == int((source.x[row, 1] == ANSWER).int().argmax())
    first, second = int(test[0]), int(test[1])
    assert said(source, first, ANSWER).startswith(" It is")
    assert said(source, second, ANSWER) == " No, it is a colour."
    assert said(source, first, ANSWER) in said(source, second, GIVEN), "what was said before is given"
    one = scored(torch.randn(1, source.x.shape[2], 50), source.x[row][None], "answer")
    assert int(one.counts[0]) == int((source.x[row, 1] == ANSWER).sum())
    assert source.class_names == ("red", "green", "blue", "text")
    assert source.domain_names == ("set-0", "set-1")
    assert set(source.user_names) == {"u0", "u1"}


def test_each_answer_can_have_a_row_of_its_own(tmp_path: Path) -> None:
    whole, each = written(tmp_path), written(tmp_path, turns="each")
    assert len(each.train_ids) == 2 * len(whole.train_ids) - int((whole.class_ids[whole.train_ids] == 3).sum())
    learned = [int((s.x[s.train_ids, 1] == ANSWER).sum()) for s in (whole, each)]
    assert learned[0] == learned[1]


def test_images_are_read_when_a_batch_needs_them(tmp_path: Path) -> None:
    source = written(tmp_path)
    assert isinstance(source.images, Pictures)
    assert source.input_shape[2:] == (1, 3, 28, 28)
    data = Ledger(source).lend(source.train_ids)
    batch = data.batch(torch.tensor([0, 1]))
    assert batch.images is not None
    assert batch.images.dtype == torch.uint8
    assert batch.images[0, 0, :, 14, 14].tolist() == list(COLOURS["red"])
    assert batch.images[0, 0, :, 0, 14].tolist() == [122, 116, 104], "margins of the mean colour"
    stretched = written(tmp_path, aspect="stretch", channels=1)
    assert stretched.images is not None
    grey = stretched.images.index_select(0, torch.tensor([0]))
    assert grey.shape == (1, 1, 1, 28, 28)
    assert len(grey.unique()) == 1
    first = tmp_path / "0.png"
    before, secret = source.digest(), secret_of(source, source.train_ids[:3])
    Image.new("RGB", (40, 30), (1, 2, 3)).save(first)
    changed = data.batch(torch.tensor([0]))
    assert changed.images is not None
    assert changed.images[0, 0, :, 14, 14].tolist() == [1, 2, 3]
    assert source.digest() != before
    assert secret_of(source, source.train_ids[:3]) != secret
    first.unlink()
    with pytest.raises(DataError, match=r"0\.png cannot be read"):
        data.batch(torch.tensor([0]))
    again = parse(llava_json.Config, OPTIONS | {"files": [str(tmp_path / "set-0.json")], "images": str(tmp_path)})
    with pytest.raises(DataError, match=r"1 images are not in .*, such as 0\.png"):
        llava_json.load(again)


def test_copies_and_exchanged_rows_are_told_by_their_images(tmp_path: Path) -> None:
    source = written(tmp_path)
    groups = copy_groups(source)
    same = [i for i in source.train_ids if groups[i] != i]
    assert all(np.array_equal(source.x[i], source.x[groups[i]]) for i in same)
    assert isinstance(source.images, Pictures)
    assert all(source.images.contents()[i] == source.images.contents()[groups[i]] for i in same)
    other = source.images.exchanged(np.array([0]), np.array([1]))
    read = torch.tensor([0, 1])
    assert torch.equal(other.index_select(0, read)[0], source.images.index_select(0, read)[1])
    plan = domain_incremental.build(source, parse(domain_incremental.Config, {"kind": "natural"}), 0)
    stream = Stream(source, plan.units, plan.experiences)
    changed = altered(stream, source.train_ids[:8], Key(0)).source
    assert isinstance(changed.images, Pictures)
    assert changed.images.contents()[:8] != source.images.contents()[:8]
    assert changed.images.contents()[8:] == source.images.contents()[8:]
    for row in range(8):
        twin = np.flatnonzero((source.x == changed.x[row]).all(2).all(1).numpy())
        assert any(source.images.contents()[i] == changed.images.contents()[row] for i in twin)


def test_clusters_are_held_against_answers(tmp_path: Path) -> None:
    source = written(tmp_path, turns="each")
    pool = source.train_ids
    spoken = [source.x[i, 0][source.x[i, 1] == ANSWER].tolist() for i in pool]
    numbers = answers_of(source, pool)
    assert all((spoken[0] == s) == (numbers[0] == n) for s, n in zip(spoken, numbers, strict=True))
    assert len(np.unique(numbers)) == len({tuple(s) for s in spoken}) > 3
    by = {"answers": numbers, "skills": source.class_ids[pool], "neither": np.arange(len(pool)) % 2}
    found = {}
    for name, clusters in by.items():
        draw = Draw(pool, np.ones(len(pool), dtype=bool), clusters)
        rows_of_draw = {r.metric: r.value for r in selection_rows(0, draw, source) if r.subject == "event"}
        found[name] = (rows_of_draw["cluster_nmi_answers"] or 0.0, rows_of_draw["cluster_nmi"] or 0.0)
    assert found["answers"][0] == pytest.approx(1.0)
    assert found["answers"][1] < 0.9
    assert found["skills"][1] == pytest.approx(1.0)
    assert max(found["neither"]) < 0.7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conversations": turns("<image> a", "b", "c")}, "'human' and 'gpt' must take turns"),
        ({"conversations": "x"}, "it needs 'conversations'"),
        ({"conversations": turns("no mark", "b")}, "it has 1 images, and names 0 by <image>"),
        ({"conversations": turns("<image> a", "b")[:1] + [{"from": "gpt", "value": 7}]}, "it needs 'conversations'"),
        ({"image": 7}, "'image' is 7"),
        ({"user": None}, None),
    ],
)
def test_what_is_none_of_llava_s_is_refused(tmp_path: Path, change: dict[str, Any], message: str | None) -> None:
    one = conversations(tmp_path, 0, 1)[0] | change
    if message is None:
        del one["user"]
    (tmp_path / "a.json").write_text(json.dumps([one]))
    config = parse(llava_json.Config, OPTIONS | {"files": [str(tmp_path / "a.json")], "images": str(tmp_path)})
    with pytest.raises(
        DataError, match=message or r"'user' \(source.user\). Its fields: id, image, conversations, skill"
    ):
        llava_json.load(config)
    with pytest.raises(ConfigError, match=r"must have \{text\}, once"):
        parse(llava_json.Config, OPTIONS | {"files": ["a"], "turn": "Q"})


def test_a_row_of_one_turn_is_as_it_was(source: Source) -> None:
    assert source.text is not None
    tokenizer = source.text.tokenizer
    x = rows([([5, -1, -1, 6], [7, 8, tokenizer.eos]), ([9], [10])], tokenizer)
    assert x[0].tolist() == [
        [tokenizer.bos, 5, 0, 0, 6, 7, 8, tokenizer.eos],
        [GIVEN, GIVEN, IMAGE, IMAGE, GIVEN, ANSWER, ANSWER, ANSWER],
    ]
    assert x[1, 1].tolist() == [GIVEN, GIVEN, ANSWER, 0, 0, 0, 0, 0]
    assert prompt_lengths(x).tolist() == [5, 2]


@pytest.mark.nightly
def test_a_selection_learns_from_own_files_and_tells_what_it_drew(tmp_path: Path) -> None:
    written(tmp_path)
    config = {
        "name": "own",
        "source": OPTIONS
        | {"name": "llava-json", "files": [str(tmp_path / f"set-{n}.json") for n in range(2)], "images": str(tmp_path)},
        "scenario": {"name": "domain-incremental", "kind": "natural"},
        "schedule": {"name": "explicit", "requests": [{"after": 2, "scope": "class", "keys": ["red"]}]},
        "objective": "causal-lm",
        "model": {"name": "tiny-llava", "width": 32, "inner": 64},
        "training": {"epochs": 30, "batch_size": 8, "optimizer": "adam", "lr": 0.003},
        "strategies": {
            "adapt": {"learner": {"name": "adapt-infinity", "share": 0.9}, "unlearner": "retrain"},
        },
        "references": {"kinds": ["retrained"]},
    }
    run = lifelong.run(parse(RunConfig, config), tmp_path / "runs")
    learned = value_of(run.tables["adapt"], Quantity(metric="average_exact_match", event=1))
    assert learned is not None
    assert learned > 0.6
    away = Quantity(metric="immediate_js", subject="requests", model="retrained")
    assert value_of(run.tables["adapt"], away) == pytest.approx(0.0, abs=1e-12)
    drawn = (run.folder / "strategies" / "adapt" / "draws" / "event-000001.csv").read_text().splitlines()
    assert len(drawn) > 10


def test_a_file_of_lines_says_the_same_as_a_list(tmp_path: Path) -> None:
    found = conversations(tmp_path, 0, 20)
    found[0]["conversations"][1]["value"] = "It is\u2028red."  # some editors' end of a line, inside of a text
    one, other = tmp_path / "list" / "a.json", tmp_path / "lines" / "a.json"
    for file in (one, other):
        file.parent.mkdir()
    one.write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
    other.write_text("\n".join(json.dumps(c, ensure_ascii=False) for c in found) + "\n", encoding="utf-8")
    sources = [
        llava_json.load(parse(llava_json.Config, OPTIONS | {"files": [str(file)], "images": str(tmp_path)}))
        for file in (one, other)
    ]
    assert sources[0].digest() == sources[1].digest()
    assert any("It is\u2028red." in said(sources[0], row, ANSWER) for row in range(len(sources[0])))
