from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from probe.circuits.circuit import Circuit
from probe.page.sections_circuit import circuit_figures, circuit_section


def words(markup: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", markup))


def places(markup: str) -> set[str]:
    return set(re.findall(r'data-figure="([^"]*)"', markup))


def test_the_section_says_what_was_asked_and_found(make_circuit: Callable[..., Circuit]) -> None:
    ((label, markup),) = circuit_section(make_circuit()).values()
    assert label == "Circuit: ioi"
    text = words(markup)
    for sentence in (
        "The circuit of ioi", "Found on 64 prompts made from seed 0, each beside its corrupted twin (s2_io).",
        "mean logit of the right next tokens less mean logit of the wrong ones, in logits", "Eap-ig: edge attrib",
        "its output on the corrupted twin of the prompt", "Drawn are the 60 strongest of ", "name mover 4 L18H6",
        "copy score 0.90, attention END to IO 0.71", "The strongest edges", "How faithful it is",
        "metric of the whole model, m(N) 3.40", "5 % 6,160 edges: 0.95 [0.87, 1.03]",
    ):  # fmt: skip
        assert sentence in text


def test_every_place_has_its_figure_and_every_figure_its_place(make_circuit: Callable[..., Circuit]) -> None:
    circuit = make_circuit()
    heads = tuple(point for point in circuit.curve if "heads" in point.arm)
    for one in (circuit, replace(circuit, curve=()), replace(circuit, curve=heads), replace(circuit, edges=())):
        for index in (0, 3):
            (identifier, (_, markup)), = circuit_section(one, index).items()
            assert identifier == f"circuit-{index}"
            assert places(markup) == set(circuit_figures(one, index))


def test_what_is_not_there_is_not_shown(make_circuit: Callable[..., Circuit]) -> None:
    circuit = make_circuit()
    nodes = tuple(replace(node, role="", evidence={}) for node in circuit.nodes)
    bare = replace(circuit, nodes=nodes, edges=(), curve=(), summary={})
    text = words(circuit_section(bare)["circuit-0"][1])
    assert "No edges were kept for this circuit." in text
    assert not any(title in text for title in ("What its heads do", "The strongest edges", "How faithful it is"))


def test_all_edges_of_a_small_circuit_are_told_of(make_circuit: Callable[..., Circuit]) -> None:
    circuit = make_circuit()
    few = replace(circuit, edges=circuit.edges[:5])
    assert "Drawn are all 5 edges" in words(circuit_section(few)["circuit-0"][1])


def test_a_method_without_words_is_named(make_circuit: Callable[..., Circuit]) -> None:
    own = replace(make_circuit(), method="own <i>", ablation="scale:0.5", metric="own metric")
    markup = circuit_section(own)["circuit-0"][1]
    assert "found: own &lt;i&gt;. In a replaced head&#x27;s place stands its own output times 0.5." in markup
    assert "score, own metric" in markup


def test_text_of_a_file_stays_text(make_circuit: Callable[..., Circuit]) -> None:
    circuit = make_circuit("</script><img src=x onerror=alert(1)>")
    bad = {"role": "<img src=x>", "evidence": {"<b>": "<img src=y>"}}
    nodes = tuple(replace(node, **bad) if node.in_circuit else node for node in circuit.nodes)
    markup = circuit_section(replace(circuit, nodes=nodes, corruption="<u>"))["circuit-0"][1]
    assert not any(tag in markup for tag in ("<img", "</script", "<b>", "<u>"))


def test_each_method_of_two_is_explained(make_circuit: Callable[..., Circuit]) -> None:
    both = replace(make_circuit(), method="heads exact, edges eap-ig (5 steps)")
    text = words(circuit_section(both)["circuit-0"][1])
    assert "found: heads exact, edges eap-ig (5 steps). Exact: every part is replaced in turn" in text
    assert "again. Eap-ig: edge attribution patching" in text


def test_much_evidence_is_told_on_demand(make_circuit: Callable[..., Circuit]) -> None:
    circuit = make_circuit()
    found = {"direct_share": 0.1, "attention:END>IO": 0.8, "induction@END": 0.7, "induction": 0.6, "copy": 0.9}
    nodes = tuple(replace(node, evidence=found) if node.role == "induction" else node for node in circuit.nodes)
    markup = circuit_section(replace(circuit, nodes=nodes))["circuit-0"][1]
    # What the role rests on first, the rest by size.
    assert "<summary>induction at END 0.70, induction 0.60, copy 0.90 …</summary>" in markup
    assert "</summary>attention END to IO 0.80, direct share 0.10</details>" in markup


def test_a_whole_model_is_drawn_in_part(make_circuit: Callable[..., Circuit]) -> None:
    circuit = make_circuit()
    whole = replace(circuit, nodes=tuple(replace(node, in_circuit=True) for node in circuit.nodes))
    assert "Heads of the head circuit (the 40 strongest of 270)" in words(circuit_section(whole)["circuit-0"][1])
