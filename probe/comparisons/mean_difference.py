"""Whether two means differ, from each one's own interval alone: MOVER, at the level that few units allow.

Zou and Donner, Construction of confidence limits about effect measures (Statistics in Medicine 27, 2008): MOVER, the
limits of a difference of independent estimates from the limits of each, (3) there.
Hesterberg, What teachers should know about the bootstrap (The American Statistician 69, 2015), section 5: why the
percentile interval of a mean of few units is too narrow, and by how much.
Welch, The generalization of Student's problem (Biometrika 34, 1947): degrees of freedom of two unequal spreads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import stdtr, stdtrit

from probe.statistics import LEVEL, bootstrap

NORMAL = 1.9599639845400545
"""Standard errors that the ends of a 95 % interval of a normal mean lie away."""
FEWEST = 4
"""Units below which a difference has neither interval nor p: the percentile interval of 2 or 3 values is their range,
and no permutation of 3 and 3 units is rarer than 2 in 20."""
ROUNDING = 1e-5
"""Share of a value below which differences and spreads are taken as rounding: float32 is exact to 2⁻²⁴ = 6e-8, and
errors that add up over the sums behind a metric reach some 160 of these."""


@dataclass(frozen=True)
class Means:
    """Means with their 95 % percentile bootstrap intervals, as a head table holds them.

    mean, low, high: [n] float64; NaN where not defined. units: [n] float64, independent units behind each mean;
    infinite where they are not known or so many that their number does not matter.
    """

    mean: Float[np.ndarray, "n"]
    low: Float[np.ndarray, "n"]
    high: Float[np.ndarray, "n"]
    units: Float[np.ndarray, "n"]


@dataclass(frozen=True)
class Differences:
    """Second minus first mean: value, 95 % interval, two-sided p; [n] float64, NaN where not defined."""

    value: Float[np.ndarray, "n"]
    low: Float[np.ndarray, "n"]
    high: Float[np.ndarray, "n"]
    p: Float[np.ndarray, "n"]


def differences(a: Means, b: Means) -> Differences:
    """b − a of independent samples, with interval and p.

    A percentile interval of n units reaches 1.96 · √((n − 1) / n) standard errors each way (the bootstrap divides by n
    where the variance wants n − 1, and knows no t), which gives back each end's standard error. MOVER joins the ends
    that pull the same way, √(e_a² + e_b²), and the 97.5 % point of t at Welch's degrees of freedom stretches them:
    MOVER itself puts the two intervals as they are together, which is the same with many units and too narrow with
    few. p is the level at which the interval would just touch 0, so p < 0.05 and an interval without 0 are the same,
    with one exception: where nothing varies.

    Assumes independent samples whose means are about normal, and asks for `FEWEST` units on both sides: below, interval
    and p are NaN. Where both read the same tokens the errors go together and the interval is too wide (`paired` is for
    that). An end of an interval nearer to its mean than `ROUNDING` of it is taken as no spread. Where neither sample
    has any, the interval has no width, and p is 2 / C(n_a + n_b, n_a), the smallest that a permutation of so many units
    could give (1 where the means are equal, NaN where units are not known). There the interval leaves out 0 whatever p.
    """
    value = b.mean - a.mean
    enough = (a.units >= FEWEST) & (b.units >= FEWEST)
    lower = _joined(_reach(b.mean - b.low, b), b.units, _reach(a.high - a.mean, a), a.units)
    upper = _joined(_reach(b.high - b.mean, b), b.units, _reach(a.mean - a.low, a), a.units)
    ends, tails = [], []
    for error, freedom in (lower, upper):
        error = np.where(enough, error, np.nan)
        ends.append(stdtrit(freedom, (1 + LEVEL) / 2) * error)
        with np.errstate(divide="ignore", invalid="ignore"):
            tails.append(2 * stdtr(freedom, -np.abs(value / error)))
    p = np.where(value > 0, tails[0], tails[1])
    still = enough & (lower[0] == 0) & (upper[0] == 0)
    p[still] = [_rarest(*each) for each in zip(value[still], a.units[still], b.units[still], strict=True)]
    return Differences(value, value - ends[0], value + ends[1], p)


def paired(a: Float[np.ndarray, "units n"], b: Float[np.ndarray, "units n"], *, seed: int = 0) -> Differences:
    """b − a of values that belong together unit by unit: the same sequences read twice.

    The mean of the differences and its percentile bootstrap, stretched as in `differences`, against a 0 that is known
    exactly: what all sequences have in common drops out. Units of which either value is NaN are left out, so the mean
    may be of fewer than each table's own. Where the differences vary by no more than `ROUNDING` of their mean, the
    interval has no width and p is 2 / 2^n, the smallest that n signs could give: with 5 units or fewer the interval
    leaves out 0 and p is above 0.05, the one case in which they disagree.
    Raises ValueError for other shapes and for infinite values.
    """
    if a.shape != b.shape:
        raise ValueError(f"values of shape {list(a.shape)} and {list(b.shape)} are no pairs")
    found = bootstrap(np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64), seed=seed)
    nothing = np.zeros(found.mean.shape)
    known = Means(nothing, nothing, nothing, np.full(nothing.shape, np.inf))
    change = Means(found.mean, found.low, found.high, found.n.astype(np.float64))
    made = differences(known, change)
    # Without spread the smallest p of n differences is that of their signs.
    still = (_reach(found.mean - found.low, change) == 0) & (_reach(found.high - found.mean, change) == 0)
    still &= (found.mean != 0) & (found.n >= FEWEST)
    return Differences(made.value, made.low, made.high, np.where(still, 2.0 ** (1.0 - found.n), made.p))


def _reach(reach: Float[np.ndarray, "n"], of: Means) -> Float[np.ndarray, "n"]:
    """How far an end of the interval lies from the mean; 0 within rounding, and where the mean lies outside it."""
    return np.where(reach <= ROUNDING * np.abs(of.mean), 0.0, reach)


def _joined(
    reach_b: np.ndarray, n_b: np.ndarray, reach_a: np.ndarray, n_a: np.ndarray
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Standard error of one end of the difference, and its degrees of freedom (Welch)."""
    squares = [(reach / _standard_errors(n)) ** 2 for reach, n in ((reach_b, n_b), (reach_a, n_a))]
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = squares[0] ** 2 / (n_b - 1) + squares[1] ** 2 / (n_a - 1)
        freedom = (squares[0] + squares[1]) ** 2 / spread
    few = np.maximum(np.minimum(n_a, n_b) - 1, 1.0)
    return np.sqrt(squares[0] + squares[1]), np.where(np.isnan(freedom), few, freedom)


def _standard_errors(n: np.ndarray) -> np.ndarray:
    """How many standard errors the percentile interval of n units reaches."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(NORMAL * np.sqrt(np.maximum(1 - 1 / n, 1e-12)))


def _rarest(value: float, n_a: float, n_b: float) -> float:
    """The smallest p of a permutation test of n_a and n_b units; NaN where either is not known."""
    if value == 0:
        return 1.0
    if math.isinf(n_a) or math.isinf(n_b):
        return math.nan
    return 2 / math.comb(int(n_a + n_b), int(n_a))
