"""Documents by hand: what is joined, what is the worst, what is complained about, and the table."""

from __future__ import annotations

from typing import Any

import pytest

from tests.benchmarks.gpu_pieces import Ended, Record
from tests.benchmarks.gpu_report import Document, complaints, joined, status, table, worst_checks

DEVICE = {"name": "A Card", "memory_gib": 80.0, "capability": "90", "versions": {"torch": "2.13"}}
PLAN = {"heads": 2, "kv_heads": 1, "width": 8}


def check(what: str, worst: float, where: str = "8 tokens") -> Record:
    return {"kind": "check", "what": what, "worst": worst, "where": where}


def timed(
    tokens: int, what: str, seconds: float | None, *, passes: int = 0, peer: bool = False, runs: int = 5
) -> Record:
    row = {"kind": "time", "tokens": tokens, "what": what, "passes": passes, "peer": peer}
    if seconds is None:
        return {**row, "why_not": "out of memory"}
    return {**row, "seconds": seconds, "low": seconds / 2, "high": 2 * seconds, "runs": runs}


def used(mib: float) -> Record:
    return {"kind": "memory", "what": "both", "tokens": 8, "mib": mib, "allowed_mib": 36.0}


def document(records: list[Record], **more: Any) -> Document:
    return joined(None, DEVICE, PLAN, {"one": Ended("0", 3.0, records), **more})


def test_an_older_run_is_kept_where_everything_else_is_equal() -> None:
    old = document([check("z", 0.1)])
    new = joined(old, DEVICE, PLAN, {"two": Ended("0", 1.0, [check("lse", 0.2)])})
    assert list(new["pieces"]) == ["one", "two"]
    again = joined(old, DEVICE, PLAN, {"one": Ended("0", 1.0, [check("z", 0.9)])})
    assert [row["worst"] for row in worst_checks(again)] == [0.9]
    for device, plan in (({**DEVICE, "versions": {"torch": "2.14"}}, PLAN), (DEVICE, {**PLAN, "heads": 4})):
        assert list(joined(old, device, plan, {"two": Ended("0", 1.0)})["pieces"]) == ["two"]


def test_the_worst_of_each_statistic_and_nan_is_worst() -> None:
    rows = [
        check("z", 0.1),
        check("z", 0.4, "9 tokens"),
        check("z", 0.2),
        check("lse", float("nan")),
        check("lse", 9.0),
    ]
    found = {row["what"]: row for row in worst_checks(document(rows))}
    assert found["z"]["where"] == "9 tokens"
    assert status(document(rows)) == 1
    assert status(document([check("lse", float("nan"))])) == 1


@pytest.mark.parametrize(
    ("records", "complaint", "code"),
    [
        ([check("z", 1.0)], None, 0),
        ([check("z", 1.5)], "z: 1.5 times its bound (8 tokens)", 1),
        ([{"kind": "test", "name": "test_x", "outcome": "failed", "seconds": 1}], "failed: test_x", 1),
        ([{"kind": "test", "name": "test_x", "outcome": "skipped", "seconds": 1}], None, 0),
        ([timed(8, "pass 1: output, lse", None)], "pass 1: output, lse at 8: out of memory", 1),
        ([timed(8, "cuDNN sdpa", None, peer=True)], None, 0),
        ([used(36.0)], None, 0),
        ([used(36.5)], "both at 8: 36.5 MiB, 36 are allowed", 1),
    ],
)
def test_what_is_complained_about(records: list[Record], complaint: str | None, code: int) -> None:
    made = document(records)
    assert complaints(made) == ([complaint] if complaint else [])
    assert status(made) == code


def test_a_piece_that_broke_is_a_complaint_of_its_own() -> None:
    made = document([check("z", 0.5)], two=Ended("signal 6", 12.0, [check("lse", 0.1)], "said"))
    assert complaints(made) == ["two: signal 6"]
    assert status(made) == 3
    assert "| two | signal 6 after 12 s; 1 results kept |" in table(made)


def test_the_table() -> None:
    # 2 heads, 4 tokens: 20 pairs of width 8; one pass: 640 products, 20 exponentials, 384 bytes.
    rates = {"kind": "rates", "products": 640e3, "exponentials": 10e3, "bytes": 3.84e6}
    records = [
        rates,
        check("entropy", 0.25, "8,192 tokens, head 31"),
        timed(4, "flash sdpa, output alone", 0.002, passes=1, peer=True),
        timed(4, "pass 1", 0.004, passes=1),
        timed(9, "decoding one token", 0.001),
        timed(8, "flex", 2.5, peer=True, runs=1),
        timed(8, "eager", None, peer=True),
        *({"kind": "test", "name": "x", "outcome": word, "seconds": 1} for word in ("passed", "passed", "skipped")),
        {"kind": "memory", "what": "both", "tokens": 1024, "mib": 20.0, "allowed_mib": 36.0},
        {"kind": "memory", "what": "both", "tokens": 2048, "mib": 22.0, "allowed_mib": 36.0},
    ]
    text = table(document(records))
    assert "A Card, 80 GiB, sm_90; torch 2.13." in text
    assert "Property tests on this device: 2 passed, 1 skipped." in text
    assert "| entropy | 0.25 | 8,192 tokens, head 31 |" in text
    assert "| 4 | pass 1 | 4 (2–8) | 2.00 | 1, 2, 0.1 | 2.00 |" in text
    assert "| 8 | flex | 2500 (1.25e+03–5e+03) once | | | |" in text.replace("|  |", "| |").replace("|  |", "| |")
    assert "| 8 | eager | out of memory | | |  |" in text
    assert "| both | 1,024 | 20.0 | 36 |" in text
    assert "both: 2.00 MiB a thousand tokens + 18.0 MiB; the points lie within 0.0 % of that line." in text
    assert text.index("| 8 | flex") < text.index("| 9 | decoding one token")
    assert "did not run to its end" not in text
    empty = table(joined(None, DEVICE, PLAN, {}))
    assert empty.count("\n") == 1
