"""Means and 95 % percentile bootstrap intervals over sequences, prompts or trials, exactly as METRICS says.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13: the percentile interval.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

RESAMPLES = 2_000
LEVEL = 0.95


@dataclass(frozen=True)
class Summary:
    """Mean and interval of each column of a sample.

    mean, low, high: [*columns] float64 in the values' unit; NaN where not defined.
    n: [*columns] int64, the values that counted (not NaN).
    """

    mean: Float[np.ndarray, "*columns"]
    low: Float[np.ndarray, "*columns"]
    high: Float[np.ndarray, "*columns"]
    n: Int[np.ndarray, "*columns"]


def resample_counts(
    n: int, *, groups: Sequence[Hashable] | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> Int[np.ndarray, "resamples n"]:
    """How often each of n units is drawn in each resample with replacement.

    groups: [n] labels; units of one group are drawn together (trials that share a needle or a template).
    The set depends on (n, groups, resamples, seed) alone, so that every head and metric shares it.
    Raises ValueError when there are not n labels.
    """
    labels = list(range(n)) if groups is None else list(groups)
    if len(labels) != n:
        raise ValueError(f"{len(labels)} group labels for {n} units: give one label a unit")
    index = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    drawn = np.random.default_rng(seed).integers(0, max(len(index), 1), size=(resamples, len(index)))
    counts = np.zeros((resamples, len(index)), dtype=np.int64)
    np.add.at(counts, (np.arange(resamples)[:, None], drawn), 1)
    return counts[:, [index[label] for label in labels]]


def bootstrap(
    values: Float[np.ndarray, "n *columns"],
    *,
    groups: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Summary:
    """Mean and 95 % percentile interval over the first axis, with one set of resamples for all columns.

    A NaN is left out of the mean and of every resample's mean; all NaN gives NaN. Fewer than two units
    (groups, where given) that are not NaN: the interval is NaN. Resamples that draw none of a column's units
    say nothing about it and are left out. Raises ValueError for infinite values: a mean of them says nothing.
    """
    if np.isinf(values).any():
        raise ValueError("infinite values in a sample cannot be averaged: find out where they come from")
    shape = values.shape[1:]
    sample = np.asarray(values, dtype=np.float64).reshape(len(values), int(np.prod(shape)))
    valid = ~np.isnan(sample)
    n = valid.sum(axis=0)
    # Measured from each column's first value, equal values have an interval of exactly no width.
    origin = np.full(sample.shape[1], np.nan)
    for row in sample[::-1]:
        origin = np.where(np.isnan(row), origin, row)
    shifted = np.where(valid, sample - origin, 0.0)
    with np.errstate(invalid="ignore"):
        mean = origin + shifted.sum(axis=0) / n
    counts = resample_counts(len(sample), groups=groups, resamples=resamples, seed=seed)
    low, high = _interval(shifted, valid, counts)
    undefined = _units(valid, groups) < 2
    low[undefined], high[undefined] = np.nan, np.nan
    return Summary(mean.reshape(shape), (origin + low).reshape(shape), (origin + high).reshape(shape), n.reshape(shape))


def _units(valid: np.ndarray, groups: Sequence[Hashable] | None) -> np.ndarray:
    """Independent units with a value, per column."""
    if groups is None:
        return np.asarray(valid.sum(axis=0))
    labels = list(groups)
    members = [[row for row, label in enumerate(labels) if label == group] for group in dict.fromkeys(labels)]
    return np.asarray(np.sum([valid[rows].any(axis=0) for rows in members], axis=0))


def _interval(
    sample: Float[np.ndarray, "n columns"], valid: np.ndarray, counts: Int[np.ndarray, "resamples n"]
) -> tuple[Float[np.ndarray, "columns"], Float[np.ndarray, "columns"]]:
    """The two quantiles of the resampled means, column by column.

    Summed unit by unit, not by a matrix product: BLAS may order sums by thread count, and tables are to be
    byte-equal whatever that is.
    """
    totals = np.zeros((len(counts), sample.shape[1]))
    weights = np.zeros_like(totals)
    for unit in range(len(sample)):
        totals += counts[:, unit, None] * sample[unit]
        weights += counts[:, unit, None] * valid[unit]
    with np.errstate(invalid="ignore"):
        means = np.sort(totals / weights, axis=0)  # NaN (no unit drawn) sorts to the end
    drawn = (weights > 0).sum(axis=0)
    tail = (1 - LEVEL) / 2
    return _quantile(means, drawn, tail), _quantile(means, drawn, 1 - tail)


def _quantile(ordered: np.ndarray, drawn: np.ndarray, share: float) -> np.ndarray:
    """Linearly interpolated quantile of the first `drawn` rows of each sorted column; NaN without any."""
    place = share * np.maximum(drawn - 1, 0)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, np.maximum(drawn - 1, 0))
    columns = np.arange(ordered.shape[1])
    first, second = ordered[below, columns], ordered[above, columns]
    return np.asarray(first + (place - below) * (second - first))
