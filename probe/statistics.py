"""Means, 95 % percentile bootstrap intervals, and sign-flip tests over prompts, exactly as METRICS says.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13: the percentile interval.
Fisher, The Design of Experiments (1935), section 21: the sign-flip test; Phipson and Smyth (2010): its + 1.
Benjamini and Hochberg, Controlling the false discovery rate (1995): the correction for many heads.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

RESAMPLES = 2_000
LEVEL = 0.95
FLIPS = 10_000
EXACT = 13
"""Up to this many prompts all 2^n sign flips are tried: fewer than the `FLIPS` that would be drawn."""


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


def sign_flip_p(
    effects: Float[np.ndarray, "n columns"], *, groups: Sequence[Hashable] | None = None, seed: int = 0
) -> Float[np.ndarray, "columns"]:
    """Two-sided p-value of each column's mean: how often flipped signs bring it as far from 0, or farther.

    If a head does nothing, a prompt's effect is as likely to be positive as negative. (1 + #≥) / (1 + 10,000) over
    10,000 drawn flips, one set for all columns; up to 13 prompts, #≥ / 2^n over all flips (they hold the observed
    one). groups: [n] labels; prompts of one group are no independent witnesses, so their signs turn together and the
    group counts as one, as in the bootstrap. NaN is left out; a column without a value has p = NaN. Sums that differ
    by no more than rounding count as equal. Raises ValueError for infinite values.
    """
    if np.isinf(effects).any():
        raise ValueError("infinite effects cannot be tested: find out where they come from")
    sample = np.asarray(effects, dtype=np.float64)
    if groups is not None:
        sample = _summed(sample, groups)
    valid = ~np.isnan(sample)
    n = valid.sum(axis=0)
    p = np.full(sample.shape[1], np.nan)
    few = (n > 0) & (n <= EXACT)
    for rows in np.unique(valid[:, few], axis=1).T:
        chosen = few & (valid == rows[:, None]).all(axis=0)
        flips = np.indices((2,) * int(rows.sum())).reshape(int(rows.sum()), -1).T
        p[chosen] = _as_far(sample[np.ix_(rows, chosen)], flips) / len(flips)
    if (many := n > EXACT).any():
        flips = np.random.default_rng(seed).integers(0, 2, size=(FLIPS, len(sample)))
        p[many] = (1 + _as_far(np.where(valid, sample, 0.0)[:, many], flips)) / (1 + FLIPS)
    return p


def _summed(sample: Float[np.ndarray, "n columns"], groups: Sequence[Hashable]) -> Float[np.ndarray, "groups columns"]:
    """Sums over each group in order of appearance; NaN where a group has no value."""
    labels = list(groups)
    if len(labels) != len(sample):
        raise ValueError(f"{len(labels)} group labels for {len(sample)} units: give one label a unit")
    parts = [sample[[row for row, label in enumerate(labels) if label == group]] for group in dict.fromkeys(labels)]
    return np.stack([np.where(np.isnan(part).all(axis=0), np.nan, np.nansum(part, axis=0)) for part in parts])


def _as_far(
    sample: Float[np.ndarray, "n columns"], flips: Int[np.ndarray, "flips n"], block: int = 1_000
) -> Int[np.ndarray, "columns"]:
    """Flips (1: the sign turned) under which a column's sum is as far from 0 as it is, or farther.

    Values are rounded to whole numbers small enough that every sum of them is exact in float64: a matrix product may
    then add in any order and by any number of threads, and still counts the same. Rounding moves a sum by n/2 at
    most, so sums that differ by n or less count as equal.
    """
    largest = np.abs(sample).max(axis=0)
    unit = np.where(largest > 0, largest, 1.0)
    whole = np.rint(sample / unit * 2.0 ** (52 - len(sample).bit_length()))
    observed = np.abs(whole.sum(axis=0)) - len(sample)
    found = np.zeros(sample.shape[1], dtype=np.int64)
    for start in range(0, len(flips), block):
        total = (1.0 - 2.0 * flips[start : start + block]) @ whole
        found += (np.abs(total) >= observed).sum(axis=0)
    return found


def benjamini_hochberg(p: Float[np.ndarray, "heads"]) -> Float[np.ndarray, "heads"]:
    """q-values: the smallest false discovery rate at which each head would be called.

    q of the i-th smallest p is the least of p_j · m / j over j ≥ i, at most 1. m counts every head of the table: one
    whose p is NaN was tested without a result, its q is NaN and the others pay for it (METRICS: over all heads).
    """
    order = np.argsort(p, kind="stable")  # NaN comes last
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    q = np.empty(len(p))
    q[order] = np.fmin(1.0, np.fmin.accumulate(scaled[::-1])[::-1])
    return np.where(np.isnan(p), np.nan, q)
