"""Make docs/reliability.md of what the scripts in tests/reliability have counted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

TESTS = Path(__file__).parents[1] / "tests"
RESULTS = TESTS / "reliability" / "results"
Counts = dict[str, Any]
WHERE = {"text": "a run on text", "lessons": "a run of long lessons"}
"""Lives that are killed, where "a" and their name would not do."""
INTRODUCTION = """# Reliability

What was tried to make the simulator lose a byte, believe a false claim, keep a deleted sample or slow down, and how
often. Each section is what one script has counted; it can be called again, draws every trial by name from a seed, goes
on behind the trials that its file counts already, and exits with 1 if one fails. Small versions run every night.

Written from `tests/reliability/results/` by `python docs/generate.py`. What is *not* covered stands at the
[end](#what-is-not-covered), and in [privacy.md](privacy.md#what-is-not-covered).
"""
OPEN = """## What is not covered

- A file that code of your own writes, and what it reads through private names: guards are against mistakes, not against
  malice.
- `report.html`, exported tables and `certificate.json` are written for people, and never read again. A flipped bit in
  one is seen by nobody; `lifelong report` and `lifelong verify` write them anew.
- Unpacked checkpoints of language models (`checkpoints/` of the cache) have no digest of ours.
- Who can write digests can edit a file and its digest: digests find damage and carelessness, not forgery.
- A power cut, unless `recording: {fsync: true}`. Kills end a process, not the machine.
"""


def reliability() -> str:
    """Return the page."""
    sections = [
        _section("Killed anywhere", "kills", "--kills 1000", _kills),
        _section("Exact on random streams", "streams", "--streams 200", _streams),
        _section("Certified on random streams", "certified", "--streams 100", _certified),
        _section("A flipped bit", "flips", "--flips 1000", _flips),
        _section("Nothing left of the deleted", "traces", "--lives 1000", _traces),
        _section("A late event", "events", "--events 10000", _events),
    ]
    return "\n".join([INTRODUCTION, *sections, _cheats(), _unseen(), OPEN])


def _section(title: str, script: str, options: str, told: Callable[[Counts], str]) -> str:
    counts = json.loads((RESULTS / f"{script}.json").read_text(encoding="utf-8"))
    call = f"python tests/reliability/{script}.py {options} --json tests/reliability/results/{script}.json"
    return f"## {title}\n\n```bash\n{call}\n```\n\n{told(counts)}"


def _outcome(counts: Counts) -> str:
    """Say how many trials failed, and what made the numbers."""
    made, failures = counts["made"], counts["failures"]
    failed = "Failed: 0." if not failures else f"**Failed: {len(failures)}.** " + " ".join(f"({f})" for f in failures)
    return f"{failed} Last added to on {made['date']}, torch {made['torch']}, numpy {made['numpy']}.\n"


def _table(heads: list[str], rows: list[list[object]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)]) + "\n"


def _kills(counts: Counts) -> str:
    kills, lives, files = counts["kills"], counts["lives"], counts["files"]
    total = sum(sum(by.values()) for by in kills.values())
    rows: list[list[object]] = [
        [WHERE.get(name, f"a {name}"), *(by.get(s, 0) for s in ("SIGKILL", "SIGTERM"))] + [lives[name], files[name]]
        for name, by in sorted(kills.items())
        if name in lives
    ]
    phases = ", ".join(f"{phase} {count}" for phase, count in sorted(counts["phases"].items(), key=lambda p: -p[1]))
    told = (
        f"{total} kills so far, of real processes, up to sixteen in a life, by the command line, at random instants "
        "and just after random writes, lessons, requests and looks have begun; in a study of the study or of a "
        "worker. Every life was then finished, and all its files (of run folders, studies and cache) compared "
        "with a life that nobody had disturbed: rows, outputs, details and references byte for byte, states "
        "by digest. Left out are seconds, dates, the list of where lives lie, and reports, which are made of "
        "the rows.\n\n"
    )
    table = _table(["killed", "SIGKILL", "SIGTERM", "lives finished", "files compared"], rows)
    came = counts.get("came back to", {})
    back = ", ".join(f"{place} {count}" for place, count in sorted(came.items(), key=lambda p: -p[1]))
    places = (
        f" Where the next attempt came back to, of {sum(came.values())} for which it was noted: {back}." if came else ""
    )
    return f"{told}{table}\nWhere the process was: {phases}.{places} {_outcome(counts)}"


def _streams(counts: Counts) -> str:
    scenarios = ", ".join(f"{name} {count}" for name, count in sorted(counts["scenarios"].items()))
    rows: list[list[object]] = []
    sums: dict[str, int] = {}
    for name, found in sorted(counts["strategies"].items()):
        if not any(f"claims {grade}" in found for grade in ("bits", "law")):
            continue
        claimed = sum(found.get(f"claims {grade}", 0) for grade in ("bits", "law"))
        cells = [claimed, *(found.get(key, 0) for key in ("as with other data", "as without", "gave up others"))]
        cells += [found.get("claims nothing", 0)]
        rows.append([f"`{name}`", *cells])
        for key, cell in zip(("claimed", "other", "without", "gave up", "nothing"), cells, strict=True):
            sums[key] = sums.get(key, 0) + cell
    rows.append(["all", *sums.values()])
    faulty = _table(
        ["faulty strategy", "streams", "refuted on"],
        [[name, found["streams"], found["refuted"]] for name, found in sorted(counts.get("faulty", {}).items())],
    )
    told = (
        f"{counts['streams']} streams so far ({scenarios}), {counts['requests']} requests; scenario, data, users, "
        "copies, requests, learning again, service, model and training are drawn. On each, every strategy "
        "that may claim exactness is tested at one request, as `lifelong verify` does it: bits of state and "
        "answers with other data in the place of the deleted, and in a life without it. Strategies that gave "
        "up live samples with the deleted ones are compared with other data alone, as their certificate says.\n\n"
    )
    heads = [
        "strategy",
        "claims tested",
        "= with other data",
        "= without the data",
        "gave up others",
        "claimed nothing",
    ]
    return f"{told}{_table(heads, rows)}\nThe same test must refute what is faulty:\n\n{faulty}\n{_outcome(counts)}"


def _certified(counts: Counts) -> str:
    keys = ("claims certified", "tested", "beside a life without", "accounts open at the end", "claims none")
    rows: list[list[object]] = [
        [f"`{name}`", found["lives"], *(found.get(key, 0) for key in (*keys, "publications", "refused"))]
        for name, found in sorted(counts["heads"].items())
    ]
    heads = ["head", "lives", "requests certified", "tested", "beside a life without", "accounts open at the end"]
    heads += ["budget exceeded, not certified", "publications whose noise was tested", "refused"]
    faulty = _table(
        ["faulty head", "streams", "refuted on"],
        [[name, found["streams"], found["refuted"]] for name, found in sorted(counts.get("faulty", {}).items())],
    )
    told = (
        f"{counts['streams']} streams so far, {counts['requests']} requests; streams are drawn as above, and budgets, "
        "noise, scope and penalty of the heads by name. Each head lives through the whole stream, and up to two of its "
        "requests are tested: the distance of the secret weights to those of a life without the deleted data (where "
        "both lives' weights can be compared) and of one with other data in its place, that noise does not depend on "
        "the data, and that the account holds every publication until the life ends. What is published is private "
        "in every step of `dp-head`, so that there is nothing secret to compare: its requests are not tested. "
        "*Refused* are streams, or too little noise for what the solver leaves.\n\n"
    )
    return f"{told}{_table(heads, rows)}\nThe same tests must refute what is faulty:\n\n{faulty}\n{_outcome(counts)}"


def _flips(counts: Counts) -> str:
    rows: list[list[object]] = [
        [place, f"`{kind}`", *(found.get(key, 0) for key in ("refused", "same result", "FAILED"))]
        for place, kinds in sorted(counts["files"].items())
        for kind, found in sorted(kinds.items())
    ]
    told = (
        f"{counts['flips']} single bits so far, each in a random byte of a random file. *Refused*: an error names the "
        "file. *Same result*: what comes out is the same, byte for byte; in a stopped run since the "
        "checkpoint before it was taken or since the bit says nothing (a date in the header of an archive), "
        "in the cache since it was computed again. Of a study `study.json`, `verdicts.json`, and what its report "
        "reads of its runs are hit.\n\n"
    )
    table = _table(["in", "file", "refused", "same result", "unnoticed"], rows)
    return f"{told}{table}\n{_outcome(counts)}"


def _traces(counts: Counts) -> str:
    keys = ("searched", "pieces", "found before cleaning", "found after cleaning", "refused")
    rows: list[list[object]] = [
        [name, *(found.get(key, 0) for key in keys)] for name, found in sorted(counts["kinds"].items())
    ]
    told = (
        f"{counts['lives']} runs so far, each of one strategy, with everything kept, a report and references. After "
        "`lifelong clean RUN --deleted` run folder and cache are searched for inputs of the deleted samples "
        "(as numbers of five types), their tokens and words, and features and distributions that were "
        "measured of them; and their scores and losses must be blank. What is found *before* cleaning shows "
        "that the search finds. With a linear model features are inputs.\n\n"
    )
    heads = ["model", "runs searched", "pieces looked for", "runs with a find before", "and after", "not for such data"]
    return f"{told}{_table(heads, rows)}\n{_outcome(counts)}"


def _events(counts: Counts) -> str:
    rows: list[list[object]] = []
    for lives in counts["lives"].values():
        for name, found in lives.items():
            keys = ("learn_act_s", "forget_act_s", "learn_event_s", "forget_event_s")
            times = [f"{1000 * found[key][1]:.1f}, {1000 * found[key][-1]:.1f}" for key in keys]
            memory = (found["resident"][-1] - found["resident"][1]) / 2**20
            disk = ", ".join(f"{found['checkpoint'][i] / 1000:.0f}" for i in (1, -1))
            rows.append([name, found["events"], found["requests"], *times, f"{memory:.1f}", disk])
    told = (
        "Two classes of digits come again and again; every tenth event is a request, and is measured again after 1, "
        "2, 4, 8 ... events (`evaluation.follow: geometric`; by default every event measures every earlier request, "
        "and late events take longer). Medians of the second and of the last tenth of a life: CPU milliseconds of "
        "what the strategy does and of the whole event, with evaluation and records; growth of the process in "
        "between, which is what is noted of every event; and size of the newest checkpoint. A life fails if one "
        "of the times, in units of a fixed calculation that is timed beside every event, grows by a quarter, the "
        "process by 4 MiB in 1,000 events, or the checkpoint by a tenth.\n\n"
    )
    heads = ["strategy", "events", "requests", "learning, ms", "forgetting, ms", "whole event: learning", "forgetting"]
    heads += ["process grows by, MiB", "checkpoint, kB"]
    return f"{told}{_table(heads, rows)}\n{_outcome(counts)}"


def _cheats() -> str:
    """Return the table of cheats; every test that it names must exist, and every cheat that is a file be named."""
    rows: list[list[object]] = []
    entries = yaml.safe_load((TESTS / "reliability" / "cheats.yaml").read_text(encoding="utf-8"))
    files = {f"attacks/cheats/{file.name}" for file in (TESTS / "attacks" / "cheats").glob("*.py")}
    if missing := files - {entry.get("file") for entry in entries}:
        raise SystemExit(f"tests/reliability/cheats.yaml does not name {', '.join(sorted(missing))}")
    for entry in entries:
        if "test" not in entry:
            rows.append([entry["cheat"], f"**{entry['caught']}**", ""])
            continue
        file, _, name = entry["test"].partition("::")
        if not re.search(rf"^def {name}\(", (TESTS / file).read_text(encoding="utf-8"), re.MULTILINE):
            raise SystemExit(f"tests/reliability/cheats.yaml names a test that does not exist: {entry['test']}")
        if "file" in entry and not (TESTS / entry["file"]).exists():
            raise SystemExit(f"tests/reliability/cheats.yaml names a file that does not exist: {entry['file']}")
        rows.append([entry["cheat"], entry["caught"], f"[`{name}`](../tests/{file})"])
    table = _table(["that ...", "is caught by", "test"], rows)
    return f"## Cheats, and what catches them\n\nSomebody, or something,\n\n{table}"


def _unseen() -> str:
    """Return how many bugs the tests noticed that were invented without reading them, by batch and area."""
    batches = json.loads((RESULTS / "unseen.json").read_text(encoding="utf-8"))
    parts = []
    for folder, batch in batches.items():
        rows: list[list[object]] = []
        for area, found in [*sorted(batch["areas"].items()), ("all", _sums(batch["areas"].values()))]:
            counted = found["planted"] - found["equal"]
            rows.append(
                [
                    area,
                    found["planted"],
                    found["equal"],
                    found["first"],
                    f"{found['first'] / counted:.0%}",
                    found["now"],
                ]
            )
        heads = ["area", "planted", "of these equal", "noticed at first", "share", "noticed now"]
        call = f"python tests/mutations/run.py --area {folder}"
        parts.append(f"{batch['told']}\n\n```bash\n{call}\n```\n\n{_table(heads, rows)}")
    told = (
        "Bugs that somebody invents who knows the tests are bugs that the tests notice. These were invented from the "
        "code alone, committed, and then planted one by one in copies of that commit, against the tests of what "
        "they change. The first share is the one to believe: how many bugs of tomorrow the tests of that day would "
        "notice. Afterwards tests were written for whole classes of them, and *now* only says that those hold. *Equal* "
        "are bugs that change no result, which only planting them has shown."
        "\n\n"
        "Metrics, reports, commands and the rest of `lifelong/` were the weakest. Since the sixth batch, records of "
        "them are held against whenever tests run, on every processor. `tests/golden/made_up.json`: runs of "
        "unusual shapes (no request, everything deleted, few evaluations, a number to be predicted, bad data) whose "
        "models answer what is made up from names and numbers, with every row, word and figure that comes of it. "
        "`commands.json`: the options of every command, and what a hundred commands say of small folders and of wrong "
        "input. `functions/`: what functions return where there is nothing, one value, a tie or NaN; calls are "
        "added in its text files. `python tests/golden/test_made_up.py NAME` and the like write them anew, and the "
        "difference is to be read."
    )
    return f"## Bugs that the tests had not seen\n\n{told}\n\n" + "\n".join([*parts, _weakest(batches.values())])


def _weakest(batches: Iterable[dict[str, Any]]) -> str:
    """Return what share was noticed at first in every area, over all batches."""
    by_area: dict[str, list[Counts]] = {}
    for batch in batches:
        for area, found in batch["areas"].items():
            by_area.setdefault(area, []).append(found)
    sums = {area: _sums(found) for area, found in by_area.items()}
    counted = {area: found["planted"] - found["equal"] for area, found in sums.items()}
    weakest = sorted(sums, key=lambda area: sums[area]["first"] / counted[area])
    rows: list[list[object]] = [
        [area, counted[area], sums[area]["first"], f"{sums[area]['first'] / counted[area]:.0%}"] for area in weakest
    ]
    told = "All batches together, the weakest area first; tests of one batch are there when the next one is planted."
    return f"{told}\n\n{_table(['area', 'bugs', 'noticed at first', 'share'], rows)}"


def _sums(counts: Iterable[Counts]) -> Counts:
    counts = list(counts)
    return {key: sum(found[key] for found in counts) for key in ("planted", "equal", "first", "now")}
