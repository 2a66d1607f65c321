"""A table as plain text; what prints it need not import anything else."""

from __future__ import annotations

from collections.abc import Sequence


class Dim(str):
    """Text of a cell that says little; it is dimmed where the terminal can."""

    __slots__ = ()


def aligned(heads: Sequence[str], rows: Sequence[Sequence[str]], title: str = "", numbers: bool = False) -> str:
    """Return a table as plain text, its columns two spaces apart.

    >>> print(aligned(["a", "n"], [["x", "1"], ["yy", "10"]], "t", numbers=True))
    t
    a    n
    x    1
    yy  10
    """
    lines = [list(heads), *(list(r) for r in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    text = [
        "  ".join(
            c.rjust(w) if numbers and i else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([*([title] if title else []), *text])
