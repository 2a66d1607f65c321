"""Contact sheets of images that models drew: a row for a model, a column for a prompt, the same noise down a column."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import final

import numpy as np
from PIL import Image

from lifelong.report.facts import Facts
from lifelong.report.markup import quoted
from lifelong.report.matrix import kept_events
from lifelong.results.record import shown_files

COLUMNS = 8
"""Prompts of a sheet: so few that an image is 40 pixels wide on a telephone."""
EVENTS = 8
"""Sheets of a report."""
_CELL, _GAP = 40, 2  # pixels of an image at least, and around it
_DELETED, _GROUND = (213, 94, 0), (128, 128, 128)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Strip:
    """What one model drew.

    Attributes:
        label: who it is.
        pictures: uint8 ``[Q, C, H, W]``, the first image for each prompt.
        live: bool ``[Q]``, whether something of a prompt was learned and not deleted.
        asked, seen: the prompts, and what judges saw.
    """

    label: str
    pictures: np.ndarray
    live: np.ndarray
    asked: tuple[str, ...]
    seen: tuple[str, ...]


def described(facts: Facts) -> bool:
    """Return whether the run kept images."""
    return any(shown_files(facts.run.folder / "strategies" / name) for name in facts.run.tables)


def sheets(facts: Facts) -> str:
    """Return the sheets of a run as HTML: before the first request, after each, and at the end."""
    requests = {r.event: r.what for r in facts.requested}
    by_event = strips_by_event(facts)
    shown = sorted(by_event)
    events = [shown[number] for number in kept_events(len(shown), [], EVENTS)]
    return "".join(
        _sheet(f"After event {e}" + (f": {requests[e]}" if e in requests else ""), by_event[e]) for e in events
    )


def png(strip: Strip, columns: Sequence[int]) -> bytes:
    """Return some images of a strip beside each other as a PNG; those for deleted prompts have a frame."""
    height, width = strip.pictures.shape[2:]
    scale = max(1, -(-_CELL // width))
    cells = []
    for column in columns:
        image = strip.pictures[column].transpose(1, 2, 0)[:, :, :3]
        image = np.broadcast_to(image, (height, width, 3)).repeat(scale, 0).repeat(scale, 1)
        frame = _GROUND if strip.live[column] else _DELETED
        cell = np.empty((image.shape[0] + 2 * _GAP, image.shape[1] + 2 * _GAP, 3), dtype=np.uint8)
        cell[:] = frame
        cell[_GAP:-_GAP, _GAP:-_GAP] = image
        cells.append(cell)
    content = io.BytesIO()
    Image.fromarray(np.concatenate(cells, 1)).save(content, "PNG", optimize=True)
    return content.getvalue()


def columns_of(live: np.ndarray) -> list[int]:
    """Return which prompts are shown: deleted ones first, at most half of all, and both spread evenly.

    >>> columns_of(np.array([True] * 12 + [False] * 2))
    [12, 13, 0, 2, 4, 7, 9, 11]
    """
    gone, kept = np.flatnonzero(~live), np.flatnonzero(live)
    first = _spread(gone, max(COLUMNS // 2, COLUMNS - len(kept)))
    return [*first, *_spread(kept, COLUMNS - len(first))]


def _spread(places: np.ndarray, count: int) -> list[int]:
    if len(places) <= count:
        return places.tolist()
    return places[np.linspace(0, len(places) - 1, count).round().astype(int)].tolist()


def strips_by_event(facts: Facts) -> dict[int, list[Strip]]:
    """Return the rows of all sheets by event: references, each once, and strategies."""
    found: dict[int, list[Strip]] = {}
    for name in facts.run.tables:
        for event, files in shown_files(facts.run.folder / "strategies" / name).items():
            for model, file in files.items():
                found.setdefault(event, []).append(_read(file, name if model == "run" else f"{model}: {name}"))
    for event, strips in found.items():
        references = {s.pictures.tobytes(): s for s in reversed(strips) if ": " in s.label}
        alone = len({s.label.partition(": ")[0] for s in references.values()}) == len(references)
        named = [_renamed(s) if alone else s for s in reversed(references.values())]
        found[event] = [*named, *(s for s in strips if ": " not in s.label)]
    return dict(sorted(found.items()))


def _renamed(strip: Strip) -> Strip:
    return Strip(strip.label.partition(": ")[0], strip.pictures, strip.live, strip.asked, strip.seen)


def _read(file: Path, label: str) -> Strip:
    with np.load(file) as arrays:
        pictures = arrays["pictures"][:, 0]
        return Strip(label, pictures, arrays["live"], tuple(arrays["asked"]), tuple(arrays["seen"][:, 0]))


def _sheet(title: str, strips: list[Strip]) -> str:
    columns = columns_of(strips[0].live)
    rows = "".join(_row(strip, columns) for strip in strips)
    heads = "".join(
        f"<li>{escape(strips[0].asked[c])}{'' if strips[0].live[c] else ' <em>(deleted)</em>'}</li>" for c in columns
    )
    caption = (
        "Columns, from the left, are the prompts of the list; orange frames: all of that prompt is deleted. All images "
        "of a column begin at the same noise."
    )
    return (
        f'<h3>{escape(title)}</h3><figure class="sheet">{rows}<figcaption>{escape(caption)}</figcaption>'
        f"<ol>{heads}</ol></figure>"
    )


def _row(strip: Strip, columns: Sequence[int]) -> str:
    data = base64.b64encode(png(strip, columns)).decode()
    seen = "; ".join(f"{strip.asked[c]}: {strip.seen[c]}" for c in columns)
    alt = f"{strip.label}. Asked for, and what a judge sees: {seen}"
    return f'<p>{escape(strip.label)}</p><img src="data:image/png;base64,{data}" alt={quoted(alt)}>'


def rows_of_sheets(facts: Facts) -> Iterator[tuple[str, bytes]]:
    """Yield a name and a PNG of every row of every sheet, for export."""
    for event, strips in strips_by_event(facts).items():
        for strip in strips:
            name = re.sub(r"[^a-z0-9-]+", "-", strip.label.lower())
            yield f"images-{event:06d}-{name}", png(strip, columns_of(strip.live))
