from __future__ import annotations

import numpy as np
import pytest

from probe.rank_correlation import rank_correlation


def test_it_is_pearson_of_the_ranks() -> None:
    found = rank_correlation(np.array([1.0, 2, 3, 4, 5]), np.array([1.0, 4, 9, 25, 16]))
    # Ranks 1 2 3 5 4: 1 − 6 Σd² / (n (n² − 1)) = 1 − 12 / 120.
    assert found.value == pytest.approx(0.9, abs=1e-12)
    assert found.n == 5
    tied = rank_correlation(np.array([1.0, 1, 2, 3]), np.array([1.0, 2, 3, 4]))
    assert tied.value == pytest.approx(np.corrcoef([1.5, 1.5, 3, 4], [1, 2, 3, 4])[0, 1], abs=1e-12)


def test_the_interval_is_bonett_and_wrights() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=100)
    found = rank_correlation(x, x + rng.normal(size=100))
    half = 1.959964 * np.sqrt((1 + found.value**2 / 2) / 97)
    assert np.arctanh(found.low) == pytest.approx(np.arctanh(found.value) - half, rel=1e-6)
    assert np.arctanh(found.high) == pytest.approx(np.arctanh(found.value) + half, rel=1e-6)


def test_the_interval_holds_the_truth_about_19_times_in_20() -> None:
    rng, r = np.random.default_rng(1), 0.5
    truth = 6 / np.pi * np.arcsin(r / 2)  # Spearman's coefficient of a normal pair with Pearson's r
    held = 0
    for _ in range(200):
        x, noise = rng.normal(size=(2, 80))
        found = rank_correlation(x, r * x + np.sqrt(1 - r**2) * noise)
        held += found.low <= truth <= found.high
    # 190 expected, standard deviation 3.1 if it holds at 95 %.
    assert 180 <= held <= 198


def test_what_is_not_defined_is_nan() -> None:
    line = np.arange(6.0)
    assert np.isnan(rank_correlation(line[:3], line[:3]).value)
    assert np.isnan(rank_correlation(line, np.ones(6)).value)
    whole = rank_correlation(line, -line)
    assert whole.value == -1
    assert np.isnan([whole.low, whole.high]).all()
    some = np.where(line == 2, np.nan, line)
    assert rank_correlation(some, line).n == 5
