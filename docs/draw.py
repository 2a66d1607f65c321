"""Draw the pictures of the documentation: the quickstart's stream, what its report shows, and what the words mean.

    python docs/draw.py

It runs quickstart (about 15 seconds, or nothing if the run is there) and writes ``stream.svg``, ``result.svg`` and
``concepts.svg`` in ``docs/img``.
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
TASKS = (BLUE, "#00795a", "#8a5ca8")
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


def concepts_picture() -> Figure:
    """Return a small source, its units, a stream made of it, and what is held after every event.

    There are six classes of six samples each, the last two of each for testing. Experiences teach two classes; the
    requests name two samples, a class, and a user who has samples of four classes.
    """
    figure = Figure(figsize=(11, 5.2), facecolor="white")
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    everything = [(kind, number) for kind in range(6) for number in range(6)]
    trained = {sample for sample in everything if sample[1] < 4}
    of_user = {(0, 2), (1, 0), (2, 1), (3, 3)}
    lessons = [{s for s in trained if s[0] // 2 == task} for task in range(3)]
    events = [
        ("experience-0", "learn", lessons[0]),
        ("request-0", "forget 2 samples", {(0, 1), (1, 2)}),
        ("experience-1", "learn", lessons[1]),
        ("request-1", "forget class 3", {s for s in trained if s[0] == 3}),
        ("request-2", "forget user 7", of_user - {(3, 3)}),
        ("experience-2", "learn", lessons[2]),
    ]

    squares: list[tuple[float, float, str, str]] = []

    def square(x: float, y: float, sample: tuple[int, int], size: float, gone: bool = False) -> None:
        kind, number = sample
        colour = TASKS[kind // 2]
        face = "white" if number >= 4 or gone else colour
        edge = "#bbbbbb" if gone else colour
        squares.append((x + size / 2, y + size / 2, face, edge))
        ink = "#999999" if gone else colour if number >= 4 else "white"
        text = "×" if gone else str(kind)
        axes.text(x + size / 2, y + size / 2 - 0.01, text, color=ink, ha="center", va="center", fontsize=9, zorder=3)
        if sample in of_user and not gone:
            axes.plot(x + size - 0.04, y + size - 0.03, "o", ms=4, mfc="white", mec="black", mew=0.8, zorder=4)

    def told(y: float, word: str, *lines: str) -> None:
        axes.text(0.0, y, word, weight="bold", va="top", fontsize=12)
        axes.text(0.0, y - 0.26, "\n".join(lines), va="top", fontsize=9.5, color=GREY, linespacing=1.35)

    told(5.2, "Source", "all samples; each has a number,", "a class (digit) and a user (dot: user 7)")
    told(4.35, "Units", "what scores are reported for,", "on test samples (open squares)")
    for kind, number in everything:
        square(2.9 + kind * 1.32 + (kind // 2) * 0.12 + number * 0.2, 4.9, (kind, number), 0.18)
    for task in range(3):
        left = 2.9 + task * 2.76
        axes.plot([left, left, left + 2.5, left + 2.5], [4.4, 4.32, 4.32, 4.4], color=TASKS[task], lw=2)
        name = f"task-{task}: classes {2 * task} and {2 * task + 1}"
        axes.text(left + 1.25, 4.25, name, ha="center", va="top", color=TASKS[task])
    told(
        3.45, "Stream", "experiences teach training samples;", "requests name what must go:", "samples, a class, a user"
    )
    told(1.65, "Held after each event", "what a retrained model would be", "trained on (crosses: deleted)")
    held: set[tuple[int, int]] = set()
    deleted: set[tuple[int, int]] = set()
    for index, (name, what, samples) in enumerate(events):
        left, asks = 2.9 + index * 1.38, what != "learn"
        colour = RED if asks else BLUE
        box = FancyBboxPatch((left, 2.2), 1.24, 1.35, boxstyle="round,pad=0,rounding_size=0.08", fc="white", ec=colour)
        axes.add_patch(box)
        axes.text(left + 0.62, 3.43, name, ha="center", va="top", weight="bold", color=colour, fontsize=10)
        axes.text(left + 0.62, 3.16, what, ha="center", va="top", color=colour, fontsize=9.5)
        for place, sample in enumerate(sorted(samples)):
            square(left + 0.2 + place % 4 * 0.22, 2.62 - place // 4 * 0.22, sample, 0.2)
        held = held - samples if asks else held | samples
        deleted = deleted | samples if asks else deleted
        for place, sample in enumerate(sorted(held | deleted)):
            square(left + 0.2 + place % 4 * 0.22, 1.45 - place // 4 * 0.22, sample, 0.2, gone=sample in deleted)
    x, y, faces, edges = zip(*squares, strict=True)
    axes.scatter(x, y, s=165, marker="s", c=faces, edgecolors=edges, zorder=2)
    axes.annotate("", (11.2, 2.0), (2.9, 2.0), arrowprops={"arrowstyle": "->", "color": GREY})
    axes.text(11.15, 1.9, "time", ha="right", va="top", color=GREY)
    axes.set(xlim=(0, 11.3), ylim=(0.2, 5.3))
    axes.set_axis_off()
    return figure


def score_of(run: lifelong.Run, strategy: str, request: str, event: int, model: str = "run") -> float | None:
    """Return the score on the data of a request after an event."""
    return next(r.value for r in run.tables[strategy].select("forget_accuracy", request, model) if r.event == event)


def main() -> None:
    """Write the pictures."""
    run = lifelong.run("quickstart", ROOT / "runs", progress=True)
    stream = lifelong.stream_from_manifest(run.folder / "stream.json")
    IMAGES.mkdir(exist_ok=True)
    with mpl.rc_context(STYLE):
        pictures = {
            "stream": stream_picture(stream),
            "result": result_picture(run, stream),
            "concepts": concepts_picture(),
        }
        for name, figure in pictures.items():
            figure.savefig(IMAGES / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
