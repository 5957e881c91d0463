"""The measures of likeness, against their definitions written out and published examples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.analyses.overlap_measures import PERSISTENCE, RANK_BIASED, SPEARMAN, WEIGHTED_JACCARD

LISTS = st.lists(st.tuples(st.integers(-4, 9), st.integers(-4, 9)), min_size=2, max_size=25)


def biased_by_hand(first: list[int], second: list[int], p: float) -> float:
    """Webber et al.'s sum over depths, for two rankings of the same items."""
    total = 0.0
    for depth in range(1, len(first) + 1):
        total += len(set(first[:depth]) & set(second[:depth])) / depth * p**depth
    return p ** len(first) + (1 - p) / p * total


def order(scores: np.ndarray) -> list[int]:
    return sorted(range(len(scores)), key=lambda item: (-scores[item], item))


@settings(deadline=None, max_examples=80)
@given(LISTS)
def test_rank_biased_overlap_is_its_sum_over_depths(rows):
    first, second = np.array(rows, float).T
    wanted = biased_by_hand(order(first), order(second), PERSISTENCE)
    assert RANK_BIASED(first, second) == pytest.approx(wanted, abs=1e-12)
    assert RANK_BIASED(second, first) == pytest.approx(wanted, abs=1e-12)


def test_rank_biased_overlap_of_known_rankings():
    # 1 2 3 4 5 against 2 3 4 1 5 at p = 0.9: 0.828 in two public implementations.
    assert RANK_BIASED(np.array([5.0, 4, 3, 2, 1]), np.array([2.0, 5, 4, 3, 1])) == pytest.approx(0.828, abs=5e-4)
    scores = np.random.default_rng(0).normal(size=270)
    assert RANK_BIASED(scores, scores) == pytest.approx(1, abs=1e-12)
    # Rankings that agree in their first ten places and turn the other 260 round have the weight of ten places
    # (Webber et al., equation 21; their 86 %); the next shared item comes at depth 140, worth less than 0.9¹⁴⁰ = 4e-7.
    other = scores.copy()
    rest = np.argsort(-scores)[10:]
    other[rest] = scores[rest][::-1]
    p, d = PERSISTENCE, 10
    weight = 1 - p ** (d - 1) + (1 - p) / p * d * (np.log(1 / (1 - p)) - sum(p**i / i for i in range(1, d)))
    assert RANK_BIASED(scores, other) == pytest.approx(weight, abs=1e-6)
    assert round(weight, 2) == 0.86


@settings(deadline=None, max_examples=80)
@given(LISTS)
def test_weighted_jaccard_is_common_weight_over_all_weight(rows):
    first, second = np.array(rows, float).T
    u, w = ([max(float(value), 0) for value in scores] for scores in (first, second))
    if not sum(u) or not sum(w):
        assert np.isnan(WEIGHTED_JACCARD(first, second))
        return
    u, w = [value / sum(u) for value in u], [value / sum(w) for value in w]
    both, either = (sum(map(pick, u, w)) for pick in (min, max))
    assert WEIGHTED_JACCARD(first, second) == pytest.approx(both / either, abs=1e-12)


def test_weighted_jaccard_knows_no_units():
    scores = np.random.default_rng(0).normal(size=50)
    assert WEIGHTED_JACCARD(scores, 0.01 * scores) == pytest.approx(1, abs=1e-12)
    assert WEIGHTED_JACCARD(np.array([1.0, -9, 0]), np.array([-9.0, 1, 0])) == 0
    # Equal sets reduce it to Jaccard: 2 heads of 3 each, 4 in all.
    assert WEIGHTED_JACCARD(np.array([1.0, 1, 1, 0]), np.array([0.0, 2, 2, 2])) == pytest.approx(0.5)


@settings(deadline=None, max_examples=80)
@given(LISTS)
def test_spearman_is_the_correlation_of_mean_ranks(rows):
    first, second = np.array(rows, float).T
    ranks = [
        [(scores < value).sum() + ((scores == value).sum() + 1) / 2 for value in scores] for scores in (first, second)
    ]
    if any(np.ptp(one) == 0 for one in ranks):
        assert np.isnan(SPEARMAN(first, second))
        return
    assert SPEARMAN(first, second) == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-12)


@pytest.mark.parametrize("measure", [RANK_BIASED, SPEARMAN, WEIGHTED_JACCARD])
def test_many_lists_are_compared_as_one_by_one(measure):
    rng = np.random.default_rng(1)
    first, others = rng.normal(size=12), rng.normal(size=(2, 3, 12))
    ready = np.stack([[measure.prepare(one) for one in row] for row in others])
    found = measure.compare(measure.prepare(first), ready)
    assert found.shape == (2, 3)
    # Sums of twelve products in another order: a few roundings of numbers below 1.
    np.testing.assert_allclose(found, [[measure(first, one) for one in row] for row in others], atol=1e-14)
