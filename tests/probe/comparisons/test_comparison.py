"""What a comparison says of itself: the tables it makes, its files, its name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from probe.comparisons.comparison import COMPARE_FILES, Comparison
from probe.errors import ResultsError


def test_the_table_holds_differences_at_their_heads(comparison: Comparison) -> None:
    table = comparison.table()
    assert table.metrics[0] == "difference_sink_first"
    assert not table.scanned
    part = comparison.of("sink_first")
    for end, source in (("", "difference"), ("_low", "difference_low"), ("_high", "difference_high"), ("_q", "q")):
        np.testing.assert_array_equal(table.frame[f"difference_sink_first{end}"], part[source])
    roles = table.frame["roles"]
    assert sorted(map(tuple, roles[roles.str.len() > 0])) == [("changed", "gained sink"), ("changed", "lost sink")]


def test_found_are_the_largest_first(comparison: Comparison) -> None:
    sizes = comparison.found["size"].abs()
    assert len(sizes) == 2
    assert (np.diff(sizes) <= 0).all()
    assert (comparison.found["q_all"] < 0.05).all()
    spread = np.std(np.concatenate([comparison.of("sink_first")[side] for side in "ab"]))
    np.testing.assert_allclose(sizes, 0.7 / spread)


def test_metrics_that_moved_come_first(comparison: Comparison) -> None:
    first = comparison.metrics.iloc[0]
    assert (first["metric"], first["found"], first["tested"]) == ("sink_first", 2, 270)
    assert (comparison.metrics["moved"][1:] == 0).all()
    assert (comparison.metrics["largest"][1:] == "").all()
    assert abs(first["largest_difference"]) == pytest.approx(0.7)


def test_files_hold_what_was_found(comparison: Comparison, tmp_path: Path) -> None:
    comparison.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(COMPARE_FILES)
    document = json.loads((tmp_path / "compare.json").read_text(), parse_constant=pytest.fail)
    assert document == comparison.json()
    assert {row["name_a"] for row in document["found"]} == set(comparison.found["name_a"])
    assert {"what": "length", "A": "4,096", "B": "8,192"} in document["differs"]
    assert document["not compared"]["role retrieval"].startswith("could not be decided")
    back = pd.read_parquet(tmp_path / "compare.parquet")
    assert list(back) == list(comparison.heads)
    assert len(back) == 270 * len(comparison.metrics)


def test_its_name_says_how_many_heads_changed(comparison: Comparison) -> None:
    assert repr(comparison).endswith(": 2 of 270 heads changed in 19 metrics)")


def test_metrics_that_were_not_compared_are_refused(comparison: Comparison) -> None:
    with pytest.raises(ResultsError, match=r"sink_learned was not compared \(neither table has it\); compared were"):
        comparison.of("sink_learned")
