from __future__ import annotations

import numpy as np
import pytest

from probe.statistics import RESAMPLES, bootstrap, resample_counts


def test_equals_a_plain_bootstrap_written_the_long_way() -> None:
    values = np.random.default_rng(3).normal(size=(9, 4))
    drawn = np.random.default_rng(5).integers(0, 9, size=(RESAMPLES, 9))
    means = values[drawn].mean(axis=1)
    summary = bootstrap(values, seed=5)
    # Sums of 9 numbers of order 1 in another order: a few units in the last place.
    np.testing.assert_allclose(summary.mean, values.mean(axis=0), atol=1e-14)
    np.testing.assert_allclose(summary.low, np.quantile(means, 0.025, axis=0), atol=1e-13)
    np.testing.assert_allclose(summary.high, np.quantile(means, 0.975, axis=0), atol=1e-13)
    assert summary.n.tolist() == [9, 9, 9, 9]


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    samples = np.random.default_rng(0).normal(size=(40, 2000))
    summary = bootstrap(samples)
    covered = np.mean((summary.low <= 0) & (summary.high >= 0))
    # A percentile interval of 40 normal values covers about 93.5 %; 2000 columns: standard error 0.6 %.
    assert 0.91 < covered < 0.96


def test_nan_is_left_out_of_mean_and_resamples() -> None:
    values = np.array([[1.0, np.nan], [2.0, 5.0], [3.0, np.nan], [np.nan, 7.0]])
    summary = bootstrap(values)
    assert summary.mean.tolist() == [2.0, 6.0]
    assert summary.n.tolist() == [3, 2]
    assert summary.low[0] >= 1
    assert summary.high[0] <= 3
    assert (summary.low[1], summary.high[1]) == (5.0, 7.0)


def test_undefined_is_nan_never_zero() -> None:
    values = np.array([[np.nan, 4.0], [np.nan, np.nan]])
    summary = bootstrap(values)
    assert np.isnan(summary.mean[0])
    assert summary.n.tolist() == [0, 1]
    assert summary.mean[1] == 4.0
    assert np.isnan([*summary.low, *summary.high]).all()
    single = bootstrap(np.array([[2.0]]))
    assert single.mean.tolist() == [2.0]
    assert np.isnan(single.low).all()
    assert np.isnan(single.high).all()


def test_resamples_are_shared_so_that_differences_are_paired() -> None:
    values = np.random.default_rng(1).normal(size=(8, 1))
    summary = bootstrap(np.hstack([values, values + 1, -values]))
    np.testing.assert_allclose(summary.low[1], summary.low[0] + 1, atol=1e-13)
    np.testing.assert_allclose(summary.high[2], -summary.low[0], atol=1e-13)


def test_seed_decides() -> None:
    values = np.random.default_rng(1).normal(size=(8, 3))
    first, again, other = bootstrap(values, seed=1), bootstrap(values, seed=1), bootstrap(values, seed=2)
    assert first.low.tobytes() == again.low.tobytes()
    assert first.low.tobytes() != other.low.tobytes()


def test_equal_values_have_no_width() -> None:
    summary = bootstrap(np.full((7, 2), 0.1))
    assert summary.mean.tolist() == summary.low.tolist() == summary.high.tolist() == [0.1, 0.1]


def test_groups_are_drawn_together() -> None:
    counts = resample_counts(6, groups=["a", "a", "b", "b", "b", "c"])
    assert counts.shape == (RESAMPLES, 6)
    assert (counts[:, 0] == counts[:, 1]).all()
    assert (counts[:, 2] == counts[:, 4]).all()
    assert set((counts[:, 0] + counts[:, 2] + counts[:, 5]).tolist()) == {3}
    one_group = bootstrap(np.arange(4.0)[:, None], groups=["a"] * 4)
    assert np.isnan(one_group.low).all()


def test_grouped_interval_is_wider_when_groups_agree() -> None:
    centre = np.random.default_rng(2).normal(size=10).repeat(4)[:, None]
    alone, together = bootstrap(centre), bootstrap(centre, groups=list(np.arange(10).repeat(4)))
    # Four equal copies a group: the standard error is twice what independent units would give.
    ratio = (together.high - together.low) / (alone.high - alone.low)
    assert 1.7 < ratio[0] < 2.3


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="infinite"):
        bootstrap(np.array([[np.inf], [1.0]]))
    with pytest.raises(ValueError, match="2 group labels for 3 units"):
        resample_counts(3, groups=[1, 2])
