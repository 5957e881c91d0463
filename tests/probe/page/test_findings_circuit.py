from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from probe.circuits.circuit import Circuit, CurvePoint
from probe.page.findings_circuit import brief_finding, circuit_findings, circuit_limits, circuit_uncertainty


def by_title(circuit: Circuit) -> dict[str, Any]:
    return {finding.title: finding for finding in circuit_findings(circuit)}


@pytest.fixture
def circuit(make_circuit: Callable[..., Circuit]) -> Circuit:
    return make_circuit()


def test_heads_are_counted_and_the_strongest_named(circuit: Circuit) -> None:
    found = by_title(circuit)["Heads that ioi runs on"]
    assert found.figure == "18"
    assert found.text == "18 of 270 heads (7 %) make up the head circuit, in 18 layers. Largest scores, in logits:"
    sizes = [abs(float(line.split()[1])) for line in found.heads]
    assert sizes == sorted(sizes, reverse=True)
    assert len(found.heads) == 5


def test_jobs_are_listed_with_their_heads(circuit: Circuit) -> None:
    found = by_title(circuit)["What they do"]
    assert found.figure == "6"
    assert "15 of the 18 heads do a job that their attention and output show; of 3 none was found." in found.text
    assert set(found.heads[0].removeprefix("name mover: ").split(", ")) == {"L18H6", "L20H3", "L22H0", "L24H8"}
    without = replace(circuit, nodes=tuple(replace(node, role="") for node in circuit.nodes))
    assert "What they do" not in by_title(without)


def test_a_head_works_against_where_its_whole_interval_does(circuit: Circuit) -> None:
    found = by_title(circuit)["Heads that work against ioi"]
    below = sorted((node.score, node.name) for node in circuit.nodes if node.high < 0)
    assert found.figure == str(len(below))
    assert found.heads[0].startswith("L25H1  -")
    # 2.5 % of 270.
    assert f"the intervals of {len(below)} lie below 0, where chance alone would give about 6.75" in found.text
    small = replace(circuit.node_of((25, 1)), score=-1e-4, low=-2e-4, high=-1e-5)
    tiny = tuple(small if node.name == small.name else node for node in circuit.nodes)
    assert by_title(replace(circuit, nodes=tiny))["Heads that work against ioi"].figure == str(len(below) - 1)
    nodes = tuple(replace(node, high=max(node.high, 0.0)) for node in circuit.nodes)
    assert "Heads that work against ioi" not in by_title(replace(circuit, nodes=nodes))


def test_the_smallest_part_that_is_enough_stands_beside_random_ones(circuit: Circuit) -> None:
    found = by_title(circuit)
    heads = [point for point in circuit.curve if point.arm == "heads"]
    enough = next(point for point in heads if point.faithfulness >= 0.8)
    random = next(point for point in circuit.curve if point.arm == "random_heads" and point.size == enough.size)
    assert found["Heads that are enough"].figure == str(enough.count)
    assert f"random heads of the same layers: {random.faithfulness:.2f} [" in found["Heads that are enough"].text
    assert "Area under the curve (CPR) 0.97, of the distance from 1 (CMD) 0.060." in found["Edges that are enough"].text


def test_no_part_that_is_enough_and_no_random_ones_are_said(circuit: Circuit) -> None:
    weak = (CurvePoint("heads", 1, 1, 0.1, 0.0, 0.2), CurvePoint("heads", 5, 5, 0.4, 0.3, 0.5))
    found = by_title(replace(circuit, curve=weak))["Heads that are enough"]
    assert found.figure == "–"
    assert found.text.startswith("No part of the curve does 0.80 to 1.20 of the task; the nearest: 5 heads: 0.40 [")
    strong = (CurvePoint("heads", 5, 5, 0.9, 0.8, 1.0),)
    found = by_title(replace(circuit, curve=strong))["Heads that are enough"]
    assert "No random ones were measured beside it" in found.text
    random = (CurvePoint("random_heads", 2, 2, 0.1, 0.0, 0.2), CurvePoint("random_heads", 50, 50, 0.7, 0.6, 0.8))
    apart = (*strong, *random)
    found = by_title(replace(circuit, curve=apart))["Heads that are enough"]
    assert "2 random heads of the same layers: 0.10 [0.000, 0.20], the range of the draws." in found.text
    over = (CurvePoint("heads", 2, 2, 1.5, 1.4, 1.6), CurvePoint("heads", 9, 9, 1.1, 1.0, 1.2))
    assert by_title(replace(circuit, curve=over))["Heads that are enough"].figure == "9"
    stricter = replace(circuit, curve=strong, summary={"faithful": 0.95})
    assert by_title(stricter)["Heads that are enough"].figure == "–"
    whole = (CurvePoint("heads", 270, 270, 1.0, 1.0, 1.0),)
    assert "(that is all of them)" in by_title(replace(circuit, curve=whole))["Heads that are enough"].text
    assert set(by_title(replace(circuit, curve=()))) <= {"Heads that ioi runs on", "What they do",
                                                         "Heads that work against ioi"}  # fmt: skip


def test_an_empty_circuit_is_said(circuit: Circuit) -> None:
    empty = replace(circuit, nodes=tuple(replace(node, in_circuit=False) for node in circuit.nodes))
    found = by_title(empty)["Heads that ioi runs on"]
    assert (found.figure, found.text) == ("0", "None of 270 heads is in the circuit.")
    assert brief_finding(empty).heads == ()


def test_in_brief_heads_and_size_are_one_card(circuit: Circuit) -> None:
    found = brief_finding(circuit)
    assert "in 18 layers. The smallest part measured that does 0.8" in found.text
    assert found.text.endswith("Largest scores, in logits:")


def test_few_prompts_are_few(circuit: Circuit) -> None:
    judged = replace(circuit, summary={"judged": 32.0})
    assert "over 64 prompts (of faithfulness, over 32);" in circuit_uncertainty([judged])[0]
    few = replace(circuit, prompts=5)
    assert "over 5 prompts (few)" in circuit_uncertainty([few])[0]
    assert "ioi: 5 prompts are few; intervals are rough." in circuit_limits([few])
    assert not any("few;" in line for line in circuit_limits([circuit]))
    assert "ioi: two prompts were dropped <b>" in circuit_limits([circuit])
    assert circuit_limits([]) == circuit_uncertainty([]) == []
