from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.circuits.circuit import Circuit, CircuitEdge
from probe.circuits.layout import Layout, Place, apart, drawn_edges, drawn_heads, layout, part_of, way


def test_the_strongest_edges_are_drawn_and_no_head_stands_alone(make_circuit: Callable[..., Circuit]) -> None:
    circuit = make_circuit()
    inside = drawn_heads(circuit, 40)
    assert inside == {node.name for node in circuit.nodes if node.in_circuit}
    chosen = drawn_edges(circuit, 5, inside)
    sizes = [abs(edge.score) for edge in circuit.edges if edge.in_circuit]
    assert [abs(edge.score) for edge in chosen[:5]] == sorted(sizes, reverse=True)[:5]
    able = {edge.source for edge in circuit.edges if edge.in_circuit} & inside
    assert able <= {edge.source for edge in chosen}
    assert all(edge.in_circuit for edge in chosen)
    # Besides the five, one a head at most.
    assert len(chosen) <= 5 + len(able)
    assert len(drawn_edges(circuit, 10_000, inside)) == len(sizes)


def test_layers_rise_and_only_those_with_a_part_have_a_row(make_circuit: Callable[..., Circuit]) -> None:
    circuit = make_circuit()
    heads = drawn_heads(circuit, 40)
    chosen = drawn_edges(circuit, 20, heads)
    drawn = layout(circuit, chosen, heads)
    touched = {end for edge in chosen for end in (edge.source, part_of(edge.target))}
    assert set(drawn.places) == touched | heads | {"input", "logits"}
    assert list(drawn.rows) == sorted(set(drawn.rows))
    for edge in chosen:
        assert drawn.places[edge.source].y < drawn.places[part_of(edge.target)].y
    assert drawn.places["a18.h6"] == Place(6.0, drawn.rows.index(18) + 1.0)
    assert drawn.places["input"].y == 0
    assert drawn.places["logits"].y == len(drawn.rows) + 1


def test_parallel_blocks_have_heads_and_mlp_at_one_height(make_circuit: Callable[..., Circuit]) -> None:
    edge = CircuitEdge("m2", "logits", 1.0, True)
    circuit = replace(make_circuit(), parallel=True, edges=(edge,))
    drawn = layout(circuit, [edge], drawn_heads(circuit, 40))
    assert drawn.places["m2"].y == drawn.places["a2.h4"].y


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=12), st.floats(0.1, 3))
def test_labels_are_moved_no_farther_than_they_must(wanted: list[int], gap: float) -> None:
    wanted = sorted(wanted)
    found = np.array(apart([float(place) for place in wanted], gap))
    if len(found) > 1:
        assert np.diff(found).min() >= gap - 1e-9
    # Least squares leaves the mean where it was, and what is apart already where it is.
    assert found.sum() == pytest.approx(sum(wanted), abs=1e-6)
    if len(wanted) > 1 and np.diff(wanted).min() >= gap:
        np.testing.assert_allclose(found, wanted, atol=1e-9)


def test_apart_is_least_squares() -> None:
    # Three labels that want 0, 0, 10 with a gap of 2: the first two part around 0.
    assert apart([0, 0, 10], 2) == [-1, 1, 10]


@pytest.mark.parametrize(("port", "side"), [("<q>", -1), ("<k>", 0), ("<v>", 1), ("", 0)])
def test_an_edge_ends_at_its_port(port: str, side: int) -> None:
    drawn = Layout({"a0.h1": Place(1, 1), "a3.h5": Place(5, 2), "m3": Place(5, 2)}, (0, 3), 9)
    x, y = way(CircuitEdge("a0.h1", f"a3.h5{port}" if port else "m3", 1.0, True), drawn)
    assert x[0] == 1
    assert np.sign(round(x[-1] - 5, 9)) == side
    assert y[0] > 1
    assert y[-1] < 2
    assert (np.diff(y) > 0).all()


def test_an_edge_along_a_column_swings_round_what_stands_between() -> None:
    drawn = Layout({"a0.h1": Place(1, 1), "a9.h1": Place(1, 6)}, tuple(range(10)), 9)
    x, _ = way(CircuitEdge("a0.h1", "a9.h1<k>", 1.0, True), drawn)
    # Half a label is 25 pixels.
    assert abs(x[8] - 1) > 25 * drawn.pixel


def test_of_a_large_circuit_the_strongest_heads_are_drawn(make_circuit: Callable[..., Circuit]) -> None:
    circuit = make_circuit()
    whole = replace(circuit, nodes=tuple(replace(node, in_circuit=True) for node in circuit.nodes))
    sizes = sorted((abs(score) for score in circuit.head_scores), reverse=True)
    found = drawn_heads(whole, 7)
    assert sorted((abs(node.score) for node in whole.nodes if node.name in found), reverse=True) == sizes[:7]
