"""The task's score against how many heads are gone: in ranked, reversed and random order."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from probe.errors import ResultsError
from probe.statistics import bootstrap

if TYPE_CHECKING:
    import plotly.graph_objects as go

ORDERS = ("ranked", "reversed", "random")
COLUMNS = ("criterion", "order", "draw", "k", "share", "prompt", "value")
_PATH = ["criterion", "order", "draw"]


@dataclass(frozen=True, eq=False)
class RemovalCurve:
    """Heads removed one after the other, the task measured along the way.

    frame: one row a prompt and point: `criterion` (what ranked the heads), `order` (`ranked`: the best first,
    `reversed`: the best last, `random`), `draw` (which random order; 0 elsewhere), `k` heads removed, `share` of the
    model's heads, `prompt` (its index in the task), `value` of the task's metric. A path (criterion, order, draw)
    begins at k = 0. groups: the task's, a label for each of its prompts, so that intervals draw them together.
    """

    frame: pd.DataFrame
    groups: Sequence[Hashable] | None = None

    def __post_init__(self) -> None:
        """Raises ResultsError for a frame that is no set of whole paths over the same prompts."""
        missing = [name for name in COLUMNS if name not in self.frame]
        if missing:
            raise ResultsError(f"removal curve without {', '.join(missing)}; wanted {', '.join(COLUMNS)}")
        unknown = sorted(set(self.frame["order"]) - set(ORDERS))
        if unknown:
            raise ResultsError(f"removal curve in {unknown[0]!r} order; wanted one of {', '.join(ORDERS)}")
        if not np.isfinite(self.frame["value"]).all() or self.frame.duplicated([*_PATH, "k", "prompt"]).any():
            raise ResultsError(
                "removal curve with a value missing or twice; wanted one finite value a prompt and point"
            )
        for path, points in self.frame.groupby(_PATH):
            name = " ".join(str(part) for part in path)
            if points["k"].min() != 0 or points["k"].nunique() < 2:
                raise ResultsError(f"removal curve {name}: wanted k = 0 (nothing removed) and at least one k more")
            if (points["k"].nunique(), points.groupby("k")["share"].nunique().max()) != (points["share"].nunique(), 1):
                raise ResultsError(f"removal curve {name}: wanted one share of heads for every k")
        if self._values().isna().any(axis=None):
            raise ResultsError("removal curve measured on other prompts at some point; wanted the same everywhere")

    def _values(self) -> pd.DataFrame:
        """Prompts × (path, k, share)."""
        return self.frame.pivot(index="prompt", columns=[*_PATH, "k", "share"], values="value").sort_index(axis=1)

    def summary(self, seed: int = 0) -> pd.DataFrame:
        """Mean score at every k: `criterion, order, k, share, value, value_low, value_high`.

        Bounds: the 95 % bootstrap interval over prompts; of random orders with several draws the range of their own
        means, as METRICS asks of random controls.
        """
        return self._summarised(self._values(), [*_PATH[:2], "k", "share"], "value", seed)

    def area(self, seed: int = 0) -> pd.DataFrame:
        """Area under score against share: `criterion, order, to, area, area_low, area_high`, bounds as in `summary`.

        The trapezoid rule over the measured shares, divided by their span (0 to `to`): the mean score on the way, in
        the metric's unit, so a path along which nothing happens has the clean score. Compare equal spans only. A
        criterion that knows the heads that matter has a small area ranked and a large one reversed.
        """
        values, parts = self._values(), {}
        for path, points in values.T.groupby(_PATH):
            shares = points.index.get_level_values("share").to_numpy(dtype=float)
            width = np.diff(shares)
            weight = (np.append(width, 0.0) + np.append(0.0, width)) / 2 / (shares[-1] - shares[0])
            parts[(*path, shares[-1])] = (points.to_numpy() * weight[:, None]).sum(axis=0)
        areas = pd.DataFrame(parts, index=values.index)
        areas.columns = areas.columns.set_names([*_PATH, "to"])
        return self._summarised(areas, [*_PATH[:2], "to"], "area", seed)

    def plot(self, metric: str | None = None) -> go.Figure:
        """Score against the share of heads removed, every order. metric: the task's, to name the axis."""
        from probe.plots.ablation import removal

        return removal(self, metric)

    def _summarised(self, values: pd.DataFrame, by: list[str], name: str, seed: int) -> pd.DataFrame:
        """Mean and bounds of each group of columns of `values` [prompts, columns]; orders as `ORDERS` has them."""
        rows = []
        groups = None if self.groups is None else [self.groups[prompt] for prompt in values.index]
        for key, columns in values.T.groupby(by, sort=False):
            draws = columns.mean(axis=1)
            if len(columns) > 1:
                mean, low, high = draws.mean(), draws.min(), draws.max()
            else:
                spread = bootstrap(columns.to_numpy().T, groups=groups, seed=seed)
                mean, low, high = spread.mean[0], spread.low[0], spread.high[0]
            rows.append((*key, mean, low, high))
        frame = pd.DataFrame(rows, columns=[*by, name, f"{name}_low", f"{name}_high"])
        rank = {order: place for place, order in enumerate(ORDERS)}
        return frame.sort_values(
            by, key=lambda part: part.map(rank) if part.name == "order" else part, ignore_index=True
        )
