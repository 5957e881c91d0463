"""The compiled functions by themselves: how good the powers are, and what NaN and hidden scores come to."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba")
from probe.kernels import strips
from probe.kernels.numba_strip import C1, HIDDEN, LOWEST, add_values, highest, weigh


def weights(scores: list[float], shift: float) -> tuple[np.ndarray, tuple[float, float, float]]:
    w = np.array(scores, np.float32)
    return w, weigh(w, np.float32(shift), np.arange(len(scores), dtype=np.float32))


def test_powers_of_two_are_good_to_float32() -> None:
    below = -np.linspace(0, 125, 200_001).astype(np.float32)
    w = below.copy()
    weigh(w, np.float32(0), below)
    assert np.abs(w / np.exp2(below.astype(np.float64)) - 1).max() < 2e-7
    whole, _ = weights([0.0, -1.0, -7.0, -126.0], 0)
    assert whole.tolist() == [1, 0.5, 2.0**-7, 2.0**-126]
    assert abs(C1 - np.log(2)) < 1e-6


def test_what_is_far_below_weighs_exactly_nothing() -> None:
    w, (mass, surprise, distance) = weights([0.0, float(HIDDEN), -np.inf, -3e38, -127.0, -126.6], 0)
    assert w.tolist() == [1, 0, 0, 0, 0, 0]
    assert (mass, surprise, distance) == (1, 0, 0)
    assert float(HIDDEN) == np.float32(strips.HIDDEN)
    assert LOWEST == -127


def test_sums_are_those_of_the_weights() -> None:
    w, (mass, surprise, distance) = weights([3.0, 2.0, 0.5], 3)
    wanted = np.exp2([0, -1, -2.5])
    assert np.abs(w - wanted).max() < 1e-7
    assert mass == pytest.approx(wanted.sum(), rel=1e-6)
    assert surprise == pytest.approx((wanted * [0, -1, -2.5]).sum(), rel=1e-6)
    assert distance == pytest.approx((wanted * [0, 1, 2]).sum(), rel=1e-6)


@pytest.mark.parametrize("size", [1, 3, 8, 40, 100])
def test_the_highest_score_of_either_sign(size: int) -> None:
    generator = np.random.default_rng(size)
    for offset in (-50, 0, 50):
        scores = (generator.standard_normal(size) * 3 + offset).astype(np.float32)
        assert highest(scores.view(np.int32)) == scores.max()
    assert highest(np.zeros(0, np.int32)) == HIDDEN
    assert highest(np.full(size, -np.inf, np.float32).view(np.int32)) == HIDDEN


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("place", [0, 5, 39])
def test_nan_of_either_sign_reaches_the_sum(sign: int, place: int) -> None:
    w = np.linspace(-3, 3, 40).astype(np.float32)
    w[place] = np.copysign(np.float32(np.nan), np.float32(sign))
    shift = highest(w.view(np.int32))
    assert np.isnan(shift) == (sign > 0)
    assert np.isnan(weigh(w, shift, np.ones(40, np.float32))[0])
    assert np.isnan(w[place])


@pytest.mark.parametrize("keys", [0, 1, 7, 8, 9, 30])
@pytest.mark.parametrize("width", [1, 16, 37])
def test_values_are_weighed_and_summed(keys: int, width: int) -> None:
    generator = np.random.default_rng(keys)
    w, v = generator.random(keys).astype(np.float32), generator.standard_normal((keys, width)).astype(np.float32)
    out = np.full(width, 9, np.float32)
    add_values(out, np.float32(0.5), w, v)
    assert np.abs(out - 0.5 * (w.astype(np.float64) @ v)).max() < 1e-5
