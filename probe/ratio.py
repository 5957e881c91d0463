"""A ratio of two means over the same prompts, with its interval: how much of a whole a part is."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Float

from probe.statistics import LEVEL, RESAMPLES, Summary, bootstrap, resample_counts


def ratio_of_means(
    part: Float[np.ndarray, "n columns"],
    whole: Float[np.ndarray, "n"],
    *,
    groups: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Summary:
    """mean(part) / mean(whole) of each column, and its 95 % percentile bootstrap interval.

    Part and whole are drawn together, prompt by prompt (`groups`: those of one label together), in the resamples of
    `statistics.bootstrap`. Of fewer than two prompts or groups the interval is NaN. The ratio of means is a biased
    estimate of the ratio in the population, by about its variance over n; the interval does not mend that.
    Raises ValueError for numbers that are not finite, and where the mean of the whole is 0.
    """
    if not (np.isfinite(part).all() and np.isfinite(whole).all()):
        raise ValueError("a ratio of means of values that are not finite: find out where they come from")
    total = float(whole.mean()) if len(whole) else 0.0
    if total == 0:
        raise ValueError("the mean of the whole is 0: nothing can be a share of it")
    counts = resample_counts(len(whole), groups=groups, resamples=resamples, seed=seed)
    above, below = np.zeros((len(counts), part.shape[1])), np.zeros(len(counts))
    for row in range(len(whole)):  # summed row by row: see `statistics._interval`
        above += counts[:, row, None] * part[row]
        below += counts[:, row] * whole[row]
    units = len(whole) if groups is None else len(set(groups))
    usable = below != 0
    tail = (1 - LEVEL) / 2
    bounds = np.full((2, part.shape[1]), np.nan)
    if units > 1 and usable.any():
        bounds = np.quantile(above[usable] / below[usable, None], [tail, 1 - tail], axis=0)
    return Summary(part.mean(axis=0) / total, bounds[0], bounds[1], np.full(part.shape[1], len(whole)))


def clearly_positive(
    values: Float[np.ndarray, "n"], *, groups: Sequence[Hashable] | None = None, seed: int = 0
) -> bool:
    """Whether the mean is above 0 and, where there is an interval, its lower end too."""
    found = bootstrap(values[:, None], groups=groups, seed=seed)
    return bool(found.mean[0] > 0 and not found.low[0] <= 0)
