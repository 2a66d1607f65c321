"""What is on disk of a sample after it was deleted: who looks for its bytes must not find them."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lifelong
from lifelong.evaluation.sealing import seal, secret_of, unseal
from lifelong.execution.traces import _prepared_files, clean_cache, clean_run, traces
from lifelong.report.html import write_report
from lifelong.results.record import Record
from lifelong.setup.preparation import prepare
from streams.errors import ConfigError
from streams.sources import arrays, people
from streams.text import train_tokenizer

DELETED_CLASS = 1
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = draw.normal(size=(120, 6)).astype(np.float32)
    np.savez("private.npz", x=x, y=y, test=np.arange(120) >= 90)
    return tmp_path


def config(**changes: Any) -> Any:
    """A linear model: its penultimate features are its inputs. Class 1 is deleted and stays so, by two strategies."""
    data = {
        "name": "linear",
        "source": {"name": "arrays", "path": "private.npz"},
        "scenario": {"name": "class-incremental", "experiences": 3},
        "schedule": {"name": "explicit", "requests": [{"after": 2, "scope": "class", "keys": [DELETED_CLASS]}]},
        "model": {"name": "mlp", "hidden": []},
        "training": {"epochs": 1, "batch_size": 16},
        "strategies": {
            "exact": {"learner": "naive", "unlearner": "retrain"},
            "inexact": {"learner": "naive", "unlearner": "finetune"},
        },
        "references": {"kinds": ["retrained", "original", "no-op"]},
    }
    return lifelong.RunConfig.model_validate(data | changes)


def deleted_ids() -> list[int]:
    with np.load("private.npz") as data:
        return [int(i) for i in np.flatnonzero((data["y"] == DELETED_CLASS) & ~data["test"])]


def files_with(ids: list[int], folder: Path) -> set[str]:
    """Files below a folder that hold the inputs of a sample, byte for byte."""
    with np.load("private.npz") as data:
        needles = [row.tobytes() for row in data["x"][ids]]
    contents = {f.name: f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    return {name for name, content in contents.items() if any(needle in content for needle in needles)}


def test_no_deleted_input_is_left_on_disk(here: Path) -> None:
    run = lifelong.run(config(), here / "runs")
    assert run.tables["exact"].last("exact", "request-0").value == 1.0
    assert files_with(deleted_ids(), here / "runs") == set()
    assert files_with(deleted_ids(), here / "cache") == set()
    assert list((here / "cache" / "references").glob("*.sealed"))
    assert list(run.folder.rglob("details")) == []


@pytest.mark.nightly
def test_who_asks_for_all_keeps_it_in_the_run_folder_alone(here: Path) -> None:
    numbers = lifelong.run(config(), here / "runs")
    shutil.rmtree(here / "cache")
    everything = lifelong.run(config(recording={"keep": "all"}), here / "runs")
    assert everything.tables["exact"].rows == numbers.tables["exact"].rows
    assert everything.tables["inexact"].rows == numbers.tables["inexact"].rows
    assert files_with(deleted_ids(), everything.folder) == {"event-000002.npz", "event-000003.npz"}
    assert files_with(deleted_ids(), here / "cache") == set()


def test_the_sealed_cache_is_shared_by_runs_on_the_same_data(here: Path) -> None:
    def cost(**changes: Any) -> int:
        summaries = lifelong.run(config(**changes), here / "runs").summaries
        return sum(s["references"]["computed"] for s in summaries.values())

    assert cost() > 0
    assert cost(name="another", recording={"keep": "all"}) == 0


def test_details_go_even_if_the_process_dies_before(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Crash(BaseException):
        pass

    def crash(record: Record) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(Record, "drop_rest", crash)
        with pytest.raises(Crash):
            lifelong.run(config(), here / "runs")
    assert files_with(deleted_ids(), here / "runs")
    lifelong.run(config(), here / "runs")
    assert files_with(deleted_ids(), here / "runs") == set()


def test_a_seal_opens_with_the_same_samples_only(tools: Any) -> None:
    source = tools.source()
    ids = source.train_ids[:10]
    secret, content = secret_of(source, ids), bytes(range(256)) * 5
    sealed = seal(content, secret, "life")
    assert unseal(sealed, secret, "life") == content
    assert content[:16] not in sealed
    assert len(set(sealed[40:])) > 200
    assert seal(content, secret, "another life")[24:] != sealed[24:]
    assert unseal(sealed, secret, "another life") is None
    assert unseal(sealed, secret_of(source, ids[1:]), "life") is None
    for damaged in (sealed[:-1], sealed[:10], b"", sealed[:-1] + bytes([sealed[-1] ^ 1]), b"x" + sealed[1:]):
        assert unseal(damaged, secret, "life") is None
    before = source.x[ids[3]].clone()
    source.x[ids[3]] += 1e-6
    assert unseal(sealed, secret_of(source, ids), "life") is None
    source.x[ids[3]] = before
    assert unseal(sealed, secret_of(source, ids), "life") == content


def found(folder: Path, sample: int) -> dict[str, str]:
    return {t.file.relative_to(folder).as_posix(): t.holds for t in traces(folder, sample) if folder in t.file.parents}


def test_traces_of_a_sample_are_listed(here: Path) -> None:
    run = lifelong.run(config(recording={"keep": "all"}), here / "runs")
    gone, others = deleted_ids()[0], set(range(90)) - set(deleted_ids())
    listed = found(run.folder, gone)
    details = "its features and predicted distribution"
    assert listed["strategies/exact/details/event-000002.npz"] == details
    assert listed["strategies/exact/losses.bin"] == "its loss after every evaluation"
    assert "strategies/exact/checkpoints/event-000004.pt" not in listed
    assert listed["strategies/inexact/checkpoints/event-000004.pt"] == "deleted, but still in: weights"
    # all files of references hold a number of every evaluated sample, and only those of the request its features
    cached = {t.file: t.holds for t in traces(run.folder, gone) if here / "cache" in t.file.parents}
    assert set(cached) == set((here / "cache" / "references").glob("*.sealed"))
    assert any("features" in holds for holds in cached.values())
    kept = found(run.folder, min(others))
    assert kept["strategies/exact/checkpoints/event-000004.pt"] == "the state of a strategy that has learned it"
    assert "strategies/exact/details/event-000002.npz" not in kept
    with pytest.raises(ConfigError, match="0 to 119"):
        traces(run.folder, 120)


def test_a_sample_that_was_barred_before_it_came_is_in_no_checkpoint(here: Path) -> None:
    """What a request by user names before any experience has brought it is never learned."""
    with np.load("private.npz") as data:
        np.savez("users.npz", **data, user=np.arange(120) % 5)
    run = lifelong.run(
        config(
            source={"name": "arrays", "path": "users.npz"},
            schedule={"name": "explicit", "requests": [{"after": 1, "scope": "user", "keys": [0]}]},
            references={"kinds": []},
        ),
        here / "runs",
    )
    p = prepare(run.config)
    barred = np.intersect1d(p.stream.requests[0].barred_ids, p.stream.events[3].sample_ids)
    listed = found(run.folder, int(barred[0]))
    assert listed
    assert not [file for file in listed if "checkpoints" in file]


@pytest.mark.nightly
def test_traces_of_what_lies_beside_strategies_are_listed(here: Path) -> None:
    """Models that were exported into the run folder, and pages: of what was deleted exactly the model has nothing."""
    run = lifelong.run(config(), here / "runs")
    write_report(run)
    for name, event in (("exact", 1), ("exact", 3), ("inexact", 3)):
        model = run.folder / "models" / f"{name}-{event}"
        model.mkdir(parents=True)
        (model / "lifelong.json").write_text(json.dumps({"strategy": name, "event": event}), encoding="utf-8")
    listed = found(run.folder, deleted_ids()[0])
    assert {file: holds for file, holds in listed.items() if file.startswith("models/")} == {
        "models/exact-1": "an exported model; it has learned it",
        "models/inexact-3": "an exported model; deleted by request-0, without a claim that this was exact",
    }
    assert "report.html" in listed
    assert "certificate.json" not in listed, "there is none"


def test_a_run_can_be_cleaned(here: Path) -> None:
    references = {"kinds": ["retrained", "retrained-2", "withheld", "joint"], "shadows": 4}
    other = lifelong.run(config(name="other", seed=1), here / "runs")
    of_others = set((here / "cache" / "references").glob("*.sealed"))
    requests = [{"after": 2, "scope": "sample", "count": 5}, {"after": 3, "scope": "class", "keys": [DELETED_CLASS]}]
    schedule = {"name": "explicit", "requests": requests}
    run = lifelong.run(config(recording={"keep": "all"}, references=references, schedule=schedule), here / "runs")
    rows = {name: table.rows for name, table in run.tables.items()}
    ours = set((here / "cache" / "references").glob("*.sealed")) - of_others
    assert len(ours) > 20
    would = clean_run(run.folder, dry_run=True)
    assert ours <= set(would)
    assert all(file.exists() for file in would)
    assert set(clean_run(run.folder)) == set(would)
    assert set((here / "cache" / "references").glob("*.sealed")) == of_others
    assert files_with(deleted_ids(), run.folder) == set()
    again = lifelong.run(run.config, here / "runs")
    assert {name: table.rows for name, table in again.tables.items()} == rows
    assert set((here / "cache" / "references").glob("*.sealed")) == of_others  # nothing was computed
    assert lifelong.load_run(other.folder).done


def test_what_a_killed_process_was_writing_is_cleaned_too(here: Path) -> None:
    run = lifelong.run(config(features={"name": "mlp", "hidden": [4]}), here / "runs")
    cached = [sorted((here / "cache" / name).iterdir()) for name in ("references", "features")]
    files = [next(f for f in folder if f.suffix != ".lock") for folder in cached]
    dead, alive = 2**22 + 1, os.getpid()  # no process has so high a number
    halves = [f.with_name(f".{f.name}.{process}.part") for f in files for process in (dead, alive)]
    halves.append(files[1].with_name(f".arrays-mlp-0123.npz.{dead}.part"))
    for half in halves:
        half.write_bytes(b"half")
    assert set(halves) - set(clean_run(run.folder)) == {half for half in halves if f".{alive}." in half.name}
    assert [half.exists() for half in halves] == [False, True, False, True, False]


def test_scores_of_deleted_samples_can_be_blanked(here: Path, call: Call) -> None:
    run = lifelong.run(config(), here / "runs")
    losses = run.folder / "strategies/exact/losses.bin"
    before = losses.read_bytes()
    assert call("clean", str(run.folder), "--deleted")[0] == 0
    blank = np.isnan(np.frombuffer(losses.read_bytes(), "<f4"))
    events = 5  # before the first, and after each of four
    assert blank.sum() == events * len(deleted_ids())
    assert np.array_equal(np.frombuffer(before, "<f4")[~blank], np.frombuffer(losses.read_bytes(), "<f4")[~blank])
    assert lifelong.load_run(run.folder).tables["exact"].rows == run.tables["exact"].rows


def test_selections_of_a_run_are_listed_and_cleaned(here: Path) -> None:
    run = lifelong.run(config(schedule={"name": "worst-case", "samples": 5}), here / "runs")
    folder = here / "cache" / "selections"
    ours, others = set(folder.iterdir()), folder / "0123.npz"
    one = min(ours)
    with np.load(one) as kept:
        chosen = kept["ids"]
    np.savez(others, ids=[*chosen[1:], 95])
    listed = [{t.file: t.holds for t in traces(run.folder, int(sample))} for sample in (chosen[0], 95)]
    assert [found[one].rpartition(": ")[2] for found in listed] == ["it is one of them", "it is none of them"]
    assert ours <= set(listed[0])
    assert others not in listed[0]
    assert ours <= set(clean_run(run.folder))
    assert list(folder.iterdir()) == [others]


def test_the_cache_is_cleaned_by_age(here: Path, call: Call) -> None:
    lifelong.run(config(), here / "runs")
    old, *rest = sorted((here / "cache" / "references").glob("*.sealed"))
    week = time.time() - 8 * 86_400
    os.utime(old, (week, week))
    assert clean_cache(7, dry_run=True) == [old]
    assert call("clean", "--older-than", "7")[2].splitlines()[-1] == "1 file was removed."
    assert not old.exists()
    assert all(file.exists() for file in rest)


def test_the_command_says_what_is_missing(here: Path, call: Call) -> None:
    run = lifelong.run(config(), here / "runs")
    for arguments in (["clean"], ["clean", str(run.folder), "--older-than", "3"], ["clean", "--deleted"]):
        code, _, errors = call(*arguments)
        assert code == 2
        assert "Name a run folder" in errors
    code, out, _ = call("traces", str(run.folder), "--sample", str(deleted_ids()[0]), "--json")
    assert code == 0
    assert all(Path(trace["file"]).exists() for trace in json.loads(out))


def test_of_tokenisers_only_that_of_the_rows_derives_from_them(here: Path) -> None:
    (here / "public.txt").write_text("words that nobody asks to be deleted")
    train_tokenizer(["texts of somebody else"], 320)
    (other,) = (here / "cache" / "tokenizers").iterdir()

    def listed(texts: tuple[str, ...]) -> list[Path]:
        source = people.load(people.Config(people=2, groups=1, holdout=1, vocabulary=320, vocabulary_texts=texts))
        prepared: Any = SimpleNamespace(config=config(), stream=SimpleNamespace(source=source))
        return _prepared_files(prepared)

    (rows,) = listed(())
    assert rows != other
    assert listed(("public.txt",)) == []


def test_decoded_images_are_named_and_go_when_an_image_is_removed(here: Path) -> None:
    for number in range(8):
        place = here / "pictures" / f"class-{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 20 * number).save(place / f"{number}.png")
    options = arrays.Config(path="pictures", image_size=4, grayscale=True)
    p: Any = SimpleNamespace(config=config(), stream=SimpleNamespace(source=arrays.load(options)))
    named = _prepared_files(p)
    assert named == list((here / "cache" / "images").iterdir())
    private = bytes([140] * 16)
    assert private in named[0].read_bytes()
    (here / "pictures" / "class-1" / "7.png").unlink()
    arrays.load(options)
    assert not any(private in file.read_bytes() for file in (here / "cache").rglob("*") if file.is_file())
