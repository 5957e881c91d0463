"""Spearman's rank correlation with its interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's coefficient of `n` pairs and its 95 % interval; NaN where not defined."""

    value: float
    low: float
    high: float
    n: int


def rank_correlation(x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"]) -> RankCorrelation:
    """Pearson's coefficient of the ranks, ties at their mean rank; pairs with a NaN are left out.

    Interval: Fisher's z with the variance (1 + r²/2) / (n − 3) of Bonett and Wright (2000), Psychometrika 65, 23–28.
    It takes pairs as independent, which the heads of one model are only roughly. NaN below four pairs, where all
    values of one side are equal, and (the interval alone) where the ranks agree wholly.
    """
    both = pd.DataFrame({"x": np.asarray(x, dtype=float), "y": np.asarray(y, dtype=float)}).dropna()
    n = len(both)
    if n < 4 or (both.nunique() < 2).any():
        return RankCorrelation(np.nan, np.nan, np.nan, n)
    value = float(np.clip(np.corrcoef(both["x"].rank(), both["y"].rank())[0, 1], -1, 1))
    if abs(value) > 1 - 1e-12:
        return RankCorrelation(value, np.nan, np.nan, n)
    half = 1.959963984540054 * np.sqrt((1 + value**2 / 2) / (n - 3))
    low, high = np.tanh(np.arctanh(value) - half), np.tanh(np.arctanh(value) + half)
    return RankCorrelation(value, float(low), float(high), n)
