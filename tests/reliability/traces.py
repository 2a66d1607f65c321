"""Traces: after `lifelong clean RUN --deleted` no file holds an input, text, feature or prediction of the deleted.

    python tests/reliability/traces.py --json tests/reliability/results/traces.json

Every strategy of the contract tests that can live on the stream lives in a run of its own, with everything kept, a
report and references, on random numbers under a linear model, under one with a layer, and on frozen features of them;
those of text live on invented words. Then all files of the run folder and of the cache are searched for the deleted
samples: inputs in five types of numbers, any 16 bytes in a row of them; tokens; words; features and distributions as
they were measured before and after the request. What is found before cleaning shows that the search can find; what is
found after is a failure.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import Counts, arguments, import_what_is_imported
from contract.candidates import Candidate, candidates, text_candidates

DELETED_CLASS, DELETED_USER = 1, "zorblyn"
WINDOW = 16
"""Bytes in a row that count as a piece of a sample: four numbers of float32."""
REFUSED = 2

STREAM: dict[str, Any] = {
    "scenario": {"name": "class-incremental", "experiences": 3},
    "schedule": {
        "name": "explicit",
        "requests": [
            {"after": 2, "scope": "class", "keys": [DELETED_CLASS]},
            {"after": 3, "scope": "sample", "count": 6},
        ],
    },
    "references": {"kinds": ["retrained", "original", "no-op"]},
    "recording": {"keep": "all"},
}
FIELDS = {"user": "user", "label": "user", "domain": "user", "vocabulary": 400}
WORDS = {
    DELETED_USER: ["Quaxxlebar", "Xyzzyplugh", "Vorbendash", "Mimblewim", "Trantulo", "Ophiquor"],
    "others": ["garden", "window", "kitchen", "street", "market", "station"],
}


def write_numbers(folder: Path) -> Path:
    draw = np.random.default_rng(0)
    y = np.arange(120) % 6
    x = draw.normal(size=(120, 12)).astype(np.float32)
    np.savez(folder / "private.npz", x=x, y=y, user=np.arange(120) // 6 % 5, test=np.arange(120) >= 96)
    return folder / "private.npz"


def write_texts(folder: Path) -> Path:
    rows = [
        {"question": f"What is behind door {number} of {user}?", "answer": word, "user": user}
        for user, words in WORDS.items()
        for number, word in enumerate(words)
    ]
    (folder / "private.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder / "private.json"


def config_of(kind: str, folder: Path, candidate: Candidate) -> dict[str, Any]:
    config = STREAM | {"name": "searched", "strategies": {"it": candidate.config.model_dump(exclude_unset=True)}}
    if kind == "text":
        config |= {
            "source": {"name": "questions", "files": [str(write_texts(folder))], **FIELDS},
            "scenario": {"name": "class-incremental", "experiences": 2},
            "objective": {"name": "causal-lm", "loss_on": "all"},
            "model": {"name": "tiny-llama", "width": 8, "inner": 8, "depth": 1, "heads": 2},
            "training": {"epochs": 1, "batch_size": 16, "lr": 0.05},
            "references": {"kinds": ["retrained", "no-op"]},
        }
        user = {"after": 2, "scope": "user", "keys": [DELETED_USER]}
        return config | {"schedule": {"name": "explicit", "requests": [user]}}
    if kind == "frozen features":
        config |= {"features": {"name": "mlp", "hidden": [16]}}
    return config | {
        "source": {"name": "arrays", "path": str(write_numbers(folder))},
        "model": {"name": "mlp", "hidden": [12] if kind == "a layer" else []},
        "training": {"epochs": 1, "batch_size": 16, "lr": 0.05},
    }


def needles(p: Any, folder: Path) -> dict[str, set[bytes]]:
    """What is searched for: bytes of everything that is known of the samples that are deleted at the end."""
    from strategies.step import ledger_after
    from streams.ledger import Ledger

    source, stream = p.stream.source, p.stream
    deleted = ledger_after(Ledger(source, stream.task_of), stream.events).deleted_ids
    found: dict[str, set[bytes]] = {"inputs": set(), "measured": set()}
    if source.x.is_floating_point():
        with np.load(p.config.source.options["path"]) as arrays:
            given = torch.from_numpy(arrays["x"])
        for x in (given, source.x):  # which may be features of them
            rows = x[torch.from_numpy(deleted.copy())]
            for kind in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
                found["inputs"] |= set(pieces(rows.to(kind).view(torch.uint8).numpy()))
    else:
        for row in source.x[torch.from_numpy(deleted.copy())][:, 0].numpy():
            for kind in (np.int16, np.int32, np.int64):
                found["inputs"].add(row[np.flatnonzero(row)].astype(kind).tobytes())  # more than eight bytes
        found["words"] = {word.encode() for word in WORDS[DELETED_USER]}
    for file in folder.rglob("details/event-*.npz"):
        ids = p.plan.ids[p.plan.detailed(int(file.stem.removeprefix("event-")))]
        gone = np.flatnonzero(np.isin(ids, deleted))
        with np.load(file) as arrays:
            for name in ("details/features", "details/probabilities"):
                if name in arrays and len(gone):
                    rows = np.ascontiguousarray(arrays[name][gone]).view(np.uint8)
                    found["measured"] |= set(pieces(rows.reshape(len(gone), -1)))
    for some in (found["inputs"], found["measured"]) if source.x.is_floating_point() else (found["measured"],):
        some -= {piece for piece in some if len(set(piece)) < 6}  # zeros of a ReLU are nobody's
    return found


def pieces(rows: np.ndarray) -> Iterator[bytes]:
    """Pieces of rows of bytes, so close that every longer part of a row holds one as it begins at a number."""
    for row in rows:
        content = row.tobytes()
        for start in range(0, len(content) - WINDOW + 1, 4):
            yield content[start : start + WINDOW]


def hits(roots: list[Path], wanted: dict[str, set[bytes]]) -> dict[str, set[str]]:
    """Files that hold a piece, by what it is a piece of."""
    begins = {
        what: np.array([int.from_bytes(piece[:8], "little") for piece in some], np.uint64)
        for what, some in wanted.items()
    }
    found: dict[str, set[str]] = {}
    for file in [f for root in roots for f in sorted(root.rglob("*")) if f.is_file()]:
        content = file.read_bytes()
        for what, some in wanted.items():
            if any(piece in some for piece in _suspects(content, begins[what], {len(piece) for piece in some})):
                found.setdefault(what, set()).add(f"{file.parent.name}/{file.name}")
    return found


def _suspects(content: bytes, begins: np.ndarray, lengths: set[int]) -> Iterator[bytes]:
    """Parts of a file that begin with the eight bytes that a piece begins with."""
    for offset in range(min(8, max(len(content) - 7, 0))):
        numbers = np.frombuffer(content, "<u8", (len(content) - offset) // 8, offset)
        for place in np.flatnonzero(np.isin(numbers, begins)).tolist():
            start = offset + 8 * place
            yield from (content[start : start + length] for length in lengths)


def blanked(p: Any, folder: Path) -> bool:
    """Whether scores and losses of all that is deleted are gone."""
    from strategies.step import ledger_after
    from streams.ledger import Ledger

    deleted = ledger_after(Ledger(p.stream.source, p.stream.task_of), p.stream.events).deleted_ids
    columns = np.isin(p.plan.ids, deleted)
    files = [f for name in ("scores.bin", "losses.bin") for f in folder.rglob(name)]
    values = [np.fromfile(f, "<f4").reshape(-1, len(columns)) for f in files]
    return len(files) == 2 and all(np.isnan(v[:, columns]).all() and not np.isnan(v[:, ~columns]).any() for v in values)


def look(kind: str, candidate: Candidate, root: Path) -> None:
    """What a child does: run, search, clean, search again, and write down what was found."""
    import lifelong
    from cli.main import main
    from lifelong.report.html import write_report
    from lifelong.setup.preparation import prepare
    from streams.config import parse
    from streams.errors import ConfigError

    os.environ["LIFELONG_CACHE"] = str(root / "cache")
    data = root / "data"
    data.mkdir()
    try:
        p = prepare(parse(lifelong.RunConfig, config_of(kind, data, candidate)))
    except ConfigError as error:
        print(error)
        sys.exit(REFUSED)
    run = lifelong.run(p.config, root / "runs")
    write_report(run)
    wanted, places = needles(p, run.folder), [root / "runs", root / "cache"]
    before = hits(places, wanted)
    sys.argv = ["lifelong", "clean", str(run.folder), "--deleted"]
    main_returned = True
    try:
        main()
    except SystemExit as stopped:
        main_returned = not stopped.code
    after = hits(places, wanted)
    rows = lifelong.load_run(run.folder).tables["it"].rows == run.tables["it"].rows
    found = {
        "before": {what: sorted(files) for what, files in before.items()},
        "after": {what: sorted(files) for what, files in after.items()},
        "pieces": sum(map(len, wanted.values())),
        "cleaned": main_returned and rows and blanked(p, run.folder),
    }
    (root / "found.json").write_text(json.dumps(found))


def main() -> int:
    parser = arguments(__doc__, minutes=60)
    parser.add_argument("--lives", type=int, default=8, help="of all calls together; there are some 550")
    options = parser.parse_args()
    counts = Counts(options.json, options.minutes)

    import cli.main  # noqa: F401
    import lifelong.report.html
    import lifelong.setup.preparation  # noqa: F401  (once, for all children)

    torch.set_num_threads(1)
    lives = [(kind, c) for kind in ("linear", "a layer", "frozen features") for c in candidates()]
    lives += [("text", c) for c in text_candidates()]
    lives.sort(key=lambda life: hash_of(f"{options.seed}/{life[0]}/{life[1].name}"))  # so that a few are a sample
    for kind, candidate in lives[counts.get("lives") : options.lives]:
        if not counts.time_left:
            break
        where = f"{candidate.name} ({kind})"
        root = Path(tempfile.mkdtemp(prefix="traces-"))
        code = import_what_is_imported(lambda k=kind, c=candidate, r=root: look(k, c, r), root / "log")
        counts.add(1, "lives")
        if code == REFUSED:
            counts.add(1, "kinds", kind, "refused")
        elif code:
            counts.fail(f"{where}: {(root / 'log').read_text()[-1500:]}")
        else:
            found = json.loads((root / "found.json").read_text())
            counts.add(1, "kinds", kind, "searched")
            counts.add(found["pieces"], "kinds", kind, "pieces")
            counts.add(any(found["before"].values()), "kinds", kind, "found before cleaning")
            counts.add(any(found["after"].values()), "kinds", kind, "found after cleaning")
            if any(found["after"].values()) or not found["cleaned"]:
                counts.fail(f"{where}: cleaned {found['cleaned']}, and after it {found['after']}")
        shutil.rmtree(root)
        counts.save()
    return counts.close()


def hash_of(name: str) -> bytes:
    import hashlib

    return hashlib.blake2b(name.encode()).digest()


if __name__ == "__main__":
    sys.exit(main())
