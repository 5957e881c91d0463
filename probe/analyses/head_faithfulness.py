"""Faithfulness of head circuits: how much of a task the heads of a circuit do when all the others are replaced.

f(C) = (m(C) − m(∅)) / (m(N) − m(∅)), a ratio of means over the prompts (METHODS 12.6, at the grain of heads):
m(N) nothing replaced, m(C) every head outside C replaced by its z on the corrupted twin, m(∅) all heads replaced.
MLPs and embedding stay live and clean throughout, so that m(∅) is not the corrupted run: what they do without any
head is no part of what is shared out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

from probe.analyses.head_runs import HeadRuns
from probe.analyses.selection import random_heads
from probe.analyses.units import Head
from probe.circuit import CurvePoint
from probe.errors import TokensError
from probe.models import Loaded
from probe.ratio import clearly_positive, ratio_of_means
from probe.statistics import Summary
from probe.tasks.task import Task

SIZES = (1, 2, 5, 10, 20, 50, 100)
DRAWS = 10


def faithfulness(runs: HeadRuns, circuits: Sequence[Iterable[Head]], *, seed: int = 0) -> Summary:
    """f of each circuit with its 95 % bootstrap interval over prompts (groups together), numerator and denominator
    drawn together. 1 for all heads and 0 for none by construction; above 1 and below 0 are possible.

    Cost: one forward over the prompts a circuit. Raises TokensError where the heads carry nothing: where m(N) − m(∅)
    is not above 0, or its own interval reaches 0 (a task the model fails; twins that are equal to their prompts).
    """
    whole = carried(runs, seed=seed)
    part = runs.kept(circuits) - runs.empty
    return ratio_of_means(part.T, whole, groups=runs.task.groups, seed=seed)


def carried(runs: HeadRuns, *, seed: int = 0) -> Float[np.ndarray, "n"]:
    """m(N) − m(∅) of each prompt, in the metric's unit: what all heads together do.

    Raises TokensError where its mean is not above 0 or its interval reaches 0: nothing to be faithful to.
    """
    if runs.mode == "resample" and all(prompt.corrupted_ids == prompt.clean_ids for prompt in runs.task.prompts):
        raise TokensError(f"task {runs.task.name}: its corrupted twins are the prompts themselves; wanted other ones")
    whole = np.asarray(runs.clean - runs.empty)
    if not clearly_positive(whole, groups=runs.task.groups, seed=seed):
        raise TokensError(
            f"task {runs.task.name}: {runs.task.metric} is {runs.clean.mean():.3g} in {runs.loaded.name} and "
            f"{runs.empty.mean():.3g} with every head replaced ({runs.mode}); wanted it clearly lower there, or "
            "there is nothing to be faithful to: choose another task or corruption, or more prompts"
        )
    return whole


def random_circuits(
    runs: HeadRuns, circuit: Iterable[Head], draws: int, *, seed: int = 0
) -> list[tuple[Head, ...]]:
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
    numbers below 1, and where the heads carry nothing (`carried`).
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
    points = [_point("heads", count, found, place) for place, count in enumerate((*counts, everyone))]
    random = found.mean[len(ranked) :].reshape(len(counts), random_draws)
    for count, values in zip(counts, random, strict=True):
        low, high = float(values.min()), float(values.max())
        points.append(CurvePoint("random_heads", count, count, float(values.mean()), low, high))
    return points


def _point(arm: str, count: int, found: Summary, place: int) -> CurvePoint:
    mean, low, high = (float(part[place]) for part in (found.mean, found.low, found.high))
    return CurvePoint(arm, count, count, mean, low, high)
