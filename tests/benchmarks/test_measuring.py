"""Timings, lines, floors and the table: arithmetic that can be done by hand."""

from __future__ import annotations

import pytest
import torch

from tests.benchmarks.measuring import Clock, Rates, Timing, floors, line, summary, table


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
    limited = Clock(torch.device("cpu"), least=1e9, most_runs=9)
    assert limited.time(lambda: None).runs == 9


def test_the_table_says_what_ran_and_what_did_not() -> None:
    floor = {"products": 0.001, "exponentials": 0.002, "bytes": 0.0001}
    document = {
        "device": {"name": "A Card", "memory_gib": 80.0, "capability": "90", "versions": {"torch": "2.13"}},
        "rates": {"products": 7e14, "exponentials": 4e12, "bytes": 3e12},
        "checks": [{"what": "entropy", "worst": 0.25, "where": "8,192 tokens, head 31"}],
        "times": [
            {
                "tokens": 8192,
                "what": "pass 1",
                "seconds": 0.004,
                "low": 0.003,
                "high": 0.005,
                "ratio": 1.2,
                "floors": floor,
            },
            {"tokens": 32768, "what": "eager", "why_not": "out of memory"},
        ],
        "memory": {
            "points": [{"what": "both", "tokens": 16384, "mib": 20.0, "allowed_mib": 36.0}],
            "lines": {"both": {"slope": 0.001, "intercept": 2.0, "worst": 0.01}},
        },
    }
    text = table(document)
    assert "A Card, 80 GiB, sm_90; torch 2.13." in text
    assert "700 TFLOP/s in bf16 products, 4.00 T exponentials/s, 3,000 GB/s copied." in text
    assert "| entropy | 0.25 | 8,192 tokens, head 31 |" in text
    assert "| 8,192 | pass 1 | 4 (3–5) | 1.20 | 1, 2, 0.1 | 2.00 |" in text
    assert "| 32,768 | eager | out of memory | | | |" in text
    assert "| both | 16,384 | 20.0 | 36 |" in text
    assert "both: 1.02 MiB a thousand tokens + 2.0 MiB; the points lie within 1.0 % of that line." in text
