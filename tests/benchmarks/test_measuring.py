"""Timings, lines and floors: arithmetic that can be done by hand."""

from __future__ import annotations

import pytest
import torch

from tests.benchmarks.measuring import Clock, Rates, Timing, floors, line, summary


def test_a_summary_is_median_and_quartiles() -> None:
    assert summary([5.0, 1.0, 3.0, 2.0, 4.0]) == Timing(3.0, 2.0, 4.0, 5)
    assert summary([7.0]) == Timing(7.0, 7.0, 7.0, 1)


def test_a_line_and_what_lies_beside_it() -> None:
    fit = line([1.0, 2.0, 3.0], [5.0, 7.0, 9.0])
    assert (fit.slope, fit.intercept, fit.worst) == pytest.approx((2.0, 3.0, 0.0))
    bent = line([0.0, 1.0, 2.0], [0.0, 3.0, 0.0])  # the best line is y = 1: residuals 1, 2, 1
    assert (bent.slope, bent.intercept, bent.worst) == pytest.approx((0.0, 1.0, 2 / 3))
    assert line([1.0, 2.0], [0.0, 0.0]).worst == 0


def test_floors_of_a_call_counted_by_hand() -> None:
    # 2 heads, 4 tokens: 2 · (1 + 2 + 3 + 4) = 20 pairs of width 8.
    one = floors(4, 2, 1, 8, 1, Rates(products=1.0, exponentials=1.0, bytes=1.0))
    assert one == {"products": 20 * 8 * 4, "exponentials": 20, "bytes": 2 * 4 * 8 * (2 + 2 + 1 + 1)}
    two = floors(4, 2, 1, 8, 2, Rates(products=2.0, exponentials=4.0, bytes=1.0))
    assert two["products"] == 20 * 8 * 6 / 2
    assert two["exponentials"] == 20 * 2 / 4


def test_the_clock_warms_up_and_runs_until_it_has_enough() -> None:
    calls: list[int] = []
    clock = Clock(torch.device("cpu"), least=0.0)
    assert clock.time(lambda: calls.append(1)).runs == 5
    assert len(calls) == 7
    long = Clock(torch.device("cpu"), longest=0.0)  # everything takes longer: the second run is the only one
    calls.clear()
    assert long.time(lambda: calls.append(1)).runs == 1
    assert len(calls) == 2
    limited = Clock(torch.device("cpu"), least=1e9, most_runs=9)
    assert limited.time(lambda: None).runs == 9
