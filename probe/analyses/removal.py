"""Removing heads one after the other: in ranked, reversed and random order, and greedily."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from probe.analyses.methods import clean_scores, removed
from probe.analyses.pieces import Ask
from probe.analyses.removal_curve import COLUMNS, RemovalCurve
from probe.analyses.retrieval_ablation import matched_draw
from probe.analyses.units import Head, Unit, set_unit
from probe.analyses.workbench import Workbench
from probe.errors import TokensError


@dataclass(frozen=True)
class RemovalPlan:
    """Where a removal curve is measured.

    ks: how many heads are gone; those above half of the model's heads are left out, since as many others are then
    no longer there to compare with. draws: random sets for every k, as many of each layer as the ranked set has
    there and outside it (METRICS, Retrieval, arms). prompts: how many of the task's prompts (the first ones).
    """

    ks: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100)
    draws: int = 20
    prompts: int = 16

    def __post_init__(self) -> None:
        """Raises TokensError for numbers below 1."""
        if not self.ks or min(*self.ks, self.draws, self.prompts) < 1:
            raise TokensError(
                f"removal of {self.ks} heads, {self.draws} draws, {self.prompts} prompts; wanted ≥ 1 each"
            )


STANDARD = RemovalPlan()

Point = tuple[str, str, int, int]
"""criterion, order, draw, k"""


def removal_sets(
    rankings: Mapping[str, Sequence[Head]], heads: Sequence[Head], plan: RemovalPlan, seed: int
) -> dict[Point, tuple[Head, ...]]:
    """The heads that are gone at every point of every path.

    rankings: criterion → all heads, the most important first.
    """
    points: dict[Point, tuple[Head, ...]] = {}
    for number, (criterion, ranked) in enumerate(rankings.items()):
        if sorted(ranked) != sorted(heads):
            raise TokensError(f"ranking {criterion!r} holds {len(ranked)} heads; wanted each of {len(heads)} once")
        for k in sorted({k for k in plan.ks if 2 * k <= len(heads)}):
            points[criterion, "ranked", 0, k] = tuple(ranked[:k])
            points[criterion, "reversed", 0, k] = tuple(ranked[-k:])
            for draw in range(plan.draws):
                rng = np.random.default_rng([seed, number, k, draw])
                points[criterion, "random", draw, k] = matched_draw(ranked[:k], heads, rng)
    return points


def removal_curve(
    bench: Workbench,
    mode: str,
    rankings: Mapping[str, Sequence[Head]],
    ask: Ask,
    *,
    plan: RemovalPlan = STANDARD,
    seed: int = 0,
) -> RemovalCurve:
    """The task's metric with more and more heads gone, for every criterion that ranks them.

    A set of heads that several points ask for is measured once. Raises TokensError for a ranking that is not of
    all heads.
    """
    points = removal_sets(rankings, bench.heads, plan, seed)
    units = {members: set_unit(_name(members), members) for members in map(frozenset, points.values())}
    rows = slice(0, min(plan.prompts, len(bench.task.prompts)))
    clean, _ = clean_scores(bench, mode, ask)
    found, _ = removed(bench, mode, list(units.values()), ask, rows)
    values = dict(zip(units, found, strict=True))
    table = []
    for criterion, order, draw, k in _paths(points):
        scores = values[frozenset(points[criterion, order, draw, k])] if k else clean[rows]
        share = k / len(bench.heads)
        table += [(criterion, order, draw, k, share, prompt, value) for prompt, value in enumerate(scores)]
    return RemovalCurve(pd.DataFrame(table, columns=list(COLUMNS)))


def greedy(
    bench: Workbench, mode: str, candidates: Sequence[Head], size: int, ask: Ask, *, prompts: slice = slice(None)
) -> tuple[tuple[Head, ...], tuple[float, ...]]:
    """Heads chosen one at a time, each the one whose removal, beside those chosen before, costs the task most.

    Returns the heads in the order chosen and the mean metric after each. Ties go to the lowest layer and head.
    Raises TokensError where there are fewer candidates than heads wanted.
    """
    if not 1 <= size <= len(set(candidates)):
        raise TokensError(
            f"{size} heads wanted greedily from {len(set(candidates))} candidates; wanted 1 or more of them"
        )
    chosen: list[Head] = []
    scores: list[float] = []
    for _ in range(size):
        left = [head for head in sorted(set(candidates)) if head not in chosen]
        units = [set_unit(_name((*chosen, head)), (*chosen, head)) for head in left]
        means = removed(bench, mode, units, ask, prompts)[0].mean(1)
        best = int(np.argmin(means))
        chosen.append(left[best])
        scores.append(float(means[best]))
    return tuple(chosen), tuple(scores)


def ranking(units: Sequence[Unit], values: Sequence[float]) -> list[Head]:
    """The heads of single-head units by falling value; NaN last, ties by layer and head.

    Raises TokensError for other units.
    """
    if any(len(unit.heads) != 1 for unit in units):
        raise TokensError("only single heads can be ranked for removal; wanted unit head")
    keyed = [(np.isnan(value), -value if not np.isnan(value) else 0.0, unit.heads[0])
             for unit, value in zip(units, values, strict=True)]  # fmt: skip
    return [head for _, _, head in sorted(keyed)]


def _paths(points: Mapping[Point, object]) -> list[Point]:
    """Every point, and the beginning (k = 0) of every path."""
    starts = dict.fromkeys((criterion, order, draw, 0) for criterion, order, draw, _ in points)
    return sorted({**starts, **dict.fromkeys(points)})


def _name(members: Sequence[Head] | frozenset[Head]) -> str:
    return "+".join(f"L{layer}H{head}" for layer, head in sorted(members))
