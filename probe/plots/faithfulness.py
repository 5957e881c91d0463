"""How faithful a circuit is by its size: heads and edges, beside random ones of the same layers."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from probe.circuits.circuit import CurvePoint
from probe.plots.style import COLOURS, GREY, INK, look, titled, veil
from probe.text import number

HEAD_ARMS, EDGE_ARMS = ("heads", "random_heads"), ("edges", "edges_absolute", "random_edges")
ARM_WORDS = {
    "heads": "heads by score", "random_heads": "random heads", "edges": "edges by score",
    "edges_absolute": "edges by |score|", "random_edges": "random edges",
}  # fmt: skip
_LOOKS = {
    "heads": (COLOURS[0], "solid", "circle"), "random_heads": (GREY, "dash", "square"),
    "edges": (COLOURS[0], "solid", "circle"), "edges_absolute": (COLOURS[1], "dot", "diamond"),
    "random_edges": (GREY, "dash", "square"),
}  # fmt: skip
_TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

_BANDS = "Bands: 95 % interval over prompts; of random ones, the range of the draws"

ROOM = 1.6
"""Two sizes are named on the axis where the larger is this many times the smaller."""


def head_curve(points: Sequence[CurvePoint]) -> go.Figure:
    """Faithfulness against the number of heads kept, on a logarithmic axis."""
    figure = _curves(points, HEAD_ARMS, "all heads replaced")
    look(figure, "heads kept", "faithfulness", height=400)
    sizes = sorted({int(point.size) for point in points if point.arm in HEAD_ARMS and point.size > 0})
    ticks = _apart(sizes)
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{size:,}" for size in ticks], tickangle=0)
    note = f"All other heads replaced, MLPs at work. {_BANDS}"
    return titled(figure, "Faithfulness by the number of heads kept", note)


def _apart(sizes: Sequence[int]) -> list[int]:
    """Those of rising sizes that a logarithmic axis has room to name; the last is the whole model and always is."""
    kept: list[int] = []
    for size in sizes[:-1]:
        if (not kept or size >= ROOM * kept[-1]) and sizes[-1] >= ROOM * size:
            kept.append(size)
    return [*kept, *sizes[-1:]]


def edge_curve(points: Sequence[CurvePoint]) -> go.Figure:
    """Faithfulness against the share of edges asked for, on a logarithmic axis: by score, by |score|, random."""
    figure = _curves(points, EDGE_ARMS, "everything corrupted")
    look(figure, "share of edges asked for, %", "faithfulness", height=400)
    figure.update_xaxes(type="log", tickvals=_TICKS, ticktext=[f"{100 * tick:g}" for tick in _TICKS])
    note = f"All other edges carry what they carry in the corrupted run. {_BANDS}"
    return titled(figure, "Faithfulness by the share of edges kept", note)


def _curves(points: Sequence[CurvePoint], arms: Sequence[str], nothing: str) -> go.Figure:
    """A line and a band an arm; a line at 1, the whole model, and at 0, `nothing`. Size 0 has no place."""
    figure = go.Figure()
    for arm in arms:
        mine = sorted((point for point in points if point.arm == arm and point.size > 0), key=lambda point: point.size)
        if mine:
            _band(figure, mine, _LOOKS[arm][0])
            _line(figure, mine, arm)
    for level, text, place in ((1, "the whole model", "top left"), (0, nothing, "bottom right")):
        figure.add_hline(
            y=level, line={"color": INK, "width": 1, "dash": "dot"}, annotation_text=text,
            annotation_position=place, annotation_font={"size": 11, "color": "#56636f"},
        )  # fmt: skip
    return figure


def _band(figure: go.Figure, points: Sequence[CurvePoint], colour: str) -> None:
    figure.add_scatter(
        x=[point.size for point in (*points, *points[::-1])],
        y=[point.high for point in points] + [point.low for point in points[::-1]], fill="toself", mode="lines",
        fillcolor=veil(colour), line={"width": 0}, hoverinfo="skip", showlegend=False,
        legendgroup=points[0].arm,
    )  # fmt: skip


def _line(figure: go.Figure, points: Sequence[CurvePoint], arm: str) -> None:
    colour, dash, symbol = _LOOKS[arm]
    figure.add_scatter(
        x=[point.size for point in points], y=[point.faithfulness for point in points], name=ARM_WORDS[arm],
        legendgroup=arm, mode="lines+markers", line={"color": colour, "width": 2.4, "dash": dash},
        marker={"size": 7, "symbol": symbol}, text=[told(point) for point in points],
        hovertemplate="%{text}<extra>%{fullData.name}</extra>",
    )  # fmt: skip


def told(point: CurvePoint) -> str:
    """`5 heads: 0.52 [0.45, 0.60]`; of edges the share asked and how many were left after pruning."""
    kind = "heads" if point.arm in HEAD_ARMS else "edges"
    size = f"{point.count:,} {kind if point.count != 1 else kind[:-1]}"
    if kind == "edges":
        size = f"{100 * point.size:g} %, {size}"
    return f"{size}: {number(point.faithfulness)} [{number(point.low)}, {number(point.high)}]"
