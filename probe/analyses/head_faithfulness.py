"""Faithfulness of head circuits: how much of a task the heads of a circuit do when all the others are replaced.

Outside the circuit every head gives its z on the corrupted twin (`faithfulness` has the formula). MLPs and embedding
stay live and clean throughout, so that m(∅) is not the corrupted run: what they do without any head is no part of what
is shared out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from probe.analyses.faithfulness import faithfulness, measured
from probe.analyses.head_runs import HeadRuns
from probe.analyses.selection import random_heads
from probe.analyses.units import Head
from probe.circuits.circuit import CurvePoint
from probe.errors import TokensError
from probe.models import Loaded
from probe.tasks.task import Task

SIZES = (1, 2, 5, 10, 20, 50, 100)
DRAWS = 10


def random_circuits(runs: HeadRuns, circuit: Iterable[Head], draws: int, *, seed: int = 0) -> list[tuple[Head, ...]]:
    """Random circuits with as many heads of each layer, drawn from all of the layer's, the circuit's own included.

    Under the hypothesis that within a layer it does not matter which, a circuit and its random twins are alike. Where
    a circuit holds most of a layer its twins must too, and tell little: no draw can avoid what there is.
    """
    members = sorted(set(circuit))
    numbers = np.random.default_rng([seed, len(members)]).integers(1 << 62, size=draws)
    return [random_heads(runs.graph, members, int(number)) for number in numbers]


def head_curve(
    loaded: Loaded,
    task: Task,
    order: Sequence[Head],
    *,
    sizes: Sequence[int] = SIZES,
    random_draws: int = DRAWS,
    seed: int = 0,
    runs: HeadRuns | None = None,
) -> list[CurvePoint]:
    """Faithfulness of the first k heads of an order, for every size k and for all heads, beside random circuits.

    order: every head of the model once, the most important first. sizes: those beyond the model are left out.
    Arm `heads`: interval by bootstrap of the prompts. Arm `random_heads`: mean over the draws, each with the layer
    counts of the first k (`random_circuits`), low and high the range of the draws, as METRICS has it for controls; all
    heads leave nothing to draw. runs: measurements to go on with, of this model and task.

    Cost: 3 + sizes · (1 + draws) forwards over all prompts. Raises TokensError for an order that is not of all heads,
    numbers below 1, and where the heads carry nothing (`faithfulness.carried`).
    """
    runs = HeadRuns(loaded, task) if runs is None else runs
    everyone = len(runs.heads)
    if sorted(order) != sorted(runs.heads):
        raise TokensError(f"an order of {len(order)} heads; wanted each of {everyone} once")
    if not sizes or min(*sizes, random_draws) < 1:
        raise TokensError(f"circuits of {tuple(sizes)} heads, {random_draws} random draws; wanted 1 or more each")
    counts = sorted({size for size in sizes if size < everyone})
    drawn = [one for count in counts for one in random_circuits(runs, order[:count], random_draws, seed=seed)]
    ranked = [tuple(order[:count]) for count in (*counts, everyone)]
    found = faithfulness(runs, [*ranked, *drawn], seed=seed)
    points = [measured("heads", count, count, found, place) for place, count in enumerate((*counts, everyone))]
    random = found.mean[len(ranked) :].reshape(len(counts), random_draws)
    for count, values in zip(counts, random, strict=True):
        low, high = float(values.min()), float(values.max())
        points.append(CurvePoint("random_heads", count, count, float(values.mean()), low, high))
    return points
