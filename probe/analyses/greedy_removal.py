"""Edges dropped one at a time, from the logits down, as long as the model's answer hardly changes: ACDC's sweep.

Conmy et al. 2023, Towards Automated Circuit Discovery (arXiv 2304.14997), METHODS 12.5. For small graphs: one run of
the circuit for every edge of a part that is still connected.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool

from probe.analyses.edge_runs import EdgeRuns
from probe.analyses.selection import prune
from probe.circuits.graph import INPUT, LOGITS
from probe.errors import TokensError

METRICS = ("neg_kl", "logit_diff")


@dataclass(frozen=True, eq=False)
class Greedy:
    """keep: the circuit, pruned to paths from input to logits. runs: how many circuits were measured."""

    keep: Bool[np.ndarray, "S P"]
    runs: int


def greedy_removal(runs: EdgeRuns, threshold: float, *, metric: str = "neg_kl") -> Greedy:
    """Visit parts from the logits to the input; drop each edge into them whose loss is below `threshold`, for good.

    The loss is the fall of the mean metric from the present circuit to the one without the edge; of `neg_kl`, as
    published, the divergence from the whole model's answer in nats. Edges into a part that feeds nothing any more are
    dropped without a run. Parents are tried from the last to the first (the published code's order; another order may
    end elsewhere). Deviation: the metric is the task's prompts' mean over the judged positions, not the last alone.
    Raises TokensError for another metric and a threshold below 0.
    """
    if metric not in METRICS or threshold < 0:
        raise TokensError(f"metric {metric!r}, threshold {threshold}; wanted one of {', '.join(METRICS)}, 0 or more")
    graph = runs.model.graph
    judged = EdgeRuns(runs.loaded, replace(runs.task, metric=metric), model=runs.model)
    keep = graph.possible.copy()
    now = float(judged.kept([keep])[0].mean())
    for column in [graph.target(LOGITS), *_columns_down(runs)]:
        owner = _owner(graph.targets[column])
        if owner is not None and not keep[graph.source(owner)].any():
            keep[:, column] = False
            continue
        for row in reversed(np.nonzero(keep[:, column])[0]):
            keep[row, column] = False
            then = float(judged.kept([keep])[0].mean())
            if now - then < threshold:
                now = then
            else:
                keep[row, column] = True
    return Greedy(prune(graph, keep), judged.circuits)


def _columns_down(runs: EdgeRuns) -> list[int]:
    graph = runs.model.graph
    return [column for source in reversed(graph.sources) if source != INPUT for column in graph.inputs_of(source)]


def _owner(target: str) -> str | None:
    """The source that reads by a target; None for the logits."""
    return None if target == LOGITS else target.partition("<")[0]
