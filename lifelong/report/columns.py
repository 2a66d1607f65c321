"""The columns of the table that a run ends with, and how their numbers are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["score", "gap", "distance", "share", "count", "bytes"]
Better = Literal["higher", "lower", "zero"]

MARK = "\u2020"
"""Stands after a number that tells nothing, where it cannot be greyed out."""
_NOTHING = (
    "says nothing about unlearning here: in this number doing nothing is no farther from retraining than a second "
    "retraining is."
)
FOOTNOTE, GREY = f"{MARK} {_NOTHING}", f"A number in grey italics {_NOTHING}"
"""What the mark means, and the same where cells are grey."""


@dataclass(frozen=True, slots=True)
class Column:
    """What one column says.

    Attributes:
        key: its name in JSON.
        title: its head in tables.
        kind: how its numbers are written.
        meaning: one sentence.
        of: the number of a request that it is made of, by which `Yardstick` tells whether it says anything.
        better: in which direction, or what is ideal; None where that depends on the reference.
    """

    key: str
    title: str
    kind: Kind
    meaning: str
    of: str | None = None
    better: Better | None = None

    @property
    def explained(self) -> str:
        """The meaning, with the direction in which numbers are better."""
        direction = {"higher": " (higher is better)", "lower": " (lower is better)", "zero": " (0 is ideal)"}
        return self.meaning + ("" if self.better is None else direction[self.better])


@dataclass(frozen=True, slots=True)
class Cell:
    """One number, or None and the reason why there is none.

    Attributes:
        value: the number.
        n: what it rests on.
        reason: why there is none.
        grey: why the number carries no information, where that is so; it is shown greyed out.
    """

    value: float | None
    n: int = 0
    reason: str | None = None
    grey: str | None = None


def columns(measure: str) -> tuple[Column, ...]:
    """Return the columns for a score of that name."""
    score, forget = measure.replace("_", " "), f"forget_{measure}"
    return (
        Column(
            f"average_{measure}",
            f"average {score}",
            "score",
            f"mean {score} over the units held at the end",
            better="higher",
        ),
        Column(
            "forgetting_from_first",
            "forgetting",
            "gap",
            "mean fall since each held unit was first learned",
            better="lower",
        ),
        Column(
            f"retain_{measure}",
            f"retained {score}",
            "score",
            f"{score} on training data that is not deleted, right after each request",
            better="higher",
        ),
        Column(
            forget,
            f"forget {score}",
            "score",
            f"{score} on deleted data, right after its request; ideal is the retrained reference's",
            forget,
        ),
        Column(
            f"abs_gap_{forget}",
            "forget gap",
            "distance",
            "its distance to the retrained reference's, mean over requests",
            forget,
            "zero",
        ),
        Column(
            "js", "JS to retrained", "distance", "Jensen-Shannon divergence from it on that data, in bits", "js", "zero"
        ),
        Column(
            "abs_gap_membership_auc",
            "MIA gap",
            "distance",
            "distance of a membership attack's AUC to the reference's, mean over requests",
            "membership_auc",
            "zero",
        ),
        Column(
            "abs_relapse",
            "relapse",
            "distance",
            "how far deleted data came back, or faded, until the end, other than in the reference",
            "relapse",
            "zero",
        ),
        Column(
            "collateral_mean",
            "collateral",
            "distance",
            f"mean change of other units' {score} through a request",
            better="zero",
        ),
        Column("exact", "exact", "share", "share of the requests that were served exactly", better="higher"),
        Column(
            "weights_erased",
            "weights erased",
            "share",
            "share of the requests that changed the weights; with 0 % what was learned stays in the weights",
            better="higher",
        ),
        Column("request_steps", "request steps", "count", "optimizer steps spent on requests", better="lower"),
        Column("state_bytes", "state", "bytes", "size of what the strategy keeps", better="lower"),
    )


REMARK = (
    "remark",
    "no effect: on deleted data no farther from doing nothing than one retraining is from another; collapsed: answers "
    "are (nearly) constant, or at chance on retained data, where retraining's are not; as NAME: every score of every "
    "event is that of the strategy NAME, to the last bit",
)
"""Head and meaning of the column of words."""


def shown(cell: Cell, kind: Kind) -> str:
    """Return a cell as text; an undefined one is a dash.

    >>> shown(Cell(0.03125), "gap"), shown(Cell(None), "score"), shown(Cell(73640), "bytes")
    ('+0.031', '-', '73.6 kB')
    """
    if cell.value is None:
        return "-"
    match kind:
        case "gap":
            return f"{cell.value:+.3f}"
        case "share":
            return f"{cell.value:.0%}"
        case "count":
            return f"{cell.value:,.0f}"
        case "bytes":
            return _bytes(cell.value)
        case _:
            return f"{cell.value:.3f}"


def marked(text: str, grey: str | None) -> str:
    """Return the text of a cell with the mark of those that tell nothing.

    >>> marked("0.021", None), marked("0.021", "why") == "0.021" + MARK
    ('0.021', True)
    """
    return text + MARK if grey and text != "-" else text


def _bytes(value: float) -> str:
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
