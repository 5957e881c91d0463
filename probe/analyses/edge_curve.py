"""Faithfulness of edge circuits over their sizes, at the ten published shares, beside random ones (METHODS 12.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from probe.analyses.edge_runs import EdgeRuns
from probe.analyses.faithfulness import faithfulness, measured
from probe.analyses.selection import SHARES, area, distance_area, edge_count, prune, random_edges, top_edges
from probe.circuits.circuit import CurvePoint
from probe.errors import TokensError

if TYPE_CHECKING:
    import plotly.graph_objects as go

DRAWS = 2


@dataclass(frozen=True, eq=False)
class EdgeCurve:
    """points: arms `edges` (signed ranking), `edges_absolute` (ranking by |score|), `random_edges`; size is the share.

    circuits: (arm, share) -> the pruned circuit. cpr: area below f of the signed ranking. cmd: area of |1 − f| of the
    ranking by |score|. For f = 1 everywhere they are 0.999 and 0.
    """

    points: tuple[CurvePoint, ...]
    circuits: dict[tuple[str, float], Bool[np.ndarray, "S P"]]
    cpr: float
    cmd: float

    def plot(self) -> go.Figure:
        """Faithfulness against the share of edges kept."""
        from probe.plots.faithfulness import edge_curve as curve

        return curve(self.points)


def edge_curve(
    runs: EdgeRuns,
    scores: Float[np.ndarray, "S P"],
    *,
    shares: Sequence[float] = SHARES,
    draws: int = DRAWS,
    seed: int = 0,
) -> EdgeCurve:
    """Circuits of the best edges at every share, pruned to paths from input to logits, and their faithfulness.

    Random circuits have the pruned ranking's number of edges between each two layers; of draws the mean, and their
    range in place of an interval. Cost: up to 2 + shares · (2 + draws) circuits (`edge_circuit.edge_metric`). Raises
    TokensError for fewer than one draw, and where no edge carries anything (`faithfulness.carried`).
    """
    if draws < 1:
        raise TokensError(f"{draws} random draws; wanted 1 or more")
    graph = runs.model.graph
    circuits = {
        (arm, share): prune(graph, top_edges(graph, scores, edge_count(graph, share), absolute=arm != "edges"))
        for arm in ("edges", "edges_absolute")
        for share in shares
    }
    drawn = {
        share: [random_edges(graph, circuits["edges_absolute", share], seed * draws + draw) for draw in range(draws)]
        for share in shares
        if share < 1
    }
    asked = [*circuits.values(), *(one for several in drawn.values() for one in several)]
    found = faithfulness(runs, asked, seed=seed)
    points = []
    for place, ((arm, share), keep) in enumerate(circuits.items()):
        points.append(measured(arm, share, int(keep.sum()), found, place))
    place = len(circuits)
    for share, several in drawn.items():
        values = found.mean[place : place + draws]
        count = int(several[0].sum())
        points.append(
            CurvePoint("random_edges", share, count, float(values.mean()), float(values.min()), float(values.max()))
        )
        place += draws
    by_arm = {arm: [point.faithfulness for point in points if point.arm == arm] for arm in ("edges", "edges_absolute")}
    cpr = area(list(shares), by_arm["edges"]) if len(shares) > 1 else float("nan")
    cmd = distance_area(list(shares), by_arm["edges_absolute"]) if len(shares) > 1 else float("nan")
    return EdgeCurve(tuple(points), circuits, cpr, cmd)
