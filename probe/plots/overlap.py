"""How much circuits share: two of them head by head, all pairs of tasks, and what each does on the other's task."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

from probe.analyses.overlap import Overlap
from probe.circuits.circuit import Circuit
from probe.circuits.graph import head_of
from probe.plots.style import (
    COLOURS,
    INK,
    LEVEL,
    NOT_DEFINED,
    SEQUENTIAL,
    colour_at,
    ink_on,
    look,
    name_points,
    step,
    titled,
)
from probe.rank_correlation import rank_correlation
from probe.statistics import benjamini_hochberg
from probe.table import head_name
from probe.text import number

_ONLY_A, _ONLY_B, _BOTH, _NEITHER = COLOURS[5], COLOURS[4], INK, "#f3f5f7"
_MARKS = {1: "A", 2: "B", 3: "●"}


def overlap_map(a: Circuit, b: Circuit) -> go.Figure:
    """Layer × head map of two circuits: heads of A alone, of B alone, of both; layer 0 on top.

    Each cell also carries its letter, a dot where shared, so that colour is not needed.
    """
    layers = list(a.graph.attention)
    grid = np.zeros((len(layers), a.n_heads), dtype=int)
    for bit, circuit in ((1, a), (2, b)):
        for layer, head in circuit.heads:
            grid[layers.index(layer), head] |= bit
    names = {1: _name(a, "A"), 2: _name(b, "B")}
    figure = go.Figure(
        go.Heatmap(
            z=grid, x=list(range(a.n_heads)), y=layers, zmin=0, zmax=3, showscale=False, xgap=1, ygap=1,
            colorscale=_steps((_NEITHER, _ONLY_A, _ONLY_B, _BOTH)), text=_hovers(a, b, layers),
            hovertemplate="%{text}<extra></extra>",
        )
    )  # fmt: skip
    for value, mark in _MARKS.items():
        rows, columns = np.nonzero(grid == value)
        figure.add_scatter(
            x=columns, y=[layers[row] for row in rows], mode="text", text=mark, hoverinfo="skip", showlegend=False,
            textfont={"color": "white" if value == 3 else INK, "size": 11 if a.n_heads <= 24 else 9},
        )  # fmt: skip
    for value, colour in ((1, _ONLY_A), (2, _ONLY_B), (3, _BOTH)):
        label = "both (●)" if value == 3 else f"only {names[value]}"
        figure.add_scatter(
            x=[None], y=[None], mode="markers", name=f"{label}: {int((grid == value).sum())}", hoverinfo="skip",
            marker={"color": colour, "size": 12, "symbol": "square"},
        )  # fmt: skip
    look(figure, "head", "layer", height=150 + len(layers) * max(16, min(36, 320 // len(layers))))
    figure.update_xaxes(showgrid=False, dtick=step(a.n_heads), range=[-0.5, a.n_heads - 0.5])
    figure.update_yaxes(showgrid=False, dtick=step(len(layers)), range=[layers[-1] + 0.5, layers[0] - 0.5])
    return titled(figure, f"Heads of the circuits of {a.task} and {b.task}", f"Every head of {a.model}")


def _name(circuit: Circuit, letter: str) -> str:
    return f"{html.escape(circuit.task)} ({letter})"


def _steps(colours: Sequence[str]) -> list[list[object]]:
    """A colour scale of flat steps, one a whole number from 0."""
    edges = np.linspace(0, 1, len(colours) + 1)
    return [[float(edge), colour] for index, colour in enumerate(colours) for edge in edges[index : index + 2]]


def _hovers(a: Circuit, b: Circuit, layers: Sequence[int]) -> list[list[str]]:
    """Of every head: its score, and role where it is in the circuit, in both."""
    rows = []
    for layer in layers:
        cells = []
        for head in range(a.n_heads):
            lines = [f"<b>{head_name(layer, head)}</b>"]
            for circuit in (a, b):
                node = circuit.node_of((layer, head))
                job = f", in the circuit{', ' + node.role.replace('_', ' ') if node.role else ''}"
                lines.append(html.escape(f"{circuit.task}: {number(node.score)}{job if node.in_circuit else ''}"))
            cells.append("<br>".join(lines))
        rows.append(cells)
    return rows


def score_scatter(a: Circuit, b: Circuit, labels: int = 10) -> go.Figure:
    """Scores of every head on the two tasks; heads of either circuit marked, at most `labels` of the strongest named.

    The title has Spearman's rank correlation over all heads with its interval (`rank_correlation`).
    """
    nodes = [(head, a.node_of(head), b.node_of(head)) for head in map(head_of, a.graph.heads) if head is not None]
    kinds = [one.in_circuit + 2 * other.in_circuit for _, one, other in nodes]
    figure = go.Figure()
    looks = {
        0: ("in neither", "#c3cad1", "circle"), 1: (f"only {_name(a, 'A')}", COLOURS[0], "triangle-up"),
        2: (f"only {_name(b, 'B')}", COLOURS[1], "triangle-down"), 3: ("both", INK, "diamond"),
    }  # fmt: skip
    for kind, (label, colour, symbol) in looks.items():
        part = [node for node, mine in zip(nodes, kinds, strict=True) if mine == kind]
        text = [f"<b>{head_name(*head)}</b><br>A {number(one.score)}<br>B {number(other.score)}"
                for head, one, other in part]  # fmt: skip
        figure.add_scatter(
            x=[one.score for _, one, _ in part], y=[other.score for _, _, other in part], mode="markers", name=label,
            text=text, hovertemplate="%{text}<extra></extra>",
            marker={"color": colour, "symbol": symbol, "size": 6 if kind == 0 else 9, "opacity": 0.8},
        )  # fmt: skip
    look(figure, f"score, {_name(a, 'A')}", f"score, {_name(b, 'B')}", height=440)
    points = pd.DataFrame([(one.score, other.score) for _, one, other in nodes], columns=["x", "y"],
                          index=[head_name(*head) for head, _, _ in nodes])  # fmt: skip
    far = ((points / (points.max() - points.min()).replace(0, 1)) ** 2).sum(axis=1)
    name_points(figure, points, list(far.sort_values(ascending=False, kind="stable").index[:labels]))
    found = rank_correlation(points["x"].to_numpy(), points["y"].to_numpy())
    title = f"Scores on {a.task} and {b.task}: rank correlation {number(found.value)}"
    return titled(figure, f"{title} [{number(found.low)}, {number(found.high)}]", f"One point a head of {a.model}")


def overlap_matrix(pairs: pd.DataFrame, tasks: Sequence[str]) -> go.Figure:
    """Every circuit against every other: the share of the row's heads that the column's circuit has too.

    pairs: `pair_table`. Each cell says how many heads of how many, and * where they share more than random heads of
    the same layers would (q < 0.05). The diagonal says the circuit's size.
    """
    place = {task: index for index, task in enumerate(tasks)}
    grid = np.full((len(tasks), len(tasks)), np.nan)
    cell = np.full(grid.shape, "", dtype=object)
    hover = np.full(grid.shape, "", dtype=object)
    for pair in pairs.to_dict("records"):
        for own, other, size in ((pair["a"], pair["b"], pair["size_a"]), (pair["b"], pair["a"], pair["size_b"])):
            where = place[own], place[other]
            share = pair["shared"] / size if size else np.nan
            mark = " *" if pair["q"] < LEVEL else ""
            grid[where], cell[where] = share, f"<b>{pair['shared']}</b> of {size}{mark}"
            hover[where] = _pair_words(own, other, pair, size)
            cell[place[own], place[own]] = f"{size} heads"
    figure = word_matrix(grid, cell, hover, tasks, tasks, (0.0, 1.0), SEQUENTIAL)
    figure.update_xaxes(title={"text": "… that the circuit of this task has too"})
    note = f"Diagonal: size of the circuit. * : more than random heads of the same layers, q < {LEVEL:g}"
    return titled(figure, "Heads that the circuits share", note)


def pair_table(overlaps: Sequence[Overlap]) -> pd.DataFrame:
    """One row a pair: `a`, `b` (tasks), `shared`, `size_a`, `size_b`, `expected`, `p` (for sharing more), `q`.

    q: p corrected for the number of pairs (Benjamini and Hochberg 1995).
    """
    rows = [
        (found.task_a, found.task_b, len(found.shared), len(found.heads_a), len(found.heads_b), found.count.expected,
         found.p_value)
        for found in overlaps
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["a", "b", "shared", "size_a", "size_b", "expected", "p"])
    return frame.assign(q=benjamini_hochberg(frame["p"].to_numpy(dtype=float)))


def _pair_words(own: str, other: str, pair: Mapping[Any, Any], size: int) -> str:
    lines = [
        f"<b>{html.escape(own)}, {html.escape(other)}</b>", f"{pair['shared']} of {size} heads shared",
        f"by chance: {number(pair['expected'])}", f"p = {number(pair['p'])}, q = {number(pair['q'])}",
    ]  # fmt: skip
    return "<br>".join(lines)


def word_matrix(
    grid: Float[np.ndarray, "rows columns"],
    cell: np.ndarray,
    hover: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    ends: tuple[float, float],
    scale: Sequence[Sequence[object]],
) -> go.Figure:
    """Circuits × tasks: a heat map of `scale` between `ends` with words in its cells; sand where there is no value.

    cell, hover: [rows, columns] markup. rows, columns: names of tasks, as text.
    """
    low, high = ends
    names, others = [html.escape(name) for name in rows], [html.escape(name) for name in columns]
    figure = go.Figure(
        go.Heatmap(
            z=grid, x=others, y=names, customdata=hover, hovertemplate="%{customdata}<extra></extra>",
            zmin=low, zmax=high, colorscale=scale, xgap=2, ygap=2, showscale=False, hoverongaps=False,
        )
    )  # fmt: skip
    for row, name in enumerate(names):
        for column, other in enumerate(others):
            value = grid[row, column]
            fill = NOT_DEFINED if np.isnan(value) else colour_at(scale, (value - low) / (high - low))
            figure.add_annotation(
                x=other, y=name, text=cell[row, column], showarrow=False, font={"size": 12, "color": ink_on(fill)},
            )  # fmt: skip
    look(figure, "task", "heads of the circuit of …", height=130 + 56 * len(names))
    figure.update_layout(plot_bgcolor=NOT_DEFINED)
    figure.update_xaxes(type="category", showgrid=False)
    return figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
