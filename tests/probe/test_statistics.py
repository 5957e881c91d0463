from __future__ import annotations

import itertools

import numpy as np
import pytest

from probe.statistics import FLIPS, RESAMPLES, benjamini_hochberg, bootstrap, resample_counts, sign_flip_p


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


def flipped_by_hand(values: np.ndarray) -> float:
    """All sign flips of one column, whole numbers, counted one at a time."""
    signs = itertools.product((1, -1), repeat=len(values))
    return float(np.mean([abs(np.dot(sign, values)) >= abs(values.sum()) for sign in signs]))


@pytest.mark.parametrize("n", [1, 2, 5, 13])
def test_sign_flips_are_exact_for_few_prompts(n: int) -> None:
    effects = np.random.default_rng(n).integers(-9, 10, size=(n, 6))
    expected = [flipped_by_hand(column) for column in effects.T]
    assert sign_flip_p(effects.astype(float)).tolist() == expected
    # Tenths are not exact in binary: equal sums must still count as equal, so 1/10 of the numbers has the same p.
    assert sign_flip_p(effects / 10).tolist() == expected


def test_drawn_flips_come_close_to_all_of_them() -> None:
    effects = np.random.default_rng(0).normal(0.4, 1, size=(14, 5))
    expected = np.array([flipped_by_hand(column) for column in effects.T])
    # A share of 10,000 draws: standard error at most 0.005; five columns within four of it.
    np.testing.assert_allclose(sign_flip_p(effects), expected, atol=0.02)
    assert sign_flip_p(np.full((40, 1), 1.0)).tolist() == [1 / (1 + FLIPS)]


def test_p_is_uniform_when_there_is_nothing() -> None:
    p = sign_flip_p(np.random.default_rng(1).normal(size=(20, 1500)))
    for level in (0.01, 0.05, 0.2, 0.5):
        # The columns are independent given the shared flips; binomial standard error, four of them.
        assert abs((p <= level).mean() - level) < 4 * np.sqrt(level * (1 - level) / 1500)


def test_one_set_of_flips_serves_all_columns_and_the_seed_decides() -> None:
    effects = np.random.default_rng(2).normal(0.2, 1, size=(30, 4))
    together = sign_flip_p(effects, seed=3)
    assert [sign_flip_p(effects[:, [column]], seed=3)[0] for column in range(4)] == together.tolist()
    assert sign_flip_p(-effects * 8, seed=3).tolist() == together.tolist()
    assert sign_flip_p(effects, seed=4).tolist() != together.tolist()


def test_prompts_without_a_value_are_left_out_of_the_test() -> None:
    effects = np.random.default_rng(4).normal(1, 1, size=(20, 3))
    effects[8:, 1], effects[:, 2] = np.nan, np.nan
    p = sign_flip_p(effects)
    assert p[1] == sign_flip_p(effects[:8, [1]])[0]
    assert np.isnan(p[2])
    assert p[0] == sign_flip_p(effects[:, [0]])[0]
    assert sign_flip_p(np.zeros((20, 1))).tolist() == [1.0]
    with pytest.raises(ValueError, match="infinite"):
        sign_flip_p(np.array([[np.inf]]))


def test_false_discovery_rates_of_the_published_example() -> None:
    # Benjamini and Hochberg (1995), section 3.2: 15 tests, of which the first four are called at 0.05.
    published = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344,
                 0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0000]  # fmt: skip
    p = np.random.default_rng(0).permutation(published)
    q = benjamini_hochberg(p)
    assert sorted(p[q < 0.05]) == published[:4]
    by_hand = [min(min(published[j] * 15 / (j + 1) for j in range(i, 15)), 1) for i in range(15)]
    np.testing.assert_allclose(np.sort(q), by_hand, rtol=1e-12)


def test_heads_without_a_p_count_as_tests() -> None:
    q = benjamini_hochberg(np.array([0.01, np.nan, 0.04, np.nan]))
    assert q[[0, 2]].tolist() == [0.04, 0.08]
    assert np.isnan(q[[1, 3]]).all()
    assert benjamini_hochberg(np.array([])).tolist() == []
    assert benjamini_hochberg(np.array([0.9, 0.8])).tolist() == [0.9, 0.9]


def test_prompts_of_a_group_turn_together() -> None:
    values = np.random.default_rng(5).integers(-9, 10, size=(12, 3)).astype(float)
    values[:, 2] = np.nan
    values[3, 1] = np.nan
    labels = ["a", "b", "c", "a", "b", "c", "d", "d", "d", "d", "e", "f"]
    sums = np.array([[np.nansum(values[np.array(labels) == group, column]) for column in (0, 1)] for group in "abcdef"])
    p = sign_flip_p(values, groups=labels)
    assert p[:2].tolist() == [flipped_by_hand(column) for column in sums.T]
    assert np.isnan(p[2])
    # Forty copies of one prompt are one witness, not forty.
    assert sign_flip_p(np.ones((40, 1)), groups=["same"] * 40).tolist() == [1.0]
    with pytest.raises(ValueError, match="2 group labels for 12 units"):
        sign_flip_p(values, groups=[1, 2])
