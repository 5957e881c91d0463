"""Figures of an ablation study: every head's effect, the strongest, removal one by one, estimate against measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probe.analyses.agreement import means, strongest
from probe.analyses.effects import Effects
from probe.analyses.removal_curve import RemovalCurve
from probe.analyses.units import Unit
from probe.columns import METRIC_UNITS
from probe.errors import ResultsError
from probe.plots.heads import COLOURS, DIVERGING, INK, NOT_DEFINED, look, step
from probe.text import number, with_interval

LEVEL = 0.05
"""False discovery rate below which a head is marked."""
HELPS, HURTS = DIVERGING[-1][1], DIVERGING[0][1]
"""The ends of the diverging scale, so that a head has one colour in the map and in the ranking."""


def _hover(numbers: pd.DataFrame, row: int) -> str:
    """Unit, effect, interval, p and q; what there is of it."""
    parts = [f"<b>{numbers['name'][row]}</b>", f"effect {with_interval(numbers, row, 'effect')}"]
    if not np.isnan(numbers["effect_q"][row]):
        parts.append(f"p = {number(numbers['effect_p'][row])}, q = {number(numbers['effect_q'][row])}")
    return "<br>".join(parts)


def effect_map(units: Sequence[Unit], numbers: pd.DataFrame, metric: str) -> go.Figure:
    """Layer × head map of mean effects, centred on 0: blue where the head helps, red where it works against.

    numbers: `effect_columns.summary`, one row a unit. A dot marks q < 0.05. A group's or a layer's effect fills the
    cells of its heads; sand: not measured. Raises ResultsError when units share a head, as sets may: then there is
    no one effect to draw.
    """
    cells: dict[tuple[int, int], int] = {}
    for row, unit in enumerate(units):
        for cell in unit.heads:
            if cell in cells:
                raise ResultsError(f"{unit.name} and {units[cells[cell]].name} share a head: draw them ranked")
            cells[cell] = row
    layers, heads = (sorted({cell[axis] for cell in cells}) for axis in (0, 1))
    grid = np.full((len(layers), len(heads)), np.nan)
    text = np.full(grid.shape, "", dtype=object)
    for (layer, head), row in cells.items():
        place = layers.index(layer), heads.index(head)
        grid[place], text[place] = numbers["effect"][row], _hover(numbers, row)
    largest = float(numbers["effect"].abs().max())
    largest = largest if largest > 0 else 1.0  # no effect, or none measured
    figure = go.Figure(
        go.Heatmap(
            z=grid, x=heads, y=layers, text=text, hovertemplate="%{text}<extra></extra>",
            hoverongaps=False, xgap=1, ygap=1, zmin=-largest, zmax=largest, colorscale=DIVERGING,
            colorbar={"thickness": 12, "outlinewidth": 0, "title": {"text": METRIC_UNITS[metric], "side": "top"}},
        )
    )  # fmt: skip
    passed = [cell for cell, row in cells.items() if numbers["effect_q"][row] < LEVEL]
    figure.add_scatter(
        x=[head for _, head in passed], y=[layer for layer, _ in passed], mode="markers", hoverinfo="skip",
        showlegend=False, marker={"color": INK, "size": 6, "line": {"color": "white", "width": 1.5}},
    )  # fmt: skip
    look(figure, "head", "layer", height=130 + len(layers) * max(16, min(40, 320 // len(layers))))
    figure.update_layout(plot_bgcolor=NOT_DEFINED)
    figure.update_xaxes(showgrid=False, dtick=step(len(heads)), range=[heads[0] - 0.5, heads[-1] + 0.5])
    return figure.update_yaxes(showgrid=False, dtick=step(len(layers)), range=[layers[-1] + 0.5, layers[0] - 0.5])


def ranked_effects(numbers: pd.DataFrame, metric: str, count: int = 15) -> go.Figure:
    """The units of largest |mean effect|, farthest first, with intervals; filled where q < 0.05."""
    order = numbers["effect"].dropna().abs().sort_values(ascending=False, kind="stable").index[:count]
    chosen = numbers.loc[order]
    colours = [HELPS if effect > 0 else HURTS for effect in chosen["effect"]]
    figure = go.Figure()
    for row, colour in zip(order, colours, strict=True):
        figure.add_scatter(
            x=[chosen["effect_low"][row], chosen["effect_high"][row]], y=[chosen["name"][row]] * 2, mode="lines",
            line={"color": colour, "width": 2}, showlegend=False, hoverinfo="skip",
        )  # fmt: skip
    passed = (chosen["effect_q"] < LEVEL).tolist()
    figure.add_scatter(
        x=chosen["effect"], y=chosen["name"], mode="markers", showlegend=False,
        marker={
            "size": 10, "line": {"color": colours, "width": 2},
            "color": [colour if filled else "white" for colour, filled in zip(colours, passed, strict=True)],
        },
        text=[_hover(numbers, row) for row in order], hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip
    look(figure, f"effect, {METRIC_UNITS[metric]} (95 % interval)", "", height=110 + 22 * len(chosen))
    figure.add_vline(x=0, line={"color": INK, "width": 1})
    return figure.update_yaxes(autorange="reversed", type="category", title=None)


DASHES = {"ranked": "solid", "reversed": "dash"}
ORDERS = {"ranked": "best first", "reversed": "best last", "random": "random heads"}
GREY = "#7d8894"
_HUES = tuple(colour for colour in COLOURS if colour != "#555555")
_SYMBOLS = ("circle", "square", "diamond")


def removal(curve: RemovalCurve, metric: str, seed: int = 0) -> go.Figure:
    """Task score against the share of heads removed: each criterion's order, reversed, random, and nothing removed.

    Solid: the best first; dashed: the best last. The grey band is the range of the random draws' means, of all
    criteria together; bands of the other lines, the 95 % interval over prompts, are drawn where there is one
    criterion.
    """
    points = curve.summary(seed)
    criteria = list(dict.fromkeys(points.loc[points["order"] != "random", "criterion"]))
    figure = go.Figure()
    _random(figure, curve)
    for index, criterion in enumerate(criteria):
        colour, symbol = _HUES[index % len(_HUES)], _SYMBOLS[index // len(_HUES) % len(_SYMBOLS)]
        for order, dash in DASHES.items():
            part = points[(points["criterion"] == criterion) & (points["order"] == order)]
            if not len(part):
                continue
            if len(criteria) == 1:
                _fill(figure, part["share"], part["value_low"], part["value_high"], colour, ORDERS[order])
                _line(figure, part, ORDERS[order], colour, dash=dash)
            else:
                _line(figure, part, criterion, colour, dash=dash, symbol=symbol, hidden=order == "reversed")
    clean = float(curve.frame.loc[curve.frame["k"] == 0, "value"].mean())
    figure.add_scatter(
        x=[0, 100 * float(points["share"].max())], y=[clean, clean], mode="lines", name="nothing removed",
        line={"color": INK, "width": 1.5, "dash": "dot"}, legendrank=1,
        hovertemplate=f"nothing removed: {number(clean)}<extra></extra>",
    )  # fmt: skip
    look(figure, "share of heads removed", f"{metric}, {METRIC_UNITS[metric]}", height=420)
    return figure.update_xaxes(ticksuffix=" %", range=[0, 102 * float(points["share"].max())])


def _random(figure: go.Figure, curve: RemovalCurve) -> None:
    """The mean of all random draws and the range of their own means."""
    drawn = curve.frame[curve.frame["order"] == "random"]
    if not len(drawn):
        return
    paths = drawn.groupby(["k", "share", "criterion", "draw"])["value"].mean()
    spread = paths.groupby(level=["k", "share"]).agg(["mean", "min", "max"]).reset_index()
    spread.columns = ["k", "share", "value", "value_low", "value_high"]
    count = len(drawn[["criterion", "draw"]].drop_duplicates())
    label = f"{ORDERS['random']} ({count} draw{'s' * (count > 1)})"
    _fill(figure, spread["share"], spread["value_low"], spread["value_high"], GREY, label)
    _line(figure, spread, label, GREY, legendrank=2_000)


def _fill(figure: go.Figure, share: pd.Series, low: pd.Series, high: pd.Series, colour: str, group: str) -> None:
    """A band between two lines; none where there is no interval."""
    if low.isna().any():
        return
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    figure.add_scatter(
        x=100 * np.concatenate([share, share[::-1]]), y=np.concatenate([high, low[::-1]]), fill="toself",
        fillcolor=f"rgba({red},{green},{blue},0.16)", line={"width": 0}, mode="lines", hoverinfo="skip",
        showlegend=False, legendgroup=group,
    )  # fmt: skip


def _line(
    figure: go.Figure,
    part: pd.DataFrame,
    label: str,
    colour: str,
    *,
    dash: str = "solid",
    symbol: str = "circle",
    hidden: bool = False,
    legendrank: int = 1_000,
) -> None:
    """Means along one path; hidden: from the legend."""
    figure.add_scatter(
        x=100 * part["share"], y=part["value"], name=label, legendgroup=label, mode="lines+markers",
        line={"color": colour, "width": 2.2, "dash": dash}, marker={"size": 6, "symbol": symbol},
        legendrank=legendrank, showlegend=not hidden,
        text=[f"{part['k'][row]} heads: {with_interval(part, row, 'value')}" for row in part.index],
        hovertemplate="%{text}<extra>%{fullData.name}</extra>",
    )  # fmt: skip


def estimate_scatter(estimate: Effects, measured: Effects, metric: str, labels: int = 8) -> go.Figure:
    """Estimated against measured effect, one point a unit, with the line where they are equal.

    Named: the units farthest from that line, at most `labels`; left out are those within a twentieth of the span of
    it, and those whose name would cover another.
    """
    both = pd.DataFrame({"x": means(estimate), "y": means(measured)}).dropna()
    text = [
        f"<b>{name}</b><br>{estimate.method} {number(x)}<br>{measured.method} {number(y)}"
        for name, x, y in zip(both.index, both["x"], both["y"], strict=True)
    ]
    values = both.to_numpy()
    ends = [values.min(), values.max()] if len(both) else [0.0, 1.0]
    figure = go.Figure()
    figure.add_scatter(
        x=ends, y=ends, mode="lines", name="equal", hoverinfo="skip", line={"color": INK, "width": 1, "dash": "dot"}
    )
    figure.add_scatter(
        x=both["x"], y=both["y"], mode="markers", name="units", text=text, showlegend=False,
        hovertemplate="%{text}<extra></extra>", marker={"color": COLOURS[0], "opacity": 0.7, "size": 7},
    )  # fmt: skip
    away = (both["y"] - both["x"])[lambda gap: gap.abs() > (ends[1] - ends[0]) / 20]
    for name in _apart(both, strongest(away, labels)):
        right = both["x"][name] > (ends[0] + ends[1]) / 2
        figure.add_annotation(
            x=both["x"][name], y=both["y"][name], text=name, showarrow=False, font={"size": 12},
            xanchor="right" if right else "left", xshift=-6 if right else 6,
        )  # fmt: skip
    unit = METRIC_UNITS[metric]
    return look(figure, f"estimated ({estimate.method}), {unit}", f"measured ({measured.method}), {unit}", 420)


def _apart(points: pd.DataFrame, wanted: list[str]) -> list[str]:
    """The wanted names in order, without those whose point is too near a chosen one for two labels to be read."""
    span = (points.max() - points.min()).replace(0, 1)
    place, chosen = points / span, list[str]()
    for name in wanted:
        away = (place.loc[chosen] - place.loc[name]).abs()
        if not ((away["x"] < 0.14) & (away["y"] < 0.05)).any():
            chosen.append(name)
    return chosen
