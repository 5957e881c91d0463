"""Figures from tables: plotly, one look, colours that survive colour blindness and a printer."""

from __future__ import annotations

import html
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probe.columns import describe
from probe.errors import ResultsError
from probe.page.telling import names
from probe.table import HeadTable
from probe.text import number, show_token, with_interval

INK, FAINT = "#1b2733", "#d9dee4"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555", "#8C6D1F")
"""Okabe and Ito's colours (2008) without yellow and black, then grey and ochre."""
DASHES = ("solid", "dash", "dot", "dashdot")
SEQUENTIAL = [[0.0, "#f7fbff"], [0.25, "#c6dbef"], [0.5, "#6baed6"], [0.75, "#2171b5"], [1.0, "#08306b"]]
DIVERGING = [[0.0, "#b2182b"], [0.25, "#f4a582"], [0.5, "#f7f7f7"], [0.75, "#92c5de"], [1.0, "#2166ac"]]
NOT_DEFINED = "#e9e4d8"


def look(figure: go.Figure, x: str, y: str, height: int = 380) -> go.Figure:
    """The one look: white paper, dark ink, quiet grid, legend above."""
    axis = {"gridcolor": FAINT, "zeroline": False, "linecolor": INK, "ticks": "outside", "automargin": True}
    figure.update_layout(
        template="none",
        font={"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": INK},
        paper_bgcolor="white",
        plot_bgcolor="white",
        margin={"l": 52, "r": 16, "t": 16, "b": 48},
        height=height,
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        hoverlabel={"bgcolor": "white", "bordercolor": INK, "font": {"color": INK}},
    )
    figure.update_xaxes(title={"text": x, "standoff": 8}, **axis)
    figure.update_yaxes(title={"text": y, "standoff": 8}, **axis)
    return figure


def _require(table: HeadTable, metric: str) -> None:
    if metric not in table.metrics:
        raise ResultsError(f"no metric {metric!r} in this table; it has {', '.join(table.metrics)}")


def _hover(table: HeadTable, column: str) -> list[str]:
    """Head, number, interval and roles of every row."""
    frame = table.frame
    return [
        f"<b>{name}</b><br>{column} {with_interval(frame, row, column)}<br>{', '.join(frame['roles'][row])}"
        for row, name in enumerate(names(frame))
    ]


def head_map(table: HeadTable, column: str) -> go.Figure:
    """Layer × head map of a metric, of the first stack and kind: heads on x, layers on y, layer 0 on top.

    Blank (sand) cells are heads where the metric is not defined. Signed metrics are centred on 0.
    """
    _require(table, column)
    frame = table.frame.assign(_hover=_hover(table, column))
    first = frame.iloc[0]
    frame = frame[(frame["stack"] == first["stack"]) & (frame["kind"] == first["kind"])]
    values = frame.pivot(index="layer", columns="head", values=column)
    texts = frame.pivot(index="layer", columns="head", values="_hover")
    low, high = scale_of(frame[column])
    figure = go.Figure(
        go.Heatmap(
            z=values.to_numpy(),
            x=[int(head) for head in values.columns],
            y=[int(layer) for layer in values.index],
            text=texts.to_numpy(),
            hovertemplate="%{text}<extra></extra>",
            hoverongaps=False,
            xgap=1,
            ygap=1,
            zmin=low,
            zmax=high,
            colorscale=DIVERGING if low < 0 else SEQUENTIAL,
            colorbar={"thickness": 12, "outlinewidth": 0},
        )
    )
    look(figure, "head", "layer", height=130 + len(values.index) * max(16, min(40, 320 // len(values.index))))
    figure.update_layout(plot_bgcolor=NOT_DEFINED)
    figure.update_xaxes(showgrid=False, dtick=step(len(values.columns)))
    figure.update_yaxes(showgrid=False, autorange="reversed", dtick=step(len(values.index)))
    return figure


def step(count: int) -> int:
    """Ticks of an axis of `count` cells: every one, or every 2, 5, 10, … so that labels do not touch."""
    return next(step for step in (1, 2, 5, 10, 20, 50, 100) if count <= 18 * step or step == 100)


def scale_of(values: pd.Series) -> tuple[float, float]:
    """Ends of a colour scale: 0 to the largest value, or symmetric about 0 when a value is negative."""
    defined = values.dropna()
    largest = float(defined.abs().max()) if len(defined) else 1.0
    return (-largest if len(defined) and defined.min() < 0 else 0.0), largest or 1.0


def ink_on(fill: str) -> str:
    """White or ink, whichever is easier to read on a colour `#rrggbb` (relative luminance, WCAG 2.2)."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in _rgb(fill)]
    luminance = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
    return "white" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.061 else INK


def colour_at(scale: Sequence[Sequence[Any]], share: float) -> str:
    """The colour `#rrggbb` of a scale at a share from 0 to 1; its ends beyond."""
    stops, colours = [float(stop[0]) for stop in scale], np.array([_rgb(str(stop[1])) for stop in scale])
    parts = [np.interp(share, stops, colours[:, part]) for part in range(3)]
    return "#" + "".join(f"{round(255 * part):02x}" for part in parts)


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))


def ranked(table: HeadTable, column: str, count: int = 15, control: str | None = None) -> go.Figure:
    """The heads with the highest values of a metric, with intervals; `control`: a second metric beside it."""
    _require(table, column)
    frame = table.frame.reset_index(drop=True)
    top = frame[column].dropna().sort_values(ascending=False, kind="stable").index[:count]
    labels = np.array(names(frame))[top]
    figure = go.Figure()
    for metric, colour, symbol in ((column, COLOURS[0], "circle"), (control, COLOURS[6], "line-ns-open")):
        if metric is None:
            continue
        chosen = frame.loc[top]
        spread = {
            "array": (chosen[f"{metric}_high"] - chosen[metric]).clip(lower=0).to_numpy(),
            "arrayminus": (chosen[metric] - chosen[f"{metric}_low"]).clip(lower=0).to_numpy(),
        }
        figure.add_scatter(
            x=chosen[metric],
            y=labels,
            mode="markers",
            name=metric,
            marker={"color": colour, "symbol": symbol, "size": 9, "line": {"width": 2, "color": colour}},
            error_x={"symmetric": False, "thickness": 1.4, "color": colour, **spread},
            text=[with_interval(frame, row, metric) for row in top],
            hovertemplate="<b>%{y}</b> %{text}<extra>%{fullData.name}</extra>",
        )
    look(figure, f"{describe(column, table.metadata).unit} (95 % interval)", "", height=110 + 22 * len(top))
    figure.update_yaxes(autorange="reversed", type="category", title=None)
    figure.update_xaxes(rangemode="tozero")
    return figure


def _line(index: int) -> dict[str, object]:
    return {
        "color": COLOURS[index % len(COLOURS)],
        "dash": DASHES[index // len(COLOURS) % len(DASHES)],
        "width": 2,
    }


def offset_spectrum(table: HeadTable, rows: Sequence[int], labels: Sequence[str] | None = None) -> go.Figure:
    """How far back some heads look: attention by distance, in doubling bins. labels: default, the names."""
    spectra = [table.profile("offset_mass", row) for row in rows]
    legend = labels or [names(table.frame)[row] for row in rows]
    bins = ["0", "1"] + [f"{2 ** (b - 1)}–{2**b - 1}" for b in range(2, len(spectra[0]))]
    figure = go.Figure()
    for index, mass in enumerate(spectra):
        figure.add_scatter(
            x=bins, y=mass, name=legend[index], mode="lines+markers", line=_line(index), marker={"size": 5},
            hovertemplate=f"<b>{legend[index]}</b><br>distance %{{x}}: %{{y:.3f}}<extra></extra>",
        )  # fmt: skip
    look(figure, "distance back, tokens", "share of attention", height=400)
    figure.update_xaxes(type="category", tickangle=-40)
    figure.update_yaxes(rangemode="tozero")
    return figure


def received(
    table: HeadTable,
    rows: Sequence[int],
    labels: Sequence[str] | None = None,
    tokens: Sequence[Sequence[str]] | None = None,
    points: int = 360,
) -> go.Figure:
    """What each position receives: α_k, both axes logarithmic; bins (from position 16 on) show their peak.

    Values under 0.00001 are below the frame.

    tokens: token strings of each sequence; the hover then names what stands at the position in some of them.
    """
    profiles = [table.profile("received", row) for row in rows]
    edges = _edges(len(profiles[0]), points)
    legend = labels or [names(table.frame)[row] for row in rows]
    figure = go.Figure()
    for index, profile in enumerate(profiles):
        peaks = [first + _peak(profile[first:last]) for first, last in pairwise(edges)]
        there = [f"position {peak}{_tokens_at(tokens, peak)}" for peak in peaks]
        figure.add_scatter(
            x=[peak + 1 for peak in peaks], y=profile[peaks], mode="lines", line=_line(index),
            name=legend[index],
            text=there, hovertemplate=f"<b>{legend[index]}</b><br>%{{text}}<br>α %{{y:.4f}}<extra></extra>",
        )  # fmt: skip
    look(figure, "position in the sequence", "attention received, α", height=400)
    marks = [mark for mark in (0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000) if mark < edges[-1]]
    figure.update_xaxes(type="log", tickvals=[mark + 1 for mark in marks], ticktext=[str(mark) for mark in marks])
    figure.update_yaxes(type="log", exponentformat="power", dtick=1, range=[-5, 0.1])
    return figure


def _peak(values: np.ndarray) -> int:
    return 0 if np.isnan(values).all() else int(np.nanargmax(values))


def _edges(length: int, points: int) -> list[int]:
    """Bin edges over positions: singles first, then bins whose width grows with the position."""
    grid = np.geomspace(1, length + 1, points).round().astype(int) - 1
    return sorted({*range(min(16, length)), *(int(edge) for edge in grid), length})


def _tokens_at(tokens: Sequence[Sequence[str]] | None, position: int) -> str:
    if tokens is None:
        return ""
    seen = dict.fromkeys(show_token(text[position]) for text in tokens if position < len(text))
    shown = [html.escape(token) for token in list(seen)[:4]]
    return ": " + "  ".join(shown) + (" …" if len(seen) > 4 else "")


def scatter(table: HeadTable, x: str, y: str) -> go.Figure:
    """Two metrics against each other, one point a head."""
    for column in (x, y):
        _require(table, column)
    text = [
        f"<b>{name}</b><br>{x} {number(table.frame[x][row])}<br>{y} {number(table.frame[y][row])}"
        for row, name in enumerate(names(table.frame))
    ]
    figure = go.Figure(
        go.Scatter(
            x=table.frame[x], y=table.frame[y], mode="markers", text=text,
            hovertemplate="%{text}<extra></extra>",
            marker={"color": COLOURS[0], "opacity": 0.7, "size": 7},
        )
    )  # fmt: skip
    return look(figure, x, y)
