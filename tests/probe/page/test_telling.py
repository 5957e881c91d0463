from __future__ import annotations

import numpy as np

from probe.page.telling import CRITERIA, Criterion, names, one_each, strongest, telling
from probe.table import HeadTable


def tiny(values: dict[str, list[float]]) -> HeadTable:
    columns = {name: np.array(row)[None, None, :].repeat(2, 0) for name, row in values.items()}
    return HeadTable.build(columns, {}, {"n_sequences": 2}, kv_heads=1)


def test_strongest_first_ties_to_the_first_and_nan_never() -> None:
    table = tiny({"sink_first": [0.2, np.nan, 0.9, 0.9]})
    assert strongest(table, Criterion("", "sink_first", "sink", 3)) == [2, 3, 0]
    assert strongest(table, Criterion("", "output_share", None, 3, highest=False)) == []
    assert strongest(table, Criterion("", "retrieval", None, 3)) == []


def test_below_a_threshold_is_said() -> None:
    shown = telling(tiny({"sink_first": [0.2, 0.9], "induction_random": [0.1, 0.2]}))
    assert [(head.name, head.why) for head in shown] == [
        ("L0H1", ("induction (below threshold)", "first-token sink")),
        ("L0H0", ("induction (below threshold)",)),
    ]
    assert shown[0].metric == "induction_random"
    assert [head.name for head in one_each(shown, 5)] == ["L0H1"]


def test_a_head_is_shown_once_and_the_list_is_short(head_table: HeadTable) -> None:
    shown = telling(head_table)
    assert len({head.row for head in shown}) == len(shown) <= 16
    assert all(names(head_table.frame)[head.row] == head.name for head in shown)
    labels = {criterion.label for criterion in CRITERIA}
    assert {head.why[0].removesuffix(" (below threshold)") for head in shown} <= labels
