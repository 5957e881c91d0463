"""Which edges make a circuit of a given size, random circuits to compare with, and the areas that judge a ranking.

The MIB circuit track (METHODS 12.6; Mueller et al., 2025) and the EAP-IG package (Hanna et al., 2024).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from probe.circuits.graph import INPUT, LOGITS, Graph, layer_of
from probe.errors import ResultsError

if TYPE_CHECKING:
    from probe.hooks.heads import Head

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""The ten published shares of all edges. No edge at all (f = 0 by definition) is not among them."""


def edge_count(graph: Graph, share: float) -> int:
    """How many edges a share of them is: rounded down, as published. Raises ResultsError outside 0 to 1."""
    if not 0 <= share <= 1:
        raise ResultsError(f"a share of {share} of all edges; wanted 0 to 1")
    return int(share * graph.n_edges)


def top_edges(
    graph: Graph, scores: Float[np.ndarray, "S P"], count: int, *, absolute: bool = False
) -> Bool[np.ndarray, "S P"]:
    """The `count` possible edges of the highest score (CPR's circuit), or of the highest |score| (CMD's).

    Ties go to the earlier source, then the earlier target. Raises ResultsError for more edges than there are and
    for scores that are not finite.
    """
    rows, columns = np.nonzero(graph.possible)
    values = _values(graph, scores, count, absolute)[rows, columns]
    chosen = np.argsort(-values, kind="stable")[:count]
    keep = np.zeros_like(graph.possible)
    keep[rows[chosen], columns[chosen]] = True
    return keep


def greedy_edges(
    graph: Graph, scores: Float[np.ndarray, "S P"], count: int, *, absolute: bool = False
) -> Bool[np.ndarray, "S P"]:
    """Up to `count` edges, grown from the logits: each time the best edge into a part that is there already.

    Every edge then reaches the logits. A head brings the edges into its three ports. Ties go to the edge whose
    target came in first, then to the earlier source and target. Fewer edges where no more can be reached. Raises
    ResultsError as `top_edges` does.
    """
    values = _values(graph, scores, count, absolute)
    keep = np.zeros_like(graph.possible)
    waiting: list[tuple[float, int, int, int]] = []
    entered: set[str] = set()

    def enter(columns: Iterable[int]) -> None:
        for column in columns:
            for row in np.nonzero(graph.possible[:, column])[0]:
                heapq.heappush(waiting, (-float(values[row, column]), len(entered), int(row), column))

    enter([graph.target(LOGITS)])
    for _ in range(count):
        if not waiting:
            break
        _, _, row, column = heapq.heappop(waiting)
        keep[row, column] = True
        source = graph.sources[row]
        if source not in entered:
            entered.add(source)
            enter(graph.inputs_of(source))
    return keep


def prune(graph: Graph, keep: Bool[np.ndarray, "S P"]) -> Bool[np.ndarray, "S P"]:
    """The kept edges that lie on a path of kept edges from the input to the logits.

    A part is passed through from any of its ports. The others change nothing: what the input does not reach carries
    its corrupted value either way, and what does not reach the logits is not seen.
    """
    _check_edges(graph, keep)
    ports = [list(graph.inputs_of(source)) for source in graph.sources]
    reached = np.zeros(len(graph.sources), dtype=bool)
    reached[graph.source(INPUT)] = True
    for row in range(1, len(ports)):
        reached[row] = keep[reached][:, ports[row]].any()
    # A target is seen where the logits see what it feeds; sources are in the order of the model.
    seen = np.zeros(len(graph.targets), dtype=bool)
    seen[graph.target(LOGITS)] = True
    for row in reversed(range(1, len(ports))):
        seen[ports[row]] = keep[row, seen].any()
    return keep & reached[:, None] & seen[None, :]


def random_edges(graph: Graph, keep: Bool[np.ndarray, "S P"], seed: int) -> Bool[np.ndarray, "S P"]:
    """As many random possible edges as `keep` has between each two layers, drawn from all of them.

    `input` and `logits` count as layers of their own. The draw may hold some of `keep` itself, and is not pruned.
    """
    _check_edges(graph, keep)
    rng = np.random.default_rng(seed)
    drawn = np.zeros_like(graph.possible)
    cells = edge_cells(graph)
    kept = np.bincount(cells[keep], minlength=int(cells.max()) + 1)
    order = np.argsort(cells, axis=None, kind="stable")
    starts = np.searchsorted(cells.ravel()[order], np.arange(len(kept) + 1))
    for cell in np.nonzero(kept)[0]:
        members = order[starts[cell] : starts[cell + 1]]
        drawn.ravel()[rng.choice(members, int(kept[cell]), replace=False)] = True
    return drawn


def edge_cells(graph: Graph) -> Int[np.ndarray, "S P"]:
    """The number of each possible edge's cell (layer of its source, layer of its target); -1 where none can be."""
    rows = np.array([0 if name == INPUT else 1 + layer_of(name) for name in graph.sources])
    columns = np.array([graph.n_layers if name == LOGITS else layer_of(name) for name in graph.targets])
    cells = rows[:, None] * (graph.n_layers + 1) + columns[None, :]
    return np.where(graph.possible, cells, -1)


def random_heads(graph: Graph, heads: Sequence[Head], seed: int) -> tuple[Head, ...]:
    """As many random heads of each layer as `heads` has there, drawn from all of the layer, in graph order.

    The draw may hold some of `heads` themselves, so that it is also the null of an overlap. Raises ResultsError for a
    head that is listed twice or not in the graph.
    """
    known = set(graph.heads)
    for head in heads:
        if f"a{head[0]}.h{head[1]}" not in known or list(heads).count(head) > 1:
            raise ResultsError(f"head a{head[0]}.h{head[1]} is not in the graph, or listed twice; wanted each once")
    rng = np.random.default_rng(seed)
    drawn: list[Head] = []
    for layer in graph.attention:
        count = sum(1 for other, _ in heads if other == layer)
        drawn += [(layer, int(head)) for head in sorted(rng.choice(graph.n_heads, count, replace=False))]
    return tuple(drawn)


def area(sizes: Sequence[float], faithfulness: Sequence[float]) -> float:
    """The circuit performance ratio, CPR: the trapezoids below f over the share of edges, on a linear axis.

    Over the published shares f = 1 gives 0.999, and 92.5 % of the weight is at shares of 0.1 and more. Raises
    ResultsError where sizes do not rise or do not fit the values.
    """
    return _trapezoids(sizes, faithfulness)


def distance_area(sizes: Sequence[float], faithfulness: Sequence[float]) -> float:
    """The circuit-model distance, CMD: the trapezoids below |1 − f|, taken at the sizes; 0 is best.

    Raises ResultsError as `area` does.
    """
    return _trapezoids(sizes, [abs(1 - value) for value in faithfulness])


def roc_auc(scores: Float[np.ndarray, "n"], members: Bool[np.ndarray, "n"]) -> float:
    """The area under the ROC curve: the chance that a member scores above a non-member, ties counting half.

    Nodes or edges alike (Mann and Whitney, 1947). Raises ResultsError where either side is empty, shapes differ, or
    a score is not a number.
    """
    inside, outside = _sides(scores, members)
    order = np.sort(outside)
    below = np.searchsorted(order, inside, side="left")
    not_above = np.searchsorted(order, inside, side="right")
    return float((below + not_above).sum() / (2 * len(inside) * len(outside)))


def _sides(scores: np.ndarray, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if scores.shape != members.shape or scores.ndim != 1:
        raise ResultsError(f"scores {list(scores.shape)} and members {list(members.shape)}; wanted one list of each")
    if np.isnan(scores).any():
        raise ResultsError("a score is not a number; wanted one for every node or edge")
    if members.all() or not members.any():
        raise ResultsError(f"{int(members.sum())} of {len(members)} are members; wanted some and not all")
    return scores[members], scores[~members]


def _values(graph: Graph, scores: Float[np.ndarray, "S P"], count: int, absolute: bool) -> Float[np.ndarray, "S P"]:
    if scores.shape != graph.possible.shape:
        raise ResultsError(f"scores of shape {list(scores.shape)}; wanted {list(graph.possible.shape)}")
    if not np.isfinite(scores[graph.possible]).all():
        raise ResultsError("an edge's score is not finite; wanted a number for every possible edge")
    if not 0 <= count <= graph.n_edges:
        raise ResultsError(f"{count} edges of {graph.n_edges}; wanted 0 to all of them")
    return np.asarray(np.abs(scores) if absolute else scores, dtype=np.float64)


def _check_edges(graph: Graph, keep: np.ndarray) -> None:
    if keep.shape != graph.possible.shape or (keep & ~graph.possible).any():
        raise ResultsError("kept edges that the graph does not have; wanted a mask over its possible edges")


def _trapezoids(sizes: Sequence[float], values: Sequence[float]) -> float:
    x, y = np.asarray(sizes, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.shape != y.shape or len(x) < 2 or not (np.diff(x) > 0).all():
        raise ResultsError(f"{len(y)} values at sizes {list(sizes)}; wanted one at each of two or more rising sizes")
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())
