"""MUSE's ways to look at text: verbatim memory, knowledge, and how utility holds over request after request.

After arXiv 2407.06460 and its code. PrivLeak is `lifelong.formulas.language.priv_leak`. Scores of text are ROUGE-L
F-measures without stemming, in percent; ideal is what the retrained reference has, not 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from strategies.parts.text.scores import rouge_l, words

LASTING = 0.95
"""Utility holds while it is at least that share of the utility before the first request."""

_NEXT_QUESTION = re.compile(r"\n\n|\nQuestion|Question:")


def rouge_f(pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """Return the ROUGE-L F-measure of every pair (true text, generated text), in percent, ``[n]``.

    >>> rouge_f([("a b", "a b c d"), ("a b", "a b"), ("a b", "")]).round(1).tolist()
    [66.7, 100.0, 0.0]
    """
    return np.array([100 * rouge_l(words(true), words(made))[1] for true, made in pairs])


def cut_answer(text: str) -> str:
    r"""Return what comes before the first blank line, a line that begins with "Question", or "Question:", as MUSE does.

    >>> cut_answer("Paris\n\nAnd Rome?"), cut_answer("Paris\nQuestion 2"), cut_answer("Paris Question: x")
    ('Paris', 'Paris', 'Paris')
    >>> cut_answer("The Question of Ages"), cut_answer("Paris\n \nQ: And Rome?")
    ('The Question of Ages', 'Paris\n \nQ: And Rome?')
    """
    next_question = _NEXT_QUESTION.search(text)
    return text if next_question is None else text[: next_question.start()].rstrip()


def operating_point(curve: Sequence[float], reference: float) -> tuple[int, bool]:
    """Return the first point of a trajectory that knows no more than the reference, and whether there is none.

    All other criteria are read there, so that methods are compared at equal forgetting (not at equal compute). Where
    no point qualifies it is the last one.

    Args:
        curve: knowledge of the forget set along epochs, or along strengths of an edit.
        reference: that of the retrained model.

    >>> operating_point([60, 40, 33, 20], 33), operating_point([60, 40], 33)
    ((2, False), (1, True))
    """
    met = [i for i, value in enumerate(curve) if value <= reference]
    return (met[0], False) if met else (len(curve) - 1, True)


def acceleration(curve: Sequence[float]) -> float | None:
    """Return the utility lost over k requests, over k times that lost by the first; None if the first lost nothing.

    1: losses add up; above 1 they accelerate, below they saturate.

    Args:
        curve: utility before the first request, and after each.

    >>> acceleration([100, 90, 80, 70]), acceleration([100, 90, 70, 40]), acceleration([50, 50, 40])
    (1.0, 2.0, None)
    """
    lost = curve[0] - curve[1] if len(curve) > 1 else 0.0
    return (curve[0] - curve[-1]) / ((len(curve) - 1) * lost) if lost > 0 else None


def lasting(curve: Sequence[float], share: float = LASTING) -> int:
    """Return how many requests can be served before utility first falls below a share of what it was.

    >>> lasting([100, 97, 96, 94, 99]), lasting([100, 99])
    (2, 1)
    """
    short = [k for k, value in enumerate(curve) if value < share * curve[0]]
    return short[0] - 1 if short else len(curve) - 1
