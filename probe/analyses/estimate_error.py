"""How far an estimate is from what would be measured: learned from units measured on a few of the prompts.

A unit's effect e on a prompt is β times its estimate plus an error d. The estimates are known on all N prompts,
the errors on n of them, drawn without replacement, so the mean effect over all N is β mean(estimates) + mean(d)
with standard error s √((1/n)(1 − n/N)): exact at n = N, and small where the estimate follows the effect (a
regression estimator; Särndal, Swensson and Wretman 1992, section 6.4). β is 1 until a unit's own prompts say
otherwise. With few prompts s is drawn towards what units of
the same size and depth showed: s² = (d₀ s₀² + (n−1) s_u²) / (d₀ + n − 1), and (estimate − truth) / error follows
Student's t with d₀ + n − 1 degrees of freedom (Smyth 2004, Linear models and empirical Bayes methods, section 4;
s₀² with a trend as in limma). Errors are taken as normal over a unit's prompts, s_u² / s₀² as F over units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

MIN_UNITS = 12
"""Fewer units with a variance of their own teach no trend; the prior is then their mean variance, with 1 degree."""

SLOPE_PROMPTS = 3.0
"""Prompts that the assumption β = 1 is worth."""

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(40)


@dataclass(frozen=True, eq=False)
class Spread:
    """What is expected of a unit's error variance before its own errors are seen: s₀² [U] and d₀, its weight."""

    variance: Float[np.ndarray, "U"]
    degrees: float


@dataclass(frozen=True, eq=False)
class Means:
    """Mean effects over all N prompts as far as they are known: value, standard error (0 where measured on all),
    degrees of freedom; [U] each.
    """

    value: Float[np.ndarray, "U"]
    error: Float[np.ndarray, "U"]
    degrees: Float[np.ndarray, "U"]

    def above(self, cut: float) -> Float[np.ndarray, "U"]:
        """Probability that the mean effect is above `cut`."""
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = np.where(self.error > 0, (cut - self.value) / self.error, 0.0)
        probability = np.where(self.error > 0, student_tail(distance, self.degrees), (self.value > cut).astype(float))
        return np.asarray(probability)

    def farther(self, cut: float) -> Float[np.ndarray, "U"]:
        """Probability that the mean effect is farther from 0 than `cut` ≥ 0, on either side."""
        return np.asarray(self.above(cut) + 1.0 - self.above(-cut))

    def interval(self, level: float = 0.95) -> tuple[Float[np.ndarray, "U"], Float[np.ndarray, "U"]]:
        """Interval of each unit alone; no width where it was measured on all prompts."""
        half = student_quantile(level, self.degrees) * self.error
        return self.value - half, self.value + half


def expected_spread(
    errors: Float[np.ndarray, "U n"], estimates: Float[np.ndarray, "U N"], depth: Float[np.ndarray, "U"]
) -> Spread:
    """The prior of the error variance, from the errors of every unit on the same number n ≥ 2 of prompts.

    log s₀² is linear in the log of the estimates' mean square and in the log of `depth` (what lies above a unit
    bends its effect); d₀ is found from the variance of log s_u² around it by moments, as in Smyth's section 6.2.
    """
    variance = errors.var(axis=1, ddof=1)
    seen = variance > 0
    if seen.sum() < MIN_UNITS:
        return Spread(np.full(len(variance), variance.mean()), 1.0)
    size = np.square(estimates).mean(axis=1)
    # A unit without any estimate counts as the smallest that has one.
    size = np.maximum(size, size[size > 0].min()) if (size > 0).any() else np.ones_like(size)
    design = np.stack([np.ones_like(size), np.log(size), np.log(depth)], axis=1)
    half = (errors.shape[1] - 1) / 2
    logs = np.log(variance[seen]) - _polygamma(0, half) + math.log(half)
    coefficients, _, rank, _ = np.linalg.lstsq(design[seen], logs, rcond=None)
    around = logs - design[seen] @ coefficients
    excess = float(np.square(around).sum() / (len(around) - rank)) - _polygamma(1, half)
    degrees = 2 * _inverse_trigamma(excess)
    # E log s² of an F variable is not log s₀²: its own logarithm's mean is taken out again.
    centre = math.log(degrees / 2) - _polygamma(0, degrees / 2)
    return Spread(np.exp(design @ coefficients - centre), degrees)


def known_means(estimates: Float[np.ndarray, "U N"], effects: Float[np.ndarray, "U N"], spread: Spread) -> Means:
    """Mean effects over all N prompts; effects are NaN where not measured, at least 2 of each unit are measured."""
    measured: Bool[np.ndarray, "U N"] = ~np.isnan(effects)
    n: Int[np.ndarray, "U"] = measured.sum(axis=1)
    slope, used = _slopes(estimates, effects, measured)
    errors = effects - slope[:, None] * estimates
    value = np.where(n == effects.shape[1], np.nanmean(effects, 1), slope * estimates.mean(1) + np.nanmean(errors, 1))
    own = n - 1 - used
    around = np.nansum(np.square(errors - np.nanmean(errors, 1, keepdims=True)), axis=1)
    degrees = spread.degrees + own
    variance = (spread.degrees * spread.variance + around) / degrees
    return Means(value, np.sqrt(variance * np.maximum(1 / n - 1 / effects.shape[1], 0.0)), degrees)


def _slopes(
    estimates: Float[np.ndarray, "U N"], effects: Float[np.ndarray, "U N"], measured: Bool[np.ndarray, "U N"]
) -> tuple[Float[np.ndarray, "U"], Float[np.ndarray, "U"]]:
    """β of each unit, and the share of a degree of freedom that finding it took.

    Least squares over the measured prompts together with `SLOPE_PROMPTS` imagined ones at which β is 1.
    """
    x = np.where(measured, estimates, np.nan)
    x = x - np.nanmean(x, axis=1, keepdims=True)
    found, seen = np.nansum(x * effects, axis=1), np.nansum(np.square(x), axis=1)
    prior = SLOPE_PROMPTS * estimates.var(axis=1)
    total = seen + prior
    flat = total == 0
    total = np.where(flat, 1.0, total)
    return np.where(flat, 1.0, (found + prior) / total), np.where(flat, 0.0, seen / total)


def student_tail(t: Float[np.ndarray, "U"], degrees: Float[np.ndarray, "U"]) -> Float[np.ndarray, "U"]:
    """P(T > t) of Student's t, degrees > 0 not necessarily whole.

    With t = √ν tan θ the density is C cosᵛ⁻¹θ: Gauss-Legendre over θ to π/2, relative error below 1e-4 for ν ≥ 1.
    """
    start = np.arctan(np.abs(t) / np.sqrt(degrees))
    half = (math.pi / 2 - start) / 2
    angle = start[:, None] + half[:, None] * (1 + _NODES)
    powers = np.exp((degrees - 1)[:, None] * np.log(np.cos(angle)))
    unique, place = np.unique(degrees, return_inverse=True)
    constant = np.array([math.exp(math.lgamma((v + 1) / 2) - math.lgamma(v / 2)) for v in unique])[place]
    tail = constant / math.sqrt(math.pi) * half * (powers * _WEIGHTS).sum(axis=1)
    return np.asarray(np.where(t >= 0, tail, 1 - tail))


def student_quantile(level: float, degrees: Float[np.ndarray, "U"]) -> Float[np.ndarray, "U"]:
    """The t that |T| stays below with probability `level`, by bisection of `student_tail` in θ."""
    low, high = np.zeros_like(degrees), np.full_like(degrees, math.pi / 2)
    for _ in range(50):
        middle = (low + high) / 2
        beyond = student_tail(np.sqrt(degrees) * np.tan(middle), degrees) > (1 - level) / 2
        low, high = np.where(beyond, middle, low), np.where(beyond, high, middle)
    return np.asarray(np.sqrt(degrees) * np.tan((low + high) / 2))


def _polygamma(order: int, x: float) -> float:
    return float(torch.special.polygamma(order, torch.tensor(x, dtype=torch.float64)))


def _inverse_trigamma(value: float) -> float:
    """x with trigamma(x) = value, within 1e-2 … 1e4; trigamma falls, so that it is bisected."""
    low, high = 1e-2, 1e4
    for _ in range(100):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if _polygamma(1, middle) > value else (low, middle)
    return math.sqrt(low * high)
