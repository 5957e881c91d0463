"""Which head of one table stands beside which of another: by name, or by what they do, and how good the match is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from probe.columns import SCAN_COLUMNS
from probe.comparisons.mean_difference import ROUNDING
from probe.errors import ResultsError
from probe.table import HeadTable

SHUFFLES = 20
_KEYS = ["stack", "kind", "layer", "head"]
FEWEST_METRICS = 3
"""Metrics below which heads are not matched by what they do: two or fewer tell too little apart."""


@dataclass(frozen=True, eq=False)
class Matching:
    """Pairs of heads, and how alike the two of a pair are.

    how: `name` or `behaviour`. rows: [pairs, 2] rows in A's and in B's table, in A's order. metrics: those that the
        likeness is measured on (empty: none could be).
    distance: [pairs] root mean square difference over these metrics, each in standard deviations of both tables'
        heads together; NaN without metrics.
    control: [draws] the same for pairs that mean nothing, sorted. By name: every head of A with every other head of B.
        By behaviour: mutual nearest neighbours found again after each metric of B was shuffled over its heads by
        itself, `SHUFFLES` times: how near chance brings heads whose metrics have nothing to do with each other.
    chance: [pairs] share of the control that is as near or nearer, (1 + #≤) / (1 + draws).
    alone_a, alone_b: rows that have no partner.
    """

    how: str
    rows: Int[np.ndarray, "pairs 2"]
    metrics: tuple[str, ...]
    distance: Float[np.ndarray, "pairs"]
    control: Float[np.ndarray, "draws"]
    chance: Float[np.ndarray, "pairs"]
    alone_a: tuple[int, ...]
    alone_b: tuple[int, ...]

    @property
    def middle(self) -> float:
        """Median distance of the control; NaN without one."""
        return float(np.median(self.control)) if len(self.control) else float("nan")


def match(a: HeadTable, b: HeadTable, metrics: Sequence[str], how: str = "auto", *, seed: int = 0) -> Matching:
    """Pair the heads of two tables.

    metrics: those that may be compared; the scan's among them that are defined for every head of both and not the same
    everywhere describe what a head does. how: `name` (same stack, kind, layer and head), `behaviour` (mutual nearest
    neighbours: each is the other's nearest in the other table, ties to the first), or `auto`: by name where both
    tables have the same heads, else by behaviour. Heads of two differently trained models have nothing in common but
    their names: ask for `behaviour` there. seed: of the shuffles.
    Raises ResultsError for another `how`, for `name` where the heads differ, and where fewer than `FEWEST_METRICS`
    metrics describe the heads that are to be matched by them.
    """
    if how not in ("auto", "name", "behaviour"):
        raise ResultsError(f"heads matched by {how!r}; wanted auto, name or behaviour")
    keys = [table.frame[_KEYS].apply(tuple, axis=1).tolist() for table in (a, b)]
    same = set(keys[0]) == set(keys[1])
    if how == "name" and not same:
        raise ResultsError(f"tables of {_shape(a)} and {_shape(b)} have no names in common to match by; "
                           "match them by behaviour")  # fmt: skip
    used = _describing(a, b, metrics)
    first, second = _standardised(a, b, used)
    apart = _distances(first, second)
    if how == "name" or (how == "auto" and same):
        place = {key: row for row, key in enumerate(keys[1])}
        rows = np.array([(row, place[key]) for row, key in enumerate(keys[0])])
        others = np.ones(apart.shape, dtype=bool)
        others[rows[:, 0], rows[:, 1]] = False
        return _made("name", rows, used, apart, apart[others])
    if len(used) < FEWEST_METRICS:
        raise ResultsError(f"{len(used)} metrics describe every head of both tables ({', '.join(used) or 'none'}); "
                           f"wanted {FEWEST_METRICS} or more to match {_shape(a)} with {_shape(b)}")  # fmt: skip
    return _made("behaviour", _mutual(apart), used, apart, _shuffled(first, second, seed))


def _shape(table: HeadTable) -> str:
    layers = len(table.frame[["stack", "kind", "layer"]].drop_duplicates())
    return f"{len(table.frame)} heads in {layers} layers"


def _describing(a: HeadTable, b: HeadTable, metrics: Sequence[str]) -> tuple[str, ...]:
    """Metrics of a scan that every head of both has, and that tell heads apart."""
    return tuple(
        name for name in metrics
        if name in SCAN_COLUMNS
        and all(np.isfinite(table.frame[name]).all() for table in (a, b))
        and tells_apart(np.concatenate([table.frame[name].to_numpy(dtype=np.float64) for table in (a, b)]))
    )  # fmt: skip


def tells_apart(values: Float[np.ndarray, "n"]) -> bool:
    """Whether values differ by more than the rounding of float32 sums: else their spread is noise, and no unit."""
    known = values[np.isfinite(values)]
    return bool(len(known) and np.ptp(known) > ROUNDING * np.abs(known).max())


def _standardised(
    a: HeadTable, b: HeadTable, metrics: Sequence[str]
) -> tuple[Float[np.ndarray, "A metrics"], Float[np.ndarray, "B metrics"]]:
    values = [table.frame[list(metrics)].to_numpy(dtype=np.float64) for table in (a, b)]
    both = np.concatenate(values)
    centre, spread = both.mean(axis=0), both.std(axis=0)
    return (values[0] - centre) / spread, (values[1] - centre) / spread


def _distances(first: Float[np.ndarray, "A metrics"], second: Float[np.ndarray, "B metrics"]) -> np.ndarray:
    """[A, B] root mean square differences; summed metric by metric, so that equal inputs give equal bits."""
    total = np.zeros((len(first), len(second)))
    for mine, theirs in zip(first.T, second.T, strict=True):
        total += (mine[:, None] - theirs[None, :]) ** 2
    return np.sqrt(total / first.shape[1]) if first.shape[1] else np.full(total.shape, np.nan)


def _mutual(apart: Float[np.ndarray, "A B"]) -> Int[np.ndarray, "pairs 2"]:
    """Rows and columns that are each other's nearest."""
    there, back = apart.argmin(axis=1), apart.argmin(axis=0)
    rows = np.flatnonzero(back[there] == np.arange(len(there)))
    return np.stack([rows, there[rows]], axis=1)


def _shuffled(first: np.ndarray, second: np.ndarray, seed: int) -> Float[np.ndarray, "draws"]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(SHUFFLES):
        apart = _distances(first, rng.permuted(second, axis=0))
        rows = _mutual(apart)
        found.append(apart[rows[:, 0], rows[:, 1]])
    return np.concatenate(found)


def _made(
    how: str, rows: Int[np.ndarray, "pairs 2"], metrics: tuple[str, ...], apart: np.ndarray, control: np.ndarray
) -> Matching:
    distance = apart[rows[:, 0], rows[:, 1]]
    control = np.sort(control[~np.isnan(control)])
    chance = (1 + np.searchsorted(control, distance, side="right")) / (1 + len(control))
    alone = [tuple(sorted(set(range(size)) - set(rows[:, side]))) for side, size in enumerate(apart.shape)]
    undefined = np.isnan(distance) | (len(control) == 0)
    return Matching(how, rows, metrics, distance, control, np.where(undefined, np.nan, chance), *alone)
