"""The one look of every figure: colours that survive colour blindness and a printer, axes, a title that can go."""

from __future__ import annotations

import html
from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

INK, FAINT, GREY = "#1b2733", "#d9dee4", "#7d8894"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555", "#661100")
"""Okabe and Ito's colours (2008) without yellow and black, then grey and dark brown."""
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "x", "triangle-down", "star")
SEQUENTIAL = [[0.0, "#f7fbff"], [0.25, "#c6dbef"], [0.5, "#6baed6"], [0.75, "#2171b5"], [1.0, "#08306b"]]
DIVERGING = [[0.0, "#b2182b"], [0.25, "#f4a582"], [0.5, "#f7f7f7"], [0.75, "#92c5de"], [1.0, "#2166ac"]]
NOT_DEFINED = "#e9e4d8"
LEVEL = 0.05
"""False discovery rate below which a head is marked."""

_TOP, _TITLE, _NOTE, _GAP = 12, 22, 16, 10
"""Pixels above the title, of its line, of a line of the note below it, and below both."""
_FIRST = 24
"""Pixels from the top to where plotly hangs a title of several lines: some way into the first."""
_WIDE = 128
"""Characters of a note that stand in one line of 900 pixels."""


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
        hoverlabel={"bgcolor": "white", "bordercolor": INK, "font": {"color": INK}, "align": "left"},
    )
    figure.update_xaxes(title={"text": x, "standoff": 8}, **axis)
    figure.update_yaxes(title={"text": y, "standoff": 8}, **axis)
    return figure


def titled(figure: go.Figure, title: str, note: str = "") -> go.Figure:
    """The figure with a title, and below it in small print how to read it; the legend moves under both.

    title, note: text, not markup; they replace those that it had. The figure grows by the room that they take, so that
    the plot itself keeps its size. `untitled` takes both away where a page says them in its own words.
    """
    lines = [html.escape(line, quote=False) for line in wrap(note, _WIDE)]
    small = "".join(f'<br><span style="font-size:12px">{line}</span>' for line in lines)
    room = _TOP + _TITLE + _NOTE * len(lines) + _GAP
    more = room - (figure.layout.meta or {}).get("title_room", 0)
    height = figure.layout.height + more
    figure.update_layout(
        height=height,
        margin={"t": figure.layout.margin.t + more},
        title={
            "text": f"<b>{html.escape(title, quote=False)}</b>{small}", "font": {"size": 16},
            "pad": {"l": 16}, "x": 0, "xref": "container", "xanchor": "left", "y": 1 - _FIRST / height,
            "yref": "container", "yanchor": "top",
        },
        legend={"y": 1 - room / height, "yref": "container", "yanchor": "top"},
        meta={**(figure.layout.meta or {}), "title_room": room},
    )  # fmt: skip
    return figure


def untitled(figure: go.Figure) -> go.Figure:
    """A copy of a figure without what `titled` gave it; a figure without a title as it is."""
    meta = dict(figure.layout.meta or {})
    room = meta.pop("title_room", None)
    if room is None:
        return figure
    bare = go.Figure(figure)
    bare.layout.title = None
    return bare.update_layout(
        height=figure.layout.height - room, margin={"t": figure.layout.margin.t - room}, meta=meta or None,
        legend={"y": 1.02, "yref": "paper", "yanchor": "bottom"},
    )  # fmt: skip


def line_of(index: int) -> dict[str, object]:
    """The look of the index-th line: colour and dash, so that neither is needed to tell eight lines apart."""
    return {"color": COLOURS[index % len(COLOURS)], "dash": DASHES[index % len(DASHES)], "width": 2}


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
    luminance = float(np.dot(linear(fill), (0.2126, 0.7152, 0.0722)))
    return "white" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.061 else INK


def linear(colour: str) -> list[float]:
    """Red, green and blue of `#rrggbb` as shares of full light (IEC 61966-2-1, sRGB)."""
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in _rgb(colour)]


def colour_at(scale: Sequence[Sequence[Any]], share: float) -> str:
    """The colour `#rrggbb` of a scale at a share from 0 to 1; its ends beyond."""
    stops, colours = [float(stop[0]) for stop in scale], np.array([_rgb(str(stop[1])) for stop in scale])
    parts = [np.interp(share, stops, colours[:, part]) for part in range(3)]
    return "#" + "".join(f"{round(255 * part):02x}" for part in parts)


def veil(colour: str, opacity: float = 0.16) -> str:
    """A colour `#rrggbb` that lets through what lies below it: for bands."""
    red, green, blue = (round(255 * part) for part in _rgb(colour))
    return f"rgba({red},{green},{blue},{opacity:g})"


def apart(points: pd.DataFrame, wanted: Sequence[str]) -> list[str]:
    """The wanted names in order, without those whose point is too near a chosen one for two labels to be read.

    points: `x` and `y` by name, in any unit.
    """
    span = (points.max() - points.min()).replace(0, 1)
    place, chosen = points / span, list[str]()
    for name in wanted:
        away = (place.loc[chosen] - place.loc[name]).abs()
        if not ((away["x"] < 0.14) & (away["y"] < 0.05)).any():
            chosen.append(name)
    return chosen


def name_points(figure: go.Figure, points: pd.DataFrame, wanted: Sequence[str]) -> None:
    """Write the wanted names beside, above or below their points, where they cover no other point.

    Left out are names that would touch another, and those that would cover more than one point wherever they stood.
    """
    place = (points - points.min()) / (points.max() - points.min()).replace(0, 1)
    for name in apart(points, wanted):
        sides = ("left", "right") if place["x"][name] > 0.5 else ("right", "left")
        covered = {side: _covered(place, name, side) for side in (*sides, "top", "bottom")}
        side = min(covered, key=lambda one: covered[one])
        if covered[side] > 1:
            continue
        across = {"left": ("right", -6), "right": ("left", 6)}.get(side, ("center", 0))
        figure.add_annotation(
            x=points["x"][name], y=points["y"][name], text=name, showarrow=False, font={"size": 12},
            xanchor=across[0], xshift=across[1], yshift={"top": 13, "bottom": -13}.get(side, 0),
        )  # fmt: skip


def _covered(place: pd.DataFrame, name: str, side: str) -> float:
    """Other points under a name that is written at one side of its own; without end where it would leave the frame.

    place: `x`, `y` as shares of the frame.
    """
    away = place - place.loc[name]
    if side in ("left", "right"):
        ahead = -away["x"] if side == "left" else away["x"]
        room = place["x"][name] if side == "left" else 1 - place["x"][name]
        return float("inf") if room < 0.06 else float(((ahead > 0) & (ahead < 0.09) & (away["y"].abs() < 0.03)).sum())
    ahead = away["y"] if side == "top" else -away["y"]
    return float(((ahead > 0) & (ahead < 0.06) & (away["x"].abs() < 0.05)).sum())


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
