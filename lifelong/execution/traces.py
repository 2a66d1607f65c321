"""What a run has left of its samples on disk: which files derive from one, and how to remove them."""

from __future__ import annotations

import glob
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lifelong.execution.manifest import open_folder
from lifelong.execution.process import lock
from lifelong.files import cache_folder, write_atomically
from lifelong.processes.settings import torch_settings
from lifelong.references.comparison import reference_files
from lifelong.references.shadows import shadow_files
from lifelong.results.integrity import check_finished, mark_of, read_json, with_digest
from lifelong.results.record import DRAWS, SHOWN, read_checkpoint
from lifelong.results.stored import FILES, blanked
from lifelong.results.table import read_rows
from lifelong.setup.instruments import Instruments, make_instruments
from lifelong.setup.preparation import Prepared, prepare
from strategies.step import ledger_after, restore
from streams.errors import ConfigError
from streams.events import DeletionRequest, Event, Experience
from streams.files import halves, is_sound_zip
from streams.ledger import Ledger
from streams.text import kept_form
from streams.timeline import admitted

CACHED = ("references", "features", "images", "judges", "lives", "tokenizers", "selections")
"""Folders of the cache whose content was made of the data of runs; everything in them can be made again."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A file that derives from a sample, and what of the sample is in it."""

    file: Path
    holds: str


def traces(folder: Path | str, sample: int, trust: bool = False) -> list[Trace]:
    """Return the files that derive from a sample: of a run, and those of the cache that the run shares.

    Not among them are the data itself, and what was copied, exported or sent to other places.

    Args:
        folder: of the run.
        sample: its id, the row in the source.
        trust: see `lifelong.resume`.

    Raises:
        ConfigError: there is no such sample.
        CheckpointError: there is no run, or it was made by another version of the code.
        TrustError: it names files that may not run.
    """
    folder = Path(folder).resolve()
    p, instruments = _opened(folder, trust)
    if not 0 <= sample < len(p.stream.source):
        raise ConfigError(f"--sample {sample}: the source has the samples 0 to {len(p.stream.source) - 1}.")
    evaluated = sample in p.plan.ids
    learned = _is_learned(p.stream.events, sample)
    found: list[Trace] = []
    for name in p.config.strategies:
        found += _of_life(p, name, folder / "strategies" / name, sample, evaluated, learned)
    found += _of_run(p, folder, sample, evaluated or learned)
    for file, event in _cached_lives(p, instruments).items():
        if evaluated:
            more = ", features and predicted distribution" if _in_detail(p, event, sample) else ""
            found.append(Trace(file, f"score and loss{more} of a reference; sealed by the samples themselves"))
    for file in _prepared_files(p):
        found.append(Trace(file, "made of all samples of the source"))
    for file, ids in _selections(p).items():
        among = "it is one of them" if sample in ids else "it is none of them"
        found.append(Trace(file, f"which samples a model chose for a request: {among}"))
    return [trace for trace in found if trace.file.exists()]


def clean_run(folder: Path | str, deleted: bool = False, trust: bool = False, dry_run: bool = False) -> list[Path]:
    """Remove details of a run, and what the cache holds for it.

    Args:
        folder: of the run; of strategies that are not done the details stay, since the run could not go on.
        deleted: also blank the scores and losses of the samples that are deleted at the end (NaN in scores.bin and
            losses.bin).
        trust: see `lifelong.resume`.
        dry_run: change nothing.

    Returns:
        The files that are removed or blanked.

    Raises:
        CheckpointError: there is no run, or it was made by another version of the code, or edited.
        TrustError: it names files that may not run.
    """
    folder = Path(folder).resolve()
    p, instruments = _opened(folder, trust)
    changed: list[Path] = []
    with lock(folder):
        for name in p.config.strategies:
            life = folder / "strategies" / name
            if (life / "done.json").exists():
                changed += _removed(
                    [f for part in ("details", SHOWN) for f in sorted((life / part).glob("*"))], dry_run
                )
                changed += _blanked(p, life, dry_run) if deleted else []
    return changed + _removed([*_cached_lives(p, instruments), *_prepared_files(p), *_selections(p)], dry_run)


def clean_cache(days: float, dry_run: bool = False) -> list[Path]:
    """Remove what was made of data and written to the cache more than `days` ago; return the files."""
    oldest = time.time() - days * 86_400
    files = [f for name in CACHED for f in sorted((cache_folder() / name).glob("*")) if f.is_file()]
    return _removed([f for f in files if f.stat().st_mtime < oldest], dry_run)


def _opened(folder: Path, trust: bool) -> tuple[Prepared, Instruments]:
    p = prepare(open_folder(folder, trust))
    return p, make_instruments(p.config.evaluation, p.stream, p.plan, p.setting, p.config.device)


def _of_life(p: Prepared, name: str, life: Path, sample: int, evaluated: bool, learned: bool) -> Iterator[Trace]:
    for file in sorted((life / "checkpoints").glob("event-*.pt")):
        if (why := _in_state(p, name, file, sample)) is not None:
            for part in (file, *sorted((file.parent / "pieces").glob("*.pt"))):
                yield Trace(part, why)
    for file in sorted((life / "checkpoints" / "within").glob("event-*/*.pt")):
        until = int(file.parent.name.removeprefix("event-"))
        if _is_learned(p.stream.events[:until], sample):
            yield Trace(file, "where training stood that was interrupted; it has learned it, then or before")
    if learned:
        for file in sorted((life / "checkpoints" / "references").rglob("*.pt")):
            yield Trace(file, "where a reference stood that was interrupted; it may have learned it")
    if evaluated:
        for name_of_file, number in (("scores.bin", "score"), ("losses.bin", "loss")):
            yield Trace(life / name_of_file, f"its {number} after every evaluation")
        for file in sorted((life / "details").glob("event-*.npz")):
            if _in_detail(p, int(file.stem.removeprefix("event-")), sample):
                yield Trace(file, "its features and predicted distribution")
    if learned:
        for file in sorted((life / SHOWN).glob("event-*.npz")):
            yield Trace(file, "images that models drew, of which it may be one")
        for file in sorted((life / DRAWS).glob("event-*.csv")):
            if any(line.split(",")[0] == str(sample) for line in file.read_text(encoding="utf-8").splitlines()):
                yield Trace(file, "that it was drawn to train on; no content")
    if evaluated or learned:
        for table in ("results.jsonl", "columns.bin"):
            yield Trace(life / table, "numbers of models and of sets of samples, in which it counts")


def _is_learned(events: Sequence[Event], sample: int) -> bool:
    """Return whether an experience has taught a sample; what a request had barred before was never read."""
    return any(isinstance(e, Experience) and sample in e.sample_ids for e in admitted(events))


def _of_run(p: Prepared, folder: Path, sample: int, counts: bool) -> Iterator[Trace]:
    """Yield what lies beside the strategies: pages, what was made for W&B, and models that were exported here."""
    if counts:
        for name in ("report.html", "certificate.json"):
            yield Trace(folder / name, "numbers of models and of sets of samples, in which it counts")
        for place in (folder / "wandb", *(folder / "strategies" / name / "wandb" for name in p.config.strategies)):
            yield Trace(place, "what is for Weights & Biases: such numbers, and the ids that requests name")
    for about in sorted((folder / "models").glob("*/lifelong.json")):
        told = read_json(about, "Export the model again.")
        life = folder / "strategies" / str(told["strategy"])
        if (why := _in_weights(p, life, p.stream.events[: int(told["event"]) + 1], sample)) is not None:
            yield Trace(about.parent, f"an exported model; {why}")


def _in_weights(p: Prepared, life: Path, events: tuple[Event, ...], sample: int) -> str | None:
    """Return what weights have of a sample after some events of a life, or None if they have nothing of it."""
    if not _is_learned(events, sample):
        return None
    if sample not in ledger_after(Ledger(p.stream.source, p.stream.task_of, p.config.device), events).deleted_ids:
        return "it has learned it"
    request = [e.name for e in events if isinstance(e, DeletionRequest) and sample in e.sample_ids][-1]
    exact = any(
        r.value == 1.0
        for r in read_rows(life / "results.jsonl", ("exact",))
        if r.model == "run" and r.subject == request
    )
    return None if exact else f"deleted by {request}, without a claim that this was exact"


def _in_state(p: Prepared, name: str, file: Path, sample: int) -> str | None:
    """Return what a checkpoint has of a sample, or None if it has nothing of it."""
    checkpoint = read_checkpoint(file, p.config.device)
    events = p.stream.events[: checkpoint.event + 1]
    if not _is_learned(events, sample):
        return None
    ledger = ledger_after(Ledger(p.stream.source, p.stream.task_of, p.config.device), events)
    if sample not in ledger.deleted_ids:
        return "the state of a strategy that has learned it"
    with torch_settings(p.config):
        strategy = p.strategies.build(name)
        restore(strategy, checkpoint.state, ledger)
    held = strategy.holds(np.array([sample]))
    if held:
        return f"deleted, but still in: {', '.join(held)}"
    return _in_weights(p, file.parents[1], events, sample)


def _in_detail(p: Prepared, event: int, sample: int) -> bool:
    return sample in p.plan.ids[p.plan.detailed(event)]


def _cached_lives(p: Prepared, instruments: Instruments) -> dict[Path, int]:
    """Return where references and shadow lives of a run are kept, with the events of references; shadows have -1."""
    files: dict[Path, int] = {}
    for name in p.config.strategies:
        files |= dict.fromkeys(shadow_files(p, name, instruments.evaluator), -1)
        files |= reference_files(p, name, instruments)
    return files


def _prepared_files(p: Prepared) -> list[Path]:
    """Return what was made of all data: decoded images, features of sources of that name, the tokeniser of the rows."""
    files = [] if p.stream.source.cached is None else [p.stream.source.cached]
    if p.config.features is not None:
        source, folder = p.stream.source.name.removesuffix(f"@{p.config.features.name}"), cache_folder() / "features"
        pattern = f"{source}-{p.config.features.name}-*.npz"
        files += [*sorted(folder.glob(pattern)), *halves(folder, pattern)]
    source, folder = p.stream.source.name, cache_folder() / "judges"
    files += [*sorted(folder.glob(f"{source}-*.pt")), *halves(folder, f"{source}-*.pt")]
    text, folder = p.stream.source.text, cache_folder() / "tokenizers"
    if text is not None and text.tokenizer.of_rows:
        content = kept_form(text.tokenizer)
        files += [file for file in sorted(folder.glob("*.json")) if file.read_bytes() == content]
        files += halves(folder, "*.json")
    return files


def _selections(p: Prepared) -> dict[Path, np.ndarray]:
    """Return files of the cache, and the ids in them, that name samples that a model chose for a request of the run.

    A file is known by its ids, all of one request. That of another run which chose as well goes with it.
    """
    found: dict[Path, np.ndarray] = {}
    for file in sorted((cache_folder() / "selections").glob("*.npz")):
        if is_sound_zip(file):
            with np.load(file, allow_pickle=False) as kept:
                ids = kept["ids"]
            if any(np.isin(ids, request.sample_ids).all() for request in p.stream.requests):
                found[file] = ids
    return found


def _removed(files: list[Path], dry_run: bool) -> list[Path]:
    """Remove files, and what processes left of them that were killed while they wrote them; return what there was."""
    left = [half for file in files for half in halves(file.parent, glob.escape(file.name))]
    there = [file for file in dict.fromkeys([*files, *left]) if file.exists()]
    if not dry_run:
        for file in there:
            file.unlink()
    return there


def _blanked(p: Prepared, life: Path, dry_run: bool) -> list[Path]:
    """Put NaN where scores and losses of deleted samples were, and bring ``done.json`` up to date."""
    summary = read_json(life / "done.json", "Run again with --fresh.")
    check_finished(life, summary)
    ledger = ledger_after(Ledger(p.stream.source, p.stream.task_of, p.config.device), p.stream.events)
    columns = np.flatnonzero(np.isin(p.plan.ids, ledger.deleted_ids))
    files = [life / name for name in FILES if (life / name).exists() and len(columns)]
    if dry_run or not files:
        return files
    marks = summary["files"]
    for file in files:
        write_atomically(file, blanked(file, p.plan, columns))
        marks[file.name] = mark_of(file)
    rest = {key: value for key, value in summary.items() if key not in ("files", "digest")}
    write_atomically(life / "done.json", with_digest(rest | {"blanked": True, "files": marks}))
    return files
