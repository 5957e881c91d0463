"""Estimates for all, exact where it matters: the strongest units at a fraction of the cost of the full sweep."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int

from probe.analyses.estimate_error import Means, Spread, expected_spread, known_means
from probe.errors import TokensError

MeasureEffects = Callable[[Sequence[int], slice], Float[np.ndarray, "chosen n"]]
"""Exact effects of the chosen units, by index, on prompts[slice]."""

CONFIDENCE = 0.95


@dataclass(frozen=True, eq=False)
class HybridResult:
    """What the race found out about U units and N prompts.

    effects: [U, N] exact effects; NaN where not measured. mean: [U] effect over all prompts, exact for units
    measured on all of them, else the estimate corrected by what was measured; low, high: its 95 % interval, which
    says how well the mean over these N prompts is known, not how it varies over prompts.
    top: the k units whose mean is farthest from 0, strongest first, each measured on all prompts if certain.
    doubt: bound on the probability that a full sweep over the same prompts has other units among its k strongest.
    certain: doubt ≤ 1 − confidence. It takes a unit's errors (exact − estimate) for normal over prompts, with
    variances that spread over units as `estimate_error` learns them, and prompts for drawn at random. It says
    nothing about other prompts, and it cannot know of a unit that matters on a share p of the prompts which its
    estimates do not tell apart: with probability (1 − p)^n none of them is among the n of the screening.
    layer_forwards: the cost of what was measured, in the unit of `costs`; the estimates' own is not in it.
    """

    effects: Float[np.ndarray, "U N"]
    mean: Float[np.ndarray, "U"]
    low: Float[np.ndarray, "U"]
    high: Float[np.ndarray, "U"]
    top: tuple[int, ...]
    doubt: float
    certain: bool
    rounds: int
    layer_forwards: float


def hybrid(
    estimates: Float[np.ndarray, "U N"],
    measure: MeasureEffects,
    *,
    top: int = 10,
    costs: Float[np.ndarray, "U"],
    seed: int = 0,
    confidence: float = CONFIDENCE,
    budget: float | None = None,
    screening: int | None = None,
) -> HybridResult:
    """Measure until the `top` units of largest |mean effect| over all N prompts are certain.

    Every unit is first measured on the same few prompts, so that one whose estimate is wrong altogether is seen:
    no bound rests on the estimates alone. What that shows of the estimates' errors gives every
    unit's mean effect a distribution (`estimate_error`). A unit is misplaced when its mean is on the wrong side of
    a cut between the k-th and the next; the sum of these probabilities, at the best cut, is the doubt. While it is
    above 1 − confidence, the units that add most to it per layer-forward are measured on half as many prompts
    again; then the top is measured on all prompts. Prompts are taken in one seeded random order.

    costs: of each unit on all prompts, in layer-forwards: L − l in layer l of L. n of the N prompts cost n/N of it.
    screening: prompts of the first round (None: N / 32, at least 2); more find units that matter on few prompts.
    budget: stop before a round that would pass it; the result then says that it is not certain. The first round
    is always run.
    Raises TokensError for fewer than top + 1 units, arguments out of range, and values that are not finite.
    """
    count = estimates.shape[1]
    first = max(2, -(-count // 32)) if screening is None else screening
    _check(estimates, costs, top, confidence, first)
    race = _Race(estimates, costs, measure, seed)
    race.extend(np.full(len(estimates), min(count, first)))
    spread = race.spread()
    allowed, rounds = 1 - confidence, 1
    while True:
        means = known_means(estimates, race.effects, spread)
        order = np.argsort(-np.abs(means.value), kind="stable")
        misplaced = _misplaced(means, order, top)
        doubt = float(misplaced.sum())
        wanted = race.next(misplaced, order[:top], allowed)
        if np.array_equal(wanted, race.measured) or (budget is not None and race.cost(wanted) > budget):
            break
        race.extend(wanted)
        rounds += 1
    low, high = means.interval()
    chosen = tuple(int(unit) for unit in order[:top])
    spent = race.cost(race.measured)
    return HybridResult(race.effects, means.value, low, high, chosen, doubt, doubt <= allowed, rounds, spent)


class _Race:
    """What has been measured: each unit on the first so many prompts of a random order."""

    def __init__(
        self, estimates: Float[np.ndarray, "U N"], costs: Float[np.ndarray, "U"], measure: MeasureEffects, seed: int
    ) -> None:
        self._estimates, self._costs, self._measure = estimates, costs, measure
        self._order = np.random.default_rng(seed).permutation(estimates.shape[1])
        self.effects = np.full(estimates.shape, np.nan)
        self.measured = np.zeros(len(estimates), dtype=np.int64)

    def spread(self) -> Spread:
        """What the first prompts, the same for all units, show of the estimates' errors."""
        first = self._order[: int(self.measured.min())]
        return expected_spread((self.effects - self._estimates)[:, first], self._estimates, self._costs)

    def cost(self, wanted: Int[np.ndarray, "U"]) -> float:
        """Layer-forwards of so many prompts of each unit."""
        return float((self._costs * wanted).sum() / self._estimates.shape[1])

    def next(
        self, misplaced: Float[np.ndarray, "U"], top: Int[np.ndarray, "top"], allowed: float
    ) -> Int[np.ndarray, "U"]:
        """How many prompts each unit should have after the next round; no more than now: the race is over."""
        full = self._estimates.shape[1]
        wanted, rest = self.measured.copy(), float(misplaced.sum())
        if rest <= allowed:
            wanted[top] = full
            return wanted
        # Units far from the cut wait until those near it are settled: the cut may move away from them.
        enough = max(0.8 * allowed, rest / 4)
        for unit in np.argsort(-misplaced / self._costs, kind="stable"):
            if rest <= enough:
                break
            rest -= float(misplaced[unit])
            wanted[unit] = min(full, self.measured[unit] + max(1, self.measured[unit] // 2))
        return wanted

    def extend(self, wanted: Int[np.ndarray, "U"]) -> None:
        """Measure every unit up to its wanted number of prompts, all that lack a prompt together: it is met once."""
        ends = np.unique(np.concatenate([self.measured, wanted]))
        for now, then in pairwise(ends):
            units = np.flatnonzero((self.measured <= now) & (wanted >= then))
            for prompts in _runs(np.sort(self._order[now:then])) if len(units) else ():
                found = self._measure(units.tolist(), prompts)
                if not np.isfinite(found).all():
                    bad = units[~np.isfinite(found).all(axis=1)][0]
                    raise TokensError(f"hybrid: unit {bad} has an effect that is not finite on prompts {prompts}")
                self.effects[units, prompts] = found
        self.measured = np.maximum(self.measured, wanted)


def _runs(numbers: Int[np.ndarray, "n"]) -> Iterator[slice]:
    """Ascending numbers as slices without gaps."""
    for run in np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1):
        yield slice(int(run[0]), int(run[-1]) + 1)


def _misplaced(means: Means, order: Int[np.ndarray, "U"], top: int) -> Float[np.ndarray, "U"]:
    """Probability of each unit to be on the wrong side of the cut; of the cuts tried, the one of smallest sum."""
    inside: Bool[np.ndarray, "U"] = np.zeros(len(order), dtype=bool)
    inside[order[:top]] = True
    above, below = np.abs(means.value[order[top - 1]]), np.abs(means.value[order[top]])
    if above == below and not means.error[order[top - 1 : top + 1]].any():
        return np.zeros(len(order))  # measured ties go to the first unit, as in the full sweep
    tried = []
    for share in np.linspace(0.05, 0.95, 13):
        farther = means.farther(float(below + share * (above - below)))
        tried.append(np.where(inside, 1 - farther, farther))
    return min(tried, key=lambda probabilities: float(probabilities.sum()))


def _check(estimates: np.ndarray, costs: np.ndarray, top: int, confidence: float, screening: int) -> None:
    units, prompts = estimates.shape
    if not 0 < top < units:
        raise TokensError(f"hybrid: the {top} strongest of {units} units; wanted 1 to {units - 1}")
    if prompts < 2 or screening < 2 or not 0 < confidence < 1:
        raise TokensError(
            f"hybrid: {prompts} prompts, {screening} of them at first, confidence {confidence}; wanted 2 or more, "
            "2 or more, within 0 to 1"
        )
    if costs.shape != (units,) or not (costs > 0).all():
        raise TokensError(f"hybrid: costs of shape {costs.shape}; wanted {units} positive numbers")
    if not np.isfinite(estimates).all():
        raise TokensError("hybrid: estimates that are not finite; find out where they come from")
