"""Ratios of means, against the definition written out over the resamples themselves."""

from __future__ import annotations

import numpy as np
import pytest

from probe.ratio import clearly_positive, ratio_of_means
from probe.statistics import resample_counts


@pytest.fixture
def sample():
    rng = np.random.default_rng(0)
    whole = rng.normal(4, 1, 20)
    return np.stack([0.5 * whole, whole, rng.normal(1, 1, 20)], 1), whole


def test_a_share_of_itself_has_no_width(sample):
    part, whole = sample
    found = ratio_of_means(part, whole)
    # One rounding in each sum and in the division; sums of 20 numbers of size 4.
    np.testing.assert_allclose(found.mean[:2], [0.5, 1.0], rtol=1e-14)
    np.testing.assert_allclose([found.low[:2], found.high[:2]], [[0.5, 1.0]] * 2, rtol=1e-13)
    assert found.low[2] < found.mean[2] < found.high[2]
    assert found.n.tolist() == [20, 20, 20]


@pytest.mark.parametrize("groups", [None, [index // 4 for index in range(20)]])
def test_part_and_whole_are_drawn_together(sample, groups):
    part, whole = sample
    found = ratio_of_means(part, whole, groups=groups, resamples=300, seed=3)
    ratios = []
    for counts in resample_counts(20, groups=groups, resamples=300, seed=3):
        rows = np.repeat(np.arange(20), counts)
        ratios.append(part[rows].mean(0) / whole[rows].mean())
    np.testing.assert_allclose(found.low, np.quantile(ratios, 0.025, axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.high, np.quantile(ratios, 0.975, axis=0), rtol=1e-12)


def test_groups_widen_what_prompts_would_narrow():
    part = np.repeat([[0.0], [1.0], [2.0], [4.0]], 5, axis=0)
    alone = ratio_of_means(part, np.ones(20))
    together = ratio_of_means(part, np.ones(20), groups=np.repeat([0, 1, 2, 3], 5).tolist())
    assert together.high[0] - together.low[0] > 1.5 * (alone.high[0] - alone.low[0])


def test_what_has_no_ratio_or_interval(sample):
    part, whole = sample
    with pytest.raises(ValueError, match="mean of the whole is 0"):
        ratio_of_means(part, np.zeros(20))
    with pytest.raises(ValueError, match="not finite"):
        ratio_of_means(part, np.where(whole > 4, np.nan, whole))
    one = ratio_of_means(part, whole, groups=["a"] * 20)
    assert np.isnan([one.low, one.high]).all()
    assert one.mean[1] == 1


def test_clearly_positive():
    assert clearly_positive(np.array([1.0, 2.0, 3.0]))
    assert not clearly_positive(np.array([1.0, -2.0, 3.0, -1.5]))
    assert not clearly_positive(-np.ones(3))
    assert clearly_positive(np.ones(1)), "one prompt has no interval to ask"
    assert not clearly_positive(np.zeros(1))
