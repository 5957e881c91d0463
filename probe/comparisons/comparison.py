"""What a comparison of two head tables found, and its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from probe import formats
from probe.columns import KEYS
from probe.comparisons.matching import Matching
from probe.errors import ResultsError
from probe.page.telling import names
from probe.statistics import LEVEL
from probe.store import write_file
from probe.table import HeadTable

if TYPE_CHECKING:
    import plotly.graph_objects as go

COMPARE_FILES = ("compare.json", "compare.csv", "compare.parquet")
_TOLD = ["name_a", "name_b", "metric", "a", "b", "difference", "difference_low", "difference_high", "size", "q_all"]
"""What compare.json tells of a change."""


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """What two tables say of the same heads, or of heads that were matched.

    a, b: the tables. label_a, label_b: what to call them. matching: which heads stand beside which.
    heads: one row a metric and pair of heads: `metric`, `name_a`, `name_b`, the keys of both (`layer_a`, …), `a`, `b`
        with their intervals, `difference` (b − a) with its 95 % interval, `p`, `q` (corrected over the heads of the
        metric), `q_all` (over all heads and metrics), `changed` (p < 0.05: the interval leaves out 0, except for
        `equal` ones and, with few units, values that do not vary: `mean_difference`), `equal` (apart by no more than
        float32 rounds: p = 1 where tested), `paired` (compared sequence by sequence), `size` (the difference
        in standard deviations of the metric over the heads of both).
    metrics: one row a metric, those that changed most first: pairs `compared` (both values defined) and `tested`,
        `untested` (why none was; "" where some were), `changed`, `by_chance` (5 % of those
        tested), `found` (q < 0.05), `moved` (root mean square `size`, changes
        that are not found counting as 0), `sees` (half the width of the middle interval: smaller changes stay unseen
        in half of the heads), `spearman` (rank correlation of a and b over heads, with its interval), `largest` and
        `largest_difference` (of those found, else of all; no name where none differs by more than rounding).
    roles: one row a role and pair that has it in either: `change` (kept, gained, lost), `clear` (a metric that the
        role's rule reads has changed with q < 0.05; else the head may only have crossed the threshold by noise).
    differs: what else differs between the two, as (what, in A, in B). left_out, roles_left_out: what is not compared,
        and why.
    """

    a: HeadTable
    b: HeadTable
    label_a: str
    label_b: str
    matching: Matching
    heads: pd.DataFrame
    metrics: pd.DataFrame
    roles: pd.DataFrame
    differs: tuple[tuple[str, str, str], ...]
    left_out: Mapping[str, str]
    roles_left_out: Mapping[str, str]

    @property
    def found(self) -> pd.DataFrame:
        """Rows of `heads` that changed with `q_all` < 0.05, the largest `size` first."""
        rows = self.heads[self.heads["q_all"] < 1 - LEVEL]
        return rows.loc[rows["size"].abs().sort_values(ascending=False, kind="stable").index]

    def of(self, metric: str) -> pd.DataFrame:
        """The rows of `heads` of one metric, in A's order. Raises ResultsError for one that was not compared."""
        if metric not in set(self.metrics["metric"]):
            why = self.left_out.get(metric, "neither table has it")
            known = ", ".join(self.metrics["metric"])
            raise ResultsError(f"{metric} was not compared ({why}); compared were {known}")
        return self.heads[self.heads["metric"] == metric].reset_index(drop=True)

    def table(self) -> HeadTable:
        """A's heads with `difference_<metric>`, its interval, p and q as columns; heads without a partner are NaN.

        Metrics that changed most come first. `roles`: `changed` (q < 0.05 over all heads and metrics), and the roles
        that were gained and lost.
        """
        frame, rows = self.a.frame[list(KEYS)].reset_index(drop=True), self.matching.rows[:, 0]
        columns = {}
        for metric in self.metrics["metric"]:
            part = self.of(metric)
            for end, source in (("", "difference"), ("_low", "difference_low"), ("_high", "difference_high"),
                                ("_p", "p"), ("_q", "q")):  # fmt: skip
                values = np.full(len(frame), np.nan)
                values[rows] = part[source]
                columns[f"difference_{metric}{end}"] = values
        told: list[list[str]] = [[] for _ in range(len(frame))]
        place = {name: row for row, name in enumerate(names(self.a.frame))}
        for name in dict.fromkeys(self.found["name_a"]):
            told[place[name]].append("changed")
        for name, change, role in self.roles[["name_a", "change", "role"]].itertuples(index=False):
            if change != "kept":
                told[place[name]].append(f"{change} {role}")
        frame = pd.concat([frame, pd.DataFrame(columns)], axis=1).assign(roles=pd.Series(told, dtype=object))
        about: dict[str, Any] = {key: self.a.metadata[key] for key in ("effects", "circuits") if key in self.a.metadata}
        facts = {"model": f"{self.label_a} (A) and {self.label_b} (B)", **self._how(), **about}
        return HeadTable(frame, {}, formats.plain(facts))

    def _how(self) -> dict[str, Any]:
        """How the comparison was made, for the page and the files."""
        facts: dict[str, Any] = {
            "A": self.label_a, "B": self.label_b, "difference": "B − A", "level": LEVEL,
            "matched by": self.matching.how, "pairs of heads": len(self.matching.rows),
            "definitions": self.a.metadata.get("definitions"),
        }  # fmt: skip
        return facts

    def plot(self, metric: str | None = None) -> go.Figure:
        """The layer × head map of the difference in `metric` (default: the one that changed most)."""
        from probe.plots.compare import difference_map

        return difference_map(self, metric)

    def scatter(self, metric: str | None = None) -> go.Figure:
        """`metric` in A against B, one point a pair, changed heads named (default: the one that changed most)."""
        from probe.plots.compare import scatter

        return scatter(self, metric)

    def json(self) -> dict[str, Any]:
        """Everything that was found, as JSON can hold it; the values of every head are in compare.parquet."""
        matching, frame_a, frame_b = self.matching, names(self.a.frame), names(self.b.frame)
        document: dict[str, Any] = {
            **self._how(),
            "metrics": formats.records(self.metrics),
            "found": formats.records(self.found[_TOLD]),
            "roles": formats.records(self.roles),
            "matching": {
                "metrics": matching.metrics,
                "pairs": [
                    {"a": frame_a[row], "b": frame_b[other], "distance": distance, "chance": chance}
                    for (row, other), distance, chance in zip(
                        matching.rows, matching.distance, matching.chance, strict=True
                    )
                ],
                "control": {"draws": len(matching.control), "median": matching.middle},
                "only in A": [frame_a[row] for row in matching.alone_a],
                "only in B": [frame_b[row] for row in matching.alone_b],
            },
            "differs": [{"what": what, "A": mine, "B": theirs} for what, mine, theirs in self.differs],
            "not compared": {**self.left_out, **{f"role {name}": why for name, why in self.roles_left_out.items()}},
        }  # fmt: skip
        found: dict[str, Any] = formats.plain(document)
        return found

    def save(self, folder: str | Path) -> None:
        """Write compare.parquet and compare.csv (`heads`) and compare.json (`json()`), each whole or not at all."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.json(), indent=1, sort_keys=True, allow_nan=False)
        write_file(place / "compare.json", text.encode() + b"\n")
        write_file(place / "compare.csv", formats.csv(self.heads))
        write_file(place / "compare.parquet", formats.parquet(self.heads, {"probe": formats.plain(self._how())}))

    def __repr__(self) -> str:
        heads = self.found["name_a"].nunique()
        return (
            f"Comparison({self.label_a} → {self.label_b}: {heads} of {len(self.matching.rows)} heads changed in "
            f"{len(self.metrics)} metrics)"
        )
