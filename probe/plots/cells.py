"""A map with a cell a head: layers from top to bottom, heads from left to right, marks where a value is told from 0."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float, Int

from probe.plots.style import DIVERGING, INK, LEVEL, NOT_DEFINED, SEQUENTIAL, look, scale_of, step

CORRECTED, BARE = f"q < {LEVEL:g}", "95 % interval leaves out 0"
MARK_NAMES = {True: f"{CORRECTED} (▲ above 0, ▼ below)", False: f"{BARE}, not corrected (△ above, ▽ below)"}
"""What the legend says of the marks, by whether there is a q."""
UP, DOWN = "triangle-up", "triangle-down"


def cell_map(
    layers: Sequence[int],
    heads: Sequence[int],
    values: Float[np.ndarray, "L H"],
    hover: np.ndarray,
    unit: str,
    signs: Int[np.ndarray, "L H"] | None = None,
    *,
    corrected: bool = True,
    centred: bool = False,
) -> go.Figure:
    """The map of `values`; sand where NaN; `centred` on 0, as it is anyway where any is negative.

    hover: [L, H] markup. unit: beside the colour scale. signs: 1 or −1 where a head is marked, as above or below 0;
    corrected: the marks stand for q < 0.05, else for an interval that leaves out 0. Trace 0 is the heat map, trace 1
    the marks, also where there are none: a page that shows another metric fills both anew.
    """
    low, high = scale_of(pd.Series(np.asarray(values, dtype=float).ravel()))
    low = -high if centred else low
    size = cell_height(len(layers))
    figure = go.Figure(
        go.Heatmap(
            z=values, x=list(heads), y=list(layers), text=hover, hovertemplate="%{text}<extra></extra>",
            hoverongaps=False, xgap=1, ygap=1, zmin=low, zmax=high, colorscale=DIVERGING if low < 0 else SEQUENTIAL,
            colorbar={"thickness": 12, "outlinewidth": 0, "title": {"text": unit, "side": "right"}},
        )
    )  # fmt: skip
    marked = [] if signs is None else np.argwhere(signs).tolist()
    symbols = [] if signs is None else [UP if signs[row, column] > 0 else DOWN for row, column in marked]
    figure.add_scatter(
        x=[heads[column] for _, column in marked], y=[layers[row] for row, _ in marked], mode="markers",
        hoverinfo="skip", name=MARK_NAMES[corrected], showlegend=bool(symbols),
        marker={"symbol": symbols, "color": INK if corrected else "white", "size": 9 if size < 22 else 11,
                "line": {"color": "white" if corrected else INK, "width": 1}},
    )  # fmt: skip
    look(figure, "head", "layer", height=130 + len(layers) * size)
    figure.update_layout(plot_bgcolor=NOT_DEFINED)
    figure.update_xaxes(showgrid=False, dtick=step(len(heads)), range=[heads[0] - 0.5, heads[-1] + 0.5])
    return figure.update_yaxes(showgrid=False, dtick=step(len(layers)), range=[layers[-1] + 0.5, layers[0] - 0.5])


def cell_height(layers: int) -> int:
    """Pixels of a row of a map of so many layers."""
    return max(16, min(40, 320 // layers))


def told_from_zero(numbers: pd.DataFrame, column: str) -> tuple[Int[np.ndarray, "rows"], bool]:
    """1 or −1 for every row whose value is told from 0, else 0, and whether that is by q.

    By q < 0.05 where the column has a `_q`; else by its interval, but only for a metric that can be negative (some
    value or bound of it is): a share above 0 is no finding.
    """
    value = numbers[column].to_numpy(dtype=float)
    if f"{column}_q" in numbers and numbers[f"{column}_q"].notna().any():
        return np.where(numbers[f"{column}_q"].to_numpy(dtype=float) < LEVEL, np.sign(value), 0).astype(int), True
    if f"{column}_low" not in numbers:
        return np.zeros(len(numbers), dtype=int), False
    low, high = (numbers[f"{column}_{end}"].to_numpy(dtype=float) for end in ("low", "high"))
    if not ((value < 0) | (low < 0)).any():
        return np.zeros(len(numbers), dtype=int), False
    return (low > 0).astype(int) - (high < 0), False
