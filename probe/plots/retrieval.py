"""Figures of a retrieval run: recall by length and depth, and what removing retrieval heads does to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probe.plots.style import COLOURS, DASHES, INK, SYMBOLS, look, titled, veil
from probe.statistics import bootstrap
from probe.text import number, with_interval

_BANDS = "Bands: 95 % interval over trials; of random heads of the same layers, the range of the draws"
ARMS = {"clean": "all heads in place", "top": "retrieval heads removed", "random": "random heads removed"}


class Retrieval(Protocol):
    """What a page needs of a retrieval run, in METRICS' columns; a trial may carry its own `recall`."""

    @property
    def trials(self) -> Sequence[Mapping[str, Any]]:
        """One mapping a trial: index, length, depth, usable, recall."""
        ...
    @property
    def heads(self) -> pd.DataFrame:
        """One row a head, scores with intervals."""
        ...
    @property
    def ablation(self) -> pd.DataFrame:
        """Columns k, arm, draw, trial, recall."""
        ...
    @property
    def metadata(self) -> Mapping[str, Any]:
        """How the run was made."""
        ...


def _places(run: Retrieval) -> pd.DataFrame:
    """Each trial's length, depth and group; trials with one answer are a group."""
    where = pd.DataFrame([{key: trial[key] for key in ("index", "length", "depth")} for trial in run.trials])
    where["group"] = [" ".join(str(token) for token in trial["answer_ids"]) for trial in run.trials]
    return where


def recalls(run: Retrieval) -> pd.DataFrame:
    """`run.ablation` with each trial's length, depth and group."""
    return run.ablation.merge(_places(run), left_on="trial", right_on="index", how="left", validate="m:1")


def own_recall(run: Retrieval) -> pd.DataFrame:
    """Recall of all trials with all heads in place; of those of the removal test where trials carry none."""
    if all("recall" in trial for trial in run.trials):
        return _places(run).assign(recall=[float(trial["recall"]) for trial in run.trials], draw=0)
    frame = recalls(run)
    return frame[frame["arm"] == "clean"]


def curve(frame: pd.DataFrame, by: str) -> pd.DataFrame:
    """Mean recall of one arm by a column, with its band.

    The band is the 95 % bootstrap interval over trials, those of one group together; where an arm has several
    draws (random heads), it is the range of the draws' own means, as METRICS asks.
    """
    rows = []
    for value, group in frame.groupby(by):
        draws = group.groupby("draw")["recall"].mean()
        if len(draws) > 1:
            low, high = float(draws.min()), float(draws.max())
        else:
            summary = bootstrap(group["recall"].to_numpy(dtype=float)[:, None], groups=group["group"].tolist())
            low, high = float(summary.low[0]), float(summary.high[0])
        rows.append({by: value, "recall": float(draws.mean()), "recall_low": low, "recall_high": high})
    return pd.DataFrame(rows)


def recall_without(run: Retrieval) -> go.Figure:
    """Recall against the number of removed heads: the top k, as many random ones, and none."""
    frame = recalls(run)
    figure = go.Figure()
    for index, arm in enumerate(("top", "random")):
        part = frame[frame["arm"] == arm]
        if len(part):
            _band(figure, curve(part, "k"), "k", ARMS[arm], index + 1)
    clean = curve(frame[frame["arm"] == "clean"].assign(k=0), "k")
    ks = frame["k"].unique()
    if len(clean):
        flat = pd.concat([clean.assign(k=k) for k in (0, max(ks))], ignore_index=True)
        _band(figure, flat, "k", ARMS["clean"], 0, mode="lines")
    _recall_axes(look(figure, "heads removed, k", "recall"))
    return titled(figure, "Recall without retrieval heads", _BANDS)


def recall_by_length(run: Retrieval) -> go.Figure:
    """Recall against context length with all heads in place; beside it the arms of the removal test at the
    largest k, where that test covers several lengths (it may hold fewer trials)."""
    whole, frame = own_recall(run), recalls(run)
    figure = go.Figure()
    _band(figure, curve(whole, "length"), "length", ARMS["clean"], 0)
    if frame["length"].nunique() > 1:
        frame = frame[frame["k"] == frame["k"].max()]
        for index, arm in enumerate(("top", "random")):
            part = curve(frame[frame["arm"] == arm], "length")
            _band(figure, part, "length", f"{ARMS[arm]} (k = {frame['k'].max()})", index + 1)
    lengths = sorted(whole["length"].unique().tolist())
    _recall_axes(look(figure, "context length, tokens", "recall"))
    figure.update_xaxes(type="log", tickvals=lengths, ticktext=[f"{length:,}" for length in lengths])
    return titled(figure, "Recall by context length", _BANDS)


def recall_by_place(run: Retrieval) -> go.Figure:
    """Recall with all heads in place, context length × needle depth; each cell says its number of trials."""
    clean = own_recall(run)
    mean = clean.pivot_table(index="depth", columns="length", values="recall", aggfunc="mean")
    count = clean.pivot_table(index="depth", columns="length", values="recall", aggfunc="count").fillna(0)
    labels = [
        [f"{number(value)}<br>n = {int(n)}" if n else "" for value, n in zip(values, counts, strict=True)]
        for values, counts in zip(mean.to_numpy(), count.to_numpy(), strict=True)
    ]
    figure = go.Figure(
        go.Heatmap(
            z=mean.to_numpy(),
            x=[f"{length:,}" for length in mean.columns],
            y=[f"{depth:g} %" for depth in mean.index],
            text=labels,
            texttemplate="%{text}",
            hovertemplate="length %{x}, depth %{y}<br>recall %{text}<extra></extra>",
            zmin=0,
            zmax=1,
            colorscale=[[0, "#ffffff"], [1, "#6baed6"]],
            textfont={"color": INK},
            xgap=2,
            ygap=2,
            showscale=False,
        )
    )
    look(figure, "context length, tokens", "needle depth", height=150 + 44 * len(mean.index))
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    note = "All heads in place; mean over the n trials of a cell"
    return titled(figure, "Recall by context length and depth of the needle", note)


def _recall_axes(figure: go.Figure) -> go.Figure:
    return figure.update_yaxes(range=[-0.03, 1.03], tickformat=".1f")


def _band(figure: go.Figure, points: pd.DataFrame, x: str, name: str, index: int, mode: str = "lines+markers") -> None:
    """The index-th line with its band; no band where there is no interval."""
    colour = COLOURS[index]
    if points["recall_low"].notna().all():
        figure.add_scatter(
            x=np.concatenate([points[x], points[x][::-1]]),
            y=np.concatenate([points["recall_high"], points["recall_low"][::-1]]),
            fill="toself",
            fillcolor=veil(colour),
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
            showlegend=False,
            legendgroup=name,
        )
    figure.add_scatter(
        x=points[x],
        y=points["recall"],
        mode=mode,
        name=name,
        legendgroup=name,
        line={"color": colour, "width": 2.4, "dash": DASHES[index]},
        marker={"size": 8, "symbol": SYMBOLS[index]},
        text=[with_interval(points, row, "recall") for row in points.index],
        hovertemplate="%{text}<extra>%{fullData.name}</extra>",
    )
