r"""Runs and studies as LaTeX tables (booktabs), to be read into a paper by ``\input``.

A mean and its interval are written as ``\withinterval{mean}{low}{high}``. The file defines the macro only where the
paper has not, so that one line in the preamble sets all of them otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from lifelong.execution.manifest import read_manifest
from lifelong.execution.runner import Run
from lifelong.report import study_tables
from lifelong.report.columns import MARK
from lifelong.report.lives import Lives
from lifelong.report.study import command
from lifelong.report.study_tables import Grid
from lifelong.study.declaration import added

_ESCAPES = str.maketrans(
    {c: rf"\{c}" for c in "&%$#_{}"}
    | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "[": "{[}",  # at the start of a row it would be read as an option of the row before
        "]": "{]}",
        "*": "{*}",  # the same
        "\n": " ",
        MARK: r"$^{\dagger}$",
    }
)
_NUMBER = r"[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?:%| [kMG]?B)?"
_ALONE = re.compile(rf"{_NUMBER}{MARK}?")
_INTERVAL = re.compile(rf"({_NUMBER}) \[({_NUMBER}), ({_NUMBER})\]{MARK}?")
_POWER = re.compile(r"e([+-]?)0*(\d+)")

# Widths in characters of \footnotesize, of which the text of an article in one column holds about 80.
_LINE, _GAP, _LONG = 80, 2, 18
_TINY = 0.65

_MACRO = r"""\providecommand{\withinterval}[3]{%
  \begin{tabular}[t]{@{}r@{}}#1\\[-2pt]{\tiny[#2, #3]}\end{tabular}}"""


def run_latex(run: Run) -> str:
    """Return the results of a run as a table."""
    digests = ", ".join(f"{name} {digest}" for name, digest in read_manifest(run.folder)["digests"].items())
    unfinished = "" if run.done else " The run is not finished; the table shows what is there."
    about = [f"Run {run.config.name}, seed {run.config.seed}. Digests: {digests}."]
    return _file(about, [table(study_tables.of_run(run), f"{run.config.name}-results", unfinished)])


def study_latex(lives: Lives) -> str:
    """Return verdicts, comparisons, variances and results of a study, each as a table."""
    study, name = lives.study, lives.study.config.name
    code = ", ".join(sorted({str(m["code"]) for m in lives.manifests})) or "none has run"
    about = [f"Study {name}: {command(study)}", f"Identity {study.identity}, code {code}."]
    about += [f"Intervals of verdicts and comparisons: {study.rule.interval}. {added(study.looked_before)}"]
    missing = len(lives.unfinished)
    unfinished = f" Not finished: {missing} of {len(study.jobs)} runs are missing." if missing else ""
    grids = {
        "validity": study_tables.validity(lives),
        "verdicts": study_tables.verdicts(lives),
        "comparisons": study_tables.comparisons(lives),
        "variances": study_tables.components(lives),
    }
    tables = [table(grid, f"{name}-{key}", unfinished) for key, grid in grids.items() if grid.num_rows]
    for number, point in enumerate(lives.points):
        place, where = (f"-{number}", f" Here {point.label}.") if point.label else ("", "")
        tables.append(table(study_tables.results(point), f"{name}-results{place}", where + unfinished))
    return _file(about, tables)


def table(grid: Grid, label: str, more: str) -> str:
    """Return a table environment; what is too wide for a page stands in several blocks of columns.

    Args:
        grid: what is in it.
        label: made into one of LaTeX; ``tab:`` stands before it.
        more: goes to the caption.
    """
    rows = [row for _, group in grid.groups for row in group]
    meanings = [f"% {head}: {' '.join(meaning.split())}" for head, meaning in grid.heads if meaning]
    parts = [_tabular(grid, columns, rows) for columns in _blocks(grid, rows)]
    return "\n".join(
        [
            *meanings,
            r"\begin{table}",
            r"\centering\footnotesize",
            rf"\caption{{{escaped(' '.join(filter(None, (grid.caption + more, grid.footnote))))}}}",
            rf"\label{{tab:{re.sub('[^a-z0-9]+', '-', label.lower())}}}",
            "\n\\par\\medskip\n".join(parts),
            r"\end{table}",
        ]
    )


def escaped(text: str) -> str:
    r"""Return text in which nothing is a command.

    >>> escaped("50 % of a_b < {c}")
    '50 \\% of a\\_b \\textless{} \\{c\\}'
    """
    return text.translate(_ESCAPES)


def _file(about: Sequence[str], tables: Sequence[str]) -> str:
    head = [*about, r"Needs \usepackage{booktabs} in the preamble. Letters beyond ASCII: as your LaTeX has them."]
    comments = "\n".join(f"% {' '.join(line.split())}" for line in head)
    return "\n\n".join([comments, _MACRO, *tables]) + "\n"


def _blocks(grid: Grid, rows: Sequence[Sequence[str]]) -> Iterator[list[int]]:
    """Yield columns that fit on a line together; the first, which names the row, is in every block."""
    widths = [_width(head, [row[k] for row in rows]) + _GAP for k, (head, _) in enumerate(grid.heads)]
    block, total = [0], widths[0]
    for column in range(1, len(widths)):
        if not any(row[column] for row in rows):
            continue
        if total + widths[column] > _LINE and len(block) > 1:
            yield block
            block, total = [0], widths[0]
        block.append(column)
        total += widths[column]
    yield block


def _tabular(grid: Grid, columns: Sequence[int], rows: Sequence[Sequence[str]]) -> str:
    kinds = {k: _kind([row[k] for row in rows], first=k == 0) for k in columns}
    heads = " & ".join(_head(grid.heads[k][0], kinds[k]) for k in columns)
    lines = [rf"\begin{{tabular}}{{@{{}}{''.join(kinds.values())}@{{}}}}", r"\toprule", rf"{heads} \\"]
    for title, group in grid.groups:
        lines.append(r"\midrule")
        if title:
            lines.append(rf"\multicolumn{{{len(columns)}}}{{@{{}}l}}{{\emph{{{escaped(title)}}}}} \\")
        lines += [" & ".join(_cell(row[k], kinds[k]) for k in columns) + r" \\" for row in group]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _kind(cells: Sequence[str], first: bool) -> str:
    """Return how a column is set: numbers to the right, words to the left, long ones in lines."""
    if not first and all(c in ("", "-") or _ALONE.fullmatch(c) or _INTERVAL.fullmatch(c) for c in cells):
        return "r"
    return "l" if max(map(len, cells), default=0) <= _LONG else f"p{{{_LONG / _LINE:.2f}\\linewidth}}"


def _width(head: str, cells: Sequence[str]) -> float:
    """Return the characters that a column takes; heads of numbers are broken into words."""
    widths = [len(word) for word in head.split()]
    for c in cells:
        mean, _, band = c.partition(" [")
        widths.append(max(len(mean), round(_TINY * len(band)) + 1) if _INTERVAL.fullmatch(c) else min(len(c), _LONG))
    return max(widths)


def _head(text: str, kind: str) -> str:
    words = [escaped(word) for word in text.split()]
    if kind != "r" or len(words) < 2:
        return " ".join(words)
    return r"\shortstack[r]{" + r"\\".join(words) + "}"


def _cell(text: str, kind: str) -> str:
    if kind == "r":
        interval = _INTERVAL.fullmatch(text)
        if not interval:
            return _number(text)
        mean, low, high = interval.groups()
        mark = MARK if text.endswith(MARK) else ""
        return r"\withinterval" + "".join(f"{{{_number(x)}}}" for x in (mean + mark, low, high))
    if kind == "l" or not text:
        return escaped(text)
    # names of metrics are long, and end in nothing that could be broken
    return r"{\raggedright " + escaped(text).replace(r"\_", r"\_\allowbreak{}") + r"\par}"


def _number(text: str) -> str:
    r"""Return a number with a minus that is none of a word, and a power of ten.

    >>> _number("-5.9e-05"), _number("-")
    ('$-$5.9$\\times 10^{-5}$', '--')
    """
    if text == "-":
        return "--"
    sign, digits = (f"${text[0]}$", text[1:]) if text[:1] in ("+", "-") else ("", text)
    digits = _POWER.sub(lambda m: rf"$\times 10^{{{m[1].strip('+')}{m[2]}}}$", digits)
    return sign + digits.replace("%", r"\%").replace(MARK, r"$^{\dagger}$")
