"""One task's circuit on another, and what is lost with the shared heads, on planted circuits that share k heads."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from probe.analyses.head_runs import HeadRuns
from probe.analyses.transfer import part_effects, parts_of, transfer
from probe.circuits.circuit import Circuit, CircuitNode
from probe.circuits.graph import Graph, head_node
from probe.errors import TokensError
from probe.models import load
from probe.planted.circuits import planted_circuits, planted_task, planted_truth

TASKS = ("recall", "translate")
EXACT = 1e-5
"""The planted tasks' metric is 6 in float32: 2**-24 · 6 in a score, some ten of them in a ratio of means."""


@pytest.fixture(scope="module")
def planted():
    made = {}

    def of(shared):
        if shared not in made:
            loaded = load(planted_circuits(shared))
            made[shared] = {name: HeadRuns(loaded, planted_task(name, prompts=12)) for name in TASKS}
        return made[shared], {name: planted_truth(name, shared=shared) for name in TASKS}

    return of


@pytest.mark.parametrize("shared", [0, 2, 4])
def test_a_circuit_does_its_own_task_and_another_only_where_all_is_shared(planted, shared):
    runs, truth = planted(shared)
    for source in TASKS:
        for task in TASKS:
            found = transfer(runs[task].loaded, tuple(truth[source].heads), runs[task].task, draws=19, runs=runs[task])
            whole = source == task or shared == 4
            # Replaced bystanders write other junk, which nobody reads but the norms' scale: under 2 % of it.
            assert found.faithfulness == pytest.approx(float(whole), abs=0.02)
            assert found.low <= found.faithfulness <= found.high
            assert len(found.random) == 19
            if whole:
                assert found.random.max() < 0.5
                assert found.p_value == 1 / 20
            else:
                assert found.p_value > 0.05, "no better than chance"


def test_carriers_without_their_negative_mover_do_more_than_the_model(planted):
    """It takes 0.3 of what the mover gives: f is above 1, and is not cut."""
    runs, truth = planted(0)
    found = transfer(runs["recall"].loaded, truth["recall"].carriers, runs["recall"].task, draws=1, runs=runs["recall"])
    assert 1.2 < found.low < found.faithfulness < 1.6


def test_removing_what_is_shared_hurts_both_tasks_and_the_rest_its_own(planted):
    runs, truth = planted(2)
    circuits = [truth[name].carriers for name in TASKS]
    assert parts_of(*circuits) == {"shared": ((1, 1), (2, 0)), "only_a": ((0, 0),), "only_b": ((0, 2),)}
    for task, own in zip(TASKS, ("only_a", "only_b"), strict=True):
        found = {one.part: one for one in part_effects(runs[task], *circuits, draws=9)}
        assert list(found) == ["shared", "only_a", "only_b"]
        for part, effect in found.items():
            if part in ("shared", own):
                # The backup wakes when the mover is gone, but has no question to answer.
                assert effect.share == pytest.approx(1, abs=0.05)
                assert effect.low > effect.random.max()
                assert effect.p_value == 0.1
                clean, gone = runs[task].clean, runs[task].replaced([effect.heads])[0]
                assert effect.effect == pytest.approx((clean - gone).mean(), abs=1e-12)
            else:
                assert effect.effect == pytest.approx(0, abs=EXACT)


def test_random_heads_come_from_neither_circuit_in_the_layers_of_the_part(planted, monkeypatch):
    runs, truth = planted(2)
    asked = []
    original = HeadRuns.replaced
    monkeypatch.setattr(HeadRuns, "replaced", lambda self, sets: asked.append(sets) or original(self, sets))
    part_effects(runs["recall"], truth["recall"].carriers, truth["translate"].carriers, draws=5, seed=3)
    drawn = [sets for sets in asked if len(sets) == 5]
    assert len(drawn) == 3
    circuits = {*truth["recall"].carriers, *truth["translate"].carriers}
    for sets, layers in zip(drawn, ({1: 1, 2: 1}, {0: 1}, {0: 1}), strict=True):
        for members in sets:
            assert not set(members) & circuits
            assert Counter(layer for layer, _ in members) == layers


def test_a_circuit_object_brings_its_task_and_its_heads(planted):
    runs, truth = planted(4)
    sweep = runs["recall"].graph
    graph = Graph(sweep.n_layers, sweep.n_heads)
    inside = {head_node(*head) for head in truth["recall"].heads}
    nodes = tuple(CircuitNode(name, 0.0, 0.0, 0.0, name in inside) for name in graph.heads)
    circuit = Circuit(
        runs["recall"].loaded.name, graph.n_layers, graph.n_heads, graph.n_heads, False, None, "recall", "logit_diff",
        "eap", "resample",
        "new_pairs", 12, "0" * 64, 0, "1", nodes,
    )  # fmt: skip
    found = transfer(runs["translate"].loaded, circuit, runs["translate"].task, draws=4, runs=runs["translate"])
    assert (found.source, found.task) == ("recall", "translate")
    assert found.heads == tuple(sorted(truth["recall"].heads))
    assert found.sentence.startswith("The circuit of recall (4 heads) does 1.00 [1.00, 1.00] of translate; 4 random")
    again = transfer(runs["translate"].loaded, circuit, runs["translate"].task, draws=4)
    assert np.array_equal(again.random, found.random)
    with pytest.raises(TokensError, match="a circuit of another on"):
        transfer(runs["translate"].loaded, replace(circuit, model="another"), runs["translate"].task, draws=4)


def test_what_cannot_be_transferred_is_refused(planted):
    runs, truth = planted(0)
    loaded, task = runs["recall"].loaded, runs["recall"].task
    with pytest.raises(TokensError, match="transfer of 0 heads"):
        transfer(loaded, (), task, runs=runs["recall"])
    with pytest.raises(TokensError, match="no head L9H0"):
        transfer(loaded, [(9, 0)], task, runs=runs["recall"])
    with pytest.raises(TokensError, match="0 random draws"):
        part_effects(runs["recall"], truth["recall"].carriers, truth["translate"].carriers, draws=0)


@pytest.mark.real
def test_ioi_heads_of_smollm2_do_less_of_greater_than():
    loaded = load("smollm2-135m")
    heads = [(23, 3), (20, 0), (29, 1), (17, 4), (19, 2)]
    own = transfer(loaded, heads, "ioi", prompts=8, draws=5)
    other = transfer(loaded, heads, "greater_than", prompts=8, draws=5)
    assert own.low > max(own.random.max(), other.high)


def test_a_part_that_leaves_too_few_others_has_no_random_heads(planted):
    """Nearly all heads in one circuit: nothing is left to draw from, and the part is measured all the same."""
    runs = planted(0)[0][TASKS[0]]
    (part,) = part_effects(runs, runs.heads[:-1], runs.heads[:-1], draws=2)
    assert len(part.random) == 0
    assert np.isnan(part.p_value)
    assert np.isfinite(part.effect)
