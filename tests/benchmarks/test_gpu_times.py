"""Rows of the table: what ran, what did not and why; the passes ask for what their names say."""

from __future__ import annotations

import torch

from tests.benchmarks.gpu_times import ALONE, CONSUMED, WRITTEN, Work, timed
from tests.benchmarks.measuring import Clock

CLOCK = Clock(torch.device("cpu"), least=0.0)


def test_a_row_of_what_ran() -> None:
    row = timed(8, Work("a", lambda: None, 2), CLOCK)
    assert {name: row[name] for name in ("kind", "tokens", "what", "passes", "peer", "runs")} == {
        "kind": "time", "tokens": 8, "what": "a", "passes": 2, "peer": False, "runs": 5,
    }  # fmt: skip
    assert 0 <= row["low"] <= row["seconds"] <= row["high"]


def test_a_row_of_what_did_not() -> None:
    def run() -> None:
        raise torch.cuda.OutOfMemoryError("too much")

    row = timed(8, Work("a", run, peer=True), CLOCK)
    assert row["why_not"] == "out of memory"
    assert row["peer"]
    assert "seconds" not in row


def test_outputs_of_the_classes_are_consumed_or_written() -> None:
    assert (CONSUMED.partials, CONSUMED.parts) == (True, False)
    assert (WRITTEN.partials, WRITTEN.parts) == (False, True)
    assert ALONE.fields == ("lse",)
    assert not ALONE.classes
