"""Student's t against closed forms and printed tables."""

from __future__ import annotations

import math

import numpy as np
import pytest

from probe.student import cut_off, two_tails

T = np.array([0.0, 1e-6, 0.3, 0.999, 1.0, 1.001, 2.5, 12.0, 80.0])


def full(value: float) -> np.ndarray:
    return np.full(len(T), value)


def test_tails_of_one_two_and_four_degrees_of_freedom() -> None:
    np.testing.assert_allclose(two_tails(T, full(1)), 1 - 2 / math.pi * np.arctan(T), atol=1e-14)
    np.testing.assert_allclose(two_tails(T, full(2)), 1 - T / np.sqrt(2 + T**2), atol=1e-14)
    four = T / np.sqrt(4 + T**2)
    np.testing.assert_allclose(two_tails(T, full(4)), 1 - (1.5 * four - 0.5 * four**3), atol=1e-14)


def test_far_tails_keep_their_figures() -> None:
    # The tail of t with 2 degrees of freedom is about 1 / t² far out, where 1 − (…) would be rounding.
    np.testing.assert_allclose(two_tails(np.array([1e6]), np.array([2.0])), 1e-12, rtol=1e-6)


def test_many_degrees_are_the_normal_distribution() -> None:
    normal = np.array([math.erfc(value / math.sqrt(2)) for value in T])
    np.testing.assert_allclose(two_tails(T, full(np.inf)), normal)
    np.testing.assert_allclose(two_tails(T, full(99_999)), normal, atol=1e-5)
    np.testing.assert_array_equal(two_tails(-T, full(7)), two_tails(T, full(7)))


@pytest.mark.parametrize(
    ("freedom", "printed"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (7, 2.365), (14, 2.145), (30, 2.042), (120, 1.980), (math.inf, 1.960)],
)
def test_the_points_of_printed_tables(freedom: float, printed: float) -> None:
    assert cut_off(np.array([freedom]), 0.05)[0] == pytest.approx(printed, abs=5e-4)


def test_the_cut_off_cuts_off_what_was_asked() -> None:
    freedom = np.concatenate([np.linspace(1, 40, 79), [1e3, 5e4, 1e6, np.inf]])
    for share in (0.2, 0.05, 1e-4):
        np.testing.assert_allclose(two_tails(cut_off(freedom, share), freedom), share, rtol=1e-9)


def test_what_is_not_known_stays_unknown() -> None:
    t, freedom = np.array([np.nan, 1.0, np.inf]), np.array([3.0, np.nan, 3.0])
    np.testing.assert_array_equal(two_tails(t, freedom), [np.nan, np.nan, 0.0])
    np.testing.assert_array_equal(np.isnan(cut_off(freedom, 0.05)), [False, True, False])
    assert two_tails(np.array([]), np.array([])).shape == (0,)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="0 or less"):
        two_tails(np.array([1.0]), np.array([0.0]))
    with pytest.raises(ValueError, match=r"tails of 0\.5"):
        cut_off(np.array([3.0]), 0.5)
