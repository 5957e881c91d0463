"""Where the parts of a circuit stand in its drawing, and the way each edge takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from probe.circuits.circuit import Circuit, CircuitEdge
from probe.circuits.graph import INPUT, LOGITS, PORTS, head_of, layer_of

WIDTH = 1000
"""Pixels across, about: what a page of 1,280 leaves to a figure. Only spacing follows from it."""
LABEL = 50
"""Pixels that a head's label takes."""
_BEND = np.linspace(0, 1, 17)


@dataclass(frozen=True)
class Place:
    """Where a part stands. x: in heads, from 0; y: in rows, from 0 (the input) up."""

    x: float
    y: float


@dataclass(frozen=True)
class Layout:
    """Places of the parts that are drawn.

    places: by node name, `input` and `logits` included. rows: the layers that are drawn, lowest first; layer rows[i]
    stands at y = i + 1. columns: heads of a layer; MLPs stand in a column of their own to the right.
    """

    places: dict[str, Place]
    rows: tuple[int, ...]
    columns: int

    @property
    def top(self) -> float:
        """The row of the logits."""
        return len(self.rows) + 1.0

    @property
    def mlps(self) -> float:
        """The column of the MLPs."""
        return self.columns - 1 + max(1.5, 1.4 * LABEL * self.pixel)

    @property
    def sides(self) -> tuple[float, float]:
        """The left and right end of what is drawn, labels included."""
        xs = [0.0, *(place.x for place in self.places.values())]
        return min(xs) - 0.8 * LABEL * self.pixel, max(self.mlps, *xs) + 0.8 * LABEL * self.pixel

    @property
    def pixel(self) -> float:
        """The width of a pixel in heads."""
        return (self.columns + 2) / WIDTH


def drawn_heads(circuit: Circuit, most: int) -> set[str]:
    """The `most` heads of the head circuit with the largest |score|, by node name."""
    inside = (circuit.node_of(head) for head in circuit.heads)
    return {node.name for node in sorted(inside, key=lambda node: -abs(node.score))[:most]}


def drawn_edges(circuit: Circuit, most: int, heads: set[str]) -> tuple[CircuitEdge, ...]:
    """The edges of the circuit that a drawing can hold, strongest first.

    The `most` strongest by |score|, and the strongest one out of every one of `heads` that would stand without.
    """
    ranked = sorted((edge for edge in circuit.edges if edge.in_circuit), key=lambda edge: -abs(edge.score))
    chosen = ranked[:most]
    joined = {edge.source for edge in chosen}
    for edge in ranked[most:]:
        if edge.source in heads and edge.source not in joined:
            chosen.append(edge)
            joined.add(edge.source)
    return tuple(chosen)


def layout(circuit: Circuit, edges: Sequence[CircuitEdge], heads: set[str]) -> Layout:
    """Places of `heads` and of all that the edges touch.

    Every layer that holds one of them has a row; heads stand in the column of their number, moved aside only where
    two labels would touch.
    """
    names = heads | {end for edge in edges for end in (edge.source, part_of(edge.target))}
    inner = names - {INPUT, LOGITS}
    rows = tuple(sorted({layer_of(name) for name in inner}))
    found = Layout({}, rows, circuit.n_heads)
    middle = (circuit.n_heads - 1) / 2
    found.places.update({INPUT: Place(middle, 0.0), LOGITS: Place(middle, found.top)})
    for row, layer in enumerate(rows):
        here = {name: head for name in inner if (head := head_of(name)) is not None and head[0] == layer}
        ordered = sorted(here, key=lambda name: here[name])
        xs = apart([float(here[name][1]) for name in ordered], LABEL * found.pixel)
        found.places.update({name: Place(x, row + 1.0) for name, x in zip(ordered, xs, strict=True)})
        if f"m{layer}" in inner:
            found.places[f"m{layer}"] = Place(found.mlps, row + (1.0 if circuit.parallel else 1.35))
    return found


def part_of(target: str) -> str:
    """The head of a port, the MLP or `logits` itself: what a target is drawn as."""
    return target.split("<")[0]


def apart(wanted: Sequence[float], gap: float) -> list[float]:
    """The places nearest to the wanted ones (ascending) that are `gap` apart, in least squares.

    Less k·gap each, they need only ascend: pooled neighbours, as in isotonic regression (Ayer et al. 1955).
    """
    pools: list[list[float]] = []
    for index, place in enumerate(wanted):
        pools.append([place - index * gap])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    level = [float(np.mean(pool)) for pool in pools for _ in pool]
    return [place + index * gap for index, place in enumerate(level)]


def way(edge: CircuitEdge, drawn: Layout) -> Float[np.ndarray, "2 points"]:
    """The curve of an edge, upwards, ending left (q), in the middle (k) or right (v) of a head's lower side.

    A cubic; it swings aside where both ends have one column, so as not to run through what stands between.
    """
    start, end = drawn.places[edge.source], drawn.places[part_of(edge.target)]
    port = edge.target.partition("<")[2][:1]
    side = 14 * drawn.pixel * (PORTS.index(port) - 1) if port else 0.0
    first, last = np.array([start.x, start.y + 0.2]), np.array([end.x + side, end.y - 0.24])
    rise = last[1] - first[1]
    swing = (0.25 + 0.05 * rise) if abs(start.x - end.x) < 0.5 and rise > 1 else 0.0
    outwards = 1 if start.x > (drawn.columns - 1) / 2 else -1
    across = np.array([0.15 * (last[0] - first[0]), 0.0]) + np.array([swing * outwards * 1.33, 0.0])
    back = np.array([-0.15 * (last[0] - first[0]), 0.0]) + np.array([swing * outwards * 1.33, 0.0])
    up = np.array([0.0, 0.3 * rise])
    points = [first, first + across + up, last + back - up, last]
    weights = [(1 - _BEND) ** 3, 3 * _BEND * (1 - _BEND) ** 2, 3 * _BEND**2 * (1 - _BEND), _BEND**3]
    return np.asarray(sum(np.outer(point, weight) for point, weight in zip(points, weights, strict=True)))
