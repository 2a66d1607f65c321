"""What pages are made of: tables that scroll and fold, and lists of names and values, as HTML."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from html import escape

FOLD = 24
"""Rows from which on a table starts folded."""
OPEN = 4
"""Strategies whose heat maps are open; those of the others open at a click."""


def pairs(items: Sequence[tuple[str, str]]) -> str:
    """Return a description list."""
    return f"<dl>{''.join(f'<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>' for k, v in items)}</dl>"


def table(
    caption: str,
    heads: Sequence[tuple[str, str]],
    bodies: Sequence[str],
    of_words: bool = False,
    texts: Collection[str] = (),
) -> str:
    """Return a table.

    Args:
        caption: above it, as text.
        heads: of the columns, each with what it means.
        bodies: HTML of each ``tbody``.
        of_words: whether columns hold words, which are set left, rather than numbers.
        texts: heads of single columns of words.
    """
    kind = ' class="words"' if of_words else ""
    named = "".join(_head(head, why, head in texts) for head, why in heads)
    # what scrolls must take the focus, or the keyboard cannot scroll it
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label={quoted(caption)}><table{kind}>'
        f"<caption><span>{escape(caption)}</span></caption><thead><tr>{named}</tr></thead>{''.join(bodies)}</table></div>"
    )


def _head(text: str, why: str, is_text: bool) -> str:
    """Return the head of a column, with what it means."""
    shown = f"<abbr title={quoted(why)}>{escape(text)}</abbr>" if why else escape(text)
    return f'<th scope="col"{" class=text" * is_text}>{shown}</th>'


def folded(title: str, num_rows: int, content: str) -> str:
    """Return a table, which starts folded if it is long."""
    if num_rows < FOLD:
        return content
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def opened(title: str, content: str, is_open: bool) -> str:
    """Return what is folded away below its title, or lies open."""
    return f"<details{' open' * is_open}><summary><h3>{escape(title)}</h3></summary>{content}</details>"


def cell(text: str, why: str = "", grey: bool = False, best: bool = False) -> str:
    """Return a cell, with what is shown when pointing at it; grey if its number says nothing, or marked as the best."""
    kind = ' class="grey"' if grey else ' class="best"' if best else ""
    return f"<td{kind} title={quoted(why)}>{escape(text)}</td>" if why else f"<td{kind}>{escape(text)}</td>"


def quoted(text: str) -> str:
    """Return the value of an attribute."""
    return f'"{escape(text)}"'
