"""The null of an overlap: against all arrangements counted, hypergeometric sums, and its own level."""

from __future__ import annotations

import itertools
from math import comb

import numpy as np
import pytest

from probe.analyses.overlap_chance import beside, relabelled, shared_in_cells
from probe.analyses.overlap_measures import SPEARMAN, WEIGHTED_JACCARD
from probe.circuits.graph import Graph

CELLS = np.repeat(np.arange(3), 4)
FIRST = np.array([1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0], dtype=bool)
SECOND = np.array([0, 1, 1, 0, 0, 1, 1, 0, 1, 0, 1, 0], dtype=bool)


def exact(cells: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Probability of each number of shared items: cells are independent, each hypergeometric."""
    whole = np.ones(1)
    for cell in np.unique(cells):
        n, a, b = ((cells == cell).sum(), first[cells == cell].sum(), second[cells == cell].sum())
        here = [comb(int(a), k) * comb(int(n - a), int(b) - k) / comb(int(n), int(b)) for k in range(int(b) + 1)]
        whole = np.convolve(whole, here)
    return whole


def test_the_exact_law_is_all_arrangements_counted():
    layers = [list(itertools.permutations(SECOND[cell == CELLS])) for cell in range(3)]
    found = np.zeros(7)
    for parts in itertools.product(*layers):
        found[int((FIRST & np.concatenate(parts)).sum())] += 1
    law = exact(CELLS, FIRST, SECOND)
    np.testing.assert_allclose(found[: len(law)] / found.sum(), law, atol=1e-12)


def test_shared_heads_beside_chance():
    law, draws = exact(CELLS, FIRST, SECOND), 20_000
    measure = shared_in_cells(CELLS, FIRST, SECOND, draws=draws, seed=0)
    assert measure.value == 3
    # Σ a_l b_l / H = (2·2 + 3·2 + 0·2) / 4.
    assert measure.expected == 2.5 == pytest.approx((law * np.arange(len(law))).sum())
    for found, wanted in ((measure.p_value, law[3:].sum()), (measure.p_less, law[:4].sum())):
        # A share of the draws and the one that is added: four standard errors.
        assert abs(found - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / draws) + 1 / draws
    assert measure == shared_in_cells(CELLS, FIRST, SECOND, draws=draws, seed=0)
    assert measure != shared_in_cells(CELLS, FIRST, SECOND, draws=draws, seed=1)
    outside = law[: int(measure.low)].sum() + law[int(measure.high) + 1 :].sum()
    # 5 % by definition, less where a count is coarse; two quantiles of the draws, four standard errors each.
    assert outside < 0.05 + 8 * np.sqrt(0.025 * 0.975 / draws)


def test_layers_count():
    # Both sets fill the first layer: sharing it is no surprise. The same numbers in one pool of twelve would be.
    full = CELLS == 0
    assert shared_in_cells(CELLS, full, full, draws=999, seed=0).p_value == 1
    assert shared_in_cells(CELLS, full, full, draws=999, seed=0).expected == 4
    assert shared_in_cells(np.zeros(12, dtype=int), full, full, draws=9_999, seed=0).p_value < 0.01


def test_p_is_a_p_value_where_nothing_is_shared_but_layers():
    rng = np.random.default_rng(0)
    cells = np.repeat(np.arange(10), 9)
    found = []
    for seed in range(400):
        first, second = (rng.random(90) < np.repeat(np.linspace(0.1, 0.6, 10), 9) for _ in range(2))
        measure = shared_in_cells(cells, first, second, draws=500, seed=seed)
        found.append((measure.p_value, measure.p_less))
    for level in (0.05, 0.2, 0.5):
        # Counts are coarse, so p is at most as often below the level as it says: four binomial standard errors above.
        shares = (np.array(found) <= level).mean(0)
        assert (shares <= level + 4 * np.sqrt(level * (1 - level) / 400)).all()
    assert (np.array(found) <= 0.5).mean() > 0.2, "a p-value that is never small would pass the bound above"


def test_relabelling_moves_scores_inside_their_layers():
    graph, rng = Graph(3, 3), np.random.default_rng(0)
    first, second = rng.normal(size=(2, 9)) + np.repeat([0, 5, 10], 3)
    one = relabelled(graph, first, second, {"s": SPEARMAN, "w": WEIGHTED_JACCARD}, draws=2_500, seed=1)
    # Layers are in the same order in every relabelling, so chance is far from 0.
    assert 0.8 < one["s"].expected < one["s"].high <= 1
    by_hand = [
        SPEARMAN(first, np.concatenate(parts))
        for parts in itertools.product(*(itertools.permutations(row) for row in second.reshape(3, 3)))
    ]
    # All 216 relabellings, beside 2,500 drawn of them: four standard errors.
    assert abs(one["s"].expected - np.mean(by_hand)) < 4 * np.std(by_hand) / np.sqrt(2_500)
    wanted = np.mean(np.array(by_hand) >= SPEARMAN(first, second) - 1e-12)
    assert abs(one["s"].p_value - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / 2_500) + 1 / 2_500
    assert one == relabelled(graph, first, second, {"s": SPEARMAN, "w": WEIGHTED_JACCARD}, draws=2_500, seed=1)


def test_the_same_scores_are_as_alike_as_can_be():
    scores = np.random.default_rng(0).normal(size=24)
    one = relabelled(Graph(3, 8), scores, scores, {"s": SPEARMAN}, draws=999, seed=0)["s"]
    # 8!³ relabellings: none of 999 is the identity.
    assert (one.value, one.p_value, one.p_less) == (pytest.approx(1), 1 / 1000, 1.0)


def test_what_is_not_defined_stays_so():
    flat = relabelled(Graph(3, 4), np.ones(12), np.arange(12.0), {"s": SPEARMAN}, draws=9, seed=0)["s"]
    assert all(np.isnan(value) for value in (flat.value, flat.expected, flat.low, flat.high, flat.p_value, flat.p_less))


def test_equal_sums_in_another_order_count_as_equal():
    null = np.array([0.3, 0.1 + 0.2, 0.5])
    assert beside(0.3, null).p_value == 1.0
    assert beside(0.1 + 0.2, null).p_less == 3 / 4
