from __future__ import annotations

import numpy as np

from probe.page.telling import names
from probe.plots.metrics import scatter
from probe.rank_correlation import rank_correlation
from probe.table import HeadTable
from probe.text import number


def test_every_head_is_a_point_of_its_first_role(head_table: HeadTable) -> None:
    frame = head_table.frame
    traces = scatter(head_table, "sink_first", "entropy").data
    assert sum(len(trace.x) for trace in traces) == 270
    (sinks,) = (trace for trace in traces if trace.name.startswith("sink "))
    first = frame[[roles[:1] == ["sink"] for roles in frame["roles"]]]
    assert list(sinks.x) == first["sink_first"].tolist()
    assert sinks.name == f"sink ({len(first)})"
    assert len({(trace.marker.color, trace.marker.symbol) for trace in traces}) == len(traces) > 3


def test_bars_are_the_intervals(head_table: HeadTable) -> None:
    frame = head_table.frame
    plain = scatter(head_table, "sink_first", "entropy").data[0]
    mine = frame[[not roles for roles in frame["roles"]]]
    high = np.asarray(plain.x) + np.asarray(plain.error_x.array)
    # One addition and one subtraction of numbers below 1.
    np.testing.assert_allclose(high, mine["sink_first_high"], atol=1e-15)
    low = np.asarray(plain.y) - np.asarray(plain.error_y.arrayminus)
    np.testing.assert_allclose(low, mine["entropy_low"], atol=1e-13)


def test_the_title_has_the_rank_correlation(head_table: HeadTable) -> None:
    x, y = (head_table.frame[name].to_numpy() for name in ("sink_first", "entropy_normalised"))
    found = rank_correlation(x, y)
    title = scatter(head_table, "sink_first", "entropy_normalised").layout.title.text
    assert f"rank correlation {number(found.value)} [{number(found.low)}, {number(found.high)}]" in title
    assert "rank correlation n/a</b>" in scatter(head_table, "sink_first", "sink_learned").layout.title.text


def test_heads_that_stand_out_are_named() -> None:
    values = np.full((2, 2, 9), 0.1) + np.arange(9) / 1000
    values[:, 1, 4], values[:, 0, 2] = 0.9, 0.7
    one = HeadTable.build({"a": values, "b": values[:, :, ::-1]}, {}, {}, kv_heads=3)
    named = [note.text for note in scatter(one, "a", "b", labels=2).layout.annotations]
    assert named == ["L1H4", "L0H2"]
    assert set(named) <= set(names(one.frame))
