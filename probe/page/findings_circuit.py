"""What a circuit says, in plain sentences: which heads and edges, how faithful they are, and what that does not say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from probe.circuits.circuit import Circuit, CircuitNode, CurvePoint
from probe.columns import METRIC_UNITS
from probe.page.findings import FEW_SEQUENCES, Finding
from probe.plots.circuit import role_colours, role_words, shown
from probe.plots.faithfulness import told
from probe.text import number

ENOUGH = 0.8
"""Faithfulness that is asked of a circuit which does not say what was asked of it."""
SHOWN = 5


def circuit_findings(circuit: Circuit) -> list[Finding]:
    """Which heads, what they do, which work against the task, how few are enough, and the same of edges."""
    found = [_heads(circuit)]
    if any(role for role in role_colours(circuit)):
        found.append(_roles(circuit))
    if against := _against(circuit):
        found.append(against)
    return found + [_few(circuit, arm) for arm in ("heads", _edge_arm(circuit)) if _points(circuit, arm)]


def brief_finding(circuit: Circuit) -> Finding:
    """A circuit in one card, for a page of several: its heads, and how few of them are enough."""
    heads = _heads(circuit)
    told_few = f" {_few(circuit, 'heads').text}" if _points(circuit, "heads") else ""
    start, _, rest = heads.text.partition(" Largest")
    return Finding(heads.title, heads.figure, start + told_few + (f" Largest{rest}" if rest else ""), heads.heads)


def unit_of(circuit: Circuit) -> str:
    """The unit of the circuit's scores."""
    return METRIC_UNITS.get(circuit.metric, circuit.metric)


def scored(node: CircuitNode) -> str:
    """`1.20 [1.10, 1.31]`."""
    return f"{number(node.score)} [{number(node.low)}, {number(node.high)}]"


def members(circuit: Circuit) -> list[CircuitNode]:
    """The heads of the head circuit, largest |score| first."""
    return sorted((circuit.node_of(head) for head in circuit.heads), key=lambda node: -abs(node.score))


def few(circuit: Circuit) -> str:
    """` (few)` where there are fewer prompts than METRICS asks of an interval."""
    return " (few)" if circuit.prompts < FEW_SEQUENCES else ""


def _heads(circuit: Circuit) -> Finding:
    inside, every = members(circuit), len(circuit.graph.heads)
    title = f"Heads that {circuit.task} runs on"
    if not inside:
        return Finding(title, "0", f"None of {every} heads is in the circuit.")
    text = (
        f"{len(inside)} of {every} heads ({100 * len(inside) / every:.0f} %) make up the head circuit, in "
        f"{len({head[0] for head in circuit.heads})} layers. Largest scores, in {unit_of(circuit)}:"
    )
    return Finding(title, str(len(inside)), text, _listed(inside[:SHOWN]))


def _listed(nodes: Iterable[CircuitNode]) -> tuple[str, ...]:
    return tuple(
        f"{shown(node.name)}  {scored(node)}{f'  {role_words(node.role)}' if node.role else ''}" for node in nodes
    )


def _roles(circuit: Circuit) -> Finding:
    """Which heads do which job."""
    inside = members(circuit)
    roles = [role for role in role_colours(circuit) if role]
    lines = [
        f"{role_words(role)}: {', '.join(shown(node.name) for node in inside if node.role == role)}" for role in roles
    ]
    without = sum(not node.role for node in inside)
    text = f"{len(inside) - without} of the {len(inside)} heads do a job that their attention and output show"
    text += f"; of {without} none was found." if without else "."
    return Finding("What they do", str(len(roles)), text, tuple(lines))


def _against(circuit: Circuit) -> Finding | None:
    """Heads whose whole interval lies below 0, and whose score is not next to nothing."""
    heads = circuit.nodes[: len(circuit.graph.heads)]
    below = sorted((node for node in heads if node.high < 0), key=lambda node: node.score)
    largest = max(abs(node.score) for node in heads)
    strong = [node for node in below if -node.score > largest / 100]
    if not strong:
        return None
    text = (
        f"{len(strong)} of {len(heads)} heads have a whole interval below 0 and a score of more than a hundredth of "
        f"the largest: without one of them {circuit.metric} rises. In all, the intervals of {len(below)} lie below 0, "
        f"where chance alone would give about {number(0.025 * len(heads))}. Strongest, in {unit_of(circuit)}:"
    )
    return Finding(f"Heads that work against {circuit.task}", str(len(strong)), text, _listed(strong[:SHOWN]))


def _points(circuit: Circuit, arm: str) -> list[CurvePoint]:
    return sorted((point for point in circuit.curve if point.arm == arm), key=lambda point: point.size)


def _edge_arm(circuit: Circuit) -> str:
    """The order of edges that the findings tell of: by |score|, as edge circuits are chosen, where it was measured."""
    return "edges_absolute" if _points(circuit, "edges_absolute") else "edges"


def _few(circuit: Circuit, arm: str) -> Finding:
    """The smallest part of the curve that is faithful enough, beside a random one of its size."""
    points, kind = _points(circuit, arm), "heads" if arm == "heads" else "edges"
    asked = circuit.summary.get("faithful", ENOUGH)
    # A part that does much more than the model is as little the model's circuit as one that does less.
    enough = next((point for point in points if abs(1 - point.faithfulness) <= 1 - asked + 1e-12), None)
    title, areas = f"{kind.capitalize()} that are enough", _areas(circuit) if kind == "edges" else ""
    wanted = f"{number(asked)} to {number(2 - asked)} of the task"
    if enough is None:
        best = min(points, key=lambda point: abs(1 - point.faithfulness))
        return Finding(title, "–", f"No part of the curve does {wanted}; the nearest: {told(best)}.{areas}")
    text = f"The smallest part measured that does {wanted}: {told(enough)} {_random(circuit, enough, kind)}"
    return Finding(title, f"{enough.count:,}", text + areas)


def _random(circuit: Circuit, point: CurvePoint, kind: str) -> str:
    """The random part of that size in words, or of the nearest size measured."""
    whole = len(circuit.graph.heads) if kind == "heads" else circuit.graph.n_edges
    if point.count == whole:
        return "(that is all of them)."
    others = [one for one in _points(circuit, f"random_{kind}") if one.size > 0]
    if not others:
        return "(95 % interval over prompts). No random ones were measured beside it."
    near = min(others, key=lambda one: abs(math.log(one.size / point.size)))
    size = "As many" if near.size == point.size else f"{near.count:,}"
    return (
        f"(95 % interval over prompts). {size} random {kind} of the same layers: {number(near.faithfulness)} "
        f"[{number(near.low)}, {number(near.high)}], the range of the draws."
    )


def _areas(circuit: Circuit) -> str:
    """CPR and CMD, where they were computed."""
    if not {"cpr", "cmd"} <= set(circuit.summary):
        return ""
    cpr, cmd = circuit.summary["cpr"], circuit.summary["cmd"]
    return f" Area under the curve (CPR) {number(cpr)}, of the distance from 1 (CMD) {number(cmd)}."


def circuit_uncertainty(circuits: Sequence[Circuit]) -> list[str]:
    """What the brackets are."""
    if not circuits:
        return []
    counts = ", ".join(dict.fromkeys(f"{circuit.prompts} prompts{few(circuit)}" for circuit in circuits))
    judged = list(dict.fromkeys(circuit.summary.get("judged", circuit.prompts) for circuit in circuits))
    over = "" if judged == [circuit.prompts for circuit in circuits[:1]] else (
        f" (of faithfulness, over {', '.join(f'{count:.0f}' for count in judged)})"
    )
    return [
        f"Brackets of scores and of faithfulness are 95 % bootstrap intervals over {counts}{over}; of random heads and "
        "edges, the range of the draws."
    ]


def circuit_limits(circuits: Sequence[Circuit]) -> list[str]:
    """What a reader must not conclude from circuits: first what holds of all, then each one's own."""
    if not circuits:
        return []
    lines = [
        "A circuit is what these prompts and their corrupted twins tell apart: what both runs need alike is in neither "
        "the scores nor the edges.",
        "A head that another one backs up has a small score; a head outside the circuit may still do the work when one "
        "inside is gone.",
        "Faithful means that the rest can be replaced, not that nothing in the circuit can: a larger part always has "
        "room for what is not needed. Above 1: what was left out works against the task.",
        "Where the circuit ends is a choice of size: the heads just inside and just outside differ little.",
        "The head circuit and the edge circuit were chosen each by its own scores, so an edge may end at a head that "
        "is not in the head circuit.",
        "Roles are thresholds on attention and output on these prompts; a head may do other work on other text.",
    ]
    for circuit in circuits:
        if few(circuit):
            lines.append(f"{circuit.task}: {circuit.prompts} prompts are few; intervals are rough.")
        lines += [f"{circuit.task}: {note}" for note in circuit.notes]
    return lines
