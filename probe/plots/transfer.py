"""What sharing heads does: each circuit on the other tasks, and tasks without the heads that two circuits share."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

from probe.plots.overlap import word_matrix
from probe.plots.style import COLOURS, DIVERGING, INK, look, titled
from probe.text import number, with_interval

if TYPE_CHECKING:
    from probe.analyses.transfer import PartEffect, Transfer

SHARED = "shared heads"


def transfer_table(found: Sequence[Transfer]) -> pd.DataFrame:
    """One row a circuit and task.

    `circuit`, `task`, `faithfulness` with `_low` and `_high`, `random` with `_low` and `_high` (mean and range of the
    draws of as many random heads of the same layers), `p` for doing more than the draws.
    """
    rows = [
        (one.source, one.task, one.faithfulness, one.low, one.high, one.random.mean(), one.random.min(),
         one.random.max(), one.p_value)
        for one in found
    ]  # fmt: skip
    spread = [f"{name}{end}" for name in ("faithfulness", "random") for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["circuit", "task", *spread, "p"])


def transfer_matrix(transfer: pd.DataFrame, circuits: Sequence[str], tasks: Sequence[str]) -> go.Figure:
    """How faithful each circuit's heads are on each task: 1 is the whole model, 0 everything corrupted.

    transfer: `transfer_table`. Below f stands the mean of as many random heads of the same layers. * : the whole
    interval lies above all their draws.
    """
    grid = np.full((len(circuits), len(tasks)), np.nan)
    cell, hover = np.full(grid.shape, "", dtype=object), np.full(grid.shape, "", dtype=object)
    frame = transfer.reset_index(drop=True)
    for row in frame.index:
        own, task = frame["circuit"][row], frame["task"][row]
        where = list(circuits).index(own), list(tasks).index(task)
        mark = " *" if frame["faithfulness_low"][row] > frame["random_high"][row] else ""
        grid[where] = frame["faithfulness"][row]
        cell[where] = f"<b>{number(grid[where])}</b>{mark}<br>random {number(frame['random'][row])}"
        hover[where] = (
            f"<b>heads of {html.escape(own)} on {html.escape(task)}</b><br>faithfulness "
            f"{with_interval(frame, row, 'faithfulness')}<br>random heads {with_interval(frame, row, 'random')}"
        )
    figure = word_matrix(grid, cell, hover, circuits, tasks, (-1.0, 1.0), DIVERGING)
    figure.update_xaxes(title={"text": "kept on the task …"})
    note = "1: the whole model, 0: all heads replaced. * : the whole interval lies above all draws of random heads"
    return titled(figure, "How faithful each circuit's heads are on each task", note)


def removed_table(a: str, b: str, found: Sequence[PartEffect]) -> pd.DataFrame:
    """What two tasks lose without a part of the circuits of `a` and `b`, one row a task and part.

    `a`, `b`, `task`, `part` in words, `heads` (their number), `lost` with `_low`, `_high`: share of what the task loses
    with all heads replaced; `random`, `_low`, `_high`: mean and range of the draws, in the same share; `p` for losing
    more than the draws. Draws have no share (NaN) where the part itself loses nothing at all, or there are none.
    """
    words = {"shared": SHARED, "only_a": f"heads of {a} alone", "only_b": f"heads of {b} alone"}
    rows = []
    for one in found:
        unit = one.share / one.effect if one.effect else np.nan
        random = one.random * unit
        rows.append((a, b, one.task, words[one.part], len(one.heads), one.share, one.share_low, one.share_high,
                     *_mean_and_range(random), one.p_value))  # fmt: skip
    spread = [f"{name}{end}" for name in ("lost", "random") for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["a", "b", "task", "part", "heads", *spread, "p"])


def _mean_and_range(values: Float[np.ndarray, "draws"]) -> tuple[float, float, float]:
    return (values.mean(), values.min(), values.max()) if len(values) else (np.nan, np.nan, np.nan)


def removed_marks(removed: pd.DataFrame) -> go.Figure:
    """What each task loses without the shared heads and those of one circuit alone, beside random heads.

    removed: `removed_table`, of one pair or several, each then under its name. Line: 95 % interval over prompts; grey
    bar: range of the draws of random heads. Filled: the whole interval lies above all draws.
    """
    frame, places, labels = removed.reset_index(drop=True), list[int](), list[str]()
    several = len(frame[["a", "b"]].drop_duplicates()) > 1
    for row in frame.index:
        if several and (row == 0 or tuple(frame.loc[row, ["a", "b"]]) != tuple(frame.loc[row - 1, ["a", "b"]])):
            labels.append(f"<b>{html.escape(frame['a'][row])}, {html.escape(frame['b'][row])}</b>")
        places.append(len(labels))
        labels.append(html.escape(f"{frame['task'][row]} without {frame['part'][row]} ({frame['heads'][row]})"))
    figure = go.Figure()
    for name, colour, width in (("random", "#c3cad1", 12), ("lost", COLOURS[0], 2)):
        x = [value for row in frame.index for value in (frame[f"{name}_low"][row], frame[f"{name}_high"][row], None)]
        figure.add_scatter(
            x=x, y=[value for place in places for value in (place, place, None)], mode="lines", showlegend=False,
            hoverinfo="skip", line={"color": colour, "width": width},
        )  # fmt: skip
    above = frame["lost_low"] > frame["random_high"]
    text = [
        f"<b>{labels[place]}</b><br>lost {with_interval(frame, row, 'lost')}<br>"
        f"random heads {with_interval(frame, row, 'random')}"
        for row, place in enumerate(places)
    ]
    figure.add_scatter(
        x=frame["lost"], y=places, mode="markers", showlegend=False, text=text, hovertemplate="%{text}<extra></extra>",
        marker={"size": 10, "line": {"color": COLOURS[0], "width": 2},
                "color": [COLOURS[0] if filled else "white" for filled in above]},
    )  # fmt: skip
    look(figure, "share of the task lost", "", height=90 + 26 * len(labels))
    figure.add_vline(x=0, line={"color": INK, "width": 1})
    ends = frame[["lost_low", "lost_high", "random_low", "random_high"]].to_numpy(dtype=float)
    low, high = min(0.0, float(np.nanmin(ends))), max(0.0, float(np.nanmax(ends)))
    figure.update_xaxes(range=[low - 0.03 * (high - low), high + 0.03 * (high - low)])
    figure.update_yaxes(
        tickvals=list(range(len(labels))), ticktext=labels, range=[len(labels) - 0.4, -0.6], title=None
    )
    note = "Lines: 95 % interval over prompts; grey: range of draws of random heads. Filled: above all draws"
    return titled(figure, "What tasks lose without shared heads", f"Number of heads in brackets. {note}")
