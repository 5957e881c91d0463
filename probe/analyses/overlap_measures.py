"""How alike two lists of scores are: weighted Jaccard, rank-biased overlap, Spearman's rank correlation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

PERSISTENCE = 0.9
"""p of rank-biased overlap: the first ten places carry 86 % of the weight (Webber et al., 2010)."""


@dataclass(frozen=True)
class Likeness:
    """A measure of two lists of scores, in two steps, so that thousands of relabelled copies are prepared once.

    prepare: a list [n] to what is compared, item by item. compare: of prepared lists [n] and [..., n].
    """

    prepare: Callable[[Float[np.ndarray, "n"]], np.ndarray]
    compare: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def __call__(self, first: Float[np.ndarray, "n"], second: Float[np.ndarray, "n"]) -> float:
        """The measure of two lists of scores of the same items; NaN where it is not defined."""
        return float(self.compare(self.prepare(first), self.prepare(second)))


def _shares(scores: np.ndarray) -> np.ndarray:
    positive = np.maximum(scores, 0.0)
    return positive / positive.sum() if positive.any() else np.full(len(scores), np.nan)


def _common(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.asarray(np.minimum(first, second).sum(-1) / np.maximum(first, second).sum(-1))


def _places(scores: np.ndarray) -> np.ndarray:
    """Place of every item, 0 for the highest score; equal scores in the order of the list."""
    places = np.empty(len(scores), dtype=np.int64)
    places[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    return places


def _biased(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    p, n = PERSISTENCE, len(first)
    depth = np.arange(1, n + 1)
    # An item is shared at every depth from the lower of its two places on: the sums over depths become a table.
    from_here = np.cumsum((p**depth / depth)[::-1])[::-1]
    return np.asarray(p**n + (1 - p) / p * from_here[np.maximum(first, second)].sum(-1))


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Ranks of length 1 about their mean, ties at their mean rank; NaN where all are equal."""
    ranks = pd.Series(scores).rank().to_numpy()
    centred = ranks - ranks.mean()
    length = np.sqrt((centred * centred).sum())
    return np.asarray(centred / length if length > 0 else np.full(len(scores), np.nan))


def _products(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.asarray((first * second).sum(-1))


WEIGHTED_JACCARD = Likeness(_shares, _common)
"""Σ min(u, w) / Σ max(u, w), u and w each list's max(score, 0) as shares of their sum (Ruzicka, 1958).

1: the tasks rely on the same heads in the same proportions; 0: on none in common. Shares, not scores, so that units do
not count: of raw scores a task with a tenth of the other's logit difference could not reach more than 0.1. NaN where a
list has no positive score.
"""
RANK_BIASED = Likeness(_places, _biased)
"""Rank-biased overlap of two complete rankings by falling score (Webber, Moffat and Zobel, 2010), extrapolated:
(X_n / n) pⁿ + (1 − p)/p · Σ_d (X_d / d) pᵈ, X_d = how many items the first d places share; 1: the same order.
"""
SPEARMAN = Likeness(_ranks, _products)
"""Pearson's correlation of the ranks, ties at their mean rank; NaN where all scores of a list are equal."""
