"""Removal paths: which heads are gone where, and that the scores are those of exact removal."""

from __future__ import annotations

import numpy as np
import pytest

from probe.analyses.methods import removed
from probe.analyses.removal import RemovalPlan, greedy, ranking, removal_curve, removal_sets
from probe.analyses.units import set_unit, units_of
from probe.analyses.workbench import Workbench, here
from probe.errors import TokensError
from probe.models import load

PLAN = RemovalPlan(ks=(1, 2, 4, 9), draws=3, prompts=3)


@pytest.fixture
def bench(make_llama, make_task):
    return Workbench(load(make_llama()), make_task(4))


def test_sets_of_a_path(bench):
    ranked = list(bench.heads[::-1])
    points = removal_sets({"mine": ranked}, bench.heads, PLAN, seed=1)
    assert {k for *_, k in points} == {1, 2, 4}, "9 of 12 leave fewer than 9 to compare with"
    for k in (1, 2, 4):
        assert points["mine", "ranked", 0, k] == tuple(ranked[:k])
        assert set(points["mine", "reversed", 0, k]) == set(ranked[-k:])
        for draw in range(3):
            drawn = points["mine", "random", draw, k]
            assert len(set(drawn)) == k
            assert not set(drawn) & set(ranked[:k])
    assert points == removal_sets({"mine": ranked}, bench.heads, PLAN, seed=1)
    assert points != removal_sets({"mine": ranked}, bench.heads, PLAN, seed=2)
    # Two heads of the last layer, two others there: matched by layer.
    assert [layer for layer, _ in points["mine", "random", 0, 2]] == [2, 2]


def test_the_curve_holds_the_scores_of_exact_removal(bench):
    rankings = {"forward": list(bench.heads), "backward": list(bench.heads[::-1])}
    curve = removal_curve(bench, "zero", rankings, here(bench), plan=PLAN, seed=0)
    frame = curve.frame
    assert sorted(frame["prompt"].unique()) == [0, 1, 2]
    assert (frame["share"] == frame["k"] / 12).all()
    wanted, _ = removed(bench, "zero", [set_unit("x", bench.heads[:4])], here(bench))
    path = frame.query("criterion == 'forward' and order == 'ranked' and k == 4").sort_values("prompt")
    np.testing.assert_allclose(path["value"], wanted[0, :3], rtol=0, atol=1e-12)
    # What one ranks first the other ranks last.
    other = frame.query("criterion == 'backward' and order == 'reversed' and k == 4").sort_values("prompt")
    assert np.array_equal(path["value"], other["value"])
    assert len(frame.query("order == 'random' and k == 2")) == 2 * 3 * 3


def test_greedy_takes_what_hurts_most_beside_what_is_gone(bench):
    chosen, scores = greedy(bench, "zero", bench.heads, 3, here(bench))
    gone: list[tuple[int, int]] = []
    for head, score in zip(chosen, scores, strict=True):
        left = [other for other in bench.heads if other not in gone]
        means = [removed(bench, "zero", [set_unit("t", [*gone, other])], here(bench))[0].mean() for other in left]
        assert head == left[int(np.argmin(means))]
        assert score == pytest.approx(min(means), abs=1e-12)
        gone.append(head)


def test_ranking_falls_and_puts_the_unmeasured_last(bench):
    units = units_of(bench.running)[:4]
    assert ranking(units, [0.5, float("nan"), 2.0, 0.5]) == [(0, 2), (0, 0), (0, 3), (0, 1)]
    with pytest.raises(TokensError, match="only single heads"):
        ranking(units_of(bench.running, "layer"), [1, 2, 3])


def test_bad_plans_are_refused(bench):
    with pytest.raises(TokensError, match="wanted ≥ 1 each"):
        RemovalPlan(ks=(0,))
    with pytest.raises(TokensError, match="holds 2 heads; wanted each of 12"):
        removal_sets({"short": list(bench.heads[:2])}, bench.heads, PLAN, 0)
    with pytest.raises(TokensError, match="heads wanted greedily"):
        greedy(bench, "zero", bench.heads[:2], 3, here(bench))
