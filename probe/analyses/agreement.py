"""How far two methods agree on the heads: rank correlation, and how many of the strongest they share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from probe.analyses.effects import Effects


@dataclass(frozen=True)
class Agreement:
    """spearman: rank correlation of mean effects over the `n` units that both measured (NaN: not defined).

    shared: names in both methods' `top` strongest, by size of the mean effect, strongest of the second first;
    missed: the second's strongest that the first does not have among its own. wrong: the second's strongest whose
    effect the first has wrong by more than half of it.
    """

    spearman: float
    n: int
    top: int
    shared: tuple[str, ...]
    missed: tuple[str, ...]
    wrong: tuple[str, ...]


def agreement(estimate: Effects, measured: Effects, top: int = 10) -> Agreement:
    """Compare two methods on the units that both measured; each side's strongest are chosen among those.

    Spearman's coefficient is Pearson's of the ranks, ties at their mean rank. Positive and negative heads both count
    as strong: a head that works against the task is as much a part of it. `top` is cut to a quarter of the units
    compared, for most of more would be shared by chance.
    """
    first, second = means(estimate), means(measured)
    both = [name for name in second.index if name in first.index and np.isfinite(first[name] + second[name])]
    first, second = first[both], second[both]
    top = min(top, -(-len(both) // 4))
    theirs, ours = strongest(first, top), strongest(second, top)
    return Agreement(
        spearman=_pearson(first.rank().to_numpy(), second.rank().to_numpy()),
        n=len(both),
        top=top,
        shared=tuple(name for name in ours if name in theirs),
        missed=tuple(name for name in ours if name not in theirs),
        wrong=tuple(name for name in ours if abs(first[name] - second[name]) > abs(second[name]) / 2),
    )


def means(effects: Effects) -> pd.Series:
    """Mean effect by unit name, NaN where nothing was measured."""
    frame = pd.DataFrame(effects.effect, index=[unit.name for unit in effects.units])
    return frame.mean(axis=1)


def strongest(values: pd.Series, count: int) -> list[str]:
    """Names of the values farthest from 0, farthest first, ties to the first; NaN never counts."""
    return list(values.dropna().abs().sort_values(ascending=False, kind="stable").index[:count])


def _pearson(first: Float[np.ndarray, "n"], second: Float[np.ndarray, "n"]) -> float:
    if len(first) < 2 or not np.ptp(first) or not np.ptp(second):
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])
