"""Intervals of differences cover what they say, p agrees with them, and few or still units are owned up to."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from probe.comparisons.mean_difference import FEWEST, Differences, Means, differences, paired
from probe.statistics import Summary, bootstrap

COLUMNS, SEEDS = 600, 3
Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


def means(found: Summary) -> Means:
    return Means(found.mean, found.low, found.high, found.n.astype(float))


def normal(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.normal(0, 1, shape)


def wide(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.normal(0, 3, shape)


@cache
def simulated(n_a: int, n_b: int, first: Draw, second: Draw, shift: float = 0.0) -> list[tuple[Means, Means]]:
    """Two independent samples of every column, B's mean higher by `shift`."""
    made = []
    for seed in range(SEEDS):
        rng = np.random.default_rng([seed, n_a, n_b])
        a, b = first(rng, (n_a, COLUMNS)), second(rng, (n_b, COLUMNS)) + shift
        made.append((means(bootstrap(a, seed=seed)), means(bootstrap(b, seed=seed + 100))))
    return made


def allowed() -> float:
    """How far the covered share of all columns may be from 0.95: four standard errors of a binomial share.

    And 0.006 for what is no sampling noise of the columns. The ends are quantiles of 2,000 resamples that the columns
    of a seed share: their standard error is √(0.025 · 0.975 / 2,000) / φ(1.96) = 0.06 standard errors of the mean, in
    the difference 0.06 / √2 of its own; two ends move the share by √2 · 0.042 · φ(1.96) = 0.0035, of three seeds by
    0.002. Welch's degrees of freedom are an approximation, off by up to 0.005 with four units.
    """
    return 4 * math.sqrt(0.05 * 0.95 / (COLUMNS * SEEDS)) + 0.006


def covered(found: list[Differences], truth: float) -> float:
    return float(np.mean([(one.low <= truth) & (truth <= one.high) for one in found]))


@pytest.mark.parametrize(
    ("n_a", "n_b", "second"), [(8, 8, normal), (8, 8, wide), (5, 12, normal), (4, 4, wide)]
)
def test_intervals_cover_the_difference_in_95_percent(n_a: int, n_b: int, second: Draw) -> None:
    found = [differences(*pair) for pair in simulated(n_a, n_b, normal, second, 0.7)]
    assert covered(found, 0.7) == pytest.approx(0.95, abs=allowed())


def test_unstretched_mover_would_not_pass_that_test() -> None:
    found = []
    for a, b in simulated(8, 8, normal, normal, 0.7):
        value = b.mean - a.mean
        low = value - np.hypot(b.mean - b.low, a.high - a.mean)
        high = value + np.hypot(b.high - b.mean, a.mean - a.low)
        found.append(Differences(value, low, high, value))
    assert covered(found, 0.7) < 0.95 - allowed()


def test_five_percent_of_equal_means_are_told_apart() -> None:
    found = [differences(*pair) for pair in simulated(8, 8, normal, normal)]
    assert np.mean([one.p < 0.05 for one in found]) == pytest.approx(0.05, abs=allowed())


def test_pairs_cover_too_and_lose_what_they_share() -> None:
    found, apart = [], []
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        shared, noise = rng.normal(0, 5, (8, COLUMNS)), rng.normal(0.3, 1, (8, COLUMNS))
        found.append(paired(shared, shared + noise, seed=seed))
        apart.append(differences(*(means(bootstrap(sample, seed=seed)) for sample in (shared, shared + noise))))
    assert covered(found, 0.3) == pytest.approx(0.95, abs=allowed())
    assert covered(apart, 0.3) > 0.999  # same sequences taken as independent: too wide, as the docstring says
    width = [np.median(np.concatenate([one.high - one.low for one in kind])) for kind in (found, apart)]
    assert width[0] < width[1] / 4


def test_skewed_values_miss_by_what_the_page_says() -> None:
    def skewed(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        return rng.exponential(1, shape) - 1

    found = [paired(np.zeros((8, COLUMNS)), skewed(np.random.default_rng(seed), (8, COLUMNS)), seed=seed)
             for seed in range(SEEDS)]  # fmt: skip
    assert 0.05 < 1 - covered(found, 0.0) < 0.12


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_p_and_interval_agree(shift: float) -> None:
    for pair in simulated(8, 8, normal, normal, shift):
        found = differences(*pair)
        np.testing.assert_array_equal(found.p < 0.05, (found.low > 0) | (found.high < 0))
        assert ((found.p > 0) & (found.p <= 1)).all()


def test_turning_the_two_round_turns_the_interval_round() -> None:
    a, b = simulated(5, 12, normal, normal, 0.7)[0]
    one, other = differences(a, b), differences(b, a)
    np.testing.assert_allclose(one.value, -other.value)
    np.testing.assert_allclose(one.low, -other.high)
    np.testing.assert_allclose(one.p, other.p)


def test_many_units_are_plain_mover() -> None:
    a = Means(np.array([0.5]), np.array([0.4]), np.array([0.7]), np.array([np.inf]))
    b = Means(np.array([0.8]), np.array([0.6]), np.array([0.9]), np.array([np.inf]))
    found = differences(a, b)
    # Zou and Donner (2008), (3): b − a − √((b − l_b)² + (u_a − a)²), and its mirror image.
    assert found.low[0] == pytest.approx(0.3 - math.hypot(0.2, 0.2))
    assert found.high[0] == pytest.approx(0.3 + math.hypot(0.1, 0.1))


def test_few_units_have_no_interval() -> None:
    def of(n: int) -> Means:
        return means(bootstrap(np.random.default_rng(n).normal(n, 1, (n, 5))))

    for n_a, n_b in ((3, 8), (8, 3), (2, 2)):
        a, b = of(n_a), of(n_b)
        found = differences(a, b)
        np.testing.assert_array_equal(found.value, b.mean - a.mean)
        assert np.isnan([found.low, found.high, found.p]).all()
    assert np.isfinite(differences(of(FEWEST), of(8)).p).all()


def test_values_that_do_not_vary_have_the_p_of_a_permutation() -> None:
    def still(value: float, units: float) -> Means:
        return Means(*(np.array([value]) for _ in range(3)), np.array([units]))

    assert differences(still(0, 8), still(1, 8)).p[0] == 2 / math.comb(16, 8)
    assert differences(still(0, 4), still(1, 5)).p[0] == 2 / math.comb(9, 4)
    assert differences(still(1, 8), still(1, 8)).p[0] == 1
    assert np.isnan(differences(still(0, math.inf), still(1, 8)).p[0])
    same = paired(np.zeros((8, 1)), np.ones((8, 1)))
    assert (same.value[0], same.low[0], same.high[0], same.p[0]) == (1, 1, 1, 2 / 2**8)
    assert paired(np.ones((8, 1)), np.ones((8, 1))).p[0] == 1


@pytest.mark.parametrize("n", [4, 8])
def test_a_spread_of_rounding_is_no_spread(n: int) -> None:
    jitter = 1e-9 * np.random.default_rng(0).normal(size=(n, 1))
    a, b = np.full((n, 1), 0.2), np.full((n, 1), 0.3)
    for found, same in (
        (paired(a, b + jitter), paired(a, b)),
        (differences(means(bootstrap(a)), means(bootstrap(b + jitter))),
         differences(means(bootstrap(a)), means(bootstrap(b)))),
    ):  # fmt: skip
        assert found.p[0] == same.p[0]
        assert found.low[0] == found.high[0] == pytest.approx(0.1)
    assert paired(a, b + jitter).p[0] == 2 / 2**n
    assert paired(a, b + 1e5 * jitter).p[0] < 1e-3


def test_what_is_not_defined_stays_so() -> None:
    gone = Means(*(np.array([np.nan]) for _ in range(3)), np.array([8.0]))
    there = Means(np.array([1.0]), np.array([0.9]), np.array([1.1]), np.array([8.0]))
    found = differences(gone, there)
    assert np.isnan([found.value, found.low, found.high, found.p]).all()
    a, b = np.zeros((8, 2)), np.ones((8, 2)) + np.arange(8)[:, None]
    a[0, 0] = np.nan
    assert paired(a, b).value.tolist() == [(b[1:, 0]).mean(), b[:, 1].mean()]
    with pytest.raises(ValueError, match="no pairs"):
        paired(np.zeros((8, 2)), np.zeros((7, 2)))
