"""Student's t distribution: its two tails and the point that cuts them off, without another package.

Press and others, Numerical Recipes (3rd edition, 2007), section 6.4: the incomplete beta function by its continued
fraction, evaluated with Lentz's method; the tails of t are I_x(ν/2, 1/2) at x = ν / (ν + t²).
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

_SMALL, _CLOSE, _MOST = 1e-300, 1e-15, 1_000
_NORMAL_FROM = 1e5
"""Degrees of freedom from which the normal distribution stands for t: both tails then differ by less than 1e-5."""


def two_tails(t: Float[np.ndarray, "n"], freedom: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """P(|T| ≥ |t|) for T of Student's distribution with `freedom` degrees of freedom (infinite: normal).

    t infinite gives 0, NaN in either gives NaN. Raises ValueError for degrees of freedom that are not above 0.
    """
    if (freedom <= 0).any():
        raise ValueError("degrees of freedom of 0 or less: a t distribution has more")
    size = np.abs(np.asarray(t, dtype=np.float64))
    tails = np.full(size.shape, np.nan)
    known = ~(np.isnan(size) | np.isnan(freedom))
    wide = known & (freedom >= _NORMAL_FROM)
    tails[wide] = [math.erfc(value / math.sqrt(2)) for value in size[wide]]
    narrow = known & ~wide
    squares, nu = size[narrow] ** 2, np.asarray(freedom, dtype=np.float64)[narrow]
    near = squares < 1  # then 1 − x is the smaller part, and its fraction the faster one
    found = np.empty(len(nu))
    x = np.divide(nu, nu + squares)
    found[~near] = _beta(x[~near], nu[~near] / 2, np.full(int((~near).sum()), 0.5))
    rest = squares[near] / (nu[near] + squares[near])
    found[near] = 1 - _beta(rest, np.full(int(near.sum()), 0.5), nu[near] / 2)
    tails[narrow] = found
    return tails


def cut_off(freedom: Float[np.ndarray, "n"], tails: float) -> Float[np.ndarray, "n"]:
    """The t > 0 beyond which, on both sides together, lies the share `tails`; NaN where `freedom` is.

    Newton's method from t = 1, within which lies more than half of every such distribution: the tails are convex in
    t > 0, so from there no step goes too far. Raises ValueError for `tails` that are not within 0 and 0.3, and for
    degrees of freedom that are not above 0.
    """
    if not 0 < tails < 0.3:
        raise ValueError(f"tails of {tails}; wanted a share above 0 and below 0.3")
    nu = np.asarray(freedom, dtype=np.float64)
    t = np.ones_like(nu)
    for _ in range(60):
        step = (two_tails(t, nu) - tails) / (2 * _density(t, nu))
        t = t + step
        if not (np.abs(step) > 1e-12 * t).any():
            break
    return np.where(np.isnan(nu), np.nan, t)


def _density(t: np.ndarray, nu: np.ndarray) -> np.ndarray:
    """Density of t; of the normal distribution from `_NORMAL_FROM` degrees of freedom on."""
    made = np.exp(-(t**2) / 2) / math.sqrt(2 * math.pi)
    few = nu < _NORMAL_FROM
    some = nu[few]
    scale = _log_gamma((some + 1) / 2) - _log_gamma(some / 2) - 0.5 * np.log(some * np.pi)
    made[few] = np.exp(scale - (some + 1) / 2 * np.log1p(t[few] ** 2 / some))
    return np.asarray(made)


def _beta(x: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The regularised incomplete beta function I_x(a, b), where x is not past (a + 1) / (a + b + 2) by much."""
    with np.errstate(divide="ignore"):
        front = _log_gamma(a + b) - _log_gamma(a) - _log_gamma(b) + a * np.log(x) + b * np.log1p(-x)
    c = np.ones_like(x)
    d = 1 / _away(1 - (a + b) * x / (a + 1))
    h = d.copy()
    for m in range(1, _MOST + 1):
        change = d
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _away(1 + term * d)
            c = _away(1 + term / c)
            change = c * d
            h = h * change
        if not (np.abs(change - 1) > _CLOSE * 4).any():
            break
    return np.asarray(np.exp(front) * h / a)


def _away(value: np.ndarray) -> np.ndarray:
    return np.where(np.abs(value) < _SMALL, _SMALL, value)


def _log_gamma(values: np.ndarray) -> np.ndarray:
    return np.array([math.lgamma(value) for value in values], dtype=np.float64)
