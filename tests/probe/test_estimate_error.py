"""What is learned of the estimates' errors: the t distribution, the prior, and how often intervals hold."""

from __future__ import annotations

import math

import numpy as np
import pytest

from probe.analyses.estimate_error import (
    Spread,
    expected_spread,
    known_means,
    student_quantile,
    student_tail,
)


def brute_tail(t: float, degrees: float) -> float:
    """P(T > t), t ≥ 0, from the density itself: midpoints in u = t / x over (0, 1]."""
    u = (np.arange(400_000) + 0.5) / 400_000
    start = max(t, 1e-3)
    x = start / u
    density = (1 + x**2 / degrees) ** (-(degrees + 1) / 2)
    constant = math.gamma((degrees + 1) / 2) / math.gamma(degrees / 2) / math.sqrt(degrees * math.pi)
    near = constant * (start - t)  # the density is flat over the last thousandth at 0
    return constant * float((density * start / u**2).mean()) + near


@pytest.mark.parametrize("degrees", [1.0, 1.3, 2.0, 2.7, 5.5, 64.0])
@pytest.mark.parametrize("t", [0.0, 0.5, 2.0, 9.0, 40.0])
def test_tail_is_the_integral_of_the_density(t, degrees):
    found = student_tail(np.array([t, -t]), np.full(2, degrees))
    expected = brute_tail(t, degrees)
    # The quadrature's stated bound; the brute force is finer.
    assert found[0] == pytest.approx(expected, rel=1e-4, abs=1e-30)
    assert found[1] == 1 - found[0] or t == 0


def test_closed_forms_and_their_inverse():
    t = np.array([0.3, 1.0, 12.7])
    assert student_tail(t, np.full(3, 1.0)) == pytest.approx(0.5 - np.arctan(t) / math.pi, rel=1e-9)
    assert student_tail(t, np.full(3, 2.0)) == pytest.approx(0.5 - t / (2 * np.sqrt(2 + t**2)), rel=1e-9)
    # 12.706, 4.303 and 2.776: the tables' two-sided 95 % values of 1, 2 and 4 degrees of freedom.
    assert student_quantile(0.95, np.array([1.0, 2.0, 4.0])) == pytest.approx([12.706, 4.303, 2.776], abs=5e-4)


def made(rng, units=400, prompts=64, degrees=4.0):
    """Estimates, effects and s₀² of units whose error variance is s₀² times degrees / χ²(degrees)."""
    size = np.exp(rng.normal(-3, 1.5, units))
    depth = rng.integers(1, 31, units).astype(float)
    prior = 0.04 * size**2 * depth
    variance = prior * degrees / rng.chisquare(degrees, units)
    estimates = size[:, None] * rng.normal(0, 1, (units, prompts))
    bias = rng.normal(0, 1, units) * size
    errors = bias[:, None] + np.sqrt(variance)[:, None] * rng.normal(0, 1, (units, prompts))
    return estimates, estimates + errors, depth, prior


def test_prior_is_recovered():
    """Moments of 4,000 log variances: d₀ within 15 %, log s₀² within 0.2, several standard errors each."""
    estimates, effects, depth, prior = made(np.random.default_rng(0), units=4_000)
    found = expected_spread((effects - estimates)[:, :3], estimates, depth)
    assert 4 / 1.15 < found.degrees < 4 * 1.15
    assert np.abs(np.log(found.variance / prior)).mean() < 0.2
    # Without the trend, s₀² is one number for all and the units scatter around it far more.
    flat = expected_spread((effects - estimates)[:, :3], np.ones_like(estimates), np.ones(4_000))
    assert flat.degrees < 2


def test_intervals_hold_as_often_as_they_say():
    """400 units, 4 of 64 prompts: 95 % intervals of the mean over all 64 hold for 95 % of the units."""
    held = []
    for seed in range(5):
        estimates, effects, depth, _ = made(np.random.default_rng(seed))
        seen = np.full_like(effects, np.nan)
        seen[:, :4] = effects[:, :4]
        spread = expected_spread((effects - estimates)[:, :4], estimates, depth)
        low, high = known_means(estimates, seen, spread).interval()
        truth = effects.mean(1)
        held.append((low <= truth) & (truth <= high))
    # 2,000 units: binomial standard error 0.5 %, and the prior itself is estimated.
    assert 0.93 < np.mean(held) < 0.97


def test_what_is_measured_on_all_prompts_is_known():
    estimates, effects, depth, _ = made(np.random.default_rng(1), units=30)
    spread = expected_spread((effects - estimates)[:, :2], estimates, depth)
    means = known_means(estimates, effects, spread)
    assert np.array_equal(means.value, effects.mean(1))
    assert np.all(means.error == 0)
    assert np.array_equal(means.above(0.0), (effects.mean(1) > 0).astype(float))
    assert np.array_equal(means.farther(0.01), (np.abs(effects.mean(1)) > 0.01).astype(float))
    assert all(np.array_equal(bound, means.value) for bound in means.interval())


def test_shrinking_is_towards_the_prior():
    estimates = np.zeros((1, 4))
    effects = np.array([[1.0, 3.0, np.nan, np.nan]])
    means = known_means(estimates, effects, Spread(np.array([8.0]), 3.0))
    # s² = (3 · 8 + 2) / 4 = 6.5; of 2 prompts among 4: 6.5 · (1/2 − 1/4).
    assert means.value[0] == 2
    assert means.error[0] ** 2 == pytest.approx(6.5 / 4)
    assert means.degrees[0] == 4


def test_the_slope_is_learned_from_the_units_own_prompts():
    """Effects of 0.3 times the estimates, without error: β is least squares with 3 imagined prompts of β = 1."""
    estimates = np.random.default_rng(0).normal(1, 1, (1, 64))
    effects = 0.3 * estimates
    effects[:, 40:] = np.nan
    means = known_means(estimates, effects, Spread(np.array([1e-12]), 1.0))
    seen = np.square(estimates[0, :40] - estimates[0, :40].mean()).sum()
    prior = 3 * estimates[0].var()
    slope = (0.3 * seen + prior) / (seen + prior)
    assert means.value[0] == pytest.approx(
        slope * estimates.mean() + (0.3 - slope) * estimates[0, :40].mean(), rel=1e-12
    )
    assert means.degrees[0] == pytest.approx(1 + 39 - seen / (seen + prior))
    # With β = 1 throughout the error would be that of 0.7 times the estimates.
    assert means.error[0] < 0.2 * 0.7 * estimates[0, :40].std() * (1 / 40 - 1 / 64) ** 0.5


def test_few_units_teach_no_trend():
    errors = np.random.default_rng(0).normal(size=(5, 2))
    found = expected_spread(errors, np.ones((5, 8)), np.ones(5))
    assert found.degrees == 1
    assert found.variance == pytest.approx(np.full(5, errors.var(axis=1, ddof=1).mean()))


def test_dead_units_and_equal_depths_are_no_trouble():
    estimates, effects, _, _ = made(np.random.default_rng(2), units=60)
    estimates[:7] = effects[:7] = 0
    found = expected_spread((effects - estimates)[:, :2], estimates, np.ones(60))
    assert np.isfinite(found.variance).all()
    assert (found.variance > 0).all()
    assert found.degrees > 0
