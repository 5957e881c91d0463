"""What a circuit refuses to be, and how its heads are read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from probe.circuits.circuit import CircuitEdge, CircuitNode, CurvePoint
from probe.circuits.graph import Graph
from probe.errors import ResultsError


def test_heads_and_scores_in_graph_order(make_small_circuit):
    circuit = make_small_circuit([(2, 3), (0, 1)], scores=np.arange(12) / 8)
    assert circuit.graph == Graph(3, 4)
    assert circuit.heads == ((0, 1), (2, 3))
    assert circuit.head_scores.tolist() == [value / 8 for value in range(12)]
    assert [circuit.score_of(head) for head in circuit.heads] == [1 / 8, 11 / 8]
    assert circuit.node_of((1, 0)).name == "a1.h0"
    with pytest.raises(ResultsError, match=r"no head a3\.h0 in small, which has 3 layers of 4"):
        circuit.score_of((3, 0))


def test_layers_without_attention_have_no_heads(make_small_circuit):
    whole = make_small_circuit()
    some = [node for node in whole.nodes if not node.name.startswith("a1")]
    circuit = replace(whole, layers=(0, 2), nodes=tuple(some))
    assert len(circuit.graph.heads) == 8
    with pytest.raises(ResultsError, match=r"no source 'a1\.h0'"):
        replace(whole, layers=(0, 2))


def test_other_parts_may_follow_the_heads(make_small_circuit):
    whole = make_small_circuit()
    circuit = replace(
        whole, nodes=(*whole.nodes, CircuitNode("m1", 2.0, 1, 3, True), CircuitNode("input", 1, 1, 1, True))
    )
    assert circuit.heads == whole.heads
    assert len(circuit.head_scores) == 12
    with pytest.raises(ResultsError, match="nodes out of order; wanted all 12 heads first"):
        replace(whole, nodes=(CircuitNode("m1", 2.0, 1, 3, True), *whole.nodes))


NODE = CircuitNode("a1.h2", 1.0, 0.5, 1.5, True)
POINT = CurvePoint("heads", 1, 1, 0.5, 0.4, 0.6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: {"n_heads": 0}, "0 heads on 2 key/value heads"),
        (lambda c: {"n_kv_heads": 3}, "share key/value heads evenly"),
        (lambda c: {"prompts": 0}, "found on 0 prompts"),
        (lambda c: {"layers": (0, 3)}, r"attention in layers \[0, 3\]; wanted some of 0 to 2"),
        (lambda c: {"layers": (2, 0, 1)}, "ascending"),
        (lambda c: {"n_layers": 10**6}, "more than can be held"),
        (lambda c: {"nodes": c.nodes[:-1]}, r"no node a2\.h3; wanted all 12 heads"),
        (lambda c: {"nodes": (*c.nodes, c.nodes[0])}, r"node a0\.h0 is listed twice"),
        (lambda c: {"nodes": (*c.nodes, replace(NODE, name="m3"))}, "no source 'm3'"),
        (lambda c: {"nodes": (*c.nodes, replace(NODE, name="logits"))}, "no source 'logits'"),
        (lambda c: {"nodes": (*c.nodes, replace(NODE, name="m0", score=float("nan")))}, "m0: score is nan"),
        (lambda c: {"nodes": (*c.nodes, replace(NODE, name="m0", low=2.0))}, "interval from 2 to 1.5; wanted low"),
        (lambda c: {"nodes": (*c.nodes, replace(NODE, name="m0", evidence={"x": float("inf")}))}, "m0: x is inf"),
        (lambda c: {"edges": (CircuitEdge("a9.h0", "m1", 1, True),)}, r"no source 'a9\.h0'"),
        (lambda c: {"edges": (CircuitEdge("a0.h0", "a1.h0", 1, True),)}, r"no target 'a1\.h0'"),
        (lambda c: {"edges": (CircuitEdge("a1.h0", "a1.h1<q>", 1, True),)}, "against the order .* a cycle"),
        (lambda c: {"edges": (CircuitEdge("m0", "m0", 1, True),)}, "against the order"),
        (lambda c: {"edges": (CircuitEdge("m0", "m1", 1, True),) * 2}, "edge m0->m1 is listed twice"),
        (lambda c: {"edges": (CircuitEdge("m0", "m1", float("inf"), True),)}, "m0->m1: score is inf"),
        (lambda c: {"curve": (replace(POINT, arm="header"),)}, "unknown arm; wanted one of heads, edges"),
        (lambda c: {"curve": (replace(POINT, faithfulness=float("nan")),)}, "faithfulness is nan"),
        (lambda c: {"curve": (replace(POINT, high=0.1),)}, "wanted low"),
        (lambda c: {"summary": {"cpr": float("nan")}}, "summary 'cpr': value is nan"),
    ],
)
def test_what_no_model_can_have_is_refused_in_one_line(make_small_circuit, change, words):
    circuit = make_small_circuit()
    with pytest.raises(ResultsError, match=words) as told:
        replace(circuit, **change(circuit))
    assert "\n" not in str(told.value)


def test_in_a_parallel_block_no_edge_joins_attention_and_mlp(make_small_circuit):
    edge = (CircuitEdge("a1.h0", "m1", 1.0, True),)
    whole = replace(make_small_circuit(), edges=edge)
    with pytest.raises(ResultsError, match="against the order"):
        replace(whole, parallel=True)
