"""A circuit as a layered graph: the input below, the logits above, what writes below what reads it."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from probe.circuits.circuit import Circuit, CircuitEdge, CircuitNode
from probe.circuits.graph import INPUT, LOGITS, head_of, layer_of
from probe.circuits.layout import Layout, drawn_edges, drawn_heads, layout, part_of, way
from probe.plots.ablation import HELPS, HURTS
from probe.plots.style import FAINT, INK, ink_on, look, step, titled
from probe.table import head_name
from probe.text import number

EDGES, HEADS = 60, 40
"""Edges and heads in a drawing that can still be followed by eye."""
NO_ROLE = "no role found"
ROLE_COLOURS: Mapping[str, str] = {
    "name_mover": "#0072B2", "negative_mover": "#D55E00", "copy_suppression": "#661100", "s_inhibition": "#009E73",
    "induction": "#CC79A7", "duplicate_token": "#E69F00", "previous_token": "#56B4E9",
}  # fmt: skip
RESTS_ON: Mapping[str, tuple[str, ...]] = {
    "name_mover": ("answer_attention", "copy", "direct_share"),
    "negative_mover": ("answer_attention", "copy_negative", "direct_share"),
    "copy_suppression": ("wrong_attention", "copy_negative", "direct_share"),
    "s_inhibition": ("repeated_wrong_attention", "direct_share"),
}
"""The evidence that decides a role (`analyses.head_jobs.role_of`); a pattern's role rests on its own name's."""
_MORE, _NONE = ("#7B5EA7", "#A3B80F", "#4D4D4D"), "#c3cad1"
_PORTS = {"q": "query", "k": "key", "v": "value"}
_FOR, _AGAINST = str(HELPS), str(HURTS)
_WIDEST = 7.0
_LIGHT = 0.45


def shown(name: str) -> str:
    """A node as a reader knows it: `L10H7`, `MLP 3`, `L10H7 query`, `input`, `logits`."""
    head = head_of(name) if name not in (INPUT, LOGITS) else None
    if head is None:
        return name if name in (INPUT, LOGITS) else f"MLP {layer_of(name)}"
    port = name.partition("<")[2][:1]
    return head_name(*head) + (f" {_PORTS[port]}" if port else "")


def role_words(role: str) -> str:
    """A role to be read."""
    words = role.replace("_", " ").replace("s inhibition", "S-inhibition")
    return words or NO_ROLE


def role_colours(circuit: Circuit) -> dict[str, str]:
    """A colour for each role in the head circuit, known ones first; heads without a role are grey."""
    present = dict.fromkeys(circuit.node_of(head).role for head in circuit.heads)
    known = {role: ROLE_COLOURS[role] for role in ROLE_COLOURS if role in present}
    others = [role for role in present if role and role not in ROLE_COLOURS]
    found = known | {role: _MORE[index % len(_MORE)] for index, role in enumerate(others)}
    return found | ({"": _NONE} if "" in present else {})


def circuit_graph(circuit: Circuit, edges: int = EDGES) -> go.Figure:
    """The head circuit (its `HEADS` strongest), and the strongest edges of the edge circuit with all that they touch.

    edges: how many, besides those that keep a head of the circuit from standing alone (`drawn_edges`). Blue edges
    help the task, red and dashed ones work against it; width grows with the root of |score|. An edge ends at the
    left (query), middle (key) or right (value) of a head. `layout.meta["edges"]` has each edge's trace and ends:
    the page's script shows those of one part when it is clicked.
    """
    heads = drawn_heads(circuit, HEADS)
    chosen = drawn_edges(circuit, edges, heads)
    drawn = layout(circuit, chosen, heads)
    figure = go.Figure()
    ends = [_edge(figure, edge, drawn, max(abs(one.score) for one in chosen)) for edge in chosen]
    _edge_hovers(figure, chosen, drawn)
    _legend(figure, circuit, chosen)
    nodes = {node.name: node for node in circuit.nodes}
    _node_hovers(figure, nodes, drawn)
    colours = role_colours(circuit)
    for name, place in drawn.places.items():
        figure.add_annotation(x=place.x, y=place.y, showarrow=False, **_label(name, nodes.get(name), colours))
    look(figure, "head", "", height=130 + _row_height(drawn) * (len(drawn.rows) + 2))
    figure.update_layout(meta={"edges": ends}, hovermode="closest")
    _axes(figure, drawn, [x for edge in chosen for x in way(edge, drawn)[0]])
    inside = sum(edge.in_circuit for edge in circuit.edges)
    count = len(circuit.heads)
    note = f"{count} heads" if count <= HEADS else f"The {HEADS} strongest of {count} heads"
    note += f", {sum(edge.in_circuit for edge in chosen)} of {inside:,} edges" if inside else ""
    note += ". Width: root of |score|. An edge ends at the left (query), middle (key) or right (value) of a head"
    return titled(figure, f"The circuit of {circuit.task} in {circuit.model}", note)


def _row_height(drawn: Layout) -> int:
    return 44 if len(drawn.rows) <= 16 else 36


def _edge(figure: go.Figure, edge: CircuitEdge, drawn: Layout, largest: float) -> list[object]:
    """Draw an edge; its trace and the parts at its ends."""
    x, y = way(edge, drawn)
    share = np.sqrt(abs(edge.score) / largest) if largest else 0.0
    helps = edge.score >= 0
    figure.add_scatter(
        x=x, y=y, mode="lines", hoverinfo="skip", showlegend=False, legendgroup=_sign(helps),
        opacity=round(_LIGHT + (0.9 - _LIGHT) * share, 2),
        line={"color": _FOR if helps else _AGAINST, "width": round(1 + (_WIDEST - 1) * share, 2),
              "dash": "solid" if helps else "4px,3px"},
    )  # fmt: skip
    return [len(figure.data) - 1, edge.source, part_of(edge.target)]


def _sign(helps: bool) -> str:
    return "edge that helps" if helps else "edge that works against"


def _edge_hovers(figure: go.Figure, edges: Sequence[CircuitEdge], drawn: Layout) -> None:
    """Points along every edge, unseen, that tell what it is."""
    xs, ys, texts = [], [], []
    for edge in edges:
        x, y = way(edge, drawn)
        text = f"{shown(edge.source)} → <b>{shown(edge.target)}</b><br>score {number(edge.score)}"
        for point in (4, 6, 8, 10, 12):
            xs.append(x[point])
            ys.append(y[point])
            texts.append(text)
    figure.add_scatter(
        x=xs, y=ys, mode="markers", showlegend=False, text=texts, hovertemplate="%{text}<extra></extra>",
        marker={"size": 9, "opacity": 0, "color": INK},
    )  # fmt: skip


def _node_hovers(figure: go.Figure, nodes: Mapping[str, CircuitNode], drawn: Layout) -> None:
    """A point under every label, unseen, that tells what the part is and that can be clicked."""
    names = list(drawn.places)
    figure.add_scatter(
        x=[drawn.places[name].x for name in names], y=[drawn.places[name].y for name in names], mode="markers",
        showlegend=False, customdata=names, text=[_told(name, nodes.get(name)) for name in names],
        hovertemplate="%{text}<extra></extra>", marker={"size": 26, "opacity": 0, "color": INK},
    )  # fmt: skip


def _told(name: str, node: CircuitNode | None) -> str:
    """What the hover says of a part."""
    lines = [f"<b>{shown(name)}</b>"]
    if node is None:
        return lines[0]
    lines.append(f"score {number(node.score)} [{number(node.low)}, {number(node.high)}]")
    if head_of(name) if name != INPUT else None:
        lines.append(html.escape(role_words(node.role)) if node.in_circuit else "not in the head circuit")
    return "<br>".join([*lines, *map(html.escape, evidence(node)[:8])])


def evidence(node: CircuitNode) -> list[str]:
    """The numbers behind a node's role in words, as `induction at END 0.71`: what the role rests on, then by size."""
    rests = RESTS_ON.get(node.role, (node.role,) if node.role else ())

    def order(name: str) -> tuple[bool, float]:
        value = node.evidence[name]
        return name.partition("@")[0] not in rests, -abs(value) if not isinstance(value, str) else 0.0

    return [_evidence_words(name, node.evidence[name]) for name in sorted(node.evidence, key=order)]


def _evidence_words(name: str, value: float | str) -> str:
    words = name.replace("attention:", "attention ").replace(">", " to ").replace("_", " ").replace("@", " at ")
    return f"{words} {value if isinstance(value, str) else number(value)}"


def _label(name: str, node: CircuitNode | None, colours: Mapping[str, str]) -> dict[str, object]:
    """The look of a part: heads of the circuit filled in the colour of their role, the rest outlined."""
    if name in (INPUT, LOGITS):
        return _box(name, INK, "white", INK, 13)
    if name.startswith("m"):
        return _box(name.replace("m", "MLP "), "white", INK, INK, 11)
    if node is None or not node.in_circuit:
        return _box(shown(name), "white", "#56636f", "#aab4bd", 10)
    fill = colours[node.role]
    return _box(f"<b>{shown(name)}</b>", fill, ink_on(fill), _AGAINST if node.score < 0 else fill, 11)


def _box(text: str, fill: str, ink: str, edge: str, size: int) -> dict[str, object]:
    return {
        "text": text, "bgcolor": fill, "font": {"size": size, "color": ink}, "bordercolor": edge, "borderwidth": 1.5,
        "borderpad": 2,
    }  # fmt: skip


def _legend(figure: go.Figure, circuit: Circuit, edges: Sequence[CircuitEdge]) -> None:
    """Roles with the number of their heads, then the two signs of edges, which a click hides."""
    for role, colour in role_colours(circuit).items():
        count = sum(circuit.node_of(head).role == role for head in circuit.heads)
        figure.add_scatter(
            x=[None], y=[None], mode="markers", name=html.escape(f"{role_words(role)} ({count})"), hoverinfo="skip",
            marker={"color": colour, "size": 12, "symbol": "square"},
        )  # fmt: skip
    for helps, colour, dash in ((True, _FOR, "solid"), (False, _AGAINST, "4px,3px")):
        if any((edge.score >= 0) == helps for edge in edges):
            figure.add_scatter(
                x=[None], y=[None], mode="lines", name=_sign(helps), legendgroup=_sign(helps), hoverinfo="skip",
                line={"color": colour, "width": 3, "dash": dash},
            )  # fmt: skip


def _axes(figure: go.Figure, drawn: Layout, swings: Sequence[float]) -> None:
    """Heads by number and the MLPs below, layers at the left; wide enough for every edge (`swings`: where they go)."""
    left, right = drawn.sides
    pad = 10 * drawn.pixel
    every = step(drawn.columns)
    heads = list(range(0, drawn.columns, every))
    figure.update_xaxes(
        tickvals=[*heads, drawn.mlps], ticktext=[*map(str, heads), "MLP"], showgrid=False,
        range=[min([left, *(x - pad for x in swings)]), max([right, *(x + pad for x in swings)])],
    )  # fmt: skip
    figure.update_yaxes(
        tickvals=list(range(1, len(drawn.rows) + 1)), ticktext=[f"layer {layer}" for layer in drawn.rows],
        range=[-0.7, drawn.top + 0.7], gridcolor=FAINT, title=None,
    )  # fmt: skip
