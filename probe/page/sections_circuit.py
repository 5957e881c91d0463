"""The page's sections on a circuit: its graph, what its heads do, how faithful it is, how it was found."""

from __future__ import annotations

import re
from collections.abc import Mapping

import plotly.graph_objects as go

from probe.circuits.circuit import Circuit, CircuitNode
from probe.page.findings_circuit import few, members, scored, unit_of
from probe.page.markup import Html, el
from probe.page.sections import figure, scrolling, section
from probe.page.sections_ablation import METRIC_WORDS, MODES
from probe.plots import faithfulness as plots_faithfulness
from probe.plots.circuit import EDGES, HEADS, circuit_graph, evidence, role_colours, role_words, shown
from probe.plots.faithfulness import ARM_WORDS, EDGE_ARMS, HEAD_ARMS
from probe.text import number

METHODS: Mapping[str, str] = {
    "eap": "edge attribution patching, the change of what an edge's source writes, from the clean to the corrupted "
    "run, along the gradient where its target reads; first order (Syed et al. 2023)",
    "eap-ig": "edge attribution patching, the change of what an edge's source writes, from the clean to the corrupted "
    "run, along the gradient where its target reads, averaged on the way from the corrupted to the clean input (Hanna "
    "et al. 2024)",
    "exact": "every part is replaced in turn and the prompts are run again",
    "greedy": "edges are taken away one after the other, from the logits down, where the task loses little (after "
    "ACDC, Conmy et al. 2023)",
    "path_patching": "what a head sends along one path is replaced, all other heads held (Wang et al. 2022)",
}
TOP, TOP_EDGES = 20, 20
EVIDENCE = 3
"""Numbers behind a role that a row prints before it is opened."""
_FAITHFULNESS = (
    "Faithfulness is (m(C) − m(∅)) / (m(N) − m(∅)), means over the prompts: m(C) is the metric when only the circuit "
    "carries what it carries on the clean prompt, m(N) that of the whole model, m(∅) with nothing of it left. 1 is as "
    "good as the model, 0 as bad as without all parts."
)


def circuit_section(circuit: Circuit, index: int = 0) -> dict[str, tuple[str, Html]]:
    """The section of one circuit by identifier; `index` tells the figures of several circuits apart."""
    return {f"circuit-{index}": (f"Circuit: {circuit.task}", _circuit(circuit, index))}


def circuit_figures(circuit: Circuit, index: int = 0) -> dict[str, go.Figure]:
    """The figures that `circuit_section` has places for."""
    drawn = {f"circuit_graph_{index}": circuit_graph(circuit)}
    if _has(circuit, HEAD_ARMS):
        drawn[f"head_curve_{index}"] = plots_faithfulness.head_curve(circuit.curve)
    if _has(circuit, EDGE_ARMS):
        drawn[f"edge_curve_{index}"] = plots_faithfulness.edge_curve(circuit.curve)
    return drawn


def _has(circuit: Circuit, arms: tuple[str, ...]) -> bool:
    return any(point.arm in arms for point in circuit.curve)


def _circuit(circuit: Circuit, index: int) -> Html:
    inside = [edge for edge in circuit.edges if edge.in_circuit]
    return section(
        f"circuit-{index}", f"The circuit of {circuit.task}",
        *_asked(circuit), figure(f"circuit_graph_{index}", _caption(circuit, len(inside)), wide=True),
        *_roles(circuit), el("h3", "The strongest heads"), _heads(circuit), *_edges(circuit),
        *_faithful(circuit, index),
    )  # fmt: skip


def _asked(circuit: Circuit) -> list[Html]:
    """What was measured, on what, in what place, and how it was found."""
    measured = METRIC_WORDS.get(circuit.metric, circuit.metric)
    text = (
        f"Found on {circuit.prompts} prompts{few(circuit)} made from seed {circuit.seed}, each beside its corrupted "
        f"twin ({circuit.corruption}). Judged by {circuit.metric}: {measured}, in {unit_of(circuit)}; higher is "
        "better. A score is what the task loses without the part: positive where it helps."
    )
    name = circuit.ablation.partition(":")[0]
    stands = MODES.get(name, circuit.ablation).format(circuit.ablation.partition(":")[2])
    named = [word for word in re.findall(r"[a-z_-]+", circuit.method) if word in METHODS]
    how = " ".join(f"{word[:1].upper()}{word[1:]}: {METHODS[word]}." for word in named)
    method = f"How scores were found: {circuit.method}. {how} In a replaced head's place stands {stands}."
    return [el("p", text), el("p", " ".join(method.split()))]


def _caption(circuit: Circuit, inside: int) -> str:
    """What the drawing holds, and how to read it."""
    count = len(circuit.heads)
    which = "Heads of the head circuit" + (f" (the {HEADS} strongest of {count})" if count > HEADS else "")
    heads = f"{which} are filled in the colour of their role; outlined are other parts that an edge "
    if not inside:
        return f"{which}, in the colour of their role. No edges were kept for this circuit."
    drawn = f"all {inside:,}" if inside <= EDGES else f"the {EDGES} strongest of {inside:,}"
    return (
        f"The input is below, the logits above; every edge runs upwards, from what writes to what reads. Drawn are "
        f"{drawn} edges of the edge circuit, and the strongest out of every head that would stand without one. "
        f"{heads}touches; a red border: score below 0. An edge ends at the left (query), middle (key) or right (value) "
        "of a head; the wider, the larger |score| (width by its root). Red and dashed: it works against the task. "
        "Hover or tap for the figures; press a part to see its edges alone, again to see all."
    )


def _roles(circuit: Circuit) -> list[Html]:
    """Every role with its heads and what it rests on."""
    roles = role_colours(circuit)
    if not any(roles):
        return []
    rows = []
    for role, colour in roles.items():
        heads = [node for node in members(circuit) if node.role == role]
        mark = el("span", "", class_="swatch", style=f"background:{colour}")
        chips = el("ul", *(el("li", shown(node.name)) for node in heads), class_="chips")
        rows.append(el("tr", el("th", mark, role_words(role), scope="row"), el("td", str(len(heads))),
                       el("td", chips)))  # fmt: skip
    return [el("h3", "What its heads do"), scrolling("Roles", ("role", "heads", "which"), rows)]


def _heads(circuit: Circuit) -> Html:
    """The strongest heads, in the circuit or not, with role and evidence."""
    ranked = sorted(circuit.nodes[: len(circuit.graph.heads)], key=lambda node: -abs(node.score))[:TOP]
    rows = [
        el("tr", el("th", shown(node.name), scope="row"), el("td", scored(node), class_="v"),
           el("td", "yes" if node.in_circuit else "no"), el("td", role_words(node.role) if node.role else ""),
           el("td", _evidence(node)))
        for node in ranked
    ]  # fmt: skip
    head = ("head", f"score, {unit_of(circuit)}", "in circuit", "role", "what that rests on")
    return scrolling("The strongest heads", head, rows)


def _evidence(node: CircuitNode) -> Html | str:
    """The first few numbers behind a role; the rest on demand."""
    told = evidence(node)
    if len(told) <= EVIDENCE:
        return ", ".join(told)
    return el("details", el("summary", ", ".join(told[:EVIDENCE]), " …"), ", ".join(told[EVIDENCE:]))


def _edges(circuit: Circuit) -> list[Html]:
    ranked = sorted(circuit.edges, key=lambda edge: -abs(edge.score))[:TOP_EDGES]
    if not ranked:
        return []
    rows = [
        el("tr", el("th", shown(edge.source), scope="row"), el("td", shown(edge.target)),
           el("td", number(edge.score), class_="v"), el("td", "yes" if edge.in_circuit else "no"))
        for edge in ranked
    ]  # fmt: skip
    head = ("from", "to", f"score, {unit_of(circuit)}", "in circuit")
    note = "A strong edge is not in the circuit where no edges of it lead there from the input and on to the logits."
    return [
        el("h3", "The strongest edges"), scrolling("The strongest edges", head, rows), el("p", note, class_="quiet"),
    ]  # fmt: skip


def _faithful(circuit: Circuit, index: int) -> list[Html]:
    """The curves, their areas, and the same in figures."""
    if not circuit.curve:
        return []
    places = []
    if _has(circuit, HEAD_ARMS):
        caption = (
            "Heads kept, the others replaced; MLPs go on working. Bands: 95 % interval over prompts; of random heads "
            "of the same layers, the range of the draws."
        )
        places.append(figure(f"head_curve_{index}", caption))
    if _has(circuit, EDGE_ARMS):
        caption = (
            "Edges kept, all others carry what they carry in the corrupted run; edges on no way from input to logits "
            "are taken out. Bands as beside."
        )
        places.append(figure(f"edge_curve_{index}", caption))
    facts = [
        el("div", el("dt", SUMMARY_WORDS.get(name, name.replace("_", " "))), el("dd", number(value)))
        for name, value in sorted(circuit.summary.items(), key=lambda item: _place(item[0]))
    ]
    return [
        el("h3", "How faithful it is"), el("p", _FAITHFULNESS), el("div", *places, class_="pair"),
        *([el("dl", *facts, class_="facts")] if facts else []), *_points(circuit),
    ]  # fmt: skip


def _place(name: str) -> tuple[int, str]:
    """Known numbers first, in their order; a circuit reads the same before and after it was saved."""
    known = list(SUMMARY_WORDS)
    return (known.index(name) if name in known else len(known)), name


SUMMARY_WORDS: Mapping[str, str] = {
    "cpr": "CPR, area under faithfulness by share of edges, signed ranking (.999 where it is 1 throughout)",
    "cmd": "CMD, area of |1 − faithfulness|, ranking by |score| (0 is best)",
    "m_clean": "metric of the whole model, m(N)",
    "m_corrupted": "metric with everything corrupted, m(∅) of edges",
    "m_heads_replaced": "metric with all heads replaced, m(∅) of heads",
    "faithful": "faithfulness that was asked of the circuit",
    "judged": "prompts that faithfulness was measured on",
    "incompleteness": "largest difference of circuit and model without the same heads, share of the task",
    "minimality": "least that a head of the circuit is worth, share of the task",
}


def _points(circuit: Circuit) -> list[Html]:
    """The curves in figures: one row a size, one column an arm."""
    blocks = []
    for kind, arms in (("heads", HEAD_ARMS), ("edges", EDGE_ARMS)):
        points = {(point.arm, point.size): point for point in circuit.curve if point.arm in arms}
        present = [arm for arm in arms if any(arm == one for one, _ in points)]
        rows = []
        for size in sorted({size for _, size in points}):
            label = f"{size:,.0f}" if kind == "heads" else f"{100 * size:g} %"
            cells = []
            for arm in present:
                point = points.get((arm, size))
                count = f"{point.count:,} edges: " if point is not None and kind == "edges" else ""
                shown_point = "" if point is None else (
                    f"{count}{number(point.faithfulness)} [{number(point.low)}, {number(point.high)}]"
                )
                cells.append(el("td", shown_point, class_="v"))
            rows.append(el("tr", el("th", label, scope="row"), *cells))
        if rows:
            blocks.append(scrolling(f"Faithfulness by {kind}", (kind, *(ARM_WORDS[arm] for arm in present)), rows))
    return [el("details", el("summary", "The same in figures"), *blocks)] if blocks else []
