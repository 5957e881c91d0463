from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from probe.circuits.circuit import Circuit, CircuitEdge
from probe.circuits.layout import drawn_edges, drawn_heads
from probe.plots.ablation import HELPS, HURTS
from probe.plots.circuit import circuit_graph, role_colours, role_words, shown


@pytest.mark.parametrize(
    ("name", "words"),
    [("a10.h7", "L10H7"), ("a10.h7<k>", "L10H7 key"), ("m3", "MLP 3"), ("input", "input"), ("logits", "logits")],
)
def test_names_for_readers(name: str, words: str) -> None:
    assert shown(name) == words


def test_every_edge_has_its_colour_width_and_ends(make_circuit: Callable[..., Circuit]) -> None:
    circuit = make_circuit()
    figure, chosen = circuit_graph(circuit, 30), drawn_edges(circuit, 30, drawn_heads(circuit, 40))
    ends = figure.layout.meta["edges"]
    assert [tuple(edge[1:]) for edge in ends] == [(edge.source, edge.target.split("<")[0]) for edge in chosen]
    for (trace, _, _), edge in zip(ends, chosen, strict=True):
        line = figure.data[trace].line
        assert line.color == (HELPS if edge.score >= 0 else HURTS)
        assert (line.dash == "solid") == (edge.score >= 0)
    widths = [figure.data[edge[0]].line.width for edge in ends]
    # drawn_edges gives the 30 strongest first, in order.
    assert widths[:30] == sorted(widths[:30], reverse=True)
    assert widths[0] == 7


def test_heads_of_the_circuit_are_filled_and_labelled(make_circuit: Callable[..., Circuit]) -> None:
    circuit = make_circuit()
    figure = circuit_graph(circuit)
    notes = {note.text: note for note in figure.layout.annotations}
    colours = role_colours(circuit)
    for head in circuit.heads:
        node, note = circuit.node_of(head), notes[f"<b>L{head[0]}H{head[1]}</b>"]
        assert note.bgcolor == colours[node.role]
        assert (note.bordercolor == HURTS) == (node.score < 0)
    others = [note for text, note in notes.items() if text.startswith("L")]
    assert others
    assert {note.bgcolor for note in others} == {"white"}
    assert "MLP 0" in notes


def test_no_two_labels_touch(make_circuit: Callable[..., Circuit]) -> None:
    circuit = make_circuit(heads=32, layers=32)
    inside = {f"a12.h{head}" for head in range(5, 12)}
    nodes = tuple(replace(node, in_circuit=node.in_circuit or node.name in inside) for node in circuit.nodes)
    figure = circuit_graph(replace(circuit, nodes=nodes))
    left, right = figure.layout.xaxis.range
    pixel = (right - left) / 1000
    rows: dict[float, list[float]] = {}
    for note in figure.layout.annotations:
        rows.setdefault(note.y, []).append(note.x)
        assert left + 25 * pixel < note.x < right - 25 * pixel
    assert min(np.diff(sorted(xs)).min() for xs in rows.values() if len(xs) > 1) > 44 * pixel


def test_hovers_tell_scores_roles_and_evidence(make_circuit: Callable[..., Circuit]) -> None:
    circuit = make_circuit()
    nodes = next(trace for trace in circuit_graph(circuit).data if trace.customdata is not None)
    told = dict(zip(nodes.customdata, nodes.text, strict=True))
    node = circuit.node_of((18, 6))
    assert told["a18.h6"].startswith(f"<b>L18H6</b><br>score {node.score:.2f} [")
    assert "name mover<br>copy score 0.90<br>attention END to IO 0.71" in told["a18.h6"]
    assert told["m0"] == "<b>MLP 0</b>"


def test_roles_have_colours_of_their_own(make_circuit: Callable[..., Circuit]) -> None:
    circuit = make_circuit()
    nodes = tuple(replace(node, role="letter_head" if node.name == "a10.h3" else node.role) for node in circuit.nodes)
    colours = role_colours(replace(circuit, nodes=nodes))
    assert len(set(colours.values())) == len(colours) == 8
    assert list(colours)[-1] == ""
    assert role_words("s_inhibition") == "S-inhibition"
    assert role_words("") == "no role found"


def test_names_from_a_file_stay_text(make_circuit: Callable[..., Circuit]) -> None:
    circuit = make_circuit()
    bad = {"role": "<a href='javascript:1'>x</a>", "evidence": {"<b>": "</script><img src=x>"}}
    nodes = tuple(replace(node, **bad) if node.in_circuit else node for node in circuit.nodes)
    figure = circuit_graph(replace(circuit, nodes=nodes))
    texts = [trace.name or "" for trace in figure.data]
    texts += [text for trace in figure.data if trace.text is not None for text in trace.text]
    assert not any(tag in text for text in texts for tag in ("<a ", "<img", "</script"))
    assert any("&lt;a href" in text for text in texts)


def test_a_circuit_without_edges_is_drawn_as_heads(make_circuit: Callable[..., Circuit]) -> None:
    circuit = replace(make_circuit(), edges=())
    figure = circuit_graph(circuit)
    assert figure.layout.meta["edges"] == []
    assert len(figure.layout.annotations) == len(circuit.heads) + 2


def test_edges_of_no_score_have_a_width(make_circuit: Callable[..., Circuit]) -> None:
    figure = circuit_graph(replace(make_circuit(), edges=(CircuitEdge("input", "logits", 0.0, True),)))
    assert figure.data[0].line.width == 1


def test_equal_circuits_give_equal_bytes(make_circuit: Callable[..., Circuit]) -> None:
    assert circuit_graph(make_circuit()).to_json() == make_circuit().plot().to_json()


def test_edges_that_swing_aside_stay_in_the_frame(make_circuit: Callable[..., Circuit]) -> None:
    middle = tuple(CircuitEdge(f"a{layer}.h8", "m20", 1.0, True) for layer in range(1, 20))
    circuit = replace(make_circuit(), edges=(CircuitEdge("a0.h0", "a29.h0<q>", 1.0, True), *middle))
    figure = circuit_graph(circuit)
    left, right = figure.layout.xaxis.range
    xs = [x for trace in figure.data if trace.mode == "lines" and trace.x[0] is not None for x in trace.x]
    assert min(xs) < -0.5
    assert left < min(xs)
    assert right > max(xs)
