"""Scores of single answers in text: truth ratio, verbatim and extractable memory, membership scores, ROUGE."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from streams.errors import ConfigError

MIN_K = 0.4
"""Share of the least likely tokens that Min-K looks at (MUSE and OpenUnlearning)."""


def exact_memorisation(hits: np.ndarray) -> float:
    """Return the share of an answer's tokens that are the most likely ones, given the true tokens before them.

    Args:
        hits: bool ``[L]``, the end token left out.

    >>> exact_memorisation(np.array([True, False, True, True]))
    0.75
    """
    return float(np.mean(hits)) if len(hits) else 0.0


def extraction_strength(hits: np.ndarray) -> float:
    """Return 1 - k / L, k being the shortest prefix from which all that follows is the most likely (Carlini et al.).

    OpenUnlearning's code never gives 0 but 1 / L, the same as for a last token that alone is right.

    >>> [extraction_strength(np.array(h, dtype=bool)) for h in ([0, 0, 0, 0], [0, 0, 0, 1], [1, 1, 1, 1])]
    [0.0, 0.25, 1.0]
    """
    if not len(hits):
        return 0.0
    misses = np.flatnonzero(~hits)
    return 1.0 - (0 if not len(misses) else int(misses[-1]) + 1) / len(hits)


def min_k(values: np.ndarray, share: float) -> float:
    """Return minus the mean of the lowest share of values, at least one of them (Shi et al. 2024, arXiv 2310.16789).

    >>> [min_k(np.array([-1.0, -2.0, -3.0, -4.0, -10.0]), k) for k in (0.4, 0.2, 0.01)]
    [7.0, 10.0, 10.0]
    """
    count = max(1, int(share * len(values)))
    return float(-np.sort(values)[:count].mean()) if len(values) else 0.0


def normalised(log_p: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return each token's log-probability in units of what its position expects (Min-K++, arXiv 2404.02936).

    Args:
        log_p: ``[L]`` of the tokens that are there.
        mean, variance: ``[L]`` of log p over the vocabulary, weighted by p.
    """
    return (log_p - mean) / np.sqrt(np.maximum(variance, 1e-6))


def truth_ratio(right: float, wrong: Sequence[float]) -> float:
    """Return exp(loss of the right answer - mean loss of wrong ones), both put in other words (TOFU, arXiv 2401.06121).

    Below 1 the right answer is likelier. This is the geometric form, which TOFU's test uses.

    >>> round(truth_ratio(1.0, [0.5, 3.0]), 6)
    0.472367
    """
    with np.errstate(over="ignore"):  # infinite above 709 nats, which ascent reaches
        return float(np.exp(right - np.mean(wrong)))


def truth_probability(ratios: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + truth ratio) of each item: p / (p + geometric mean of wrong p), OpenUnlearning's ``prob_mean``.

    Args:
        ratios: ``[n]``, as `truth_ratio` returns them; infinite is allowed.

    TOFU's paper has the arithmetic mean of wrong p instead.

    >>> truth_probability(np.array([truth_ratio(*(-np.log(p) for p in (0.3, [0.1, 0.4])))])).round(2).tolist()
    [0.6]
    """
    return np.asarray(1 / (1 + np.asarray(ratios, dtype=np.float64)))


def choice_probability(right: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Return p / (p + sum of wrong p) of each item, as in a multiple choice; the arguments are losses again.

    >>> choice_probability(-np.log([0.3]), -np.log([[0.1, 0.1]])).round(2).tolist()
    [0.6]
    >>> choice_probability(np.array([2000.0]), np.array([[1000.0, 3000.0]])).tolist()
    [0.0]
    """
    from scipy.special import expit, logsumexp

    return np.asarray(expit(-right - logsumexp(-wrong.astype(np.float64), axis=1)))


def words(text: str, stem: Callable[[str], str] | None = None) -> list[str]:
    """Return what ROUGE compares: runs of letters and digits in lower case, those of more than three letters stemmed.

    >>> words("Ada's cat, No. 7"), words("Cats ran", lambda word: word.removesuffix("s"))
    (['ada', 's', 'cat', 'no', '7'], ['cat', 'ran'])
    """
    found = re.findall(r"[a-z0-9]+", text.lower())
    return found if stem is None else [stem(word) if len(word) > 3 else word for word in found]


def porter() -> Callable[[str], str]:
    """Return Porter's stemmer as NLTK has it, which TOFU and OpenUnlearning score ROUGE with.

    Raises:
        ConfigError: nltk is not installed.
    """
    try:
        from nltk.stem.porter import PorterStemmer
    except ImportError as error:
        raise ConfigError("objective.answers.stemmer: nltk is not installed. pip install nltk") from error
    stemmed: Callable[[str], str] = PorterStemmer().stem
    return stemmed


def ngram_entropy(text: Sequence[str]) -> float:
    """Return the fluency of RWKU and ROME (arXiv 2406.10890): (2/3 H_2 + 4/3 H_3) / 2, H_n in bits.

    H_n is the entropy of the distribution of n-grams of words; 0 where there is none, or always the same.

    >>> [round(ngram_entropy(text.split()), 3) for text in ("a b c d e", "a a a a a", "a", "a b a b a")]
    [1.723, 0.0, 0.0, 0.946]
    """

    def entropy(n: int) -> float:
        counts = np.array(list(Counter(zip(*(text[i:] for i in range(n)), strict=False)).values()), dtype=np.float64)
        p = counts / counts.sum() if len(counts) else np.ones(1)
        return max(0.0, float(-(p * np.log2(p)).sum()))

    return (2 / 3 * entropy(2) + 4 / 3 * entropy(3)) / 2


def rouge_l(reference: list[str], generated: list[str]) -> tuple[float, float]:
    """Return recall and F-measure of the longest common subsequence, without stemming.

    >>> rouge_l("the cat sat on the mat".split(), "the mat".split())[0] == 2 / 6
    True
    >>> round(rouge_l("a b".split(), "a b c d".split())[1], 3)
    0.667
    """
    if not reference or not generated:
        return 0.0, 0.0
    best = np.zeros(len(generated) + 1, dtype=np.int64)
    for word in reference:
        before = 0
        for j, other in enumerate(generated, 1):
            before, best[j] = best[j], before + 1 if word == other else max(best[j], best[j - 1])
    common = int(best[-1])
    recall, precision = common / len(reference), common / len(generated)
    return recall, 2 * recall * precision / (recall + precision) if common else 0.0
