"""Figures of an ablation study: every head's effect, the strongest, removal one by one, estimate against measured."""

from __future__ import annotations

import html
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
from probe.plots.cells import cell_map, told_from_zero
from probe.plots.style import COLOURS, DIVERGING, GREY, INK, LEVEL, SYMBOLS, look, name_points, titled, veil
from probe.text import number, with_interval

HELPS, HURTS = DIVERGING[-1][1], DIVERGING[0][1]
"""The ends of the diverging scale, so that a head has one colour in the map and in the ranking."""


def _hover(numbers: pd.DataFrame, row: int) -> str:
    """Unit, effect, interval, p and q; what there is of it."""
    parts = [f"<b>{numbers['name'][row]}</b>", f"effect {with_interval(numbers, row, 'effect')}"]
    if not np.isnan(numbers["effect_q"][row]):
        parts.append(f"p = {number(numbers['effect_p'][row])}, q = {number(numbers['effect_q'][row])}")
    return "<br>".join(parts)


def effect_map(units: Sequence[Unit], numbers: pd.DataFrame, metric: str, title: str = "") -> go.Figure:
    """Layer × head map of mean effects, centred on 0: blue where the head helps, red where it works against.

    numbers: `effect_columns.summary`, one row a unit. Triangles mark q < 0.05, pointing down where the effect is below
    0. A group's or a layer's effect fills the cells of its heads; sand: not measured. Raises ResultsError when units
    share a head, as sets may: then there is no one effect to draw.
    """
    cells: dict[tuple[int, int], int] = {}
    for row, unit in enumerate(units):
        for cell in unit.heads:
            if cell in cells:
                raise ResultsError(f"{unit.name} and {units[cells[cell]].name} share a head: draw them ranked")
            cells[cell] = row
    layers, heads = (sorted({cell[axis] for cell in cells}) for axis in (0, 1))
    grid, signs = np.full((len(layers), len(heads)), np.nan), np.zeros((len(layers), len(heads)), dtype=int)
    text = np.full(grid.shape, "", dtype=object)
    told, corrected = told_from_zero(numbers, "effect")
    for (layer, head), row in cells.items():
        place = layers.index(layer), heads.index(head)
        grid[place], signs[place], text[place] = numbers["effect"][row], told[row], _hover(numbers, row)
    scale = METRIC_UNITS[metric]
    figure = cell_map(layers, heads, grid, text, scale, signs, corrected=corrected, centred=True)
    note = "Blue: helps, the task does worse without it. Red: works against the task"
    note += "; sand: not measured" * bool(np.isnan(grid).any())
    return titled(figure, title or "What each head does for the task", note)


def ranked_effects(numbers: pd.DataFrame, metric: str, count: int = 15, title: str = "") -> go.Figure:
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
    figure.update_yaxes(autorange="reversed", type="category", title=None, dtick=1)
    note = f"The {len(chosen)} farthest from 0 of {int(numbers['effect'].notna().sum())}, with 95 % intervals over "
    return titled(figure, title or "The strongest effects", f"{note}prompts. Filled: q < {LEVEL:g}")


DASHES = {"ranked": "solid", "reversed": "dash"}
ORDERS = {"ranked": "best first", "reversed": "best last", "random": "random heads"}
_HUES = tuple(colour for colour in COLOURS if colour != "#555555")


def removal(curve: RemovalCurve, metric: str | None = None, seed: int = 0, title: str = "") -> go.Figure:
    """Task score against the share of heads removed: each criterion's order, reversed, random, and nothing removed.

    Solid: the best first; dashed: the best last. The grey band is the range of the random draws' means, of all
    criteria together; bands of the other lines, the 95 % interval over prompts, are drawn where there is one
    criterion. metric: a task's, for the name of the axis; None: the score.
    """
    points = curve.summary(seed)
    criteria = list(dict.fromkeys(points.loc[points["order"] != "random", "criterion"]))
    figure = go.Figure()
    _random(figure, curve)
    for index, criterion in enumerate(criteria):
        colour, symbol = _HUES[index % len(_HUES)], SYMBOLS[index % len(SYMBOLS)]
        for order, dash in DASHES.items():
            part = points[(points["criterion"] == criterion) & (points["order"] == order)]
            if not len(part):
                continue
            if len(criteria) == 1:
                _fill(figure, part["share"], part["value_low"], part["value_high"], colour, ORDERS[order])
                _line(figure, part, ORDERS[order], colour, dash=dash)
            else:
                label, hidden = html.escape(criterion), order == "reversed"
                _line(figure, part, label, colour, dash=dash, symbol=symbol, hidden=hidden)
    clean = float(curve.frame.loc[curve.frame["k"] == 0, "value"].mean())
    figure.add_scatter(
        x=[0, 100 * float(points["share"].max())], y=[clean, clean], mode="lines", name="nothing removed",
        line={"color": INK, "width": 1.5, "dash": "dot"}, legendrank=1,
        hovertemplate=f"nothing removed: {number(clean)}<extra></extra>",
    )  # fmt: skip
    score = "score" if metric is None else f"{metric}, {METRIC_UNITS[metric]}"
    look(figure, "share of heads removed", score, height=420)
    figure.update_xaxes(ticksuffix=" %", range=[0, 102 * float(points["share"].max())])
    note = "Solid: the best first; dashed: the best last. Grey: mean of the random draws and the range of their means"
    if len(criteria) == 1:
        note += f". Ranked by {criteria[0]}; bands: 95 % interval over prompts"
    return titled(figure, title or "Heads removed one after the other", note)


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
    figure.add_scatter(
        x=100 * np.concatenate([share, share[::-1]]), y=np.concatenate([high, low[::-1]]), fill="toself",
        fillcolor=veil(colour), line={"width": 0}, mode="lines", hoverinfo="skip",
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
    name_points(figure, both, strongest(away, labels))
    unit = METRIC_UNITS[metric]
    look(figure, f"estimated ({estimate.method}), {unit}", f"measured ({measured.method}), {unit}", 420)
    note = "One point each; named: those farthest from the dotted line, where estimate and measurement are equal"
    return titled(figure, f"Effects on {estimate.task}: {estimate.method} against {measured.method}", note)
