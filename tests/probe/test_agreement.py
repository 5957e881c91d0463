from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from probe.analyses.agreement import agreement, means, strongest
from probe.analyses.effects import Effects
from probe.analyses.units import Unit


def effects(values: list[float], method: str = "exact") -> Effects:
    """Effects of one prompt, one unit a value."""
    units = tuple(Unit(f"L0H{head}", "head", ((0, head),)) for head in range(len(values)))
    return Effects("t", "mean", method, units, np.zeros(1), -np.array(values)[:, None], 1.0)


def test_rank_correlation_of_a_published_example() -> None:
    # Ten pairs with squared rank differences that sum to 194: ρ = 1 − 6·194/990 (a textbook example without ties).
    iq = [86, 97, 99, 100, 101, 103, 106, 110, 112, 113]
    hours = [2, 20, 28, 27, 50, 29, 7, 17, 6, 12]
    assert agreement(effects(iq), effects(hours)).spearman == pytest.approx(1 - 6 * 194 / 990, abs=1e-12)


def test_ties_share_their_mean_rank() -> None:
    # Ranks 1.5, 1.5, 3 against 1, 2, 3: Pearson's r of those is 1.5 / √(1.5 · 2).
    assert agreement(effects([1, 1, 2]), effects([1, 2, 3])).spearman == pytest.approx(1.5 / np.sqrt(3), abs=1e-12)
    assert np.isnan(agreement(effects([1, 1, 1]), effects([1, 2, 3])).spearman)
    assert np.isnan(agreement(effects([1]), effects([1])).spearman)


def test_strongest_are_by_size_whatever_the_sign() -> None:
    rest = [0.01] * 8
    found = agreement(effects([0.1, -5, 3, 0.2, *rest]), effects([4.0, -6, 0.1, 0.2, *rest]), top=2)
    assert found.shared == ("L0H1",)
    assert found.missed == ("L0H0",)
    assert found.wrong == ("L0H0",)
    assert strongest(means(effects([0.1, -5, 3, 0.2])), 3) == ["L0H1", "L0H2", "L0H3"]


def test_only_what_both_measured_is_compared() -> None:
    hybrid = effects([9, 8, np.nan, np.nan])
    found = agreement(effects([1.0, 2, 70, 80]), hybrid, top=10)
    assert (found.n, found.top) == (2, 1)
    assert found.spearman == pytest.approx(-1, abs=1e-12)
    other = replace(hybrid, units=tuple(replace(unit, name=f"x{unit.name}") for unit in hybrid.units))
    assert agreement(other, hybrid).n == 0


def test_a_right_rank_with_a_wrong_size_is_wrong() -> None:
    rest = [0.01] * 10
    found = agreement(effects([1.0, 0.9, *rest]), effects([40.0, 1.0, *rest]), top=2)
    assert found.missed == ()
    assert found.wrong == ("L0H0",)


def test_no_more_than_a_quarter_counts_as_the_strongest() -> None:
    assert agreement(effects([1.0] * 24), effects([1.0] * 24), top=10).top == 6
    assert agreement(effects([1.0] * 270), effects([1.0] * 270), top=10).top == 10
