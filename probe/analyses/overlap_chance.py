"""What overlap is worth: how much of it chance alone would give, at the same number of heads in every layer.

The null is that within a layer it does not matter which head is which: the heads of the second circuit are relabelled
at random inside their layers. A random set with the circuit's count per layer is exactly that, and scores move along.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from probe.analyses.overlap_measures import Likeness
from probe.circuits.graph import Graph
from probe.statistics import LEVEL

_BLOCK = 1_000
"""Relabelled copies in memory at once."""


@dataclass(frozen=True)
class Measure:
    """A measure of overlap beside chance.

    expected: its mean under the null (of a count: exactly; else over the draws). low, high: the central 95 % of the
    draws. p_value: one-sided for more overlap than chance, (1 + #≥) / (1 + draws); p_less: for less. NaN where the
    measure is not defined.
    """

    value: float
    expected: float
    low: float
    high: float
    p_value: float
    p_less: float


def relabelled(
    graph: Graph, first: Float[np.ndarray, "n"], second: Float[np.ndarray, "n"], measures: Mapping[str, Likeness],
    *, draws: int, seed: int,
) -> dict[str, Measure]:  # fmt: skip
    """Each measure of two lists (one score a head, graph order) beside its null; all share the relabellings."""
    rng = np.random.default_rng(seed)
    ready = {name: (one.prepare(first), one.prepare(second)) for name, one in measures.items()}
    found: dict[str, list[np.ndarray]] = {name: [] for name in measures}
    layers = np.arange(len(first)).reshape(-1, graph.n_heads)
    for start in range(0, draws, _BLOCK):
        copies = np.repeat(layers[None], min(_BLOCK, draws - start), axis=0)
        order = rng.permuted(copies, axis=-1).reshape(len(copies), -1)
        for name, (mine, theirs) in ready.items():
            found[name].append(measures[name].compare(mine, theirs[order]))
    return {name: beside(one(first, second), np.concatenate(found[name])) for name, one in measures.items()}


def beside(value: float, null: Float[np.ndarray, "draws"], expected: float | None = None) -> Measure:
    """A value beside its draws under the null; `expected` where it is known without them."""
    if np.isnan(value):
        return Measure(*(float("nan"),) * 6)
    slack = 1e-12 * max(1.0, abs(value))  # sums of the same terms in another order are equal
    low, high = np.quantile(null, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    more, less = int((null >= value - slack).sum()), int((null <= value + slack).sum())
    return Measure(
        value,
        float(null.mean()) if expected is None else expected,
        float(low),
        float(high),
        (1 + more) / (1 + len(null)),
        (1 + less) / (1 + len(null)),
    )


def shared_in_cells(
    cells: Int[np.ndarray, "n"], first: Bool[np.ndarray, "n"], second: Bool[np.ndarray, "n"], *, draws: int, seed: int
) -> Measure:
    """How many items two sets share, beside random sets with each one's count in every cell.

    cells: number of each item's cell (a head's layer; an edge's pair of layers). A cell of N items with a and b of
    them shares a·b/N on average; its number in a draw is hypergeometric, and cells are independent.
    """
    size = int(cells.max()) + 1
    total, a, b = (np.bincount(cells[chosen], minlength=size) for chosen in (cells >= 0, first, second))
    used = (a > 0) & (b > 0)
    rng = np.random.default_rng(seed)
    null = np.zeros(draws, dtype=np.int64)
    for items, one, other in zip(total[used], a[used], b[used], strict=True):
        null += rng.hypergeometric(one, items - one, other, size=draws)
    expected = float((a[used] * b[used] / total[used]).sum())
    return beside(float((first & second).sum()), null.astype(np.float64), expected)
