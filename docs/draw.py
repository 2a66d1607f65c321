"""Draw the pictures of the documentation: the quickstart's stream, and what its report shows.

    python docs/draw.py

It runs quickstart (about 15 seconds, or nothing if the run is there) and writes ``docs/img/stream.svg`` and
``docs/img/result.svg``.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the code beside these pages, whichever is installed

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

import lifelong
from streams.events import DeletionRequest
from streams.stream import Stream

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "img"
BLUE, ORANGE, RED, GREY = "#0072B2", "#E69F00", "#D55E00", "#555555"
STYLE = {
    "svg.hashsalt": "lifelong",  # the same file every time
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
ACCUMULATE = {"replay-retrain": BLUE, "replay-ascent": RED, "naive-none": GREY}
FORGET = {"replay-none": GREY, "replay-finetune": ORANGE, "replay-ascent": RED, "replay-retrain": BLUE}
RETRAINED = "a model that never saw the data"


def told(event: DeletionRequest) -> str:
    """Return what a deletion request names, in two or three words."""
    if {r.scope for r in event.requests} == {"sample"}:
        return f"{len(event.sample_ids)} samples"
    return ", ".join(f"{r.scope} {', '.join(map(str, r.keys))}" for r in event.requests)


def stream_picture(stream: Stream) -> Figure:
    """Return the events as boxes in a row: what is learned, and what must go."""
    figure = Figure(figsize=(11, 1.9), facecolor="white")
    axes = figure.add_axes((0.01, 0.02, 0.98, 0.96))
    for index, event in enumerate(stream.events):
        if isinstance(event, DeletionRequest):
            head, what, colour = "forget", told(event), RED
        else:
            classes = sorted({c for unit in event.units for c in stream.units[unit].classes})
            head, what, colour = "learn", " and ".join(stream.source.class_names[c] for c in classes), BLUE
        box = FancyBboxPatch((index + 0.06, 0.34), 0.88, 0.5, boxstyle="round,pad=0,rounding_size=0.06", color=colour)
        axes.add_patch(box)
        axes.text(index + 0.5, 0.69, head, color="white", ha="center", va="center", weight="bold")
        axes.text(index + 0.5, 0.49, what, color="white", ha="center", va="center")
    last = len(stream.events)
    axes.annotate("", (last, 0.22), (0, 0.22), arrowprops={"arrowstyle": "->", "color": GREY})
    axes.text(
        last / 2, 0.05, "one stream, played to every strategy, measured after every event", ha="center", color=GREY
    )
    axes.set(xlim=(0, last), ylim=(0, 0.9))
    axes.set_axis_off()
    return figure


def result_picture(run: lifelong.Run, stream: Stream) -> Figure:
    """Return what is known over the stream, and what is known of deleted data right after its request."""
    figure = Figure(figsize=(11, 4.2), facecolor="white", layout="constrained")
    known, deleted = figure.subplots(1, 2)
    served = {event.name: (i, event) for i, event in enumerate(stream.events) if isinstance(event, DeletionRequest)}
    for name, colour in ACCUMULATE.items():
        rows = run.tables[name].select("average_accuracy", "stream")
        known.plot([r.event for r in rows], [r.value for r in rows], color=colour, marker="o", ms=5, label=name)
    for index, _ in served.values():
        known.axvline(index, color=GREY, ls=":", lw=1)
    known.set(
        title="What should be known", xlabel="event (dotted: a request)", ylabel="average accuracy", ylim=(0, 1.03)
    )
    known.legend(frameon=False, loc="lower left")
    for place, (name, colour) in enumerate(FORGET.items()):
        scores = [score_of(run, name, request, index) for request, (index, _) in served.items()]
        at = [number + (place - (len(FORGET) - 1) / 2) * 0.16 for number in range(len(served))]
        deleted.plot(at, scores, ls="none", color=colour, marker="o", ms=8, label=name)
    for number, (request, (index, _)) in enumerate(served.items()):
        level = score_of(run, "replay-retrain", request, index, "retrained")
        deleted.hlines(level, number - 0.4, number + 0.4, color="black", lw=1.5, label=None if number else RETRAINED)
    deleted.set(title="Deleted data, right after its request", ylabel="accuracy", ylim=(-0.03, 1.03))
    deleted.set_xticks(range(len(served)), [told(event) for _, event in served.values()])
    deleted.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, fontsize=10)
    return figure


def score_of(run: lifelong.Run, strategy: str, request: str, event: int, model: str = "run") -> float | None:
    """Return the score on the data of a request after an event."""
    return next(r.value for r in run.tables[strategy].select("forget_accuracy", request, model) if r.event == event)


def main() -> None:
    """Write both pictures."""
    run = lifelong.run("quickstart", ROOT / "runs", progress=True)
    stream = lifelong.stream_from_manifest(run.folder / "stream.json")
    IMAGES.mkdir(exist_ok=True)
    with mpl.rc_context(STYLE):
        for name, figure in (("stream", stream_picture(stream)), ("result", result_picture(run, stream))):
            figure.savefig(IMAGES / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
