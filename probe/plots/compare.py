"""Two head tables side by side: maps of difference, a against b, and how alike matched heads are."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probe.columns import describe
from probe.plots.heads import head_map
from probe.plots.style import COLOURS, GREY, INK, LEVEL, apart, look, titled, veil
from probe.text import number, with_interval

if TYPE_CHECKING:
    from probe.comparisons.comparison import Comparison

NAMED = 8
"""Changed heads whose names stand in a scatter: more would cover the points."""
DRAWN = 400
"""Points of a curve of shares: it reads as the 70,000 that it stands for."""


def difference_map(comparison: Comparison, metric: str | None = None) -> go.Figure:
    """Layer × head map of b − a in `metric` (default: the metric that changed most), of A's first stack and kind.

    Blank (sand) cells are heads without a partner or without a value. Raises ResultsError for a metric that was not
    compared.
    """
    chosen = metric or str(comparison.metrics["metric"][0])
    comparison.of(chosen)
    figure = head_map(comparison.table(), f"difference_{chosen}")
    return titled(figure, f"{chosen}: B − A", f"A: {comparison.label_a}. B: {comparison.label_b}.")


def scatter(comparison: Comparison, metric: str | None = None) -> go.Figure:
    """`metric` in A against B, a point a pair of heads; those that changed (q < 0.05) marked, the largest named.

    On the dotted line nothing changed. Faint bars: both 95 % intervals, of changed heads only. Raises ResultsError for
    a metric that was not compared.
    """
    chosen = metric or str(comparison.metrics["metric"][0])
    part = comparison.of(chosen)
    part = part[part["difference"].notna()]
    unit = describe(chosen, comparison.a.metadata).unit
    same, sure = (part[(part["q"] < LEVEL) == found].reset_index(drop=True) for found in (False, True))
    ends = [float(part[["a", "b"]].min().min()), float(part[["a", "b"]].max().max())] if len(part) else [0.0, 1.0]
    figure = go.Figure()
    figure.add_scatter(x=ends, y=ends, mode="lines", line={"color": INK, "width": 1, "dash": "dot"}, hoverinfo="skip",
                       showlegend=False)  # fmt: skip
    _points(figure, same, f"not told apart ({len(same)})", GREY, "circle", bars=False)
    _points(figure, sure, f"changed, q < {LEVEL:g} ({len(sure)})", COLOURS[1], "diamond", bars=True)
    across, up = (html.escape(f"{letter}: {label}") for letter, label in (("A", comparison.label_a),
                                                                          ("B", comparison.label_b)))  # fmt: skip
    look(figure, across, up, height=440)
    if len(sure):
        _name_largest(figure, sure)
    return titled(figure, f"{chosen} ({unit}), A against B", "One point a head. Dotted line: no change.")


def _name_largest(figure: go.Figure, sure: pd.DataFrame) -> None:
    """The largest changes by name, off the line on their own side; names that would touch another are left out."""
    points = sure.assign(name=_pairs(sure)).set_index("name")[["a", "b"]].set_axis(["x", "y"], axis=1)
    largest = np.argsort(-sure["difference"].abs().to_numpy(), kind="stable")[:NAMED]
    for name in apart(points, [points.index[int(row)] for row in largest]):
        x, y = float(points["x"][name]), float(points["y"][name])
        side = -1 if y > x else 1
        figure.add_annotation(
            x=x, y=y, text=name, ax=44 * side, ay=26 * side, showarrow=True, arrowhead=0, arrowwidth=1, arrowcolor=GREY,
            font={"size": 12}, bgcolor="rgba(255,255,255,0.7)", borderpad=1,
        )  # fmt: skip


def pair_name(mine: str, theirs: str) -> str:
    """One name where both heads have the same, else both."""
    return mine if mine == theirs else f"{mine} ↔ {theirs}"


def certainty(q: float) -> str:
    """A q-value as far as it can be believed: the far tails of t are an extrapolation from few units."""
    return "< 0.001" if q < 0.001 else f"= {number(q)}"


def _pairs(part: pd.DataFrame) -> list[str]:
    return list(map(pair_name, part["name_a"], part["name_b"]))


def _points(figure: go.Figure, part: pd.DataFrame, name: str, colour: str, symbol: str, *, bars: bool) -> None:
    def ends(column: str) -> dict[str, object] | None:
        if not bars:
            return None
        return {
            "type": "data", "symmetric": False, "array": (part[f"{column}_high"] - part[column]).clip(lower=0),
            "arrayminus": (part[column] - part[f"{column}_low"]).clip(lower=0), "thickness": 1, "width": 0,
            "color": veil(colour, 0.35),
        }  # fmt: skip

    text = [
        f"<b>{pair}</b><br>A {with_interval(part, row, 'a')}<br>B {with_interval(part, row, 'b')}"
        f"<br>B − A {with_interval(part, row, 'difference')}<br>q {certainty(float(part['q'][row]))}"
        for row, pair in enumerate(_pairs(part))
    ]
    figure.add_scatter(
        x=part["a"], y=part["b"], mode="markers", name=name, text=text, hovertemplate="%{text}<extra></extra>",
        marker={"color": colour, "symbol": symbol, "size": 8 if bars else 5, "opacity": 0.8},
        error_x=ends("a"), error_y=ends("b"),
    )  # fmt: skip


def likeness(comparison: Comparison) -> go.Figure:
    """How far apart the two heads of a pair are, beside pairs that mean nothing: shares at most that far apart."""
    matching = comparison.matching
    figure = go.Figure()
    control = "matched in shuffled tables" if matching.how == "behaviour" else "heads of other names"
    for values, name, colour, dash in (
        (matching.distance, "the pairs", COLOURS[0], "solid"),
        (matching.control, control, COLOURS[6], "dash"),
    ):
        shown = values[~np.isnan(values)]
        share = np.linspace(0, 1, min(len(shown), DRAWN)) if len(shown) else np.array([])
        figure.add_scatter(
            x=np.quantile(shown, share) if len(shown) else [], y=share, mode="lines", name=name,
            line={"color": colour, "width": 2, "dash": dash},
            hovertemplate="%{y:.0%} within %{x:.2f}<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    look(figure, "distance of the two heads, standard deviations per metric", "share of pairs", height=340)
    figure.update_yaxes(range=[0, 1.02], tickformat=".0%").update_xaxes(rangemode="tozero")
    return titled(figure, "How alike the two heads of a pair are", "Root mean square over the metrics, standardised.")
