"""Circuits of edges are run once each, and faithfulness at the grain of edges ends at 0 and 1."""

from __future__ import annotations

import numpy as np
import pytest

from probe.analyses import edge_runs
from probe.analyses.edge_attribution import attribute
from probe.analyses.edge_circuit import edge_metric
from probe.analyses.edge_curve import edge_curve
from probe.analyses.edge_runs import EdgeRuns, edges_key
from probe.analyses.faithfulness import faithfulness
from probe.analyses.greedy_removal import greedy_removal
from probe.analyses.selection import prune, top_edges
from probe.errors import TokensError
from probe.models import Loaded


@pytest.fixture
def runs(make_llama, make_task):
    task = make_task()
    loaded = Loaded(make_llama(layers=2), None, "small", "test", "0")
    found = EdgeRuns(loaded, task)
    # Right answers of random prompts are drawn at random: those that the twin does better are turned round.
    worse = found.clean < found.empty
    prompts = tuple(
        type(one)(**{**vars(one), "answer_ids": one.wrong_ids, "wrong_ids": one.answer_ids}) if turn else one
        for one, turn in zip(task.prompts, worse, strict=True)
    )
    return EdgeRuns(loaded, type(task)("small", "logit_diff", prompts), model=found.model)


def test_a_circuit_is_run_once_and_told_to_whom_keeps_it(runs, monkeypatch):
    graph = runs.model.graph
    keep = np.random.default_rng(0).random(graph.possible.shape) < 0.5
    known: dict[str, np.ndarray] = {}
    kept = EdgeRuns(runs.loaded, runs.task, model=runs.model, known=known)
    first = kept.kept([keep, ~keep])
    assert kept.circuits == 2
    assert set(known) == {edges_key(keep), edges_key(~keep)}
    np.testing.assert_array_equal(first[0], edge_metric(runs.loaded, runs.task, keep))
    monkeypatch.setattr(edge_runs, "edge_metric", lambda *_args, **_kwargs: pytest.fail("run again"))
    np.testing.assert_array_equal(kept.kept([~keep, keep]), first[::-1])


def test_keys_of_different_circuits_differ():
    a, b = np.zeros((3, 5), bool), np.zeros((5, 3), bool)
    c = a.copy()
    c[2, 4] = True
    assert len({edges_key(one) for one in (a, b, c)}) == 3


def test_faithfulness_of_edges_is_0_and_1_at_its_ends(runs):
    graph = runs.model.graph
    every = np.ones(graph.possible.shape, bool)
    keep = np.random.default_rng(1).random(graph.possible.shape) < 0.8
    found = faithfulness(runs, [every, ~every, keep])
    whole = (runs.clean - runs.empty).mean()
    assert found.mean[:2].tolist() == [1.0, 0.0]
    assert found.mean[2] == pytest.approx((runs.kept([keep])[0] - runs.empty).mean() / whole)


def test_the_curve_measures_pruned_circuits_of_every_share_beside_random_ones(runs):
    graph = runs.model.graph
    scores = attribute(runs.loaded, runs.task).edges
    shares = (0.1, 0.5, 1.0)
    curve = edge_curve(runs, scores, shares=shares, draws=3)
    for arm, absolute in (("edges", False), ("edges_absolute", True)):
        for share in shares:
            keep = prune(graph, top_edges(graph, scores, int(share * graph.n_edges), absolute=absolute))
            np.testing.assert_array_equal(curve.circuits[arm, share], keep)
            (point,) = [one for one in curve.points if one.arm == arm and one.size == share]
            assert point.count == keep.sum()
            assert point.faithfulness == pytest.approx(faithfulness(runs, [keep]).mean[0])
    random = [one for one in curve.points if one.arm == "random_edges"]
    assert [one.size for one in random] == [0.1, 0.5]
    assert all(one.low <= one.faithfulness <= one.high for one in random)
    f = [one.faithfulness for one in curve.points if one.arm == "edges"]
    assert curve.cpr == pytest.approx((f[0] + f[1]) / 2 * 0.4 + (f[1] + f[2]) / 2 * 0.5)
    g = [abs(1 - one.faithfulness) for one in curve.points if one.arm == "edges_absolute"]
    assert curve.cmd == pytest.approx((g[0] + g[1]) / 2 * 0.4 + (g[1] + g[2]) / 2 * 0.5)
    with pytest.raises(TokensError, match="0 random draws"):
        edge_curve(runs, scores, draws=0)


def test_greedy_removal_drops_what_costs_less_than_the_threshold(make_llama, make_task):
    loaded = Loaded(make_llama(layers=1), None, "small", "test", "0")
    task = make_task(2)
    runs = EdgeRuns(loaded, task)
    graph = runs.model.graph
    assert not greedy_removal(runs, 1e9).keep.any()
    fine = greedy_removal(runs, 0.03)
    assert 0 < fine.keep.sum() < graph.n_edges
    # What is dropped costs less than the threshold an edge, one after the other (nats of the answer's divergence).
    judged = EdgeRuns(loaded, type(task)("small", "neg_kl", task.prompts), model=runs.model)
    lost = (judged.clean - judged.kept([fine.keep])[0]).mean()
    assert lost <= 0.03 * (graph.n_edges - fine.keep.sum())
    coarse = greedy_removal(runs, 0.1)
    assert coarse.keep.sum() < fine.keep.sum()
    with pytest.raises(TokensError, match="metric 'accuracy'"):
        greedy_removal(runs, 0.1, metric="accuracy")
